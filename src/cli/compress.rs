//! `bsfs compress`

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bsfs::compress::{self, Entry, Options, Report, Sums, ratio};
use bsfs::parallel;
use bsfs::sink::AtomicFile;
use bsfs::{Error, Result};
use clap::Args;
use serde::Serialize;

use super::exit::Exit;
use super::optimise::Optimise;
use super::out::{self, print, row, say, shorten, with_bs};
use super::progress::Bar;
use super::size::show_size;

/// Compress files of weights, without loss
///
/// A file becomes NAME.bs beside it, or the file given with --output. A directory becomes a mirror under --output:
/// every .safetensors file is compressed, every other file copied as it is, links are followed. A model on the Hugging Face
/// Hub, hf://ORG/NAME[@REVISION], is pulled into the hub cache first (see "bsfs pull"). The input is never changed. Every
/// chunk is decoded back and compared before it is written.
#[derive(Debug, Args)]
pub struct CompressArgs {
    /// Files, directories or models on the Hub (hf://ORG/NAME) to compress
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// File to write, or directory; a directory as INPUT needs one
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Replace outputs that exist already
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub optimise: Optimise,
    /// Threads that compress [default: one for each core]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: usize,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// All that is printed at the end.
#[derive(Debug, Serialize)]
struct Summary {
    files: Vec<Report>,
    copied_files: u64,
    copied_bytes: u64,
    raw_bytes: u64,
    packed_bytes: u64,
    ratio: f64,
    seconds: f64,
}

/// One thing to do.
enum Task {
    Compress { input: PathBuf, output: PathBuf, len: u64 },
    Copy { input: PathBuf, output: PathBuf, len: u64 },
    Link { output: PathBuf, target: PathBuf },
}

impl Task {
    fn output(&self) -> &Path {
        match self {
            Self::Compress { output, .. } | Self::Copy { output, .. } | Self::Link { output, .. } => output,
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Compress { len, .. } | Self::Copy { len, .. } => *len,
            Self::Link { .. } => 0,
        }
    }
}

/// Compresses everything, then prints what became of it.
pub fn run(args: &CompressArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let stop = out::stop_flag();
    let options =
        Options { mode: args.optimise.mode(), chunk_len: args.optimise.chunk_len()?, force: args.force, stop: &stop };
    let mut directories = Vec::new();
    let tasks = plan(args, &inputs(args, &stop)?, &mut directories)?;
    check_outputs(&tasks, args.force)?;
    for dir in &directories {
        fs::create_dir_all(dir).map_err(Error::io("create directory", dir))?;
    }

    let pool = parallel::pool(args.threads)?;
    let bar = Bar::new(tasks.iter().map(Task::len).sum(), args.json);
    let mut summary = Summary {
        files: Vec::new(),
        copied_files: 0,
        copied_bytes: 0,
        raw_bytes: 0,
        packed_bytes: 0,
        ratio: 1.0,
        seconds: 0.0,
    };
    let mut failed = None;
    for task in &tasks {
        let done = match task {
            Task::Compress { input, output, .. } => {
                bar.name(&input.display().to_string());
                compress::compress(&pool, input, output, &options, &bar).map(|report| summary.files.push(report))
            }
            Task::Copy { input, output, len } => copy(input, output, args.force, &stop).map(|()| {
                bar.skip(*len);
                summary.copied_files += 1;
                summary.copied_bytes += len;
            }),
            Task::Link { output, target } => link(output, target, args.force),
        };
        match done {
            Ok(()) => {}
            Err(Error::Interrupted) => {
                bar.done();
                return Err(Error::Interrupted);
            }
            // One bad file does not stop the others; a full disk would fail them all.
            Err(error) => {
                let full = matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull);
                if full || tasks.len() == 1 {
                    bar.done();
                    return Err(error);
                }
                bar.say(&error.to_string());
                failed = Some(Exit::of(&error));
            }
        }
    }
    bar.done();
    summary.raw_bytes = summary.files.iter().map(|f| f.raw_bytes).sum();
    summary.packed_bytes = summary.files.iter().map(|f| f.packed_bytes).sum();
    summary.ratio = ratio(summary.raw_bytes, summary.packed_bytes);
    summary.seconds = started.elapsed().as_secs_f64();
    if args.json {
        out::print_json(&summary)?;
    } else {
        print(&describe(&summary))?;
    }
    if failed.is_some() {
        say("some files failed; see above");
    }
    Ok(failed.unwrap_or(Exit::Done).into())
}

