//! A container of ours behind an image.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::bases::{self, LazyReferences, References};
use super::buffer::Buffer;
use super::content::{Content, Part, Place};
use super::decode;
use super::memory::Key;
use super::shared::Core;
use super::spent::Spent;
use super::workers::Lane;
use crate::cache::Proof;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::format::{Chunk, ChunkId, Container, Piece};
use crate::source::ReadAt;

/// A container and the source that it was read from.
pub struct Native {
    container: Arc<Container>,
    source: Arc<dyn ReadAt>,
    references: Option<LazyReferences>,
    /// What the system may drop of what was read through; `None` if it is to keep all.
    spent: Option<Spent>,
}

impl Native {
    pub fn new(
        container: Arc<Container>,
        source: Arc<dyn ReadAt>,
        references: Option<LazyReferences>,
        drop_packed: bool,
    ) -> Self {
        let spent = drop_packed.then(|| Spent::new(source.len()));
        Self { container, source, references, spent }
    }

    /// The chunk of this number.
    fn chunk(&self, id: ChunkId) -> Result<Chunk> {
        let no = || Error::corrupt(self.container.path(), "index", format!("no chunk of number {}", id.0));
        self.container.chunk(id).ok_or_else(no)
    }

    /// Bytes of the original itself, which a chunk behind them is coded against: from the memory cache, or decoded.
    fn own(&self, core: &Arc<Core>, offset: u64, out: &mut [u8]) -> Result<()> {
        bases::itself(&self.container, offset, out, |chunk, within, out| {
            let key = Key { container: self.container.id(), chunk: chunk.id };
            // The index was checked: this chunk does not refer to the file itself.
            let raw = core.chunks.get(key, out.len(), || self.decode(chunk.id, core))?.0.raw;
            if let Some(bytes) = raw.get(within..within + out.len()) {
                out.copy_from_slice(bytes);
            }
            Ok(())
        })
    }
}

/// Where the packed bytes of a chunk lie.
fn packed(chunk: &Chunk) -> Range<u64> {
    chunk.packed_offset..chunk.packed_offset + u64::from(chunk.packed_len)
}

fn part(chunk: &Chunk) -> Part {
    Part { id: chunk.id, raw_offset: chunk.raw_offset, raw_len: chunk.raw_len, need: decode::need(chunk) }
}

impl Content for Native {
    fn id(&self) -> u64 {
        self.container.id()
    }

    fn lane(&self) -> Lane {
        Lane::of(&*self.source, self.container.id())
    }

    fn path(&self) -> &Path {
        self.container.path()
    }

    fn raw_len(&self) -> u64 {
        self.container.raw_len()
    }

    fn chunk_count(&self) -> u32 {
        self.container.chunk_count()
    }

    fn literals(&self) -> &[u8] {
        self.container.literals()
    }

    fn locate(&self, raw_offset: u64) -> Option<Place> {
        Some(match self.container.locate(raw_offset)? {
            Piece::Literal { raw_offset, range } => Place::Literal { raw_offset, range },
            Piece::Chunk(chunk) => Place::Chunk(part(&chunk)),
        })
    }

    fn part(&self, chunk: ChunkId) -> Option<Part> {
        self.container.chunk(chunk).map(|chunk| part(&chunk))
    }

    fn digest(&self) -> [u8; 32] {
        let kind = blake3::hash(b"bsfs disk cache 1: native");
        *blake3::Hasher::new_keyed(kind.as_bytes()).update(self.container.digest()).finalize().as_bytes()
    }

    fn is_expensive(&self) -> bool {
        false
    }

    fn proof(&self) -> Box<dyn Proof> {
        Box::new(WholeFile { sha256: Sha256::new(), expected: self.container.file().sha256 })
    }

    fn look_for_references(&self) {
        if let Some(references) = &self.references {
            references.get();
        }
    }

    fn tensor_in(&self, read: &Range<u64>) -> Option<Range<u64>> {
        let tensors = self.container.tensors();
        let behind = tensors.partition_point(|t| t.raw_offset < read.end);
        let last = tensors.get(..behind)?.last()?;
        (last.raw_offset >= read.start).then(|| last.raw_offset..last.raw_offset + last.raw_len)
    }

    fn decode(&self, chunk: ChunkId, core: &Arc<Core>) -> Result<Buffer> {
        let chunk = self.chunk(chunk)?;
        if let Some(spent) = &self.spent {
            spent.reads(&*self.source, packed(&chunk));
        }
        let lazy = self.references.as_ref().filter(|_| chunk.codec().is_some_and(Codec::needs_base));
        let decode = |references: Option<&References>| {
            let from = decode::From {
                container: &self.container,
                source: &*self.source,
                references,
                pool: &core.pool,
                counters: &core.counters,
            };
            decode::chunk(&from, &chunk, &mut |offset, out| self.own(core, offset, out))
        };
        let found = lazy.and_then(|lazy| lazy.get());
        match decode(found.as_deref()) {
            // Once more with another file, if there is one.
            Err(Error::NoBase { .. }) if found.as_ref().is_some_and(|found| found.are_suspect()) => {
                decode(lazy.and_then(|lazy| lazy.get()).as_deref())
            }
            result => result,
        }
    }

    fn expect_streams(&self, streams: bool) {
        self.source.expect_streams(streams);
    }

    fn read_through(&self, chunk: ChunkId) {
        if let (Some(spent), Some(chunk)) = (&self.spent, self.container.chunk(chunk)) {
            spent.read_through(&*self.source, packed(&chunk));
        }
    }
}

/// The original's SHA-256.
struct WholeFile {
    sha256: Sha256,
    expected: [u8; 32],
}

impl Proof for WholeFile {
    fn feed(&mut self, _offset: u64, bytes: &[u8]) -> bool {
        self.sha256.update(bytes);
        true
    }

    fn proven(&mut self) -> bool {
        <[u8; 32]>::from(self.sha256.finalize_reset()) == self.expected
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        if let Some(spent) = &self.spent {
            spent.end(&*self.source);
        }
    }
}
