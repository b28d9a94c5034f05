//! Directories of files, wherever they are: what a mount shows.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::confined::Confined;
use super::descriptors::with_room;
use super::stat::Stat;
use super::{FileSource, ReadAt, TimeCounts, waits, way};
use crate::access::Acl;
use crate::error::{Error, Result};

/// What was asked of servers so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Requests for bytes, those for a second time included.
    pub requests: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// Requests made again after a failure.
    pub retries: u64,
    /// Second requests for bytes that were late.
    pub hedges: u64,
    /// Answers that asked to slow down.
    pub throttled: u64,
    /// Reads that failed.
    pub failures: u64,
    /// Requests ahead of readers that may run at once, now.
    pub window: u64,
    /// The last requests failed for all their patience.
    pub down: bool,
    /// Answers by kind of request ("read", "list") and what they were: "read ok", "list denied".
    #[serde(default)]
    pub answers: BTreeMap<String, u64>,
    /// Times until answers to requests for bytes began.
    #[serde(default)]
    pub first_byte: TimeCounts,
}

/// A tree of directories and files that is only read. Called from many threads at once.
pub trait Tree: Debug + Send + Sync {
    /// What `path` leads to.
    ///
    /// # Errors
    /// Why that cannot be said; [`io::ErrorKind::NotFound`] when there is nothing, or a link that leads to nothing.
    fn stat(&self, path: &Path) -> io::Result<Stat>;

    /// What `path` is; of a link itself. In a tree without links what [`stat`](Tree::stat) says.
    ///
    /// # Errors
    /// Those of [`stat`](Tree::stat), but for links that lead to nothing.
    fn stat_link(&self, path: &Path) -> io::Result<Stat> {
        self.stat(path)
    }

    /// The text of a link.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for what is no link, as everything is in a tree without any; those of the system.
    fn read_link(&self, _path: &Path) -> io::Result<PathBuf> {
        Err(io::ErrorKind::InvalidInput.into())
    }

    /// The names in a directory, in any order.
    ///
    /// # Errors
    /// Those of listing it.
    fn names(&self, path: &Path) -> Result<Vec<OsString>>;

    /// The same, each with whether it is a directory by its own entry, as far as that is known without looking at it.
    ///
    /// # Errors
    /// Those of listing it.
    fn entries(&self, path: &Path) -> Result<Vec<(OsString, bool)>> {
        Ok(self.names(path)?.into_iter().map(|name| (name, false)).collect())
    }

    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened, [`Error::Invalid`] when it is no regular file.
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadAt>>;

    /// Whether paths are those of the system, so that links and the mount point may be met on the way.
    fn is_local(&self) -> bool;

    /// Whether users read it who may not read all that this process may, so that links are followed in some places only.
    fn is_confined(&self) -> bool {
        false
    }

    /// What was asked of servers for it; `None` without any.
    fn traffic(&self) -> Option<Traffic> {
        None
    }
}

/// The files of this machine. On [ways](way) round a mount links are not followed.
#[derive(Debug, Clone, Default)]
pub struct LocalTree {
    /// Open for what is below it, and not used otherwise.
    _held: Option<Arc<OwnedFd>>,
    /// Where links may lead, if not anywhere.
    confined: Option<Arc<Confined>>,
}

impl LocalTree {
    /// The tree that keeps a directory [open](way::keep_open) for as long as it lives, because it is mounted over, and the way to
    /// that directory; `confined` when users read it who may not read all that this process may.
    #[must_use]
    pub fn holding(directory: OwnedFd, confined: bool) -> (Self, PathBuf) {
        let path = way::way(&directory);
        let confined = confined.then(|| Arc::new(Confined::new(Vec::new(), None)));
        (Self { _held: Some(Arc::new(directory)), confined }, path)
    }

    /// The tree for readers who may not read all that this process may: links are followed only where they lead into one of `places`,
    /// which are paths without links, and what they lead to is accessible only to users who could go there
    /// themselves. It does not look at `exclude`.
    #[must_use]
    pub fn confined(places: Vec<PathBuf>, exclude: Option<PathBuf>) -> Self {
        Self { _held: None, confined: Some(Arc::new(Confined::new(places, exclude))) }
    }

    /// Where links of this path may lead, if not anywhere.
    fn confines(&self, path: &Path) -> Option<&Confined> {
        self.confined.as_deref().filter(|_| !way::is_way(path))
    }
}

impl Tree for LocalTree {
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let _call = waits::call();
        match self.confines(path) {
            Some(confined) => confined.stat(path),
            None => way::metadata(path).map(|meta| Stat::of(&meta, || Acl::of_path(path), &[])),
        }
    }

    fn stat_link(&self, path: &Path) -> io::Result<Stat> {
        let _call = waits::call();
        match self.confines(path) {
            Some(confined) => confined.stat_link(path),
            None => way::symlink_metadata(path).map(|meta| Stat::of(&meta, || Acl::of_path(path), &[])),
        }
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        let _call = waits::call();
        match self.confines(path) {
            Some(confined) => confined.read_link(path),
            None => way::read_link(path),
        }
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>> {
        Ok(self.entries(path)?.into_iter().map(|(name, _)| name).collect())
    }

    fn entries(&self, path: &Path) -> Result<Vec<(OsString, bool)>> {
        let _call = waits::call();
        with_room(|| match self.confines(path) {
            Some(confined) => confined.entries(path),
            None => way::entries(path),
        })
        .map_err(Error::io("list", path))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadAt>> {
        let confined = self.confined.as_ref().filter(|_| !way::is_way(path));
        Ok(Arc::new(FileSource::open_in(path, confined)?))
    }

    fn is_local(&self) -> bool {
        true
    }

    fn is_confined(&self) -> bool {
        self.confined.is_some()
    }
}
