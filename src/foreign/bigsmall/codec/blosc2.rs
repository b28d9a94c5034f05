//! A Blosc2 chunk, block by block: as `compress2` writes it with ZSTD and byte shuffle.

use zstd::bulk::Decompressor;

use super::Fault;
use super::region::{Cursor, Region};
use crate::codec::is_one_frame;
use crate::error::Damage;

/// The largest block: sixteen times what the package asks for. A block is what is held in memory.
const BLOCK_MAX: u32 = 4 << 20;
/// Number of the filter that shuffles bytes.
const SHUFFLE: u8 = 1;
/// Number of ZSTD in the flags.
const ZSTD: u8 = 4;

/// Where the bytes are.
enum Body {
    Zeros,
    /// One value of `typesize` bytes.
    Repeated(Vec<u8>),
    Plain(Region),
    /// The whole chunk.
    Blocks(Region),
}

/// A chunk, inflated from its start on.
pub(super) struct Chunk {
    body: Body,
    len: u64,
    at: u64,
    typesize: usize,
    block_len: u32,
    /// Whether a full block is split into a stream for each byte of a value.
    is_split: bool,
    shuffled: bool,
    block: Vec<u8>,
    /// Bytes of `block` given.
    used: usize,
    packed: Vec<u8>,
    planes: Vec<u8>,
    decompressor: Decompressor<'static>,
}

impl Chunk {
    /// A chunk of `len` inflated bytes that fills the region.
    pub fn open(region: Region, len: u64) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(region.clone());
        let (_version, _codec_version) = (cursor.u8()?, cursor.u8()?);
        let (flags, typesize) = (cursor.u8()?, cursor.u8()?);
        let (bytes, block_len, chunk_len) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        if u64::from(bytes) != len {
            return Err(Damage::new("bytes of a Blosc2 chunk", len, u64::from(bytes)).into());
        }
        if u64::from(chunk_len) != region.len() {
            return Err(Damage::new("length of a Blosc2 chunk", region.len(), u64::from(chunk_len)).into());
        }
        if typesize == 0 {
            return Err(Damage::new("bytes of a value of a Blosc2 chunk", 1, 0).into());
        }
        let extended = flags & 5 == 5;
        let (mut shuffled, mut special) = (flags & 1 != 0, 0);
        if extended {
            let filters = cursor.bytes(6)?;
            if let Some(other) = filters.iter().find(|filter| !matches!(**filter, 0 | SHUFFLE)) {
                return Err(Damage::new("filter of a Blosc2 chunk", u64::from(SHUFFLE), u64::from(*other)).into());
            }
            shuffled = filters.contains(&SHUFFLE);
            special = cursor.bytes(10)?.last().map_or(0, |byte| byte >> 4 & 7);
        }
        let body = match special {
            1 => Body::Zeros,
            3 => Body::Repeated(cursor.bytes(usize::from(typesize))?),
            0 if flags & 2 != 0 => Body::Plain(cursor.part(len)?),
            0 => Body::Blocks(region),
            other => return Err(Damage::new("special kind of a Blosc2 chunk", 0, u64::from(other)).into()),
        };
        if matches!(body, Body::Blocks(_)) {
            if flags >> 5 != ZSTD {
                return Err(Damage::new("codec of a Blosc2 chunk", u64::from(ZSTD), u64::from(flags >> 5)).into());
            }
            if block_len == 0 || block_len > BLOCK_MAX {
                return Err(Damage::new("block of a Blosc2 chunk", u64::from(BLOCK_MAX), u64::from(block_len)).into());
            }
        }
        let decompressor = Decompressor::new().map_err(|_| Damage::new("memory for a zstd context", 1, 0))?;
        Ok(Self {
            body,
            len,
            at: 0,
            typesize: usize::from(typesize),
            block_len,
            is_split: flags & 16 == 0,
            shuffled,
            block: Vec::new(),
            used: 0,
            packed: Vec::new(),
            planes: Vec::new(),
            decompressor,
        })
    }

    /// The next bytes, as many as `out` holds.
    pub fn read(&mut self, out: &mut [u8]) -> Result<(), Fault> {
        if out.len() as u64 > self.len - self.at {
            return Err(Damage::new("bytes of a Blosc2 chunk", out.len() as u64, self.len - self.at).into());
        }
        match &self.body {
            Body::Zeros => out.fill(0),
            Body::Repeated(value) => {
                let from = (self.at % value.len() as u64) as usize;
                out.iter_mut().zip(value.iter().cycle().skip(from)).for_each(|(to, byte)| *to = *byte);
            }
            Body::Plain(region) => region.read(self.at, out)?,
            Body::Blocks(_) => {
                let mut done = 0;
                while done < out.len() {
                    if self.used == self.block.len() {
                        self.next_block(self.at + done as u64)?;
                    }
                    let have = self.block.get(self.used..).unwrap_or_default();
                    let to = out.get_mut(done..).unwrap_or_default();
                    let len = have.len().min(to.len());
                    to.iter_mut().zip(have).for_each(|(to, byte)| *to = *byte);
                    self.used += len;
                    done += len;
                }
            }
        }
        self.at += out.len() as u64;
        Ok(())
    }

    /// Inflates the block that starts at byte `at`.
    fn next_block(&mut self, at: u64) -> Result<(), Fault> {
        let Body::Blocks(region) = &self.body else { return Ok(()) };
        let number = at / u64::from(self.block_len);
        let len = (self.len - at).min(u64::from(self.block_len)) as usize;
        let mut offset = [0; 4];
        region.read(32 + number * 4, &mut offset)?;
        let offset = u64::from(u32::from_le_bytes(offset));
        let rest = region.len().checked_sub(offset).filter(|_| offset >= 32);
        let rest = rest.ok_or_else(|| Damage::new("offset of a block of a Blosc2 chunk", region.len(), offset))?;
        let mut cursor = Cursor::new(region.part(offset, rest)?);
        let full = len as u64 == u64::from(self.block_len);
        let streams = if full && self.is_split { self.typesize } else { 1 };
        if !len.is_multiple_of(streams) {
            return Err(Damage::new("block of whole values", 0, (len % streams) as u64).into());
        }
        self.planes.resize(len, 0);
        let stream_len = len / streams;
        for to in self.planes.chunks_exact_mut(stream_len.max(1)) {
            stream(&mut cursor, to, &mut self.packed, &mut self.decompressor)?;
        }
        self.block.resize(len, 0);
        self.used = 0;
        if !self.shuffled || self.typesize == 1 {
            self.block.copy_from_slice(&self.planes);
            return Ok(());
        }
        // Bytes that make no whole value come last, as they are.
        let values = len / self.typesize;
        let whole = values * self.typesize;
        let (planes, tail) = self.planes.split_at_checked(whole).unwrap_or_default();
        for (i, plane) in planes.chunks_exact(values.max(1)).enumerate() {
            let places = self.block.iter_mut().skip(i).step_by(self.typesize);
            places.zip(plane).for_each(|(to, byte)| *to = *byte);
        }
        self.block.iter_mut().skip(whole).zip(tail).for_each(|(to, byte)| *to = *byte);
        Ok(())
    }

    /// That all bytes were read.
    pub fn finish(&self) -> Result<(), Fault> {
        if self.at != self.len {
            return Err(Damage::new("bytes of a Blosc2 chunk", self.len, self.at).into());
        }
        Ok(())
    }
}

