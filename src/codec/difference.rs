//! Numbers as differences from those of a base, which is at hand when they are decoded: what a
//! fine-tune stores.
//!
//! A difference is a number of the same width, small where the two are near, whatever their signs.
//! Here it is packed by one of the codecs for numbers; [`delta`](super::delta) has one of its own.
//! Written out in [`crate::format::native`], section "difference".

use super::plane::{self, Shape};
use super::simd::{AvailableKernel, Op};
use super::{Codec, Packed, constant, zstd};
use crate::error::Damage;

/// Fills `out` with the differences of the numbers of 2^`log2_width` bytes in `raw` from those in
/// `base`, all equally long; bytes behind the last number are compared one by one.
pub fn subtract(kernel: AvailableKernel, op: Op, log2_width: u8, (raw, base): (&[u8], &[u8]), out: &mut Vec<u8>) {
    out.resize(raw.len(), 0);
    kernel.subtract(op, log2_width, raw, base, out);
    let whole = raw.len() >> log2_width << log2_width;
    for ((out, x), y) in out.iter_mut().zip(raw).zip(base).skip(whole) {
        *out = x ^ y;
    }
}

/// The inverse, in place: turns the differences in `numbers` into the numbers themselves.
pub fn add(kernel: AvailableKernel, op: Op, log2_width: u8, base: &[u8], numbers: &mut [u8]) {
    kernel.add(op, log2_width, base, numbers);
    let whole = numbers.len() >> log2_width << log2_width;
    for (x, y) in numbers.iter_mut().zip(base).skip(whole) {
        *x ^= y;
    }
}

/// Buffers reused from chunk to chunk.
#[derive(Default)]
pub struct Scratch {
    deltas: Vec<u8>,
    inner: Vec<u8>,
    spare: Vec<u8>,
}

impl Scratch {
    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.deltas.capacity() + self.inner.capacity() + self.spare.capacity()
    }
}

/// How the differences of a chunk are packed.
#[derive(Debug, Clone, Copy)]
pub struct DifferenceParams {
    /// How they are made.
    pub op: Op,
    /// log2 of the bytes of a number.
    pub log2_width: u8,
    /// Whether most of them are zero, so that a coder of repetitions may win.
    pub sparse: bool,
}

/// The packed differences in `out` (replaced); `false` when they would not be fewer than `limit`.
pub fn encode(
    kernel: AvailableKernel,
    params: DifferenceParams,
    both: (&[u8], &[u8]),
    limit: usize,
    out: &mut Vec<u8>,
    (scratch, planes, zstd_scratch): (&mut Scratch, &mut plane::Scratch, &mut zstd::Scratch),
) -> bool {
    let Some(budget) = limit.checked_sub(HEAD) else { return false };
    subtract(kernel, params.op, params.log2_width, both, &mut scratch.deltas);
    let deltas = &scratch.deltas;
    let mut best: Option<Codec> = None;
    if let Some(unit) = constant::unit(deltas) {
        scratch.inner.clear();
        scratch.inner.extend_from_slice(unit);
        best = Some(Codec::Constant);
    } else {
        let shape = Shape { log2_width: params.log2_width, rotate: false };
        if plane::encode(kernel, deltas, shape, budget, &mut scratch.inner, planes) {
            best = Some(Codec::Planes);
        }
        if params.sparse
            && zstd::encode(deltas, ZSTD_LEVEL, &mut scratch.spare, zstd_scratch)
            && scratch.spare.len() < best.map_or(budget, |_| scratch.inner.len())
        {
            std::mem::swap(&mut scratch.inner, &mut scratch.spare);
            best = Some(Codec::Zstd);
        }
    }
    let Some(codec) = best else { return false };
    out.clear();
    out.extend_from_slice(&[params.op as u8 | params.log2_width << 2, codec.id() as u8]);
    out.extend_from_slice(&scratch.inner);
    out.len() < limit
}

/// Bytes in front of the inner codec's.
const HEAD: usize = 2;
/// zstd level for sparse differences.
const ZSTD_LEVEL: i32 = 6;

/// Decodes a chunk to exactly `out`, which is as long as `base`.
pub fn decode(
    kernel: AvailableKernel,
    packed: Packed<'_>,
    base: &[u8],
    out: &mut [u8],
    (planes, zstd_scratch): (&mut plane::Scratch, &mut zstd::Scratch),
) -> Result<(), Damage> {
    let &[how, inner, ..] = packed.bytes() else {
        return Err(Damage::new("bytes of a difference, at least", HEAD as u64, packed.bytes().len() as u64));
    };
    let op = Op::of(how & 3).filter(|_| how < 16);
    let op = op.ok_or(Damage::new("kind and width of a difference, below", 16, how.into()))?;
    let rest = packed.behind(HEAD).ok_or(Damage::new("padding", 0, 0))?;
    match Codec::from_id(inner.into()) {
        Some(Codec::Constant) => constant::decode(rest.bytes(), out)?,
        Some(Codec::Zstd) => zstd::decode(rest.bytes(), out, zstd_scratch)?,
        Some(Codec::Planes) => plane::decode(kernel, rest, out, planes)?,
        _ => return Err(Damage::new("codec of a difference (1, 2 or 3)", 3, inner.into())),
    }
    add(kernel, op, how >> 2, base, out);
    Ok(())
}
