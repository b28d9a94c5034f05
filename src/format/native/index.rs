//! The parts of an index as they are in memory, and their section ids.

/// Section ids. See the specification for the reserved ones.
pub mod section {
    pub const FILE: u16 = 1;
    pub const SPANS: u16 = 2;
    pub const CHUNKS: u16 = 3;
    pub const LITERALS: u16 = 4;
    pub const TENSORS: u16 = 5;
    pub const BASES: u16 = 7;
    pub const BASE_RANGES: u16 = 8;
    /// Bit 0 of a section's flags.
    pub const REQUIRED: u16 = 1;
}

/// What proposed the spans of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(pub u16);

impl Kind {
    /// No parser knew the file.
    pub const PLAIN: Self = Self(0);
    /// A safetensors header.
    pub const SAFETENSORS: Self = Self(1);

    /// The name that `info` shows.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "plain bytes",
            1 => "safetensors",
            _ => "other",
        }
    }
}

/// What a container knows of the original file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// What proposed the spans.
    pub kind: Kind,
    /// The number of [`crate::codec::Mode`].
    pub mode: u8,
    /// Chunk length asked for, bytes.
    pub chunk_len: u32,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// SHA-256 of the original file.
    pub sha256: [u8; 32],
    /// File name without directories, as bytes.
    pub name: Vec<u8>,
    /// Name and version of the writer.
    pub writer: String,
}
