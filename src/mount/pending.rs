//! Requests of the kernel that are not answered yet.
//!
//! A call that hangs in the source cannot be ended, but the request that waits for it can: once the source has hung for the
//! mount's patience, the request fails with EIO, and the thread stays behind until the source goes on.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use fuser::Errno;
use parking_lot::{Condvar, Mutex};

use super::guard::Guard;
use crate::error::{Error, Result};
use crate::source::waits;
use crate::vfs::{Handle, Inode, Vfs};

/// How often overdue requests are looked for, at least.
const TICK: Duration = Duration::from_millis(500);
/// How long the source may hang before a request is answered with what is known.
pub(super) const MOMENT: Duration = Duration::from_millis(500);
/// And at most, however short the patience is.
const LEAST_TICK: Duration = Duration::from_millis(10);

/// What the kernel waits for. One that is dropped without an answer is EIO, by fuser's own doing.
pub(super) trait Reply: Send + 'static {
    /// Answers with an error.
    fn error(self, errno: Errno);
}

macro_rules! replies {
    ($($reply:ident),*) => {
        $(impl Reply for fuser::$reply {
            fn error(self, errno: Errno) {
                Self::error(self, errno);
            }
        })*
    };
}

replies!(
    ReplyAttr,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyIoctl,
    ReplyOpen,
    ReplyStatfs,
    ReplyXattr
);

/// What a request is about.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    Inode(Inode),
    Name(Inode, OsString),
    Handle(Handle),
    /// The mount itself.
    Mount,
}

impl Subject {
    fn path(&self, vfs: &Vfs) -> PathBuf {
        let path = match self {
            Self::Inode(inode) => vfs.path(*inode),
            Self::Name(parent, name) => vfs.path(*parent).map(|parent| parent.join(name)),
            Self::Handle(handle) => vfs.path_of_handle(*handle),
            Self::Mount => None,
        };
        path.or_else(|| vfs.path(Inode::ROOT)).unwrap_or_default()
    }
}

/// All requests of a mount that are not answered yet.
pub(super) struct Pendings {
    shared: Arc<Shared>,
    vfs: Arc<Vfs>,
    guard: Arc<Guard>,
    patience: Duration,
}

/// What the thread that looks for overdue requests has a part in.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    open: HashMap<u64, Arc<dyn Overdue>>,
    /// The thread that looks for overdue requests waits for the first one.
    asleep: bool,
    /// There will be no more requests.
    ended: bool,
}

/// A request whose kind of reply does not matter.
trait Overdue: Send + Sync {
    fn asked(&self) -> Instant;
    /// How long the source may hang, where that is less than the mount's patience.
    fn moment(&self) -> Option<Duration>;
    /// Answers with what is known, or with EIO, if there was no answer yet.
    fn fail(&self, pendings: &Pendings);
}

/// Answers with what is known.
type Known<R> = Box<dyn FnOnce(R) + Send>;

struct Request<R> {
    op: &'static str,
    asked: Instant,
    subject: Subject,
    reply: Mutex<Option<R>>,
    is_known: bool,
    known: Mutex<Option<Known<R>>>,
}

/// A request that is to be answered once.
pub(super) struct Pending<R: Reply> {
    pendings: Arc<Pendings>,
    number: u64,
    request: Arc<Request<R>>,
}

impl Pendings {
    /// Requests whose source may hang for `patience`. A thread watches them as long as the value lives.
    ///
    /// # Errors
    /// [`Error::Io`] when the thread cannot be made.
    pub(super) fn new(vfs: Arc<Vfs>, guard: Arc<Guard>, patience: Duration) -> Result<Arc<Self>> {
        let pendings = Arc::new(Self { shared: Arc::default(), vfs, guard, patience });
        let (shared, watched) = (Arc::clone(&pendings.shared), Arc::downgrade(&pendings));
        let tick = TICK.min(patience / 4).max(LEAST_TICK);
        let made = thread::Builder::new().name("patience".into()).spawn(move || watch(&shared, &watched, tick));
        made.map(|_| pendings).map_err(Error::io("start a thread", ""))
    }

    /// Takes note of a request.
    pub(super) fn add<R: Reply>(self: &Arc<Self>, op: &'static str, subject: Subject, reply: R) -> Pending<R> {
        self.note(op, subject, reply, None)
    }

