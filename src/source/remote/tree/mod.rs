//! A remote place as a tree of directories and files.

mod list;
mod open;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::Url;

use super::fetch::Fetch;
use super::file::{Inner, RemoteFile, blocks, extent};
use super::http::{ResolvedFile, WebFile};
use super::listing::{Facts, Item, Kept, Listing};
use super::objects::Bucket;
use super::resolve::{Failure, Resolve, Secret};
use super::{Shared, error, web};
use crate::cache::{Description, Entry, Key};
use crate::error::{Error, Result};
use crate::source::{Identity, ReadAt, Stat, Traffic, Tree};

/// A directory that could not be listed is not asked for again for so long.
const REST: Duration = Duration::from_secs(5);
/// Files up to this length, and so much of them in all, are put into the cache as soon as they are listed.
const SMALL: (u64, u64) = (1 << 20, 8 << 20);

/// A name that a [`Site`] lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteEntry {
    /// The name in its directory.
    pub name: String,
    /// Length in bytes and version of a file, as [`Resolve`] will give them; `None` for a directory.
    pub file: Option<(u64, String)>,
    /// Time of the last change, seconds since 1970; 0 when it is not known.
    pub modified: i64,
}

/// A place whose files lie behind a [`Resolve`]. Called on threads that may wait; requests should have time limits.
pub trait Site: Send + Sync {
    /// What is in a directory, named by its path below the root, `""` for the root itself.
    ///
    /// # Errors
    /// What went wrong, in words without secrets. Called again after [`Failure::Again`].
    fn list(&self, directory: &str) -> Result<Vec<SiteEntry>, Failure>;

    /// Finds out where a file is, named by its path below the root and by the version that was listed.
    fn resolve(&self, file: &str, version: &str) -> Arc<dyn Resolve>;
}

enum Origin {
    Bucket(Bucket),
    /// The directory, whose URL ends in a slash; and the whole URL of the only file, if the place is one.
    Web(Url, Option<Secret>),
    Site(Arc<dyn Site>),
}

/// A directory that was listed.
#[derive(Debug)]
struct Directory {
    listing: Listing,
    /// How the server calls it.
    address: String,
}

/// When listing a directory failed last, and why.
type Turn = Mutex<Option<(Instant, Failure)>>;

/// A remote place. What it lists is what was there when it was looked at first.
pub struct RemoteTree {
    shared: Arc<Shared>,
    origin: Origin,
    root: PathBuf,
    /// What tells the place from others in the cache.
    id: String,
    kept: Option<Kept>,
    directories: Mutex<HashMap<String, Arc<Directory>>>,
    /// Held while somebody lists a directory, so that it is done once.
    turns: Mutex<HashMap<String, Arc<Turn>>>,
    /// Where files are, as far as that was asked.
    resolved: Mutex<HashMap<String, ResolvedFile>>,
    files: Mutex<HashMap<String, Weak<RemoteFile>>>,
    heads: Mutex<HashMap<String, Bytes>>,
    /// Short files that wait for their turn to be put into the cache.
    waiting: Mutex<Vec<Arc<Inner>>>,
    since: i64,
}

impl std::fmt::Debug for RemoteTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RemoteTree").field(&self.root).finish()
    }
}

/// A number of 64 bits that tells texts apart.
fn number(parts: &[&str]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first)
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

impl RemoteTree {
    /// How messages call the place: its address without what may be secret in it.
    #[must_use]
    pub fn label(&self) -> &Path {
        &self.shared.label
    }

