//! What a file is compressed against: tensors of other files, and of the file itself where it repeats itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::plan::{OWN_SPAN, Plan};
use super::{matching, plan};
use crate::error::{Error, Result};
use crate::format::{BaseId, BaseRange, BaseRef, Bases};
use crate::source::{FileSource, Identity, ReadAt};
use crate::tensor::TensorInfo;

/// Shorter tensors are not referred to: the reference would cost as much.
pub(super) const LEAST: u64 = 1 << 10;
/// Bytes that are hashed or read at once.
const STEP: usize = 1 << 20;

/// A file whose tensors may be referred to.
pub struct BaseSource {
    source: Arc<dyn ReadAt>,
    /// The file itself, if it is plain: it must not change meanwhile.
    plain: Option<Arc<FileSource>>,
    hint: String,
    pub(super) tensors: Vec<TensorInfo>,
    /// BLAKE3 of each tensor, as far as it is known.
    digests: Mutex<Vec<Option<[u8; 32]>>>,
}

impl std::fmt::Debug for BaseSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BaseSource").field(&self.source.path()).finish()
    }
}

impl BaseSource {
    /// A plain safetensors file, or an archive of stored numbers.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is neither; those of the source.
    pub fn plain(source: Arc<FileSource>) -> Result<Self> {
        Ok(Self { plain: Some(Arc::clone(&source)), ..Self::new(source, &[])? })
    }

    /// A safetensors file, wherever its bytes come from; `digests` has BLAKE3 of the tensors that somebody knows, by offset in
    /// the file and length.
    ///
    /// # Errors
    /// The same.
    pub fn new(source: Arc<dyn ReadAt>, digests: &[((u64, u64), [u8; 32])]) -> Result<Self> {
        let path = source.path();
        let no = || {
            Error::invalid(format!(
                "{}: neither a safetensors file nor an archive of stored numbers, and so no base",
                path.display()
            ))
        };
        let tensors = plan::tensors(&*source)?;
        if tensors.is_empty() {
            return Err(no());
        }
        let digests: HashMap<_, _> = digests.iter().copied().collect();
        let digests = tensors.iter().map(|t| digests.get(&(t.offset, t.len)).copied()).collect();
        Ok(Self { hint: hint(path), plain: None, tensors, digests: Mutex::new(digests), source })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    pub(super) fn read(&self, tensor: &TensorInfo, offset: u64, out: &mut [u8]) -> Result<()> {
        self.source.read_exact_at(tensor.offset + offset, out)
    }

    fn digest(&self, at: usize) -> Result<[u8; 32]> {
        let known = || self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = known().get(at).copied().flatten() {
            return Ok(digest);
        }
        let no = || Error::invalid(format!("{}: no tensor {at}", self.path().display()));
        let tensor = self.tensors.get(at).ok_or_else(no)?;
        let digest = digest_of(&*self.source, tensor.offset, tensor.len)?;
        if let Some(slot) = known().get_mut(at) {
            *slot = Some(digest);
        }
        Ok(digest)
    }

    /// Takes the digest of a tensor from who has read it.
    fn told(&self, tensor: usize, duplicate: &Duplicate) -> Result<()> {
        if self.source.identity() != Some(duplicate.version) {
            return Err(Error::Changed { path: self.path().into() });
        }
        if let Some(slot) = self.digests.lock().unwrap_or_else(PoisonError::into_inner).get_mut(tensor) {
            *slot = Some(duplicate.digest);
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        match &self.plain {
            Some(plain) if !plain.unchanged()? => Err(Error::Changed { path: self.path().into() }),
            _ => Ok(()),
        }
    }
}

/// BLAKE3 of a part of a file.
pub(super) fn digest_of(source: &dyn ReadAt, mut offset: u64, len: u64) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let end = offset + len;
    let mut piece = Vec::new();
    while offset < end {
        piece.resize((end - offset).min(STEP as u64) as usize, 0);
        source.read_exact_at(offset, &mut piece)?;
        hasher.update(&piece);
        offset += piece.len() as u64;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// The last components of a path, as containers keep them: enough to know the file again, and the repository that it is in.
fn hint(path: &Path) -> String {
    let parts: Vec<_> = path
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(part) => Some(part.to_string_lossy()),
            _ => None,
        })
        .collect();
    // In a cache of the Hub four: models--org--name/snapshots/commit/file.
    let hub = parts.iter().rposition(|part| part.starts_with("models--")).filter(|at| parts.len() - at <= 8);
    let from = hub.unwrap_or(parts.len().saturating_sub(2));
    parts.get(from..).unwrap_or_default().join("/")
}

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

/// What a file is compressed against.
#[derive(Debug, Clone, Default)]
pub struct Against {
    files: Vec<Arc<BaseSource>>,
    /// Tensors that are known to be the same as another: offset in the file → where that is.
    same: HashMap<u64, Home>,
}

/// Where bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Home {
    Itself { offset: u64 },
    In { file: usize, tensor: usize },
}