    /// Takes note of a request that `known` answers if the source hangs for a [`MOMENT`].
    pub(super) fn add_known<R: Reply>(
        self: &Arc<Self>,
        op: &'static str,
        subject: Subject,
        reply: R,
        known: impl FnOnce(R) + Send + 'static,
    ) -> Pending<R> {
        self.note(op, subject, reply, Some(Box::new(known)))
    }

    fn note<R: Reply>(
        self: &Arc<Self>,
        op: &'static str,
        subject: Subject,
        reply: R,
        known: Option<Known<R>>,
    ) -> Pending<R> {
        let (asked, reply, is_known) = (Instant::now(), Mutex::new(Some(reply)), known.is_some());
        let request = Arc::new(Request { op, asked, subject, reply, is_known, known: Mutex::new(known) });
        let mut state = self.shared.state.lock();
        let number = state.next;
        state.next += 1;
        state.open.insert(number, Arc::clone(&request) as Arc<dyn Overdue>);
        if std::mem::take(&mut state.asleep) {
            self.shared.wake.notify_one();
        }
        drop(state);
        Pending { pendings: Arc::clone(self), number, request }
    }

    /// Ends requests that are overdue.
    fn look(&self) {
        let hangs = waits::longest();
        if hangs < self.patience.min(MOMENT) {
            return;
        }
        let is_overdue = |request: &Arc<dyn Overdue>| {
            let limit = request.moment().unwrap_or(self.patience).min(self.patience);
            hangs >= limit && request.asked().elapsed() >= limit
        };
        let requests: Vec<_> = self.shared.state.lock().open.extract_if(|_, request| is_overdue(request)).collect();
        for (_, request) in requests {
            // A panic would end the patience of all requests.
            let _ = self.guard.own("patience", || request.fail(self));
        }
    }
}

impl Drop for Pendings {
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
        self.shared.wake.notify_one();
    }
}

/// Looks after requests every `tick` as long as there are any.
fn watch(shared: &Shared, pendings: &Weak<Pendings>, tick: Duration) {
    loop {
        let mut state = shared.state.lock();
        while state.open.is_empty() && !state.ended {
            state.asleep = true;
            shared.wake.wait(&mut state);
        }
        if state.ended {
            return;
        }
        drop(state);
        thread::sleep(tick);
        if let Some(pendings) = pendings.upgrade() {
            pendings.look();
        }
    }
}

impl<R: Reply> Overdue for Request<R> {
    fn asked(&self) -> Instant {
        self.asked
    }

    fn moment(&self) -> Option<Duration> {
        self.is_known.then_some(MOMENT)
    }

    fn fail(&self, pendings: &Pendings) {
        let Some(reply) = self.reply.lock().take() else { return };
        if let Some(known) = self.known.lock().take() {
            pendings.guard.meter.request(self.op, self.asked.elapsed());
            return known(reply);
        }
        let seconds = pendings.patience.as_secs();
        let why = format!("the source has not answered for {seconds} s (--patience)");
        let error = Error::io(self.op, self.subject.path(&pendings.vfs))(io::Error::other(why));
        let failed: Result<(), Errno> = pendings.guard.answer(self.op, Err(error));
        pendings.guard.meter.request(self.op, self.asked.elapsed());
        reply.error(failed.err().unwrap_or(Errno::EIO));
    }
}

impl<R: Reply> Pending<R> {
    /// When it was asked.
    pub(super) fn asked(&self) -> Instant {
        self.request.asked
    }

    /// Whether an answer is still wanted.
    pub(super) fn is_open(&self) -> bool {
        self.request.reply.lock().is_some()
    }

    /// The reply, for the caller to answer; `None` when the request has failed meanwhile.
    pub(super) fn take(&self) -> Option<R> {
        let reply = self.request.reply.lock().take();
        if reply.is_some() {
            self.pendings.shared.state.lock().open.remove(&self.number);
        }
        reply
    }
}

impl<R: Reply> Drop for Pending<R> {
    /// One without an answer, as after a panic, is EIO.
    fn drop(&mut self) {
        if let Some(reply) = self.take() {
            self.pendings.guard.meter.request(self.request.op, self.asked().elapsed());
            self.pendings.guard.panicked(self.request.op);
            reply.error(Errno::EIO);
        }
        self.pendings.shared.state.lock().open.remove(&self.number);
    }
}
