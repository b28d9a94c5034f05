//! What `bsfs info` knows of a container of the package `bigsmall`: its header, and nothing decoded.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bsfs::Result;
use bsfs::compress::{DtypeReport, Sums, ratio};
use bsfs::escape::Escaped;
use bsfs::foreign::bigsmall::format::{Content, Entry, Part};
use bsfs::format::checksum::hex;
use serde::Serialize;

use super::opened::BigSmall;
use super::out::shown;
use super::size::show_size;
use super::tables::{TensorRow, dtype_table};
use super::unpack::shown_path;

#[derive(Debug, Serialize)]
pub struct Info {
    file: PathBuf,
    /// Always "bigsmall".
    format: &'static str,
    /// Name of the safetensors file that it is shown as; null when the container's own name is none of a container.
    shown_name: Option<String>,
    pub raw_bytes: u64,
    pub packed_bytes: u64,
    ratio: f64,
    /// Bytes of the header that is made for the shown file.
    header_bytes: u64,
    delta: bool,
    /// Where the base was when the delta was written, as somebody typed it.
    base_model: Option<String>,
    /// Keys of `__metadata__`; null when the file that was packed had none.
    metadata_keys: Option<usize>,
    /// Tensors that only the shard index tells of, and that have the bytes of another.
    duplicates: usize,
    dtypes: Vec<DtypeReport>,
    codecs: Vec<CodecRow>,
    tensor_count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorRow>>,
}

#[derive(Debug, Serialize)]
struct CodecRow {
    codec: String,
    tensors: u64,
    raw_bytes: u64,
    packed_bytes: u64,
}

pub fn info(file: &Path, c: &BigSmall, tensors: Option<Vec<TensorRow>>) -> Info {
    let container = c.presented.container();
    let (mut dtypes, mut codecs) = (Sums::default(), BTreeMap::<String, CodecRow>::new());
    for entry in container.entries() {
        let packed = packed_len(entry);
        dtypes.add(entry.dtype, entry.raw_len, packed);
        let codec = codec(entry);
        let new = || CodecRow { codec: codec.clone(), tensors: 0, raw_bytes: 0, packed_bytes: 0 };
        let row = codecs.entry(codec.clone()).or_insert_with(new);
        row.tensors += 1;
        row.raw_bytes += entry.raw_len;
        row.packed_bytes += packed;
    }
    let shown = shown_path(file).and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()));
    let (raw_bytes, packed_bytes) = (c.presented.raw_len(), container.file_len());
    Info {
        file: file.to_path_buf(),
        format: "bigsmall",
        shown_name: shown,
        raw_bytes,
        packed_bytes,
        ratio: ratio(raw_bytes, packed_bytes),
        header_bytes: c.presented.header().len() as u64,
        delta: container.is_delta(),
        base_model: container.base_model().map(str::to_owned),
        metadata_keys: container.metadata().map(BTreeMap::len),
        duplicates: c.duplicates.len(),
        dtypes: dtypes.rows(),
        codecs: codecs.into_values().collect(),
        tensor_count: container.entries().len() + c.duplicates.len(),
        tensors,
    }
}

/// The shown file's tensors, in order of offset.
pub fn tensors(c: &BigSmall) -> Result<Vec<TensorRow>> {
    let entries: HashMap<&str, &Entry> =
        c.presented.container().entries().iter().map(|entry| (&*entry.name, entry)).collect();
    let masters: HashMap<&str, &str> = c.duplicates.iter().map(|(name, master)| (&**name, &**master)).collect();
    let rows = c.tensors()?.into_iter().map(|t| {
        let own = entries.get(&*t.name).copied();
        let of = own.or_else(|| entries.get(masters.get(&*t.name)?).copied());
        let packed = own.map_or(0, packed_len);
        TensorRow {
            raw_bytes: t.len,
            packed_bytes: packed,
            ratio: ratio(t.len, packed),
            codecs: vec![own.map_or_else(|| "duplicate".to_owned(), codec)],
            classes: None,
            blake3: None,
            md5: of.map(|entry| hex(&entry.md5)),
            raw_offset: t.offset,
            name: t.name,
            dtype: t.dtype,
            shape: t.shape,
        }
    });
    Ok(rows.collect())
}

/// Packed bytes of a tensor, its share of what it has in common with others.
fn packed_len(entry: &Entry) -> u64 {
    match &entry.content {
        Content::Blob(part) | Content::Xor(part) => part.len,
        Content::Same(_) => 0,
        Content::Slice { part, .. } => {
            (part.len as f64 * entry.raw_len as f64 / part.raw_len.max(1) as f64).round() as u64
        }
        Content::Chain { parts, count, .. } => last(parts, *count).map_or(0, |part| part.len),
    }
}

/// The part that a member of a chain adds to the one before it.
fn last(parts: &[Part], count: usize) -> Option<&Part> {
    parts.get(count.checked_sub(1)?)
}

/// The codec's name as the package has it, with the kind or the codec inside.
fn codec(entry: &Entry) -> String {
    let name = |part: &Part| {
        let kind = bsfs::foreign::bigsmall::codec::Coding::ALL.into_iter().find(|(coding, ..)| *coding == part.coding);
        match kind {
            Some((_, name, Some(kind))) => format!("{name}/{kind}"),
            _ => part.coding.name().to_owned(),
        }
    };
    match &entry.content {
        Content::Blob(part) => name(part),
        Content::Xor(_) => "zstd_xor_delta".to_owned(),
        Content::Same(_) => "tied_ref".to_owned(),
        Content::Slice { part, .. } => format!("group_stream_v1/{}", name(part)),
        Content::Chain { parts, count, .. } => {
            format!("group_stream_v1/{}", last(parts, *count).map(name).unwrap_or_default())
        }
    }
}

pub fn describe(text: &mut String, i: &Info) {
    let (raw, packed) = (show_size(i.raw_bytes), show_size(i.packed_bytes));
    let _ = writeln!(text, "{}: {raw} → {packed}, ratio {:.4}", shown(&i.file), i.ratio);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<9} {}", Escaped(value));
    };
    line("format", "bigsmall (the Python package's)".to_owned());
    line("shown as", i.shown_name.clone().unwrap_or_else(|| "nothing: its name does not end in .bs".to_owned()));
    if i.delta {
        let hint = i.base_model.as_deref().unwrap_or("");
        let hint = if hint.is_empty() { "which it does not name".to_owned() } else { format!("'{hint}' when written") };
        line("delta", format!("from a base, {hint}; --base names it"));
    }
    let keys = i.metadata_keys.map_or_else(|| "none".to_owned(), |keys| format!("{keys} keys"));
    let duplicates = match i.duplicates {
        0 => String::new(),
        n => format!(", {n} of them by the shard index"),
    };
    line("tensors", format!("{}{duplicates}; __metadata__: {keys}", i.tensor_count));
    let codecs = i.codecs.iter().map(|c| format!("{} × {}", c.tensors, c.codec));
    line("codecs", codecs.collect::<Vec<_>>().join(", "));
    dtype_table(text, &i.dtypes);
}
