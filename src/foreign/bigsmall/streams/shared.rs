//! What the open files of one engine share: budgets, and which tensors hold a decoder.

use std::sync::{Arc, Weak};

use lru::LruCache;

use super::limits::{PASS, PROVEN_FIRST};
use super::points::Budget;
use super::stream::{Stream, Waiting};
use crate::engine::ForeignState;
use crate::engine::stats::Reads;
use crate::engine::sync::{Mutex, lock};

/// What the streams of an engine share.
#[derive(Debug)]
pub struct Streams {
    pub(super) points: Arc<Budget>,
    pub(super) reads: Arc<Reads>,
    pub(super) waiting: Arc<Waiting>,
    pub(super) proven_first: u64,
    /// Tensors that were read last; others must not hold a pass.
    live: Mutex<LruCache<(u64, u32), Weak<Stream>>>,
    most: usize,
}

impl Streams {
    /// For an engine whose memory is `memory` bytes.
    pub fn new(memory: u64) -> Self {
        Self {
            points: Arc::new(Budget::new(memory / 8)),
            reads: Arc::default(),
            waiting: Arc::new(Waiting::new(memory / 4)),
            proven_first: (memory / 4).min(PROVEN_FIRST),
            live: Mutex::new(LruCache::unbounded()),
            most: usize::try_from(memory / 8 / PASS).unwrap_or(usize::MAX).clamp(2, 64),
        }
    }

    /// A tensor is being read: if too many hold passes, the one that was read least recently lets go of its own.
    pub(super) fn touch(&self, key: (u64, u32), stream: &Arc<Stream>) {
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

impl ForeignState for Streams {
    fn checkpoint_bytes(&self) -> u64 {
        self.points.used()
    }

    fn reads(&self) -> &Reads {
        &self.reads
    }
}
