//! Containers of other lossless packers, shown as the plain safetensors files they came from.
//!
//! Each format is a folder that implements [`ForeignFormat`] and a line in [`FORMATS`]. Nothing else of the crate names
//! a format.

#[cfg(feature = "bigsmall")]
pub mod bigsmall;

use crate::engine::ForeignFormat;

/// All formats that this build reads.
pub const FORMATS: &[&dyn ForeignFormat] = &[
    #[cfg(feature = "bigsmall")]
    &bigsmall::BigSmall,
];
