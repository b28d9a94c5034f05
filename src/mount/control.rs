//! A hidden directory in every mount, `.bsfs`, that is looked at without this program: what `status` says, the same for Prometheus,
//! and the end of the log. It is not listed, so nothing that walks or copies a mount meets it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::exposition::metrics;
use super::logfile::LogFile;
use super::metrics::Ask;
use crate::escape;
use crate::vfs::{Attr, Inode, Kind};

/// Its name in the root of the mount.
pub const CONTROL: &str = ".bsfs";
/// From here on inodes and handles are those of this directory; the tree's are smaller.
const FIRST: u64 = 1 << 63;
/// Its files, in the order of their inodes, which follow that of the directory.
pub(super) const FILES: [&str; 3] = ["stats.json", "metrics.prom", "log"];
/// The one that tells no names of files, so that all whom the mount lets in may read it. The others tell what is in directories that not all
/// may list.
const NAMELESS: &str = "metrics.prom";
/// Bytes of the log that are shown.
const TAIL: u64 = 64 << 10;

/// The directory and its open files.
pub(super) struct Control {
    ask: Ask,
    log: Option<LogFile>,
    /// What open files show: as it was when they were opened.
    open: Mutex<HashMap<u64, Vec<u8>>>,
    next: AtomicU64,
}

/// What an inode of this directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Directory,
    File(usize),
}

impl Control {
    pub(super) fn new(ask: Ask, log: Option<LogFile>) -> Self {
        Self { ask, log, open: Mutex::default(), next: AtomicU64::new(FIRST) }
    }

    /// Whether a number is a handle of this directory.
    pub(super) fn has_handle(handle: u64) -> bool {
        handle >= FIRST
    }

    /// What an inode is, if it is one of this directory.
    pub(super) fn what(inode: u64) -> Option<What> {
        let at = usize::try_from(inode.checked_sub(FIRST)?).ok()?;
        if at == 0 { Some(What::Directory) } else { (at <= FILES.len()).then(|| What::File(at - 1)) }
    }

    /// What a name is; `None` when it is looked for elsewhere.
    pub(super) fn find(parent: u64, name: &OsStr) -> Option<Option<What>> {
        if parent == Inode::ROOT.0 {
            return (name == CONTROL).then_some(Some(What::Directory));
        }
        Self::what(parent).map(|_| FILES.iter().position(|file| name == *file).map(What::File))
    }

    pub(super) fn inode(what: What) -> Inode {
        Inode(match what {
            What::Directory => FIRST,
            What::File(at) => FIRST + 1 + at as u64,
        })
    }

    pub(super) fn attr(&self, what: What) -> Attr {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = (i64::try_from(now.as_secs()).unwrap_or(0), now.subsec_nanos());
        let (kind, size, mode, links) = match what {
            What::Directory => (Kind::Directory, 0, 0o755, 2),
            What::File(at) => {
                let mode = if FILES.get(at) == Some(&NAMELESS) { 0o644 } else { 0o600 };
                (Kind::File, self.content(at).len() as u64, mode, 1)
            }
        };
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Attr { inode: Self::inode(what), generation: 0, kind, size, mtime: time, ctime: time, mode, links, uid, gid }
    }

    /// Opens a file; gives its handle.
    pub(super) fn open(&self, at: usize) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(handle, self.content(at));
        handle
    }

    /// Gives bytes of an open file to `take`.
    pub(super) fn read(&self, handle: u64, offset: u64, size: u32, take: impl FnOnce(&[u8])) {
        let open = self.open.lock();
        let rest = open.get(&handle).and_then(|text| text.get(usize::try_from(offset).ok()?..)).unwrap_or_default();
        take(rest.get(..size as usize).unwrap_or(rest));
    }

    pub(super) fn release(&self, handle: u64) {
        self.open.lock().remove(&handle);
    }

    fn content(&self, at: usize) -> Vec<u8> {
        match FILES.get(at) {
            Some(&"stats.json") => {
                let text = serde_json::to_string_pretty(&(self.ask)()).unwrap_or_default();
                (escape::json(&text) + "\n").into_owned().into_bytes()
            }
            Some(&"metrics.prom") => metrics(&(self.ask)()).into_bytes(),
            _ => self.log.as_ref().map(|log| log.with(tail)).unwrap_or_default(),
        }
    }
}

/// The last lines of a file.
fn tail(file: &File) -> Vec<u8> {
    let len = file.metadata().map_or(0, |meta| meta.len());
    let start = len.saturating_sub(TAIL);
    let mut text = vec![0; (len - start) as usize];
    let mut got = 0;
    while let Some(rest) = text.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, start + got as u64) {
            Ok(n) if n > 0 => got += n,
            _ => break,
        }
    }
    text.truncate(got);
    let cut = if start > 0 { text.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1) } else { 0 };
    text.split_off(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_begins_with_a_line() {
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        for n in 0..20_000 {
            writeln!(file, "line {n}").unwrap();
        }
        let text = String::from_utf8(tail(&file)).unwrap();
        assert!(text.len() as u64 <= TAIL && text.starts_with("line 1") && text.ends_with("line 19999\n"));
    }

    #[test]
    fn names_are_found_here_and_nowhere_else() {
        let of = |parent, name: &str| Control::find(parent, OsStr::new(name));
        assert_eq!(of(1, ".bsfs"), Some(Some(What::Directory)));
        assert_eq!(of(1, "log"), None);
        assert_eq!(of(7, ".bsfs"), None);
        assert_eq!(of(FIRST, "log"), Some(Some(What::File(2))));
        assert_eq!(of(FIRST, "other"), Some(None));
        assert_eq!((Control::what(FIRST + 4), Control::what(5)), (None, None));
    }
}
