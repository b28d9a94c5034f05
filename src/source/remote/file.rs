//! A file of a remote place: blocks in memory, on disk, on their way.
//!
//! Reads are cut into blocks. Those that are nowhere are asked for at once, alone; where reads go on, what follows is asked for
//! ahead in requests of [`REQUEST`] bytes, each block of which is there for readers as soon as its last byte is. A block that was
//! read through leaves memory; on disk it stays as long as the cache has room.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::fetch::{Fetch, fetch};
use super::resolve::Failure;
use super::{BLOCK, Shared};
use crate::cache::Entry;
use crate::error::{Error, Result};
use crate::source::{Identity, ReadAt, Streams};

/// Bytes of one request ahead of readers, at most.
const REQUEST: u64 = 8 << 20;
/// More is asked for each time so much of that was read: late enough for requests to be long, early enough that the link is never
/// idle while a reader takes what has come.
const PARTS: u64 = 3;
/// Bytes by which reads of one stream come out of order: those of chunks that are decoded ahead at once.
const SLACK: u64 = 16 << 20;
/// Of the memory for all files, what is asked for ahead of one stream.
const AHEAD: (u64, u64) = (3, 4);
/// A block that nobody read for so long may leave memory unread.
const UNREAD: Duration = Duration::from_secs(2);

/// How long the disk may take to write what waits.
const SETTLE: Duration = Duration::from_secs(60);

/// One request, as those who wait for its blocks see it.
#[derive(Debug, Default)]
struct Request(Mutex<Option<Failure>>);

