//! Writes a container: payloads as they come, then the index, then the header over its place at the front.

use std::io::{self, Seek, SeekFrom, Write};

use super::bases::Bases;
use super::header::{HEADER_LEN, Header, MINOR, MINOR_WITH_BASES, MINOR_WITH_LONG_INDEX};
use super::index::{FileInfo, section};
use super::wire::{Put, numbered};
use super::{MAX_INDEX_SURPLUS, MAX_LITERALS, max_index_len};
use crate::codec::Codec;
use crate::format::checksum::checksum;
use crate::tensor::ElemType;

/// zstd level of the index: a thousandth of the file at most, so speed does not matter much and size not at all.
const INDEX_LEVEL: i32 = 3;

/// A span to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanSpec {
    /// Length in the original, bytes; at least 1.
    pub raw_len: u64,
    /// Element type.
    pub elem: ElemType,
    /// Numbers in a row; 0 if there are no rows.
    pub row_elems: u64,
    /// Raw length of the chunks, 1 to [`MAX_CHUNK`](super::MAX_CHUNK); 0 to keep the bytes in the index.
    pub chunk_len: u32,
}

/// A tensor to be listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name.
    pub name: String,
    /// Dtype as the original spells it; cut to 255 bytes.
    pub dtype: String,
    /// Dimensions, outermost first; at most 255.
    pub shape: Vec<u64>,
    /// Offset in the original.
    pub raw_offset: u64,
    /// Length, bytes.
    pub raw_len: u64,
    /// BLAKE3 of the raw bytes.
    pub digest: [u8; 32],
}

/// All that the index holds beside the chunks.
#[derive(Debug, Clone)]
pub struct Finish<'a> {
    /// About the original file.
    pub file: &'a FileInfo,
    /// Spans in raw order, covering the original.
    pub spans: &'a [SpanSpec],
    /// The bytes of literal spans.
    pub literals: &'a [u8],
    /// Tensors in order of offset.
    pub tensors: &'a [TensorSpec],
    /// What chunks are coded against.
    pub bases: &'a Bases,
}

/// A container being written. Dropped without [`finish`](Writer::finish), it has no header and is no container.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    at: u64,
    packed_len: Vec<u32>,
    codec: Vec<u16>,
    check: Vec<u64>,
}

impl<W: Write + Seek> Writer<W> {
    /// Starts at the front of `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&[0; HEADER_LEN])?;
        Ok(Self { out, at: HEADER_LEN as u64, packed_len: Vec::new(), codec: Vec::new(), check: Vec::new() })
    }

    /// Appends the next chunk in raw order: its packed bytes, codec, and the checksum of its raw bytes.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn chunk(&mut self, packed: &[u8], codec: Codec, checksum: u64) -> io::Result<()> {
        self.out.write_all(packed)?;
        self.at += packed.len() as u64;
        self.packed_len.push(packed.len() as u32);
        self.codec.push(codec.id());
        self.check.push(checksum);
        Ok(())
    }

    /// Bytes that the index of what was written so far is longer with its bases than without.
    ///
    /// # Errors
    /// Those of zstd.
    pub fn bases_len(&self, f: &Finish<'_>) -> io::Result<u64> {
        if f.bases.is_empty() {
            return Ok(0);
        }
        let without = Finish { bases: &Bases::default(), ..f.clone() };
        let len = |f| zstd::bulk::compress(&self.index(f), INDEX_LEVEL).map(|packed| packed.len() as u64);
        Ok(len(f)?.saturating_sub(len(&without)?))
    }

    /// Writes index and header; gives back `out` and the container's length in bytes.
    ///
    /// # Errors
    /// Those of `out`; `InvalidInput` when the index breaks a bound of the format.
    pub fn finish(mut self, f: &Finish<'_>) -> io::Result<(W, u64)> {
        if f.literals.len() as u64 > MAX_LITERALS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many literal bytes for an index"));
        }
        let pack = |index: &[u8], level| -> io::Result<_> {
            let packed = zstd::bulk::compress(index, level)?;
            let (len, packed_len) = (index.len() as u64, packed.len() as u64);
            let container_len = self.at + packed_len;
            let limit = max_index_len(container_len, packed_len);
            Ok((packed, len, container_len, len <= limit && u32::try_from(len.max(packed_len)).is_ok()))
        };
        let index = self.index(f);
        let (mut packed, mut index_len, mut container_len, mut fits) = pack(&index, INDEX_LEVEL)?;
        // An index that compresses too well for readers to trust it: less well, then.
        for level in [1, -1, -4, -20] {
            if !fits {
                (packed, index_len, container_len, fits) = pack(&index, level)?;
            }
        }
        if !fits {
            // The list of tensors is the one long part that no reader needs.
            let index = self.index(&Finish { tensors: &[], ..f.clone() });
            (packed, index_len, container_len, fits) = pack(&index, INDEX_LEVEL)?;
        }
        if !fits {
            let (chunks, spans) = (self.check.len(), f.spans.len());
            let text = format!("an index of {index_len} bytes, of {spans} spans and {chunks} chunks, is too long");
            let advice = if chunks > 2 * spans { "; choose a larger --chunk-size" } else { "" };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text + advice));
        }
        let long = index_len > container_len.saturating_add(MAX_INDEX_SURPLUS);
        let header = Header {
            minor: match (long, f.bases.is_empty()) {
                (true, _) => MINOR_WITH_LONG_INDEX,
                (false, false) => MINOR_WITH_BASES,
                (false, true) => MINOR,
            },
            flags: 0,
            container_len,
            raw_len: f.spans.iter().map(|span| span.raw_len).sum(),
            index_offset: self.at,
            index_packed_len: packed.len() as u32,
            index_raw_len: index_len as u32,
            index_checksum: checksum(&packed),
        };
        self.out.write_all(&packed)?;
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&header.to_bytes())?;
        self.out.flush()?;
        Ok((self.out, container_len))
    }

    fn index(&self, f: &Finish<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        push(&mut out, section::FILE, true, &file(f.file));
        push(&mut out, section::SPANS, true, &spans(f.spans));
        push(&mut out, section::CHUNKS, true, &self.chunks());
        if !f.literals.is_empty() {
            push(&mut out, section::LITERALS, true, f.literals);
        }
        if !f.tensors.is_empty() {
            push(&mut out, section::TENSORS, false, &tensors(f.tensors));
        }
        if !f.bases.is_empty() {
            f.bases.to_sections().iter().for_each(|(id, body)| push(&mut out, *id, false, body));
        }
        out
    }

    fn chunks(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + 14 * self.check.len());
        out.put_u32(self.check.len() as u32);
        self.packed_len.iter().for_each(|&len| out.put_u32(len));
        self.codec.iter().for_each(|&id| out.put_u16(id));
        self.check.iter().for_each(|&check| out.put_u64(check));
        out
    }
}

