//! The answer to a read, wherever it is given from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fuser::ReplyData;

use super::guard::Guard;
use super::pending::Pending;
use super::slow::{SlowRead, why};
use crate::engine::Cost;
use crate::error::Result;
use crate::vfs::{Data, Handle, Vfs};

/// What a reader is waiting for. Dropped without an answer, as by a panic, it is EIO.
pub(super) struct Answer {
    pub(super) pending: Pending<ReplyData>,
    pub(super) vfs: Arc<Vfs>,
    pub(super) guard: Arc<Guard>,
    pub(super) replying: Arc<AtomicU64>,
    /// What was asked for.
    pub(super) handle: Handle,
    pub(super) offset: u64,
    pub(super) size: u32,
}

impl Answer {
    /// Answers, on the thread that has the bytes.
    pub(super) fn give(self, result: Result<Data>) {
        let Some(reply) = self.pending.take() else { return };
        // The handle may be closed once its reader has the answer.
        let asked = self.pending.asked();
        let file = self.guard.slow.keeps(asked.elapsed()).then(|| self.name());
        let mut replying = Duration::ZERO;
        match self.guard.answer("read", result) {
            Ok(data) => {
                let start = Instant::now();
                reply.data(&data);
                replying = start.elapsed();
                let nanos = u64::try_from(replying.as_nanos()).unwrap_or(0);
                self.replying.fetch_add(nanos, Ordering::Relaxed);
            }
            Err(errno) => reply.error(errno),
        }
        let now = Instant::now();
        let took = now.duration_since(asked);
        self.guard.meter.request("read", took);
        self.guard.slow.add(now, took, || SlowRead {
            file: file.unwrap_or_else(|| self.name()),
            offset: self.offset,
            length: self.size,
            seconds: took.as_secs_f64(),
            why: why(took, Cost::last(), replying).to_owned(),
            ago: 0,
        });
    }

    fn name(&self) -> String {
        self.vfs.name_of(self.handle)
    }
}
