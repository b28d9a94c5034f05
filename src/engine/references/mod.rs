//! What a container of ours refers to: the files that hold it, found when the container is opened, and their bytes.
//!
//! [`Finder`] looks for the files; a [`BaseFile`] is one of them. What was found is bound to the image that needs it and never
//! changes, and a file is only bound when what itself needs was found before: so references have no circle, and a chunk never
//! waits for itself, whatever the indexes claim.

mod file;
mod find;
mod finder;
mod search;

pub use file::BaseFile;
pub use finder::{Finder, Places};

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::engine::sync::{Mutex, lock};
use crate::error::{Error, Result};
use crate::format::checksum::hex;
use crate::format::{BaseId, Chunk, Container, Piece};

/// A base that was not found is looked for again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Most files that may be needed one for another: base of a base of a base.
pub const MAX_DEPTH: usize = 8;

/// The bases of one container, in the order of its index.
#[derive(Debug)]
pub struct References {
    path: PathBuf,
    bound: Vec<Bound>,
    /// Files that are needed one for another at most.
    depth: usize,
    /// Whether all that is needed was found, here and for the files that it is in.
    whole: bool,
    /// A file that was taken has another tensor, which showed when it was read: another file may have the right one.
    doubtful: AtomicBool,
}

/// Looks for what a container refers to.
type Resolve = dyn Fn() -> Option<Arc<References>> + Send + Sync;

/// References that are looked for when they are needed, and again a while later if something was missing.
pub(super) struct Later {
    resolve: Box<Resolve>,
    found: Mutex<Option<Found>>,
}

struct Found {
    at: Instant,
    references: Arc<References>,
    /// They are there because those before were doubtful.
    again: bool,
}

impl Later {
    pub(super) fn new(resolve: impl Fn() -> Option<Arc<References>> + Send + Sync + 'static) -> Self {
        Self { resolve: Box::new(resolve), found: Mutex::default() }
    }

    /// What was found. Others who need it wait meanwhile; looking waits for none of them, as it decodes only what refers to
    /// nothing.
    pub(super) fn get(&self) -> Option<Arc<References>> {
        let mut found = lock(&self.found);
        let mut again = false;
        if let Some(found) = &*found {
            // What is doubtful is looked for at once, but not at once again.
            let doubtful = found.references.are_doubtful();
            again = doubtful && !found.again;
            let settled = found.references.whole && !doubtful;
            if !again && (settled || found.at.elapsed() < LOOK_AGAIN) {
                return Some(Arc::clone(&found.references));
            }
        }
        let references = (self.resolve)()?;
        *found = Some(Found { at: Instant::now(), references: Arc::clone(&references), again });
        Some(references)
    }
}

/// Where a base is.
#[derive(Debug)]
enum Bound {
    /// In the original itself.
    Itself,
    /// One of these tensors; the first whose digest is right. Files that tell digests come alone.
    In(Vec<(Arc<BaseFile>, usize)>),
    /// Nowhere, and why as far as that is known.
    Missing(String),
}

impl References {
    /// How many files are needed one for another: 1 if no base needs another file.
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

    /// Whether a file turned out to be another one since.
    pub(super) fn are_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Relaxed)
    }

    /// The first base that is not there.
    ///
    /// # Errors
    /// [`Error::NoBase`] for it.
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
        self.doubtful.store(true, Ordering::Relaxed);
        let names: Vec<_> = candidates.iter().map(|(file, _)| file.path().display().to_string()).collect();
        let why = format!("{} has another tensor of this name", names.join(", "));
        Err(no_base(&self.path, container, base, why))
    }

    /// Whether a file that was read changed since, and which: then damage is not the container's.
    pub(super) fn changed(&self) -> Option<PathBuf> {
        let mut seen = HashSet::new();
        let mut files = self.bound_files().filter(|file| seen.insert(Arc::as_ptr(file)));
        files.find(|file| !file.unchanged()).map(|file| file.path().to_path_buf())
    }
}

/// The error for a base that is not there.
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

/// Fills `out` with bytes of the original itself from `offset`. `read` fills a part that lies in a chunk, from a place within it.
///
/// # Errors
/// [`Error::Corrupt`] when there are no such bytes; those of `read`.
pub(super) fn itself(
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

/// Fills `out` with what a chunk is coded against: the bytes of bases, and zeros where there is none. `own` fills with bytes
/// of the original itself from an offset.
///
/// # Errors
/// [`Error::NoBase`] for a base that is not there, and those of reading it.
pub(super) fn gather(
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
