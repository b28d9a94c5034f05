//! Descriptors of files that are read: a bounded number, however many files are in use.
//!
//! A process may have only so many files open. The file that was not read for longest is closed, and opened again when it is
//! read: the path must lead to the same version then. A file whose path leads elsewhere already stays open, since nothing
//! else leads to its bytes any more.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use super::file::Seen;
use super::waits;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a process has open besides: streams, connections, directories that are read, files of caches.
const OTHERS: u64 = 32;
/// Files that may be open at least.
const LEAST: u64 = 8;
/// One in so many files is closed at once.
const PART: usize = 8;
/// How often a file is tried to be opened when there are too many.
const TRIES: usize = 4;

/// The limit that the process had when it began.
static BEFORE: OnceLock<Rlimit> = OnceLock::new();
static TABLE: LazyLock<Mutex<HashMap<u64, Weak<Descriptor>>>> = LazyLock::new(Mutex::default);
static NEXT: AtomicU64 = AtomicU64::new(0);
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Allows this process as many open files as it may allow itself. Programs that it runs should have the
/// [limit from before](as_before): some cannot deal with more.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    BEFORE.get_or_init(|| limit);
    // Refused only where the limit is odd; then it stays as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Has a program begin with the limit of open files that this process had before it raised its own.
#[allow(unsafe_code, reason = "runs between fork and exec")]
pub fn as_before(command: &mut Command) {
    let Some(before) = BEFORE.get() else { return };
    let set = move || Ok(setrlimit(Resource::Nofile, *before)?);
    // SAFETY: it makes one system call, takes no lock and no memory.
    unsafe { command.pre_exec(set) };
}

/// Files that may be open at once.
fn bound() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from((limit - limit / 4).saturating_sub(OTHERS).max(LEAST)).unwrap_or(usize::MAX)
}

/// How a file is found again.
pub(super) trait Reopen: Send + Sync + std::fmt::Debug {
    /// Opens what the path leads to now; an error when that is not what was `seen` when it was closed.
    fn open(&self, seen: &Seen) -> crate::error::Result<File>;

    /// What is to be found again; `None` when the path does not lead to this open file.
    fn see(&self, file: &File) -> Option<Seen>;
}

#[derive(Debug)]
struct Slot {
    file: Option<Arc<File>>,
    /// What was seen when it was opened, or closed last.
    seen: Seen,
}

/// A file that is open, or can be.
#[derive(Debug)]
pub(super) struct Descriptor {
    number: u64,
    /// Changed together with [`TABLE`], which has those that are open.
    slot: Mutex<Slot>,
    /// When it was used last, milliseconds.
    used: AtomicU64,
    again: Box<dyn Reopen>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Descriptor {
    /// A file that is open.
    pub(super) fn new(file: File, seen: Seen, again: Box<dyn Reopen>) -> Arc<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let slot = Mutex::new(Slot { file: Some(Arc::new(file)), seen });
        let descriptor = Arc::new(Self { number, slot, used: AtomicU64::new(now()), again });
        keep_within(descriptor.count());
        descriptor
    }

    /// The open file, opened again if it was closed.
    ///
    /// # Errors
    /// Those of opening it; [`Error::Changed`](crate::Error::Changed) when another version is there by now.
    pub(super) fn file(self: &Arc<Self>) -> crate::error::Result<Arc<File>> {
        self.used.store(now(), Ordering::Relaxed);
        let slot = lock(&self.slot);
        if let Some(file) = &slot.file {
            return Ok(Arc::clone(file));
        }
        let seen = slot.seen;
        drop(slot);
        let _call = waits::call();
        let opened = Arc::new(self.again.open(&seen)?);
        let mut slot = lock(&self.slot);
        if let Some(file) = &slot.file {
            // Another thread was faster. What this one opened is closed without the lock, as that may hang.
            return Ok(Arc::clone(file));
        }
        slot.file = Some(Arc::clone(&opened));
        let open = self.count();
        drop(slot);
        keep_within(open);
        Ok(opened)
    }

    /// The file, if it is open.
    pub(super) fn open_file(&self) -> Option<Arc<File>> {
        self.used.store(now(), Ordering::Relaxed);
        lock(&self.slot).file.clone()
    }

    /// It is one more that is open; gives how many there are.
    fn count(self: &Arc<Self>) -> usize {
        let mut table = lock(&TABLE);
        table.insert(self.number, Arc::downgrade(self));
        table.len()
    }

    /// Closes it, if it can be opened again and no thread reads it.
    fn close(&self) -> bool {
        let _call = waits::call();
        let Some(file) = lock(&self.slot).file.clone() else { return false };
        if let Some(seen) = self.again.see(&file) {
            let mut slot = lock(&self.slot);
            // That of the slot, and this one, which is closed without the lock.
            if slot.file.as_ref().is_some_and(|open| Arc::ptr_eq(open, &file)) && Arc::strong_count(&file) == 2 {
                *slot = Slot { file: None, seen };
                lock(&TABLE).remove(&self.number);
                return true;
            }
        }
        // Not looked at again soon.
        self.used.store(now(), Ordering::Relaxed);
        false
    }
}

/// Closes files if more are open than may be.
fn keep_within(open: usize) {
    let bound = bound();
    if open > bound {
        close(open - bound + bound / PART);
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        lock(&TABLE).remove(&self.number);
        let _call = waits::call();
        drop(self.slot.get_mut().unwrap_or_else(PoisonError::into_inner).file.take());
    }
}

/// Closes so many files, those that were not used for longest first. Gives how many it were: those that could not be opened
/// again stay open.
fn close(most: usize) -> usize {
    let mut open: Vec<_> = lock(&TABLE).values().filter_map(Weak::upgrade).collect();
    open.sort_by_cached_key(|descriptor| descriptor.used.load(Ordering::Relaxed));
    let mut closed = 0;
    for descriptor in open {
        if closed >= most {
            break;
        }
        closed += usize::from(descriptor.close());
    }
    closed
}

/// Opens something. When too many files are open, some that are not used are closed for it.
///
/// # Errors
/// Those of `open`.
pub(super) fn with_room<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let mut tries = 1;
    loop {
        match open() {
            Err(error) if tries < TRIES && is_full(&error) && close(bound() / PART + 1) > 0 => tries += 1,
            done => return done,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
