//! Runs one request: counts and logs what goes wrong, and stops panics.
//!
//! A panic that reached fuser would end one of its session threads for good; after the last the mount hangs.

use std::any::Any;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fuser::Errno;
use log::{Level, error, log, warn};
use parking_lot::Mutex;

use super::errno;
use super::limit::Limit;
use super::meter::Meter;
use super::slow::Slow;
use crate::error::{Error, Result};

/// What went wrong since the start.
#[derive(Debug, Default)]
pub(super) struct Guard {
    errors: AtomicU64,
    panics: AtomicU64,
    /// Missing bases that were logged: every read would say so again.
    said: Mutex<HashSet<String>>,
    /// The last error, and when it was.
    last: Mutex<Option<(Instant, String)>>,
    pub(super) meter: Meter,
    pub(super) slow: Slow,
    limit: Limit,
}

/// Texts that are known again, at most.
const MAX_SAID: usize = 1000;

impl Guard {
    /// Answers of requests that are errors of the mount or of its source, panics included.
    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Requests that ended in a panic.
    pub(super) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Runs `work`. Its result may cross an unwind: modules below keep no half-made state outside of locks, and locks
    /// are taken whatever happened to their last holder.
    pub(super) fn run<T>(&self, op: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T, Errno> {
        self.run_since(Instant::now(), op, work)
    }

    /// The same for a request that was asked before.
    pub(super) fn run_since<T>(
        &self,
        asked: Instant,
        op: &'static str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T, Errno> {
        let done = self.catch(op, work);
        self.meter.request(op, asked.elapsed());
        done
    }

    /// Runs a part of a request, which is not counted as one.
    pub(super) fn catch<T>(&self, op: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T, Errno> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(result) => self.answer(op, result),
            Err(payload) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                self.panics.fetch_add(1, Ordering::Relaxed);
                self.meter.error(op, Errno::EIO.code());
                let text = format!("{op}: defect in bsfs, please report it: {}", text(&*payload));
                error!("{text}");
                self.note(text);
                Err(Errno::EIO)
            }
        }
    }

    /// Runs a part of what this process does by itself; `None` after a panic, so that the rest of it goes on.
    pub(super) fn own<T>(&self, what: &'static str, work: impl FnOnce() -> T) -> Option<T> {
        self.catch(what, || Ok(work())).ok()
    }

    /// Counts and logs what went wrong, and turns it into what the kernel gets.
    pub(super) fn answer<T>(&self, op: &'static str, result: Result<T>) -> Result<T, Errno> {
        result.map_err(|error| {
            let level = errno::level(&error);
            let errno = errno::of(&error);
            self.meter.error(op, errno.code());
            let text = format!("{op}: {error}");
            if level == Level::Error || matches!(error, Error::Remote { .. }) {
                self.errors.fetch_add(1, Ordering::Relaxed);
                self.note(text.clone());
            }
            let again = matches!(error, Error::NoBase { .. }) && !self.is_new(&text);
            let level = if again { Level::Debug } else { level };
            // When a disk dies every request says the same.
            let (write, kept) = if level > Level::Warn { (true, 0) } else { self.limit.ask(Instant::now()) };
            if kept > 0 {
                warn!("{kept} more lines on failed requests were not written");
            }
            if write {
                log!(level, "{text}");
            }
            errno
        })
    }

    fn note(&self, text: String) {
        *self.last.lock() = Some((Instant::now(), text));
    }

    /// The last error, and how long ago it was.
    pub(super) fn last(&self) -> Option<(Duration, String)> {
        let last = self.last.lock();
        last.as_ref().map(|(at, text)| (at.elapsed(), text.clone()))
    }

    fn is_new(&self, text: &str) -> bool {
        let mut said = self.said.lock();
        if said.len() >= MAX_SAID {
            said.clear();
        }
        said.insert(text.to_owned())
    }

    /// Counts a request that ended in a panic on another thread, which has logged it.
    pub(super) fn panicked(&self, op: &'static str) {
        self.meter.error(op, Errno::EIO.code());
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.panics.fetch_add(1, Ordering::Relaxed);
        self.note(format!("{op}: defect in bsfs, please report it; the log says more"));
    }
}

fn text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_eio_and_counted() {
        let guard = Guard::default();
        let answer: Result<(), Errno> = guard.run("read", || panic!("boom"));
        assert_eq!(answer, Err(Errno::EIO));
        assert_eq!((guard.panics(), guard.errors()), (1, 1));
        assert_eq!(guard.run("read", || Ok(7)), Ok(7), "the next request is served");
    }

    #[test]
    fn a_stale_inode_is_no_error_of_the_mount() {
        let guard = Guard::default();
        let answer: Result<(), Errno> = guard.run("open", || Err(Error::Changed { path: "f".into() }));
        assert_eq!((answer, guard.errors()), (Err(Errno::ESTALE), 0));
        let answer: Result<(), Errno> =
            guard.run("open", || Err(Error::Truncated { path: "f".into(), expected: 2, got: 1 }));
        assert_eq!((answer, guard.errors()), (Err(Errno::EIO), 1));
    }

    #[test]
    fn a_panic_keeps_its_message() {
        let payload = catch_unwind(|| panic!("number {}", 5)).unwrap_err();
        assert_eq!(text(&*payload), "number 5");
    }
}
