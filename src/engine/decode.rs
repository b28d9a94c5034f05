//! One chunk: its packed bytes read from a source or found in memory, decoded, checked.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::bases::{self, References};
use super::buffer::{Buffer, Pool, capacity};
use super::cost::Cost;
use super::stats::Counters;

use crate::codec::{self, Codec, PAD, Packed, Scratch};
use crate::error::{Damage, Error, Result};
use crate::format::checksum::checksum;
use crate::format::{Chunk, Container};
use crate::source::ReadAt;

thread_local! {
    /// For [`decode_into`], which has no pool.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Bytes of a codec's context beside what grows with the chunk.
const CONTEXT: usize = 128 << 10;

/// What a chunk is decoded from, and into.
#[derive(Clone, Copy)]
pub struct From<'a> {
    pub container: &'a Container,
    pub source: &'a dyn ReadAt,
    pub references: Option<&'a References>,
    pub pool: &'a Arc<Pool>,
    pub counters: &'a Counters,
}

/// Bytes of memory that making a chunk takes: packed and raw bytes, the codec's context, and for one that is coded against others
/// the counterpart, and a chunk of the base. Of a chain of bases each one more holds a counterpart beside.
pub fn need(chunk: &Chunk) -> usize {
    let (packed, raw) = (capacity(chunk.packed_len as usize + PAD), capacity(chunk.raw_len as usize));
    let own = packed + raw + CONTEXT;
    if chunk.codec().is_some_and(Codec::needs_base) { own + CONTEXT + 7 * raw } else { own + raw }
}

/// The raw bytes of a chunk. What comes back has passed its checksum. `own` fills with bytes of the original itself, from an
/// offset, where the chunk is coded against them.
///
/// # Errors
/// [`Error::Chunk`] for damage, after a second try from the source; [`Error::Unsupported`] for an unknown codec;
/// [`Error::NoBase`]; those of the source and of bases.
pub fn chunk(from: &From<'_>, chunk: &Chunk, own: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>) -> Result<Buffer> {
    let &From { container, source, references, pool, counters } = from;
    let codec = codec_of(source.path(), chunk)?;
    let mut base = None;
    if codec.needs_base() {
        // Before the buffers below are taken: making it may need as many itself.
        let mut bytes = pool.take(chunk.raw_len as usize);
        bases::gather(container, chunk, references, own, &mut bytes)?;
        base = Some(bytes);
    }
    let base = base.as_deref().unwrap_or_default();
    // Both lengths are bounded by the checked index, not by the packed bytes.
    let len = chunk.packed_len as usize;
    let mut packed = pool.take(len + PAD);
    let mut raw = pool.take(chunk.raw_len as usize);
    let mut context = pool.context();
    let mut attempt = || -> Result<Result<(), Damage>> {
        let start = Instant::now();
        let got =
            Cost::of_source(|| source.read_exact_at(chunk.packed_offset, packed.get_mut(..len).unwrap_or_default()));
        let read = Instant::now();
        match got {
            Ok(()) => counters.source_times.add(read - start),
            Err(error) => {
                Counters::add(&counters.source_failures, 1);
                return Err(error);
            }
        }
        let result = unpack((codec, base), &packed, chunk, &mut raw, context.get());
        Counters::add_time(&counters.source_nanos, read - start);
        let decode = read.elapsed();
        Counters::add_time(&counters.decode_nanos, decode);
        Cost::add(|cost| cost.decode += decode);
        Ok(result)
    };
    // A second read tells a fault on the way (memory, cable, cache) from damage on the disk.
    let result = match attempt()? {
        Ok(()) => Ok(()),
        Err(first) => {
            log::warn!("{}: chunk at {}: {first}; reading it again", source.path().display(), chunk.raw_offset);
            source.doubt(chunk.packed_offset, chunk.packed_len.into());
            let again = attempt()?;
            Counters::add(&counters.healed_chunks, u64::from(again.is_ok()));
            again
        }
    };
    match result {
        Ok(()) => {
            counters.decoded(codec, raw.len());
            Counters::add(&counters.packed_bytes_read, u64::from(chunk.packed_len));
            Ok(raw)
        }
        Err(damage) => Err(match references.and_then(References::changed).filter(|_| codec.needs_base()) {
            // Not a change of what is read itself, whose name would then lead to something new.
            Some(changed) => Error::NoBase {
                path: source.path().into(),
                want: String::new(),
                hint: String::new(),
                why: format!("{} was one, and has changed since", changed.display()),
            },
            None => damaged(container, source.path(), chunk, damage),
        }),
    }
}

/// Decodes a chunk of a container that lies in memory into `raw`, without a copy of its packed bytes.
///
/// `bytes` are the container's, with [`PAD`] bytes more behind them; the length of `raw` is the chunk's `raw_len`. What
/// was written has passed its checksum when this returns `Ok`, and is anything otherwise.
///
/// # Errors
/// [`Error::Chunk`] for damage, and for lengths other than these; [`Error::Unsupported`] for an unknown codec.
pub fn decode_into(container: &Container, bytes: &[u8], chunk: &Chunk, raw: &mut [u8]) -> Result<()> {
    let codec = codec_of(container.path(), chunk)?;
    let start = usize::try_from(chunk.packed_offset).unwrap_or(usize::MAX);
    let packed = bytes.get(start..).unwrap_or_default();
    SCRATCH
        .with_borrow_mut(|scratch| unpack((codec, &[]), packed, chunk, raw, scratch))
        .map_err(|damage| damaged(container, container.path(), chunk, damage))
}

/// From the packed bytes at the front of `padded` to raw bytes that have passed their checksum.
fn unpack(
    (codec, base): (Codec, &[u8]),
    padded: &[u8],
    chunk: &Chunk,
    raw: &mut [u8],
    scratch: &mut Scratch,
) -> Result<(), Damage> {
    let packed = Packed::new(padded, chunk.packed_len as usize).ok_or(Damage::new("padding", 0, 0))?;
    codec::decode_against(codec, packed, base, raw, scratch)?;
    match checksum(raw) {
        sum if sum == chunk.checksum => Ok(()),
        sum => Err(Damage::new("checksum", chunk.checksum, sum)),
    }
}

fn codec_of(path: &Path, chunk: &Chunk) -> Result<Codec> {
    chunk.codec().ok_or_else(|| Error::Unsupported {
        path: path.into(),
        what: format!("codec {} of the chunk at offset {}", chunk.codec_id, chunk.raw_offset),
    })
}

fn damaged(container: &Container, path: &Path, chunk: &Chunk, damage: Damage) -> Error {
    Error::Chunk {
        path: path.into(),
        tensor: container.tensor_at(chunk.raw_offset).map(|t| t.name.clone()).unwrap_or_default(),
        raw_offset: chunk.raw_offset,
        packed_offset: chunk.packed_offset,
        damage,
    }
}
