//! One file of decoded bytes: reading chunks that are there, and offering those that are not.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::bits::Bits;
use super::context::Context;
use super::counters::count;
use super::fill::Fill;
use super::key::Key;
use super::map::{Map, SEAL, checksum};
use super::table::Literal;
use super::writer::{Bytes, Job, Queue, Target};

/// How long a chunk that is doubted may take to be written, so that it can be forgotten.
const DOUBT: Duration = Duration::from_secs(10);
/// How often an entry's time of last use is written.
const TOUCH: Duration = Duration::from_secs(60);

/// An open entry. While any process has it open it is not removed, so hold it no longer than the file is read.
#[derive(Debug)]
pub struct Entry {
    pub(super) context: Arc<Context>,
    queue: Arc<Queue>,
    pub(super) map: Map,
    /// For reading only.
    pub(super) data: File,
    /// Parts whose record was seen, or written by us.
    pub(super) present: Bits,
    pub(super) queued: Bits,
    /// Held by who writes or proves.
    pub(super) fill: Mutex<Fill>,
    pub(super) literal_bytes: AtomicU64,
    /// The file is proven: nothing writes to it. A hint; `seal.rs` decides.
    pub(super) settled: AtomicBool,
    /// Bytes were wrong here, and the map could not be told.
    pub(super) spoiled: AtomicBool,
    warned: AtomicBool,
    /// Opened to be read by somebody, not to be looked at.
    used: bool,
}

/// What was found of a part.
#[derive(Debug)]
pub(super) enum Found {
    Right,
    Absent,
    Wrong(&'static str),
    Failed(io::Error),
}

impl Entry {
    /// An entry of files that were found right. Without literals it is only looked at.
    pub(super) fn new(
        (context, queue): (Arc<Context>, Arc<Queue>),
        map: Map,
        data: File,
        literals: Option<&[Literal]>,
    ) -> io::Result<Self> {
        let count = u32::try_from(map.parts().len()).unwrap_or(u32::MAX);
        let present = Bits::new(count);
        for at in map.recorded()? {
            present.set(at);
        }
        let used = literals.is_some();
        let literals = (map.chunks()..).zip(literals.unwrap_or_default().iter().map(|(_, bytes)| Arc::clone(bytes)));
        let literals: Vec<_> = literals.filter(|(at, _)| !present.get(*at)).collect();
        let literal_bytes = literals.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let entry = Self {
            context,
            queue,
            map,
            data,
            present,
            queued: Bits::new(count),
            fill: Mutex::new(Fill { file: None, literals }),
            literal_bytes: AtomicU64::new(literal_bytes),
            settled: AtomicBool::new(false),
            spoiled: AtomicBool::new(false),
            warned: AtomicBool::new(false),
            used,
        };
        entry.settled.store(entry.proven(), Ordering::Relaxed);
        entry.touch();
        Ok(entry)
    }

    /// What it is found by.
    #[must_use]
    pub fn key(&self) -> Key {
        self.map.key()
    }

    /// Number of chunks, as the caller described them.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.map.chunks()
    }

    /// Whether a chunk is there, as far as this process knows: others may have written it meanwhile, and its bytes may turn out
    /// to be wrong. Takes no lock and asks no disk.
    #[must_use]
    pub fn has(&self, chunk: u32) -> bool {
        chunk < self.chunks() && self.present.get(chunk)
    }

