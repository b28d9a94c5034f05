//! The shape of most codings: signs and exponents as one stream, and a stream of mantissas for each exponent.

use super::Fault;
use super::coder::Coder;
use super::model::Lookup;
use super::part::{Lead, Part};
use super::state::Saved;
use super::stream::{Job, Stream, decode_all};
use crate::error::Damage;

/// Elements whose mantissas are decoded before they are put in order: their scratch stays in the second-level cache.
const BLOCK: usize = 32 << 10;

/// The signs and exponents of all elements, in order.
pub(super) struct Signs<C: Coder, L: Lookup>(pub Stream<C, L>);

impl<C: Coder, L: Lookup> Lead for Signs<C, L> {
    fn window(&mut self, count: usize, symbols: &mut Vec<u16>) -> Result<(), Fault> {
        symbols.resize(count, 0);
        self.0.decode(symbols)
    }

    fn save(&self, to: &mut Vec<u64>) -> bool {
        self.0.save(to);
        true
    }

    fn restore(&mut self, from: &mut Saved<'_>) -> Result<(), Fault> {
        self.0.restore(from)
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.0.finish()
    }
}

/// The mantissas, sorted by exponent. An element of two bytes is its symbol, and below it the mantissa.
pub(super) struct Buckets<C: Coder, L: Lookup> {
    mantissa_bits: u32,
    exponent_mask: u8,
    streams: Vec<Stream<C, L>>,
    exponents: Vec<u8>,
    scratch: Vec<u16>,
}

impl<C: Coder, L: Lookup> Buckets<C, L> {
    /// For symbols of `exponent_bits` (at most 8) and a sign.
    pub fn new(exponent_bits: u32, mantissa_bits: u32) -> Self {
        Self {
            mantissa_bits,
            exponent_mask: u8::MAX >> 8_u32.saturating_sub(exponent_bits),
            streams: Vec::new(),
            exponents: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Adds the stream of an exponent, larger than those before it.
    pub fn push(&mut self, exponent: u8, stream: Stream<C, L>) {
        self.exponents.push(exponent);
        self.streams.push(stream);
    }

    fn block(&mut self, symbols: &[u16], out: &mut [u8]) -> Result<(), Fault> {
        let counts = count(symbols, self.exponent_mask);
        self.scratch.resize(symbols.len(), 0);
        let mut cursors = [0_usize; 256];
        let mut jobs = Vec::with_capacity(self.streams.len());
        let mut rest = self.scratch.as_mut_slice();
        let whole = rest.len();
        for (exponent, stream) in self.exponents.iter().zip(&mut self.streams) {
            let at = usize::from(*exponent);
            let count = counts.get(at).map_or(0, |count| *count as usize);
            if let Some(cursor) = cursors.get_mut(at) {
                *cursor = whole - rest.len();
            }
            let (mine, others) = rest.split_at_mut_checked(count).unwrap_or_default();
            rest = others;
            jobs.push(Job::new(stream, mine)?);
        }
        if !rest.is_empty() {
            return Err(Damage::new("elements without a bucket for their exponent", 0, rest.len() as u64).into());
        }
        decode_all(jobs)?;
        for (symbol, word) in symbols.iter().zip(out.as_chunks_mut::<2>().0) {
            let Some(cursor) = cursors.get_mut(usize::from(*symbol as u8 & self.exponent_mask)) else { continue };
            let mantissa = self.scratch.get(*cursor).copied().unwrap_or(0);
            *cursor += 1;
            *word = (*symbol << self.mantissa_bits | mantissa).to_le_bytes();
        }
        Ok(())
    }
}

/// How often each exponent comes.
fn count(symbols: &[u16], mask: u8) -> [u32; 256] {
    // A counter that was just stored cannot be loaded at once, and neighbours often have the same exponent.
    let mut counts = [[0_u32; 256]; 4];
    let mut add = |symbols: &[u16]| {
        for (symbol, counts) in symbols.iter().zip(&mut counts) {
            if let Some(count) = counts.get_mut(usize::from(*symbol as u8 & mask)) {
                *count += 1;
            }
        }
    };
    let (fours, rest) = symbols.as_chunks::<4>();
    fours.iter().for_each(|four| add(four));
    add(rest);
    let [mut sums, others @ ..] = counts;
    for other in others {
        sums.iter_mut().zip(other).for_each(|(sum, count)| *sum += count);
    }
    sums
}

impl<C: Coder, L: Lookup> Part for Buckets<C, L> {
    fn window(&mut self, symbols: &[u16], out: &mut [u8]) -> Result<(), Fault> {
        if symbols.len() * 2 != out.len() {
            return Err(Damage::new("symbols of a window", out.len() as u64 / 2, symbols.len() as u64).into());
        }
        for (symbols, out) in symbols.chunks(BLOCK).zip(out.chunks_mut(BLOCK * 2)) {
            self.block(symbols, out)?;
        }
        Ok(())
    }

    fn save(&self, to: &mut Vec<u64>) -> bool {
        for stream in &self.streams {
            stream.save(to);
        }
        true
    }

    fn restore(&mut self, _: u64, from: &mut Saved<'_>) -> Result<(), Fault> {
        self.streams.iter_mut().try_for_each(|stream| stream.restore(from))
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.streams.iter().try_for_each(Stream::finish)
    }
}
