//! Chooses the codec of a chunk: the one that packs it smallest among the few candidates that a
//! sample leaves. Ties go to the faster decoder.

use super::delta::DeltaParams;
use super::difference::DifferenceParams;
use super::difference::{self, subtract};
use super::grid::{self, GridParams, Layout};
use super::plane::{self, Shape};
use super::simd::{AvailableKernel, Op};
use super::sniff::{self, SampleStats};
use super::wire::Stride;
use super::{Codec, Numbers, Scratch, classes, constant, delta, exponents, zstd};

/// What compression optimises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// The best ratio at full speed.
    #[default]
    Balanced,
    /// The fastest load.
    Inference,
    /// The smallest file.
    Storage,
}

impl Mode {
    /// The mode's number in a container.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::Balanced => 0,
            Self::Inference => 1,
            Self::Storage => 2,
        }
    }

    /// The name on the command line; `None` for a number that this release does not know.
    #[must_use]
    pub const fn name_of(id: u8) -> Option<&'static str> {
        match id {
            0 => Some("balanced"),
            1 => Some("inference"),
            2 => Some("storage"),
            _ => None,
        }
    }

    /// Levels to try. A higher one is not always smaller.
    const fn zstd_levels(self) -> &'static [i32] {
        match self {
            Self::Balanced => &[3],
            Self::Inference => &[1],
            Self::Storage => &[1, 3, 19],
        }
    }

    /// Groups of rows and of columns to try for F16, and log2 of the slots of a table.
    const fn f16(self) -> (&'static [(usize, usize)], u32) {
        match self {
            Self::Balanced => (&[(1, 1), (8, 1), (4, 4), (2, 8)], 11),
            Self::Inference => (&[(1, 1), (8, 1)], 11),
            Self::Storage => (&[(1, 1), (4, 1), (8, 1), (4, 4), (2, 16), (4, 8), (8, 4), (8, 8), (4, 16)], 12),
        }
    }
}

/// Groups of rows and of columns to try for BF16 and for bytes where size counts most.
const STORAGE: &[(usize, usize)] = &[(1, 1), (4, 1), (8, 1), (16, 1), (4, 4), (8, 4), (4, 8), (8, 8)];

/// Encodes `raw` into `out` (replaced) with the codec that packs it smallest, and says which.
///
/// `out` is never longer than `raw`, and not longer than 8 bytes when `raw` repeats a unit of at
/// most 8. The same `numbers`, `mode` and `raw` always give the same bytes, whatever the kernel.
pub fn encode(numbers: Numbers, mode: Mode, raw: &[u8], out: &mut Vec<u8>, scratch: &mut Scratch) -> Codec {
    out.clear();
    if let Some(unit) = constant::unit(raw) {
        out.extend_from_slice(unit);
        return Codec::Constant;
    }
    let mut best = Best { codec: Codec::Raw, len: raw.len(), out, mode, raw };
    let stats = sniff::inspect(numbers, raw, &mut scratch.planes);
    match numbers {
        Numbers::Bf16 { row } => best.bf16(Stride::of(1), row, scratch),
        Numbers::F16 { row } => best.f16(Stride::of(1), row, scratch),
        Numbers::F32 => best.wide(Stride::of(2), scratch),
        Numbers::F8 => {
            best.classes(Stride::of(0), scratch);
            if mode == Mode::Storage {
                best.grid(Stride::of(0), Layout::TopByte, 0, (STORAGE, 12), scratch);
            }
        }
        Numbers::Integers { log2_width: 0 } if mode == Mode::Storage => {
            best.grid(Stride::of(0), Layout::TopByte, 0, (STORAGE, 12), scratch);
        }
        Numbers::Unknown => match stats.like {
            Some((Numbers::F32, stride)) => best.wide(stride, scratch),
            Some((Numbers::Bf16 { row }, stride)) => best.bf16(stride, row, scratch),
            Some((Numbers::F16 { row }, stride)) => best.f16(stride, row, scratch),
            _ => {}
        },
        Numbers::Integers { .. } | Numbers::F64 => {}
    }
    best.planes(&stats, scratch);
    best.zstd(&stats, scratch);
    if best.codec == Codec::Raw {
        best.out.extend_from_slice(raw);
    }
    best.codec
}

