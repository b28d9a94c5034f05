//! A set of numbers that many threads change.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Numbers below a bound, each in the set or not. Says nothing about the order of other memory: what it stands for lies in files.
#[derive(Debug)]
pub struct Bits {
    words: Vec<AtomicU64>,
    len: u32,
    set: AtomicU32,
}

impl Bits {
    /// An empty set of numbers below `len`.
    pub fn new(len: u32) -> Self {
        let words = (0..len.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { words, len, set: AtomicU32::new(0) }
    }

    fn place(&self, at: u32) -> Option<(&AtomicU64, u64)> {
        let word = self.words.get(at as usize / 64).filter(|_| at < self.len)?;
        Some((word, 1 << (at % 64)))
    }

    /// Whether `at` is in the set.
    pub fn get(&self, at: u32) -> bool {
        self.place(at).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Puts `at` in; whether it was not there before.
    pub fn set(&self, at: u32) -> bool {
        let new = self.place(at).is_some_and(|(word, bit)| word.fetch_or(bit, Ordering::Relaxed) & bit == 0);
        if new {
            self.set.fetch_add(1, Ordering::Relaxed);
        }
        new
    }

    /// Takes `at` out; whether it was there before.
    pub fn clear(&self, at: u32) -> bool {
        let was = self.place(at).is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::Relaxed) & bit != 0);
        if was {
            self.set.fetch_sub(1, Ordering::Relaxed);
        }
        was
    }

    /// How many numbers below the bound are not in.
    pub fn missing(&self) -> u32 {
        self.len.saturating_sub(self.set.load(Ordering::Relaxed))
    }

    /// Whether all numbers below the bound are in.
    pub fn full(&self) -> bool {
        self.missing() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_in_and_out_once() {
        let bits = Bits::new(65);
        assert!(!bits.get(64) && bits.set(64) && !bits.set(64) && bits.get(64));
        assert!(!bits.set(65) && !bits.get(65) && !bits.clear(65), "beyond the bound");
        assert!((0..64).all(|at| !bits.full() && bits.set(at)));
        assert!(bits.full() && bits.clear(3) && !bits.clear(3) && !bits.full());
        assert!(Bits::new(0).full());
    }
}
