//! A file that appears under its name whole or not at all.
//!
//! The bytes go to a file without a name (`O_TMPFILE`) where the file system has that, so that not even a killed
//! process leaves anything behind; elsewhere to a hidden temporary name in the same directory, which the next run removes
//! (`temporary`). Only regular files are ever replaced (`place`); where one certain version is to be removed or replaced, no other
//! is (`aside`).

pub mod aside;
mod place;
mod temporary;

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Advice, AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::access::Attributes;
use crate::error::{Error, Result};
use crate::longpath;

pub use place::Place;

/// How often a temporary file is made anew when its name is taken away.
const TRIES: u32 = 3;

/// What the system gives a new file at most: the umask, or the directory's list, takes some of it away.
const MODE: Mode = Mode::from_bits_retain(0o666);

/// A file being written. Dropped without [`publish`](AtomicFile::publish), nothing is left of it.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    /// What messages call it.
    path: PathBuf,
    directory: OwnedFd,
    name: OsString,
    replace: bool,
    /// The temporary name, where there had to be one.
    temporary: Option<OsString>,
    /// What a file of this directory has by itself. One with a temporary name is its owner's alone until it has other attributes,
    /// at the latest before it is published: who opens it meanwhile could read what is written later.
    by_itself: Option<Attributes>,
}

impl AtomicFile {
    /// Starts a file that will be called `path`; its directory must exist. With `replace` a file of that name is
    /// replaced at the end, otherwise it is an error now. A link is replaced itself, and what it leads to stays as it is.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Invalid`] for a name of what is no regular file, or [`Error::Io`] when the directory cannot be
    /// written.
    pub fn create(path: impl Into<PathBuf>, replace: bool) -> Result<Self> {
        let path = path.into();
        let place = Place::of(&path)?;
        place.check(&path)?;
        if place != Place::Free && !replace {
            return Err(Error::Exists { path });
        }
        let failed = |e: io::Error| Error::io("create", &path)(e);
        let (directory, name) = longpath::parent(&path).map_err(failed)?;
        temporary::sweep(&directory);
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
        if let Ok(fd) = rustix::fs::openat(&directory, ".", flags, MODE)
            // Without /proc it could not be given a name.
            && rustix::fs::access(fd_path(&fd), rustix::fs::Access::EXISTS).is_ok()
        {
            // It has no name by which another process could.
            let _ = temporary::lock(&fd);
            let file = File::from(fd);
            return Ok(Self { file, path, directory, name, replace, temporary: None, by_itself: None });
        }
        Self::named(&path, &directory, &name, replace).map_err(failed)
    }

    /// The same with a temporary name, for file systems without `O_TMPFILE`.
    fn named(path: &Path, directory: &OwnedFd, name: &OsStr, replace: bool) -> io::Result<Self> {
        let create = |mode| {
            let temporary = temporary::name(name);
            let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
            io::Result::Ok((File::from(rustix::fs::openat(directory, &temporary, flags, mode)?), temporary))
        };
        let (file, temporary) = create(MODE)?;
        let by_itself = Attributes::of(&file);
        // Another process may have taken it for one that was left behind.
        rustix::fs::unlinkat(directory, &temporary, AtFlags::empty()).or_else(|e| match e {
            Errno::NOENT => Ok(()),
            e => Err(e),
        })?;
        let by_itself = by_itself?;
        for _ in 0..TRIES {
            let (file, temporary) = create(Mode::RUSR | Mode::WUSR)?;
            let (directory, temporary) = (directory.try_clone()?, Some(temporary));
            let by_itself = Some(by_itself.clone());
            let made = Self { file, path: path.into(), directory, name: name.into(), replace, temporary, by_itself };
            // So may this one have been, before it was locked.
            if temporary::lock(&made.file) && made.leads_here() {
                return Ok(made);
            }
        }
        Err(io::Error::other("its temporary name was taken away"))
    }

    /// The name it will have.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for writing.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Sets the modification time.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses.
    pub fn set_modified(&self, time: SystemTime) -> Result<()> {
        self.file.set_modified(time).map_err(Error::io("set the time of", &self.path))
    }

