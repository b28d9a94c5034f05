//! Probability models: the weights of symbols, and the table that finds the symbol of a quantile.

use constriction::stream::model::{DefaultContiguousCategoricalEntropyModel as Categorical, IterableEntropyModel};

use crate::error::Damage;

/// What every count gets on top, so that each symbol of the alphabet can be coded.
const SMOOTHING: f64 = 0.01;

/// A symbol's share of the quantiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    /// Quantiles of all symbols before it.
    pub before: u32,
    /// Quantiles of its own.
    pub weight: u32,
}

/// Finds the symbol that holds a quantile.
pub(super) trait Lookup: Send + Sync + Sized {
    /// Counters for each symbol, used in turn: a counter that was just stored cannot be loaded at once.
    const COUNTERS: usize;

    /// From the shares of all symbols, which together are 2^(12 + `SHIFT`) quantiles or fewer.
    fn new<const SHIFT: u32>(shares: Vec<Share>) -> Self;

    /// log2 of how many of the 2^12 ranges are looked up as one.
    const JOINED: u32;

    /// The symbol that holds the first quantile of a range, and its share; `None` when there is no such range.
    fn first(&self, range: u64) -> Option<(u16, Share)>;

    /// The symbol that holds `quantile`, when it is not `first`, the first symbol of its range.
    fn search(&self, first: u16, quantile: u64) -> Option<(u16, Share)>;

    /// The symbol that holds `quantile`, and its share; `None` when the quantile is above all of them.
    #[inline(always)]
    fn find<const SHIFT: u32>(&self, quantile: u64) -> Option<(u16, Share)> {
        let (symbol, share) = self.first(quantile >> (SHIFT + Self::JOINED))?;
        if quantile.wrapping_sub(u64::from(share.before)) < u64::from(share.weight) {
            return Some((symbol, share));
        }
        self.search(symbol, quantile)
    }
}

/// log2 of the ranges of quantiles that are looked up at once. A range then seldom holds more than one symbol.
const RANGE_BITS: u32 = 12;
/// As `RANGE_BITS`, for wide tables, which else fill the first-level cache.
const WIDE_BITS: u32 = RANGE_BITS - 1;

/// For streams that are decoded side by side: few bytes, so that the tables of four share the first-level cache.
pub(super) struct Narrow<T, const SYMBOLS: usize> {
    /// The symbol of the first quantile of each range.
    first: Box<[T; 1 << RANGE_BITS]>,
    shares: Box<[Share; SYMBOLS]>,
}

/// For mantissas of BF16.
pub(super) type Bytes = Narrow<u8, 256>;
/// For mantissas of FP16, and symbols of the package's own coder.
pub(super) type Words = Narrow<u16, 1024>;

/// For a stream that is decoded alone: all about a range's symbol in one load, since it waits for every load. Symbol, quantiles
/// before it and its weight, from the lowest bits on.
pub(super) struct Wide {
    first: Box<[u64; 1 << WIDE_BITS]>,
    shares: Box<[Share]>,
}

/// Calls `set` with each range and the number and share of the symbol that holds its first quantile.
fn ranges(shares: &[Share], range_len: u64, count: usize, mut set: impl FnMut(usize, u16, Share)) {
    let mut range = 0;
    for (symbol, share) in (0_u16..).zip(shares) {
        let end = (u64::from(share.before) + u64::from(share.weight)).div_ceil(range_len);
        while range < count && (range as u64) < end {
            set(range, symbol, *share);
            range += 1;
        }
    }
}

/// For the few ranges that hold several symbols, of which `first` is the first: mostly the next one, else a binary search, since
/// hostile streams ask for nothing else.
#[inline(never)]
fn search(shares: &[Share], first: u16, quantile: u64) -> Option<(u16, Share)> {
    let holds = |share: &Share| quantile.wrapping_sub(u64::from(share.before)) < u64::from(share.weight);
    if let Some(next) = shares.get(usize::from(first) + 1).filter(|next| holds(next)) {
        return Some((first + 1, *next));
    }
    let symbol = shares.partition_point(|share| u64::from(share.before) <= quantile).checked_sub(1)?;
    let share = shares.get(symbol).filter(|share| holds(share))?;
    Some((symbol as u16, *share))
}

impl<T: Copy + Default + TryFrom<u16> + Into<u16> + Send + Sync, const SYMBOLS: usize> Lookup for Narrow<T, SYMBOLS> {
    const COUNTERS: usize = 1;
    const JOINED: u32 = 0;

    fn new<const SHIFT: u32>(mut shares: Vec<Share>) -> Self {
        let mut first = Box::new([T::default(); 1 << RANGE_BITS]);
        ranges(&shares, 1 << SHIFT, first.len(), |range, symbol, _| {
            if let (Some(place), Ok(symbol)) = (first.get_mut(range), T::try_from(symbol)) {
                *place = symbol;
            }
        });
        let end = shares.last().map_or(0, |last| last.before.wrapping_add(last.weight));
        shares.resize(SYMBOLS, Share { before: end, weight: 0 });
        let shares = shares.try_into().unwrap_or_else(|_| Box::new([Share { before: 0, weight: 0 }; SYMBOLS]));
        Self { first, shares }
    }

    #[inline(always)]
    fn first(&self, range: u64) -> Option<(u16, Share)> {
        let symbol: u16 = (*self.first.get(range as usize)?).into();
        Some((symbol, *self.shares.get(usize::from(symbol))?))
    }

