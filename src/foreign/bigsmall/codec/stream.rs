//! A stream of symbols: its decoder, its words and its table; and several of them decoded side by side.

use std::sync::Arc;

use super::Fault;
use super::coder::Coder;
use super::feed::{Feed, Share};
use super::model::Lookup;
use super::region::Region;
use super::state::Saved;
use crate::error::Damage;

/// A decoded symbol in memory.
pub(super) trait Symbol: Copy + Default {
    fn of(symbol: u16) -> Self;
    fn index(self) -> usize;
}

impl Symbol for u8 {
    fn of(symbol: u16) -> Self {
        symbol as Self
    }

    fn index(self) -> usize {
        usize::from(self)
    }
}

impl Symbol for u16 {
    fn of(symbol: u16) -> Self {
        symbol
    }

    fn index(self) -> usize {
        usize::from(self)
    }
}

/// One stream, decoded from its start or from a noted state on.
pub(super) struct Stream<C: Coder, L: Lookup> {
    coder: C,
    feed: Feed,
    table: Arc<L>,
    /// Words taken.
    used: u64,
    /// Symbols not decoded yet.
    left: u64,
    /// What of the counts of the table is still to come, as the sum of a symbol's counters; `None` when unknown or
    /// not needed.
    due: Option<Box<[u32]>>,
}

impl<C: Coder, L: Lookup> Stream<C, L> {
    /// The stream in `region` of as many symbols as `counts`, one number for each symbol of the alphabet, says.
    pub fn counted(region: Region, counts: Vec<u32>, share: Share) -> Result<Self, Fault> {
        let table = Arc::new(C::table(&counts)?);
        let left = counts.iter().map(|count| u64::from(*count)).sum();
        let mut stream = Self::new(region, table, left, share)?;
        if C::SEALED {
            return Ok(stream);
        }
        let counters = counts.into_iter().map(|count| std::iter::once(count).chain(std::iter::repeat(0)));
        stream.due = Some(counters.flat_map(|counters| counters.take(L::COUNTERS)).collect());
        Ok(stream)
    }

    /// The stream of `left` symbols in `region`, which starts with the state of the coder.
    pub fn new(region: Region, table: Arc<L>, left: u64, share: Share) -> Result<Self, Fault> {
        let mut feed = Feed::new(region, C::WIDTH, C::DIRECTION, share)?;
        let mut used = 0;
        let coder = C::start(|| {
            let bytes = feed.ahead(used)?;
            let word = match C::DIRECTION {
                super::feed::Direction::Forwards => bytes.get(..C::WIDTH as usize),
                super::feed::Direction::Backwards => bytes.rchunks_exact(C::WIDTH as usize).next(),
            };
            used += 1;
            Ok(word.map(|word| word.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte))))
        })?;
        if C::PAST == 0 {
            used = used.min(feed.total());
        }
        Ok(Self { coder, feed, table, used, left, due: None })
    }

    /// The stream of `left` symbols whose words fill `region` and whose state stands elsewhere.
    pub fn with(coder: C, region: Region, table: Arc<L>, left: u64, share: Share) -> Result<Self, Fault> {
        let feed = Feed::new(region, C::WIDTH, C::DIRECTION, share)?;
        Ok(Self { coder, feed, table, used: 0, left, due: None })
    }

    /// Symbols not decoded yet.
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// The next symbols, as many as `out` holds.
    pub fn decode<T: Symbol>(&mut self, out: &mut [T]) -> Result<(), Fault> {
        let mut job = Job::new(self, out)?;
        while !job.is_done() {
            let mut lane = job.lane()?;
            let count = lane.longest;
            lane.run(count);
            let at = lane.at();
            job.advance(at, count)?;
        }
        job.finish();
        Ok(())
    }

    /// One symbol: for streams that take turns with every element.
    pub fn next(&mut self) -> Result<u16, Fault> {
        let mut symbol = [0_u16];
        self.decode(&mut symbol)?;
        let [symbol] = symbol;
        Ok(symbol)
    }

    /// That nothing is left, and that what came was what the table had promised.
    pub fn finish(&self) -> Result<(), Fault> {
        if self.left != 0 {
            return Err(Damage::new("symbols left in a stream", 0, self.left).into());
        }
        self.coder.finish(self.used, self.feed.total())?;
        let due = self.due.iter().flat_map(|due| due.chunks(L::COUNTERS));
        let odd = due.filter(|due| due.iter().fold(0_u32, |sum, due| sum.wrapping_add(*due)) != 0).count();
        if odd != 0 {
            return Err(Damage::new("symbols that come as often as the table says", 0, odd as u64).into());
        }
        Ok(())
    }

    pub fn save(&self, to: &mut Vec<u64>) {
        self.coder.save(to);
        to.push(self.used << 32 | self.left);
    }

    pub fn restore(&mut self, from: &mut Saved<'_>) -> Result<(), Fault> {
        self.coder = C::restore(from)?;
        let both = from.next()?;
        let (used, left) = (both >> 32, both & 0xffff_ffff);
        if used > self.feed.total() + C::PAST {
            return Err(Damage::new("words taken in a noted state", self.feed.total(), used).into());
        }
        (self.used, self.left, self.due) = (used, left, None);
        Ok(())
    }
}

/// Symbols wanted from a stream.
pub(super) struct Job<'a, C: Coder, L: Lookup, T> {
    stream: &'a mut Stream<C, L>,
    out: &'a mut [T],
    done: usize,
}

