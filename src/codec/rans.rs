//! The entropy coder for byte symbols: 64 interleaved rANS states, one table of 4096 slots.
//!
//! Written out in [`crate::format::native`], section "rANS".
//!
//! Why these numbers. 64 states fill four vectors of sixteen 32-bit lanes. States of 32 bits over
//! [2^16, 2^32) with words of 16 bits renormalise at most once a symbol, without a loop. Tables of
//! 2^12 slots lose less than 0.1 % against exact counts, and as 4-byte entries lie in the
//! first-level cache.

#![expect(clippy::indexing_slicing, reason = "indices are masked or bounded by the table's and the block's size")]

use super::Packed;
use super::entropy::log2_q16;
use super::simd::{AvailableKernel, BLOCK, LOW, ReverseWords, Segment, States, SymbolTables, fill_slots};
use super::wire::{put_states, put_words};
use crate::error::Damage;

/// log2 of the slots of a table.
pub const TABLE_BITS: u32 = 12;
/// Slots of a table: the sum of all frequencies.
const SLOTS: u32 = 1 << TABLE_BITS;

/// How often each byte occurs.
pub type ByteCounts = [u32; 256];

/// Counts the bytes of `symbols`.
pub fn count(symbols: &[u8]) -> ByteCounts {
    // Four tables: a run of equal bytes would otherwise wait for its own store each time.
    let mut four = [[0_u32; 256]; 4];
    let mut quads = symbols.chunks_exact(4);
    for quad in &mut quads {
        for (table, &s) in four.iter_mut().zip(quad) {
            table[usize::from(s)] += 1;
        }
    }
    for &s in quads.remainder() {
        four[0][usize::from(s)] += 1;
    }
    let mut counts = [0; 256];
    for (i, c) in counts.iter_mut().enumerate() {
        *c = four.iter().map(|table| table[i]).sum();
    }
    counts
}

/// Frequencies that sum to [`SLOTS`]; a symbol that does not occur has 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    freq: [u16; 256],
}

impl Model {
    /// The frequencies nearest to `counts`, by integer arithmetic alone so that every machine finds
    /// the same.
    ///
    /// `None` when fewer than two symbols occur: such a plane is constant or empty.
    pub fn from_counts(counts: &ByteCounts) -> Option<Self> {
        let total: u64 = counts.iter().map(|&c| u64::from(c)).sum();
        if counts.iter().filter(|&&c| c > 0).count() < 2 {
            return None;
        }
        let mut freq = [0_u16; 256];
        let mut remainders = [(0_u64, 0_usize); 256];
        let mut left = i64::from(SLOTS);
        for (i, &c) in counts.iter().enumerate().filter(|&(_, &c)| c > 0) {
            let scaled = u64::from(c) * u64::from(SLOTS);
            // At most SLOTS - 1, since another symbol occurs too.
            let share = scaled / total;
            freq[i] = share.max(1) as u16;
            left -= i64::from(freq[i]);
            // A symbol lifted to one slot has more than its share already.
            remainders[i] = (if share == 0 { 0 } else { scaled % total }, i);
        }
        if left > 0 {
            // Fewer slots are missing than symbols have a remainder, as each was rounded down by
            // less than one.
            remainders.sort_unstable_by_key(|&(r, i)| (std::cmp::Reverse(r), i));
            for &(_, i) in &remainders[..left as usize] {
                freq[i] += 1;
            }
        }
        while left < 0 {
            // Symbols lifted to one slot took too many: the largest gives them back, where it costs
            // least.
            let largest = (0..256).rev().max_by_key(|&i| freq[i])?;
            let take = (-left).min(i64::from(freq[largest]) / 2).max(1);
            freq[largest] -= take as u16;
            left += take;
        }
        Some(Self { freq })
    }

    /// The expected length of the coded symbols, in bytes, header and states included.
    pub fn cost(&self, counts: &ByteCounts) -> u64 {
        let bits: u64 = counts
            .iter()
            .zip(&self.freq)
            .filter(|&(&c, _)| c > 0)
            .map(|(&c, &f)| u64::from(c) * (u64::from(TABLE_BITS << 16) - u64::from(log2_q16(u32::from(f)))))
            .sum();
        // A state takes 4 bytes, and holds one byte's worth of symbols on average.
        self.header_len() as u64 + 3 * BLOCK as u64 + (bits >> 19)
    }

