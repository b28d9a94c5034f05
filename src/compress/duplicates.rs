//! Tensors that are stored several times: in one file, or in several.

use std::collections::HashMap;
use std::path::PathBuf;

use rayon::prelude::*;

use super::base_source::LEAST;
use super::plan::{self, OWN_SPAN};
use crate::error::Result;
use crate::format::checksum::blake3_of;
use crate::source::{FileSource, Identity, ReadAt};

/// A tensor that is the same as another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicate {
    /// Where it lies, bytes.
    pub raw_offset: u64,
    /// Its length, bytes.
    pub len: u64,
    /// The file that keeps the bytes, by its number among those that were compared.
    pub home: usize,
    /// Where it lies there, bytes.
    pub home_offset: u64,
    /// BLAKE3 of it.
    pub digest: [u8; 32],
    /// The version of that file which was read.
    pub version: Identity,
}

/// Finds tensors that are stored several times. `files` are safetensors files and archives of stored numbers (PyTorch's), in
/// the order in which they are compressed. For each file its duplicates, in order of offset.
///
/// Without `depth` each file is compared with itself alone. With it also with the others: the first file that has a tensor
/// keeps it. Where more than `depth` files would be needed one for another, a further file keeps the tensor as well.
///
/// A file that cannot be read, or changes meanwhile, has nothing in common with others: what compresses it tells the error.
#[must_use]
pub fn duplicates(pool: &rayon::ThreadPool, files: &[PathBuf], depth: Option<usize>) -> Vec<Vec<Duplicate>> {
    struct Seen {
        file: usize,
        version: Identity,
        offset: u64,
        len: u64,
        look: u64,
    }
    // Within a file only what has chunks of its own is referred to.
    let least = if depth.is_some() { LEAST } else { OWN_SPAN };
    // What is compared with each other: all files, or those of one number.
    let group = |file: usize| if depth.is_some() { 0 } else { file };
    let looks = |file: usize| -> Result<Vec<Seen>> {
        let Some(path) = files.get(file) else { return Ok(Vec::new()) };
        // Opened for each look: there may be more files than a process may have open.
        let source = FileSource::open(path)?;
        let version = source.identity();
        let tensors = plan::tensors(&source)?;
        let seen = tensors
            .iter()
            .filter(|t| t.len >= least)
            .map(|t| Ok(Seen { file, version, offset: t.offset, len: t.len, look: look(&source, t.offset, t.len)? }));
        seen.collect()
    };
    let seen: Vec<Vec<Seen>> =
        pool.install(|| (0..files.len()).into_par_iter().map(|file| looks(file).unwrap_or_default()).collect());
    let seen: Vec<Seen> = seen.into_iter().flatten().collect();
    let mut alike: HashMap<(usize, u64, u64), Vec<usize>> = HashMap::new();
    for (at, tensor) in seen.iter().enumerate() {
        alike.entry((group(tensor.file), tensor.len, tensor.look)).or_default().push(at);
    }
    // Only what looks like another is read whole.
    let doubtful: Vec<usize> = alike.into_values().filter(|of| of.len() > 1).flatten().collect();
    let digest = |&at: &usize| -> Option<(usize, [u8; 32])> {
        let tensor = seen.get(at)?;
        let source = FileSource::open(files.get(tensor.file)?).ok()?;
        let same = source.identity() == tensor.version;
        same.then(|| blake3_of(tensor.offset, tensor.len, |at, out| source.read_exact_at(at, out)).ok())
            .flatten()
            .map(|digest| (at, digest))
    };
    let mut digests: Vec<(usize, [u8; 32])> = pool.install(|| doubtful.par_iter().filter_map(digest).collect());
    digests.sort_by_key(|(at, _)| *at);
    let mut homes: HashMap<(usize, [u8; 32], u64), &Seen> = HashMap::new();
    let mut found: Vec<Vec<Duplicate>> = files.iter().map(|_| Vec::new()).collect();
    // Files that each needs, one for another. A home lies before: its number is final.
    let mut needed = vec![0; files.len()];
    for (at, digest) in digests {
        let Some(tensor) = seen.get(at) else { continue };
        let home = homes.entry((group(tensor.file), digest, tensor.len)).or_insert(tensor);
        let need = needed.get(home.file).map_or(0, |needed| needed + 1);
        if home.file != tensor.file && depth.is_some_and(|depth| need > depth) {
            *home = tensor;
        }
        let home = *home;
        let itself = (home.file, home.offset) == (tensor.file, tensor.offset);
        let within = home.file == tensor.file && tensor.len < OWN_SPAN;
        if let Some(list) = found.get_mut(tensor.file).filter(|_| !itself && !within) {
            let (raw_offset, len) = (tensor.offset, tensor.len);
            let version = home.version;
            list.push(Duplicate { raw_offset, len, home: home.file, home_offset: home.offset, digest, version });
            if let Some(needed) = needed.get_mut(tensor.file).filter(|_| home.file != tensor.file) {
                *needed = need.max(*needed);
            }
        }
    }
    found
}

/// A hash of some bytes of a tensor: equal for equal tensors.
fn look(source: &dyn ReadAt, offset: u64, len: u64) -> Result<u64> {
    const PIECE: u64 = 1 << 10;
    let mut bytes = Vec::new();
    for at in [0, len / 3, len / 3 * 2, len.saturating_sub(PIECE)] {
        let from = bytes.len();
        bytes.resize(from + PIECE.min(len - at) as usize, 0);
        source.read_exact_at(offset + at, bytes.get_mut(from..).unwrap_or_default())?;
    }
    Ok(crate::format::checksum::checksum(&bytes))
}
