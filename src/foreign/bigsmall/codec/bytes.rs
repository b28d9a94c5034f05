//! `raw`, `fp8_cat_ac` and `fp4_cat_ac`: bytes as they are, or one stream of them.

use super::Fault;
use super::coder::Range;
use super::feed::Share;
use super::layout::{Width, elements, stream, table};
use super::model::Wide;
use super::part::Part;
use super::region::{Cursor, Region};
use super::state::Saved;
use super::stream::Stream;
use crate::error::Damage;

/// The bytes themselves.
pub(super) struct Raw {
    region: Region,
    at: u64,
}

impl Raw {
    /// A blob of `len` bytes.
    pub fn new(region: Region, len: u64) -> Result<Self, Damage> {
        if region.len() != len {
            return Err(Damage::new("length of raw bytes", len, region.len()));
        }
        Ok(Self { region, at: 0 })
    }
}

impl Part for Raw {
    fn window(&mut self, _: &[u16], out: &mut [u8]) -> Result<(), Fault> {
        self.region.read(self.at, out)?;
        self.at += out.len() as u64;
        Ok(())
    }

    fn save(&self, _: &mut Vec<u64>) -> bool {
        true
    }

    fn restore(&mut self, position: u64, _: &mut Saved<'_>) -> Result<(), Fault> {
        self.at = position;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

/// A stream of bytes, or of nibbles of which two make a byte.
pub(super) struct Categories {
    stream: Stream<Range, Wide>,
    pairs: bool,
    scratch: Vec<u8>,
}

/// `fp8_cat_ac` of `len` bytes.
pub(super) fn fp8(region: Region, len: u64, share: Share) -> Result<Categories, Fault> {
    let mut cursor = Cursor::new(region);
    elements(&mut cursor, len)?;
    let symbols = usize::from(cursor.u16()?);
    let counts = table(&mut cursor, symbols, Width::One, 256)?;
    let stream = stream(cursor.blob32()?, counts, len, share)?;
    cursor.end()?;
    Ok(Categories { stream, pairs: false, scratch: Vec::new() })
}

/// `fp4_cat_ac` of `len` bytes.
pub(super) fn fp4(region: Region, len: u64, share: Share) -> Result<Categories, Fault> {
    let mut cursor = Cursor::new(region);
    let n = u64::from(cursor.u32()?);
    let symbols = usize::from(cursor.u8()?);
    let pairs = match cursor.u8()? {
        0 => false,
        1 => true,
        other => return Err(Damage::new("mark of packed nibbles", 1, u64::from(other)).into()),
    };
    if n != if pairs { len * 2 } else { len } {
        return Err(Damage::new("elements in the blob", if pairs { len * 2 } else { len }, n).into());
    }
    let counts = table(&mut cursor, symbols, Width::One, 16)?;
    let stream = stream(cursor.blob32()?, counts, n, share)?;
    cursor.end()?;
    Ok(Categories { stream, pairs, scratch: Vec::new() })
}

impl Part for Categories {
    fn window(&mut self, _: &[u16], out: &mut [u8]) -> Result<(), Fault> {
        if !self.pairs {
            return self.stream.decode(out);
        }
        self.scratch.resize(out.len() * 2, 0);
        self.stream.decode(&mut self.scratch)?;
        for (byte, [low, high]) in out.iter_mut().zip(self.scratch.as_chunks::<2>().0) {
            *byte = high << 4 | low;
        }
        Ok(())
    }

    fn save(&self, to: &mut Vec<u64>) -> bool {
        self.stream.save(to);
        true
    }

    fn restore(&mut self, _: u64, from: &mut Saved<'_>) -> Result<(), Fault> {
        self.stream.restore(from)
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.stream.finish()
    }
}
