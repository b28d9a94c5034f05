//! Descriptors of files that are read: a bounded number, however many files are in use.
//!
//! A process may have only so many files open. The file that was not read for longest is closed, and opened again when it is
//! read: the path must lead to the same version then. A file whose path leads elsewhere already stays open, since nothing
//! else leads to its bytes any more.
//!
//! To see where a path leads may hang. So a thread of its own does it for each device, and no file of one source is opened by a
//! thread that waits for another source.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::identity::Seen;
use super::waits;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a process has open besides: streams, connections, directories that are read, files of caches.
const OTHERS: u64 = 32;
/// Files that may be open at least.
const LEAST: u64 = 8;
/// One in so many files is closed at once.
const PART: usize = 8;
/// Files that are looked at in one go at most.
const LOOKS: usize = 256;
/// How long it is waited for files to be closed; a device that hangs takes longer.
const CLOSING: Duration = Duration::from_millis(50);
/// How long a file is tried to be opened when there are too many, and how often.
const TRIES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(20));

/// The limit that the process had when it began.
static BEFORE: OnceLock<Rlimit> = OnceLock::new();
static TABLE: LazyLock<Mutex<HashMap<u64, Known>>> = LazyLock::new(Mutex::default);
/// Devices of which a thread closes files now.
static DEVICES: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Mutex::default);
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

/// An open file in the table. What chooses between them holds none of them: the last who does closes it, which may hang.
#[derive(Debug)]
struct Known {
    descriptor: Weak<Descriptor>,
    device: u64,
    used: Arc<AtomicU64>,
}

/// A file that is open, or can be.
#[derive(Debug)]
pub(super) struct Descriptor {
    number: u64,
    /// Changed together with [`TABLE`], which has those that are open.
    slot: Mutex<Slot>,
    /// When it was used last, milliseconds.
    used: Arc<AtomicU64>,
    again: Box<dyn Reopen>,
}

