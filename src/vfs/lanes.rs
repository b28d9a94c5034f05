//! What requests are about: what they may have to wait for, and where that is in the source.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::fs::Vfs;
use super::handles::Open;
use super::ids::{Handle, Inode};
use super::traffic;
use super::tree::{Body, Node};
use crate::engine::Lane;

impl Vfs {
    /// What a request for a name may have to wait for.
    #[must_use]
    pub fn lane_of_name(&self, parent: Inode, name: &OsStr) -> Lane {
        let node = self.table.lock().get(parent);
        let listed = |node: &Node| {
            let Body::Directory(directory) = &node.body else { return None };
            directory.listing()?.find(name).map(|entry| entry.node.lane())
        };
        // A file system that is mounted there, or that a link leads to, may hang while that of the directory does not.
        node.map_or(Lane { source: 0, file: parent.0 }, |node| listed(&node).unwrap_or_else(|| node.lane()))
    }

    /// What a request for an inode may have to wait for.
    #[must_use]
    pub fn lane(&self, inode: Inode) -> Lane {
        self.table.lock().get(inode).map_or(Lane { source: 0, file: inode.0 }, |node| node.lane())
    }

    /// The same for an open file or directory.
    #[must_use]
    pub fn lane_of_handle(&self, handle: Handle) -> Lane {
        match self.handles.get(handle) {
            Some(Open::File(reading)) => reading.lane,
            Some(Open::Directory(names)) => names.node.lane(),
            None => Lane { source: 0, file: handle.0 },
        }
    }

    /// How the file of a handle is called in the source, below its root; empty for one that is closed.
    #[must_use]
    pub fn name_of(&self, handle: Handle) -> String {
        self.path_of_handle(handle).map_or_else(String::new, |path| traffic::below(&self.config.source, &path))
    }

    /// Where an open file or directory is in the source.
    #[must_use]
    pub fn path_of_handle(&self, handle: Handle) -> Option<PathBuf> {
        match self.handles.get(handle)? {
            Open::File(reading) => Some(reading.path.clone()),
            Open::Directory(names) => Some(names.directory.place.path.clone()),
        }
    }

    /// Where what an inode stands for is in the source.
    #[must_use]
    pub fn path(&self, inode: Inode) -> Option<PathBuf> {
        match &self.table.lock().get(inode)?.body {
            Body::Directory(directory) => Some(directory.place.path.clone()),
            Body::File(file) => Some(file.path.clone()),
            Body::Link(_) => None,
        }
    }
}
