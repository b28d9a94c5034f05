//! The cache of the Hub's files on disk, as `huggingface_hub` lays it out and shares it with other programs:
//!
//! ```text
//! HUB_CACHE/
//!   CACHEDIR.TAG
//!   .locks/models--ORG--NAME/ETAG.lock     flock(2) while a blob is written
//!   models--ORG--NAME/
//!     blobs/ETAG                           a content; ETAG.incomplete while it comes
//!     snapshots/COMMIT/PATH                a link to ../../blobs/ETAG
//!     refs/REVISION                        the commit of a branch or tag
//!     trees/COMMIT.json                    the listing of a commit
//! ```
//!
//! `.no_exist`, where `huggingface_hub` notes files that a program asked for by name and that are not there, is not written: bsfs
//! asks for listed files only.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::client::RepoFile;
use super::http::check;
use super::repo::{Repo, is_commit, is_hex, relative};
use crate::error::{Error, Result};
use crate::sink::AtomicFile;

/// First line of a file that tells backup programs that a directory can be made again.
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n";
/// Version of the listings on disk.
const TREE_VERSION: u32 = 1;
/// Longest listing that is read, bytes.
const MAX_TREE: u64 = 256 << 20;

/// Paths of one repository in the cache.
pub struct Layout {
    cache: PathBuf,
    repo: PathBuf,
    locks: PathBuf,
}

/// A lock on one blob, across processes; ends when dropped.
pub struct Lock {
    _file: File,
}

#[derive(Serialize, Deserialize)]
struct Tree {
    format_version: u32,
    files: BTreeMap<String, TreeFile>,
}

#[derive(Serialize, Deserialize)]
struct TreeFile {
    size: u64,
    blob_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lfs_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xet_hash: Option<String>,
}

impl Layout {
    /// Paths only; makes nothing.
    pub fn new(cache: &Path, repo: &Repo) -> Self {
        let name = repo.directory();
        // Links into the cache are relative, but their names must not depend on where the program runs.
        let cache = std::path::absolute(cache).unwrap_or_else(|_| cache.to_path_buf());
        Self { repo: cache.join(&name), locks: cache.join(".locks").join(name), cache }
    }

    /// Makes the directories.
    pub fn prepare(&self) -> Result<()> {
        for dir in [&self.repo.join("blobs"), &self.repo.join("snapshots"), &self.locks] {
            fs::create_dir_all(dir).map_err(Error::io("create directory", dir))?;
        }
        let tag = self.cache.join("CACHEDIR.TAG");
        if !tag.exists() {
            // A mark for others; the cache works without it.
            let _ = fs::write(&tag, format!("{CACHEDIR_TAG}# Models of the Hugging Face Hub.\n"));
        }
        Ok(())
    }

