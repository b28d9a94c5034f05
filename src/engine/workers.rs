//! The threads that read and decode: what a reader waits for first, then what will be asked for.
//!
//! Readers that wait never queue behind work ahead, nor behind other sources and files: a source may use only so many threads and
//! so much memory, and a file only a part of these, so a source that hangs stalls its own readers. Work ahead runs on two threads
//! more than there are cores, less those that decode for readers; threads that a source holds up are not counted there.
//!
//! A job begins when the memory that it may need is reserved, and none waits for another job that has not begun: so jobs that run
//! always end, and those that wait always begin.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::buffer::{Pool, Reserved};
use super::stats::Counters;
use super::sync::{Condvar, Mutex, MutexGuard, lock, wait_timeout};
use crate::source::ReadAt;

/// Threads for one source at most where there are few cores. Most of them wait for it when there are so many.
const THREADS: usize = 32;
/// So many jobs for readers of one source run at once whatever memory they need, two of them for one file.
const ANYWAY: usize = 8;
const OF_A_FILE: usize = 2;
/// A source may use one in so many bytes of the memory for the other jobs of its readers.
const SOURCE_SHARE: u64 = 2;
/// A file may use one in so many threads of its source for its readers, and one in so many bytes of the memory.
const SHARE: usize = 4;
/// The same where requests are short: they wait only where the source hangs.
const SHORT_SHARE: usize = 8;
/// Sources that hang at once and leave threads to others, and one more.
const SOURCES: usize = 4;
/// Threads beyond the cores that work ahead: those that wait for packed bytes leave a core to others.
const READING: usize = 2;
/// Work ahead that waits at most; the oldest is dropped, for its reader has gone on.
const QUEUE: usize = 1024;
/// A thread without work ends after this long.
const PATIENCE: Duration = Duration::from_secs(10);
/// A source with jobs of which none has ended for so long hangs.
const HANGS: Duration = Duration::from_secs(2);

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

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Job").field(&self.need).finish()
    }
}

/// Jobs that run for readers, and the memory that they may need, bytes.
#[derive(Default)]
struct Running {
    jobs: usize,
    need: u64,
}

impl Running {
    fn begun(&mut self, need: u64) {
        self.jobs += 1;
        self.need += need;
    }

    fn ended(&mut self, need: u64) {
        self.jobs -= 1;
        self.need -= need;
    }
}

/// What a job may have to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lane {
    /// What hangs as a whole, if it does: the number of a file system's device, or any number that is none.
    pub source: u64,
    /// Any number that tells files of this source apart.
    pub file: u64,
}

impl Lane {
    /// That of an open file.
    pub(crate) fn of(source: &dyn ReadAt, file: u64) -> Self {
        Self { source: source.identity().map_or(0, |identity| identity.dev), file }
    }
}

#[derive(Default)]
struct State {
    demand: VecDeque<(Lane, Job)>,
    /// With their sources.
    ahead: VecDeque<(u64, Job)>,
    /// What runs, by source.
    sources: HashMap<u64, Source>,
    threads: usize,
    idle: usize,
    /// Idle threads that were called and have not yet looked for work, and those of them that are still to be woken.
    called: usize,
    to_wake: usize,
    /// A job waits for memory, of which others may leave enough for several.
    short: bool,
    stopped: bool,
}

/// What runs for one source.
struct Source {
    /// Jobs for readers, in all and of each file.
    running: Running,
    files: HashMap<u64, Running>,
    /// Decodes that readers wait for.
    decoding: usize,
    /// Jobs ahead.
    ahead: usize,
    /// When something of it ended last, or the first of it began.
    moved: Instant,
}

impl Source {
    fn new() -> Self {
        Self { running: Running::default(), files: HashMap::new(), decoding: 0, ahead: 0, moved: Instant::now() }
    }

    /// Threads that are not for others to work ahead.
    fn busy(&self) -> usize {
        self.ahead + self.decoding
    }

    fn hangs(&self, now: Instant) -> bool {
        now.duration_since(self.moved) > HANGS
    }
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    cores: usize,
    /// Jobs for readers of one source that run at once, at most, and those of one file.
    most: usize,
    per_file: usize,
    /// What the threads are called.
    name: &'static str,
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
pub struct Demanding<'a>(&'a Shared, u64);

