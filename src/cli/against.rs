//! What files are compressed against: bases that the user named, and tensors that occur twice in one run.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bsfs::compress::{self, Against, BaseSource, Duplicate, Report, ratio};
use bsfs::engine::{Engine, Finder, MAX_DEPTH};
use bsfs::longpath;
use bsfs::source::{FileSource, ReadAt};
use bsfs::{Error, Result};

use super::ahead::ImageSource;
use super::base::BaseArg;
use super::exit::Exit;
use super::opened::{self, Opened};
use super::out::{self, say};
use super::size::show_size;

/// The files of a run whose tensors may be referred to.
pub struct Bases {
    /// What the user named.
    named: Vec<Named>,
    /// What could not be read in the directories that the user named.
    left_out: Exit,
    /// Files that are needed one for another by what refers to one of them.
    depth: usize,
    /// The inputs, and the number of each.
    paths: Vec<PathBuf>,
    numbers: HashMap<PathBuf, usize>,
    /// What the inputs become, and whether that all lies in one tree, which is searched for what is needed.
    outputs: Vec<PathBuf>,
    one_tree: bool,
    /// What the inputs have in common, by number.
    duplicates: Vec<Vec<Duplicate>>,
    /// Which inputs become containers: only those can be found when they are needed.
    packed: Vec<bool>,
    /// What `--dedup` would save.
    repeated: Repeated,
}

/// A file that the user named.
struct Named {
    source: Arc<BaseSource>,
    id: Option<(u64, u64)>,
}

impl Bases {
    /// Opens what the user named: files, and directories with all that lies below. `inputs` are compressed to `outputs`, which lie
    /// in `one_tree` or each beside its input.
    pub fn open(
        engine: &Arc<Engine>,
        arg: &BaseArg,
        inputs: &[PathBuf],
        outputs: Vec<PathBuf>,
        one_tree: bool,
    ) -> Result<Self> {
        let finder = arg.finder(Path::new(""))?;
        let (inside, replaced) = match arg.base.is_empty() {
            true => (HashSet::new(), HashSet::new()),
            false => (inputs.iter().filter_map(|p| id(p)).collect(), outputs.iter().filter_map(|p| id(p)).collect()),
        };
        let mut bases = Self {
            named: Vec::new(),
            left_out: Exit::Done,
            depth: 0,
            paths: inputs.to_vec(),
            numbers: inputs.iter().cloned().zip(0..).collect(),
            outputs,
            one_tree,
            duplicates: Vec::new(),
            packed: Vec::new(),
            repeated: Repeated::default(),
        };
        let open = |path: &Path| base(engine, &finder, path, &replaced);
        for path in &arg.base {
            if !longpath::is_dir(path) {
                bases.add(path, open(path)?);
                continue;
            }
            let before = bases.named.len();
            let (found, left_out) = below(path)?;
            bases.left_out = bases.left_out.and(left_out);
            for file in found {
                // A directory may hold what is compressed, too.
                if id(&file).is_none_or(|file| inside.contains(&file)) {
                    continue;
                }
                match open(&file) {
                    Ok(base) => bases.add(&file, base),
                    Err(error) => {
                        say(&format!("{error}; left out"));
                        // What is read and is no base is no failure of the run.
                        let is_none = matches!(error, Error::Invalid { .. });
                        bases.left_out = bases.left_out.and(if is_none { Exit::Done } else { Exit::of(&error) });
                    }
                }
            }
            if bases.named.len() == before {
                let text = "no safetensors file and no container of one in this directory or below it";
                return Err(Error::invalid(format!("{}: {text}", path.display())));
            }
        }
        Ok(bases)
    }

    /// How the program ends for what was left out.
    pub fn left_out(&self) -> Exit {
        self.left_out
    }

    fn add(&mut self, path: &Path, (base, depth): (BaseSource, usize)) {
        self.named.push(Named { source: Arc::new(base), id: id(path) });
        self.depth = self.depth.max(depth + 1);
    }

    /// Looks for tensors that occur several times: in each input, and with `across` also in several inputs, so that they are
    /// stored once. All but the last `archives` inputs are going to be packed in any case.
    pub fn compare(&mut self, pool: &rayon::ThreadPool, across: bool, archives: usize) {
        let sure = self.paths.len().saturating_sub(archives);
        self.packed = (0..self.paths.len()).map(|at| at < sure).collect();
        let depth = across.then(|| MAX_DEPTH.saturating_sub(self.depth));
        self.duplicates = compress::duplicates(pool, &self.paths, depth);
    }

    fn number(&self, input: &Path) -> Option<usize> {
        self.numbers.get(input).copied()
    }

