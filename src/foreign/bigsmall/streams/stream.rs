//! One tensor, window by window, whoever asks for which: who decodes what, and what may be given out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::limits::WINDOW;
use super::pass::{Failure, Pass, Plan, Ticket};
use crate::engine::Core;
use crate::engine::buffer::Buffer;
use crate::engine::cost::Cost;
use crate::engine::stats::Counters;
use crate::engine::sync::{AtomicU64, Condvar, Mutex, Ordering, lock, wait};
use crate::error::{Damage, Error};
use crate::foreign::bigsmall::NAME;

/// Passes over one tensor that wait for their next reader, at most.
const PASSES: usize = 4;
/// Times that a tensor is decoded again after damage: the first may be a fault on the way from the disk.
const TRIES: u32 = 2;

/// What is known of a tensor's bytes.
#[derive(Debug, Clone)]
enum Verdict {
    /// Nobody has decoded all of it yet.
    Open,
    /// All of it was decoded, and its digest is right.
    Good,
    /// It is damaged, time and again.
    Bad(Verdicted),
}

/// Why a tensor is bad.
#[derive(Debug, Clone, Copy)]
enum Verdicted {
    Damage(u32, Damage),
    Differs([u8; 16]),
}

/// A pass, and how far it is.
struct Running {
    pass: Arc<Pass>,
    /// The first window that nobody has taken.
    next: u32,
    /// Windows that were taken and are not done.
    taken: HashSet<u32>,
}

struct Progress {
    passes: Vec<Running>,
    verdict: Verdict,
    tries: u32,
    /// Windows that somebody waits for while another thread decodes them.
    wanted: HashMap<u32, usize>,
    /// Windows for those, and such as must not be given out before the tensor is known to be good.
    kept: HashMap<u32, Buffer>,
}

/// A tensor that is being read.
pub struct Stream {
    plan: Plan,
    /// Whether nothing is given out before all of it was decoded and compared with its digest.
    proven_first: bool,
    waiting: Arc<Waiting>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

/// What is to be done next towards a window.
enum Step {
    Run(Ticket),
    Wait,
}

/// Where windows go that nobody waits for.
pub type Shelf<'a> = &'a dyn Fn(u32, Buffer);

/// Bytes of windows that wait for their tensor's verdict, in all tensors of an engine.
#[derive(Debug)]
pub struct Waiting {
    bytes: AtomicU64,
    most: u64,
}

impl Waiting {
    /// Room for `most` bytes.
    pub fn new(most: u64) -> Self {
        Self { bytes: AtomicU64::new(0), most }
    }

    /// Whether `len` bytes more may wait; what somebody `wanted` may in any case.
    fn admit(&self, len: usize, wanted: bool) -> bool {
        let admitted = self.bytes.fetch_add(len as u64, Ordering::Relaxed) + len as u64 <= self.most || wanted;
        if !admitted {
            self.leave(len);
        }
        admitted
    }

    fn leave(&self, len: usize) {
        self.bytes.fetch_sub(len as u64, Ordering::Relaxed);
    }
}

impl Stream {
    /// A tensor of which nothing was read yet; `proven` if it was found to be right before.
    pub fn new(plan: Plan, proven_first: bool, proven: bool, waiting: Arc<Waiting>) -> Self {
        let progress = Progress {
            passes: Vec::new(),
            verdict: if proven { Verdict::Good } else { Verdict::Open },
            tries: 0,
            wanted: HashMap::new(),
            kept: HashMap::new(),
        };
        Self { plan, proven_first, waiting, progress: Mutex::new(progress), changed: Condvar::new() }
    }

    /// What it decodes.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether more threads than the one that asks would be of use: all of it has to be decoded first.
    pub fn wants_help(&self) -> bool {
        self.proven_first && self.plan.windows() > 1 && {
            let progress = lock(&self.progress);
            progress.passes.is_empty() && matches!(progress.verdict, Verdict::Open)
        }
    }

    /// Decodes what others wait for, as long as there is something.
    pub fn help(&self, core: &Core, shelf: Shelf<'_>) {
        loop {
            let mut progress = lock(&self.progress);
            let Some(Step::Run(ticket)) = self.whole(&mut progress, false) else { return };
            let tries = progress.tries;
            drop(progress);
            if !matches!(self.run(core, ticket, tries, None, shelf), Ok(Ran::Kept)) {
                return;
            }
        }
    }

