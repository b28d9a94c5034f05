//! The read side of a process: makes images of containers, and tells what it counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::bases::{BaseFile, LazyReferences, References};
use super::buffer::{Buffer, Pool};
use super::finisher::Finisher;
use super::flight::Chunks;
use super::foreign::{ForeignFile, ForeignFormat};
use super::foreign_state::ForeignState;
use super::image::{self, Image};
use super::native::Native;
use super::shared::{Core, Disk};
use super::stats::{Counters, Stats};
use super::sync::{Mutex, lock};
use super::troubles::Troubles;
use super::workers::{Lane, Workers};
use crate::error::Result;
use crate::format::Container;
use crate::source::ReadAt;

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Bound for decoded chunks, buffers and contexts of codecs together, bytes. What a few reads need (eight, two of each file) is
    /// had in any case.
    pub memory: u64,
    /// Threads that decode; 0 for one for each core.
    pub threads: usize,
    /// Decode ahead of readers.
    pub ahead: bool,
    /// Let the system drop packed bytes from its page cache once they were read through, if they were not there before: a model
    /// is there once, decoded.
    pub drop_packed: bool,
    /// Answer every read with zeros, without reading or decoding anything: what remains is the cost of everything else.
    pub null: bool,
    /// Decoded bytes on disk, from other mounts and for them.
    pub disk: Option<Disk>,
    /// The formats of other packers that are read.
    pub formats: &'static [&'static dyn ForeignFormat],
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { memory: 256 << 20, threads: 0, ahead: true, drop_packed: true, null: false, disk: None, formats: &[] }
    }
}

/// The read side, shared by all images of a process.
#[derive(Debug)]
pub struct Engine {
    pub(crate) core: Arc<Core>,
    formats: &'static [&'static dyn ForeignFormat],
    /// What the files of foreign formats share, by the format's name.
    foreign: Mutex<BTreeMap<&'static str, Arc<dyn ForeignState>>>,
    /// Bound that the engine was made with, bytes.
    memory: u64,
    drop_packed: bool,
}

impl Engine {
    /// An engine with an empty cache. Threads are made when they are needed.
    #[must_use]
    pub fn new(config: EngineConfig) -> Arc<Self> {
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let pool = Pool::new(config.memory);
        let counters = Arc::<Counters>::default();
        let core = Core {
            chunks: Arc::new(Chunks::new(Arc::clone(&pool))),
            workers: Workers::new(threads, Arc::clone(&pool), Arc::clone(&counters)),
            finisher: Finisher::new(Arc::clone(&counters)),
            troubles: Troubles::default(),
            disk: config.disk,
            ahead: config.ahead,
            null: config.null,
            pool,
            counters,
        };
        Arc::new(Self {
            core: Arc::new(core),
            formats: config.formats,
            foreign: Mutex::default(),
            memory: config.memory,
            drop_packed: config.drop_packed,
        })
    }