    /// Whether all is there, as far as this process knows; then [`seal`](Entry::seal) may be worth its while.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.present.full()
    }

    /// Fills `into` with a chunk, whose length it must have, and compares its checksum. `false` when the chunk is not there or
    /// not right; `into` then holds anything. A wrong chunk is forgotten, so that it is written anew.
    #[must_use]
    pub fn read(&self, chunk: u32, into: &mut [u8]) -> bool {
        let fits = self.map.part(chunk).is_some_and(|part| part.len as usize == into.len());
        let right = fits && chunk < self.chunks() && self.read_part(chunk, into);
        count(if right { &self.context.counts.hits } else { &self.context.counts.misses });
        right
    }

    /// Says whether what is read next lies behind what was read last. Only a hint. What [`sealed`](Entry::sealed) gave shares it.
    pub fn expect_streams(&self, streams: bool) {
        let advice = if streams { rustix::fs::Advice::Sequential } else { rustix::fs::Advice::Normal };
        let _ = rustix::fs::fadvise(&self.data, 0, None, advice);
    }

    /// Says that a chunk, as it was read or offered, turned out to be wrong by another check than ours: it is forgotten. Waits while
    /// it waits to be written.
    pub fn doubt(&self, chunk: u32) {
        if chunk < self.chunks() && self.queued.get(chunk) {
            self.queue.flush(DOUBT);
        }
        if chunk < self.chunks() && self.present.get(chunk) {
            count(&self.context.counts.damaged_chunks);
            self.forget(chunk);
        }
    }

    /// Gives a chunk to be written, which happens later, or not: when it is there, when the queue is full, when the disk is.
    /// Never waits. `bytes` must be right, and are held until they are written.
    pub fn offer(self: &Arc<Self>, chunk: u32, bytes: impl Deref<Target = [u8]> + Send + 'static) {
        let part = self.map.part(chunk).filter(|_| chunk < self.chunks());
        let fits = part.is_some_and(|part| part.len as usize == bytes.len());
        if !fits || self.context.read_only || self.present.get(chunk) || self.settled.load(Ordering::Relaxed) {
            return;
        }
        if self.queue.refuses(bytes.len() as u64) {
            return count(&self.context.counts.dropped_chunks);
        }
        if self.queued.set(chunk) {
            let bytes: Bytes = Box::new(bytes);
            if !self.queue.put(Job::Chunk(Arc::clone(self) as Arc<dyn Target>, chunk, bytes)) {
                self.queued.clear(chunk);
                count(&self.context.counts.dropped_chunks);
            }
        }
    }

    /// Whether nothing but literals is missing, which no offer will come for.
    pub(super) fn only_literals_missing(&self) -> bool {
        let literals = self.map.parts().len() as u32 - self.chunks();
        self.literal_bytes.load(Ordering::Relaxed) > 0 && self.present.missing() <= literals
    }

    /// Reads a part and forgets it when it is wrong.
    pub(super) fn read_part(&self, at: u32, into: &mut [u8]) -> bool {
        let what = match self.look(at, into) {
            Found::Right => {
                self.present.set(at);
                return true;
            }
            Found::Absent => {
                // Another process may have found it wrong.
                self.present.clear(at);
                self.settled.store(false, Ordering::Relaxed);
                return false;
            }
            Found::Wrong(what) => what.to_owned(),
            Found::Failed(e) => {
                count(&self.context.counts.errors);
                e.to_string()
            }
        };
        count(&self.context.counts.damaged_chunks);
        self.warn(&format!("chunk {at} is not used: {what}"));
        self.forget(at);
        false
    }

    /// A line in the log, once for an entry.
    pub(super) fn warn(&self, what: &str) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let (dir, label) = (self.context.dir.path().display(), self.map.label());
            log::warn!("disk cache {dir}: {} ({label:?}): {what}", self.key());
        }
    }

    /// What the disk has of a part; `into` gets its bytes, and must have its length.
    pub(super) fn look(&self, at: u32, into: &mut [u8]) -> Found {
        let Some(part) = self.map.part(at).filter(|part| part.len as usize == into.len()) else { return Found::Absent };
        let sum = match self.map.record(at) {
            Ok(Some(sum)) => sum,
            Ok(None) => return Found::Absent,
            Err(e) => return failed(e),
        };
        match self.data.read_exact_at(into, part.offset) {
            Ok(()) if checksum(into) == sum => Found::Right,
            Ok(()) => Found::Wrong("its checksum differs"),
            Err(e) => failed(e),
        }
    }

    /// Takes a part for absent, and the whole for not proven.
    pub(super) fn forget(&self, at: u32) {
        self.present.clear(at);
        // The record first: who proves looks at the records again after writing its seal.
        let told = self.map.clear_record(at).and_then(|()| self.map.set_seal(&[0; SEAL]));
        if told.is_err() {
            self.spoiled.store(true, Ordering::Relaxed);
        }
        self.settled.store(false, Ordering::Relaxed);
    }

    /// Notes that it was used now, if the note is old.
    fn touch(&self) {
        let file = self.map.file();
        let old = file.metadata().and_then(|meta| meta.modified()).map_or(true, |last| {
            // A time in the future was not made by us; it must not keep an entry for ever.
            SystemTime::now().duration_since(last).map_or(true, |since| since > TOUCH)
        });
        if old && self.used && !self.context.read_only {
            let _ = file.set_modified(SystemTime::now());
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.touch();
    }
}

fn failed(e: io::Error) -> Found {
    if e.kind() == io::ErrorKind::UnexpectedEof { Found::Wrong("the file is cut short") } else { Found::Failed(e) }
}
