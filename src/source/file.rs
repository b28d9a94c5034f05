//! A local file, read with `pread`.
//!
//! Never mapped: a file that is cut short under a mapping is SIGBUS for the whole process, and mapped pages
//! would count against the memory that the user gave us.

use std::fs::{File, Metadata};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Advice, OFlags};

use super::confined::Confined;
use super::descriptors::{Descriptor, Reopen, with_room};
use super::{ReadAt, waits, way};
use crate::access::Attributes;
use crate::error::{Error, Result};

/// Most bytes that are read of what a file has beyond its length, to tell how many there are.
const BEYOND: u64 = 64 << 20;
/// How long a program that was asked to give up its lease on a file may take. The kernel takes the lease away after 45 s,
/// unless /proc/sys/fs/lease-break-time says otherwise.
const LEASE_BREAK: Duration = Duration::from_secs(50);
/// How often it is looked whether it has.
const LEASE_LOOK: Duration = Duration::from_millis(20);

/// What tells one version of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device number.
    pub dev: u64,
    /// Inode number on the device.
    pub ino: u64,
    /// Length in bytes.
    pub len: u64,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub mtime: (i64, i64),
    /// Time of the last change of the inode; unlike mtime it cannot be set back.
    pub ctime: (i64, i64),
}

impl Identity {
    /// Whether both are versions of one file, by device and inode number.
    #[must_use]
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }

    /// The identity that `stat` gives.
    #[must_use]
    pub fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            len: meta.len(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether an inode that is held open still has the contents that it had.
    fn has_contents_of(&self, earlier: &Self) -> bool {
        // The inode's own change time moves when a link is made or removed; the contents do not.
        Self { ctime: earlier.ctime, ..*self } == *earlier
    }
}

/// What tells an inode from a later one with the same number, which a file system may give away once nothing holds the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) identity: Identity,
    /// When it was made, where the file system says.
    born: Option<SystemTime>,
}

impl Seen {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self { identity: Identity::of(meta), born: meta.created().ok() }
    }

    /// Whether this is the file that was `earlier`, not held open since, with the contents that it had.
    fn is_again(&self, earlier: &Self) -> bool {
        let is_inode = match (self.born, earlier.born) {
            (Some(now), Some(then)) => now == then,
            // A user can set neither; without the first a new link is as good as a new file.
            _ => self.identity.ctime == earlier.identity.ctime,
        };
        is_inode && self.identity.has_contents_of(&earlier.identity)
    }
}

/// An open regular file.
#[derive(Debug)]
pub struct FileSource {
    descriptor: Arc<Descriptor>,
    path: PathBuf,
    identity: Identity,
}

/// How a file is opened, the first time and again.
#[derive(Debug)]
struct Way {
    path: PathBuf,
    /// Where links may lead, if not anywhere.
    confined: Option<Arc<Confined>>,
}

/// Opens a file for reading.
fn open(path: &Path, confined: Option<&Confined>) -> io::Result<File> {
    // A FIFO without a writer would block an ordinary open for ever.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    with_room(|| {
        when_leased(|| match confined {
            Some(confined) => confined.open(path),
            None => way::open(path, flags),
        })
    })
}

impl Reopen for Way {
    fn open(&self, seen: &Seen) -> Result<File> {
        let _call = waits::call();
        let changed = || Error::Changed { path: self.path.clone() };
        let file = open(&self.path, self.confined.as_deref()).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => changed(),
            _ => Error::io("open", &self.path)(e),
        })?;
        let meta = file.metadata().map_err(Error::io("stat", &self.path))?;
        if Seen::of(&meta).is_again(seen) { Ok(file) } else { Err(changed()) }
    }

    fn see(&self, file: &File) -> Option<Seen> {
        let _call = waits::call();
        let there = match &self.confined {
            Some(confined) => confined.metadata(&self.path),
            None => way::metadata(&self.path),
        };
        let (there, open) = (Seen::of(&there.ok()?), Seen::of(&file.metadata().ok()?));
        (there == open).then_some(open)
    }
}

