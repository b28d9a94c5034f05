//! Logarithms and entropies in integers, so that every machine makes the same choice.

use std::sync::OnceLock;

/// log2(x) in 1/65536, rounded down; x at least 1. Integers only, for the same choice on every
/// machine.
pub fn log2_q16(x: u32) -> u32 {
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

/// log2 in 1/65536, by a table: exact up to 4096, then to one part in 4096.
pub fn log2(x: u32) -> u64 {
    static TABLE: OnceLock<Vec<u32>> = OnceLock::new();
    let table = TABLE.get_or_init(|| (0..8192).map(log2_q16).collect());
    let shift = (32 - x.leading_zeros()).saturating_sub(13);
    u64::from(table.get((x >> shift) as usize).copied().unwrap_or(0)) + u64::from(shift << 16)
}

/// Bits in 1/65536 of symbols that occur so often, coded with a table of their own.
pub fn entropy(counts: &[u32]) -> u64 {
    let total: u32 = counts.iter().sum();
    if total == 0 {
        return 0;
    }
    let each: u64 = counts.iter().filter(|&&c| c > 0).map(|&c| u64::from(c) * log2(c)).sum();
    (u64::from(total) * log2(total)).saturating_sub(each)
}

#[cfg(test)]
mod tests {
    use super::*;

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
