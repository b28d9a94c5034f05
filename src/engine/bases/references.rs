//! The bases of one container: which files hold them, and their bytes.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::base_file::BaseFile;
use crate::error::{Error, Result};
use crate::format::checksum::hex;
use crate::format::{BaseId, Chunk, Container, Piece};

/// Longest chain of files that need each other: base of a base of a base.
pub const MAX_DEPTH: usize = 8;

/// The bases of one container, in the order of its index.
#[derive(Debug)]
pub struct References {
    path: PathBuf,
    bound: Vec<Bound>,
    /// Length of the longest chain of files that need each other.
    depth: usize,
    /// Whether every base was found, for this container and for the files that its bases are in.
    whole: bool,
    /// A read found that a bound file holds another tensor; another file may hold the right one.
    suspect: AtomicBool,
}

/// Where a base is.
#[derive(Debug)]
pub(super) enum Bound {
    /// In the original itself.
    Itself,
    /// The first of these tensors whose digest is right. A file with known digests has no rivals.
    In(Vec<(Arc<BaseFile>, usize)>),
    /// Not found, and the reason if it is known.
    Missing(String),
}

impl References {
    pub(super) fn new(path: &Path, bound: Vec<Bound>, depth: usize) -> Self {
        let whole = bound.iter().all(|bound| match bound {
            Bound::Itself => true,
            Bound::In(candidates) => candidates.iter().all(|(file, _)| file.is_whole()),
            Bound::Missing(_) => false,
        });
        Self { path: path.into(), bound, depth, whole, suspect: AtomicBool::new(false) }
    }

    /// Whether every base was found, for this container and for the files that its bases are in.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Length of the longest chain of files that need each other: 1 if no base needs another file.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The files in which bases were found, each once.
    #[must_use]
    pub fn files(&self) -> Vec<&Path> {
        let mut seen = HashSet::new();
        self.bound_files().map(|file| file.path()).filter(|path| seen.insert(*path)).collect()
    }

    /// The first candidate for each base that was found.
    fn bound_files(&self) -> impl Iterator<Item = &Arc<BaseFile>> {
        self.bound.iter().filter_map(|bound| match bound {
            Bound::In(candidates) => candidates.first().map(|(file, _)| file),
            Bound::Itself | Bound::Missing(_) => None,
        })
    }

    /// Whether a read found another tensor in a bound file.
    pub(in crate::engine) fn are_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// Checks that every base was found.
    ///
    /// # Errors
    /// [`Error::NoBase`] for the first that is missing.
    pub fn complete(&self, container: &Container) -> Result<()> {
        let missing = self.bound.iter().position(|bound| matches!(bound, Bound::Missing(_)));
        missing.map_or(Ok(()), |base| Err(self.missing(container, base)))
    }

    fn missing(&self, container: &Container, base: usize) -> Error {
        let why = match self.bound.get(base) {
            Some(Bound::Missing(why)) => why.clone(),
            _ => String::new(),
        };
        no_base(&self.path, container, base, why)
    }

    /// Fills `out` with the bytes of base number `base` from `offset`.
    fn read(&self, container: &Container, base: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        let (Some(Bound::In(candidates)), Some(of)) = (self.bound.get(base), container.bases().refs.get(base)) else {
            return Err(self.missing(container, base));
        };
        let BaseId::Tensor(digest) = of.id else { return Err(self.missing(container, base)) };
        for (file, tensor) in candidates {
            if file.has(*tensor, &digest)? {
                return file.read(*tensor, offset, out);
            }
        }
        self.suspect.store(true, Ordering::Relaxed);
        let names: Vec<_> = candidates.iter().map(|(file, _)| file.path().display().to_string()).collect();
        let why = format!("{} has another tensor of this name", names.join(", "));
        Err(no_base(&self.path, container, base, why))
    }

    /// The first bound file that changed since it was opened: then damage is not the container's.
    pub(in crate::engine) fn changed(&self) -> Option<PathBuf> {
        let mut seen = HashSet::new();
        let mut files = self.bound_files().filter(|file| seen.insert(Arc::as_ptr(file)));
        files.find(|file| !file.unchanged()).map(|file| file.path().to_path_buf())
    }
}

/// The error for a missing base.
fn no_base(path: &Path, container: &Container, base: usize, why: String) -> Error {
    let of = container.bases().refs.get(base);
    let want = match of {
        Some(of) => match of.id {
            BaseId::Tensor(digest) => format!("tensor '{}' of BLAKE3 {}", of.name, hex(&digest)),
            BaseId::Itself => "the file itself".to_owned(),
            BaseId::Unknown(kind) => format!("a base of kind {kind}, which this release does not know"),
        },
        None => format!("base number {base}"),
    };
    let hint = of.map_or_else(String::new, |of| of.hint.to_string());
    Error::NoBase { path: path.into(), want, hint, why }
}

/// Fills `out` with bytes of the original itself from `offset`. `read` fills a part that lies in one
/// chunk, from an offset within it.
///
/// # Errors
/// [`Error::Corrupt`] when there are no such bytes; those of `read`.
pub(in crate::engine) fn itself(
    container: &Container,
    mut offset: u64,
    mut out: &mut [u8],
    mut read: impl FnMut(&Chunk, usize, &mut [u8]) -> Result<()>,
) -> Result<()> {
    let no = |offset| Error::corrupt(container.path(), "index", format!("no bytes at offset {offset}"));
    while !out.is_empty() {
        let piece = container.locate(offset).ok_or_else(|| no(offset))?;
        let (start, len) = match &piece {
            Piece::Literal { raw_offset, range } => (*raw_offset, range.len()),
            Piece::Chunk(chunk) => (chunk.raw_offset, chunk.raw_len as usize),
        };
        let within = (offset - start) as usize;
        let (part, rest) = out.split_at_mut(len.saturating_sub(within).min(out.len()));
        if part.is_empty() {
            return Err(no(offset));
        }
        match &piece {
            Piece::Literal { range, .. } => {
                let from = range.start + within;
                let bytes = container.literals().get(from..from + part.len()).ok_or_else(|| no(offset))?;
                part.copy_from_slice(bytes);
            }
            Piece::Chunk(chunk) => read(chunk, within, part)?,
        }
        offset += part.len() as u64;
        out = rest;
    }
    Ok(())
}

/// Fills `out` with what a chunk is coded against: bytes of its bases, and zeros where it has none.
/// `own` reads bytes of the original itself from an offset.
///
/// # Errors
/// [`Error::NoBase`] for a missing base, and those of reading one.
pub(in crate::engine) fn gather(
    container: &Container,
    chunk: &Chunk,
    references: Option<&References>,
    own: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>,
    out: &mut [u8],
) -> Result<()> {
    let end = chunk.raw_offset + u64::from(chunk.raw_len);
    let mut at = 0;
    for range in container.bases().within(chunk.raw_offset, end) {
        let from = (range.raw_offset - chunk.raw_offset) as usize;
        let to = from + range.len as usize;
        out.get_mut(at..from).unwrap_or_default().fill(0);
        let part = out.get_mut(from..to).unwrap_or_default();
        let base = range.base as usize;
        match container.bases().refs.get(base).map(|of| of.id) {
            Some(BaseId::Itself) => own(range.offset, part)?,
            _ => match references {
                Some(references) => references.read(container, base, range.offset, part)?,
                None => return Err(no_base(container.path(), container, base, String::new())),
            },
        }
        at = to;
    }
    out.get_mut(at..).unwrap_or_default().fill(0);
    Ok(())
}
