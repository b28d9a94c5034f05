//! Containers of the Python package `bigsmall` behind an image.
//!
//! Their tensors are serial streams. A tensor is cut into windows, which are the image's chunks; a [`pass`] decodes them in
//! order, [`points`] are where later passes enter, and a [`stream`] decides which pass makes the window that a reader wants.
//!
//! **What is checked when.** The only check in such a file is an MD5 for each tensor. A tensor that is no longer than a quarter
//! of the memory (64 MiB at most) is decoded whole and compared before any of its bytes is given out. Of longer ones bytes
//! are given out as they are decoded; the digest is compared with the last of them, which fails if it is wrong, as does
//! every read of the tensor from then on. So nobody reads all of a damaged tensor without an error.

mod pass;
mod points;
mod presented;
mod proof;
mod saved;
mod stream;
#[cfg(all(test, not(shuttle)))]
mod stream_tests;
mod ticket;

pub use presented::Presented;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use lru::LruCache;

use self::pass::{Failure, Other, Plan};
use self::points::{Budget, Points};
use self::presented::Window;
use self::proof::TensorByTensor;
use self::saved::Saved;
use self::stream::{Stream, Waiting};
use super::base::Base;
use super::buffer::{Buffer, capacity};
use super::content::{Content, Part, Place};
use super::memory::Key;
use super::stats::{Counters, Reads};
use super::sync::{Mutex, lock};
use super::workers::{Job, Lane};
use super::{Engine, EngineConfig};
use crate::cache::Proof;
use crate::error::{Damage, Error, Result};
use crate::format::ChunkId;
use crate::format::bigsmall::{Content as From, Entry};
use crate::parallel;
use crate::source::ReadAt;

/// Bytes of a window; a multiple of every element's size. Where interleavings are explored they are short.
const WINDOW: u64 = if cfg!(shuttle) { 64 } else { 512 << 10 };
/// Tensors up to a quarter of the memory, and to this, are proven before they are given out.
const PROVEN_FIRST: u64 = 64 << 20;
/// Points of a stream are at least so far apart, bytes.
const APART: u64 = 2 * WINDOW;
/// What a pass holds in memory, about, bytes.
const PASS: u64 = 2 << 20;

/// What the streams of an engine share.
#[derive(Debug)]
pub struct Streams {
    points: Arc<Budget>,
    reads: Arc<Reads>,
    waiting: Arc<Waiting>,
    proven_first: u64,
    /// Tensors that were read last; others must not hold a pass.
    live: Mutex<LruCache<(u64, u32), Weak<Stream>>>,
    most: usize,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

impl Streams {
    /// For an engine of this configuration.
    pub fn new(config: &EngineConfig) -> Self {
        let memory = config.memory;
        Self {
            points: Arc::new(Budget::new(memory / 8)),
            reads: Arc::default(),
            waiting: Arc::new(Waiting::new(memory / 4)),
            proven_first: (memory / 4).min(PROVEN_FIRST),
            live: Mutex::new(LruCache::unbounded()),
            most: usize::try_from(memory / 8 / PASS).unwrap_or(usize::MAX).clamp(2, 64),
        }
    }

    /// Bytes of all points.
    pub fn point_bytes(&self) -> u64 {
        self.points.used()
    }

    /// Reads of packed bytes so far.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// A tensor is being read: if too many hold passes, the one that was read least recently lets go of its own.
    fn touch(&self, key: (u64, u32), stream: &Arc<Stream>) {
        let mut live = lock(&self.live);
        if live.get(&key).is_none() {
            live.put(key, Arc::downgrade(stream));
        }
        let old = if live.len() > self.most { live.pop_lru() } else { None };
        drop(live);
        if let Some(old) = old.and_then(|(_, stream)| stream.upgrade()) {
            old.park();
        }
    }
}

/// A container, the source that it was read from, and its tensors as far as they were read.
pub struct Shown {
    presented: Arc<Presented>,
    source: Arc<dyn ReadAt>,
    base: Option<Arc<dyn Base>>,
    /// By entry.
    streams: Box<[OnceLock<Arc<Stream>>]>,
    saved: OnceLock<Option<Saved>>,
}

impl Shown {
    /// `base` is what its deltas refer to; without one their tensors give an error, and the others can be read.
    pub fn new(presented: Arc<Presented>, source: Arc<dyn ReadAt>, base: Option<Arc<dyn Base>>) -> Self {
        let streams = presented.container().entries().iter().map(|_| OnceLock::new()).collect();
        Self { presented, source, base, streams, saved: OnceLock::new() }
    }

