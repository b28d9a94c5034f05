//! The fastest coder: only the exponents of BF16 numbers, or of the high halves of F32, in one
//! small table.
//!
//! At most sixteen exponents share 128 slots, so that a table fits a few vector registers, and
//! states have sixteen bits, so that a register holds 32 of them. An exponent without slots is
//! coded as the commonest and put right afterwards. Written out in [`crate::format::native`],
//! section "exponents".

use super::Packed;
use super::entropy::log2;
use super::halves::{LowHalves, LowWriter};
use super::memory::vec_bytes;
use super::simd::{AvailableKernel, BLOCK, SMALL_BITS, SMALL_LOW, SMALL_RANKS, SmallStates, SmallTable, TILE};
use super::wire::{Fields, Stride};
use crate::error::Damage;

/// Widths of numbers that this codec has: 2 and 4 bytes.
const WIDTHS: u8 = 0b110;
/// Bits that an exponent without slots is taken to cost: two bytes, and what is coded in its place.
const EXCEPTION: u64 = 18;
/// Every fourth tile is counted.
const SAMPLE: usize = 4;
/// In a table of ranks: none.
const NONE: u8 = u8::MAX;

/// Buffers reused from chunk to chunk.
#[derive(Default)]
pub struct Scratch {
    heads: Vec<u16>,
    low: LowWriter,
    bytes: Vec<u8>,
}

impl Scratch {
    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        vec_bytes(&self.heads) + self.low.memory() + vec_bytes(&self.bytes)
    }
}

