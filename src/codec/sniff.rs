//! Statistics of a sample of a chunk: its likely number type, its size as byte planes, its
//! repetitions.

use super::numbers::Numbers;
use super::plane::{self, Shape};
use super::wire::Stride;

/// Bytes of a piece of the sample, and pieces.
const PIECE: usize = 4 << 10;
const PIECES: usize = 4;
/// Bytes that count as a repetition.
const REPEAT: usize = 8;

/// Statistics of a sample of a chunk.
#[derive(Debug, Clone, Copy)]
pub struct SampleStats {
    /// The split into planes that is smallest.
    pub shape: Shape,
    /// Bits that 1024 bytes would take in it, tables not counted.
    pub bits_per_kib: u64,
    /// Whether a coder of repetitions may be of use.
    pub repeats: bool,
    /// For bytes of unknown meaning: the numbers that they look like.
    pub like: Option<(Numbers, Stride)>,
}

/// Inspects a sample of a chunk of `numbers`.
pub fn inspect(numbers: Numbers, raw: &[u8], scratch: &mut plane::Scratch) -> SampleStats {
    let sample = sample(raw);
    let shape = |log2_width, rotate| Shape { log2_width, rotate };
    let candidates: &[Shape] = match numbers {
        Numbers::Integers { log2_width } => &[shape(log2_width, false)],
        Numbers::F8 => &[shape(0, false)],
        Numbers::F16 { .. } => &[shape(1, true), shape(1, false)],
        Numbers::Bf16 { .. } => &[shape(1, true)],
        Numbers::F32 => &[shape(2, true)],
        Numbers::F64 => &[shape(3, true)],
        Numbers::Unknown => &[
            shape(0, false),
            shape(1, true),
            shape(2, true),
            shape(3, true),
            shape(1, false),
            shape(2, false),
            shape(3, false),
        ],
    };
    let costs = candidates.iter().map(|&shape| (plane::entropy(&sample, shape, scratch), shape));
    let (bits, best) = costs.min_by_key(|(bits, _)| *bits).unwrap_or((u64::MAX, shape(0, false)));
    let like = if numbers == Numbers::Unknown { like(&sample, bits, scratch) } else { None };
    // Floats seldom repeat, and then much; other bytes may be text, of which a sample sees little.
    let one_in = match numbers {
        Numbers::Unknown | Numbers::Integers { .. } => 64,
        _ => 16,
    };
    SampleStats {
        shape: best,
        bits_per_kib: bits * 1024 / sample.len().max(1) as u64,
        repeats: repeats(&sample, one_in),
        like,
    }
}

/// Pieces from all over a chunk, each from an offset that is a multiple of 8; a short chunk whole.
pub fn sample(raw: &[u8]) -> Vec<u8> {
    if raw.len() <= PIECES * PIECE {
        return raw.to_vec();
    }
    let mut sample = Vec::with_capacity(PIECES * PIECE);
    for i in 0..PIECES {
        let at = (raw.len() - PIECE) * i / (PIECES - 1) / 8 * 8;
        sample.extend_from_slice(raw.get(at..at + PIECE).unwrap_or_default());
    }
    sample
}

/// Floats whose top bits cost less than any split into planes makes of them, or hardly more.
fn like(sample: &[u8], bits: u64, scratch: &mut plane::Scratch) -> Option<(Numbers, Stride)> {
    let best_phase = |log2_width: u8| {
        // The top byte is the one of least entropy: it tells where numbers begin.
        let plain = Shape { log2_width, rotate: false };
        let plane = plane::least(sample, plain, scratch);
        let width = 1_u8 << log2_width;
        Stride { log2_width, skip: (plane as u8 + 1) % width }
    };
    let mut phases = [1, 2].map(best_phase).into_iter();
    let (two, four) = (phases.next()?, phases.next()?);
    let heads = |stride: Stride| {
        let (_, body, _) = stride.split(sample);
        let tops =
            body.chunks_exact(stride.width()).filter_map(|n| n.last_chunk::<2>()).map(|n| u16::from_le_bytes(*n));
        tops.collect::<Vec<u16>>()
    };
    // Bits of a number that are not in its coded head: 7 of BF16, 8 of F16, 23 of F32.
    let cost = |heads: &[u16], symbol: &dyn Fn(u16) -> usize, rest: u64| {
        plane::entropy_of(heads.iter().map(|&h| symbol(h))) + rest * heads.len() as u64
    };
    let float = |head: u16| usize::from(head >> 6 & 0x1ff);
    let (pairs, quads) = (heads(two), heads(four));
    let found = [
        (cost(&quads, &float, 23), Numbers::F32, four),
        (cost(&pairs, &float, 7), Numbers::Bf16 { row: 0 }, two),
        (cost(&pairs, &|head| usize::from(head >> 8), 8), Numbers::F16 { row: 0 }, two),
    ];
    let (cost, numbers, stride) = found.into_iter().min_by_key(|(cost, ..)| *cost)?;
    // Planes see zeros in low bytes, which the heads here do not: then the codec has to show it.
    let hopeless = sample.len() as u64 * 8 * 63 / 64;
    (cost <= bits + bits / 8 && cost < hopeless).then_some((numbers, stride))
}

/// Whether more than one in `one_in` places of a sample begins with eight bytes that were there
/// before.
fn repeats(sample: &[u8], one_in: usize) -> bool {
    const BITS: u32 = 12;
    let mut seen = [0_u64; 1 << BITS];
    let mut found = 0;
    for window in sample.windows(REPEAT) {
        let Some(key) = window.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else { continue };
        let slot = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BITS)) as usize;
        if let Some(seen) = seen.get_mut(slot) {
            found += usize::from(*seen == key);
            *seen = key;
        }
    }
    found * one_in > sample.len()
}
