//! Containers, opened: those of this crate and those of other packers.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use super::attr::Time;
use super::name::Maker;
use super::version::has_version;
use crate::engine::{ForeignFile, ForeignFormat};
use crate::error::{Error, Result};
use crate::format::{Container, SNIFF_LEN};
use crate::source::{Identity, ReadAt, Tree};

/// Below this many containers a thread costs more than it saves.
const OPENS_PER_THREAD: usize = 16;
/// More threads than this do not make a disk faster.
const MAX_OPENERS: usize = 8;

/// An open container; `Arc` because inodes and open files share it. Holds no open file.
#[derive(Debug, Clone)]
pub(super) enum Packed {
    /// One of this crate, which is shown as the file it was made from.
    Native(Arc<Container>),
    /// One of another packer, as the file that it is shown as.
    Foreign {
        /// With what the index of its directory adds to it.
        shown: Arc<dyn ForeignFile>,
        /// Without.
        alone: Arc<dyn ForeignFile>,
    },
}

impl Packed {
    /// Who wrote it.
    pub(super) fn maker(&self) -> Maker {
        match self {
            Self::Native(_) => Maker::Native,
            Self::Foreign { shown, .. } => Maker::Foreign(shown.format()),
        }
    }

    /// The foreign format.
    pub(super) fn foreign(&self) -> Option<&'static dyn ForeignFormat> {
        match self {
            Self::Native(_) => None,
            Self::Foreign { shown, .. } => Some(shown.format()),
        }
    }

    /// Length of the file that is shown, bytes.
    pub(super) fn raw_len(&self) -> u64 {
        match self {
            Self::Native(container) => container.raw_len(),
            Self::Foreign { shown, .. } => shown.raw_len(),
        }
    }

    /// Modification time of the file that was packed. Foreign containers do not keep it.
    pub(super) fn mtime(&self) -> Option<Time> {
        match self {
            Self::Native(container) => Some(container.mtime()),
            Self::Foreign { .. } => None,
        }
    }

    /// Bytes of memory that the metadata takes, about.
    pub(super) fn memory(&self) -> u64 {
        match self {
            Self::Native(container) => container.memory(),
            Self::Foreign { shown, .. } => shown.memory(),
        }
    }

    /// Opens what `source` holds, a container of ours or of one of `formats`.
    pub(super) fn read(source: &dyn ReadAt, formats: &[&'static dyn ForeignFormat]) -> Result<Self> {
        let mut first = [0u8; SNIFF_LEN];
        let len = source.read_at(0, &mut first)?;
        let first = first.get(..len).unwrap_or_default();
        if let Some(format) = formats.iter().find(|format| format.is_tried(first)) {
            let alone = format.open(source)?;
            return Ok(Self::Foreign { shown: Arc::clone(&alone), alone });
        }
        // Our own format says what is wrong with anything else.
        Ok(Self::Native(Arc::new(Container::open(source)?)))
    }
}

/// A container of a directory.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    pub(super) identity: Identity,
    pub(super) packed: Packed,
    /// The version of the shard index beside it by which it is shown; `None` when there was none, or it needs none.
    pub(super) index: Option<Identity>,
    /// Whether it shows all that the index says.
    pub(super) whole: bool,
}

impl Opened {
    /// Whether the shard index by which it is shown still is that of its directory.
    pub(super) fn index_unchanged(&self, tree: &dyn Tree, dir: &Path) -> bool {
        let index = self.packed.foreign().map(|format| dir.join(format.index_name()));
        index.is_none_or(|path| has_version(tree, &path, self.index, None))
    }
}

/// Opens containers of a directory, several at a time when there are many. Results are in the order of `files`.
pub(super) fn open_all(
    tree: &dyn Tree,
    dir: &Path,
    files: &[(OsString, Identity)],
    formats: &[&'static dyn ForeignFormat],
) -> Vec<Result<Opened>> {
    let open = |(name, _): &(OsString, Identity)| open(tree, &dir.join(name), formats);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if tree.is_local() {
        cores.clamp(2, MAX_OPENERS).min(files.len() / OPENS_PER_THREAD)
    } else {
        // They wait for answers and nothing else.
        MAX_OPENERS.min(files.len())
    };
    if threads < 2 {
        return files.iter().map(open).collect();
    }
    std::thread::scope(|scope| {
        let workers: Vec<_> = files
            .chunks(files.len().div_ceil(threads))
            .map(|part| {
                let work = move || part.iter().map(open).collect::<Vec<_>>();
                std::thread::Builder::new().spawn_scoped(scope, work).map_err(|_| part)
            })
            .collect();
        let done = workers.into_iter().flat_map(|worker| match worker {
            Ok(worker) => worker.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload)),
            // No thread could be made for these.
            Err(part) => part.iter().map(open).collect(),
        });
        done.collect()
    })
}

/// Opens one file as a container; the descriptor is closed again, the identity says what was read.
fn open(tree: &dyn Tree, path: &Path, formats: &[&'static dyn ForeignFormat]) -> Result<Opened> {
    let changed = || Error::Changed { path: path.to_path_buf() };
    let source = tree.open(path)?;
    let packed = Packed::read(&*source, formats)?;
    if !source.unchanged()? {
        return Err(changed());
    }
    Ok(Opened { identity: source.identity().ok_or_else(changed)?, packed, index: None, whole: true })
}
