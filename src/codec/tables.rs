//! Frequency tables: normalising counts, writing and reading.

#![expect(clippy::indexing_slicing, reason = "indices are symbols, ranks and slots, bounded by the arrays they index")]

use super::bits::{BitReader, BitWriter};
use super::simd::{SYMBOLS, fill_slots};
use crate::error::Damage;

/// Significant bits of a stored frequency: more cost more than they gain.
const SIGNIFICANT: u32 = 5;

/// The largest storable frequency that is not above `f`.
fn storable(f: u32) -> u32 {
    let drop = (32 - f.leading_zeros()).saturating_sub(SIGNIFICANT);
    f >> drop << drop
}

/// Frequencies near `counts`, with the sum 2^`bits`, as [`write`] stores them; 0 only where the
/// count is 0. Integer arithmetic alone, so that every machine finds the same. All counts 0 give
/// the whole to symbol 0.
pub fn normalise(counts: &[u32], bits: u32, freqs: &mut [u16]) {
    let slots = 1_u64 << bits;
    let total: u64 = counts.iter().map(|&c| u64::from(c)).sum();
    freqs.fill(0);
    let Some(implied) = largest(counts) else { return };
    if total == 0 {
        freqs[0] = slots as u16;
        return;
    }
    let mut sum = 0;
    for (f, &c) in freqs.iter_mut().zip(counts) {
        if c > 0 {
            let exact = u64::from(c) * slots;
            // Rounded to the nearest storable value; what that adds up to is taken from the
            // largest.
            let mut share = (exact / total) as u32;
            let drop = (32 - share.leading_zeros()).saturating_sub(SIGNIFICANT);
            let half = if drop == 0 { u64::from(exact % total * 2 >= total) as u32 } else { 1 << (drop - 1) };
            share = storable(share + half).max(1);
            *f = share as u16;
            sum += u64::from(share);
        }
    }
    sum -= u64::from(freqs[implied]);
    while sum >= slots {
        // Too many symbols were lifted to one slot: the largest of the others gives up its next
        // step.
        let Some(most) = (0..freqs.len()).filter(|&i| i != implied && freqs[i] > 1).max_by_key(|&i| freqs[i]) else {
            break;
        };
        let less = storable(u32::from(freqs[most]) - 1) as u16;
        sum -= u64::from(freqs[most] - less);
        freqs[most] = less;
    }
    freqs[implied] = (slots - sum) as u16;
}

/// The place of the largest count, the first of equals.
fn largest(counts: &[u32]) -> Option<usize> {
    (0..counts.len()).rev().max_by_key(|&i| counts[i])
}

/// Writes frequencies that [`normalise`] has made; `present` says which symbols may occur.
pub fn write(freqs: &[u16], present: &[bool], out: &mut BitWriter) {
    // One frequency is not stored but is what the others leave: the only one that need not be
    // storable.
    let implied = (0..freqs.len())
        .find(|&i| storable(u32::from(freqs[i])) != u32::from(freqs[i]))
        .or_else(|| (0..freqs.len()).rev().filter(|&i| present[i]).max_by_key(|&i| freqs[i]))
        .unwrap_or(0);
    out.put(implied as u32, index_bits(freqs.len()));
    let mut before = 0_i32;
    for (i, &f) in freqs.iter().enumerate() {
        if !present[i] || i == implied {
            continue;
        }
        let f = u32::from(f);
        let len = (32 - f.leading_zeros()) as i32;
        match len - before {
            0 => out.put(0, 1),
            1 => out.put(0b001, 3),
            -1 => out.put(0b101, 3),
            2 => out.put(0b0011, 4),
            -2 => out.put(0b1011, 4),
            _ => {
                out.put(0b111, 3);
                out.put(len as u32, 4);
            }
        }
        before = len;
        if len > 1 {
            let kept = (len as u32 - 1).min(SIGNIFICANT - 1);
            out.put(f >> (len as u32 - 1 - kept), kept);
        }
    }
}

/// Reads frequencies and checks that they sum to 2^`bits`.
///
/// # Errors
/// [`Damage`] when the bits end, a length is above 12, the implied symbol may not occur, or the sum
/// is wrong.
pub fn read(bits: u32, present: &[bool], input: &mut BitReader<'_>, freqs: &mut [u16]) -> Result<(), Damage> {
    let implied = input.take(index_bits(freqs.len()))? as usize;
    if !present.get(implied).copied().unwrap_or(false) {
        return Err(Damage::new("the implied symbol of a table, one that occurs", 1, implied as u64));
    }
    let slots = 1_u32 << bits;
    let (mut before, mut sum) = (0_i32, 0_u32);
    for i in 0..freqs.len() {
        freqs[i] = 0;
        if !present[i] || i == implied {
            continue;
        }
        let len = if input.take(1)? == 0 {
            before
        } else if input.take(1)? == 0 {
            before + if input.take(1)? == 0 { 1 } else { -1 }
        } else if input.take(1)? == 0 {
            before + if input.take(1)? == 0 { 2 } else { -2 }
        } else {
            input.take(4)? as i32
        };
        if !(0..=12).contains(&len) {
            return Err(Damage::new("length of a frequency, at most", 12, len.unsigned_abs().into()));
        }
        before = len;
        let mut f = u32::from(len > 0);
        if len > 1 {
            let kept = (len as u32 - 1).min(SIGNIFICANT - 1);
            f = (1 << kept | input.take(kept)?) << (len as u32 - 1 - kept);
        }
        freqs[i] = f as u16;
        sum += f;
    }
    if sum >= slots {
        return Err(Damage::new("sum of the frequencies that are stored, below", slots.into(), sum.into()));
    }
    freqs[implied] = (slots - sum) as u16;
    Ok(())
}

