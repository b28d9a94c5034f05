//! From the packed index to a [`Container`]: every check of the specification, in its order.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::bases::Bases;
use super::broken::{Broken, short};
use super::container::Container;
use super::header::{HEADER_LEN, Header};
use super::index::{FileInfo, Kind, section};
use super::index_rows::{Row, Span, Tensor};
use super::wire::Cursor;
use super::{MAX_CHUNK, MAX_LITERALS};
use crate::error::{Error, Result};
use crate::format::checksum::checksum;
use crate::memory;
use crate::tensor::ElemType;

/// Checks and parses the packed index of a container whose header is checked.
pub fn container(id: u64, path: &Path, header: Header, packed: &[u8]) -> Result<Container> {
    let found = checksum(packed);
    if found != header.index_checksum {
        let detail = format!("checksum {:#018x} expected, {found:#018x} found", header.index_checksum);
        return Err(Error::corrupt(path, "index", detail));
    }
    let no = || Error::io("get memory for the index of", path)(std::io::ErrorKind::OutOfMemory.into());
    // One byte more than stated, so that a longer index shows.
    let mut raw = memory::room(header.index_raw_len as usize + 1).ok_or_else(no)?;
    inflate(packed, header.index_raw_len as usize, &mut raw).map_err(|got| {
        Error::corrupt(path, "index", format!("{} inflated bytes expected, {got} found", header.index_raw_len))
    })?;
    let sections = sections(&raw, path)?;
    let part =
        |name: &'static str| move |Broken(detail)| Error::corrupt(path, format!("index, section {name}"), detail);

    let file = file(required(sections.file, "FILE", path)?).map_err(part("FILE"))?;
    let spans = spans(required(sections.spans, "SPANS", path)?, header.raw_len).map_err(part("SPANS"))?;
    let rows =
        chunks(required(sections.chunks, "CHUNKS", path)?, &spans, header.index_offset).map_err(part("CHUNKS"))?;
    let literals = literals(sections.literals.unwrap_or_default(), &spans).map_err(part("LITERALS"))?;
    let tensors = match sections.tensors {
        Some(body) => tensors(Cursor::new(body), header.raw_len).map_err(part("TENSORS"))?,
        None => Vec::new(),
    };
    let bases = match (sections.bases, sections.base_ranges) {
        (None, None) => Bases::default(),
        (Some(refs), Some(ranges)) => {
            super::bases::parse(refs, ranges, &spans, header.raw_len).map_err(part("BASES or BASE RANGES"))?
        }
        _ => return Err(Error::corrupt(path, "index", "one of the sections BASES and BASE RANGES is missing")),
    };
    // The header adds nothing that the index does not depend on.
    let digest = *blake3::hash(packed).as_bytes();
    Ok(Container { id, digest, path: path.into(), header, file, spans, rows, literals, tensors, bases })
}

fn required<'a>(body: Option<&'a [u8]>, name: &str, path: &Path) -> Result<Cursor<'a>> {
    body.map(Cursor::new).ok_or_else(|| Error::corrupt(path, "index", format!("section {name} is missing")))
}

/// Inflates to exactly `len` bytes into `raw`, which has room for one more, or says how many there were (0 for a broken frame).
fn inflate(packed: &[u8], len: usize, raw: &mut Vec<u8>) -> Result<(), usize> {
    if !crate::codec::is_one_frame(packed) {
        return Err(0);
    }
    let got =
        zstd::bulk::Decompressor::new().and_then(|mut d| d.decompress_to_buffer(packed, raw)).map_err(|_| 0_usize)?;
    if got == len { Ok(()) } else { Err(got) }
}

#[derive(Default)]
struct Sections<'a> {
    file: Option<&'a [u8]>,
    spans: Option<&'a [u8]>,
    chunks: Option<&'a [u8]>,
    literals: Option<&'a [u8]>,
    tensors: Option<&'a [u8]>,
    bases: Option<&'a [u8]>,
    base_ranges: Option<&'a [u8]>,
}

fn sections<'a>(raw: &'a [u8], path: &Path) -> Result<Sections<'a>> {
    let mut found = Sections::default();
    let mut seen = BTreeSet::new();
    let mut cursor = Cursor::new(raw);
    while !cursor.is_empty() {
        let mut read = || {
            let (id, flags, _, len) = (cursor.u16()?, cursor.u16()?, cursor.u32()?, cursor.u64()?);
            Some((id, flags, cursor.bytes(usize::try_from(len).ok()?)?))
        };
        let Some((id, flags, body)) = read() else {
            return Err(Error::corrupt(path, "index", "a section reaches beyond its end"));
        };
        if !seen.insert(id) {
            return Err(Error::corrupt(path, "index", format!("section {id} occurs twice")));
        }
        let slot = match id {
            section::FILE => &mut found.file,
            section::SPANS => &mut found.spans,
            section::CHUNKS => &mut found.chunks,
            section::LITERALS => &mut found.literals,
            section::TENSORS => &mut found.tensors,
            section::BASES => &mut found.bases,
            section::BASE_RANGES => &mut found.base_ranges,
            _ if flags & section::REQUIRED == 0 => continue,
            _ => {
                let what = format!("a container that needs index section {id}");
                return Err(Error::Unsupported { path: path.into(), what });
            }
        };
        *slot = Some(body);
    }
    Ok(found)
}

