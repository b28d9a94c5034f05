//! Keeps a log readable when a disk dies and every request fails.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Lines in a period that are written.
const MOST: u64 = 20;
const PERIOD: Duration = Duration::from_secs(10);

/// Counts lines of one period after the other.
#[derive(Debug, Default)]
pub(super) struct Limit {
    period: Mutex<Option<(Instant, u64)>>,
}

impl Limit {
    /// Whether a line may be written at `now`; the number of lines that were not in the last period, when it is over.
    pub(super) fn ask(&self, now: Instant) -> (bool, u64) {
        let mut period = self.period.lock();
        match &mut *period {
            Some((since, lines)) if now.duration_since(*since) < PERIOD => {
                *lines += 1;
                (*lines <= MOST, 0)
            }
            over => {
                let kept = over.map_or(0, |(_, lines)| lines.saturating_sub(MOST));
                *over = Some((now, 1));
                (true, kept)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let (limit, start) = (Limit::default(), Instant::now());
        let written = (0..100).filter(|_| limit.ask(start).0).count();
        assert_eq!(written as u64, MOST);
        assert_eq!(limit.ask(start + PERIOD), (true, 100 - MOST));
        assert_eq!(limit.ask(start + PERIOD), (true, 0));
    }
}
