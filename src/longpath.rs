//! File operations on paths of any length.
//!
//! The system takes paths of less than 4096 bytes at once, and directories may be nested deeper than that. A longer path is
//! cut into pieces: the directory at the end of each is opened, and the next piece is looked up from there.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};

/// Shortest path that the system refuses for its length, bytes.
const PATH_MAX: usize = 4096;

/// The directory that a relative path is looked up from.
#[derive(Debug)]
pub struct At(Option<OwnedFd>);

impl AsFd for At {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().map_or(CWD, AsFd::as_fd)
    }
}

fn is_long(path: &Path) -> bool {
    path.as_os_str().len() >= PATH_MAX
}

/// Where to look up the last piece of a path, and that piece.
///
/// # Errors
/// Those of opening the directories before it.
pub fn reach(path: &Path) -> io::Result<(At, &Path)> {
    let (mut at, mut rest) = (At(None), path.as_os_str().as_bytes());
    while rest.len() >= PATH_MAX {
        let piece = rest.get(..PATH_MAX - 1).unwrap_or(rest);
        let slash = piece.iter().rposition(|&byte| byte == b'/').filter(|&slash| slash > 0);
        let slash = slash.ok_or(io::ErrorKind::InvalidFilename)?;
        let (piece, behind) = rest.split_at(slash);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        at = At(Some(rustix::fs::openat(&at, OsStr::from_bytes(piece), flags, Mode::empty())?));
        // A path that begins with a slash would be looked up from the root.
        let slashes = behind.iter().take_while(|&&byte| byte == b'/').count();
        rest = behind.get(slashes..).unwrap_or_default();
    }
    Ok((at, Path::new(OsStr::from_bytes(rest))))
}

/// The directory in which a file lies, open as a place (`O_PATH`), and the file's name in it.
///
/// # Errors
/// Those of opening it; [`io::ErrorKind::InvalidInput`] for a path that does not end in a name.
pub fn parent(path: &Path) -> io::Result<(OwnedFd, OsString)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let directory = open(directory(path), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    Ok((directory.into(), name.to_owned()))
}

/// The directory of a file; `.` for a bare name.
#[must_use]
pub fn directory(file: &Path) -> &Path {
    match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Opens a file; not inherited by other programs.
///
/// # Errors
/// Those of the system.
pub fn open(path: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
    let (at, rest) = reach(path)?;
    Ok(rustix::fs::openat(at, rest, flags | OFlags::CLOEXEC, mode)?.into())
}

/// What `stat` says, links followed.
///
/// # Errors
/// Those of the system.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    if is_long(path) { open(path, OFlags::PATH, Mode::empty())?.metadata() } else { fs::metadata(path) }
}

/// What `lstat` says.
///
/// # Errors
/// Those of the system.
pub fn symlink_metadata(path: &Path) -> io::Result<Metadata> {
    if !is_long(path) {
        return fs::symlink_metadata(path);
    }
    open(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?.metadata()
}

/// Whether a path leads to a directory; not if it leads nowhere.
#[must_use]
pub fn is_dir(path: &Path) -> bool {
    metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// Whether two paths lead to one file or directory, by device and inode number.
#[must_use]
pub fn same_file(a: &Path, b: &Path) -> bool {
    matches!((metadata(a), metadata(b)), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// The text of a link.
///
/// # Errors
/// Those of the system.
pub fn read_link(path: &Path) -> io::Result<PathBuf> {
    let (at, rest) = reach(path)?;
    let text = rustix::fs::readlinkat(at, rest, Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(text.into_bytes())))
}

/// The names in a directory, in order; `.` and `..` are not among them.
///
/// # Errors
/// Those of the system.
pub fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    let open = open(directory, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(OwnedFd::from(open))? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Makes a directory.
///
/// # Errors
/// Those of the system.
pub fn create_dir(path: &Path, mode: Mode) -> io::Result<()> {
    let (at, rest) = reach(path)?;
    Ok(rustix::fs::mkdirat(at, rest, mode)?)
}

/// Makes a directory and those above it that are missing; gives whether the directory was missing.
///
/// # Errors
/// Those of the system; [`io::ErrorKind::NotADirectory`] when something else has its name.
pub fn create_dir_all(path: &Path) -> io::Result<bool> {
    let make = || create_dir(path, Mode::from_raw_mode(0o777));
    match make() {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let above = path.parent().filter(|above| !above.as_os_str().is_empty()).ok_or(e)?;
            create_dir_all(above)?;
            make().map(|()| true)
        }
        Err(e) => match metadata(path) {
            Ok(meta) if meta.is_dir() => Ok(false),
            Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
            Err(_) => Err(e),
        },
    }
}

/// Makes a link.
///
/// # Errors
/// Those of the system.
pub fn symlink(text: &Path, path: &Path) -> io::Result<()> {
    let (at, rest) = reach(path)?;
    Ok(rustix::fs::symlinkat(text, at, rest)?)
}

/// Gives a file a second name.
///
/// # Errors
/// Those of the system.
pub fn hard_link(file: &Path, path: &Path) -> io::Result<()> {
    let ((from, file), (to, path)) = (reach(file)?, reach(path)?);
    Ok(rustix::fs::linkat(from, file, to, path, AtFlags::empty())?)
}

/// Removes the name of a file.
///
/// # Errors
/// Those of the system.
pub fn remove_file(path: &Path) -> io::Result<()> {
    let (at, rest) = reach(path)?;
    Ok(rustix::fs::unlinkat(at, rest, AtFlags::empty())?)
}

/// Makes changes of the names in a directory last.
///
/// # Errors
/// Those of the system.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    open(directory, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_path_longer_than_the_system_takes_works_like_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().to_path_buf();
        while deep.as_os_str().len() < 3 * PATH_MAX {
            deep.push("d".repeat(200));
        }
        assert!(create_dir_all(&deep).unwrap());
        assert!(!create_dir_all(&deep).unwrap());
        assert_eq!(fs::metadata(&deep).unwrap_err().kind(), io::ErrorKind::InvalidFilename);
        let (file, link, twin) = (deep.join("file"), deep.join("link"), deep.join("twin"));
        let mut made = open(&file, OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o600)).unwrap();
        made.write_all(b"deep").unwrap();
        symlink(Path::new("file"), &link).unwrap();
        hard_link(&file, &twin).unwrap();
        assert_eq!(names(&deep).unwrap(), ["file", "link", "twin"]);
        assert!(is_dir(&deep) && !is_dir(&file) && same_file(&link, &file) && same_file(&twin, &file));
        assert!(!same_file(&deep, &file) && !same_file(&file.join("no"), &file.join("no")));
        assert!(metadata(&link).unwrap().is_file() && symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read_link(&link).unwrap(), Path::new("file"));
        let mut text = String::new();
        open(&link, OFlags::RDONLY, Mode::empty()).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "deep");
        remove_file(&file).unwrap();
        assert!(metadata(&link).is_err());
        assert_eq!(create_dir_all(&twin).unwrap_err().kind(), io::ErrorKind::NotADirectory);
        sync_directory(&deep).unwrap();
        // A relative one, and one of many slashes.
        let relative = Path::new("/").join(format!("{}{}", "/".repeat(2 * PATH_MAX), dir.path().display()));
        assert!(metadata(&relative).unwrap().is_dir());
    }
}