impl Drop for Demanding<'_> {
    fn drop(&mut self) {
        let mut state = lock_state(self.0);
        state.ended(self.1, |source| source.decoding -= 1);
        if !state.ahead.is_empty() {
            state.call();
        }
        self.0.unlock(state);
    }
}

fn lock_state(shared: &Shared) -> MutexGuard<'_, State> {
    lock(&shared.state)
}

impl Shared {
    /// Gives the lock up, then wakes the threads that were called: they need it first of all.
    fn unlock(&self, mut state: MutexGuard<'_, State>) {
        let to_wake = std::mem::take(&mut state.to_wake);
        drop(state);
        (0..to_wake).for_each(|_| self.wake.notify_one());
    }
}

enum Turn {
    Demand(Lane, Job, Reserved),
    Ahead(u64, Job, Reserved),
}

impl State {
    fn next(&mut self, Shared { cores, most, per_file, pool, .. }: &Shared) -> Option<Turn> {
        let (of_source, of_file) = (pool.limit() / SOURCE_SHARE, pool.limit() / SHARE as u64);
        let (mut full, mut refused) = (None, false);
        for at in 0..self.demand.len() {
            let Some((lane, need)) = self.demand.get(at).map(|(lane, job)| (*lane, job.need)) else { break };
            if full == Some(lane.source) {
                continue;
            }
            let mut must = true;
            if let Some(source) = self.sources.get(&lane.source) {
                let running = &source.running;
                must = running.jobs < ANYWAY;
                if running.jobs >= *most || (!must && running.need + need > of_source) {
                    full = Some(lane.source);
                    continue;
                }
                let is_full = |running: &Running| {
                    running.jobs >= *per_file || (running.jobs >= OF_A_FILE && running.need + need > of_file)
                };
                if source.files.get(&lane.file).is_some_and(is_full) {
                    continue;
                }
            }
            // One that needs much waits for its memory; those behind it would take it away, but for those that run in any case.
            if refused && !must {
                continue;
            }
            let Some(reserved) = self.memory(need, pool, must) else {
                refused = true;
                continue;
            };
            let (lane, job) = self.demand.remove(at)?;
            let source = self.source(lane.source);
            source.running.begun(need);
            source.files.entry(lane.file).or_default().begun(need);
            return Some(Turn::Demand(lane, job, reserved));
        }
        if self.ahead.is_empty() {
            return None;
        }
        let (now, room) = (Instant::now(), cores + READING);
        let moving = self.moving(now);
        let free = |(source, _): &(u64, Job)| match self.sources.get(source) {
            Some(source) => source.busy() < room && (moving < room || source.hangs(now)),
            None => moving < room,
        };
        let at = self.ahead.iter().position(free)?;
        let need = self.ahead.get(at)?.1.need;
        let reserved = self.memory(need, pool, false)?;
        let (source, job) = self.ahead.remove(at)?;
        self.source(source).ahead += 1;
        Some(Turn::Ahead(source, job, reserved))
    }

    /// Threads that sources which do not hang keep busy.
    fn moving(&self, now: Instant) -> usize {
        self.sources.values().filter(|source| !source.hangs(now)).map(Source::busy).sum()
    }

    /// Reserves memory for a job; in any case if it `must` run.
    fn memory(&mut self, need: u64, pool: &Arc<Pool>, must: bool) -> Option<Reserved> {
        let reserved = if must { Some(pool.reserve(need)) } else { pool.try_reserve(need) };
        self.short |= reserved.is_none();
        reserved
    }

    /// Calls an idle thread, if there is one that was not called yet. [`Shared::unlock`] wakes it.
    fn call(&mut self) -> bool {
        let idle = self.idle > self.called;
        self.called += usize::from(idle);
        self.to_wake += usize::from(idle);
        idle
    }

    fn source(&mut self, number: u64) -> &mut Source {
        self.sources.entry(number).or_insert_with(Source::new)
    }

    /// Something of a source ended, which `what` takes note of.
    fn ended(&mut self, number: u64, what: impl FnOnce(&mut Source)) {
        let source = self.source(number);
        what(source);
        source.moved = Instant::now();
        if source.running.jobs + source.busy() == 0 {
            self.sources.remove(&number);
        }
    }
}