    fn header_len(&self) -> usize {
        let present: Vec<u16> = self.freq.iter().copied().filter(|&f| f > 0).collect();
        1 + present.len().min(32) + present.iter().map(|&f| if f <= 128 { 1 } else { 2 }).sum::<usize>()
    }

    /// Appends the table's description.
    fn write(&self, out: &mut Vec<u8>) {
        let present: Vec<u8> = (0..=255).filter(|&s| self.freq[usize::from(s)] > 0).collect();
        out.push((present.len() - 1) as u8);
        if present.len() <= 32 {
            out.extend_from_slice(&present);
        } else {
            let mut bitmap = [0_u8; 32];
            for &s in &present {
                bitmap[usize::from(s / 8)] |= 1 << (s % 8);
            }
            out.extend_from_slice(&bitmap);
        }
        for &s in &present {
            let f = self.freq[usize::from(s)] - 1;
            if f < 128 {
                out.push(f as u8);
            } else {
                out.extend_from_slice(&[0x80 | (f & 0x7f) as u8, (f >> 7) as u8]);
            }
        }
    }

    /// Reads and checks a table's description; gives the bytes behind it.
    fn read(bytes: &[u8]) -> Result<(Self, &[u8]), Damage> {
        let short = Damage::new("length of a frequency table", 1, 0);
        let (&n, rest) = bytes.split_first().ok_or(short)?;
        let n = usize::from(n) + 1;
        let mut present = [0_u8; 256];
        let (listed, mut rest) = rest.split_at_checked(n.min(32)).ok_or(short)?;
        if n <= 32 {
            present[..n].copy_from_slice(listed);
            if let Some(w) = listed.windows(2).find(|w| w[0] >= w[1]) {
                return Err(Damage::new("ascending symbols in a table", u64::from(w[0]) + 1, u64::from(w[1])));
            }
        } else {
            let mut found = 0;
            for s in (0..=255_u8).filter(|s| listed[usize::from(s / 8)] >> (s % 8) & 1 == 1) {
                present[found] = s;
                found += 1;
            }
            if found != n {
                return Err(Damage::new("symbols in a table's bitmap", n as u64, found as u64));
            }
        }
        let mut freq = [0_u16; 256];
        let mut sum = 0;
        for &s in &present[..n] {
            let (&low, after) = rest.split_first().ok_or(short)?;
            let mut f = u16::from(low & 0x7f);
            rest = after;
            if low & 0x80 != 0 {
                let (&high, after) = rest.split_first().ok_or(short)?;
                // 12 bits hold every frequency less one.
                if high >= 32 {
                    return Err(Damage::new("high bits of a frequency, below", 32, u64::from(high)));
                }
                f |= u16::from(high) << 7;
                rest = after;
            }
            freq[usize::from(s)] = f + 1;
            sum += u32::from(f) + 1;
        }
        if sum != SLOTS {
            return Err(Damage::new("sum of the frequencies", u64::from(SLOTS), u64::from(sum)));
        }
        Ok((Self { freq }, rest))
    }
}

/// Appends `symbols`, coded with `model`, in which each of them must occur. What fills up the last
/// block is added to `symbols`.
pub fn encode(
    kernel: AvailableKernel,
    symbols: &mut Vec<u8>,
    model: &Model,
    words: &mut ReverseWords,
    out: &mut Vec<u8>,
) {
    model.write(out);
    let tables = SymbolTables::new(&[model.freq], TABLE_BITS);
    let mut states = States([LOW; BLOCK]);
    symbols.resize(symbols.len().next_multiple_of(BLOCK), tables.cheapest(0));
    let blocks = symbols.as_chunks().0;
    words.reserve(blocks.len());
    kernel.encode_symbols(&tables, 0, None, blocks, &mut states, words);
    put_states(&states, out);
    put_words(words.words().iter(), out);
}

