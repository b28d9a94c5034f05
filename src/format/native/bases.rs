//! What chunks of a container are coded against: tensors of other files, named by digest, and earlier bytes of the file itself.

use std::sync::Arc;

use super::broken::{Broken, short};
use super::index::section;
use super::index_rows::Span;
use super::wire::{Cursor, Put, numbered};

/// Longest name and hint, bytes.
const MAX_TEXT: usize = 4096;

/// Which bytes a base is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BaseId {
    /// The original file itself, where it lies before.
    Itself,
    /// A tensor of some file: BLAKE3 of its raw bytes.
    Tensor([u8; 32]),
    /// A kind of base that this release does not know.
    Unknown(u8),
}

/// A run of bytes that chunks are coded against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseRef {
    /// Which bytes.
    pub id: BaseId,
    /// Its length, bytes.
    pub raw_len: u64,
    /// The tensor's name in its file; may be empty. A hint.
    pub name: String,
    /// The file that it was in when the container was written: the last components of a path. A hint of a stranger's machine, and a
    /// name to look for at most.
    pub hint: Arc<str>,
}

/// Which bytes of the original are coded against which of a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseRange {
    /// Offset in the original, bytes.
    pub raw_offset: u64,
    /// Length, bytes; at least 1.
    pub len: u64,
    /// Number of the base.
    pub base: u32,
    /// Offset in the base, bytes.
    pub offset: u64,
}

impl BaseRange {
    /// Offset behind the last byte, in the original.
    #[must_use]
    pub const fn raw_end(&self) -> u64 {
        self.raw_offset + self.len
    }
}

/// All that a container refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bases {
    /// What ranges name by number.
    pub refs: Vec<BaseRef>,
    /// In order of offset, without overlap.
    pub ranges: Vec<BaseRange>,
    /// What the packed chunks would take without any base, bytes, as far as the writer knows.
    pub standalone_bytes: u64,
}

impl Bases {
    /// Whether nothing is referred to.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether other files are needed.
    #[must_use]
    pub fn needs_others(&self) -> bool {
        self.refs.iter().any(|r| r.id != BaseId::Itself)
    }

    /// The parts of ranges between two offsets of the original, in order.
    pub fn within(&self, start: u64, end: u64) -> impl Iterator<Item = BaseRange> + '_ {
        let from = self.ranges.partition_point(|range| range.raw_end() <= start);
        let ranges = self.ranges.get(from..).unwrap_or_default().iter();
        ranges.take_while(move |range| range.raw_offset < end).map(move |range| {
            let (a, b) = (range.raw_offset.max(start), range.raw_end().min(end));
            BaseRange { raw_offset: a, len: b - a, base: range.base, offset: range.offset + (a - range.raw_offset) }
        })
    }

    /// The bodies of the two sections, by id.
    pub(super) fn to_sections(&self) -> [(u16, Vec<u8>); 2] {
        let (mut refs, mut ranges) = (Vec::new(), Vec::new());
        let (hints, hint_of) = numbered(self.refs.iter().map(|r| cut(&r.hint)));
        refs.put_u64(self.standalone_bytes);
        refs.put_u32(self.refs.len() as u32);
        refs.extend(self.refs.iter().map(|r| match r.id {
            BaseId::Itself => 0,
            BaseId::Tensor(_) => 1,
            BaseId::Unknown(kind) => kind,
        }));
        self.refs.iter().for_each(|r| refs.put_u64(r.raw_len));
        for r in &self.refs {
            refs.extend_from_slice(&match r.id {
                BaseId::Tensor(digest) => digest,
                BaseId::Itself | BaseId::Unknown(_) => [0; 32],
            });
        }
        hint_of.iter().for_each(|&at| refs.put_u32(at));
        self.refs.iter().for_each(|r| refs.put_u32(cut(&r.name).len() as u32));
        self.refs.iter().for_each(|r| refs.extend_from_slice(cut(&r.name).as_bytes()));
        refs.put_u32(hints.len() as u32);
        hints.iter().for_each(|hint| refs.put_u32(hint.len() as u32));
        hints.iter().for_each(|hint| refs.extend_from_slice(hint.as_bytes()));

        ranges.put_u32(self.ranges.len() as u32);
        self.ranges.iter().for_each(|r| ranges.put_u64(r.raw_offset));
        self.ranges.iter().for_each(|r| ranges.put_u64(r.len));
        self.ranges.iter().for_each(|r| ranges.put_u32(r.base));
        self.ranges.iter().for_each(|r| ranges.put_u64(r.offset));
        [(section::BASES, refs), (section::BASE_RANGES, ranges)]
    }
}

/// At most [`MAX_TEXT`] bytes of a text, cut between characters.
fn cut(text: &str) -> &str {
    (0..=text.len().min(MAX_TEXT)).rev().find_map(|len| text.get(..len)).unwrap_or_default()
}

/// Checks and parses both sections.
pub(super) fn parse(refs: &[u8], ranges: &[u8], spans: &[Span], file_len: u64) -> Result<Bases, Broken> {
    let (standalone_bytes, refs) = parse_refs(Cursor::new(refs))?;
    let ranges = parse_ranges(Cursor::new(ranges), &refs, file_len)?;
    check_itself(&refs, &ranges, spans)?;
    Ok(Bases { refs, ranges, standalone_bytes })
}

