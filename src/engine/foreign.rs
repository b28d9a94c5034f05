//! Containers that other packers wrote, as the engine and the layers above see them.
//!
//! A [`ForeignFormat`] opens files, a [`ForeignFile`] is one of them as the plain file that it is shown as, and its
//! [`Content`] is what an image reads. [`EngineConfig::formats`](super::EngineConfig::formats) lists the formats in use.

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::bases::BaseFile;
use super::content::Content;
use super::foreign_state::ForeignState;
use super::shared::Core;
use crate::error::{Error, Result};
use crate::source::{Identity, ReadAt, Tree};

/// Longest index that is read, bytes.
const MAX_INDEX: u64 = 64 << 20;

/// A format of another packer.
pub trait ForeignFormat: Debug + Sync {
    /// One word for it; two formats have two.
    fn name(&self) -> &'static str;

    /// Whether a file that begins with `first` is opened as one of this format. `first` has
    /// [`SNIFF_LEN`](crate::format::SNIFF_LEN) bytes, or those of a shorter file.
    fn is_tried(&self, first: &[u8]) -> bool;

    /// What names of such files end in. In a directory other names are not looked into.
    fn suffixes(&self) -> &'static [&'static str];

    /// The name under which a file of this name is shown; `None` where it keeps its own.
    fn shown_name(&self, name: &OsStr) -> Option<OsString>;

    /// Opens the container that `source` holds.
    ///
    /// # Errors
    /// Those of the source, and what is wrong with the container.
    fn open(&self, source: &dyn ReadAt) -> Result<Arc<dyn ForeignFile>>;

    /// Name of the file that says more of the containers in its directory.
    fn index_name(&self) -> &'static str;

    /// Reads that file.
    ///
    /// # Errors
    /// What is wrong with `text`, the file's bytes; errors name `path`.
    fn read_index(&self, path: &Path, text: &[u8]) -> Result<Arc<dyn ForeignIndex>>;

    /// What all open files of this format share in one engine, whose memory is `memory` bytes.
    fn state(&self, memory: u64) -> Arc<dyn ForeignState>;
}

/// An open container, as the safetensors file that it is shown as.
pub trait ForeignFile: Any + Debug + Send + Sync {
    /// The format.
    fn format(&self) -> &'static dyn ForeignFormat;

    /// The file that errors name.
    fn path(&self) -> &Path;

    /// Length of the shown file, bytes.
    fn raw_len(&self) -> u64;

    /// Bytes of all its tensors.
    fn tensor_bytes(&self) -> u64;

    /// Its first bytes, up to the first tensor.
    fn header(&self) -> &[u8];

    /// Bytes of memory that the metadata takes, about.
    fn memory(&self) -> u64;

    /// What it needs of another file; `None` for a container that needs none.
    fn needs(&self) -> Option<Needs<'_>>;

    /// What an image reads. `state` is that of its format, `source` must be the one that the file was read from, and `base` is
    /// what it [needs](Self::needs): without one, tensors that need it are errors.
    fn content(
        self: Arc<Self>,
        state: Arc<dyn ForeignState>,
        source: Arc<dyn ReadAt>,
        base: Option<Arc<BaseFile>>,
    ) -> Arc<dyn Content>;

    /// See [`Engine::verify_foreign`](super::Engine::verify_foreign).
    ///
    /// # Errors
    /// The same.
    fn verify(
        self: Arc<Self>,
        pool: &rayon::ThreadPool,
        with: (&Arc<Core>, Arc<dyn ForeignState>),
        from: (Arc<dyn ReadAt>, Option<Arc<BaseFile>>),
        stop: &AtomicBool,
        done: &mut dyn FnMut(u64),
    ) -> Result<usize>;
}

/// What a delta needs of the file that it was made from.
#[derive(Debug)]
pub struct Needs<'a> {
    /// What the container says where that file was; a stranger's text, good for a name only.
    pub hint: Option<&'a str>,
    /// The tensors that it refers to, and their lengths, bytes.
    pub tensors: Vec<(&'a str, u64)>,
}

/// The file of a directory that says more of its containers, read.
pub trait ForeignIndex: Debug + Send + Sync {
    /// The containers of the model, by name.
    fn shards(&self) -> &[String];

    /// `file`, the container of this name, with what the index adds to it; `None` when that is nothing.
    ///
    /// # Errors
    /// Why it cannot be added.
    fn apply(&self, name: &str, file: &Arc<dyn ForeignFile>) -> Result<Option<Arc<dyn ForeignFile>>>;

    /// A `model.safetensors.index.json` for the shown files: for each shard its name, its shown name and itself.
    ///
    /// # Errors
    /// What the index says and the shards do not hold.
    fn weight_index(&self, shards: &[(&str, String, &Arc<dyn ForeignFile>)]) -> Result<Vec<u8>, String>;
}

/// Reads the file of a directory that says more of its containers, and gives the version that was read.
///
/// # Errors
/// Those of the file, [`Error::TooLarge`], [`Error::Changed`], and what is wrong with its text.
pub fn read_index(
    tree: &dyn Tree,
    path: &Path,
    format: &dyn ForeignFormat,
) -> Result<(Identity, Arc<dyn ForeignIndex>)> {
    let changed = || Error::Changed { path: path.into() };
    let source = tree.open(path)?;
    if source.len() > MAX_INDEX {
        let what = "the length of the shard index";
        return Err(Error::TooLarge { path: path.into(), what, limit: MAX_INDEX, got: source.len() });
    }
    let mut text = vec![0; source.len() as usize];
    source.read_exact_at(0, &mut text)?;
    if !source.unchanged()? {
        return Err(changed());
    }
    Ok((source.identity().ok_or_else(changed)?, format.read_index(path, &text)?))
}
