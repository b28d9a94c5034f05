//! Bits in bytes, the lowest first.

use crate::error::Damage;

/// Appends fields of bits to bytes.
#[derive(Debug, Default)]
pub struct BitWriter {
    bytes: Vec<u8>,
    held: u64,
    count: u32,
}

impl BitWriter {
    /// Appends the lowest `bits` (at most 32) of `value`.
    pub fn put(&mut self, value: u32, bits: u32) {
        self.held |= (u64::from(value) & ((1 << bits) - 1)) << self.count;
        self.count += bits;
        while self.count >= 8 {
            self.bytes.push(self.held as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    /// The bytes; unused bits of the last are 0.
    pub fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.bytes.push(self.held as u8);
        }
        self.bytes
    }
}

/// Reads fields of bits.
#[derive(Debug)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    held: u64,
    count: u32,
}

impl<'a> BitReader<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, held: 0, count: 0 }
    }

    /// Takes up bytes until there are `bits` bits, and as many more as there is room for.
    #[cold]
    fn fill(&mut self, bits: u32) -> Result<(), Damage> {
        while self.count <= 56 {
            let Some((&byte, rest)) = self.bytes.split_first() else { break };
            self.held |= u64::from(byte) << self.count;
            self.count += 8;
            self.bytes = rest;
        }
        if self.count < bits {
            return Err(Damage::new("bits of a table left", bits.into(), self.count.into()));
        }
        Ok(())
    }

    /// The next `bits` (at most 32) bits.
    ///
    /// # Errors
    /// [`Damage`] when there are not so many.
    #[inline]
    pub fn take(&mut self, bits: u32) -> Result<u32, Damage> {
        if self.count < bits {
            self.fill(bits)?;
        }
        let value = self.held & ((1 << bits) - 1);
        self.held >>= bits;
        self.count -= bits;
        Ok(value as u32)
    }
}
