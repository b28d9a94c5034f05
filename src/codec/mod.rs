//! One chunk in, one chunk out: pure functions on slices.
//!
//! A chunk's packed bytes say all that is needed to decode them, given the codec's id and the raw length; nothing
//! depends on other chunks, on threads or on the machine. The functions here are the definition of the bitstreams
//! (written out in [`crate::format::native`]); faster ones must give the same bytes.
//!
//! Packed bytes are untrusted. Every decoder checks what it reads before it uses it, allocates nothing by a number
//! from the stream, runs loops by the raw length alone, and writes exactly the output it was given or fails. Whether
//! the result is *right* only the chunk's checksum tells.

mod bits;
mod classes;
mod cluster;
mod constant;
mod delta;
mod difference;
mod exponents;
mod grid;
mod grouping;
mod groups;
mod halves;
mod plane;
mod rans;
mod select;
#[allow(unsafe_code, reason = "vector loads and stores; every block says why it is sound")]
mod simd;
mod sniff;
mod tables;
mod wire;
mod zstd;

pub(crate) use self::zstd::is_one_frame;
pub use select::{Mode, Numbers, encode, encode_against};
pub use simd::Kernel;

use crate::error::Damage;
use simd::{Chosen, Words};

/// Bytes that must be readable behind the packed bytes of a chunk, so that wide loads need no test at the end.
pub const PAD: usize = 256;

/// How a chunk is packed. The number on disk ([`Codec::id`]) is never used for another bitstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Codec {
    /// The bytes themselves.
    Raw,
    /// A unit of 1, 2, 4 or 8 bytes, repeated.
    Constant,
    /// One zstd frame.
    Zstd,
    /// Byte planes of the numbers, each raw, constant or entropy coded.
    Planes,
    /// Floats, exponent and top bits of the mantissa entropy coded with a table for each class of tiles.
    Classes,
    /// Floats, the exponents coded with one small table.
    Exponents,
    /// Floats, the top bits entropy coded with a table for each pair of row group and column group.
    Grid,
    /// The bytes of the base.
    Base,
    /// Short numbers as differences from those of the base, entropy coded by the base's exponents.
    Delta,
    /// Differences from the base, packed by one of the other codecs.
    Difference,
}

impl Codec {
    /// Every codec of this release.
    pub const ALL: [Self; 10] = [
        Self::Raw,
        Self::Constant,
        Self::Zstd,
        Self::Planes,
        Self::Classes,
        Self::Exponents,
        Self::Grid,
        Self::Base,
        Self::Delta,
        Self::Difference,
    ];

    /// The codec's number on disk.
    #[must_use]
    pub const fn id(self) -> u16 {
        match self {
            Self::Raw => 0,
            Self::Constant => 1,
            Self::Zstd => 2,
            Self::Planes => 3,
            Self::Classes => 4,
            Self::Exponents => 5,
            Self::Grid => 6,
            Self::Base => 7,
            Self::Delta => 8,
            Self::Difference => 9,
        }
    }

    /// The codec with this number; `None` when this release has none.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.id() == id)
    }

    /// The name that `info` shows.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Constant => "constant",
            Self::Zstd => "zstd",
            Self::Planes => "planes",
            Self::Classes => "classes",
            Self::Exponents => "exponents",
            Self::Grid => "grid",
            Self::Base => "base",
            Self::Delta => "delta",
            Self::Difference => "difference",
        }
    }

    /// The number of tables among which the numbers of a chunk choose, from its first bytes (4 are enough); `None` for a
    /// codec without such a choice.
    #[must_use]
    pub fn classes(self, first: &[u8]) -> Option<u16> {
        match self {
            Self::Classes => classes::class_count(first),
            Self::Grid => grid::class_count(first),
            _ => None,
        }
    }

    /// Whether decoding needs the base's bytes.
    #[must_use]
    pub const fn needs_base(self) -> bool {
        matches!(self, Self::Base | Self::Delta | Self::Difference)
    }
}

/// The packed bytes of one chunk, with [`PAD`] readable bytes behind them.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    padded: &'a [u8],
    len: usize,
}

impl<'a> Packed<'a> {
    /// The first `len` bytes of `buf`; `None` unless `buf` holds [`PAD`] bytes more.
    #[must_use]
    pub fn new(buf: &'a [u8], len: usize) -> Option<Self> {
        Some(Self { padded: buf.get(..len.checked_add(PAD)?)?, len })
    }

    /// The packed bytes, without the padding.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.padded.get(..self.len).unwrap_or_default()
    }

    /// All but the first `len` bytes.
    fn behind(self, len: usize) -> Option<Self> {
        Some(Self { padded: self.padded.get(len..)?, len: self.len.checked_sub(len)? })
    }

    /// The last `len` bytes.
    fn last(self, len: usize) -> Option<Words<'a>> {
        self.words(self.len.checked_sub(len)?, len)
    }

    /// `len` bytes from `at` on.
    fn words(self, at: usize, len: usize) -> Option<Words<'a>> {
        Words::new(self.padded.get(at..)?, len)
    }
}

/// Bytes of memory that the elements of a vector take.
fn vec_bytes<T>(vec: &Vec<T>) -> usize {
    vec.capacity() * size_of::<T>()
}

/// Memory and contexts that encoding and decoding reuse from chunk to chunk, and the kernel that they run on. One for each that
/// is under way.
pub struct Scratch {
    kernel: Chosen,
    planes: plane::Scratch,
    classes: classes::Scratch,
    exponents: exponents::Scratch,
    grid: grid::Scratch,
    delta: delta::Scratch,
    difference: difference::Scratch,
    zstd: zstd::Scratch,
    spare: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::on(Chosen::best())
    }
}

impl Scratch {
    /// With this kernel instead of [`Kernel::detect`]'s; `None` when the machine has no such kernel.
    #[must_use]
    pub fn with_kernel(kernel: Kernel) -> Option<Self> {
        Chosen::new(kernel).map(Self::on)
    }

    fn on(kernel: Chosen) -> Self {
        Self {
            kernel,
            planes: plane::Scratch::default(),
            classes: classes::Scratch::default(),
            exponents: exponents::Scratch::default(),
            grid: grid::Scratch::default(),
            delta: delta::Scratch::default(),
            difference: difference::Scratch::default(),
            zstd: zstd::Scratch::default(),
            spare: Vec::new(),
        }
    }

    /// Bytes of memory that it holds, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.planes.memory()
            + self.classes.memory()
            + self.exponents.memory()
            + self.grid.memory()
            + self.delta.memory()
            + self.difference.memory()
            + self.zstd.memory()
            + self.spare.capacity()
    }

    /// The kernel in use.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel.kernel()
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scratch")
    }
}

/// Decodes one chunk into `out`, whose length is the chunk's raw length.
///
/// # Errors
/// [`Damage`] naming the rule of the bitstream that is broken. `out` then holds anything.
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

/// The same for a chunk that may need the base's bytes: `base` are those that its own refer to, as many.
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

#[cfg(test)]
mod against_tests;
#[cfg(test)]
mod tests;