/// Encodes `raw` into `out` (replaced) by what it has in common with `base`, as many bytes, and
/// says how; `None` when that takes `limit` bytes or more, and `out` then holds anything.
///
/// The same arguments always give the same bytes, whatever the kernel.
pub fn encode_against(
    numbers: Numbers,
    (raw, base): (&[u8], &[u8]),
    limit: usize,
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> Option<Codec> {
    if limit < 2 || raw.len() != base.len() {
        return None;
    }
    if raw == base {
        out.clear();
        out.push(0);
        return Some(Codec::Base);
    }
    // Bytes of no type are taken for the floats that they look like, if numbers begin with the
    // chunk.
    let numbers = match numbers {
        Numbers::Unknown => match sniff::inspect(numbers, raw, &mut scratch.planes).like {
            Some((like, stride)) if stride.skip == 0 => like,
            _ => numbers,
        },
        _ => numbers,
    };
    let (log2_width, natural, shift) = match numbers {
        Numbers::Bf16 { .. } => (1, Op::Mirrored, 7),
        // With the top bit of the mantissa: five bits of exponent leave room for it.
        Numbers::F16 { .. } => (1, Op::Mirrored, 9),
        Numbers::F8 => (0, Op::Mirrored, 2),
        Numbers::F32 => (2, Op::Mirrored, 0),
        Numbers::F64 => (3, Op::Mirrored, 0),
        Numbers::Integers { log2_width } => (log2_width, Op::Wrapping, 7 + 8 * log2_width),
        Numbers::Unknown => (0, Op::Xor, 7),
    };
    let (kernel, spare) = (scratch.kernel, &mut scratch.spare);
    let sample = BaseSample::take(kernel, natural, log2_width, (raw, base), &mut scratch.planes);
    let mut best = None;
    let mut limit = limit;
    if log2_width <= 1 && sample.may_fit(raw.len(), limit) {
        let params = DeltaParams { op: sample.op, log2_width, shift };
        if delta::encode(kernel, params, (raw, base), limit, out, &mut scratch.delta) {
            (best, limit) = (Some(Codec::Delta), out.len());
        }
    }
    if log2_width > 1 || sample.sparse {
        let params = DifferenceParams { op: sample.op, log2_width, sparse: sample.sparse };
        let space = (&mut scratch.difference, &mut scratch.planes, &mut scratch.zstd);
        if difference::encode(kernel, params, (raw, base), limit, spare, space) {
            std::mem::swap(out, spare);
            best = Some(Codec::Difference);
        }
    }
    best
}

/// Statistics of a sample of a chunk and its base.
struct BaseSample {
    /// The kind of difference that is smaller.
    op: Op,
    /// Bits that 1024 bytes would take.
    bits_per_kib: u64,
    /// Whether most numbers are equal.
    sparse: bool,
}

impl BaseSample {
    /// Fewer than one number in so many differs.
    const SPARSE: usize = 16;

    fn take(
        kernel: AvailableKernel,
        natural: Op,
        log2_width: u8,
        (raw, base): (&[u8], &[u8]),
        planes: &mut plane::Scratch,
    ) -> Self {
        let (raw, base) = (sniff::sample(raw), sniff::sample(base));
        let shape = Shape { log2_width, rotate: false };
        let mut deltas = Vec::new();
        let mut cost = |op| {
            subtract(kernel, op, log2_width, (&raw, &base), &mut deltas);
            plane::entropy(&deltas, shape, planes)
        };
        let (bits, xor) = (cost(natural), cost(Op::Xor));
        let width = 1 << log2_width;
        let different = raw.chunks_exact(width).zip(base.chunks_exact(width)).filter(|(x, y)| x != y).count();
        Self {
            op: if xor < bits { Op::Xor } else { natural },
            bits_per_kib: bits.min(xor) * 1024 / raw.len().max(1) as u64,
            sparse: different * Self::SPARSE <= raw.len() / width,
        }
    }

    /// Whether differences may take fewer than `limit` bytes. Contexts save an eighth, rarely a
    /// quarter.
    const fn may_fit(&self, len: usize, limit: usize) -> bool {
        (self.bits_per_kib * len as u64 / 8192) * 3 / 4 < limit as u64
    }
}

/// The smallest encoding so far.
struct Best<'a> {
    codec: Codec,
    /// Length of the packed bytes; `out` has none for [`Codec::Raw`].
    len: usize,
    out: &'a mut Vec<u8>,
    mode: Mode,
    raw: &'a [u8],
}

