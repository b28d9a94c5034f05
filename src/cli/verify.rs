//! `bsfs verify`

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bsfs::engine::{self, BaseFile, Engine, Finder, Verified, Whole};
use bsfs::foreign::bigsmall::format::SHARD_INDEX;
use bsfs::longpath;
use bsfs::parallel;
use bsfs::source::{FileSource, ReadAt};
use bsfs::tensor::{Header, TensorInfo};
use bsfs::{Error, Result};
use clap::Args;
use serde::Serialize;

use super::base::BaseArg;
use super::exit::Exit;
use super::numbers;
use super::opened::{self, BigSmall, Opened, open};
use super::out::{self, print, without_bs};
use super::progress::Bar;
use super::shards::{Shards, directory};
use super::size::show_size;
use super::unpack::shown_path;

/// Check containers for damage
///
/// Decodes everything and compares every chunk's checksum, every tensor's BLAKE3 and the file's SHA-256; with
/// --source also every byte with the original. Exit status 0: all equal; 1: a difference or damage, which is named;
/// 2: it could not be found out.
///
/// A container of the Python package bigsmall has an MD5 for each tensor and nothing else; --source then compares the tensors of
/// the original by name, as its header is not kept. A delta needs its base. For a directory with a bigsmall.index.json the
/// shards that it lists must be there.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Container of either format, or a directory of which all .bs and .bsr files are verified
    pub path: PathBuf,
    /// The original to compare with: a file, or for a directory the directory that it mirrors
    #[arg(long, value_name = "ORIGINAL")]
    pub source: Option<PathBuf>,
    #[command(flatten)]
    pub base: BaseArg,
    /// Threads that decode, up to 1024 [default: one for each core]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = numbers::threads())]
    pub threads: usize,
    /// Print a JSON array, one object for each file
    #[arg(long)]
    pub json: bool,
}

/// What became of one file.
#[derive(Debug, Serialize)]
struct Outcome {
    file: PathBuf,
    /// "bsfs" or "bigsmall"; null when the file could not be opened.
    format: Option<&'static str>,
    /// "sound", "damaged" or "error".
    state: &'static str,
    raw_bytes: Option<u64>,
    chunks: Option<u32>,
    tensors: Option<usize>,
    sha256: Option<String>,
    /// The original that every byte, or every tensor, was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<PathBuf>,
    message: Option<String>,
}

/// A sound container.
enum Sound {
    Native(Verified),
    BigSmall { raw_bytes: u64, tensors: usize },
}

/// Verifies everything.
pub fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let stop = out::stop_flag();
    let (files, mut exit) = out::containers(&args.path)?;
    if let Some(source) = &args.source {
        let found = longpath::metadata(source).map_err(Error::io("open", source))?;
        if longpath::is_dir(&args.path) && !found.is_dir() {
            let text = "is a file; to verify a directory, name the directory that it mirrors";
            return Err(Error::invalid(format!("{}: {text}", source.display())));
        }
    }
    let (pool, engine) = (parallel::pool(args.threads)?, opened::engine(args.threads));
    let tools = Tools { pool, engine, finder: args.base.finder(&args.path)?, stop: &stop };
    let total = files.iter().filter_map(|f| open(f).ok()).map(|opened| opened.raw_len()).sum();
    let bar = Bar::new(total, args.json);
    let mut outcomes = Vec::new();
    let mut judge = |outcome: Outcome, of: Exit| -> Result<()> {
        exit = match outcome.state {
            "error" => exit.and(of),
            "damaged" => exit.and(Exit::Differs),
            _ => exit,
        };
        if !args.json {
            bar.suspend(|| show(&outcome))?;
        }
        outcomes.push(outcome);
        Ok(())
    };
    for file in &files {
        bar.name(&file.display().to_string());
        let original = original_of(args, file);
        let compared = original.as_ref().ok().cloned().flatten();
        let result = original.and_then(|original| verify(args, &tools, file, original.as_deref(), &bar));
        if matches!(result, Err(Error::Interrupted)) {
            bar.done();
            return Err(Error::Interrupted);
        }
        let source = compared.filter(|_| result.is_ok());
        judge(Outcome { source, ..outcome(file, &result) }, result.as_ref().err().map_or(Exit::Done, Exit::of))?;
    }
    if longpath::is_dir(&args.path) {
        indexes(&files).into_iter().try_for_each(|outcome| judge(outcome, Exit::Failed))?;
    }
    bar.done();
    if args.json {
        out::print_json(&outcomes)?;
    }
    Ok(exit.into())
}

