//! The fields in front of a chunk's streams.

use super::simd::States;
use crate::error::Damage;

/// Reads fields from the front of untrusted bytes.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let short = Damage::new("bytes of a packed chunk left", len as u64, self.rest.len() as u64);
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(short)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let short = Damage::new("bytes of a packed chunk left", N as u64, self.rest.len() as u64);
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(short)?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub fn u8(&mut self) -> Result<u8, Damage> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16, Damage> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// A length or a count.
    pub fn len32(&mut self) -> Result<usize, Damage> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    /// What is left.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// Appends words of two bytes.
pub fn put_words<'a>(words: impl ExactSizeIterator<Item = &'a u16>, out: &mut Vec<u8>) {
    let at = out.len();
    out.resize(at + 2 * words.len(), 0);
    let space = out.get_mut(at..).unwrap_or_default().as_chunks_mut::<2>().0;
    space.iter_mut().zip(words).for_each(|(to, word)| *to = word.to_le_bytes());
}

/// Appends the states of a coder.
pub fn put_states(states: &States, out: &mut Vec<u8>) {
    out.extend(states.0.iter().flat_map(|x| x.to_le_bytes()));
}

/// How wide the numbers of a chunk are and where they begin, as a byte: bits 0-1 log2 of the width,
/// bits 2-4 the bytes before the first number, fewer than the width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stride {
    /// log2 of the bytes of a number: 0 to 3.
    pub log2_width: u8,
    /// Bytes before the first number.
    pub skip: u8,
}

impl Stride {
    /// Numbers of 2^`log2_width` bytes from the first byte on.
    pub const fn of(log2_width: u8) -> Self {
        Self { log2_width, skip: 0 }
    }

    pub const fn width(self) -> usize {
        1 << self.log2_width
    }

    pub const fn to_byte(self) -> u8 {
        self.log2_width | self.skip << 2
    }

    /// Checked against `allowed`, the widths that a codec has (bit k for 2^k bytes).
    pub fn from_byte(byte: u8, allowed: u8) -> Result<Self, Damage> {
        let stride = Self { log2_width: byte & 3, skip: byte >> 2 };
        if usize::from(stride.skip) < stride.width() && allowed >> stride.log2_width & 1 == 1 {
            return Ok(stride);
        }
        Err(Damage::new("width and phase of a chunk's numbers, a pair that the codec has", allowed.into(), byte.into()))
    }

    /// The bytes before the numbers, the numbers, the bytes behind them; a chunk of fewer bytes
    /// than `skip` has no numbers.
    pub fn split(self, raw: &[u8]) -> (&[u8], &[u8], &[u8]) {
        let (head, rest) = raw.split_at(raw.len().min(self.skip.into()));
        let (body, tail) = rest.split_at(rest.len() - rest.len() % self.width());
        (head, body, tail)
    }

    /// The same, to be written.
    pub fn split_mut(self, raw: &mut [u8]) -> (&mut [u8], &mut [u8], &mut [u8]) {
        let (head, rest) = raw.split_at_mut(raw.len().min(self.skip.into()));
        let whole = rest.len() - rest.len() % self.width();
        let (body, tail) = rest.split_at_mut(whole);
        (head, body, tail)
    }
}
