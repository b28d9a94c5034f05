//! Chooses which tiles of a chunk share a table, by the sum of their ranks.

#![expect(clippy::indexing_slicing, reason = "indices are bins and ranks, bounded by the arrays they index")]

use super::entropy::entropy;
use super::simd::RANKS;

/// Classes of a chunk, at most.
pub const CLASSES: usize = 8;
/// Bins of tiles, of which classes are made: more gain less than 0.01 % and cost more time.
const BINS: usize = 16;
/// Bits that a table is taken to cost for each of its ranks that occur, and besides.
const BITS_PER_RANK: u64 = 6;
const BITS_PER_TABLE: u64 = 24;

/// How often each rank occurs.
pub type RankCounts = [u32; RANKS];

/// Classes as contiguous ranges of the tiles' sums.
#[derive(Debug, Default)]
pub struct Classing {
    /// The largest sum of each class, ascending; the last is `u32::MAX`.
    pub bounds: Vec<u32>,
    /// Counts of the sampled tiles of each class.
    pub counts: Vec<RankCounts>,
    /// Expected bits of all tiles' ranks, tables and classes included.
    pub bits: u64,
}

impl Classing {
    /// The class of a tile.
    pub fn class_of(&self, sum: u32) -> u8 {
        self.bounds.iter().take_while(|&&bound| bound < sum).count().min(self.bounds.len() - 1) as u8
    }
}

/// Bits that say which of `classes` a tile has.
pub const fn class_bits(classes: usize) -> u32 {
    if classes <= 1 { 0 } else { (classes - 1).ilog2() + 1 }
}

/// The best classes for tiles of which some were counted: `sampled` has their sums and counts.
/// `tiles` are all.
pub fn classes(sampled: &mut [(u32, RankCounts)], tiles: usize) -> Classing {
    sampled.sort_by_key(|(sum, _)| *sum);
    let bins = BINS.min(sampled.len()).max(1);
    // Counts of all bins before, so that a range of bins is a difference.
    let mut before = [[0_u32; RANKS]; BINS + 1];
    let mut bound = [u32::MAX; BINS];
    let mut from = 0;
    for bin in 0..bins {
        let to = sampled.len() * (bin + 1) / bins;
        before[bin + 1] = before[bin];
        for (_, counts) in &sampled[from..to] {
            for (sum, c) in before[bin + 1].iter_mut().zip(counts) {
                *sum += c;
            }
        }
        if let Some((sum, _)) = sampled[..to].last() {
            bound[bin] = *sum;
        }
        from = to;
    }
    let range = |a: usize, b: usize| -> RankCounts { std::array::from_fn(|r| before[b][r] - before[a][r]) };
    // What was counted stands for all.
    let scale = |bits: u64| (bits * tiles as u64 / sampled.len().max(1) as u64) >> 16;
    let cost = |a: usize, b: usize| {
        let counts = range(a, b);
        let distinct = counts.iter().filter(|&&c| c > 0).count() as u64;
        scale(entropy(&counts)) + BITS_PER_TABLE + BITS_PER_RANK * distinct
    };
    // best[k][b]: the first b bins in k + 1 classes, and where the last of them begins.
    let mut best = [[(u64::MAX, 0_usize); BINS + 1]; CLASSES];
    let mut single = [[0; BINS + 1]; BINS];
    for (a, single) in single.iter_mut().enumerate().take(bins) {
        for (b, single) in single.iter_mut().enumerate().take(bins + 1).skip(a + 1) {
            *single = cost(a, b);
        }
    }
    for b in 1..=bins {
        best[0][b] = (single[0][b], 0);
    }
    for k in 1..CLASSES.min(bins) {
        for b in k + 1..=bins {
            let choice = (k..b).map(|a| (best[k - 1][a].0.saturating_add(single[a][b]), a)).min();
            best[k][b] = choice.unwrap_or((u64::MAX, 0));
        }
    }
    let with_ids = |k: usize| best[k][bins].0.saturating_add(u64::from(class_bits(k + 1)) * tiles as u64);
    let k = (0..CLASSES.min(bins)).min_by_key(|&k| with_ids(k)).unwrap_or(0);
    let mut classing = Classing { bits: with_ids(k), ..Classing::default() };
    let mut end = bins;
    for k in (0..=k).rev() {
        let start = best[k][end].1;
        classing.bounds.push(if end == bins { u32::MAX } else { bound[end - 1] });
        classing.counts.push(range(start, end));
        end = start;
    }
    classing.bounds.reverse();
    classing.counts.reverse();
    classing
}