    /// Bound for decoded chunks and buffers together, bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.core.pool.limit()
    }

    /// Sets another one. What is too much leaves at once, but for what is in use: that leaves when it is given back. The eighth of the memory that places to enter streams may take stays.
    pub fn set_memory(&self, memory: u64) {
        self.core.pool.set_limit(memory);
        self.core.chunks.make_room(0);
        self.core.pool.set_limit(memory);
    }

    /// Counters and gauges, now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let gauge = self.core.chunks.gauge();
        let counted = self.core.counters.snapshot();
        let foreign: Vec<_> = lock(&self.foreign).values().cloned().collect();
        let mut stats = Stats {
            evicted_chunks: gauge.evicted,
            ahead_used: gauge.ahead_used.0,
            ahead_used_bytes: gauge.ahead_used.1,
            ahead_wasted: gauge.ahead_wasted.0,
            ahead_wasted_bytes: gauge.ahead_wasted.1,
            ahead_window: if self.core.ahead { image::window(self.core.pool.limit()) } else { 0 },
            memory_bytes: gauge.bytes,
            memory_limit: gauge.limit,
            memory_chunks: gauge.chunks,
            buffer_bytes: self.core.pool.held(),
            point_bytes: foreign.iter().map(|state| state.checkpoint_bytes()).sum(),
            ..counted
        };
        for reads in foreign.iter().map(|state| state.reads()) {
            stats.packed_bytes_read += reads.bytes();
            stats.source_times = stats.source_times.plus(&reads.times.now());
            stats.source_failures += reads.failures();
        }
        stats
    }

    /// An open container as the original's bytes; `source` must be the one that `container` was read from. Of a container that
    /// refers to others only what needs none of them can be read: see [`crate::engine::Finder::image`].
    #[must_use]
    pub fn image(self: &Arc<Self>, container: Arc<Container>, source: Arc<dyn ReadAt>) -> Image {
        self.image_with(container, source, None)
    }

    /// The same, with what the container refers to.
    #[must_use]
    pub fn image_with(
        self: &Arc<Self>,
        container: Arc<Container>,
        source: Arc<dyn ReadAt>,
        references: Option<Arc<References>>,
    ) -> Image {
        let references = references.map(|references| LazyReferences::new(move || Some(Arc::clone(&references))));
        self.image_of(container, source, references)
    }

    pub(super) fn image_of(
        self: &Arc<Self>,
        container: Arc<Container>,
        source: Arc<dyn ReadAt>,
        references: Option<LazyReferences>,
    ) -> Image {
        let content = Native::new(container, source, references, self.drop_packed);
        Image::new(Arc::clone(&self.core), Arc::new(content))
    }

    /// A foreign container as the file that it is shown as; `source` must be the one that it was read from. `base` is what it
    /// [needs](ForeignFile::needs): without one, reading tensors that need it is an error.
    #[must_use]
    pub fn foreign(
        self: &Arc<Self>,
        file: Arc<dyn ForeignFile>,
        source: Arc<dyn ReadAt>,
        base: Option<Arc<BaseFile>>,
    ) -> Image {
        let state = self.foreign_state(file.format());
        Image::new(Arc::clone(&self.core), file.content(state, source, base))
    }

    /// Decodes all tensors of a foreign container, several at a time, and compares each with what the container says of it. `done`
    /// hears of each tensor's bytes. Returns the number of tensors. `stop` ends it at the next one.
    ///
    /// # Errors
    /// The first damage or difference, a base that is missing, those of the source,
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    pub fn verify_foreign(
        &self,
        pool: &rayon::ThreadPool,
        file: Arc<dyn ForeignFile>,
        from: (Arc<dyn ReadAt>, Option<Arc<BaseFile>>),
        stop: &AtomicBool,
        done: &mut dyn FnMut(u64),
    ) -> Result<usize> {
        let state = self.foreign_state(file.format());
        file.verify(pool, (&self.core, state), from, stop, done)
    }

    /// What the open files of a foreign format share.
    fn foreign_state(&self, format: &dyn ForeignFormat) -> Arc<dyn ForeignState> {
        let mut states = lock(&self.foreign);
        Arc::clone(states.entry(format.name()).or_insert_with(|| format.state(self.memory)))
    }

    /// The formats of other packers that are read.
    #[must_use]
    pub fn formats(&self) -> &'static [&'static dyn ForeignFormat] {
        self.formats
    }

    /// Ends the work for the disk cache: what is nearly done is finished. Takes no longer than until `deadline`, whatever
    /// hangs then; a file that is closed later is not finished.
    pub fn settle(&self, deadline: Instant) {
        self.core.finisher.end(deadline);
        if let Some(disk) = &self.core.disk {
            disk.store.flush(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// What is wrong with files of the source.
    #[must_use]
    pub fn troubles(&self) -> &Troubles {
        &self.core.troubles
    }

    /// The disk cache, if there is one.
    #[must_use]
    pub fn disk(&self) -> Option<&Disk> {
        self.core.disk.as_ref()
    }

    /// A buffer of `len` bytes that hold anything, counted and used again as those for chunks are.
    #[must_use]
    pub fn buffer(&self, len: usize) -> Buffer {
        self.core.buffer(len)
    }

    /// Does `job` on a thread that may wait, for a reader. The job gets a buffer of `len` bytes, taken when its turn comes.
    pub fn run(&self, lane: Lane, len: usize, job: impl FnOnce(Buffer) + Send + 'static) {
        self.core.run(lane, len, job);
    }
}
