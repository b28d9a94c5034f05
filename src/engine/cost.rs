//! Where the time of one read went, as far as the thread that answers it can say.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Times of a read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Reading packed bytes, or those of a file shown as is, from the source.
    pub source: Duration,
    /// Reading chunks from the disk cache.
    pub cache: Duration,
    /// Decoding and checking.
    pub decode: Duration,
    /// Waiting for chunks that other threads were decoding.
    pub wait: Duration,
}

thread_local! {
    static COST: Cell<Cost> = const { Cell::new(Cost::NONE) };
}

impl Cost {
    const NONE: Self =
        Self { source: Duration::ZERO, cache: Duration::ZERO, decode: Duration::ZERO, wait: Duration::ZERO };

    /// A read begins on this thread: what the thread did before, for other reads or ahead of them, is not part of it.
    pub fn begin() {
        COST.set(Self::NONE);
    }

    /// Adds to what the read of this thread took.
    pub fn add(change: impl FnOnce(&mut Self)) {
        let mut cost = COST.get();
        change(&mut cost);
        COST.set(cost);
    }

    /// Reads from a source, and adds the time; also that of a read that fails.
    pub fn of_source<T>(read: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let got = read();
        Self::add(|cost| cost.source += start.elapsed());
        got
    }

    /// What the last read of this thread took; to be asked where its bytes are given out. Of one that was answered from memory
    /// nothing.
    #[must_use]
    pub fn last() -> Self {
        COST.get()
    }
}
