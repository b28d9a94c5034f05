//! The entropy coder for byte symbols: 64 interleaved rANS states, one table of 4096 slots.
//!
//! Scalar, and the definition of the bitstream. Written out in [`crate::format::native`], section "rANS".
//!
//! Why these numbers. 64 states fill four vectors of sixteen 32-bit lanes, and [`POSITION`] is the order in which
//! saturating in-lane packs of four such vectors give natural order, so that a vector decoder needs no permutation.
//! States of 32 bits over [2^16, 2^32) with words of 16 bits renormalise at most once a symbol, without a loop.
//! Tables of 2^12 slots lose less than 0.1 % against exact counts, and as 4-byte entries lie in the first-level cache.

#![expect(clippy::indexing_slicing, reason = "indices are masked or bounded by the table's and the block's size")]

use crate::error::Damage;

/// States, and symbols in a block.
pub const LANES: usize = 64;
/// log2 of the slots of a table.
pub const TABLE_BITS: u32 = 12;
/// Slots of a table: the sum of all frequencies.
pub const SLOTS: u32 = 1 << TABLE_BITS;
/// Every state starts here when encoding, and so must end here when decoding.
const LOW: u32 = 1 << 16;

/// State `t` codes the symbol at this place of each block of 64.
pub const POSITION: [usize; LANES] = positions();

const fn positions() -> [usize; LANES] {
    let mut p = [0; LANES];
    let mut t = 0;
    while t < LANES {
        let (group, lane) = (t / 16, t % 16);
        p[t] = 16 * (lane / 4) + 4 * group + lane % 4;
        t += 1;
    }
    p
}

/// How often each byte occurs.
pub type Counts = [u32; 256];

