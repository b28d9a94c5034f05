//! The read side: an open container as the original's bytes, from many threads at once.
//!
//! One [`Engine`] serves all images of a process: it holds the memory cache of decoded chunks and sees to it that a
//! chunk is decoded once however many readers want it. No lock is held while a chunk is read or decoded.

mod decode;
mod flight;
mod image;
mod memory;
mod scan;
mod stats;

pub use decode::decode_into;
pub use image::{Bytes, Image};
pub use scan::{Verified, scan, verify};
pub use stats::Stats;

use std::sync::Arc;

use crate::format::Container;
use crate::source::ReadAt;

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Bound for decoded chunks kept in memory, bytes.
    pub memory: u64,
}

/// The read side, shared by all images of a process.
#[derive(Debug)]
pub struct Engine {
    chunks: flight::Chunks,
    counters: stats::Counters,
}

impl Engine {
    /// An engine with an empty cache.
    #[must_use]
    pub fn new(config: EngineConfig) -> Arc<Self> {
        Arc::new(Self { chunks: flight::Chunks::new(config.memory), counters: stats::Counters::default() })
    }

    /// Counters and gauges, now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.counters.snapshot();
        let gauge = self.chunks.gauge();
        stats.evicted_chunks = gauge.evicted;
        stats.memory_bytes = gauge.bytes;
        stats.memory_limit = gauge.limit;
        stats.memory_chunks = gauge.chunks;
        stats
    }

    /// An open container as the original's bytes; `source` must be the one that `container` was read from.
    #[must_use]
    pub fn image(self: &Arc<Self>, container: Arc<Container>, source: Arc<dyn ReadAt>) -> Image {
        Image::new(Arc::clone(self), container, source)
    }
}
