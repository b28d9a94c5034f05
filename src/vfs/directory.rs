//! Open directories, and what reading them gives.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::attr::{Attr, Item, Kind};
use super::tree::{Directory, Listing, Node};
use super::{Handle, Inode, Open, Vfs, refuse};
use crate::error::Result;

/// An open directory.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) node: Arc<Node>,
    pub(super) directory: Arc<Directory>,
    /// The names that are given out.
    listing: Mutex<Arc<Listing>>,
    /// They were read from the start before: a second read from there wants the present ones.
    begun: AtomicBool,
}

/// The names of an open directory at one moment.
#[derive(Debug)]
pub struct Moment {
    node: Arc<Node>,
    listing: Arc<Listing>,
}

impl Vfs {
    /// Opens a directory: the names are those of this moment, however long reading them takes.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the source cannot be listed.
    pub fn opendir(&self, inode: Inode) -> Result<Handle> {
        let (node, directory) = self.directory("list", inode)?;
        let listing = Mutex::new(self.current(&node, &directory, None)?);
        Ok(self.keep(Open::Directory(Arc::new(Names { node, directory, listing, begun: AtomicBool::new(false) }))))
    }

    /// Gives the items of an open directory from `offset` (0, or an item's `next`) to `take`, until it returns
    /// `false`, which refuses that item. `.` and `..` come first. From 0 for a second time they are those of that moment.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) for a handle that is no open directory, or when the source cannot be listed anew.
    pub fn readdir(&self, handle: Handle, offset: u64, take: impl FnMut(Item<'_>) -> bool) -> Result<()> {
        self.moment(handle, offset)?.items(offset, take);
        Ok(())
    }

    /// Like [`Vfs::readdir`], with the attributes of each item. Each item that is taken, `.` and `..` apart, counts
    /// one reference as [`Vfs::lookup`] does.
    ///
    /// # Errors
    /// The same.
    pub fn readdirplus(&self, handle: Handle, offset: u64, take: impl FnMut(Item<'_>, &Attr) -> bool) -> Result<()> {
        self.items_plus(&self.moment(handle, offset)?, offset, take);
        Ok(())
    }

    /// Whether reading an open directory from `offset` may have to wait for the source, because it begins anew there.
    #[must_use]
    pub fn is_rewound(&self, handle: Handle, offset: u64) -> bool {
        self.names(handle).is_ok_and(|names| offset == 0 && names.begun.load(Ordering::Relaxed))
    }

    /// The names of an open directory for a read from `offset`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) for a handle that is no open directory, or when the source cannot be listed anew.
    pub fn moment(&self, handle: Handle, offset: u64) -> Result<Moment> {
        let names = self.names(handle)?;
        if offset == 0 && names.begun.swap(true, Ordering::Relaxed) {
            let listing = self.current(&names.node, &names.directory, None)?;
            *names.listing.lock() = listing;
        }
        let listing = Arc::clone(&names.listing.lock());
        Ok(Moment { node: Arc::clone(&names.node), listing })
    }

    /// Like [`Moment::items`], with what is known of the attributes of each item. Each that is taken, `.` and `..` apart, counts
    /// one reference as [`Vfs::lookup`] does. Looks at nothing in the source: the attributes of a directory are those of its
    /// last look.
    pub fn items_plus(&self, moment: &Moment, offset: u64, mut take: impl FnMut(Item<'_>, &Attr) -> bool) {
        moment.each(offset, |item, node| {
            let Some(node) = node else {
                // The kernel ignores the attributes of `.` and `..`.
                return take(item, &self.attr_known(&moment.node));
            };
            let taken = take(item, &self.attr_known(node));
            if taken {
                self.table.lock().remember(node);
            }
            taken
        });
    }

    fn names(&self, handle: Handle) -> Result<Arc<Names>> {
        match self.handles.read().get(&handle) {
            Some(Open::Directory(names)) => Ok(Arc::clone(names)),
            _ => Err(refuse("list", &self.config.source, Errno::BADF)),
        }
    }
}

impl Moment {
    /// Gives the items from `offset` (0, or an item's `next`) to `take`, until it returns `false`, which refuses that item. `.` and
    /// `..` come first.
    pub fn items(&self, offset: u64, mut take: impl FnMut(Item<'_>) -> bool) {
        self.each(offset, |item, _| take(item));
    }

    fn each(&self, offset: u64, mut take: impl FnMut(Item<'_>, Option<&Arc<Node>>) -> bool) {
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
