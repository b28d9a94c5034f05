//! One chunk from its source: read, decoded, checked.

use std::cell::RefCell;

use crate::codec::{self, PAD, Packed, Scratch};
use crate::error::{Damage, Error, Result};
use crate::format::checksum::checksum;
use crate::format::{Chunk, Container};
use crate::source::ReadAt;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The raw bytes of a chunk. What comes back has passed its checksum.
///
/// # Errors
/// [`Error::Chunk`] for damage, after a second try from the source; [`Error::Unsupported`] for an unknown codec;
/// those of the source.
pub fn chunk(container: &Container, source: &dyn ReadAt, chunk: &Chunk) -> Result<Vec<u8>> {
    let codec = chunk.codec().ok_or_else(|| Error::Unsupported {
        path: source.path().into(),
        what: format!("codec {} of the chunk at offset {}", chunk.codec_id, chunk.raw_offset),
    })?;
    // Both lengths are bounded by the checked index, not by the packed bytes.
    let len = chunk.packed_len as usize;
    let mut packed = vec![0; len + PAD];
    let mut raw = vec![0; chunk.raw_len as usize];
    let mut attempt = || -> Result<Result<(), Damage>> {
        source.read_exact_at(chunk.packed_offset, packed.get_mut(..len).unwrap_or_default())?;
        let Some(packed) = Packed::new(&packed, len) else { return Ok(Err(Damage::new("padding", 0, 0))) };
        let decoded = SCRATCH.with_borrow_mut(|scratch| codec::decode(codec, packed, &mut raw, scratch));
        Ok(decoded.and_then(|()| match checksum(&raw) {
            sum if sum == chunk.checksum => Ok(()),
            sum => Err(Damage::new("checksum", chunk.checksum, sum)),
        }))
    };
    // A second read tells a fault on the way (memory, cable, cache) from damage on the disk.
    let result = match attempt()? {
        Ok(()) => Ok(()),
        Err(first) => {
            log::warn!("{}: chunk at {}: {first}; reading it again", source.path().display(), chunk.raw_offset);
            attempt()?
        }
    };
    match result {
        Ok(()) => Ok(raw),
        Err(damage) => Err(Error::Chunk {
            path: source.path().into(),
            tensor: container.tensor_at(chunk.raw_offset).map(|t| t.name.clone()).unwrap_or_default(),
            raw_offset: chunk.raw_offset,
            packed_offset: chunk.packed_offset,
            damage,
        }),
    }
}
