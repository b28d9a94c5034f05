//! How long calls to sources of this machine have been going on.
//!
//! The system gives no limit to a call that waits for a disk, a server of files or another process. Such a call cannot be
//! ended; a request that waits for its result asks here whether any has hung for too long.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

/// Times are told from here.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);
/// What each thread that made a call is at: when its call began, nanoseconds, or 0 for none.
static THREADS: Mutex<Vec<Weak<AtomicU64>>> = Mutex::new(Vec::new());

thread_local! {
    static THREAD: Arc<AtomicU64> = register();
}

fn register() -> Arc<AtomicU64> {
    let slot = Arc::new(AtomicU64::new(0));
    let mut threads = THREADS.lock();
    // Threads that have ended.
    threads.retain(|thread| thread.strong_count() > 0);
    threads.push(Arc::downgrade(&slot));
    slot
}

fn now() -> u64 {
    // Never 0, which is no call.
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// A call of this thread; over when it is dropped.
#[derive(Debug)]
pub struct Call {
    outermost: bool,
    /// It belongs to the thread that made it.
    _here: std::marker::PhantomData<*const ()>,
}

/// Says that this thread begins a call that may hang.
#[must_use]
pub fn call() -> Call {
    let begun = now();
    let begin = |slot: &Arc<AtomicU64>| slot.compare_exchange(0, begun, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    Call { outermost: THREAD.try_with(begin).unwrap_or(false), _here: std::marker::PhantomData }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.outermost {
            // Fails only while the thread ends.
            let _ = THREAD.try_with(|slot| slot.store(0, Ordering::Relaxed));
        }
    }
}

/// How long the longest of all calls that are going on has taken so far; nothing without any.
#[must_use]
pub fn longest() -> Duration {
    let threads = THREADS.lock();
    let begun = threads.iter().filter_map(Weak::upgrade).map(|slot| slot.load(Ordering::Relaxed));
    let first = begun.filter(|begun| *begun > 0).min();
    first.map_or(Duration::ZERO, |begun| Duration::from_nanos(now().saturating_sub(begun)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_hangs_is_seen_from_elsewhere_until_it_ends() {
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let hanging = std::thread::spawn(move || {
            let _outer = call();
            drop(call());
            hang.recv().unwrap_err();
        });
        while longest() < Duration::from_millis(300) {
            std::thread::yield_now();
        }
        drop(release);
        hanging.join().unwrap();
        assert!(longest() < Duration::from_millis(300));
    }
}
