//! Reads the tables of the codings that split elements into symbols and mantissas.

use std::sync::Arc;

use super::Fault;
use super::coder::{Ans, Coder, Power, Range};
use super::feed::Share;
use super::model::{Bytes, Lookup, Wide, Words};
use super::part::{Lead, Part};
use super::region::{Cursor, Region};
use super::split::{Buckets, Signs};
use super::stream::Stream;
use crate::error::Damage;

/// A coding's two sides.
pub(super) type Sides = (Box<dyn Lead>, Box<dyn Part>);

/// How the numbers of a table are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// A byte.
    One,
    /// Two bytes.
    Two,
}

impl Width {
    fn read(self, cursor: &mut Cursor) -> Result<usize, Fault> {
        match self {
            Self::One => cursor.u8().map(usize::from),
            Self::Two => cursor.u16().map(usize::from),
        }
    }
}

/// The two element types that are split.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    pub exponent_bits: u32,
    pub mantissa_bits: u32,
    /// Of the first table's length and symbols, and of the exponents.
    pub symbol: Width,
    pub exponent: Width,
    /// Of a bucket's table's length and symbols.
    pub mantissa: Width,
}

pub(super) const BF16: Split =
    Split { exponent_bits: 8, mantissa_bits: 7, symbol: Width::Two, exponent: Width::Two, mantissa: Width::One };
pub(super) const FP16: Split =
    Split { exponent_bits: 5, mantissa_bits: 10, symbol: Width::One, exponent: Width::One, mantissa: Width::Two };

/// `u32 n`, which the shape of the tensor gives too.
pub(super) fn elements(cursor: &mut Cursor, n: u64) -> Result<(), Fault> {
    let got = u64::from(cursor.u32()?);
    if got != n {
        return Err(Damage::new("elements in the blob", n, got).into());
    }
    Ok(())
}

/// A list of `len` symbols and then their numbers, as one number for each symbol of the alphabet.
pub(super) fn table(cursor: &mut Cursor, len: usize, width: Width, alphabet: usize) -> Result<Vec<u32>, Fault> {
    if len > alphabet {
        return Err(Damage::new("symbols in a table", alphabet as u64, len as u64).into());
    }
    let symbols = (0..len).map(|_| width.read(cursor)).collect::<Result<Vec<_>, _>>()?;
    let mut numbers = vec![0; alphabet];
    let mut least = 0;
    for symbol in symbols {
        let number = cursor.u32()?;
        if number == 0 {
            return Err(Damage::new("numbers in a table above zero", 1, 0).into());
        }
        set(&mut numbers, symbol, &mut least, number)?;
    }
    Ok(numbers)
}

/// Sets the number of a symbol that is at least `least`.
pub(super) fn set(numbers: &mut [u32], symbol: usize, least: &mut usize, number: u32) -> Result<(), Damage> {
    let last = numbers.len() as u64 - 1;
    match numbers.get_mut(symbol) {
        Some(place) if symbol >= *least => *place = number,
        Some(_) => return Err(Damage::new("ascending symbols in a table", *least as u64, symbol as u64)),
        None => return Err(Damage::new("symbols of the alphabet", last, symbol as u64)),
    }
    *least = symbol + 1;
    Ok(())
}

/// The sum of counts.
pub(super) fn total(counts: &[u32]) -> u64 {
    counts.iter().map(|count| u64::from(*count)).sum()
}

/// That the counts of a table add up to `n`.
pub(super) fn adds_up(counts: &[u32], n: u64) -> Result<(), Damage> {
    match total(counts) {
        sum if sum == n => Ok(()),
        sum => Err(Damage::new("sum of a table's counts", n, sum)),
    }
}

/// How many of the exponents of a list there are, and that each is larger than the last.
pub(super) struct Ascending {
    least: usize,
    exponent_bits: u32,
}

impl Ascending {
    pub const fn new(exponent_bits: u32) -> Self {
        Self { least: 0, exponent_bits }
    }

    pub fn next(&mut self, exponent: usize) -> Result<u8, Damage> {
        if exponent < self.least || exponent >> self.exponent_bits != 0 {
            return Err(Damage::new("ascending exponents", self.least as u64, exponent as u64));
        }
        self.least = exponent + 1;
        Ok(exponent as u8)
    }
}

/// The elements of an exponent, both signs together.
pub(super) fn bucket_size(symbol_counts: &[u32], exponent: u8) -> u64 {
    let at = |i: usize| symbol_counts.get(i).map_or(0, |count| u64::from(*count));
    at(usize::from(exponent)) + at(usize::from(exponent) + symbol_counts.len() / 2)
}

