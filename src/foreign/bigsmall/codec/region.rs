//! Parts of a blob, and a cursor that reads the tables in them.

use std::sync::Arc;

use super::{Blob, Fault};
use crate::error::Damage;

/// Bytes that the cursor reads at once: the table of a bucket and the length behind it fit.
const STEP: u64 = 2048;

/// Consecutive bytes of a blob.
#[derive(Clone)]
pub(super) struct Region {
    blob: Arc<dyn Blob>,
    start: u64,
    len: u64,
}

impl Region {
    /// The whole blob.
    pub fn new(blob: Arc<dyn Blob>) -> Self {
        let len = blob.len();
        Self { blob, start: 0, len }
    }

    pub const fn len(&self) -> u64 {
        self.len
    }

    /// The `len` bytes from `at` on.
    pub fn part(&self, at: u64, len: u64) -> Result<Self, Damage> {
        match at.checked_add(len) {
            Some(end) if end <= self.len => Ok(Self { blob: Arc::clone(&self.blob), start: self.start + at, len }),
            end => Err(Damage::new("a part ends inside the blob", self.len, end.unwrap_or(u64::MAX))),
        }
    }

    /// Fills `to` with the bytes from `at` on.
    pub fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Fault> {
        let part = self.part(at, to.len() as u64)?;
        if to.is_empty() {
            return Ok(());
        }
        self.blob.read(part.start, to).map_err(Fault::Read)
    }
}

/// Reads integers in order, a few KiB ahead.
pub(super) struct Cursor {
    region: Region,
    at: u64,
    ahead: Vec<u8>,
    /// Bytes of `ahead` that are used up.
    used: usize,
}

impl Cursor {
    pub const fn new(region: Region) -> Self {
        Self { region, at: 0, ahead: Vec::new(), used: 0 }
    }

    /// Bytes not read yet.
    pub const fn left(&self) -> u64 {
        self.region.len() - self.at
    }

    /// The next bytes, as many as `to` holds.
    fn fill(&mut self, mut to: &mut [u8]) -> Result<(), Fault> {
        if to.len() as u64 > self.left() {
            return Err(Damage::new("bytes left in the blob", to.len() as u64, self.left()).into());
        }
        while !to.is_empty() {
            if self.used >= self.ahead.len() {
                self.used = 0;
                self.ahead.resize(self.left().min(STEP) as usize, 0);
                self.region.read(self.at, &mut self.ahead)?;
            }
            let have = self.ahead.get(self.used..).unwrap_or_default();
            let len = have.len().min(to.len());
            let (now, rest) = to.split_at_mut(len);
            now.copy_from_slice(have.get(..len).unwrap_or_default());
            self.used += len;
            self.at += len as u64;
            to = rest;
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub fn u8(&mut self) -> Result<u8, Fault> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }

    /// `N` bytes that must be these.
    pub fn expect<const N: usize>(&mut self, rule: &'static str, want: [u8; N]) -> Result<(), Fault> {
        let got = self.array::<N>()?;
        if got == want {
            return Ok(());
        }
        let number = |bytes: [u8; N]| bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        Err(Damage::new(rule, number(want), number(got)).into())
    }

    /// `len` bytes; the caller knows that `len` is small.
    pub fn bytes(&mut self, len: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The next `len` bytes as a part of their own, unread.
    pub fn part(&mut self, len: u64) -> Result<Region, Fault> {
        let part = self.region.part(self.at, len)?;
        self.at += len;
        let used = (self.used as u64).saturating_add(len);
        if used < self.ahead.len() as u64 {
            self.used = used as usize;
        } else {
            self.ahead.clear();
            self.used = 0;
        }
        Ok(part)
    }

    /// A length and that many bytes.
    pub fn blob32(&mut self) -> Result<Region, Fault> {
        let len = self.u32()?;
        self.part(u64::from(len))
    }

    /// That nothing is left.
    pub fn end(&self) -> Result<(), Fault> {
        match self.left() {
            0 => Ok(()),
            more => Err(Damage::new("bytes behind the last part of the blob", 0, more).into()),
        }
    }
}
