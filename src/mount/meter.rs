//! What requests of the kernel came to: how many of each kind, how they failed, and how long reads took.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Upper bounds of the classes of times, microseconds. One more class has no bound.
pub const BOUNDS: [u64; 13] =
    [10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000];

/// Requests since the start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    /// By kind.
    pub count: BTreeMap<String, u64>,
    /// Those that were answered with an error, by kind and errno: "read 5".
    pub errors: BTreeMap<String, u64>,
    /// Reads by the time that they took, in the classes of [`BOUNDS`] and one above.
    pub read_times: Vec<u64>,
    /// All these times together, seconds.
    pub read_seconds: f64,
}

#[derive(Debug, Default)]
pub(super) struct Meter {
    count: Mutex<BTreeMap<&'static str, u64>>,
    errors: Mutex<BTreeMap<(&'static str, i32), u64>>,
    reads: AtomicU64,
    read_times: [AtomicU64; BOUNDS.len() + 1],
    read_nanos: AtomicU64,
}

impl Meter {
    /// A request that is not a read.
    pub(super) fn request(&self, op: &'static str) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner).entry(op).or_default() += 1;
    }

    /// A read that was answered after this time.
    pub(super) fn read(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(class) = self.read_times.get(class) {
            class.fetch_add(1, Ordering::Relaxed);
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read_nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(0), Ordering::Relaxed);
    }

    /// An answer that is an error.
    pub(super) fn error(&self, op: &'static str, errno: i32) {
        *self.errors.lock().unwrap_or_else(PoisonError::into_inner).entry((op, errno)).or_default() += 1;
    }

    pub(super) fn now(&self) -> Requests {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: BTreeMap<String, u64> = count.iter().map(|(op, n)| ((*op).to_owned(), *n)).collect();
        all.insert("read".into(), self.reads.load(Ordering::Relaxed));
        Requests {
            count: all,
            errors: errors.iter().map(|((op, errno), n)| (format!("{op} {errno}"), *n)).collect(),
            read_times: self.read_times.iter().map(|n| n.load(Ordering::Relaxed)).collect(),
            read_seconds: Duration::from_nanos(self.read_nanos.load(Ordering::Relaxed)).as_secs_f64(),
        }
    }
}