    /// Sets the modification time to so many seconds, before or after 1970, and nanoseconds.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses or cannot express the time.
    pub fn set_modified_at(&self, seconds: i64, nanoseconds: u32) -> Result<()> {
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let base = SystemTime::UNIX_EPOCH;
        let time = if seconds < 0 { base.checked_sub(whole) } else { base.checked_add(whole) };
        match time.and_then(|time| time.checked_add(Duration::from_nanos(nanoseconds.into()))) {
            Some(time) => self.set_modified(time),
            None => Err(Error::io("set the time of", &self.path)(io::Error::other("out of range"))),
        }
    }

    /// Gives the file all that another has besides its bytes and times, for which it is going to stand: permissions, access
    /// list, extended attributes, and owner and group as far as the user may. Best at once, while nothing is in it that not
    /// all may read.
    ///
    /// # Errors
    /// [`Error::Io`] when one of them cannot be given.
    pub fn resemble(&mut self, other: &Attributes) -> Result<()> {
        self.by_itself = None;
        other.give(&self.file).map_err(Error::io("keep the permissions and attributes in", &self.path))
    }

    /// As [`resemble`](AtomicFile::resemble), as far as the file system keeps it; says what it does not keep.
    ///
    /// # Errors
    /// [`Error::Io`] when the permissions cannot be set.
    pub fn mirror(&mut self, other: &Attributes) -> Result<Option<String>> {
        self.by_itself = None;
        let lost = other.give_kept(&self.file).map_err(Error::io("set the permissions of", &self.path))?;
        Ok(lost.map(|lost| format!("{}: the file system does not keep the input's {lost}", self.path.display())))
    }

    /// Takes away what `other`, the attributes of a file that this one is made from, does not allow: what nobody else may read
    /// does not become readable by being packed. Gives it the access list's entries and the extended attributes of users, and
    /// says which of them the file system does not keep. Best at once.
    ///
    /// # Errors
    /// [`Error::Io`] when the permissions cannot be set.
    pub fn narrow(&mut self, other: &Attributes) -> Result<Option<String>> {
        let lost =
            other.bound(&self.file, self.by_itself.take()).map_err(Error::io("set the permissions of", &self.path))?;
        Ok(lost.map(|lost| format!("{}: the file system does not keep the input's {lost}", self.path.display())))
    }

    /// Sends what was written to the disk and out of memory, and gives it to `take` in order, as it is read back from there.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses, and those of `take`.
    pub fn read_back(&mut self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.file.sync_all().map_err(Error::io("write to disk", &self.path))?;
        // Only a hint: a refusal means that memory is read back and not the disk.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            let got = self.file.read_at(&mut buffer, at).map_err(Error::io("read back", &self.path))?;
            match buffer.get(..got) {
                Some(bytes) if got > 0 => take(bytes)?,
                _ => return Ok(()),
            }
            at += got as u64;
        }
    }

    /// Gives the file its name, after its bytes are on the disk. Gives what the system says of it then.
    ///
    /// # Errors
    /// [`Error::Exists`] when somebody made a file of that name meanwhile and it was not to be replaced,
    /// [`Error::Io`] when the system refuses. Nothing is left behind then.
    pub fn publish(mut self) -> Result<Metadata> {
        let path = self.path.clone();
        let failed = |e: Errno| match e {
            Errno::EXIST => Error::Exists { path: path.clone() },
            e => Error::io("give a name to", &path)(e.into()),
        };
        self.finish()?;
        if self.replace {
            // What has the name now may be another than when this began.
            Place::of(&path)?.check(&path)?;
            if self.temporary.is_none() {
                // A link cannot replace a file, a rename can.
                let temporary = temporary::name(&self.name);
                self.link(&temporary).map_err(failed)?;
                self.temporary = Some(temporary);
            }
        }
        match &self.temporary {
            Some(temporary) if self.replace => {
                rustix::fs::renameat(&self.directory, temporary, &self.directory, &self.name).map_err(failed)?;
            }
            _ => self.rename_to(self.name.clone()).map_err(failed)?,
        }
        self.temporary = None;
        self.published()
    }

    /// What there is to do before the file has its name.
    fn finish(&mut self) -> Result<()> {
        if let Some(own) = self.by_itself.take() {
            own.give_kept(&self.file).map_err(Error::io("set the permissions of", &self.path))?;
        }
        self.file.sync_all().map_err(Error::io("write to disk", &self.path))
    }

    /// And when it has it.
    fn published(&self) -> Result<Metadata> {
        self.sync_directory()?;
        self.file.metadata().map_err(Error::io("stat", &self.path))
    }

    /// Whether the temporary name leads to this file; without one it does.
    fn leads_here(&self) -> bool {
        let leads = |name: &OsString| temporary::leads_to(self.directory.as_fd(), name, &self.file) == Ok(true);
        self.temporary.as_ref().is_none_or(leads)
    }

    /// Gives the file a name in its directory that no other file has.
    fn link(&self, name: &OsString) -> rustix::io::Result<()> {
        rustix::fs::linkat(CWD, fd_path(&self.file), &self.directory, name, AtFlags::SYMLINK_FOLLOW)
    }

    /// Gives the file, instead of its temporary name, this one, which is temporary until it says otherwise.
    fn rename_to(&mut self, name: OsString) -> rustix::io::Result<()> {
        match &self.temporary {
            None => self.link(&name)?,
            Some(temporary) => rename(self.directory.as_fd(), temporary, &name)?,
        }
        self.temporary = Some(name);
        Ok(())
    }

    fn sync_directory(&self) -> Result<()> {
        let dir = longpath::directory(&self.path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let synced = rustix::fs::openat(&self.directory, ".", flags, Mode::empty()).and_then(rustix::fs::fsync);
        synced.map_err(|e| Error::io("write to disk", dir)(e.into()))
    }
}