    /// The entry whose own stream makes the bytes of `entry`.
    fn master(&self, entry: usize) -> Option<(usize, &Entry)> {
        let entries = self.presented.container().entries();
        let found = entries.get(entry)?;
        match found.content {
            From::Same(master) => Some((master, entries.get(master)?)),
            _ => Some((entry, found)),
        }
    }

    /// The points that earlier mounts saved, and where this one saves its own.
    fn saved(&self, engine: &Engine) -> Option<&Saved> {
        let open = || Saved::open(&engine.config.disk.as_ref()?.store, &self.presented, &*self.source);
        // With a base the packed bytes alone do not say what comes out.
        self.saved.get_or_init(|| if self.base.is_none() { open() } else { None }).as_ref()
    }

    fn stream(&self, number: usize, entry: &Entry, engine: &Engine) -> Result<Arc<Stream>> {
        let streams = &engine.streams;
        let slot = self.streams.get(number).ok_or_else(|| self.nowhere(0))?;
        if let Some(stream) = slot.get() {
            return Ok(Arc::clone(stream));
        }
        let plan = self.plan(entry, streams)?;
        let first = plan.raw_len <= streams.proven_first;
        let known = self.saved(engine).and_then(|saved| saved.load(number));
        let proven = known.is_some();
        for (position, point) in known.into_iter().flatten() {
            plan.points.note(position, point);
        }
        let make = || Arc::new(Stream::new(plan, first, proven, Arc::clone(&streams.waiting)));
        Ok(Arc::clone(slot.get_or_init(make)))
    }

    fn plan(&self, entry: &Entry, streams: &Streams) -> Result<Plan> {
        let (parts, width, skip) = match &entry.content {
            From::Blob(part) | From::Xor(part) => (vec![*part], 0, 0),
            From::Slice { part, skip } => (vec![*part], 0, *skip),
            From::Chain { parts, count, width } => (parts.iter().take(*count).copied().collect(), *width, 0),
            From::Same(_) => (Vec::new(), 0, 0),
        };
        let other = match entry.content {
            From::Xor(_) => Some(self.other(entry)?),
            _ => None,
        };
        let points = Arc::new(Points::new(Arc::clone(&streams.points), APART));
        let (raw_len, md5) = (entry.raw_len, entry.md5);
        let reads = Arc::clone(&streams.reads);
        Ok(Plan { source: Arc::clone(&self.source), reads, parts, width, skip, raw_len, md5, other, points })
    }

    fn other(&self, entry: &Entry) -> Result<Arc<dyn Other>> {
        let base = self.base.as_ref().ok_or_else(|| Error::NoBase {
            path: self.path().into(),
            want: String::new(),
            why: String::new(),
            hint: self.presented.container().base_model().unwrap_or_default().into(),
        })?;
        let len = base.tensor_len(&entry.name);
        if len != Some(entry.raw_len) {
            let found = len.map_or("none of that name".to_owned(), |len| format!("{len} bytes"));
            return Err(Error::Differs {
                path: base.path().into(),
                what: format!("tensor '{}' of the base of {}", entry.name, self.path().display()),
                expected: format!("{} bytes", entry.raw_len),
                got: found,
            });
        }
        Ok(Arc::new(OfBase { base: Arc::clone(base), name: entry.name.clone() }))
    }

    fn nowhere(&self, chunk: u32) -> Error {
        Error::corrupt(self.path(), "list of tensors", format!("no window of number {chunk}"))
    }

