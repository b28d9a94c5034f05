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
    /// Opens what the path leads to now; an error when that is not the same version.
    fn open(&self) -> crate::error::Result<File>;

    /// Whether the path leads to the same version.
    fn is_there(&self) -> bool;
}

/// A file that is open, or can be.
#[derive(Debug)]
pub(super) struct Descriptor {
    number: u64,
    file: Mutex<Option<Arc<File>>>,
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
    pub(super) fn new(file: File, again: Box<dyn Reopen>) -> Arc<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (file, used) = (Mutex::new(Some(Arc::new(file))), AtomicU64::new(now()));
        let descriptor = Arc::new(Self { number, file, used, again });
        descriptor.count();
        descriptor
    }

    /// The open file, opened again if it was closed.
    ///
    /// # Errors
    /// Those of opening it; [`Error::Changed`](crate::Error::Changed) when another version is there by now.
    pub(super) fn file(self: &Arc<Self>) -> crate::error::Result<Arc<File>> {
        if let Some(file) = self.open_file() {
            return Ok(file);
        }
        let opened = Arc::new(self.again.open()?);
        let mut slot = lock(&self.file);
        // Another thread may have been faster.
        let file = Arc::clone(slot.get_or_insert(opened));
        drop(slot);
        self.count();
        Ok(file)
    }

    /// The file, if it is open.
    pub(super) fn open_file(&self) -> Option<Arc<File>> {
        self.used.store(now(), Ordering::Relaxed);
        lock(&self.file).clone()
    }

    /// It is one more that is open.
    fn count(self: &Arc<Self>) {
        let mut table = lock(&TABLE);
        table.insert(self.number, Arc::downgrade(self));
        let open = table.len();
        drop(table);
        let bound = bound();
        if open > bound {
            close(open - bound + bound / PART);
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        lock(&TABLE).remove(&self.number);
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
        if !descriptor.again.is_there() {
            // Not looked at again soon.
            descriptor.used.store(now(), Ordering::Relaxed);
            continue;
        }
        let file = lock(&descriptor.file).take();
        lock(&TABLE).remove(&descriptor.number);
        closed += usize::from(file.is_some());
        // A read that is under way has it for as long as it takes.
        drop(file);
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
