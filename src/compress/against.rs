//! What a file is compressed against: tensors of other files, and of the file itself where it repeats itself.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::base_source::{BaseSource, LEAST};
use super::duplicates::{Duplicate, duplicates};
use super::matching;
use super::plan::Plan;
use crate::error::{Error, Result};
use crate::format::{BaseId, BaseRange, BaseRef, Bases};
use crate::source::ReadAt;

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
    /// What a file repeats of itself; nothing of one that cannot be read.
    ///
    /// # Errors
    /// None, but for a defect.
    pub fn itself(pool: &rayon::ThreadPool, file: &Path) -> Result<Self> {
        let found = duplicates(pool, &[file.to_path_buf()], None);
        let no = |_| Err(Error::invalid("no other file; this is a defect in bsfs"));
        Self::default().with_duplicates(0, found.first().map_or(&[], Vec::as_slice), no)
    }

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
            let Some(tensor) = source.tensor(duplicate.home_offset, duplicate.len) else { continue };
            source.set_digest(tensor, duplicate.digest, duplicate.version)?;
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
pub(super) struct BaseRuns<'a> {
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

impl<'a> BaseRuns<'a> {
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

    /// What the index says of the runs that were used, and the files that they lead to. Reads tensors whose digest is not known.
    pub(super) fn finish(self, pool: &rayon::ThreadPool, standalone_bytes: u64) -> Result<(Bases, Vec<PathBuf>)> {
        let mut homes: Vec<Home> = Vec::new();
        let mut numbers: HashMap<Home, u32> = HashMap::new();
        let mut ranges = Vec::new();
        for run in self.runs.iter().filter(|run| run.used) {
            // All that the file has of itself is one base.
            let (home, offset) = match run.home {
                Home::Itself { offset } => (Home::Itself { offset: 0 }, offset),
                home @ Home::In { .. } => (home, 0),
            };
            let base = *numbers.entry(home).or_insert_with(|| {
                homes.push(home);
                homes.len() as u32 - 1
            });
            ranges.push(BaseRange { raw_offset: run.raw_offset, len: run.len, base, offset });
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
        let files: BTreeSet<usize> = homes
            .iter()
            .filter_map(|home| match home {
                Home::In { file, .. } => Some(*file),
                Home::Itself { .. } => None,
            })
            .collect();
        let needs = files.into_iter().filter_map(|file| Some(self.against.files.get(file)?.path().to_path_buf()));
        Ok((Bases { refs, ranges, standalone_bytes }, needs.collect()))
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
