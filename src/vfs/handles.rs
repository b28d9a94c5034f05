//! Open files and directories, by handle.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::directory::Names;
use super::ids::Handle;
use super::traffic::Reading;

/// What a handle stands for.
#[derive(Debug, Clone)]
pub(super) enum Open {
    File(Arc<Reading>),
    Directory(Arc<Names>),
}

/// All that is open.
#[derive(Debug, Default)]
pub(super) struct Handles {
    open: RwLock<HashMap<Handle, Open>>,
    /// Handles that were given out; they begin with 1.
    given: AtomicU64,
}

impl Handles {
    pub(super) fn insert(&self, open: Open) -> Handle {
        let handle = Handle(self.given.fetch_add(1, Ordering::Relaxed) + 1);
        self.open.write().insert(handle, open);
        handle
    }

    pub(super) fn get(&self, handle: Handle) -> Option<Open> {
        self.open.read().get(&handle).cloned()
    }

    /// What was open; the caller drops it without a lock, because closing a descriptor may take long.
    pub(super) fn remove(&self, handle: Handle) -> Option<Open> {
        self.open.write().remove(&handle)
    }

    pub(super) fn len(&self) -> usize {
        self.open.read().len()
    }

    /// The open file with this handle.
    pub(super) fn file(&self, handle: Handle) -> Option<Arc<Reading>> {
        match self.open.read().get(&handle)? {
            Open::File(reading) => Some(Arc::clone(reading)),
            Open::Directory(_) => None,
        }
    }

    /// The open directory with this handle.
    pub(super) fn directory(&self, handle: Handle) -> Option<Arc<Names>> {
        match self.open.read().get(&handle)? {
            Open::Directory(names) => Some(Arc::clone(names)),
            Open::File(_) => None,
        }
    }

    /// All open files.
    pub(super) fn files(&self) -> impl Iterator<Item = Arc<Reading>> {
        let open: Vec<_> = self.open.read().values().cloned().collect();
        open.into_iter().filter_map(|open| match open {
            Open::File(reading) => Some(reading),
            Open::Directory(_) => None,
        })
    }
}