fn show(outcome: &Outcome) -> Result<()> {
    if let Some(message) = &outcome.message {
        out::say(message);
        return Ok(());
    }
    let bytes = show_size(outcome.raw_bytes.unwrap_or(0));
    let proof = match &outcome.sha256 {
        Some(sha256) => format!("SHA-256 {sha256}"),
        None => format!("{} tensors, the MD5 of each", outcome.tensors.unwrap_or(0)),
    };
    let same = match (&outcome.source, outcome.format) {
        (Some(source), Some("bigsmall")) => format!(", the same tensors as {}", out::shown(source)),
        (Some(source), _) => format!(", the same bytes as {}", out::shown(source)),
        (None, _) => String::new(),
    };
    print(&format!("{}: sound, {bytes}, {proof}{same}\n", out::shown(&outcome.file)))
}

/// What is wrong with the shard indexes beside `files`.
fn indexes(files: &[PathBuf]) -> Vec<Outcome> {
    let mut dirs: Vec<&Path> = files.iter().map(|file| directory(file)).collect();
    // Files of a directory and of those below it lie among each other.
    dirs.sort();
    dirs.dedup();
    let wrong = |dir: &Path| match Shards::of(dir) {
        Ok(None) => None,
        Ok(Some(shards)) => {
            let lost = shards.missing().into_iter().next()?;
            let name = lost.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Some(Error::corrupt(shards.path(), "shard index", format!("it lists {name}, which is not there")))
        }
        Err(error) => Some(error),
    };
    dirs.into_iter().filter_map(|dir| Some(outcome(&dir.join(SHARD_INDEX), &Err(wrong(dir)?)))).collect()
}

/// The original to compare `file` with, if one was named.
fn original_of(args: &VerifyArgs, file: &Path) -> Result<Option<PathBuf>> {
    let Some(source) = &args.source else { return Ok(None) };
    if !longpath::is_dir(source) {
        return Ok(Some(source.clone()));
    }
    let below =
        if longpath::is_dir(&args.path) { file.strip_prefix(&args.path).ok() } else { file.file_name().map(Path::new) };
    let below = below.unwrap_or(file);
    let name = match open(file)? {
        Opened::Native(..) => without_bs(below),
        Opened::BigSmall(_) => shown_path(below),
    };
    Ok(Some(source.join(name.unwrap_or_else(|| below.to_path_buf()))))
}

/// What verifying takes.
struct Tools<'a> {
    pool: rayon::ThreadPool,
    engine: Arc<Engine>,
    /// One for all files: what it read of the directory serves them all.
    finder: Arc<Finder>,
    stop: &'a AtomicBool,
}

fn verify(args: &VerifyArgs, tools: &Tools<'_>, file: &Path, original: Option<&Path>, bar: &Bar) -> Result<Sound> {
    let original = original.map(FileSource::open).transpose()?;
    match open(file)? {
        Opened::Native(source, container) => {
            source.advise_sequential();
            let original = original.as_ref().map(|file| file as &dyn ReadAt);
            let take = &mut |_, raw: &[u8]| {
                bar.skip(raw.len() as u64);
                Ok(())
            };
            let references = tools.finder.references(&tools.engine, &container, source.identity());
            if let Some(references) = &references {
                references.complete(&container)?;
            }
            let whole = Whole { container: &container, source: &*source, references: references.as_deref() };
            engine::verify(&tools.pool, whole, original, tools.stop, take).map(Sound::Native)
        }
        Opened::BigSmall(container) => {
            container.warn();
            let base = args.base.find(&tools.engine, &tools.finder, &container)?;
            let source: Arc<dyn ReadAt> = Arc::clone(&container.source) as _;
            let (file, from) = (container.presented.clone(), (source, base.clone()));
            tools.engine.verify_foreign(&tools.pool, file, from, tools.stop, &mut |bytes| bar.skip(bytes))?;
            if let Some(original) = original {
                same_tensors(tools, &container, base, &original)?;
            }
            let (raw_bytes, tensors) = (container.presented.raw_len(), container.tensors()?.len());
            Ok(Sound::BigSmall { raw_bytes, tensors })
        }
    }
}

