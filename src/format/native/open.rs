//! Opens a container: header and index, read and checked.

use super::container::Container;
use super::header::{HEADER_LEN, Header};
use super::parse;
use crate::error::{Error, Result};
use crate::source::ReadAt;

impl Container {
    /// Reads header and index of a container of ours and checks them, in two reads.
    ///
    /// # Errors
    /// [`Error::NotAContainer`] for another file, [`Error::Unsupported`] for another version or a required section
    /// that this release does not know, [`Error::Truncated`], [`Error::Corrupt`] or [`Error::TooLarge`] for damage,
    /// [`Error::Io`] from the source. At most the source's length and three times [`max_index_len`](super::max_index_len) is
    /// allocated.
    pub fn open(source: &dyn ReadAt) -> Result<Self> {
        let path = source.path();
        let mut head = [0; HEADER_LEN];
        let first = source.len().min(HEADER_LEN as u64) as usize;
        source.read_exact_at(0, head.get_mut(..first).unwrap_or_default())?;
        match crate::format::sniff(head.get(..first).unwrap_or_default()) {
            crate::format::Sniff::Native => {}
            crate::format::Sniff::Foreign(name) => {
                let what = format!("the format of {name}");
                return Err(Error::Unsupported { path: path.into(), what });
            }
            crate::format::Sniff::Other => {
                let found = head.get(..first.min(16)).unwrap_or_default().to_vec();
                return Err(Error::NotAContainer { path: path.into(), found });
            }
        }
        if first < HEADER_LEN {
            return Err(Error::Truncated { path: path.into(), expected: HEADER_LEN as u64, got: first as u64 });
        }
        let header = Header::parse(&head, source.len(), path)?;
        // Bounded by the file's own length, which the header's check has compared.
        let mut packed = vec![0; header.index_packed_len as usize];
        source.read_exact_at(header.index_offset, &mut packed)?;
        let id = crate::format::next_id();
        parse::container(id, path, header, &packed)
    }
}
