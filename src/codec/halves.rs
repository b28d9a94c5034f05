//! The low halves of four-byte floats, tile by tile: seldom worth a coder, but often partly zero,
//! where a float was made from a shorter one.

use super::bits::BitWriter;
use super::memory::vec_bytes;
use super::simd::{AvailableKernel, BLOCK, SMALL_GROUP, TILE, small_residual_row};
use super::wire::{Fields, Stride};
use crate::error::Damage;

/// Modes in a byte.
const MODES: usize = 4;

/// How many bits of each low half of a tile are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum LowMode {
    /// All of it.
    Whole = 0,
    /// The upper byte; the lower is zero.
    UpperByte = 1,
    /// The top three bits; the others are zero, as in floats converted from F16.
    ThreeBits = 2,
    /// None: all bits are zero, as in floats converted from BF16.
    Nothing = 3,
}

impl LowMode {
    /// The mode with this number.
    pub const fn of(number: u8) -> Self {
        match number & 3 {
            0 => Self::Whole,
            1 => Self::UpperByte,
            2 => Self::ThreeBits,
            _ => Self::Nothing,
        }
    }

    /// The shortest mode for the low halves of a tile.
    pub fn best(low: &[[u8; 2]]) -> Self {
        match low.iter().fold(0, |all, &x| all | u16::from_le_bytes(x)) {
            0 => Self::Nothing,
            all if all & 0x1fff == 0 => Self::ThreeBits,
            all if all & 0xff == 0 => Self::UpperByte,
            _ => Self::Whole,
        }
    }

    /// Bytes that `n` numbers, at most a tile, take.
    pub const fn len(self, n: usize) -> usize {
        match self {
            Self::Whole => 2 * n,
            Self::UpperByte => n,
            Self::ThreeBits => group_len(n, SMALL_GROUP),
            Self::Nothing => 0,
        }
    }
}

/// Bytes of a group of a few bits a number, of which a whole tile takes `whole`: a tile that is not
/// whole has a byte for each number if that is shorter.
pub const fn group_len(n: usize, whole: usize) -> usize {
    if n < whole { n } else { whole }
}

/// Three bits of each of at most a tile's numbers, in the layout of [`small_residual_row`].
pub fn group_three(bits: impl Iterator<Item = u8>) -> [u8; SMALL_GROUP] {
    let mut group = [[0; BLOCK]; 3];
    for (i, three) in bits.enumerate() {
        let (row, at) = (i / BLOCK, i % BLOCK);
        if let Some(byte) = group.get_mut(row / 2).and_then(|g| g.get_mut(at)) {
            *byte |= three << (row % 2 * 3);
        } else {
            for (k, g) in group.iter_mut().enumerate() {
                let six = three << (row % 2 * 3);
                if let Some(byte) = g.get_mut(at) {
                    *byte |= (six >> (2 * k) & 3) << 6;
                }
            }
        }
    }
    let mut flat = [0; SMALL_GROUP];
    flat.copy_from_slice(group.as_flattened());
    flat
}

/// The group that a tile of `n` numbers stores in `bytes`: whole, or a byte for each number.
pub fn read_group_three(bytes: &[u8]) -> [u8; SMALL_GROUP] {
    match bytes.try_into() {
        Ok(group) => group,
        Err(_) => group_three(bytes.iter().map(|b| b & 7)),
    }
}

/// Appends what `mode` stores of `low`.
fn write(mode: LowMode, low: &[[u8; 2]], out: &mut Vec<u8>) {
    match mode {
        LowMode::Whole => out.extend_from_slice(low.as_flattened()),
        LowMode::UpperByte => out.extend(low.iter().map(|x| x[1])),
        LowMode::ThreeBits => {
            let bits = low.iter().map(|x| x[1] >> 5);
            if low.len() < SMALL_GROUP { out.extend(bits) } else { out.extend(group_three(bits)) }
        }
        LowMode::Nothing => {}
    }
}

