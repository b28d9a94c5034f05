//! Reading open directories.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::attr::{Attr, Item};
use super::directory::{Moment, Names};
use super::fs::{Vfs, refuse};
use super::handles::Open;
use super::ids::{Handle, Inode};
use crate::error::Result;

impl Vfs {
    /// Opens a directory: the names are those of this moment, however long reading them takes.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the source cannot be listed.
    pub fn opendir(&self, inode: Inode) -> Result<Handle> {
        let (node, directory) = self.directory("list", inode)?;
        let listing = Mutex::new(self.current(&node, &directory, None)?);
        let names = Names { node, directory, listing, begun: AtomicBool::new(false) };
        Ok(self.handles.insert(Open::Directory(Arc::new(names))))
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
        self.handles.directory(handle).ok_or_else(|| refuse("list", &self.config.source, Errno::BADF))
    }
}
