//! Differences of short numbers from those of a base, entropy coded with a table for each group of
//! the base's exponents.
//!
//! What training changes has about one size everywhere, so in units of a number's last place the
//! difference depends on the exponent, which the base tells. Written out in
//! [`crate::format::native`], section "delta".

use super::Packed;
use super::difference::subtract;
use super::entropy::entropy;
use super::memory::vec_bytes;
use super::simd::{AvailableKernel, BLOCK, Columns, LOW, Op, ReverseWords, SYMBOLS, Segment, States, SymbolTables};
use super::tables::{self, TableSet};
use super::wire::{Fields, put_states, put_words};
use crate::error::Damage;

/// Groups of contexts, at most.
pub const GROUPS: usize = 16;
/// Values of a context.
const CONTEXTS: usize = 256;
/// Bins of contexts, of which groups are made.
const BINS: usize = 32;
/// Numbers that per_bin a call: their offsets stay in the first-level cache.
const SEGMENT: usize = 16 * BLOCK;
/// Differences of two bytes below this one are their own symbol.
const PLAIN: u16 = 224;
/// The symbol of a difference that is stored whole.
const WHOLE: u8 = 255;
/// Bits that a table is taken to cost for each symbol that it has, and for each that only others
/// have.
const BITS_PER_SYMBOL: u64 = 5;
const BITS_PER_ABSENT: u64 = 1;

/// How a chunk is to be coded.
#[derive(Debug, Clone, Copy)]
pub struct DeltaParams {
    /// How differences are made.
    pub op: Op,
    /// log2 of the bytes of a number: 0 or 1.
    pub log2_width: u8,
    /// Bits of the base, counted from the lowest, that are not part of the context; 7 for one byte
    /// and 15 for two make all contexts equal.
    pub shift: u8,
}

/// Buffers reused from chunk to chunk.
#[derive(Default)]
pub struct Scratch {
    deltas: Vec<u8>,
    symbols: Vec<u8>,
    groups: Vec<u8>,
    extra: Vec<u8>,
    tables: Vec<u32>,
    columns: Columns,
    words: ReverseWords,
    counts: Vec<[u32; SYMBOLS]>,
}

impl Scratch {
    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.deltas.capacity()
            + self.symbols.capacity()
            + self.groups.capacity()
            + self.extra.capacity()
            + vec_bytes(&self.tables)
            + self.columns.memory()
            + vec_bytes(&self.counts)
            + self.words.memory()
    }
}

/// The symbol of a difference of two bytes, and the bytes that follow apart.
const fn symbol(z: u16) -> (u8, u8) {
    if z < PLAIN {
        return (z as u8, 0);
    }
    let bucket = (z - PLAIN) >> 8;
    if bucket < (WHOLE as u16 - PLAIN) { ((PLAIN + bucket) as u8, 1) } else { (WHOLE, 2) }
}

