//! Numbers by which requests name inodes, open files and open directories.

/// Number of an inode. Of two things one number may only be that of the same version of the same file, and is so in every mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inode(pub u64);

impl Inode {
    /// The directory that the mount point shows.
    pub const ROOT: Self = Self(1);
}

/// Number of an open file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);