/// Bits of a symbol's number among `n`.
const fn index_bits(n: usize) -> u32 {
    (n - 1).ilog2() + 1
}

/// Which symbols occur in any of several tables of counts.
pub fn present<'a>(counts: impl IntoIterator<Item = &'a [u32; SYMBOLS]>) -> [bool; SYMBOLS] {
    let mut present = [false; SYMBOLS];
    for table in counts {
        present.iter_mut().zip(table).for_each(|(present, &c)| *present |= c > 0);
    }
    present
}

/// Several tables of 2^`bits` slots each, over the symbols that occur in any of them.
#[derive(Debug)]
pub struct TableSet {
    /// Frequencies, as [`normalise`] finds them. A table without counts gives all slots to one
    /// symbol.
    pub freqs: Vec<[u16; SYMBOLS]>,
    present: [bool; SYMBOLS],
}

impl TableSet {
    /// The frequencies nearest to `counts`.
    pub fn new(counts: &[[u32; SYMBOLS]], bits: u32) -> Self {
        let present = present(counts);
        let first = present.iter().position(|&present| present).unwrap_or(0);
        let freqs = counts.iter().map(|counts| {
            let (mut freqs, mut counts) = ([0; SYMBOLS], *counts);
            if counts.iter().all(|&c| c == 0) {
                counts[first] = 1;
            }
            normalise(&counts, bits, &mut freqs);
            freqs
        });
        Self { freqs: freqs.collect(), present }
    }

    /// The tables as they are stored: a bit for each symbol, set when it occurs, then each table by
    /// [`write`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bits = BitWriter::default();
        self.present.iter().for_each(|&present| bits.put(present.into(), 1));
        self.freqs.iter().for_each(|f| write(f, &self.present, &mut bits));
        bits.finish()
    }
}

/// Expands the `count` tables of 2^`bits` slots in `bytes`, as [`TableSet::to_bytes`] gives them,
/// into `tables`.
///
/// # Errors
/// Those of [`read`].
pub fn read_all(bytes: &[u8], count: usize, bits: u32, tables: &mut Vec<u32>) -> Result<(), Damage> {
    let mut input = BitReader::new(bytes);
    let mut present = [false; SYMBOLS];
    for present in &mut present {
        *present = input.take(1)? == 1;
    }
    tables.resize(count << bits, 0);
    for table in tables.chunks_exact_mut(1 << bits) {
        let mut freqs = [0; SYMBOLS];
        read(bits, &present, &mut input, &mut freqs)?;
        fill_slots(&freqs, table);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::simd::{Alias, AliasLanes, CLASS_BITS, RANKS};

    /// Counts of many shapes, each for 32 or 256 symbols.
    fn shapes(n: usize) -> Vec<Vec<u32>> {
        let mut all = vec![
            vec![1; n],
            (0..n as u32).collect(),
            (0..n).map(|i| 1 << (i % 20)).collect(),
            (0..n).map(|i| u32::from(i == n / 2) * 5_000_000 + 1).collect(),
            (0..n).map(|i| u32::from(i % 3 == 0)).collect(),
            (0..n).map(|i| u32::from(i == 3)).collect(),
            (0..n).map(|i| if i == 0 { 1 } else { 4_000_000_000 / n as u32 }).collect(),
        ];
        // 1, 1, 2, 3, 5, 8 …
        let fibonacci = |i: usize| (0..i % 30).fold((1_u32, 1_u32), |(a, b), _| (b, a + b)).0;
        all.push((0..n).map(fibonacci).collect());
        all
    }

    #[test]
    fn frequencies_sum_up_are_stored_and_come_back() {
        for (n, bits) in [(32, 11), (256, 11), (256, 12)] {
            for counts in shapes(n) {
                let mut freqs = vec![0; n];
                normalise(&counts, bits, &mut freqs);
                assert_eq!(freqs.iter().map(|&f| u32::from(f)).sum::<u32>(), 1 << bits);
                assert!(freqs.iter().zip(&counts).all(|(f, c)| (*f > 0) == (*c > 0)), "{counts:?} {freqs:?}");
                for present in [vec![true; n], counts.iter().map(|&c| c > 0).collect()] {
                    let mut writer = BitWriter::default();
                    write(&freqs, &present, &mut writer);
                    let bytes = writer.finish();
                    let mut back = vec![9; n];
                    read(bits, &present, &mut BitReader::new(&bytes), &mut back).unwrap();
                    assert_eq!(freqs, back);
                    for len in 0..bytes.len() {
                        assert!(read(bits, &present, &mut BitReader::new(&bytes[..len]), &mut back).is_err());
                    }
                }
            }
        }
    }

    #[test]
    fn an_alias_table_gives_every_rank_its_slots_once() {
        for counts in shapes(RANKS) {
            let mut freq = [0; RANKS];
            normalise(&counts, CLASS_BITS, &mut freq);
            let alias = Alias::new(&freq);
            let mut seen: Vec<Vec<bool>> = freq.iter().map(|&f| vec![false; f.into()]).collect();
            alias.owners(|_, rank, offset| {
                assert!(!std::mem::replace(&mut seen[rank][usize::from(offset)], true));
            });
            assert!(seen.iter().flatten().all(|&seen| seen));
            if freq[0] == 0 {
                continue;
            }
            let lanes = AliasLanes::new(&alias);
            alias.owners(|slot, rank, offset| {
                let slot = slot as u32;
                let other = lanes.other[slot as usize % RANKS];
                let aliased = slot << 21 > other;
                let bias = if aliased { ((other << 15) as i32 >> 20) as u32 } else { 0 };
                assert_eq!(if aliased { other as usize } else { slot as usize } % RANKS, rank);
                assert_eq!((slot / 32).wrapping_add(bias), u32::from(offset));
            });
        }
    }
}