/// The packed differences in `out` (replaced); `false` when they would not be fewer than `limit`.
/// `raw` and `base` are equally long.
pub fn encode(
    kernel: AvailableKernel,
    params: DeltaParams,
    (raw, base): (&[u8], &[u8]),
    limit: usize,
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> bool {
    let wide = params.log2_width == 1;
    let n = raw.len() >> params.log2_width;
    if n == 0 {
        return false;
    }
    scratch.split(kernel, params, (raw, base));
    let bounds = scratch.bounds(params, base);
    let counts = scratch.count(kernel, params, &bounds, base);
    let coded: u64 = counts.iter().map(|counts| entropy(counts)).sum::<u64>() >> 19;
    if coded as usize + scratch.extra.len() + 4 * BLOCK >= limit {
        return false;
    }
    let bits = if n >= 1 << 15 { 12 } else { 11 };
    let tables = TableSet::new(&counts, bits);
    let states = scratch.code(kernel, bits, &tables.freqs);

    let tail = n << params.log2_width;
    out.clear();
    out.push(u8::from(wide) | (params.op as u8) << 1 | ((bits - 10) as u8) << 3);
    out.push(params.shift);
    out.push(bounds.len() as u8);
    out.extend_from_slice(&bounds);
    out.extend_from_slice(&(2 * scratch.words.words().len() as u32).to_le_bytes());
    out.extend_from_slice(&(scratch.extra.len() as u32).to_le_bytes());
    let tables = tables.to_bytes();
    out.extend_from_slice(&(tables.len() as u32).to_le_bytes());
    out.extend_from_slice(&tables);
    out.extend_from_slice(scratch.deltas.get(tail..).unwrap_or_default());
    out.extend_from_slice(&scratch.extra);
    put_states(&states, out);
    put_words(scratch.words.words().iter(), out);
    out.len() < limit
}

impl Scratch {
    /// Symbols and the bytes that follow them, of all whole numbers.
    fn split(&mut self, kernel: AvailableKernel, params: DeltaParams, both: (&[u8], &[u8])) {
        subtract(kernel, params.op, params.log2_width, both, &mut self.deltas);
        self.symbols.clear();
        self.extra.clear();
        if params.log2_width == 0 {
            self.symbols.extend_from_slice(&self.deltas);
            return;
        }
        let numbers = self.deltas.as_chunks::<2>().0;
        self.symbols.extend(numbers.iter().map(|z| symbol(u16::from_le_bytes(*z)).0));
        for (z, _) in numbers.iter().zip(&self.symbols).filter(|(_, s)| u16::from(**s) >= PLAIN) {
            let z = u16::from_le_bytes(*z);
            match symbol(z).1 {
                1 => self.extra.push((z - PLAIN) as u8),
                _ => self.extra.extend_from_slice(&z.to_le_bytes()),
            }
        }
    }

    /// The contexts at which groups begin, but for the first: what costs least, as far as sums over
    /// bins of contexts can say.
    fn bounds(&mut self, params: DeltaParams, base: &[u8]) -> Vec<u8> {
        let wide = params.log2_width == 1;
        let n = self.symbols.len();
        self.counts.clear();
        self.counts.resize(CONTEXTS, [0; SYMBOLS]);
        let context = |i: usize| -> usize {
            if wide {
                let y = base.as_chunks::<2>().0.get(i).map_or(0, |y| u16::from_le_bytes(*y));
                usize::from((y & 0x7fff) >> params.shift)
            } else {
                usize::from((base.get(i).copied().unwrap_or(0) & 0x7f) >> params.shift)
            }
        };
        for (i, &s) in self.symbols.iter().enumerate() {
            if let Some(c) = self.counts.get_mut(context(i)).and_then(|table| table.get_mut(usize::from(s))) {
                *c += 1;
            }
        }
        // Bins of neighbouring contexts, each with its share of the numbers.
        let per_bin = (n / BINS).max(1) as u32;
        let mut bins: Vec<(u8, [u32; SYMBOLS])> = Vec::new();
        let mut filled = u32::MAX;
        for (context, counts) in (0..=255).zip(&self.counts) {
            let sum: u32 = counts.iter().sum();
            if sum == 0 {
                continue;
            }
            // A context that is large itself has a bin of its own.
            match bins.last_mut().filter(|_| filled < per_bin && sum < per_bin) {
                Some((_, bin)) => {
                    bin.iter_mut().zip(counts).for_each(|(bin, c)| *bin += c);
                    filled += sum;
                }
                None => {
                    bins.push((context, *counts));
                    filled = sum;
                }
            }
        }
        best_groups(&bins)
    }

    /// How often each symbol occurs in each group. The groups of all numbers are kept, and what
    /// fills up the last block.
    fn count(
        &mut self,
        kernel: AvailableKernel,
        params: DeltaParams,
        bounds: &[u8],
        base: &[u8],
    ) -> Vec<[u32; SYMBOLS]> {
        self.groups.clear();
        self.groups.resize(self.symbols.len(), 0);
        kernel.groups(params.log2_width == 1, params.shift, bounds, base, &mut self.groups);
        let mut counts = vec![[0_u32; SYMBOLS]; bounds.len() + 1];
        for (&g, &s) in self.groups.iter().zip(&self.symbols) {
            if let Some(c) = counts.get_mut(usize::from(g)).and_then(|table| table.get_mut(usize::from(s))) {
                *c += 1;
            }
        }
        counts
    }

    /// Codes all symbols, the last first. What fills up the last block is added to them.
    fn code(&mut self, kernel: AvailableKernel, bits: u32, freqs: &[[u16; SYMBOLS]]) -> States {
        let tables = SymbolTables::new(freqs, bits);
        let whole = self.symbols.len().next_multiple_of(BLOCK);
        self.symbols.resize(whole, tables.cheapest(0));
        self.groups.resize(whole, 0);
        let mut states = States([LOW; BLOCK]);
        self.words.reserve(whole / BLOCK);
        for (symbols, groups) in self.symbols.chunks(SEGMENT).zip(self.groups.chunks(SEGMENT)).rev() {
            kernel.set_columns(&mut self.columns, groups.as_chunks().0, SYMBOL_BITS);
            let symbols = symbols.as_chunks().0;
            kernel.encode_symbols(&tables, 0, Some(&self.columns), symbols, &mut states, &mut self.words);
        }
        states
    }
}

/// log2 of the entries of a table for encoding.
const SYMBOL_BITS: u32 = SYMBOLS.ilog2();

/// Where groups begin, but for the first, of bins that are given by their first context and counts.
fn best_groups(bins: &[(u8, [u32; SYMBOLS])]) -> Vec<u8> {
    let n = bins.len();
    let all = tables::present(bins.iter().map(|(_, counts)| counts)).iter().filter(|present| **present).count() as u64;
    // Bits of a table for bins a to b.
    let mut single = vec![vec![0_u64; n + 1]; n];
    for (a, single) in single.iter_mut().enumerate() {
        let mut sum = [0_u32; SYMBOLS];
        for (b, cost) in single.iter_mut().enumerate().skip(a + 1) {
            let Some((_, counts)) = bins.get(b - 1) else { continue };
            sum.iter_mut().zip(counts).for_each(|(sum, c)| *sum += c);
            let own = sum.iter().filter(|&&c| c > 0).count() as u64;
            *cost = (entropy(&sum) >> 16) + BITS_PER_SYMBOL * own + BITS_PER_ABSENT * (all - own);
        }
    }
    let of = |a: usize, b: usize| single.get(a).and_then(|s| s.get(b)).copied().unwrap_or(u64::MAX);
    // best[k][b]: the first b bins in k + 1 groups, and where the last of them begins.
    let mut best = vec![vec![(u64::MAX, 0_usize); n + 1]; GROUPS];
    for k in 0..GROUPS.min(n) {
        for b in k + 1..=n {
            let choice = if k == 0 {
                Some((of(0, b), 0))
            } else {
                let before = |a: usize| best.get(k - 1).and_then(|row| row.get(a)).map_or(u64::MAX, |(cost, _)| *cost);
                (k..b).map(|a| (before(a).saturating_add(of(a, b)), a)).min()
            };
            if let (Some(slot), Some(choice)) = (best.get_mut(k).and_then(|row| row.get_mut(b)), choice) {
                *slot = choice;
            }
        }
    }
    let at = |k: usize, b: usize| best.get(k).and_then(|row| row.get(b)).copied().unwrap_or((u64::MAX, 0));
    let k = (0..GROUPS.min(n)).min_by_key(|&k| at(k, n).0).unwrap_or(0);
    let mut bounds = Vec::new();
    let mut end = n;
    for k in (1..=k).rev() {
        end = at(k, end).1;
        bounds.extend(bins.get(end).map(|(context, _)| *context));
    }
    bounds.reverse();
    bounds
}

/// Decodes a chunk to exactly `out`, which is as long as `base`.
pub fn decode(
    kernel: AvailableKernel,
    packed: Packed<'_>,
    base: &[u8],
    out: &mut [u8],
    scratch: &mut Scratch,
) -> Result<(), Damage> {
    let mut fields = Fields::new(packed.bytes());
    let how = fields.u8()?;
    let (log2_width, bits) = (how & 1, 10 + u32::from(how >> 3 & 3));
    let op = Op::of(how >> 1 & 3).filter(|_| how < 32 && bits <= 12);
    let op = op.ok_or(Damage::new("width, kind and slots of a delta", 0, how.into()))?;
    let shift = fields.u8()?;
    let (least, most) = if log2_width == 1 { (7, 15) } else { (0, 7) };
    if !(least..=most).contains(&shift) {
        return Err(Damage::new("bits below a context, at most", most.into(), shift.into()));
    }
    let bounds = usize::from(fields.u8()?);
    if bounds >= GROUPS {
        return Err(Damage::new("groups of a delta, at most", GROUPS as u64, bounds as u64 + 1));
    }
    let bounds = fields.bytes(bounds)?;
    let mut last = 0;
    for &bound in bounds {
        if bound <= last {
            return Err(Damage::new("first context of a group, above", last.into(), bound.into()));
        }
        last = bound;
    }
    let (words_len, extra_len, tables_len) = (fields.len32()?, fields.len32()?, fields.len32()?);
    tables::read_all(fields.bytes(tables_len)?, bounds.len() + 1, bits, &mut scratch.tables)?;
    let n = out.len() >> log2_width;
    let (body, tail) = out.split_at_mut(n << log2_width);
    tail.copy_from_slice(fields.bytes(tail.len())?);
    let extra = fields.bytes(extra_len)?;
    let (mut states, rest) = States::read(fields.rest())?;
    let mut words = packed.coded(rest, words_len)?;

    let mut extra = Extra(extra);
    let width = 1 << log2_width;
    scratch.symbols.resize(SEGMENT, 0);
    scratch.groups.resize(SEGMENT, 0);
    for (out, base) in body.chunks_mut(SEGMENT * width).zip(base.chunks(SEGMENT * width)) {
        let count = out.len() >> log2_width;
        let groups = scratch.groups.get_mut(..count.next_multiple_of(BLOCK)).unwrap_or_default();
        // What fills up the last block has the first table.
        let (own, fill) = groups.split_at_mut(count);
        kernel.groups(log2_width == 1, shift, bounds, base, own);
        fill.fill(0);
        kernel.set_columns(&mut scratch.columns, groups.as_chunks().0, bits);
        let segment = Segment::by_column(&scratch.tables, &scratch.columns, bits);
        let symbols = scratch.symbols.get_mut(..groups.len()).unwrap_or_default();
        let blocks = symbols.as_chunks_mut().0;
        if !segment.is_some_and(|s| kernel.symbols(&s, &mut states, &mut words, blocks)) {
            return Err(Damage::new("coded words enough for a block", 1, 0));
        }
        match log2_width {
            0 => out.copy_from_slice(symbols.get(..count).unwrap_or_default()),
            _ => extra.join(kernel, symbols, out.as_chunks_mut().0)?,
        }
        kernel.add(op, log2_width, base, out);
    }
    for (x, y) in tail.iter_mut().zip(base.get(n << log2_width..).unwrap_or_default()) {
        *x ^= y;
    }
    words.finish()?;
    states.finish()?;
    match extra.0.len() {
        0 => Ok(()),
        left => Err(Damage::new("bytes behind symbols left at the end", 0, left as u64)),
    }
}

/// The bytes that follow symbols, in order.
struct Extra<'a>(&'a [u8]);

