//! Where bases are looked for, and the files that were found: state that searches share.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use super::base_file::BaseFile;
use crate::access::Access;
use crate::engine::ForeignFile;
use crate::engine::ForeignFormat;
use crate::engine::sync::{Mutex, MutexGuard, lock};
use crate::error::{Error, Result};
use crate::format::{Container, SNIFF_LEN, Sniff, sniff};
use crate::source::{Identity, LocalTree, ReadAt, Stat, Tree, way};

/// Bases whose metadata stays in memory while no image needs them, so that cached chunks of a base
/// also serve fine-tunes that are opened later.
const MAX_KNOWN: usize = 64;
/// The same, of other packers.
const MAX_FOREIGN: usize = 32;

/// Where bases are looked for.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Files and directories that the user named; directories are searched with all that lies below.
    pub named: Vec<PathBuf>,
    /// Directories that containers are shown from, each in its tree; searched last.
    pub trees: Vec<(Arc<dyn Tree>, PathBuf)>,
    /// Caches of the Hugging Face Hub.
    pub hubs: Vec<PathBuf>,
    /// The mount point of this process: paths at or below it are never looked at.
    pub exclude: Option<PathBuf>,
    /// The tree in which files of this machine are opened where readers have fewer rights than this
    /// process. A base must then be readable by all who may read the file that refers to it.
    pub confined: Option<Arc<dyn Tree>>,
}

/// A path, and the tree it is in.
pub(super) type Spot<'a> = (&'a Arc<dyn Tree>, &'a Path);

/// What a file that may be a base is.
pub(super) enum Opened {
    Plain,
    Native(Arc<Container>),
    Foreign(Arc<dyn ForeignFile>),
}

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
    /// Containers that are open anywhere in this process; all users of one share its decoded chunks.
    containers: HashMap<Identity, Weak<Container>>,
    /// Files that are bases of what is open.
    pub(super) files: HashMap<Identity, Weak<BaseFile>>,
    /// Recent bases among our containers, and the trees that they are files of.
    pub(super) recent: Vec<(Identity, Arc<Container>, Arc<dyn Tree>)>,
    /// Recent bases of other packers.
    foreign: HashMap<Identity, Arc<dyn ForeignFile>>,
    /// Messages that were logged already: a search is repeated at each open.
    pub(super) logged: HashSet<String>,
}

impl Finder {
    /// A finder that knows nothing yet.
    #[must_use]
    pub fn new(places: Places) -> Self {
        let local = places.confined.clone().unwrap_or_else(|| Arc::new(LocalTree::default()));
        Self { places, local, known: Mutex::default() }
    }

    /// The version of a file that may be a base of the file `home`; `None` when there is no file.
    ///
    /// # Errors
    /// [`Error::Invalid`] when some readers of `home` may not read it; those of a remote tree.
    pub(super) fn version(&self, home: Spot<'_>, base: Spot<'_>, links: bool) -> Result<Option<Identity>> {
        let (tree, path) = base;
        match if links { tree.stat(path) } else { tree.stat_link(path) } {
            Ok(Stat::File(version, access)) if self.is_open_to_readers(home, base, access) => Ok(Some(version)),
            Ok(Stat::File(..)) => {
                let text = "may not be read by all who may read what refers to it";
                Err(Error::invalid(format!("{} {text}", path.display())))
            }
            Err(error) if !tree.is_local() && error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::invalid(format!("{}: {error}", path.display())))
            }
            _ => Ok(None),
        }
    }

    /// Opens this version of a file that may be a base.
    ///
    /// # Errors
    /// [`Error::Changed`] when another file took its place; those of the file and of its format.
    pub(super) fn open(
        &self,
        formats: &[&'static dyn ForeignFormat],
        (tree, path): Spot<'_>,
        version: Identity,
    ) -> Result<(Arc<dyn ReadAt>, Opened)> {
        let source = tree.open(path)?;
        if source.identity() != Some(version) {
            return Err(Error::Changed { path: path.into() });
        }
        let mut first = [0; SNIFF_LEN];
        let len = source.read_at(0, &mut first)?;
        let first = first.get(..len).unwrap_or_default();
        let opened = match sniff(first) {
            Sniff::Other => Opened::Plain,
            Sniff::Native => Opened::Native(self.container(&*source, version)?),
            Sniff::Foreign(_) => match formats.iter().find(|format| format.is_tried(first)) {
                Some(format) => Opened::Foreign(self.foreign(*format, &*source, version)?),
                None => return Err(Error::invalid(format!("{}: of a format that is not read", path.display()))),
            },
        };
        Ok((source, opened))
    }

    /// Whether all who may read the file `home` may read `base`, which has this access. Otherwise it is
    /// no base, because readers would see its bytes. True where no tree is confined.
    fn is_open_to_readers(&self, home: Spot<'_>, base: Spot<'_>, access: Option<Access>) -> bool {
        let Some(mut access) = access.filter(|_| self.places.confined.is_some()) else { return true };
        let mut readers = match home.0.stat(home.1) {
            Ok(Stat::File(_, Some(readers))) => readers,
            // A source without users and modes.
            Ok(Stat::File(_, None)) => Access { uid: u32::MAX, gid: u32::MAX, mode: 0o444 },
            _ => return false,
        };
        // Directories that hold both, and those that the user named, restrict neither.
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
        lock(&self.known)
    }

    /// Records a container that was read from this version of a file, so that it is not read again.
    pub fn remember(&self, version: Identity, container: &Arc<Container>) {
        let mut known = self.known();
        if known.containers.len() >= 2 * MAX_KNOWN && known.containers.len().is_power_of_two() {
            known.containers.retain(|_, container| container.strong_count() > 0);
        }
        known.containers.insert(version, Arc::downgrade(container));
    }

    /// Whether looking at a path cannot wait for a mount of this process.
    pub(super) fn is_reachable(&self, tree: &dyn Tree, path: &Path) -> bool {
        let Some(exclude) = self.places.exclude.as_ref().filter(|_| tree.is_local()) else { return true };
        way::is_reachable(path, exclude)
    }

    /// Keeps the metadata of a container of ours that is a base.
    pub(super) fn keep(&self, version: Identity, container: &Arc<Container>, tree: &Arc<dyn Tree>) {
        let recent = &mut self.known().recent;
        recent.retain(|(known, ..)| *known != version);
        if recent.len() >= MAX_KNOWN {
            recent.remove(0);
        }
        recent.push((version, Arc::clone(container), Arc::clone(tree)));
    }

    fn foreign(
        &self,
        format: &'static dyn ForeignFormat,
        source: &dyn ReadAt,
        version: Identity,
    ) -> Result<Arc<dyn ForeignFile>> {
        if let Some(file) = self.known().foreign.get(&version) {
            return Ok(Arc::clone(file));
        }
        let file = format.open(source)?;
        let known = &mut self.known().foreign;
        if known.len() >= MAX_FOREIGN {
            known.clear();
        }
        Ok(Arc::clone(known.entry(version).or_insert(file)))
    }

    fn container(&self, source: &dyn ReadAt, version: Identity) -> Result<Arc<Container>> {
        if let Some(container) = self.known().containers.get(&version).and_then(Weak::upgrade) {
            return Ok(container);
        }
        let container = Arc::new(Container::open(source)?);
        self.remember(version, &container);
        Ok(container)
    }
}
