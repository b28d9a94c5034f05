//! Dispatch to the selected kernel: one `match` per call, none inside a loop.

#[cfg(target_arch = "x86_64")]
use super::avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::encode::{EncodeTable, ReverseWords, SymbolTables};
use super::inputs::{ClassTables, Columns, Segment, States, TileLow, Words};
use super::kernel::{AvailableKernel, Kernel};
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::scalar;
use super::small::{SmallStates, SmallTable};
use super::types::{BLOCK, GROUP, Histogram, Op, Ranked, SMALL_GROUP, TILE};

/// Calls the kernel's own version of a function.
macro_rules! dispatch {
    ($kernel:expr, $name:ident $(::<$bits:tt>)? ($($argument:expr),* $(,)?)) => {
        match $kernel.kernel() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `AvailableKernel` exists only for a kernel that this machine has.
            Kernel::Avx2 => unsafe { avx2::$name$(::<$bits>)?($($argument),*) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kernel::Avx512 => unsafe { avx512::$name$(::<$bits>)?($($argument),*) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Kernel::Neon => unsafe { neon::$name$(::<$bits>)?($($argument),*) },
            _ => scalar::$name$(::<$bits>)?($($argument),*),
        }
    };
}

impl AvailableKernel {
    /// Decodes `out`, whole blocks of symbols. `false` when the words end too early, or `segment`
    /// has columns for fewer blocks.
    pub fn symbols(
        self,
        segment: &Segment<'_>,
        states: &mut States,
        words: &mut Words<'_>,
        out: &mut [[u8; BLOCK]],
    ) -> bool {
        if !segment.covers(out.len()) {
            return false;
        }
        match segment.bits() {
            10 => dispatch!(self, symbols::<10>(segment, states, words, out)),
            11 => dispatch!(self, symbols::<11>(segment, states, words, out)),
            _ => dispatch!(self, symbols::<12>(segment, states, words, out)),
        }
    }

    /// Decodes at most a tile of BF16 words, and says whether one of them has [`ESCAPED`] set.
    /// `None` when the words end too early or there is no such class.
    pub fn tile16(
        self,
        classes: &ClassTables,
        class: usize,
        states: &mut States,
        words: &mut Words<'_>,
        low: TileLow<'_>,
        out: &mut [[u8; 2 * BLOCK]],
    ) -> Option<bool> {
        dispatch!(self, tile16(classes, class, states, words, low, out))
    }

    /// Decodes at most a tile of floats of eight bits: the rank is bits 2-6, the residual the sign
    /// and bits 0-1.
    pub fn tile8(
        self,
        classes: &ClassTables,
        class: usize,
        states: &mut States,
        words: &mut Words<'_>,
        residual: &[u8; SMALL_GROUP],
        out: &mut [[u8; BLOCK]],
    ) -> bool {
        dispatch!(self, tile8(classes, class, states, words, residual, out))
    }

    /// Joins high and low halves of four-byte numbers, as far as the shortest slice goes.
    pub fn join32(self, high: &[[u8; 2]], low: &[[u8; 2]], out: &mut [[u8; 4]]) {
        dispatch!(self, join32(high, low, out));
    }

    /// Bytes as numbers of two, as far as the shorter slice goes.
    pub fn widen(self, bytes: &[u8], out: &mut [[u8; 2]]) {
        dispatch!(self, widen(bytes, out));
    }

    /// Joins high and low bytes of two-byte numbers, as far as the shortest slice goes.
    pub fn join_bytes(self, high: &[u8], low: &[u8], out: &mut [[u8; 2]]) {
        dispatch!(self, join_bytes(high, low, out));
    }

    /// Fills `out` with the differences of the whole numbers of 2^`log2_width` bytes in `raw` from
    /// those in `base`.
    pub fn subtract(self, op: Op, log2_width: u8, raw: &[u8], base: &[u8], out: &mut [u8]) {
        dispatch!(self, subtract(op, log2_width, raw, base, out));
    }

    /// Makes whole numbers of 2^`log2_width` bytes of their differences from those in `base`.
    pub fn add(self, op: Op, log2_width: u8, base: &[u8], numbers: &mut [u8]) {
        dispatch!(self, add(op, log2_width, base, numbers));
    }

    /// How many of the ascending `bounds` are not above the context of each number of `base`: its
    /// bits without the sign, less `shift` of the lowest. Numbers are `wide` (two bytes) or one
    /// byte.
    pub fn groups(self, wide: bool, shift: u8, bounds: &[u8], base: &[u8], out: &mut [u8]) {
        dispatch!(self, groups(wide, shift, bounds, base, out));
    }

    /// Sets `columns` to those of the tables with the numbers `groups`, one for each column, where
    /// each table has 2^`bits` entries (2^24 at most). Reuses their memory.
    pub fn set_columns(self, columns: &mut Columns, groups: &[[u8; BLOCK]], bits: u32) {
        // No offset of more bits would fit, and a sum that wraps would lead outside.
        let bits = bits.min(24);
        columns.offsets.resize(groups.len() * BLOCK, 0);
        columns.most = u32::from(dispatch!(self, spread_groups(groups, bits, &mut columns.offsets))) << bits;
    }

    /// Decodes blocks of BF16 words whose exponents are coded with `table`; `residual` holds the
    /// sign (bit 7) and the mantissa of each number. `false` when the coded bytes end too early, or
    /// there are fewer residual blocks than `out` has.
    pub fn exponents16(
        self,
        table: &SmallTable,
        states: &mut SmallStates,
        words: &mut Words<'_>,
        residual: &[[u8; BLOCK]],
        out: &mut [[u8; 2 * BLOCK]],
    ) -> bool {
        residual.len() >= out.len() && dispatch!(self, exponents16(table, states, words, residual, out))
    }

    /// For each member the number of the group where it costs least: the sum over features of how
    /// often each occurs and what it costs.
    pub fn cheapest(self, members: &[Histogram], costs: &[Histogram], of: &mut [u8]) {
        dispatch!(self, cheapest(members, costs, of));
    }

    /// The ranks of a tile of floats of eight bits, and the rest of their bits. Gives the sum of
    /// the ranks.
    pub fn rank_small_tile(
        self,
        body: &[u8; TILE],
        ranks: &mut [[u8; BLOCK]; 8],
        residual: &mut [u8; SMALL_GROUP],
    ) -> u32 {
        dispatch!(self, rank_small_tile(body, ranks, residual))
    }

    /// Whether a number has the head `marker`.
    pub fn marked(self, numbers: &[[u8; 2]], marker: u16) -> bool {
        dispatch!(self, marked(numbers, marker))
    }

    /// The high and low bytes of the numbers of `raw`.
    pub fn split_bytes(self, raw: &[[u8; 2]], high: &mut [u8], low: &mut [u8]) {
        dispatch!(self, split_bytes(raw, high, low));
    }

    /// The numbers of `raw`.
    pub fn split16(self, raw: &[[u8; 2]], heads: &mut [u16]) {
        dispatch!(self, split16(raw, heads));
    }

    /// The high and low halves of the numbers of `raw`.
    pub fn split32(self, raw: &[[u8; 4]], high: &mut [u16], low: &mut [[u8; 2]]) {
        dispatch!(self, split32(raw, high, low));
    }

    /// The ranks of a tile of BF16 words, and the rest of their bits.
    pub fn rank_tile(
        self,
        heads: &[u16; TILE],
        base: u16,
        ranks: &mut [[u8; BLOCK]; 8],
        residual: &mut [u8; GROUP],
    ) -> Ranked {
        dispatch!(self, rank_tile(heads, base, ranks, residual))
    }

    /// Codes blocks of ranks from the last to the first; `class(i)` is the table of block i. Words
    /// are put in front of those that are in `words` already.
    pub fn encode_ranks(
        self,
        tables: &[EncodeTable],
        class: &[u8],
        ranks: &[[u8; BLOCK]],
        states: &mut States,
        words: &mut ReverseWords,
    ) {
        words.reserve(ranks.len());
        match self.kernel() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `AvailableKernel` exists only for a kernel that this machine has.
            Kernel::Avx512 => unsafe { avx512::encode_ranks(tables, class, ranks, states, words) },
            _ => scalar::encode_ranks(tables, class, ranks, states, words),
        }
    }

    /// Codes blocks of symbols from the last to the first: the table of state t of block i begins
    /// at entry `base` plus, if there are columns, `columns[64 i + t]`. Words are put in front of
    /// those that are in `words`, which has room for them.
    pub fn encode_symbols(
        self,
        tables: &SymbolTables,
        base: u32,
        columns: Option<&Columns>,
        symbols: &[[u8; BLOCK]],
        states: &mut States,
        words: &mut ReverseWords,
    ) {
        let end = columns.map_or(0, |c| c.most) as usize + base as usize + 256;
        let columns = columns.map_or(&[][..], |c| &c.offsets);
        if end > tables.slots.len() {
            return;
        }
        match self.kernel() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `AvailableKernel` exists only for a kernel that this machine has; `end` is
            // where the last table ends that an entry can lie in, and all columns of `tables` are
            // equally long.
            Kernel::Avx512 => unsafe {
                avx512::encode_symbols(tables, base, columns, symbols, states, words);
            },
            _ => scalar::encode_symbols(tables, base, columns, symbols, states, words),
        }
    }
}