    /// The bytes of a window. Threads that ask for several at a time decode them together. `shelf` gets windows that had to be
    /// decoded on the way and that nobody waits for.
    ///
    /// # Errors
    /// [`Failure`]; of a tensor that is damaged every window fails.
    pub fn window(&self, core: &Core, window: u32, shelf: Shelf<'_>) -> Result<Buffer, Failure> {
        // What this thread has already, and how often the tensor had been found damaged by then.
        let mut mine: Option<(u32, Buffer)> = None;
        loop {
            let mut progress = lock(&self.progress);
            match progress.verdict {
                Verdict::Bad(Verdicted::Damage(_, damage)) => return Err(Failure::Damage(damage)),
                Verdict::Bad(Verdicted::Differs(found)) => return Err(Failure::Differs(found)),
                Verdict::Open | Verdict::Good => {}
            }
            mine = mine.filter(|(tries, _)| *tries == progress.tries);
            if mine.is_none() {
                let tries = progress.tries;
                mine = self.unkeep(&mut progress, window).map(|buffer| (tries, buffer));
            }
            let proven = !self.proven_first || matches!(progress.verdict, Verdict::Good);
            if proven && let Some((_, buffer)) = mine {
                return Ok(buffer);
            }
            let step = match &mine {
                None => self.towards(&mut progress, window),
                Some(_) => self.whole(&mut progress, true).unwrap_or(Step::Wait),
            };
            match step {
                Step::Wait => {
                    *progress.wanted.entry(window).or_default() += 1;
                    let begun = Instant::now();
                    progress = wait(&self.changed, progress);
                    Cost::add(|cost| cost.wait += begun.elapsed());
                    if let Some(count) = progress.wanted.get_mut(&window) {
                        *count -= 1;
                        if *count == 0 {
                            progress.wanted.remove(&window);
                        }
                    }
                }
                Step::Run(ticket) => {
                    let tries = progress.tries;
                    drop(progress);
                    let wanted = (ticket.window() == window).then_some(window);
                    match self.run(core, ticket, tries, wanted, shelf) {
                        Ok(Ran::Mine(buffer)) => mine = Some((tries, buffer)),
                        // What is lost is tried again: a bad verdict ends that, or an error of this thread's own.
                        Ok(Ran::Kept | Ran::Lost) => {}
                        Err(error) => return Err(Failure::Read(error)),
                    }
                }
            }
        }
    }

    /// The next step towards a window that this thread does not have.
    fn towards(&self, progress: &mut Progress, window: u32) -> Step {
        if progress.passes.iter().any(|running| running.taken.contains(&window)) {
            return Step::Wait;
        }
        let unproven = self.proven_first && matches!(progress.verdict, Verdict::Open);
        let entry = if unproven { 0 } else { self.plan.entry(window) };
        // The pass that is nearest, unless a point is nearer still.
        let near = progress
            .passes
            .iter_mut()
            .filter(|running| running.next <= window && running.next >= entry.min(window))
            .max_by_key(|running| running.next);
        if let Some(running) = near {
            return running.take();
        }
        // With nothing decoded yet there are no points, and so this begins at the very start.
        self.begin(progress, Pass::new(&self.plan, window))
    }

    /// The next step towards having decoded all of it. `None` when all is taken, or nothing is begun and `begin` is false.
    fn whole(&self, progress: &mut Progress, begin: bool) -> Option<Step> {
        if !matches!(progress.verdict, Verdict::Open) {
            return None;
        }
        let windows = self.plan.windows();
        if let Some(running) = progress.passes.iter_mut().find(|running| running.pass.proves()) {
            return (running.next < windows).then(|| running.take());
        }
        begin.then(|| self.begin(progress, Pass::new(&self.plan, 0)))
    }

    fn begin(&self, progress: &mut Progress, pass: Pass) -> Step {
        if progress.passes.len() >= PASSES
            && let Some(at) = progress.passes.iter().position(|running| running.taken.is_empty())
        {
            progress.passes.remove(at);
        }
        let next = pass.first();
        progress.passes.push(Running { pass: Arc::new(pass), next, taken: HashSet::new() });
        progress.passes.last_mut().map_or(Step::Wait, Running::take)
    }

