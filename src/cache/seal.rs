//! Proving a file whole, and the seal that says so: only a sealed file may be read without us.
//!
//! A seal is 80 bytes of the map: mark (8), the store's epoch, then device, inode, length, modification time and change time
//! (seconds and nanoseconds each) of the data file as they were when it was proven, and the XXH3 of key and all of this.
//! The change time moves with each write, truncation, link and change of times, and nobody can set it back.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, Mode};

use super::counters::count;
use super::dir::lock_within;
use super::entry::Entry;
use super::fill::Locked;
use super::key::Key;
use super::map::{SEAL, checksum};
use super::table::in_order;
use super::writer::Target;

const MARK: u64 = u64::from_le_bytes(*b"bsfsseal");
/// How long to wait for a process that writes a chunk.
const PATIENCE: Duration = Duration::from_millis(500);
/// The coarsest clock that file systems take their times from. A change within it could leave the times as they are.
const TICK: Duration = Duration::from_millis(20);

/// The caller's own proof that bytes are the ones of the file: a digest that the container carries.
pub trait Proof {
    /// Takes bytes of the file, which come in order and without holes from offset 0 on. `false` to stop.
    fn feed(&mut self, offset: u64, bytes: &[u8]) -> bool;
    /// Whether all bytes together are the file.
    fn proven(&mut self) -> bool;
}

/// How a proof ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealing {
    /// The file is proven; [`Entry::sealed`] gives it, now or since before.
    Proven,
    /// Chunks are missing.
    Incomplete,
    /// Chunks were wrong, and are missing now.
    Damaged,
    /// All chunks agreed with their checksums, but the caller's proof did not: all of them are forgotten.
    Differs,
    /// The caller stopped it.
    Stopped,
    /// Another process is proving or filling it, or changed it meanwhile: try again later.
    Busy,
    /// It cannot be written, or the store cannot tell how it ended before.
    Unable,
}

/// The seal of a data file. Must not be written before the bytes are on the disk.
fn seal_of(key: &Key, epoch: u64, meta: &Metadata) -> [u8; SEAL] {
    let numbers = [
        MARK,
        epoch,
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime() as u64,
        meta.mtime_nsec() as u64,
        meta.ctime() as u64,
        meta.ctime_nsec() as u64,
    ];
    let mut text: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
    let sum = checksum(&[key.0.as_slice(), &text].concat());
    text.extend(sum.to_le_bytes());
    let mut seal = [0; SEAL];
    for (to, from) in seal.iter_mut().zip(text) {
        *to = from;
    }
    seal
}

/// Whether a map's seal is the one that a data file would get.
pub(super) fn is_sealed(seal: &[u8; SEAL], key: &Key, epoch: Option<u64>, meta: &Metadata) -> bool {
    epoch.is_some_and(|epoch| *seal == seal_of(key, epoch, meta)) && meta.is_file() && meta.nlink() == 1
}

impl Entry {
    /// The data file for reading, when it is whole and was proven, and nothing happened to it since. It may be given to the
    /// kernel (passthrough) and outlives the entry; after that the file may be removed, which frees its space once it is closed.
    #[must_use]
    pub fn sealed(&self) -> Option<File> {
        let file = self.proven().then(|| self.data.try_clone().ok())?;
        self.settled.store(file.is_some(), Ordering::Relaxed);
        file
    }

    /// Whether the seal on the disk holds for the file on the disk.
    pub(super) fn proven(&self) -> bool {
        if self.spoiled.load(Ordering::Relaxed) {
            return false;
        }
        let (Ok(seal), Ok(meta)) = (self.map.seal(), self.data.metadata()) else { return false };
        is_sealed(&seal, &self.key(), self.context.epoch, &meta) && self.all_recorded()
    }

    /// Looks at all records; whether none is missing.
    fn all_recorded(&self) -> bool {
        let Ok(found) = self.map.recorded() else { return false };
        for &at in &found {
            self.present.set(at);
        }
        found.len() == self.map.parts().len()
    }

