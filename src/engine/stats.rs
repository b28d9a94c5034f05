//! What the engine counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::sync::{Mutex, lock};
use crate::codec::Codec;
use crate::error::Error;
use crate::source::{TimeCounts, Times};

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
    /// Of these, reads of which the bytes were not what they should be: damage, and files that end too early.
    #[serde(default)]
    pub integrity_failures: u64,
    /// Chunks that were damaged when they were read first, and right when they were read again.
    #[serde(default)]
    pub healed_chunks: u64,
    /// Chunks decoded before anybody asked for them; part of `decoded_chunks`.
    pub ahead_chunks: u64,
    /// Of these, chunks that somebody read then.
    pub ahead_used: u64,
    /// Of these, chunks that had to leave memory unread.
    pub ahead_wasted: u64,
    /// Bytes of the chunks of `ahead_used`.
    #[serde(default)]
    pub ahead_used_bytes: u64,
    /// Bytes of the chunks of `ahead_wasted`.
    #[serde(default)]
    pub ahead_wasted_bytes: u64,
    /// Bytes that may be decoded ahead of one stream, at most.
    #[serde(default)]
    pub ahead_window: u64,
    /// Raw bytes decoded, by codec; those of a foreign container by the format's name.
    #[serde(default)]
    pub codec_bytes: BTreeMap<String, u64>,
    /// Reads of packed bytes, and how long each took.
    #[serde(default)]
    pub source_times: TimeCounts,
    /// Reads of packed bytes that failed; none of `source_times`.
    #[serde(default)]
    pub source_failures: u64,
    /// Chunks that came from the disk cache.
    pub disk_chunks: u64,
    /// Time in which packed bytes were read from sources, and chunks from the disk cache, seconds, summed over threads.
    pub source_seconds: f64,
    /// Time in which chunks were decoded and checked (of foreign containers, read as well), seconds, summed over threads.
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
    /// Work that no reader waits for (ahead of readers, finishing files of the disk cache) that ended in a panic.
    #[serde(default)]
    pub panics: u64,
    /// Bytes of the places where streams without random access (foreign containers) can be entered; at most an eighth of the memory.
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
    pub integrity_failures: AtomicU64,
    pub healed_chunks: AtomicU64,
    pub source_times: Times,
    pub source_failures: AtomicU64,
    pub panics: AtomicU64,
    /// By the codec's place in [`Codec::ALL`].
    pub codec_bytes: [AtomicU64; Codec::ALL.len()],
    /// Of foreign containers, by the format's name.
    pub foreign_bytes: Mutex<BTreeMap<&'static str, u64>>,
}

/// Reads of packed bytes for streams.
#[derive(Debug, Default)]
pub struct Reads {
    bytes: AtomicU64,
    failures: AtomicU64,
    pub times: Times,
}

impl Reads {
    /// Counts a read of `len` bytes, which `read` does.
    pub fn count<T>(&self, len: usize, read: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let start = Instant::now();
        let result = read();
        match &result {
            Ok(_) => {
                Counters::add(&self.bytes, len as u64);
                self.times.add(start.elapsed());
            }
            Err(_) => Counters::add(&self.failures, 1),
        }
        result
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
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

    /// A chunk was decoded.
    pub fn decoded(&self, codec: Codec, bytes: usize) {
        self.decoded_any(bytes);
        let at = Codec::ALL.iter().position(|known| *known == codec);
        if let Some(counter) = at.and_then(|at| self.codec_bytes.get(at)) {
            Self::add(counter, bytes as u64);
        }
    }

    /// A chunk of a foreign container was decoded.
    pub fn decoded_foreign(&self, format: &'static str, bytes: usize) {
        self.decoded_any(bytes);
        *lock(&self.foreign_bytes).entry(format).or_default() += bytes as u64;
    }

    fn decoded_any(&self, bytes: usize) {
        Self::add(&self.decoded_chunks, 1);
        Self::add(&self.decoded_bytes, bytes as u64);
    }

    /// A read failed.
    pub fn failed(&self, error: &Error) {
        Self::add(&self.errors, 1);
        let is_damage = match error {
            Error::Chunk { .. } | Error::Corrupt { .. } | Error::Differs { .. } | Error::Truncated { .. } => true,
            Error::Io { .. }
            | Error::NotAContainer { .. }
            | Error::Unsupported { .. }
            | Error::NoBase { .. }
            | Error::TooLarge { .. }
            | Error::Exists { .. }
            | Error::Changed { .. }
            | Error::NotLossless { .. }
            | Error::Remote { .. }
            | Error::Server { .. }
            | Error::Invalid { .. }
            | Error::Mount { .. }
            | Error::Interrupted => false,
        };
        Self::add(&self.integrity_failures, u64::from(is_damage));
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
            integrity_failures: get(&self.integrity_failures),
            healed_chunks: get(&self.healed_chunks),
            panics: get(&self.panics),
            source_times: self.source_times.now(),
            source_failures: get(&self.source_failures),
            codec_bytes: {
                let own = Codec::ALL.iter().map(|codec| codec.name()).zip(self.codec_bytes.iter().map(get));
                let foreign = lock(&self.foreign_bytes).clone();
                let bytes = own.chain(foreign).map(|(name, bytes)| (name.to_owned(), bytes));
                bytes.filter(|(_, bytes)| *bytes > 0).collect()
            },
            ..Stats::default()
        }
    }
}
