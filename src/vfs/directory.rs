//! Open directories, and what reading them gives.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::attr::{Item, Kind};
use super::tree::{Directory, Listing, Node};

/// An open directory.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) node: Arc<Node>,
    pub(super) directory: Arc<Directory>,
    /// The names that are given out.
    pub(super) listing: Mutex<Arc<Listing>>,
    /// They were read from the start before: a second read from there wants the present ones.
    pub(super) begun: AtomicBool,
}

/// The names of an open directory at one moment.
#[derive(Debug)]
pub struct Moment {
    pub(super) node: Arc<Node>,
    pub(super) listing: Arc<Listing>,
}

impl Moment {
    /// Gives the items from `offset` (0, or an item's `next`) to `take`, until it returns `false`, which refuses that item. `.` and
    /// `..` come first.
    pub fn items(&self, offset: u64, mut take: impl FnMut(Item<'_>) -> bool) {
        self.each(offset, |item, _| take(item));
    }

    pub(super) fn each(&self, offset: u64, mut take: impl FnMut(Item<'_>, Option<&Arc<Node>>) -> bool) {
        let mut position = offset;
        loop {
            let next = position.saturating_add(1);
            let item = |name, inode, kind| Item { name, inode, kind, next };
            let taken = match position {
                0 => take(item(OsStr::new("."), self.node.inode, Kind::Directory), None),
                1 => take(item(OsStr::new(".."), self.node.parent, Kind::Directory), None),
                n => {
                    let Some(entry) = usize::try_from(n - 2).ok().and_then(|n| self.listing.entry(n)) else { return };
                    take(item(&entry.name, entry.node.inode, entry.node.kind()), Some(&entry.node))
                }
            };
            if !taken {
                return;
            }
            position = next;
        }
    }
}