/// Makes a link that leads to `text`. With `replace` a file or link of that name is replaced, otherwise it is an error.
///
/// # Errors
/// Those of [`AtomicFile::create`].
pub fn symlink(text: &Path, path: &Path, replace: bool) -> Result<()> {
    let failed = |e: Errno| match e {
        Errno::EXIST => Error::Exists { path: path.into() },
        e => Error::io("create", path)(e.into()),
    };
    let place = Place::of_link(path)?;
    place.check(path)?;
    let (directory, name) = longpath::parent(path).map_err(Error::io("create", path))?;
    if place == Place::Free || !replace {
        return rustix::fs::symlinkat(text, &directory, &name).map_err(failed);
    }
    let temporary = temporary::name(&name);
    rustix::fs::symlinkat(text, &directory, &temporary).map_err(failed)?;
    rustix::fs::renameat(&directory, &temporary, &directory, &name).map_err(|e| {
        let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
        failed(e)
    })
}

/// Gives the file `from` the name `path` as well, in place of the file that has it.
///
/// # Errors
/// [`Error::Invalid`] for what no file may replace, [`Error::Io`] when the system refuses.
pub fn hard_link_over(from: &Path, path: &Path) -> Result<()> {
    Place::of(path)?.check(path)?;
    let failed = |e: io::Error| Error::io("create", path)(e);
    let (directory, name) = longpath::parent(path).map_err(failed)?;
    let temporary = temporary::name(&name);
    longpath::hard_link(from, &path.with_file_name(&temporary)).map_err(failed)?;
    rustix::fs::renameat(&directory, &temporary, &directory, &name).map_err(|e| {
        let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
        failed(e.into())
    })
}

/// Renames within a directory, never over another file.
fn rename(directory: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
        // File systems without RENAME_NOREPLACE: a link does not replace either.
        Err(Errno::INVAL | Errno::NOSYS) => {
            match rustix::fs::linkat(directory, from, directory, to, AtFlags::empty()) {
                Ok(()) => rustix::fs::unlinkat(directory, from, AtFlags::empty()),
                // Nor have they links: a look and a rename.
                Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP) => match temporary::is_name(directory, to) {
                    true => Err(Errno::EXIST),
                    false => rustix::fs::renameat(directory, from, directory, to),
                },
                Err(e) => Err(e),
            }
        }
        renamed => renamed,
    }
}

