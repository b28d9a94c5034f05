//! The threads that read and decode: what somebody waits for first, then what will be asked for.
//!
//! Readers that wait never queue behind work ahead, nor behind other files: a file may use only a part of the threads, so a
//! source that hangs stalls its own readers. Work ahead runs on two threads more than there are cores, less those that decode
//! for readers.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::stats::Counters;

/// Threads at most where there are few cores. Most of them wait for a source when there are so many.
const THREADS: usize = 32;
/// What a thread may need for a reader, beside the cache: packed and decoded chunk, the answer, tables; bytes.
const PER_THREAD: u64 = 4 << 20;
/// What all of them may need beside the memory that the user gave, bytes.
const BESIDE: u64 = 32 << 20;
/// A file may use one in so many threads for its readers.
const SHARE: usize = 4;
/// Threads beyond the cores that work ahead: those that wait for packed bytes leave a core to others.
const READING: usize = 2;
/// Work ahead that waits at most; the oldest is dropped, for its reader has gone on.
const QUEUE: usize = 1024;
/// A thread without work ends after this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something to do.
pub type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    demand: VecDeque<(u64, Job)>,
    ahead: VecDeque<Job>,
    /// Jobs of each file that run for readers.
    files: HashMap<u64, usize>,
    threads: usize,
    idle: usize,
    /// Decodes that readers wait for.
    decoding: usize,
    /// Jobs ahead that run.
    running_ahead: usize,
    stopped: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    cores: usize,
    /// Jobs for readers that run at once, at most, and those of one file.
    most: usize,
    per_file: usize,
    counters: Arc<Counters>,
}

/// The threads. They are made when there is work, and end after a while without, or when this is dropped.
pub struct Workers(Arc<Shared>);

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Workers").field(&self.0.cores).finish()
    }
}

/// While it lives, a reader waits for a decode, and one core less works ahead.
pub struct Demanding<'a>(&'a Shared);

impl Drop for Demanding<'_> {
    fn drop(&mut self) {
        let mut state = lock_state(self.0);
        state.decoding -= 1;
        if !state.ahead.is_empty() {
            self.0.wake.notify_one();
        }
    }
}

fn lock_state(shared: &Shared) -> std::sync::MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Turn {
    Demand(u64, Job),
    Ahead(Job),
}

impl State {
    fn next(&mut self, Shared { cores, most, per_file, .. }: &Shared) -> Option<Turn> {
        let free = |(file, _): &(u64, Job)| self.files.get(file).is_none_or(|running| running < per_file);
        if self.files.values().sum::<usize>() < *most
            && let Some(at) = self.demand.iter().position(free)
            && let Some((file, job)) = self.demand.remove(at)
        {
            *self.files.entry(file).or_default() += 1;
            return Some(Turn::Demand(file, job));
        }
        if self.running_ahead + self.decoding < *cores + READING
            && let Some(job) = self.ahead.pop_front()
        {
            self.running_ahead += 1;
            return Some(Turn::Ahead(job));
        }
        None
    }
}

impl Workers {
    /// Threads for a machine of `cores` cores, and as many as fit `memory` (bytes) and some beside it. Panics of work ahead are
    /// counted in `counters`.
    pub fn new(cores: usize, memory: u64, counters: Arc<Counters>) -> Self {
        let cores = cores.max(1);
        let fit = usize::try_from(memory.saturating_add(BESIDE) / PER_THREAD).unwrap_or(usize::MAX);
        let most = fit.clamp(SHARE, THREADS.max(2 * cores));
        let (state, wake, per_file) = (Mutex::default(), Condvar::new(), most / SHARE);
        Self(Arc::new(Shared { state, wake, cores, most, per_file, counters }))
    }

    /// Does `job` for a reader of `file`, as soon as possible. When no thread can be made it is done before this returns.
    pub fn demand(&self, file: u64, job: Job) {
        let mut state = lock_state(&self.0);
        if !self.staff(&mut state) {
            drop(state);
            return job();
        }
        state.demand.push_back((file, job));
        drop(state);
        self.0.wake.notify_one();
    }

