//! `bsfs info`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bsfs::Result;
use bsfs::codec::{Codec, Mode};
use bsfs::compress::{DtypeReport, Sums, ratio};
use bsfs::format::checksum::hex;
use bsfs::format::{ChunkId, Container, Piece};
use clap::Args;
use serde::Serialize;

use super::exit::Exit;
use super::out::{self, open, print, row, say, shorten};
use super::size::show_size;

/// Show what is in containers
///
/// Reads header and index only, and decodes nothing.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Container, or a directory of which all .bs files are shown
    pub path: PathBuf,
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
    /// Print a JSON array, one object for each file
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Serialize)]
struct Info {
    file: PathBuf,
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
    tensors: Option<Vec<TensorRow>>,
}

#[derive(Debug, Serialize)]
struct CodecRow {
    codec: String,
    chunks: u64,
    raw_bytes: u64,
    packed_bytes: u64,
}

#[derive(Debug, Clone, Serialize)]
struct TensorRow {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    raw_bytes: u64,
    /// Its share of the chunks that it lies in.
    packed_bytes: u64,
    ratio: f64,
    codecs: Vec<&'static str>,
    blake3: String,
}

/// Prints what is known.
pub fn run(args: &InfoArgs) -> Result<ExitCode> {
    let files = out::containers(&args.path)?;
    let mut exit = Exit::Done;
    let mut infos = Vec::new();
    for file in &files {
        match open(file) {
            Ok((_, container)) => {
                let rows = tensors(&container);
                let listed = (args.tensors && args.json).then(|| rows.clone());
                infos.push((info(file, &container, listed), rows));
            }
            Err(error) if files.len() == 1 => return Err(error),
            Err(error) => {
                say(&error.to_string());
                exit = Exit::of(&error);
            }
        }
    }
    if args.json {
        let infos: Vec<Info> = infos.into_iter().map(|(info, _)| info).collect();
        out::print_json(&infos)?;
        return Ok(exit.into());
    }
    let mut text = String::new();
    for (info, tensors) in &infos {
        text += &describe(info, tensors, args.tensors);
    }
    if infos.len() > 1 {
        let raw: u64 = infos.iter().map(|(i, _)| i.raw_bytes).sum();
        let packed: u64 = infos.iter().map(|(i, _)| i.packed_bytes).sum();
        let (r, p) = (show_size(raw), show_size(packed));
        let _ = writeln!(text, "{} files: {r} → {p}, ratio {:.4}", infos.len(), ratio(raw, packed));
    }
    print(&text)?;
    Ok(exit.into())
}

fn info(file: &Path, c: &Container, tensors: Option<Vec<TensorRow>>) -> Info {
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
        chunk_bytes: f.chunk_len,
        chunks: c.chunk_count(),
        // The header lies in the index, whose length is its own line.
        dtypes: dtypes.rows().into_iter().filter(|row| row.dtype != "header").collect(),
        codecs: codecs.into_values().collect(),
        tensor_count: c.tensors().len(),
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
            codecs: codecs.iter().map(|codec| codec.name()).collect(),
            blake3: hex(&t.digest),
        }
    });
    rows.collect()
}

fn describe(i: &Info, tensors: &[TensorRow], list: bool) -> String {
    let (raw, packed) = (show_size(i.raw_bytes), show_size(i.packed_bytes));
    let mut text = format!("{}: {raw} → {packed}, ratio {:.4}\n", i.file.display(), i.ratio);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<9} {value}");
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
    if !i.dtypes.is_empty() {
        text += &row("dtype", 12, &["raw".into(), "packed".into(), "ratio".into()]);
    }
    for d in &i.dtypes {
        let cells = [show_size(d.raw_bytes), show_size(d.packed_bytes), format!("{:.4}", d.ratio)];
        text += &row(&d.dtype, 12, &cells);
    }
    if list {
        tensor_table(&mut text, &format!("{} tensors", tensors.len()), tensors);
        return text;
    }
    let mut ranked: Vec<TensorRow> = tensors.iter().filter(|t| t.raw_bytes > 0).cloned().collect();
    ranked.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
    if ranked.len() <= 10 {
        tensor_table(&mut text, "tensors, best first", &ranked);
        return text;
    }
    let (best, rest) = ranked.split_at(5);
    tensor_table(&mut text, "best five tensors", best);
    tensor_table(&mut text, "worst five tensors", rest.get(rest.len() - 5..).unwrap_or(rest));
    text
}

fn tensor_table(text: &mut String, title: &str, tensors: &[TensorRow]) {
    if tensors.is_empty() {
        return;
    }
    let width = tensors.iter().map(|t| t.name.chars().count()).max().unwrap_or(0).clamp(title.len(), 50);
    *text += &row(title, width, &["dtype".into(), "raw".into(), "ratio".into(), "codecs".into()]);
    for t in tensors {
        let codecs = t.codecs.join("+");
        *text += &row(
            &shorten(&t.name, width),
            width,
            &[t.dtype.clone(), show_size(t.raw_bytes), format!("{:.4}", t.ratio), codecs],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(shorten("model.layers.0.weight", 10), "….0.weight");
    }
}