fn push(out: &mut Vec<u8>, id: u16, required: bool, body: &[u8]) {
    out.put_u16(id);
    out.put_u16(if required { section::REQUIRED } else { 0 });
    out.put_u32(0);
    out.put_u64(body.len() as u64);
    out.extend_from_slice(body);
}

fn short_text(out: &mut Vec<u8>, text: &[u8]) {
    let text = text.get(..usize::from(u16::MAX)).unwrap_or(text);
    out.put_u16(text.len() as u16);
    out.extend_from_slice(text);
}

fn file(f: &FileInfo) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u16(f.kind.0);
    out.extend_from_slice(&[f.mode, 0]);
    out.put_u32(f.chunk_len);
    out.put_u64(f.mtime.0.cast_unsigned());
    out.put_u32(f.mtime.1);
    out.extend_from_slice(&f.sha256);
    short_text(&mut out, &f.name);
    short_text(&mut out, f.writer.as_bytes());
    out
}

fn spans(spans: &[SpanSpec]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(spans.len() as u32);
    spans.iter().for_each(|s| out.put_u64(s.raw_len));
    spans.iter().for_each(|s| out.put_u16(s.elem.0));
    spans.iter().for_each(|s| out.put_u16(s.elem.unit().0));
    spans.iter().for_each(|s| out.put_u16(s.elem.unit().1));
    spans.iter().for_each(|s| out.put_u64(s.row_elems));
    spans.iter().for_each(|s| out.put_u32(s.chunk_len));
    spans.iter().for_each(|_| out.put_u32(0));
    out
}

fn tensors(tensors: &[TensorSpec]) -> Vec<u8> {
    let (mut dtypes, dtype_of) = numbered(tensors.iter().map(|t| short_name(&t.dtype)));
    // More names than a u16 counts are not dtypes; the last one then stands for the rest.
    dtypes.truncate(usize::from(u16::MAX));
    let last = dtypes.len().saturating_sub(1) as u32;
    let mut out = Vec::new();
    out.put_u32(tensors.len() as u32);
    tensors.iter().for_each(|t| out.put_u64(t.raw_offset));
    tensors.iter().for_each(|t| out.put_u64(t.raw_len));
    dtype_of.iter().for_each(|&at| out.put_u16(at.min(last) as u16));
    let dims = |t: &'_ TensorSpec| t.shape.len().min(255);
    tensors.iter().for_each(|t| out.push(dims(t) as u8));
    tensors.iter().for_each(|t| t.shape.iter().take(dims(t)).for_each(|&d| out.put_u64(d)));
    out.put_u16(dtypes.len() as u16);
    for name in dtypes {
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
    }
    tensors.iter().for_each(|t| out.put_u32(t.name.len() as u32));
    tensors.iter().for_each(|t| out.extend_from_slice(t.name.as_bytes()));
    tensors.iter().for_each(|t| out.extend_from_slice(&t.digest));
    out
}

/// At most 255 bytes of `text`, cut between characters.
fn short_name(text: &str) -> &str {
    (0..=text.len().min(255)).rev().find_map(|len| text.get(..len)).unwrap_or_default()
}
