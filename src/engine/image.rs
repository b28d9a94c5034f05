//! One open container as a flat range of bytes: the original file.

use std::ops::{Deref, Range};
use std::sync::Arc;

use super::flight::Outcome;
use super::memory::{Key, Raw};
use super::stats::Counters;
use super::{Engine, decode};
use crate::error::{Error, Result};
use crate::format::{Chunk, Container, Piece};
use crate::source::ReadAt;

/// Bytes of an image: part of one decoded chunk, borrowed, or gathered from several. Derefs to `[u8]`.
#[derive(Debug, Clone)]
pub struct Bytes(Inner);

#[derive(Debug, Clone)]
enum Inner {
    Chunk(Raw, Range<usize>),
    Literal(Arc<Container>, Range<usize>),
    Gathered(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // Ranges were checked when the value was made.
        match &self.0 {
            Inner::Chunk(raw, range) => raw.get(range.clone()).unwrap_or_default(),
            Inner::Literal(container, range) => container.literals().get(range.clone()).unwrap_or_default(),
            Inner::Gathered(bytes) => bytes,
        }
    }
}

/// An open container seen as the original's bytes. Reads from many threads at once.
pub struct Image {
    engine: Arc<Engine>,
    container: Arc<Container>,
    source: Arc<dyn ReadAt>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("path", &self.container.path()).finish_non_exhaustive()
    }
}

impl Image {
    pub(super) fn new(engine: Arc<Engine>, container: Arc<Container>, source: Arc<dyn ReadAt>) -> Self {
        Self { engine, container, source }
    }

    /// Length of the original, bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.container.raw_len()
    }

    /// Whether the original has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The container.
    #[must_use]
    pub fn container(&self) -> &Arc<Container> {
        &self.container
    }

    /// Up to `size` bytes at `offset`; fewer only at the end of the file, none beyond it.
    ///
    /// # Errors
    /// [`Error::Chunk`] for a damaged chunk, those of the source. No byte that failed its check is given out.
    pub fn read_at(&self, offset: u64, size: usize) -> Result<Bytes> {
        let len = self.len().saturating_sub(offset).min(size as u64) as usize;
        if len == 0 {
            return Ok(Bytes(Inner::Gathered(Vec::new())));
        }
        let first = self.piece(offset)?;
        let part = first.part(offset, len);
        if part.len() == len {
            return Ok(Bytes(match first {
                Held::Chunk(_, raw) => Inner::Chunk(raw, part),
                Held::Literal(..) => Inner::Literal(Arc::clone(&self.container), first.literal(part)),
            }));
        }
        // Across pieces: each is copied once, into the buffer that the reader gets.
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(self.slice(&first, part));
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            let piece = self.piece(at)?;
            let part = piece.part(at, len - bytes.len());
            if part.is_empty() {
                return Err(Error::corrupt(self.container.path(), "index", format!("no bytes at offset {at}")));
            }
            bytes.extend_from_slice(self.slice(&piece, part));
        }
        Ok(Bytes(Inner::Gathered(bytes)))
    }

    fn piece(&self, offset: u64) -> Result<Held> {
        match self.container.locate(offset) {
            Some(Piece::Literal { raw_offset, range }) => Ok(Held::Literal(raw_offset, range)),
            Some(Piece::Chunk(chunk)) => Ok(Held::Chunk(chunk.raw_offset, self.chunk(&chunk)?)),
            None => Err(Error::corrupt(self.container.path(), "index", format!("no bytes at offset {offset}"))),
        }
    }

    fn slice<'a>(&'a self, held: &'a Held, part: Range<usize>) -> &'a [u8] {
        match held {
            Held::Chunk(_, raw) => raw.get(part),
            Held::Literal(..) => self.container.literals().get(held.literal(part)),
        }
        .unwrap_or_default()
    }

    fn chunk(&self, chunk: &Chunk) -> Result<Raw> {
        let counters = &self.engine.counters;
        let key = Key { container: self.container.id(), chunk: chunk.id };
        let result = self.engine.chunks.get(key, || {
            Counters::add(&counters.misses, 1);
            let raw = decode::chunk(&self.container, &*self.source, chunk)?;
            Counters::add(&counters.decoded_chunks, 1);
            Counters::add(&counters.decoded_bytes, raw.len() as u64);
            Counters::add(&counters.packed_bytes_read, u64::from(chunk.packed_len));
            Ok(raw)
        });
        match &result {
            Ok((_, Outcome::Hit)) => Counters::add(&counters.hits, 1),
            Ok((_, Outcome::Waited)) => Counters::add(&counters.waits, 1),
            Ok((_, Outcome::Decoded)) => {}
            Err(_) => Counters::add(&counters.errors, 1),
        }
        result.map(|(raw, _)| raw)
    }
}

/// A piece with its bytes at hand.
enum Held {
    Chunk(u64, Raw),
    Literal(u64, Range<usize>),
}

impl Held {
    /// The part of the piece that holds up to `len` bytes from `offset` of the original.
    fn part(&self, offset: u64, len: usize) -> Range<usize> {
        let (start, size) = match self {
            Self::Chunk(start, raw) => (*start, raw.len()),
            Self::Literal(start, range) => (*start, range.len()),
        };
        let from = ((offset - start) as usize).min(size);
        from..from + len.min(size - from)
    }

    /// That part as a range of the container's literals.
    fn literal(&self, part: Range<usize>) -> Range<usize> {
        match self {
            Self::Chunk(..) => part,
            Self::Literal(_, range) => range.start + part.start..range.start + part.end,
        }
    }
}
