//! One zstd frame, without checksum (the chunk has its own) and without content size (the index has
//! it).

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, MAGICNUMBER};

use crate::error::Damage;

/// Bytes of a context for decoding whole frames, about.
const DECOMPRESSOR: usize = 96 << 10;

/// Contexts kept from chunk to chunk: making one costs more than a small chunk.
#[derive(Default)]
pub struct Scratch {
    compressor: Option<(i32, Compressor<'static>)>,
    decompressor: Option<Decompressor<'static>>,
}

impl Scratch {
    /// Bytes of memory that decoding holds, about; what encoding holds is its level's and not told.
    pub fn memory(&self) -> usize {
        if self.decompressor.is_some() { DECOMPRESSOR } else { 0 }
    }

    fn compressor(&mut self, level: i32) -> std::io::Result<&mut Compressor<'static>> {
        if self.compressor.as_ref().is_none_or(|(have, _)| *have != level) {
            let mut c = Compressor::new(level)?;
            c.set_parameter(CParameter::ContentSizeFlag(false))?;
            c.set_parameter(CParameter::ChecksumFlag(false))?;
            self.compressor = Some((level, c));
        }
        self.compressor.as_mut().map(|(_, c)| c).ok_or_else(|| std::io::Error::other("no compressor"))
    }
}

/// The packed bytes in `out` (replaced); `false` when they would not be fewer than `raw`'s.
pub fn encode(raw: &[u8], level: i32, out: &mut Vec<u8>, scratch: &mut Scratch) -> bool {
    out.clear();
    // One byte less than raw: zstd then gives up by itself when it does not pay.
    out.resize(raw.len().saturating_sub(1), 0);
    let done = scratch.compressor(level).and_then(|c| c.compress_to_buffer(raw, out.as_mut_slice()));
    match done {
        Ok(len) => {
            out.truncate(len);
            true
        }
        Err(_) => false,
    }
}

/// Whether `packed` is one zstd frame and nothing else: no skippable frame, no second one, no byte
/// behind it.
pub fn is_one_frame(packed: &[u8]) -> bool {
    packed.starts_with(&MAGICNUMBER.to_le_bytes())
        && zstd::zstd_safe::find_frame_compressed_size(packed).is_ok_and(|len| len == packed.len())
}

/// Inflates the frame in `packed` to exactly `out`.
pub fn decode(packed: &[u8], out: &mut [u8], scratch: &mut Scratch) -> Result<(), Damage> {
    let broken = Damage::new("zstd frame that inflates to the raw length", out.len() as u64, 0);
    if scratch.decompressor.is_none() {
        scratch.decompressor = Decompressor::new().ok();
    }
    if !is_one_frame(packed) {
        return Err(broken);
    }
    let decompressor = scratch.decompressor.as_mut().ok_or(broken)?;
    match decompressor.decompress_to_buffer(packed, out) {
        Ok(len) if len == out.len() => Ok(()),
        Ok(len) => Err(Damage { got: len as u64, ..broken }),
        Err(_) => Err(broken),
    }
}
