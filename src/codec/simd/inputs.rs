//! Arguments of kernels: slices whose lengths and contents are checked once, at construction.

use super::kernel::{AvailableKernel, Kernel};
use super::slots::{Alias, AliasLanes, CLASS_BITS, RANKS};
use super::types::{BLOCK, GROUP, LOW, PAD, POSITION};
use crate::error::Damage;

/// 64 states of a coder, where vectors can load them.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub struct States(pub [u32; BLOCK]);

impl States {
    /// The states at the front of `bytes`, each checked, and what lies behind them.
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), Damage> {
        let (states, rest) = read_states::<4>(bytes, LOW)?;
        Ok((Self(states), rest))
    }

    /// Checks that every state is back where encoding began.
    pub fn finish(&self) -> Result<(), Damage> {
        finish_states(self.0, LOW)
    }
}

/// States of `N` bytes (little-endian) at the front of `bytes`, none below `low`, and what lies
/// behind them.
pub(super) fn read_states<const N: usize>(bytes: &[u8], low: u32) -> Result<([u32; BLOCK], &[u8]), Damage> {
    let (need, got) = (N * BLOCK, bytes.len() as u64);
    let (head, rest) =
        bytes.split_at_checked(need).ok_or(Damage::new("length of the coder's states", need as u64, got))?;
    let mut states = [0; BLOCK];
    for (x, bytes) in states.iter_mut().zip(head.as_chunks::<N>().0) {
        *x = bytes.iter().rev().fold(0, |x, &byte| x << 8 | u32::from(byte));
        if *x < low {
            return Err(Damage::new("a coder's state, at least", low.into(), (*x).into()));
        }
    }
    Ok((states, rest))
}

/// Checks that every state is back at `low`.
pub(super) fn finish_states<T: Into<u32> + Copy>(states: [T; BLOCK], low: u32) -> Result<(), Damage> {
    match states.into_iter().map(Into::into).find(|&x| x != low) {
        None => Ok(()),
        Some(x) => Err(Damage::new("a coder's state at the end", low.into(), x.into())),
    }
}

/// The words of a stream, with [`PAD`] readable bytes behind them, and how far they are used.
#[derive(Debug)]
pub struct Words<'a> {
    bytes: &'a [u8],
    end: usize,
    at: usize,
}

impl<'a> Words<'a> {
    /// The first `end` bytes of `bytes`; `None` unless [`PAD`] bytes follow them.
    pub fn new(bytes: &'a [u8], end: usize) -> Option<Self> {
        (bytes.len() >= end.checked_add(PAD)?).then_some(Self { bytes, end, at: 0 })
    }

    /// The next words, enough for a block whatever it needs; `None` when more were used than there
    /// are. What lies behind the end is read, but then the last check fails.
    #[inline(always)]
    pub(super) fn block(&self) -> Option<&'a [[u8; 2]; BLOCK]> {
        if self.at > self.end {
            return None;
        }
        self.bytes.get(self.at..)?.as_chunks::<2>().0.first_chunk()
    }

    /// The next bytes, enough for a block of [`SmallStates`] whatever it needs.
    #[inline(always)]
    pub(super) fn small_block(&self) -> Option<&'a [u8; BLOCK]> {
        if self.at > self.end {
            return None;
        }
        self.bytes.get(self.at..)?.first_chunk()
    }

    #[inline(always)]
    pub(super) const fn advance(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// Checks that exactly all were used.
    pub fn finish(&self) -> Result<(), Damage> {
        if self.at == self.end {
            return Ok(());
        }
        Err(Damage::new("bytes of coded words used", self.end as u64, self.at as u64))
    }
}

/// log2 of the slots of a table that kernels decode with.
const TABLE_BITS: std::ops::RangeInclusive<u32> = 10..=12;

/// Slot tables for a run of blocks: one for all, or one for each column. Each has 2^bits slots, all
/// of which are there.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    tables: &'a [u32],
    columns: Option<&'a [u32]>,
    bits: u32,
}

impl<'a> Segment<'a> {
    /// One table of 2^`bits` slots (10 to 12) for all states; `None` when it is shorter.
    pub fn plain(tables: &'a [u32], bits: u32) -> Option<Self> {
        Self::new(tables, None, bits)
    }

    /// Tables of 2^`bits` slots (10 to 12); `columns[64 i + t]` is the first entry of the table for
    /// state t of block i. `None` when one of them reaches beyond `tables`.
    pub fn by_column(tables: &'a [u32], columns: &'a Columns, bits: u32) -> Option<Self> {
        Self::new(tables, Some(columns), bits)
    }

    fn new(tables: &'a [u32], columns: Option<&'a Columns>, bits: u32) -> Option<Self> {
        if !TABLE_BITS.contains(&bits) {
            return None;
        }
        let last = columns.map_or(0, |columns| columns.most as usize);
        let tables = tables.get(..last + (1 << bits))?;
        Some(Self { tables, columns: columns.map(|columns| &*columns.offsets), bits })
    }

    /// log2 of the slots of each table.
    #[inline(always)]
    pub(super) const fn bits(&self) -> u32 {
        self.bits
    }

    /// The tables, for a kernel of this many bits. `None` for another one, which would read beyond
    /// them.
    #[inline(always)]
    pub(super) fn tables<const BITS: u32>(&self) -> Option<&'a [u32]> {
        (self.bits == BITS).then_some(self.tables)
    }

    #[inline(always)]
    pub(super) const fn columns(&self) -> Option<&'a [u32]> {
        self.columns
    }

    /// Whether there are columns for so many blocks.
    pub(super) const fn covers(&self, blocks: usize) -> bool {
        match self.columns {
            None => true,
            Some(columns) => columns.len() / BLOCK >= blocks,
        }
    }
}

