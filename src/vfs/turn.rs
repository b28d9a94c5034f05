//! Who scans a directory: one request, and another when that one is held up by a source that hangs.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::source::waits;

/// A scan is held up when a call to a source has taken for so long, and the scan at least for as long.
const HELD_UP: Duration = Duration::from_secs(2);
/// How often waiting requests look whether it is.
const LOOK: Duration = Duration::from_millis(200);

/// The turn to scan.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Since when it is taken.
    taken: Mutex<Option<Instant>>,
    free: Condvar,
}

/// The turn, until it is dropped.
pub(super) struct Held<'a> {
    turn: &'a Turn,
    since: Instant,
}

impl Turn {
    /// Waits for the turn and takes it.
    pub(super) fn take(&self) -> Held<'_> {
        let mut taken = self.taken.lock();
        while let Some(since) = *taken {
            if since.elapsed() > HELD_UP && waits::longest() > HELD_UP {
                break;
            }
            _ = self.free.wait_for(&mut taken, LOOK);
        }
        let since = Instant::now();
        *taken = Some(since);
        Held { turn: self, since }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut taken = self.turn.taken.lock();
        // Another may have taken it meanwhile.
        if *taken == Some(self.since) {
            *taken = None;
            self.turn.free.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_but_for_who_is_held_up() {
        let turn = Turn::default();
        drop(turn.take());
        let first = turn.take();
        std::thread::scope(|scope| {
            let _call = waits::call();
            let begun = Instant::now();
            let second = scope.spawn(|| drop(turn.take()));
            second.join().unwrap();
            assert!(begun.elapsed() > HELD_UP);
            drop(first);
        });
        drop(turn.take());
    }
}
