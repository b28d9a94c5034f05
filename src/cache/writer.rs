//! The writer: a bounded queue and one thread of low priority. Offering a chunk never waits.

use std::collections::VecDeque;
use std::io;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::context::Context;
use super::counters::count;
use super::quota::Budget;

/// Chunks that may wait, however small they are.
const MOST_JOBS: usize = 8192;
/// How long nothing is written after the disk was full or failed.
const PAUSE: Duration = Duration::from_secs(10);
/// Space that is freed when an entry could not be: the map of a large file.
const SPACE: u64 = 1 << 20;
/// How much less important than other threads the writer is, as `nice` counts.
const NICE: i32 = 19;

/// What became of a chunk that was to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// So many bytes were written.
    Written(u64),
    /// It was there.
    Already,
    /// It could not be written now, which is no fault of the disk.
    Dropped,
}

/// Files that the writer writes chunks into.
pub trait Target: Send + Sync {
    /// Writes a chunk, and first the literals that are missing.
    ///
    /// # Errors
    /// Those of the disk.
    fn write(&self, chunk: Option<(u32, &[u8])>) -> io::Result<Kept>;

    /// Bytes of literals that are not written yet.
    fn literal_bytes(&self) -> u64;

    /// The chunk waits no longer, whether it was written or not.
    fn unqueue(&self, chunk: u32);
}

/// Bytes on their way to the disk.
pub type Bytes = Box<dyn Deref<Target = [u8]> + Send>;

/// What is to be done.
pub enum Job {
    /// A chunk is to be written.
    Chunk(Arc<dyn Target>, u32, Bytes),
    /// Only the literals of an entry are.
    Literals(Arc<dyn Target>),
    /// There was no space to make an entry.
    Space,
}

impl Job {
    fn size(&self) -> u64 {
        if let Self::Chunk(_, _, bytes) = self { bytes.len() as u64 } else { 0 }
    }
}

#[derive(Default)]
struct State {
    /// With their sizes in bytes.
    jobs: VecDeque<(Job, u64)>,
    /// The writer has taken a job and not finished it.
    busy: bool,
    closed: bool,
    thread: Option<JoinHandle<()>>,
}

/// The queue of a store.
pub struct Queue {
    context: Arc<Context>,
    state: Mutex<State>,
    changed: Condvar,
    limit: u64,
    /// Bytes of the jobs that wait, and of the one that is being written.
    bytes: AtomicU64,
    started: Instant,
    /// Milliseconds after `started` until which nothing is taken.
    resume: AtomicU64,
    /// Trouble was logged, and nothing was written since.
    troubled: AtomicBool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Queue {
    /// A queue of at most `limit` bytes; a single chunk is taken whatever its length.
    pub fn new(context: Arc<Context>, limit: u64) -> Self {
        Self {
            context,
            state: Mutex::default(),
            changed: Condvar::new(),
            limit,
            bytes: AtomicU64::new(0),
            started: Instant::now(),
            resume: AtomicU64::new(0),
            troubled: AtomicBool::new(false),
        }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether more than half of what may wait does.
    pub fn is_behind(&self) -> bool {
        self.bytes() > self.limit / 2
    }

    /// Whether a chunk would not be taken now. A guess without a lock, so that nothing is copied or counted in vain.
    pub fn refuses(&self, size: u64) -> bool {
        let waiting = self.bytes();
        (waiting > 0 && waiting.saturating_add(size) > self.limit) || self.paused()
    }

    /// Whether writing failed, and has not worked since.
    pub fn is_troubled(&self) -> bool {
        self.troubled.load(Ordering::Relaxed)
    }

    fn paused(&self) -> bool {
        let resume = self.resume.load(Ordering::Relaxed);
        resume > 0 && u128::from(resume) > self.started.elapsed().as_millis()
    }

    /// Puts a job in; `false` when it was not taken. Starts the writer when there is none.
    pub fn put(self: &Arc<Self>, job: Job) -> bool {
        let size = job.size();
        let mut state = self.state.lock();
        if state.closed || state.jobs.len() >= MOST_JOBS || self.refuses(size) {
            return false;
        }
        if state.thread.is_none() {
            let queue = Arc::clone(self);
            match std::thread::Builder::new().name("bsfs-cache".to_owned()).spawn(move || run(&queue)) {
                Ok(thread) => state.thread = Some(thread),
                Err(e) => {
                    drop(state);
                    self.trouble(&format!("cannot start a thread: {e}"));
                    return false;
                }
            }
        }
        self.bytes.fetch_add(size, Ordering::Relaxed);
        state.jobs.push_back((job, size));
        drop(state);
        self.changed.notify_all();
        true
    }

    /// Waits until all is written; `false` when the time was not enough.
    pub fn flush(&self, timeout: Duration) -> bool {
        let left = |state: &mut State| !state.closed && (state.busy || !state.jobs.is_empty());
        !self.changed.wait_while_for(&mut self.state.lock(), left, timeout).timed_out()
    }

    /// Drops what waits, and ends the writer after the chunk that it has in hand.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let jobs = std::mem::take(&mut state.jobs);
        let thread = state.thread.take();
        drop(state);
        self.changed.notify_all();
        // Here, not under the lock: the last reference to an entry may go with a job.
        drop(jobs);
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // A writer that panicked has ended as well.
            let _ = thread.join();
        }
    }