fn now() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Descriptor {
    /// A file that is open.
    pub(super) fn new(file: File, seen: Seen, again: Box<dyn Reopen>) -> Arc<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (file, used) = (Some(Arc::new(file)), Arc::new(AtomicU64::new(now())));
        let descriptor = Arc::new(Self { number, slot: Mutex::new(Slot { file, seen }), used, again });
        keep_within(descriptor.count(&seen));
        descriptor
    }

    /// The open file, opened again if it was closed.
    ///
    /// # Errors
    /// Those of opening it; [`Error::Changed`](crate::Error::Changed) when another version is there by now.
    pub(super) fn file(self: &Arc<Self>) -> crate::error::Result<Arc<File>> {
        self.used.store(now(), Ordering::Relaxed);
        let slot = self.slot.lock();
        if let Some(file) = &slot.file {
            return Ok(Arc::clone(file));
        }
        let seen = slot.seen;
        drop(slot);
        let _call = waits::call();
        let opened = Arc::new(self.again.open(&seen)?);
        let mut slot = self.slot.lock();
        if let Some(file) = &slot.file {
            // Another thread was faster. What this one opened is closed without the lock, as that may hang.
            return Ok(Arc::clone(file));
        }
        slot.file = Some(Arc::clone(&opened));
        let open = self.count(&seen);
        drop(slot);
        keep_within(open);
        Ok(opened)
    }

    /// The file, if it is open.
    pub(super) fn open_file(&self) -> Option<Arc<File>> {
        self.used.store(now(), Ordering::Relaxed);
        self.slot.lock().file.clone()
    }

    /// It is one more that is open; gives how many there are.
    fn count(self: &Arc<Self>, seen: &Seen) -> usize {
        let known = Known { descriptor: Arc::downgrade(self), device: seen.identity.dev, used: Arc::clone(&self.used) };
        let mut table = TABLE.lock();
        table.insert(self.number, known);
        table.len()
    }

    /// Closes it, if it can be opened again and no thread reads it.
    fn close(&self) -> bool {
        let _call = waits::call();
        let Some(file) = self.slot.lock().file.clone() else { return false };
        if let Some(seen) = self.again.see(&file) {
            let mut slot = self.slot.lock();
            // That of the slot, and this one, which is closed without the lock.
            if slot.file.as_ref().is_some_and(|open| Arc::ptr_eq(open, &file)) && Arc::strong_count(&file) == 2 {
                *slot = Slot { file: None, seen };
                TABLE.lock().remove(&self.number);
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
        TABLE.lock().remove(&self.number);
        let _call = waits::call();
        drop(self.slot.get_mut().file.take());
    }
}

/// A device of which this thread, and no other, closes files.
struct Closer(u64);

impl Closer {
    fn of(device: u64) -> Option<Self> {
        DEVICES.lock().insert(device).then_some(Self(device))
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        DEVICES.lock().remove(&self.0);
    }
}

/// Has so many files closed, those that were not used for longest first, and waits for that as long as it takes usually. Gives how
/// many were closed by then: those that could not be opened again stay open. A device whose files are being closed is left alone, as
/// it may hang.
fn close(most: usize) -> usize {
    let devices = DEVICES.lock().clone();
    let table = TABLE.lock();
    let idle = table.values().filter(|known| !devices.contains(&known.device));
    let of = |known: &Known| (known.used.load(Ordering::Relaxed), known.device, Weak::clone(&known.descriptor));
    let mut idle: Vec<_> = idle.map(of).collect();
    drop(table);
    let most = most.min(LOOKS);
    if most < idle.len() {
        idle.select_nth_unstable_by_key(most, |(used, ..)| *used);
        idle.truncate(most);
    }
    let mut files: HashMap<u64, Vec<Weak<Descriptor>>> = HashMap::new();
    for (_, device, file) in idle {
        files.entry(device).or_default().push(file);
    }
    let (done, closed) = mpsc::channel();
    for (device, files) in files {
        let Some(closer) = Closer::of(device) else { continue };
        let done = done.clone();
        let work = move || {
            for _ in files.iter().filter_map(Weak::upgrade).filter(|file| file.close()) {
                // Refused when the caller has gone on.
                let _ = done.send(());
            }
            drop(closer);
        };
        // Without a thread they stay open for now.
        let _ = thread::Builder::new().name("close".into()).spawn(work);
    }
    drop(done);
    let until = Instant::now() + CLOSING;
    std::iter::from_fn(|| closed.recv_timeout(until.saturating_duration_since(Instant::now())).ok()).count()
}

/// Opens something. When too many files are open, some that are not used are closed for it.
///
/// # Errors
/// Those of `open`.
pub(super) fn with_room<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let (most, pause) = TRIES;
    let mut until = None;
    loop {
        match open() {
            Err(error) if is_full(&error) && Instant::now() < *until.get_or_insert_with(|| Instant::now() + most) => {
                if close(bound() / PART + 1) == 0 {
                    // Another thread may be at it.
                    thread::sleep(pause);
                }
            }
            done => return done,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::super::identity::Seen;
    use super::*;

    /// A file that can be opened again if it is `there`.
    #[derive(Debug)]
    struct Again {
        path: tempfile::TempPath,
        there: bool,
        looks: Arc<AtomicUsize>,
        /// Looking hangs while this is locked.
        hang: Arc<Mutex<()>>,
    }

    impl Again {
        fn open(device: u64, there: bool, (looks, hang): (&Arc<AtomicUsize>, &Arc<Mutex<()>>)) -> Arc<Descriptor> {
            let (file, path) = tempfile::NamedTempFile::new().unwrap().into_parts();
            let mut seen = Seen::of(&file.metadata().unwrap());
            seen.identity.dev = device;
            let again = Self { path, there, looks: Arc::clone(looks), hang: Arc::clone(hang) };
            let descriptor = Descriptor::new(file, seen, Box::new(again));
            // Before all of other tests.
            descriptor.used.store(0, Ordering::Relaxed);
            descriptor
        }
    }

    impl Reopen for Again {
        fn open(&self, _: &Seen) -> crate::error::Result<File> {
            Ok(File::open(&self.path).unwrap())
        }

        fn see(&self, file: &File) -> Option<Seen> {
            self.looks.fetch_add(1, Ordering::Relaxed);
            drop(self.hang.lock());
            self.there.then(|| Seen::of(&file.metadata().unwrap()))
        }
    }

    fn is_open(descriptor: &Descriptor) -> bool {
        descriptor.slot.lock().file.is_some()
    }

    #[test]
    fn a_device_that_hangs_keeps_no_thread_that_needs_room_and_few_files_are_looked_at_in_one_go() {
        raise_limit();
        let (looks, hang, free) = (Arc::default(), Arc::default(), Arc::default());
        let hanging: Vec<_> = (0..10).map(|_| Again::open(u64::MAX, true, (&looks, &hang))).collect();
        let held = hang.lock();
        let begun = Instant::now();
        close(10);
        assert!(begun.elapsed() < Duration::from_secs(5) && looks.load(Ordering::Relaxed) == 1);
        let others: Vec<_> = (0..10).map(|_| Again::open(u64::MAX - 1, true, (&looks, &free))).collect();
        assert_eq!(close(10), 10);
        assert!(others.iter().all(|file| !is_open(file)) && hanging.iter().all(|file| is_open(file)));
        drop(held);
        while hanging.iter().any(|file| is_open(file)) {
            thread::yield_now();
        }
        // None of these can be opened again.
        let looks = Arc::default();
        let gone: Vec<_> = (0..2 * LOOKS).map(|_| Again::open(u64::MAX - 2, false, (&looks, &free))).collect();
        close(usize::MAX);
        let count = looks.load(Ordering::Relaxed);
        assert!(count <= LOOKS && gone.iter().all(|file| is_open(file)), "{count}");
    }

    #[test]
    fn a_descriptor_is_in_the_table_as_long_as_another_thread_finds_it_open() {
        let file = Again::open(u64::MAX - 3, true, (&Arc::default(), &Arc::default()));
        let table = TABLE.lock();
        thread::scope(|scope| {
            let closing = scope.spawn(|| file.close());
            let until = Instant::now() + Duration::from_millis(200);
            while Instant::now() < until {
                let closed = file.slot.try_lock().is_some_and(|slot| slot.file.is_none());
                assert!(!closed || !table.contains_key(&file.number), "closed, and could be opened again now");
            }
            drop(table);
            assert!(closing.join().unwrap());
        });
        assert!(!is_open(&file) && !TABLE.lock().contains_key(&file.number));
        file.file().unwrap();
        assert!(is_open(&file) && TABLE.lock().contains_key(&file.number));
    }
}
