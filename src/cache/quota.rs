//! The quota: how much disk space the cache may take, and eviction when that is too little.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};
use serde::Serialize;

use super::context::Context;
use super::counters::Counts;
use super::dir::{Dir, Lockable, Names, lock_within};
use super::epoch;
use super::key::Key;

/// How much is written before all files are measured again: other processes write as well.
const MEASURE_BYTES: u64 = 256 << 20;
/// And how long.
const MEASURE_TIME: Duration = Duration::from_secs(30);

/// What file systems give space in.
const BLOCK: u64 = 4096;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Entries removed.
    pub entries: u64,
    /// Disk space of all that was removed, bytes.
    pub bytes: u64,
    /// Entries that would have been removed, but are in use.
    pub kept_in_use: u64,
    /// Remains of processes that were killed, removed as well.
    pub leftovers: u64,
}

/// Disk space and last use of an entry's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct Occupied {
    pub has_map: bool,
    pub bytes: u64,
    /// Seconds since 1970, and nanoseconds.
    pub last_used: (i64, i64),
}

/// All that lies in the directory.
#[derive(Debug, Default)]
pub struct Census {
    pub entries: BTreeMap<Key, Occupied>,
    /// Names of half-made files, with their disk space.
    pub leftovers: Vec<(String, u64)>,
    /// Names of what we did not make.
    pub foreign: Vec<String>,
    /// Disk space of everything.
    pub bytes: u64,
}

/// Looks at every name. Files that vanish meanwhile are not counted.
#[allow(clippy::unnecessary_cast, reason = "the types of stat differ between processors")]
pub fn census(dir: &Dir) -> io::Result<Census> {
    let mut census = Census::default();
    for name in dir.names()? {
        let Ok(stat) = dir.stat(&name) else { continue };
        let bytes = (stat.st_blocks as u64).saturating_mul(512);
        census.bytes = census.bytes.saturating_add(bytes);
        let parsed = name.split_once('.').and_then(|(key, kind)| Some((Key::from_hex(key)?, kind)));
        match parsed {
            Some((key, kind @ ("map" | "data"))) => {
                let entry = census.entries.entry(key).or_default();
                entry.bytes = entry.bytes.saturating_add(bytes);
                if kind == "map" {
                    entry.has_map = true;
                    entry.last_used = (stat.st_mtime as i64, stat.st_mtime_nsec as i64);
                }
            }
            Some((_, "tmp")) => census.leftovers.push((name, bytes)),
            _ if epoch::is_ours(&name) => {}
            _ => census.foreign.push(name),
        }
    }
    Ok(census)
}

