//! The coders of the Python package `bigsmall`, one file for each codec name or family.
//!
//! A blob holds one tensor and is one serial stream, or several side by side; it can be entered only where a reader has
//! noted the state of its coders. So a blob is decoded from its start in windows: [`Front`] gives what windows of the tensor
//! depend on in order (the signs and exponents), [`Back`] makes numbers of that. Both keep a state of a few integers
//! ([`State`]), from which a later pass starts in the middle, and they may run on two threads, one a window ahead of the other.
//!
//! Blobs are untrusted, and no codec has a checksum: what decodes without an error may be wrong, which only the digest of the
//! whole tensor tells.

mod blosc2;
mod bytes;
mod coder;
mod contexts;
mod encode;
mod feed;
mod inflate;
mod layout;
mod lowcard;
mod model;
mod native;
mod parallel;
mod part;
mod planes;
mod region;
mod residual;
mod sides;
mod sparsity;
mod split;
mod state;
mod stream;
mod wpe_delta;

pub use encode::encode;
pub use sides::{Back, Front, Symbols, open};
pub use state::State;

use crate::error::{Damage, Error};

/// Why a window of a blob was not decoded.
#[derive(Debug)]
pub enum Fault {
    /// The blob breaks a rule.
    Damage(Damage),
    /// The blob could not be read.
    Read(Error),
}

impl From<Damage> for Fault {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

/// The packed bytes of a tensor, wherever they are.
#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a blob is empty")]
pub trait Blob: Send + Sync {
    /// Length, bytes.
    fn len(&self) -> u64;

    /// Fills `to` with the bytes from `at`, all of which are inside the blob.
    ///
    /// # Errors
    /// Those of the place where it lies.
    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Error>;
}

/// How a blob is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    /// `raw`: the bytes.
    Raw,
    /// `zstd`: one frame. Also what `zstd_xor_delta` xors with its base.
    Zstd,
    /// `special`, kind `lowcard`.
    Lowcard,
    /// `special`, kind `wpe_delta`.
    WpeDelta,
    /// `bf16_se_ac`.
    Bf16SeAc,
    /// `bf16_se_rans`.
    Bf16SeRans,
    /// `bf16_se_tans`.
    Bf16SeTans,
    /// `bf16_se_single_kernel`.
    Bf16SingleKernel,
    /// `bf16_parallel_v1`.
    Bf16Parallel,
    /// `bf16_sparsity_v1`.
    Bf16Sparsity,
    /// `fp2_residual_v1`.
    Fp2Residual,
    /// `bf16_native_f32`.
    Bf16NativeF32,
    /// `bf16_native_f32_v2`.
    Bf16NativeF32V2,
    /// `bf16_v8`.
    Bf16V8,
    /// `fp16_se_ac`.
    Fp16SeAc,
    /// `fp32_se_ac`.
    Fp32SeAc,
    /// `fp8_cat_ac`.
    Fp8CatAc,
    /// `fp4_cat_ac`.
    Fp4CatAc,
}

impl Coding {
    /// Every coding, with the codec name in the header and, for `special`, its kind.
    pub const ALL: [(Self, &'static str, Option<&'static str>); 18] = [
        (Self::Raw, "raw", None),
        (Self::Zstd, "zstd", None),
        (Self::Lowcard, "special", Some("lowcard")),
        (Self::WpeDelta, "special", Some("wpe_delta")),
        (Self::Bf16SeAc, "bf16_se_ac", None),
        (Self::Bf16SeRans, "bf16_se_rans", None),
        (Self::Bf16SeTans, "bf16_se_tans", None),
        (Self::Bf16SingleKernel, "bf16_se_single_kernel", None),
        (Self::Bf16Parallel, "bf16_parallel_v1", None),
        (Self::Bf16Sparsity, "bf16_sparsity_v1", None),
        (Self::Fp2Residual, "fp2_residual_v1", None),
        (Self::Bf16NativeF32, "bf16_native_f32", None),
        (Self::Bf16NativeF32V2, "bf16_native_f32_v2", None),
        (Self::Bf16V8, "bf16_v8", None),
        (Self::Fp16SeAc, "fp16_se_ac", None),
        (Self::Fp32SeAc, "fp32_se_ac", None),
        (Self::Fp8CatAc, "fp8_cat_ac", None),
        (Self::Fp4CatAc, "fp4_cat_ac", None),
    ];

    /// The coding of a header's codec name and `special_kind`; `None` when this release does not know it.
    #[must_use]
    pub fn from_name(codec: &str, special_kind: Option<&str>) -> Option<Self> {
        let kind = special_kind.filter(|_| codec == "special");
        Self::ALL.into_iter().find(|(_, name, of)| *name == codec && *of == kind).map(|(coding, ..)| coding)
    }

    /// The codec name in the header.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(coding, ..)| *coding == self).map_or("", |(_, name, _)| name)
    }

    /// Bytes of an element that this codec makes; 0 for any.
    #[must_use]
    pub const fn elem_bytes(self) -> u64 {
        match self {
            Self::Raw | Self::Zstd | Self::Lowcard | Self::WpeDelta => 0,
            Self::Fp8CatAc | Self::Fp4CatAc => 1,
            Self::Fp32SeAc | Self::Bf16NativeF32 | Self::Bf16NativeF32V2 => 4,
            Self::Bf16SeAc
            | Self::Bf16SeRans
            | Self::Bf16SeTans
            | Self::Bf16SingleKernel
            | Self::Bf16Parallel
            | Self::Bf16Sparsity
            | Self::Fp2Residual
            | Self::Bf16V8
            | Self::Fp16SeAc => 2,
        }
    }
}

#[cfg(test)]
mod tests;
