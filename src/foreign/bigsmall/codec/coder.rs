//! The three entropy decoders, a symbol at a time: the range coder and the stack coder (ANS) of constriction, and the package's
//! own coder with tables of a power of two.
//!
//! A symbol takes at most one word from its stream, so a loop that decodes no more symbols than there are words in memory never
//! has to ask for more. Whether it takes one is as good as random, so the choice is no jump. `words` are those in memory, `used` counts the ones taken.

use super::Fault;
use std::hint::select_unpredictable;

use super::feed::Direction;
use super::model::{Lookup, Share, categorical_shares, shares};
use super::state::Saved;
use crate::error::Damage;

/// Categorical models have 2^24 quantiles, lookups 2^12 ranges.
const CATEGORICAL_SHIFT: u32 = 12;

/// Where a decoder stands in its stream.
pub(super) trait Coder: Copy + Send + Sized {
    /// The bytes of a word.
    type Word: Copy;
    /// Bytes in a word.
    const WIDTH: u64;
    /// The end from which words are taken.
    const DIRECTION: Direction;

    /// Words that decoding may take behind the end, all zero.
    const PAST: u64;
    /// Whether the stored table of a stream holds the counts of its symbols, not weights.
    const COUNTED: bool;
    /// Whether a stream must end in one state, with no word left. Damage then shows there, and nobody has to count symbols: what
    /// passes is the encoding of just these symbols.
    const SEALED: bool;

    /// The words in `bytes`.
    fn words(bytes: &[u8]) -> &[Self::Word];

    /// log2 of the quantiles in a range of a lookup.
    const SHIFT: u32;

    /// The shares of symbols from what is stored, one number for each symbol of the alphabet.
    fn shares(stored: &[u32]) -> Result<Vec<Share>, Damage>;

    /// The table of a stream from what is stored.
    fn table<L: Lookup>(stored: &[u32]) -> Result<L, Damage> {
        Ok(match Self::SHIFT {
            0 => L::new::<0>(Self::shares(stored)?),
            _ => L::new::<CATEGORICAL_SHIFT>(Self::shares(stored)?),
        })
    }

    /// The decoder before the first symbol, from the first words of the stream as `next` gives them.
    fn start(next: impl FnMut() -> Result<Option<u32>, Fault>) -> Result<Self, Fault>;

    /// The next symbol. Damage is kept in mind and told by [`Coder::sound`], so that loops need no way out.
    fn step<L: Lookup>(&mut self, table: &L, words: &[Self::Word], used: &mut usize) -> u16;

    /// Whether all symbols so far were possible ones.
    fn sound(&self) -> bool;

    /// That a stream of `total` words, of which `used` are taken, ends here.
    fn finish(&self, used: u64, total: u64) -> Result<(), Damage>;

    fn save(&self, to: &mut Vec<u64>);

    fn restore(from: &mut Saved<'_>) -> Result<Self, Fault>;
}

/// constriction's queue coder. Of its `lower` and `point` only the difference matters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    offset: u64,
    range: u64,
    /// Whether a quantile was too large.
    broken: bool,
}

impl Coder for Range {
    type Word = [u8; 4];
    const WIDTH: u64 = 4;
    const DIRECTION: Direction = Direction::Forwards;
    const PAST: u64 = 2;
    const COUNTED: bool = true;
    const SEALED: bool = false;
    const SHIFT: u32 = CATEGORICAL_SHIFT;

    fn words(bytes: &[u8]) -> &[[u8; 4]] {
        bytes.as_chunks::<4>().0
    }

    fn shares(stored: &[u32]) -> Result<Vec<Share>, Damage> {
        categorical_shares(stored)
    }

    fn start(mut next: impl FnMut() -> Result<Option<u32>, Fault>) -> Result<Self, Fault> {
        let (high, low) = (next()?.unwrap_or(0), next()?.unwrap_or(0));
        Ok(Self { offset: u64::from(high) << 32 | u64::from(low), range: u64::MAX, broken: false })
    }

