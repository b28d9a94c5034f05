//! An open container: its checked index, and how an offset of the original leads to a chunk.

use std::path::{Path, PathBuf};

use super::bases::Bases;
use super::header::Header;
use super::index::FileInfo;
use super::index_rows::{Chunk, ChunkId, Piece, Row, Span, Tensor};

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