/// Offsets of tables in the order of states.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    pub(super) offsets: Vec<u32>,
    /// The largest of them, or more: [`Segment`] relies on it.
    pub(super) most: u32,
}

impl Columns {
    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.offsets.capacity() * size_of::<u32>()
    }

    /// From the offset for each column; a number of columns that is a multiple of 64.
    pub fn new(offsets: &[u32]) -> Self {
        let mut ordered = vec![0; offsets.len()];
        for (to, from) in ordered.chunks_exact_mut(BLOCK).zip(offsets.chunks_exact(BLOCK)) {
            for (to, at) in to.iter_mut().zip(POSITION) {
                *to = from.get(at).copied().unwrap_or(0);
            }
        }
        Self { offsets: ordered, most: offsets.iter().copied().max().unwrap_or(0) }
    }
}

/// The tables of a chunk's classes, in the form that the kernel wants.
#[derive(Debug, Default)]
pub struct ClassTables {
    slots: Vec<u32>,
    pub(super) aliases: Vec<Alias>,
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only AVX-512 reads it"))]
    pub(super) lanes: Vec<AliasLanes>,
}

impl ClassTables {
    /// Tables for `kernel` of frequencies that sum to 2048 each, none of which is 0 for rank 0.
    pub fn new(kernel: AvailableKernel, freqs: &[[u16; RANKS]]) -> Self {
        let aliases = freqs.iter().map(Alias::new);
        match kernel.kernel() {
            Kernel::Scalar => {
                let mut slots = vec![0; freqs.len() << CLASS_BITS];
                for (slots, alias) in slots.as_chunks_mut().0.iter_mut().zip(aliases) {
                    alias.fill_slots(slots);
                }
                Self { slots, ..Self::default() }
            }
            Kernel::Avx2 | Kernel::Neon => Self { aliases: aliases.collect(), ..Self::default() },
            Kernel::Avx512 => Self { lanes: aliases.map(|alias| AliasLanes::new(&alias)).collect(), ..Self::default() },
        }
    }

    /// The slot table of a class; `None` without such a class or for a kernel that wants none.
    pub(super) fn slots(&self, class: usize) -> Option<&[u32]> {
        self.slots.get(class << CLASS_BITS..(class + 1) << CLASS_BITS)
    }
}

/// The exponent and the top bit of the mantissa of each rank, in their places in a word.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub struct Heads {
    pub(super) words: [u16; RANKS],
    /// The low and the high bytes of `words`.
    pub(super) bytes: [[u8; RANKS]; 2],
}

impl Heads {
    /// From the words, whose low six bits are 0 or [`ESCAPED`].
    pub fn new(words: [u16; RANKS]) -> Self {
        Self { words, bytes: [words.map(|w| w.to_le_bytes()[0]), words.map(|w| w.to_le_bytes()[1])] }
    }
}

/// What a tile's ranks are joined with.
#[derive(Debug, Clone, Copy)]
pub struct TileLow<'a> {
    /// The bits that ranks stand for.
    pub heads: &'a Heads,
    /// The sign and the other six bits of the mantissa of each number.
    pub residual: &'a [u8; GROUP],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_has_every_slot_that_a_kernel_of_its_bits_reads() {
        let tables = vec![0; 3 << 11];
        assert_eq!(Segment::plain(&tables, 11).map(|s| s.bits()), Some(11));
        assert!(Segment::plain(&tables[..(1 << 11) - 1], 11).is_none());
        for bits in [0, 9, 13, 31, 32, 64, u32::MAX] {
            assert!(Segment::plain(&tables, bits).is_none(), "{bits}");
        }
        let segment = Segment::plain(&tables, 10).unwrap();
        assert!(
            segment.tables::<10>().is_some() && segment.tables::<11>().is_none() && segment.tables::<12>().is_none()
        );

        let kernel = AvailableKernel::detect();
        let mut columns = Columns::default();
        kernel.set_columns(&mut columns, &[[2; BLOCK]], 11);
        assert!(Segment::by_column(&tables, &columns, 11).is_some_and(|s| s.covers(1) && !s.covers(2)));
        assert!(Segment::by_column(&tables, &columns, 12).is_none(), "the last table is too short");
        assert!(!Segment::by_column(&tables, &columns, 11).unwrap().covers(usize::MAX));
        // Offsets that would wrap.
        for bits in [28, 31, 32, 100] {
            kernel.set_columns(&mut columns, &[[1; BLOCK], [16; BLOCK]], bits);
            assert!(columns.offsets.iter().all(|offset| *offset <= columns.most), "{bits}");
            assert!(Segment::by_column(&tables, &columns, 11).is_none(), "{bits}");
        }
        // More blocks than there are columns for.
        for kernel in Kernel::ALL.into_iter().filter_map(AvailableKernel::new) {
            let bytes = [0; 4 * BLOCK + PAD];
            let mut words = super::Words::new(&bytes, 4 * BLOCK).unwrap();
            let mut states = States([LOW; BLOCK]);
            let columns = Columns::new(&[0; BLOCK]);
            let segment = Segment::by_column(&tables, &columns, 11).unwrap();
            assert!(!kernel.symbols(&segment, &mut states, &mut words, &mut [[0; BLOCK]; 2]), "{kernel:?}");
        }
    }
}
