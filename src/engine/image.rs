//! One open container as a flat range of bytes: the original file.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use super::buffer::{Buffer, capacity};
use super::content::{Content, Part, Place};
use super::cost::Cost;
use super::disk::OnDisk;
use super::flight::Outcome;
use super::memory::{Found, Key, Raw};
use super::shared::Core;
use super::stats::Counters;
use super::sync::{Mutex, lock};
use super::workers::Job;
use crate::error::{Error, Result};
use crate::format::ChunkId;
use crate::source::Streams;

/// What is decoded ahead of one stream at most, bytes, and as a part of the memory.
const MOST_AHEAD: u64 = 8 << 20;
const MEMORY_PER_STREAM: u64 = 8;
/// Unit of the clock of an image, bytes; each read is one at least.
const TICK: u64 = 64 << 10;
/// A chunk that was read less than so many ticks ago (64 MiB) need not be decoded ahead: of readers that take blocks in turn,
/// one looks ahead to where another was.
const RECENT: u32 = 1024;
/// What the null backend answers with.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// Bytes of an image: part of one decoded chunk, borrowed, or gathered from several. Derefs to `[u8]`.
pub struct Bytes(Inner);

enum Inner {
    Chunk(Raw, Range<usize>),
    Literal(Arc<dyn Content>, Range<usize>),
    Gathered(Buffer),
    Zeros(usize),
    None,
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // Ranges were checked when the value was made.
        match &self.0 {
            Inner::Chunk(raw, range) => raw.get(range.clone()).unwrap_or_default(),
            Inner::Literal(content, range) => content.literals().get(range.clone()).unwrap_or_default(),
            Inner::Gathered(bytes) => bytes,
            Inner::Zeros(len) => ZEROS.get(..*len).unwrap_or_default(),
            Inner::None => &[],
        }
    }
}

/// Bytes that may be decoded ahead of one stream.
pub(super) fn window(memory: u64) -> u64 {
    (memory / MEMORY_PER_STREAM).min(MOST_AHEAD)
}

/// An open container seen as the original's bytes. Reads from many threads at once.
pub struct Image(Arc<Open>);

struct Open {
    core: Arc<Core>,
    content: Arc<dyn Content>,
    disk: Option<OnDisk>,
    streams: Mutex<Streams>,
    /// What was read so far, in [`TICK`]s, and where that stood when each chunk was last read; they wrap.
    clock: AtomicU32,
    last_read: Box<[AtomicU32]>,
    /// The source reads ahead.
    streaming: AtomicBool,
    /// Nobody will read any more; answers that are under way are still given.
    closed: AtomicBool,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("path", &self.0.content.path()).finish_non_exhaustive()
    }
}

impl Image {
    pub(super) fn new(core: Arc<Core>, content: Arc<dyn Content>) -> Self {
        let (clock, closed) = (AtomicU32::new(2 * RECENT), AtomicBool::new(false));
        let last_read = (0..content.chunk_count()).map(|_| AtomicU32::new(0)).collect();
        content.expect_streams(false);
        let (streams, streaming) = (Mutex::default(), AtomicBool::new(false));
        let disk = OnDisk::open(core.disk.as_ref().filter(|_| !core.null), &*content);
        Self(Arc::new(Open { core, content, disk, streams, clock, last_read, streaming, closed }))
    }

