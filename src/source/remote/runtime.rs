//! The thread on which everything asynchronous happens.

use std::future::Future;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// A runtime on a thread of its own, which ends when this is dropped; what runs on it then is dropped too.
pub(super) struct Runtime {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Runtime")
    }
}

impl Runtime {
    pub(super) fn new(label: &Path) -> Result<Self> {
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(Error::io("start the network for", label))?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            // An error means that the sender is gone, which is the same.
            let _ = runtime.block_on(stopped);
            // A question to the name server cannot be broken off, and nobody waits for its answer.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("remote".into()).spawn(run);
        let thread = Some(thread.map_err(Error::io("start a thread for", label))?);
        Ok(Self { handle, stop: Some(stop), thread })
    }

    /// Has `work` done on the runtime, which nobody waits for.
    pub(super) fn start(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(work);
    }

    /// Waits for `work` on the runtime; `None` after a panic there, or when the runtime has ended. Not for threads of the runtime.
    pub(super) fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (give, take) = mpsc::sync_channel(1);
        self.handle.spawn(async move {
            // Nobody waits any more when this fails.
            let _ = give.send(work.await);
        });
        take.recv().ok()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        // The last one to let go may be a task of the runtime itself.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}