impl Workers {
    /// Threads for a machine of `cores` cores, whose jobs reserve memory of `pool`. Panics of work ahead are counted in `counters`.
    pub fn new(cores: usize, pool: Arc<Pool>, counters: Arc<Counters>) -> Self {
        let cores = cores.max(1);
        let most = THREADS.max(2 * cores);
        Self::of((cores, most, most / SHARE), "decode", (pool, counters))
    }

    /// Threads for requests that are short unless their source hangs, and take no memory to speak of.
    #[must_use]
    pub fn for_short_requests() -> Self {
        Self::of((1, THREADS, THREADS / SHORT_SHARE), "metadata", (Pool::new(0), Arc::default()))
    }

    fn of(
        (cores, most, per_file): (usize, usize, usize),
        name: &'static str,
        (pool, counters): (Arc<Pool>, Arc<Counters>),
    ) -> Self {
        let (state, wake) = (Mutex::default(), Condvar::new());
        Self(Arc::new(Shared { state, wake, cores, most, per_file, name, pool, counters }))
    }

    /// Does `job` for a reader as soon as possible. When no thread can be made it is done before this returns.
    pub fn demand(&self, lane: Lane, job: Job) {
        let mut state = lock_state(&self.0);
        if !self.staff(&mut state) {
            drop(state);
            let _reserved = self.0.pool.reserve(job.need);
            return (job.run)();
        }
        state.demand.push_back((lane, job));
        self.0.unlock(state);
    }

    /// Does jobs on bytes of a source when there is time, in this order.
    pub fn ahead(&self, source: u64, jobs: impl IntoIterator<Item = Job>) {
        let mut state = lock_state(&self.0);
        let before = state.ahead.len();
        state.ahead.extend(jobs.into_iter().map(|job| (source, job)));
        let added = state.ahead.len() - before;
        let mut dropped = Vec::new();
        while state.ahead.len() > QUEUE {
            dropped.extend(state.ahead.pop_front());
        }
        // Where there is no room, who ends a job takes the next.
        let room = (self.0.cores + READING).saturating_sub(state.moving(Instant::now()));
        for _ in 0..added.min(self.0.cores).min(room) {
            self.staff(&mut state);
        }
        self.0.unlock(state);
        // Jobs may hold the last reference to a file.
        drop(dropped);
    }

