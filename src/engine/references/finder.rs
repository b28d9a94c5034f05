//! Where bases are looked for, and the files that were found: what searches share.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use super::BaseFile;
use crate::access::Access;
use crate::engine::sync::{Mutex, MutexGuard, lock};
use crate::error::Result;
use crate::format::Container;
use crate::source::{Identity, LocalTree, ReadAt, Stat, Tree, way};

/// Bases that stay known when nobody needs them: what was decoded of one serves all its fine-tunes, and again later.
pub(super) const MAX_KNOWN: usize = 64;
/// Where bases are looked for.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Files and directories that the user named, searched with all that lies below.
    pub named: Vec<PathBuf>,
    /// Directories that containers are shown from, and what each is a part of; searched last.
    pub trees: Vec<(Arc<dyn Tree>, PathBuf)>,
    /// Caches of the Hugging Face Hub.
    pub hubs: Vec<PathBuf>,
    /// Where nobody may look: a mount point of this process.
    pub exclude: Option<PathBuf>,
    /// Where users read who may not read all that this process may: the tree that files of this machine are then opened in. A base must be
    /// open to all readers of what refers to it.
    pub confined: Option<Arc<dyn Tree>>,
}

/// A path, and what it is in.
pub(crate) type Spot<'a> = (&'a Arc<dyn Tree>, &'a Path);

/// Finds bases, and knows the files that were found.
#[derive(Debug)]
pub struct Finder {
    pub(super) places: Places,
    /// The files of this machine.
    pub(super) local: Arc<dyn Tree>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    /// Containers that somebody has open anyway: whoever else reads one shares what was decoded of it.
    containers: HashMap<Identity, Weak<Container>>,
    /// Files that are bases of what is open.
    pub(super) files: HashMap<Identity, Weak<BaseFile>>,
    /// Containers that were bases lately, and the trees that they are files of.
    pub(super) recent: Vec<(Identity, Arc<Container>, Arc<dyn Tree>)>,
    /// Said already: a search is repeated at each open.
    pub(super) said: HashSet<String>,
}

impl Finder {
    /// A finder that knows nothing yet.
    #[must_use]
    pub fn new(places: Places) -> Self {
        let local = places.confined.clone().unwrap_or_else(|| Arc::new(LocalTree::default()));
        Self { places, local, known: Mutex::default() }
    }

    /// The files of this machine, as far as bases are looked for in them.
    pub(crate) fn local(&self) -> &Arc<dyn Tree> {
        &self.local
    }

    /// Whether all who may read the file `home` may read `base`, which has this access: otherwise it is no base, as its bytes would be
    /// theirs. Always so where nobody else reads.
    pub(crate) fn is_open_to_readers(&self, home: Spot<'_>, base: Spot<'_>, access: Option<Access>) -> bool {
        let Some(mut access) = access.filter(|_| self.places.confined.is_some()) else { return true };
        let mut readers = match home.0.stat(home.1) {
            Ok(Stat::File(_, Some(readers))) => readers,
            // A place that knows no users.
            Ok(Stat::File(_, None)) => Access { uid: u32::MAX, gid: u32::MAX, mode: 0o444 },
            _ => return false,
        };
        // Of directories that both lie in, and of those that the user named, nothing is to be said.
        for (of, (tree, path), other) in [(&mut access, base, home.1), (&mut readers, home, base.1)] {
            let directories = path.ancestors().skip(1);
            for directory in directories.take_while(|dir| !other.starts_with(dir) && !self.is_place(dir)) {
                match tree.stat(directory) {
                    Ok(Stat::Directory { access: Some(directory), .. }) => *of = of.within(directory),
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        }
        access.covers(readers)
    }

    fn is_place(&self, path: &Path) -> bool {
        let Places { named, trees, hubs, .. } = &self.places;
        named.iter().chain(hubs).chain(trees.iter().map(|(_, root)| root)).any(|place| place == path)
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        // All that it guards is replaced whole.
        lock(&self.known)
    }

    /// Tells of a container that was read from this version of a file, so that it is not read again.
    pub fn remember(&self, version: Identity, container: &Arc<Container>) {
        let mut known = self.known();
        if known.containers.len() >= 2 * MAX_KNOWN && known.containers.len().is_power_of_two() {
            known.containers.retain(|_, container| container.strong_count() > 0);
        }
        known.containers.insert(version, Arc::downgrade(container));
    }

    /// Whether looking at a path does not wait for ourselves.
    pub(super) fn is_reachable(&self, tree: &dyn Tree, path: &Path) -> bool {
        let Some(exclude) = self.places.exclude.as_ref().filter(|_| tree.is_local()) else { return true };
        way::is_reachable(path, exclude)
    }

    pub(super) fn container(&self, source: &dyn ReadAt, version: Identity) -> Result<Arc<Container>> {
        if let Some(container) = self.known().containers.get(&version).and_then(Weak::upgrade) {
            return Ok(container);
        }
        let container = Arc::new(Container::open(source)?);
        self.remember(version, &container);
        Ok(container)
    }
}