fn file(mut c: Cursor<'_>) -> Result<FileInfo, Broken> {
    let mut read = || {
        let (kind, mode, _) = (Kind(c.u16()?), c.u8()?, c.u8()?);
        let chunk_len = c.u32()?;
        let mtime = (c.u64()?.cast_signed(), c.u32()?);
        let sha256 = c.array::<32>()?;
        let len = c.u16()?;
        let name = c.bytes(usize::from(len))?.to_vec();
        let len = c.u16()?;
        let writer = String::from_utf8_lossy(c.bytes(usize::from(len))?).into_owned();
        Some(FileInfo { kind, mode, chunk_len, mtime, sha256, name, writer })
    };
    let file = read().ok_or_else(short)?;
    if !c.is_empty() {
        return Err(Broken("it is longer than its fields".into()));
    }
    if file.mtime.1 >= 1_000_000_000 {
        return Err(Broken(format!("{} nanoseconds in a second", file.mtime.1)));
    }
    Ok(file)
}

fn spans(mut c: Cursor<'_>, file_len: u64) -> Result<Vec<Span>, Broken> {
    let n = c.u32().ok_or_else(short)? as usize;
    let mut read = || {
        let raw_len = c.column::<8>(n)?.map(u64::from_le_bytes);
        let elem = c.column::<2>(n)?.map(u16::from_le_bytes);
        let unit_bytes = c.column::<2>(n)?.map(u16::from_le_bytes);
        let unit_elems = c.column::<2>(n)?.map(u16::from_le_bytes);
        let row_elems = c.column::<8>(n)?.map(u64::from_le_bytes);
        let chunk_len = c.column::<4>(n)?.map(u32::from_le_bytes);
        let tables = c.column::<4>(n)?.map(u32::from_le_bytes);
        Some(raw_len.zip(elem.zip(unit_bytes.zip(unit_elems))).zip(row_elems.zip(chunk_len.zip(tables))))
    };
    let columns = read().ok_or_else(short)?;
    if !c.is_empty() {
        return Err(Broken("it is longer than its columns".into()));
    }
    // The columns are 30 bytes a span in the index, and were there.
    let mut spans = Vec::with_capacity(n);
    let (mut raw_offset, mut first_chunk, mut literal_at) = (0_u64, 0_u32, 0_u64);
    for (i, ((raw_len, (elem, (unit_bytes, unit_elems))), (row_elems, (chunk_len, tables)))) in columns.enumerate() {
        if raw_len == 0 || unit_bytes == 0 || unit_elems == 0 {
            return Err(Broken(format!(
                "span {i} has {raw_len} bytes, units of {unit_bytes} bytes and {unit_elems} numbers: none may be 0"
            )));
        }
        if chunk_len > MAX_CHUNK {
            return Err(Broken(format!("span {i} has chunks of {chunk_len} bytes, more than {MAX_CHUNK}")));
        }
        if tables != 0 {
            return Err(Broken(format!("span {i} names table set {tables}, and there is no section TABLES")));
        }
        let span = Span {
            raw_offset,
            raw_len,
            elem: ElemType(elem),
            unit_bytes,
            unit_elems,
            row_elems,
            chunk_len,
            tables,
            first_chunk,
            literal_at: literal_at as u32,
        };
        raw_offset = raw_offset
            .checked_add(raw_len)
            .filter(|&end| end <= file_len)
            .ok_or_else(|| Broken(format!("span {i} ends beyond the file's {file_len} bytes")))?;
        first_chunk = span
            .chunks()
            .and_then(|chunks| first_chunk.checked_add(chunks))
            .ok_or_else(|| Broken(format!("span {i} has more chunks than a file may hold")))?;
        if span.is_literal() {
            literal_at = literal_at.saturating_add(raw_len);
            if literal_at > MAX_LITERALS {
                return Err(Broken(format!("{literal_at} literal bytes, more than {MAX_LITERALS}")));
            }
        }
        spans.push(span);
    }
    if raw_offset != file_len {
        return Err(Broken(format!("the spans cover {raw_offset} bytes of {file_len}")));
    }
    Ok(spans)
}

