//! The container on disk.
//!
//! [`native`] is our own format, with its specification. [`sniff`] tells the formats apart by a file's first bytes.
//! This room names codec ids and never runs a codec.

use std::sync::atomic::{AtomicU64, Ordering};

pub mod checksum;
pub mod native;

pub use native::{BaseId, BaseRange, BaseRef, Bases, Chunk, ChunkId, Container, Piece, Span, Tensor};

/// A number that no other open container of this process has; caches are keyed by it.
pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What the first bytes of a file say that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniff {
    /// A container of ours, any version.
    Native,
    /// A container of another packer, and what it is called.
    Foreign(&'static str),
    /// Neither.
    Other,
}

/// First bytes of containers of other packers, and what they are called.
const FOREIGN: &[(&[u8], &str)] = &[(b"BGSM", "the Python package bigsmall")];

/// Bytes that [`sniff`] needs; fewer are sniffed as far as they go.
pub const SNIFF_LEN: usize = 8;

/// Judges the first bytes of a file.
#[must_use]
pub fn sniff(first: &[u8]) -> Sniff {
    if first.starts_with(&native::MAGIC) {
        return Sniff::Native;
    }
    let foreign = FOREIGN.iter().find(|(magic, _)| first.starts_with(magic));
    foreign.map_or(Sniff::Other, |(_, name)| Sniff::Foreign(name))
}
