//! The log file of a daemon, which can be opened anew: what moves logs away says so with SIGHUP.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::error::{Error, Result};

/// A file that is appended to. All clones write to the same one.
#[derive(Debug, Clone)]
pub struct LogFile(Arc<(PathBuf, Mutex<File>)>);

impl LogFile {
    /// Opens `path`, readable by its owner only; see [`open_log`].
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when it cannot be made or opened.
    pub fn open(path: &Path, make_directories: bool) -> Result<Self> {
        let file = open_log(path, make_directories)?;
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        Ok(Self(Arc::new((path, Mutex::new(file)))))
    }

    /// Its path, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.0
    }

    /// Opens the path again, and goes on there. When that fails the file that is open stays.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when it cannot be made or opened.
    pub fn reopen(&self) -> Result<()> {
        let file = open_log(self.path(), false)?;
        *self.lock() = file;
        Ok(())
    }

    /// Reads the file that is open with `read`.
    pub(super) fn with<T>(&self, read: impl FnOnce(&File) -> T) -> T {
        read(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, File> {
        self.0.1.lock()
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().flush()
    }
}

/// Opens a log file for appending (and for its end to be looked at), readable by its owner only. Makes missing directories when `make_directories`.
///
/// # Errors
/// [`Error::Io`] when it cannot be made or opened.
pub fn open_log(path: &Path, make_directories: bool) -> Result<File> {
    if make_directories && let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(Error::io("make the directory", parent))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("open the log file", path))
}
