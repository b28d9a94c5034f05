//! The kernel's mount table: which mounts there are.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The type of our mounts in the mount table.
pub const FS_TYPE: &str = "fuse.bsfs";
const PATH: &str = "/proc/self/mountinfo";

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Device number, `major:minor`.
    pub(super) device: String,
    pub(super) mount_point: PathBuf,
    pub(super) fs_type: String,
    /// What is mounted, as the file system names it.
    pub(super) source: OsString,
}

impl Line {
    pub(super) fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }
}

/// The mount table as this process sees it; of mounts over each other the last is the one in use.
///
/// # Errors
/// [`Error::Io`] when `/proc` is not there.
pub(super) fn read() -> Result<Vec<Line>> {
    let text = std::fs::read(PATH).map_err(Error::io("read", PATH))?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse).collect())
}

/// The mount in use at exactly `mount_point`.
pub(super) fn find(mount_point: &Path) -> Result<Option<Line>> {
    Ok(read()?.into_iter().rev().find(|line| line.mount_point == mount_point))
}

/// `36 35 98:0 /root /mount/point options [optional ...] - type source options`.
fn parse(line: &[u8]) -> Option<Line> {
    let mut fields = line.split(|&b| b == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let mount_point = unescape(fields.nth(1)?);
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = String::from_utf8(rest.next()?.to_vec()).ok()?;
    let source = unescape(rest.next()?);
    Some(Line { device, mount_point: mount_point.into(), fs_type, source })
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'\\'
            && let Some((digits, after)) = tail.split_at_checked(3)
            && let Some(byte) = octal(digits)
        {
            bytes.push(byte);
            rest = after;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes)
}

fn octal(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0u8, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(digit - b'0'),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escapes() {
        let line =
            parse(b"36 35 0:51 / /mnt/a\\040b\\134c rw,nosuid shared:7 master:1 - fuse.bsfs /src\\011x rw,user_id=0");
        let expected = Line {
            device: "0:51".into(),
            mount_point: "/mnt/a b\\c".into(),
            fs_type: FS_TYPE.into(),
            source: "/src\tx".into(),
        };
        assert_eq!(line, Some(expected));
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescape(b"a\\9b\\04"), "a\\9b\\04");
        assert_eq!(unescape(b"\\777"), "\\777");
    }

    #[test]
    fn a_cut_line_is_nothing() {
        assert_eq!(parse(b"36 35 0:51 / /mnt rw - fuse.bsfs"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn this_system_has_a_root() {
        assert!(read().unwrap().iter().any(|line| line.mount_point == Path::new("/")));
    }
}
