//! The threads that read and decode: what a reader waits for first, then what will be asked for.
//!
//! Readers that wait never queue behind work ahead, nor behind other files: a file may use only a part of the threads and of the
//! memory, so a source that hangs stalls its own readers. Work ahead runs on two threads more than there are cores, less those that
//! decode for readers.
//!
//! A job begins when the memory that it may need is reserved, and none waits for another job that has not begun: so jobs that run
//! always end, and those that wait always begin.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::buffer::{Pool, Reserved};
use super::stats::Counters;

/// Threads at most where there are few cores. Most of them wait for a source when there are so many.
const THREADS: usize = 32;
/// So many jobs for readers run at once whatever memory they need, two of them for one file.
const ANYWAY: usize = 8;
const OF_A_FILE: usize = 2;
/// A file may use one in so many threads for its readers.
const SHARE: usize = 4;
/// Threads beyond the cores that work ahead: those that wait for packed bytes leave a core to others.
const READING: usize = 2;
/// Work ahead that waits at most; the oldest is dropped, for its reader has gone on.
const QUEUE: usize = 1024;
/// A thread without work ends after this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something to do.
pub struct Job {
    /// Bytes of memory that it may need at once.
    need: u64,
    run: Box<dyn FnOnce() + Send>,
}

impl Job {
    /// One that may need `need` bytes of memory at once.
    pub fn new(need: usize, run: impl FnOnce() + Send + 'static) -> Self {
        Self { need: need as u64, run: Box::new(run) }
    }
}

/// What runs for the readers of a file.
#[derive(Default)]
struct Running {
    jobs: usize,
    need: u64,
}

#[derive(Default)]
struct State {
    demand: VecDeque<(u64, Job)>,
    ahead: VecDeque<Job>,
    files: HashMap<u64, Running>,
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
    pool: Arc<Pool>,
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
    Demand(u64, Job, Reserved),
    Ahead(Job, Reserved),
}

impl State {
    fn next(&mut self, Shared { cores, most, per_file, pool, .. }: &Shared) -> Option<Turn> {
        let share = pool.limit() / SHARE as u64;
        let free = |(file, job): &(u64, Job)| {
            self.files.get(file).is_none_or(|running| {
                running.jobs < *per_file && (running.jobs < OF_A_FILE || running.need + job.need <= share)
            })
        };
        let running: usize = self.files.values().map(|running| running.jobs).sum();
        if running < *most
            && let Some(at) = self.demand.iter().position(free)
            && let Some(need) = self.demand.get(at).map(|(_, job)| job.need)
            // One that needs much waits for its memory; those behind it would take it away.
            && let Some(reserved) =
                if running < ANYWAY { Some(pool.reserve(need)) } else { pool.try_reserve(need) }
            && let Some((file, job)) = self.demand.remove(at)
        {
            let running = self.files.entry(file).or_default();
            running.jobs += 1;
            running.need += need;
            return Some(Turn::Demand(file, job, reserved));
        }
        if self.running_ahead + self.decoding < *cores + READING
            && let Some(need) = self.ahead.front().map(|job| job.need)
            && let Some(reserved) = pool.try_reserve(need)
            && let Some(job) = self.ahead.pop_front()
        {
            self.running_ahead += 1;
            return Some(Turn::Ahead(job, reserved));
        }
        None
    }

    /// A job for a reader of `file` has ended.
    fn ended(&mut self, file: u64, need: u64) {
        if let Some(running) = self.files.get_mut(&file) {
            running.jobs -= 1;
            running.need -= need;
            if running.jobs == 0 {
                self.files.remove(&file);
            }
        }
    }
}

impl Workers {
    /// Threads for a machine of `cores` cores, whose jobs reserve memory of `pool`. Panics of work ahead are counted in `counters`.
    pub fn new(cores: usize, pool: Arc<Pool>, counters: Arc<Counters>) -> Self {
        let cores = cores.max(1);
        let most = THREADS.max(2 * cores);
        let (state, wake, per_file) = (Mutex::default(), Condvar::new(), most / SHARE);
        Self(Arc::new(Shared { state, wake, cores, most, per_file, pool, counters }))
    }

