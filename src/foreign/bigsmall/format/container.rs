//! An open container: its tensors, checked, and where the bytes of each come from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::foreign::bigsmall::codec::Coding;
use crate::tensor::ElemType;

/// The `__metadata__` of the file that was packed. A value that is no string is kept as its JSON text.
pub type Metadata = BTreeMap<String, String>;

/// A packed stream of bytes in the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// How it is packed.
    pub coding: Coding,
    /// Offset in the file.
    pub offset: u64,
    /// Length in the file, bytes; 0 only when `raw_len` is 0.
    pub len: u64,
    /// Length unpacked, bytes.
    pub raw_len: u64,
}

/// Where the bytes of a tensor come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// What this unpacks to.
    Blob(Part),
    /// The bytes of another entry of the same length, by its number; that one is no `Same`.
    Same(usize),
    /// Some bytes of what a part shared by several tensors unpacks to.
    Slice {
        /// The part.
        part: Part,
        /// Bytes before the tensor's; `skip` and the tensor's length are inside `part.raw_len`.
        skip: u64,
    },
    /// The sum of the first parts of a list that several tensors share: wrapping little-endian integers.
    Chain {
        /// All parts of the list, each of the tensor's length.
        parts: Arc<[Part]>,
        /// How many of them to add; at least 1.
        count: usize,
        /// Bytes of an integer: 2 or 4.
        width: u8,
    },
    /// What this unpacks to, xored with the tensor of the same name and length in the base.
    Xor(Part),
}

/// A tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// Type of its numbers.
    pub elem: ElemType,
    /// Dtype as safetensors spells it.
    pub dtype: &'static str,
    /// Dimensions as safetensors counts them, outermost first.
    pub shape: Vec<u64>,
    /// Length, bytes; may be 0.
    pub raw_len: u64,
    /// MD5 of the raw bytes.
    pub md5: [u8; 16],
    /// Where they come from.
    pub content: Content,
}

/// A container's metadata, read and checked. Holds no open file.
#[derive(Debug)]
pub struct Container {
    pub(super) path: PathBuf,
    pub(super) file_len: u64,
    pub(super) entries: Vec<Entry>,
    pub(super) metadata: Option<Metadata>,
    pub(super) base_model: Option<String>,
}

impl Container {
    /// The path it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file, bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Tensors in the header's order, no two of one name.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The `__metadata__` of the file that was packed; `None` when it had none.
    #[must_use]
    pub fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    /// The path of the base as the writer of a delta typed it. A stranger's text: a hint to show, never to open.
    #[must_use]
    pub fn base_model(&self) -> Option<&str> {
        self.base_model.as_deref()
    }

    /// Whether some tensor needs a base.
    #[must_use]
    pub fn is_delta(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.content, Content::Xor(_)))
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        // At most MAX_RAW_LEN, which was checked.
        self.entries.iter().map(|entry| entry.raw_len).sum()
    }

    /// Bytes of memory that the metadata takes, about.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let entries: usize = self
            .entries
            .iter()
            .map(|entry| {
                // The list of a chain is counted with its first member.
                let parts = match &entry.content {
                    Content::Chain { parts, count: 1, .. } => size_of_val(&**parts),
                    _ => 0,
                };
                size_of::<Entry>() + entry.name.len() + 8 * entry.shape.len() + parts
            })
            .sum();
        let metadata: usize =
            self.metadata.iter().flatten().map(|(key, value)| key.len() + value.len() + 2 * size_of::<String>()).sum();
        (size_of::<Self>() + entries + metadata + self.base_model.as_ref().map_or(0, String::len)) as u64
    }
}
