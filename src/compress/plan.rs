//! From a file's tensors to the spans and chunks of its container.

use std::io::{BufReader, Read, Seek, SeekFrom};

use super::DEFAULT_CHUNK_LEN;
use crate::codec::{Mode, Numbers};
use crate::error::Result;
use crate::format::native::{Kind, MAX_LITERALS, SpanSpec};
use crate::source::ReadAt;
use crate::tensor::{ElemType, Header, TensorInfo, archive};

/// Tensors shorter than this share a span with neighbours of their type. Longer ones have a span of their own, so
/// that their packed bytes are the same in any file. Stated in the format's specification.
pub const OWN_SPAN: u64 = 64 << 10;

/// What the nominal length of chunks follows from.
#[derive(Debug, Clone, Copy)]
struct ChunkLen {
    asked: Option<u32>,
    mode: Mode,
}

impl ChunkLen {
    /// Raw length of a chunk, bytes. Tables of groups of rows and columns take about a kilobyte a chunk, and F32 has half as
    /// many numbers in as many bytes: both pay in longer chunks. See ARCHITECTURE.md for the measurement.
    fn nominal(self, elem: ElemType) -> u32 {
        let longer = match (self.mode, elem.name()) {
            (Mode::Storage, _) => 4,
            (_, Some("F16" | "F32")) => 2,
            _ => 1,
        };
        self.asked.unwrap_or(DEFAULT_CHUNK_LEN * longer)
    }
}

/// What will become of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Who proposed the spans.
    pub kind: Kind,
    /// Spans in raw order; they cover the file.
    pub spans: Vec<SpanSpec>,
    /// Tensors in order of offset.
    pub tensors: Vec<TensorInfo>,
}

/// Reads what a parser needs of the file, and plans. `chunk_len` is the nominal raw length of a chunk, bytes; without it the
/// length that suits the type and the mode.
///
/// # Errors
/// Those of the source. A file that no parser knows is no error.
pub fn plan(source: &dyn ReadAt, chunk_len: Option<u32>, mode: Mode) -> Result<Plan> {
    let (kind, data_start, tensors) = look(source)?;
    let spans = spans(source.len(), data_start, &tensors, ChunkLen { asked: chunk_len, mode });
    Ok(Plan { kind, spans, tensors })
}

/// Who knows the file, where its data begins, and its tensors.
fn look(source: &dyn ReadAt) -> Result<(Kind, u64, Vec<TensorInfo>)> {
    if let Some(header) = read_json(source)?.and_then(|json| Header::parse(&json, source.len())) {
        return Ok((Kind::SAFETENSORS, header.data_start, header.tensors));
    }
    Ok((Kind::PLAIN, 0, read_members(source)?.unwrap_or_default()))
}

/// The tensors of a safetensors file, or the stored members of an archive; none of a file that no parser knows.
pub fn tensors(source: &dyn ReadAt) -> Result<Vec<TensorInfo>> {
    look(source).map(|(_, _, tensors)| tensors)
}

fn read_members(source: &dyn ReadAt) -> Result<Option<Vec<TensorInfo>>> {
    let mut first = [0; 4];
    if source.len() < 22 {
        return Ok(None);
    }
    source.read_exact_at(0, &mut first)?;
    if first != *b"PK\x03\x04" {
        return Ok(None);
    }
    let mut at = Positioned { source, offset: 0, end: source.len(), error: None };
    let members = archive::members(BufReader::new(&mut at), source.len());
    match at.error {
        Some(error) => Err(error),
        None => Ok(members),
    }
}

/// The text of the header, of a file that may be safetensors.
pub fn read_json(source: &dyn ReadAt) -> Result<Option<Vec<u8>>> {
    let mut first = [0; 8];
    if source.len() < first.len() as u64 {
        return Ok(None);
    }
    source.read_exact_at(0, &mut first)?;
    let Some(len) = Header::json_len(first, source.len()) else { return Ok(None) };
    // The length is only a claim: the first byte is looked at before so much is read.
    let mut brace = [0];
    source.read_exact_at(8, &mut brace)?;
    if brace != *b"{" {
        return Ok(None);
    }
    let mut json = Vec::new();
    let mut at = Positioned { source, offset: 8, end: 8 + len, error: None };
    // The only error that can come is the source's own, kept aside.
    let _ = at.read_to_end(&mut json);
    match at.error {
        Some(error) => Err(error),
        None => Ok(Some(json)),
    }
}

