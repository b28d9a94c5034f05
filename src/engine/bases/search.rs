//! Searches for the files that hold what a container of ours refers to.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use log::{debug, info, warn};

use super::base_file::BaseFile;
use super::file_names::{file_names, is_file_name};
use super::finder::{Finder, Opened, Spot};
use super::references::{Bound, MAX_DEPTH, References};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::{BaseId, Container};
use crate::source::{Identity, ReadAt, Stat, Tree};

/// Most files and directories that the walk of one search looks at, and its depth.
const MAX_VISITED: usize = 100_000;
const MAX_TREE_DEPTH: usize = 16;
/// A remote directory counts as so many files: listing it is at least one request.
const REMOTE_DIRECTORY: usize = 1000;
/// Most hints of one container that are followed, and most last components of each. Our writer stays
/// below both; other writers are bounded by them.
const MAX_HINTS: usize = 1000;
const MAX_PARTS: usize = 8;
/// Most candidates for one base whose digest is not known yet.
const MAX_CANDIDATES: usize = 4;

/// Files that miss a base or (`None`) need too long a chain, each with the length of the chain that led
/// to it. Without these a search would repeat for each chain through files that refer to each other.
pub(super) type Unresolved = RefCell<HashMap<Identity, (usize, Option<Arc<BaseFile>>)>>;

/// The containers from the one that is opened to the one whose bases are searched, by digest.
pub(super) type Chain<'a> = &'a [([u8; 32], PathBuf)];

/// The chain that leads to a container, what was not resolved before, and how many bytes of a file
/// without digests are compared before it is bound.
pub(super) type Limits<'a> = (Chain<'a>, &'a Unresolved, u64);

/// What `container` refers to; `None` when it needs no other file.
pub(super) fn resolve(
    finder: &Finder,
    engine: &Arc<Engine>,
    container: &Container,
    (tree, version): (&Arc<dyn Tree>, Identity),
    limits: Limits<'_>,
) -> Option<Arc<References>> {
    let bases = container.bases();
    if !bases.needs_others() {
        return None;
    }
    let references = Search::run(finder, engine, container, (tree, version), limits);
    for file in references.files() {
        let text = format!("{}: refers to {}", container.path().display(), file.display());
        if finder.known().logged.insert(text.clone()) {
            info!("{text}");
        }
    }
    Some(Arc::new(references))
}

/// A base that is not found yet.
struct Want<'a> {
    at: usize,
    digest: [u8; 32],
    len: u64,
    name: &'a str,
}

/// One search for the bases of one container.
pub(super) struct Search<'a> {
    finder: &'a Finder,
    engine: &'a Arc<Engine>,
    /// The tree, path and version of the container.
    home: &'a Arc<dyn Tree>,
    path: &'a Path,
    version: Identity,
    unresolved: &'a Unresolved,
    /// Bytes of a file without digests that are compared before it is bound.
    checked_bytes: u64,
    chain: Vec<([u8; 32], PathBuf)>,
    bound: Vec<Bound>,
    /// How many of them are missing.
    missing: usize,
    /// Versions that were looked at.
    seen: HashSet<Identity>,
    /// The first reason why a file with a wanted tensor was not bound.
    why: String,
    depth: usize,
}

