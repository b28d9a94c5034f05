//! Byte planes: the k-th byte of every number, stored together, each plane raw, constant or entropy
//! coded.
//!
//! Floats are rotated left by one bit first. The sign then is the lowest bit of the number, and the
//! top byte is the whole exponent of BF16 and F32, or exponent bits alone (F64) or with three bits
//! of mantissa (F16): the exponent and the sign-mantissa plane, without masks. F16 is also tried
//! unrotated, as the sign is not free of information in every model.

#![expect(clippy::indexing_slicing, reason = "indices are bounded by a number's width, at most 8")]

use super::simd::{AvailableKernel, ReverseWords};
use super::{Packed, entropy, rans};
use crate::error::Damage;

/// How the bytes of a chunk are split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// log2 of the bytes of a number: 0 to 3.
    pub log2_width: u8,
    /// Whether numbers are rotated left by one bit before they are split.
    pub rotate: bool,
}

impl Shape {
    /// Bytes of a number: 1, 2, 4 or 8.
    pub const fn width(self) -> usize {
        1 << self.log2_width
    }

    const fn to_byte(self) -> u8 {
        self.log2_width | (self.rotate as u8) << 2
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        if byte < 8 { Some(Self { log2_width: byte & 3, rotate: byte & 4 != 0 }) } else { None }
    }
}

const MODE_RAW: u8 = 0;
const MODE_CONSTANT: u8 = 1;
const MODE_RANS: u8 = 2;

/// The planes of a chunk, lowest byte first.
#[derive(Default)]
pub struct Scratch {
    planes: [Vec<u8>; 8],
    words: ReverseWords,
}

impl Scratch {
    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.planes.iter().map(Vec::capacity).sum::<usize>() + self.words.memory()
    }
}

/// Splits the whole numbers of `raw` into `planes[..width]`; gives the bytes behind them.
fn split<'a>(raw: &'a [u8], shape: Shape, planes: &mut [Vec<u8>; 8]) -> &'a [u8] {
    fn typed<const W: usize>(raw: &[u8], rotate: bool, planes: &mut [Vec<u8>; 8]) {
        let n = raw.len() / W;
        for plane in &mut planes[..W] {
            plane.resize(n, 0);
        }
        for (i, number) in raw.chunks_exact(W).enumerate() {
            let mut wide = [0; 8];
            wide[..W].copy_from_slice(number);
            let mut word = u64::from_le_bytes(wide);
            if rotate {
                word = word << 1 | word >> (8 * W - 1);
            }
            for (plane, byte) in planes[..W].iter_mut().zip(word.to_le_bytes()) {
                plane[i] = byte;
            }
        }
    }
    match shape.width() {
        1 => typed::<1>(raw, shape.rotate, planes),
        2 => typed::<2>(raw, shape.rotate, planes),
        4 => typed::<4>(raw, shape.rotate, planes),
        _ => typed::<8>(raw, shape.rotate, planes),
    }
    &raw[raw.len() - raw.len() % shape.width()..]
}

/// The inverse of [`split`]: `planes` are `W` slices of `out.len() / W` bytes.
fn merge<const W: usize>(planes: [&[u8]; W], rotate: bool, out: &mut [u8]) {
    let n = out.len() / W;
    let planes = planes.map(|plane| &plane[..n]);
    for (i, number) in out.chunks_exact_mut(W).enumerate() {
        let mut wide = [0; 8];
        for (byte, plane) in wide.iter_mut().zip(planes) {
            *byte = plane[i];
        }
        let mut word = u64::from_le_bytes(wide);
        if rotate {
            word = word >> 1 | (word & 1) << (8 * W - 1);
        }
        number.copy_from_slice(&word.to_le_bytes()[..W]);
    }
}

/// The bits of `raw` split so, each plane coded with a table of its own that costs nothing.
pub fn entropy(raw: &[u8], shape: Shape, scratch: &mut Scratch) -> u64 {
    let tail = split(raw, shape, &mut scratch.planes);
    let planes = &scratch.planes[..shape.width()];
    8 * tail.len() as u64 + planes.iter().map(|plane| plane_entropy(plane)).sum::<u64>()
}

/// The plane of least entropy.
pub fn least(raw: &[u8], shape: Shape, scratch: &mut Scratch) -> usize {
    split(raw, shape, &mut scratch.planes);
    (0..shape.width()).min_by_key(|&k| plane_entropy(&scratch.planes[k])).unwrap_or(0)
}

fn plane_entropy(plane: &[u8]) -> u64 {
    entropy::entropy(&rans::count(plane)) >> 16
}

/// The bits of symbols below 512, coded with a table that costs nothing.
pub fn entropy_of(symbols: impl Iterator<Item = usize>) -> u64 {
    let mut counts = [0_u32; 512];
    for symbol in symbols {
        counts[symbol % 512] += 1;
    }
    entropy::entropy(&counts) >> 16
}

/// How one plane is best stored.
enum PlaneCoding {
    Raw(u64),
    Constant,
    Rans(Box<rans::Model>, u64),
}

