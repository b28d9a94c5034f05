//! Assigns the rows or columns of a matrix to groups of similar distribution.

#![expect(clippy::indexing_slicing, reason = "indices are features and groups, bounded by the arrays they index")]

use super::entropy::log2;
use super::simd::{AvailableKernel, FEATURES, Histogram};

/// Rounds of assigning members to groups and counting groups again.
const ROUNDS: usize = 2;

/// The group of each member, at most `groups`; the sums over a group's members are far from those
/// over others.
pub fn assign(kernel: AvailableKernel, members: &[Histogram], groups: usize) -> Vec<u8> {
    let groups = groups.min(members.len()).max(1);
    let mut of: Vec<u8> = vec![0; members.len()];
    if groups == 1 {
        return of;
    }
    start(members, groups, &mut of);
    for _ in 0..ROUNDS {
        let costs = costs(members, &of, groups);
        kernel.cheapest(members, &costs, &mut of);
    }
    of
}

/// Groups by the mean of the lower five bits of features (the exponent), halved by the sixth (the
/// sign) if that leans at all.
fn start(members: &[Histogram], groups: usize, of: &mut [u8]) {
    let mean = |h: &Histogram| {
        let total: u64 = h.iter().map(|&n| u64::from(n)).sum();
        let sum: u64 = h.iter().enumerate().map(|(i, &n)| (i % 32) as u64 * u64::from(n)).sum();
        sum * 65_536 / total.max(1)
    };
    let negative = |h: &Histogram| {
        let total: u64 = h.iter().map(|&n| u64::from(n)).sum();
        let sum: u64 = h[32..].iter().map(|&n| u64::from(n)).sum();
        sum * 65_536 / total.max(1)
    };
    let by = |key: &dyn Fn(&Histogram) -> u64, parts: usize| -> Vec<u8> {
        let mut order: Vec<(u64, usize)> = members.iter().enumerate().map(|(i, h)| (key(h), i)).collect();
        order.sort_unstable();
        let mut part = vec![0; members.len()];
        for (rank, &(_, i)) in order.iter().enumerate() {
            part[i] = (rank * parts / order.len()) as u8;
        }
        part
    };
    // A spread of an eighth in the share of negatives is more than chance makes of a few hundred
    // numbers.
    let mut shares: Vec<u64> = members.iter().map(negative).collect();
    shares.sort_unstable();
    let leans = shares[shares.len() * 7 / 8] - shares[shares.len() / 8] > 8192;
    let signs = if leans { groups.isqrt() } else { 1 };
    let (sign, exponent) = (by(&negative, signs), by(&mean, groups / signs));
    for ((of, sign), exponent) in of.iter_mut().zip(sign).zip(exponent) {
        *of = sign * (groups / signs) as u8 + exponent;
    }
}

/// What a feature costs in each group, in 1/64 bits, at most 20 bits.
fn costs(members: &[Histogram], of: &[u8], groups: usize) -> Vec<[u16; FEATURES]> {
    let mut sums = vec![[0_u32; FEATURES]; groups];
    for (member, &group) in members.iter().zip(of) {
        for (sum, &n) in sums[usize::from(group)].iter_mut().zip(member) {
            *sum += u32::from(n);
        }
    }
    sums.iter()
        .map(|sums| {
            let total: u32 = sums.iter().sum();
            // A half for what does not occur: doubled, so that it is whole.
            let all = log2((2 * total).max(1) + FEATURES as u32);
            sums.map(|n| (all.saturating_sub(log2(2 * n + 1)) >> 10).min(20 << 6) as u16)
        })
        .collect()
}
