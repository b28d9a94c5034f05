//! What the engine counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Counters since the start, and gauges.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
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
    /// Chunks decoded before anybody asked for them; part of `decoded_chunks`.
    pub ahead_chunks: u64,
    /// Of these, chunks that somebody read then.
    pub ahead_used: u64,
    /// Of these, chunks that had to leave memory unread.
    pub ahead_wasted: u64,
    /// Chunks that came from the disk cache.
    pub disk_chunks: u64,
    /// Time in which packed bytes were read from sources, and chunks from the disk cache, seconds, summed over threads.
    pub source_seconds: f64,
    /// Time in which chunks were decoded and checked (of BigSmall's, read as well), seconds, summed over threads.
    pub decode_seconds: f64,
    /// Time in which readers waited for a chunk that another thread was decoding, seconds, summed over threads.
    pub wait_seconds: f64,
    /// Time in which bytes of several chunks were put together, seconds, summed over threads.
    pub gather_seconds: f64,
    /// Decoded bytes in memory now.
    pub memory_bytes: u64,
    /// Bytes in all buffers now: decoded chunks, packed ones, answers, and memory that waits to be used again.
    pub buffer_bytes: u64,
    /// Bound for both.
    pub memory_limit: u64,
    /// Chunks in memory now.
    pub memory_chunks: u64,
    /// Bytes of the places where streams without random access (BigSmall's) can be entered; at most an eighth of the memory.
    pub point_bytes: u64,
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
    pub ahead_chunks: AtomicU64,
    pub disk_chunks: AtomicU64,
    pub source_nanos: AtomicU64,
    pub decode_nanos: AtomicU64,
    pub wait_nanos: AtomicU64,
    pub gather_nanos: AtomicU64,
}

impl Counters {
    /// Adds to a counter. Relaxed: counters order nothing.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds a time to a counter of nanoseconds.
    pub fn add_time(counter: &AtomicU64, time: Duration) {
        Self::add(counter, u64::try_from(time.as_nanos()).unwrap_or(0));
    }

    pub fn snapshot(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let seconds = |counter: &AtomicU64| Duration::from_nanos(get(counter)).as_secs_f64();
        Stats {
            hits: get(&self.hits),
            misses: get(&self.misses),
            waits: get(&self.waits),
            decoded_chunks: get(&self.decoded_chunks),
            decoded_bytes: get(&self.decoded_bytes),
            packed_bytes_read: get(&self.packed_bytes_read),
            errors: get(&self.errors),
            ahead_chunks: get(&self.ahead_chunks),
            disk_chunks: get(&self.disk_chunks),
            source_seconds: seconds(&self.source_nanos),
            decode_seconds: seconds(&self.decode_nanos),
            wait_seconds: seconds(&self.wait_nanos),
            gather_seconds: seconds(&self.gather_nanos),
            ..Stats::default()
        }
    }
}
