//! `bf16_sparsity_v1`: a mask that deals the elements out to two blobs.

use super::Fault;
use super::coder::Range;
use super::feed::Share;
use super::layout::{Width, bf16_ac, elements, stream, table};
use super::model::Bytes;
use super::part::{NoPart, Part, Whole};
use super::region::{Cursor, Region};
use super::state::Saved;
use super::stream::Stream;
use crate::error::Damage;

/// Elements put together at once.
const BLOCK: usize = 32 << 10;

/// A mask and both populations.
pub(super) struct Sparsity {
    mask: Stream<Range, Bytes>,
    populations: [Box<dyn Part>; 2],
    marks: Vec<u8>,
    scratch: [Vec<u8>; 2],
}

impl Sparsity {
    /// A blob of `n` elements.
    pub fn open(region: Region, n: u64, share: Share) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(region);
        elements(&mut cursor, n)?;
        let _threshold = cursor.u16()?;
        let sizes = [u64::from(cursor.u32()?), u64::from(cursor.u32()?)];
        let len = usize::from(cursor.u16()?);
        let counts = table(&mut cursor, len, Width::Two, 2)?;
        for (count, size) in counts.iter().zip(sizes) {
            if u64::from(*count) != size {
                return Err(Damage::new("elements of a population", size, u64::from(*count)).into());
            }
        }
        let mask = stream(cursor.blob32()?, counts, n, share)?;
        let [few, many] = sizes;
        let populations = [population(cursor.blob32()?, few, share)?, population(cursor.blob32()?, many, share)?];
        cursor.end()?;
        Ok(Self { mask, populations, marks: Vec::new(), scratch: Default::default() })
    }
}

/// Elements of one kind; none are no bytes.
fn population(region: Region, n: u64, share: Share) -> Result<Box<dyn Part>, Fault> {
    Ok(if n == 0 && region.len() == 0 { Box::new(NoPart) } else { Box::new(Whole::new(bf16_ac(region, n, share)?, 2)) })
}

impl Part for Sparsity {
    fn window(&mut self, _: &[u16], out: &mut [u8]) -> Result<(), Fault> {
        for out in out.chunks_mut(BLOCK * 2) {
            self.marks.resize(out.len() / 2, 0);
            self.mask.decode(&mut self.marks)?;
            let ones = self.marks.iter().filter(|mark| **mark != 0).count();
            let sizes = [self.marks.len() - ones, ones];
            for ((population, scratch), size) in self.populations.iter_mut().zip(&mut self.scratch).zip(sizes) {
                scratch.resize(size * 2, 0);
                population.window(&[], scratch)?;
            }
            let [zeros, ones] = &self.scratch;
            let (mut zeros, mut ones) = (zeros.as_chunks::<2>().0.iter(), ones.as_chunks::<2>().0.iter());
            for (word, mark) in out.as_chunks_mut::<2>().0.iter_mut().zip(&self.marks) {
                let next = if *mark == 0 { zeros.next() } else { ones.next() };
                *word = next.copied().unwrap_or_default();
            }
        }
        Ok(())
    }

    fn save(&self, to: &mut Vec<u64>) -> bool {
        self.mask.save(to);
        self.populations.iter().all(|population| population.save(to))
    }

    fn restore(&mut self, _: u64, from: &mut Saved<'_>) -> Result<(), Fault> {
        self.mask.restore(from)?;
        // Neither population holds anything that needs to know its place.
        self.populations.iter_mut().try_for_each(|population| population.restore(0, from))
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.mask.finish()?;
        self.populations.iter_mut().try_for_each(|population| population.finish())
    }
}
