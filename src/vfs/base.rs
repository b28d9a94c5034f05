//! Which file a delta's differences refer to.
//!
//! A delta only says what the path of its base was on the machine of whoever wrote it. That is a stranger's text: its last
//! component is a name to look for, in places that the user named and beside the delta, and nothing else of it is used.
//! Whether a file is the right one is found out by reading: each tensor has the MD5 of the result.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use log::{info, warn};
use parking_lot::Mutex;

use super::packed::Packed;
use crate::access::Access;
use crate::engine::{Base, Engine, FileBase, Finder, ForeignFile, Needs};
use crate::error::{Error, Result};
use crate::format::{SNIFF_LEN, Sniff, sniff};
use crate::source::{Identity, ReadAt, Stat, Tree, way};

/// What a base's name ends in, and what a name that lacks it may gain.
const ENDINGS: [&str; 3] = [".safetensors", ".bs", ".safetensors.bs"];
/// Longest name of a file, bytes: that of file systems.
const MAX_NAME: usize = 255;

/// Bases whose metadata is kept. There are few, each perhaps in several versions.
const MAX_KNOWN: usize = 32;

/// Where bases are looked for.
#[derive(Debug)]
pub(super) struct Bases {
    /// Files and directories that the user named.
    named: Vec<PathBuf>,
    /// The mount point, where nobody may look.
    exclude: Option<PathBuf>,
    /// Containers that were bases before, by version: what was decoded of one serves all its deltas, and again when they are
    /// opened again.
    known: Mutex<HashMap<Identity, Packed>>,
}

/// A file that may be a base.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    path: PathBuf,
    /// Whether it may be a link: what the user named may, what lies beside a delta may not, for it came with the delta.
    link: bool,
}

impl Bases {
    pub(super) fn new(named: Vec<PathBuf>, exclude: Option<PathBuf>) -> Self {
        Self { named, exclude, known: Mutex::default() }
    }

    /// The base of `delta`, of which this version is open: the first file that has all tensors it refers to; if none has, the
    /// first that could be opened, so that reading says what is missing there. `None` without any, and for a container that is
    /// no delta.
    pub(super) fn find(
        &self,
        (tree, delta): (&Arc<dyn Tree>, &dyn ForeignFile),
        version: Identity,
        engine: &Arc<Engine>,
        finder: &Finder,
    ) -> Option<Arc<dyn Base>> {
        let needs = delta.needs()?;
        let mut other: Option<Arc<dyn Base>> = None;
        for candidate in self.candidates(delta.path(), needs.hint, version) {
            let within = if candidate.link { finder.local() } else { tree };
            match self.open((within, &candidate), version, engine, |access| {
                finder.is_open_to_readers((tree, delta.path()), (within, &candidate.path), access)
            }) {
                Ok(None) => {}
                Ok(Some(base)) if fits(&needs, &base) => {
                    engine.troubles().base(delta.path(), None);
                    info!("{}: its base is {}", delta.path().display(), candidate.path.display());
                    return Some(Arc::new(base));
                }
                Ok(Some(base)) => other = other.or_else(|| Some(Arc::new(base))),
                Err(error) => warn!("{error}; not taken as the base of {}", delta.path().display()),
            }
        }
        let text = "its base was not found; name the file, or a directory that holds it, with --base";
        let text = format!("{}: {text}", delta.path().display());
        engine.troubles().base(delta.path(), Some(text));
        other
    }

    /// Opens a candidate; `None` when there is no file, or it is the delta itself. `may_be_read` says whether a file with this access is
    /// open to all readers of the delta.
    fn open(
        &self,
        (tree, candidate): (&Arc<dyn Tree>, &Candidate),
        delta: Identity,
        engine: &Arc<Engine>,
        may_be_read: impl FnOnce(Option<Access>) -> bool,
    ) -> Result<Option<FileBase>> {
        let path = &candidate.path;
        let stat = if candidate.link { tree.stat(path) } else { tree.stat_link(path) };
        let Ok(Stat::File(found, access)) = stat else { return Ok(None) };
        if (found.dev, found.ino) == (delta.dev, delta.ino) {
            return Ok(None);
        }
        if !may_be_read(access) {
            let text = "may not be read by all who may read the delta";
            return Err(Error::invalid(format!("{}: {text}", path.display())));
        }
        let source = tree.open(path)?;
        // A link may have taken its place since it was looked at.
        if source.identity() != Some(found) {
            return Err(Error::Changed { path: path.clone() });
        }
        let mut first = [0; SNIFF_LEN];
        let len = source.read_at(0, &mut first)?;
        if sniff(first.get(..len).unwrap_or_default()) == Sniff::Other {
            return FileBase::plain(source).map(Some);
        }
        let image = match self.packed(&*source, found, engine)? {
            Packed::Native(container) => engine.image(container, source),
            Packed::Foreign { shown, .. } if shown.needs().is_some() => {
                return Err(Error::invalid(format!("{}: a delta itself", path.display())));
            }
            Packed::Foreign { shown, .. } => engine.foreign(shown, source, None),
        };
        FileBase::image(image, path).map(Some)
    }

