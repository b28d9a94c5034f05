//! Containers, opened: those of this crate and those of the Python package `bigsmall`.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use super::attr::Time;
use super::name::Maker;
use super::version::has_version;
use crate::engine::Presented;
use crate::error::{Error, Result};
use crate::format::bigsmall::SHARD_INDEX;
use crate::format::{Container, SNIFF_LEN, Sniff, bigsmall, sniff};
use crate::source::{Identity, ReadAt, Tree};

/// First bytes of a `.bsd` file, which no release of this crate reads. Its own format says so best.
const DUAL: &[u8] = b"BGSD";
/// Below this many containers a thread costs more than it saves.
const OPENS_PER_THREAD: usize = 16;
/// More threads than this do not make a disk faster.
const MAX_OPENERS: usize = 8;

/// An open container; `Arc` because inodes and open files share it. Holds no open file.
#[derive(Debug, Clone)]
pub(super) enum Packed {
    /// One of this crate, which is shown as the file it was made from.
    Native(Arc<Container>),
    /// One of `bigsmall`, and the file that it is shown as.
    BigSmall(Arc<Presented>),
}

impl Packed {
    /// Who wrote it.
    pub(super) fn maker(&self) -> Maker {
        match self {
            Self::Native(_) => Maker::Native,
            Self::BigSmall(_) => Maker::BigSmall,
        }
    }

    pub(super) fn is_bigsmall(&self) -> bool {
        self.maker() == Maker::BigSmall
    }

    /// Length of the file that is shown, bytes.
    pub(super) fn raw_len(&self) -> u64 {
        match self {
            Self::Native(container) => container.raw_len(),
            Self::BigSmall(presented) => presented.raw_len(),
        }
    }

    /// Modification time of the file that was packed. `bigsmall` does not keep it.
    pub(super) fn mtime(&self) -> Option<Time> {
        match self {
            Self::Native(container) => Some(container.mtime()),
            Self::BigSmall(_) => None,
        }
    }

    /// Bytes of memory that the metadata takes, about.
    pub(super) fn memory(&self) -> u64 {
        match self {
            Self::Native(container) => container.memory(),
            Self::BigSmall(presented) => presented.memory(),
        }
    }

    /// Opens what `source` holds.
    pub(super) fn read(source: &dyn ReadAt) -> Result<Self> {
        let mut first = [0u8; SNIFF_LEN];
        let len = source.read_at(0, &mut first)?;
        let first = first.get(..len).unwrap_or_default();
        match sniff(first) {
            Sniff::BigSmall => Self::read_bigsmall(source),
            Sniff::Other if first.starts_with(DUAL) => Self::read_bigsmall(source),
            // Let the format say what is wrong with anything else.
            Sniff::Native | Sniff::Other => Ok(Self::Native(Arc::new(Container::open(source)?))),
        }
    }

    fn read_bigsmall(source: &dyn ReadAt) -> Result<Self> {
        let container = Arc::new(bigsmall::Container::open(source)?);
        Ok(Self::BigSmall(Arc::new(Presented::new(&container, [])?)))
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
        !self.packed.is_bigsmall() || has_version(tree, &dir.join(SHARD_INDEX), self.index, None)
    }
}

/// Opens containers of a directory, several at a time when there are many. Results are in the order of `files`.
pub(super) fn open_all(tree: &dyn Tree, dir: &Path, files: &[(OsString, Identity)]) -> Vec<Result<Opened>> {
    let open = |(name, _): &(OsString, Identity)| open(tree, &dir.join(name));
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
fn open(tree: &dyn Tree, path: &Path) -> Result<Opened> {
    let changed = || Error::Changed { path: path.to_path_buf() };
    let source = tree.open(path)?;
    let packed = Packed::read(&*source)?;
    if !source.unchanged()? {
        return Err(changed());
    }
    Ok(Opened { identity: source.identity().ok_or_else(changed)?, packed, index: None, whole: true })
}
