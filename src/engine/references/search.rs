//! Looks for the files that hold what a container refers to.
//!
//! What the container says of where a base was is a stranger's text: its last components are names to look for, in places
//! that the user named or that the container itself lies in. Whether a file is the right one only the digest says.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use log::{debug, info, warn};

use super::finder::{Finder, MAX_KNOWN, Spot};
use super::{BaseFile, Bound, MAX_DEPTH, References};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::{BaseId, Container, SNIFF_LEN, Sniff, sniff};
use crate::source::{Identity, ReadAt, Stat, Tree};

/// What a base's name may end in, beside the name that is hinted at.
const ENDINGS: [&str; 3] = ["", ".bs", ".safetensors"];
/// Files and directories that a search through a tree looks at, at most, and how deep.
const MAX_VISITED: usize = 100_000;
const MAX_TREE_DEPTH: usize = 16;
/// A directory of a server counts as so many: each is at least one request.
const REMOTE_DIRECTORY: usize = 1000;
/// Hints of one container that are followed, and the last components of each: what our writer keeps, and a bound for a stranger's.
const MAX_HINTS: usize = 1000;
const MAX_PARTS: usize = 8;
/// Files of a tensor's name and length that are kept for one base whose digest is not known yet.
const MAX_CANDIDATES: usize = 4;

/// Files that lack something or (`None`) need too many others, and how many containers were on the way to each: without these,
/// files that refer to each other many times over would be searched for once for each way.
pub(super) type Lacking = RefCell<HashMap<Identity, (usize, Option<Arc<BaseFile>>)>>;

/// The containers on the way from the one that is opened to the one whose bases are looked for, by digest.
pub(super) type Way<'a> = &'a [([u8; 32], PathBuf)];

/// What `container` refers to; `None` when it needs no other file.
pub(super) fn resolve(
    finder: &Finder,
    engine: &Arc<Engine>,
    container: &Container,
    (tree, version): (&Arc<dyn Tree>, Identity),
    (way, lacking, look): (Way<'_>, &Lacking, u64),
) -> Option<Arc<References>> {
    let bases = container.bases();
    if !bases.needs_others() {
        return None;
    }
    let references = Search::run(finder, engine, container, (tree, version), (way, lacking, look));
    for file in references.files() {
        let text = format!("{}: refers to {}", container.path().display(), file.display());
        if finder.known().said.insert(text.clone()) {
            info!("{text}");
        }
    }
    Some(Arc::new(references))
}

/// A base that is wanted.
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
    /// What the container is a file of, where it is and which version.
    home: &'a Arc<dyn Tree>,
    path: &'a Path,
    version: Identity,
    lacking: &'a Lacking,
    /// Bytes of a file without digests that are compared before it is taken.
    look: u64,
    way: Vec<([u8; 32], PathBuf)>,
    bound: Vec<Bound>,
    /// How many of them are missing.
    missing: usize,
    /// Versions that were looked at.
    seen: HashSet<Identity>,
    /// Why a file that has what is wanted could not be taken; the first.
    why: String,
    depth: usize,
}