    /// Reads the whole file once, compares each chunk's checksum, lets the caller prove the whole, and seals it. Takes as long
    /// as reading and one `fdatasync` take, so it is for a thread that nobody waits for; offers are dropped meanwhile.
    pub fn seal(&self, proof: &mut dyn Proof) -> Sealing {
        if self.sealed().is_some() {
            return Sealing::Proven;
        }
        let Some(epoch) = self.context.epoch.filter(|_| !self.context.read_only) else { return Sealing::Unable };
        if self.only_literals_missing() {
            // The reason of a failure is found by what follows.
            let _ = self.write(None);
        }
        if !self.all_recorded() {
            return Sealing::Incomplete;
        }
        match self.try_seal(epoch, proof) {
            Ok(Sealing::Proven) => {
                count(&self.context.counts.sealed_entries);
                self.settled.store(true, Ordering::Relaxed);
                Sealing::Proven
            }
            Ok(other) => other,
            Err(e) => {
                count(&self.context.counts.errors);
                log::warn!("disk cache {}: cannot seal {}: {e}", self.context.dir.path().display(), self.key());
                Sealing::Unable
            }
        }
    }

    fn try_seal(&self, epoch: u64, proof: &mut dyn Proof) -> io::Result<Sealing> {
        let mut fill = self.fill.lock();
        let file = self.writable(&mut fill)?;
        if lock_within(file, FlockOperation::NonBlockingLockExclusive, PATIENCE).is_err() {
            return Ok(Sealing::Busy);
        }
        let alone = Locked::now(file, FlockOperation::NonBlockingLockExclusive)?;
        if self.proven() {
            // Another process was faster; to prove it again would void its seal meanwhile.
            return Ok(Sealing::Proven);
        }
        rustix::fs::fchmod(&self.data, Mode::RUSR)?;
        let before = self.data.metadata()?;
        let ended = match self.read_all(proof) {
            Sealing::Proven => self.write_seal(epoch, file, &before)?,
            other => other,
        };
        if ended != Sealing::Proven {
            rustix::fs::fchmod(&self.data, Mode::RUSR | Mode::WUSR)?;
        }
        drop(alone);
        // Nobody of ours needs it for writing any more.
        fill.file = None;
        Ok(ended)
    }

    fn read_all(&self, proof: &mut dyn Proof) -> Sealing {
        let parts = self.map.parts();
        let longest = parts.iter().map(|part| part.len).max().unwrap_or(0);
        let mut buffer = vec![0; longest as usize];
        let mut damaged = false;
        for at in in_order(parts) {
            let Some(part) = self.map.part(at) else { return Sealing::Damaged };
            let Some(bytes) = buffer.get_mut(..part.len as usize) else { return Sealing::Damaged };
            damaged |= !self.read_part(at, bytes);
            // After a wrong chunk the others are read for what they are worth alone.
            if !damaged && !proof.feed(part.offset, bytes) {
                return Sealing::Stopped;
            }
        }
        if damaged {
            return Sealing::Damaged;
        }
        if proof.proven() {
            return Sealing::Proven;
        }
        log::warn!(
            "disk cache {}: {} ({:?}) is not the file that it should be; it is emptied",
            self.context.dir.path().display(),
            self.key(),
            self.map.label()
        );
        (0..).take(parts.len()).for_each(|at| self.forget(at));
        Sealing::Differs
    }

    fn write_seal(&self, epoch: u64, file: &File, before: &Metadata) -> io::Result<Sealing> {
        file.sync_data()?;
        self.map.file().sync_data()?;
        let changed = Duration::new(before.ctime().max(0) as u64, before.ctime_nsec() as u32);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if now < changed + TICK {
            std::thread::sleep(TICK);
        }
        let seal = seal_of(&self.key(), epoch, before);
        if seal_of(&self.key(), epoch, &self.data.metadata()?) != seal {
            return Ok(Sealing::Busy);
        }
        self.map.set_seal(&seal)?;
        self.map.file().sync_data()?;
        // A reader that found a wrong chunk meanwhile has cleared its record before it cleared a seal.
        if !self.all_recorded() {
            self.map.set_seal(&[0; SEAL])?;
            return Ok(Sealing::Damaged);
        }
        Ok(Sealing::Proven)
    }
}
