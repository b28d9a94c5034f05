//! The store: one directory, opened by one process; others may have it open as well.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::context::Context;
use super::counters::{Counters, Counts, count};
use super::dir::Dir;
use super::entry::Entry;
use super::epoch;
use super::key::Key;
use super::limits::Limits;
use super::opening;
use super::quota::{self, Removed};
use super::table::Description;
use super::writer::{Job, Queue, Target};
use crate::error::{Error, Result};

/// Keys of which it is remembered that they were logged.
const MOST_WARNED: usize = 1024;

/// How a store is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Disk space that all files may take, bytes. By default a tenth of the file system, at most 50 GiB. Kept to within what
    /// other processes write in half a minute; processes of different bounds keep to the smallest.
    pub size: Option<u64>,
    /// Space that is left free on the file system, bytes. By default 1 GiB or a twentieth of the file system, whichever is less.
    pub floor: Option<u64>,
    /// Bytes that may wait to be written. Chunks beyond are dropped.
    pub queue: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { size: None, floor: None, queue: 32 << 20 }
    }
}

/// Where the cache is unless somebody says otherwise: `$XDG_CACHE_HOME/bsfs`, or `~/.cache/bsfs`; `None` without a home.
#[must_use]
pub fn default_dir() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    caches.map(|dir| dir.join("bsfs"))
}

/// An open disk cache. Dropped, it ends its writer, without the chunks that wait: see [`flush`](Store::flush).
#[derive(Debug)]
pub struct Store {
    pub(super) context: Arc<Context>,
    pub(super) queue: Arc<Queue>,
    open: Mutex<HashMap<Key, Weak<Entry>>>,
    warned: Mutex<HashSet<Key>>,
}

impl Store {
    /// Whether nothing is written to it for now, because that failed.
    #[must_use]
    pub fn is_troubled(&self) -> bool {
        self.queue.is_troubled()
    }

    /// Opens the cache at `dir`, and makes it when it is not there. A cache that cannot be written is only read.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the directory is a symbolic link, belongs to another user, or can be written by others;
    /// [`Error::Io`] when it cannot be made or opened.
    pub fn open(dir: &Path, config: &Config) -> Result<Arc<Self>> {
        let opened = Dir::open(dir, true)?;
        opened
            .map(|opened| Self::start(opened, config))
            .unwrap_or_else(|| Err(Error::io("open", dir)(std::io::ErrorKind::NotFound.into())))
    }

    /// Opens the cache at `dir`; `None` when there is none.
    ///
    /// # Errors
    /// Those of [`open`](Store::open).
    pub fn open_existing(dir: &Path, config: &Config) -> Result<Option<Arc<Self>>> {
        Dir::open(dir, false)?.map(|opened| Self::start(opened, config)).transpose()
    }

    fn start(dir: Dir, config: &Config) -> Result<Arc<Self>> {
        let dir = Arc::new(dir);
        let (total, _) = dir.space().map_err(Error::io("measure the file system of", dir.path()))?;
        let start = epoch::begin(&dir);
        if start.read_only {
            log::warn!("disk cache {}: cannot be written; it is only read", dir.path().display());
        }
        let context = Arc::new(Context {
            limits: Limits::new(config.size, config.floor, total),
            counts: Counts::default(),
            epoch: start.epoch,
            read_only: start.read_only,
            _presence: start.presence,
            dir,
        });
        let queue = Arc::new(Queue::new(Arc::clone(&context), config.queue));
        Ok(Arc::new(Self { context, queue, open: Mutex::default(), warned: Mutex::default() }))
    }

    /// The directory that holds the files, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.context.dir.path()
    }

    /// Whether the cache is only read.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.context.read_only
    }

    /// The entry of `key`, made when there is none. `None` when that does not work, for whatever reason: it was logged then, once
    /// for a key. Takes a few file operations, and up to a quarter of a second while other processes make room.
    #[must_use]
    pub fn entry(&self, key: Key, what: &Description<'_>) -> Option<Arc<Entry>> {
        let known = self.open.lock().get(&key).and_then(Weak::upgrade);
        if let Some(entry) = known {
            let parts = what.parts();
            if parts.is_ok_and(|parts| entry.map.parts() == parts) {
                return Some(entry);
            }
            return self.warn(key, what.label, "its chunks differ from those of the same key that is open");
        }
        match opening::open((&self.context, &self.queue), key, what) {
            Ok(entry) => Some(self.opened(key, Arc::new(entry))),
            Err(opening::Unavailable::Absent) => None,
            Err(opening::Unavailable::Full(e)) => {
                self.queue.put(Job::Space);
                self.warn(key, what.label, &e.to_string())
            }
            Err(opening::Unavailable::Because(why)) => self.warn(key, what.label, &why),
        }
    }

    fn opened(&self, key: Key, entry: Arc<Entry>) -> Arc<Entry> {
        let mut open = self.open.lock();
        let entry = match open.get(&key).and_then(Weak::upgrade) {
            // Another thread was faster. Ours goes after the lock is given back, since it takes it once more.
            Some(first) => {
                drop(open);
                first
            }
            None => {
                // What is gone leaves now and then.
                if open.len().is_power_of_two() {
                    open.retain(|_, entry| entry.strong_count() > 0);
                }
                open.insert(key, Arc::downgrade(&entry));
                drop(open);
                entry
            }
        };
        if entry.only_literals_missing() && !self.context.read_only {
            self.queue.put(Job::Literals(Arc::clone(&entry) as Arc<dyn Target>));
        }
        entry
    }

    fn warn<T>(&self, key: Key, label: &str, why: &str) -> Option<T> {
        count(&self.context.counts.errors);
        let mut warned = self.warned.lock();
        if warned.len() < MOST_WARNED && warned.insert(key) {
            log::warn!("disk cache {}: {key} ({label:?}) is not used: {why}", self.path().display());
        }
        None
    }

    /// Whether more waits to be written than half of what may wait: who can offer later should.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.queue.is_behind()
    }

    /// Waits until all offered chunks are written; `false` when that took longer than `timeout`.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.queue.flush(timeout)
    }

    /// Disk space that all files may take, bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.context.limits.size()
    }

    /// Sets another bound. What is too much leaves before the next chunk is written.
    pub fn set_size(&self, size: u64) {
        self.context.limits.set_size(size);
    }

    /// What this store did so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.context.counts.now(self.queue.bytes())
    }

    /// Removes entries, least recently used first, until all files take `size` bytes of disk space at most. Those in use stay.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be read, or another process keeps making room.
    pub fn prune(&self, size: u64) -> Result<Removed> {
        let pruned = quota::evict(&self.context.dir, &|left, _| left <= size);
        let (removed, _) = pruned.map_err(Error::io("make room in", self.path()))?;
        quota::note(&self.context.counts, &removed);
        Ok(removed)
    }

    /// Removes all entries that are not in use.
    ///
    /// # Errors
    /// Those of [`prune`](Store::prune).
    pub fn clear(&self) -> Result<Removed> {
        let cleared = quota::evict(&self.context.dir, &|_, _| false);
        Ok(cleared.map_err(Error::io("clear", self.path()))?.0)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.queue.close();
    }
}
