//! The threads that read and decode: what a reader waits for first, then what will be asked for.
//!
//! Readers that wait never queue behind work ahead, nor behind other sources and files: a source may use only so many threads,
//! and a file only a part of these, so a source that hangs stalls its own readers. Work ahead runs on two threads more than
//! there are cores, less those that decode for readers; threads that a source holds up are not counted there.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::stats::Counters;
use crate::source::ReadAt;

/// Threads for one source at most where there are few cores. Most of them wait for it when there are so many.
const THREADS: usize = 32;
/// What a thread may need for a reader, beside the cache: packed and decoded chunk, the answer, tables; bytes.
const PER_THREAD: u64 = 4 << 20;
/// What all of them may need beside the memory that the user gave, bytes.
const BESIDE: u64 = 32 << 20;
/// A file may use one in so many threads of its source for its readers.
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
pub type Job = Box<dyn FnOnce() + Send>;

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
    pub(super) fn of(source: &dyn ReadAt, file: u64) -> Self {
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
    /// Idle threads that were woken and have not yet looked for work.
    called: usize,
    stopped: bool,
}

/// What runs for one source.
struct Source {
    /// Jobs for readers, in all and of each file.
    running: usize,
    files: HashMap<u64, usize>,
    /// Decodes that readers wait for.
    decoding: usize,
    /// Jobs ahead.
    ahead: usize,
    /// When something of it ended last, or the first of it began.
    moved: Instant,
}

impl Source {
    fn new() -> Self {
        Self { running: 0, files: HashMap::new(), decoding: 0, ahead: 0, moved: Instant::now() }
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
            self.0.wake.notify_one();
        }
    }
}

fn lock_state(shared: &Shared) -> std::sync::MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Turn {
    Demand(Lane, Job),
    Ahead(u64, Job),
}

impl State {
    fn next(&mut self, Shared { cores, most, per_file, .. }: &Shared) -> Option<Turn> {
        let mut full = None;
        let free = |(lane, _): &(Lane, Job)| {
            if full == Some(lane.source) {
                return false;
            }
            let Some(source) = self.sources.get(&lane.source) else { return true };
            if source.running >= *most {
                full = Some(lane.source);
                return false;
            }
            source.files.get(&lane.file).is_none_or(|running| running < per_file)
        };
        if let Some(at) = self.demand.iter().position(free)
            && let Some((lane, job)) = self.demand.remove(at)
        {
            let source = self.source(lane.source);
            source.running += 1;
            *source.files.entry(lane.file).or_default() += 1;
            return Some(Turn::Demand(lane, job));
        }
        if self.ahead.is_empty() {
            return None;
        }
        let (now, room) = (Instant::now(), cores + READING);
        let moving: usize = self.sources.values().filter(|source| !source.hangs(now)).map(Source::busy).sum();
        let free = |(source, _): &(u64, Job)| match self.sources.get(source) {
            Some(source) => source.busy() < room && (moving < room || source.hangs(now)),
            None => moving < room,
        };
        let at = self.ahead.iter().position(free)?;
        let (source, job) = self.ahead.remove(at)?;
        self.source(source).ahead += 1;
        Some(Turn::Ahead(source, job))
    }

    fn source(&mut self, number: u64) -> &mut Source {
        self.sources.entry(number).or_insert_with(Source::new)
    }

    /// Something of a source ended, which `what` takes note of.
    fn ended(&mut self, number: u64, what: impl FnOnce(&mut Source)) {
        let source = self.source(number);
        what(source);
        source.moved = Instant::now();
        if source.running + source.busy() == 0 {
            self.sources.remove(&number);
        }
    }
}

impl Workers {
    /// Threads for a machine of `cores` cores, and for each source as many as fit `memory` (bytes) and some beside it. Panics of
    /// work ahead are counted in `counters`.
    pub fn new(cores: usize, memory: u64, counters: Arc<Counters>) -> Self {
        let cores = cores.max(1);
        let fit = usize::try_from(memory.saturating_add(BESIDE) / PER_THREAD).unwrap_or(usize::MAX);
        let most = fit.clamp(SHARE, THREADS.max(2 * cores));
        Self::of((cores, most, most / SHARE), "decode", counters)
    }

    /// Threads for requests that are short unless their source hangs, and take no memory to speak of.
    #[must_use]
    pub fn for_short_requests() -> Self {
        Self::of((1, THREADS, THREADS / SHORT_SHARE), "metadata", Arc::default())
    }