/// Where an input is, and its name below the output when that is not its own.
type Input = (PathBuf, Option<PathBuf>);

/// The inputs as paths; those on the Hub are downloaded first.
#[cfg(feature = "hub")]
fn inputs(args: &CompressArgs, stop: &AtomicBool) -> Result<Vec<Input>> {
    let on_hub = |input: &&PathBuf| input.to_str().is_some_and(bsfs::hub::HubUri::is_one);
    if let (Some(first), None) = (args.inputs.iter().find(on_hub), &args.output) {
        return Err(Error::invalid(format!(
            "{}: say with -o DIR where the compressed model should go",
            first.display()
        )));
    }
    let place = |input: &PathBuf| {
        Ok(match super::pull::snapshot(input, stop, args.json)? {
            Some((path, uri)) => (path, uri.repo.id().rsplit('/').next().map(PathBuf::from)),
            None => (input.clone(), None),
        })
    };
    args.inputs.iter().map(place).collect()
}

/// The inputs as paths.
#[cfg(not(feature = "hub"))]
fn inputs(args: &CompressArgs, _stop: &AtomicBool) -> Result<Vec<Input>> {
    Ok(args.inputs.iter().map(|input| (input.clone(), None)).collect())
}

/// What to do, and which directories it needs.
fn plan(args: &CompressArgs, inputs: &[Input], directories: &mut Vec<PathBuf>) -> Result<Vec<Task>> {
    let mut tasks = Vec::new();
    let several = inputs.len() > 1;
    for (input, name) in inputs {
        let name_of = |input: &Path| name.clone().map_or_else(|| name_of(input), Ok);
        let meta = fs::metadata(input).map_err(Error::io("open", input))?;
        if meta.is_dir() {
            let Some(out) = &args.output else {
                let text = "is a directory; say with -o DIR where its compressed mirror should go";
                return Err(Error::invalid(format!("{}: {text}", input.display())));
            };
            let out = if several { out.join(name_of(input)?) } else { out.clone() };
            plan_directory(input, &out, &mut tasks, directories)?;
            continue;
        }
        let output = match &args.output {
            None => with_bs(input),
            Some(out) if several || out.is_dir() => {
                directories.push(out.clone());
                with_bs(&out.join(name_of(input)?))
            }
            Some(out) => out.clone(),
        };
        tasks.push(Task::Compress { input: input.clone(), output, len: meta.len() });
    }
    Ok(tasks)
}

fn name_of(path: &Path) -> Result<PathBuf> {
    let absolute = fs::canonicalize(path).map_err(Error::io("open", path))?;
    match (path.file_name(), absolute.file_name()) {
        (Some(name), _) | (None, Some(name)) => Ok(PathBuf::from(name)),
        _ => Err(Error::invalid(format!("{}: has no name", path.display()))),
    }
}

fn plan_directory(input: &Path, out: &Path, tasks: &mut Vec<Task>, directories: &mut Vec<PathBuf>) -> Result<()> {
    let same = |a: &Path, b: &Path| matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b);
    if same(input, out) {
        return Err(Error::invalid(format!("{}: input and output are the same directory", out.display())));
    }
    let tree = compress::walk(input, Some(out))?;
    for skipped in &tree.skipped {
        say(&format!("{skipped}; left out"));
    }
    directories.push(out.to_path_buf());
    directories.extend(tree.directories.iter().map(|dir| out.join(dir)));
    let mut outputs: HashMap<PathBuf, PathBuf> = HashMap::new();
    for entry in tree.entries {
        let task = match entry {
            Entry::Compress { path, len } => {
                let output = with_bs(&out.join(&path));
                outputs.insert(path.clone(), output.clone());
                Task::Compress { input: input.join(path), output, len }
            }
            Entry::Copy { path, len } => {
                let output = out.join(&path);
                outputs.insert(path.clone(), output.clone());
                Task::Copy { input: input.join(path), output, len }
            }
            Entry::Same { path, first } => {
                let Some(target) = outputs.get(&first) else { continue };
                let packed = target.extension() != first.extension();
                let output = if packed { with_bs(&out.join(&path)) } else { out.join(&path) };
                Task::Link { target: relative(&output, target), output }
            }
        };
        tasks.push(task);
    }
    Ok(())
}

