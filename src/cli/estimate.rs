//! `bsfs estimate`

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bsfs::compress::{self, Entry, Estimate, Options, ratio};
use bsfs::longpath;
use bsfs::parallel;
use bsfs::source::FileSource;
use bsfs::{Error, Result};
use clap::Args;
use serde::Serialize;

use super::doubt;
use super::exit::Exit;
use super::optimise::Work;
use super::out::{self, print, row, say, shorten};
use super::progress::Bar;
use super::size::show_size;

/// The shortest files are compressed whole, up to so many raw bytes of them: few chunks tell little of few others.
const WHOLE: u64 = 256 << 20;
/// How far off the estimate of all files may be, part of their raw bytes.
const MARGIN: f64 = 0.0025;
/// How far off that of one of many files may be, at most.
const MOST: f64 = 0.02;

/// Estimate how much space compression would save
///
/// Compresses a sample, spread over all files and all of each, and writes nothing: as much as it takes for the ratio of all files
/// to be within 0.25 points, and files of 256 MiB together whole. Takes the files that "bsfs compress" would: of a directory the
/// .safetensors files, links followed. Bases and tensors that occur twice are not considered.
#[derive(Debug, Args)]
pub struct EstimateArgs {
    /// Files or directories
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub work: Work,
}

/// One file.
#[derive(Debug, Serialize)]
pub struct Row {
    pub path: PathBuf,
    #[serde(flatten)]
    pub estimate: Estimate,
}

/// All that is printed.
#[derive(Debug, Serialize)]
struct Summary {
    files: Vec<Row>,
    raw_bytes: u64,
    packed_bytes: u64,
    ratio: f64,
    sampled_bytes: u64,
}

/// Estimates and prints.
pub fn run(args: &EstimateArgs) -> Result<ExitCode> {
    let stop = out::stop_flag();
    let (mut files, mut exit): (Vec<(PathBuf, u64)>, _) = (Vec::new(), Exit::Done);
    let mut found: Vec<(PathBuf, u64)> = Vec::new();
    for path in &args.paths {
        let meta = longpath::metadata(path).map_err(Error::io("open", path))?;
        if !meta.is_dir() {
            files.push((path.clone(), meta.len()));
            continue;
        }
        let tree = compress::walk(path, None)?;
        exit = exit.and(out::left_out(&tree.errors));
        found.extend(tree.entries.into_iter().filter_map(|entry| match entry {
            Entry::Compress { path: below, len } => Some((path.join(below), len)),
            Entry::Copy { .. } | Entry::Link { .. } => None,
        }));
    }
    files.iter().for_each(|(path, _)| doubt::say_packed(path, false));
    found.iter().for_each(|(path, _)| doubt::say_packed(path, true));
    files.extend(found);
    if files.is_empty() {
        let text =
            "no .safetensors file in what you named or below it; a file that you name is taken whatever it is called";
        return Err(Error::invalid(text));
    }
    let pool = parallel::pool(args.work.threads)?;
    let (mode, chunk_len) = (args.work.optimise.mode(), args.work.optimise.chunk_len());
    let options = Options { mode, chunk_len, force: false, against: None, stop: &stop };
    let bar = Bar::new(files.iter().map(|(_, len)| len).sum(), args.work.json);
    let (rows, errors) = estimates(&pool, &files, &options, &bar)?;
    bar.done();
    for error in &errors {
        say(&error.to_string());
    }
    let sum = |of: fn(&Estimate) -> u64| rows.iter().map(|row| of(&row.estimate)).sum::<u64>();
    let (raw_bytes, packed_bytes) = (sum(|e| e.raw_bytes), sum(|e| e.packed_bytes));
    let ratio = ratio(raw_bytes, packed_bytes);
    let summary = Summary { raw_bytes, packed_bytes, ratio, sampled_bytes: sum(|e| e.sampled_bytes), files: rows };
    if args.work.json {
        out::print_json(&summary)?;
    } else {
        print(&describe(&summary))?;
    }
    Ok(errors.iter().map(Exit::of).fold(exit, Exit::and).into())
}

/// What each of `files`, paths and lengths, would become; those that cannot be read are errors.
pub fn estimates(
    pool: &rayon::ThreadPool,
    files: &[(PathBuf, u64)],
    options: &Options<'_>,
    bar: &Bar,
) -> Result<(Vec<Row>, Vec<Error>)> {
    let all: u64 = files.iter().map(|(_, len)| len).sum();
    let mut shortest: Vec<(u64, &PathBuf)> = files.iter().map(|(path, len)| (*len, path)).collect();
    shortest.sort_unstable();
    let mut sum = 0_u64;
    shortest.retain(|(len, _)| {
        sum = sum.saturating_add(*len);
        sum <= WHOLE
    });
    let whole: HashSet<&PathBuf> = shortest.into_iter().map(|(_, path)| path).collect();
    let (mut rows, mut errors) = (Vec::new(), Vec::new());
    for (path, len) in files {
        bar.name(&path.display().to_string());
        // Doubts about several files partly cancel each other out, as their squares add up.
        let part = (all as f64 / (*len).max(1) as f64).sqrt();
        let margin = if whole.contains(path) { 0.0 } else { (MARGIN * part).min(MOST.max(MARGIN)) };
        match one(pool, path, options, margin) {
            Ok(estimate) => rows.push(Row { path: path.clone(), estimate }),
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => errors.push(error),
        }
        bar.skip(*len);
    }
    Ok((rows, errors))
}

fn one(pool: &rayon::ThreadPool, path: &Path, options: &Options<'_>, margin: f64) -> Result<Estimate> {
    compress::estimate(pool, &FileSource::open(path)?, options, margin)
}

fn describe(s: &Summary) -> String {
    let mut text = row("file", 40, &["raw".into(), "packed".into(), "ratio".into()]);
    let line = |name: &str, raw: u64, packed: u64, ratio: f64| {
        row(&shorten(name, 40), 40, &[show_size(raw), show_size(packed), format!("{ratio:.4}")])
    };
    for file in &s.files {
        let Estimate { raw_bytes, packed_bytes, ratio, .. } = file.estimate;
        text += &line(&file.path.display().to_string(), raw_bytes, packed_bytes, ratio);
    }
    if s.files.len() != 1 {
        text += &line("all", s.raw_bytes, s.packed_bytes, s.ratio);
    }
    let saved = show_size(s.raw_bytes.saturating_sub(s.packed_bytes));
    text + &format!("about {saved} less, by {} that were compressed to see\n", show_size(s.sampled_bytes))
}