    /// Length of the original, bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.content.raw_len()
    }

    /// Whether the original has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks for the files that it refers to. One that is missing is among the engine's [troubles](crate::engine::Engine::troubles) then.
    pub fn look_for_references(&self) {
        self.0.content.look_for_references();
    }

    /// The whole file in the disk cache, if it was proven there.
    #[must_use]
    pub fn sealed(&self) -> Option<File> {
        self.0.disk.as_ref()?.sealed()
    }

    /// Puts all of it into the disk cache and has it proven there. Gives whether that worked; `false` also without a cache for it,
    /// and when `stop` said so. `done` hears of the bytes of each chunk that had to be decoded. Takes long.
    ///
    /// # Errors
    /// The first chunk that cannot be decoded.
    pub fn keep_on_disk(&self, stop: &dyn Fn() -> bool, done: &dyn Fn(u64)) -> Result<bool> {
        let Some(disk) = &self.0.disk else { return Ok(false) };
        disk.finish(&*self.0.content, &self.0.core, stop, done)
    }

    /// Up to `size` bytes at `offset`; fewer only at the end of the file, none beyond it. Decodes on this thread, and nothing
    /// ahead.
    ///
    /// # Errors
    /// [`Error::Chunk`] for a damaged chunk, those of the source. No byte that failed its check is given out.
    pub fn read_at(&self, offset: u64, size: usize) -> Result<Bytes> {
        self.0.read(offset, size)
    }

    /// Fills `out` from `offset`, on this thread. `path` is what errors call the image.
    ///
    /// # Errors
    /// Those of [`Image::read_at`], and [`Error::Truncated`] when it ends before.
    pub fn read_exact_at(&self, path: &Path, mut offset: u64, mut out: &mut [u8]) -> Result<()> {
        while !out.is_empty() {
            let bytes = self.read_at(offset, out.len())?;
            let expected = offset.saturating_add(out.len() as u64);
            let Some((to, rest)) = out.split_at_mut_checked(bytes.len()).filter(|(to, _)| !to.is_empty()) else {
                return Err(Error::Truncated { path: path.into(), expected, got: offset });
            };
            to.copy_from_slice(&bytes);
            (out, offset) = (rest, offset + bytes.len() as u64);
        }
        Ok(())
    }

    /// The same as [`Image::read_at`], given to `done`: at once when the bytes are in memory, otherwise on another thread, so that the caller never
    /// waits. After a panic `done` is dropped without a call. Chunks that are likely to be read next are decoded meanwhile, as
    /// long as this image lives.
    pub fn read(&self, offset: u64, size: usize, done: impl FnOnce(Result<Bytes>) + Send + 'static) {
        let len = self.len().saturating_sub(offset).min(size as u64);
        if self.0.core.null {
            return done(Ok(self.0.zeros(len as usize)));
        }
        self.0.clock.fetch_add((len / TICK) as u32 + 1, Ordering::Relaxed);
        // What is gathered here takes memory; where there is none, it waits for its turn on another thread.
        let reserve = || self.0.core.pool.try_reserve(len);
        // Gone again after the first look only if memory is very short.
        if self.0.at_hand(offset, len)
            && let Some(_reserved) = if self.0.in_one_piece(offset, len) { Some(None) } else { reserve().map(Some) }
            && let Some(bytes) = self.0.held(offset, len as usize)
        {
            self.ahead(offset..offset + len);
            return done(Ok(bytes));
        }
        let workers = &self.0.core.workers;
        let open = Arc::clone(&self.0);
        let need = self.0.need(offset, len);
        let job = move || {
            Cost::begin();
            done(open.read(offset, size));
        };
        workers.demand(self.0.content.lane(), Job::new(need, job));
        // Further chunks of the same read meanwhile on other threads, which the first one finds done or waits for.
        for chunk in self.0.chunks(offset, offset + len).skip(1) {
            if !self.0.core.chunks.have([self.0.key(chunk.id)]) {
                let open = Arc::clone(&self.0);
                let planned = open.clock.load(Ordering::Relaxed);
                let job = Job::new(chunk.need, move || open.decode_ahead(&chunk, planned));
                workers.demand(self.0.content.lane(), job);
            }
        }
        self.ahead(offset..offset + len);
    }

    /// Has decoded what is likely to be read after `read`.
    fn ahead(&self, read: Range<u64>) {
        let open = &self.0;
        let config = &open.core;
        if read.is_empty() || !config.ahead {
            return;
        }
        let most = window(open.core.pool.limit());
        let wasted = open.core.chunks.gauge().ahead_wasted.0;
        let mut streams = lock(&open.streams);
        let plan = streams.note(read.clone(), open.content.tensor_in(&read), most, wasted);
        let jump = streams.jump();
        drop(streams);
        // Reading ahead in the source costs a read at a random place more than its own bytes, and is what streams live on.
        if (plan.is_some() || jump) && open.streaming.swap(!jump, Ordering::Relaxed) == jump {
            open.content.expect_streams(!jump);
            if let Some(disk) = &open.disk {
                disk.expect_streams(!jump);
            }
        }
        let Some(plan) = plan else { return };
        let chunks: Vec<Part> = open.chunks(plan.start, plan.end.min(self.len())).collect();
        let planned = open.clock.load(Ordering::Relaxed);
        let jobs = chunks.into_iter().map(|chunk| {
            // Closing the file is the end of the work for it.
            let open = Arc::downgrade(open);
            Job::new(chunk.need, move || {
                if let Some(open) = open.upgrade().filter(|open| !open.closed.load(Ordering::Relaxed)) {
                    open.decode_ahead(&chunk, planned);
                }
            })
        });
        open.core.workers.ahead(open.content.lane().source, jobs);
    }
}

impl Open {
    fn zeros(&self, len: usize) -> Bytes {
        if len <= ZEROS.len() {
            return Bytes(Inner::Zeros(len));
        }
        let mut bytes = self.core.pool.take(len);
        bytes.fill(0);
        Bytes(Inner::Gathered(bytes))
    }

