//! What lies where a file is going to be written, and may be replaced or not.

use std::fs::FileType;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::error::{Error, Result};
use crate::longpath;

/// Most links that are followed, as by the system.
const MOST_LINKS: usize = 40;
/// `statfs` of `/proc`.
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// What a path is, as a place for output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nothing has that name.
    Free,
    /// A regular file, or a link to one or to nothing: a new file can have its name. A link is replaced itself.
    File,
    /// A directory, or a link to one.
    Directory,
    /// A FIFO, a socket, a terminal or another character device, or an open descriptor (`/dev/stdout`): bytes can be written to it
    /// one after the other.
    Stream,
    /// A disk or another block device.
    Disk,
}

impl Place {
    /// Looks at `path`, links followed.
    ///
    /// # Errors
    /// [`Error::Io`] for a name that cannot be.
    pub fn of(path: &Path) -> Result<Self> {
        let failed = |e| Error::io("create", path)(e);
        let meta = match longpath::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::Free),
            Err(e) => return Err(failed(e)),
        };
        if meta.is_symlink() && leads_through_proc(path) {
            return Ok(Self::Stream);
        }
        match longpath::metadata(path) {
            Ok(meta) => Ok(Self::of_type(meta.file_type())),
            // A link that leads to nothing, or in a circle.
            Err(_) if meta.is_symlink() => Ok(Self::File),
            Err(e) => Err(failed(e)),
        }
    }

    /// Looks at `path` itself, as the place of a link: a link to a directory is replaced as well as one to a file.
    ///
    /// # Errors
    /// As [`of`](Place::of).
    pub fn of_link(path: &Path) -> Result<Self> {
        match longpath::symlink_metadata(path) {
            Ok(meta) if meta.is_symlink() => Ok(Self::File),
            _ => Self::of(path),
        }
    }

    fn of_type(file_type: FileType) -> Self {
        if file_type.is_dir() {
            Self::Directory
        } else if file_type.is_block_device() {
            Self::Disk
        } else if file_type.is_file() {
            Self::File
        } else {
            Self::Stream
        }
    }

    /// Refuses what no file may replace.
    ///
    /// # Errors
    /// [`Error::Invalid`] for all but regular files, links to them, and names that are free.
    pub fn check(self, path: &Path) -> Result<()> {
        let text = match self {
            Self::Free | Self::File => return Ok(()),
            Self::Directory => "a directory, expected a file to write",
            Self::Stream => {
                "not a regular file (a device, pipe or socket), which is never replaced; name a file to write"
            }
            Self::Disk => "a block device, which is never replaced; name a file to write",
        };
        Err(Error::invalid(format!("{}: {text}", path.display())))
    }
}

/// Whether a link leads through `/proc`, where links stand for open files: `/dev/stdout` is one, and may lead to a regular
/// file, but is no name of it.
fn leads_through_proc(link: &Path) -> bool {
    let mut path = PathBuf::from(link);
    for _ in 0..MOST_LINKS {
        let Ok(directory) = longpath::open(longpath::directory(&path), OFlags::PATH, rustix::fs::Mode::empty()) else {
            return false;
        };
        if rustix::fs::fstatfs(&directory).is_ok_and(|fs| fs.f_type as u64 == PROC_SUPER_MAGIC) {
            return true;
        }
        let Ok(text) = longpath::read_link(&path) else { return false };
        path = longpath::directory(&path).join(text);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_names_of_regular_files_may_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), b"x").unwrap();
        fs::create_dir(at("dir")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let links = [
            ("to-file", "file", Place::File),
            ("to-nothing", "nothing", Place::File),
            ("circle", "circle", Place::File),
            ("to-dir", "dir", Place::Directory),
            ("to-fifo", "fifo", Place::Stream),
            ("to-null", "/dev/null", Place::Stream),
            ("stdout", "/proc/self/fd/1", Place::Stream),
            ("twice", "stdout", Place::Stream),
        ];
        let plain = [
            ("none", Place::Free),
            ("file", Place::File),
            ("dir", Place::Directory),
            ("fifo", Place::Stream),
            ("socket", Place::Stream),
        ];
        for (name, text, _) in links {
            symlink(text, at(name)).unwrap();
        }
        for (name, place) in links.map(|(name, _, place)| (name, place)).into_iter().chain(plain) {
            assert_eq!(Place::of(&at(name)).unwrap(), place, "{name}");
            assert_eq!(place.check(&at(name)).is_ok(), matches!(place, Place::Free | Place::File), "{name}");
        }
        assert_eq!(Place::of(Path::new("/dev/null")).unwrap(), Place::Stream);
        assert!(Place::of(&at(&"n".repeat(256))).is_err());
    }
}