    /// Stops filling for a while, and says so once.
    fn trouble(&self, what: &str) {
        count(&self.context.counts.errors);
        let resume = (self.started.elapsed() + PAUSE).as_millis();
        self.resume.store(u64::try_from(resume).unwrap_or(u64::MAX), Ordering::Relaxed);
        if !self.troubled.swap(true, Ordering::Relaxed) {
            log::warn!("disk cache {}: not filled for now: {what}", self.context.dir.path().display());
        }
    }

    fn next(&self) -> Option<(Job, u64)> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                state.busy = true;
                return Some(job);
            }
            self.changed.wait(&mut state);
        }
    }
}

/// The life of the writer.
fn run(queue: &Queue) {
    // On Linux this is the priority of the calling thread alone. Without it the queue still bounds what is done.
    let _ = rustix::process::setpriority_process(None, NICE);
    let context = &queue.context;
    let mut budget = Budget::default();
    while let Some((job, size)) = queue.next() {
        let of = match &job {
            Job::Chunk(entry, at, _) => Some((Arc::clone(entry), *at)),
            Job::Literals(_) | Job::Space => None,
        };
        // What is half written has no record, and so is not there; the budget is measured anew.
        if catch_unwind(AssertUnwindSafe(|| write(queue, &mut budget, job))).is_err() {
            budget = Budget::default();
            count(&context.counts.panics);
            count(&context.counts.dropped_chunks);
            queue.trouble("its writer panicked; this is a defect in bsfs, please report it");
        }
        if let Some((entry, at)) = of {
            entry.unqueue(at);
        }
        queue.bytes.fetch_sub(size, Ordering::Relaxed);
        queue.state.lock().busy = false;
        queue.changed.notify_all();
    }
}

fn write(queue: &Queue, budget: &mut Budget, job: Job) {
    let context = &queue.context;
    let (entry, chunk) = match &job {
        Job::Chunk(entry, at, bytes) => (entry, Some((*at, &***bytes))),
        Job::Literals(entry) => (entry, None),
        Job::Space => {
            // Who asked for it does not wait; it is there for the next one.
            budget.allows(context, SPACE);
            return;
        }
    };
    let kept = if queue.paused() {
        Ok(Kept::Dropped)
    } else if !budget.allows(context, job.size().saturating_add(entry.literal_bytes())) {
        queue.trouble("no room in it");
        Ok(Kept::Dropped)
    } else {
        entry.write(chunk)
    };
    match kept {
        Ok(Kept::Written(bytes)) => {
            budget.spend(bytes);
            queue.troubled.store(false, Ordering::Relaxed);
        }
        Ok(Kept::Already) => {}
        Ok(Kept::Dropped) => count(&context.counts.dropped_chunks),
        Err(e) => {
            count(&context.counts.dropped_chunks);
            queue.trouble(&e.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Config, Description, Key, Store};

    /// Bytes of which the writer, and no other thread, panics.
    struct Panicking(Vec<u8>);

    impl Deref for Panicking {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            assert_ne!(std::thread::current().name(), Some("bsfs-cache"), "on purpose");
            &self.0
        }
    }

    #[test]
    fn a_panic_of_the_writer_is_counted_and_the_next_chunk_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cache"), &Config::default()).unwrap();
        let what = Description {
            label: "m",
            len: 2000,
            chunks: 2,
            chunk: &|at| (1000 * u64::from(at), 1000),
            literals: Vec::new(),
        };
        let entry = store.entry(Key([7; 32]), &what).unwrap();
        entry.offer(0, Panicking(vec![1; 1000]));
        assert!(store.flush(Duration::from_secs(20)), "the writer goes on");
        let counters = store.counters();
        assert_eq!((counters.panics, counters.dropped_chunks, counters.queued_bytes), (1, 1, 0));
        assert!(!entry.has(0));
        // The pause after trouble ends.
        store.queue.resume.store(0, Ordering::Relaxed);
        for chunk in 0..2 {
            entry.offer(chunk, vec![2; 1000]);
        }
        assert!(store.flush(Duration::from_secs(20)));
        assert!(entry.complete() && store.counters().written_chunks == 2);
    }
}
