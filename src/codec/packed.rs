//! The packed bytes of a chunk, as decoders take them.

use super::simd::{PAD, Words};

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

    /// The last `len` bytes.
    pub(super) fn last(self, len: usize) -> Option<Words<'a>> {
        self.words(self.len.checked_sub(len)?, len)
    }

    /// `len` bytes from `at` on.
    pub(super) fn words(self, at: usize, len: usize) -> Option<Words<'a>> {
        Words::new(self.padded.get(at..)?, len)
    }
}
