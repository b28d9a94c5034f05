//! Runs requests: at once what is in memory, on other threads what may have to wait for the source.
//!
//! The threads that take requests from the kernel never wait for a source: as many requests that hang as there are such threads
//! would end the whole mount. Whatever way a request goes, a panic is EIO, a line in the log and a count.

use std::sync::Arc;

use super::guard::Guard;
use super::pending::{Pending, Pendings, Reply, Subject};
use crate::engine::{Job, Lane, Workers};
use crate::error::Result;
use crate::vfs::Vfs;

/// What runs requests.
pub(super) struct Requests {
    pub(super) vfs: Arc<Vfs>,
    pub(super) guard: Arc<Guard>,
    pub(super) pendings: Arc<Pendings>,
    pub(super) workers: Workers,
}

/// What requests that wait for no source wait for: other work of this process.
pub(super) const OWN: Lane = Lane { source: u64::MAX, file: 0 };

impl Requests {
    /// Answers on this thread: `work` must not wait, `give` gives its result to who asked.
    pub(super) fn at_once<R: Reply, T>(
        &self,
        op: &'static str,
        reply: R,
        work: impl FnOnce(&Vfs) -> Result<T>,
        give: impl FnOnce(T, R),
    ) {
        let mut reply = Some(reply);
        let done = self.guard.run(op, || {
            let value = work(&self.vfs)?;
            if let Some(reply) = reply.take() {
                give(value, reply);
            }
            Ok(())
        });
        if let (Err(errno), Some(reply)) = (done, reply) {
            reply.error(errno);
        }
    }

    /// Answers on another thread. When who asked has got an error meanwhile, `undo` takes back what `work` has made.
    pub(super) fn later<R: Reply, T>(
        &self,
        (op, lane, subject): (&'static str, Lane, Subject),
        reply: R,
        work: impl FnOnce(&Vfs) -> Result<T> + Send + 'static,
        give: impl FnOnce(T, R) + Send + 'static,
        undo: impl FnOnce(T, &Vfs) + Send + 'static,
    ) {
        let pending = self.pendings.add(op, subject, reply);
        let (vfs, guard) = (Arc::clone(&self.vfs), Arc::clone(&self.guard));
        let job = move || {
            if !pending.is_open() {
                return;
            }
            let done = guard.run_since(pending.asked(), op, || {
                let value = work(&vfs)?;
                match pending.take() {
                    Some(reply) => give(value, reply),
                    None => undo(value, &vfs),
                }
                Ok(())
            });
            if let Err(errno) = done {
                fail(&pending, errno);
            }
        };
        self.workers.demand(lane, Job::new(0, job));
    }
}

fn fail<R: Reply>(pending: &Pending<R>, errno: fuser::Errno) {
    if let Some(reply) = pending.take() {
        reply.error(errno);
    }
}

/// What there is to take back of most requests.
pub(super) fn nothing<T>(_made: T, _vfs: &Vfs) {}
