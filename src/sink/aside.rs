//! Removing or replacing one version of a file, and no other.
//!
//! The system removes names, not versions: between a look at a name and its removal another file may get the name. So the file
//! is moved aside first, to a name that only this program uses, looked at there, and then removed or put back. A process that is
//! killed in between leaves the file under that name; [`heal`] puts it back.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{AtomicFile, rename, temporary};
use crate::error::{Error, Result};
use crate::longpath;

/// What a name begins and ends with under which a file lies aside.
const MARK: (&str, &str) = (".", ".bsfs-aside");

/// The name of `name` while it lies aside.
fn aside_of(name: &OsStr) -> OsString {
    let mut aside = OsString::from(MARK.0);
    aside.push(name);
    aside.push(MARK.1);
    aside
}

/// Where the file came from that lies aside as `path`; `None` for other names.
#[must_use]
pub fn origin(path: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let name = path.file_name()?.as_bytes();
    let name = name.strip_prefix(MARK.0.as_bytes())?.strip_suffix(MARK.1.as_bytes())?;
    (!name.is_empty()).then(|| path.with_file_name(OsStr::from_bytes(name)))
}

/// Where the file `path` lies while it is aside.
#[must_use]
pub fn aside_path(path: &Path) -> PathBuf {
    path.with_file_name(aside_of(path.file_name().unwrap_or_default()))
}

/// Refuses a file that could not be moved aside, as its name would be too long.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check(path: &Path) -> Result<()> {
    let len = path.file_name().unwrap_or_default().len() + MARK.0.len() + MARK.1.len();
    if len <= 255 {
        return Ok(());
    }
    let text = "the name is too long: to be replaced safely, a file is renamed to one that is 12 bytes longer";
    Err(Error::invalid(format!("{}: {text}", path.display())))
}

/// Marks a file that this process may move aside, for as long as it is open: [`heal`] of other processes leaves it alone.
pub fn mark(file: impl AsFd) {
    let _ = rustix::fs::flock(file, FlockOperation::NonBlockingLockShared);
}

/// A file that lies aside. Dropped before [`Aside::remove`], it is put back.
struct Aside<'a> {
    path: &'a Path,
    directory: OwnedFd,
    name: OsString,
    /// Whether it lies there.
    there: bool,
}

impl<'a> Aside<'a> {
    /// Moves the file aside, if it is the one that `is_it` tells of.
    fn take(path: &'a Path, is_it: &dyn Fn(&Metadata) -> bool) -> Result<Self> {
        check(path)?;
        let failed = |e: io::Error| Error::io("remove", path)(e);
        let changed = || Error::Changed { path: path.into() };
        let (directory, name) = longpath::parent(path).map_err(failed)?;
        if !longpath::symlink_metadata(path).is_ok_and(|meta| is_it(&meta)) {
            return Err(changed());
        }
        let aside = aside_of(&name);
        match rustix::fs::renameat_with(&directory, &name, &directory, &aside, RenameFlags::NOREPLACE) {
            // A link in place of a rename would leave the name, which another file might then have got. The name aside is nobody
            // else's.
            Err(Errno::INVAL | Errno::NOSYS) if !temporary::is_name(directory.as_fd(), &aside) => {
                rustix::fs::renameat(&directory, &name, &directory, &aside)
            }
            Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::EXIST),
            done => done,
        }
        .map_err(|e| match e {
            Errno::EXIST => in_the_way(path),
            Errno::NOENT => changed(),
            e => failed(e.into()),
        })?;
        let moved = Self { path, directory, name, there: true };
        match longpath::symlink_metadata(&aside_path(path)) {
            Ok(meta) if is_it(&meta) => Ok(moved),
            Ok(_) => moved.put_back().and(Err(changed())),
            Err(e) => moved.put_back().and(Err(failed(e))),
        }
    }

    fn put_back(mut self) -> Result<()> {
        self.there = false;
        rename(self.directory.as_fd(), &aside_of(&self.name), &self.name).map_err(|e| match e {
            Errno::EXIST => in_the_way(self.path),
            e => Error::io("put back", aside_path(self.path))(e.into()),
        })
    }

    fn remove(mut self) -> Result<()> {
        let removed = rustix::fs::unlinkat(&self.directory, aside_of(&self.name), AtFlags::empty());
        self.there = removed.is_err();
        removed.map_err(|e| Error::io("remove", self.path)(e.into()))
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        if self.there {
            // Where that fails, it is for the next run.
            let _ = rename(self.directory.as_fd(), &aside_of(&self.name), &self.name);
        }
    }
}

