//! The inner loops, once for each kind of vector unit. [`scalar`] is the definition; the others give the same bytes.
//!
//! A kernel gets slices whose lengths were checked by the types in [`inputs`], so that it need not check inside a loop:
//! [`Words`] has [`PAD`] readable bytes behind its end, a [`Segment`]'s tables are long enough for every slot and column. The
//! functions of kernels are safe for any arguments that safe code can make; what they need of the processor is in their
//! `target_feature`, and [`Chosen`] exists only for a kernel that the processor has.

use std::sync::OnceLock;

use super::difference::Op;

/// Repeats functions of [`scalar`] for a kernel whose compiler turns their loops into vectors.
macro_rules! vectorised {
    ($features:literal) => {
        vectorised! { $features
            fn join32(high: &[[u8; 2]], low: &[[u8; 2]], out: &mut [[u8; 4]]);
            fn join_bytes(high: &[u8], low: &[u8], out: &mut [[u8; 2]]);
            fn subtract(op: crate::codec::difference::Op, log2_width: u8, raw: &[u8], base: &[u8], out: &mut [u8]);
            fn add(op: crate::codec::difference::Op, log2_width: u8, base: &[u8], numbers: &mut [u8]);
            fn groups(wide: bool, shift: u8, bounds: &[u8], base: &[u8], out: &mut [u8]);
            fn spread_groups(groups: &[[u8; super::BLOCK]], bits: u32, offsets: &mut [u32]) -> u8;
            fn widen(bytes: &[u8], out: &mut [[u8; 2]]);
            fn cheapest(members: &[super::Histogram], costs: &[super::Histogram], of: &mut [u8]);
            fn rank_small_tile(
                body: &[u8; super::TILE],
                ranks: &mut [[u8; super::BLOCK]; 8],
                residual: &mut [u8; super::SMALL_GROUP]
            ) -> u32;
            fn marked(numbers: &[[u8; 2]], marker: u16) -> bool;
            fn split_bytes(raw: &[[u8; 2]], high: &mut [u8], low: &mut [u8]);
            fn split16(raw: &[[u8; 2]], heads: &mut [u16]);
            fn split32(raw: &[[u8; 4]], high: &mut [u16], low: &mut [[u8; 2]]);
            fn rank_tile(
                heads: &[u16; super::TILE],
                base: u16,
                ranks: &mut [[u8; super::BLOCK]; 8],
                residual: &mut [u8; super::GROUP]
            ) -> super::Ranked;
        }
    };
    ($features:literal $(fn $name:ident($($a:ident: $t:ty),*) $(-> $r:ty)?;)*) => {
        $(
            #[target_feature(enable = $features)]
            pub fn $name($($a: $t),*) $(-> $r)? {
                super::scalar::$name($($a),*)
            }
        )*
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod encode;
mod inputs;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod small;

pub use encode::{EncodeTable, SymbolTables, WordsBack};
pub use inputs::{Classes, Columns, Heads, Low, Segment, States, Words};
pub use scalar::small_residual_row;
pub use small::{SMALL_BITS, SMALL_LOW, SMALL_RANKS, SmallStates, SmallTable};

/// States, and symbols in a block.
pub const BLOCK: usize = 64;
/// Numbers in a tile: what shares a class, and what is joined at once.
pub const TILE: usize = 8 * BLOCK;
/// Bytes of seven bits of each number of a tile.
pub const GROUP: usize = 7 * BLOCK;
/// Bytes of three bits of each number of a tile.
pub const SMALL_GROUP: usize = 3 * BLOCK;
/// Symbols that have a rank of their own, beside symbol 0: rank 0 is the escape, rank 1 symbol 0, the others a window.
pub const WINDOW: u16 = 30;
/// The bit that a table of words sets for a number that is stored whole. Others have a residual there.
pub const ESCAPED: u16 = 1;
/// Every 32-bit state starts here when encoding, and so must end here when decoding.
pub const LOW: u32 = 1 << 16;

/// State `t` codes the symbol at this place of each block: the order in which saturating in-lane packs of four vectors of
/// sixteen states give natural order.
pub const POSITION: [usize; BLOCK] = positions();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which checks it")]
const fn positions() -> [usize; BLOCK] {
    let mut p = [0; BLOCK];
    let mut t = 0;
    while t < BLOCK {
        let (group, lane) = (t / 16, t % 16);
        p[t] = 16 * (lane / 4) + 4 * group + lane % 4;
        t += 1;
    }
    p
}

/// Which vector unit is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// None: the definition.
    Scalar,
    /// AVX2 (x86-64).
    Avx2,
    /// AVX-512 with VBMI and VBMI2 (x86-64).
    Avx512,
    /// NEON (aarch64).
    Neon,
}

impl Kernel {
    /// Every kernel, on this machine or not.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Neon];

    /// The name that `BSFS_KERNEL` and `bsfs bench` use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    /// Whether this machine has it.
    #[must_use]
    pub fn available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::available(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            #[cfg(not(all(target_arch = "x86_64", target_arch = "aarch64")))]
            _ => false,
        }
    }

    /// The best that this machine has, or the one that the environment variable `BSFS_KERNEL` names if the machine
    /// has it. Found once.
    #[must_use]
    pub fn detect() -> Self {
        static FOUND: OnceLock<Kernel> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let wanted = std::env::var("BSFS_KERNEL").ok();
            if let Some(name) = wanted.as_deref().filter(|name| !name.is_empty()) {
                match Self::ALL.into_iter().find(|k| k.name() == name && k.available()) {
                    Some(kernel) => return kernel,
                    None => log::warn!("BSFS_KERNEL={name}: this machine has no such kernel; using its best"),
                }
            }
            [Self::Avx512, Self::Avx2, Self::Neon].into_iter().find(|k| k.available()).unwrap_or(Self::Scalar)
        })
    }
}

