#![doc = include_str!("FORMAT.md")]

mod bases;
mod container;
mod header;
mod index;
mod parse;
mod wire;
mod writer;

pub use bases::{BaseId, BaseRange, BaseRef, Bases};
pub use container::{Chunk, ChunkId, Container, Piece, Span, Tensor};
pub use header::{HEADER_LEN, Header, MAGIC, MAJOR, MINOR};
pub use index::{FileInfo, Kind};
pub use writer::{Finish, SpanSpec, TensorSpec, Writer};

/// Largest raw length of a chunk, bytes. Bounds what one read can cost a reader.
pub const MAX_CHUNK: u32 = 16 << 20;

/// Bytes by which an inflated index may exceed the container: bounds what a small hostile file can make a reader
/// allocate (the parsed index takes at most twice as much again).
pub const MAX_INDEX_SURPLUS: u64 = 16 << 20;

/// Most bytes kept in the index itself; longer prologues are ordinary chunks, so that opening stays cheap.
pub const MAX_LITERALS: u64 = 1 << 20;

/// Largest raw length of a file: offsets then fit a signed number, as system calls want.
pub const MAX_RAW_LEN: u64 = i64::MAX as u64;

#[cfg(test)]
mod bases_tests;
#[cfg(test)]
mod tests;
