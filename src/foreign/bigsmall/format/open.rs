//! Opens a container: its header, read and checked.

use super::container::Container;
use super::json::finite;
use super::{MAGIC, MAX_HEADER, PREFIX_LEN, parse};
use crate::error::{Error, Result};
use crate::source::ReadAt;

/// First bytes of the package's "dual" containers, which this crate does not read.
const DUAL_MAGIC: &[u8] = b"BGSD";

impl Container {
    /// Reads the header of a container and checks it, in two reads.
    ///
    /// # Errors
    /// [`Error::NotAContainer`] for another file; [`Error::Unsupported`], with the tensor's name, for a version, dtype
    /// or codec that this release does not know; [`Error::Truncated`], [`Error::Corrupt`] or [`Error::TooLarge`] for
    /// damage; [`Error::Io`] from the source. At most nine times the header's length plus 16 MiB is
    /// allocated; a header is at most [`MAX_HEADER`] long, and never longer than the source.
    pub fn open(source: &dyn ReadAt) -> Result<Self> {
        let path = source.path();
        let mut prefix = [0; PREFIX_LEN];
        let first = source.len().min(PREFIX_LEN as u64) as usize;
        source.read_exact_at(0, prefix.get_mut(..first).unwrap_or_default())?;
        let found = prefix.get(..first).unwrap_or_default();
        if found.starts_with(DUAL_MAGIC) {
            let what =
                "the dual format of bigsmall (.bsd; run `bigsmall compress` on the original model instead)".into();
            return Err(Error::Unsupported { path: path.into(), what });
        }
        if !found.starts_with(&MAGIC) {
            let found = found.get(..first.min(8)).unwrap_or_default().to_vec();
            return Err(Error::NotAContainer { path: path.into(), found });
        }
        if first < PREFIX_LEN {
            return Err(Error::Truncated { path: path.into(), expected: PREFIX_LEN as u64, got: first as u64 });
        }
        let [_, _, _, _, v0, v1, h0, h1, h2, h3] = prefix;
        let version = u16::from_le_bytes([v0, v1]);
        if !(1..=2).contains(&version) {
            let what = format!("version {version} of bigsmall's containers");
            return Err(Error::Unsupported { path: path.into(), what });
        }
        let header_len = u64::from(u32::from_le_bytes([h0, h1, h2, h3]));
        if header_len > MAX_HEADER {
            let what = "the length of the header";
            return Err(Error::TooLarge { path: path.into(), what, limit: MAX_HEADER, got: header_len });
        }
        let data_start = PREFIX_LEN as u64 + header_len;
        if data_start > source.len() {
            return Err(Error::Truncated { path: path.into(), expected: data_start, got: source.len() });
        }
        let mut json = vec![0; header_len as usize];
        source.read_exact_at(PREFIX_LEN as u64, &mut json)?;
        finite(&mut json);
        parse::container(path, &json, data_start, source.len())
    }
}