impl Request {
    fn failure(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

enum Block {
    Coming(Arc<Request>),
    Here { bytes: Arc<[u8]>, left: usize, since: Instant },
}

struct State {
    blocks: HashMap<u32, Block>,
    streams: Streams,
    /// What is to be asked for ahead, in this order.
    queue: VecDeque<Range<u32>>,
    closed: bool,
}

/// What requests hold of a file.
pub(super) struct Inner {
    shared: Arc<Shared>,
    path: PathBuf,
    len: u64,
    fetch: Box<dyn Fetch>,
    entry: Option<Arc<Entry>>,
    /// When a stream of it was read last, in milliseconds on the clock of all files.
    pub(super) last_streamed: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

/// An open file of a remote place.
pub(super) struct RemoteFile {
    inner: Arc<Inner>,
    identity: Identity,
}

impl fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteFile").field(&self.inner.path).finish()
    }
}

/// Number of blocks of a file; `None` when they are too many to count.
pub(super) fn blocks(len: u64) -> Option<u32> {
    u32::try_from(len.div_ceil(BLOCK)).ok()
}

/// Offset and length of a block.
pub(super) fn extent(block: u32, len: u64) -> (u64, u64) {
    let offset = u64::from(block) * BLOCK;
    (offset, len.saturating_sub(offset).min(BLOCK))
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes(&self, blocks: &Range<u32>) -> u64 {
        let end = (u64::from(blocks.end) * BLOCK).min(self.len);
        end.saturating_sub(u64::from(blocks.start) * BLOCK)
    }

    fn is_kept(&self, block: u32) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.has(block))
    }

    fn is_missing(&self, state: &State, block: u32) -> bool {
        !state.blocks.contains_key(&block) && !self.is_kept(block)
    }

    /// Says that these blocks come with `request`.
    fn promise(&self, state: &mut State, blocks: &Range<u32>, request: &Arc<Request>) {
        for block in blocks.clone() {
            state.blocks.insert(block, Block::Coming(Arc::clone(request)));
        }
        self.shared.hold(self.bytes(blocks));
    }

    /// Asks for `blocks`, which were promised.
    fn start(self: &Arc<Self>, blocks: Range<u32>, request: Arc<Request>, urgent: bool) {
        let inner = Arc::clone(self);
        self.shared.runtime.start(async move {
            // However this ends, nobody waits for it any more.
            let mut ending = Ending { inner, blocks: blocks.clone(), request, urgent, failure: None };
            let inner = Arc::clone(&ending.inner);
            let mut next = blocks.start;
            let mut gathered = Vec::new();
            let range = u64::from(blocks.start) * BLOCK..(u64::from(blocks.end) * BLOCK).min(inner.len);
            let take = |mut piece: &[u8]| {
                while !piece.is_empty() && next < blocks.end {
                    let whole = extent(next, inner.len).1 as usize;
                    if gathered.capacity() == 0 {
                        gathered.reserve_exact(whole);
                    }
                    let (now, later) = piece.split_at(piece.len().min(whole - gathered.len()));
                    gathered.extend_from_slice(now);
                    piece = later;
                    if gathered.len() == whole {
                        inner.arrived(next, std::mem::take(&mut gathered), &ending.request);
                        next += 1;
                    }
                }
            };
            let result = fetch(&inner.shared, &*inner.fetch, inner.len, range, urgent, take).await;
            ending.failure = Some(result);
        });
    }

    fn arrived(&self, block: u32, bytes: Vec<u8>, request: &Arc<Request>) {
        let bytes: Arc<[u8]> = bytes.into();
        let mut state = self.lock();
        let expected = matches!(state.blocks.get(&block), Some(Block::Coming(r)) if Arc::ptr_eq(r, request));
        if expected && state.closed {
            state.blocks.remove(&block);
            self.shared.release(bytes.len() as u64);
        } else if expected {
            let here = Block::Here { bytes: Arc::clone(&bytes), left: bytes.len(), since: Instant::now() };
            state.blocks.insert(block, here);
        }
        drop(state);
        self.changed.notify_all();
        if let Some(entry) = &self.entry {
            entry.offer(block, bytes);
        }
    }

    /// Asks for what is queued, as far as there is room.
    pub(super) fn pump(self: &Arc<Self>) {
        loop {
            let mut state = self.lock();
            let Some(run) = self.next_run(&mut state) else { return };
            let room = self.shared.has_room(self.bytes(&run));
            if !room || !self.shared.pace.enter() {
                state.queue.push_front(run.clone());
                drop(state);
                // What lies unread may go, for the next time.
                if !room {
                    self.shared.evict(self.bytes(&run));
                }
                return;
            }
            let request = Arc::default();
            self.promise(&mut state, &run, &request);
            drop(state);
            self.start(run, request, false);
        }
    }

    /// Takes the next blocks out of the queue that are nowhere yet.
    fn next_run(&self, state: &mut State) -> Option<Range<u32>> {
        let most = (REQUEST / BLOCK) as u32;
        while let Some(range) = state.queue.pop_front() {
            let Some(start) = range.clone().find(|&block| self.is_missing(state, block)) else { continue };
            let mut end = start + 1;
            let mut limit = range.end;
            while end - start < most {
                if end == limit {
                    // What was planned in two steps is asked for at once.
                    match state.queue.front() {
                        Some(next) if next.start == end && next.end > end => {
                            limit = next.end;
                            state.queue.pop_front();
                        }
                        _ => break,
                    }
                }
                if !self.is_missing(state, end) {
                    break;
                }
                end += 1;
            }
            if end < limit {
                state.queue.push_front(end..limit);
            }
            return Some(start..end);
        }
        None
    }

    /// Drops blocks that nobody read for a while, and says when each was last of use.
    pub(super) fn unread(&self) -> Vec<(Instant, u32)> {
        let state = self.lock();
        let old = state.blocks.iter().filter_map(|(&block, state)| match state {
            Block::Here { since, .. } if since.elapsed() > UNREAD => Some((*since, block)),
            _ => None,
        });
        old.collect()
    }

    /// Drops a block from memory.
    pub(super) fn drop_block(&self, block: u32) -> u64 {
        let mut state = self.lock();
        if matches!(state.blocks.get(&block), Some(Block::Here { .. }))
            && let Some(Block::Here { bytes, .. }) = state.blocks.remove(&block)
        {
            self.shared.release(bytes.len() as u64);
            return bytes.len() as u64;
        }
        0
    }

    fn error(&self, failure: Failure) -> Error {
        let outage = matches!(failure, Failure::Again { .. });
        self.shared.pace.failed(&self.shared.label, &failure.to_string(), outage);
        super::error(&self.path, failure)
    }

    /// Copies what a block holds from `within` into `out`.
    fn copy(self: &Arc<Self>, block: u32, within: usize, out: &mut [u8]) -> Result<()> {
        let part = within..within + out.len();
        let mut state = self.lock();
        loop {
            match state.blocks.get_mut(&block) {
                Some(Block::Here { bytes, left, since }) => {
                    let bytes = Arc::clone(bytes);
                    *left = left.saturating_sub(out.len());
                    *since = Instant::now();
                    let spent = *left == 0;
                    if spent {
                        state.blocks.remove(&block);
                        self.shared.release(bytes.len() as u64);
                    }
                    let more = spent && !state.queue.is_empty();
                    drop(state);
                    out.copy_from_slice(bytes.get(part).unwrap_or_default());
                    if more {
                        self.pump();
                    }
                    return Ok(());
                }
                Some(Block::Coming(request)) => {
                    let request = Arc::clone(request);
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    let gone = !matches!(state.blocks.get(&block), Some(Block::Here { .. }));
                    if let Some(failure) = request.failure().filter(|_| gone) {
                        drop(state);
                        return Err(self.error(failure));
                    }
                }
                None => {
                    drop(state);
                    if self.read_kept(block, part.clone(), out) {
                        return Ok(());
                    }
                    self.demand(block..block + 1);
                    state = self.lock();
                }
            }
        }
    }

    fn read_kept(&self, block: u32, part: Range<usize>, out: &mut [u8]) -> bool {
        let Some(entry) = self.entry.as_ref().filter(|entry| entry.has(block)) else { return false };
        let mut whole = vec![0; extent(block, self.len).1 as usize];
        let right = entry.read(block, &mut whole);
        if let Some(bytes) = whole.get(part).filter(|_| right) {
            out.copy_from_slice(bytes);
        }
        right
    }

    /// Asks for those of `blocks` that are nowhere.
    fn demand(self: &Arc<Self>, blocks: Range<u32>) {
        let mut state = self.lock();
        let mut runs: Vec<Range<u32>> = Vec::new();
        for block in blocks {
            if self.is_missing(&state, block) {
                match runs.last_mut() {
                    Some(run) if run.end == block => run.end += 1,
                    _ => runs.push(block..block + 1),
                }
            }
        }
        let requests: Vec<Arc<Request>> = runs.iter().map(|_| Arc::default()).collect();
        for (run, request) in runs.iter().zip(&requests) {
            self.promise(&mut state, run, request);
        }
        drop(state);
        for (run, request) in runs.into_iter().zip(requests) {
            self.start(run, request, true);
        }
    }

    /// Has `range` fetched ahead; blocks of memory that nobody reads go again.
    fn plan(self: &Arc<Self>, range: Range<u64>) {
        let start = u32::try_from(range.start / BLOCK).unwrap_or(u32::MAX);
        let end = u32::try_from(range.end.min(self.len).div_ceil(BLOCK)).unwrap_or(u32::MAX);
        if start < end {
            self.lock().queue.push_back(start..end);
        }
        self.pump();
    }
}

