//! `bsfs info`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bsfs::Result;
use bsfs::codec::{Codec, Mode};
use bsfs::compress::{DtypeReport, Sums, ratio};
use bsfs::escape::Escaped;
use bsfs::format::checksum::hex;
use bsfs::format::{ChunkId, Container, Piece};
use bsfs::source::ReadAt;
use clap::Args;
use serde::Serialize;

use super::exit::Exit;
use super::info_bases::{self, BasesInfo};
use super::info_bigsmall;
use super::opened::{Opened, open};
use super::out::{self, print, say};
use super::size::show_size;
use super::tables::{TensorRow, dtype_table, shown, tensor_tables};

/// Show sizes, ratios and dependencies of containers
///
/// Reads header, index and the first bytes of chunks, and decodes nothing. Of a directory it also says who depends on whom. Containers of the Python package bigsmall are shown
/// with the codecs that their headers name; "format" in the JSON tells them apart.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Container of either format, or a directory of which all .bs and .bsr files are shown
    pub path: PathBuf,
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
    /// Print a JSON array, one object for each file
    #[arg(long)]
    pub json: bool,
}

/// A container's row, by format.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum AnyInfo {
    Native(Info),
    BigSmall(info_bigsmall::Info),
}

impl AnyInfo {
    /// Raw and packed bytes.
    fn sizes(&self) -> (u64, u64) {
        match self {
            Self::Native(info) => (info.raw_bytes, info.packed_bytes),
            Self::BigSmall(info) => (info.raw_bytes, info.packed_bytes),
        }
    }
}

#[derive(Debug, Serialize)]
struct Info {
    file: PathBuf,
    /// Always "bsfs".
    format: &'static str,
    original_name: String,
    kind: &'static str,
    mode: &'static str,
    writer: String,
    format_version: String,
    raw_bytes: u64,
    packed_bytes: u64,
    ratio: f64,
    index_bytes: u64,
    sha256: String,
    mtime_seconds: i64,
    chunk_bytes: u32,
    chunks: u32,
    dtypes: Vec<DtypeReport>,
    codecs: Vec<CodecRow>,
    tensor_count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    bases: Option<BasesInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorRow>>,
}

#[derive(Debug, Serialize)]
struct CodecRow {
    codec: String,
    chunks: u64,
    raw_bytes: u64,
    packed_bytes: u64,
}

/// Prints what is known.
pub fn run(args: &InfoArgs) -> Result<ExitCode> {
    let (files, mut exit) = out::containers(&args.path)?;
    let mut infos = Vec::new();
    let opened: Vec<_> = files.iter().map(|file| (file, open(file))).collect();
    let natives: Vec<(&PathBuf, Arc<Container>)> = opened
        .iter()
        .filter_map(|(file, opened)| match opened {
            Ok(Opened::Native(_, container)) => Some((*file, Arc::clone(container))),
            _ => None,
        })
        .collect();
    let holders = info_bases::holders(&natives.iter().map(|(_, container)| &**container).collect::<Vec<_>>());
    let mut number = 0;
    for (file, opened) in opened {
        match opened {
            Ok(Opened::Native(source, container)) => {
                let mut rows = tensors(&container);
                shown(&mut rows, args.tensors).try_for_each(|row| find_classes(&*source, &container, row))?;
                let listed = (args.tensors && args.json).then(|| rows.clone());
                let path = |at: usize| natives.get(at).map(|(path, _)| path.as_path());
                let bases = info_bases::bases(&container, number, &holders, path);
                number += 1;
                infos.push((AnyInfo::Native(info(file, &container, bases, listed)), rows));
            }
            Ok(Opened::BigSmall(container)) => {
                container.warn();
                let rows = info_bigsmall::tensors(&container)?;
                let listed = (args.tensors && args.json).then(|| rows.clone());
                infos.push((AnyInfo::BigSmall(info_bigsmall::info(file, &container, listed)), rows));
            }
            Err(error) if files.len() == 1 => return Err(error),
            Err(error) => {
                say(&error.to_string());
                exit = exit.and(Exit::of(&error));
            }
        }
    }
    if args.json {
        let infos: Vec<AnyInfo> = infos.into_iter().map(|(info, _)| info).collect();
        out::print_json(&infos)?;
        return Ok(exit.into());
    }
    let mut text = String::new();
    for (info, tensors) in &infos {
        match info {
            AnyInfo::Native(info) => describe(&mut text, info, infos.len() > 1),
            AnyInfo::BigSmall(info) => info_bigsmall::describe(&mut text, info),
        }
        tensor_tables(&mut text, tensors, args.tensors);
    }
    if infos.len() > 1 {
        let raw: u64 = infos.iter().map(|(i, _)| i.sizes().0).sum();
        let packed: u64 = infos.iter().map(|(i, _)| i.sizes().1).sum();
        let (r, p) = (show_size(raw), show_size(packed));
        let _ = writeln!(text, "{} files: {r} → {p}, ratio {:.4}", infos.len(), ratio(raw, packed));
        let of = infos.iter().filter_map(|(info, _)| match info {
            AnyInfo::Native(info) => Some((info.file.clone(), info.bases.clone())),
            AnyInfo::BigSmall(_) => None,
        });
        info_bases::dependencies(&mut text, &of.collect::<Vec<_>>());
    }
    print(&text)?;
    Ok(exit.into())
}

