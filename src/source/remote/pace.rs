//! How much is asked for at once, when to wait, and whether the server is there: one for all files of a place.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::resolve::Failure;
use crate::source::{Times, Traffic};

/// Requests of streams at once: at the start, at least and at most.
const FIRST: usize = 8;
const LEAST: usize = 2;
const MOST: usize = 64;
/// Bytes between two looks at the throughput, for each request at once: those of one request.
const ROUND: u64 = 4 << 20;
/// More requests have to bring so much more, or their number stays.
const WORTH: f64 = 1.10;
/// After a server asked to slow down, nothing is added for this long.
const CALM: Duration = Duration::from_secs(10);
/// A request of which less comes is made again, bytes per second; and what every request is expected to bring where the link does.
pub(super) const SLOWEST: f64 = (64 << 10) as f64;
const USUAL: f64 = 5e6;
/// A second request is made for bytes that somebody waits for after this many times the usual time, within these bounds.
const HEDGE: u32 = 3;
const HEDGE_LEAST: Duration = Duration::from_millis(500);
const HEDGE_MOST: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask {
    /// Bytes of a file.
    Read,
    /// Names, or what a file is.
    List,
}

/// The names of [`Ask`].
const KINDS: [&str; 2] = ["read", "list"];
/// What answers can be; "failed" is no connection, a broken one, or an error of the server that may pass.
const ANSWERS: [&str; 8] = ["ok", "throttled", "failed", "changed", "missing", "denied", "refused", "abandoned"];
const ABANDONED: usize = 7;

/// A request without an answer yet.
pub(super) struct Asking<'a> {
    pace: &'a Pace,
    kind: Ask,
    answer: Option<usize>,
}

#[derive(Debug)]
struct State {
    window: usize,
    running: usize,
    /// Throughput that the number of requests was raised for last, bytes per second.
    rate: f64,
    /// Throughput of the last round, bytes per second; 0 before there was one.
    recent: f64,
    round: Option<Instant>,
    round_bytes: u64,
    /// The window was full during this round: more would have been asked for.
    full: bool,
    calm_until: Option<Instant>,
    /// Nothing is asked for before.
    not_before: Option<Instant>,
    /// Usual time to the first byte, seconds.
    first_byte: f64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    state: Mutex<State>,
    down: AtomicBool,
    requests: AtomicU64,
    bytes: AtomicU64,
    retries: AtomicU64,
    hedges: AtomicU64,
    throttled: AtomicU64,
    failures: AtomicU64,
    answers: [[AtomicU64; ANSWERS.len()]; KINDS.len()],
    first_byte: Times,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                window: FIRST,
                running: 0,
                rate: 0.0,
                recent: 0.0,
                round: None,
                round_bytes: 0,
                full: false,
                calm_until: None,
                not_before: None,
                first_byte: 0.1,
            }),
            down: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            hedges: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            answers: Default::default(),
            first_byte: Times::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Takes a place for a request of a stream, if one is free. It is given back with [`leave`](Self::leave).
    pub(super) fn enter(&self) -> bool {
        let mut state = self.lock();
        state.full |= state.running + 1 >= state.window;
        let free = state.running < state.window;
        state.running += usize::from(free);
        free
    }

    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
    }

    /// A request goes out.
    pub(super) fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A second one for the same bytes goes out.
    pub(super) fn hedged(&self) {
        self.hedges.fetch_add(1, Ordering::Relaxed);
    }

    /// A request has to be made again.
    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// A request goes out, whose answer is to be said; one that is not waited for to the end counts as such.
    pub(super) fn asking(&self, kind: Ask) -> Asking<'_> {
        self.asked();
        Asking { pace: self, kind, answer: Some(ABANDONED) }
    }

    /// An answer began after this time.
    pub(super) fn answered(&self, after: Duration) {
        self.first_byte.add(after);
        let mut state = self.lock();
        state.first_byte += 0.1 * (after.as_secs_f64() - state.first_byte);
    }

    /// After how long a second request is worth it.
    pub(super) fn hedge_after(&self) -> Duration {
        let usual = Duration::try_from_secs_f64(self.lock().first_byte).unwrap_or(HEDGE_MOST);
        (usual * HEDGE).clamp(HEDGE_LEAST, HEDGE_MOST)
    }

    /// How long the body of a request for `bytes` may be waited for: as long as a quarter of its share of what came lately takes,
    /// so that a slow link is not made slower by asking again; `grace` on top.
    pub(super) fn body_limit(&self, bytes: u64, grace: Duration) -> Duration {
        let state = self.lock();
        let share = state.recent / (4 * state.running.max(1)) as f64;
        drop(state);
        grace + Duration::try_from_secs_f64(bytes as f64 / share.clamp(SLOWEST, USUAL)).unwrap_or(grace)
    }

    /// Bytes came.
    pub(super) fn came(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let now = Instant::now();
        let mut state = self.lock();
        let begun = *state.round.get_or_insert(now);
        state.round_bytes += bytes;
        if state.round_bytes < ROUND * state.window as u64 {
            return;
        }
        let rate = state.round_bytes as f64 / (now - begun).as_secs_f64().max(0.001);
        state.recent = rate;
        let calm = state.calm_until.is_some_and(|until| now < until);
        if state.full && !calm && rate > state.rate * WORTH {
            state.window = (state.window * 2).min(MOST);
            state.rate = rate;
        }
        (state.round, state.round_bytes, state.full) = (Some(now), 0, false);
    }

    /// The server asks to slow down, and perhaps for how long.
    pub(super) fn throttle(&self, after: Option<Duration>) {
        self.throttled.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut state = self.lock();
        // Once for all answers to what was asked for at once.
        if state.calm_until.is_none_or(|until| now + CALM >= until + Duration::from_secs(1)) {
            state.window = (state.window / 2).max(LEAST);
            state.rate = 0.0;
        }
        state.calm_until = Some(now + CALM);
        if let Some(until) = after.and_then(|after| now.checked_add(after)) {
            state.not_before = Some(state.not_before.map_or(until, |old| old.max(until)));
        }
    }

    /// How long to wait before the next request.
    pub(super) fn wait(&self) -> Duration {
        let now = Instant::now();
        self.lock().not_before.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// A read failed. Logged when the outage is new.
    pub(super) fn failed(&self, place: &Path, why: &str, outage: bool) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if outage && !self.down.swap(true, Ordering::Relaxed) {
            log::error!("{}: does not answer ({why}); reads fail until it does", place.display());
        }
    }

    /// A request worked.
    pub(super) fn works(&self, place: &Path) {
        if self.down.load(Ordering::Relaxed) && self.down.swap(false, Ordering::Relaxed) {
            log::info!("{}: answers again", place.display());
        }
    }

    pub(super) fn traffic(&self) -> Traffic {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            requests: of(&self.requests),
            bytes: of(&self.bytes),
            retries: of(&self.retries),
            hedges: of(&self.hedges),
            throttled: of(&self.throttled),
            failures: of(&self.failures),
            window: self.lock().window as u64,
            down: self.down.load(Ordering::Relaxed),
            answers: KINDS
                .iter()
                .zip(&self.answers)
                .flat_map(|(kind, counts)| ANSWERS.iter().zip(counts).map(move |(answer, n)| (kind, answer, of(n))))
                .filter(|(_, _, n)| *n > 0)
                .map(|(kind, answer, n)| (format!("{kind} {answer}"), n))
                .collect(),
            first_byte: self.first_byte.now(),
        }
    }
}