impl<'a> Search<'a> {
    /// Looks for all that `container`, a file of `tree` in this version, refers to.
    pub(super) fn run(
        finder: &'a Finder,
        engine: &'a Arc<Engine>,
        container: &'a Container,
        (tree, version): (&'a Arc<dyn Tree>, Identity),
        (way, lacking, look): (Way<'_>, &'a Lacking, u64),
    ) -> References {
        let way = [way, &[(*container.digest(), container.path().to_path_buf())]].concat();
        let mut search = Self {
            finder,
            engine,
            home: tree,
            path: container.path(),
            version,
            lacking,
            look,
            way,
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
        let whole = bound.iter().all(|bound| match bound {
            Bound::Itself => true,
            Bound::In(candidates) => candidates.iter().all(|(file, _)| file.is_whole()),
            Bound::Missing(_) => false,
        });
        References { path: container.path().into(), bound, depth, whole, doubtful: AtomicBool::new(false) }
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
        // What lies beside a container came with it: links there are not followed to somewhere else.
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
        // What other searches found: those of many files, whose common base got another name, would each look at all of them. First
        // what needs no other file itself.
        let mut recent = self.finder.known().recent.clone();
        recent.retain(|(_, known, _)| self.missing > 0 && has_any(known, &self.wants(container)));
        recent.sort_by_key(|(_, known, _)| known.bases().needs_others());
        for (_, known, tree) in &recent {
            self.file((tree, known.path()), false, container);
        }
        // Then whatever there is.
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

    /// What is still wanted.
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
        let parts: Vec<&str> = hint.split('/').filter(|part| usable(part)).collect();
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
        let parts: Vec<&str> = hint.split('/').filter(|part| usable(part)).collect();
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

    /// Takes what is wanted from a file, if it is there and has some of it.
    fn file(&mut self, (tree, path): Spot<'_>, links: bool, container: &Container) {
        if self.missing == 0 || !self.finder.is_reachable(&**tree, path) {
            return;
        }
        let version = match if links { tree.stat(path) } else { tree.stat_link(path) } {
            Ok(Stat::File(version, access)) => {
                if !self.finder.is_open_to_readers((self.home, self.path), (tree, path), access) {
                    let text = format!("{} may not be read by all who may read what refers to it", path.display());
                    return self.note(text);
                }
                version
            }
            Err(error) if !tree.is_local() && error.kind() != std::io::ErrorKind::NotFound => {
                return self.note(format!("{}: {error}", path.display()));
            }
            _ => return,
        };
        if same_file(version, self.version) || !self.seen.insert(version) {
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
                if self.finder.known().said.insert(text.clone()) {
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
            // Not all is read now, which may take long; what is not read is checked before it is used. Once a tensor is another
            // one, the file may be another one, or have only some of what is wanted: then all is read.
            found.sort_by_key(|(want, _)| want.len);
            let (mut budget, mut another, mut right) = (self.look, false, Vec::new());
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
            if file.depth() + self.way.len() > MAX_DEPTH {
                return Err(self.too_deep(path));
            }
            return Ok(Some(file));
        }
        // It was looked at with as many files to spare.
        let lacking = self.lacking.borrow().get(&version).filter(|(way, _)| *way <= self.way.len()).cloned();
        if let Some((_, file)) = lacking {
            return file.map(Some).ok_or_else(|| self.too_deep(path));
        }
        let source = tree.open(path)?;
        // Another file may have taken its place since it was looked at.
        if source.identity() != Some(version) {
            return Err(Error::Changed { path: path.into() });
        }
        let mut first = [0; SNIFF_LEN];
        let len = source.read_at(0, &mut first)?;
        let file = match sniff(first.get(..len).unwrap_or_default()) {
            Sniff::Native => {
                let container = self.finder.container(&*source, version)?;
                if !has_any(&container, wants) {
                    return Ok(None);
                }
                let made = self.native(container, tree, (source, version));
                if made.is_err() {
                    self.lacking.borrow_mut().insert(version, (self.way.len(), None));
                }
                made?
            }
            Sniff::Foreign(_) => {
                let formats = self.engine.formats();
                let Some(format) = formats.iter().find(|format| format.is_tried(&first)) else { return Ok(None) };
                let shown = format.open(&*source)?;
                if shown.needs().is_some() {
                    return Ok(None);
                }
                BaseFile::shown(self.engine.foreign(shown, Arc::clone(&source), None), source)?
            }
            Sniff::Other => BaseFile::plain(source)?,
        };
        let file = Arc::new(file);
        // What lacks something may lack nothing when it is reached another way.
        if !file.is_whole() {
            self.lacking.borrow_mut().insert(version, (self.way.len(), Some(Arc::clone(&file))));
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
        if self.way.len() > MAX_DEPTH {
            return Err(self.too_deep(container.path()));
        }
        if let Some((_, back)) = self.way.iter().find(|(digest, _)| digest == container.digest()) {
            let text = format!("{} refers back to {}", container.path().display(), back.display());
            return Err(self.refuse(text));
        }
        let references =
            resolve(self.finder, self.engine, &container, (tree, version), (&self.way, self.lacking, u64::MAX));
        let depth = references.as_ref().map_or(0, |references| references.depth());
        let whole = references.as_ref().is_none_or(|references| references.whole);
        if depth + self.way.len() > MAX_DEPTH {
            return Err(self.too_deep(container.path()));
        }
        let mut known = self.finder.known();
        known.recent.retain(|(known, ..)| *known != version);
        if known.recent.len() >= MAX_KNOWN {
            known.recent.remove(0);
        }
        known.recent.push((version, Arc::clone(&container), Arc::clone(tree)));
        drop(known);
        let image = self.engine.image_with(Arc::clone(&container), Arc::clone(&source), references);
        Ok(BaseFile::native(&container, image, source, (depth, whole)))
    }

    fn too_deep(&mut self, path: &Path) -> Error {
        let text = format!("{} needs more than {MAX_DEPTH} files one for another", path.display());
        self.refuse(text)
    }

    /// Why a file that has what is wanted is not taken.
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

fn same_file(a: Identity, b: Identity) -> bool {
    (a.dev, a.ino) == (b.dev, b.ino)
}

/// Whether a component of a hint can be a name.
fn usable(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && part.len() <= 255 && !part.contains(['\0', '\\'])
}

/// The names that a file at the end of a hint may have by now: it may have been packed or unpacked.
fn names(hint: &str) -> Vec<String> {
    let Some(last) = hint.rsplit('/').next().filter(|last| usable(last)) else { return Vec::new() };
    let mut names = vec![last.to_owned()];
    let stems = [Some(last), last.strip_suffix(".bs"), last.strip_suffix(".bsr")];
    for stem in stems.into_iter().flatten().filter(|stem| usable(stem)) {
        for ending in ENDINGS {
            let name = format!("{stem}{ending}");
            if usable(&name) && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_strangers_hint_only_plain_names_are_used() {
        for hint in ["", "..", "a/..", "a/", "x\0y", "a\\b", "/"] {
            assert_eq!(names(hint), Vec::<String>::new(), "{hint:?}");
        }
        assert_eq!(names("/etc/passwd"), ["passwd", "passwd.bs", "passwd.safetensors"]);
        assert!(names("x/m.safetensors.bs").contains(&"m.safetensors".to_owned()));
        assert!(names("m.safetensors").contains(&"m.safetensors.bs".to_owned()));
        assert!(names(&"n".repeat(254)).iter().all(|name| name.len() <= 255));
    }
}
