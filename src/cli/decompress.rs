//! `bsfs decompress`

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bsfs::compress::Progress;
use bsfs::engine::{self, Engine, Whole};
use bsfs::parallel;
use bsfs::sink::AtomicFile;
use bsfs::source::ReadAt;
use bsfs::{Error, Result};
use clap::Args;

use super::base::BaseArg;
use super::exit::Exit;
use super::numbers;
use super::opened::{self, Opened, open};
use super::out::{self, print, say, without_bs};
use super::progress::Bar;
use super::replace;
use super::shards;
use super::size::show_size;
use super::unpack::{shown_path, unpack};

/// Write the original file of a container, byte for byte
///
/// NAME.bs becomes NAME beside it, or the file or directory given with --output. Every chunk, every tensor and the
/// whole file are checked before the output appears under its name. The modification time is the original's.
///
/// A container of the Python package bigsmall holds tensors and not the file they came from: NAME.bs (or .bsr) becomes
/// NAME.safetensors, the same tensors with a header that is always the same for the same container. The MD5 of each tensor is
/// checked. Beside its shards, model.safetensors.index.json is written if there is none.
///
/// With --replace each container (of bsfs) is removed once the original, beside it, was read back from the disk and has the
/// SHA-256 that the container tells: the way back from "bsfs compress --replace", with the same promises.
#[derive(Debug, Args)]
pub struct DecompressArgs {
    /// Container of either format, or a directory of which all .bs and .bsr files are decompressed
    pub input: PathBuf,
    /// File to write, or directory [default: beside the container, without .bs]
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Replace outputs that exist already
    #[arg(short, long)]
    pub force: bool,
    /// Remove each container once its original, beside it, was proven; asks before
    #[arg(long, conflicts_with = "output")]
    pub replace: bool,
    /// Do not ask
    #[arg(short, long, requires = "replace")]
    pub yes: bool,
    #[command(flatten)]
    pub base: BaseArg,
    /// Threads that decompress, up to 1024 [default: one for each core]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = numbers::threads())]
    pub threads: usize,
}

/// A container to be decompressed.
struct Task {
    input: PathBuf,
    output: PathBuf,
    raw_len: u64,
}

/// Decompresses everything.
pub fn run(args: &DecompressArgs) -> Result<ExitCode> {
    if args.replace {
        return replace::decompress(args);
    }
    let stop = out::stop_flag();
    let mut exit = Exit::Done;
    let tasks = plan(args, &mut exit)?;
    let pool = parallel::pool(args.threads)?;
    let engine = opened::engine(args.threads);
    let bar = Bar::new(tasks.iter().map(|task| task.raw_len).sum(), false);
    let mut shards = shards::Progress::default();
    for task in &tasks {
        bar.name(&task.input.display().to_string());
        let started = Instant::now();
        match decompress(args, (&pool, &engine), task, &stop, &bar) {
            Ok(bytes_of_shard) => {
                if let Some(bytes) = bytes_of_shard {
                    shards.done(&task.input, &task.output, bytes);
                }
                let seconds = started.elapsed().as_secs_f64();
                let speed = task.raw_len as f64 / 1e6 / seconds.max(1e-9);
                let (output, size) = (out::shown(&task.output), show_size(task.raw_len));
                bar.suspend(|| print(&format!("{output}: {size}, {seconds:.2} s ({speed:.0} MB/s)\n")))?;
            }
            Err(error) if tasks.len() == 1 || matches!(error, Error::Interrupted) => {
                bar.done();
                return Err(error);
            }
            Err(error) => {
                bar.say(&error.to_string());
                exit = exit.and(Exit::of(&error));
            }
        }
    }
    bar.done();
    for (shards, dir, total) in shards.complete(|_| None) {
        if let Some(path) = shards.write_plain(&dir, total)? {
            print(&format!("{}: written\n", out::shown(&path)))?;
        }
    }
    Ok(exit.into())
}

