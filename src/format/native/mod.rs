#![doc = include_str!("FORMAT.md")]

mod bases;
mod broken;
mod container;
mod header;
mod index;
mod index_rows;
mod open;
mod parse;
mod wire;
mod writer;

pub use bases::{BaseId, BaseRange, BaseRef, Bases};
pub use container::Container;
pub use header::{HEADER_LEN, Header, MAGIC, MAJOR, MINOR};
pub use index::{FileInfo, Kind};
pub use index_rows::{Chunk, ChunkId, Piece, Span, Tensor};
pub use writer::{Finish, SpanSpec, TensorSpec, Writer};

/// Largest raw length of a chunk, bytes. Bounds what one read can cost a reader.
pub const MAX_CHUNK: u32 = 16 << 20;

/// Bytes by which any inflated index may exceed the container. [`max_index_len`] bounds what a small hostile file can make a
/// reader allocate; the parsed index takes at most twice as much again.
pub const MAX_INDEX_SURPLUS: u64 = 16 << 20;

/// Inflated bytes that each stored byte of the index allows beyond [`MAX_INDEX_SURPLUS`], and the most of these. Names and
/// offsets of many short tensors inflate to some 20 times what they take; a header of safetensors' own limit needs less than the
/// most.
pub const MAX_INDEX_RATIO: u64 = 48;
/// See [`MAX_INDEX_RATIO`].
pub const MAX_INDEX_INFLATION: u64 = 512 << 20;

/// Longest inflated index that is read from a container of `container_len` bytes whose stored index has `packed_len`.
#[must_use]
pub fn max_index_len(container_len: u64, packed_len: u64) -> u64 {
    let inflation = packed_len.saturating_mul(MAX_INDEX_RATIO).min(MAX_INDEX_INFLATION);
    container_len.saturating_add(MAX_INDEX_SURPLUS).saturating_add(inflation)
}

/// Most bytes kept in the index itself; longer prologues are ordinary chunks, so that opening stays cheap.
pub const MAX_LITERALS: u64 = 1 << 20;

/// Largest raw length of a file: offsets then fit a signed number, as system calls want.
pub const MAX_RAW_LEN: u64 = i64::MAX as u64;

#[cfg(test)]
mod bases_tests;
#[cfg(test)]
mod tests;
