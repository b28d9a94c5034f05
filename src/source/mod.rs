//! "Read these bytes at this offset": where packed bytes come from.
//!
//! A source does not know what its bytes mean. All reads are positional, so one source serves many threads.

mod file;
mod memory;
pub mod way;

pub use file::{FileSource, Identity};
pub use memory::MemorySource;

use std::path::Path;

use crate::error::Result;

/// A sequence of bytes that can be read at any offset, by many threads at once.
pub trait ReadAt: Send + Sync {
    /// How messages call it. A path for files.
    fn path(&self) -> &Path;

    /// Length in bytes when it was opened.
    fn len(&self) -> u64;

    /// Whether [`len`](ReadAt::len) is 0.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`Error::Truncated`](crate::Error::Truncated) when the source ends before `offset + buf.len()`,
    /// [`Error::Io`](crate::Error::Io) when the system refuses.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// What tells this version of the source from others; `None` when there is nothing.
    fn identity(&self) -> Option<Identity> {
        None
    }

    /// Says whether reads go on where others ended, so that reading ahead pays, or jump. Only a hint.
    fn expect_streams(&self, _streams: bool) {}

    /// Says that these bytes need not be kept in memory by the system. Only a hint.
    fn wont_need(&self, _offset: u64, _len: u64) {}
}