/// What to do. Of a directory, containers that cannot be opened are left out, and `exit` says so.
fn plan(args: &DecompressArgs, exit: &mut Exit) -> Result<Vec<Task>> {
    let is_dir = args.input.is_dir();
    let mut tasks: Vec<Task> = Vec::new();
    for input in out::containers(&args.input)? {
        let opened = match open(&input) {
            Ok(opened) => opened,
            Err(error) if is_dir => {
                say(&format!("{error}; left out"));
                *exit = exit.and(Exit::of(&error));
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Opened::BigSmall(container) = &opened {
            container.warn();
        }
        let output = output_of(args, is_dir, &input, &opened)?;
        if !args.force && output.symlink_metadata().is_ok() {
            return Err(Error::Exists { path: output });
        }
        if tasks.iter().any(|task| task.output == output) {
            let text = "two containers would be written to it; decompress them one by one, with -o";
            return Err(Error::invalid(format!("{}: {text}", output.display())));
        }
        tasks.push(Task { input, output, raw_len: opened.raw_len() });
    }
    Ok(tasks)
}

/// The name of the original.
fn name_of(opened: &Opened, container: &Path) -> Option<PathBuf> {
    match opened {
        Opened::Native(..) => without_bs(container),
        Opened::BigSmall(_) => shown_path(container),
    }
}

fn unnamed(input: &Path) -> Error {
    Error::invalid(format!("{}: the name does not end in .bs; say with -o what to write", input.display()))
}

fn output_of(args: &DecompressArgs, is_dir: bool, input: &Path, opened: &Opened) -> Result<PathBuf> {
    let Some(out) = &args.output else {
        return name_of(opened, input).ok_or_else(|| unnamed(input));
    };
    if is_dir {
        let below = input.strip_prefix(&args.input).unwrap_or(input);
        let output = name_of(opened, &out.join(below)).unwrap_or_else(|| out.join(below));
        let dir = output.parent().unwrap_or(out);
        fs::create_dir_all(dir).map_err(Error::io("create directory", dir))?;
        return Ok(output);
    }
    if out.is_dir() {
        let name = input.file_name().map(PathBuf::from).unwrap_or_default();
        return Ok(out.join(name_of(opened, &name).unwrap_or(name)));
    }
    Ok(out.clone())
}

/// Decompresses one file; gives the bytes of its tensors if it may be a shard.
fn decompress(
    args: &DecompressArgs,
    (pool, engine): (&rayon::ThreadPool, &Arc<Engine>),
    Task { input, output, .. }: &Task,
    stop: &AtomicBool,
    bar: &Bar,
) -> Result<Option<u64>> {
    let opened = open(input)?;
    let same = fs::canonicalize(input).is_ok_and(|a| fs::canonicalize(output).is_ok_and(|b| a == b));
    if same {
        return Err(Error::invalid(format!("{}: input and output are the same file", output.display())));
    }
    let (source, container) = match opened {
        Opened::Native(source, container) => (source, container),
        Opened::BigSmall(container) => {
            let base = args.base.find(engine, &container)?;
            unpack((pool, engine), &container, base, output, args.force, stop, bar)?;
            return Ok(Some(container.presented.tensor_bytes()));
        }
    };
    source.advise_sequential();
    let references = args.base.finder(&args.input)?.references(engine, &container, source.identity());
    let whole = Whole { container: &container, source: &*source, references: references.as_deref() };
    if let Some(references) = &references {
        references.complete(&container)?;
    }
    let mut file = AtomicFile::create(output, args.force)?;
    if let Some(attributes) = source.attributes()? {
        file.narrow(&attributes)?.iter().for_each(|note| bar.note(note));
    }
    engine::verify(pool, whole, None, stop, &mut |_, raw: &[u8]| {
        file.write_all(raw).map_err(Error::io("write", output))?;
        bar.advance(raw.len() as u64, 0);
        Ok(())
    })?;
    let (seconds, nanoseconds) = container.mtime();
    file.set_modified_at(seconds, nanoseconds)?;
    file.publish()?;
    Ok(None)
}
