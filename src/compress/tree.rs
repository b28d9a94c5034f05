//! A directory of models: which files are compressed, which are copied, and what becomes of links.
//!
//! The mirror has the same shape, so that the way back gives the same directory. A link to something below the root stays a
//! link: to a file that is compressed it gets `.bs` behind its name and its text, as the file does. So a hub cache keeps its
//! blobs, and snapshots that share them. What a link leads to elsewhere is taken in under the link's name, so that a snapshot
//! alone becomes plain files. A link that leads nowhere is made again as it is.

use std::collections::{HashMap, HashSet, VecDeque, hash_map};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::doubt::is_weights;
use crate::error::{Error, Result};
use crate::longpath;
use crate::source::{self, Bounds, Found, Walk};

/// What becomes of one name of a tree.
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
    /// A link.
    Link {
        /// Path below the root.
        path: PathBuf,
        /// What the link says, or would say to lead to its file below the root.
        text: PathBuf,
        /// The path below the root of the file that it leads to, of several hard links the one that the text names; `None`
        /// for a directory, and for nothing.
        to: Option<PathBuf>,
    },
}

impl Entry {
    /// Path below the root.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Compress { path, .. } | Self::Copy { path, .. } | Self::Link { path, .. } => path,
        }
    }

    /// Whether it is a link.
    #[must_use]
    pub fn is_link(&self) -> bool {
        matches!(self, Self::Link { .. })
    }
}

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Tree {
    /// Directories below the root, parents first.
    pub directories: Vec<PathBuf>,
    /// Files in order of path, then links.
    pub entries: Vec<Entry>,
    /// What was left out and why, for the user.
    pub skipped: Vec<String>,
    /// What could not be read, and so was left out.
    pub errors: Vec<Error>,
}

/// The longest chain of links, as in the kernel.
const MOST_LINKS: u32 = 40;

/// Device and inode number.
type Id = (u64, u64);

/// Reads the tree below `root`. `leave_out` is a directory that is not entered: the output, when it lies inside.
///
/// # Errors
/// [`Error::Io`] when `root` itself cannot be read. What cannot be read below it is in [`Tree::errors`].
pub fn walk(root: &Path, leave_out: Option<&Path>) -> Result<Tree> {
    let id = |path: &Path| longpath::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let leave_out = leave_out.and_then(id);
    let mut links = Links {
        root,
        bounds: Bounds { leave_out, ..Bounds::default() },
        all: source::walk(root, &Bounds { leave_out, ..Bounds::default() })?,
        directories: HashMap::new(),
        files: HashMap::new(),
        skipped: Vec::new(),
        made: Vec::new(),
        to_files: Vec::new(),
    };
    links.directories.extend(id(root).map(|id| (id, PathBuf::new())));
    links.note(0, 0);
    links.follow();
    links.name_targets();
    let Links { mut all, files, mut skipped, made, .. } = links;

    // What links of that name lead to are weights, whatever it is called.
    let weights: HashSet<Id> = all
        .links
        .iter()
        .filter(|link| is_weights(&link.path))
        .filter_map(|link| id(&root.join(&link.path)).filter(|id| files.contains_key(id)))
        .collect();
    all.files.sort_by(|a, b| a.path.cmp(&b.path));
    all.directories.sort_by(|a, b| a.path.cmp(&b.path));
    let mut entries: Vec<Entry> = Vec::with_capacity(all.files.len() + made.len());
    for Found { path, meta } in all.files {
        let len = meta.len();
        let packed_already = path.extension() == Some(OsStr::new("bs"));
        let is_weights = is_weights(&path) || (weights.contains(&(meta.dev(), meta.ino())) && !packed_already);
        entries.push(if is_weights { Entry::Compress { path, len } } else { Entry::Copy { path, len } });
    }
    // A link is made behind the file that it leads to.
    entries.extend(made);
    skipped.extend(
        all.others.iter().map(|other| format!("{}: neither a file nor a directory", root.join(&other.path).display())),
    );
    let directories = all.directories.into_iter().map(|directory| directory.path).collect();
    Ok(Tree { directories, entries, skipped, errors: all.errors })
}

/// The links of a tree, on the way to what they lead to.
struct Links<'a> {
    root: &'a Path,
    bounds: Bounds<'a>,
    all: Walk,
    /// The first path of each directory and of each file.
    directories: HashMap<Id, PathBuf>,
    files: HashMap<Id, PathBuf>,
    skipped: Vec<String>,
    made: Vec<Entry>,
    /// Links to files of the tree, and what they say.
    to_files: Vec<(PathBuf, PathBuf, Id)>,
}

