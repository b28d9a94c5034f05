//! What a cache holds, for people and programs.

use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags};
use serde::Serialize;

use super::context::Context;
use super::dir::{Lockable, lock_within};
use super::key::Key;
use super::map::Map;
use super::quota::{self, Occupied};
use super::seal::is_sealed;
use super::store::Store;
use crate::error::{Error, Result};

/// One entry of a cache. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// What it is found by.
    pub key: Key,
    /// How the file was called when it was first cached; empty when the map cannot be read.
    pub label: String,
    /// Length of the file.
    pub raw_len: u64,
    /// Bytes of it that are there.
    pub present_bytes: u64,
    /// Disk space of the entry.
    pub disk_bytes: u64,
    /// All is there.
    pub complete: bool,
    /// All is there and was proven.
    pub sealed: bool,
    /// Seconds since 1970 when it was opened, filled or closed last, to a minute.
    pub last_used: i64,
    /// A process has it open.
    pub in_use: bool,
    /// Its map can be read; if not, the entry is made anew when it is wanted.
    pub readable: bool,
}

/// A cache in numbers. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The directory that holds the files.
    pub directory: PathBuf,
    /// Nothing can be written there.
    pub read_only: bool,
    /// Number of entries.
    pub entries: u64,
    /// Those of which all is there.
    pub complete: u64,
    /// Those which were proven.
    pub sealed: u64,
    /// Those which a process has open.
    pub in_use: u64,
    /// Decoded bytes that are there.
    pub present_bytes: u64,
    /// Disk space of all files.
    pub disk_bytes: u64,
    /// Disk space that they may take.
    pub size_limit: u64,
    /// Space that is left free on the file system.
    pub free_floor: u64,
    /// Space that is free on the file system.
    pub free_bytes: u64,
    /// Files that killed processes left.
    pub leftovers: u64,
    /// Files that are not ours.
    pub foreign: u64,
}

impl Store {
    /// All entries, most recently used first.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let census = quota::census(&self.context.dir).map_err(Error::io("list", self.path()))?;
        let with_map = census.entries.iter().filter(|(_, occupied)| occupied.has_map);
        let mut listed: Vec<Listed> = with_map.map(|(key, occupied)| listed(&self.context, *key, occupied)).collect();
        listed.sort_by_key(|entry| (std::cmp::Reverse(entry.last_used), entry.key));
        Ok(listed)
    }

    /// The cache in numbers. Reads all maps.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be read.
    pub fn stats(&self) -> Result<Usage> {
        let context = &self.context;
        let census = quota::census(&context.dir).map_err(Error::io("list", self.path()))?;
        let (_, free) = context.dir.space().map_err(Error::io("measure the file system of", self.path()))?;
        let entries = self.list()?;
        let number = |which: &dyn Fn(&Listed) -> bool| entries.iter().filter(|entry| which(entry)).count() as u64;
        let orphans = census.entries.values().filter(|occupied| !occupied.has_map).count();
        Ok(Usage {
            directory: self.path().to_path_buf(),
            read_only: context.read_only,
            entries: entries.len() as u64,
            complete: number(&|entry| entry.complete),
            sealed: number(&|entry| entry.sealed),
            in_use: number(&|entry| entry.in_use),
            present_bytes: entries.iter().map(|entry| entry.present_bytes).sum(),
            disk_bytes: census.bytes,
            size_limit: context.limits.size(),
            free_floor: context.limits.floor,
            free_bytes: free,
            leftovers: (census.leftovers.len() + orphans) as u64,
            foreign: census.foreign.len() as u64,
        })
    }
}

fn listed(context: &Context, key: Key, occupied: &Occupied) -> Listed {
    let mut listed = Listed {
        key,
        label: String::new(),
        raw_len: 0,
        present_bytes: 0,
        disk_bytes: occupied.bytes,
        complete: false,
        sealed: false,
        last_used: occupied.last_used.0,
        in_use: false,
        readable: false,
    };
    let Ok(file) = context.dir.file(&key.map(), OFlags::RDONLY).map(Lockable) else { return listed };
    // Given back at once; who opens the entry meanwhile waits that long.
    listed.in_use = lock_within(&*file, FlockOperation::NonBlockingLockExclusive, Duration::ZERO).is_err();
    let _ = rustix::fs::flock(&*file, FlockOperation::Unlock);
    let Ok(map) = Map::open(file, key) else { return listed };
    let Ok(recorded) = map.recorded() else { return listed };
    listed.readable = true;
    listed.label = map.label().to_owned();
    listed.raw_len = map.len();
    listed.present_bytes = recorded.iter().filter_map(|&at| map.part(at)).map(|part| u64::from(part.len)).sum();
    let data = context.dir.file(&key.data(), OFlags::RDONLY).and_then(|data| data.metadata());
    if let Ok(meta) = data.as_ref() {
        listed.complete = recorded.len() == map.parts().len() && meta.len() == map.len();
        let seal = map.seal().is_ok_and(|seal| is_sealed(&seal, &key, context.epoch, meta));
        listed.sealed = listed.complete && seal;
    }
    listed
}