/// Decodes exactly `n` symbols from all of `range` in `packed` into `out` (replaced).
pub fn decode(
    kernel: AvailableKernel,
    packed: Packed<'_>,
    range: std::ops::Range<usize>,
    n: usize,
    out: &mut Vec<u8>,
) -> Result<(), Damage> {
    let end = range.end;
    let (model, rest) = Model::read(packed.bytes().get(range).unwrap_or_default())?;
    let (mut states, rest) = States::read(rest)?;
    let mut words = packed.words(end - rest.len(), rest.len()).ok_or(Damage::new("padding behind a chunk", 1, 0))?;
    let mut table = [0; SLOTS as usize];
    fill_slots(&model.freq, &mut table);
    let segment = Segment::plain(&table, TABLE_BITS).ok_or(Damage::new("slots of a table", SLOTS.into(), 0))?;
    // The last block is decoded in full.
    out.resize(n.next_multiple_of(BLOCK), 0);
    if !kernel.symbols(&segment, &mut states, &mut words, out.as_chunks_mut().0) {
        return Err(Damage::new("coded words left", 1, 0));
    }
    out.truncate(n);
    words.finish()?;
    states.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> AvailableKernel {
        AvailableKernel::new(super::super::Kernel::Scalar).unwrap()
    }

    fn unpack(packed: &[u8], n: usize) -> Result<Vec<u8>, Damage> {
        let padded = [packed, &[0; super::super::PAD]].concat();
        let mut out = Vec::new();
        decode(kernel(), Packed::new(&padded, packed.len()).unwrap(), 0..packed.len(), n, &mut out).map(|()| out)
    }

    fn round_trip(symbols: &[u8]) -> usize {
        let counts = count(symbols);
        let Some(model) = Model::from_counts(&counts) else { return 0 };
        let mut packed = Vec::new();
        encode(kernel(), &mut symbols.to_vec(), &model, &mut ReverseWords::default(), &mut packed);
        assert!(unpack(&packed, symbols.len()).unwrap() == symbols);
        let estimate = model.cost(&counts);
        // Slack: 63 filler symbols, and a byte a state up or down.
        assert!(estimate.abs_diff(packed.len() as u64) <= 64 + 63 + estimate / 100, "{estimate} {}", packed.len());
        packed.len()
    }

    #[test]
    fn every_length_and_adversarial_counts_come_back() {
        let mut seed = 1_u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as u32
        };
        for len in 0..300 {
            let symbols: Vec<u8> = (0..len).map(|_| (random() % 7) as u8).collect();
            round_trip(&symbols);
        }
        let all: Vec<u8> = (0..=255).cycle().take(65_537).collect();
        round_trip(&all);
        // One symbol rules, 255 others occur once: more slots are lifted than the floor leaves.
        let mut skewed = vec![9_u8; 3_000_000];
        skewed.extend(0..=255);
        assert!(round_trip(&skewed) < 120_000);
        let fibonacci: Vec<u8> = (0..24_u8)
            .scan((1, 1), |f, s| {
                *f = (f.1, f.0 + f.1);
                Some((s, f.0))
            })
            .flat_map(|(s, n)| vec![s; n])
            .collect();
        round_trip(&fibonacci);
        let random: Vec<u8> = (0..100_000).map(|_| random() as u8).collect();
        assert!(round_trip(&random) > 100_000);
    }

    #[test]
    fn truncations_and_flips_never_panic_and_mostly_fail() {
        let symbols: Vec<u8> = (0..1000_u32).map(|i| (i * i % 37 % 11) as u8).collect();
        let model = Model::from_counts(&count(&symbols)).unwrap();
        let mut packed = Vec::new();
        encode(kernel(), &mut symbols.clone(), &model, &mut ReverseWords::default(), &mut packed);
        for len in 0..packed.len() {
            assert!(unpack(&packed[..len], symbols.len()).is_err(), "truncated to {len}");
        }
        let mut noticed = 0;
        for bit in 0..packed.len() * 8 {
            packed[bit / 8] ^= 1 << (bit % 8);
            noticed += usize::from(unpack(&packed, symbols.len()).is_err());
            packed[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(noticed > packed.len() * 8 * 9 / 10);
    }
}
