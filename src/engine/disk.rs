//! Decoded bytes that outlive the mount: what the disk cache has of an image, what it gets, and who finishes a file.
//!
//! A chunk that a reader was given is offered to the cache, which takes it when it has time. When a file is closed, one thread of
//! low priority waits for what is under way, decodes what little is missing, and has the file proven and sealed.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::content::{Content, Place};
use super::memory::Raw;
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

    /// Decodes and writes what is missing, and seals the file. Gives whether it is sealed. `done` hears of the bytes of each chunk.
    /// Takes long.
    pub fn finish(
        &self,
        content: &dyn Content,
        engine: &Arc<Engine>,
        stop: &dyn Fn() -> bool,
        done: &dyn Fn(u64),
    ) -> Result<bool> {
        self.store.flush(PATIENCE);
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
                let made = content.decode(ChunkId(chunk), engine)?;
                done(made.len() as u64);
                self.entry.offer(chunk, Made(made));
            }
            if !self.store.flush(PATIENCE) || batch.iter().all(|&chunk| !self.entry.has(chunk)) {
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
#[derive(Default)]
pub struct Finisher(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<Tasks>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Default)]
struct Tasks {
    waiting: VecDeque<Task>,
    running: bool,
}

fn lock(shared: &Shared) -> MutexGuard<'_, Tasks> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Finisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Finisher").field(&lock(&self.0).waiting.len()).finish()
    }
}

impl Finisher {
    /// Does `task` behind those that wait. It is told a function that says whether it should stop.
    pub fn add(&self, task: Task) {
        let mut tasks = lock(&self.0);
        tasks.waiting.push_back(task);
        if tasks.running {
            return;
        }
        let shared = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("finish".into()).spawn(move || work(&shared));
        tasks.running = thread.is_ok();
    }

    /// Waits for all tasks, at most for `limit`; then the rest is stopped.
    pub fn end(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut tasks = lock(&self.0);
        while tasks.running {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tasks.waiting.clear();
                self.0.stop.store(true, Ordering::Relaxed);
                break;
            }
            tasks = self.0.changed.wait_timeout(tasks, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        while tasks.running {
            // A task looks at the flag between two chunks.
            tasks = self.0.changed.wait(tasks).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn work(shared: &Shared) {
    be_nice();
    loop {
        let mut tasks = lock(shared);
        let Some(task) = tasks.waiting.pop_front() else {
            tasks.running = false;
            drop(tasks);
            shared.changed.notify_all();
            return;
        };
        drop(tasks);
        let stop = || shared.stop.load(Ordering::Relaxed);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| task(&stop))).is_err() {
            log::error!("defect in bsfs, please report it: finishing a file of the disk cache panicked");
        }
    }
}