impl Links<'_> {
    /// Takes note of the directories and files from these numbers on.
    fn note(&mut self, directories: usize, files: usize) {
        for found in self.all.directories.iter().skip(directories) {
            self.directories.entry(found.id()).or_insert_with(|| found.path.clone());
        }
        for found in self.all.files.iter().skip(files) {
            self.files.entry(found.id()).or_insert_with(|| found.path.clone());
        }
    }

    /// Decides on all links, also on those in directories that links lead to.
    fn follow(&mut self) {
        let mut left: VecDeque<PathBuf> = self.all.links.iter().map(|link| link.path.clone()).collect();
        while let Some(path) = left.pop_front() {
            let full = self.root.join(&path);
            let text = match longpath::read_link(&full) {
                Ok(text) => text,
                // Another process removed it meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => {
                    self.all.errors.push(Error::io("read the link", &full)(e));
                    continue;
                }
            };
            let meta = match longpath::metadata(&full) {
                Ok(meta) => meta,
                Err(e) if leads_nowhere(&e) => {
                    self.made.push(Entry::Link { path, text, to: None });
                    continue;
                }
                Err(e) => {
                    self.all.errors.push(Error::io("follow the link", &full)(e));
                    continue;
                }
            };
            let id = (meta.dev(), meta.ino());
            if meta.is_dir() {
                if Some(id) == self.bounds.leave_out {
                    self.skipped.push(format!("{}: the link leads to the output", full.display()));
                } else if let Some(directory) = self.directories.get(&id) {
                    let text = self.text(&path, text, id, directory);
                    self.made.push(Entry::Link { path, text, to: None });
                } else {
                    left.extend(self.enter(path, meta));
                }
            } else if !meta.is_file() {
                self.skipped.push(format!("{}: the link leads to neither a file nor a directory", full.display()));
            } else {
                match self.files.entry(id) {
                    hash_map::Entry::Occupied(_) => self.to_files.push((path, text, id)),
                    hash_map::Entry::Vacant(first) => {
                        first.insert(path.clone());
                        self.all.files.push(Found { path, meta });
                    }
                }
            }
        }
    }

    /// Takes in a directory that the link `path` leads to, out of the tree; gives the links in it. Each directory is entered once, so
    /// links in a circle have an end.
    fn enter(&mut self, path: PathBuf, meta: std::fs::Metadata) -> Vec<PathBuf> {
        let directory = Found { path, meta };
        let Walk { directories, files, links, others, errors, .. } =
            match source::walk(&self.root.join(&directory.path), &self.bounds) {
                Ok(walk) => walk,
                Err(error) => {
                    self.all.errors.push(error);
                    return Vec::new();
                }
            };
        let below = |found: Found| Found { path: directory.path.join(found.path), meta: found.meta };
        let (first, first_file) = (self.all.directories.len(), self.all.files.len());
        let links: Vec<Found> = links.into_iter().map(below).collect();
        self.all.directories.extend(directories.into_iter().map(below));
        self.all.files.extend(files.into_iter().map(below));
        self.all.others.extend(others.into_iter().map(below));
        self.all.errors.extend(errors);
        self.all.directories.push(directory);
        self.note(first, first_file);
        let paths = links.iter().map(|link| link.path.clone()).collect();
        self.all.links.extend(links);
        paths
    }

    /// Finds out which name of its file each link leads to. Not before all directories that links lead to were taken in.
    fn name_targets(&mut self) {
        let listed: HashMap<&Path, Id> = self.all.files.iter().map(|file| (&*file.path, file.id())).collect();
        let links: HashSet<&Path> = self.all.links.iter().map(|link| &*link.path).collect();
        for (path, text, id) in std::mem::take(&mut self.to_files) {
            let Some(first) = self.files.get(&id) else { continue };
            let (mut at, mut steps) = (path.clone(), 0);
            let (to, known) = loop {
                match self.next(&at) {
                    Some(next) if listed.get(&*next) == Some(&id) => break (next, true),
                    Some(next) if links.contains(&*next) && steps < MOST_LINKS => (at, steps) = (next, steps + 1),
                    // Out of the tree, from where the last of these links leads to the first name.
                    _ => break (first.clone(), steps > 0),
                }
            };
            let text = if known { self.text(&path, text, id, &to) } else { relative(&path, &to) };
            self.made.push(Entry::Link { path, text, to: Some(to) });
        }
    }

    /// Where the link `link` leads to, in one step: a path below the root, if its directory is in the tree.
    fn next(&self, link: &Path) -> Option<PathBuf> {
        let full = self.root.join(link);
        let there = longpath::directory(&full).join(longpath::read_link(&full).ok()?);
        let meta = longpath::metadata(longpath::directory(&there)).ok()?;
        Some(self.directories.get(&(meta.dev(), meta.ino()))?.join(there.file_name()?))
    }

    /// What the link `path` is to say so that it leads to `to` in a mirror of the tree: what it says, if that stays in the tree.
    fn text(&self, path: &Path, text: PathBuf, id: Id, to: &Path) -> PathBuf {
        let there = within(path, &text).and_then(|there| longpath::metadata(&self.root.join(there)).ok());
        if there.is_some_and(|meta| (meta.dev(), meta.ino()) == id) { text } else { relative(path, to) }
    }
}

/// Whether a link leads to nothing, or in a circle.
fn leads_nowhere(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename)
        || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

