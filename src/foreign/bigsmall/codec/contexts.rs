//! `bf16_v8`: signs and exponents coded with a model for each exponent of the element above.

use super::Fault;
use super::coder::Range;
use super::feed::Share;
use super::layout::{Ascending, Sides, bf16_ac, bucket_size, set, total};
use super::model::{Bytes, Words};
use super::part::Lead;
use super::region::{Cursor, Region};
use super::split::Buckets;
use super::state::Saved;
use super::stream::Stream;
use crate::error::Damage;
use crate::memory;

/// Opens the blob of `n` elements.
pub(super) fn open(region: Region, n: u64, share: Share) -> Result<Sides, Fault> {
    let mut cursor = Cursor::new(region);
    let flag = cursor.u8()?;
    let got = cursor.u64()?;
    if got != n {
        return Err(Damage::new("elements in the blob", n, got).into());
    }
    match flag {
        0 => {
            let blob = cursor.blob32()?;
            cursor.end()?;
            bf16_ac(blob, n, share)
        }
        1 => rows(cursor, n, share),
        other => Err(Damage::new("kind of a bf16_v8 blob", 1, u64::from(other)).into()),
    }
}

/// A codeword and the counts of its symbols.
fn section(cursor: &mut Cursor, alphabet: usize) -> Result<(Region, Vec<u32>), Fault> {
    let len = cursor.u32()?;
    let (symbols, again) = (cursor.u32()?, cursor.u32()?);
    if symbols != again || symbols as usize > alphabet {
        return Err(Damage::new("symbols in a table", u64::from(symbols), u64::from(again)).into());
    }
    let codeword = cursor.part(u64::from(len))?;
    let symbols = (0..symbols).map(|_| cursor.u16()).collect::<Result<Vec<_>, _>>()?;
    let mut counts = vec![0; alphabet];
    let mut least = 0;
    for symbol in symbols {
        let count = cursor.u64()?;
        let narrow = u32::try_from(count).ok().filter(|count| *count > 0);
        let narrow = narrow.ok_or_else(|| Damage::new("counts in a table", u64::from(u32::MAX), count))?;
        set(&mut counts, usize::from(symbol), &mut least, narrow)?;
    }
    Ok((codeword, counts))
}

/// The kind with contexts.
fn rows(mut cursor: Cursor, n: u64, share: Share) -> Result<Sides, Fault> {
    let (rows, cols) = (u64::from(cursor.u32()?), u64::from(cursor.u32()?));
    if rows * cols != n || n == 0 {
        return Err(Damage::new("elements in all rows", n, rows * cols).into());
    }
    let (codeword, mut all) = section(&mut cursor, 512)?;
    if total(&all) != cols {
        return Err(Damage::new("elements in the first row", cols, total(&all)).into());
    }
    let first = Stream::counted(codeword, all.clone(), share)?;
    let count = cursor.u16()?;
    let mut contexts: Vec<Option<Box<Stream<Range, Words>>>> = (0..256).map(|_| None).collect();
    let mut ascending = Ascending::new(8);
    for _ in 0..count {
        let exponent = ascending.next(usize::from(cursor.u16()?))?;
        let (codeword, counts) = section(&mut cursor, 512)?;
        for (sum, count) in all.iter_mut().zip(&counts) {
            let both = sum.checked_add(*count);
            *sum = both.ok_or_else(|| Damage::new("elements in all contexts", n, u64::from(u32::MAX)))?;
        }
        if let Some(place) = contexts.get_mut(usize::from(exponent)) {
            *place = Some(Box::new(Stream::counted(codeword, counts, share)?));
        }
    }
    if total(&all) != n {
        return Err(Damage::new("elements in all contexts", n, total(&all)).into());
    }
    let count = cursor.u16()?;
    let mut buckets = Buckets::<Range, Bytes>::new(8, 7);
    let mut ascending = Ascending::new(8);
    let mut sum = 0;
    for _ in 0..count {
        let exponent = ascending.next(usize::from(cursor.u16()?))?;
        let (codeword, counts) = section(&mut cursor, 128)?;
        if total(&counts) != bucket_size(&all, exponent) {
            return Err(Damage::new("elements in a bucket", bucket_size(&all, exponent), total(&counts)).into());
        }
        sum += total(&counts);
        buckets.push(exponent, Stream::counted(codeword, counts, share)?);
    }
    cursor.end()?;
    if sum != n {
        return Err(Damage::new("elements in all buckets", n, sum).into());
    }
    let row = if rows > 1 { cols as usize } else { 0 };
    let above = memory::room(row).ok_or_else(|| Damage::new("memory for a row", cols, 0))?;
    Ok((Box::new(Rows { first, contexts, cols, above, at: 0 }), Box::new(buckets)))
}

/// A running decoder for each context, and one for the first row.
struct Rows {
    first: Stream<Range, Words>,
    contexts: Vec<Option<Box<Stream<Range, Words>>>>,
    cols: u64,
    /// The exponents of the last row: from the current place on those of the row above. Empty when there is but one row.
    above: Vec<u8>,
    /// The current place in the row.
    at: usize,
}

impl Lead for Rows {
    fn window(&mut self, count: usize, symbols: &mut Vec<u16>) -> Result<(), Fault> {
        symbols.resize(count, 0);
        let now = self.first.left().min(count as u64) as usize;
        let (first, others) = symbols.split_at_mut_checked(now).unwrap_or_default();
        self.first.decode(first)?;
        if self.above.capacity() as u64 >= self.cols {
            self.above.extend(first.iter().map(|symbol| *symbol as u8));
        }
        for symbol in others {
            let Some(above) = self.above.get_mut(self.at) else {
                return Err(Damage::new("elements of a row", self.cols, self.at as u64).into());
            };
            let Some(Some(context)) = self.contexts.get_mut(usize::from(*above)) else {
                return Err(Damage::new("context of the exponent above", 1, 0).into());
            };
            *symbol = context.next()?;
            *above = *symbol as u8;
            self.at += 1;
            if self.at as u64 == self.cols {
                self.at = 0;
            }
        }
        Ok(())
    }

    /// The row above would have to be noted with the coders.
    fn save(&self, _: &mut Vec<u64>) -> bool {
        false
    }

    fn restore(&mut self, _: &mut Saved<'_>) -> Result<(), Fault> {
        Err(Damage::new("coding that can be entered", 1, 0).into())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.first.finish()?;
        self.contexts.iter().flatten().try_for_each(|context| context.finish())
    }
}