    fn of((cores, most, per_file): (usize, usize, usize), name: &'static str, counters: Arc<Counters>) -> Self {
        let (state, wake) = (Mutex::default(), Condvar::new());
        Self(Arc::new(Shared { state, wake, cores, most, per_file, name, counters }))
    }

    /// Does `job` for a reader as soon as possible. When no thread can be made it is done before this returns.
    pub fn demand(&self, lane: Lane, job: Job) {
        let mut state = lock_state(&self.0);
        let Some(wake) = self.staff(&mut state) else {
            drop(state);
            return job();
        };
        state.demand.push_back((lane, job));
        drop(state);
        if wake {
            self.0.wake.notify_one();
        }
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
        for _ in 0..added.min(self.0.cores) {
            if self.staff(&mut state) == Some(true) {
                self.0.wake.notify_one();
            }
        }
        drop(state);
        // Jobs may hold the last reference to a file.
        drop(dropped);
    }

    /// Says that a reader waits for a decode of bytes of a source as long as the value lives.
    pub fn demanding(&self, source: u64) -> Demanding<'_> {
        lock_state(&self.0).source(source).decoding += 1;
        Demanding(&self.0, source)
    }

    /// Sees to it that a thread takes one more job; gives whether an idle one must be woken for it. `None` when there is no
    /// thread and none can be made.
    fn staff(&self, state: &mut State) -> Option<bool> {
        if state.idle > state.called {
            state.called += 1;
            return Some(true);
        }
        if state.threads < SOURCES * self.0.most + self.0.cores {
            let shared = Arc::clone(&self.0);
            let made = std::thread::Builder::new().name(self.0.name.into()).spawn(move || work(&shared));
            state.threads += usize::from(made.is_ok());
        }
        (state.threads > 0).then_some(false)
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
            let timed_out = waited.1.timed_out();
            state.called = if timed_out { state.called.min(state.idle) } else { state.called.saturating_sub(1) };
            if timed_out && state.demand.is_empty() && state.ahead.is_empty() {
                break;
            }
            continue;
        };
        drop(state);
        let (source, file, job) = match turn {
            Turn::Demand(Lane { source, file }, job) => (source, Some(file), job),
            Turn::Ahead(source, job) => (source, None, job),
        };
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            // The hook has logged the message. A reader got its error when the job was dropped, which counts the panic.
            Counters::add(&shared.counters.panics, file.is_none().into());
            log::error!("defect in bsfs, please report it: a {} thread panicked", shared.name);
        }
        state = lock_state(shared);
        state.ended(source, |source| match file {
            Some(file) => {
                source.running -= 1;
                if let Some(running) = source.files.get_mut(&file) {
                    *running -= 1;
                    if *running == 0 {
                        source.files.remove(&file);
                    }
                }
            }
            None => source.ahead -= 1,
        });
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
            Box::new(move || assert!(hanging.lock().unwrap().recv().is_err())) as Job
        };
        (release, job)
    }

    #[test]
    fn a_file_or_source_that_hangs_leaves_threads_to_others() {
        let workers = Workers::new(2, 256 << 20, Arc::default());
        let (release, hang) = hanging();
        let (done, answers) = mpsc::channel();
        let answered = |lane| {
            for n in 0..10 {
                let done = done.clone();
                workers.demand(lane, Box::new(move || done.send(n).unwrap()));
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
    fn a_source_that_hangs_does_not_end_work_ahead_for_others() {
        let workers = Workers::new(1, 256 << 20, Arc::default());
        let (release, hang) = hanging();
        let _decodes = [workers.demanding(1), workers.demanding(1)];
        workers.ahead(1, (0..10).map(|_| hang()));
        let (done, order) = mpsc::channel();
        let begun = Instant::now();
        while begun.elapsed() < SOON && order.try_recv().is_err() {
            let done = done.clone();
            // The reader has gone by then when this fails.
            workers.ahead(2, [Box::new(move || _ = done.send(())) as Job]);
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(begun.elapsed() < SOON, "work ahead of the other source");
        drop(release);
    }

    #[test]
    fn readers_come_before_work_ahead_and_a_panic_ends_only_its_job() {
        let workers = Workers::new(1, 0, Arc::default());
        let (done, order) = mpsc::channel();
        let guards: Vec<_> = (0..=READING).map(|_| workers.demanding(1)).collect();
        let say = |word: &'static str| {
            let done = done.clone();
            Box::new(move || done.send(word).unwrap()) as Job
        };
        workers.ahead(1, [say("ahead")]);
        workers.demand(lane(1, 1), Box::new(|| panic!("on purpose")));
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
}
