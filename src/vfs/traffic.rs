//! Which files are read most: counted for each open file, and kept for a bounded number of those that were closed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::open::OpenFile;
use crate::engine::Lane;

/// Closed files that are remembered. The least read makes room for another, and starts anew if it comes back.
const REMEMBERED: usize = 256;

/// What was read of a file through the mount; what the page cache or the kernel alone answers is not known here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTraffic {
    /// The file in the source, below its root. Bytes that are not UTF-8 are replaced.
    pub file: String,
    /// Reads.
    pub reads: u64,
    /// Bytes that they returned.
    pub bytes: u64,
}

/// An open file, and what was read of it through one handle.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) file: Arc<OpenFile>,
    pub(super) path: PathBuf,
    /// What requests for it may have to wait for.
    pub(super) lane: Lane,
    pub(super) traffic: Arc<Traffic>,
}

#[derive(Debug, Default)]
pub(super) struct Traffic {
    reads: AtomicU64,
    bytes: AtomicU64,
}

impl Traffic {
    pub(super) fn add(&self, bytes: usize) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Reads and their bytes.
    pub(super) fn now(&self) -> (u64, u64) {
        (self.reads.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// Files that were closed.
#[derive(Debug, Default)]
pub(super) struct ClosedFiles(Mutex<HashMap<PathBuf, (u64, u64)>>);

fn sum((reads, bytes): &mut (u64, u64), (more, more_bytes): (u64, u64)) {
    (*reads, *bytes) = (reads.saturating_add(more), bytes.saturating_add(more_bytes));
}

impl ClosedFiles {
    /// Takes note of a file that was closed.
    pub(super) fn add(&self, reading: &Reading) {
        let traffic = reading.traffic.now();
        if traffic.1 == 0 {
            return;
        }
        let mut files = self.0.lock();
        if let Some(known) = files.get_mut(&reading.path) {
            return sum(known, traffic);
        }
        if files.len() >= REMEMBERED {
            let least = files.iter().min_by_key(|(_, (_, bytes))| *bytes).map(|(path, known)| (path.clone(), known.1));
            match least {
                Some((path, bytes)) if bytes < traffic.1 => _ = files.remove(&path),
                _ => return,
            }
        }
        files.insert(reading.path.clone(), traffic);
    }

    /// The `most` files of which most was read, what was read of those that are `open` included; paths are below `root`.
    pub(super) fn most(
        &self,
        open: impl Iterator<Item = (PathBuf, (u64, u64))>,
        root: &Path,
        most: usize,
    ) -> Vec<FileTraffic> {
        let mut files = self.0.lock().clone();
        for (path, traffic) in open {
            sum(files.entry(path).or_default(), traffic);
        }
        let mut files: Vec<_> = files.into_iter().filter(|(_, (_, bytes))| *bytes > 0).collect();
        files.sort_by(|(path, a), (other, b)| b.1.cmp(&a.1).then_with(|| path.cmp(other)));
        let shown = |(path, (reads, bytes)): (PathBuf, _)| FileTraffic { file: below(root, &path), reads, bytes };
        files.into_iter().take(most).map(shown).collect()
    }
}

/// How a file of the source is called.
pub(super) fn below(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}
