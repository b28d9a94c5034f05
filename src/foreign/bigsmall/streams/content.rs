//! A container behind an image: which stream makes a window, and what is checked of it.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::limits::{APART, WINDOW};
use super::pass::{Failure, Other, Plan};
use super::points::Points;
use super::presented::{Presented, Window};
use super::proof::TensorByTensor;
use super::saved::Saved;
use super::shared::Streams;
use super::stream::Stream;
use crate::cache::Proof;
use crate::engine::buffer::{Buffer, capacity};
use crate::engine::content::{Content, Part, Place};
use crate::engine::memory::Key;
use crate::engine::stats::Counters;
use crate::engine::{BaseFile, Core, Job, Lane};
use crate::error::{Damage, Error, Result};
use crate::foreign::bigsmall::format::{Content as From, Entry};
use crate::format::ChunkId;
use crate::parallel;
use crate::source::ReadAt;

/// A container, the source that it was read from, and its tensors as far as they were read.
pub struct Shown {
    presented: Arc<Presented>,
    source: Arc<dyn ReadAt>,
    base: Option<Arc<BaseFile>>,
    /// By entry.
    streams: Box<[OnceLock<Arc<Stream>>]>,
    saved: OnceLock<Option<Saved>>,
    shared: Arc<Streams>,
}

impl Shown {
    /// `base` is what its deltas refer to; without one their tensors give an error, and the others can be read.
    pub fn new(
        presented: Arc<Presented>,
        shared: Arc<Streams>,
        source: Arc<dyn ReadAt>,
        base: Option<Arc<BaseFile>>,
    ) -> Self {
        let streams = presented.container().entries().iter().map(|_| OnceLock::new()).collect();
        Self { presented, source, base, streams, saved: OnceLock::new(), shared }
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
    fn saved(&self, core: &Core) -> Option<&Saved> {
        let open = || Saved::open(&core.disk.as_ref()?.store, &self.presented, &*self.source);
        // With a base the packed bytes alone do not say what comes out.
        self.saved.get_or_init(|| if self.base.is_none() { open() } else { None }).as_ref()
    }

    fn stream(&self, number: usize, entry: &Entry, core: &Core) -> Result<Arc<Stream>> {
        let streams = &*self.shared;
        let slot = self.streams.get(number).ok_or_else(|| self.nowhere(0))?;
        if let Some(stream) = slot.get() {
            return Ok(Arc::clone(stream));
        }
        let plan = self.plan(entry, streams)?;
        let first = plan.raw_len <= streams.proven_first;
        let known = self.saved(core).and_then(|saved| saved.load(number));
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
    fn window(self: &Arc<Self>, chunk: ChunkId, core: &Arc<Core>) -> Result<Buffer> {
        let chunk = self.presented.known_as(chunk);
        let place = self.presented.window(chunk).ok_or_else(|| self.nowhere(chunk.0))?;
        let (number, entry) = self.master(place.entry).ok_or_else(|| self.nowhere(chunk.0))?;
        let stream = self.stream(number, entry, core)?;
        self.shared.touch((self.presented.id(), number as u32), &stream);
        if stream.wants_help() {
            let (shown, stream, weak) = (Arc::clone(self), Arc::clone(&stream), Arc::downgrade(core));
            let first = chunk.0 - place.window;
            let job = Job::new(self.need(&place), move || {
                if let Some(core) = weak.upgrade() {
                    stream.help(&core, &|window, buffer| shown.shelve(&core, first + window, buffer));
                }
            });
            core.workers.ahead(self.lane().source, [job]);
        }
        let shelf = |window, buffer| self.shelve(core, chunk.0 - place.window + window, buffer);
        let was_good = stream.is_good();
        let made = stream.window(core, place.window, &shelf);
        if !was_good
            && stream.is_good()
            && let Some(saved) = self.saved(core)
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
    fn shelve(&self, core: &Core, chunk: u32, buffer: Buffer) {
        let key = Key { container: self.presented.id(), chunk: ChunkId(chunk) };
        let kept = core.chunks.ahead(key, 0, || Ok(buffer));
        Counters::add(&core.counters.ahead_chunks, u64::from(matches!(kept, Ok(true))));
    }

    /// Decodes a tensor, by its entry, and compares its digest. Returns its length, bytes.
    ///
    /// # Errors
    /// Damage, a digest that differs, a base that is missing, those of the source.
    fn prove(&self, core: &Arc<Core>, entry: usize) -> Result<u64> {
        let (number, entry) = self.master(entry).ok_or_else(|| self.nowhere(0))?;
        let stream = self.stream(number, entry, core)?;
        for window in 0..stream.plan().windows() {
            if !stream.is_good() {
                stream.window(core, window, &|_, _| {}).map_err(|failure| {
                    self.error(entry, stream.damaged_at().unwrap_or(u64::from(window) * WINDOW), failure)
                })?;
            }
        }
        stream.park();
        Ok(entry.raw_len)
    }
}

/// Decodes every tensor and compares its MD5; see [`ForeignFile::verify`](crate::engine::ForeignFile::verify).
pub fn verify(
    shown: &Shown,
    pool: &rayon::ThreadPool,
    core: &Arc<Core>,
    stop: &AtomicBool,
    done: &mut dyn FnMut(u64),
) -> Result<usize> {
    let entries = shown.presented.container().entries();
    let count = entries.len();
    let mut longest_first: Vec<usize> = (0..count).collect();
    longest_first.sort_by_key(|&entry| entries.get(entry).map(|entry| std::cmp::Reverse(entry.raw_len)));
    let mut entries = longest_first.into_iter();
    // Nothing is kept of a tensor, so none waits for the longer ones before it.
    parallel::ordered(
        pool,
        count.max(1),
        || if stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(entries.next()) },
        |entry| shown.prove(core, entry),
        |bytes| {
            done(bytes);
            Ok(())
        },
    )?;
    Ok(count)
}

/// A tensor of a base.
struct OfBase {
    base: Arc<BaseFile>,
    name: String,
}

impl Other for OfBase {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.base.read_by_name(&self.name, offset, out)
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

    fn decode(&self, chunk: ChunkId, core: &Arc<Core>) -> Result<Buffer> {
        self.0.window(chunk, core)
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