fn parse_refs(mut c: Cursor<'_>) -> Result<(u64, Vec<BaseRef>), Broken> {
    let standalone = c.u64().ok_or_else(short)?;
    let n = c.u32().ok_or_else(short)? as usize;
    let mut read = || {
        let kind = c.column::<1>(n)?.map(|[kind]| kind);
        let raw_len = c.column::<8>(n)?.map(u64::from_le_bytes);
        let digest = c.column::<32>(n)?;
        let hint = c.column::<4>(n)?.map(u32::from_le_bytes);
        let names = texts(&mut c, n)?;
        let hints = c.u32()? as usize;
        // Hints that nobody names would cost several times the memory that they take in the index.
        let hints = if hints > n { None } else { Some(texts(&mut c, hints)?) };
        Some((kind.zip(raw_len).zip(digest.zip(hint)), names, hints))
    };
    let (columns, names, hints) = read().ok_or_else(short)?;
    let hints = hints.ok_or_else(|| Broken("there are more hints than bases".into()))?;
    if let Some(long) = names.iter().chain(&hints).find(|text| text.len() > MAX_TEXT) {
        return Err(Broken(format!("a text of {} bytes, more than {MAX_TEXT}", long.len())));
    }
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| Broken("a text is not UTF-8".into()));
    // Room for all at once, whose number is checked: a list that grows would take twice as much meanwhile.
    let mut shared: Vec<Arc<str>> = Vec::with_capacity(hints.len());
    for hint in hints {
        shared.push(Arc::from(text(hint)?));
    }
    let mut refs = Vec::with_capacity(n);
    for (i, (((kind, raw_len), (digest, hint)), name)) in columns.zip(names).enumerate() {
        let id = match kind {
            0 => BaseId::Itself,
            1 => BaseId::Tensor(digest),
            other => BaseId::Unknown(other),
        };
        let hint = shared.get(hint as usize).ok_or_else(|| Broken(format!("base {i} has an unknown hint")))?;
        refs.push(BaseRef { id, raw_len, name: text(name)?.to_owned(), hint: Arc::clone(hint) });
    }
    Ok((standalone, refs))
}

/// `n` texts: their lengths, then their bytes.
fn texts<'a>(c: &mut Cursor<'a>, n: usize) -> Option<Vec<&'a [u8]>> {
    let lens = c.column::<4>(n)?.map(|len| u32::from_le_bytes(len) as usize);
    let mut texts = Vec::with_capacity(n);
    for len in lens {
        texts.push(c.bytes(len)?);
    }
    Some(texts)
}

fn parse_ranges(mut c: Cursor<'_>, refs: &[BaseRef], file_len: u64) -> Result<Vec<BaseRange>, Broken> {
    let n = c.u32().ok_or_else(short)? as usize;
    let mut read = || {
        let raw_offset = c.column::<8>(n)?.map(u64::from_le_bytes);
        let len = c.column::<8>(n)?.map(u64::from_le_bytes);
        let base = c.column::<4>(n)?.map(u32::from_le_bytes);
        let offset = c.column::<8>(n)?.map(u64::from_le_bytes);
        Some(raw_offset.zip(len).zip(base.zip(offset)))
    };
    let columns = read().ok_or_else(short)?;
    let mut ranges = Vec::with_capacity(n);
    let mut end = 0;
    for (i, ((raw_offset, len), (base, offset))) in columns.enumerate() {
        let broken = |rule: &str| Broken(format!("range {i} {rule}"));
        if len == 0 || raw_offset < end {
            return Err(broken("is empty or overlaps the one before"));
        }
        end =
            raw_offset.checked_add(len).filter(|&end| end <= file_len).ok_or_else(|| broken("ends beyond the file"))?;
        let of = refs.get(base as usize).ok_or_else(|| broken(&format!("is of base {base}, which there is not")))?;
        if offset.checked_add(len).is_none_or(|end| end > of.raw_len) {
            return Err(broken(&format!("ends beyond its base of {} bytes", of.raw_len)));
        }
        ranges.push(BaseRange { raw_offset, len, base, offset });
    }
    Ok(ranges)
}

/// A range of the file itself lies in chunks that are before the chunk that refers to it, and none of which refers to the file
/// itself: so decoding ends.
fn check_itself(refs: &[BaseRef], ranges: &[BaseRange], spans: &[Span]) -> Result<(), Broken> {
    let itself = |range: &BaseRange| refs.get(range.base as usize).is_some_and(|r| r.id == BaseId::Itself);
    let own: Vec<&BaseRange> = ranges.iter().filter(|range| itself(range)).collect();
    for range in &own {
        let broken = |rule: &str| Broken(format!("the range at {} refers to the file itself {rule}", range.raw_offset));
        let (from, to) = (chunk_around(spans, range.offset), chunk_around(spans, range.offset + range.len - 1));
        let (Some((start, _)), Some((_, end))) = (from, to) else { return Err(broken("beyond its end")) };
        if chunk_around(spans, range.raw_offset).is_none_or(|(begin, _)| end > begin) {
            return Err(broken(&format!("at {}, which is not before it", range.offset)));
        }
        // The first one that ends behind `start`.
        let at = own.partition_point(|other| other.raw_end() <= start);
        if own.get(at).is_some_and(|other| other.raw_offset < end) {
            return Err(broken(&format!("at {}, which refers to the file itself", range.offset)));
        }
    }
    Ok(())
}

/// Where the chunk, or the literal span, that holds an offset begins and ends.
fn chunk_around(spans: &[Span], offset: u64) -> Option<(u64, u64)> {
    let span = spans.get(spans.partition_point(|span| span.raw_end() <= offset))?;
    if span.is_literal() {
        return Some((span.raw_offset, span.raw_end()));
    }
    let len = u64::from(span.chunk_len);
    let start = span.raw_offset + (offset - span.raw_offset) / len * len;
    Some((start, (start + len).min(span.raw_end())))
}
