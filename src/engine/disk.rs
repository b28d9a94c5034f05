//! Decoded bytes that outlive the mount: what the disk cache has of an image, what it gets, and who finishes a file.
//!
//! A chunk that a reader was given is offered to the cache, which takes it when it has time. When a file is closed, one thread of
//! low priority waits for what is under way, decodes what little is missing, and has the file proven and sealed.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::buffer::Reserved;
use super::content::{Content, Place};
use super::memory::Raw;
use super::stats::Counters;
use super::sync::{Condvar, Mutex, MutexGuard, lock, wait_timeout};
use super::{Buffer, Engine};
use crate::cache::{Description, Entry, Key, Literal, Proof, Sealing, Store};
use crate::error::Result;
use crate::format::ChunkId;

/// Of chunks that are decoded as fast as they are written, one in so many is written while a stream is being read; the others are
/// decoded again when the file is closed.
const SPARSE: u32 = 8;
/// Chunks decoded for the cache between two looks at its queue.
const BATCH: usize = 16;
/// How long a batch may take to be written before the file is left as it is.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a wait for the disk looks whether it should end.
const STEP: Duration = Duration::from_millis(100);
/// How long the finishing thread waits before it looks for memory again.
const PAUSE: Duration = Duration::from_millis(10);
/// How much less important than others the finishing thread is, as `nice` counts.
const NICE: i32 = 19;

/// Which images are kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Those that take longer to decode than to read.
    Expensive,
    /// All of them.
    All,
}

/// A disk cache, and what goes into it.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The cache.
    pub store: Arc<Store>,
    /// What is kept.
    pub keep: Keep,
}

/// A chunk in memory that waits to be written.
struct Kept(Raw);

impl Deref for Kept {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// A buffer that waits to be written.
struct Made(Buffer);

impl Deref for Made {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// What the disk cache has of one image.
#[derive(Debug, Clone)]
pub struct OnDisk {
    entry: Arc<Entry>,
    store: Arc<Store>,
    /// Decoding takes longer than writing.
    expensive: bool,
}

impl OnDisk {
    /// The entry of `content`, if it is to be kept and the cache can.
    pub fn open(disk: Option<&Disk>, content: &dyn Content) -> Option<Self> {
        let disk = disk.filter(|disk| disk.keep == Keep::All || content.is_expensive())?;
        let (mut at, mut literals): (u64, Vec<Literal>) = (0, Vec::new());
        while let Some(place) = content.locate(at) {
            match place {
                Place::Chunk(part) => at = part.raw_end(),
                Place::Literal { raw_offset, range } => {
                    at = raw_offset + range.len() as u64;
                    literals.push((raw_offset, content.literals().get(range)?.into()));
                }
            }
        }
        let label = content.path().file_name().unwrap_or_default().to_string_lossy();
        let what = Description {
            label: &label,
            len: content.raw_len(),
            chunks: content.chunk_count(),
            chunk: &|id| content.part(ChunkId(id)).map_or((0, 0), |part| (part.raw_offset, part.raw_len.into())),
            literals,
        };
        let entry = disk.store.entry(Key(content.digest()), &what)?;
        Some(Self { entry, store: Arc::clone(&disk.store), expensive: content.is_expensive() })
    }

    /// Whether a chunk is there, as far as is known.
    pub fn has(&self, chunk: ChunkId) -> bool {
        self.entry.has(chunk.0)
    }

    /// Fills `into` with a chunk; `false` when it is not there, or not right.
    pub fn read(&self, chunk: ChunkId, into: &mut [u8]) -> bool {
        self.entry.read(chunk.0, into)
    }

    /// Says whether what is read next lies behind what was read last.
    pub fn expect_streams(&self, streams: bool) {
        self.entry.expect_streams(streams);
    }

    /// Offers a chunk that a reader was given; `streaming` if more is being read behind it.
    pub fn keep(&self, chunk: ChunkId, raw: &Raw, streaming: bool) {
        let now = self.expensive || !streaming || chunk.0.is_multiple_of(SPARSE);
        if now && !self.entry.has(chunk.0) {
            self.entry.offer(chunk.0, Kept(Arc::clone(raw)));
        }
    }

    /// The whole file, if it was proven.
    pub fn sealed(&self) -> Option<File> {
        self.entry.sealed()
    }

    fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.entry.chunks()).filter(|&chunk| !self.entry.has(chunk))
    }

    /// Waits until what was offered is written; `false` when that takes too long, or `stop` says so.
    fn flush(&self, stop: &dyn Fn() -> bool) -> bool {
        let until = Instant::now() + PATIENCE;
        while !self.store.flush(STEP) {
            if stop() || Instant::now() >= until {
                return false;
            }
        }
        true
    }

    /// Decodes and writes what is missing, and seals the file. Gives whether it is sealed. `done` hears of the bytes of each chunk.
    /// Takes long.
    pub fn finish(
        &self,
        content: &dyn Content,
        engine: &Arc<Engine>,
        stop: &dyn Fn() -> bool,
        done: &dyn Fn(u64),
    ) -> Result<bool> {
        self.flush(stop);
        // Another process may have been faster; asking the disk also finds the chunks that it wrote.
        if self.entry.sealed().is_some() {
            return Ok(true);
        }
        loop {
            let batch: Vec<u32> = self.missing().take(BATCH).collect();
            if batch.is_empty() || stop() {
                break;
            }
            for &chunk in &batch {
                if stop() {
                    return Ok(false);
                }
                let Some(_reserved) = room(content, chunk, engine, stop) else { return Ok(false) };
                let made = content.decode(ChunkId(chunk), engine)?;
                done(made.len() as u64);
                self.entry.offer(chunk, Made(made));
            }
            if !self.flush(stop) || batch.iter().all(|&chunk| !self.entry.has(chunk)) {
                // The disk is full, or too slow.
                return Ok(false);
            }
        }
        if !self.entry.complete() || stop() {
            return Ok(false);
        }
        let mut proof = Stoppable { proof: content.proof(), stop };
        Ok(matches!(self.entry.seal(&mut proof), Sealing::Proven))
    }
}

/// Memory to make a chunk with, which readers have first; `None` when `stop` said so.
fn room(content: &dyn Content, chunk: u32, engine: &Engine, stop: &dyn Fn() -> bool) -> Option<Reserved> {
    let need = content.part(ChunkId(chunk)).map_or(0, |part| part.need);
    loop {
        if let Some(reserved) = engine.pool.try_reserve(need as u64) {
            engine.chunks.make_room(need);
            return Some(reserved);
        }
        if stop() {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}

/// A proof that ends when it is asked to.
struct Stoppable<'a> {
    proof: Box<dyn Proof>,
    stop: &'a dyn Fn() -> bool,
}

impl Proof for Stoppable<'_> {
    fn feed(&mut self, offset: u64, bytes: &[u8]) -> bool {
        !(self.stop)() && self.proof.feed(offset, bytes)
    }

    fn proven(&mut self) -> bool {
        self.proof.proven()
    }
}

/// Lowers the priority of the calling thread, for work that nobody waits for.
pub fn be_nice() {
    // On Linux this is the thread alone. Without it the work is done all the same.
    let _ = rustix::process::setpriority_process(None, NICE);
}

type Task = Box<dyn FnOnce(&dyn Fn() -> bool) + Send>;

/// One thread that finishes files after each other.
pub struct Finisher(Arc<Shared>);

struct Shared {
    state: Mutex<Tasks>,
    changed: Condvar,
    stop: AtomicBool,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Tasks {
    waiting: VecDeque<Task>,
    running: bool,
    /// No task is taken any more.
    ended: bool,
}

impl std::fmt::Debug for Finisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Finisher").field(&lock(&self.0.state).waiting.len()).finish()
    }
}

impl Finisher {
    /// Without a thread until there is a task. Panics of tasks are counted in `counters`.
    pub fn new(counters: Arc<Counters>) -> Self {
        let (state, changed, stop) = (Mutex::default(), Condvar::new(), AtomicBool::new(false));
        Self(Arc::new(Shared { state, changed, stop, counters }))
    }

    /// Does `task` behind those that wait. It is told a function that says whether it should stop.
    pub fn add(&self, task: Task) {
        // A task may hold the last reference to a file that another was based on, and closing that adds a task: so no task is
        // dropped under the lock.
        let mut dropped = VecDeque::new();
        let mut tasks = lock(&self.0.state);
        if tasks.ended {
            dropped.push_back(task);
        } else {
            tasks.waiting.push_back(task);
        }
        if !tasks.running && !tasks.ended {
            let shared = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("finish".into()).spawn(move || work(&shared));
            tasks.running = thread.is_ok();
            if let Err(error) = thread {
                log::warn!("files of the disk cache are not finished: cannot start a thread: {error}");
                dropped.append(&mut tasks.waiting);
            }
        }
        drop(tasks);
        drop(dropped);
    }