fn info(file: &Path, c: &Container, bases: Option<BasesInfo>, tensors: Option<Vec<TensorRow>>) -> Info {
    let (mut dtypes, mut codecs) = (Sums::default(), BTreeMap::<u16, CodecRow>::new());
    for span in c.spans() {
        let elem = span.elem.name().unwrap_or("unknown");
        if span.is_literal() {
            dtypes.add("header", span.raw_len, 0);
        }
        for chunk in c.span_chunks(span) {
            dtypes.add(elem, u64::from(chunk.raw_len), u64::from(chunk.packed_len));
            let name = || chunk.codec().map_or_else(|| format!("codec {}", chunk.codec_id), |c| c.name().to_owned());
            let row = codecs.entry(chunk.codec_id).or_insert_with(|| CodecRow {
                codec: name(),
                chunks: 0,
                raw_bytes: 0,
                packed_bytes: 0,
            });
            row.chunks += 1;
            row.raw_bytes += u64::from(chunk.raw_len);
            row.packed_bytes += u64::from(chunk.packed_len);
        }
    }
    let (f, h) = (c.file(), c.header());
    Info {
        file: file.to_path_buf(),
        format: "bsfs",
        original_name: String::from_utf8_lossy(&f.name).into_owned(),
        kind: f.kind.name(),
        mode: Mode::name_of(f.mode).unwrap_or("unknown"),
        writer: f.writer.clone(),
        format_version: format!("1.{}", h.minor),
        raw_bytes: c.raw_len(),
        packed_bytes: h.container_len,
        ratio: ratio(c.raw_len(), h.container_len),
        index_bytes: u64::from(h.index_packed_len),
        sha256: hex(&f.sha256),
        mtime_seconds: f.mtime.0,
        chunk_bytes: c.spans().iter().map(|span| span.chunk_len).max().unwrap_or(0),
        chunks: c.chunk_count(),
        // The header lies in the index, whose length is its own line.
        dtypes: dtypes.rows().into_iter().filter(|row| row.dtype != "header").collect(),
        codecs: codecs.into_values().collect(),
        tensor_count: c.tensors().len(),
        bases,
        tensors,
    }
}

fn tensors(c: &Container) -> Vec<TensorRow> {
    let share = |chunk: &bsfs::format::Chunk, start: u64, end: u64| {
        let (a, b) = (chunk.raw_offset.max(start), (chunk.raw_offset + u64::from(chunk.raw_len)).min(end));
        b.saturating_sub(a) as f64 * f64::from(chunk.packed_len) / f64::from(chunk.raw_len)
    };
    let rows = c.tensors().iter().map(|t| {
        let end = t.raw_offset + t.raw_len;
        let (mut packed, mut codecs) = (0.0, Vec::<Codec>::new());
        let mut next = match c.locate(t.raw_offset) {
            Some(Piece::Chunk(chunk)) if t.raw_len > 0 => Some(chunk),
            _ => None,
        };
        while let Some(chunk) = next.filter(|chunk| chunk.raw_offset < end) {
            packed += share(&chunk, t.raw_offset, end);
            codecs.extend(chunk.codec());
            next = c.chunk(ChunkId(chunk.id.0 + 1));
        }
        codecs.sort();
        codecs.dedup();
        let packed_bytes = packed.round() as u64;
        TensorRow {
            name: t.name.clone(),
            dtype: t.dtype.to_string(),
            shape: t.shape.clone(),
            raw_bytes: t.raw_len,
            packed_bytes,
            ratio: ratio(t.raw_len, packed_bytes),
            codecs: codecs.iter().map(|codec| codec.name().to_owned()).collect(),
            classes: None,
            raw_offset: t.raw_offset,
            blake3: Some(hex(&t.digest)),
            md5: None,
        }
    });
    rows.collect()
}

fn describe(text: &mut String, i: &Info, listed: bool) {
    let (raw, packed) = (show_size(i.raw_bytes), show_size(i.packed_bytes));
    let _ = writeln!(text, "{}: {raw} → {packed}, ratio {:.4}", out::shown(&i.file), i.ratio);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<9} {}", Escaped(value));
    };
    line("original", format!("{} ({})", i.original_name, i.kind));
    line("SHA-256", i.sha256.clone());
    line("written", format!("by {}, mode {}, format {}", i.writer, i.mode, i.format_version));
    line(
        "chunks",
        format!("{} of up to {}; index {}", i.chunks, show_size(i.chunk_bytes.into()), show_size(i.index_bytes)),
    );
    let codecs = i.codecs.iter().map(|c| format!("{} × {}", c.chunks, c.codec));
    line("codecs", codecs.collect::<Vec<_>>().join(", "));
    if let Some(bases) = &i.bases {
        info_bases::describe(text, bases, i.raw_bytes, listed);
    }
    dtype_table(text, &i.dtypes);
}

/// Reads the number of classes from the first bytes of a tensor's chunks.
fn find_classes(source: &dyn ReadAt, c: &Container, row: &mut TensorRow) -> Result<()> {
    let end = row.raw_offset + row.raw_bytes;
    let mut at = row.raw_offset;
    while at < end {
        let Some(Piece::Chunk(chunk)) = c.locate(at) else { break };
        at = chunk.raw_offset + u64::from(chunk.raw_len);
        let mut first = [0; 4];
        let first = first.get_mut(..4.min(chunk.packed_len as usize)).unwrap_or_default();
        if let Some(codec @ (Codec::Classes | Codec::Grid)) = chunk.codec() {
            source.read_exact_at(chunk.packed_offset, first)?;
            row.classes = row.classes.max(codec.classes(first));
        }
    }
    Ok(())
}
