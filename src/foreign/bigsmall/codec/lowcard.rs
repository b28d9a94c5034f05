//! `special` of kind `lowcard`: at most sixteen values, and an index for each element.

use super::Fault;
use super::feed::Share;
use super::inflate::Inflate;
use super::layout::elements;
use super::part::Part;
use super::region::{Cursor, Region};
use super::state::Saved;
use crate::error::Damage;

/// The most values that the package puts in a list.
const VALUES_MAX: u8 = 16;

/// Values by index.
pub(super) struct Lowcard {
    /// All values of `width` bytes, end to end.
    values: Vec<u8>,
    width: usize,
    indices: Inflate,
    scratch: Vec<u8>,
}

impl Lowcard {
    /// A blob of `len` raw bytes.
    pub fn open(region: Region, len: u64, share: Share) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(region);
        let width = cursor.u8()?;
        if !matches!(width, 1 | 2 | 4) || !len.is_multiple_of(u64::from(width)) {
            return Err(Damage::new("bytes of an element", 1, u64::from(width)).into());
        }
        let n = len / u64::from(width);
        let count = cursor.u8()?;
        if count > VALUES_MAX || (count == 0 && n > 0) {
            return Err(Damage::new("values of a tensor with few", u64::from(VALUES_MAX), u64::from(count)).into());
        }
        let values = cursor.bytes(usize::from(width) * usize::from(count))?;
        let indices = Inflate::new(cursor.blob32()?, n, share)?;
        elements(&mut cursor, n)?;
        cursor.end()?;
        Ok(Self { values, width: usize::from(width), indices, scratch: Vec::new() })
    }
}

impl Part for Lowcard {
    fn window(&mut self, _: &[u16], out: &mut [u8]) -> Result<(), Fault> {
        if !out.len().is_multiple_of(self.width) {
            return Err(Damage::new("window of whole elements", 0, (out.len() % self.width) as u64).into());
        }
        self.scratch.resize(out.len() / self.width, 0);
        self.indices.read(&mut self.scratch)?;
        for (to, index) in out.chunks_exact_mut(self.width).zip(&self.scratch) {
            let at = usize::from(*index) * self.width;
            let Some(value) = self.values.get(at..at + self.width) else {
                let last = (self.values.len() / self.width).saturating_sub(1);
                return Err(Damage::new("index of a value", last as u64, u64::from(*index)).into());
            };
            to.copy_from_slice(value);
        }
        Ok(())
    }

    fn save(&self, _: &mut Vec<u64>) -> bool {
        true
    }

    fn restore(&mut self, position: u64, _: &mut Saved<'_>) -> Result<(), Fault> {
        self.indices.go_to(position / self.width as u64)
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.indices.finish()
    }
}