impl Asking<'_> {
    /// What the answer is.
    pub(super) fn done<T>(mut self, answer: &Result<T, Failure>) {
        self.answer = Some(match answer {
            Ok(_) => 0,
            Err(Failure::Again { after: Some(_), .. }) => 1,
            Err(Failure::Again { after: None, .. }) => 2,
            Err(Failure::Changed) => 3,
            Err(Failure::Missing) => 4,
            Err(Failure::Denied) => 5,
            Err(Failure::Refused(_)) => 6,
        });
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let counts = self.pace.answers.get(self.kind as usize);
        if let Some(count) = self.answer.and_then(|at| counts?.get(at)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_asks_to_slow_down_gets_half_the_requests_once_and_none_for_as_long_as_it_says() {
        let pace = Pace::new();
        for _ in 0..5 {
            pace.throttle(Some(Duration::from_secs(3)));
        }
        assert_eq!(pace.traffic().window, 4);
        assert!(pace.wait() > Duration::from_secs(2));
        assert_eq!((0..9).filter(|_| pace.enter()).count(), 4);
        pace.leave();
        assert!(pace.enter() && !pace.enter());
    }

    #[test]
    fn a_body_has_as_long_as_its_length_and_the_link_say() {
        let (pace, grace) = (Pace::new(), Duration::from_secs(5));
        let limit = |pace: &Pace| pace.body_limit(5_000_000, grace).as_secs();
        assert_eq!(limit(&pace), 5 + 76, "nothing is known of the link");
        pace.lock().recent = 100e6;
        assert_eq!(limit(&pace), 6);
        (0..8).for_each(|_| _ = pace.enter());
        pace.lock().recent = 1e6;
        assert_eq!(limit(&pace), 5 + 76, "eight share a slow link");
    }

    #[test]
    fn more_is_asked_for_only_while_it_brings_more() {
        let pace = Pace::new();
        while pace.enter() {}
        for _ in 0..8 {
            pace.came(ROUND);
        }
        assert_eq!(pace.traffic().window, 16, "the first round has nothing to compare with");
        pace.lock().rate = f64::MAX / 2.0;
        while pace.enter() {}
        for _ in 0..64 {
            pace.came(ROUND);
        }
        assert_eq!(pace.traffic().window, 16);
    }
}
