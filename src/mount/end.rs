//! The end of a mount: one deadline for all that is done after it, whatever hangs then.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use log::{error, warn};

/// How long a mount may take to end once its connection has: files of the disk cache that are nearly whole are finished.
/// `TimeoutStopSec` in scripts/systemd is longer than this and [`GRACE`](super::signals::GRACE) together.
pub(super) const END: Duration = Duration::from_secs(20);

/// Does `work` on a thread of its own, which is told the deadline, and waits for it until then. A disk or a source that hangs may
/// keep the thread; it ends with the process.
pub(super) fn by_deadline(limit: Duration, work: impl FnOnce(Instant) + Send + 'static) {
    let deadline = Instant::now() + limit;
    let (send, done) = mpsc::channel();
    let run = move || {
        work(deadline);
        // The receiver is gone after the deadline.
        let _ = send.send(());
    };
    if let Err(error) = thread::Builder::new().name("end".into()).spawn(run) {
        error!("ending at once: cannot start a thread: {error}");
        return;
    }
    match done.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(()) => {}
        Err(mpsc::RecvTimeoutError::Disconnected) => error!("defect in bsfs, please report it: the end panicked"),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            warn!("ending with a part undone after {} s: the source or a disk does not answer", limit.as_secs());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_hangs_or_panics_does_not_hold_up_the_end() {
        let (release, hanging) = mpsc::channel::<()>();
        let begun = Instant::now();
        by_deadline(Duration::from_millis(100), move |_| assert!(hanging.recv().is_err()));
        by_deadline(Duration::from_secs(60), |_| panic!("on purpose"));
        by_deadline(Duration::from_secs(60), |deadline| assert!(deadline > Instant::now()));
        assert!(begun.elapsed() < Duration::from_secs(30));
        drop(release);
    }
}