    #[inline(always)]
    fn step<L: Lookup>(&mut self, table: &L, words: &[[u8; 4]], used: &mut usize) -> u16 {
        let scale = self.range >> 24;
        // The range of the quantile at once, exactly: a quotient of half the bits is there sooner.
        let range = self.offset.checked_div(scale << (CATEGORICAL_SHIFT + L::JOINED));
        let Some((mut symbol, mut share)) = range.and_then(|range| table.first(range)) else {
            self.broken = true;
            return 0;
        };
        let mut offset = self.offset.wrapping_sub(scale.wrapping_mul(u64::from(share.before)));
        self.range = scale.wrapping_mul(u64::from(share.weight));
        if offset >= self.range {
            let quantile = self.offset.checked_div(scale).unwrap_or(u64::MAX);
            let Some(found) = table.search(symbol, quantile) else {
                self.broken = true;
                return 0;
            };
            (symbol, share) = found;
            offset = self.offset.wrapping_sub(scale.wrapping_mul(u64::from(share.before)));
            self.range = scale.wrapping_mul(u64::from(share.weight));
        }
        // Past the end words are zero.
        let word = words.get(*used).map_or(0, |word| u32::from_le_bytes(*word));
        let small = self.range < 1 << 32;
        self.offset = select_unpredictable(small, offset << 32 | u64::from(word), offset);
        self.range = select_unpredictable(small, self.range << 32, self.range);
        *used += usize::from(small);
        symbol
    }

    fn sound(&self) -> bool {
        !self.broken
    }

    fn finish(&self, used: u64, total: u64) -> Result<(), Damage> {
        // Two words are taken before the first symbol, and the encoder ends with one or two, so none is left.
        if used < total {
            return Err(Damage::new("words of a range coded stream", total, used));
        }
        Ok(())
    }

    fn save(&self, to: &mut Vec<u64>) {
        to.extend([self.offset, self.range]);
    }

    fn restore(from: &mut Saved<'_>) -> Result<Self, Fault> {
        let (offset, range) = (from.next()?, from.next()?);
        if range < 1 << 32 {
            return Err(Damage::new("range of a noted state", 1 << 32, range).into());
        }
        Ok(Self { offset, range, broken: false })
    }
}

/// constriction's stack coder, which decodes what was encoded last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ans {
    state: u64,
}

impl Coder for Ans {
    type Word = [u8; 4];
    const WIDTH: u64 = 4;
    const DIRECTION: Direction = Direction::Backwards;
    const PAST: u64 = 0;
    const COUNTED: bool = true;
    const SEALED: bool = true;
    const SHIFT: u32 = CATEGORICAL_SHIFT;

    fn words(bytes: &[u8]) -> &[[u8; 4]] {
        bytes.as_chunks::<4>().0
    }

    fn shares(stored: &[u32]) -> Result<Vec<Share>, Damage> {
        categorical_shares(stored)
    }

    fn start(mut next: impl FnMut() -> Result<Option<u32>, Fault>) -> Result<Self, Fault> {
        let Some(last) = next()? else {
            return Ok(Self { state: 0 });
        };
        if last == 0 {
            return Err(Damage::new("last word of a stream that is not zero", 1, 0).into());
        }
        let state = u64::from(last);
        Ok(Self { state: next()?.map_or(state, |word| state << 32 | u64::from(word)) })
    }

    #[inline(always)]
    fn step<L: Lookup>(&mut self, table: &L, words: &[[u8; 4]], used: &mut usize) -> u16 {
        let quantile = self.state & 0xff_ffff;
        let Some((symbol, share)) = table.find::<CATEGORICAL_SHIFT>(quantile) else {
            return 0;
        };
        self.state = (self.state >> 24).wrapping_mul(u64::from(share.weight)) + (quantile - u64::from(share.before));
        if let Some(word) = words.get(words.len().wrapping_sub(1).wrapping_sub(*used)) {
            let small = self.state < 1 << 32;
            let more = self.state << 32 | u64::from(u32::from_le_bytes(*word));
            self.state = select_unpredictable(small, more, self.state);
            *used += usize::from(small);
        }
        symbol
    }