/// A kernel that this machine has; only [`Chosen::new`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen(Kernel);

impl Chosen {
    /// The kernel, if this machine has it.
    pub fn new(kernel: Kernel) -> Option<Self> {
        kernel.available().then_some(Self(kernel))
    }

    /// The kernel of [`Kernel::detect`].
    pub fn best() -> Self {
        Self(Kernel::detect())
    }

    /// Which it is.
    pub const fn kernel(self) -> Kernel {
        self.0
    }
}

/// Calls the kernel's own version of a function.
macro_rules! dispatch {
    ($kernel:expr, $name:ident $(::<$bits:tt>)? ($($argument:expr),* $(,)?)) => {
        match $kernel.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Chosen` exists only for a kernel that this machine has.
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

impl Chosen {
    /// Decodes `out`, whole blocks of symbols. `false` when the words end too early, or `segment` has columns for fewer blocks.
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

    /// Decodes at most a tile of BF16 words, and says whether one of them has [`ESCAPED`] set. `None` when the words end too
    /// early or there is no such class.
    pub fn tile16(
        self,
        classes: &Classes,
        class: usize,
        states: &mut States,
        words: &mut Words<'_>,
        low: Low<'_>,
        out: &mut [[u8; 2 * BLOCK]],
    ) -> Option<bool> {
        dispatch!(self, tile16(classes, class, states, words, low, out))
    }

    /// Decodes at most a tile of floats of eight bits: the rank is bits 2-6, the residual the sign and bits 0-1.
    pub fn tile8(
        self,
        classes: &Classes,
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

    /// Fills `out` with the differences of the whole numbers of 2^`log2_width` bytes in `raw` from those in `base`.
    pub fn subtract(self, op: Op, log2_width: u8, raw: &[u8], base: &[u8], out: &mut [u8]) {
        dispatch!(self, subtract(op, log2_width, raw, base, out));
    }

    /// Makes whole numbers of 2^`log2_width` bytes of their differences from those in `base`.
    pub fn add(self, op: Op, log2_width: u8, base: &[u8], numbers: &mut [u8]) {
        dispatch!(self, add(op, log2_width, base, numbers));
    }

    /// How many of the ascending `bounds` are not above the context of each number of `base`: its bits without the sign, less
    /// `shift` of the lowest. Numbers are `wide` (two bytes) or one byte.
    pub fn groups(self, wide: bool, shift: u8, bounds: &[u8], base: &[u8], out: &mut [u8]) {
        dispatch!(self, groups(wide, shift, bounds, base, out));
    }

    /// Groups in the order of states, times 2^`bits`. Gives the largest.
    fn spread_groups(self, groups: &[[u8; BLOCK]], bits: u32, offsets: &mut [u32]) -> u8 {
        dispatch!(self, spread_groups(groups, bits, offsets))
    }

    /// Decodes blocks of BF16 words whose exponents are coded with `table`; `residual` holds the sign (bit 7) and the mantissa
    /// of each number. `false` when the coded bytes end too early, or there are fewer residual blocks than `out` has.
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

    /// For each member the number of the group where it costs least: the sum over features of how often each occurs and what
    /// it costs.
    pub fn cheapest(self, members: &[Histogram], costs: &[Histogram], of: &mut [u8]) {
        dispatch!(self, cheapest(members, costs, of));
    }

    /// The ranks of a tile of floats of eight bits, and the rest of their bits. Gives the sum of the ranks.
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

    /// Codes blocks of ranks from the last to the first; `class(i)` is the table of block i. Words are put in front of
    /// those that are in `words` already.
    pub fn encode_ranks(
        self,
        tables: &[EncodeTable],
        class: &[u8],
        ranks: &[[u8; BLOCK]],
        states: &mut States,
        words: &mut WordsBack,
    ) {
        words.reserve(ranks.len());
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Chosen` exists only for a kernel that this machine has.
            Kernel::Avx512 => unsafe { avx512::encode_ranks(tables, class, ranks, states, words) },
            _ => scalar::encode_ranks(tables, class, ranks, states, words),
        }
    }

    /// Codes blocks of symbols from the last to the first: the table of state t of block i begins at entry `base` plus, if
    /// there are columns, `columns[64 i + t]`. Words are put in front of those that are in `words`, which has room for them.
    pub fn encode_symbols(
        self,
        tables: &SymbolTables,
        base: u32,
        columns: Option<&Columns>,
        symbols: &[[u8; BLOCK]],
        states: &mut States,
        words: &mut WordsBack,
    ) {
        let end = columns.map_or(0, |c| c.most) as usize + base as usize + 256;
        let columns = columns.map_or(&[][..], |c| &c.offsets);
        if end > tables.slots.len() {
            return;
        }
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Chosen` exists only for a kernel that this machine has; `end` is where the last table ends that an
            // entry can lie in, and all columns of `tables` are equally long.
            Kernel::Avx512 => unsafe {
                avx512::encode_symbols(tables, base, columns, symbols, states, words);
            },
            _ => scalar::encode_symbols(tables, base, columns, symbols, states, words),
        }
    }
}

/// What a symbol is reduced to when rows and columns are compared: its upper six bits.
pub const FEATURES: usize = 64;
/// How often each feature occurs in a row or a column; or what it costs there.
pub type Histogram = [u16; FEATURES];

/// What is known of a tile's ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ranked {
    /// Bit r is set when rank r occurs.
    pub mask: u32,
    /// Their sum.
    pub sum: u32,
}