    /// Says that a reader waits for a decode of bytes of a source as long as the value lives.
    pub fn demanding(&self, source: u64) -> Demanding<'_> {
        lock_state(&self.0).source(source).decoding += 1;
        Demanding(&self.0, source)
    }

    /// Sees to it that a thread takes one more job, which is in the queue before the lock is given up. `false` when there is no
    /// thread and none can be made.
    fn staff(&self, state: &mut State) -> bool {
        if state.call() {
            return true;
        }
        if state.threads < SOURCES * self.0.most + self.0.cores {
            let shared = Arc::clone(&self.0);
            let made = std::thread::Builder::new().name(self.0.name.into()).spawn(move || work(&shared));
            state.threads += usize::from(made.is_ok());
        }
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
            (0..std::mem::take(&mut state.to_wake)).for_each(|_| shared.wake.notify_one());
            state.idle += 1;
            let timed_out;
            (state, timed_out) = wait_timeout(&shared.wake, state, PATIENCE);
            state.idle -= 1;
            state.called = if timed_out { state.called.min(state.idle) } else { state.called.saturating_sub(1) };
            if timed_out && state.demand.is_empty() && state.ahead.is_empty() {
                break;
            }
            continue;
        };
        shared.unlock(state);
        let (source, file, Job { need, run }, reserved) = match turn {
            Turn::Demand(Lane { source, file }, job, reserved) => (source, Some(file), job, reserved),
            Turn::Ahead(source, job, reserved) => (source, None, job, reserved),
        };
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            // The hook has logged the message. A reader got its error when the job was dropped, which counts the panic.
            Counters::add(&shared.counters.panics, file.is_none().into());
            log::error!("defect in bsfs, please report it: a {} thread panicked", shared.name);
        }
        drop(reserved);
        state = lock_state(shared);
        state.ended(source, |source| match file {
            Some(file) => {
                source.running.ended(need);
                if let Some(running) = source.files.get_mut(&file) {
                    running.ended(need);
                    if running.jobs == 0 {
                        source.files.remove(&file);
                    }
                }
            }
            None => source.ahead -= 1,
        });
        // What this job leaves may be enough for more than the one that this thread takes next.
        if std::mem::take(&mut state.short) {
            state.call();
        }
    }
    state.threads -= 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const SOON: Duration = Duration::from_secs(20);

    fn lane(source: u64, file: u64) -> Lane {
        Lane { source, file }
    }

    /// Jobs that hang until the sender is dropped.
    fn hanging() -> (mpsc::Sender<()>, impl Fn() -> Job) {
        let (release, hanging) = mpsc::channel::<()>();
        let hanging = Arc::new(Mutex::new(hanging));
        let job = move || {
            let hanging = Arc::clone(&hanging);
            Job::new(1 << 20, move || assert!(hanging.lock().unwrap().recv().is_err()))
        };
        (release, job)
    }

    #[test]
    fn a_file_or_source_that_hangs_leaves_threads_to_others() {
        let workers = Workers::new(2, Pool::new(256 << 20), Arc::default());
        let (release, hang) = hanging();
        let (done, answers) = mpsc::channel();
        let answered = |lane| {
            for n in 0..10 {
                let done = done.clone();
                workers.demand(lane, Job::new(1 << 20, move || done.send(n).unwrap()));
            }
            assert_eq!((0..10).map(|_| answers.recv_timeout(SOON).unwrap()).max(), Some(9));
        };
        for _ in 0..200 {
            workers.demand(lane(1, 1), hang());
        }
        answered(lane(1, 2));
        // As many files of one source as there are threads for it, and of another source.
        for file in 0..200 {
            workers.demand(lane(1, file), hang());
            workers.demand(lane(2, file), hang());
        }
        answered(lane(3, 1));
        drop(release);
        answered(lane(1, 1));
    }

    #[test]
    fn sources_that_hang_and_hold_all_memory_leave_others_what_runs_in_any_case() {
        let pool = Pool::new(16 << 20);
        let workers = Workers::new(2, Arc::clone(&pool), Arc::default());
        let (release, hang) = hanging();
        for (source, file) in (0..64).map(|n| (n % 2, n / 2)) {
            workers.demand(lane(source, file), hang());
        }
        let begun = Instant::now();
        while lock_state(&workers.0).sources.values().map(|source| source.running.jobs).sum::<usize>() < 12 {
            assert!(begun.elapsed() < SOON, "what hangs has begun");
        }
        let (done, answers) = mpsc::channel();
        workers.demand(lane(3, 1), Job::new(4 << 20, move || done.send(()).unwrap()));
        answers.recv_timeout(SOON).unwrap();
        drop(release);
    }

    #[test]
    fn a_source_that_hangs_does_not_end_work_ahead_for_others() {
        let workers = Workers::new(1, Pool::new(256 << 20), Arc::default());
        let (release, hang) = hanging();
        let _decodes = [workers.demanding(1), workers.demanding(1)];
        workers.ahead(1, (0..10).map(|_| hang()));
        let (done, order) = mpsc::channel();
        let begun = Instant::now();
        while begun.elapsed() < SOON && order.try_recv().is_err() {
            let done = done.clone();
            // The reader has gone by then when this fails.
            workers.ahead(2, [Job::new(1 << 20, move || _ = done.send(()))]);
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(begun.elapsed() < SOON, "work ahead of the other source");
        drop(release);
    }

    #[test]
    fn readers_come_before_work_ahead_and_a_panic_ends_only_its_job() {
        let workers = Workers::new(1, Pool::new(0), Arc::default());
        let (done, order) = mpsc::channel();
        let guards: Vec<_> = (0..=READING).map(|_| workers.demanding(1)).collect();
        let say = |word: &'static str| {
            let done = done.clone();
            Job::new(0, move || done.send(word).unwrap())
        };
        workers.ahead(1, [say("ahead")]);
        workers.demand(lane(1, 1), Job::new(0, || panic!("on purpose")));
        workers.demand(lane(1, 1), say("reader"));
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
            workers.demand(lane(1, n % 20), job(NEED));
            workers.ahead(1, [job(NEED)]);
        }
        // As much as there is at all, which is had when the others have ended, or beside the few that always run.
        workers.demand(lane(1, 1000), job(16 * NEED));
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
