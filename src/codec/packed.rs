//! The packed bytes of a chunk, as decoders take them.

use super::simd::{PAD, Words};
use crate::error::Damage;

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
    pub(super) fn behind(self, len: usize) -> Option<Self> {
        Some(Self { padded: self.padded.get(len..)?, len: self.len.checked_sub(len)? })
    }

    /// The coded words of a chunk: `rest`, the last bytes, of which there must be `len`.
    ///
    /// # Errors
    /// [`Damage`] when there are more or fewer.
    pub(super) fn coded(self, rest: &[u8], len: usize) -> Result<Words<'a>, Damage> {
        if rest.len() != len {
            return Err(Damage::new("length of the coded words", len as u64, rest.len() as u64));
        }
        let words = self.len.checked_sub(len).and_then(|at| self.words(at, len));
        words.ok_or(Damage::new("padding behind a chunk", 1, 0))
    }

    /// `len` bytes from `at` on.
    pub(super) fn words(self, at: usize, len: usize) -> Option<Words<'a>> {
        Words::new(self.padded.get(at..)?, len)
    }
}