impl FileSource {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened, [`Error::Invalid`] when it is not a regular file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_in(path.as_ref(), None)
    }

    /// The same, with links that lead only where they may.
    pub(super) fn open_in(path: &Path, confined: Option<&Arc<Confined>>) -> Result<Self> {
        let _call = waits::call();
        let file = open(path, confined.map(|confined| &**confined)).map_err(Error::io("open", path))?;
        let meta = file.metadata().map_err(Error::io("stat", path))?;
        if !meta.is_file() {
            let kind = if meta.is_dir() { "a directory" } else { "not a regular file" };
            return Err(Error::invalid(format!("{}: {kind}, expected a file", path.display())));
        }
        let (path, identity) = (path.to_path_buf(), Identity::of(&meta));
        let way = Way { path: path.clone(), confined: confined.cloned() };
        Ok(Self { descriptor: Descriptor::new(file, Seen::of(&meta), Box::new(way)), path, identity })
    }

    /// Which version of the file was opened.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether the open file still is the version that was opened.
    ///
    /// # Errors
    /// [`Error::Io`] when `stat` fails.
    pub fn unchanged(&self) -> Result<bool> {
        let _call = waits::call();
        let file = match self.descriptor.file() {
            Ok(file) => file,
            Err(Error::Changed { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let meta = file.metadata().map_err(Error::io("stat", &self.path))?;
        Ok(Identity::of(&meta).has_contents_of(&self.identity))
    }

    /// Tells the kernel that the file will be read from front to back.
    pub fn advise_sequential(&self) {
        // Only a hint: a refusal costs speed and nothing else.
        self.advise((0, None), Advice::Sequential);
    }

    fn advise(&self, (offset, len): (u64, Option<NonZeroU64>), advice: Advice) {
        if let Some(file) = self.descriptor.open_file() {
            let _ = rustix::fs::fadvise(&file, offset, len, advice);
        }
    }

    /// Reads at most `buf.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses; [`Error::Changed`] for a file that was closed because too many were open, when its
    /// path leads to another version by now.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (file, mut done) = (self.descriptor.file()?, 0);
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            let _call = waits::call();
            match file.read_at(rest, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", &self.path)(e)),
            }
        }
        Ok(done)
    }

    /// How many bytes can be read of a file that has fewer than the system tells.
    fn read_len(&self) -> Result<u64> {
        let (mut first, mut end) = (0, self.identity.len);
        // Between the two the file ends.
        while first < end {
            let middle = first + (end - first) / 2;
            if self.read_at(middle, &mut [0])? == 0 { end = middle } else { first = middle + 1 }
        }
        Ok(first)
    }

    /// How many bytes there are from the end on that the system tells, up to [`BEYOND`].
    fn beyond(&self) -> Result<u64> {
        let (mut piece, mut more) = (vec![0; 64 << 10], 0);
        while more < BEYOND {
            match self.read_at(self.identity.len + more, &mut piece)? {
                0 => break,
                got => more += got as u64,
            }
        }
        Ok(more)
    }

    /// Reads bytes at `offset` that the system has in memory, without waiting; `None` when it has none of them, or cannot
    /// tell. May read fewer than there are.
    #[must_use]
    pub fn read_cached(&self, offset: u64, buf: &mut [u8]) -> Option<usize> {
        if buf.is_empty() {
            return Some(0);
        }
        let file = self.descriptor.open_file()?;
        let mut into = [std::io::IoSliceMut::new(buf)];
        rustix::io::preadv2(&file, &mut into, offset, rustix::io::ReadWriteFlags::NOWAIT).ok()
    }
}

/// Opens a file for reading without blocking. Waits for a program that holds a lease on it, as file servers do, to give it up.
fn when_leased(open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    let until = Instant::now() + LEASE_BREAK;
    loop {
        match open() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => thread::sleep(LEASE_LOOK),
            opened => return opened,
        }
    }
}

