//! The choice of a codec for one chunk: the smallest of a few candidates, ties to the faster decoder.

use super::plane::{self, Shape};
use super::{Codec, Scratch, constant, zstd};

/// What the numbers in a chunk are, as far as a codec cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Numbers {
    /// Bytes of unknown meaning.
    Unknown,
    /// Unsigned or signed integers, or codes, of 1, 2, 4 or 8 bytes (log2: 0 to 3).
    Integers {
        /// log2 of the bytes of a number.
        log2_width: u8,
    },
    /// Floats of 2, 4 or 8 bytes (log2: 1 to 3).
    Floats {
        /// log2 of the bytes of a number.
        log2_width: u8,
    },
}

/// What the user asked to optimise.
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
}

/// Bytes of a chunk on which zstd is tried before it may see the whole of a chunk of floats: it seldom pays there, and
/// is the slowest step.
const SAMPLE: usize = 32 << 10;

/// Encodes `raw` into `out` (replaced) with the codec that packs it smallest, and says which.
///
/// `out` is never longer than `raw`, and not longer than 8 bytes when `raw` repeats a unit of at most 8.
/// The same `numbers`, `mode` and `raw` always give the same bytes.
pub fn encode(numbers: Numbers, mode: Mode, raw: &[u8], out: &mut Vec<u8>, scratch: &mut Scratch) -> Codec {
    out.clear();
    if let Some(unit) = constant::unit(raw) {
        out.extend_from_slice(unit);
        return Codec::Constant;
    }
    let shape = best_shape(numbers, raw, scratch);
    plane::encode(raw, shape, out, &mut scratch.planes);
    let mut best = Codec::Planes;
    if out.len() >= raw.len() {
        out.clear();
        out.extend_from_slice(raw);
        best = Codec::Raw;
    }
    if zstd_may_win(numbers, raw, out.len(), scratch) {
        for &level in mode.zstd_levels() {
            let mut packed = Vec::new();
            if zstd::encode(raw, level, &mut packed, &mut scratch.zstd) && packed.len() < out.len() {
                *out = packed;
                best = Codec::Zstd;
            }
        }
    }
    best
}

/// The split with the smallest estimate, the first of equals.
fn best_shape(numbers: Numbers, raw: &[u8], scratch: &mut Scratch) -> Shape {
    let shape = |log2_width, rotate| Shape { log2_width, rotate };
    let candidates: &[Shape] = match numbers {
        Numbers::Integers { log2_width } => &[shape(log2_width, false)],
        // The sign of F16 weights can lean one way by column: then the top byte is better off with it.
        Numbers::Floats { log2_width: 1 } => &[shape(1, true), shape(1, false)],
        Numbers::Floats { log2_width } => &[shape(log2_width, true)],
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
    let mut candidates = candidates.iter().copied();
    let first = candidates.next().unwrap_or(shape(0, false));
    if candidates.len() == 0 {
        return first;
    }
    let mut best = (plane::estimate(raw, first, &mut scratch.planes), first);
    for shape in candidates {
        let cost = plane::estimate(raw, shape, &mut scratch.planes);
        if cost < best.0 {
            best = (cost, shape);
        }
    }
    best.1
}

/// Whether the whole chunk should be given to zstd, `packed_len` being the best so far.
fn zstd_may_win(numbers: Numbers, raw: &[u8], packed_len: usize, scratch: &mut Scratch) -> bool {
    if !matches!(numbers, Numbers::Floats { .. }) || raw.len() <= SAMPLE {
        return true;
    }
    let middle = raw.len() / 2 - SAMPLE / 2;
    let Some(sample) = raw.get(middle..middle + SAMPLE) else { return true };
    let mut packed = Vec::new();
    zstd::encode(sample, 1, &mut packed, &mut scratch.zstd) && packed.len() * raw.len() <= packed_len * SAMPLE
}