    fn error(&self, entry: &Entry, raw_offset: u64, failure: Failure) -> Error {
        let packed_offset = match &entry.content {
            From::Blob(part) | From::Xor(part) | From::Slice { part, .. } => part.offset,
            From::Chain { parts, .. } => parts.first().map_or(0, |part| part.offset),
            From::Same(_) => 0,
        };
        let damaged = |damage| Error::Chunk {
            path: self.path().into(),
            tensor: entry.name.clone(),
            raw_offset,
            packed_offset,
            damage,
        };
        match failure {
            Failure::Damage(damage) => damaged(damage),
            Failure::Broken => damaged(Damage::new("an earlier window of the tensor", 1, 0)),
            Failure::Read(error) => error,
            Failure::Differs(found) => {
                let xored = matches!(entry.content, From::Xor(_));
                let of_base = if xored { " (of this file and its base together: the base may be another)" } else { "" };
                Error::Differs {
                    path: self.path().into(),
                    what: format!("MD5 of tensor '{}'{of_base}", entry.name),
                    expected: hex(&entry.md5),
                    got: hex(&found),
                }
            }
        }
    }

    /// Bytes of memory that making a window takes: its bytes and its symbols, what is added to it, and a chunk of the base.
    fn need(&self, window: &Window) -> usize {
        let content = self.master(window.entry).map(|(_, entry)| &entry.content);
        let buffers = match content {
            Some(From::Xor(_)) => 6,
            Some(From::Chain { .. }) => 3,
            _ => 2,
        };
        buffers * capacity(window.len() as usize)
    }

    fn part(&self, window: &Window) -> Part {
        let (raw_len, need) = (window.len(), self.need(window));
        Part { id: window.chunk, raw_offset: window.raw_offset, raw_len, need }
    }

    /// Makes the window that is chunk `chunk` of the image.
    fn window(self: &Arc<Self>, chunk: ChunkId, engine: &Arc<Engine>) -> Result<Buffer> {
        let chunk = self.presented.known_as(chunk);
        let place = self.presented.window(chunk).ok_or_else(|| self.nowhere(chunk.0))?;
        let (number, entry) = self.master(place.entry).ok_or_else(|| self.nowhere(chunk.0))?;
        let stream = self.stream(number, entry, engine)?;
        engine.streams.touch((self.presented.id(), number as u32), &stream);
        if stream.wants_help() {
            let (shown, stream, weak) = (Arc::clone(self), Arc::clone(&stream), Arc::downgrade(engine));
            let first = chunk.0 - place.window;
            let job = Job::new(self.need(&place), move || {
                if let Some(engine) = weak.upgrade() {
                    stream.help(&engine, &|window, buffer| shown.shelve(&engine, first + window, buffer));
                }
            });
            engine.workers.ahead(self.lane().source, [job]);
        }
        let shelf = |window, buffer| self.shelve(engine, chunk.0 - place.window + window, buffer);
        let was_good = stream.is_good();
        let made = stream.window(engine, place.window, &shelf);
        if !was_good
            && stream.is_good()
            && let Some(saved) = self.saved(engine)
        {
            saved.save(number, &stream.plan().points.all());
        }
        if stream.is_good() && place.window + 1 == stream.plan().windows() {
            stream.park();
        }
        made.map_err(|failure| {
            let at = stream.damaged_at().unwrap_or(u64::from(place.window) * WINDOW);
            self.error(entry, place.raw_offset - u64::from(place.window) * WINDOW + at, failure)
        })
    }

    fn lane(&self) -> Lane {
        Lane::of(&*self.source, self.presented.id())
    }

    /// A window that was decoded for another's sake.
    fn shelve(&self, engine: &Engine, chunk: u32, buffer: Buffer) {
        let key = Key { container: self.presented.id(), chunk: ChunkId(chunk) };
        let kept = engine.chunks.ahead(key, 0, || Ok(buffer));
        Counters::add(&engine.counters.ahead_chunks, u64::from(matches!(kept, Ok(true))));
    }

