//! The write side: a file becomes a container.
//!
//! Reading, hashing, encoding and writing overlap, over a bounded window of chunks: the file is never read whole.
//! Every chunk is decoded back and compared before it is written, while its raw bytes are still at hand.

mod against;
mod base_source;
mod digest;
mod doubt;
mod duplicates;
mod estimate;
mod matching;
mod memory;
mod pipeline;
pub(crate) mod plan;
mod report;
mod tree;
mod written;

pub use against::Against;
pub use base_source::BaseSource;
pub use doubt::{doubt, doubt_copy, is_weights};
pub use duplicates::{Duplicate, duplicates};
pub use estimate::{Estimate, estimate};
pub use memory::{DtypeSeconds, InMemory, encode_in_memory};
pub use pipeline::{Beside, Original, compress, compress_beside, compress_from, compress_mirrored, measure};
pub use report::{DtypeReport, Report, Sums, ratio};
pub use tree::{Entry, Tree, walk};

use std::sync::atomic::AtomicBool;

use crate::codec::Mode;

/// Raw length of a chunk unless the user says otherwise, bytes. See ARCHITECTURE.md for the measurement.
pub const DEFAULT_CHUNK_LEN: u32 = 512 << 10;
/// Smallest chunk length that a user may ask for.
pub const MIN_CHUNK_LEN: u32 = 64 << 10;
/// Largest chunk length that a user may ask for.
pub const MAX_CHUNK_LEN: u32 = 4 << 20;

/// How to compress.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// What to optimise.
    pub mode: Mode,
    /// Raw length of a chunk, bytes; [`MIN_CHUNK_LEN`] to [`MAX_CHUNK_LEN`]. `None`: [`DEFAULT_CHUNK_LEN`], twice as
    /// long for F16 and F32, four times as long in [`Mode::Storage`].
    pub chunk_len: Option<u32>,
    /// Whether an existing output is replaced.
    pub force: bool,
    /// What tensors may be stored as differences from.
    pub against: Option<&'a Against>,
    /// Set to stop at the next chunk with [`Error::Interrupted`](crate::Error::Interrupted).
    pub stop: &'a AtomicBool,
}

/// Told how far a run has come.
pub trait Progress: Sync {
    /// So many bytes more were read, and became so many.
    fn advance(&self, raw: u64, packed: u64);

    /// Something that the user should know.
    fn note(&self, _text: &str) {}
}

/// A progress that nobody watches.
impl Progress for () {
    fn advance(&self, _raw: u64, _packed: u64) {}
}
