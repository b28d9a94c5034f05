//! Numbers of inodes: the same for the same version of a file in every mount, so that programs which know files by their
//! numbers find them unchanged.

use std::os::unix::ffi::OsStrExt;

use super::class::{Class, Found};
use super::ids::Inode;
use crate::source::Identity;

/// The half of all numbers that is the tree's; the other belongs to the hidden directory of a mount.
const TREE: u64 = (1 << 63) - 1;

/// A digest of all that makes a name another inode when it changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Key([u8; 16]);

struct Hasher {
    hasher: blake3::Hasher,
    /// The device of the directory above. It may have another number after the next start of the machine, so that of what is
    /// on it as well does not count.
    home: Option<u64>,
}

impl Hasher {
    fn number(&mut self, number: u64) {
        self.hasher.update(&number.to_le_bytes());
    }

    fn file(&mut self, (dev, ino): (u64, u64)) {
        self.number(if Some(dev) == self.home { 0 } else { dev });
        self.number(ino);
    }

    fn version(&mut self, version: Identity) {
        self.file((version.dev, version.ino));
        self.number(version.len);
        for part in [version.mtime.0, version.mtime.1, version.ctime.0, version.ctime.1] {
            self.number(part.cast_unsigned());
        }
    }
}

impl Key {
    /// That of a name that was found in a directory, which is on the device `home`.
    pub(super) fn of(parent: Inode, home: Option<u64>, found: &Found) -> Self {
        let mut hasher = Hasher { hasher: blake3::Hasher::new(), home };
        hasher.number(parent.0);
        let name = found.source.as_bytes();
        hasher.number(name.len() as u64);
        hasher.hasher.update(name);
        hasher.number(found.decoded.into());
        if let Some(access) = found.access {
            for part in [access.uid, access.gid, access.mode.into()] {
                hasher.number(part.into());
            }
        }
        match &found.class {
            Class::Directory(stamp) => {
                hasher.number(1);
                hasher.file(stamp.id);
            }
            Class::Plain(version) => {
                hasher.number(2);
                hasher.version(*version);
            }
            Class::Container(opened) => {
                hasher.number(3);
                hasher.version(opened.identity);
                opened.index.iter().for_each(|index| hasher.version(*index));
            }
            Class::Generated(generated) => {
                hasher.number(4);
                generated.rests_on().for_each(|version| hasher.version(version));
            }
            Class::Link(link) => {
                hasher.number(5);
                let shown = link.shown(found.decoded);
                hasher.version(shown.version());
                hasher.hasher.update(shown.shown().as_os_str().as_bytes());
            }
        }
        let mut key = [0; 16];
        hasher.hasher.finalize_xof().fill(&mut key);
        Self(key)
    }

    /// Number and generation. When another has the number, `taken` is what tells this mount from others, and how often that
    /// happened.
    pub(super) fn number(&self, taken: Option<(u64, u64)>) -> (Inode, u32) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        if let Some((salt, turn)) = taken {
            hasher.update(&salt.to_le_bytes()).update(&turn.to_le_bytes());
        }
        let (mut number, mut generation, mut reader) = ([0; 8], [0; 4], hasher.finalize_xof());
        reader.fill(&mut number);
        reader.fill(&mut generation);
        // 0 is none, and 1 the root.
        let number = (u64::from_le_bytes(number) & TREE).max(Inode::ROOT.0 + 1);
        (Inode(number), u32::from_le_bytes(generation))
    }
}
