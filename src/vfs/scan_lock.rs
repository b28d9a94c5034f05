//! The lock under which a directory is scanned: one request holds it, and another one passes when that one is
//! held up by a source that hangs.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::source::waits;

/// A scan is held up when a call to a source has taken for so long, and the scan at least for as long.
const HELD_UP: Duration = Duration::from_secs(2);
/// How often waiting requests look whether it is.
const LOOK: Duration = Duration::from_millis(200);

/// A lock for scans.
#[derive(Debug, Default)]
pub(super) struct ScanLock {
    /// Since when it is taken.
    taken: Mutex<Option<Instant>>,
    free: Condvar,
}

/// Guard of a [`ScanLock`].
pub(super) struct Held<'a> {
    lock: &'a ScanLock,
    since: Instant,
}

impl ScanLock {
    /// Waits for the lock and takes it.
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
        Held { lock: self, since }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut taken = self.lock.taken.lock();
        // Another may have taken it meanwhile.
        if *taken == Some(self.since) {
            *taken = None;
            self.lock.free.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_but_for_who_is_held_up() {
        let lock = ScanLock::default();
        drop(lock.take());
        let first = lock.take();
        std::thread::scope(|scope| {
            let _call = waits::call();
            let begun = Instant::now();
            let second = scope.spawn(|| drop(lock.take()));
            second.join().unwrap();
            assert!(begun.elapsed() > HELD_UP);
            drop(first);
        });
        drop(lock.take());
    }
}