/// Ends a request, whatever happened.
struct Ending {
    inner: Arc<Inner>,
    blocks: Range<u32>,
    request: Arc<Request>,
    urgent: bool,
    failure: Option<Result<(), Failure>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let failure = match self.failure.take() {
            Some(Ok(())) => None,
            Some(Err(failure)) => Some(failure),
            None => Some(Failure::Refused("the work for it was broken off".into())),
        };
        let mut state = self.inner.lock();
        for block in self.blocks.clone() {
            if matches!(state.blocks.get(&block), Some(Block::Coming(r)) if Arc::ptr_eq(r, &self.request)) {
                state.blocks.remove(&block);
                self.inner.shared.release(extent(block, self.inner.len).1);
            }
        }
        if let Some(failure) = &failure {
            log::debug!("{}: {failure}", self.inner.path.display());
            // What lies behind will hardly come either; who reads on asks again.
            state.queue.clear();
        }
        *self.request.0.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        drop(state);
        self.inner.changed.notify_all();
        if !self.urgent {
            self.inner.shared.pace.leave();
            self.inner.shared.pump();
        }
    }
}

impl RemoteFile {
    /// A file of `len` bytes; `head` are its first bytes, if they are at hand.
    pub(super) fn new(
        shared: &Arc<Shared>,
        (path, identity): (PathBuf, Identity),
        fetch: Box<dyn Fetch>,
        entry: Option<Arc<Entry>>,
        head: Option<bytes::Bytes>,
    ) -> Arc<Self> {
        let streams = Streams::in_parts(PARTS, SLACK);
        let state = State { blocks: HashMap::new(), streams, queue: VecDeque::new(), closed: false };
        let (len, state) = (identity.len, Mutex::new(state));
        let (shared, changed) = (Arc::clone(shared), Condvar::new());
        let inner =
            Arc::new(Inner { shared, path, len, fetch, entry, last_streamed: AtomicU64::new(0), state, changed });
        inner.shared.add(&inner);
        if let Some(head) = head.filter(|head| !head.is_empty() && head.len() as u64 == extent(0, len).1) {
            let request = Arc::default();
            let mut state = inner.lock();
            inner.promise(&mut state, &(0..1), &request);
            drop(state);
            inner.arrived(0, head.into(), &request);
        }
        Arc::new(Self { inner, identity })
    }