/// `*_se_ac`, `bf16_se_rans` and `bf16_se_tans`: `S` decodes symbols with a table `SL`, `M` mantissas with a table `ML`.
fn split<S: Coder + 'static, SL: Lookup + 'static, M: Coder + 'static, ML: Lookup + 'static>(
    region: Region,
    n: u64,
    of: Split,
    share: Share,
) -> Result<Sides, Fault> {
    let mut cursor = Cursor::new(region);
    elements(&mut cursor, n)?;
    let len = of.symbol.read(&mut cursor)?;
    let numbers = table(&mut cursor, len, of.symbol, 2 << of.exponent_bits)?;
    let codeword = cursor.blob32()?;
    let mantissas = cursor.blob32()?;
    cursor.end()?;

    let mut buckets = Buckets::<M, ML>::new(of.exponent_bits, of.mantissa_bits);
    let mut cursor = Cursor::new(mantissas);
    let count = cursor.u32()?;
    if count > 1 << of.exponent_bits {
        return Err(Damage::new("buckets", 1 << of.exponent_bits, u64::from(count)).into());
    }
    let exponents = (0..count).map(|_| of.exponent.read(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
    let mut ascending = Ascending::new(of.exponent_bits);
    let mut sum = 0;
    for exponent in exponents {
        let exponent = ascending.next(exponent)?;
        let size = u64::from(cursor.u32()?);
        if S::COUNTED && size != bucket_size(&numbers, exponent) {
            return Err(Damage::new("elements in a bucket", bucket_size(&numbers, exponent), size).into());
        }
        sum += size;
        let len = of.mantissa.read(&mut cursor)?;
        let counts = table(&mut cursor, len, of.mantissa, 1 << of.mantissa_bits)?;
        let codeword = cursor.blob32()?;
        buckets.push(exponent, stream(codeword, counts, size, share)?);
    }
    cursor.end()?;
    if sum != n {
        return Err(Damage::new("elements in all buckets", n, sum).into());
    }
    Ok((Box::new(Signs::<S, SL>(stream(codeword, numbers, n, share)?)), Box::new(buckets)))
}

/// A stream of `n` symbols with its stored table.
pub(super) fn stream<C: Coder, L: Lookup>(
    region: Region,
    numbers: Vec<u32>,
    n: u64,
    share: Share,
) -> Result<Stream<C, L>, Fault> {
    if C::COUNTED {
        adds_up(&numbers, n)?;
        return Stream::counted(region, numbers, share);
    }
    // An empty bucket of the package's own coder need not have a table.
    Stream::new(region, Arc::new(C::table(&numbers)?), n, share)
}

/// `bf16_se_ac`.
pub(super) fn bf16_ac(region: Region, n: u64, share: Share) -> Result<Sides, Fault> {
    split::<Range, Wide, Range, Bytes>(region, n, BF16, share)
}

/// `bf16_se_rans`.
pub(super) fn bf16_rans(region: Region, n: u64, share: Share) -> Result<Sides, Fault> {
    split::<Ans, Wide, Ans, Bytes>(region, n, BF16, share)
}

/// `bf16_se_tans`.
pub(super) fn bf16_tans(region: Region, n: u64, share: Share) -> Result<Sides, Fault> {
    split::<Power<12>, Words, Power<10>, Bytes>(region, n, BF16, share)
}

/// `fp16_se_ac`.
pub(super) fn fp16_ac(region: Region, n: u64, share: Share) -> Result<Sides, Fault> {
    split::<Range, Wide, Range, Words>(region, n, FP16, share)
}

/// `bf16_se_single_kernel`: the same parts in another order.
pub(super) fn single_kernel(region: Region, n: u64, share: Share) -> Result<Sides, Fault> {
    let mut cursor = Cursor::new(region);
    elements(&mut cursor, n)?;
    let len = usize::from(cursor.u16()?);
    let weights = table(&mut cursor, len, Width::Two, 512)?;
    let coder = Power::<12>::at(cursor.u32()?)?;
    let words = u64::from(cursor.u32()?);
    let codeword = cursor.part(words * 2)?;
    let symbols = Stream::with(coder, codeword, Arc::new(Power::<12>::table::<Words>(&weights)?), n, share)?;

    let mut buckets = Buckets::<Power<10>, Bytes>::new(BF16.exponent_bits, BF16.mantissa_bits);
    let count = cursor.u32()?;
    let mut ascending = Ascending::new(BF16.exponent_bits);
    let mut sum = 0;
    for _ in 0..count {
        let exponent = ascending.next(usize::from(cursor.u16()?))?;
        let len = usize::from(cursor.u8()?);
        let weights = table(&mut cursor, len, Width::One, 128)?;
        let coder = Power::<10>::at(cursor.u32()?)?;
        let size = u64::from(cursor.u32()?);
        sum += size;
        let words = u64::from(cursor.u32()?);
        let codeword = cursor.part(words * 2)?;
        buckets.push(
            exponent,
            Stream::with(coder, codeword, Arc::new(Power::<10>::table::<Bytes>(&weights)?), size, share)?,
        );
    }
    cursor.end()?;
    if sum != n {
        return Err(Damage::new("elements in all buckets", n, sum).into());
    }
    Ok((Box::new(Signs(symbols)), Box::new(buckets)))
}
