//! Searches for the file that a delta of another packer was made from.
//!
//! Such a delta states the path of its base on the machine that wrote it, and no digest of the base.
//! Each decoded tensor is checked against a digest of the result.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use log::{info, warn};

use super::base_file::BaseFile;
use super::file_names::{file_names, is_file_name};
use super::finder::{Finder, Opened, Spot};
use crate::engine::foreign::read_index;
use crate::engine::{Engine, ForeignFile, Needs};
use crate::error::{Error, Result};
use crate::source::{Identity, Stat, Tree};

/// A file that may be a base.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    path: PathBuf,
    /// Whether the user named it: then it may be a link. Files beside a delta came with the delta.
    named: bool,
}

impl Finder {
    /// The base of `delta`, this version of a file of a tree, and whether it has all tensors that the
    /// delta refers to. The first file that has all; if none has, the first that could be opened, so
    /// that reading says what is missing there. `None` for a file that needs none, and if there is no
    /// candidate.
    ///
    /// # Errors
    /// Why the first candidate could not be used, if no other could.
    pub fn foreign_base(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        delta: &dyn ForeignFile,
        (tree, version): (&Arc<dyn Tree>, Identity),
    ) -> Result<Option<(Arc<BaseFile>, bool)>> {
        let Some(needs) = delta.needs() else { return Ok(None) };
        let (mut partial, mut failed) = (None, None);
        let warn = |error: &Error| warn!("{error}; not taken as the base of {}", delta.path().display());
        let mut found = None;
        for candidate in self.candidates(delta.path(), needs.hint, version) {
            match self.open_foreign_base(engine, (tree, delta.path()), version, &candidate) {
                Ok(None) => {}
                Ok(Some(base)) if fits(&needs, &base) => {
                    info!("{}: its base is {}", delta.path().display(), candidate.path.display());
                    found = Some((Arc::new(base), true));
                    break;
                }
                Ok(Some(base)) => partial = partial.or_else(|| Some((Arc::new(base), false))),
                Err(error) if failed.is_none() => failed = Some(error),
                Err(error) => warn(&error),
            }
        }
        match (found.or(partial), failed) {
            (None, Some(error)) => Err(error),
            (base, failed) => {
                failed.iter().for_each(warn);
                Ok(base)
            }
        }
    }

    /// Opens a candidate; `None` when there is no file, or it is the delta itself.
    fn open_foreign_base(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        home: Spot<'_>,
        delta: Identity,
        Candidate { path, named }: &Candidate,
    ) -> Result<Option<BaseFile>> {
        let tree = if *named { &self.local } else { home.0 };
        let Some(version) = self.version(home, (tree, path), *named)? else { return Ok(None) };
        if !*named && version.is_same_file(&delta) {
            return Ok(None);
        }
        let (source, opened) = self.open(engine.formats(), (tree, path), version)?;
        let image = match opened {
            Opened::Plain => return BaseFile::plain(source).map(Some),
            Opened::Native(container) => {
                self.keep(version, &container, tree);
                self.image(engine, container, (tree, Arc::clone(&source)))
            }
            Opened::Foreign(file) if file.needs().is_some() => {
                let text = "is a delta itself; the base is what both were made from, or the delta decompressed";
                return Err(Error::invalid(format!("{}: {text}", path.display())));
            }
            Opened::Foreign(file) => {
                // Tensors that only the index of the base's directory tells of.
                let index = path.with_file_name(file.format().index_name());
                let apply = |name: &str| -> Result<_> {
                    match self.version(home, (tree, &index), *named)? {
                        Some(_) => read_index(&**tree, &index, file.format())?.1.apply(name, &file),
                        None => Ok(None),
                    }
                };
                let name = path.file_name().and_then(|name| name.to_str());
                let shown = name.map_or(Ok(None), apply).unwrap_or_else(|error| {
                    warn!("{error}; tensors that only it tells of are left out");
                    None
                });
                engine.foreign(shown.unwrap_or(file), Arc::clone(&source), None)
            }
        };
        BaseFile::image(image, source).map(Some)
    }