impl PlaneCoding {
    fn of(plane: &[u8]) -> Self {
        let raw = plane.len() as u64;
        let counts = rans::count(plane);
        match rans::Model::from_counts(&counts) {
            None if plane.is_empty() => Self::Raw(0),
            None => Self::Constant,
            Some(model) => {
                let cost = model.cost(&counts) + 4;
                if cost < raw { Self::Rans(Box::new(model), cost) } else { Self::Raw(raw) }
            }
        }
    }

    fn cost(&self) -> u64 {
        match self {
            Self::Raw(cost) | Self::Rans(_, cost) => *cost,
            Self::Constant => 1,
        }
    }
}

/// The packed bytes of `raw` in `out` (replaced); `false` when they would not be fewer than
/// `limit`, which is mostly known before anything is coded.
pub fn encode(
    kernel: AvailableKernel,
    raw: &[u8],
    shape: Shape,
    limit: usize,
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> bool {
    let tail = split(raw, shape, &mut scratch.planes);
    let planes = &scratch.planes[..shape.width()];
    let codings: Vec<PlaneCoding> = planes.iter().map(|plane| PlaneCoding::of(plane)).collect();
    if 1 + shape.width() as u64 + tail.len() as u64 + codings.iter().map(PlaneCoding::cost).sum::<u64>() > limit as u64
    {
        return false;
    }
    out.clear();
    out.push(shape.to_byte());
    let mut length_at = Vec::new();
    for coding in &codings {
        match coding {
            PlaneCoding::Raw(_) => out.push(MODE_RAW),
            PlaneCoding::Constant => out.push(MODE_CONSTANT),
            PlaneCoding::Rans(..) => {
                out.push(MODE_RANS);
                length_at.push(out.len());
                out.extend_from_slice(&[0; 4]);
            }
        }
    }
    out.extend_from_slice(tail);
    let mut length_at = length_at.into_iter();
    for (plane, coding) in scratch.planes.iter_mut().zip(&codings) {
        match coding {
            PlaneCoding::Raw(_) => out.extend_from_slice(plane),
            PlaneCoding::Constant => out.extend_from_slice(&plane[..1]),
            PlaneCoding::Rans(model, _) => {
                let start = out.len();
                rans::encode(kernel, plane, model, &mut scratch.words, out);
                let len = (out.len() - start) as u32;
                if let Some(at) = length_at.next() {
                    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
                }
            }
        }
    }
    out.len() < limit
}

/// Decodes the planes in `packed` to exactly `out`.
pub fn decode(kernel: AvailableKernel, whole: Packed<'_>, out: &mut [u8], scratch: &mut Scratch) -> Result<(), Damage> {
    let packed = whole.bytes();
    let short = |need: usize, have: usize| Damage::new("length of the planes", need as u64, have as u64);
    let (&byte, mut rest) = packed.split_first().ok_or(short(1, 0))?;
    let shape = Shape::from_byte(byte).ok_or(Damage::new("shape of the planes, below", 8, u64::from(byte)))?;
    let (width, n) = (shape.width(), out.len() / shape.width());

    let mut lens = [(MODE_RAW, 0_usize); 8];
    for slot in &mut lens[..width] {
        let (&mode, after) = rest.split_first().ok_or(short(1, 0))?;
        rest = after;
        let len = match mode {
            MODE_RAW => n,
            MODE_CONSTANT => 1,
            MODE_RANS => {
                let (len, after) = rest.split_first_chunk::<4>().ok_or(short(4, rest.len()))?;
                rest = after;
                u32::from_le_bytes(*len) as usize
            }
            _ => return Err(Damage::new("mode of a plane, at most", 2, u64::from(mode))),
        };
        *slot = (mode, len);
    }
    let tail_len = out.len() - n * width;
    let (tail, mut rest) = rest.split_at_checked(tail_len).ok_or(short(tail_len, rest.len()))?;
    let mut stored: [&[u8]; 8] = [&[]; 8];
    let mut starts = [0; 8];
    for (((_, len), slot), start) in lens.iter().zip(&mut stored).zip(&mut starts).take(width) {
        *start = packed.len() - rest.len();
        (*slot, rest) = rest.split_at_checked(*len).ok_or(short(*len, rest.len()))?;
    }
    if !rest.is_empty() {
        return Err(Damage::new("bytes behind the planes", 0, rest.len() as u64));
    }

    for ((((mode, _), bytes), start), plane) in lens.iter().zip(stored).zip(starts).zip(&mut scratch.planes).take(width)
    {
        match *mode {
            MODE_RAW => {}
            MODE_CONSTANT => {
                plane.clear();
                plane.resize(n, bytes[0]);
            }
            _ => {
                rans::decode(kernel, whole, start..start + bytes.len(), n, plane)?;
            }
        }
    }
    let planes: [&[u8]; 8] = std::array::from_fn(|k| match lens[k].0 {
        MODE_RAW => stored[k],
        _ => &scratch.planes[k][..],
    });
    let (body, end) = out.split_at_mut(n * width);
    end.copy_from_slice(tail);
    match width {
        1 => merge([planes[0]], shape.rotate, body),
        2 => merge([planes[0], planes[1]], shape.rotate, body),
        4 => merge([planes[0], planes[1], planes[2], planes[3]], shape.rotate, body),
        _ => merge(planes, shape.rotate, body),
    }
    Ok(())
}
