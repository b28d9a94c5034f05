//! A directory of models: which files are compressed, which are copied, and what becomes of links.
//!
//! Links are followed, so that a snapshot of a hub cache becomes plain files. Where several links lead to one file
//! inside the tree (two snapshots sharing a blob), the first becomes a file and the others links to it; blobs that
//! links lead to are not written a second time under their own names.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What becomes of one file of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Compressed to `path` + `.bs`.
    Compress {
        /// Path below the root.
        path: PathBuf,
        /// Length of the file, bytes.
        len: u64,
    },
    /// Copied as it is.
    Copy {
        /// Path below the root.
        path: PathBuf,
        /// Length of the file, bytes.
        len: u64,
    },
    /// The same file as an earlier entry, reached by another link.
    Same {
        /// Path below the root.
        path: PathBuf,
        /// Path of the earlier entry below the root.
        first: PathBuf,
    },
}

impl Entry {
    /// Path below the root.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Compress { path, .. } | Self::Copy { path, .. } | Self::Same { path, .. } => path,
        }
    }
}

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Tree {
    /// Directories below the root, parents first.
    pub directories: Vec<PathBuf>,
    /// Files, in order of path.
    pub entries: Vec<Entry>,
    /// What was left out and why, for the user.
    pub skipped: Vec<String>,
}

struct Found {
    path: PathBuf,
    id: (u64, u64),
    len: u64,
    link: bool,
}

/// Reads the tree below `root`. `leave_out` is a directory that is not entered: the output, when it lies inside.
///
/// # Errors
/// [`Error::Io`] when a directory cannot be read.
pub fn walk(root: &Path, leave_out: Option<&Path>) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut found = Vec::new();
    let leave_out = leave_out.and_then(|dir| fs::metadata(dir).ok()).map(|meta| (meta.dev(), meta.ino()));
    let meta = fs::metadata(root).map_err(Error::io("stat", root))?;
    let mut above = vec![(meta.dev(), meta.ino())];
    enter(root, Path::new(""), leave_out, &mut above, &mut tree, &mut found)?;

    // Files that links of the tree lead to, and the first such link.
    let mut linked: HashMap<((u64, u64), bool), PathBuf> = HashMap::new();
    for f in found.iter().filter(|f| f.link) {
        linked.entry((f.id, is_weights(&f.path))).or_insert_with(|| f.path.clone());
    }
    let reached: HashSet<(u64, u64)> = found.iter().filter(|f| f.link).map(|f| f.id).collect();
    for f in found {
        match linked.get(&(f.id, is_weights(&f.path))) {
            Some(first) if f.link && *first != f.path => {
                tree.entries.push(Entry::Same { path: f.path, first: first.clone() });
            }
            _ if !f.link && in_blobs(&f.path) && reached.contains(&f.id) => {}
            _ if is_weights(&f.path) => {
                tree.entries.push(Entry::Compress { path: f.path, len: f.len });
            }
            _ => tree.entries.push(Entry::Copy { path: f.path, len: f.len }),
        }
    }
    // A link is made behind the file it leads to.
    tree.entries.sort_by_key(|entry| matches!(entry, Entry::Same { .. }));
    Ok(tree)
}

fn is_weights(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("safetensors"))
}

/// Whether the file lies in the blobs of a hub cache.
fn in_blobs(path: &Path) -> bool {
    path.parent().and_then(Path::file_name) == Some(OsStr::new("blobs"))
}

fn enter(
    root: &Path,
    below: &Path,
    leave_out: Option<(u64, u64)>,
    above: &mut Vec<(u64, u64)>,
    tree: &mut Tree,
    found: &mut Vec<Found>,
) -> Result<()> {
    let dir = root.join(below);
    let mut names: Vec<_> = fs::read_dir(&dir)
        .and_then(|entries| entries.map(|e| e.map(|e| e.file_name())).collect())
        .map_err(Error::io("read directory", &dir))?;
    names.sort();
    for name in names {
        let path = below.join(&name);
        let full = root.join(&path);
        let mut skip = |why: &str| tree.skipped.push(format!("{}: {why}", full.display()));
        let link = fs::symlink_metadata(&full).is_ok_and(|meta| meta.is_symlink());
        let meta = match fs::metadata(&full) {
            Ok(meta) => meta,
            Err(e) if link => {
                skip(&format!("the link leads nowhere ({e})"));
                continue;
            }
            Err(e) => return Err(Error::io("stat", &full)(e)),
        };
        let id = (meta.dev(), meta.ino());
        if meta.is_dir() {
            if Some(id) == leave_out {
                continue;
            }
            if above.contains(&id) {
                skip("the link leads back to a directory above it");
                continue;
            }
            tree.directories.push(path.clone());
            above.push(id);
            enter(root, &path, leave_out, above, tree, found)?;
            above.pop();
        } else if meta.is_file() {
            found.push(Found { path, id, len: meta.len(), link });
        } else {
            skip("neither a file nor a directory");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_hub_cache_keeps_one_copy_of_each_blob() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("models--org--name");
        for sub in ["blobs", "snapshots/aa", "snapshots/bb", "refs"] {
            fs::create_dir_all(model.join(sub)).unwrap();
        }
        fs::write(model.join("blobs/1111"), b"weights").unwrap();
        fs::write(model.join("blobs/2222"), b"{}").unwrap();
        fs::write(model.join("blobs/3333"), b"unreferenced").unwrap();
        fs::write(model.join("refs/main"), b"bb").unwrap();
        for snapshot in ["aa", "bb"] {
            symlink("../../blobs/1111", model.join("snapshots").join(snapshot).join("model.safetensors")).unwrap();
            symlink("../../blobs/2222", model.join("snapshots").join(snapshot).join("config.json")).unwrap();
        }
        symlink("nowhere", model.join("dangling")).unwrap();
        symlink("..", model.join("snapshots/up")).unwrap();

        let tree = walk(&model, None).unwrap();
        let p = PathBuf::from;
        let aa = |name: &str| p("snapshots/aa").join(name);
        let bb = |name: &str| p("snapshots/bb").join(name);
        let expected = [
            Entry::Copy { path: p("blobs/3333"), len: 12 },
            Entry::Copy { path: p("refs/main"), len: 2 },
            Entry::Copy { path: aa("config.json"), len: 2 },
            Entry::Compress { path: aa("model.safetensors"), len: 7 },
            Entry::Same { path: bb("config.json"), first: aa("config.json") },
            Entry::Same { path: bb("model.safetensors"), first: aa("model.safetensors") },
        ];
        assert_eq!(tree.entries, expected);
        assert_eq!(tree.skipped.len(), 2, "{:?}", tree.skipped);

        // A snapshot alone: every link becomes a file.
        let tree = walk(&model.join("snapshots/bb"), None).unwrap();
        let expected =
            [Entry::Copy { path: p("config.json"), len: 2 }, Entry::Compress { path: p("model.safetensors"), len: 7 }];
        assert_eq!(tree.entries, expected);
    }
}
