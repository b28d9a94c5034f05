//! What a source says of a path.

use std::io;
use std::os::unix::fs::MetadataExt;

use super::identity::Identity;
use crate::access::{Access, Acl};

/// Seconds since 1970 and nanoseconds.
pub type Timestamp = (i64, i64);

/// What a path is, links followed where they may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stat {
    /// A directory: the numbers that tell it from others, and when its names changed last.
    Directory {
        /// Device and inode number.
        id: (u64, u64),
        /// Modification time.
        mtime: Timestamp,
        /// Change time.
        ctime: Timestamp,
        /// Who may list it; `None` in a tree that does not know users.
        access: Option<Access>,
    },
    /// A regular file, in this version, and who may read it; `None` in a tree that does not know users.
    File(Identity, Option<Access>),
    /// A link that was not followed, because none are or because of where it leads, in this version.
    Link(Identity),
    /// Anything else.
    Other,
}

impl Stat {
    /// `acl` reads the access control list of what `meta` is of, `directories` are those that it was reached through.
    pub(super) fn of(
        meta: &std::fs::Metadata,
        acl: impl FnOnce() -> io::Result<Option<Acl>>,
        directories: &[Access],
    ) -> Self {
        let access = || directories.iter().fold(Access::of(meta, acl), |access, directory| access.within(*directory));
        if meta.is_dir() {
            Self::Directory {
                id: (meta.dev(), meta.ino()),
                mtime: (meta.mtime(), meta.mtime_nsec()),
                ctime: (meta.ctime(), meta.ctime_nsec()),
                access: Some(access()),
            }
        } else if meta.is_file() {
            Self::File(Identity::of(meta), Some(access()))
        } else if meta.is_symlink() {
            Self::Link(Identity::of(meta))
        } else {
            Self::Other
        }
    }
}