fn chunks(mut c: Cursor<'_>, spans: &[Span], index_offset: u64) -> Result<Vec<Row>, Broken> {
    let n = c.u32().ok_or_else(short)? as usize;
    let expected = spans.last().map_or(0, |last| u64::from(last.first_chunk) + u64::from(last.chunks().unwrap_or(0)));
    if n as u64 != expected {
        return Err(Broken(format!("{n} chunks, where the spans have {expected}")));
    }
    let mut read = || {
        let packed_len = c.column::<4>(n)?.map(u32::from_le_bytes);
        let codec = c.column::<2>(n)?.map(u16::from_le_bytes);
        let checksum = c.column::<8>(n)?.map(u64::from_le_bytes);
        Some(packed_len.zip(codec.zip(checksum)))
    };
    let columns = read().ok_or_else(short)?;
    if !c.is_empty() {
        return Err(Broken("it is longer than its columns".into()));
    }
    let mut raw_lens = spans.iter().filter(|span| !span.is_literal()).flat_map(|span| {
        let len = u64::from(span.chunk_len);
        (0..span.raw_len.div_ceil(len)).map(move |k| (span.raw_len - k * len).min(len))
    });
    let mut rows = Vec::with_capacity(n);
    let mut packed_offset = HEADER_LEN as u64;
    for (i, (packed_len, (codec, checksum))) in columns.enumerate() {
        let raw_len = raw_lens.next().unwrap_or(0);
        if packed_len == 0 || u64::from(packed_len) > raw_len {
            return Err(Broken(format!("chunk {i} packs {raw_len} bytes into {packed_len}")));
        }
        rows.push(Row { packed_offset, checksum, packed_len, codec });
        packed_offset += u64::from(packed_len);
    }
    if packed_offset != index_offset {
        return Err(Broken(format!("the chunks end at {packed_offset}, the index starts at {index_offset}")));
    }
    Ok(rows)
}

fn literals(body: &[u8], spans: &[Span]) -> Result<Vec<u8>, Broken> {
    let expected: u64 = spans.iter().filter(|span| span.is_literal()).map(|span| span.raw_len).sum();
    if body.len() as u64 != expected {
        return Err(Broken(format!("{} bytes, where the spans have {expected}", body.len())));
    }
    Ok(body.to_vec())
}

fn tensors(mut c: Cursor<'_>, file_len: u64) -> Result<Vec<Tensor>, Broken> {
    let n = c.u32().ok_or_else(short)? as usize;
    let mut read = || {
        let raw_offset = c.column::<8>(n)?.map(u64::from_le_bytes);
        let raw_len = c.column::<8>(n)?.map(u64::from_le_bytes);
        let dtype = c.column::<2>(n)?.map(u16::from_le_bytes);
        let ndim = c.column::<1>(n)?.map(|[d]| usize::from(d));
        let dims: usize = ndim.clone().sum();
        let dims = c.column::<8>(dims)?.map(u64::from_le_bytes);
        let names = c.u16()?;
        let mut dtypes = Vec::new();
        for _ in 0..names {
            let len = c.u8()?;
            dtypes.push(c.bytes(usize::from(len))?);
        }
        let name_len = c.column::<4>(n)?.map(|len| u32::from_le_bytes(len) as usize);
        let total = name_len.clone().try_fold(0_usize, usize::checked_add)?;
        let names = Cursor::new(c.bytes(total)?);
        let digest = c.column::<32>(n)?;
        Some((raw_offset.zip(raw_len).zip(dtype.zip(ndim)).zip(name_len.zip(digest)), dims, dtypes, names))
    };
    let (columns, mut dims, dtypes, mut names) = read().ok_or_else(short)?;
    let dtypes = dtypes
        .into_iter()
        .map(|name| std::str::from_utf8(name).map(Arc::<str>::from))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Broken("a dtype's name is not UTF-8".into()))?;
    let mut tensors: Vec<Tensor> = Vec::with_capacity(n);
    let mut end = 0;
    for (i, (((raw_offset, raw_len), (dtype, ndim)), (name_len, digest))) in columns.enumerate() {
        let broken = |rule: &str| Broken(format!("tensor {i} {rule}"));
        if raw_offset < end {
            return Err(broken("overlaps the one before"));
        }
        end = raw_offset
            .checked_add(raw_len)
            .filter(|&end| end <= file_len)
            .ok_or_else(|| broken(&format!("ends beyond the file's {file_len} bytes")))?;
        let name = names.bytes(name_len).ok_or_else(short)?.to_vec();
        tensors.push(Tensor {
            name: String::from_utf8(name).map_err(|_| broken("has a name that is not UTF-8"))?,
            dtype: dtypes.get(usize::from(dtype)).cloned().ok_or_else(|| broken("has an unknown dtype name"))?,
            shape: dims.by_ref().take(ndim).collect(),
            raw_offset,
            raw_len,
            digest,
        });
    }
    Ok(tensors)
}