    /// Does `job` for a reader of `file`, as soon as possible. When no thread can be made it is done before this returns.
    pub fn demand(&self, file: u64, job: Job) {
        let mut state = lock_state(&self.0);
        if !self.staff(&mut state) {
            drop(state);
            let _reserved = self.0.pool.reserve(job.need);
            return (job.run)();
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
        let (file, Job { need, run }, reserved) = match turn {
            Turn::Demand(file, job, reserved) => (Some(file), job, reserved),
            Turn::Ahead(job, reserved) => (None, job, reserved),
        };
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            // The hook has logged the message. A reader got its error when the job was dropped, which counts the panic.
            Counters::add(&shared.counters.panics, file.is_none().into());
            log::error!("defect in bsfs, please report it: a decoding thread panicked");
        }
        drop(reserved);
        state = lock_state(shared);
        match file {
            Some(file) => state.ended(file, need),
            None => state.running_ahead -= 1,
        }
        // What this job leaves may be enough for more than the one that this thread takes next.
        if state.idle > 0 && state.demand.len() + state.ahead.len() > 1 {
            shared.wake.notify_one();
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
        let workers = Workers::new(2, Pool::new(256 << 20), Arc::default());
        let (release, hanging) = mpsc::channel::<()>();
        let hanging = Arc::new(Mutex::new(hanging));
        for _ in 0..200 {
            let hanging = Arc::clone(&hanging);
            workers.demand(1, Job::new(1 << 20, move || assert!(hanging.lock().unwrap().recv().is_err())));
        }
        let (done, answers) = mpsc::channel();
        for n in 0..10 {
            let done = done.clone();
            workers.demand(2, Job::new(1 << 20, move || done.send(n).unwrap()));
        }
        let got = (0..10).map(|_| answers.recv_timeout(SOON).unwrap()).max();
        assert_eq!(got, Some(9));
        drop(release);
    }

    #[test]
    fn readers_come_before_work_ahead_and_a_panic_ends_only_its_job() {
        let workers = Workers::new(1, Pool::new(0), Arc::default());
        let (done, order) = mpsc::channel();
        let guards: Vec<_> = (0..=READING).map(|_| workers.demanding()).collect();
        let say = |word: &'static str| {
            let done = done.clone();
            Job::new(0, move || done.send(word).unwrap())
        };
        workers.ahead([say("ahead")]);
        workers.demand(1, Job::new(0, || panic!("on purpose")));
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

    #[test]
    fn jobs_that_run_at_once_fit_the_memory_and_all_of_them_run() {
        const NEED: usize = 1 << 20;
        let pool = Pool::new(16 << 20);
        let workers = Workers::new(64, Arc::clone(&pool), Arc::default());
        let (now, peak) = (Arc::new(Mutex::new(0_usize)), Arc::new(Mutex::new(0_usize)));
        let (done, answers) = mpsc::channel();
        let job = |need: usize| {
            let (now, peak, done) = (Arc::clone(&now), Arc::clone(&peak), done.clone());
            Job::new(need, move || {
                let at_once = {
                    let mut now = now.lock().unwrap();
                    *now += need;
                    *now
                };
                peak.lock().map(|mut peak| *peak = at_once.max(*peak)).unwrap();
                std::thread::sleep(Duration::from_millis(2));
                *now.lock().unwrap() -= need;
                done.send(()).unwrap();
            })
        };
        for n in 0..500 {
            workers.demand(n % 20, job(NEED));
            workers.ahead([job(NEED)]);
        }
        // As much as there is at all, which is had when the others have ended, or beside the few that always run.
        workers.demand(1000, job(16 * NEED));
        for _ in 0..1001 {
            answers.recv_timeout(SOON).unwrap();
        }
        let peak = *peak.lock().unwrap();
        assert!(peak <= (12 + ANYWAY) * NEED + 16 * NEED, "{peak}");
        let begun = Instant::now();
        while pool.try_reserve(1 << 30).is_none() {
            assert!(begun.elapsed() < SOON, "something stays reserved");
        }
    }
}
