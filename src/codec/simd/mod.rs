//! The inner loops, once for each kind of vector unit. `scalar` is the definition; the others give
//! the same bytes.
//!
//! A kernel gets slices whose lengths were checked by the types in `inputs`, so that it need not
//! check inside a loop: [`Words`] has [`PAD`] readable bytes behind its end, a [`Segment`]'s tables
//! are long enough for every slot and column. The functions of kernels are safe for any arguments
//! that safe code can make; what they need of the processor is in their `target_feature`, and
//! [`AvailableKernel`] exists only for a kernel that the processor has.
//!
//! From the bottom: `types`, `kernel`, `slots`, then the arguments of kernels (`inputs`, `small`,
//! `encode`), then `scalar` and its siblings, then `dispatch`. Nothing here imports from above.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dispatch;
mod encode;
mod inputs;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod loads;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod slots;
mod small;
mod types;

pub use encode::{EncodeTable, ReverseWords, SymbolTables};
pub use inputs::{ClassTables, Columns, Heads, Segment, States, TileLow, Words};
pub use kernel::{AvailableKernel, Kernel};
pub use scalar::small_residual_row;
#[cfg(test)]
pub use slots::{Alias, AliasLanes};
pub use slots::{CLASS_BITS, RANKS, fill_slots};
pub use small::{SMALL_BITS, SMALL_LOW, SMALL_RANKS, SmallStates, SmallTable};
pub use types::{BLOCK, ESCAPED, FEATURES, GROUP, Histogram, LOW, Op, PAD, Ranked, SMALL_GROUP, SYMBOLS, TILE, WINDOW};
