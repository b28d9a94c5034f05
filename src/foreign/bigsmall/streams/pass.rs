//! One pass over a tensor: its windows in order, three at a time.
//!
//! Each window goes through three stages that keep the order of windows: the signs and exponents, the rest of the numbers, the
//! digest. Threads that decode neighbouring windows are in different stages, so one tensor keeps several cores busy.
//!
//! Windows behind another wait for it in each stage. So a thread takes a window as a [`Ticket`], which poisons the stages when it
//! is dropped before all are done.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use md5::{Digest, Md5};

use super::limits::WINDOW;
use super::points::{Point, Points};
use super::ticket::TicketLock;
use crate::engine::buffer::Pool;
use crate::engine::stats::Reads;
use crate::engine::sync::{Mutex, lock};
use crate::error::{Damage, Error, Result};
use crate::foreign::bigsmall::codec::{Back, Blob, Fault, Front, Symbols, open};
use crate::foreign::bigsmall::format::Part;
use crate::source::ReadAt;

/// Packed bytes that the streams of a blob together hold in memory.
const FEED: usize = 512 << 10;

/// Why a window has no bytes.
#[derive(Debug)]
pub enum Failure {
    /// The tensor is damaged, in this window.
    Damage(Damage),
    /// All of it was decoded, and it has another digest, which this is.
    Differs([u8; 16]),
    /// The packed bytes, or the base's bytes, could not be read.
    Read(Error),
    /// Another thread failed with an earlier window.
    Broken,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Damage(damage) => Self::Damage(damage),
            Fault::Read(error) => Self::Read(error),
        }
    }
}

impl From<Damage> for Failure {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

/// Raw bytes to be xored with, by offset in the tensor.
pub trait Other: Send + Sync {
    /// Fills `out` from `offset`.
    ///
    /// # Errors
    /// Those of the base.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()>;
}

/// What a pass decodes, and what from.
pub struct Plan {
    pub source: Arc<dyn ReadAt>,
    /// Counts the packed bytes that are read.
    pub reads: Arc<Reads>,
    /// To be added up; one, but for chains.
    pub parts: Vec<Part>,
    /// Bytes of the integers that parts are added as.
    pub width: u8,
    /// Bytes before the tensor's in what the parts unpack to.
    pub skip: u64,
    /// The tensor's length, bytes.
    pub raw_len: u64,
    pub md5: [u8; 16],
    pub other: Option<Arc<dyn Other>>,
    /// Where it may be entered; for one part only.
    pub points: Arc<Points>,
}

impl Plan {
    /// Number of windows.
    pub fn windows(&self) -> u32 {
        self.raw_len.div_ceil(WINDOW) as u32
    }

    /// Length of a window, bytes.
    pub fn window_len(&self, window: u32) -> usize {
        (self.raw_len - u64::from(window) * WINDOW).min(WINDOW) as usize
    }

    /// The window at which a pass would begin that is to reach `window`.
    pub fn entry(&self, window: u32) -> u32 {
        self.enter(window).0
    }

    /// That window, the position in the part at which decoding begins, and the states there.
    fn enter(&self, window: u32) -> (u32, u64, Option<Arc<Point>>) {
        let position = self.skip + u64::from(window) * WINDOW;
        match self.points.before(position) {
            Some((at, point)) if self.parts.len() == 1 => {
                (at.saturating_sub(self.skip).div_ceil(WINDOW) as u32, at, Some(point))
            }
            _ => (0, 0, None),
        }
    }
}

/// A part of the source.
struct Place {
    source: Arc<dyn ReadAt>,
    reads: Arc<Reads>,
    offset: u64,
    len: u64,
}

impl Blob for Place {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Error> {
        self.reads.count(to.len(), || self.source.read_exact_at(self.offset + at, to))
    }
}

/// What a window cost the thread that ran it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Decoding and digests; reads of packed bytes included.
    pub decode: Duration,
    /// Waiting for earlier windows, which other threads decode.
    pub wait: Duration,
}