/// The packed bytes of `raw` in `out` (replaced); `false` when they would not be fewer than
/// `limit`.
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
    scratch.heads.resize(n, 0);
    scratch.low.split(kernel, stride, body, &mut scratch.heads);
    let (ranks, bits) = choose(&count(&scratch.heads));
    if head.len() + tail.len() + n + scratch.low.packed_len() + (bits / 8) as usize >= limit {
        return false;
    }
    let Some(table) = SmallTable::new(&ranks) else { return false };
    let (rank_of, exceptions) = exceptions(&scratch.heads, &ranks);
    let states = code(&scratch.heads, &rank_of, &table, &mut scratch.bytes);

    out.clear();
    out.push(stride.to_byte());
    out.push((ranks.len() - 1) as u8);
    ranks.iter().for_each(|&(exponent, freq)| out.extend_from_slice(&[exponent, freq]));
    out.extend_from_slice(&(scratch.bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(&(exceptions.len() as u32).to_le_bytes());
    out.extend_from_slice(head);
    out.extend_from_slice(tail);
    out.extend(scratch.heads.iter().map(|h| (h & 0x7f) as u8 | (h >> 8 & 0x80) as u8));
    scratch.low.write(out);
    out.extend_from_slice(&exceptions);
    out.extend(states.0.iter().flat_map(|x| x.to_le_bytes()));
    out.extend(scratch.bytes.iter().rev());
    out.len() < limit
}

/// The exponents of every fourth tile; of all, if they are few.
fn count(heads: &[u16]) -> [u32; 256] {
    let mut counts = [[0_u32; 256]; 2];
    let step = if heads.len() < 64 * TILE { 1 } else { SAMPLE };
    for (i, head) in heads.chunks(TILE).step_by(step).flatten().enumerate() {
        if let Some(c) = counts.get_mut(i % 2).and_then(|c| c.get_mut(usize::from(head >> 7 & 0xff))) {
            *c += 1;
        }
    }
    let [a, b] = counts;
    let mut sums = a;
    sums.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    // They stand for all.
    sums.iter_mut().for_each(|c| *c *= step as u32);
    sums
}

/// Exponents and their slots, in ascending order of exponents, and the expected bits of all.
fn choose(counts: &[u32; 256]) -> (Vec<(u8, u8)>, u64) {
    let mut order: Vec<(u32, u8)> = (0..=255).zip(counts).map(|(e, &c)| (c, e)).filter(|(c, _)| *c > 0).collect();
    order.sort_by_key(|&(c, e)| (std::cmp::Reverse(c), e));
    let all: u64 = counts.iter().map(|&c| u64::from(c)).sum();
    let mut best = (u64::MAX, Vec::new());
    for used in 1..=order.len().min(SMALL_RANKS) {
        let mut ranks = order.get(..used).unwrap_or_default().to_vec();
        ranks.sort_by_key(|&(_, exponent)| exponent);
        let freqs = scale_to_slots(&ranks);
        let coded: u64 = ranks.iter().map(|&(c, _)| u64::from(c)).sum();
        let bits: u64 =
            ranks.iter().zip(&freqs).map(|(&(c, _), &f)| u64::from(c) * (u64::from(SMALL_BITS << 16) - log2(f))).sum();
        let bits = (bits >> 16) + (all - coded) * EXCEPTION;
        if bits < best.0 {
            best = (bits, ranks.iter().zip(freqs).map(|(&(_, e), f)| (e, f as u8)).collect());
        }
    }
    (best.1, best.0)
}

/// 128 slots for symbols that occur so often, at least one for each of at most sixteen.
fn scale_to_slots(counts: &[(u32, u8)]) -> Vec<u32> {
    let total: u64 = counts.iter().map(|&(c, _)| u64::from(c)).sum();
    let slots = 1_u64 << SMALL_BITS;
    let mut freqs: Vec<u32> = counts
        .iter()
        .map(|&(c, _)| ((u64::from(c) * slots + total / 2) / total.max(1)).clamp(1, slots) as u32)
        .collect();
    loop {
        let sum: u64 = freqs.iter().map(|&f| u64::from(f)).sum();
        // Where a slot more or less matters least, or most.
        let gain =
            |i: usize, f: u32, g: u32| u64::from(counts.get(i).map_or(0, |c| c.0)) * (log2(g.max(f)) - log2(g.min(f)));
        let at = match sum.cmp(&slots) {
            std::cmp::Ordering::Equal => return freqs,
            std::cmp::Ordering::Less => freqs.iter().enumerate().max_by_key(|&(i, &f)| gain(i, f, f + 1)),
            std::cmp::Ordering::Greater => {
                freqs.iter().enumerate().filter(|(_, f)| **f > 1).min_by_key(|&(i, &f)| gain(i, f, f - 1))
            }
        };
        let Some(at) = at.map(|(i, _)| i) else { return freqs };
        if let Some(f) = freqs.get_mut(at) {
            *f = if sum < slots { *f + 1 } else { *f - 1 };
        }
    }
}

/// The rank that each exponent is coded with, and the exponents that have none: for each the
/// numbers since the last one (255: so many, and no exponent yet) and itself.
fn exceptions(heads: &[u16], ranks: &[(u8, u8)]) -> ([u8; 256], Vec<u8>) {
    let mut rank_of = [NONE; 256];
    for (rank, &(exponent, _)) in (0..).zip(ranks) {
        if let Some(r) = rank_of.get_mut(usize::from(exponent)) {
            *r = rank;
        }
    }
    let mut exceptions = Vec::new();
    let mut since = 0;
    for run in heads.chunks(BLOCK) {
        let of = |head: u16| rank_of.get(usize::from(head >> 7 & 0xff)).copied().unwrap_or(NONE);
        if run.iter().fold(false, |any, &head| any | (of(head) == NONE)) {
            for &head in run {
                if of(head) == NONE {
                    while since >= 255 {
                        exceptions.push(255);
                        since -= 255;
                    }
                    exceptions.extend_from_slice(&[since as u8, (head >> 7) as u8]);
                    since = 0;
                } else {
                    since += 1;
                }
            }
        } else {
            since += run.len();
        }
    }
    let commonest = (0..).zip(ranks).max_by_key(|&(_, &(_, f))| f).map_or(0, |(rank, _)| rank);
    rank_of.iter_mut().filter(|r| **r == NONE).for_each(|r| *r = commonest);
    (rank_of, exceptions)
}

/// Codes the exponents from the last to the first; `bytes` gets what states give off, the last to
/// be decoded first.
fn code(heads: &[u16], rank_of: &[u8; 256], table: &SmallTable, bytes: &mut Vec<u8>) -> SmallStates {
    // Per exponent: frequency, first slot, and 2^24 / frequency rounded up, which gives exact
    // quotients of 16 bits.
    let row = |rank: &u8| {
        let (freq, start) = table.slots(usize::from(*rank)).unwrap_or((1, 0));
        (u32::from(freq), u32::from(start), (1_u64 << 24).div_ceil(u64::from(freq.max(1))))
    };
    let rows: Vec<(u32, u32, u64)> = rank_of.iter().map(row).collect();
    let filler = rows.iter().max_by_key(|row| row.0).copied().unwrap_or((1, 0, 1 << 24));
    let mut states = SmallStates([SMALL_LOW; BLOCK]);
    bytes.clear();
    bytes.resize(heads.len().next_multiple_of(BLOCK) + 1, 0);
    let mut used = 0;
    for run in heads.chunks(BLOCK).rev() {
        for (t, state) in states.0.iter_mut().enumerate().rev() {
            let exponent = |head: &u16| rows.get(usize::from(head >> 7 & 0xff)).copied();
            let (freq, start, reciprocal) = run.get(t).and_then(exponent).unwrap_or(filler);
            let mut x = u32::from(*state);
            // The byte is always written and counts only if it is emitted: no branch.
            if let Some(byte) = bytes.get_mut(used) {
                *byte = x as u8;
            }
            let full = x >> (16 - SMALL_BITS) >= freq;
            used += usize::from(full);
            x = if full { x >> 8 } else { x };
            let quotient = ((u64::from(x) * reciprocal) >> 24) as u32;
            *state = (quotient << SMALL_BITS | (start + x - quotient * freq)) as u16;
        }
    }
    bytes.truncate(used);
    states
}

/// Decodes a chunk to exactly `out`.
pub fn decode(kernel: AvailableKernel, packed: Packed<'_>, out: &mut [u8]) -> Result<(), Damage> {
    let mut fields = Fields::new(packed.bytes());
    let stride = Stride::from_byte(fields.u8()?, WIDTHS)?;
    let used = usize::from(fields.u8()?) + 1;
    let ranks: Vec<(u8, u8)> = fields.bytes(2 * used)?.as_chunks().0.iter().map(|&[e, f]| (e, f)).collect();
    let table = SmallTable::new(&ranks).ok_or(Damage::new("slots of at most 16 exponents in all", 128, used as u64))?;
    let (words_len, exceptions_len) = (fields.len32()?, fields.len32()?);
    let (head, body, tail) = stride.split_mut(out);
    head.copy_from_slice(fields.bytes(head.len())?);
    tail.copy_from_slice(fields.bytes(tail.len())?);
    let n = body.len() / stride.width();
    let residual = fields.bytes(n)?;
    let mut low = if stride.log2_width == 2 { LowHalves::read(&mut fields, n)? } else { LowHalves::default() };
    let exceptions = fields.bytes(exceptions_len)?;
    let (mut states, rest) = SmallStates::read(fields.rest())?;
    let mut words = packed.coded(rest, words_len)?;
    let mut run = |residual: &[u8], out: &mut [[u8; 2]]| {
        let short = Damage::new("coded bytes enough for a block", 1, 0);
        let (blocks, last) = residual.as_chunks();
        let (whole, rest) = out.as_flattened_mut().as_chunks_mut();
        if !kernel.exponents16(&table, &mut states, &mut words, blocks, whole) {
            return Err(short);
        }
        if !last.is_empty() {
            let (mut block, mut space) = ([[0; BLOCK]], [[0; 2 * BLOCK]]);
            block.as_flattened_mut().get_mut(..last.len()).unwrap_or_default().copy_from_slice(last);
            if !kernel.exponents16(&table, &mut states, &mut words, &block, &mut space) {
                return Err(short);
            }
            rest.iter_mut().zip(space.as_flattened()).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    };
    if stride.log2_width == 1 {
        run(residual, body.as_chunks_mut().0)?;
    } else {
        let mut high = [[0; 2]; TILE];
        for (out, residual) in body.as_chunks_mut().0.chunks_mut(TILE).zip(residual.chunks(TILE)) {
            let high = high.get_mut(..out.len()).unwrap_or_default();
            run(residual, high)?;
            low.join(kernel, high, out);
        }
    }
    words.finish()?;
    states.finish()?;
    replace(exceptions, stride, body)
}

/// Puts exponents without a rank into their places.
fn replace(exceptions: &[u8], stride: Stride, body: &mut [u8]) -> Result<(), Damage> {
    let width = stride.width();
    let numbers = (body.len() / width) as u64;
    let mut at = 0;
    let mut bytes = exceptions.iter();
    while let Some(&since) = bytes.next() {
        at += usize::from(since);
        if since == 255 {
            continue;
        }
        let outside = Damage::new("number of an exception, below", numbers, at as u64);
        let &exponent = bytes.next().ok_or(Damage::new("bytes of an exception", 2, 1))?;
        let high = (at + 1).checked_mul(width).and_then(|end| body.get_mut(end - 2..end)).ok_or(outside)?;
        if let [low, high] = high {
            let word = u16::from_le_bytes([*low, *high]) & 0x807f | u16::from(exponent) << 7;
            [*low, *high] = word.to_le_bytes();
        }
        at += 1;
    }
    Ok(())
}