fn in_the_way(path: &Path) -> Error {
    let (path, aside) = (path.display(), aside_path(path));
    Error::invalid(format!(
        "{path}: another file was moved aside as {}, and was not removed; look at both, and remove the one that you do not want",
        aside.display()
    ))
}

/// Removes the file `path`, if it is the one that `is_it` tells of. Moving a file aside is a change of its inode, so `is_it` must
/// not look at the change time.
///
/// # Errors
/// [`Error::Changed`] when another file has the name; it keeps it. [`Error::Invalid`] and [`Error::Io`] when it could not be removed.
pub fn remove_version(path: &Path, is_it: &dyn Fn(&Metadata) -> bool) -> Result<()> {
    Aside::take(path, is_it)?.remove()
}

impl AtomicFile {
    /// As [`publish`](AtomicFile::publish), in place of the file that `is_it` tells of, and of no other; not by its change time.
    /// The name always leads to one of the two, if the file system can exchange names.
    ///
    /// # Errors
    /// Those of [`publish`](AtomicFile::publish), and [`Error::Changed`] when another file has the name; it keeps it.
    pub fn publish_over(mut self, is_it: &dyn Fn(&Metadata) -> bool) -> Result<Metadata> {
        let path = self.path.clone();
        let failed = |e: Errno| Error::io("give a name to", &path)(e.into());
        check(&path)?;
        self.finish()?;
        let aside = aside_of(&self.name);
        if temporary::is_name(self.directory.as_fd(), &aside) {
            return Err(in_the_way(&path));
        }
        self.rename_to(aside.clone()).map_err(failed)?;
        let exchange = |file: &Self| {
            let directory = &file.directory;
            rustix::fs::renameat_with(directory, &aside, directory, &file.name, RenameFlags::EXCHANGE)
        };
        match exchange(&self) {
            Ok(()) if longpath::symlink_metadata(&aside_path(&path)).is_ok_and(|meta| is_it(&meta)) => {
                // What is removed now is the old file.
                rustix::fs::unlinkat(&self.directory, &aside, AtFlags::empty()).map_err(failed)?;
                self.temporary = None;
                self.published()
            }
            // Dropped, the new file is removed from the name aside, if it is there.
            Ok(()) => exchange(&self).map_err(failed).and(Err(Error::Changed { path })),
            Err(Errno::NOENT) => Err(Error::Changed { path }),
            Err(Errno::INVAL | Errno::NOSYS) => {
                self.rename_to(temporary::name(&self.name)).map_err(failed)?;
                let old = Aside::take(&path, is_it)?;
                self.replace = false;
                let published = self.publish()?;
                old.remove().map(|()| published)
            }
            Err(e) => Err(failed(e)),
        }
    }
}

/// What became of a file that lay aside.
#[derive(Debug, PartialEq, Eq)]
pub enum Healed {
    /// It has its name again.
    PutBack,
    /// Another process is at work on it.
    InUse,
    /// Another file has its name by now; both are left.
    Taken,
}

/// Puts a file back that a killed process left aside as `aside`, to its [`origin`].
///
/// # Errors
/// [`Error::Io`] when it cannot be looked at or renamed.
pub fn heal(aside: &Path) -> Result<Healed> {
    let Some(origin) = origin(aside) else { return Ok(Healed::InUse) };
    let failed = |e: io::Error| Error::io("put back", aside)(e);
    let (directory, name) = longpath::parent(aside).map_err(failed)?;
    let Some(file) = temporary::open(directory.as_fd(), &name, OFlags::RDONLY) else {
        return Err(failed(io::ErrorKind::PermissionDenied.into()));
    };
    if !is_free(&file) || temporary::leads_to(directory.as_fd(), &name, &file) != Ok(true) {
        return Ok(Healed::InUse);
    }
    match rename(directory.as_fd(), &name, origin.file_name().unwrap_or_default()) {
        Ok(()) => {
            longpath::sync_directory(longpath::directory(aside)).map_err(failed)?;
            Ok(Healed::PutBack)
        }
        Err(Errno::EXIST) => Ok(Healed::Taken),
        Err(e) => Err(failed(e.into())),
    }
}

