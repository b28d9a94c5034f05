//! An open file: what reads of it ask for, and how all of it is fetched.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::super::fetch::Fetch;
use super::super::{BLOCK, Shared};
use super::{Block, Inner, REQUEST, RemoteFile, State, extent};
use crate::cache::Entry;
use crate::error::{Error, Result};
use crate::source::{Identity, ReadAt, Streams};

/// More is asked for each time so much of that was read: late enough for requests to be long, early enough that the link is never
/// idle while a reader takes what has come.
const PARTS: u64 = 3;
/// Bytes by which reads of one stream come out of order: those of chunks that are decoded ahead at once.
const SLACK: u64 = 16 << 20;
/// Of the memory for all files, what is asked for ahead of one stream.
const AHEAD: (u64, u64) = (3, 4);
/// How long the disk may take to write what waits.
const SETTLE: Duration = Duration::from_secs(60);

impl RemoteFile {
    /// A file of `len` bytes; `head` are its first bytes, if they are at hand.
    pub(in crate::source::remote) fn new(
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

    /// Has all of it that is not there yet fetched into the cache on disk; gives what has to live on until its turn has come.
    pub(in crate::source::remote) fn keep(&self) -> Option<Arc<Inner>> {
        self.inner.entry.as_ref()?;
        self.inner.plan(0..self.inner.len);
        self.inner.waits().then(|| Arc::clone(&self.inner))
    }

    /// Fetches all of it that is not there yet into the cache on disk, and waits until that is done.
    ///
    /// # Errors
    /// Those of fetching; [`Error::Invalid`] when the cache does not take it; that of `tell`, which is given the bytes that are done.
    pub(in crate::source::remote) fn download(&self, tell: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
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
