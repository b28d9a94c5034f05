//! The reads that took longest lately: a list of fixed length, which costs a read that is not among them two comparisons.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::engine::Cost;

/// Reads that are kept.
const KEPT: usize = 16;
/// For how long.
const LATELY: Duration = Duration::from_secs(300);
/// What is faster is never kept.
const LEAST: Duration = Duration::from_millis(1);

/// A read that took long.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SlowRead {
    /// The file in the source, below its root.
    pub file: String,
    /// Where it began, bytes.
    pub offset: u64,
    /// Bytes asked for.
    pub length: u32,
    /// From the kernel's request to the answer, seconds.
    pub seconds: f64,
    /// What most of it was: "source" (packed bytes), "disk cache", "decode", "wait" (for a chunk that another thread was decoding),
    /// "reply" (the kernel took the bytes), or "queue" (none of these: other work came first).
    pub why: String,
    /// How long ago it was answered, seconds.
    pub ago: u64,
}

#[derive(Debug)]
struct Kept {
    at: Instant,
    took: Duration,
    read: SlowRead,
}

/// The list.
#[derive(Debug)]
pub(super) struct Slow {
    begun: Instant,
    /// Nanoseconds that a read must take to be kept, as long as `until` (seconds after `begun`) has not come.
    floor: AtomicU64,
    until: AtomicU64,
    kept: Mutex<Vec<Kept>>,
}

impl Default for Slow {
    fn default() -> Self {
        let floor = AtomicU64::new(LEAST.as_nanos() as u64);
        Self { begun: Instant::now(), floor, until: AtomicU64::new(u64::MAX), kept: Mutex::default() }
    }
}

impl Slow {
    /// Whether a read that takes at least `took` is likely one of the slowest.
    pub(super) fn keeps(&self, took: Duration) -> bool {
        took >= LEAST && u64::try_from(took.as_nanos()).is_ok_and(|nanos| nanos > self.floor.load(Ordering::Relaxed))
    }

    /// A read was answered after `took`, at `now`; `describe` is called if it is one of the slowest.
    pub(super) fn add(&self, now: Instant, took: Duration, describe: impl FnOnce() -> SlowRead) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let is_due = || now.duration_since(self.begun).as_secs() >= self.until.load(Ordering::Relaxed);
        if took < LEAST || (nanos <= self.floor.load(Ordering::Relaxed) && !is_due()) {
            return;
        }
        let mut kept = self.kept.lock();
        kept.retain(|old| now.duration_since(old.at) < LATELY);
        if kept.len() >= KEPT {
            let least = kept.iter().enumerate().min_by_key(|(_, old)| old.took).map(|(at, old)| (at, old.took));
            match least {
                Some((at, least)) if least < took => _ = kept.swap_remove(at),
                _ => {}
            }
        }
        if kept.len() < KEPT {
            kept.push(Kept { at: now, took, read: describe() });
        }
        let full = kept.len() >= KEPT;
        let least = kept.iter().map(|old| old.took).min().filter(|_| full).unwrap_or(LEAST);
        self.floor.store(u64::try_from(least.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let oldest = kept.iter().map(|old| old.at).min().filter(|_| full);
        let until = oldest.map_or(u64::MAX, |at| (at + LATELY).duration_since(self.begun).as_secs());
        self.until.store(until, Ordering::Relaxed);
    }

    /// The slowest of the last minutes, the worst first.
    pub(super) fn now(&self, now: Instant) -> Vec<SlowRead> {
        let kept = self.kept.lock();
        let recent = kept.iter().filter(|old| now.duration_since(old.at) < LATELY);
        let mut reads: Vec<_> =
            recent.map(|old| SlowRead { ago: now.duration_since(old.at).as_secs(), ..old.read.clone() }).collect();
        reads.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        reads
    }
}

/// What most of a read's time was.
pub(super) fn why(took: Duration, cost: Cost, replying: Duration) -> &'static str {
    let known = cost.source + cost.cache + cost.decode + cost.wait + replying;
    let parts = [
        ("source", cost.source),
        ("disk cache", cost.cache),
        ("decode", cost.decode),
        ("wait", cost.wait),
        ("reply", replying),
        ("queue", took.saturating_sub(known)),
    ];
    parts.into_iter().max_by_key(|(_, time)| *time).map_or("queue", |(why, _)| why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(seconds: f64) -> SlowRead {
        SlowRead { seconds, ..SlowRead::default() }
    }

    #[test]
    fn the_slowest_are_kept_and_forgotten_after_a_while() {
        let slow = Slow::default();
        let start = slow.begun;
        slow.add(start, LEAST / 2, || unreachable!("too fast"));
        for n in 1..=100 {
            slow.add(start, Duration::from_millis(n), || read(n as f64));
        }
        let seen = |now| slow.now(now).iter().map(|read| read.seconds as u64).collect::<Vec<_>>();
        assert_eq!(seen(start), (85..=100).rev().collect::<Vec<_>>());
        slow.add(start, Duration::from_millis(85), || unreachable!("as fast as the fastest of them"));
        // When the first are old, what is faster is kept again.
        let later = start + LATELY;
        assert!(seen(later).is_empty());
        slow.add(later, Duration::from_millis(2), || read(2.0));
        assert_eq!(seen(later), [2]);
        slow.add(later, Duration::from_millis(3), || read(3.0));
        assert_eq!(seen(later), [3, 2]);
    }

    #[test]
    fn the_longest_part_is_why() {
        let ms = Duration::from_millis;
        let cost = Cost { source: ms(5), decode: ms(3), ..Cost::default() };
        let none = Duration::ZERO;
        assert_eq!(
            (why(ms(9), cost, none), why(ms(20), cost, none), why(ms(20), cost, ms(9))),
            ("source", "queue", "reply")
        );
        assert_eq!(why(ms(9), Cost { wait: ms(9), ..Cost::default() }, none), "wait");
    }
}
