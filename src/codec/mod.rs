//! One chunk in, one chunk out: pure functions on slices.
//!
//! A chunk's packed bytes say all that is needed to decode them, given the codec's id and the raw length; nothing
//! depends on other chunks, on threads or on the machine. The functions here are the definition of the bitstreams
//! (written out in [`crate::format::native`]); faster ones must give the same bytes.
//!
//! Packed bytes are untrusted. Every decoder checks what it reads before it uses it, allocates nothing by a number
//! from the stream, runs loops by the raw length alone, and writes exactly the output it was given or fails. Whether
//! the result is *right* only the chunk's checksum tells.

mod constant;
mod plane;
pub(crate) mod rans;
mod select;
mod zstd;

pub(crate) use self::zstd::is_one_frame;
pub use select::{Mode, Numbers, encode};

use crate::error::Damage;

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
}

impl Codec {
    /// Every codec of this release.
    pub const ALL: [Self; 4] = [Self::Raw, Self::Constant, Self::Zstd, Self::Planes];

    /// The codec's number on disk.
    #[must_use]
    pub const fn id(self) -> u16 {
        match self {
            Self::Raw => 0,
            Self::Constant => 1,
            Self::Zstd => 2,
            Self::Planes => 3,
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
        }
    }
}

/// The packed bytes of one chunk, with [`PAD`] readable bytes behind them.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    bytes: &'a [u8],
}

impl<'a> Packed<'a> {
    /// The first `len` bytes of `buf`; `None` unless `buf` holds [`PAD`] bytes more.
    #[must_use]
    pub fn new(buf: &'a [u8], len: usize) -> Option<Self> {
        if buf.len() < len.checked_add(PAD)? {
            return None;
        }
        Some(Self { bytes: buf.get(..len)? })
    }

    /// The packed bytes, without the padding.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }
}

/// Memory and contexts that encoding and decoding reuse from chunk to chunk. One per thread.
#[derive(Default)]
pub struct Scratch {
    planes: plane::Scratch,
    zstd: zstd::Scratch,
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
        Codec::Planes => plane::decode(bytes, out, &mut scratch.planes),
    }
}

#[cfg(test)]
mod tests;
