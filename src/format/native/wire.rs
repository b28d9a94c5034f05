//! Little-endian fields: appending them, and taking them with every length checked.

use std::collections::HashMap;

/// Takes fields from the front of a byte slice. `None` means that the bytes ran out.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A column of `n` fields of `N` bytes. The bytes are known to be there before anything is allocated for them.
    pub fn column<const N: usize>(&mut self, n: usize) -> Option<impl Iterator<Item = [u8; N]> + Clone + use<'a, N>> {
        let bytes = self.bytes(n.checked_mul(N)?)?;
        let (fields, _) = bytes.as_chunks::<N>();
        Some(fields.iter().copied())
    }
}

/// Appends fields.
pub trait Put {
    fn put_u16(&mut self, x: u16);
    fn put_u32(&mut self, x: u32);
    fn put_u64(&mut self, x: u64);
}

impl Put for Vec<u8> {
    fn put_u16(&mut self, x: u16) {
        self.extend_from_slice(&x.to_le_bytes());
    }

    fn put_u32(&mut self, x: u32) {
        self.extend_from_slice(&x.to_le_bytes());
    }

    fn put_u64(&mut self, x: u64) {
        self.extend_from_slice(&x.to_le_bytes());
    }
}

/// The texts, each once, in order of their first use, and the number of each item's text among them.
pub fn numbered<'a>(texts: impl Iterator<Item = &'a str>) -> (Vec<&'a str>, Vec<u32>) {
    let (mut once, mut numbers) = (Vec::new(), HashMap::new());
    let number_of = texts.map(|text| {
        *numbers.entry(text).or_insert_with(|| {
            once.push(text);
            once.len() as u32 - 1
        })
    });
    let number_of = number_of.collect();
    (once, number_of)
}