/// Where a link says that it leads to, below the root that `link` is below; `None` where that cannot be told from the text.
fn within(link: &Path, text: &Path) -> Option<PathBuf> {
    let mut there = link.parent()?.to_path_buf();
    let mut down = false;
    for part in text.components() {
        match part {
            // Behind a name it would lead out of what that name, which may be a link, leads to.
            Component::ParentDir if !down => there.pop().then_some(())?,
            Component::Normal(name) => {
                down = true;
                there.push(name);
            }
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(there)
}

/// The way from the directory of `from` to `to`, both below one directory.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let from: Vec<_> = from.parent().unwrap_or(Path::new("")).components().collect();
    let to: Vec<_> = to.components().collect();
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from.iter().skip(common).map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(to.into_iter().skip(common)).collect();
    if way.as_os_str().is_empty() { PathBuf::from(OsString::from(".")) } else { way }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn p(path: &str) -> PathBuf {
        PathBuf::from(path)
    }

    fn link(path: &str, text: &str, to: Option<&str>) -> Entry {
        Entry::Link { path: p(path), text: p(text), to: to.map(p) }
    }

    #[test]
    fn a_hub_cache_keeps_its_blobs_and_its_links() {
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
        let tree = walk(&model, None).unwrap();
        let mut expected = vec![
            Entry::Compress { path: p("blobs/1111"), len: 7 },
            Entry::Copy { path: p("blobs/2222"), len: 2 },
            Entry::Copy { path: p("blobs/3333"), len: 12 },
            Entry::Copy { path: p("refs/main"), len: 2 },
        ];
        for snapshot in ["aa", "bb"] {
            let at = |name: &str| format!("snapshots/{snapshot}/{name}");
            expected.push(link(&at("config.json"), "../../blobs/2222", Some("blobs/2222")));
            expected.push(link(&at("model.safetensors"), "../../blobs/1111", Some("blobs/1111")));
        }
        assert_eq!(tree.entries, expected);
        assert!(tree.skipped.is_empty() && tree.errors.is_empty());

        // A snapshot alone: every link becomes a file.
        let tree = walk(&model.join("snapshots/bb"), None).unwrap();
        let expected =
            [Entry::Copy { path: p("config.json"), len: 2 }, Entry::Compress { path: p("model.safetensors"), len: 7 }];
        assert_eq!(tree.entries, expected);
    }

    #[test]
    fn links_keep_their_text_where_it_stays_in_the_tree_and_circles_end() {
        let dir = tempfile::tempdir().unwrap();
        let (root, out) = (dir.path().join("root"), dir.path().join("out"));
        fs::create_dir_all(root.join("d/e")).unwrap();
        fs::create_dir_all(out.join("sub")).unwrap();
        fs::write(root.join("d/f"), b"f").unwrap();
        fs::write(out.join("o"), b"o").unwrap();
        let absolute = root.join("d/f");
        let texts = [
            ("a-up", ".", "."),
            ("b-dir", "d/e", "d/e"),
            ("c-chain", "d/g", "d/g"),
            ("d/e/h", "../../d/../d/f", "../f"),
            ("d/g", "./f", "./f"),
            ("gone", "nowhere/x", "nowhere/x"),
            ("i-round", "../root/d/f", "d/f"),
            ("j-far", absolute.to_str().unwrap(), "d/f"),
            ("k-self", "k-self", "k-self"),
        ];
        for (path, text, _) in texts {
            symlink(text, root.join(path)).unwrap();
        }
        // Out of the tree: a directory that leads back into it, and to itself.
        symlink("../out", root.join("x")).unwrap();
        symlink("../root", out.join("back")).unwrap();
        symlink(".", out.join("itself")).unwrap();
        symlink("../out/o", root.join("y")).unwrap();
        let tree = walk(&root, None).unwrap();
        let got: HashMap<PathBuf, PathBuf> = tree
            .entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Link { path, text, .. } => Some((path.clone(), text.clone())),
                _ => None,
            })
            .collect();
        let more = [("x/back", ".."), ("x/itself", ".")];
        let expected: HashMap<PathBuf, PathBuf> =
            texts.iter().map(|(path, _, text)| (p(path), p(text))).chain(more.map(|(a, b)| (p(a), p(b)))).collect();
        let (y, o) = (got.get(&p("y")), tree.entries.iter().any(|entry| entry.path() == Path::new("y")));
        assert!(y.is_none() || y == Some(&p("x/o")), "{y:?}");
        assert!(o && tree.entries.iter().any(|entry| entry.path() == Path::new("x/o")));
        for (path, text) in &expected {
            assert_eq!(got.get(path), Some(text), "{}", path.display());
        }
        assert_eq!(tree.directories, ["d", "d/e", "x", "x/sub"].map(p));
        assert!(tree.errors.is_empty() && tree.skipped.is_empty(), "{tree:?}");
        // The output inside of the input is not its own input, nor by a link.
        let tree = walk(dir.path(), Some(&out)).unwrap();
        assert!(tree.entries.iter().all(|entry| !entry.path().starts_with("out")));
    }
}
