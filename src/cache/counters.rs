//! What a store counts.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// What a store of this process did since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Chunks read from the disk cache, their bytes verified.
    pub hits: u64,
    /// Chunks asked for that were not there, or not to be used.
    pub misses: u64,
    /// Chunks written.
    pub written_chunks: u64,
    /// Bytes of them.
    pub written_bytes: u64,
    /// Chunks offered and not kept: the queue was full, the disk was, or the entry was being proven.
    pub dropped_chunks: u64,
    /// Chunks whose bytes were not what their record said, or could not be read.
    pub damaged_chunks: u64,
    /// Entries removed to make room.
    pub evicted_entries: u64,
    /// Times that an entry could not be used, or a chunk not be written, because the system refused.
    pub errors: u64,
    /// Entries proven whole.
    pub sealed_entries: u64,
    /// Writes that ended in a panic. Their chunks were dropped, and the writer went on after a pause.
    #[serde(default)]
    pub panics: u64,
    /// Bytes that wait to be written: now, not since the start.
    pub queued_bytes: u64,
    /// Disk space that all entries take, those of other mounts included; `None` as long as this process has measured it never,
    /// which it does before it writes.
    #[serde(default)]
    pub held_bytes: Option<u64>,
}

/// The counters, while they count.
#[derive(Debug, Default)]
pub struct Counts {
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub written_chunks: AtomicU64,
    pub written_bytes: AtomicU64,
    pub dropped_chunks: AtomicU64,
    pub damaged_chunks: AtomicU64,
    pub evicted_entries: AtomicU64,
    pub errors: AtomicU64,
    pub sealed_entries: AtomicU64,
    pub panics: AtomicU64,
    /// One more than the bytes; 0 before they were measured.
    held: AtomicU64,
}

/// Counts one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counts {
    /// All entries take so much.
    pub fn hold(&self, bytes: u64) {
        self.held.store(bytes.saturating_add(1), Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn now(&self, queued_bytes: u64) -> Counters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            hits: of(&self.hits),
            misses: of(&self.misses),
            written_chunks: of(&self.written_chunks),
            written_bytes: of(&self.written_bytes),
            dropped_chunks: of(&self.dropped_chunks),
            damaged_chunks: of(&self.damaged_chunks),
            evicted_entries: of(&self.evicted_entries),
            errors: of(&self.errors),
            sealed_entries: of(&self.sealed_entries),
            panics: of(&self.panics),
            queued_bytes,
            held_bytes: of(&self.held).checked_sub(1),
        }
    }
}
