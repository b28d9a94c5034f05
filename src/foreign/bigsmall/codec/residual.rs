//! `fp2_residual_v1`: one of four levels for each element, what to add, and what to flip.

use super::Fault;
use super::feed::Share;
use super::layout::{bf16_ac, elements};
use super::part::{Part, Whole};
use super::region::{Cursor, Region};
use super::state::Saved;
use crate::error::Damage;

/// Elements put together at once, a multiple of the indices in a byte.
const BLOCK: usize = 32 << 10;

/// Levels and two blobs of BF16.
pub(super) struct Residual {
    levels: [f32; 4],
    /// Four indices in each byte, the first in the lowest bits.
    indices: Region,
    added: Whole,
    flipped: Whole,
    /// Elements decoded.
    at: u64,
    scratch: [Vec<u8>; 3],
}

/// A BF16 word as a number.
fn number(word: u16) -> f32 {
    f32::from_bits(u32::from(word) << 16)
}

/// Rounds to BF16, to even on ties, by the bit pattern.
fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// A level and what to add to it. Not left to the processor: a NaN to be added passes through, quiet.
fn sum(level: f32, added: u16) -> u16 {
    let x = number(added);
    if x.is_nan() { added | 0x40 } else { round(level + x) }
}

impl Residual {
    /// A blob of `n` elements.
    pub fn open(region: Region, n: u64, share: Share) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(region);
        elements(&mut cursor, n)?;
        let outer = number(cursor.u16()?);
        let inner = (f64::from(outer) / 3.0) as f32;
        let levels = [-outer, -inner, inner, outer].map(|level| number(round(level)));
        let indices = cursor.blob32()?;
        if indices.len() != n.div_ceil(4) {
            return Err(Damage::new("bytes of level indices", n.div_ceil(4), indices.len()).into());
        }
        let added = Whole::new(bf16_ac(cursor.blob32()?, n, share)?, 2);
        let flipped = Whole::new(bf16_ac(cursor.blob32()?, n, share)?, 2);
        cursor.end()?;
        Ok(Self { levels, indices, added, flipped, at: 0, scratch: Default::default() })
    }
}

impl Part for Residual {
    fn window(&mut self, _: &[u16], out: &mut [u8]) -> Result<(), Fault> {
        for out in out.chunks_mut(BLOCK * 2) {
            let [indices, added, flipped] = &mut self.scratch;
            let n = out.len() as u64 / 2;
            let first = self.at / 4;
            indices.resize(((self.at + n).div_ceil(4) - first) as usize, 0);
            self.indices.read(first, indices)?;
            added.resize(out.len(), 0);
            self.added.window(&[], added)?;
            flipped.resize(out.len(), 0);
            self.flipped.window(&[], flipped)?;
            let packed = indices.iter().flat_map(|byte| [byte & 3, byte >> 2 & 3, byte >> 4 & 3, byte >> 6]);
            let words = added.as_chunks::<2>().0.iter().zip(flipped.as_chunks::<2>().0);
            let indexed = packed.skip((self.at % 4) as usize).zip(words);
            for (word, (index, (added, flipped))) in out.as_chunks_mut::<2>().0.iter_mut().zip(indexed) {
                let level = self.levels.get(usize::from(index)).copied().unwrap_or_default();
                *word = (sum(level, u16::from_le_bytes(*added)) ^ u16::from_le_bytes(*flipped)).to_le_bytes();
            }
            self.at += n;
        }
        Ok(())
    }

    fn save(&self, to: &mut Vec<u64>) -> bool {
        self.added.save(to) && self.flipped.save(to)
    }

    fn restore(&mut self, position: u64, from: &mut Saved<'_>) -> Result<(), Fault> {
        self.at = position / 2;
        self.added.restore(position, from)?;
        self.flipped.restore(position, from)
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.added.finish()?;
        self.flipped.finish()
    }
}
