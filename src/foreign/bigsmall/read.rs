//! The format as the engine and the layers above it see it.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::NAME;
use super::format::{Container, Content as Stored, MAGIC, SHARD_INDEX, ShardIndex};
use super::streams::{Image, Presented, Shown, Streams, verify};
use crate::engine::content::Content;
use crate::engine::{BaseFile, Core, ForeignFile, ForeignFormat, ForeignIndex, ForeignState, Needs};
use crate::error::Result;
use crate::source::ReadAt;

/// First bytes of a `.bsd` file, which no release of this crate reads. The parser says so best.
const DUAL: &[u8] = b"BGSD";
/// What the shown files are.
const SAFETENSORS: &[u8] = b".safetensors";
/// Longest name of a file, bytes.
const MAX_NAME: usize = 255;

/// The containers of the Python package `bigsmall`.
#[derive(Debug)]
pub struct BigSmall;

/// Opens a container as the file that it is shown as, without what a shard index may add.
///
/// # Errors
/// Those of the source, and what is wrong with the container.
pub fn open(source: &dyn ReadAt) -> Result<Arc<Presented>> {
    Ok(Arc::new(Presented::new(&Arc::new(Container::open(source)?), [])?))
}

impl ForeignFormat for BigSmall {
    fn name(&self) -> &'static str {
        NAME
    }

    fn is_tried(&self, first: &[u8]) -> bool {
        first.starts_with(&MAGIC) || first.starts_with(DUAL)
    }

    /// Runtime files (`.bsr`) are containers like others; dual files (`.bsd`) are tried, so that the log says why not.
    fn suffixes(&self) -> &'static [&'static str] {
        &[".bs", ".bsr", ".bsd"]
    }

    fn shown_name(&self, name: &OsStr) -> Option<OsString> {
        let name = name.as_bytes();
        let stem = name.strip_suffix(b".bs").or_else(|| name.strip_suffix(b".bsr"))?;
        if matches!(stem, b"" | b"." | b"..") {
            return None;
        }
        let mut shown = stem.to_vec();
        if !stem.ends_with(SAFETENSORS) {
            shown.extend_from_slice(SAFETENSORS);
        }
        // The suffix may make the name longer than file systems and the kernel accept.
        (shown.len() <= MAX_NAME).then(|| OsString::from_vec(shown))
    }

    fn open(&self, source: &dyn ReadAt) -> Result<Arc<dyn ForeignFile>> {
        Ok(open(source)?)
    }

    fn index_name(&self) -> &'static str {
        SHARD_INDEX
    }

    fn read_index(&self, path: &Path, text: &[u8]) -> Result<Arc<dyn ForeignIndex>> {
        Ok(Arc::new(ShardIndex::parse(path, text)?))
    }

    fn state(&self, memory: u64) -> Arc<dyn ForeignState> {
        Arc::new(Streams::new(memory))
    }
}

/// The streams of an engine. Without memory for a state of another format, which no engine passes.
fn streams(state: Arc<dyn ForeignState>) -> Arc<Streams> {
    let any: Arc<dyn std::any::Any + Send + Sync> = state;
    any.downcast().unwrap_or_else(|_| Arc::new(Streams::new(0)))
}

impl ForeignFile for Presented {
    fn format(&self) -> &'static dyn ForeignFormat {
        &BigSmall
    }

    fn path(&self) -> &Path {
        self.container().path()
    }

    fn raw_len(&self) -> u64 {
        self.raw_len()
    }

    fn tensor_bytes(&self) -> u64 {
        self.tensor_bytes()
    }

    fn header(&self) -> &[u8] {
        self.header()
    }

    fn memory(&self) -> u64 {
        self.memory()
    }

    fn needs(&self) -> Option<Needs<'_>> {
        let container = self.container();
        let differences = container.entries().iter().filter(|entry| matches!(entry.content, Stored::Xor(_)));
        container.is_delta().then(|| Needs {
            hint: container.base_model(),
            tensors: differences.map(|entry| (&*entry.name, entry.raw_len)).collect(),
        })
    }

    fn content(
        self: Arc<Self>,
        state: Arc<dyn ForeignState>,
        source: Arc<dyn ReadAt>,
        base: Option<Arc<BaseFile>>,
    ) -> Arc<dyn Content> {
        Arc::new(Image(Arc::new(Shown::new(self, streams(state), source, base))))
    }

    fn verify(
        self: Arc<Self>,
        pool: &rayon::ThreadPool,
        (core, state): (&Arc<Core>, Arc<dyn ForeignState>),
        (source, base): (Arc<dyn ReadAt>, Option<Arc<BaseFile>>),
        stop: &AtomicBool,
        done: &mut dyn FnMut(u64),
    ) -> Result<usize> {
        verify(&Shown::new(self, streams(state), source, base), pool, core, stop, done)
    }
}

impl ForeignIndex for ShardIndex {
    fn shards(&self) -> &[String] {
        self.shards()
    }

    fn apply(&self, name: &str, file: &Arc<dyn ForeignFile>) -> Result<Option<Arc<dyn ForeignFile>>> {
        let (duplicates, Some(file)) = (self.duplicates(name), presented(file)) else { return Ok(None) };
        if duplicates.is_empty() {
            return Ok(None);
        }
        let pairs = duplicates.iter().map(|duplicate| (&*duplicate.name, &*duplicate.master));
        Ok(Some(Arc::new(Presented::new(file.container(), pairs)?)))
    }

    fn weight_index(&self, shards: &[(&str, String, &Arc<dyn ForeignFile>)]) -> Result<Vec<u8>, String> {
        let total = shards.iter().map(|(.., file)| file.tensor_bytes()).fold(0, u64::saturating_add);
        let shown: HashMap<&str, &str> = shards.iter().map(|(name, shown, _)| (*name, &**shown)).collect();
        let text = self.weight_index(total, |name| shown.get(name).copied().unwrap_or_default().to_owned());
        let files = shards.iter().filter_map(|(name, _, file)| Some((*name, presented(file)?)));
        check(self, &files.collect(), &text)?;
        Ok(text)
    }
}

/// A file of this format.
fn presented(file: &Arc<dyn ForeignFile>) -> Option<&Presented> {
    let any: &dyn std::any::Any = &**file;
    any.downcast_ref()
}

/// Looks up every tensor as a reader of the text would: in the shard that is named for it.
fn check(index: &ShardIndex, shards: &HashMap<&str, &Presented>, text: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Made {
        weight_map: HashMap<String, IgnoredAny>,
    }
    let made: Made = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let mut there = HashSet::new();
    let mut stored = HashSet::new();
    for (shard, presented) in shards {
        let entries = presented.container().entries();
        there.extend(entries.iter().map(|entry| (*shard, entry.name.as_str())));
        stored.extend(entries.iter().map(|entry| entry.name.as_str()));
    }
    for shard in shards.keys() {
        let duplicates = index.duplicates(shard);
        // It may hold other bytes there, and then nobody knows which are meant.
        if let Some(both) = duplicates.iter().find(|duplicate| stored.contains(duplicate.name.as_str())) {
            return Err(format!("tensor '{}' is said to be stored in none, and is stored", both.name));
        }
        there.extend(duplicates.iter().map(|duplicate| (*shard, duplicate.name.as_str())));
    }
    for tensor in made.weight_map.keys() {
        let shard = index.shard_of(tensor).unwrap_or_default();
        if !there.contains(&(shard, tensor.as_str())) {
            return Err(format!("tensor '{}' is not in {}", tensor, shard));
        }
    }
    Ok(())
}
