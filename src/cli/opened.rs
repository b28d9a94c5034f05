//! An open container of either format.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bsfs::engine::{BaseFile, Engine, EngineConfig, Finder, ForeignFormat, Image};
use bsfs::foreign::bigsmall::Presented;
use bsfs::foreign::{self, bigsmall};
use bsfs::format::{Container, SNIFF_LEN};
use bsfs::source::{FileSource, LocalTree, ReadAt, Tree};
use bsfs::tensor::{Header, TensorInfo};
use bsfs::{Error, Result};

use super::out::say;
use super::shards::Shards;

/// A container, by format.
pub enum Opened {
    Native(Arc<FileSource>, Arc<Container>),
    BigSmall(BigSmall),
}

/// A container of the package `bigsmall`, and the file that it is shown as.
pub struct BigSmall {
    pub source: Arc<FileSource>,
    pub presented: Arc<Presented>,
    /// What the shard index beside it adds: name and master.
    pub duplicates: Vec<(String, String)>,
    /// Why the shard index beside it, which may add tensors, could not be used.
    pub without_index: Option<Error>,
}

/// Opens a container of a local file.
pub fn open(path: &Path) -> Result<Opened> {
    let source = FileSource::open(path)?;
    let mut first = [0; SNIFF_LEN];
    let got = source.read_at(0, &mut first)?;
    let first = first.get(..got).unwrap_or_default();
    if !bigsmall::BigSmall.is_tried(first) {
        let container = Container::open(&source)?;
        return Ok(Opened::Native(Arc::new(source), Arc::new(container)));
    }
    let alone = bigsmall::open(&source)?;
    let source = Arc::new(source);
    let with_index = || -> Result<_> {
        let duplicates = match Shards::beside(path)? {
            Some(shards) => shards.duplicates(path),
            None => Vec::new(),
        };
        let pairs = duplicates.iter().map(|(name, master)| (&**name, &**master));
        let presented = Presented::new(alone.container(), pairs)?;
        Ok((Arc::new(presented), duplicates))
    };
    let (presented, duplicates, without_index) = match with_index() {
        Ok((presented, duplicates)) => (presented, duplicates, None),
        Err(error) => (alone, Vec::new(), Some(error)),
    };
    Ok(Opened::BigSmall(BigSmall { source, presented, duplicates, without_index }))
}

impl Opened {
    /// Length of the original, or of the shown file, bytes.
    pub fn raw_len(&self) -> u64 {
        match self {
            Self::Native(_, container) => container.raw_len(),
            Self::BigSmall(file) => file.presented.raw_len(),
        }
    }

    /// Its bytes; `finder` finds what ours refers to, `base` is for the tensors of a delta of bigsmall.
    pub fn image(self, engine: &Arc<Engine>, finder: &Arc<Finder>, base: Option<Arc<BaseFile>>) -> Image {
        match self {
            Self::Native(source, container) => {
                let local: Arc<dyn Tree> = Arc::new(LocalTree::default());
                finder.image(engine, container, (&local, source))
            }
            Self::BigSmall(file) => engine.foreign(file.presented, file.source, base),
        }
    }
}

impl BigSmall {
    /// Says that the shard index is of no use, if so.
    pub fn warn(&self) {
        if let Some(error) = &self.without_index {
            say(&format!("{error}; tensors that only it tells of are left out"));
        }
    }

    /// The shown file's tensors, in order of offset.
    pub fn tensors(&self) -> Result<Vec<TensorInfo>> {
        let header = self.presented.header();
        let parsed = header.get(8..).and_then(|json| Header::parse(json, self.presented.raw_len()));
        Ok(parsed.ok_or_else(|| self.strange("the header made for it cannot be read"))?.tensors)
    }

    /// The MD5 of each shown tensor's bytes, by name.
    pub fn md5s(&self) -> HashMap<&str, [u8; 16]> {
        let entries = self.presented.container().entries().iter();
        let mut md5s: HashMap<&str, [u8; 16]> = entries.map(|entry| (&*entry.name, entry.md5)).collect();
        for (name, master) in &self.duplicates {
            if let Some(&md5) = md5s.get(&**master) {
                md5s.insert(name, md5);
            }
        }
        md5s
    }

    /// Something that cannot be, of this file.
    pub fn strange(&self, what: &str) -> Error {
        Error::invalid(format!("{}: {what}; this is a defect in bsfs", self.source.path().display()))
    }
}

/// An engine for whole files.
pub fn engine(threads: usize) -> Arc<Engine> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if threads == 0 { cores } else { threads };
    // Tensors that are decoded at once, one a thread, wait in memory until their digest is known.
    let memory = (64 << 20) * (threads as u64).clamp(4, 16);
    Engine::new(EngineConfig { memory, threads, formats: foreign::FORMATS, ..EngineConfig::default() })
}
