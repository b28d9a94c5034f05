//! `bsfs verify`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use bsfs::engine::{self, Verified};
use bsfs::parallel;
use bsfs::source::{FileSource, ReadAt};
use bsfs::{Error, Result};
use clap::Args;
use serde::Serialize;

use super::exit::Exit;
use super::out::{self, open, print, without_bs};
use super::progress::Bar;
use super::size::show_size;

/// Prove that containers are sound
///
/// Decodes everything and compares every chunk's checksum, every tensor's BLAKE3 and the file's SHA-256; with
/// --source also every byte with the original. Exit status 0: all equal; 1: a difference or damage, which is named;
/// 2: it could not be found out.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Container, or a directory of which all .bs files are verified
    pub path: PathBuf,
    /// The original to compare with: a file, or for a directory the directory that it mirrors
    #[arg(long, value_name = "ORIGINAL")]
    pub source: Option<PathBuf>,
    /// Threads that decode [default: one for each core]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// Print a JSON array, one object for each file
    #[arg(long)]
    pub json: bool,
}

/// What became of one file.
#[derive(Debug, Serialize)]
struct Outcome {
    file: PathBuf,
    /// "sound", "damaged" or "error".
    state: &'static str,
    raw_bytes: Option<u64>,
    chunks: Option<u32>,
    tensors: Option<usize>,
    sha256: Option<String>,
    message: Option<String>,
}

/// Verifies everything.
pub fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let stop = out::stop_flag();
    let files = out::containers(&args.path)?;
    let pool = parallel::pool(args.threads)?;
    let total = files.iter().filter_map(|f| open(f).ok()).map(|(_, c)| c.raw_len()).sum();
    let bar = Bar::new(total, args.json);
    let mut outcomes = Vec::new();
    let mut exit = Exit::Done;
    for file in &files {
        bar.name(&file.display().to_string());
        let result = original_of(args, file).and_then(|original| verify(&pool, file, original.as_deref(), &stop, &bar));
        if matches!(result, Err(Error::Interrupted)) {
            bar.done();
            return Err(Error::Interrupted);
        }
        let outcome = outcome(file, &result);
        exit = match (exit, outcome.state) {
            (Exit::Failed, _) | (_, "error") => Exit::Failed,
            (_, "damaged") => Exit::Differs,
            (exit, _) => exit,
        };
        if !args.json {
            bar.suspend(|| match &outcome.message {
                Some(message) => {
                    out::say(message);
                    Ok(())
                }
                None => {
                    let (bytes, sha256) = (outcome.raw_bytes.unwrap_or(0), outcome.sha256.as_deref().unwrap_or(""));
                    print(&format!("{}: sound, {}, SHA-256 {sha256}\n", file.display(), show_size(bytes)))
                }
            })?;
        }
        outcomes.push(outcome);
    }
    bar.done();
    if args.json {
        out::print_json(&outcomes)?;
    }
    Ok(exit.into())
}

/// The original to compare `file` with, if one was named.
fn original_of(args: &VerifyArgs, file: &Path) -> Result<Option<PathBuf>> {
    let Some(source) = &args.source else { return Ok(None) };
    if !source.is_dir() {
        if args.path.is_dir() {
            let text = "is a file; to verify a directory, name the directory that it mirrors";
            return Err(Error::invalid(format!("{}: {text}", source.display())));
        }
        return Ok(Some(source.clone()));
    }
    let below = if args.path.is_dir() { file.strip_prefix(&args.path).ok() } else { file.file_name().map(Path::new) };
    let below = below.unwrap_or(file);
    Ok(Some(source.join(without_bs(below).unwrap_or_else(|| below.to_path_buf()))))
}

fn verify(
    pool: &rayon::ThreadPool,
    file: &Path,
    original: Option<&Path>,
    stop: &AtomicBool,
    bar: &Bar,
) -> Result<Verified> {
    let (source, container) = open(file)?;
    source.advise_sequential();
    let original = original.map(FileSource::open).transpose()?;
    let original = original.as_ref().map(|file| file as &dyn ReadAt);
    engine::verify(pool, &container, &source, original, stop, &mut |_, raw: &[u8]| {
        bar.skip(raw.len() as u64);
        Ok(())
    })
}

fn outcome(file: &Path, result: &Result<Verified>) -> Outcome {
    let sound = result.as_ref().ok();
    let state = match result {
        Ok(_) => "sound",
        Err(Error::Differs { .. } | Error::Chunk { .. } | Error::Corrupt { .. } | Error::Truncated { .. }) => "damaged",
        Err(_) => "error",
    };
    Outcome {
        file: file.to_path_buf(),
        state,
        raw_bytes: sound.map(|v| v.raw_bytes),
        chunks: sound.map(|v| v.chunks),
        tensors: sound.map(|v| v.tensors),
        sha256: sound.map(|v| v.sha256.clone()),
        message: result.as_ref().err().map(ToString::to_string),
    }
}
