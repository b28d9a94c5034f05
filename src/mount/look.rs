//! A first look at the source, before the mount is made: what is wrong there is told to the user who waits for the mount.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use log::warn;

use super::guard::Guard;
use crate::vfs::Vfs;

/// How long it may delay the mount. Of a large directory the rest is looked at meanwhile.
const LIMIT: Duration = Duration::from_secs(1);

/// Ends the look, if it goes on still, when it is dropped.
pub(super) struct Look(Arc<AtomicBool>);

impl Drop for Look {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Looks at the root of the tree and at what the files in it refer to. Returns when that is done, or after a while.
pub(super) fn look(vfs: &Arc<Vfs>, guard: Arc<Guard>) -> Look {
    let (send, receive) = mpsc::channel();
    let (vfs, stop) = (Arc::clone(vfs), Arc::new(AtomicBool::new(false)));
    let look = Look(Arc::clone(&stop));
    let work = move || {
        if let Some(Err(error)) = guard.own("look", || vfs.look(&|| stop.load(Ordering::Relaxed))) {
            warn!("{error}");
        }
        drop(vfs);
        // The mount is made already when this fails.
        let _ = send.send(());
    };
    if thread::Builder::new().name("look".into()).spawn(work).is_ok() {
        let _ = receive.recv_timeout(LIMIT);
    }
    look
}
