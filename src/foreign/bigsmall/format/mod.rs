//! The containers of the Python package `bigsmall`, as its releases 1.0 to 4.0 write them (`.bs`, `.bsr`).
//!
//! A container is `BGSM`, a u16 version (1 or 2, of the same layout), a u32 length, a JSON header of that length, and
//! the packed tensors, back to back. It keeps tensors, not the file they came from: order, padding and the header's
//! bytes are lost, so [`present`] makes a header of its own, always the same for the same container. A directory
//! of containers has one more file, which says which tensors were left out because another holds the same bytes
//! ([`ShardIndex`]).
//!
//! Headers and shard indexes are untrusted. The container has no checksum; each tensor has the MD5 of its raw bytes.
//! Keys that nothing here reads are skipped, whatever they hold; those that are read must occur once.

mod container;
mod content;
mod dtype;
mod group;
mod json;
mod open;
mod parse;
pub mod present;
mod rows;
mod shards;
mod stored;
mod writer;

pub use container::{Container, Content, Entry, Metadata, Part};
pub use present::{Layout, Placed, Shown};
pub use shards::{Duplicate, SHARD_INDEX, ShardIndex, shown_name};
pub use writer::{Finished, header};

/// First bytes of a container.
pub const MAGIC: [u8; 4] = *b"BGSM";

/// Bytes before the JSON header: magic, version, length.
pub const PREFIX_LEN: usize = 10;

/// Longest JSON header or shard index that is read, bytes: some 200 000 tensors.
pub const MAX_HEADER: u64 = 64 << 20;

/// Most raw bytes in a container. Far above any model, and sums of offsets stay far below what a signed number holds.
pub const MAX_RAW_LEN: u64 = 1 << 50;

/// Most dimensions of a tensor, as in PyTorch and NumPy.
pub const MAX_DIMS: usize = 64;