/// Where the system shows an open file of this process.
fn fd_path(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        let Some(temporary) = &self.temporary else { return };
        // Another file that has got the name is not removed.
        if temporary::leads_to(self.directory.as_fd(), temporary, &self.file) != Ok(false) {
            // Nothing more can be done about a name that cannot be removed.
            let _ = rustix::fs::unlinkat(&self.directory, temporary, AtFlags::empty());
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.file.seek(pos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.bs");
        let mut f = AtomicFile::create(&path, false).unwrap();
        f.write_all(b"first").unwrap();
        assert!(!path.exists());
        f.publish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert!(matches!(AtomicFile::create(&path, false), Err(Error::Exists { .. })));

        let mut f = AtomicFile::create(&path, true).unwrap();
        f.write_all(b"second").unwrap();
        drop(f);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        let mut f = AtomicFile::create(&path, true).unwrap();
        f.write_all(b"third").unwrap();
        f.publish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"third");
        assert_eq!(names(dir.path()), ["out.bs"]);
    }

    #[test]
    fn a_name_that_cannot_be_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("n".repeat(256));
        assert!(matches!(AtomicFile::create(&name, false), Err(Error::Io { op: "create", .. })));
        assert!(AtomicFile::create(dir.path().join("n".repeat(255)), false).unwrap().publish().is_ok());
    }

    #[test]
    fn a_successor_is_as_private_as_what_it_stands_for_and_is_read_back() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        std::fs::write(&old, b"x").unwrap();
        std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o640)).unwrap();
        let mut f = AtomicFile::create(&new, false).unwrap();
        f.resemble(&Attributes::of(&File::open(&old).unwrap()).unwrap()).unwrap();
        let bytes: Vec<u8> = (0..3_000_001_u32).map(|i| (i % 251) as u8).collect();
        f.write_all(&bytes).unwrap();
        let mut back = Vec::new();
        f.read_back(|piece| {
            back.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        assert!(back == bytes);
        f.publish().unwrap();
        let (old, new) = (old.metadata().unwrap(), new.metadata().unwrap());
        assert_eq!((new.mode() & 0o7777, new.uid(), new.gid()), (0o640, old.uid(), old.gid()));
    }

    #[test]
    fn with_a_temporary_name_it_is_private_until_it_has_its_own() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |file: &File| file.metadata().unwrap().permissions().mode() & 0o777;
        let named = |name: &str| {
            let (path, directory) = (dir.path().join(name), OwnedFd::from(File::open(dir.path()).unwrap()));
            AtomicFile::named(&path, &directory, OsStr::new(name), false).unwrap()
        };
        let plain = File::create(dir.path().join("plain")).unwrap();
        let file = named("a");
        assert_eq!(mode(&file.file), 0o600);
        file.publish().unwrap();
        assert_eq!(mode(&File::open(dir.path().join("a")).unwrap()), mode(&plain));
        let mut file = named("b");
        file.narrow(&Attributes::of(&plain).unwrap()).unwrap();
        assert_eq!(mode(&file.file), mode(&plain));
        drop(file);
        plain.set_permissions(PermissionsExt::from_mode(0o400)).unwrap();
        let mut file = named("c");
        file.narrow(&Attributes::of(&plain).unwrap()).unwrap();
        file.publish().unwrap();
        assert_eq!(mode(&File::open(dir.path().join("c")).unwrap()), 0o400);
        assert_eq!(names(dir.path()), ["a", "c", "plain"]);
    }

    #[test]
    fn a_name_that_somebody_took_meanwhile_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.bs");
        for named in [false, true] {
            let mut f = AtomicFile::create(&path, false).unwrap();
            if named {
                f = AtomicFile::named(&f.path, &f.directory, &f.name, false).unwrap();
            }
            f.write_all(b"ours").unwrap();
            std::fs::write(&path, b"theirs").unwrap();
            assert!(matches!(f.publish(), Err(Error::Exists { .. })));
            assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
            assert_eq!(names(dir.path()), ["out.bs"]);
            std::fs::remove_file(&path).unwrap();
        }
    }
}