/// Compares the tensors of a container, by name, with those of a safetensors file.
fn same_tensors(
    tools: &Tools<'_>,
    container: &BigSmall,
    base: Option<Arc<BaseFile>>,
    original: &FileSource,
) -> Result<()> {
    let path = container.source.path();
    let differs =
        |what: String, expected: String, got: String| Error::Differs { path: path.into(), what, expected, got };
    original.check_end()?;
    let theirs = header_of(original)?.tensors;
    let ours = container.tensors()?;
    let known: HashSet<&str> = ours.iter().map(|own| &*own.name).collect();
    if let Some(lost) = theirs.iter().find(|t| !known.contains(&*t.name)) {
        return Err(differs(
            format!("tensor '{}' of {}", lost.name, original.path().display()),
            lost.dtype.clone(),
            "none".into(),
        ));
    }
    let image = tools.engine.foreign(container.presented.clone(), container.source.clone(), base);
    let by_name: HashMap<&str, &TensorInfo> = theirs.iter().map(|t| (&*t.name, t)).collect();
    let mut next = ours.iter();
    let compare = |own: &TensorInfo| -> Result<()> {
        let name = || format!("tensor '{}' of {}", own.name, original.path().display());
        let kind = |t: &TensorInfo| format!("{} {:?}", t.dtype, t.shape);
        let Some(of) = by_name.get(&*own.name) else { return Err(differs(name(), "none".into(), kind(own))) };
        if kind(of) != kind(own) {
            return Err(differs(name(), kind(of), kind(own)));
        }
        let (mut a, mut b, mut at) = (Vec::new(), Vec::new(), 0);
        while at < own.len {
            if tools.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let step = (own.len - at).min(512 << 10) as usize;
            a.resize(step, 0);
            b.resize(step, 0);
            image.read_exact_at(path, own.offset + at, &mut a)?;
            original.read_exact_at(of.offset + at, &mut b)?;
            if let Some((i, (got, expected))) = a.iter().zip(&b).enumerate().find(|(_, (a, b))| a != b) {
                let what = format!("byte {} of {}", at + i as u64, name());
                return Err(differs(what, format!("{expected:#04x}"), format!("{got:#04x}")));
            }
            at += step as u64;
        }
        Ok(())
    };
    let window = 2 * tools.pool.current_num_threads();
    parallel::ordered(&tools.pool, window, || Ok(next.next()), compare, |()| Ok(()))
}

fn header_of(file: &FileSource) -> Result<Header> {
    let no = || Error::invalid(format!("{}: not a safetensors file", file.path().display()));
    let mut first = [0; 8];
    if file.len() < 8 {
        return Err(no());
    }
    file.read_exact_at(0, &mut first)?;
    let mut json = vec![0; Header::json_len(first, file.len()).ok_or_else(no)? as usize];
    file.read_exact_at(8, &mut json)?;
    Header::parse(&json, file.len()).ok_or_else(no)
}

fn outcome(file: &Path, result: &Result<Sound>) -> Outcome {
    let native = match result {
        Ok(Sound::Native(verified)) => Some(verified),
        _ => None,
    };
    let (raw_bytes, tensors) = match result {
        Ok(Sound::Native(verified)) => (Some(verified.raw_bytes), Some(verified.tensors)),
        Ok(Sound::BigSmall { raw_bytes, tensors }) => (Some(*raw_bytes), Some(*tensors)),
        Err(_) => (None, None),
    };
    let format = open(file).ok().map(|opened| match opened {
        Opened::Native(..) => "bsfs",
        Opened::BigSmall(_) => "bigsmall",
    });
    let state = match result {
        Ok(_) => "sound",
        Err(Error::Differs { .. } | Error::Chunk { .. } | Error::Corrupt { .. } | Error::Truncated { .. }) => "damaged",
        Err(_) => "error",
    };
    Outcome {
        file: file.to_path_buf(),
        format,
        state,
        raw_bytes,
        chunks: native.map(|v| v.chunks),
        tensors,
        sha256: native.map(|v| v.sha256.clone()),
        source: None,
        message: result.as_ref().err().map(ToString::to_string),
    }
}