    /// Whether other files that are packed, or the input itself, have half of its `len` bytes once more: then it is packed, too.
    pub fn pack_repeated(&mut self, input: &Path, len: u64) -> bool {
        let Some(at) = self.number(input) else { return false };
        let repeated: u64 = self.found(at).filter(|d| d.home != at).map(|d| d.len).sum();
        let packed = len > 0 && repeated * 2 >= len;
        if let Some(slot) = self.packed.get_mut(at) {
            *slot = packed;
        }
        packed
    }

    /// Says that an input did not become a container: nothing may refer to it.
    pub fn failed(&mut self, input: &Path) {
        if let Some(packed) = self.number(input).and_then(|at| self.packed.get_mut(at)) {
            *packed = false;
        }
    }

    /// What input number `of` has in common with files that are packed, and found from where it goes.
    fn found(&self, of: usize) -> impl Iterator<Item = &Duplicate> {
        let dir = move |at: usize| self.outputs.get(at).and_then(|output| output.parent());
        let near = move |home: usize| self.one_tree || dir(home) == dir(of);
        let packed = move |home: usize| self.packed.get(home).copied().unwrap_or(false);
        let duplicates = self.duplicates.get(of).into_iter().flatten();
        duplicates.filter(move |d| d.home == of || packed(d.home) && near(d.home))
    }

    /// What an input is compressed against. A base that is an input itself is stored whole: no other file has its bytes when the
    /// originals are gone.
    pub fn of(&self, input: &Path) -> Result<Against> {
        let own = if self.named.is_empty() { None } else { id(input) };
        let others = self.named.iter().filter(|base| own.is_none() || base.id != own);
        let named = Against::new(others.map(|base| Arc::clone(&base.source)).collect());
        let Some(of) = self.number(input) else { return Ok(named) };
        let duplicates: Vec<Duplicate> = self.found(of).copied().collect();
        named.with_duplicates(of, &duplicates, |home| {
            let no = || Error::invalid("no such input; this is a defect in bsfs");
            let path = self.paths.get(home).ok_or_else(no)?;
            BaseSource::plain(Arc::new(FileSource::open(path)?)).map(Arc::new)
        })
    }

    /// Takes note of what became of an input, and tells which files its container needs: what other inputs became, and what the
    /// user named.
    pub fn done(&mut self, input: &Path, report: &mut Report) -> Needs {
        let tensors = std::mem::take(&mut report.tensors);
        if let Some(number) = self.number(input) {
            self.repeated.add(number, &tensors, report.ratio);
        }
        let mut needs = Needs { referring: report.referring_bytes, ..Needs::default() };
        for path in &mut report.needs {
            match self.number(path).and_then(|at| self.outputs.get(at)) {
                // A base may be an input as well; it is read as it was named.
                Some(output) if !self.named.iter().any(|base| base.source.path() == path) => {
                    path.clone_from(output);
                    needs.shared.push(output.clone());
                }
                _ => needs.bases.push(path.clone()),
            }
        }
        needs.unlike = !self.named.is_empty() && needs.bases.is_empty();
        needs.is_base = match (&*self.named, id(input)) {
            ([only], Some(id)) => only.id == Some(id),
            _ => false,
        };
        needs
    }

    /// Bytes that `--dedup` would save, about.
    pub fn repeated_bytes(&self) -> u64 {
        self.repeated.bytes
    }
}

/// Which other files a container needs, and why.
#[derive(Debug, Default)]
pub struct Needs {
    /// Containers of the same run that hold tensors of it.
    shared: Vec<PathBuf>,
    /// Files that were named with --base.
    bases: Vec<PathBuf>,
    /// Bytes that are stored as differences from other bytes, or as the same.
    referring: Option<u64>,
    /// Bases were named, and none is like the file.
    unlike: bool,
    /// The only base that was named is the file itself.
    is_base: bool,
}

impl Needs {
    /// Lines for a person, of a file that became `report`.
    pub fn describe(&self, text: &mut String, report: &Report) {
        let are = |files: &[PathBuf]| if files.len() == 1 { "is" } else { "are" };
        if !self.bases.is_empty() {
            let (names, are) = (list(&self.bases), are(&self.bases));
            let _ = writeln!(text, "  stored as differences from {names}, which {are} needed to read it");
        }
        if !self.shared.is_empty() {
            let (names, are) = (list(&self.shared), are(&self.shared));
            let _ = writeln!(text, "  shares tensors with {names}, which {are} needed to read it");
        }
        if let (Some(alone), Some(referring)) = (report.standalone_bytes, self.referring) {
            let of = format!("{} of {}", show_size(referring), show_size(report.raw_bytes));
            let part = match self.bases.is_empty() && self.shared.is_empty() {
                true => format!("{of} repeat other parts of the file"),
                false => format!("{of} refer to other bytes"),
            };
            let ratio = ratio(report.raw_bytes, alone);
            let _ = writeln!(text, "  {part}; without that about {}, ratio {ratio:.4}", show_size(alone));
        }
    }

