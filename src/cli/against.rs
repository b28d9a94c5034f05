//! What files are compressed against: bases that the user named, and tensors that occur twice in one run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bsfs::compress::{self, Against, BaseSource, Duplicate};
use bsfs::engine::{Engine, Finder, MAX_DEPTH};
use bsfs::source::{FileSource, ReadAt};
use bsfs::{Error, Result};

use super::ahead::ImageSource;
use super::base::BaseArg;
use super::opened::{self, Opened};
use super::out::say;

/// The files of a run whose tensors may be referred to.
pub struct Bases {
    /// What the user named.
    named: Vec<Arc<BaseSource>>,
    /// Files that are needed one for another by what refers to one of them.
    depth: usize,
    /// The inputs.
    paths: Vec<PathBuf>,
    /// What the inputs become, and whether that all lies in one tree, which is searched for what is needed.
    outputs: Vec<PathBuf>,
    one_tree: bool,
    /// What the inputs have in common, by number.
    duplicates: Vec<Vec<Duplicate>>,
    /// Which inputs become containers: only those can be found when they are needed.
    packed: Vec<bool>,
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
        let mut bases = Self {
            named: Vec::new(),
            depth: 0,
            paths: inputs.to_vec(),
            outputs,
            one_tree,
            duplicates: Vec::new(),
            packed: Vec::new(),
        };
        let outputs = bases.outputs.clone();
        let open = |path: &Path| base(engine, &finder, path, &outputs);
        for path in &arg.base {
            if !path.is_dir() {
                bases.add(open(path)?);
                continue;
            }
            let before = bases.named.len();
            for file in below(path)? {
                // A directory may hold what is compressed, too.
                if inputs.iter().any(|input| same_file(input, &file)) {
                    continue;
                }
                match open(&file) {
                    Ok(base) => bases.add(base),
                    Err(error) => say(&format!("{error}; left out")),
                }
            }
            if bases.named.len() == before {
                let text = "no safetensors file and no container of one in this directory or below it";
                return Err(Error::invalid(format!("{}: {text}", path.display())));
            }
        }
        Ok(bases)
    }

    fn add(&mut self, (base, depth): (BaseSource, usize)) {
        self.named.push(Arc::new(base));
        self.depth = self.depth.max(depth + 1);
    }

    /// Compares the inputs with each other, so that what occurs twice is stored once. All but the last `archives` of them are going
    /// to be packed in any case.
    pub fn compare(&mut self, pool: &rayon::ThreadPool, archives: usize) -> Result<()> {
        let sure = self.paths.len().saturating_sub(archives);
        self.packed = (0..self.paths.len()).map(|at| at < sure).collect();
        self.duplicates = compress::duplicates(pool, &self.paths, MAX_DEPTH.saturating_sub(self.depth))?;
        Ok(())
    }

    fn number(&self, input: &Path) -> Option<usize> {
        self.paths.iter().position(|path| path == input)
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

    /// Says that an input did not become a container: nobody may need it.
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

    /// What an input is compressed against. A base that is an input itself is stored whole: nobody else has its bytes when the
    /// originals are gone.
    pub fn of(&self, input: &Path) -> Result<Against> {
        let is_own = |base: &&Arc<BaseSource>| same_file(input, base.path());
        let named = Against::new(self.named.iter().filter(|base| !is_own(base)).cloned().collect());
        let Some(of) = self.number(input) else { return Ok(named) };
        let duplicates: Vec<Duplicate> = self.found(of).copied().collect();
        named.with_duplicates(of, &duplicates, |home| {
            let no = || Error::invalid("no such input; this is a defect in bsfs");
            let path = self.paths.get(home).ok_or_else(no)?;
            BaseSource::plain(Arc::new(FileSource::open(path)?)).map(Arc::new)
        })
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((std::fs::canonicalize(a), std::fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

/// The files below a directory that may be bases. Of a file and its container the file, which is read faster.
fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    let tree = compress::walk(dir, None)?;
    let paths: Vec<PathBuf> = tree.entries.iter().map(|entry| dir.join(entry.path())).collect();
    let is = |path: &Path, ending: &str| path.extension().is_some_and(|e| e == ending);
    let mut found: Vec<PathBuf> = paths
        .iter()
        .filter(|path| {
            is(path, "safetensors") || (is(path, "bs") || is(path, "bsr")) && !paths.contains(&path.with_extension(""))
        })
        .cloned()
        .collect();
    found.sort();
    Ok(found)
}

/// A base, and how many files it needs itself, one for another.
fn base(engine: &Arc<Engine>, finder: &Arc<Finder>, path: &Path, outputs: &[PathBuf]) -> Result<(BaseSource, usize)> {
    let replaced = |path: &Path| outputs.iter().any(|output| same_file(output, path));
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
