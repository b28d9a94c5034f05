//! `bf16_native_f32` and its second version: F32 whose upper halves are packed as BF16, and the lower halves apart.

use super::Fault;
use super::feed::Share;
use super::inflate::Inflate;
use super::layout::{bf16_ac, bf16_rans, elements};
use super::part::{Part, Whole};
use super::region::{Cursor, Region};
use super::state::Saved;
use crate::error::Damage;

/// Elements put together at once.
const BLOCK: usize = 32 << 10;

/// Both halves of all elements.
pub(super) struct Halves {
    upper: Box<dyn Part>,
    lower: Box<dyn Part>,
    scratch: [Vec<u8>; 2],
}

impl Halves {
    /// The first version.
    pub fn open(region: Region, n: u64, share: Share) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(region);
        elements(&mut cursor, n)?;
        let upper = Whole::new(bf16_ac(cursor.blob32()?, n, share)?, 2);
        let lower = Inflate::new(cursor.blob32()?, n * 2, share)?;
        cursor.end()?;
        Ok(Self { upper: Box::new(upper), lower: Box::new(lower), scratch: Default::default() })
    }

    /// The second version: each half says how it is packed.
    pub fn open_v2(region: Region, n: u64, share: Share) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(region);
        elements(&mut cursor, n)?;
        let mut half = || -> Result<Box<dyn Part>, Fault> {
            let kind = cursor.u8()?;
            let region = cursor.blob32()?;
            Ok(match kind {
                0 => Box::new(Inflate::new(region, n * 2, share)?),
                1 => Box::new(Whole::new(bf16_rans(region, n, share)?, 2)),
                2 => Box::new(Whole::new(bf16_ac(region, n, share)?, 2)),
                other => return Err(Damage::new("kind of a half", 2, u64::from(other)).into()),
            })
        };
        let (upper, lower) = (half()?, half()?);
        cursor.end()?;
        Ok(Self { upper, lower, scratch: Default::default() })
    }
}

impl Part for Halves {
    fn window(&mut self, _: &[u16], out: &mut [u8]) -> Result<(), Fault> {
        for out in out.chunks_mut(BLOCK * 4) {
            let [upper, lower] = &mut self.scratch;
            upper.resize(out.len() / 2, 0);
            lower.resize(out.len() / 2, 0);
            self.upper.window(&[], upper)?;
            self.lower.window(&[], lower)?;
            let halves = upper.as_chunks::<2>().0.iter().zip(lower.as_chunks::<2>().0);
            for (word, ([c, d], [a, b])) in out.as_chunks_mut::<4>().0.iter_mut().zip(halves) {
                *word = [*a, *b, *c, *d];
            }
        }
        Ok(())
    }

    fn save(&self, to: &mut Vec<u64>) -> bool {
        self.upper.save(to) && self.lower.save(to)
    }

    fn restore(&mut self, position: u64, from: &mut Saved<'_>) -> Result<(), Fault> {
        self.upper.restore(position / 2, from)?;
        self.lower.restore(position / 2, from)
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.upper.finish()?;
        self.lower.finish()
    }
}