    /// What is probably not what the user meant with --base.
    pub fn warning(&self, input: &Path) -> Option<String> {
        let text = match (self.is_base, self.unlike) {
            (true, _) => "is the file that is named with --base, so it is stored whole",
            (false, true) => {
                "nothing is stored as a difference from what is named with --base; is that the right base?"
            }
            (false, false) => return None,
        };
        Some(format!("{}: {text}", input.display()))
    }
}

/// Names of files, the first few if there are many.
fn list(files: &[PathBuf]) -> String {
    const SHOWN: usize = 4;
    let mut names: Vec<String> = files.iter().take(SHOWN).map(|file| out::shown(file).to_string()).collect();
    if files.len() > SHOWN {
        names.push(format!("{} more", files.len() - SHOWN));
    }
    names.join(", ")
}

/// Bytes of tensors that several files have.
#[derive(Default)]
struct Repeated {
    /// The file that had a tensor last.
    seen: HashMap<([u8; 32], u64), usize>,
    /// Packed bytes of what a file before had already, about.
    bytes: u64,
}

impl Repeated {
    fn add(&mut self, file: usize, tensors: &[([u8; 32], u64)], ratio: f64) {
        for tensor in tensors {
            // A tensor that the file itself repeats is stored once in any case.
            if self.seen.insert(*tensor, file).is_some_and(|before| before != file) {
                self.bytes += (tensor.1 as f64 * ratio) as u64;
            }
        }
    }
}

/// What tells one file from all others, whatever its name: device and inode.
fn id(path: &Path) -> Option<(u64, u64)> {
    longpath::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// The files below a directory that may be bases. Of a file and its container the file, which is read faster.
fn below(dir: &Path) -> Result<(Vec<PathBuf>, Exit)> {
    let tree = compress::walk(dir, None)?;
    let exit = out::left_out(&tree.errors);
    let paths: Vec<PathBuf> = tree.entries.iter().map(|entry| dir.join(entry.path())).collect();
    let is = |path: &Path, ending: &str| path.extension().is_some_and(|e| e == ending);
    let all: HashSet<&PathBuf> = paths.iter().collect();
    let packed = |path: &Path| is(path, "bs") || is(path, "bsr");
    let wanted = |path: &&PathBuf| is(path, "safetensors") || packed(path) && !all.contains(&path.with_extension(""));
    let mut found: Vec<PathBuf> = paths.iter().filter(wanted).cloned().collect();
    found.sort();
    Ok((found, exit))
}

/// A base, and how many files it needs itself, one for another.
fn base(
    engine: &Arc<Engine>,
    finder: &Arc<Finder>,
    path: &Path,
    outputs: &HashSet<(u64, u64)>,
) -> Result<(BaseSource, usize)> {
    let replaced = |path: &Path| id(path).is_some_and(|id| outputs.contains(&id));
    if replaced(path) {
        let text = "is named with --base, and would be replaced: what refers to it could not be read";
        return Err(Error::invalid(format!("{}: {text}", path.display())));
    }
    let source = FileSource::open(path)?;
    if !is_container(&source)? {
        return Ok((BaseSource::plain(Arc::new(source))?, 0));
    }
    let opened = opened::open(path)?;
    let mut depth = 0;
    let digests = match &opened {
        Opened::Native(source, container) => {
            if let Some(references) = finder.references(engine, container, source.identity()) {
                references.complete(container)?;
                depth = references.depth();
                if depth >= MAX_DEPTH {
                    let text = "needs so many files one for another that what refers to it could not be read; flatten it first";
                    return Err(Error::invalid(format!("{}: {text}", path.display())));
                }
                if let Some(lost) = references.files().into_iter().find(|file| replaced(file)) {
                    let text = format!("is named with --base and needs {}, which would be replaced", lost.display());
                    return Err(Error::invalid(format!("{}: {text}", path.display())));
                }
            }
            container.tensors().iter().map(|t| ((t.raw_offset, t.raw_len), t.digest)).collect()
        }
        Opened::BigSmall(file) if file.presented.container().is_delta() => {
            let text = "is a delta of bigsmall itself; migrate or decompress it first";
            return Err(Error::invalid(format!("{}: {text}", path.display())));
        }
        Opened::BigSmall(_) => Vec::new(),
    };
    let image = opened.image(engine, finder, None);
    Ok((BaseSource::new(Arc::new(ImageSource::anywhere(image, path)), &digests)?, depth))
}

fn is_container(source: &FileSource) -> Result<bool> {
    let mut first = [0; bsfs::format::SNIFF_LEN];
    let got = source.read_at(0, &mut first)?;
    Ok(bsfs::format::sniff(first.get(..got).unwrap_or_default()) != bsfs::format::Sniff::Other && source.len() > 0)
}