/// Counts the bytes of `symbols`.
pub fn count(symbols: &[u8]) -> Counts {
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
    /// The frequencies nearest to `counts`, by integer arithmetic alone so that every machine finds the same.
    ///
    /// `None` when fewer than two symbols occur: such a plane is constant or empty.
    pub fn from_counts(counts: &Counts) -> Option<Self> {
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
            // Fewer slots are missing than symbols have a remainder, as each was rounded down by less than one.
            remainders.sort_unstable_by_key(|&(r, i)| (std::cmp::Reverse(r), i));
            for &(_, i) in &remainders[..left as usize] {
                freq[i] += 1;
            }
        }
        while left < 0 {
            // Symbols lifted to one slot took too many: the largest gives them back, where it costs least.
            let largest = (0..256).rev().max_by_key(|&i| freq[i])?;
            let take = (-left).min(i64::from(freq[largest]) / 2).max(1);
            freq[largest] -= take as u16;
            left += take;
        }
        Some(Self { freq })
    }

    /// The expected length of the coded symbols, in bytes, header and states included.
    pub fn cost(&self, counts: &Counts) -> u64 {
        let bits: u64 = counts
            .iter()
            .zip(&self.freq)
            .filter(|&(&c, _)| c > 0)
            .map(|(&c, &f)| u64::from(c) * (u64::from(TABLE_BITS << 16) - u64::from(log2_q16(u32::from(f)))))
            .sum();
        // A state takes 4 bytes, and holds one byte's worth of symbols on average.
        self.header_len() as u64 + 3 * LANES as u64 + (bits >> 19)
    }

    fn header_len(&self) -> usize {
        let live: Vec<u16> = self.freq.iter().copied().filter(|&f| f > 0).collect();
        1 + live.len().min(32) + live.iter().map(|&f| if f <= 128 { 1 } else { 2 }).sum::<usize>()
    }

    /// Appends the table's description.
    fn write(&self, out: &mut Vec<u8>) {
        let live: Vec<u8> = (0..=255).filter(|&s| self.freq[usize::from(s)] > 0).collect();
        out.push((live.len() - 1) as u8);
        if live.len() <= 32 {
            out.extend_from_slice(&live);
        } else {
            let mut bitmap = [0_u8; 32];
            for &s in &live {
                bitmap[usize::from(s / 8)] |= 1 << (s % 8);
            }
            out.extend_from_slice(&bitmap);
        }
        for &s in &live {
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
        let mut live = [0_u8; 256];
        let (listed, mut rest) = rest.split_at_checked(n.min(32)).ok_or(short)?;
        if n <= 32 {
            live[..n].copy_from_slice(listed);
            if let Some(w) = listed.windows(2).find(|w| w[0] >= w[1]) {
                return Err(Damage::new("ascending symbols in a table", u64::from(w[0]) + 1, u64::from(w[1])));
            }
        } else {
            let mut found = 0;
            for s in (0..=255_u8).filter(|s| listed[usize::from(s / 8)] >> (s % 8) & 1 == 1) {
                live[found] = s;
                found += 1;
            }
            if found != n {
                return Err(Damage::new("symbols in a table's bitmap", n as u64, found as u64));
            }
        }
        let mut freq = [0_u16; 256];
        let mut sum = 0;
        for &s in &live[..n] {
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

    /// The symbol of highest frequency, the lowest of equals: it fills up the last block.
    fn filler(&self) -> u8 {
        (0..=255_u8).rev().max_by_key(|&s| self.freq[usize::from(s)]).unwrap_or(0)
    }
}

/// log2(x) in 1/65536, rounded down; x in 1..=4096. Integers only, for the same choice on every machine.
fn log2_q16(x: u32) -> u32 {
    let whole = x.max(1).ilog2();
    // The mantissa in [2^31, 2^32), squared once for each bit of the fraction.
    let mut m = u64::from(x.max(1)) << (31 - whole);
    let mut fraction = 0;
    for _ in 0..16 {
        m = (m * m) >> 31;
        fraction <<= 1;
        if m >= 1 << 32 {
            m >>= 1;
            fraction |= 1;
        }
    }
    whole << 16 | fraction
}

/// Appends `symbols`, coded with `model`, in which each of them must occur.
pub fn encode(symbols: &[u8], model: &Model, out: &mut Vec<u8>) {
    model.write(out);
    let mut start = [0_u32; 256];
    let mut sum = 0;
    for (s, &f) in start.iter_mut().zip(&model.freq) {
        *s = sum;
        sum += u32::from(f);
    }
    let mut states = [LOW; LANES];
    // Coding runs from the last symbol to the first, so words come out in the reverse of their order.
    let mut words: Vec<u16> = Vec::with_capacity(symbols.len() / 2 + LANES);
    let mut put = |t: usize, symbol: u8| {
        let s = usize::from(symbol);
        let f = u32::from(model.freq[s]);
        let mut x = states[t];
        if u64::from(x) >= u64::from(f) << (32 - TABLE_BITS) {
            words.push(x as u16);
            x >>= 16;
        }
        states[t] = ((x / f) << TABLE_BITS) + x % f + start[s];
    };
    let blocks = symbols.chunks_exact(LANES);
    let tail = blocks.remainder();
    if !tail.is_empty() {
        let filler = model.filler();
        for t in (0..LANES).rev() {
            put(t, tail.get(POSITION[t]).copied().unwrap_or(filler));
        }
    }
    for block in blocks.rev() {
        for t in (0..LANES).rev() {
            put(t, block[POSITION[t]]);
        }
    }
    for x in states {
        out.extend_from_slice(&x.to_le_bytes());
    }
    for w in words.iter().rev() {
        out.extend_from_slice(&w.to_le_bytes());
    }
}

/// A decode table: symbol in bits 0-7, frequency less one in 8-19, the slot's distance from the symbol's first in 20-31.
type Table = [u32; SLOTS as usize];

fn table(model: &Model) -> Box<Table> {
    let mut table = Box::new([0; SLOTS as usize]);
    let mut slots = table.iter_mut();
    for (symbol, &freq) in (0_u32..).zip(&model.freq) {
        for (bias, slot) in (0..u32::from(freq)).zip(&mut slots) {
            *slot = symbol | (u32::from(freq) - 1) << 8 | bias << 20;
        }
    }
    table
}

/// One step of a state: its symbol, and the state before it takes up a word.
#[inline(always)]
fn step(table: &Table, x: u32) -> (u8, u32) {
    let slot = table[(x & (SLOTS - 1)) as usize];
    (slot as u8, ((slot >> 8 & 0xfff) + 1) * (x >> TABLE_BITS) + (slot >> 20))
}

/// Decodes exactly `out.len()` symbols from all of `packed`.
pub fn decode(packed: &[u8], out: &mut [u8]) -> Result<(), Damage> {
    let (model, rest) = Model::read(packed)?;
    let table = table(&model);
    let (head, words) = rest.split_at_checked(4 * LANES).ok_or(Damage::new(
        "length of the coder's states",
        4 * LANES as u64,
        rest.len() as u64,
    ))?;
    let mut states = [0_u32; LANES];
    for (x, bytes) in states.iter_mut().zip(head.chunks_exact(4)) {
        *x = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        if *x < LOW {
            return Err(Damage::new("a coder's state, at least", u64::from(LOW), u64::from(*x)));
        }
    }
    if words.len() % 2 != 0 {
        return Err(Damage::new("length of the coded words, even", words.len() as u64 + 1, words.len() as u64));
    }
    let (mut words, _) = words.as_chunks::<2>();
    let mut block_out = [0_u8; LANES];
    for block in out.chunks_mut(LANES) {
        if let Some(window) = words.first_chunk::<LANES>() {
            // A block takes at most a word a symbol, so these are enough, and no step has to ask.
            let mut used = 0;
            for (x, &place) in states.iter_mut().zip(&POSITION) {
                let (symbol, next) = step(&table, *x);
                block_out[place] = symbol;
                let word = u32::from(u16::from_le_bytes(window[used % LANES]));
                let low = next < LOW;
                *x = if low { next << 16 | word } else { next };
                used += usize::from(low);
            }
            words = &words[used..];
        } else {
            for (x, &place) in states.iter_mut().zip(&POSITION) {
                let (symbol, next) = step(&table, *x);
                block_out[place] = symbol;
                *x = next;
                if next < LOW {
                    let (word, rest) = words.split_first().ok_or(Damage::new("coded words left", 1, 0))?;
                    *x = next << 16 | u32::from(u16::from_le_bytes(*word));
                    words = rest;
                }
            }
        }
        block.copy_from_slice(&block_out[..block.len()]);
    }
    if !words.is_empty() {
        return Err(Damage::new("coded words left at the end", 0, words.len() as u64));
    }
    match states.iter().find(|&&x| x != LOW) {
        None => Ok(()),
        Some(&x) => Err(Damage::new("a coder's state at the end", u64::from(LOW), u64::from(x))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(symbols: &[u8]) -> usize {
        let counts = count(symbols);
        let Some(model) = Model::from_counts(&counts) else { return 0 };
        let mut packed = Vec::new();
        encode(symbols, &model, &mut packed);
        let mut back = vec![0; symbols.len()];
        decode(&packed, &mut back).unwrap();
        assert!(back == symbols);
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
        encode(&symbols, &model, &mut packed);
        let mut out = vec![0; symbols.len()];
        for len in 0..packed.len() {
            assert!(decode(&packed[..len], &mut out).is_err(), "truncated to {len}");
        }
        let mut noticed = 0;
        for bit in 0..packed.len() * 8 {
            packed[bit / 8] ^= 1 << (bit % 8);
            noticed += usize::from(decode(&packed, &mut out).is_err());
            packed[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(noticed > packed.len() * 8 * 9 / 10);
    }

    #[test]
    fn log2_is_exact_for_powers_and_monotonic() {
        for k in 0..=12 {
            assert_eq!(log2_q16(1 << k), k << 16);
        }
        for x in 1..4096 {
            assert!(log2_q16(x) < log2_q16(x + 1));
        }
        assert_eq!(log2_q16(3), 103_872); // 1.58496 * 65536, rounded down
    }
}