    /// Where the base may be, likely places first. Among the files that the user named, those with a
    /// name from the hint come first: of several deltas each needs its own.
    fn candidates(&self, delta: &Path, hint: Option<&str>, version: Identity) -> Vec<Candidate> {
        let names = hint.and_then(last_component).map(names).unwrap_or_default();
        let is_hinted = |path: &Path| path.file_name().is_some_and(|name| names.iter().any(|hinted| name == &**hinted));
        let (mut hinted, mut others) = (Vec::new(), Vec::new());
        for named in self.places.named.iter().filter(|path| self.is_reachable(&*self.local, path)) {
            match self.local.stat(named) {
                Ok(Stat::Directory { .. }) => {
                    let paths = names.iter().map(|name| named.join(name));
                    hinted.extend(paths.filter(|path| self.other_file(path, version)));
                    others.extend(self.only_file(named, version));
                }
                Ok(Stat::File(..)) if is_hinted(named) => hinted.push(named.clone()),
                Ok(_) => others.push(named.clone()),
                Err(_) => warn!("{}: named as a base and not there", named.display()),
            }
        }
        hinted.append(&mut others);
        let mut found: Vec<_> = hinted.into_iter().map(|path| Candidate { path, named: true }).collect();
        let beside = names.iter().filter_map(|name| Some(delta.parent()?.join(name)));
        found.extend(beside.map(|path| Candidate { path, named: false }));
        found
    }

    /// The file of a directory that may be a base, if there is exactly one beside the delta itself.
    fn only_file(&self, dir: &Path, delta: Identity) -> Option<PathBuf> {
        let mut files = self.local.names(dir).ok()?.into_iter().map(|name| dir.join(name)).filter(|path| {
            let name = path.file_name().unwrap_or_default().as_bytes();
            [&b".safetensors"[..], b".bs", b".bsr"].iter().any(|ending| name.ends_with(ending))
                && self.other_file(path, delta)
        });
        let only = files.next()?;
        files.next().is_none().then_some(only)
    }

    /// Whether a path leads to a file of this machine that is not the delta itself.
    fn other_file(&self, path: &Path, delta: Identity) -> bool {
        let stat = || self.local.stat(path);
        self.is_reachable(&*self.local, path)
            && matches!(stat(), Ok(Stat::File(version, _)) if !version.is_same_file(&delta))
    }
}

/// The last component of a path of any system, if it can be a file name.
fn last_component(hint: &str) -> Option<&str> {
    hint.rsplit(['/', '\\']).next().filter(|last| is_file_name(last))
}

/// Names that a base may have by now.
fn names(name: &str) -> Vec<String> {
    file_names(name, &[".bs", ".bsr", ".safetensors"], &[".safetensors", ".bs", ".safetensors.bs"])
}

/// Whether the base has every tensor that the delta refers to, in its length.
fn fits(needs: &Needs<'_>, base: &BaseFile) -> bool {
    needs.tensors.iter().all(|(name, len)| base.tensor_len(name) == Some(*len))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::engine::bases::finder::Places;

    #[test]
    fn a_hint_yields_a_plain_name_only() {
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
        assert!(names(&"n".repeat(254)).iter().all(|name| name.len() <= 255));
    }

    fn finder(named: Vec<PathBuf>, exclude: Option<PathBuf>) -> Finder {
        Finder::new(Places { named, exclude, ..Places::default() })
    }

    fn no_file() -> Identity {
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
        let finder = finder(vec![at("one.safetensors"), at("other"), at("single"), at("missing")], None);
        let found = finder.candidates(&at("delta/d.bs"), Some("/nowhere/base"), no_file());
        let paths: Vec<_> = found.iter().filter(|c| c.named).map(|c| c.path.clone()).collect();
        assert_eq!(paths, [at("other/base.bs"), at("one.safetensors"), at("single/any.safetensors")]);
        assert!(found.iter().filter(|c| !c.named).all(|c| c.path.parent() == Some(&at("delta"))));
        let found = finder.candidates(&at("delta/d.bs"), Some(".."), no_file());
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
        let of = |named: &str, exclude: Option<PathBuf>| finder(vec![root.join(named)], exclude);
        assert_eq!(of("", None).candidates(&delta, None, version), []);
        assert_eq!(of("mount", None).candidates(&delta, None, version).len(), 1);
        assert_eq!(of("links", None).candidates(&delta, None, version).len(), 1);
        for named in ["mount", "mount/a.safetensors", "links"] {
            assert_eq!(of(named, Some(root.join("mount"))).candidates(&delta, None, version), [], "{named}");
        }
    }
}
