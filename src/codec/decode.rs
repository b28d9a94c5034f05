//! Decoding by codec: the top layer of this module.

use super::{Codec, Packed, Scratch, classes, constant, delta, difference, exponents, grid, plane, zstd};
use crate::error::Damage;

impl Codec {
    /// The number of tables among which the numbers of a chunk choose, from its first bytes (4 are
    /// enough); `None` for a codec without such a choice.
    #[must_use]
    pub fn classes(self, first: &[u8]) -> Option<u16> {
        match self {
            Self::Classes => classes::class_count(first),
            Self::Grid => grid::class_count(first),
            _ => None,
        }
    }
}

/// Decodes one chunk into `out`, whose length is the chunk's raw length.
///
/// # Errors
/// [`Damage`] naming the rule of the bitstream that is broken. The content of `out` is then
/// unspecified.
pub fn decode(codec: Codec, packed: Packed<'_>, out: &mut [u8], scratch: &mut Scratch) -> Result<(), Damage> {
    let bytes = packed.bytes();
    match codec {
        Codec::Raw => {
            if bytes.len() != out.len() {
                return Err(Damage::new("length of raw bytes", out.len() as u64, bytes.len() as u64));
            }
            out.copy_from_slice(bytes);
            Ok(())
        }
        Codec::Constant => constant::decode(bytes, out),
        Codec::Zstd => zstd::decode(bytes, out, &mut scratch.zstd),
        Codec::Planes => plane::decode(scratch.kernel, packed, out, &mut scratch.planes),
        Codec::Classes => classes::decode(scratch.kernel, packed, out),
        Codec::Exponents => exponents::decode(scratch.kernel, packed, out),
        Codec::Grid => grid::decode(scratch.kernel, packed, out, &mut scratch.grid),
        Codec::Base | Codec::Delta | Codec::Difference => Err(Damage::new("bytes of a base", out.len() as u64, 0)),
    }
}

/// Decodes one chunk that may need the bytes of its base: `base` is the same range of the base, as
/// long as `out`.
///
/// # Errors
/// Those of [`decode`].
pub fn decode_against(
    codec: Codec,
    packed: Packed<'_>,
    base: &[u8],
    out: &mut [u8],
    scratch: &mut Scratch,
) -> Result<(), Damage> {
    if codec.needs_base() && base.len() != out.len() {
        return Err(Damage::new("bytes of a base", out.len() as u64, base.len() as u64));
    }
    match codec {
        Codec::Base => {
            if packed.bytes() != [0] {
                return Err(Damage::new("length of a chunk that is its base", 1, packed.bytes().len() as u64));
            }
            out.copy_from_slice(base);
            Ok(())
        }
        Codec::Delta => delta::decode(scratch.kernel, packed, base, out, &mut scratch.delta),
        Codec::Difference => {
            difference::decode(scratch.kernel, packed, base, out, (&mut scratch.planes, &mut scratch.zstd))
        }
        _ => decode(codec, packed, out, scratch),
    }
}