    /// What is wrong with the place, in words: names that cannot be shown, a server without ranges.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.shared.notes.lock().clone()
    }

    /// Fetches all files into the cache on disk. Takes as long as the network does.
    ///
    /// # Errors
    /// [`Error::Invalid`] without a cache; the first file that cannot be fetched, or that the cache does not take; that of `tell`,
    /// which is given the bytes that are done and those of all files.
    pub fn download(&self, tell: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<()> {
        if self.kept.is_none() {
            return Err(Error::invalid("there is no disk cache to download to; it is off, or could not be opened"));
        }
        let mut files = Vec::new();
        self.all_below("", &mut files)?;
        let total = files.iter().map(|(_, len)| len).sum();
        let mut done = 0;
        for (rel, len) in files {
            self.file(&rel)?.download(&mut |more| tell(done + more, total))?;
            done += len;
            tell(done, total)?;
        }
        Ok(())
    }

    /// The files below a directory, and their lengths.
    fn all_below(&self, rel: &str, files: &mut Vec<(String, u64)>) -> Result<()> {
        for item in &self.directory(rel)?.listing.items {
            let rel = join(rel, &item.name);
            match &item.facts {
                None => self.all_below(&rel, files)?,
                Some(facts) => files.push((rel, facts.len)),
            }
        }
        Ok(())
    }

    fn rel<'a>(&self, path: &'a Path) -> Option<&'a str> {
        path.strip_prefix(&self.root).ok()?.to_str()
    }

    fn directory(&self, rel: &str) -> Result<Arc<Directory>> {
        if let Some(found) = self.directories.lock().get(rel) {
            return Ok(Arc::clone(found));
        }
        let (parent, name) = rel.rsplit_once('/').unwrap_or(("", rel));
        let missing = || Error::io("list", self.root.join(rel))(io::ErrorKind::NotFound.into());
        // The root is there from the start.
        let above = if rel.is_empty() { return Err(missing()) } else { self.directory(parent)? };
        let item = above.listing.find(name).filter(|item| item.facts.is_none()).ok_or_else(missing)?;
        let address = match &self.origin {
            Origin::Web(..) => format!("{}{}/", above.address, item.address),
            Origin::Bucket(_) | Origin::Site(_) => item.address.clone(),
        };
        let turn = Arc::clone(self.turns.lock().entry(rel.to_owned()).or_default());
        let mut failed = turn.lock();
        if let Some(found) = self.directories.lock().get(rel) {
            return Ok(Arc::clone(found));
        }
        // Each try may take long, and those who ask wait on threads that others need.
        if let Some((_, failure)) = failed.as_ref().filter(|(at, _)| at.elapsed() < REST) {
            return Err(error(&self.root.join(rel), failure.clone()));
        }
        let loaded = match self.load(rel, &address) {
            Ok(loaded) => Arc::new(loaded),
            Err(failure) => {
                *failed = Some((Instant::now(), failure.clone()));
                return Err(error(&self.root.join(rel), failure));
            }
        };
        self.directories.lock().insert(rel.to_owned(), Arc::clone(&loaded));
        drop(failed);
        self.turns.lock().remove(rel);
        self.keep_small(rel);
        Ok(loaded)
    }

    fn item(&self, rel: &str) -> Result<(Arc<Directory>, Item)> {
        let (parent, name) = rel.rsplit_once('/').unwrap_or(("", rel));
        let directory = self.directory(parent)?;
        let item = directory.listing.find(name).cloned();
        let missing = || Error::io("open", self.root.join(rel))(io::ErrorKind::NotFound.into());
        item.map(|item| (directory, item)).ok_or_else(missing)
    }

    fn identity(&self, rel: &str, facts: &Facts) -> Identity {
        let version = [&facts.version.etag, &facts.version.modified].map(|part| part.as_deref().unwrap_or_default());
        let [etag, modified] = version;
        let time = (facts.modified, 0);
        let ino = number(&[&self.id, rel, etag, modified, &facts.len.to_string()]);
        Identity { dev: number(&[&self.id]), ino, len: facts.len, mtime: time, ctime: time }
    }

    fn fetch(&self, directory: &Directory, item: &Item, facts: &Facts) -> Result<Box<dyn Fetch>, Failure> {
        let client = self.shared.client.clone();
        Ok(match &self.origin {
            Origin::Bucket(bucket) => Box::new(bucket.file(&item.address, facts.version.clone())?),
            Origin::Web(base, only) => {
                let url = match only {
                    Some(url) => url.clone(),
                    None => Secret::new(web::below(base, &format!("{}{}", directory.address, item.address)).as_str()),
                };
                Box::new(WebFile { client, url, version: facts.version.clone() })
            }
            Origin::Site(site) => {
                let version = facts.version.etag.clone().unwrap_or_default();
                let new =
                    || ResolvedFile::new(client, site.resolve(&item.address, &version), version.clone(), facts.len);
                Box::new(self.resolved.lock().entry(item.address.clone()).or_insert_with(new).clone())
            }
        })
    }

    /// What the cache has of a version of a file.
    fn entry(&self, rel: &str, facts: &Facts) -> Option<Arc<Entry>> {
        let store = self.shared.config.store.as_ref().filter(|_| facts.version.is_known() && facts.len > 0)?;
        let mut hasher = blake3::Hasher::new_keyed(blake3::hash(b"bsfs remote blocks 1").as_bytes());
        for part in
            [Some(&self.id), Some(&rel.to_owned()), facts.version.etag.as_ref(), facts.version.modified.as_ref()]
        {
            let part = part.map_or("", String::as_str);
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        hasher.update(&facts.len.to_le_bytes());
        let label = join(&self.id, rel);
        let what = Description {
            label: &label,
            len: facts.len,
            chunks: blocks(facts.len)?,
            chunk: &|block| extent(block, facts.len),
            literals: Vec::new(),
        };
        store.entry(Key(*hasher.finalize().as_bytes()), &what)
    }

    fn file(&self, rel: &str) -> Result<Arc<RemoteFile>> {
        let (directory, item) = self.item(rel)?;
        let path = self.root.join(rel);
        let Some(facts) = &item.facts else {
            return Err(Error::invalid(format!("{}: a directory, expected a file", path.display())));
        };
        let mut files = self.files.lock();
        if let Some(open) = files.get(rel).and_then(Weak::upgrade) {
            return Ok(open);
        }
        let fetch = self.fetch(&directory, &item, facts).map_err(|failure| error(&path, failure))?;
        let head = self.heads.lock().remove(rel);
        let named = (path, self.identity(rel, facts));
        let file = RemoteFile::new(&self.shared, named, fetch, self.entry(rel, facts), head);
        files.retain(|_, file| file.strong_count() > 0);
        files.insert(rel.to_owned(), Arc::downgrade(&file));
        Ok(file)
    }

    /// Puts the short files of a directory into the cache, for when the server is gone.
    fn keep_small(&self, rel: &str) {
        let Some(directory) = self.directories.lock().get(rel).cloned().filter(|_| self.kept.is_some()) else { return };
        self.waiting.lock().retain(|file| file.waits());
        let mut left = SMALL.1;
        for item in &directory.listing.items {
            let Some(facts) = item.facts.as_ref().filter(|facts| facts.len <= SMALL.0.min(left)) else { continue };
            left -= facts.len;
            if let Ok(file) = self.file(&join(rel, &item.name)) {
                self.waiting.lock().extend(file.keep());
            }
        }
    }
}

