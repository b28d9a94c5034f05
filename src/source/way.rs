//! Ways round a mount: paths below a directory that is kept open.
//!
//! A directory that something is mounted over is reached below `/proc/self/fd/N`, N being its descriptor. From there no step
//! leads into the mount, unless it is a link or `..`: both may come back by the front door, and whoever serves the mount would
//! wait for itself. So on such a way no link is followed, by the system's own doing (`openat2`), and there is no `..`.
//! All other paths are what they are everywhere.
//!
//! Every call here is one that may hang, and is [told so](super::waits).

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use super::waits;
use crate::longpath;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

/// Where the system shows the open files of a process.
const OPEN_FILES: &str = "/proc/self/fd";

/// The way to a directory that is kept open.
#[must_use]
pub fn way(directory: &OwnedFd) -> PathBuf {
    Path::new(OPEN_FILES).join(directory.as_raw_fd().to_string())
}

/// Opens a directory to go on from it when it is mounted over.
///
/// # Errors
/// Those of the system; one that lacks `openat2` (before Linux 5.6) is among them.
pub fn keep_open(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(directory, flags, Mode::empty())?;
    rustix::fs::openat2(&fd, ".", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    Ok(fd)
}

/// The directory that is kept open, and the rest of the path; `None` for an ordinary path.
fn split(path: &Path) -> Option<(PathBuf, &Path)> {
    let rest = path.strip_prefix(OPEN_FILES).ok()?;
    let mut parts = rest.components();
    let number = parts.next()?;
    Some((Path::new(OPEN_FILES).join(number), parts.as_path()))
}

/// Whether a path is a way.
#[must_use]
pub fn is_way(path: &Path) -> bool {
    split(path).is_some()
}

/// Opens a path; on a way without following links.
///
/// # Errors
/// Those of the system; on a way ELOOP for a link.
pub fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let _call = waits::call();
    let flags = flags | OFlags::CLOEXEC;
    let Some((root, rest)) = split(path) else {
        return longpath::open(path, flags, Mode::empty());
    };
    if rest.as_os_str().is_empty() {
        // The system shows an open file as a link, which leads to nothing but that.
        return Ok(rustix::fs::open(root, flags - OFlags::NOFOLLOW, Mode::empty())?.into());
    }
    if !rest.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let root = rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::openat2(root, rest, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?.into())
}

/// What `stat` says; on a way of a link itself, as `lstat` does.
///
/// # Errors
/// Those of the system.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    let _call = waits::call();
    if is_way(path) { open(path, OFlags::PATH | OFlags::NOFOLLOW)?.metadata() } else { longpath::metadata(path) }
}

/// The same of a link itself, wherever it is.
///
/// # Errors
/// Those of the system.
pub fn symlink_metadata(path: &Path) -> io::Result<Metadata> {
    let _call = waits::call();
    if is_way(path) { metadata(path) } else { longpath::symlink_metadata(path) }
}

/// The text of a link.
///
/// # Errors
/// Those of the system.
pub fn read_link(path: &Path) -> io::Result<PathBuf> {
    let _call = waits::call();
    if !is_way(path) {
        return longpath::read_link(path);
    }
    let link = open(path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let text = rustix::fs::readlinkat(&link, "", Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(text.into_bytes())))
}

/// The names in a directory, `.` and `..` apart, in no order.
///
/// # Errors
/// Those of the system.
pub fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    Ok(entries(directory)?.into_iter().map(|(name, _)| name).collect())
}

/// The same, each with whether it is a directory by its own entry, which is known without looking at it.
///
/// # Errors
/// Those of the system.
pub fn entries(directory: &Path) -> io::Result<Vec<(OsString, bool)>> {
    let _call = waits::call();
    let list = |path: &Path| {
        let entry = |entry: fs::DirEntry| (entry.file_name(), entry.file_type().is_ok_and(|kind| kind.is_dir()));
        fs::read_dir(path)?.map(|found| found.map(entry)).collect()
    };
    if !is_way(directory) {
        return list(directory);
    }
    let open = OwnedFd::from(open(directory, OFlags::RDONLY | OFlags::DIRECTORY)?);
    list(&way(&open))
}

/// The path without links and `..`.
///
/// # Errors
/// Those of the system.
pub fn canonicalize(path: &Path) -> io::Result<PathBuf> {
    let _call = waits::call();
    fs::canonicalize(path)
}

/// Whether looking at `path` does not come to `exclude`, a mount point of this process, which would wait for itself there.
#[must_use]
pub fn is_reachable(path: &Path, exclude: &Path) -> bool {
    // On a way round the mount only a link leads back.
    if is_way(path) {
        return metadata(path).is_ok_and(|meta| !meta.is_symlink());
    }
    let is_outside = |real: &Path| !real.starts_with(exclude) && !leads_to(real, real, exclude);
    // By its text first: resolving it would look.
    !path.starts_with(exclude)
        && path.parent().is_none_or(|parent| {
            canonicalize(parent)
                .is_ok_and(|real| is_outside(&path.file_name().map_or(real.clone(), |name| real.join(name))))
        })
}

/// Whether `path` is the mount point, or a link whose text points at it or below. `real` is `path` with all links
/// above its last component resolved. Only text is compared: a `stat` that reaches the mount would wait for us.
pub fn leads_to(path: &Path, real: &Path, exclude: &Path) -> bool {
    if real == exclude {
        return true;
    }
    let Ok(target) = read_link(path) else {
        return false;
    };
    let Some(parent) = real.parent() else { return false };
    let mut plain = PathBuf::new();
    for part in parent.join(target).components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain.starts_with(exclude)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_is_followed_on_a_way() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/f"), b"x").unwrap();
        symlink("a", root.join("to-a")).unwrap();
        symlink("f", root.join("a/b/to-f")).unwrap();
        let fd = keep_open(root).unwrap();
        let at = |name: &str| way(&fd).join(name);
        assert!(is_way(&at("x")) && !is_way(root) && !is_way(Path::new(OPEN_FILES)));
        assert_eq!(metadata(&at("a/b/f")).unwrap().len(), 1);
        assert!(metadata(&way(&fd)).unwrap().is_dir());
        assert!(metadata(&at("to-a")).unwrap().is_symlink());
        assert_eq!(read_link(&at("a/b/to-f")).unwrap(), Path::new("f"));
        for bad in ["to-a/b/f", "a/b/to-f/x"] {
            assert!(metadata(&at(bad)).is_err(), "{bad}");
        }
        assert!(metadata(&way(&fd).join("a/../a")).is_err());
        assert!(open(&at("a/b/to-f"), OFlags::RDONLY).is_err() && open(&at("a/b/f"), OFlags::RDONLY).is_ok());
        let mut names = names(&way(&fd)).unwrap();
        names.sort();
        assert_eq!(names, ["a", "to-a"]);
        // Elsewhere links are what they always are.
        assert!(metadata(&root.join("to-a/b/to-f")).unwrap().is_file());
        assert!(symlink_metadata(&root.join("to-a")).unwrap().is_symlink());
    }
}
