//! Floats whose exponents and top bits of mantissa are entropy coded with a few tables, of which
//! each tile of 512 numbers chooses one: BF16, the high half of F32, and floats of eight bits.
//!
//! A BF16 number is its rank (exponent and top bit of the mantissa) and seven bits that are stored
//! as they are. Why so and not more: coding further bits of the mantissa gains a tenth of a percent
//! and costs a third of the speed; one table for a chunk costs half a percent; more classes or
//! smaller tiles cost what they gain. Written out in [`crate::format::native`], section "classes".

use super::Packed;
use super::bits::{BitReader, BitWriter};
use super::cluster::{self, CLASSES, RankCounts, class_bits};
use super::halves::{self, LowHalves, LowWriter, group_len};
use super::memory::vec_bytes;
use super::simd::{
    AvailableKernel, BLOCK, CLASS_BITS, ClassTables, ESCAPED, EncodeTable, GROUP, Heads, LOW, RANKS, Ranked,
    ReverseWords, SMALL_GROUP, States, TILE, TileLow, WINDOW, Words,
};
use super::tables;
use super::wire::{Fields, Stride, put_states, put_words};
use crate::error::Damage;

/// Widths of numbers that this codec has: 1, 2 and 4 bytes.
const WIDTHS: u8 = 0b111;
/// The last symbol at which a window can begin.
const LAST_BASE: u16 = 512 - WINDOW;
/// Every fourth tile is counted before tables are made, and for the window every eighth.
const SAMPLE: usize = 4;

/// Buffers reused from chunk to chunk.
#[derive(Default)]
pub struct Scratch {
    heads: Vec<u16>,
    low: LowWriter,
    ranks: Vec<[u8; BLOCK]>,
    residual: Vec<u8>,
    ranked: Vec<Ranked>,
    classes: Vec<u8>,
    sampled: Vec<(u32, RankCounts)>,
    words: ReverseWords,
}

impl Scratch {
    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        vec_bytes(&self.heads)
            + self.low.memory()
            + vec_bytes(&self.ranks)
            + vec_bytes(&self.residual)
            + vec_bytes(&self.ranked)
            + vec_bytes(&self.classes)
            + vec_bytes(&self.sampled)
            + self.words.memory()
    }
}

