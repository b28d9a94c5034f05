//! What the engine counts.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Counters since the start, and gauges.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Stats {
    /// Chunks found in memory.
    pub hits: u64,
    /// Chunks that had to be decoded.
    pub misses: u64,
    /// Chunks that another reader was decoding already, and that were waited for.
    pub waits: u64,
    /// Chunks decoded.
    pub decoded_chunks: u64,
    /// Raw bytes decoded.
    pub decoded_bytes: u64,
    /// Packed bytes read for them.
    pub packed_bytes_read: u64,
    /// Chunks dropped from memory to make room.
    pub evicted_chunks: u64,
    /// Reads that failed: damaged chunks and failing sources.
    pub errors: u64,
    /// Decoded bytes in memory now.
    pub memory_bytes: u64,
    /// Bound for them.
    pub memory_limit: u64,
    /// Chunks in memory now.
    pub memory_chunks: u64,
}

#[derive(Debug, Default)]
pub struct Counters {
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub waits: AtomicU64,
    pub decoded_chunks: AtomicU64,
    pub decoded_bytes: AtomicU64,
    pub packed_bytes_read: AtomicU64,
    pub errors: AtomicU64,
}

impl Counters {
    /// Adds to a counter. Relaxed: counters order nothing.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            hits: get(&self.hits),
            misses: get(&self.misses),
            waits: get(&self.waits),
            decoded_chunks: get(&self.decoded_chunks),
            decoded_bytes: get(&self.decoded_bytes),
            packed_bytes_read: get(&self.packed_bytes_read),
            errors: get(&self.errors),
            ..Stats::default()
        }
    }
}
