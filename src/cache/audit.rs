//! Reading all that a cache holds, and comparing it with its checksums.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags};
use serde::Serialize;

use super::dir::{Lockable, lock_within};
use super::entry::{Entry, Found};
use super::key::Key;
use super::map::{Map, Wrong};
use super::quota;
use super::store::Store;
use crate::error::{Error, Result};

/// What was found to be wrong with a file of the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// Name of the file in the cache.
    pub file: String,
    /// How the file was called when it was cached; empty when that is not known.
    pub label: String,
    /// Offset of the wrong bytes, where some are.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// What a cache is worth.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Entries looked at.
    pub entries: u64,
    /// Chunks read.
    pub chunks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is wrong. Wrong chunks were forgotten, so that no later read meets them, unless the cache is only read.
    pub damaged: Vec<Damaged>,
    /// Names that killed processes left; `prune` and `clear` remove them.
    pub leftovers: Vec<String>,
    /// Names of what we did not make; nothing uses or removes them.
    pub foreign: Vec<String>,
}

impl Store {
    /// Reads all chunks that are there and compares their checksums. `progress` is told the bytes read since it was told last,
    /// and answers whether to go on.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be read, [`Error::Interrupted`] when `progress` said so.
    pub fn verify(&self, progress: &mut dyn FnMut(u64) -> bool) -> Result<Verdict> {
        let census = quota::census(&self.context.dir).map_err(Error::io("list", self.path()))?;
        let mut verdict = Verdict { foreign: census.foreign, ..Verdict::default() };
        verdict.leftovers = census.leftovers.into_iter().map(|(name, _)| name).collect();
        for (key, occupied) in census.entries {
            if !occupied.has_map {
                verdict.leftovers.push(key.data());
                continue;
            }
            verdict.entries += 1;
            match self.for_reading(key) {
                Ok(Some(entry)) => read_all(&entry, &mut verdict, progress)?,
                Ok(None) => verdict.entries -= 1,
                Err(what) => {
                    verdict.damaged.push(Damaged { file: key.map(), label: String::new(), offset: None, what });
                }
            }
        }
        Ok(verdict)
    }

    /// The entry as it lies there; `None` when it is gone.
    fn for_reading(&self, key: Key) -> Result<Option<Entry>, String> {
        let said = |e: io::Error| e.to_string();
        let flags = if self.context.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let file = match self.context.dir.file(&key.map(), flags) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => Lockable(opened.map_err(said)?),
        };
        lock_within(&*file, FlockOperation::NonBlockingLockShared, Duration::from_millis(50)).map_err(said)?;
        if !quota::is_named(&self.context.dir, &key.map(), &file).map_err(said)? {
            return Ok(None);
        }
        let map = Map::open(file, key).map_err(|wrong| match wrong {
            Wrong::Damaged(why) => why.to_owned(),
            Wrong::Io(e) => e.to_string(),
        })?;
        let data = self.context.dir.file(&key.data(), OFlags::RDONLY).map_err(|e| format!("its bytes: {e}"))?;
        Entry::new((Arc::clone(&self.context), Arc::clone(&self.queue)), map, data, None).map(Some).map_err(said)
    }
}

fn read_all(entry: &Entry, verdict: &mut Verdict, progress: &mut dyn FnMut(u64) -> bool) -> Result<()> {
    let label = entry.map.label();
    let mut wrong = |offset: Option<u64>, what: String| {
        verdict.damaged.push(Damaged { file: entry.key().data(), label: label.to_owned(), offset, what });
    };
    let len = entry.data.metadata().map_or(0, |meta| meta.len());
    if len != entry.map.len() {
        wrong(None, format!("{len} bytes long, expected {}", entry.map.len()));
    }
    let mut buffer = Vec::new();
    for (at, part) in (0..).zip(entry.map.parts()) {
        buffer.resize(part.len as usize, 0);
        match entry.look(at, &mut buffer) {
            Found::Right => {
                verdict.chunks += 1;
                verdict.bytes += u64::from(part.len);
            }
            Found::Absent => continue,
            Found::Wrong(what) => {
                entry.forget(at);
                wrong(Some(part.offset), what.to_owned());
            }
            Found::Failed(e) => {
                entry.forget(at);
                wrong(Some(part.offset), e.to_string());
            }
        }
        if !progress(part.len.into()) {
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}