/// A window that a thread has taken. Dropped before the window has been through all stages (after an error or a panic, or because
/// it was never run) it poisons them from this window on, so that no thread waits for it.
pub struct Ticket {
    pass: Arc<Pass>,
    window: u32,
    done: bool,
}

impl Ticket {
    /// For a window that no other thread has taken from `pass`.
    pub fn new(pass: &Arc<Pass>, window: u32) -> Self {
        Self { pass: Arc::clone(pass), window, done: false }
    }

    /// The pass.
    pub fn pass(&self) -> &Arc<Pass> {
        &self.pass
    }

    /// The window's number.
    pub fn window(&self) -> u32 {
        self.window
    }

    /// Decodes the window into `out`, as soon as those before it are far enough. With the last window the tensor's digest is
    /// compared, if the pass can tell it.
    pub fn run(mut self, plan: &Plan, pool: &Arc<Pool>, out: &mut [u8]) -> Result<Spent, Failure> {
        let spent = self.pass.run(plan, self.window, pool, out)?;
        self.done = true;
        Ok(spent)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.done {
            self.pass.front.poison(self.window);
            self.pass.back.poison(self.window);
            self.pass.check.poison(self.window);
        }
    }
}

/// The pass. Windows from its first one on are each run once, by any thread that holds their [`Ticket`].
pub struct Pass {
    first: u32,
    proves: bool,
    front: TicketLock<Vec<Front>>,
    back: TicketLock<Vec<Back>>,
    check: TicketLock<Option<Md5>>,
    /// The back sides, from opening the blobs in the first stage until the second begins.
    opened: OnceLock<Mutex<Vec<Back>>>,
    spare: Mutex<Vec<Vec<Symbols>>>,
}

impl Pass {
    /// A pass that reaches `window`; nothing is read yet.
    pub fn new(plan: &Plan, window: u32) -> Self {
        let (first, at, point) = plan.enter(window);
        // Only what knows the tensor from its start can tell its digest.
        let check = match point {
            _ if first == 0 => Some(Md5::new()),
            Some(point) if at == plan.skip + u64::from(first) * WINDOW => point.check.clone(),
            _ => None,
        };
        Self {
            first,
            proves: check.is_some(),
            front: TicketLock::new(first, Vec::new()),
            back: TicketLock::new(first, Vec::new()),
            check: TicketLock::new(first, check),
            opened: OnceLock::new(),
            spare: Mutex::default(),
        }
    }

    /// Its first window.
    pub fn first(&self) -> u32 {
        self.first
    }

    /// Whether it can tell the tensor's digest.
    pub fn proves(&self) -> bool {
        self.proves
    }