    /// The directory of the repository.
    pub fn directory(&self) -> &Path {
        &self.repo
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.repo.join("blobs").join(etag)
    }

    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.repo.join("blobs").join(format!("{etag}.incomplete"))
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.join("snapshots").join(commit)
    }

    /// Whether the snapshot has this file, of the right length.
    pub fn has(&self, commit: &str, file: &RepoFile) -> bool {
        is_file_of(&self.snapshot(commit).join(&file.path), file.size)
    }

    /// Whether the content is there, of the right length.
    pub fn has_blob(&self, file: &RepoFile) -> bool {
        is_file_of(&self.blob(file.etag()), file.size)
    }

    /// Waits for the lock on a blob, that `huggingface_hub` takes as well.
    pub fn lock(&self, etag: &str, stop: &AtomicBool) -> Result<Lock> {
        let mut told = false;
        let path = self.locks.join(format!("{etag}.lock"));
        loop {
            let open = File::options().read(true).write(true).create(true).truncate(false).mode(0o664).open(&path);
            let file = open.map_err(Error::io("open the lock", &path))?;
            loop {
                check(stop)?;
                match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => break,
                    Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {
                        if !told {
                            log::warn!(
                                "{}: another program fetches this file; waiting for it",
                                self.blob(etag).display()
                            );
                            told = true;
                        }
                        thread::sleep(Duration::from_millis(100));
                    }
                    Err(e) => return Err(Error::io("lock", &path)(e.into())),
                }
            }
            // Some programs remove the file when they unlock: a lock on a file without a name locks nothing.
            let (held, named) = (file.metadata(), fs::metadata(&path));
            if let (Ok(held), Ok(named)) = (held, named)
                && (held.dev(), held.ino()) == (named.dev(), named.ino())
            {
                return Ok(Lock { _file: file });
            }
        }
    }

    /// Gives a whole incomplete file the name of its blob. The caller has the lock.
    pub fn publish(&self, etag: &str, file: &File) -> Result<()> {
        let (from, to) = (self.incomplete(etag), self.blob(etag));
        file.sync_all().map_err(Error::io("write to disk", &from))?;
        fs::rename(&from, &to).map_err(Error::io("give a name to", &to))?;
        let dir = self.repo.join("blobs");
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(Error::io("write to disk", dir))
    }

    /// Makes the link to a blob in a snapshot, in place of whatever was there.
    pub fn link(&self, commit: &str, file: &RepoFile) -> Result<()> {
        let path = self.snapshot(commit).join(&file.path);
        let depth = Path::new(&file.path).components().count() + 1;
        let target: PathBuf = std::iter::repeat_n("..", depth).chain(["blobs", file.etag()]).collect();
        if fs::read_link(&path).is_ok_and(|present| present == target) {
            return Ok(());
        }
        let failed = |e| Error::io("create the link", &path)(e);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(Error::io("create directory", dir))?;
        }
        match symlink(&target, &path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map_err(failed),
        }
        // A name of our own, then over the other: nobody sees the snapshot without the file.
        let name = format!(".{}-{}.tmp", std::process::id(), file.etag());
        let temporary = path.with_file_name(name);
        let _ = fs::remove_file(&temporary);
        symlink(&target, &temporary).and_then(|()| fs::rename(&temporary, &path)).map_err(|e| {
            let _ = fs::remove_file(&temporary);
            failed(e)
        })
    }

    /// The commit that a revision was when it was last pulled.
    pub fn get_ref(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.repo.join("refs").join(relative(revision)?)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes the commit of a branch or tag.
    pub fn set_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.get_ref(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let name = relative(revision)
            .ok_or_else(|| Error::invalid(format!("'{}' is no revision", revision.escape_debug())))?;
        self.write(&self.repo.join("refs").join(name), commit.as_bytes())
    }

    /// The listing of a commit, if it is there and makes sense; in order of path.
    pub fn read_tree(&self, commit: &str) -> Option<Vec<RepoFile>> {
        let path = self.tree(commit);
        if fs::metadata(&path).ok()?.len() > MAX_TREE {
            return None;
        }
        let tree: Tree = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        if tree.format_version != TREE_VERSION {
            return None;
        }
        let file = |(path, entry): (String, TreeFile)| {
            relative(&path)?;
            let whole = is_hex(&entry.blob_id, 40) && entry.lfs_sha256.as_ref().is_none_or(|sha| is_hex(sha, 64));
            let size = entry.lfs_size.unwrap_or(entry.size);
            whole.then_some(RepoFile { path, size, oid: entry.blob_id, sha256: entry.lfs_sha256, xet: entry.xet_hash })
        };
        tree.files.into_iter().map(file).collect()
    }

    /// What a snapshot has, for when there is no listing of its commit; `None` when there is no snapshot, or nothing in it.
    pub fn walk_snapshot(&self, commit: &str) -> Option<Vec<RepoFile>> {
        let (root, mut files) = (self.snapshot(commit), Vec::new());
        let mut directories = vec![root.clone()];
        while let Some(dir) = directories.pop() {
            for entry in fs::read_dir(&dir).ok()? {
                let path = entry.ok()?.path();
                match fs::metadata(&path) {
                    Ok(meta) if meta.is_dir() && !path.is_symlink() => directories.push(path),
                    Ok(meta) if meta.is_file() => {
                        let name = path.strip_prefix(&root).ok()?.to_str()?.to_owned();
                        files.push(RepoFile {
                            path: name,
                            size: meta.len(),
                            oid: String::new(),
                            sha256: None,
                            xet: None,
                        });
                    }
                    _ => {}
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        (!files.is_empty()).then_some(files)
    }

    /// Keeps the listing of a commit, so that a snapshot can be known to be whole without a request.
    pub fn write_tree(&self, commit: &str, files: &[RepoFile]) -> Result<()> {
        let entry = |file: &RepoFile| {
            let lfs_size = file.sha256.as_ref().map(|_| file.size);
            let (blob_id, lfs_sha256, xet_hash) = (file.oid.clone(), file.sha256.clone(), file.xet.clone());
            (file.path.clone(), TreeFile { size: file.size, blob_id, lfs_sha256, lfs_size, xet_hash })
        };
        let tree = Tree { format_version: TREE_VERSION, files: files.iter().map(entry).collect() };
        let json = serde_json::to_vec_pretty(&tree)
            .map_err(|e| Error::invalid(format!("the listing cannot be written: {e}")))?;
        self.write(&self.tree(commit), &json)
    }

    fn tree(&self, commit: &str) -> PathBuf {
        self.repo.join("trees").join(format!("{commit}.json"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(Error::io("create directory", dir))?;
        }
        let mut file = AtomicFile::create(path, true)?;
        file.write_all(bytes).map_err(Error::io("write", path))?;
        file.publish().map(drop)
    }
}

fn is_file_of(path: &Path, len: u64) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> RepoFile {
        RepoFile { path: path.into(), size: 2, oid: "a".repeat(40), sha256: None, xet: None }
    }

    #[test]
    fn links_lead_to_blobs_from_any_depth_and_replace_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), &Repo::new("o/n").unwrap());
        layout.prepare().unwrap();
        let commit = "c".repeat(40);
        fs::write(layout.blob(&"a".repeat(40)), b"{}").unwrap();
        for path in ["x.json", "a/b/x.json"] {
            let file = file(path);
            layout.link(&commit, &file).unwrap();
            assert!(layout.has(&commit, &file));
            let at = layout.snapshot(&commit).join(path);
            fs::remove_file(&at).unwrap();
            symlink("nowhere", &at).unwrap();
            assert!(!layout.has(&commit, &file));
            layout.link(&commit, &file).unwrap();
            assert_eq!(fs::read(&at).unwrap(), b"{}");
            assert_eq!(
                fs::read_dir(at.parent().unwrap()).unwrap().filter(|e| e.as_ref().unwrap().path().is_symlink()).count(),
                1
            );
        }
    }

    #[test]
    fn refs_and_listings_come_back_and_damaged_ones_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), &Repo::new("o/n").unwrap());
        let commit = "c".repeat(40);
        layout.set_ref("refs/pr/1", &commit).unwrap();
        assert_eq!(layout.get_ref("refs/pr/1"), Some(commit.clone()));
        assert_eq!((layout.get_ref("../x"), layout.get_ref("other")), (None, None));
        let mut lfs = file("m.bin");
        (lfs.sha256, lfs.xet) = (Some("b".repeat(64)), Some("d".repeat(64)));
        let files = vec![file("a/x.json"), lfs];
        layout.write_tree(&commit, &files).unwrap();
        assert_eq!(layout.read_tree(&commit), Some(files));
        let path = layout.tree(&commit);
        let text = fs::read_to_string(&path).unwrap();
        for (from, to) in
            [("a/x.json", "../x.json"), ("aaaa", "zzzz"), ("\"format_version\": 1", "\"format_version\": 2"), ("{", "")]
        {
            fs::write(&path, text.replacen(from, to, 1)).unwrap();
            assert_eq!(layout.read_tree(&commit), None, "{from}");
        }
    }
}
