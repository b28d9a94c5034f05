//! The read side: an open container as the original's bytes, from many threads at once.
//!
//! One [`Engine`] serves all images of a process: it holds the memory cache of decoded chunks and sees to it that a
//! chunk is decoded once however many readers want it. No lock is held while a chunk is read or decoded.

mod base;
pub(crate) mod buffer;
pub(crate) mod content;
pub(crate) mod cost;
mod decode;
mod disk;
mod flight;
mod foreign;
mod image;
pub(crate) mod memory;
mod native;
mod references;
mod scan;
mod spent;
pub(crate) mod stats;
pub(crate) mod sync;
mod troubles;
mod workers;

pub use base::{Base, FileBase};
pub use buffer::Buffer;
pub use cost::Cost;
pub use decode::decode_into;
pub use disk::{Disk, Keep, be_nice};
pub use foreign::{ForeignFile, ForeignFormat, ForeignIndex, ForeignState, Needs};
pub use image::{Bytes, Image};
pub use references::{BaseFile, Finder, MAX_DEPTH, Places, References};
pub use scan::{Verified, Whole, scan, verify};
pub use stats::Stats;
pub use troubles::Troubles;
pub use workers::{Job, Lane, Workers};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::format::Container;
use crate::source::ReadAt;
use sync::{Mutex, lock};

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
    config: EngineConfig,
    pub(crate) pool: Arc<buffer::Pool>,
    pub(crate) chunks: Arc<flight::Chunks>,
    pub(crate) counters: Arc<stats::Counters>,
    pub(crate) workers: Workers,
    /// What the files of foreign formats share, by the format's name.
    foreign: Mutex<BTreeMap<&'static str, Arc<dyn ForeignState>>>,
    finisher: disk::Finisher,
    troubles: Troubles,
}

impl Engine {
    /// An engine with an empty cache. Threads are made when they are needed.
    #[must_use]
    pub fn new(config: EngineConfig) -> Arc<Self> {
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let memory = config.memory;
        let pool = buffer::Pool::new(memory);
        let counters = Arc::<stats::Counters>::default();
        Arc::new(Self {
            foreign: Mutex::default(),
            finisher: disk::Finisher::new(Arc::clone(&counters)),
            troubles: Troubles::default(),
            config,
            chunks: Arc::new(flight::Chunks::new(Arc::clone(&pool))),
            workers: Workers::new(threads, Arc::clone(&pool), Arc::clone(&counters)),
            pool,
            counters,
        })
    }

    /// Bound for decoded chunks and buffers together, bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.pool.limit()
    }

    /// Sets another one. What is too much leaves at once, but for what is in use: that leaves when it is given back. The eighth of the memory that places to enter streams may take stays.
    pub fn set_memory(&self, memory: u64) {
        self.pool.set_limit(memory);
        self.chunks.make_room(0);
        self.pool.set_limit(memory);
    }

    /// Counters and gauges, now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let gauge = self.chunks.gauge();
        let counted = self.counters.snapshot();
        let foreign: Vec<_> = lock(&self.foreign).values().cloned().collect();
        let mut stats = Stats {
            evicted_chunks: gauge.evicted,
            ahead_used: gauge.ahead_used.0,
            ahead_used_bytes: gauge.ahead_used.1,
            ahead_wasted: gauge.ahead_wasted.0,
            ahead_wasted_bytes: gauge.ahead_wasted.1,
            ahead_window: if self.config.ahead { image::window(self.pool.limit()) } else { 0 },
            memory_bytes: gauge.bytes,
            memory_limit: gauge.limit,
            memory_chunks: gauge.chunks,
            buffer_bytes: self.pool.held(),
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
    /// refers to others only what needs none of them can be read: see [`Finder::image`].
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
        let later = references.map(|references| references::Later::new(move |_| Some(Arc::clone(&references))));
        self.image_of(container, source, later)
    }

    fn image_of(
        self: &Arc<Self>,
        container: Arc<Container>,
        source: Arc<dyn ReadAt>,
        references: Option<references::Later>,
    ) -> Image {
        let content = native::Native::new(container, source, references, self.config.drop_packed);
        Image::new(Arc::clone(self), Arc::new(content))
    }

    /// A foreign container as the file that it is shown as; `source` must be the one that it was read from. `base` is what it
    /// [needs](ForeignFile::needs): without one, reading tensors that need it is an error.
    #[must_use]
    pub fn foreign(
        self: &Arc<Self>,
        file: Arc<dyn ForeignFile>,
        source: Arc<dyn ReadAt>,
        base: Option<Arc<dyn Base>>,
    ) -> Image {
        let state = self.foreign_state(file.format());
        Image::new(Arc::clone(self), file.content(state, source, base))
    }

    /// What the open files of a foreign format share.
    pub(crate) fn foreign_state(&self, format: &dyn ForeignFormat) -> Arc<dyn ForeignState> {
        let mut states = lock(&self.foreign);
        Arc::clone(states.entry(format.name()).or_insert_with(|| format.state(self.config.memory)))
    }

    /// The formats of other packers that are read.
    #[must_use]
    pub fn formats(&self) -> &'static [&'static dyn ForeignFormat] {
        self.config.formats
    }

    /// Ends the work for the disk cache: what is nearly done is finished. Takes no longer than until `deadline`, whatever
    /// hangs then; a file that is closed later is not finished.
    pub fn settle(&self, deadline: Instant) {
        self.finisher.end(deadline);
        if let Some(disk) = &self.config.disk {
            disk.store.flush(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// What is wrong with files of the source.
    #[must_use]
    pub fn troubles(&self) -> &Troubles {
        &self.troubles
    }

    /// The disk cache, if there is one.
    #[must_use]
    pub fn disk(&self) -> Option<&Disk> {
        self.config.disk.as_ref()
    }

    /// A buffer of `len` bytes that hold anything, counted and used again as those for chunks are.
    #[must_use]
    pub fn buffer(&self, len: usize) -> Buffer {
        self.chunks.make_room(len);
        self.pool.take(len)
    }

    /// Does `job` on a thread that may wait, for a reader. The job gets a buffer of `len` bytes, taken when its turn comes.
    pub fn run(&self, lane: Lane, len: usize, job: impl FnOnce(Buffer) + Send + 'static) {
        let (chunks, pool) = (Arc::clone(&self.chunks), Arc::clone(&self.pool));
        let job = move || {
            chunks.make_room(len);
            job(pool.take(len));
        };
        self.workers.demand(lane, Job::new(buffer::capacity(len), job));
    }
}