/// The packed bytes of `raw` in `out` (replaced); `false` when they would not be fewer than
/// `limit`, which is mostly known before anything is coded.
pub fn encode(
    kernel: AvailableKernel,
    stride: Stride,
    raw: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> bool {
    let (head, body, tail) = stride.split(raw);
    let n = body.len() / stride.width();
    if n == 0 {
        return false;
    }
    let base = scratch.rank(kernel, stride, body, n);
    scratch.sample(n);
    let classing = cluster::classes(&mut scratch.sampled, n.div_ceil(TILE));
    // States hold about half of their 32 bits of what was coded.
    let states = 2 * BLOCK;
    if head.len()
        + tail.len()
        + scratch.residual.len()
        + scratch.low.packed_len()
        + states
        + (classing.bits / 8) as usize
        >= limit
    {
        return false;
    }
    scratch.classes.clear();
    scratch.classes.extend(scratch.ranked.iter().map(|r| classing.class_of(r.sum)));
    let freqs: Vec<[u16; RANKS]> = classing.counts.iter().map(|counts| frequencies(stride, *counts)).collect();
    let escapes = if stride.log2_width == 0 { Vec::new() } else { scratch.escape(&freqs, n) };
    let states = scratch.code(kernel, &freqs, n);
    let words = scratch.words.words();

    out.clear();
    out.push(stride.to_byte());
    out.push((freqs.len() - 1) as u8);
    out.extend_from_slice(&base.to_le_bytes());
    out.extend_from_slice(&(2 * words.len() as u32).to_le_bytes());
    out.extend_from_slice(&(escapes.len() as u32).to_le_bytes());
    let mut bits = BitWriter::default();
    freqs.iter().for_each(|f| tables::write(f, &[true; RANKS], &mut bits));
    let bits = bits.finish();
    out.extend_from_slice(&(bits.len() as u16).to_le_bytes());
    out.extend_from_slice(&bits);
    out.extend_from_slice(head);
    out.extend_from_slice(tail);
    let mut ids = BitWriter::default();
    scratch.classes.iter().for_each(|&c| ids.put(c.into(), class_bits(freqs.len())));
    out.extend_from_slice(&ids.finish());
    out.extend_from_slice(&scratch.residual);
    scratch.low.write(out);
    put_words(escapes.iter(), out);
    put_states(&states, out);
    put_words(words.iter(), out);
    out.len() < limit
}

/// The numbers of each tile of `n`.
fn tiles(n: usize) -> impl Iterator<Item = usize> {
    (0..n).step_by(TILE).map(move |at| TILE.min(n - at))
}

/// How often a rank is counted before its neighbours are taken to occur too.
const OFTEN: u32 = 2;

/// Bytes of the residuals of a whole tile.
const fn group(stride: Stride) -> usize {
    if stride.log2_width == 0 { SMALL_GROUP } else { GROUP }
}

/// A class's frequencies: an escape is always possible, and without escapes every rank is.
fn frequencies(stride: Stride, mut counts: RankCounts) -> [u16; RANKS] {
    // A rank that only uncounted tiles contain is likely beside one that occurs more than once. A
    // slot for it costs less than its escapes.
    let seen = counts;
    let often = |rank: usize| rank >= 2 && seen.get(rank).is_some_and(|&c| c >= OFTEN);
    for (rank, c) in counts.iter_mut().enumerate().skip(2) {
        if *c == 0 && (often(rank - 1) || often(rank + 1)) {
            *c = 1;
        }
    }
    let required = if stride.log2_width == 0 { RANKS } else { 1 };
    counts.iter_mut().take(required).for_each(|c| *c += 1);
    let mut freqs = [0; RANKS];
    tables::normalise(&counts, CLASS_BITS, &mut freqs);
    freqs
}

impl Scratch {
    /// Ranks and residuals of all numbers, and what is left of wider ones. Gives the symbol of rank
    /// 2.
    fn rank(&mut self, kernel: AvailableKernel, stride: Stride, body: &[u8], n: usize) -> u16 {
        let count = n.div_ceil(TILE);
        self.ranks.resize(count * TILE / BLOCK, [0; BLOCK]);
        self.ranked.clear();
        self.residual.clear();
        self.low.clear();
        let ranks = self.ranks.as_chunks_mut::<{ TILE / BLOCK }>().0;
        if stride.log2_width == 0 {
            for (ranks, body) in ranks.iter_mut().zip(body.chunks(TILE)) {
                let ranked = rank_small(kernel, body, ranks, &mut self.residual);
                self.ranked.push(ranked);
            }
            return 0;
        }
        // What lies behind the last number counts as 0.
        self.heads.resize(count * TILE, 0);
        self.heads.get_mut(n..).unwrap_or_default().fill(0);
        self.low.split(kernel, stride, body, &mut self.heads);
        let heads = self.heads.as_chunks::<TILE>().0;
        let base = window(heads, 2 * step(count));
        for ((heads, ranks), n) in heads.iter().zip(ranks).zip(tiles(n)) {
            let mut residual = [0; GROUP];
            self.ranked.push(kernel.rank_tile(heads, base, ranks, &mut residual));
            self.residual.extend_from_slice(residual.get(..group_len(n, GROUP)).unwrap_or_default());
        }
        base
    }

    /// Counts the ranks of some tiles.
    fn sample(&mut self, n: usize) {
        self.sampled.clear();
        let tile = self.ranks.as_chunks::<{ TILE / BLOCK }>().0.iter().zip(&self.ranked).zip(tiles(n));
        for ((ranks, ranked), n) in tile.step_by(step(self.ranked.len())) {
            let ranks = ranks.as_flattened().get(..n).unwrap_or_default();
            self.sampled.push((ranked.sum, count(ranks)));
        }
    }

    /// Makes ranks that their class cannot code escapes; gives the heads of all escapes in order.
    fn escape(&mut self, freqs: &[[u16; RANKS]], n: usize) -> Vec<u16> {
        let mut escapes = Vec::new();
        let codable: Vec<u32> = freqs
            .iter()
            .map(|f| f.iter().enumerate().fold(0, |mask, (rank, &f)| mask | u32::from(rank > 0 && f > 0) << rank))
            .collect();
        let tile = self.ranks.as_chunks_mut::<{ TILE / BLOCK }>().0.iter_mut().zip(self.heads.as_chunks::<TILE>().0);
        for (((ranks, heads), (ranked, &class)), n) in tile.zip(self.ranked.iter().zip(&self.classes)).zip(tiles(n)) {
            let codable = codable.get(usize::from(class)).copied().unwrap_or(0);
            if ranked.mask & !codable == 0 {
                continue;
            }
            for (rank, &head) in ranks.as_flattened_mut().iter_mut().zip(heads).take(n) {
                if codable >> *rank & 1 == 0 {
                    *rank = 0;
                    escapes.push(head);
                }
            }
        }
        escapes
    }

    /// Codes all ranks.
    fn code(&mut self, kernel: AvailableKernel, freqs: &[[u16; RANKS]], n: usize) -> States {
        let tables: Vec<EncodeTable> = freqs.iter().map(EncodeTable::new).collect();
        // The last block is filled up with what costs least.
        let last = self.classes.last().and_then(|&c| freqs.get(usize::from(c)));
        let cheapest = last.and_then(|f| (0..RANKS as u8).max_by_key(|&r| f.get(usize::from(r)))).unwrap_or(0);
        self.ranks.as_flattened_mut().get_mut(n..).unwrap_or_default().fill(cheapest);
        let blocks = n.div_ceil(BLOCK);
        let classes: Vec<u8> = self.classes.iter().flat_map(|&c| [c; TILE / BLOCK]).take(blocks).collect();
        let mut states = States([LOW; BLOCK]);
        let ranks = self.ranks.get(..blocks).unwrap_or_default();
        kernel.encode_ranks(&tables, &classes, ranks, &mut states, &mut self.words);
        states
    }
}

/// How many tiles apart those are that are counted: a few tiles are all counted.
const fn step(tiles: usize) -> usize {
    if tiles < 64 { 1 } else { SAMPLE }
}

/// The first symbol of the window that holds most numbers of the tiles that are counted.
fn window(heads: &[[u16; TILE]], step: usize) -> u16 {
    // Two tables: runs of one symbol would otherwise wait for their own stores.
    let mut counts = [[0_u32; 512]; 2];
    for tile in heads.iter().step_by(step) {
        for pair in tile.as_chunks::<2>().0 {
            for (counts, head) in counts.iter_mut().zip(pair) {
                if let Some(c) = counts.get_mut(usize::from(head >> 6 & 0x1ff)) {
                    *c += 1;
                }
            }
        }
    }
    let [a, b] = counts;
    let both = |i: usize| a.get(i).copied().unwrap_or(0) + b.get(i).copied().unwrap_or(0);
    let width = usize::from(WINDOW);
    // Symbol 0 has a rank of its own.
    let mut inside: u32 = (1..=width).map(both).sum();
    let mut best = (inside, 1);
    for base in 2..=512 - width {
        inside = inside - both(base - 1) + both(base + width - 1);
        best = best.max((inside, base));
    }
    best.1 as u16
}

fn count(ranks: &[u8]) -> RankCounts {
    let mut counts = [[0_u32; RANKS]; 4];
    let (fours, rest) = ranks.as_chunks::<4>();
    let mut add = |table: usize, rank: u8| {
        if let Some(c) = counts.get_mut(table).and_then(|c| c.get_mut(usize::from(rank) % RANKS)) {
            *c += 1;
        }
    };
    for [a, b, c, d] in fours {
        add(0, *a);
        add(1, *b);
        add(2, *c);
        add(3, *d);
    }
    rest.iter().for_each(|&r| add(0, r));
    let [a, b, c, d] = counts;
    let mut sums = a;
    for (((sum, b), c), d) in sums.iter_mut().zip(b).zip(c).zip(d) {
        *sum += b + c + d;
    }
    sums
}

/// Ranks of at most a tile of floats of eight bits; appends the residuals.
fn rank_small(kernel: AvailableKernel, body: &[u8], ranks: &mut [[u8; BLOCK]; 8], residual: &mut Vec<u8>) -> Ranked {
    let mut space = [0; TILE];
    let tile = body.try_into().unwrap_or_else(|_| {
        space.iter_mut().zip(body).for_each(|(to, from)| *to = *from);
        &space
    });
    let mut group = [0; SMALL_GROUP];
    let sum = kernel.rank_small_tile(tile, ranks, &mut group);
    if body.len() < SMALL_GROUP {
        residual.extend(body.iter().map(|b| b & 3 | b >> 5 & 4));
    } else {
        residual.extend_from_slice(&group);
    }
    // A short tile counts as if it went on like this.
    Ranked { mask: 0, sum: sum * TILE as u32 / body.len().max(1) as u32 }
}

/// The number of classes of a packed chunk.
pub fn class_count(packed: &[u8]) -> Option<u16> {
    packed.get(1).map(|&k| u16::from(k) + 1)
}

/// Decodes a chunk to exactly `out`.
pub fn decode(kernel: AvailableKernel, packed: Packed<'_>, out: &mut [u8]) -> Result<(), Damage> {
    let mut fields = Fields::new(packed.bytes());
    let stride = Stride::from_byte(fields.u8()?, WIDTHS)?;
    let count = usize::from(fields.u8()?) + 1;
    if count > CLASSES {
        return Err(Damage::new("classes of a chunk, at most", CLASSES as u64, count as u64));
    }
    let base = fields.u16()?;
    if base > LAST_BASE {
        return Err(Damage::new("first symbol of a chunk's window, at most", LAST_BASE.into(), base.into()));
    }
    let (words_len, escapes) = (fields.len32()?, fields.len32()?);
    let bits = fields.u16()?;
    let mut bits = BitReader::new(fields.bytes(bits.into())?);
    let mut freqs = [[0; RANKS]; CLASSES];
    let freqs = freqs.get_mut(..count).unwrap_or_default();
    for freqs in freqs.iter_mut() {
        tables::read(CLASS_BITS, &[true; RANKS], &mut bits, freqs)?;
        if freqs.first() == Some(&0) {
            return Err(Damage::new("slots of a class's rank 0, at least", 1, 0));
        }
    }
    let (head, body, tail) = stride.split_mut(out);
    head.copy_from_slice(fields.bytes(head.len())?);
    tail.copy_from_slice(fields.bytes(tail.len())?);
    let n = body.len() / stride.width();
    let ids = fields.bytes((n.div_ceil(TILE) * class_bits(count) as usize).div_ceil(8))?;
    let residual = fields.bytes(n / TILE * group(stride) + group_len(n % TILE, group(stride)))?;
    let low = if stride.log2_width == 2 { LowHalves::read(&mut fields, n)? } else { LowHalves::default() };
    let escapes = fields.bytes(escapes.saturating_mul(2))?;
    let (states, rest) = States::read(fields.rest())?;
    let words = packed.coded(rest, words_len)?;
    let mut decoder = Decoder {
        kernel,
        classes: ClassTables::new(kernel, freqs),
        heads: heads(base),
        marker: marker(base) << 6,
        states,
        words,
        escapes: escapes.as_chunks().0.iter(),
    };
    let mut tiles = Tiles { ids, bits: class_bits(count), residual, at: 0 };
    match stride.log2_width {
        0 => {
            for out in body.chunks_mut(TILE) {
                decoder.tile8(tiles.next(out.len(), SMALL_GROUP), out)?;
            }
        }
        1 => {
            for out in body.as_chunks_mut().0.chunks_mut(TILE) {
                decoder.tile16(tiles.next(out.len(), GROUP), out)?;
            }
        }
        _ => {
            let mut low = low;
            let mut high = [[0; 2]; TILE];
            for out in body.as_chunks_mut::<4>().0.chunks_mut(TILE) {
                let high = high.get_mut(..out.len()).unwrap_or_default();
                decoder.tile16(tiles.next(out.len(), GROUP), high)?;
                low.join(kernel, high, out);
            }
        }
    }
    decoder.words.finish()?;
    decoder.states.finish()?;
    match decoder.escapes.len() {
        0 => Ok(()),
        left => Err(Damage::new("escapes left at the end", 0, left as u64)),
    }
}

/// A symbol that no rank stands for: it marks an escape until it is replaced.
const fn marker(base: u16) -> u16 {
    if base > 1 { 1 } else { 511 }
}

/// What each rank stands for.
fn heads(base: u16) -> Heads {
    Heads::new(std::array::from_fn(|rank| match rank {
        0 => marker(base) << 6 | ESCAPED,
        1 => 0,
        _ => (base.wrapping_add(rank as u16 - 2) & 0x1ff) << 6,
    }))
}

/// Class and residuals, tile by tile.
struct Tiles<'a> {
    ids: &'a [u8],
    bits: u32,
    residual: &'a [u8],
    at: usize,
}

