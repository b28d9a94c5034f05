//! How long things took: counts by classes of time, cheap enough to be kept of every request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Upper bounds of the classes of times, microseconds. One more class has no bound.
pub const BOUNDS: [u64; 13] =
    [10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000];

/// Counters of times. No locks: each time is two additions.
#[derive(Debug, Default)]
pub struct Times {
    classes: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

/// What [`Times`] had counted at a moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeCounts {
    /// How many times are in each class of [`BOUNDS`], and in the one above.
    pub classes: Vec<u64>,
    /// All times together, seconds.
    pub seconds: f64,
}

impl Times {
    /// Counts a time.
    pub fn add(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // A time that is a bound exactly is within it.
        let class = BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(class) = self.classes.get(class) {
            class.fetch_add(1, Ordering::Relaxed);
        }
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(0), Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn now(&self) -> TimeCounts {
        TimeCounts {
            classes: self.classes.iter().map(|class| class.load(Ordering::Relaxed)).collect(),
            seconds: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)).as_secs_f64(),
        }
    }
}

impl TimeCounts {
    /// These and others.
    #[must_use]
    pub fn plus(&self, others: &Self) -> Self {
        let class = |of: &Self, at| of.classes.get(at).copied().unwrap_or(0);
        let classes = (0..BOUNDS.len() + 1).map(|at| class(self, at) + class(others, at)).collect();
        Self { classes, seconds: self.seconds + others.seconds }
    }

    /// How many times there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.classes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_class_that_it_is_within() {
        let times = Times::default();
        for micros in [10, 11, 10_000_000, 10_000_001] {
            times.add(Duration::from_micros(micros));
        }
        let now = times.now();
        assert_eq!((now.classes[0], now.classes[1], now.classes[12], now.classes[13]), (1, 1, 1, 1));
        assert_eq!(now.count(), 4);
        assert!((now.seconds - 20.000_022).abs() < 1e-9);
    }
}
