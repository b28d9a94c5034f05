//! What all images of a process share, and what a read works with.

use std::sync::Arc;

use super::buffer::{Buffer, Pool, capacity};
use super::finisher::Finisher;
use super::flight::Chunks;
use super::stats::Counters;
use super::troubles::Troubles;
use super::workers::{Job, Lane, Workers};
use crate::cache::Store;

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

/// The memory cache, its buffers, and the threads that decode.
#[derive(Debug)]
pub struct Core {
    pub(crate) pool: Arc<Pool>,
    pub(crate) chunks: Arc<Chunks>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) workers: Workers,
    pub(crate) finisher: Finisher,
    pub(crate) troubles: Troubles,
    /// The disk cache, if there is one.
    pub(crate) disk: Option<Disk>,
    /// Chunks are decoded ahead of readers.
    pub(crate) ahead: bool,
    /// Reads are answered with zeros, without reading or decoding.
    pub(crate) null: bool,
}

impl Core {
    /// A buffer of `len` bytes that hold anything, counted and used again as those for chunks are.
    pub fn buffer(&self, len: usize) -> Buffer {
        self.chunks.make_room(len);
        self.pool.take(len)
    }

    /// Does `job` on a thread that may wait, for a reader. The job gets a buffer of `len` bytes, taken when its turn comes.
    pub fn run(self: &Arc<Self>, lane: Lane, len: usize, job: impl FnOnce(Buffer) + Send + 'static) {
        let core = Arc::clone(self);
        let job = move || job(core.buffer(len));
        self.workers.demand(lane, Job::new(capacity(len), job));
    }
}
