//! How often a request is tried again, and how long each waits.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// When a request is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// How often a request is made in all, at least 1. A body that made progress begins to count anew.
    pub attempts: u32,
    /// Longest pause before the second attempt; it doubles with each one. The pause is at least half of that, by chance.
    pub first_pause: Duration,
    /// No pause is longer, also when the server asks for one (`Retry-After`): then it is an error at once.
    pub longest_pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 6, first_pause: Duration::from_millis(1000), longest_pause: Duration::from_secs(120) }
    }
}

impl Retry {
    /// The pause after `failed` failures, at least 1.
    pub(super) fn pause(&self, failed: u32) -> Duration {
        let full = self.first_pause.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(self.longest_pause);
        // A new state is seeded anew for each call.
        let chance = RandomState::new().build_hasher().finish() % 512;
        full.mul_f64(0.5 + chance as f64 / 1024.0)
    }
}