    /// Fetches all of it that is not there yet into the cache on disk.
    pub(super) fn keep(&self) {
        if self.inner.entry.is_some() {
            self.inner.plan(0..self.inner.len);
        }
    }

    /// Fetches all of it that is not there yet into the cache on disk, and waits until that is done.
    ///
    /// # Errors
    /// Those of fetching; [`Error::Invalid`] when the cache does not take it; that of `tell`, which is given the bytes that are done.
    pub(super) fn download(&self, tell: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let (inner, len) = (&self.inner, self.inner.len);
        let Some(entry) = inner.entry.as_ref().filter(|_| len > 0) else {
            let text = "the disk cache cannot keep it: the server says no version of it, or there is no room";
            return if len == 0 { Ok(()) } else { Err(Error::invalid(format!("{}: {text}", inner.path.display()))) };
        };
        // What was dropped for want of room in the queue is asked for again, twice.
        for _ in 0..3 {
            if entry.complete() {
                return Ok(());
            }
            // Read as others would, which fetches ahead.
            let mut buffer = vec![0; REQUEST as usize];
            let mut at = 0;
            while at < len {
                let part = buffer.get_mut(..(len - at).min(REQUEST) as usize).unwrap_or_default();
                self.read_exact_at(at, part)?;
                at += part.len() as u64;
                tell(at)?;
            }
            inner.shared.config.store.iter().for_each(|store| _ = store.flush(SETTLE));
        }
        if entry.complete() {
            return Ok(());
        }
        let text = "the disk cache has no room for all of it; see --cache-size";
        Err(Error::invalid(format!("{}: {text}", inner.path.display())))
    }
}

impl Drop for RemoteFile {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        state.closed = true;
        let here = |block: &Block| if let Block::Here { bytes, .. } = block { bytes.len() as u64 } else { 0 };
        self.inner.shared.release(state.blocks.values().map(here).sum());
        // What is on its way goes to the disk and nowhere else.
        state.blocks.retain(|_, block| matches!(block, Block::Coming(_)));
        if self.inner.entry.is_none() {
            state.queue.clear();
        }
    }
}

impl ReadAt for RemoteFile {
    fn path(&self) -> &Path {
        &self.inner.path
    }

    fn len(&self) -> u64 {
        self.inner.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let inner = &self.inner;
        let end = offset.saturating_add(buf.len() as u64);
        if end > inner.len {
            return Err(Error::Truncated { path: inner.path.clone(), expected: end, got: inner.len });
        }
        if buf.is_empty() {
            return Ok(());
        }
        let span = |at: u64| u32::try_from(at / BLOCK).unwrap_or(u32::MAX);
        inner.demand(span(offset)..span(end - 1) + 1);
        // The first bytes are looked at to see what a file is, which begins nothing.
        let note = || {
            let active = inner.lock().streams.active();
            // All streams of all files share the memory.
            let files = inner.shared.streaming(inner, active > 0);
            let most = inner.shared.config.memory / AHEAD.1 * AHEAD.0 / (files * active.max(1));
            inner.lock().streams.note(offset..end, None, most.max(BLOCK), 0)
        };
        let plan = if end > BLOCK { note() } else { None };
        if let Some(plan) = plan {
            inner.plan(plan);
        }
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let within = (at % BLOCK) as usize;
            let len = rest.len().min(BLOCK as usize - within);
            let (now, later) = rest.split_at_mut(len);
            inner.copy(span(at), within, now)?;
            (at, rest) = (at + len as u64, later);
        }
        Ok(())
    }

    fn identity(&self) -> Option<Identity> {
        Some(self.identity)
    }

    fn doubt(&self, offset: u64, len: u64) {
        let blocks = offset / BLOCK..offset.saturating_add(len).div_ceil(BLOCK);
        for block in blocks.filter_map(|block| u32::try_from(block).ok()) {
            self.inner.drop_block(block);
            if let Some(entry) = &self.inner.entry {
                entry.doubt(block);
            }
        }
    }
}