impl Best<'_> {
    /// Takes what `encode` writes if it is smaller. `encode` gets a limit and says whether it is.
    fn offer(&mut self, codec: Codec, spare: &mut Vec<u8>, encode: impl FnOnce(usize, &mut Vec<u8>) -> bool) {
        if encode(self.len, spare) && spare.len() < self.len {
            std::mem::swap(self.out, spare);
            self.codec = codec;
            self.len = self.out.len();
        }
    }

    fn bf16(&mut self, stride: Stride, row: u32, scratch: &mut Scratch) {
        match self.mode {
            Mode::Inference => self.exponents(stride, scratch),
            Mode::Balanced => self.classes(stride, scratch),
            Mode::Storage => {
                self.classes(stride, scratch);
                self.grid(stride, Layout::Bf16, row, (STORAGE, 12), scratch);
            }
        }
    }

    fn f16(&mut self, stride: Stride, row: u32, scratch: &mut Scratch) {
        self.grid(stride, Layout::TopByte, row, self.mode.f16(), scratch);
        if self.mode == Mode::Storage {
            // Larger tables cost more than they gain where there are few numbers for each.
            self.grid(stride, Layout::TopByte, row, Mode::Balanced.f16(), scratch);
        }
    }

    /// Floats of which the high half is a BF16 word.
    fn wide(&mut self, stride: Stride, scratch: &mut Scratch) {
        match self.mode {
            Mode::Inference => self.exponents(stride, scratch),
            Mode::Balanced | Mode::Storage => self.classes(stride, scratch),
        }
    }

    fn classes(&mut self, stride: Stride, scratch: &mut Scratch) {
        let (kernel, raw, space) = (scratch.kernel, self.raw, &mut scratch.classes);
        self.offer(Codec::Classes, &mut scratch.spare, |limit, out| {
            classes::encode(kernel, stride, raw, limit, out, space)
        });
    }

    fn exponents(&mut self, stride: Stride, scratch: &mut Scratch) {
        let (kernel, raw, space) = (scratch.kernel, self.raw, &mut scratch.exponents);
        self.offer(Codec::Exponents, &mut scratch.spare, |limit, out| {
            exponents::encode(kernel, stride, raw, limit, out, space)
        });
    }

    fn grid(
        &mut self,
        stride: Stride,
        layout: Layout,
        row: u32,
        (shapes, bits): (&[(usize, usize)], u32),
        scratch: &mut Scratch,
    ) {
        let params = GridParams { stride, layout, row: row as usize, bits, shapes };
        let (kernel, raw, space) = (scratch.kernel, self.raw, &mut scratch.grid);
        self.offer(Codec::Grid, &mut scratch.spare, |limit, out| grid::encode(kernel, &params, raw, limit, out, space));
    }

    /// Tries planes unless what there is is about as small as a sample of them.
    fn planes(&mut self, stats: &SampleStats, scratch: &mut Scratch) {
        let promised = stats.bits_per_kib * self.raw.len() as u64 / 8192;
        // A sample tells a codec that models little from one that models more only when they are
        // far apart.
        if self.codec == Codec::Raw || promised < self.len as u64 * 31 / 32 {
            let (kernel, raw, space) = (scratch.kernel, self.raw, &mut scratch.planes);
            self.offer(Codec::Planes, &mut scratch.spare, |limit, out| {
                plane::encode(kernel, raw, stats.shape, limit, out, space)
            });
        }
    }

    fn zstd(&mut self, stats: &SampleStats, scratch: &mut Scratch) {
        if !stats.repeats {
            return;
        }
        for &level in self.mode.zstd_levels() {
            let (raw, space) = (self.raw, &mut scratch.zstd);
            self.offer(Codec::Zstd, &mut scratch.spare, |_, out| zstd::encode(raw, level, out, space));
        }
    }
}
