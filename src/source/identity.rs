//! What tells one version of a file of this machine from others.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

/// What tells one version of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device number.
    pub dev: u64,
    /// Inode number on the device.
    pub ino: u64,
    /// Length in bytes.
    pub len: u64,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub mtime: (i64, i64),
    /// Time of the last change of the inode; unlike mtime it cannot be set back.
    pub ctime: (i64, i64),
}

impl Identity {
    /// Whether both are versions of one file, by device and inode number.
    #[must_use]
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }

    /// The identity that `stat` gives.
    #[must_use]
    pub fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            len: meta.len(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether an inode that is held open still has the contents that it had.
    pub(super) fn has_contents_of(&self, earlier: &Self) -> bool {
        // The inode's own change time moves when a link is made or removed; the contents do not.
        Self { ctime: earlier.ctime, ..*self } == *earlier
    }
}

/// What tells an inode from a later one with the same number, which a file system may give away once nothing holds the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) identity: Identity,
    /// When it was made, where the file system says.
    born: Option<SystemTime>,
}

impl Seen {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self { identity: Identity::of(meta), born: meta.created().ok() }
    }

    /// Whether this is the file that was `earlier`, not held open since, with the contents that it had.
    pub(super) fn is_again(&self, earlier: &Self) -> bool {
        let is_inode = match (self.born, earlier.born) {
            (Some(now), Some(then)) => now == then,
            // A user can set neither; without the first a new link is as good as a new file.
            _ => self.identity.ctime == earlier.identity.ctime,
        };
        is_inode && self.identity.has_contents_of(&earlier.identity)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn where_no_birth_time_is_told_only_an_equal_change_time_proves_that_an_inode_is_the_same() {
        let identity = Identity { dev: 1, ino: 2, len: 3, mtime: (4, 5), ctime: (6, 7) };
        let seen = Seen { identity, born: None };
        let later = Seen { identity: Identity { ctime: (6, 8), ..identity }, born: None };
        let born =
            |seen: Seen, second| Seen { born: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(second)), ..seen };
        let changed = Identity { mtime: (4, 6), ..identity };
        for (now, earlier, same) in [
            (seen, seen, true),
            (later, seen, false),
            (born(later, 1), seen, false),
            (born(later, 1), born(seen, 1), true),
            (born(seen, 2), born(seen, 1), false),
            (born(Seen { identity: changed, ..seen }, 1), born(seen, 1), false),
        ] {
            assert_eq!(now.is_again(&earlier), same, "{now:?} {earlier:?}");
        }
    }
}
