//! States and tables of the coder of exponents: sixteen bits a state, at most sixteen exponents in
//! 128 slots.

use super::inputs::{finish_states, read_states};
use super::types::BLOCK;
use crate::error::Damage;

/// 64 states of sixteen bits of the coder of exponents.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub struct SmallStates(pub [u16; BLOCK]);

/// Every 16-bit state starts here when encoding, and so must end here when decoding.
pub const SMALL_LOW: u16 = 1 << 8;

impl SmallStates {
    /// The states at the front of `bytes`, each checked, and what lies behind them.
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), Damage> {
        let (states, rest) = read_states::<2>(bytes, SMALL_LOW.into())?;
        Ok((Self(states.map(|x| x as u16)), rest))
    }

    /// Checks that every state is back where encoding began.
    pub fn finish(&self) -> Result<(), Damage> {
        finish_states(self.0, SMALL_LOW.into())
    }
}

/// log2 of the slots of a table of exponents.
pub const SMALL_BITS: u32 = 7;
/// Exponents in a table, at most.
pub const SMALL_RANKS: usize = 16;

/// A table of at most sixteen exponents in 128 slots, ranks in ascending order of slots.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub struct SmallTable {
    /// The rank of each slot.
    pub(super) rank: [u8; 1 << SMALL_BITS],
    /// The slots of each rank, at most 128.
    pub(super) freq: [u8; SMALL_RANKS],
    /// The first slot of each rank; 128 for ranks that are not used.
    pub(super) start: [u8; SMALL_RANKS],
    /// The exponent of each rank.
    pub(super) exponent: [u8; SMALL_RANKS],
    /// The ranks that are used.
    pub(super) used: usize,
}

impl SmallTable {
    /// From (exponent, frequency) of each rank; `None` unless there are 1 to 16, none of frequency
    /// 0, whose sum is 128.
    pub fn new(ranks: &[(u8, u8)]) -> Option<Self> {
        let mut table = Self {
            rank: [0; 1 << SMALL_BITS],
            freq: [0; SMALL_RANKS],
            start: [1 << SMALL_BITS; SMALL_RANKS],
            exponent: [0; SMALL_RANKS],
            used: ranks.len(),
        };
        let mut at = 0;
        for (i, &(exponent, freq)) in ranks.iter().enumerate() {
            table.rank.get_mut(at..at + usize::from(freq))?.fill(i as u8);
            *table.start.get_mut(i)? = at as u8;
            *table.freq.get_mut(i)? = freq;
            *table.exponent.get_mut(i)? = exponent;
            at += usize::from(freq);
            if freq == 0 {
                return None;
            }
        }
        (at == 1 << SMALL_BITS).then_some(table)
    }

    /// The frequency and the first slot of a rank.
    pub fn slots(&self, rank: usize) -> Option<(u16, u16)> {
        Some(((*self.freq.get(rank)?).into(), (*self.start.get(rank)?).into()))
    }
}