    /// Decodes a window that was taken when the tensor had been found damaged `tries` times; `mine` if it is the one that this
    /// thread wants.
    fn run(&self, core: &Core, ticket: Ticket, tries: u32, mine: Option<u32>, shelf: Shelf<'_>) -> Result<Ran, Error> {
        let (pass, window) = (Arc::clone(ticket.pass()), ticket.window());
        // After a panic no reader may wait for this window.
        let mut guard = Abandon { stream: self, pass: &pass, armed: true };
        let len = self.plan.window_len(window);
        core.chunks.make_room(len);
        let mut buffer = core.pool.take(len);
        let result = ticket.run(&self.plan, &core.pool, &mut buffer);
        guard.armed = false;
        if let Ok(spent) = &result {
            core.counters.decoded_foreign(NAME, len);
            Counters::add_time(&core.counters.decode_nanos, spent.decode);
            Cost::add(|cost| {
                cost.decode += spent.decode;
                cost.wait += spent.wait;
            });
        }
        let mut progress = lock(&self.progress);
        let mut shelved = Vec::new();
        let result = match result {
            // The bytes that were found damaged meanwhile may be in this window too.
            Ok(_) if progress.tries != tries => Ok(Ran::Lost),
            Ok(_) => {
                // A pass that failed with a later window is not in the list any more; this one is right all the same.
                if let Some(running) = progress.passes.iter_mut().find(|running| Arc::ptr_eq(&running.pass, &pass)) {
                    running.taken.remove(&window);
                }
                if window + 1 == self.plan.windows() && pass.proves() {
                    progress.verdict = Verdict::Good;
                    shelved = self.release(&mut progress);
                }
                let windows = self.plan.windows();
                progress.passes.retain(|running| running.next < windows || !running.taken.is_empty());
                match mine {
                    Some(_) => Ok(Ran::Mine(buffer)),
                    None => {
                        shelved.extend(self.keep(&mut progress, window, buffer));
                        Ok(Ran::Kept)
                    }
                }
            }
            Err(failure) => {
                progress.passes.retain(|running| !Arc::ptr_eq(&running.pass, &pass));
                match failure {
                    Failure::Read(error) => Err(error),
                    Failure::Broken => Ok(Ran::Lost),
                    Failure::Damage(damage) => {
                        self.strike(&mut progress, Verdicted::Damage(window, damage));
                        Ok(Ran::Lost)
                    }
                    Failure::Differs(found) => {
                        self.strike(&mut progress, Verdicted::Differs(found));
                        Ok(Ran::Lost)
                    }
                }
            }
        };
        drop(progress);
        self.changed.notify_all();
        for (window, buffer) in shelved {
            shelf(window, buffer);
        }
        result
    }

    /// Keeps a window for those who want it, or until the verdict; gives it back when it may be shelved.
    fn keep(&self, progress: &mut Progress, window: u32, buffer: Buffer) -> Option<(u32, Buffer)> {
        let unproven = self.proven_first && matches!(progress.verdict, Verdict::Open);
        if !unproven && !progress.wanted.contains_key(&window) {
            return self.proven_first.then_some((window, buffer));
        }
        // What finds no room is decoded again, from a point.
        if self.waiting.admit(buffer.len(), progress.wanted.contains_key(&window))
            && let Some(old) = progress.kept.insert(window, buffer)
        {
            self.waiting.leave(old.len());
        }
        None
    }

    fn unkeep(&self, progress: &mut Progress, window: u32) -> Option<Buffer> {
        let buffer = progress.kept.remove(&window)?;
        self.waiting.leave(buffer.len());
        Some(buffer)
    }

    /// What had to wait for the verdict and nobody wants.
    fn release(&self, progress: &mut Progress) -> Vec<(u32, Buffer)> {
        let mut free: Vec<u32> =
            progress.kept.keys().copied().filter(|window| !progress.wanted.contains_key(window)).collect();
        free.sort_unstable();
        free.into_iter().filter_map(|window| Some((window, self.unkeep(progress, window)?))).collect()
    }

    /// The tensor was found damaged.
    fn strike(&self, progress: &mut Progress, verdict: Verdicted) {
        progress.tries += 1;
        progress.passes.clear();
        for (_, buffer) in progress.kept.drain() {
            self.waiting.leave(buffer.len());
        }
        if progress.tries >= TRIES {
            progress.verdict = Verdict::Bad(verdict);
        }
    }