/// The low halves of as many numbers as `out` has, at most a tile, from `bytes`, whose length is
/// the mode's.
fn read(mode: LowMode, bytes: &[u8], out: &mut [[u8; 2]]) {
    match mode {
        LowMode::Whole => out.as_flattened_mut().copy_from_slice(bytes),
        LowMode::UpperByte => {
            for (out, &byte) in out.iter_mut().zip(bytes) {
                *out = [0, byte];
            }
        }
        LowMode::ThreeBits => {
            let group = read_group_three(bytes);
            for (row, out) in out.chunks_mut(BLOCK).enumerate() {
                for (out, three) in out.iter_mut().zip(small_residual_row(&group, row)) {
                    *out = [0, three << 5];
                }
            }
        }
        LowMode::Nothing => out.fill([0; 2]),
    }
}

/// The low halves of a chunk's floats while it is encoded: none for numbers of two bytes or one.
#[derive(Debug, Default)]
pub struct LowWriter {
    low: Vec<[u8; 2]>,
    /// One for each tile; empty without low halves.
    modes: Vec<LowMode>,
}

impl LowWriter {
    /// Forgets the chunk before.
    pub fn clear(&mut self) {
        self.modes.clear();
    }

    /// Splits the numbers of two or four bytes in `body` into high halves, for `heads`, and low
    /// halves.
    pub fn split(&mut self, kernel: AvailableKernel, stride: Stride, body: &[u8], heads: &mut [u16]) {
        self.clear();
        if stride.log2_width == 1 {
            kernel.split16(body.as_chunks().0, heads);
        } else {
            self.low.resize(body.len() / stride.width(), [0; 2]);
            kernel.split32(body.as_chunks().0, heads, &mut self.low);
            self.modes.extend(self.low.chunks(TILE).map(LowMode::best));
        }
    }

    /// Bytes that the low halves take, without their modes.
    pub fn packed_len(&self) -> usize {
        self.modes.iter().zip(self.low.chunks(TILE)).map(|(mode, low)| mode.len(low.len())).sum()
    }

    /// Appends the modes and then what each stores of its tile.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut bits = BitWriter::default();
        self.modes.iter().for_each(|&mode| bits.put(mode as u32, 2));
        out.extend_from_slice(&bits.finish());
        self.modes.iter().zip(self.low.chunks(TILE)).for_each(|(&mode, low)| write(mode, low, out));
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        vec_bytes(&self.low) + vec_bytes(&self.modes)
    }
}

/// The low halves of a chunk, read tile by tile.
#[derive(Debug, Default)]
pub struct LowHalves<'a> {
    modes: &'a [u8],
    bytes: &'a [u8],
    at: usize,
}

impl<'a> LowHalves<'a> {
    /// Those of `n` numbers.
    pub fn read(fields: &mut Fields<'a>, n: usize) -> Result<Self, Damage> {
        let modes = fields.bytes(n.div_ceil(TILE).div_ceil(MODES))?;
        let low = Self { modes, bytes: &[], at: 0 };
        let len = (0..n).step_by(TILE).enumerate().map(|(i, at)| low.mode(i).len(TILE.min(n - at))).sum();
        Ok(Self { bytes: fields.bytes(len)?, ..low })
    }

    fn mode(&self, tile: usize) -> LowMode {
        LowMode::of(self.modes.get(tile / MODES).copied().unwrap_or(0) >> (2 * (tile % MODES)))
    }

    /// Joins the next tile's low halves with the high ones.
    pub fn join(&mut self, kernel: AvailableKernel, high: &[[u8; 2]], out: &mut [[u8; 4]]) {
        let mode = self.mode(self.at);
        self.at += 1;
        let (bytes, rest) = self.bytes.split_at_checked(mode.len(high.len())).unwrap_or((&[], &[]));
        self.bytes = rest;
        if mode == LowMode::Whole {
            kernel.join32(high, bytes.as_chunks().0, out);
        } else {
            let mut space = [[0; 2]; TILE];
            let low = space.get_mut(..high.len()).unwrap_or_default();
            read(mode, bytes, low);
            kernel.join32(high, low, out);
        }
    }
}