impl Tree for RemoteTree {
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let rel = self.rel(path).ok_or_else(gone)?;
        let directory = |rel: &str| Stat::Directory {
            id: (number(&[&self.id]), number(&[&self.id, rel])),
            mtime: (self.since, 0),
            ctime: (self.since, 0),
            access: None,
        };
        if rel.is_empty() {
            return Ok(directory(rel));
        }
        let (_, item) = self.item(rel).map_err(|e| match e {
            Error::Io { source, .. } => source,
            other => io::Error::other(other.to_string()),
        })?;
        Ok(match &item.facts {
            Some(facts) => Stat::File(self.identity(rel, facts), None),
            None => directory(rel),
        })
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>> {
        let missing = || Error::io("list", path)(io::ErrorKind::NotFound.into());
        let directory = self.directory(self.rel(path).ok_or_else(missing)?)?;
        Ok(directory.listing.items.iter().map(|item| item.name.clone().into()).collect())
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadAt>> {
        let missing = || Error::io("open", path)(io::ErrorKind::NotFound.into());
        Ok(self.file(self.rel(path).ok_or_else(missing)?)?)
    }

    fn is_local(&self) -> bool {
        false
    }

    fn traffic(&self) -> Option<Traffic> {
        Some(self.shared.pace.traffic())
    }
}
