//! Probability models: the weights of symbols, and the table that finds the symbol of a quantile.

use constriction::stream::model::{DefaultContiguousCategoricalEntropyModel as Categorical, IterableEntropyModel};

use crate::error::Damage;

/// Bits of the weights of a categorical model: they add up to 2^24.
pub(super) const CATEGORICAL_BITS: u32 = 24;
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

/// Symbols by quantile.
pub(super) struct Table {
    /// The symbol of the first quantile of each of the equal ranges.
    first: Box<[u16]>,
    shares: Box<[Share]>,
    /// log2 of the quantiles in a range.
    shift: u32,
}

impl Table {
    /// From weights that add up to 2^`bits`. `ranges` is log2 of the ranges of quantiles that are looked up at once.
    fn new(weights: impl Iterator<Item = u32>, bits: u32, ranges: u32) -> Self {
        let mut before = 0_u32;
        let shares: Box<[Share]> = weights
            .map(|weight| {
                let share = Share { before, weight };
                before = before.wrapping_add(weight);
                share
            })
            .collect();
        let shift = bits - ranges;
        let mut first = Vec::with_capacity(1 << ranges);
        for (symbol, share) in (0_u16..).zip(&shares) {
            // All ranges whose first quantile lies below this symbol's end.
            let end = (u64::from(share.before) + u64::from(share.weight)).div_ceil(1 << shift);
            first.resize(end.min(1 << ranges) as usize, symbol);
        }
        first.resize(1 << ranges, 0);
        Self { first: first.into_boxed_slice(), shares, shift }
    }

    /// The categorical model of counts ("C(f)").
    pub fn categorical(counts: &[u32]) -> Result<Self, Damage> {
        let weights = categorical_weights(counts)?;
        // A range then seldom holds more than one symbol, and the tables of several buckets share a first-level cache.
        let ranges = if counts.len() <= 256 { 11 } else { 12 };
        Ok(Self::new(weights.into_iter(), CATEGORICAL_BITS, ranges))
    }

    /// The weights of a stored table ("P(k)"), which add up to 2^`bits`.
    pub fn stored(weights: &[u32], bits: u32) -> Self {
        Self::new(weights.iter().copied(), bits, bits)
    }

    /// The symbol that holds `quantile`, and its share; `None` when the quantile is above all of them.
    #[inline(always)]
    pub fn find(&self, quantile: u64) -> Option<(u16, Share)> {
        let symbol = *self.first.get((quantile >> self.shift) as usize)?;
        let share = *self.shares.get(usize::from(symbol))?;
        if (quantile as u32).wrapping_sub(share.before) < share.weight {
            return Some((symbol, share));
        }
        self.search(quantile as u32)
    }

    /// For the few ranges that hold several symbols. A binary search: hostile streams ask for nothing else.
    #[cold]
    fn search(&self, quantile: u32) -> Option<(u16, Share)> {
        let symbol = self.shares.partition_point(|share| share.before <= quantile).checked_sub(1)?;
        let share = *self.shares.get(symbol)?;
        (quantile.wrapping_sub(share.before) < share.weight).then_some((symbol as u16, share))
    }
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

/// Weights of 1 and more that add up to 2^24.
fn categorical_weights(counts: &[u32]) -> Result<Vec<u32>, Damage> {
    Ok(categorical(counts)?.symbol_table().map(|(_, _, weight)| weight.get()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quantile_has_its_symbol() {
        for counts in
            [vec![0; 128], vec![1_000_000, 1], (0..512).map(|i| i * i).collect(), vec![0, 0, 4_000_000_000, 0]]
        {
            let table = Table::categorical(&counts).unwrap();
            let mut quantile = 0_u64;
            for (symbol, share) in table.shares.iter().enumerate() {
                assert_eq!(u64::from(share.before), quantile);
                for q in [quantile, quantile + u64::from(share.weight) - 1] {
                    assert_eq!(usize::from(table.find(q).unwrap().0), symbol);
                }
                quantile += u64::from(share.weight);
            }
            assert_eq!(quantile, 1 << 24);
            assert!(table.find(quantile).is_none());
            assert!(table.find(u64::MAX).is_none());
        }
    }

    #[test]
    fn stored_weights_may_be_zero() {
        let table = Table::stored(&[0, 1000, 0, 24, 0], 10);
        assert_eq!(table.find(999).unwrap().0, 1);
        assert_eq!(table.find(1000).unwrap().0, 3);
        assert!(table.find(1024).is_none());
    }

    #[test]
    fn sums_go_pairwise() {
        let terms: Vec<f64> = (0..1000).map(|i| 0.01 + f64::from(i * 7919 % 1000)).collect();
        assert!((pairwise_sum(&terms) - 499_510.0).abs() < 1e-6);
        assert_eq!(pairwise_sum(&terms[..300]), pairwise_sum(&terms[..144]) + pairwise_sum(&terms[144..300]));
    }
}