    /// Ends passes that nobody is at, so that they hold no memory. Later readers enter at a point.
    pub fn park(&self) {
        lock(&self.progress).passes.retain(|running| !running.taken.is_empty());
    }

    /// Whether all of it was decoded and is right.
    pub fn is_good(&self) -> bool {
        matches!(lock(&self.progress).verdict, Verdict::Good)
    }

    /// Where the first damage was, bytes in the tensor, if it is bad by damage.
    pub fn damaged_at(&self) -> Option<u64> {
        match lock(&self.progress).verdict {
            Verdict::Bad(Verdicted::Damage(window, _)) => Some(u64::from(window) * WINDOW),
            _ => None,
        }
    }
}

impl Running {
    fn take(&mut self) -> Step {
        let window = self.next;
        self.next += 1;
        self.taken.insert(window);
        Step::Run(Ticket::new(&self.pass, window))
    }
}

/// What came of a window that was run.
enum Ran {
    Mine(Buffer),
    Kept,
    /// The pass is over without it.
    Lost,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut progress = lock(&self.progress);
        for (_, buffer) in progress.kept.drain() {
            self.waiting.leave(buffer.len());
        }
    }
}

/// Ends a pass whose thread panicked.
struct Abandon<'a> {
    stream: &'a Stream,
    pass: &'a Arc<Pass>,
    armed: bool,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if self.armed {
            lock(&self.stream.progress).passes.retain(|running| !Arc::ptr_eq(&running.pass, self.pass));
            self.stream.changed.notify_all();
        }
    }
}

/// Every interleaving that the scheduler finds: `RUSTFLAGS='--cfg shuttle' cargo test --lib shuttled`.
#[cfg(all(test, shuttle))]
mod shuttled {
    use std::sync::Arc;

    use md5::{Digest, Md5};
    use shuttle::thread;

    use super::*;
    use crate::engine::EngineConfig;
    use crate::foreign::bigsmall::codec::Coding;
    use crate::foreign::bigsmall::format::Part;
    use crate::foreign::bigsmall::streams::points::{Budget, Points};
    use crate::source::MemorySource;

    const WINDOWS: u32 = 4;

    fn stream(proven_first: bool, right: bool) -> (Arc<Stream>, Arc<Vec<u8>>) {
        let raw: Vec<u8> = (0..u64::from(WINDOWS) * WINDOW - 6).map(|n| (n * 7 / 3) as u8).collect();
        let len = raw.len() as u64;
        let mut md5: [u8; 16] = Md5::digest(&raw).into();
        md5[0] ^= u8::from(!right);
        let plan = Plan {
            source: Arc::new(MemorySource::new("m.bs", raw.clone())),
            reads: Arc::default(),
            parts: vec![Part { coding: Coding::Raw, offset: 0, len, raw_len: len }],
            width: 0,
            skip: 0,
            raw_len: len,
            md5,
            other: None,
            points: Arc::new(Points::new(Arc::new(Budget::new(1 << 20)), WINDOW)),
        };
        // Room for one window that waits.
        (Arc::new(Stream::new(plan, proven_first, false, Arc::new(Waiting::new(WINDOW)))), Arc::new(raw))
    }

    fn readers(proven_first: bool, right: bool) {
        let (stream, raw) = stream(proven_first, right);
        let engine = crate::engine::Engine::new(EngineConfig { memory: 1 << 20, ..EngineConfig::default() });
        let threads: Vec<_> = [vec![0, 3], vec![1], vec![2, 0]]
            .into_iter()
            .map(|windows| {
                let (stream, raw, engine) = (Arc::clone(&stream), Arc::clone(&raw), Arc::clone(&engine));
                thread::spawn(move || {
                    for window in windows {
                        let at = window as usize * WINDOW as usize;
                        match stream.window(&engine.core, window, &|_, _| {}) {
                            Ok(bytes) => {
                                assert!(right || !proven_first, "given out before it was proven");
                                assert_eq!(*bytes, raw[at..(at + WINDOW as usize).min(raw.len())]);
                            }
                            Err(Failure::Differs(_)) => assert!(!right),
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(stream.is_good(), right);
    }

    #[test]
    fn readers_of_a_stream_get_their_windows_whatever_happens_when() {
        for (proven_first, right) in [(true, true), (false, true), (true, false)] {
            shuttle::check_random(move || readers(proven_first, right), 3000);
        }
    }
}