    fn sound(&self) -> bool {
        true
    }

    fn finish(&self, used: u64, total: u64) -> Result<(), Damage> {
        if used != total {
            return Err(Damage::new("words of a stack coded stream", total, used));
        }
        match self.state {
            0 => Ok(()),
            state => Err(Damage::new("state behind the last symbol", 0, state)),
        }
    }

    fn save(&self, to: &mut Vec<u64>) {
        to.push(self.state);
    }

    fn restore(from: &mut Saved<'_>) -> Result<Self, Fault> {
        Ok(Self { state: from.next()? })
    }
}

/// The coder with tables of 2^`BITS` slots.
#[derive(Debug, Clone, Copy)]
pub(super) struct Power<const BITS: u32> {
    state: u32,
}

/// Where this coder starts to encode, and so where decoding ends.
const POWER_LEAST: u32 = 1 << 16;

impl<const BITS: u32> Coder for Power<BITS> {
    type Word = [u8; 2];
    const WIDTH: u64 = 2;
    const DIRECTION: Direction = Direction::Forwards;
    const PAST: u64 = 0;
    const COUNTED: bool = false;
    const SEALED: bool = true;
    const SHIFT: u32 = 0;

    fn words(bytes: &[u8]) -> &[[u8; 2]] {
        bytes.as_chunks::<2>().0
    }

    fn shares(stored: &[u32]) -> Result<Vec<Share>, Damage> {
        let sum = stored.iter().map(|weight| u64::from(*weight)).sum();
        if sum != 1 << BITS {
            return Err(Damage::new("sum of a table's weights", 1 << BITS, sum));
        }
        Ok(shares(stored.iter().copied()))
    }

    /// The state is stored low half first, as two words.
    fn start(mut next: impl FnMut() -> Result<Option<u32>, Fault>) -> Result<Self, Fault> {
        let (Some(low), Some(high)) = (next()?, next()?) else {
            return Err(Damage::new("bytes of a stream with a state", 4, 0).into());
        };
        Self::at(high << 16 | low & 0xffff)
    }

    #[inline(always)]
    fn step<L: Lookup>(&mut self, table: &L, words: &[[u8; 2]], used: &mut usize) -> u16 {
        let slot = self.state & ((1 << BITS) - 1);
        let Some((symbol, share)) = table.find::<0>(u64::from(slot)) else {
            return 0;
        };
        // Below 2^32: a share is at most 2^BITS.
        self.state = (self.state >> BITS).wrapping_mul(share.weight).wrapping_add(slot - share.before);
        if let Some(word) = words.get(*used) {
            let small = self.state < POWER_LEAST;
            let more = self.state << 16 | u32::from(u16::from_le_bytes(*word));
            self.state = select_unpredictable(small, more, self.state);
            *used += usize::from(small);
        }
        symbol
    }

    fn sound(&self) -> bool {
        true
    }

    fn finish(&self, used: u64, total: u64) -> Result<(), Damage> {
        if used != total {
            return Err(Damage::new("words of a power-of-two stream", total, used));
        }
        match self.state {
            POWER_LEAST => Ok(()),
            state => Err(Damage::new("state behind the last symbol", u64::from(POWER_LEAST), u64::from(state))),
        }
    }

    fn save(&self, to: &mut Vec<u64>) {
        to.push(u64::from(self.state));
    }

    fn restore(from: &mut Saved<'_>) -> Result<Self, Fault> {
        Ok(Self { state: from.next()? as u32 })
    }
}

impl<const BITS: u32> Power<BITS> {
    /// From a stored state. One below the least would ask for several words at once, and no encoder makes it.
    pub fn at(state: u32) -> Result<Self, Fault> {
        if state < POWER_LEAST {
            return Err(Damage::new("initial state of a stream", u64::from(POWER_LEAST), u64::from(state)).into());
        }
        Ok(Self { state })
    }
}
