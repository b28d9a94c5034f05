//! The thread that finishes files of the disk cache: it has a lower priority than readers, and can be stopped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::stats::Counters;
use super::sync::{Condvar, Mutex, MutexGuard, lock, wait_timeout};

/// How much less important than others the finishing thread is, as `nice` counts.
const NICE: i32 = 19;

/// Lowers the priority of the calling thread, for work that nobody waits for.
pub fn be_nice() {
    // On Linux this is the thread alone. Without it the work is done all the same.
    let _ = rustix::process::setpriority_process(None, NICE);
}

type Task = Box<dyn FnOnce(&dyn Fn() -> bool) + Send>;

/// One thread that finishes files after each other.
pub struct Finisher(Arc<Shared>);

struct Shared {
    state: Mutex<Tasks>,
    changed: Condvar,
    stop: AtomicBool,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Tasks {
    waiting: VecDeque<Task>,
    running: bool,
    /// No task is taken any more.
    ended: bool,
}

impl std::fmt::Debug for Finisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Finisher").field(&lock(&self.0.state).waiting.len()).finish()
    }
}

impl Finisher {
    /// Without a thread until there is a task. Panics of tasks are counted in `counters`.
    pub fn new(counters: Arc<Counters>) -> Self {
        let (state, changed, stop) = (Mutex::default(), Condvar::new(), AtomicBool::new(false));
        Self(Arc::new(Shared { state, changed, stop, counters }))
    }

    /// Does `task` behind those that wait. It is told a function that says whether it should stop.
    pub fn add(&self, task: Task) {
        // A task may hold the last reference to a file that another was based on, and closing that adds a task: so no task is
        // dropped under the lock.
        let mut dropped = VecDeque::new();
        let mut tasks = lock(&self.0.state);
        if tasks.ended {
            dropped.push_back(task);
        } else {
            tasks.waiting.push_back(task);
        }
        if !tasks.running && !tasks.ended {
            let shared = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("finish".into()).spawn(move || work(&shared));
            tasks.running = thread.is_ok();
            if let Err(error) = thread {
                log::warn!("files of the disk cache are not finished: cannot start a thread: {error}");
                dropped.append(&mut tasks.waiting);
            }
        }
        drop(tasks);
        drop(dropped);
    }

    /// Waits for all tasks, and takes none any more. Tasks that are not done when three quarters of the time until `deadline` are
    /// over are stopped. A task whose source or disk hangs is left behind at the deadline.
    pub fn end(&self, deadline: Instant) {
        let begun = Instant::now();
        let stopping = begun + deadline.saturating_duration_since(begun) / 4 * 3;
        let mut tasks = lock(&self.0.state);
        tasks = self.wait(tasks, stopping);
        tasks.ended = true;
        let waiting = std::mem::take(&mut tasks.waiting);
        self.0.stop.store(true, Ordering::Relaxed);
        drop(tasks);
        drop(waiting);
        if self.wait(lock(&self.0.state), deadline).running {
            log::warn!("a file of the disk cache is not finished: its source or the disk does not answer");
        }
    }

    /// Waits until no task runs, at most until `until`.
    fn wait<'a>(&'a self, mut tasks: MutexGuard<'a, Tasks>, until: Instant) -> MutexGuard<'a, Tasks> {
        while tasks.running {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            tasks = wait_timeout(&self.0.changed, tasks, left).0;
        }
        tasks
    }
}

fn work(shared: &Shared) {
    be_nice();
    loop {
        let mut tasks = lock(&shared.state);
        let Some(task) = tasks.waiting.pop_front() else {
            tasks.running = false;
            drop(tasks);
            shared.changed.notify_all();
            return;
        };
        drop(tasks);
        let stop = || shared.stop.load(Ordering::Relaxed);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| task(&stop))).is_err() {
            Counters::add(&shared.counters.panics, 1);
            log::error!("defect in bsfs, please report it: finishing a file of the disk cache panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    fn finisher() -> Arc<Finisher> {
        Arc::new(Finisher::new(Arc::default()))
    }

    #[test]
    fn a_task_that_hangs_is_left_behind_at_the_deadline() {
        let finisher = finisher();
        let (release, hanging) = mpsc::channel::<()>();
        finisher.add(Box::new(move |_| assert!(hanging.recv().is_err())));
        finisher.add(Box::new(|_| unreachable!("it is dropped")));
        let (done, ended) = mpsc::channel();
        let ending = Arc::clone(&finisher);
        std::thread::spawn(move || {
            ending.end(Instant::now() + Duration::from_millis(200));
            done.send(()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(20)).expect("the end waits for a task that hangs");
        finisher.add(Box::new(|_| unreachable!("none is taken any more")));
        drop(release);
    }

    #[test]
    fn tasks_are_stopped_before_the_deadline_and_a_panic_ends_only_its_own() {
        let finisher = finisher();
        let (begin, begun) = mpsc::channel();
        let (done, stopped) = mpsc::channel();
        finisher.add(Box::new(|_| panic!("on purpose")));
        finisher.add(Box::new(move |stop| {
            begin.send(()).unwrap();
            while !stop() {
                std::thread::yield_now();
            }
            done.send(()).unwrap();
        }));
        begun.recv_timeout(Duration::from_secs(20)).unwrap();
        finisher.end(Instant::now() + Duration::from_millis(400));
        stopped.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(finisher.0.counters.snapshot().panics, 1);
    }

    /// Adds a task when it is dropped, as a file does that was read by half.
    struct Closing(Arc<Finisher>);

    impl Drop for Closing {
        fn drop(&mut self) {
            self.0.add(Box::new(|_| {}));
        }
    }

    #[test]
    fn a_task_that_is_dropped_at_the_end_may_add_another() {
        let finisher = finisher();
        let (release, hanging) = mpsc::channel::<()>();
        finisher.add(Box::new(move |_| assert!(hanging.recv().is_err())));
        let closing = Closing(Arc::clone(&finisher));
        finisher.add(Box::new(move |_| drop(closing)));
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || {
            finisher.end(Instant::now() + Duration::from_millis(100));
            done.send(()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(20)).expect("the end waits for itself");
        drop(release);
    }
}