    fn search(&self, first: u16, quantile: u64) -> Option<(u16, Share)> {
        search(&*self.shares, first, quantile)
    }
}

impl Lookup for Wide {
    const COUNTERS: usize = 4;
    const JOINED: u32 = RANGE_BITS - WIDE_BITS;

    fn new<const SHIFT: u32>(shares: Vec<Share>) -> Self {
        let mut first = Box::new([0; 1 << WIDE_BITS]);
        ranges(&shares, 1 << (SHIFT + Self::JOINED), first.len(), |range, symbol, share| {
            if let Some(place) = first.get_mut(range) {
                *place = u64::from(share.weight) << 34 | u64::from(share.before) << 10 | u64::from(symbol);
            }
        });
        Self { first, shares: shares.into_boxed_slice() }
    }

    #[inline(always)]
    fn first(&self, range: u64) -> Option<(u16, Share)> {
        let all = *self.first.get(range as usize)?;
        Some((all as u16 & 0x3ff, Share { before: (all >> 10) as u32 & 0xff_ffff, weight: (all >> 34) as u32 }))
    }

    fn search(&self, first: u16, quantile: u64) -> Option<(u16, Share)> {
        search(&self.shares, first, quantile)
    }
}

/// Shares from weights, in the order of symbols.
pub(super) fn shares(weights: impl IntoIterator<Item = u32>) -> Vec<Share> {
    let mut before = 0_u32;
    weights
        .into_iter()
        .map(|weight| {
            let share = Share { before, weight };
            before = before.wrapping_add(weight);
            share
        })
        .collect()
}

/// The shares of the categorical model of counts ("C(f)"), each of 1 and more, together 2^24.
pub(super) fn categorical_shares(counts: &[u32]) -> Result<Vec<Share>, Damage> {
    Ok(shares(categorical(counts)?.symbol_table().map(|(_, _, weight)| weight.get())))
}

/// The sum of `terms` in NumPy's order, which decides the last bit.
fn pairwise_sum(terms: &[f64]) -> f64 {
    if terms.len() < 8 {
        return terms.iter().sum();
    }
    if terms.len() > 128 {
        let half = terms.len() / 2;
        let (left, right) = terms.split_at(half - half % 8);
        return pairwise_sum(left) + pairwise_sum(right);
    }
    let (rows, rest) = terms.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for (i, row) in rows.iter().enumerate() {
        for (lane, term) in lanes.iter_mut().zip(row) {
            // 0.0 + x is x for every x here, but the first row starts the sums in NumPy.
            *lane = if i == 0 { *term } else { *lane + term };
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    rest.iter().fold(((a + b) + (c + d)) + ((e + f) + (g + h)), |sum, term| sum + term)
}

/// The probabilities that are quantised, in binary64.
pub(super) fn probabilities(counts: &[u32]) -> Vec<f64> {
    let smooth: Vec<f64> = counts.iter().map(|count| f64::from(*count) + SMOOTHING).collect();
    let sum = pairwise_sum(&smooth);
    smooth.into_iter().map(|x| x / sum).collect()
}

/// The coder's own form of the model.
pub(super) fn categorical(counts: &[u32]) -> Result<Categorical, Damage> {
    Categorical::from_floating_point_probabilities_perfect(&probabilities(counts))
        .map_err(|()| Damage::new("a model of at least two symbols", 2, counts.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds_all<L: Lookup>(counts: &[u32]) {
        let shares = categorical_shares(counts).unwrap();
        let table = L::new::<12>(shares.clone());
        let mut quantile = 0_u64;
        for (symbol, share) in shares.iter().enumerate() {
            assert_eq!(u64::from(share.before), quantile);
            for q in [quantile, quantile + u64::from(share.weight) - 1] {
                assert_eq!(usize::from(table.find::<12>(q).unwrap().0), symbol);
            }
            quantile += u64::from(share.weight);
        }
        assert_eq!(quantile, 1 << 24);
        assert!(table.find::<12>(quantile).is_none());
        assert!(table.find::<12>(u64::MAX).is_none());
    }

    #[test]
    fn every_quantile_has_its_symbol() {
        for counts in [vec![0; 128], vec![1_000_000, 1], vec![3; 256], vec![0, 0, 4_000_000_000, 0]] {
            finds_all::<Bytes>(&counts);
            finds_all::<Words>(&counts);
            finds_all::<Wide>(&counts);
        }
        finds_all::<Wide>(&(0..512).map(|i| i * i).collect::<Vec<_>>());
        finds_all::<Words>(&(0..1024).map(|i| i * i / 700).collect::<Vec<_>>());
    }

    #[test]
    fn stored_weights_may_be_zero() {
        let table = Bytes::new::<0>(shares([0, 1000, 0, 24, 0]));
        assert_eq!(table.find::<0>(999).unwrap().0, 1);
        assert_eq!(table.find::<0>(1000).unwrap().0, 3);
        assert!(table.find::<0>(1024).is_none());
    }

    #[test]
    fn sums_go_pairwise() {
        let terms: Vec<f64> = (0..1000).map(|i| 0.01 + f64::from(i * 7919 % 1000)).collect();
        assert!((pairwise_sum(&terms) - 499_510.0).abs() < 1e-6);
        assert_eq!(pairwise_sum(&terms[..300]), pairwise_sum(&terms[..144]) + pairwise_sum(&terms[144..300]));
    }
}
