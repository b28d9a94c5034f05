//! What the index of a container tells: spans, chunks and tensors.

use std::ops::Range;
use std::sync::Arc;

use crate::codec::Codec;
use crate::tensor::ElemType;

/// The number of a chunk, through all spans in raw order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId(pub u32);

/// A run of numbers of one type in the original file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Offset in the original, bytes.
    pub raw_offset: u64,
    /// Length in the original, bytes; at least 1.
    pub raw_len: u64,
    /// Element type.
    pub elem: ElemType,
    /// Bytes of a unit.
    pub unit_bytes: u16,
    /// Numbers in a unit.
    pub unit_elems: u16,
    /// Numbers in a row; 0 if there are no rows.
    pub row_elems: u64,
    /// Raw length of the span's chunks but the last; 0 for a literal span.
    pub chunk_len: u32,
    /// Table set; 0 for none.
    pub tables: u32,
    /// The span's first chunk, or the next one's for a literal span.
    pub first_chunk: u32,
    /// Offset in the literals; meaningless for other spans.
    pub(super) literal_at: u32,
}

impl Span {
    /// Offset behind the last byte, in the original.
    #[must_use]
    pub fn raw_end(&self) -> u64 {
        self.raw_offset + self.raw_len
    }

    /// Whether the bytes lie in the index.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.chunk_len == 0
    }

    /// Number of chunks; `None` when it does not fit.
    pub(super) fn chunks(&self) -> Option<u32> {
        if self.chunk_len == 0 { Some(0) } else { u32::try_from(self.raw_len.div_ceil(u64::from(self.chunk_len))).ok() }
    }
}

/// What an index says of one chunk, as it is stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) packed_offset: u64,
    pub(super) checksum: u64,
    pub(super) packed_len: u32,
    pub(super) codec: u16,
}

/// One chunk: where its bytes are, raw and packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its number.
    pub id: ChunkId,
    /// Offset in the original, bytes.
    pub raw_offset: u64,
    /// Length in the original, bytes; at most [`MAX_CHUNK`](super::MAX_CHUNK).
    pub raw_len: u32,
    /// Offset in the container.
    pub packed_offset: u64,
    /// Length in the container; at most `raw_len`.
    pub packed_len: u32,
    /// Number of the codec, known to this release or not.
    pub codec_id: u16,
    /// XXH3 of the raw bytes.
    pub checksum: u64,
}

impl Chunk {
    /// The codec; `None` when this release does not have it.
    #[must_use]
    pub fn codec(&self) -> Option<Codec> {
        Codec::from_id(self.codec_id)
    }
}

/// A tensor of the original file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// Dtype as the original spells it.
    pub dtype: Arc<str>,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Offset in the original, bytes.
    pub raw_offset: u64,
    /// Length, bytes; may be 0.
    pub raw_len: u64,
    /// BLAKE3 of the raw bytes.
    pub digest: [u8; 32],
}

/// Where a byte of the original is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// In the index: these bytes of [`Container::literals`](super::Container::literals), which start at this raw offset.
    Literal {
        /// Raw offset of the first of them.
        raw_offset: u64,
        /// Range in the literals.
        range: Range<usize>,
    },
    /// In this chunk.
    Chunk(Chunk),
}