    /// Waits for all tasks, and takes none any more. Tasks that are not done when three quarters of the time until `deadline` are
    /// over are stopped. A task whose source or disk hangs is left behind at the deadline.
    pub fn end(&self, deadline: Instant) {
        let begun = Instant::now();
        let stopping = begun + deadline.saturating_duration_since(begun) / 4 * 3;
        let mut tasks = lock(&self.0.state);
        tasks = self.wait(tasks, stopping);
        tasks.ended = true;
        let waiting = std::mem::take(&mut tasks.waiting);
        self.0.stop.store(true, Ordering::Relaxed);
        drop(tasks);
        drop(waiting);
        if self.wait(lock(&self.0.state), deadline).running {
            log::warn!("a file of the disk cache is not finished: its source or the disk does not answer");
        }
    }

    /// Waits until no task runs, at most until `until`.
    fn wait<'a>(&'a self, mut tasks: MutexGuard<'a, Tasks>, until: Instant) -> MutexGuard<'a, Tasks> {
        while tasks.running {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            tasks = wait_timeout(&self.0.changed, tasks, left).0;
        }
        tasks
    }
}

fn work(shared: &Shared) {
    be_nice();
    loop {
        let mut tasks = lock(&shared.state);
        let Some(task) = tasks.waiting.pop_front() else {
            tasks.running = false;
            drop(tasks);
            shared.changed.notify_all();
            return;
        };
        drop(tasks);
        let stop = || shared.stop.load(Ordering::Relaxed);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| task(&stop))).is_err() {
            Counters::add(&shared.counters.panics, 1);
            log::error!("defect in bsfs, please report it: finishing a file of the disk cache panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn finisher() -> Arc<Finisher> {
        Arc::new(Finisher::new(Arc::default()))
    }

    #[test]
    fn a_task_that_hangs_is_left_behind_at_the_deadline() {
        let finisher = finisher();
        let (release, hanging) = mpsc::channel::<()>();
        finisher.add(Box::new(move |_| assert!(hanging.recv().is_err())));
        finisher.add(Box::new(|_| unreachable!("it is dropped")));
        let (done, ended) = mpsc::channel();
        let ending = Arc::clone(&finisher);
        std::thread::spawn(move || {
            ending.end(Instant::now() + Duration::from_millis(200));
            done.send(()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(20)).expect("the end waits for a task that hangs");
        finisher.add(Box::new(|_| unreachable!("none is taken any more")));
        drop(release);
    }

    #[test]
    fn tasks_are_stopped_before_the_deadline_and_a_panic_ends_only_its_own() {
        let finisher = finisher();
        let (begin, begun) = mpsc::channel();
        let (done, stopped) = mpsc::channel();
        finisher.add(Box::new(|_| panic!("on purpose")));
        finisher.add(Box::new(move |stop| {
            begin.send(()).unwrap();
            while !stop() {
                std::thread::yield_now();
            }
            done.send(()).unwrap();
        }));
        begun.recv_timeout(Duration::from_secs(20)).unwrap();
        finisher.end(Instant::now() + Duration::from_millis(400));
        stopped.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(finisher.0.counters.snapshot().panics, 1);
    }

    /// Adds a task when it is dropped, as a file does that was read by half.
    struct Closing(Arc<Finisher>);

    impl Drop for Closing {
        fn drop(&mut self) {
            self.0.add(Box::new(|_| {}));
        }
    }

    #[test]
    fn a_task_that_is_dropped_at_the_end_may_add_another() {
        let finisher = finisher();
        let (release, hanging) = mpsc::channel::<()>();
        finisher.add(Box::new(move |_| assert!(hanging.recv().is_err())));
        let closing = Closing(Arc::clone(&finisher));
        finisher.add(Box::new(move |_| drop(closing)));
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || {
            finisher.end(Instant::now() + Duration::from_millis(100));
            done.send(()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(20)).expect("the end waits for itself");
        drop(release);
    }
}