    /// Does jobs when there is time, in this order.
    pub fn ahead(&self, jobs: impl IntoIterator<Item = Job>) {
        let mut state = lock_state(&self.0);
        let before = state.ahead.len();
        state.ahead.extend(jobs);
        let added = state.ahead.len() - before;
        let mut dropped = Vec::new();
        while state.ahead.len() > QUEUE {
            dropped.extend(state.ahead.pop_front());
        }
        for _ in 0..added.min(self.0.cores) {
            if self.staff(&mut state) {
                self.0.wake.notify_one();
            }
        }
        drop(state);
        // Jobs may hold the last reference to a file.
        drop(dropped);
    }

    /// Says that a reader waits for a decode as long as the value lives.
    pub fn demanding(&self) -> Demanding<'_> {
        lock_state(&self.0).decoding += 1;
        Demanding(&self.0)
    }

    /// Sees to it that somebody can take one more job. `false` when there is no thread and none can be made.
    fn staff(&self, state: &mut State) -> bool {
        let waiting = state.demand.len() + state.ahead.len().min(self.0.cores);
        if state.idle > waiting || state.threads >= self.0.most + self.0.cores {
            return true;
        }
        let shared = Arc::clone(&self.0);
        let made = std::thread::Builder::new().name("decode".into()).spawn(move || work(&shared));
        state.threads += usize::from(made.is_ok());
        state.threads > 0
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut state = lock_state(&self.0);
        state.stopped = true;
        let left = (std::mem::take(&mut state.demand), std::mem::take(&mut state.ahead));
        drop(state);
        self.0.wake.notify_all();
        drop(left);
    }
}

fn work(shared: &Shared) {
    let mut state = lock_state(shared);
    loop {
        if state.stopped {
            break;
        }
        let Some(turn) = state.next(shared) else {
            state.idle += 1;
            let waited = shared.wake.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            state.idle -= 1;
            if waited.1.timed_out() && state.demand.is_empty() && state.ahead.is_empty() {
                break;
            }
            continue;
        };
        drop(state);
        let (file, job) = match turn {
            Turn::Demand(file, job) => (Some(file), job),
            Turn::Ahead(job) => (None, job),
        };
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            // The hook has logged the message. A reader got its error when the job was dropped, which counts the panic.
            Counters::add(&shared.counters.panics, file.is_none().into());
            log::error!("defect in bsfs, please report it: a decoding thread panicked");
        }
        state = lock_state(shared);
        match file {
            Some(file) => {
                if let Some(running) = state.files.get_mut(&file) {
                    *running -= 1;
                    if *running == 0 {
                        state.files.remove(&file);
                    }
                }
            }
            None => state.running_ahead -= 1,
        }
    }
    state.threads -= 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Instant;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn a_file_that_hangs_leaves_threads_to_others() {
        let workers = Workers::new(2, 256 << 20, Arc::default());
        let (release, hanging) = mpsc::channel::<()>();
        let hanging = Arc::new(Mutex::new(hanging));
        for _ in 0..200 {
            let hanging = Arc::clone(&hanging);
            workers.demand(1, Box::new(move || assert!(hanging.lock().unwrap().recv().is_err())));
        }
        let (done, answers) = mpsc::channel();
        for n in 0..10 {
            let done = done.clone();
            workers.demand(2, Box::new(move || done.send(n).unwrap()));
        }
        let got = (0..10).map(|_| answers.recv_timeout(SOON).unwrap()).max();
        assert_eq!(got, Some(9));
        drop(release);
    }

    #[test]
    fn readers_come_before_work_ahead_and_a_panic_ends_only_its_job() {
        let workers = Workers::new(1, 0, Arc::default());
        let (done, order) = mpsc::channel();
        let guards: Vec<_> = (0..=READING).map(|_| workers.demanding()).collect();
        let say = |word: &'static str| {
            let done = done.clone();
            Box::new(move || done.send(word).unwrap()) as Job
        };
        workers.ahead([say("ahead")]);
        workers.demand(1, Box::new(|| panic!("on purpose")));
        workers.demand(1, say("reader"));
        assert_eq!(order.recv_timeout(SOON), Ok("reader"));
        assert!(
            order.recv_timeout(Duration::from_millis(50)).is_err(),
            "all threads that may decode do so for readers"
        );
        drop(guards);
        assert_eq!(order.recv_timeout(SOON), Ok("ahead"));
        let begun = Instant::now();
        drop(workers);
        assert!(begun.elapsed() < SOON);
    }
}
