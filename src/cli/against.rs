//! What files are compressed against: bases that the user named, and tensors that occur twice in one run.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bsfs::compress::{self, Against, BaseSource, Duplicate};
use bsfs::engine::{Engine, Finder};
use bsfs::source::{FileSource, ReadAt};
use bsfs::{Error, Result};

use super::ahead::ImageSource;
use super::base::BaseArg;
use super::opened::{self, Opened};
use super::out::say;

/// The files of a run whose tensors may be referred to.
pub struct Bases {
    named: Against,
    /// The inputs that were compared with each other, and what they have in common, by number.
    inputs: Vec<Arc<FileSource>>,
    duplicates: Vec<Vec<Duplicate>>,
}

impl Bases {
    /// Opens what the user named: files, and directories with all that lies below.
    pub fn open(engine: &Arc<Engine>, arg: &BaseArg, inputs: &[PathBuf]) -> Result<Self> {
        let finder = arg.finder(Path::new(""))?;
        let mut files = Vec::new();
        for path in &arg.base {
            if !path.is_dir() {
                files.push(Arc::new(base(engine, &finder, path)?));
                continue;
            }
            let before = files.len();
            for file in below(path)? {
                // A directory may hold what is compressed, too.
                let own = inputs.iter().any(|input| same_file(input, &file));
                match base(engine, &finder, &file) {
                    _ if own => {}
                    Ok(base) => files.push(Arc::new(base)),
                    Err(error) => say(&format!("{error}; left out")),
                }
            }
            if files.len() == before {
                let text = "no safetensors file and no container of one in this directory or below it";
                return Err(Error::invalid(format!("{}: {text}", path.display())));
            }
        }
        Ok(Self { named: Against::new(files), inputs: Vec::new(), duplicates: Vec::new() })
    }

    /// Compares the inputs with each other, so that what occurs twice is stored once.
    pub fn compare(&mut self, pool: &rayon::ThreadPool, inputs: &[PathBuf]) -> Result<()> {
        self.inputs = inputs.iter().map(|path| FileSource::open(path).map(Arc::new)).collect::<Result<_>>()?;
        self.duplicates = compress::duplicates(pool, &self.inputs)?;
        Ok(())
    }

    fn number(&self, input: &Path) -> Option<usize> {
        self.inputs.iter().position(|source| source.path() == input)
    }

    /// Bytes of an input that others before it have, or itself.
    pub fn repeated(&self, input: &Path) -> u64 {
        let duplicates = self.number(input).and_then(|at| self.duplicates.get(at));
        duplicates.into_iter().flatten().map(|duplicate| duplicate.len).sum()
    }

    /// What an input is compressed against.
    pub fn of(&self, input: &Path) -> Result<Against> {
        let Some(of) = self.number(input) else { return Ok(self.named.clone()) };
        let none = Vec::new();
        let duplicates = self.duplicates.get(of).unwrap_or(&none);
        self.named.with_duplicates(of, duplicates, |home| {
            let no = || Error::invalid("no such input; this is a defect in bsfs");
            let source = self.inputs.get(home).ok_or_else(no)?;
            BaseSource::plain(Arc::clone(source)).map(Arc::new)
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

fn base(engine: &Arc<Engine>, finder: &Arc<Finder>, path: &Path) -> Result<BaseSource> {
    let source = FileSource::open(path)?;
    if !is_container(&source)? {
        return BaseSource::plain(Arc::new(source));
    }
    let opened = opened::open(path)?;
    let digests = match &opened {
        Opened::Native(_, container) => {
            container.tensors().iter().map(|t| ((t.raw_offset, t.raw_len), t.digest)).collect()
        }
        Opened::BigSmall(file) if file.presented.container().is_delta() => {
            let text = "is a delta of bigsmall itself; migrate or decompress it first";
            return Err(Error::invalid(format!("{}: {text}", path.display())));
        }
        Opened::BigSmall(_) => Vec::new(),
    };
    let image = opened.image(engine, finder, None);
    BaseSource::new(Arc::new(ImageSource::anywhere(image, path)), &digests)
}

fn is_container(source: &FileSource) -> Result<bool> {
    let mut first = [0; bsfs::format::SNIFF_LEN];
    let got = source.read_at(0, &mut first)?;
    Ok(bsfs::format::sniff(first.get(..got).unwrap_or_default()) != bsfs::format::Sniff::Other && source.len() > 0)
}
