//! What a scan of a directory gives: each name of the source, what it is, and the name that it is shown under.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::link::Link;
use super::packed::Opened;
use super::shard_index::{Generated, Index};
use super::version::has_version;
use crate::access::Access;
use crate::engine::Troubles;
use crate::error::{Error, Result};
use crate::source::{Identity, Stat, Timestamp, Tree};

/// Device and inode number of a directory.
pub(super) type DirId = (u64, u64);

/// What `stat` of a directory says about its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) id: DirId,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) access: Option<Access>,
}

impl Stamp {
    /// What is there now.
    pub(super) fn take(tree: &dyn Tree, path: &Path) -> Result<Self> {
        match tree.stat(path).map_err(Error::io("stat", path))? {
            Stat::Directory { id, mtime, ctime, access } => Ok(Self { id, mtime, ctime, access }),
            _ => Err(Error::io("list", path)(std::io::ErrorKind::NotADirectory.into())),
        }
    }
}

/// Where a directory's entries come from.
#[derive(Debug)]
pub(super) struct Place {
    /// What it is a part of.
    pub(super) tree: Arc<dyn Tree>,
    /// The directory.
    pub(super) path: PathBuf,
    /// Show this name only: the source is one file.
    pub(super) only: Option<OsString>,
    /// The directory itself and those above it, up to the source.
    pub(super) ancestors: Vec<DirId>,
}

/// What a name of the source is.
#[derive(Debug, Clone)]
pub(super) enum Class {
    /// A directory, and what `stat` said of it.
    Directory(Stamp),
    /// A file shown as it is.
    Plain(Identity),
    /// A container.
    Container(Opened),
    /// A shard index that no file of the source holds.
    Generated(Arc<Generated>),
    /// A link that is shown as one.
    Link(Link),
}

impl Class {
    /// Whether it was on another file system than its directory.
    pub(super) fn is_beyond(&self, directory: &Stamp) -> bool {
        let device = match self {
            Self::Directory(stamp) => stamp.id.0,
            Self::Plain(identity) => identity.dev,
            Self::Container(opened) => opened.identity.dev,
            Self::Generated(_) | Self::Link(_) => return false,
        };
        device != directory.id.0
    }

    /// Whether `name` in `dir`, a file with `access` if it is one, still is what was found, as far as `stat` can say.
    pub(super) fn unchanged(&self, tree: &dyn Tree, dir: &Path, (name, access): (&OsStr, Option<Access>)) -> bool {
        match self {
            Self::Directory(stamp) => {
                matches!(tree.stat(&dir.join(name)), Ok(Stat::Directory { id: now, .. }) if now == stamp.id)
            }
            Self::Plain(identity) => has_version(tree, &dir.join(name), Some(*identity), access),
            Self::Container(opened) => {
                has_version(tree, &dir.join(name), Some(opened.identity), access) && opened.index_unchanged(tree, dir)
            }
            Self::Generated(generated) => generated.unchanged(tree, dir),
            Self::Link(link) => link.unchanged(tree, &dir.join(name)),
        }
    }
}

/// One name of the source, settled.
#[derive(Debug)]
pub(super) struct Found {
    /// The name in the source.
    pub(super) source: OsString,
    /// The name that it is shown under.
    pub(super) shown: OsString,
    /// What it is.
    pub(super) class: Class,
    /// Whether a container is shown as the original.
    pub(super) decoded: bool,
    /// Who may read the file; `None` for what is no file, or of a tree that does not know users.
    pub(super) access: Option<Access>,
}

/// Everything known of a directory at one moment.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) stamp: Stamp,
    /// When the scan ended, and how long it took.
    pub(super) taken: Instant,
    pub(super) took: Duration,
    /// Whether an unchanged stamp proves unchanged names.
    pub(super) settled: bool,
    /// Sorted by shown name.
    pub(super) found: Vec<Found>,
    pub(super) notes: Notes,
}

impl Scan {
    /// Notes what is wrong with names of `directory`, which was scanned.
    pub(super) fn note(&self, troubles: &Troubles, directory: &Path) {
        let containers = self.found.iter().filter(|found| matches!(found.class, Class::Container(_)));
        let containers: HashSet<&OsStr> = containers.map(|found| found.source.as_os_str()).collect();
        let wrong = self.notes.unopened.values().chain(&self.notes.remarks).cloned().collect();
        troubles.scanned(directory, wrong, |file| file.file_name().is_some_and(|name| containers.contains(name)));
    }
}

/// What a scan learns besides names. The next one goes on from there.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// What was logged, so that nothing is repeated.
    pub(super) remarks: BTreeSet<String>,
    /// The directory's shard index, if it has one and containers that may need it.
    pub(super) index: Option<Arc<Index>>,
    /// What was made of it for readers of plain files, if it could be.
    pub(super) generated: Option<Arc<Generated>>,
    /// What is wrong with files that may be containers and cannot be opened as such, by name.
    pub(super) unopened: BTreeMap<OsString, String>,
    /// Names of which the system could not tell what they are, this time.
    pub(super) failed: HashSet<OsString>,
}

/// What each name of the source was in the last scan, and who might read it if it was a file.
pub(super) type Known<'a> = HashMap<&'a OsStr, (&'a Class, Option<Access>)>;