    fn run(&self, plan: &Plan, window: u32, pool: &Arc<Pool>, out: &mut [u8]) -> Result<Spent, Failure> {
        let mut spent = Spent::default();
        let last = window + 1 == plan.windows();
        let position = plan.skip + u64::from(window) * WINDOW;
        let note = plan.parts.len() == 1 && window > self.first && plan.points.wanted(position);
        let mut symbols = lock(&self.spare).pop().unwrap_or_default();

        let asked = Instant::now();
        let mut guard = self.front.wait(window).ok_or(Failure::Broken)?;
        let begun = Instant::now();
        spent.wait += begun - asked;
        let fronts = guard.value().ok_or(Failure::Broken)?;
        if window == self.first {
            let (opened, backs) = self.open(plan, window)?;
            *fronts = opened;
            let _ = self.opened.set(Mutex::new(backs));
        }
        let front_state = if note { fronts.first().and_then(Front::state) } else { None };
        symbols.resize_with(fronts.len(), Symbols::default);
        for (front, symbols) in fronts.iter_mut().zip(&mut symbols) {
            front.window(out.len(), symbols)?;
            if last && plan.ends() {
                front.finish()?;
            }
        }
        guard.done();
        spent.decode += begun.elapsed();

        let asked = Instant::now();
        let mut guard = self.back.wait(window).ok_or(Failure::Broken)?;
        let begun = Instant::now();
        spent.wait += begun - asked;
        let backs = guard.value().ok_or(Failure::Broken)?;
        if let Some(opened) = self.opened.get().filter(|_| window == self.first) {
            *backs = std::mem::take(&mut *lock(opened));
        }
        let back_state = if note { backs.first().and_then(Back::state) } else { None };
        // What is added to the first part, or what the base has.
        let needs_addend = plan.parts.len() > 1 || plan.other.is_some();
        let mut addend = needs_addend.then(|| pool.take(out.len()));
        let addend = addend.as_deref_mut().unwrap_or_default();
        for (i, (back, symbols)) in backs.iter_mut().zip(&symbols).enumerate() {
            if i == 0 {
                back.window(symbols, out)?;
            } else {
                back.window(symbols, addend)?;
                add(out, addend, plan.width);
            }
            if last && plan.ends() {
                back.finish()?;
            }
        }
        guard.done();
        spent.decode += begun.elapsed();
        lock(&self.spare).push(symbols);

        if let Some(other) = &plan.other {
            other.read(u64::from(window) * WINDOW, addend).map_err(Failure::Read)?;
            out.iter_mut().zip(&*addend).for_each(|(byte, other)| *byte ^= other);
        }

        let asked = Instant::now();
        let mut guard = self.check.wait(window).ok_or(Failure::Broken)?;
        let begun = Instant::now();
        spent.wait += begun - asked;
        let check = guard.value().ok_or(Failure::Broken)?;
        if let (Some(front), Some(back)) = (front_state, back_state) {
            plan.points.note(position, Point { front, back, check: check.clone() });
        }
        if let Some(md5) = check {
            md5.update(&*out);
            if last {
                let found: [u8; 16] = md5.clone().finalize().into();
                if found != plan.md5 {
                    return Err(Failure::Differs(found));
                }
            }
        }
        guard.done();
        spent.decode += begun.elapsed();
        Ok(spent)
    }

    /// Opens the blobs and goes to the start of the first window.
    fn open(&self, plan: &Plan, window: u32) -> Result<(Vec<Front>, Vec<Back>), Failure> {
        let (_, at, point) = plan.enter(window);
        let mut sides = (Vec::new(), Vec::new());
        let mut scratch = Vec::new();
        for part in &plan.parts {
            let (source, reads) = (Arc::clone(&plan.source), Arc::clone(&plan.reads));
            let blob = Place { source, reads, offset: part.offset, len: part.len };
            let (mut front, mut back) = open(part.coding, Arc::new(blob), part.raw_len, FEED / plan.parts.len())?;
            if let Some(point) = &point {
                front.resume(at, &point.front)?;
                back.resume(at, &point.back)?;
            }
            // What other tensors of the same part have before this one, or a point between two windows.
            let mut passed = (plan.skip + u64::from(window) * WINDOW).saturating_sub(at);
            let mut symbols = Symbols::default();
            while passed > 0 {
                let len = passed.min(WINDOW) as usize;
                scratch.resize(len, 0);
                front.window(len, &mut symbols)?;
                back.window(&symbols, &mut scratch)?;
                passed -= len as u64;
            }
            sides.0.push(front);
            sides.1.push(back);
        }
        Ok(sides)
    }
}

impl Plan {
    /// Whether the tensor's end is the parts' end.
    fn ends(&self) -> bool {
        self.parts.iter().all(|part| self.skip + self.raw_len == part.raw_len)
    }
}

/// Adds little-endian integers of `width` bytes, wrapping.
fn add(to: &mut [u8], addend: &[u8], width: u8) {
    if width == 4 {
        for (a, b) in to.as_chunks_mut::<4>().0.iter_mut().zip(addend.as_chunks::<4>().0) {
            *a = u32::from_le_bytes(*a).wrapping_add(u32::from_le_bytes(*b)).to_le_bytes();
        }
    } else {
        for (a, b) in to.as_chunks_mut::<2>().0.iter_mut().zip(addend.as_chunks::<2>().0) {
            *a = u16::from_le_bytes(*a).wrapping_add(u16::from_le_bytes(*b)).to_le_bytes();
        }
    }
}