    fn packed(&self, source: &dyn ReadAt, version: Identity, engine: &Engine) -> Result<Packed> {
        if let Some(packed) = self.known.lock().get(&version) {
            return Ok(packed.clone());
        }
        let packed = Packed::read(source, engine.formats())?;
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        Ok(known.entry(version).or_insert(packed).clone())
    }

    /// Where the base may be, likely places first. Of files that the user named one of the right name comes before others: with
    /// several deltas each needs its own.
    fn candidates(&self, delta: &Path, hint: Option<&str>, version: Identity) -> Vec<Candidate> {
        let names = hint.and_then(last_component).map(names).unwrap_or_default();
        let is_right =
            |path: &Path| path.file_name().is_some_and(|name| names.iter().any(|right| name == right.as_str()));
        let mut right = Vec::new();
        let mut others = Vec::new();
        for named in self.named.iter().filter(|path| self.is_reachable(path)) {
            let Ok(meta) = way::metadata(named) else {
                warn!("{}: named as a base and not there", named.display());
                continue;
            };
            if !meta.is_dir() {
                if is_right(named) { &mut right } else { &mut others }.push(named.clone());
                continue;
            }
            right.extend(names.iter().map(|name| named.join(name)).filter(|path| self.is_file(path).is_some()));
            others.extend(self.only_file(named, version));
        }
        right.append(&mut others);
        let mut found: Vec<Candidate> = right.into_iter().map(|path| Candidate { path, link: true }).collect();
        let beside = names.iter().filter_map(|name| Some(delta.parent()?.join(name)));
        found.extend(beside.map(|path| Candidate { path, link: false }));
        found
    }

    /// The one file of a directory that may be a base, if there is exactly one; the delta itself, which may lie there too, is
    /// none.
    fn only_file(&self, dir: &Path, delta: Identity) -> Option<PathBuf> {
        let mut files = way::names(dir).ok()?.into_iter().map(|name| dir.join(name)).filter(|path| {
            let name = path.file_name().unwrap_or_default().as_bytes();
            [&b".safetensors"[..], b".bs", b".bsr"].iter().any(|ending| name.ends_with(ending))
                && self.is_file(path).is_some_and(|meta| !is_same(&meta, delta))
        });
        let only = files.next()?;
        files.next().is_none().then_some(only)
    }

    fn is_file(&self, path: &Path) -> Option<Metadata> {
        if !self.is_reachable(path) {
            return None;
        }
        way::metadata(path).ok().filter(Metadata::is_file)
    }

    /// Whether looking at a path does not wait for ourselves.
    fn is_reachable(&self, path: &Path) -> bool {
        let Some(exclude) = &self.exclude else { return true };
        way::is_reachable(path, exclude)
    }
}

fn is_same(meta: &Metadata, version: Identity) -> bool {
    (meta.dev(), meta.ino()) == (version.dev, version.ino)
}

/// The last component of a path of whatever system, if it can be the name of a file.
fn last_component(hint: &str) -> Option<&str> {
    let last = hint.rsplit(['/', '\\']).next()?;
    let usable = !matches!(last, "" | "." | "..") && last.len() <= MAX_NAME && !last.contains('\0');
    usable.then_some(last)
}