impl<'a> Search<'a> {
    /// Searches for all bases of `container`, a file of `tree` in this version.
    pub(super) fn run(
        finder: &'a Finder,
        engine: &'a Arc<Engine>,
        container: &'a Container,
        (tree, version): (&'a Arc<dyn Tree>, Identity),
        (chain, unresolved, checked_bytes): Limits<'a>,
    ) -> References {
        let chain = [chain, &[(*container.digest(), container.path().to_path_buf())]].concat();
        let mut search = Self {
            finder,
            engine,
            home: tree,
            path: container.path(),
            version,
            unresolved,
            checked_bytes,
            chain,
            bound: container
                .bases()
                .refs
                .iter()
                .map(|of| match of.id {
                    BaseId::Itself => Bound::Itself,
                    BaseId::Tensor(_) | BaseId::Unknown(_) => Bound::Missing(String::new()),
                })
                .collect(),
            missing: 0,
            seen: HashSet::new(),
            why: String::new(),
            depth: 1,
        };
        search.missing = search.wants(container).len();
        search.all(container);
        let Self { mut bound, why, depth, .. } = search;
        for bound in &mut bound {
            if let Bound::Missing(reason) = bound {
                reason.clone_from(&why);
            }
        }
        References::new(container.path(), bound, depth)
    }

    /// Looks everywhere, likely places first, until all is found.
    fn all(&mut self, container: &Container) {
        let refs = &container.bases().refs;
        let hints: HashSet<&str> = refs.iter().map(|of| &*of.hint).collect();
        let mut hints: Vec<&str> = hints.into_iter().collect();
        hints.sort_unstable();
        hints.truncate(MAX_HINTS);
        let beside = self.path.parent().map(Path::to_path_buf);
        let (places, local, home) = (&self.finder.places, &self.finder.local, self.home);
        for named in &places.named {
            if !matches!(local.stat(named), Ok(Stat::Directory { .. })) {
                self.file((local, named), true, container);
                continue;
            }
            for hint in &hints {
                self.below((local, named), hint, container);
            }
        }
        // Files beside a container came with it: links among them are not followed.
        for hint in &hints {
            for name in names(hint) {
                if let Some(beside) = &beside {
                    self.file((home, &beside.join(name)), false, container);
                }
            }
        }
        for (tree, root) in &places.trees {
            for hint in &hints {
                self.below((tree, root), hint, container);
            }
        }
        for hub in &places.hubs {
            for hint in &hints {
                self.hub(hub, hint, container);
            }
        }
        // Bases of earlier searches, those without bases of their own first: otherwise each of many files
        // whose common base was renamed would walk the whole tree.
        let mut recent = self.finder.known().recent.clone();
        recent.retain(|(_, known, _)| self.missing > 0 && has_any(known, &self.wants(container)));
        recent.sort_by_key(|(_, known, _)| known.bases().needs_others());
        for (_, known, tree) in &recent {
            self.file((tree, known.path()), false, container);
        }
        // Then every file.
        let mut left = MAX_VISITED;
        if let Some(beside) = &beside {
            self.tree((home, beside), false, 0, &mut left, container);
        }
        for place in &places.named {
            self.tree((local, place), true, MAX_TREE_DEPTH, &mut left, container);
        }
        for (tree, root) in &places.trees {
            self.tree((tree, root), true, MAX_TREE_DEPTH, &mut left, container);
        }
    }

    /// The bases that are not found yet.
    fn wants<'c>(&self, container: &'c Container) -> Vec<Want<'c>> {
        let refs = container.bases().refs.iter().enumerate();
        refs.filter_map(|(at, of)| {
            let BaseId::Tensor(digest) = of.id else { return None };
            let missing = matches!(self.bound.get(at), Some(Bound::Missing(_)));
            missing.then_some(Want { at, digest, len: of.raw_len, name: &of.name })
        })
        .collect()
    }

    /// Files at the end of `hint` below a directory.
    fn below(&mut self, (tree, dir): Spot<'_>, hint: &str, container: &Container) {
        let parts: Vec<&str> = hint.split('/').filter(|part| is_file_name(part)).collect();
        for from in (parts.len().saturating_sub(MAX_PARTS)..parts.len()).rev() {
            let Some((last, dirs)) = parts.get(from..).and_then(<[_]>::split_last) else { continue };
            let dir = dirs.iter().fold(dir.to_path_buf(), |dir, part| dir.join(part));
            for name in names(last) {
                self.file((tree, &dir.join(name)), true, container);
            }
        }
    }

    /// Snapshots of the repository that `hint` names, in a cache of the Hub.
    fn hub(&mut self, hub: &Path, hint: &str, container: &Container) {
        let parts: Vec<&str> = hint.split('/').filter(|part| is_file_name(part)).collect();
        let (Some(repo), Some(last)) = (parts.iter().find(|part| part.starts_with("models--")), parts.last()) else {
            return;
        };
        let snapshots = hub.join(repo).join("snapshots");
        let Ok(names_there) = self.finder.local.names(&snapshots) else { return };
        let mut dirs: Vec<_> = names_there.into_iter().map(|name| snapshots.join(name)).collect();
        dirs.sort();
        for dir in dirs {
            for name in names(last) {
                self.file((&self.finder.local, &dir.join(name)), true, container);
            }
        }
    }

    /// All files of a directory, and below it down to some depth.
    fn tree(&mut self, (tree, at): Spot<'_>, links: bool, depth: usize, left: &mut usize, container: &Container) {
        if self.missing == 0 || *left == 0 || !self.finder.is_reachable(&**tree, at) {
            return;
        }
        if !tree.is_local() {
            *left = left.saturating_sub(REMOTE_DIRECTORY);
        }
        let Ok(entries) = tree.names(at) else { return };
        let mut paths: Vec<PathBuf> = entries.into_iter().map(|name| at.join(name)).take(*left).collect();
        *left -= paths.len();
        paths.sort();
        for path in &paths {
            if self.missing == 0 {
                return;
            }
            let name = path.file_name().unwrap_or_default().as_bytes();
            if [&b".bs"[..], b".safetensors", b".bsr"].iter().any(|ending| name.ends_with(ending)) {
                self.file((tree, path), links, container);
            }
        }
        if depth == 0 {
            return;
        }
        for path in paths {
            // Directories by their own name: a link may lead in a circle.
            if matches!(tree.stat_link(&path), Ok(Stat::Directory { .. })) {
                self.tree((tree, &path), links, depth - 1, left, container);
            }
        }
    }

    /// Binds the tensors of a file that are wanted, if the file exists and has any.
    fn file(&mut self, (tree, path): Spot<'_>, links: bool, container: &Container) {
        if self.missing == 0 || !self.finder.is_reachable(&**tree, path) {
            return;
        }
        let version = match self.finder.version((self.home, self.path), (tree, path), links) {
            Ok(Some(version)) => version,
            Ok(None) => return,
            Err(error) => return self.note(error.to_string()),
        };
        if version.is_same_file(&self.version) || !self.seen.insert(version) {
            return;
        }
        let wants = self.wants(container);
        let bound = self.open((tree, path), version, &wants).and_then(|file| match file {
            Some(file) => self.bind(&file, &wants),
            None => Ok(()),
        });
        match bound {
            Ok(()) => {}
            Err(error) => {
                if let Error::Remote { .. } = &error {
                    self.note(error.to_string());
                }
                let text = format!("{error}; not taken as a base of {}", self.path.display());
                if self.finder.known().logged.insert(text.clone()) {
                    if matches!(error, Error::Invalid { .. } | Error::NotAContainer { .. }) {
                        debug!("{text}");
                    } else {
                        warn!("{text}");
                    }
                }
            }
        }
    }

    fn bind(&mut self, file: &Arc<BaseFile>, wants: &[Want<'_>]) -> Result<()> {
        let mut found: Vec<_> =
            wants.iter().filter_map(|want| Some((want, file.find(&want.digest, want.len, want.name)?))).collect();
        if !file.tells_digests() {
            // Reading all now may take long; a tensor that is not read now is checked before its first use.
            // After one mismatch the file may be another one, so all of it is read.
            found.sort_by_key(|(want, _)| want.len);
            let (mut budget, mut another, mut right) = (self.checked_bytes, false, Vec::new());
            for (want, tensor) in found {
                if budget > 0 || another || file.knows(tensor) {
                    budget = budget.saturating_sub(want.len);
                    if !file.has(tensor, &want.digest)? {
                        another = true;
                        self.note(format!("{} has another tensor '{}'", file.path().display(), want.name));
                        continue;
                    }
                }
                right.push((want, tensor));
            }
            found = right;
        }
        for (want, tensor) in found {
            let Some(bound) = self.bound.get_mut(want.at) else { continue };
            self.depth = self.depth.max(file.depth() + 1);
            match bound {
                Bound::In(candidates) if candidates.len() < MAX_CANDIDATES => {
                    candidates.push((Arc::clone(file), tensor));
                }
                Bound::In(_) => {}
                Bound::Missing(_) | Bound::Itself => {
                    self.missing = self.missing.saturating_sub(1);
                    *bound = Bound::In(vec![(Arc::clone(file), tensor)]);
                }
            }
        }
        Ok(())
    }

    /// Opens a file that may be a base; `None` when it has nothing that is wanted.
    fn open(&mut self, (tree, path): Spot<'_>, version: Identity, wants: &[Want<'_>]) -> Result<Option<Arc<BaseFile>>> {
        let known = self.finder.known().files.get(&version).and_then(Weak::upgrade);
        if let Some(file) = known {
            if file.depth() + self.chain.len() > MAX_DEPTH {
                return Err(self.too_deep(path));
            }
            return Ok(Some(file));
        }
        // An earlier search reached it by a chain that was no longer.
        let unresolved =
            self.unresolved.borrow().get(&version).filter(|(chain, _)| *chain <= self.chain.len()).cloned();
        if let Some((_, file)) = unresolved {
            return file.map(Some).ok_or_else(|| self.too_deep(path));
        }
        let (source, opened) = self.finder.open(self.engine.formats(), (tree, path), version)?;
        let file = match opened {
            Opened::Native(container) if !has_any(&container, wants) => return Ok(None),
            Opened::Native(container) => {
                let made = self.native(container, tree, (source, version));
                if made.is_err() {
                    self.unresolved.borrow_mut().insert(version, (self.chain.len(), None));
                }
                made?
            }
            Opened::Foreign(shown) if shown.needs().is_some() => return Ok(None),
            Opened::Foreign(shown) => BaseFile::image(self.engine.foreign(shown, Arc::clone(&source), None), source)?,
            Opened::Plain => BaseFile::plain(source)?,
        };
        let file = Arc::new(file);
        // A file that misses a base may find it when a shorter chain leads to it.
        if !file.is_whole() {
            self.unresolved.borrow_mut().insert(version, (self.chain.len(), Some(Arc::clone(&file))));
            return Ok(Some(file));
        }
        let mut known = self.finder.known();
        known.files.retain(|_, file| file.strong_count() > 0);
        known.files.insert(version, Arc::downgrade(&file));
        Ok(Some(file))
    }

    fn native(
        &mut self,
        container: Arc<Container>,
        tree: &Arc<dyn Tree>,
        (source, version): (Arc<dyn ReadAt>, Identity),
    ) -> Result<BaseFile> {
        if self.chain.len() > MAX_DEPTH {
            return Err(self.too_deep(container.path()));
        }
        if let Some((_, back)) = self.chain.iter().find(|(digest, _)| digest == container.digest()) {
            let text = format!("{} refers back to {}", container.path().display(), back.display());
            return Err(self.refuse(text));
        }
        let references =
            resolve(self.finder, self.engine, &container, (tree, version), (&self.chain, self.unresolved, u64::MAX));
        let depth = references.as_ref().map_or(0, |references| references.depth());
        let whole = references.as_ref().is_none_or(|references| references.is_whole());
        if depth + self.chain.len() > MAX_DEPTH {
            return Err(self.too_deep(container.path()));
        }
        self.finder.keep(version, &container, tree);
        let image = self.engine.image_with(Arc::clone(&container), Arc::clone(&source), references);
        Ok(BaseFile::native(&container, image, source, (depth, whole)))
    }

    fn too_deep(&mut self, path: &Path) -> Error {
        let text = format!("{} needs more than {MAX_DEPTH} files one for another", path.display());
        self.refuse(text)
    }

    /// The error, and note, for a file with a wanted tensor that is not bound.
    fn refuse(&mut self, text: String) -> Error {
        self.note(text.clone());
        Error::invalid(text)
    }

    /// Keeps the first reason.
    fn note(&mut self, text: String) {
        if self.why.is_empty() {
            self.why = text;
        }
    }
}

fn has_any(container: &Container, wants: &[Want<'_>]) -> bool {
    let wanted: HashSet<_> = wants.iter().map(|want| (want.digest, want.len)).collect();
    container.tensors().iter().any(|tensor| wanted.contains(&(tensor.digest, tensor.raw_len)))
}

/// Names that the last component of a hint may have by now.
fn names(hint: &str) -> Vec<String> {
    let last = hint.rsplit('/').next().filter(|last| is_file_name(last));
    last.map(|last| file_names(last, &[".bs", ".bsr"], &["", ".bs", ".safetensors"])).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_yields_plain_names_only() {
        for hint in ["", "..", "a/..", "a/", "x\0y", "a\\b", "/"] {
            assert_eq!(names(hint), Vec::<String>::new(), "{hint:?}");
        }
        assert_eq!(names("/etc/passwd"), ["passwd", "passwd.bs", "passwd.safetensors"]);
        assert!(names("x/m.safetensors.bs").contains(&"m.safetensors".to_owned()));
        assert!(names("m.safetensors").contains(&"m.safetensors.bs".to_owned()));
        assert!(names(&"n".repeat(254)).iter().all(|name| name.len() <= 255));
    }
}