    /// Decodes a tensor, by its entry, and compares its digest. Returns its length, bytes.
    ///
    /// # Errors
    /// Damage, a digest that differs, a base that is missing, those of the source.
    fn prove(&self, engine: &Arc<Engine>, entry: usize) -> Result<u64> {
        let (number, entry) = self.master(entry).ok_or_else(|| self.nowhere(0))?;
        let stream = self.stream(number, entry, engine)?;
        for window in 0..stream.plan().windows() {
            if !stream.is_good() {
                stream.window(engine, window, &|_, _| {}).map_err(|failure| {
                    self.error(entry, stream.damaged_at().unwrap_or(u64::from(window) * WINDOW), failure)
                })?;
            }
        }
        stream.park();
        Ok(entry.raw_len)
    }
}

/// Decodes every tensor of a container and compares its MD5, several at a time. `done` hears of each tensor's bytes. Returns the
/// number of tensors. `stop` ends it at the next tensor.
///
/// # Errors
/// The first damage or difference, a base that is missing, those of the source, [`Error::Interrupted`].
pub fn prove(
    pool: &rayon::ThreadPool,
    engine: &Arc<Engine>,
    (presented, source): (&Arc<Presented>, &Arc<dyn ReadAt>),
    base: Option<&Arc<dyn Base>>,
    stop: &AtomicBool,
    mut done: impl FnMut(u64),
) -> Result<usize> {
    let shown = Shown::new(Arc::clone(presented), Arc::clone(source), base.cloned());
    let entries = presented.container().entries();
    let count = entries.len();
    let mut longest_first: Vec<usize> = (0..count).collect();
    longest_first.sort_by_key(|&entry| entries.get(entry).map(|entry| std::cmp::Reverse(entry.raw_len)));
    let mut entries = longest_first.into_iter();
    // Nothing is kept of a tensor, so none waits for the longer ones before it.
    parallel::ordered(
        pool,
        count.max(1),
        || if stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(entries.next()) },
        |entry| shown.prove(engine, entry),
        |bytes| {
            done(bytes);
            Ok(())
        },
    )?;
    Ok(count)
}

/// A tensor of a base.
struct OfBase {
    base: Arc<dyn Base>,
    name: String,
}

impl Other for OfBase {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.base.read(&self.name, offset, out)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A [`Shown`] that can be handed to other threads.
pub struct Image(pub Arc<Shown>);

impl Content for Image {
    fn id(&self) -> u64 {
        self.0.presented.id()
    }

    fn lane(&self) -> Lane {
        self.0.lane()
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn raw_len(&self) -> u64 {
        self.0.presented.raw_len()
    }

    fn chunk_count(&self) -> u32 {
        self.0.presented.windows()
    }

    fn literals(&self) -> &[u8] {
        self.0.presented.header()
    }

    fn locate(&self, raw_offset: u64) -> Option<Place> {
        let presented = &self.0.presented;
        if raw_offset < presented.header().len() as u64 {
            return Some(Place::Literal { raw_offset: 0, range: 0..presented.header().len() });
        }
        let window = presented.window_at(raw_offset)?;
        Some(Place::Chunk(self.0.part(&window)))
    }

    fn part(&self, chunk: ChunkId) -> Option<Part> {
        self.0.presented.window(chunk).map(|window| self.0.part(&window))
    }

    fn digest(&self) -> [u8; 32] {
        let kind = blake3::hash(b"bsfs disk cache 1: bigsmall");
        *blake3::Hasher::new_keyed(kind.as_bytes()).update(&self.0.presented.digest()).finalize().as_bytes()
    }

    fn is_expensive(&self) -> bool {
        true
    }

    fn proof(&self) -> Box<dyn Proof> {
        Box::new(TensorByTensor::new(Arc::clone(&self.0.presented)))
    }

    fn tensor_in(&self, read: &Range<u64>) -> Option<Range<u64>> {
        self.0.presented.tensor_in(read)
    }

    fn known_as(&self, chunk: ChunkId) -> ChunkId {
        self.0.presented.known_as(chunk)
    }

    fn decode(&self, chunk: ChunkId, engine: &Arc<Engine>) -> Result<Buffer> {
        self.0.window(chunk, engine)
    }

    fn expect_streams(&self, _streams: bool) {
        // Each stream of a blob is read in order, whatever the readers do.
        self.0.source.expect_streams(true);
    }

    fn read_through(&self, _chunk: ChunkId) {}
}

impl Shown {
    fn path(&self) -> &Path {
        self.presented.container().path()
    }
}