impl Against {
    /// Tensors are looked for in these files.
    #[must_use]
    pub fn new(files: Vec<Arc<BaseSource>>) -> Self {
        Self { files, same: HashMap::new() }
    }

    /// The same, and file number `of` has these tensors that other files keep, or itself: `home` opens a file by its number.
    ///
    /// # Errors
    /// Those of `home`.
    pub fn with_duplicates(
        &self,
        of: usize,
        duplicates: &[Duplicate],
        mut home: impl FnMut(usize) -> Result<Arc<BaseSource>>,
    ) -> Result<Self> {
        let mut against = self.clone();
        let mut homes: HashMap<usize, usize> = HashMap::new();
        for duplicate in duplicates {
            if duplicate.home == of {
                against.same.insert(duplicate.raw_offset, Home::Itself { offset: duplicate.home_offset });
                continue;
            }
            let file = match homes.get(&duplicate.home) {
                Some(&file) => file,
                None => {
                    against.files.push(home(duplicate.home)?);
                    *homes.entry(duplicate.home).or_insert(against.files.len() - 1)
                }
            };
            let Some(source) = against.files.get(file) else { continue };
            let is_it = |t: &TensorInfo| (t.offset, t.len) == (duplicate.home_offset, duplicate.len);
            let Some(tensor) = source.tensors.iter().position(is_it) else { continue };
            source.told(tensor, duplicate)?;
            against.same.insert(duplicate.raw_offset, Home::In { file, tensor });
        }
        Ok(against)
    }

    /// Whether there is nothing to refer to.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.same.is_empty()
    }
}

/// What a plan's tensors are compared with, in order of offset, and what came of it.
pub(super) struct References<'a> {
    against: &'a Against,
    original: &'a dyn ReadAt,
    runs: Vec<Run>,
}

/// A run of bytes that has a counterpart.
#[derive(Debug, Clone, Copy)]
struct Run {
    raw_offset: u64,
    len: u64,
    home: Home,
    /// Bytes that it is worth referring to it for: what the reference itself takes.
    cost: usize,
    used: bool,
}

