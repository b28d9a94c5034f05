//! Who may read a file: owner, group and permission bits, and the POSIX access control list behind them.
//!
//! A mount shows an owner, a group and nine bits, and the kernel compares every reader with these. So the bits are never wider than
//! what the source itself allows: not than its access control list ([`Acl::mode`]), and for a file that is reached through a
//! link not than the directories that the link leads through ([`Access::within`]).

mod acl;
mod attributes;
mod xattr;

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;

pub use acl::Acl;
pub use attributes::Attributes;

/// Permission to read, as a bit of one class.
const READ: u16 = 0o4;
/// Permission to search a directory, as a bit of one class.
const SEARCH: u16 = 0o1;
/// The bits of all classes that grant [`READ`].
const READ_BITS: u16 = 0o444;

/// Owner, group and permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits, 0 to 0o777.
    pub mode: u16,
}

impl Access {
    /// What `stat` says, no wider than the access control list. With a list that cannot be read the bits of group and others are 0.
    #[must_use]
    pub fn of(meta: &Metadata, acl: impl FnOnce() -> io::Result<Option<Acl>>) -> Self {
        let bits = u16::try_from(meta.mode() & 0o777).unwrap_or(0);
        let (uid, gid) = (meta.uid(), meta.gid());
        // A list of which nobody but the owner has anything grants these bits to no one else either.
        let mode = match if bits & 0o077 == 0 { Ok(None) } else { acl() } {
            Ok(None) => bits,
            Ok(Some(acl)) => acl.mode(uid, gid),
            Err(_) => bits & 0o700,
        };
        Self { uid, gid, mode }
    }

    /// The same without the classes of users that may lack search permission for `directory`.
    #[must_use]
    pub fn within(self, directory: Self) -> Self {
        Self { mode: self.mode & self.classes_with(directory, SEARCH), ..self }
    }

    /// Whether all who may read `other` may read this.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        other.mode & READ_BITS & !other.classes_with(self, READ) == 0
    }

    /// The classes of this file's users, as a mask of its mode, all of whose members have `permission` by `by`. Membership of a user in a group
    /// is not known here, so a class of users that may fall into two classes of `by` needs the permission in both.
    fn classes_with(self, by: Self, permission: u16) -> u16 {
        let [owner, group, others] = [6, 3, 0].map(|shift| by.mode & (permission << shift) != 0);
        let same_group = self.gid == by.gid;
        let classes = [
            // Root needs no permission.
            (
                0o700,
                if self.uid == 0 {
                    true
                } else if self.uid == by.uid {
                    owner
                } else {
                    group && others
                },
            ),
            (0o070, if same_group { group } else { group && others }),
            (0o007, if same_group { others } else { group && others }),
        ];
        classes.iter().filter(|(_, all)| *all).fold(0, |mask, (class, _)| mask | class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(uid: u32, gid: u32, mode: u16) -> Access {
        Access { uid, gid, mode }
    }

    #[test]
    fn a_directory_takes_away_the_classes_that_cannot_search_it() {
        let file = access(1, 10, 0o644);
        for (directory, mode) in [
            (access(1, 10, 0o755), 0o644),
            (access(1, 10, 0o700), 0o600),
            (access(1, 10, 0o750), 0o640),
            // A group that is not the file's: whether the file's group is in it is not known.
            (access(1, 11, 0o750), 0o600),
            (access(2, 10, 0o700), 0o000),
            (access(2, 10, 0o711), 0o644),
            (access(0, 10, 0o710), 0o040),
            (access(0, 0, 0o755), 0o644),
        ] {
            assert_eq!(file.within(directory).mode, mode, "{directory:?}");
        }
        assert_eq!(access(0, 0, 0o600).within(access(2, 2, 0o700)).mode, 0o600, "root is not kept out");
    }

    #[test]
    fn a_base_is_readable_by_all_who_may_read_what_refers_to_it() {
        let open = access(1, 10, 0o644);
        assert!(access(0, 0, 0o644).covers(open) && access(1, 10, 0o644).covers(open));
        assert!(!access(1, 10, 0o640).covers(open) && !access(1, 11, 0o640).covers(access(1, 10, 0o640)));
        assert!(access(1, 10, 0o640).covers(access(1, 10, 0o640)) && access(1, 11, 0o600).covers(access(1, 10, 0o600)));
        assert!(!access(2, 10, 0o600).covers(access(1, 10, 0o600)) && access(2, 2, 0o600).covers(access(0, 0, 0o600)));
    }
}
