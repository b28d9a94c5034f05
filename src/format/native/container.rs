//! An open container: its checked index, and how an offset of the original leads to a chunk.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bases::Bases;
use super::header::{HEADER_LEN, Header};
use super::index::FileInfo;
use super::parse;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::source::ReadAt;
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
    /// In the index: these bytes of [`Container::literals`], which start at this raw offset.
    Literal {
        /// Raw offset of the first of them.
        raw_offset: u64,
        /// Range in the literals.
        range: Range<usize>,
    },
    /// In this chunk.
    Chunk(Chunk),
}

/// A container's metadata, read and checked. Holds no open file.
#[derive(Debug)]
pub struct Container {
    pub(super) id: u64,
    pub(super) digest: [u8; 32],
    pub(super) path: PathBuf,
    pub(super) header: Header,
    pub(super) file: FileInfo,
    pub(super) spans: Vec<Span>,
    pub(super) rows: Vec<Row>,
    pub(super) literals: Vec<u8>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) bases: Bases,
}

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

    /// A number that no other open container of this process has; caches are keyed by it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// BLAKE3 of the stored index, which says of every chunk where it is and what it holds: containers of one digest have the
    /// same original, cut into the same chunks.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The path it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What is known of the original file.
    #[must_use]
    pub fn file(&self) -> &FileInfo {
        &self.file
    }

    /// Length of the original file, bytes.
    #[must_use]
    pub fn raw_len(&self) -> u64 {
        self.header.raw_len
    }

    /// Modification time of the original: seconds since 1970 and nanoseconds.
    #[must_use]
    pub fn mtime(&self) -> (i64, u32) {
        self.file.mtime
    }

    /// Spans in raw order; they cover the original.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Tensors in order of offset.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// What chunks are coded against.
    #[must_use]
    pub fn bases(&self) -> &Bases {
        &self.bases
    }

    /// The bytes of all literal spans.
    #[must_use]
    pub fn literals(&self) -> &[u8] {
        &self.literals
    }

    /// Number of chunks.
    #[must_use]
    pub fn chunk_count(&self) -> u32 {
        self.rows.len() as u32
    }

    /// Bytes of memory that the metadata takes, about.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let names: usize = self.tensors.iter().map(|t| t.name.len() + t.dtype.len() + 8 * t.shape.len()).sum();
        (size_of::<Self>()
            + size_of_val(self.spans.as_slice())
            + size_of_val(self.rows.as_slice())
            + size_of_val(self.tensors.as_slice())
            + self.literals.len()
            + size_of_val(self.bases.ranges.as_slice())
            + self.bases.refs.iter().map(|r| size_of_val(r) + r.name.len() + r.hint.len()).sum::<usize>()
            + names) as u64
    }

    /// A chunk by its number; `None` beyond the last.
    #[must_use]
    pub fn chunk(&self, id: ChunkId) -> Option<Chunk> {
        let row = self.rows.get(id.0 as usize)?;
        // Literal spans have no chunks, and the same first chunk as the span behind them: the last one counts.
        let at = self.spans.partition_point(|span| span.first_chunk <= id.0);
        let span = self.spans.get(..at)?.iter().rev().find(|span| !span.is_literal())?;
        let within = u64::from(id.0 - span.first_chunk) * u64::from(span.chunk_len);
        Some(Chunk {
            id,
            raw_offset: span.raw_offset + within,
            raw_len: (span.raw_len - within).min(u64::from(span.chunk_len)) as u32,
            packed_offset: row.packed_offset,
            packed_len: row.packed_len,
            codec_id: row.codec,
            checksum: row.checksum,
        })
    }

    /// The chunks of a span, in order; none for a literal one.
    pub fn span_chunks(&self, span: &Span) -> impl Iterator<Item = Chunk> + '_ {
        let first = span.first_chunk;
        let end = first.saturating_add(span.chunks().unwrap_or(0));
        (first..end).filter_map(|id| self.chunk(ChunkId(id)))
    }

    /// Where the byte at `raw_offset` is; `None` at or beyond the end. O(log spans).
    #[must_use]
    pub fn locate(&self, raw_offset: u64) -> Option<Piece> {
        let at = self.spans.partition_point(|span| span.raw_end() <= raw_offset);
        let span = self.spans.get(at)?;
        if span.is_literal() {
            let start = span.literal_at as usize;
            return Some(Piece::Literal { raw_offset: span.raw_offset, range: start..start + span.raw_len as usize });
        }
        let within = (raw_offset - span.raw_offset) / u64::from(span.chunk_len);
        self.chunk(ChunkId(span.first_chunk + within as u32)).map(Piece::Chunk)
    }

    /// The pieces of the original in order, from its first byte to its last.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let piece = self.locate(next)?;
            next = match &piece {
                Piece::Literal { raw_offset, range } => raw_offset + range.len() as u64,
                Piece::Chunk(chunk) => chunk.raw_offset + u64::from(chunk.raw_len),
            };
            Some(piece)
        })
    }

    /// The tensor that holds the byte at `raw_offset`.
    #[must_use]
    pub fn tensor_at(&self, raw_offset: u64) -> Option<&Tensor> {
        let at = self.tensors.partition_point(|t| t.raw_offset <= raw_offset);
        // Zero-size tensors may lie between the one wanted and its successor.
        self.tensors
            .get(..at)?
            .iter()
            .rev()
            .take_while(|t| t.raw_len == 0 || t.raw_offset + t.raw_len > raw_offset)
            .find(|t| t.raw_len > 0)
    }
}
