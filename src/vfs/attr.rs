//! What `stat` says of a presented file or directory.
//!
//! Owner, group and mode are those of the source ([`Access`](crate::access::Access)): of the container for a file that is
//! decoded, of what a link leads to for one that is followed. The kernel's own check (`default_permissions`) then lets those read whom
//! the source lets read, also where the daemon, which reads as the mounting user, could read more and the mount is open
//! to all. Permission to write is shown as well, so that copies can be changed and removed; the mount itself is read-only.
//! Where the source knows no users, all belongs to the mounting user and everyone whom the mount lets in may read.

use std::ffi::OsStr;

use rustix::fs::StatVfs;

use super::ids::Inode;

/// Preferred size of a read, bytes. A power of two: some readers align with it as a mask.
pub const BLOCK_SIZE: u32 = 4096;
/// The unit of `st_blocks`, bytes.
const SECTOR: u64 = 512;
/// The longest name, bytes; the limit of every Linux file system that a source can be on.
const NAME_MAX: u32 = 255;

/// Seconds since 1970 (negative before) and nanoseconds (0 to 999,999,999).
pub type Time = (i64, u32);

/// What an inode is. Links are followed in the source, unless what they lead to is shown in the same tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// Attributes of one inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Its number.
    pub inode: Inode,
    /// Tells it from others that had the number, in this mount or another.
    pub generation: u32,
    /// File, directory or link.
    pub kind: Kind,
    /// Exact size in bytes, known before anything is decoded; 0 for directories, that of the text for links.
    pub size: u64,
    /// Modification time: of the original for a container, of the source for everything else.
    pub mtime: Time,
    /// Change time of the source.
    pub ctime: Time,
    /// Permission bits; 0o777 for links.
    pub mode: u16,
    /// Number of hard links: 1 for files, 2 for directories.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Attr {
    /// Size in units of 512 bytes, for `du`: the presented bytes, not the packed ones.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(SECTOR)
    }
}

/// One name of a directory.
#[derive(Debug)]
pub struct Item<'a> {
    /// The presented name; any bytes but `/` and NUL.
    pub name: &'a OsStr,
    /// Its inode.
    pub inode: Inode,
    /// File or directory.
    pub kind: Kind,
    /// The offset from which reading goes on after this item.
    pub next: u64,
}

/// Figures of the file system, for `statfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsFigures {
    /// Size of the file system that holds the source, in units of `fragment`.
    pub blocks: u64,
    /// Free units.
    pub free: u64,
    /// Free units for users without privilege.
    pub available: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Preferred transfer size, bytes; never 0.
    pub block: u32,
    /// Unit of the counts, bytes; never 0.
    pub fragment: u32,
    /// The longest name, bytes.
    pub name_max: u32,
}

impl FsFigures {
    /// The figures of the source's file system; readers look at the units and at names, nobody can write here.
    pub(super) fn of(found: Option<StatVfs>) -> Self {
        let unit = |bytes: u64| u32::try_from(bytes).ok().filter(|&b| b > 0).unwrap_or(BLOCK_SIZE);
        match found {
            Some(v) => Self {
                blocks: v.f_blocks,
                free: v.f_bfree,
                available: v.f_bavail,
                files: v.f_files,
                files_free: v.f_ffree,
                block: unit(v.f_bsize),
                fragment: unit(v.f_frsize),
                name_max: NAME_MAX,
            },
            // The source is gone or does not answer; open files are served on, so this answers too.
            None => Self {
                blocks: 1,
                free: 0,
                available: 0,
                files: 1,
                files_free: 0,
                block: BLOCK_SIZE,
                fragment: BLOCK_SIZE,
                name_max: NAME_MAX,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_count_the_last_partial_sector() {
        let attr = |size| Attr {
            inode: Inode::ROOT,
            generation: 0,
            kind: Kind::File,
            size,
            mtime: (0, 0),
            ctime: (0, 0),
            mode: 0o444,
            links: 1,
            uid: 0,
            gid: 0,
        };
        assert_eq!([0, 1, 512, 513].map(|n| attr(n).blocks()), [0, 1, 1, 2]);
    }

    #[test]
    fn figures_are_usable_when_the_source_is_gone() {
        let figures = FsFigures::of(None);
        assert!(figures.block > 0 && figures.fragment > 0);
    }
}
