//! Constants and plain types shared by kernels and codecs: the bottom layer of this module.

/// Bytes that must be readable behind the packed bytes of a chunk, so that wide loads need no test
/// at the end.
pub const PAD: usize = 256;
/// Symbols of a table of bytes.
pub const SYMBOLS: usize = 256;
/// States, and symbols in a block.
pub const BLOCK: usize = 64;
/// Numbers in a tile: what shares a class, and what is joined at once.
pub const TILE: usize = 8 * BLOCK;
/// Bytes of seven bits of each number of a tile.
pub const GROUP: usize = 7 * BLOCK;
/// Bytes of three bits of each number of a tile.
pub const SMALL_GROUP: usize = 3 * BLOCK;
/// Symbols that have a rank of their own, beside symbol 0: rank 0 is the escape, rank 1 symbol 0,
/// the others a window.
pub const WINDOW: u16 = 30;
/// The bit that a table of words sets for a number that is stored whole. Others have a residual
/// there.
pub const ESCAPED: u16 = 1;
/// Every 32-bit state starts here when encoding, and so must end here when decoding.
pub const LOW: u32 = 1 << 16;

/// State `t` codes the symbol at this place of each block: the order in which saturating in-lane
/// packs of four vectors of sixteen states give natural order.
pub const POSITION: [usize; BLOCK] = positions();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which checks it")]
const fn positions() -> [usize; BLOCK] {
    let mut p = [0; BLOCK];
    let mut t = 0;
    while t < BLOCK {
        let (group, lane) = (t / 16, t % 16);
        p[t] = 16 * (lane / 4) + 4 * group + lane % 4;
        t += 1;
    }
    p
}

/// How a difference is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// The bits that differ.
    Xor = 0,
    /// The difference of integers, its sign in the lowest bit.
    Wrapping = 1,
    /// The difference of places in the order of floats (sign and magnitude), seen from the base:
    /// positive away from zero. Its sign in the lowest bit.
    Mirrored = 2,
}

impl Op {
    /// The operation with this number; `None` for any other.
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Xor),
            1 => Some(Self::Wrapping),
            2 => Some(Self::Mirrored),
            _ => None,
        }
    }
}

/// What a symbol is reduced to when rows and columns are compared: its upper six bits.
pub const FEATURES: usize = 64;
/// How often each feature occurs in a row or a column; or what it costs there.
pub type Histogram = [u16; FEATURES];

/// What is known of a tile's ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ranked {
    /// Bit r is set when rank r occurs.
    pub mask: u32,
    /// Their sum.
    pub sum: u32,
}
