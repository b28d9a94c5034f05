//! `--warm`: every file of the tree into the disk cache, one after the other, while nobody waits.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use log::{info, warn};
use serde::{Deserialize, Serialize};

use crate::vfs::{Inode, Kind, Vfs};

/// How far warming is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warming {
    /// Compressed files looked at.
    pub files: u64,
    /// Of these, files that are whole and proven in the cache.
    pub files_kept: u64,
    /// Bytes decoded for the cache.
    pub bytes: u64,
    /// All files were looked at.
    pub finished: bool,
}

/// The counters of a thread that warms.
#[derive(Debug, Default)]
pub(super) struct Progress {
    files: AtomicU64,
    kept: AtomicU64,
    bytes: AtomicU64,
    finished: AtomicBool,
    pub(super) stop: AtomicBool,
}

impl Progress {
    pub(super) fn now(&self) -> Warming {
        Warming {
            files: self.files.load(Ordering::Relaxed),
            files_kept: self.kept.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            finished: self.finished.load(Ordering::Relaxed),
        }
    }
}

/// Warms all of a tree. Ends early when `progress.stop` says so.
pub(super) fn warm(vfs: &Arc<Vfs>, progress: &Progress) {
    crate::engine::be_nice();
    let mut directories = vec![Inode::ROOT];
    while let Some(directory) = directories.pop() {
        for name in names(vfs, directory) {
            if progress.stop.load(Ordering::Relaxed) {
                return;
            }
            // Each is found, and so referred to, until it is done with.
            let Ok(Some(attr)) = vfs.lookup(directory, &name) else { continue };
            match attr.kind {
                Kind::Directory => directories.push(attr.inode),
                Kind::Symlink => vfs.forget(attr.inode, 1),
                Kind::File => {
                    file(vfs, attr.inode, progress);
                    vfs.forget(attr.inode, 1);
                }
            }
        }
        vfs.forget(directory, 1);
    }
    progress.finished.store(true, Ordering::Relaxed);
    let Warming { files, files_kept, bytes, .. } = progress.now();
    info!("warmed: {files_kept} of {files} files are in the disk cache, {bytes} bytes were decoded for it");
}

fn names(vfs: &Vfs, directory: Inode) -> Vec<OsString> {
    let mut names = Vec::new();
    let listed = vfs.opendir(directory).and_then(|handle| {
        // `.` and `..` come first.
        let listed = vfs.readdir(handle, 2, |item| {
            names.push(item.name.to_owned());
            true
        });
        vfs.release(handle);
        listed
    });
    if let Err(error) = listed {
        warn!("not warmed: {error}");
    }
    names
}

fn file(vfs: &Vfs, inode: Inode, progress: &Progress) {
    let Ok(handle) = vfs.open(inode) else { return };
    let stop = || progress.stop.load(Ordering::Relaxed);
    let done = |bytes| {
        progress.bytes.fetch_add(bytes, Ordering::Relaxed);
    };
    match vfs.keep_on_disk(handle, &stop, &done) {
        Ok(None) => {}
        Ok(Some(kept)) => {
            progress.files.fetch_add(1, Ordering::Relaxed);
            progress.kept.fetch_add(u64::from(kept), Ordering::Relaxed);
        }
        Err(error) => {
            progress.files.fetch_add(1, Ordering::Relaxed);
            warn!("not warmed: {error}");
        }
    }
    vfs.release(handle);
}
