//! Runs requests: at once what is in memory, on other threads what may have to wait for the source.
//!
//! The threads that take requests from the kernel never wait for a source: as many requests that hang as there are such threads
//! would end the whole mount. Whatever way a request goes, a panic is EIO, a line in the log and a count.

use std::sync::Arc;
use std::time::Instant;

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
    /// Answers on this thread: `work` must not wait, `give` sends its result to the kernel.
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

    /// Answers on another thread. If the request has failed meanwhile, `undo` takes back what `work` has made.
    pub(super) fn later<R: Reply, T>(
        &self,
        (op, lane, subject): (&'static str, Lane, Subject),
        reply: R,
        work: impl FnOnce(&Vfs) -> Result<T> + Send + 'static,
        give: impl FnOnce(T, R) + Send + 'static,
        undo: impl FnOnce(T, &Vfs) + Send + 'static,
    ) {
        let pending = self.pendings.add(op, subject, reply);
        self.queue((op, lane), pending, work, give, undo);
    }

    /// As [`later`](Requests::later), with `known` for an answer if the source hangs for a moment.
    pub(super) fn soon<R: Reply, T: 'static>(
        &self,
        (op, lane, subject): (&'static str, Lane, Subject),
        reply: R,
        work: impl FnOnce(&Vfs) -> Result<T> + Send + 'static,
        give: impl FnOnce(T, R) + Send + 'static,
        known: impl FnOnce(R) + Send + 'static,
    ) {
        let pending = self.pendings.add_known(op, subject, reply, known);
        self.queue((op, lane), pending, work, give, nothing);
    }

    /// Does what no reply waits for, on another thread.
    pub(super) fn afterwards(
        &self,
        op: &'static str,
        lane: Lane,
        work: impl FnOnce(&Vfs) -> Result<()> + Send + 'static,
    ) {
        let (vfs, guard, asked) = (Arc::clone(&self.vfs), Arc::clone(&self.guard), Instant::now());
        self.workers.demand(lane, Job::new(0, move || _ = guard.run_since(asked, op, || work(&vfs))));
    }

    fn queue<R: Reply, T>(
        &self,
        (op, lane): (&'static str, Lane),
        pending: Pending<R>,
        work: impl FnOnce(&Vfs) -> Result<T> + Send + 'static,
        give: impl FnOnce(T, R) + Send + 'static,
        undo: impl FnOnce(T, &Vfs) + Send + 'static,
    ) {
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use fuser::Errno;

    use super::*;
    use crate::engine::{Engine, EngineConfig};
    use crate::mount::control::{Control, What};
    use crate::source::waits;
    use crate::vfs::{Inode, VfsConfig};

    const SOON: Duration = Duration::from_secs(20);

    /// A reply as fuser's are: dropped without an answer it is EIO.
    struct Fake(Option<Sender<Result<(), Errno>>>);

    impl Fake {
        fn new() -> (Self, Receiver<Result<(), Errno>>) {
            let (send, receive) = channel();
            (Self(Some(send)), receive)
        }

        fn answer(mut self, answer: Result<(), Errno>) {
            self.0.take().unwrap().send(answer).unwrap();
        }
    }

    impl Reply for Fake {
        fn error(self, errno: Errno) {
            self.answer(Err(errno));
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            // Who asked may have gone.
            self.0.take().iter().for_each(|send| _ = send.send(Err(Errno::EIO)));
        }
    }

    fn requests(patience: Duration) -> (tempfile::TempDir, Requests) {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().to_path_buf();
        let config =
            VfsConfig { source, uid: 0, gid: 0, exclude: None, bases: Vec::new(), hubs: Vec::new(), shared: false };
        let vfs = Arc::new(Vfs::new(config, Engine::new(EngineConfig::default())).unwrap());
        let guard = Arc::new(Guard::default());
        let pendings = Pendings::new(Arc::clone(&vfs), Arc::clone(&guard), patience).unwrap();
        (dir, Requests { vfs, guard, pendings, workers: Workers::for_short_requests() })
    }

    #[test]
    fn a_panic_wherever_it_happens_is_eio_and_counted_and_the_next_request_is_served() {
        let (_dir, requests) = requests(SOON);
        let about = || ("lookup", OWN, Subject::Inode(Inode::ROOT));
        let broken = Arc::new(Control::new(Arc::new(|| panic!("on purpose")), None));
        for turn in 0..5_u64 {
            let (reply, answer) = Fake::new();
            let good = |(), reply: Fake| reply.answer(Ok(()));
            let bad = |(), _reply: Fake| panic!("on purpose");
            let fails = |_: &Vfs| -> Result<()> { panic!("on purpose") };
            let control = Arc::clone(&broken);
            match turn {
                0 => requests.at_once("lookup", reply, fails, good),
                1 => requests.at_once("lookup", reply, |_| Ok(()), bad),
                2 => requests.later(about(), reply, fails, good, nothing),
                3 => requests.later(about(), reply, |_| Ok(()), bad, nothing),
                _ => requests.later(about(), reply, move |_| Ok(_ = control.attr(What::File(0))), good, nothing),
            }
            assert_eq!(answer.recv_timeout(SOON), Ok(Err(Errno::EIO)), "{turn}");
            let counted = Instant::now();
            while requests.guard.panics() != turn + 1 {
                assert!(counted.elapsed() < SOON, "{turn}: {}", requests.guard.panics());
            }
            let (reply, answer) = Fake::new();
            requests.later(about(), reply, |_| Ok(()), good, nothing);
            assert_eq!(answer.recv_timeout(SOON), Ok(Ok(())), "{turn}");
        }
    }

    #[test]
    fn what_no_reply_waits_for_is_done_however_long_its_turn_takes_and_what_is_known_is_told_meanwhile() {
        let (_dir, requests) = requests(Duration::from_millis(100));
        let (release, hang) = channel::<()>();
        let hang = Arc::new(std::sync::Mutex::new(hang));
        let wait = || {
            let hang = Arc::clone(&hang);
            move |_: &Vfs| {
                let _call = waits::call();
                hang.lock().unwrap().recv().unwrap_err();
                Ok(())
            }
        };
        let (reply, answer) = Fake::new();
        let about = ("getattr", OWN, Subject::Inode(Inode::ROOT));
        let give = |(), reply: Fake| reply.answer(Err(Errno::EIO));
        requests.soon(about, reply, wait(), give, |reply| reply.answer(Ok(())));
        assert_eq!(answer.recv_timeout(SOON), Ok(Ok(())));
        let (done, closed) = channel();
        // More than run at once.
        for n in 0..100 {
            let (done, wait) = (done.clone(), wait());
            requests.afterwards("release", OWN, move |vfs| wait(vfs).map(|()| done.send(n).unwrap()));
        }
        std::thread::sleep(Duration::from_millis(300));
        drop(release);
        for _ in 0..100 {
            closed.recv_timeout(SOON).unwrap();
        }
        assert_eq!((requests.guard.errors(), requests.guard.panics()), (0, 0));
    }

    #[test]
    fn what_was_made_for_a_request_that_has_failed_is_taken_back() {
        let (_dir, requests) = requests(Duration::from_millis(100));
        let (reply, answer) = Fake::new();
        let (release, hang) = channel::<()>();
        let (undone, taken_back) = channel();
        let work = move |_: &Vfs| {
            let _call = waits::call();
            hang.recv().unwrap_err();
            Ok(7)
        };
        let about = ("open", OWN, Subject::Inode(Inode::ROOT));
        let give = |_, reply: Fake| reply.answer(Ok(()));
        requests.later(about, reply, work, give, move |made, _: &Vfs| undone.send(made).unwrap());
        assert_eq!(answer.recv_timeout(SOON), Ok(Err(Errno::EIO)));
        assert!(taken_back.try_recv().is_err());
        drop(release);
        assert_eq!(taken_back.recv_timeout(SOON), Ok(7));
        assert_eq!((requests.guard.errors(), requests.guard.panics()), (1, 0));
    }
}
