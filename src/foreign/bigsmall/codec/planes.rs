//! `fp32_se_ac`: signs and exponents as one stream, the mantissas as three byte planes.

use super::Fault;
use super::coder::Range;
use super::feed::Share;
use super::inflate::Inflate;
use super::layout::{Sides, Width, elements, stream, table};
use super::model::Wide;
use super::part::Part;
use super::region::{Cursor, Region};
use super::split::Signs;
use super::state::Saved;
use crate::error::Damage;

/// Elements put together at once.
const BLOCK: usize = 8 << 10;

/// Opens the blob of `n` elements.
pub(super) fn open(region: Region, n: u64, share: Share) -> Result<Sides, Fault> {
    let mut cursor = Cursor::new(region);
    elements(&mut cursor, n)?;
    let len = usize::from(cursor.u16()?);
    let counts = table(&mut cursor, len, Width::Two, 512)?;
    let signs = Signs::<Range, Wide>(stream(cursor.blob32()?, counts, n, share)?);
    let mut plane = || Inflate::new(cursor.blob32()?, n, share);
    let planes = [plane()?, plane()?, plane()?];
    cursor.end()?;
    Ok((Box::new(signs), Box::new(Planes { planes, scratch: Default::default() })))
}

/// Bits 0 to 7, 8 to 15 and 16 to 22 of all elements.
struct Planes {
    planes: [Inflate; 3],
    scratch: [Vec<u8>; 3],
}

impl Part for Planes {
    fn window(&mut self, symbols: &[u16], out: &mut [u8]) -> Result<(), Fault> {
        if symbols.len() * 4 != out.len() {
            return Err(Damage::new("symbols of a window", out.len() as u64 / 4, symbols.len() as u64).into());
        }
        for (symbols, out) in symbols.chunks(BLOCK).zip(out.chunks_mut(BLOCK * 4)) {
            for (plane, scratch) in self.planes.iter_mut().zip(&mut self.scratch) {
                scratch.resize(symbols.len(), 0);
                plane.read(scratch)?;
            }
            let [low, middle, high] = &self.scratch;
            let mantissas = low.iter().zip(middle).zip(high);
            let mut all = 0;
            for ((symbol, word), ((low, middle), high)) in symbols.iter().zip(out.as_chunks_mut::<4>().0).zip(mantissas)
            {
                all |= high;
                let top = u32::from(*symbol) << 7 | u32::from(high & 0x7f);
                *word = (top << 16 | u32::from(*middle) << 8 | u32::from(*low)).to_le_bytes();
            }
            if all > 0x7f {
                return Err(Damage::new("top mantissa bits", 0x7f, u64::from(all)).into());
            }
        }
        Ok(())
    }

    fn save(&self, _: &mut Vec<u64>) -> bool {
        true
    }

    fn restore(&mut self, position: u64, _: &mut Saved<'_>) -> Result<(), Fault> {
        self.planes.iter_mut().try_for_each(|plane| plane.go_to(position / 4))
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.planes.iter_mut().try_for_each(Inflate::finish)
    }
}
