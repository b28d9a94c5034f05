//! The first 64 bytes of a container.

use std::path::Path;

use super::wire::{Cursor, Put};
use super::{MAX_RAW_LEN, max_index_len};
use crate::error::{Error, Result};
use crate::format::checksum::checksum;

/// The first bytes of every container of ours.
pub const MAGIC: [u8; 8] = *b"\x89bsf\r\n\x1a\n";
/// Length of the header, bytes.
pub const HEADER_LEN: usize = 64;
/// The major version that is written, and the only one that is read.
pub const MAJOR: u16 = 1;
/// The minor version of what is written without bases; any is read.
pub const MINOR: u16 = 0;
/// The minor version of what is written with bases.
pub const MINOR_WITH_BASES: u16 = 1;
/// The minor version of what has an index longer than readers of versions 1.0 and 1.1 accept.
pub const MINOR_WITH_LONG_INDEX: u16 = 2;

const CHECKED_LEN: usize = HEADER_LEN - 8;
const FLAGS_REQUIRED: u32 = 0xffff;

/// A header whose checks have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Minor version.
    pub minor: u16,
    /// Flags.
    pub flags: u32,
    /// Length of the container, bytes.
    pub container_len: u64,
    /// Length of the original file, bytes.
    pub raw_len: u64,
    /// Offset of the index.
    pub index_offset: u64,
    /// Length of the index as it is stored.
    pub index_packed_len: u32,
    /// Length of the index inflated.
    pub index_raw_len: u32,
    /// XXH3 of the packed index.
    pub index_checksum: u64,
}

impl Header {
    /// The 64 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.put_u16(MAJOR);
        out.put_u16(self.minor);
        out.put_u32(self.flags);
        out.put_u64(self.container_len);
        out.put_u64(self.raw_len);
        out.put_u64(self.index_offset);
        out.put_u32(self.index_packed_len);
        out.put_u32(self.index_raw_len);
        out.put_u64(self.index_checksum);
        let check = checksum(&out);
        out.put_u64(check);
        out
    }

    /// Reads and checks a header; `file_len` is the length of the file it is from, `path` names it in errors.
    ///
    /// # Errors
    /// [`Error::NotAContainer`], [`Error::Truncated`], [`Error::Unsupported`], [`Error::Corrupt`] or
    /// [`Error::TooLarge`].
    pub fn parse(bytes: &[u8; HEADER_LEN], file_len: u64, path: &Path) -> Result<Self> {
        let corrupt = |detail: String| Error::corrupt(path, "header", detail);
        let mut cursor = Cursor::new(bytes);
        let mut read = || {
            Some((
                cursor.array::<8>()?,
                (cursor.u16()?, cursor.u16()?, cursor.u32()?),
                (cursor.u64()?, cursor.u64()?, cursor.u64()?),
                (cursor.u32()?, cursor.u32()?, cursor.u64()?),
                cursor.u64()?,
            ))
        };
        let Some((magic, (major, minor, flags), (container_len, raw_len, index_offset), index, check)) = read() else {
            return Err(corrupt("64 bytes expected".into()));
        };
        if magic != MAGIC {
            return Err(Error::NotAContainer { path: path.into(), found: magic.to_vec() });
        }
        let found = checksum(bytes.get(..CHECKED_LEN).unwrap_or_default());
        if found != check {
            return Err(corrupt(format!("checksum {check:#018x} expected, {found:#018x} found")));
        }
        if major != MAJOR {
            return Err(Error::Unsupported { path: path.into(), what: format!("container version {major}.{minor}") });
        }
        if flags & FLAGS_REQUIRED != 0 {
            let what = format!("container with required flags {:#x}", flags & FLAGS_REQUIRED);
            return Err(Error::Unsupported { path: path.into(), what });
        }
        if file_len < container_len {
            return Err(Error::Truncated { path: path.into(), expected: container_len, got: file_len });
        }
        if file_len > container_len {
            return Err(corrupt(format!("a container of {container_len} bytes in a file of {file_len}")));
        }
        let (index_packed_len, index_raw_len, index_checksum) = index;
        if index_offset < HEADER_LEN as u64
            || index_offset.checked_add(u64::from(index_packed_len)) != Some(container_len)
        {
            return Err(corrupt(format!(
                "an index of {index_packed_len} bytes at {index_offset} in a container of {container_len}"
            )));
        }
        let limit = max_index_len(container_len, u64::from(index_packed_len));
        if u64::from(index_raw_len) > limit {
            let what = "the length of the inflated index";
            return Err(Error::TooLarge { path: path.into(), what, limit, got: u64::from(index_raw_len) });
        }
        if raw_len > MAX_RAW_LEN {
            let what = "the length of the original file";
            return Err(Error::TooLarge { path: path.into(), what, limit: MAX_RAW_LEN, got: raw_len });
        }
        Ok(Self { minor, flags, container_len, raw_len, index_offset, index_packed_len, index_raw_len, index_checksum })
    }
}