impl<'a, C: Coder, L: Lookup, T: Symbol> Job<'a, C, L, T> {
    pub fn new(stream: &'a mut Stream<C, L>, out: &'a mut [T]) -> Result<Self, Fault> {
        match stream.left.checked_sub(out.len() as u64) {
            Some(left) => stream.left = left,
            None => return Err(Damage::new("symbols in a stream", out.len() as u64, stream.left).into()),
        }
        Ok(Self { stream, out, done: 0 })
    }

    const fn is_done(&self) -> bool {
        self.done == self.out.len()
    }

    fn lane(&mut self) -> Result<Lane<'_, C, L, T>, Fault> {
        let words = C::words(self.stream.feed.ahead(self.stream.used)?);
        let out = self.out.get_mut(self.done..).unwrap_or_default();
        // Behind the end no words are needed; before it a symbol needs at most one.
        let longest = if words.is_empty() { out.len() } else { out.len().min(words.len()) };
        Ok(Lane { coder: self.stream.coder, table: &self.stream.table, words, used: 0, out, longest })
    }

    fn advance(&mut self, (coder, used): (C, usize), count: usize) -> Result<(), Fault> {
        self.stream.coder = coder;
        self.stream.used += used as u64;
        self.done += count;
        let total = self.stream.feed.total() + C::PAST;
        if self.stream.used > total {
            return Err(Damage::new("words in a stream", total, self.stream.used).into());
        }
        if !coder.sound() {
            return Err(Damage::new("quantile below 2^24", (1 << 24) - 1, 1 << 24).into());
        }
        Ok(())
    }

    /// Counts what came.
    fn finish(self) {
        let Some(due) = &mut self.stream.due else { return };
        if L::COUNTERS == 4 {
            let (due, (fours, rest)) = (due.as_chunks_mut::<4>().0, self.out.as_chunks::<4>());
            for four in fours.iter().map(<[T; 4]>::as_slice).chain([rest]) {
                for (counter, symbol) in four.iter().enumerate().take(4) {
                    if let Some(due) = due.get_mut(symbol.index()).and_then(|due| due.get_mut(counter)) {
                        *due = due.wrapping_sub(1);
                    }
                }
            }
        } else {
            for symbol in self.out {
                if let Some(due) = due.get_mut(symbol.index() * L::COUNTERS) {
                    *due = due.wrapping_sub(1);
                }
            }
        }
    }
}

/// A stream laid out for a loop that asks for nothing.
struct Lane<'a, C: Coder, L: Lookup, T> {
    coder: C,
    table: &'a L,
    words: &'a [C::Word],
    used: usize,
    out: &'a mut [T],
    /// Symbols that it can decode with the words it has.
    longest: usize,
}

impl<C: Coder, L: Lookup, T: Symbol> Lane<'_, C, L, T> {
    const fn at(&self) -> (C, usize) {
        (self.coder, self.used)
    }

    fn run(&mut self, count: usize) {
        let (mut coder, mut used) = self.at();
        for out in self.out.iter_mut().take(count) {
            *out = T::of(coder.step(self.table, self.words, &mut used));
        }
        (self.coder, self.used) = (coder, used);
    }
}

/// `count` symbols of each lane, in turns: a decoder waits for its own last symbol only, so four of them keep the processor busy.
fn run_four<C: Coder, L: Lookup, T: Symbol>([a, b, c, d]: [&mut Lane<'_, C, L, T>; 4], count: usize) {
    let ((mut ca, mut ua), (mut cb, mut ub), (mut cc, mut uc), (mut cd, mut ud)) = (a.at(), b.at(), c.at(), d.at());
    let outs = a.out.iter_mut().zip(b.out.iter_mut()).zip(c.out.iter_mut().zip(d.out.iter_mut()));
    for ((oa, ob), (oc, od)) in outs.take(count) {
        *oa = T::of(ca.step(a.table, a.words, &mut ua));
        *ob = T::of(cb.step(b.table, b.words, &mut ub));
        *oc = T::of(cc.step(c.table, c.words, &mut uc));
        *od = T::of(cd.step(d.table, d.words, &mut ud));
    }
    (a.coder, a.used, b.coder, b.used) = (ca, ua, cb, ub);
    (c.coder, c.used, d.coder, d.used) = (cc, uc, cd, ud);
}

/// Does all jobs, four at a time, the longest first.
pub(super) fn decode_all<C: Coder, L: Lookup, T: Symbol>(mut jobs: Vec<Job<'_, C, L, T>>) -> Result<(), Fault> {
    jobs.retain(|job| !job.is_done());
    jobs.sort_by_key(|job| job.out.len());
    let mut active = Vec::with_capacity(4);
    loop {
        while active.len() < 4
            && let Some(job) = jobs.pop()
        {
            active.push(job);
        }
        if let [a, b, c, d] = active.as_mut_slice() {
            let (mut la, mut lb, mut lc, mut ld) = (a.lane()?, b.lane()?, c.lane()?, d.lane()?);
            let count = la.longest.min(lb.longest).min(lc.longest).min(ld.longest);
            run_four([&mut la, &mut lb, &mut lc, &mut ld], count);
            let (ea, eb, ec, ed) = (la.at(), lb.at(), lc.at(), ld.at());
            a.advance(ea, count)?;
            b.advance(eb, count)?;
            c.advance(ec, count)?;
            d.advance(ed, count)?;
        } else {
            let Some(job) = active.first_mut() else { return Ok(()) };
            let mut lane = job.lane()?;
            let count = lane.longest;
            lane.run(count);
            let at = lane.at();
            job.advance(at, count)?;
        }
        let mut i = 0;
        while let Some(job) = active.get(i) {
            if job.is_done() {
                active.swap_remove(i).finish();
            } else {
                i += 1;
            }
        }
    }
}
