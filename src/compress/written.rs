//! Where a container goes: a file that has no name yet and is read back, or nowhere.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::Advice;

use crate::error::{Error, Result};
use crate::source::ReadAt;

/// A written file, read back from the disk.
#[derive(Debug)]
pub struct Written<'a> {
    file: &'a File,
    path: PathBuf,
    len: u64,
}

impl<'a> Written<'a> {
    /// Sends the file to the disk and out of memory. `path` is what it will be called.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses.
    pub fn new(file: &'a File, path: &Path) -> Result<Self> {
        file.sync_all().map_err(Error::io("write to disk", path))?;
        // Only a hint: a refusal means that memory is read back and not the disk.
        let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
        let len = file.metadata().map_err(Error::io("stat", path))?.len();
        Ok(Self { file, path: path.into(), len })
    }
}

impl ReadAt for Written<'_> {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buf, offset).map_err(Error::io("read back", &self.path))
    }
}

/// Takes bytes and forgets them.
#[derive(Debug, Default)]
pub struct Nowhere {
    at: u64,
    len: u64,
}

impl Write for Nowhere {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.at += buf.len() as u64;
        self.len = self.len.max(self.at);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Nowhere {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        let to = match pos {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = to.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