/// The way from the directory of `from` to `to`, both below one directory.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let from_dir: Vec<_> = from.parent().unwrap_or(Path::new("")).components().collect();
    let to: Vec<_> = to.components().collect();
    let common = from_dir.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from_dir.iter().skip(common).map(|_| std::path::Component::ParentDir);
    up.chain(to.into_iter().skip(common)).collect()
}

/// Refuses before hours of work what would be refused behind them.
fn check_outputs(tasks: &[Task], force: bool) -> Result<()> {
    let mut seen = HashMap::new();
    for task in tasks {
        let output = task.output();
        if seen.insert(output, ()).is_some() {
            return Err(Error::invalid(format!("{}: two inputs would be written to it", output.display())));
        }
        if !force && output.symlink_metadata().is_ok() {
            return Err(Error::Exists { path: output.to_path_buf() });
        }
    }
    Ok(())
}

fn copy(input: &Path, output: &Path, force: bool, stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    let mut from = fs::File::open(input).map_err(Error::io("open", input))?;
    let mut to = AtomicFile::create(output, force)?;
    let mtime = from.metadata().and_then(|meta| meta.modified()).map_err(Error::io("stat", input))?;
    io::copy(&mut from, to.file()).map_err(Error::io("write", output))?;
    to.set_modified(mtime)?;
    to.publish()
}

fn link(output: &Path, target: &Path, force: bool) -> Result<()> {
    if force && output.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
        fs::remove_file(output).map_err(Error::io("replace", output))?;
    }
    std::os::unix::fs::symlink(target, output).map_err(Error::io("create", output))
}

fn describe(s: &Summary) -> String {
    let mut text = String::new();
    let line = |name: &str, raw: u64, packed: u64, ratio: f64, seconds: f64| {
        let speed = raw as f64 / 1e6 / seconds.max(1e-9);
        let (raw, packed) = (show_size(raw), show_size(packed));
        format!("{name}: {raw} → {packed}, ratio {ratio:.4}, {seconds:.2} s ({speed:.0} MB/s)\n")
    };
    for f in &s.files {
        text += &line(&f.output.display().to_string(), f.raw_bytes, f.packed_bytes, f.ratio, f.seconds);
    }
    if s.files.len() != 1 || s.copied_files > 0 {
        let files = s.files.len();
        text += &line(&format!("{files} compressed"), s.raw_bytes, s.packed_bytes, s.ratio, s.seconds);
    }
    if s.copied_files > 0 {
        let _ = writeln!(text, "{} copied as they are: {}", s.copied_files, show_size(s.copied_bytes));
    }
    let mut sums = Sums::default();
    for dtype in s.files.iter().flat_map(|f| &f.dtypes) {
        sums.add(&dtype.dtype, dtype.raw_bytes, dtype.packed_bytes);
    }
    let rows = sums.rows();
    if !rows.is_empty() {
        text += &row("dtype", 12, &["raw".into(), "packed".into(), "ratio".into()]);
    }
    for r in rows {
        let cells = [show_size(r.raw_bytes), show_size(r.packed_bytes), format!("{:.4}", r.ratio)];
        text += &row(&shorten(&r.dtype, 12), 12, &cells);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_a_mirror_are_relative() {
        let way = |from: &str, to: &str| relative(Path::new(from), Path::new(to)).display().to_string();
        assert_eq!(way("o/snapshots/b/m.bs", "o/snapshots/a/m.bs"), "../a/m.bs");
        assert_eq!(way("o/b", "o/a"), "a");
    }
}
