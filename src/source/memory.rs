//! Bytes in memory, for tests and for what was fetched already.

use std::path::{Path, PathBuf};

use super::ReadAt;
use crate::error::{Error, Result};

/// A byte vector as a source.
#[derive(Debug, Clone)]
pub struct MemorySource {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl MemorySource {
    /// A source called `path` in messages, holding `bytes`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, bytes: Vec<u8>) -> Self {
        Self { path: path.into(), bytes }
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The vector back.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl ReadAt for MemorySource {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let found = usize::try_from(offset).ok().and_then(|start| self.bytes.get(start..start.checked_add(buf.len())?));
        match found {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(Error::Truncated {
                path: self.path.clone(),
                expected: offset.saturating_add(buf.len() as u64),
                got: self.bytes.len() as u64,
            }),
        }
    }
}
