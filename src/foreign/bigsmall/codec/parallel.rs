//! `bf16_parallel_v1`: the elements dealt out in turn to many streams, with one set of tables.

use std::sync::Arc;

use super::Fault;
use super::coder::{Coder, Power};
use super::feed::Share;
use super::layout::{Ascending, Width, elements, table};
use super::model::{Bytes, Words};
use super::part::{Part, Whole};
use super::region::{Cursor, Region};
use super::split::{Buckets, Signs};
use super::state::Saved;
use super::stream::Stream;
use crate::error::Damage;

/// The most coders of a blob: what each takes in memory is several times its bytes in the blob. The package makes 128 streams
/// with some 40 exponents each.
const CODERS_MAX: usize = 1 << 18;
/// The most coders that are worth noting, 16 bytes each.
const NOTED_MAX: usize = 2048;

/// Streams, of which number `s` holds the elements `s`, `s + S`, `s + 2 S` and so on.
pub(super) struct Parallel {
    streams: Vec<Whole>,
    coders: usize,
    /// Elements decoded.
    at: u64,
    scratch: Vec<u8>,
}

impl Parallel {
    /// A blob of `n` elements.
    pub fn open(region: Region, n: u64, share: Share) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(region);
        cursor.expect("mark of parallel streams", *b"PAR1")?;
        elements(&mut cursor, n)?;
        let count = u64::from(cursor.u16()?);
        if count == 0 || count > n {
            return Err(Damage::new("parallel streams", n, count).into());
        }
        cursor.expect("bits of the tables", [12, 0, 10, 0])?;
        let len = usize::from(cursor.u16()?);
        let symbols = Arc::new(Power::<12>::table(&table(&mut cursor, len, Width::Two, 512)?)?);
        let tables = mantissa_tables(&mut cursor)?;
        let offsets = (0..=count).map(|_| cursor.u32()).collect::<Result<Vec<_>, _>>()?;
        let rest = cursor.part(cursor.left())?;
        let (first, last) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
        if first != 0 || u64::from(last) != rest.len() {
            return Err(Damage::new("end of the last parallel stream", rest.len(), u64::from(last)).into());
        }
        let mut opened = Self { streams: Vec::new(), coders: 0, at: 0, scratch: Vec::new() };
        for (s, (from, to)) in (0..count).zip(offsets.iter().zip(offsets.iter().skip(1))) {
            let Some(len) = to.checked_sub(*from) else {
                return Err(Damage::new("ascending offsets", u64::from(*from), u64::from(*to)).into());
            };
            let region = rest.part(u64::from(*from), u64::from(len))?;
            opened.push(region, (n - s).div_ceil(count), &symbols, &tables, share)?;
        }
        Ok(opened)
    }

    /// Adds a stream of `n` elements.
    fn push(
        &mut self,
        region: Region,
        n: u64,
        symbols: &Arc<Words>,
        tables: &[Option<Arc<Bytes>>],
        share: Share,
    ) -> Result<(), Fault> {
        let mut cursor = Cursor::new(region);
        let signs = Signs(Stream::<Power<12>, Words>::new(cursor.blob32()?, Arc::clone(symbols), n, share)?);
        let count = cursor.u32()?;
        if count > 256 {
            return Err(Damage::new("buckets", 256, u64::from(count)).into());
        }
        self.coders += count as usize + 1;
        if self.coders > CODERS_MAX {
            return Err(Damage::new("coders of all parallel streams", CODERS_MAX as u64, self.coders as u64).into());
        }
        let exponents = (0..count).map(|_| cursor.u16()).collect::<Result<Vec<_>, _>>()?;
        let mut buckets = Buckets::<Power<10>, Bytes>::new(8, 7);
        let mut ascending = Ascending::new(8);
        let mut sum = 0;
        for exponent in exponents {
            let exponent = ascending.next(usize::from(exponent))?;
            let Some(table) = tables.get(usize::from(exponent)).and_then(Option::as_ref) else {
                return Err(Damage::new("table of an exponent", 1, 0).into());
            };
            let size = u64::from(cursor.u32()?);
            sum += size;
            buckets.push(exponent, Stream::new(cursor.blob32()?, Arc::clone(table), size, share)?);
        }
        cursor.end()?;
        if sum != n {
            return Err(Damage::new("elements in all buckets", n, sum).into());
        }
        self.streams.push(Whole::new((Box::new(signs), Box::new(buckets)), 2));
        Ok(())
    }
}

/// The shared tables, by exponent.
fn mantissa_tables(cursor: &mut Cursor) -> Result<Vec<Option<Arc<Bytes>>>, Fault> {
    let count = cursor.u32()?;
    if count > 256 {
        return Err(Damage::new("buckets", 256, u64::from(count)).into());
    }
    let exponents = (0..count).map(|_| cursor.u16()).collect::<Result<Vec<_>, _>>()?;
    let mut tables = vec![None; 256];
    let mut ascending = Ascending::new(8);
    for exponent in exponents {
        let exponent = ascending.next(usize::from(exponent))?;
        let len = usize::from(cursor.u8()?);
        let made = Power::<10>::table(&table(cursor, len, Width::One, 128)?)?;
        if let Some(place) = tables.get_mut(usize::from(exponent)) {
            *place = Some(Arc::new(made));
        }
    }
    Ok(tables)
}

impl Part for Parallel {
    fn window(&mut self, _: &[u16], out: &mut [u8]) -> Result<(), Fault> {
        let (words, _) = out.as_chunks_mut::<2>();
        let count = self.streams.len();
        let phase = (self.at % count.max(1) as u64) as usize;
        for (s, stream) in self.streams.iter_mut().enumerate() {
            let first = (s + count - phase) % count;
            let mine = words.len().saturating_sub(first).div_ceil(count);
            self.scratch.resize(mine * 2, 0);
            stream.window(&[], &mut self.scratch)?;
            let places = words.iter_mut().skip(first).step_by(count);
            places.zip(self.scratch.as_chunks::<2>().0).for_each(|(to, word)| *to = *word);
        }
        self.at += words.len() as u64;
        Ok(())
    }

    fn save(&self, to: &mut Vec<u64>) -> bool {
        self.coders <= NOTED_MAX && self.streams.iter().all(|stream| stream.save(to))
    }

    fn restore(&mut self, position: u64, from: &mut Saved<'_>) -> Result<(), Fault> {
        self.at = position / 2;
        self.streams.iter_mut().try_for_each(|stream| stream.restore(0, from))
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.streams.iter_mut().try_for_each(Part::finish)
    }
}
