//! Directories of BigSmall shards: the index that they come with, and the one that plain shards need.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use bsfs::foreign::bigsmall::format::{MAX_HEADER, SHARD_INDEX, ShardIndex, shown_name};
use bsfs::longpath;
pub use bsfs::longpath::directory;
use bsfs::sink::{AtomicFile, aside};
use bsfs::source::{FileSource, Identity, ReadAt};
use bsfs::{Error, Result};

use super::out::{say, with_bs};
use super::version::is_version;

/// Name of the index that readers of plain shards look for.
const PLAIN_INDEX: &str = "model.safetensors.index.json";

/// The shard index of a directory.
pub struct Shards {
    path: PathBuf,
    version: Identity,
    index: ShardIndex,
}

impl Shards {
    /// That of the directory in which `file` lies; `None` when there is none.
    pub fn beside(file: &Path) -> Result<Option<Self>> {
        Self::of(directory(file))
    }

    /// That of a directory.
    pub fn of(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(SHARD_INDEX);
        if longpath::symlink_metadata(&path).is_err() {
            return Ok(None);
        }
        let source = FileSource::open(&path)?;
        if source.len() > MAX_HEADER {
            let what = "the length of the shard index";
            return Err(Error::TooLarge { path, what, limit: MAX_HEADER, got: source.len() });
        }
        let mut json = vec![0; source.len() as usize];
        source.read_exact_at(0, &mut json)?;
        let index = ShardIndex::parse(&path, &json)?;
        Ok(Some(Self { path, version: source.identity(), index }))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name and master of what it adds to the container `file`.
    pub fn duplicates(&self, file: &Path) -> Vec<(String, String)> {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        self.index.duplicates(name).iter().map(|d| (d.name.clone(), d.master.clone())).collect()
    }

    /// The containers that it lists.
    pub fn files(&self) -> Vec<PathBuf> {
        let dir = directory(&self.path);
        self.index.shards().iter().map(|name| dir.join(name)).collect()
    }

    /// Those that are not there, nor what they become when they are migrated.
    pub fn missing(&self) -> Vec<PathBuf> {
        let is_file = |file: &Path| longpath::metadata(file).is_ok_and(|meta| meta.is_file());
        let there = |file: &PathBuf| is_file(file) || migrated(file).is_some_and(|file| is_file(&file));
        self.files().into_iter().filter(|file| !there(file)).collect()
    }

    /// Removes the index, in the version that was read; gives its bytes.
    pub fn remove(&self) -> Result<u64> {
        aside::remove_version(&self.path, &|meta| is_version(self.version, meta))?;
        sync(&self.path)?;
        Ok(self.version.len)
    }

    /// Writes the index of the plain shards into `dir`, unless it is there or there is one shard only. `total_size` is the
    /// bytes of all tensors. Gives what was written, which no more users may read than the index of BigSmall.
    pub fn write_plain(&self, dir: &Path, total_size: u64) -> Result<Option<PathBuf>> {
        let path = dir.join(PLAIN_INDEX);
        if self.index.shards().len() < 2 || longpath::symlink_metadata(&path).is_ok() {
            return Ok(None);
        }
        let text = self.index.weight_index(total_size, |shard| shown_name(shard).unwrap_or_else(|| shard.to_owned()));
        let mut file = AtomicFile::create(&path, false)?;
        if let Some(attributes) = FileSource::open(&self.path)?.attributes()? {
            file.narrow(&attributes)?.iter().for_each(|note| say(note));
        }
        file.write_all(&text).map_err(Error::io("write", &path))?;
        file.publish()?;
        Ok(Some(path))
    }
}

/// Shards that were done, until their directory is complete.
#[derive(Default)]
pub struct Progress(HashMap<PathBuf, Done>);

/// What was done of a directory.
#[derive(Default)]
struct Done {
    shards: HashMap<PathBuf, u64>,
    output: PathBuf,
}

impl Progress {
    /// `input`, with so many bytes of tensors, was written to `output`.
    pub fn done(&mut self, input: &Path, output: &Path, tensor_bytes: u64) {
        let of = self.0.entry(directory(input).to_path_buf()).or_default();
        of.shards.insert(input.to_path_buf(), tensor_bytes);
        of.output = directory(output).to_path_buf();
    }

    /// `shard` is a container of ours already: an earlier run may have ended before the index of its directory was done.
    pub fn begun(&mut self, shard: &Path) {
        let dir = directory(shard);
        if !self.0.contains_key(dir) && longpath::symlink_metadata(&dir.join(SHARD_INDEX)).is_ok() {
            self.0.insert(dir.into(), Done { shards: HashMap::new(), output: dir.into() });
        }
    }

    /// Whether there is an index that may have to be done.
    pub fn has_index(&self) -> bool {
        !self.0.is_empty()
    }

    /// The directories of which every shard was done: their index, where the shards went, the bytes of all tensors. `earlier`
    /// gives the bytes of a shard's tensors that another run has done, by the name that it has among the outputs.
    pub fn complete(self, earlier: impl Fn(&Path) -> Option<u64>) -> Vec<(Shards, PathBuf, u64)> {
        let mut complete: Vec<_> = self
            .0
            .into_iter()
            .filter_map(|(dir, done)| {
                // One that cannot be read was complained of with its shards.
                let shards = Shards::of(&dir).ok().flatten()?;
                let before = |file: &Path| earlier(&done.output.join(migrated(file)?.file_name()?));
                let size = |file: &PathBuf| done.shards.get(file).copied().or_else(|| before(file));
                let sizes: Option<Vec<u64>> = shards.files().iter().map(size).collect();
                Some((shards, done.output, sizes?.iter().sum()))
            })
            .collect();
        complete.sort_by(|a, b| a.0.path.cmp(&b.0.path));
        complete
    }
}

/// What a shard is called when it is migrated.
fn migrated(shard: &Path) -> Option<PathBuf> {
    let name = shown_name(shard.file_name()?.to_str()?)?;
    Some(with_bs(&shard.with_file_name(name)))
}

/// Makes what became of the name of a file last.
pub fn sync(path: &Path) -> Result<()> {
    let dir = directory(path);
    longpath::sync_directory(dir).map_err(Error::io("write to disk", dir))
}
