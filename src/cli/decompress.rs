//! `bsfs decompress`

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bsfs::compress::Progress;
use bsfs::engine;
use bsfs::parallel;
use bsfs::sink::AtomicFile;
use bsfs::{Error, Result};
use clap::Args;

use super::exit::Exit;
use super::out::{self, open, print, say, without_bs};
use super::progress::Bar;
use super::size::show_size;

/// Write the original file of a container, byte for byte
///
/// NAME.bs becomes NAME beside it, or the file or directory given with --output. Every chunk, every tensor and the
/// whole file are checked before the output appears under its name. The modification time is the original's.
#[derive(Debug, Args)]
pub struct DecompressArgs {
    /// Container, or a directory of which all .bs files are decompressed
    pub input: PathBuf,
    /// File to write, or directory [default: beside the container, without .bs]
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Replace outputs that exist already
    #[arg(short, long)]
    pub force: bool,
    /// Threads that decompress [default: one for each core]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
}

/// Decompresses everything.
pub fn run(args: &DecompressArgs) -> Result<ExitCode> {
    let stop = out::stop_flag();
    let is_dir = args.input.is_dir();
    let inputs = out::containers(&args.input)?;
    let mut tasks = Vec::new();
    for input in inputs {
        let output = output_of(args, is_dir, &input)?;
        if !args.force && output.symlink_metadata().is_ok() {
            return Err(Error::Exists { path: output });
        }
        let len = match open(&input) {
            Ok((_, container)) => container.raw_len(),
            Err(error) if is_dir => {
                say(&format!("{error}; left out"));
                tasks.push((input, output, None));
                continue;
            }
            Err(error) => return Err(error),
        };
        tasks.push((input, output, Some(len)));
    }
    let pool = parallel::pool(args.threads)?;
    let bar = Bar::new(tasks.iter().filter_map(|t| t.2).sum(), false);
    let mut exit = Exit::Done;
    for (input, output, len) in &tasks {
        let Some(len) = len else {
            exit = Exit::Failed;
            continue;
        };
        bar.name(&input.display().to_string());
        let started = Instant::now();
        match decompress(&pool, input, output, args.force, &stop, &bar) {
            Ok(()) => {
                let seconds = started.elapsed().as_secs_f64();
                let speed = *len as f64 / 1e6 / seconds.max(1e-9);
                let line = format!("{}: {}, {seconds:.2} s ({speed:.0} MB/s)\n", output.display(), show_size(*len));
                bar.suspend(|| print(&line))?;
            }
            Err(error) if tasks.len() == 1 || matches!(error, Error::Interrupted) => {
                bar.done();
                return Err(error);
            }
            Err(error) => {
                bar.say(&error.to_string());
                exit = Exit::of(&error);
            }
        }
    }
    bar.done();
    Ok(exit.into())
}

fn output_of(args: &DecompressArgs, is_dir: bool, input: &Path) -> Result<PathBuf> {
    let Some(out) = &args.output else {
        return without_bs(input).ok_or_else(|| {
            Error::invalid(format!("{}: the name does not end in .bs; say with -o what to write", input.display()))
        });
    };
    if is_dir {
        let below = input.strip_prefix(&args.input).unwrap_or(input);
        let output = without_bs(&out.join(below)).unwrap_or_else(|| out.join(below));
        let dir = output.parent().unwrap_or(out);
        fs::create_dir_all(dir).map_err(Error::io("create directory", dir))?;
        return Ok(output);
    }
    if out.is_dir() {
        let name = input.file_name().map(PathBuf::from).unwrap_or_default();
        return Ok(out.join(without_bs(&name).unwrap_or(name)));
    }
    Ok(out.clone())
}

fn decompress(
    pool: &rayon::ThreadPool,
    input: &Path,
    output: &Path,
    force: bool,
    stop: &AtomicBool,
    bar: &Bar,
) -> Result<()> {
    let (source, container) = open(input)?;
    source.advise_sequential();
    let mut file = AtomicFile::create(output, force)?;
    let same = fs::canonicalize(input).is_ok_and(|a| fs::canonicalize(output).is_ok_and(|b| a == b));
    if same {
        return Err(Error::invalid(format!("{}: input and output are the same file", output.display())));
    }
    engine::verify(pool, &container, &source, None, stop, &mut |_, raw: &[u8]| {
        file.write_all(raw).map_err(Error::io("write", output))?;
        bar.advance(raw.len() as u64, 0);
        Ok(())
    })?;
    let (seconds, nanoseconds) = container.mtime();
    file.set_modified_at(seconds, nanoseconds)?;
    file.publish()
}