impl ReadAt for FileSource {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.identity.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let got = self.read_at(offset, buf)?;
        if got == buf.len() {
            return Ok(());
        }
        Err(Error::Truncated {
            path: self.path.clone(),
            expected: offset.saturating_add(buf.len() as u64),
            got: offset.saturating_add(got as u64),
        })
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        Self::read_at(self, offset, buf)
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> Option<usize> {
        Self::read_cached(self, offset, buf)
    }

    fn unchanged(&self) -> Result<bool> {
        Self::unchanged(self)
    }

    fn check_end(&self) -> Result<()> {
        let len = self.identity.len;
        // The last byte that should be there, and one more.
        let from = len.saturating_sub(1);
        let got = from + self.read_at(from, &mut [0; 2])? as u64;
        if got < len {
            return Err(Error::Truncated { path: self.path.clone(), expected: len, got: self.read_len()? });
        }
        if got > len {
            let more = self.beyond()?;
            let most = if more < BEYOND { "" } else { "at least " };
            let text = "the system tells another length than can be read; copy it, and use the copy";
            return Err(Error::invalid(format!(
                "{}: {len} bytes by stat, {most}{} by reading: {text}",
                self.path.display(),
                len + more
            )));
        }
        Ok(())
    }

    fn identity(&self) -> Option<Identity> {
        Some(self.identity)
    }

    fn attributes(&self) -> Result<Option<Attributes>> {
        let _call = waits::call();
        Attributes::of(&*self.descriptor.file()?).map(Some).map_err(Error::io("look at the permissions of", &self.path))
    }

    fn expect_streams(&self, streams: bool) {
        let advice = if streams { Advice::Normal } else { Advice::Random };
        self.advise((0, None), advice);
    }

    fn in_memory(&self, offset: u64, len: u64) -> Option<bool> {
        cached_pages(&*self.descriptor.open_file()?, offset, len).map(|pages| pages > 0)
    }

    fn wont_need(&self, offset: u64, len: u64) {
        // The first page is shared with what was read before it, the last with what comes next. Without a length the system
        // would take it for the rest of the file.
        if let Some(len) = NonZeroU64::new(len) {
            self.advise((offset / 4096 * 4096, Some(len)), Advice::DontNeed);
        }
    }
}

/// Number of the system call on every processor that this crate is built for.
const CACHESTAT: libc::c_long = 451;

/// Pages of a part of a file that the page cache has. `None` before Linux 6.5, and for files that the kernel does not tell this
/// user of. Reads nothing, and starts no reading ahead, unlike a read that must not wait.
fn cached_pages(file: &File, offset: u64, len: u64) -> Option<u64> {
    // `struct cachestat_range` and `struct cachestat`.
    let range = [offset, len];
    let mut found = [0_u64; 5];
    #[allow(unsafe_code, reason = "a system call that no library here has a function for")]
    // SAFETY: both arrays have the sizes of the structures, of which the kernel reads the first and writes the second, and live
    // through the call; the descriptor is open.
    let done = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), found.as_mut_ptr(), 0) };
    let [cached, ..] = found;
    (done == 0).then_some(cached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_birth_time_is_told_only_an_equal_change_time_proves_that_an_inode_is_the_same() {
        let identity = Identity { dev: 1, ino: 2, len: 3, mtime: (4, 5), ctime: (6, 7) };
        let seen = Seen { identity, born: None };
        let later = Seen { identity: Identity { ctime: (6, 8), ..identity }, born: None };
        let born =
            |seen: Seen, second| Seen { born: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(second)), ..seen };
        let changed = Identity { mtime: (4, 6), ..identity };
        for (now, earlier, same) in [
            (seen, seen, true),
            (later, seen, false),
            (born(later, 1), seen, false),
            (born(later, 1), born(seen, 1), true),
            (born(seen, 2), born(seen, 1), false),
            (born(Seen { identity: changed, ..seen }, 1), born(seen, 1), false),
        ] {
            assert_eq!(now.is_again(&earlier), same, "{now:?} {earlier:?}");
        }
    }
}
