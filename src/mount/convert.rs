//! Our words in those of fuser.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileHandle, FileType, Generation, INodeNo};

use crate::vfs::{Attr, BLOCK_SIZE, Handle, Inode, Kind, Time};

pub(super) fn inode(number: INodeNo) -> Inode {
    Inode(number.0)
}

pub(super) fn handle(number: FileHandle) -> Handle {
    Handle(number.0)
}

pub(super) fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
    }
}

fn time((seconds, nanos): Time) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let moment = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    moment.and_then(|m| m.checked_add(Duration::from_nanos(nanos.into()))).unwrap_or(UNIX_EPOCH)
}

pub(super) fn generation(attr: &Attr) -> Generation {
    Generation(attr.generation.into())
}

pub(super) fn attributes(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.inode.0),
        size: attr.size,
        blocks: attr.blocks(),
        atime: time(attr.mtime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(attr.kind),
        perm: attr.mode,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// An entry that tells the kernel to remember that a name does not exist.
pub(super) fn absent() -> FileAttr {
    let nothing = Attr {
        inode: Inode(0),
        generation: 0,
        kind: Kind::File,
        size: 0,
        mtime: (0, 0),
        ctime: (0, 0),
        mode: 0,
        links: 0,
        uid: 0,
        gid: 0,
    };
    attributes(&nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_and_absurd_ones_do_not_panic() {
        assert_eq!(time((-1, 500_000_000)), UNIX_EPOCH - Duration::from_millis(500));
        assert_eq!(time((1, 5)), UNIX_EPOCH + Duration::new(1, 5));
        let _ = time((i64::MIN, 999_999_999));
        let _ = time((i64::MAX, 999_999_999));
    }
}
