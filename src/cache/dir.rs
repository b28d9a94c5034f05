//! The directory of a store, held open: every name is looked up in it, and nothing is taken for ours that may not be.

use std::fs::{DirBuilder, File};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Name of the directory in the one that the user names; another layout takes another name.
const VERSION: &str = "v1";
/// How long to wait for a process that makes or removes names. It does so without waiting for a disk.
const PATIENCE: Duration = Duration::from_millis(200);

/// An open directory of ours.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// The right to make and remove names, until it is dropped.
#[derive(Debug)]
pub struct Names {
    _lock: Lockable,
}

impl Dir {
    /// Opens `base/v1`, and makes what is missing of it; without `create`, `None` when it is not there.
    pub fn open(base: &Path, create: bool) -> Result<Option<Self>> {
        // Without a slash at its end, behind which a symbolic link would be followed.
        let base: PathBuf = base.components().collect();
        if create {
            DirBuilder::new().recursive(true).mode(0o700).create(&base).map_err(Error::io("create", &base))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let outer = match rustix::fs::openat(CWD, &base, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) if !create => return Ok(None),
            Err(_) if base.is_symlink() => {
                let text = "a symbolic link; name the directory that it leads to as the cache directory";
                return Err(Error::invalid(format!("{}: {text}", base.display())));
            }
            Err(e) => return Err(Error::io("open", &base)(e.into())),
        };
        trust(&outer, &base)?;
        let path = base.join(VERSION);
        let made = if create { rustix::fs::mkdirat(&outer, VERSION, Mode::RWXU) } else { Ok(()) };
        let fd = match rustix::fs::openat(&outer, VERSION, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                let made = made.map_err(|e| Error::io("create", &path)(e.into()));
                return made.map(|()| None);
            }
            Err(e) => return Err(Error::io("open", &path)(e.into())),
        };
        if trust(&fd, &path)?.st_mode & 0o077 != 0 {
            // Ours, and nobody else could write to it: what is in it is good, and from now on nobody else can read it.
            let _ = rustix::fs::fchmod(&fd, Mode::RWXU);
        }
        Ok(Some(Self { fd, path }))
    }

    /// Where it was when it was opened; for messages only.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file of ours. Never waits, never follows a link.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none; [`io::ErrorKind::InvalidData`] when something has the name that we did
    /// not make, or that others can get at.
    pub fn file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => File::from(fd),
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Err(foreign("not a regular file")),
            Err(e) => return Err(e.into()),
        };
        let meta = file.metadata()?;
        match meta.nlink() {
            _ if !meta.is_file() => Err(foreign("not a regular file")),
            _ if meta.uid() != rustix::process::geteuid().as_raw() => Err(foreign("the file belongs to another user")),
            _ if meta.mode() & 0o077 != 0 => Err(foreign("others have access to the file")),
            0 => Err(io::ErrorKind::NotFound.into()),
            1 => Ok(file),
            _ => Err(foreign("the file has another name too")),
        }
    }

    /// Makes a file that must not be there yet, with mode 0600.
    pub fn create(&self, name: &str) -> io::Result<File> {
        self.file(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    /// What `name` is, without following it.
    pub fn stat(&self, name: &str) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Removes a name, if there is one.
    pub fn remove(&self, name: &str, _: &Names) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Gives `from` the name `to`, which may exist.
    pub fn rename(&self, from: &str, to: &str, _: &Names) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    /// All names, except those that are no text: we make none such.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") => {}
                Ok(name) => names.push(name.to_owned()),
                Err(_) => names.push(entry.file_name().to_string_lossy().into_owned()),
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The right to make and remove names.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another process keeps it.
    pub fn lock_names(&self) -> io::Result<Names> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?;
        lock_within(&fd, FlockOperation::NonBlockingLockExclusive, PATIENCE).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(e.kind(), "another process is making room in it"),
            _ => e,
        })?;
        Ok(Names { _lock: Lockable(File::from(fd)) })
    }

    /// Puts the names on the disk.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    /// Size of the file system and what is free on it for us, bytes.
    pub fn space(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstatvfs(&self.fd)?;
        Ok((stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize)))
    }
}

/// An open file that may hold a lock, which ends with it. Closing alone would not do: a process that was forked meanwhile and did
/// not start its program yet has the file open as well.
#[derive(Debug)]
pub struct Lockable(pub File);

impl Deref for Lockable {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for Lockable {
    fn drop(&mut self) {
        // There may be none.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// Takes a lock that is held only for short, or gives up.
pub fn lock_within(fd: impl AsFd, operation: FlockOperation, patience: Duration) -> io::Result<()> {
    let until = Instant::now() + patience;
    loop {
        match rustix::fs::flock(&fd, operation) {
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

fn foreign(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Whether nobody else can have put anything into an open directory.
fn trust(fd: &OwnedFd, path: &Path) -> Result<Stat> {
    let stat = rustix::fs::fstat(fd).map_err(|e| Error::io("stat", path)(e.into()))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        let text = "belongs to another user; name a directory of your own as the cache directory";
        return Err(Error::invalid(format!("{}: {text}", path.display())));
    }
    if stat.st_mode & 0o022 != 0 {
        let text =
            "others can write to it, so nothing in it can be trusted; chmod go-w, or name another cache directory";
        return Err(Error::invalid(format!("{}: {text}", path.display())));
    }
    Ok(stat)
}
