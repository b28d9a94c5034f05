//! Files that the kernel reads by itself: those that are whole and proven in the disk cache.
//!
//! An inode is in one mode at a time for the kernel: while it is open or mapped in the one, opening it in the other fails. So the
//! first open decides, and all others follow until the last is closed.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fuser::{BackingId, FileHandle, FopenFlags, INodeNo, ReplyOpen};
use log::{info, warn};
use parking_lot::Mutex;
use rustix::io::Errno;

use super::rights::Rights;

/// How an inode is open.
struct Mode {
    opens: u64,
    backing: Option<Arc<BackingId>>,
}

/// The modes of all open files of a mount.
#[derive(Default)]
pub(super) struct Passthrough {
    /// The kernel offers it, and has not refused it.
    able: AtomicBool,
    modes: Mutex<HashMap<INodeNo, Mode>>,
    /// Opens that the kernel serves by itself.
    opened: AtomicU64,
}

impl Passthrough {
    /// The kernel offers it, to those who may.
    pub(super) fn offered(&self) {
        self.able.store(Rights::of_this_process().passthrough, Ordering::Relaxed);
    }

    /// Whether it works, as far as is known.
    pub(super) fn works(&self) -> bool {
        self.able.load(Ordering::Relaxed)
    }

    /// Opens so far that the kernel serves by itself.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Answers an open, `direct` if it is one with O_DIRECT; `sealed` gives the file to be read, if there is one.
    pub(super) fn open(
        &self,
        ino: INodeNo,
        handle: FileHandle,
        direct: bool,
        sealed: impl FnOnce() -> Option<File>,
        reply: ReplyOpen,
    ) {
        let lock = || self.modes.lock();
        // Whether a file is sealed is asked of the disk: not while others wait to open and close theirs.
        let undecided = self.works() && !lock().contains_key(&ino);
        let file = if undecided { sealed() } else { None };
        let mut modes = lock();
        let mode = modes
            .entry(ino)
            .or_insert_with(|| Mode { opens: 0, backing: file.and_then(|file| self.back(&file, &reply)) });
        mode.opens += 1;
        let backing = mode.backing.clone();
        drop(modes);
        match backing {
            Some(backing) => {
                self.opened.fetch_add(1, Ordering::Relaxed);
                // The file system of the cache takes direct reads of whole sectors only; a mount takes any. So these still come
                // here, and mappings go to the file all the same.
                let flags = if direct { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() };
                reply.opened_passthrough(handle, flags, &backing);
            }
            // The pages of an inode stay right for ever. Direct I/O would forbid shared mappings.
            None => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
        }
    }

    fn back(&self, file: &File, reply: &ReplyOpen) -> Option<Arc<BackingId>> {
        match reply.open_backing(file) {
            Ok(id) => Some(Arc::new(id)),
            Err(e) => {
                self.able.store(false, Ordering::Relaxed);
                if Errno::from_io_error(&e) == Some(Errno::PERM) {
                    info!("without CAP_SYS_ADMIN files of the disk cache are served by this process");
                } else {
                    warn!("the kernel cannot read the disk cache's files by itself ({e}); this process serves them");
                }
                None
            }
        }
    }

    /// A file was closed.
    pub(super) fn release(&self, ino: INodeNo) {
        let mut modes = self.modes.lock();
        let Some(mode) = modes.get_mut(&ino) else { return };
        mode.opens -= 1;
        let closed = if mode.opens == 0 { modes.remove(&ino) } else { None };
        drop(modes);
        // Giving an id back to the kernel takes a system call.
        drop(closed);
    }
}
