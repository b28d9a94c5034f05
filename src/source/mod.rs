//! "Read these bytes at this offset": where packed bytes come from.
//!
//! A source does not know what its bytes mean. All reads are positional, so one source serves many threads.

mod ahead;
mod confined;
mod descriptors;
mod file;
mod identity;
mod memory;
#[cfg(feature = "remote")]
pub mod remote;
mod stat;
mod times;
mod tree;
pub mod waits;
mod walk;
pub mod way;

pub use ahead::Streams;
pub use descriptors::{as_before, raise_limit};
pub use file::FileSource;
pub use identity::Identity;
pub use memory::MemorySource;
pub use stat::{Stat, Timestamp};
pub use times::{BOUNDS, TimeCounts, Times};
pub use tree::{LocalTree, Traffic, Tree};
pub use walk::{Bounds, Found, Walk, walk};

use std::path::Path;

use crate::access::Attributes;
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

    /// Reads at most `buf.len()` bytes at `offset`; fewer only at the end.
    ///
    /// # Errors
    /// Those of [`read_exact_at`](ReadAt::read_exact_at), but for the end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(self.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        self.read_exact_at(offset, buf.get_mut(..len).unwrap_or_default())?;
        Ok(len)
    }

    /// Reads bytes at `offset` that are at hand, without waiting; `None` when there are none, or nobody can tell. May read fewer
    /// than there are.
    fn read_cached(&self, _offset: u64, _buf: &mut [u8]) -> Option<usize> {
        None
    }

    /// Whether what is read still is the version that was opened.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the system does not say.
    fn unchanged(&self) -> Result<bool> {
        Ok(true)
    }

    /// Looks whether reads end where [`len`](ReadAt::len) says: of some files the system tells another length than can be read.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) when there is more, [`Error::Truncated`](crate::Error::Truncated) when there is less;
    /// both tell both lengths.
    fn check_end(&self) -> Result<()> {
        Ok(())
    }

    /// What tells this version of the source from others; `None` when there is nothing.
    fn identity(&self) -> Option<Identity> {
        None
    }

    /// Who may read the source, and what else it has besides its bytes and times; `None` in a place that does not know users.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the system does not say.
    fn attributes(&self) -> Result<Option<Attributes>> {
        Ok(None)
    }

    /// Says whether reads go on where others ended, so that reading ahead pays, or jump. Only a hint.
    fn expect_streams(&self, _streams: bool) {}

    /// Says that these bytes were found wrong: what was kept of them on the way is to be fetched anew.
    fn doubt(&self, _offset: u64, _len: u64) {}

    /// Whether the system has some of these bytes in memory; `None` when it does not tell.
    fn in_memory(&self, _offset: u64, _len: u64) -> Option<bool> {
        None
    }

    /// Says that these bytes need not be kept in memory by the system. Only a hint.
    fn wont_need(&self, _offset: u64, _len: u64) {}
}
