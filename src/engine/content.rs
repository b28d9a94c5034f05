//! What an image shows: where each byte is, and how a chunk is made.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::buffer::Buffer;
use super::shared::Core;
use super::workers::Lane;
use crate::cache::Proof;
use crate::error::Result;
use crate::format::ChunkId;

/// A chunk as readers see it, whatever it is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its number in the image.
    pub id: ChunkId,
    /// Offset in the original, bytes.
    pub raw_offset: u64,
    /// Length, bytes.
    pub raw_len: u32,
    /// Bytes of memory that making it takes, itself included.
    pub need: usize,
}

impl Part {
    /// Offset behind its last byte.
    pub fn raw_end(&self) -> u64 {
        self.raw_offset + u64::from(self.raw_len)
    }
}

/// Where a byte of the original is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In memory: these bytes of [`Content::literals`], which start at this raw offset.
    Literal { raw_offset: u64, range: Range<usize> },
    /// In this chunk.
    Chunk(Part),
}

/// An open container behind an image. Called from many threads at once.
pub trait Content: Send + Sync {
    /// A number that no other open container of this process has.
    fn id(&self) -> u64;

    /// What reading it may have to wait for.
    fn lane(&self) -> Lane;

    /// The path that errors name.
    fn path(&self) -> &Path;

    /// Length of the original, bytes.
    fn raw_len(&self) -> u64;

    /// Number of chunks.
    fn chunk_count(&self) -> u32;

    /// Bytes that are in memory as long as this lives.
    fn literals(&self) -> &[u8];

    /// Where the byte at `raw_offset` is; `None` at or beyond the end.
    fn locate(&self, raw_offset: u64) -> Option<Place>;

    /// A chunk; `None` beyond the last.
    fn part(&self, chunk: ChunkId) -> Option<Part>;

    /// The identity of all bytes and of how they are cut into chunks, whatever the path.
    fn digest(&self) -> [u8; 32];

    /// Whether decoding takes longer than reading the decoded bytes from a disk.
    fn is_expensive(&self) -> bool;

    /// What tells whether bytes are those of the whole original.
    fn proof(&self) -> Box<dyn Proof>;

    /// The tensor that begins in `read` and does not end there; the last of several.
    fn tensor_in(&self, read: &Range<u64>) -> Option<Range<u64>>;

    /// The chunk under which the memory cache knows the bytes of `chunk`: another one where two hold the same.
    fn known_as(&self, chunk: ChunkId) -> ChunkId {
        chunk
    }

    /// Makes a chunk, without any lock held for others. What comes back is right as far as the format can tell.
    ///
    /// # Errors
    /// Damage, and those of the source.
    fn decode(&self, chunk: ChunkId, core: &Arc<Core>) -> Result<Buffer>;

    /// Looks for the files that it refers to, so that one that is missing is known before it is needed.
    fn look_for_references(&self) {}

    /// Says whether what is read next lies behind what was read last.
    fn expect_streams(&self, streams: bool);

    /// Says that every byte of a chunk was read.
    fn read_through(&self, chunk: ChunkId);
}
