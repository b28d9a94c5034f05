//! `special` of kind `wpe_delta`: the rows of a matrix as differences from the row above.

use super::Fault;
use super::blosc2::Chunk;
use super::part::Part;
use super::region::{Cursor, Region};
use super::state::Saved;
use crate::error::Damage;
use crate::memory;

/// Rows, the last one being kept.
pub(super) struct WpeDelta {
    chunk: Chunk,
    width: usize,
    /// The bytes of the last row: from the current place on those of the row above. Empty when rows are plain.
    row: Vec<u8>,
    /// The current place in the row.
    at: usize,
}

impl WpeDelta {
    /// A blob of `len` raw bytes.
    pub fn open(region: Region, len: u64) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(region);
        let (width, differences) = (cursor.u8()?, cursor.u8()?);
        let (rows, cols) = (cursor.u32()?, cursor.u32()?);
        if !matches!(width, 1 | 2 | 4 | 8) {
            return Err(Damage::new("bytes of an element", 2, u64::from(width)).into());
        }
        if differences > 1 {
            return Err(Damage::new("mark of differences", 1, u64::from(differences)).into());
        }
        let row = u64::from(cols) * u64::from(width);
        if u64::from(rows).checked_mul(row) != Some(len) {
            return Err(Damage::new("bytes of all rows", len, u64::from(rows).saturating_mul(row)).into());
        }
        let chunk = Chunk::open(cursor.blob32()?, len)?;
        cursor.end()?;
        let mut above = Vec::new();
        if differences == 1 && rows > 1 {
            above = memory::room(row as usize).ok_or_else(|| Damage::new("memory for a row", row, 0))?;
            above.resize(row as usize, 0);
        }
        Ok(Self { chunk, width: usize::from(width), row: above, at: 0 })
    }
}

/// Adds the integers of `above` to those of `out`, and keeps the sums in both.
fn add<const W: usize>(out: &mut [u8], above: &mut [u8], sum: impl Fn([u8; W], [u8; W]) -> [u8; W]) {
    for (new, old) in out.as_chunks_mut::<W>().0.iter_mut().zip(above.as_chunks_mut::<W>().0) {
        *new = sum(*new, *old);
        *old = *new;
    }
}

impl Part for WpeDelta {
    fn window(&mut self, _: &[u16], mut out: &mut [u8]) -> Result<(), Fault> {
        if !out.len().is_multiple_of(self.width) {
            return Err(Damage::new("window of whole elements", 0, (out.len() % self.width) as u64).into());
        }
        self.chunk.read(out)?;
        while !out.is_empty() && !self.row.is_empty() {
            let above = self.row.get_mut(self.at..).unwrap_or_default();
            let len = out.len().min(above.len());
            let (now, rest) = out.split_at_mut(len);
            let above = above.get_mut(..len).unwrap_or_default();
            match self.width {
                1 => add(now, above, |a, b| u8::to_le_bytes(u8::from_le_bytes(a).wrapping_add(u8::from_le_bytes(b)))),
                2 => {
                    add(now, above, |a, b| u16::to_le_bytes(u16::from_le_bytes(a).wrapping_add(u16::from_le_bytes(b))))
                }
                4 => {
                    add(now, above, |a, b| u32::to_le_bytes(u32::from_le_bytes(a).wrapping_add(u32::from_le_bytes(b))))
                }
                _ => {
                    add(now, above, |a, b| u64::to_le_bytes(u64::from_le_bytes(a).wrapping_add(u64::from_le_bytes(b))))
                }
            }
            self.at += len;
            if self.at == self.row.len() {
                self.at = 0;
            }
            out = rest;
        }
        Ok(())
    }

    /// Every row needs all above it.
    fn save(&self, _: &mut Vec<u64>) -> bool {
        false
    }

    fn restore(&mut self, _: u64, _: &mut Saved<'_>) -> Result<(), Fault> {
        Err(Damage::new("coding that can be entered", 1, 0).into())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.chunk.finish()
    }
}