/// Whether `name` leads to the open file.
pub fn is_named(dir: &Dir, name: &str, file: &File) -> io::Result<bool> {
    let meta = file.metadata()?;
    match dir.stat(name) {
        Ok(stat) => Ok((stat.st_dev, stat.st_ino) == (meta.dev(), meta.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes an entry; `false` when it is in use.
pub fn remove(dir: &Dir, key: &Key, names: &Names) -> io::Result<bool> {
    match dir.file(&key.map(), OFlags::RDONLY) {
        Ok(file) => {
            let file = Lockable(file);
            match lock_within(&*file, FlockOperation::NonBlockingLockExclusive, Duration::ZERO) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                locked => locked?,
            }
            dir.remove(&key.map(), names)?;
            dir.remove(&key.data(), names)?;
        }
        // Nobody can have in use what nobody would open.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            dir.remove(&key.map(), names)?;
            dir.remove(&key.data(), names)?;
        }
        Err(e) => return Err(e),
    }
    Ok(true)
}

/// Removes what killed processes left, and entries, least recently used first, until `enough` of the bytes that are left and
/// the bytes that were removed.
pub fn evict(dir: &Dir, enough: &dyn Fn(u64, u64) -> bool) -> io::Result<(Removed, u64)> {
    let names = dir.lock_names()?;
    let census = census(dir)?;
    let mut removed = Removed::default();
    let mut left = census.bytes;
    let mut gone = |removed: &mut Removed, bytes: u64| {
        removed.bytes = removed.bytes.saturating_add(bytes);
        left = left.saturating_sub(bytes);
        left
    };
    for (name, bytes) in &census.leftovers {
        if dir.remove(name, &names).is_ok() {
            removed.leftovers += 1;
            gone(&mut removed, *bytes);
        }
    }
    let mut entries: Vec<_> = census.entries.iter().collect();
    entries.sort_by_key(|(_, entry)| (entry.has_map, entry.last_used));
    for (key, entry) in entries {
        let now = gone(&mut removed, 0);
        if entry.has_map && enough(now, removed.bytes) {
            break;
        }
        match remove(dir, key, &names) {
            Ok(true) => {
                gone(&mut removed, entry.bytes);
                if entry.has_map { removed.entries += 1 } else { removed.leftovers += 1 }
            }
            Ok(false) => removed.kept_in_use += 1,
            Err(e) => log::warn!("disk cache {}: cannot remove {key}: {e}", dir.path().display()),
        }
    }
    let left = gone(&mut removed, 0);
    Ok((removed, left))
}

/// What the writer knows of the free space. Measured now and then; other processes are bounded by their own measures.
#[derive(Debug, Default)]
pub struct Budget {
    used: u64,
    since: u64,
    measured: Option<Instant>,
}

impl Budget {
    /// Whether `bytes` more may be written, if need be after removing entries.
    pub fn allows(&mut self, context: &Context, bytes: u64) -> bool {
        let stale = self.since > MEASURE_BYTES || self.measured.is_none_or(|at| at.elapsed() > MEASURE_TIME);
        if stale && !self.measure(context) {
            return false;
        }
        context.counts.hold(self.used);
        if self.fits(context, bytes) {
            return true;
        }
        // Too much for the cache even when it is empty: nothing has to leave for that.
        bytes <= context.limits.size() && self.evict(context, bytes) && self.fits(context, bytes)
    }

    /// Notes that so much was written.
    pub fn spend(&mut self, bytes: u64) {
        // What does not begin and end with a block takes one more, and so may its record.
        self.used = self.used.saturating_add(bytes.saturating_add(2 * BLOCK));
        self.since = self.since.saturating_add(bytes);
    }

    fn fits(&self, context: &Context, bytes: u64) -> bool {
        let free = context.dir.space().map_or(0, |(_, free)| free);
        self.used.saturating_add(bytes) <= context.limits.size()
            && free.saturating_sub(bytes) >= context.limits.floor
            && free >= bytes
    }

    fn measure(&mut self, context: &Context) -> bool {
        let Ok(census) = census(&context.dir) else { return false };
        *self = Self { used: census.bytes, since: 0, measured: Some(Instant::now()) };
        true
    }

    fn evict(&mut self, context: &Context, bytes: u64) -> bool {
        let free = context.dir.space().map_or(0, |(_, free)| free);
        let wanted = context.limits.floor.saturating_add(bytes);
        let enough = |left: u64, removed: u64| {
            left.saturating_add(bytes) <= context.limits.size() && free.saturating_add(removed) >= wanted
        };
        match evict(&context.dir, &enough) {
            Ok((removed, left)) => {
                *self = Self { used: left, since: 0, measured: Some(Instant::now()) };
                context.counts.hold(left);
                note(&context.counts, &removed);
                true
            }
            Err(e) => {
                if e.kind() != io::ErrorKind::WouldBlock {
                    log::warn!("disk cache {}: cannot make room: {e}", context.dir.path().display());
                }
                false
            }
        }
    }
}

/// Counts what was removed to make room.
pub fn note(counts: &Counts, removed: &Removed) {
    counts.evicted_entries.fetch_add(removed.entries, Ordering::Relaxed);
}