    /// The chunks that hold bytes from `start` to `end`.
    fn chunks(&self, start: u64, end: u64) -> impl Iterator<Item = Part> + '_ {
        let mut at = start;
        std::iter::from_fn(move || {
            while at < end {
                match self.content.locate(at)? {
                    Place::Literal { raw_offset, range } => at = raw_offset + range.len() as u64,
                    Place::Chunk(chunk) => {
                        at = chunk.raw_end();
                        return Some(chunk);
                    }
                }
            }
            None
        })
    }

    /// Whether all of it lies in one chunk, or in the literals.
    fn in_one_piece(&self, offset: u64, len: u64) -> bool {
        let end = match self.content.locate(offset) {
            Some(Place::Literal { raw_offset, range }) => raw_offset + range.len() as u64,
            Some(Place::Chunk(chunk)) => chunk.raw_end(),
            None => return true,
        };
        end >= offset + len
    }

    /// Bytes of memory that a read may need at once, decoding included.
    fn need(&self, offset: u64, len: u64) -> usize {
        let most = self.chunks(offset, offset + len).map(|chunk| chunk.need).max().unwrap_or(0);
        most + if self.in_one_piece(offset, len) { 0 } else { capacity(len as usize) }
    }

    fn key(&self, chunk: ChunkId) -> Key {
        Key { container: self.content.id(), chunk: self.content.known_as(chunk) }
    }

    fn at_hand(&self, offset: u64, len: u64) -> bool {
        self.core.chunks.have(self.chunks(offset, offset + len).map(|chunk| self.key(chunk.id)))
    }

    fn read(&self, offset: u64, size: usize) -> Result<Bytes> {
        let len = self.content.raw_len().saturating_sub(offset).min(size as u64) as usize;
        self.gather(offset, len, |chunk, read| self.chunk(chunk, read))
    }

    /// `len` bytes at `offset`, all of them in the image, if they are in memory.
    fn held(&self, offset: u64, len: usize) -> Option<Bytes> {
        let find = |chunk: &Part, read| {
            self.note_read(chunk);
            let found = self.core.chunks.find(self.key(chunk.id), read).ok_or(Elsewhere)?;
            Counters::add(&self.core.counters.hits, 1);
            Ok(self.given(chunk, found))
        };
        self.gather::<Elsewhere>(offset, len, find).ok()
    }

    /// `len` bytes at `offset`, all of them in the image. `get` gives a chunk, of which so many bytes are going to be read.
    fn gather<E: From<Error>>(
        &self,
        offset: u64,
        len: usize,
        get: impl Fn(&Part, usize) -> Result<Raw, E>,
    ) -> Result<Bytes, E> {
        if len == 0 {
            return Ok(Bytes(Inner::None));
        }
        let first = self.piece(offset, len, &get)?;
        if first.part.len() == len {
            return Ok(Bytes(match first.bytes {
                Some(raw) => Inner::Chunk(raw, first.part),
                None => Inner::Literal(Arc::clone(&self.content), first.part),
            }));
        }
        // Across pieces: each is copied once, into the buffer that the reader gets.
        self.core.chunks.make_room(len);
        let mut bytes = self.core.pool.take(len);
        let mut done = 0;
        let mut piece = first;
        loop {
            let start = Instant::now();
            let from = piece.slice(&*self.content);
            let Some(to) = bytes.get_mut(done..done + from.len()).filter(|to| !to.is_empty()) else {
                let at = offset + done as u64;
                return Err(Error::corrupt(self.content.path(), "index", format!("no bytes at offset {at}")).into());
            };
            to.copy_from_slice(from);
            done += from.len();
            Counters::add_time(&self.core.counters.gather_nanos, start.elapsed());
            if done == len {
                return Ok(Bytes(Inner::Gathered(bytes)));
            }
            piece = self.piece(offset + done as u64, len - done, &get)?;
        }
    }

    /// The piece at `offset` and its part that holds up to `len` bytes from there.
    fn piece<E: From<Error>>(
        &self,
        offset: u64,
        len: usize,
        get: impl Fn(&Part, usize) -> Result<Raw, E>,
    ) -> Result<Held, E> {
        let part = |start: u64, size: usize| {
            let from = ((offset - start) as usize).min(size);
            from..from + len.min(size - from)
        };
        match self.content.locate(offset) {
            Some(Place::Literal { raw_offset, range }) => {
                let part = part(raw_offset, range.len());
                Ok(Held { bytes: None, part: range.start + part.start..range.start + part.end })
            }
            Some(Place::Chunk(chunk)) => {
                let part = part(chunk.raw_offset, chunk.raw_len as usize);
                Ok(Held { bytes: Some(get(&chunk, part.len())?), part })
            }
            None => Err(Error::corrupt(self.content.path(), "index", format!("no bytes at offset {offset}")).into()),
        }
    }

    /// The chunk, of which `read` bytes are going to be read.
    fn chunk(&self, chunk: &Part, read: usize) -> Result<Raw> {
        let counters = &self.core.counters;
        let start = Instant::now();
        self.note_read(chunk);
        let result = self.core.chunks.get(self.key(chunk.id), read, || {
            Counters::add(&counters.misses, 1);
            let _demanding = self.core.workers.demanding(self.content.lane().source);
            self.core.chunks.make_room(chunk.need);
            self.make(chunk)
        });
        match &result {
            Ok((_, Outcome::Hit)) => Counters::add(&counters.hits, 1),
            Ok((_, Outcome::Waited)) => {
                Counters::add(&counters.waits, 1);
                Counters::add_time(&counters.wait_nanos, start.elapsed());
            }
            Ok((_, Outcome::Decoded)) => {}
            Err(error) => counters.failed(error),
        }
        Ok(self.given(chunk, result?.0))
    }

    fn note_read(&self, chunk: &Part) {
        if let Some(at) = self.last_read.get(chunk.id.0 as usize) {
            at.store(self.clock.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// The bytes of a chunk for a reader.
    fn given(&self, chunk: &Part, Found { raw, spent }: Found) -> Raw {
        if spent {
            self.content.read_through(chunk.id);
        }
        if let Some(disk) = &self.disk {
            disk.keep(chunk.id, &raw, self.streaming.load(Ordering::Relaxed));
        }
        raw
    }

    /// The bytes of a chunk, from the disk cache or decoded.
    fn make(&self, chunk: &Part) -> Result<Buffer> {
        if let Some(disk) = self.disk.as_ref().filter(|disk| disk.has(chunk.id)) {
            let start = Instant::now();
            let mut raw = self.core.pool.take(chunk.raw_len as usize);
            let right = disk.read(chunk.id, &mut raw);
            let took = start.elapsed();
            Cost::add(|cost| cost.cache += took);
            if right {
                Counters::add(&self.core.counters.disk_chunks, 1);
                Counters::add_time(&self.core.counters.source_nanos, took);
                return Ok(raw);
            }
        }
        self.content.decode(chunk.id, &self.core)
    }

    /// Decodes a chunk that was planned when the clock stood at `planned`, unless its readers were faster.
    fn decode_ahead(&self, chunk: &Part, planned: u32) {
        let read = self.last_read.get(chunk.id.0 as usize).map_or(0, |at| at.load(Ordering::Relaxed));
        let now = self.clock.load(Ordering::Relaxed);
        if now.wrapping_sub(read) < RECENT || read.wrapping_sub(planned).cast_signed() >= 0 {
            return;
        }
        let decode = || self.make(chunk);
        match self.core.chunks.ahead(self.key(chunk.id), chunk.need, decode) {
            Ok(true) => Counters::add(&self.core.counters.ahead_chunks, 1),
            Ok(false) => {}
            // Who needs the chunk will try again, and get the error.
            Err(error) => log::debug!("ahead of readers: {error}"),
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Relaxed);
        let open = Arc::clone(&self.0);
        // Who has read half of a file is likely to come back for all of it.
        let read = open.last_read.iter().filter(|at| at.load(Ordering::Relaxed) != 0).count();
        let most = read > 0 && read >= open.last_read.len() / 2;
        if most && open.disk.is_some() {
            let core = Arc::clone(&open.core);
            core.finisher.add(Box::new(move |stop| {
                let Some(disk) = &open.disk else { return };
                if let Err(error) = disk.finish(&*open.content, &open.core, stop, &|_| {}) {
                    log::debug!("not finished on disk: {error}");
                }
            }));
        }
    }
}

/// Bytes are not all in memory.
struct Elsewhere;

impl From<Error> for Elsewhere {
    fn from(_: Error) -> Self {
        Self
    }
}

/// A part of a chunk, or of the literals.
struct Held {
    bytes: Option<Raw>,
    part: Range<usize>,
}

impl Held {
    fn slice<'a>(&'a self, content: &'a dyn Content) -> &'a [u8] {
        match &self.bytes {
            Some(raw) => raw.get(self.part.clone()),
            None => content.literals().get(self.part.clone()),
        }
        .unwrap_or_default()
    }
}