/// The names that a file of this name may have by now: it may have been packed or unpacked.
fn names(name: &str) -> Vec<String> {
    let mut stems = vec![name];
    stems.extend([".bs", ".bsr", ".safetensors"].iter().filter_map(|ending| name.strip_suffix(ending)));
    let mut names = vec![name.to_owned()];
    for stem in stems.into_iter().filter(|stem| !matches!(*stem, "" | "." | "..")) {
        for ending in ENDINGS {
            let other = format!("{stem}{ending}");
            if other.len() <= MAX_NAME && !names.contains(&other) {
                names.push(other);
            }
        }
    }
    names
}

/// Whether the base has every tensor that the delta refers to, in its length.
fn fits(needs: &Needs<'_>, base: &FileBase) -> bool {
    needs.tensors.iter().all(|(name, len)| base.tensor_len(name) == Some(*len))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn of_a_strangers_path_only_a_plain_name_is_used() {
        for (hint, name) in [
            ("base.safetensors", Some("base.safetensors")),
            ("/etc/passwd", Some("passwd")),
            ("../../x.bs", Some("x.bs")),
            (r"C:\models\b.safetensors", Some("b.safetensors")),
            (r"a/b\c", Some("c")),
            ("models/base/", None),
            ("..", None),
            ("a/..", None),
            ("", None),
            (r"a\.", None),
            ("x\0y", None),
        ] {
            assert_eq!(last_component(hint), name, "{hint:?}");
        }
        assert_eq!(last_component(&"n".repeat(256)), None);
    }

    #[test]
    fn a_base_may_have_been_packed_or_unpacked_since() {
        assert_eq!(names("b"), ["b", "b.safetensors", "b.bs", "b.safetensors.bs"]);
        assert_eq!(&names("b.bs")[..2], ["b.bs", "b.bs.safetensors"]);
        assert!(names("b.bs").contains(&"b.safetensors".to_owned()));
        assert!(names("b.safetensors").contains(&"b.safetensors.bs".to_owned()));
        assert!(names("b.safetensors").contains(&"b.bs".to_owned()));
        assert!(names(".safetensors").iter().all(|name| name.starts_with(".safetensors")));
        assert!(names(&"n".repeat(254)).iter().all(|name| name.len() <= MAX_NAME));
    }

    fn nobody() -> Identity {
        Identity { dev: 0, ino: 0, len: 0, mtime: (0, 0), ctime: (0, 0) }
    }

    #[test]
    fn what_the_user_named_comes_first_and_of_that_the_right_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["one.safetensors", "other/base.bs", "other/x.bs", "single/any.safetensors", "single/readme"] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), b"x").unwrap();
        }
        let bases = Bases::new(vec![at("one.safetensors"), at("other"), at("single"), at("missing")], None);
        let found = bases.candidates(&at("delta/d.bs"), Some("/nowhere/base"), nobody());
        let paths: Vec<_> = found.iter().filter(|c| c.link).map(|c| c.path.clone()).collect();
        assert_eq!(paths, [at("other/base.bs"), at("one.safetensors"), at("single/any.safetensors")]);
        assert!(found.iter().filter(|c| !c.link).all(|c| c.path.parent() == Some(&at("delta"))));
        let found = bases.candidates(&at("delta/d.bs"), Some(".."), nobody());
        let paths: Vec<_> = found.into_iter().map(|c| c.path).collect();
        assert_eq!(paths, [at("one.safetensors"), at("single/any.safetensors")], "no name to look for");
    }

    #[test]
    fn the_delta_itself_is_no_base_and_the_mount_point_is_not_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let delta = root.join("d.bs");
        fs::write(&delta, b"x").unwrap();
        fs::create_dir(root.join("mount")).unwrap();
        fs::write(root.join("mount/a.safetensors"), b"x").unwrap();
        fs::create_dir(root.join("links")).unwrap();
        symlink(root.join("mount/a.safetensors"), root.join("links/a.safetensors")).unwrap();
        let version = Identity::of(&fs::metadata(&delta).unwrap());
        let of = |named: &str, exclude: Option<PathBuf>| Bases::new(vec![root.join(named)], exclude);
        assert_eq!(of("", None).candidates(&delta, None, version), []);
        assert_eq!(of("mount", None).candidates(&delta, None, version).len(), 1);
        assert_eq!(of("links", None).candidates(&delta, None, version).len(), 1);
        for named in ["mount", "mount/a.safetensors", "links"] {
            assert_eq!(of(named, Some(root.join("mount"))).candidates(&delta, None, version), [], "{named}");
        }
    }
}