/// Whether no other process marks the file; it is taken to be free where the file system has no locks.
fn is_free(file: &File) -> bool {
    !matches!(rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    fn names(dir: &Path) -> Vec<OsString> {
        longpath::names(dir).unwrap()
    }

    #[test]
    fn only_the_version_that_was_meant_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        fs::write(&path, b"old").unwrap();
        let ino = fs::metadata(&path).unwrap().ino();
        let is_it = |meta: &Metadata| meta.ino() == ino;
        // Another file gets the name between the look and the move: the first look is at the old one.
        let looks = std::cell::Cell::new(0);
        let new = dir.path().join("new");
        fs::write(&new, b"new").unwrap();
        let raced = |meta: &Metadata| {
            looks.set(looks.get() + 1);
            if looks.get() == 1 {
                fs::rename(&new, &path).unwrap();
            }
            is_it(meta)
        };
        let error = remove_version(&path, &raced).unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error}");
        assert_eq!((looks.get(), fs::read(&path).unwrap()), (2, b"new".to_vec()));
        assert_eq!(names(dir.path()), ["m"]);
        assert!(remove_version(&path, &is_it).is_err() && path.exists());
        let ino = fs::metadata(&path).unwrap().ino();
        remove_version(&path, &|meta| meta.ino() == ino).unwrap();
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn only_the_version_that_was_meant_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        for raced in [false, true] {
            fs::write(&path, b"old").unwrap();
            let ino = fs::metadata(&path).unwrap().ino();
            let mut file = AtomicFile::create(&path, true).unwrap();
            file.write_all(b"ours").unwrap();
            if raced {
                fs::write(dir.path().join("new"), b"theirs").unwrap();
                fs::rename(dir.path().join("new"), &path).unwrap();
            }
            assert_eq!(file.publish_over(&|meta| meta.ino() == ino).is_ok(), !raced);
            assert_eq!(fs::read(&path).unwrap(), if raced { &b"theirs"[..] } else { b"ours" });
            assert_eq!(names(dir.path()), ["m"]);
        }
        // Another file gets the name before the exchange, and a third one before the exchange back: both are left.
        let put = |bytes: &[u8]| {
            fs::write(dir.path().join("new"), bytes).unwrap();
            fs::rename(dir.path().join("new"), &path).unwrap();
        };
        put(b"second");
        let file = AtomicFile::create(&path, true).unwrap();
        let third = |_: &Metadata| {
            put(b"third");
            false
        };
        assert!(matches!(file.publish_over(&third), Err(Error::Changed { .. })));
        let all: Vec<_> = names(dir.path()).iter().map(|name| fs::read(dir.path().join(name)).unwrap()).collect();
        assert!(all.contains(&b"second".to_vec()) && all.contains(&b"third".to_vec()), "{:?}", names(dir.path()));
    }

    #[test]
    fn what_was_left_aside_is_put_back_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (path, aside) = (dir.path().join("m"), dir.path().join(".m.bsfs-aside"));
        fs::write(&aside, b"left").unwrap();
        assert_eq!((origin(&aside).unwrap(), origin(&path)), (path.clone(), None));
        let held = File::open(&aside).unwrap();
        mark(&held);
        assert_eq!(heal(&aside).unwrap(), Healed::InUse);
        drop(held);
        assert_eq!(heal(&aside).unwrap(), Healed::PutBack);
        assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["m".into()], b"left".to_vec()));
        fs::write(&aside, b"left").unwrap();
        assert_eq!(heal(&aside).unwrap(), Healed::Taken);
        assert_eq!(names(dir.path()).len(), 2);
        let ino = fs::metadata(&path).unwrap().ino();
        let error = remove_version(&path, &|meta| meta.ino() == ino).unwrap_err().to_string();
        assert!(error.contains("moved aside as") && path.exists() && aside.exists(), "{error}");
        assert!(check(&dir.path().join("n".repeat(243))).is_ok() && check(&dir.path().join("n".repeat(244))).is_err());
    }
}