/// A range of a source as a stream, so that memory grows with what is there and not with what is claimed.
struct Positioned<'a> {
    source: &'a dyn ReadAt,
    offset: u64,
    end: u64,
    error: Option<crate::Error>,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = (self.end - self.offset).min(buf.len() as u64) as usize;
        let Some(buf) = buf.get_mut(..n) else { return Ok(0) };
        match self.source.read_exact_at(self.offset, buf) {
            Ok(()) => {
                self.offset += n as u64;
                Ok(n)
            }
            Err(error) => {
                self.error = Some(error);
                Err(std::io::Error::other("source"))
            }
        }
    }
}

impl Seek for Positioned<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.end.checked_add_signed(by),
            SeekFrom::Current(by) => self.offset.checked_add_signed(by),
        };
        self.offset = at.ok_or(std::io::ErrorKind::InvalidInput)?.min(self.end);
        Ok(self.offset)
    }
}

/// Spans that cover a file of `len` bytes whose tensors, in order of offset, start behind `data_start`.
fn spans(len: u64, data_start: u64, tensors: &[TensorInfo], chunk_len: ChunkLen) -> Vec<SpanSpec> {
    let mut spans: Vec<SpanSpec> = Vec::new();
    if data_start > 0 {
        let mut prologue = span(data_start, ElemType::BYTES, 0, chunk_len);
        if data_start <= MAX_LITERALS {
            prologue.chunk_len = 0;
        }
        spans.push(prologue);
    }
    let mut at = data_start;
    // The span that is being gathered from short neighbours of one type: its type and length so far.
    let mut shared: Option<(ElemType, u64)> = None;
    let push_shared = |spans: &mut Vec<SpanSpec>, shared: &mut Option<(ElemType, u64)>, elem, len: u64| match shared {
        Some((of, sum)) if *of == elem => *sum += len,
        _ => {
            if let Some((of, sum)) = shared.replace((elem, len)) {
                spans.push(span(sum, of, 0, chunk_len));
            }
        }
    };
    for t in tensors.iter().filter(|t| t.len > 0) {
        if t.offset > at {
            push_shared(&mut spans, &mut shared, ElemType::BYTES, t.offset - at);
        }
        at = t.offset + t.len;
        if t.len < OWN_SPAN {
            push_shared(&mut spans, &mut shared, t.elem, t.len);
            continue;
        }
        if let Some((of, sum)) = shared.take() {
            spans.push(span(sum, of, 0, chunk_len));
        }
        spans.push(span(t.len, t.elem, t.row_elems(), chunk_len));
    }
    if len > at {
        push_shared(&mut spans, &mut shared, ElemType::BYTES, len - at);
    }
    if let Some((of, sum)) = shared {
        spans.push(span(sum, of, 0, chunk_len));
    }
    spans
}

/// A span with chunks of nearly equal length: whole rows where eight of them fit a chunk, else whole units, and not
/// above the nominal length unless one unit is.
fn span(raw_len: u64, elem: ElemType, row_elems: u64, chunk_len: ChunkLen) -> SpanSpec {
    let (unit_bytes, unit_elems) = elem.unit();
    let unit = u64::from(unit_bytes);
    let nominal = u64::from(chunk_len.nominal(elem)).max(unit);
    // A row that ends inside a unit is of no use.
    let row = (row_elems / u64::from(unit_elems))
        .checked_mul(unit)
        .filter(|&row| row > 0 && row <= nominal / 8 && row_elems.is_multiple_of(unit_elems.into()))
        .unwrap_or(unit);
    let most = nominal / row * row;
    let chunks = raw_len.div_ceil(most).max(1);
    let even = raw_len.div_ceil(chunks).next_multiple_of(row);
    SpanSpec { raw_len, elem, row_elems, chunk_len: even.min(most) as u32 }
}

