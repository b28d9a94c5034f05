//! A file of a remote place: blocks in memory, on disk, on their way.
//!
//! Reads are cut into blocks. Those that are nowhere are asked for at once, alone; where reads go on, what follows is asked for
//! ahead in requests of [`REQUEST`] bytes, each block of which is there for readers as soon as its last byte is. A block that was
//! read through leaves memory; on disk it stays as long as the cache has room.

mod open;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::fetch::{Fetch, fetch};
use super::resolve::Failure;
use super::{BLOCK, Shared};
use crate::cache::Entry;
use crate::error::{Error, Result};
use crate::source::{Identity, Streams};

/// Bytes of one request ahead of readers, at most.
const REQUEST: u64 = 8 << 20;
/// A block that nobody read for so long may leave memory unread.
const UNREAD: Duration = Duration::from_secs(2);

/// One request, as those who wait for its blocks see it.
#[derive(Debug, Default)]
struct Request(Mutex<Option<Failure>>);

impl Request {
    fn failure(&self) -> Option<Failure> {
        self.0.lock().clone()
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
        self.state.lock()
    }

    fn bytes(&self, blocks: &Range<u32>) -> u64 {
        let end = (u64::from(blocks.end) * BLOCK).min(self.len);
        end.saturating_sub(u64::from(blocks.start) * BLOCK)
    }

    /// Whether it has something to be asked for ahead.
    pub(super) fn waits(&self) -> bool {
        !self.lock().queue.is_empty()
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
        // However this ends, also before it began, no reader waits for it any more.
        let ending = Ending { inner: Arc::clone(self), blocks: blocks.clone(), request, urgent, failure: None };
        self.shared.runtime.start(async move {
            let mut ending = ending;
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
                    self.changed.wait(&mut state);
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
        *self.request.0.lock() = failure;
        drop(state);
        self.inner.changed.notify_all();
        if !self.urgent {
            self.inner.shared.pace.leave();
            self.inner.shared.pump();
        }
    }
}
