//! Lookup tables of the encoder, and the words that it emits.

use super::slots::{Alias, CLASS_BITS, RANKS, starts};
use super::types::BLOCK;

/// Coded words, written from last to first.
#[derive(Debug, Default)]
pub struct ReverseWords {
    pub(super) words: Vec<u16>,
    /// The first word that is in use.
    pub(super) at: usize,
}

impl ReverseWords {
    /// Nothing, with room for the words of `blocks` blocks. Reuses the memory.
    pub fn reserve(&mut self, blocks: usize) {
        // 16 more in front, where a vector of sixteen words that are not all in use may begin.
        let len = blocks * BLOCK + 16;
        self.words.resize(len, 0);
        self.at = len;
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.words.capacity() * size_of::<u16>()
    }

    /// The words, the first to be decoded first.
    pub fn words(&self) -> &[u16] {
        self.words.get(self.at..).unwrap_or_default()
    }
}

/// What encoding with tables of 256 symbols looks up; symbol s of table k is at 256 k + s.
#[derive(Debug, Clone, Default)]
pub struct SymbolTables {
    /// Frequency in bits 0-12, first slot in bits 16-31.
    pub(super) slots: Vec<u32>,
    /// 1 / frequency, rounded down.
    pub(super) reciprocal: Vec<f32>,
    /// 2^64 / frequency, rounded up: the high half of a product is an exact quotient of 32 bits.
    /// For a frequency of 1 it is 2^64 - 1, one too little.
    pub(super) exact: Vec<u64>,
    /// The symbol of highest frequency of each table, the lowest of equals: what costs least.
    pub(super) cheapest: Vec<u8>,
    /// log2 of the slots of a table.
    pub(super) bits: u32,
}

impl SymbolTables {
    /// Of frequencies that sum to 2^`bits` (10 to 12) in each table.
    pub fn new(freqs: &[[u16; 256]], bits: u32) -> Self {
        let mut tables = Self { bits, ..Self::default() };
        for freqs in freqs {
            let starts = starts(freqs);
            tables.slots.extend(freqs.iter().zip(starts).map(|(&f, start)| u32::from(f) | start << 16));
            tables.reciprocal.extend(freqs.iter().map(|&f| reciprocal_down(f)));
            tables.exact.extend(freqs.iter().map(|&f| match f {
                0 | 1 => u64::MAX,
                f => u64::MAX / u64::from(f) + 1,
            }));
            let most = (0..=255).zip(freqs).rev().max_by_key(|(_, f)| **f);
            tables.cheapest.push(most.map_or(0, |(symbol, _)| symbol));
        }
        tables
    }

    /// The symbol that costs least in a table.
    pub fn cheapest(&self, table: usize) -> u8 {
        self.cheapest.get(table).copied().unwrap_or(0)
    }
}

/// 1 / `freq` rounded down, so that a quotient is never too large.
fn reciprocal_down(freq: u16) -> f32 {
    let nearest = 1.0 / f32::from(freq.max(1));
    if f64::from(nearest) * f64::from(freq.max(1)) > 1.0 { nearest.next_down() } else { nearest }
}

/// What encoding with a class table looks up.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub struct EncodeTable {
    /// Frequencies; 0 for ranks that may not occur.
    pub(super) freq: [u32; RANKS],
    /// The place of each rank's first slot in `slots`.
    pub(super) start: [u32; RANKS],
    /// 1 / frequency, rounded down.
    pub(super) reciprocal: [f32; RANKS],
    /// The slots of all ranks, in order of rank and offset.
    pub(super) slots: [u16; 1 << CLASS_BITS],
}

impl EncodeTable {
    /// Of frequencies that sum to 2048.
    pub fn new(freq: &[u16; RANKS]) -> Self {
        let start = starts(freq);
        let mut slots = [0; 1 << CLASS_BITS];
        Alias::new(freq).fill_inverse(&start, &mut slots);
        Self { freq: freq.map(u32::from), start, reciprocal: freq.map(reciprocal_down), slots }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::simd::{AvailableKernel, Kernel, LOW, States};

    /// Where an estimate of a quotient is most easily too small: at large multiples of every
    /// frequency, for tables of every size.
    #[test]
    fn every_kernel_divides_exactly() {
        for bits in 10..=12 {
            let all = 1_u32 << bits;
            for freq in 1..all {
                let mut freqs = [0; 256];
                freqs[0] = freq as u16;
                freqs[1] = (all - freq) as u16;
                let tables = SymbolTables::new(&[freqs], bits);
                // Multiples of the frequency, below which an estimate must not stay, up to where a
                // word is given off.
                let most = (u64::from(freq) << (32 - bits)) - 1;
                let states: Vec<[u32; BLOCK]> = (0..8)
                    .map(|block: u64| {
                        std::array::from_fn(|lane| {
                            let down = (block * BLOCK as u64 + lane as u64) * 997;
                            let x = most - (freq as u64 - 1) - down * u64::from(freq) % (most / 2 + 1);
                            (x / u64::from(freq) * u64::from(freq)).max(LOW.into()) as u32
                        })
                    })
                    .collect();
                let encode = |kernel: AvailableKernel| {
                    let mut words = ReverseWords::default();
                    words.reserve(states.len());
                    let after = states.iter().map(|&states| {
                        let mut states = States(states);
                        kernel.encode_symbols(&tables, 0, None, &[[0; BLOCK]], &mut states, &mut words);
                        states.0
                    });
                    (after.collect::<Vec<_>>(), words.words().to_vec())
                };
                let expected = encode(AvailableKernel::new(Kernel::Scalar).unwrap());
                for kernel in Kernel::ALL.into_iter().filter_map(AvailableKernel::new) {
                    assert_eq!(encode(kernel), expected, "{kernel:?}, {bits} bits, frequency {freq}");
                }
            }
        }
    }
}
