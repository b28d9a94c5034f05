//! What writing into an entry's files needs.

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::FlockOperation;

/// What it takes to write.
#[derive(Debug, Default)]
pub(super) struct Fill {
    /// The data file, opened for writing when there was something to write.
    pub(super) file: Option<File>,
    /// Literals that are not written yet, with the numbers of their parts.
    pub(super) literals: Vec<(u32, Arc<[u8]>)>,
}

/// A lock on an open file, until it is dropped.
pub(super) struct Locked<'a>(&'a File);

impl<'a> Locked<'a> {
    pub(super) fn now(file: &'a File, operation: FlockOperation) -> io::Result<Self> {
        rustix::fs::flock(file, operation)?;
        Ok(Self(file))
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // It ends with the file at the latest.
        let _ = rustix::fs::flock(self.0, FlockOperation::Unlock);
    }
}