impl<'a> References<'a> {
    /// Finds a counterpart for each tensor of a plan.
    pub(super) fn new(against: &'a Against, original: &'a dyn ReadAt, plan: &Plan) -> Result<Self> {
        let mut runs = Vec::new();
        let mut rest = Vec::new();
        for tensor in plan.tensors.iter().filter(|t| t.len >= LEAST) {
            match against.same.get(&tensor.offset) {
                Some(&home) => runs.push(Run::new(tensor.offset, tensor.len, home, tensor.name.len())),
                None => rest.push(tensor),
            }
        }
        if !against.files.is_empty() {
            for found in matching::find(&against.files, original, &rest)? {
                let home = Home::In { file: found.file, tensor: found.tensor };
                runs.push(Run::new(found.raw_offset, found.len, home, found.name_len));
            }
        }
        runs.sort_by_key(|run| run.raw_offset);
        runs.dedup_by(|b, a| b.raw_offset < a.raw_offset + a.len);
        Ok(Self { against, original, runs })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs that have bytes between two offsets.
    fn between(&self, start: u64, end: u64) -> std::ops::Range<usize> {
        let from = self.runs.partition_point(|run| run.raw_offset + run.len <= start);
        let count = self.runs.iter().skip(from).take_while(|run| run.raw_offset < end).count();
        from..from + count
    }

    /// Fills `out` with the counterparts of the bytes at `raw_offset`, zeros where there are none. Gives what referring to them
    /// costs, bytes; `None` when there are none at all.
    pub(super) fn read(&self, raw_offset: u64, out: &mut [u8]) -> Result<Option<usize>> {
        let end = raw_offset + out.len() as u64;
        let runs = self.between(raw_offset, end);
        if runs.is_empty() {
            return Ok(None);
        }
        out.fill(0);
        let mut cost = SECTIONS;
        for run in self.runs.get(runs).unwrap_or_default() {
            let (a, b) = (run.raw_offset.max(raw_offset), (run.raw_offset + run.len).min(end));
            let part = out.get_mut((a - raw_offset) as usize..(b - raw_offset) as usize).unwrap_or_default();
            let within = a - run.raw_offset;
            match run.home {
                Home::Itself { offset } => self.original.read_exact_at(offset + within, part)?,
                Home::In { file, tensor } => {
                    let source = self.against.files.get(file);
                    let tensor = source.and_then(|source| Some((source, source.tensors.get(tensor)?)));
                    if let Some((source, tensor)) = tensor {
                        source.read(tensor, within, part)?;
                    }
                }
            }
            cost += run.cost;
        }
        Ok(Some(cost))
    }

    /// Notes that the chunk between two offsets is coded against its counterparts.
    pub(super) fn mark(&mut self, start: u64, end: u64) {
        let runs = self.between(start, end);
        for run in self.runs.get_mut(runs).unwrap_or_default() {
            run.used = true;
        }
    }

    /// Bytes of the runs that chunks are coded against.
    pub(super) fn used_bytes(&self) -> u64 {
        self.runs.iter().filter(|run| run.used).map(|run| run.len).sum()
    }

    /// What the index says of the runs that were used. Reads tensors whose digest nobody knows.
    pub(super) fn finish(self, pool: &rayon::ThreadPool, standalone_bytes: u64) -> Result<Bases> {
        let mut homes: Vec<Home> = Vec::new();
        let mut ranges = Vec::new();
        for run in self.runs.iter().filter(|run| run.used) {
            // All that the file has of itself is one base.
            let (home, offset) = match run.home {
                Home::Itself { offset } => (Home::Itself { offset: 0 }, offset),
                home @ Home::In { .. } => (home, 0),
            };
            let base = homes.iter().position(|known| *known == home).unwrap_or_else(|| {
                homes.push(home);
                homes.len() - 1
            });
            ranges.push(BaseRange { raw_offset: run.raw_offset, len: run.len, base: base as u32, offset });
        }
        let describe = |home: &Home| -> Result<BaseRef> {
            let Home::In { file, tensor } = *home else {
                let raw_len = self.original.len();
                return Ok(BaseRef { id: BaseId::Itself, raw_len, name: String::new(), hint: "".into() });
            };
            let no = || Error::invalid("no such base; this is a defect in bsfs");
            let source = self.against.files.get(file).ok_or_else(no)?;
            let of = source.tensors.get(tensor).ok_or_else(no)?;
            let id = BaseId::Tensor(source.digest(tensor)?);
            Ok(BaseRef { id, raw_len: of.len, name: of.name.clone(), hint: source.hint.as_str().into() })
        };
        let refs = pool.install(|| homes.par_iter().map(describe).collect::<Result<Vec<_>>>())?;
        // Behind all reads: what was compared with is what the digests are of.
        self.against.files.iter().try_for_each(|file| file.check())?;
        Ok(Bases { refs, ranges, standalone_bytes })
    }
}

/// Bytes that the sections about bases take at least, and a reference without its texts.
const SECTIONS: usize = 128;
const REFERENCE: usize = 64;

impl Run {
    const fn new(raw_offset: u64, len: u64, home: Home, name_len: usize) -> Self {
        Self { raw_offset, len, home, cost: REFERENCE + name_len, used: false }
    }
}

/// Finds tensors that are the same in several files, or several times in one. `files` are safetensors files and archives of
/// stored numbers (PyTorch's) in the order in which they are compressed: the first that has a tensor keeps it, as long as no more than
/// `depth` files are needed one for another; another one keeps it then as well. For each file its duplicates, in order of offset.
///
/// # Errors
/// Those of reading the files that could be opened. Other files have no duplicates.
pub fn duplicates(pool: &rayon::ThreadPool, files: &[PathBuf], depth: usize) -> Result<Vec<Vec<Duplicate>>> {
    struct Seen {
        file: usize,
        version: Identity,
        offset: u64,
        len: u64,
        look: u64,
    }
    let looks = |file: usize| -> Result<Vec<Seen>> {
        let Some(path) = files.get(file) else { return Ok(Vec::new()) };
        // Opened for each look: there may be more files than a process may have open. One that cannot be read has nothing in common
        // with others; who compresses it will say why.
        let Ok(source) = FileSource::open(path) else { return Ok(Vec::new()) };
        let version = source.identity();
        let tensors = plan::tensors(&source)?;
        let seen = tensors
            .iter()
            .filter(|t| t.len >= LEAST)
            .map(|t| Ok(Seen { file, version, offset: t.offset, len: t.len, look: look(&source, t.offset, t.len)? }));
        seen.collect()
    };
    let seen = pool.install(|| (0..files.len()).into_par_iter().map(looks).collect::<Result<Vec<_>>>())?;
    let seen: Vec<Seen> = seen.into_iter().flatten().collect();
    let mut alike: HashMap<(u64, u64), Vec<usize>> = HashMap::new();
    for (at, tensor) in seen.iter().enumerate() {
        alike.entry((tensor.len, tensor.look)).or_default().push(at);
    }
    // Only what looks like another is read whole.
    let doubtful: Vec<usize> = alike.into_values().filter(|of| of.len() > 1).flatten().collect();
    let digests = pool.install(|| {
        let digest = |&at: &usize| -> Result<Option<(usize, [u8; 32])>> {
            let Some(tensor) = seen.get(at) else { return Ok(None) };
            let Some(path) = files.get(tensor.file) else { return Ok(None) };
            let source = FileSource::open(path)?;
            if source.identity() != tensor.version {
                return Err(Error::Changed { path: path.clone() });
            }
            Ok(Some((at, digest_of(&source, tensor.offset, tensor.len)?)))
        };
        doubtful.par_iter().map(digest).collect::<Result<Vec<_>>>()
    })?;
    let mut digests: Vec<(usize, [u8; 32])> = digests.into_iter().flatten().collect();
    digests.sort_by_key(|(at, _)| *at);
    let mut homes: HashMap<([u8; 32], u64), &Seen> = HashMap::new();
    let mut found: Vec<Vec<Duplicate>> = files.iter().map(|_| Vec::new()).collect();
    // Files that each needs, one for another. A home lies before: its number is final.
    let mut needed = vec![0; files.len()];
    for (at, digest) in digests {
        let Some(tensor) = seen.get(at) else { continue };
        let home = homes.entry((digest, tensor.len)).or_insert(tensor);
        let need = needed.get(home.file).map_or(0, |needed| needed + 1);
        if home.file != tensor.file && need > depth {
            *home = tensor;
        }
        let home = *home;
        let itself = (home.file, home.offset) == (tensor.file, tensor.offset);
        // Within a file only what has chunks of its own is referred to.
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
    Ok(found)
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