/// One stream of a block.
fn stream(
    cursor: &mut Cursor,
    to: &mut [u8],
    packed: &mut Vec<u8>,
    decompressor: &mut Decompressor<'static>,
) -> Result<(), Fault> {
    let broken = Damage::new("stream of a Blosc2 block", to.len() as u64, 0);
    let len = cursor.u32()?.cast_signed();
    if len < 0 {
        let token = cursor.u8()?;
        let Some(byte) = len.checked_neg().and_then(|byte| u8::try_from(byte).ok()).filter(|_| token & 1 == 1) else {
            return Err(broken.into());
        };
        to.fill(byte);
        return Ok(());
    }
    let len = len as usize;
    if len > to.len() {
        return Err(Damage { got: len as u64, ..broken }.into());
    }
    if len == 0 {
        to.fill(0);
        return Ok(());
    }
    let mut bytes = std::mem::take(packed);
    bytes.clear();
    let region = cursor.part(len as u64)?;
    if len == to.len() {
        return region.read(0, to);
    }
    bytes.resize(len, 0);
    region.read(0, &mut bytes)?;
    let inflated = if is_one_frame(&bytes) { decompressor.decompress_to_buffer(&bytes, to).ok() } else { None };
    *packed = bytes;
    match inflated {
        Some(made) if made == to.len() => Ok(()),
        _ => Err(broken.into()),
    }
}
