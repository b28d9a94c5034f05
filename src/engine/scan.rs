//! A whole container from front to back, chunks decoded in parallel: what decompress and verify are made of.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use super::bases::{self, References};
use super::buffer::{Buffer, Pool};
use super::decode;
use super::stats::Counters;
use crate::error::{Error, Result};
use crate::format::checksum::hex;
use crate::format::{Container, Piece};
use crate::parallel;
use crate::source::ReadAt;

/// A container that is read whole.
#[derive(Clone, Copy)]
pub struct Whole<'a> {
    /// Its metadata.
    pub container: &'a Container,
    /// The source that it was read from.
    pub source: &'a dyn ReadAt,
    /// What it refers to; see [`Finder::references`](super::Finder::references).
    pub references: Option<&'a References>,
}

impl std::fmt::Debug for Whole<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Whole").field(&self.container.path()).finish()
    }
}

impl<'a> Whole<'a> {
    /// One that refers to no other file.
    #[must_use]
    pub fn new(container: &'a Container, source: &'a dyn ReadAt) -> Self {
        Self { container, source, references: None }
    }
}

/// Decodes a container, with what it refers to if it does, and gives the original's bytes to `take`, in order, each piece with its raw offset.
///
/// Every chunk has passed its checksum; the digests are the caller's business. `stop` ends it at the next chunk.
///
/// # Errors
/// The first damaged chunk, those of the source and of `take`, [`Error::Interrupted`].
pub fn scan(
    pool: &rayon::ThreadPool,
    whole: Whole<'_>,
    stop: &AtomicBool,
    mut take: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let Whole { container, source, references } = whole;
    let mut pieces = container.pieces();
    let mut at = 0;
    let window = 2 * pool.current_num_threads() + 2;
    // Two buffers for each chunk in flight at most, which are used again.
    let (buffers, counters) = (Pool::new(u64::MAX), Counters::default());
    let from = decode::From { container, source, references, pool: &buffers, counters: &counters };
    parallel::ordered(
        pool,
        window,
        || if stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(pieces.next()) },
        |piece| match piece {
            Piece::Literal { range, .. } => Ok(Decoded::Literal(range)),
            Piece::Chunk(chunk) => decode::chunk(&from, &chunk, &mut |at, out| own(&from, at, out)).map(Decoded::Chunk),
        },
        |decoded| {
            let raw = match &decoded {
                Decoded::Literal(range) => container.literals().get(range.clone()).unwrap_or_default(),
                Decoded::Chunk(raw) => raw,
            };
            take(at, raw)?;
            at += raw.len() as u64;
            Ok(())
        },
    )
}

/// Bytes of the original itself. What is decoded for them refers to nothing of it, which the index was checked for.
fn own(from: &decode::From<'_>, offset: u64, out: &mut [u8]) -> Result<()> {
    bases::itself(from.container, offset, out, |chunk, within, out| {
        let mut no = |at, _: &mut [u8]| {
            let text = format!("the chunk at {at} refers to the file itself twice over");
            Err(Error::corrupt(from.container.path(), "index", text))
        };
        let raw = decode::chunk(from, chunk, &mut no)?;
        if let Some(bytes) = raw.get(within..within + out.len()) {
            out.copy_from_slice(bytes);
        }
        Ok(())
    })
}

/// A piece on its way to who takes it.
enum Decoded {
    Literal(Range<usize>),
    Chunk(Buffer),
}

/// What [`verify`] found in a sound container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Bytes of the original.
    pub raw_bytes: u64,
    /// Chunks decoded and checked.
    pub chunks: u32,
    /// Tensors whose digest was compared.
    pub tensors: usize,
    /// SHA-256 of the original, hexadecimal.
    pub sha256: String,
}

/// Decodes everything and compares every tensor's BLAKE3, the file's SHA-256 and, if given, the bytes of `original`.
///
/// `take` gets every piece in order with its raw offset, as [`scan`] gives it; what it was given is proven only when
/// this returns.
///
/// # Errors
/// [`Error::Differs`] at the first difference, those of [`scan`] and of `take`.
pub fn verify(
    pool: &rayon::ThreadPool,
    whole: Whole<'_>,
    original: Option<&dyn ReadAt>,
    stop: &AtomicBool,
    take: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<Verified> {
    let container = whole.container;
    let path = whole.source.path();
    let differs =
        |what: String, expected: String, got: String| Error::Differs { path: path.into(), what, expected, got };
    original.map_or(Ok(()), ReadAt::check_end)?;
    if let Some(original) = original.filter(|o| o.len() != container.raw_len()) {
        let what = format!("length of {}", original.path().display());
        return Err(differs(what, format!("{} bytes", container.raw_len()), format!("{} bytes", original.len())));
    }
    let mut sha256 = Sha256::new();
    let mut tensors = container.tensors().iter().peekable();
    let mut hasher = blake3::Hasher::new();
    let mut compared = Vec::new();
    scan(pool, whole, stop, |offset, raw| {
        sha256.update(raw);
        if let Some(original) = original {
            compared.resize(raw.len(), 0);
            original.read_exact_at(offset, &mut compared)?;
            if let Some(at) = raw.iter().zip(&compared).position(|(a, b)| a != b) {
                let at_offset = offset + at as u64;
                let tensor =
                    container.tensor_at(at_offset).map_or("no tensor".to_owned(), |t| format!("tensor '{}'", t.name));
                let what = format!("byte at offset {at_offset} ({tensor}) of {}", original.path().display());
                let show = |bytes: &[u8]| bytes.get(at).map_or(String::new(), |b| format!("{b:#04x}"));
                return Err(differs(what, show(raw), show(&compared)));
            }
        }
        let end = offset + raw.len() as u64;
        while let Some(tensor) = tensors.peek() {
            let tensor_end = tensor.raw_offset + tensor.raw_len;
            let (a, b) = (offset.max(tensor.raw_offset), end.min(tensor_end));
            if a < b {
                hasher.update(raw.get((a - offset) as usize..(b - offset) as usize).unwrap_or_default());
            }
            if tensor_end > end {
                break;
            }
            let got = hasher.finalize();
            if *got.as_bytes() != tensor.digest {
                return Err(differs(
                    format!("BLAKE3 of tensor '{}' at offset {}", tensor.name, tensor.raw_offset),
                    hex(&tensor.digest),
                    hex(got.as_bytes()),
                ));
            }
            hasher.reset();
            tensors.next();
        }
        take(offset, raw)
    })?;
    let got: [u8; 32] = sha256.finalize().into();
    if got != container.file().sha256 {
        return Err(differs("SHA-256 of the file".into(), hex(&container.file().sha256), hex(&got)));
    }
    Ok(Verified {
        raw_bytes: container.raw_len(),
        chunks: container.chunk_count(),
        tensors: container.tensors().len(),
        sha256: hex(&got),
    })
}