/// What a codec should take the bytes of a span for.
pub fn numbers(span: &SpanSpec) -> Numbers {
    let (unit_bytes, _) = span.elem.unit();
    let whole_rows = span.row_elems > 0
        && span
            .row_elems
            .checked_mul(unit_bytes.into())
            .is_some_and(|row| u64::from(span.chunk_len).is_multiple_of(row));
    let row = if whole_rows { u32::try_from(span.row_elems).unwrap_or(0) } else { 0 };
    match span.elem.name() {
        Some("F64") => Numbers::F64,
        Some("F32" | "C64") => Numbers::F32,
        Some("F16") => Numbers::F16 { row },
        Some("BF16") => Numbers::Bf16 { row },
        Some("F8_E4M3" | "F8_E5M2" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ") => Numbers::F8,
        Some("I64" | "U64") => Numbers::Integers { log2_width: 3 },
        Some("I32" | "U32") => Numbers::Integers { log2_width: 2 },
        Some("I16" | "U16") => Numbers::Integers { log2_width: 1 },
        Some("bytes") | None => Numbers::Unknown,
        Some(_) => Numbers::Integers { log2_width: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemorySource;

    fn plan_of(json: &str, data: usize) -> Plan {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes.resize(bytes.len() + data, 1);
        let plan = plan(&MemorySource::new("m", bytes.clone()), None, Mode::Balanced).unwrap();
        assert_eq!(plan.spans.iter().map(|s| s.raw_len).sum::<u64>(), bytes.len() as u64);
        assert!(plan.spans.iter().all(|s| s.raw_len > 0));
        plan
    }

    fn shown(plan: &Plan) -> Vec<(&'static str, u64, u32)> {
        plan.spans.iter().map(|s| (s.elem.name().unwrap(), s.raw_len, s.chunk_len)).collect()
    }

    #[test]
    fn long_tensors_have_their_own_span_and_short_ones_share() {
        let json = r#"{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},
            "c":{"dtype":"F32","shape":[],"data_offsets":[8,12]},"big":{"dtype":"BF16","shape":[1000,384],"data_offsets":[12,768012]},
            "hole":{"dtype":"BF16","shape":[1],"data_offsets":[768014,768016]}}"#;
        let plan = plan_of(json, 768_020);
        let head = 8 + json.len() as u64;
        // 768,000 bytes are two chunks of 500 rows of 768.
        let expected = [
            ("bytes", head, 0),
            ("BF16", 8, 8),
            ("F32", 4, 4),
            ("BF16", 768_000, 384_000),
            ("bytes", 2, 2),
            ("BF16", 2, 2),
            ("bytes", 4, 4),
        ];
        assert_eq!(shown(&plan), expected);
    }

    #[test]
    fn what_is_no_safetensors_is_plain_bytes() {
        for bytes in [vec![], vec![1, 2, 3], b"\x05\0\0\0\0\0\0\0hello".to_vec(), vec![0xff; 4000]] {
            let plan = plan(&MemorySource::new("m", bytes.clone()), Some(1 << 16), Mode::Balanced).unwrap();
            assert_eq!((plan.kind, plan.tensors.len()), (Kind::PLAIN, 0));
            assert_eq!(plan.spans.len(), usize::from(!bytes.is_empty()));
        }
    }

    #[test]
    fn chunks_hold_whole_units_and_stay_under_the_nominal_length() {
        for elem in 0..23 {
            let unit = u64::from(ElemType(elem).unit().0);
            for raw_len in [1, unit * 7, unit * 70_000, unit * 1_000_003] {
                for row in [0, 1, 5, 4096, 1 << 40, u64::MAX] {
                    let chunk_len = ChunkLen { asked: Some(65_536), mode: Mode::Storage };
                    let s = span(raw_len, ElemType(elem), row, chunk_len);
                    assert!(s.chunk_len > 0 && s.chunk_len <= 65_536);
                    assert_eq!(u64::from(s.chunk_len) % unit, 0, "{s:?}");
                }
            }
        }
    }
}