impl Extra<'_> {
    /// The differences of as many symbols as `out` has.
    fn join(&mut self, kernel: AvailableKernel, symbols: &[u8], out: &mut [[u8; 2]]) -> Result<(), Damage> {
        kernel.widen(symbols, out);
        // Symbols fill whole blocks; those behind the last number are dropped.
        for (i, eight) in symbols.as_chunks::<8>().0.iter().enumerate() {
            let bits = u64::from_le_bytes(*eight);
            // 224 and above have the top three bits.
            let mut long = bits & bits << 1 & bits << 2 & 0x8080_8080_8080_8080;
            while long != 0 {
                let at = long.trailing_zeros() as usize / 8;
                long &= long - 1;
                if let (Some(symbol), Some(out)) = (eight.get(at), out.get_mut(8 * i + at)) {
                    *out = self.next(*symbol)?.to_le_bytes();
                }
            }
        }
        Ok(())
    }

    /// The difference that a symbol and what follows it are.
    fn next(&mut self, symbol: u8) -> Result<u16, Damage> {
        let missing = Damage::new("bytes behind symbols left", 1, 0);
        if symbol == WHOLE {
            let (z, rest) = self.0.split_first_chunk::<2>().ok_or(missing)?;
            self.0 = rest;
            return Ok(u16::from_le_bytes(*z));
        }
        let (&low, rest) = self.0.split_first().ok_or(missing)?;
        self.0 = rest;
        Ok(PLAIN + ((u16::from(symbol) - PLAIN) << 8) + u16::from(low))
    }
}