impl<'a> Tiles<'a> {
    /// Those of the next tile, which has `n` numbers.
    fn next(&mut self, n: usize, whole: usize) -> (usize, &'a [u8]) {
        let class = field(self.ids, self.at, self.bits);
        self.at += 1;
        let (residual, rest) = self.residual.split_at_checked(group_len(n, whole)).unwrap_or((&[], &[]));
        self.residual = rest;
        (class, residual)
    }
}

/// Field `index` of a row of fields of at most 8 bits.
fn field(bytes: &[u8], index: usize, bits: u32) -> usize {
    let at = index * bits as usize;
    let two = [0, 1].map(|i| bytes.get(at / 8 + i).copied().unwrap_or(0));
    usize::from(u16::from_le_bytes(two) >> (at % 8)) & ((1 << bits) - 1)
}

struct Decoder<'a> {
    kernel: AvailableKernel,
    classes: ClassTables,
    heads: Heads,
    /// The head of an escape, without its residual.
    marker: u16,
    states: States,
    words: Words<'a>,
    escapes: std::slice::Iter<'a, [u8; 2]>,
}

impl Decoder<'_> {
    /// Decodes at most a tile.
    fn tile16(&mut self, (class, residual): (usize, &[u8]), out: &mut [[u8; 2]]) -> Result<(), Damage> {
        let short = Damage::new("coded words and classes enough for a tile", 1, 0);
        let escaped = if let (Ok(residual), true) = (residual.try_into(), out.len() == TILE) {
            let low = TileLow { heads: &self.heads, residual };
            let out = out.as_flattened_mut().as_chunks_mut().0;
            self.kernel.tile16(&self.classes, class, &mut self.states, &mut self.words, low, out)
        } else {
            let mut group = [0; GROUP];
            group.get_mut(..residual.len()).unwrap_or_default().copy_from_slice(residual);
            let mut space = [[0; 2 * BLOCK]; TILE / BLOCK];
            let rows = space.get_mut(..out.len().div_ceil(BLOCK)).unwrap_or_default();
            let low = TileLow { heads: &self.heads, residual: &group };
            let escaped = self.kernel.tile16(&self.classes, class, &mut self.states, &mut self.words, low, rows);
            for (out, number) in out.iter_mut().zip(space.as_flattened().as_chunks().0) {
                *out = *number;
            }
            escaped
        };
        if escaped.ok_or(short)? { self.replace(out) } else { Ok(()) }
    }

    /// Replaces markers by the numbers that were stored whole.
    #[cold]
    fn replace(&mut self, out: &mut [[u8; 2]]) -> Result<(), Damage> {
        // Few blocks have one.
        for run in out.chunks_mut(BLOCK) {
            if self.kernel.marked(run, self.marker) {
                let is_escape = |number: &&mut [u8; 2]| u16::from_le_bytes(**number) & 0x7fc0 == self.marker;
                for number in run.iter_mut().filter(is_escape) {
                    *number = *self.escapes.next().ok_or(Damage::new("escapes left", 1, 0))?;
                }
            }
        }
        Ok(())
    }

    /// Decodes at most a tile of floats of eight bits.
    fn tile8(&mut self, (class, residual): (usize, &[u8]), out: &mut [u8]) -> Result<(), Damage> {
        let short = Damage::new("coded words and classes enough for a tile", 1, 0);
        let group = halves::read_group_three(residual);
        let (states, words) = (&mut self.states, &mut self.words);
        let whole = if out.len() == TILE {
            self.kernel.tile8(&self.classes, class, states, words, &group, out.as_chunks_mut().0)
        } else {
            let mut space = [[0; BLOCK]; TILE / BLOCK];
            let rows = space.get_mut(..out.len().div_ceil(BLOCK)).unwrap_or_default();
            let whole = self.kernel.tile8(&self.classes, class, states, words, &group, rows);
            out.iter_mut().zip(space.as_flattened()).for_each(|(out, byte)| *out = *byte);
            whole
        };
        if whole { Ok(()) } else { Err(short) }
    }
}
