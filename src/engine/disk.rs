//! Decoded bytes that outlive the mount: what the disk cache has of an image, what it gets, and how a file is finished.
//!
//! A chunk that a reader was given is offered to the cache, which takes it when it has time. When a file is closed, one thread of
//! low priority waits for what is under way, decodes what little is missing, and has the file proven and sealed.

use std::fs::File;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::buffer::Buffer;
use super::buffer::Reserved;
use super::content::{Content, Place};
use super::memory::Raw;
use super::shared::{Core, Disk, Keep};
use crate::cache::{Description, Entry, Key, Literal, Proof, Sealing, Store};
use crate::error::Result;
use crate::format::ChunkId;

/// Of chunks that are decoded as fast as they are written, one in so many is written while a stream is being read; the others are
/// decoded again when the file is closed.
const SPARSE: u32 = 8;
/// Chunks decoded for the cache between two looks at its queue.
const BATCH: usize = 16;
/// How long a batch may take to be written before the file is left as it is.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a wait for the disk looks whether it should end.
const STEP: Duration = Duration::from_millis(100);
/// How long the finishing thread waits before it looks for memory again.
const PAUSE: Duration = Duration::from_millis(10);
/// A chunk in memory that waits to be written.
struct Kept(Raw);

impl Deref for Kept {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// A buffer that waits to be written.
struct Made(Buffer);

impl Deref for Made {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// What the disk cache has of one image.
#[derive(Debug, Clone)]
pub struct OnDisk {
    entry: Arc<Entry>,
    store: Arc<Store>,
    /// Decoding takes longer than writing.
    expensive: bool,
}

impl OnDisk {
    /// The entry of `content`, if it is to be kept and the cache can.
    pub fn open(disk: Option<&Disk>, content: &dyn Content) -> Option<Self> {
        let disk = disk.filter(|disk| disk.keep == Keep::All || content.is_expensive())?;
        let (mut at, mut literals): (u64, Vec<Literal>) = (0, Vec::new());
        while let Some(place) = content.locate(at) {
            match place {
                Place::Chunk(part) => at = part.raw_end(),
                Place::Literal { raw_offset, range } => {
                    at = raw_offset + range.len() as u64;
                    literals.push((raw_offset, content.literals().get(range)?.into()));
                }
            }
        }
        let label = content.path().file_name().unwrap_or_default().to_string_lossy();
        let what = Description {
            label: &label,
            len: content.raw_len(),
            chunks: content.chunk_count(),
            chunk: &|id| content.part(ChunkId(id)).map_or((0, 0), |part| (part.raw_offset, part.raw_len.into())),
            literals,
        };
        let entry = disk.store.entry(Key(content.digest()), &what)?;
        Some(Self { entry, store: Arc::clone(&disk.store), expensive: content.is_expensive() })
    }

    /// Whether a chunk is there, as far as is known.
    pub fn has(&self, chunk: ChunkId) -> bool {
        self.entry.has(chunk.0)
    }

    /// Fills `into` with a chunk; `false` when it is not there, or not right.
    pub fn read(&self, chunk: ChunkId, into: &mut [u8]) -> bool {
        self.entry.read(chunk.0, into)
    }

    /// Says whether what is read next lies behind what was read last.
    pub fn expect_streams(&self, streams: bool) {
        self.entry.expect_streams(streams);
    }

    /// Offers a chunk that a reader was given; `streaming` if more is being read behind it.
    pub fn keep(&self, chunk: ChunkId, raw: &Raw, streaming: bool) {
        let now = self.expensive || !streaming || chunk.0.is_multiple_of(SPARSE);
        if now && !self.entry.has(chunk.0) {
            self.entry.offer(chunk.0, Kept(Arc::clone(raw)));
        }
    }

    /// The whole file, if it was proven.
    pub fn sealed(&self) -> Option<File> {
        self.entry.sealed()
    }

    fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.entry.chunks()).filter(|&chunk| !self.entry.has(chunk))
    }

    /// Waits until what was offered is written; `false` when that takes too long, or `stop` says so.
    fn flush(&self, stop: &dyn Fn() -> bool) -> bool {
        let until = Instant::now() + PATIENCE;
        while !self.store.flush(STEP) {
            if stop() || Instant::now() >= until {
                return false;
            }
        }
        true
    }

    /// Decodes and writes what is missing, and seals the file. Gives whether it is sealed. `done` hears of the bytes of each chunk.
    /// Takes long.
    pub fn finish(
        &self,
        content: &dyn Content,
        core: &Arc<Core>,
        stop: &dyn Fn() -> bool,
        done: &dyn Fn(u64),
    ) -> Result<bool> {
        self.flush(stop);
        // Another process may have been faster; asking the disk also finds the chunks that it wrote.
        if self.entry.sealed().is_some() {
            return Ok(true);
        }
        loop {
            let batch: Vec<u32> = self.missing().take(BATCH).collect();
            if batch.is_empty() || stop() {
                break;
            }
            for &chunk in &batch {
                if stop() {
                    return Ok(false);
                }
                let Some(_reserved) = room(content, chunk, core, stop) else { return Ok(false) };
                let made = content.decode(ChunkId(chunk), core)?;
                done(made.len() as u64);
                self.entry.offer(chunk, Made(made));
            }
            if !self.flush(stop) || batch.iter().all(|&chunk| !self.entry.has(chunk)) {
                // The disk is full, or too slow.
                return Ok(false);
            }
        }
        if !self.entry.complete() || stop() {
            return Ok(false);
        }
        let mut proof = Stoppable { proof: content.proof(), stop };
        Ok(matches!(self.entry.seal(&mut proof), Sealing::Proven))
    }
}

/// Memory to make a chunk with, which readers have first; `None` when `stop` said so.
fn room(content: &dyn Content, chunk: u32, core: &Core, stop: &dyn Fn() -> bool) -> Option<Reserved> {
    let need = content.part(ChunkId(chunk)).map_or(0, |part| part.need);
    loop {
        if let Some(reserved) = core.pool.try_reserve(need as u64) {
            core.chunks.make_room(need);
            return Some(reserved);
        }
        if stop() {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}

/// A proof that ends when it is asked to.
struct Stoppable<'a> {
    proof: Box<dyn Proof>,
    stop: &'a dyn Fn() -> bool,
}

impl Proof for Stoppable<'_> {
    fn feed(&mut self, offset: u64, bytes: &[u8]) -> bool {
        !(self.stop)() && self.proof.feed(offset, bytes)
    }

    fn proven(&mut self) -> bool {
        self.proof.proven()
    }
}
