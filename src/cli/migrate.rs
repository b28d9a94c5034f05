//! `bsfs migrate`

use std::collections::{BTreeSet, HashSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use bsfs::compress::{self, Beside, Options, Original};
use bsfs::engine::Engine;
use bsfs::longpath;
use bsfs::parallel;
use bsfs::source::{Bounds, Identity, ReadAt};
use bsfs::{Error, Result};
use clap::Args;

use super::ahead::ImageSource;
use super::base::BaseArg;
use super::companions::Directories;
use super::exit::Exit;
use super::lease::{self, Halt, Held};
use super::migrate_report::{Outcome, Summary, describe, show};
use super::migrated;
use super::opened::{self, BigSmall, Opened};
use super::optimise::Work;
use super::out::{self, print, say, with_bs};
use super::progress::Bar;
use super::replaced;
use super::shards;
use super::stream;
use super::unpack::shown_path;
use super::version::is_version;

/// Convert containers of the Python package bigsmall
///
/// NAME.bs (or .bsr) becomes NAME.safetensors.bs beside it, or below --output: the safetensors file that it is shown as, compressed
/// as "bsfs compress" does it. The MD5 of each tensor is checked on the way, and again on what is read back from the disk
/// before it gets its name. Deltas become whole tensors, and need their base; tensors that a bigsmall.index.json tells to have
/// the bytes of others are stored again. model.safetensors.index.json is written for shards, if there is none; other files are
/// not copied.
///
/// A container that would be larger than its BigSmall file is not written, unless --allow-larger is given; that is said, and no
/// error. The original stays, unless --in-place is given.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Container of bigsmall, or a directory of which all are migrated
    pub input: PathBuf,
    /// File to write, or directory [default: beside the original]
    #[arg(short, long, value_name = "OUT", conflicts_with = "in_place")]
    pub output: Option<PathBuf>,
    /// Encode everything in memory, print the exact sizes, and write nothing; takes as long as migrating
    #[arg(long)]
    pub dry_run: bool,
    /// Remove each original as soon as its successor was written and verified, and the bigsmall.index.json of a directory when
    /// all its shards are gone
    #[arg(long)]
    pub in_place: bool,
    /// Write containers also where they are larger than the original
    #[arg(long)]
    pub allow_larger: bool,
    /// Replace outputs that exist already
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub base: BaseArg,
    #[command(flatten)]
    pub work: Work,
}

/// A container to be migrated.
struct Task {
    input: PathBuf,
    output: PathBuf,
    raw_len: u64,
    delta: bool,
}

/// Migrates everything.
pub fn run(args: &MigrateArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let stop = out::stop_flag();
    let mut exit = Exit::Done;
    let mut done = shards::Progress::default();
    let tasks = plan(args, &mut done, &mut exit)?;
    let made = make_directories(args, &tasks, &mut exit)?;
    let halt = Halt::watch(stop)?;
    let tools =
        Tools { pool: parallel::pool(args.work.threads)?, engine: opened::engine(args.work.threads), halt: &halt };
    let bar = Bar::new(tasks.iter().map(|task| task.raw_len).sum(), args.work.json);
    let mut summary = Summary {
        dry_run: args.dry_run,
        files: Vec::new(),
        before_bytes: 0,
        after_bytes: 0,
        freed_bytes: 0,
        seconds: 0.0,
    };
    let mut ended = None;
    for task in tasks.iter().filter(|task| !made.is_left_out(&task.output)) {
        bar.name(&task.input.display().to_string());
        halt.next();
        let outcome = match halt.explain(&task.input, migrate(args, &tools, task, &mut done, &bar)) {
            Ok(outcome) => outcome,
            Err(error) => {
                let ends = matches!(error, Error::Interrupted) || error.is_storage_full();
                if ends || !longpath::is_dir(&args.input) {
                    ended = Some(error);
                    break;
                }
                exit = exit.and(Exit::of(&error));
                failed(task, &error)
            }
        };
        if !args.work.json {
            bar.suspend(|| show(&outcome, args.dry_run))?;
        }
        if outcome.state == "migrated" {
            summary.before_bytes += outcome.before_bytes;
            summary.after_bytes += outcome.after_bytes.unwrap_or(0);
        }
        summary.freed_bytes += outcome.freed_bytes;
        summary.files.push(outcome);
    }
    bar.done();
    if !args.dry_run {
        summary.freed_bytes += finish_directories(args, done, &mut exit)?;
    }
    exit = exit.and(made.finish(false));
    if let Some(error) = ended {
        return Err(error);
    }
    summary.seconds = started.elapsed().as_secs_f64();
    if args.work.json {
        out::print_json(&summary)?;
    } else if summary.files.len() > 1 || args.in_place {
        print(&describe(&summary))?;
    }
    Ok(exit.into())
}

/// What to do; deltas first, as the base may be migrated as well and then be gone. `done` learns of directories in which an
/// earlier run has ended before it came to their index.
fn plan(args: &MigrateArgs, done: &mut shards::Progress, exit: &mut Exit) -> Result<Vec<Task>> {
    let is_dir = longpath::is_dir(&args.input);
    let mut tasks: Vec<Task> = Vec::new();
    if args.in_place {
        *exit = exit.and(lease::heal(&args.input, &Bounds::default(), args.dry_run).tell());
    }
    args.output.iter().try_for_each(|output| stream::refuse(output))?;
    let (inputs, left_out) = out::containers(&args.input)?;
    *exit = exit.and(left_out);
    let mut outputs = HashSet::new();
    for input in inputs {
        let file = match opened::open(&input) {
            Ok(Opened::BigSmall(file)) => check_original(args, &input, &file).map(|()| file),
            Ok(Opened::Native(..)) if is_dir => {
                if args.in_place {
                    done.begun(&input);
                }
                continue;
            }
            Ok(Opened::Native(..)) => {
                Err(Error::invalid(format!("{}: is a container of bsfs already", input.display())))
            }
            Err(error) => Err(error),
        };
        let file = match file {
            Ok(file) => file,
            Err(error) if is_dir => {
                say(&format!("{error}; left out"));
                *exit = exit.and(Exit::of(&error));
                continue;
            }
            Err(error) => return Err(error),
        };
        let output = output_of(args, is_dir, &input)?;
        let may = args.force || args.dry_run || (args.in_place && output == input);
        if out::is_there(&output)? && !may {
            return Err(Error::Exists { path: output });
        }
        if !outputs.insert(output.clone()) {
            let text = "two containers would be written to it; migrate them one by one, with -o";
            return Err(Error::invalid(format!("{}: {text}", output.display())));
        }
        let delta = file.presented.container().is_delta();
        tasks.push(Task { input, output, raw_len: file.presented.raw_len(), delta });
    }
    if tasks.is_empty() && !done.has_index() && *exit == Exit::Done {
        let text = "no container of bigsmall in this directory or below it";
        return Err(Error::invalid(format!("{}: {text}", args.input.display())));
    }
    tasks.sort_by_key(|task| !task.delta);
    Ok(tasks)
}

/// Refuses to remove what could not be replaced.
fn check_original(args: &MigrateArgs, input: &Path, file: &BigSmall) -> Result<()> {
    let refuse = |text: &str| Err(Error::invalid(format!("{}: {text}", input.display())));
    if !args.in_place {
        file.warn();
        return Ok(());
    }
    if let Some(error) = &file.without_index {
        return refuse(&format!(
            "not migrated in place, as tensors may be lost: {error}; use -o to migrate what is there"
        ));
    }
    let meta = longpath::symlink_metadata(input).map_err(Error::io("stat", input))?;
    if meta.is_symlink() {
        return refuse("is a link, and --in-place would leave what it leads to; use -o, or name that file");
    }
    Ok(())
}

fn output_of(args: &MigrateArgs, is_dir: bool, input: &Path) -> Result<PathBuf> {
    let below = if is_dir { input.strip_prefix(&args.input).unwrap_or(input) } else { input };
    let named = |path: &Path| {
        let text = "the name does not end in .bs; say with -o what to write";
        let shown = shown_path(path).ok_or_else(|| Error::invalid(format!("{}: {text}", input.display())))?;
        Ok(with_bs(&shown))
    };
    let output = match &args.output {
        None => named(input)?,
        Some(out) if is_dir => named(&out.join(below))?,
        Some(out) if longpath::is_dir(out) => named(&out.join(input.file_name().unwrap_or_default()))?,
        Some(out) => out.clone(),
    };
    if longpath::same_file(input, &output) && !args.in_place && !args.dry_run {
        let text = "its successor would have the same name; use --in-place, or -o for another place";
        return Err(Error::invalid(format!("{}: {text}", input.display())));
    }
    Ok(output)
}

/// Makes the directories that hold the outputs of a directory.
fn make_directories(args: &MigrateArgs, tasks: &[Task], exit: &mut Exit) -> Result<Directories> {
    let mut made = Directories::below(args.output.as_deref());
    let Some(out) = args.output.as_deref().filter(|_| longpath::is_dir(&args.input) && !args.dry_run) else {
        return Ok(made);
    };
    let above = tasks.iter().flat_map(|task| shards::directory(&task.output).ancestors());
    // In order of path, parents come first.
    let needed: BTreeSet<&Path> = above.filter(|dir| dir.starts_with(out)).collect();
    let mirrored = |dir: &Path| (args.input.join(dir.strip_prefix(out).unwrap_or(dir)), dir.to_path_buf());
    *exit = exit.and(made.make_all(&needed.into_iter().map(mirrored).collect::<Vec<_>>())?);
    Ok(made)
}

/// What migrating takes.
struct Tools<'a> {
    pool: rayon::ThreadPool,
    engine: Arc<Engine>,
    halt: &'a Halt,
}

fn migrate(
    args: &MigrateArgs,
    tools: &Tools<'_>,
    task: &Task,
    done: &mut shards::Progress,
    bar: &Bar,
) -> Result<Outcome> {
    let Opened::BigSmall(file) = opened::open(&task.input)? else {
        return Err(Error::Changed { path: task.input.clone() });
    };
    // Again: the directory may have changed while other files were migrated.
    check_original(args, &task.input, &file)?;
    let base = args.base.find(&tools.engine, &args.base.finder(&task.input)?, &file)?;
    let source = Arc::clone(&file.source);
    let image = tools.engine.foreign(file.presented.clone(), source.clone(), base);
    let shown = ImageSource::new(image, &task.input, file.presented.header().len() as u64).like(&*source)?;
    let (seconds, nanoseconds) = source.identity().mtime;
    let mtime = (seconds, u32::try_from(nanoseconds).unwrap_or(0));
    let name = shown_path(&task.input).unwrap_or_else(|| task.output.with_extension(""));
    let original = Original { source: &shown, name: &name, mtime };
    let held = match args.in_place && !args.dry_run {
        true => Some(Held::take(&source, &task.input)?),
        false => None,
    };
    let in_its_place = args.in_place && task.output == task.input;
    let (mode, chunk_len) = (args.work.optimise.mode(), args.work.optimise.chunk_len());
    let stop = &*tools.halt.any;
    let options = Options { mode, chunk_len, force: args.force || in_its_place, against: None, stop };
    let before = source.identity().len;
    let fits = |len: u64| args.allow_larger || len <= before;

    let (mut after, mut written) = (0, None);
    let migrated = if args.dry_run {
        after = compress::measure(&tools.pool, &original, &task.output, &options, bar)?.packed_bytes;
        fits(after)
    } else {
        let admit = |written: &dyn ReadAt| {
            after = written.len();
            if !fits(after) {
                return Ok(false);
            }
            migrated::prove(&tools.pool, &file, written, stop)?;
            held.iter().try_for_each(|held| held.check(tools.halt)).map(|()| true)
        };
        let is_it = |meta: &Metadata| is_version(source.identity(), meta);
        let beside = Beside { like: held.as_ref().map(|held| &held.attributes), over: in_its_place.then_some(&is_it) };
        let done = compress::compress_beside(&tools.pool, &original, &task.output, &options, beside, bar, admit)?;
        written = done.map(|(_, meta)| Identity::of(&meta));
        written.is_some()
    };
    let mut outcome = Outcome {
        input: task.input.clone(),
        output: task.output.clone(),
        state: if migrated { "migrated" } else { "kept" },
        raw_bytes: file.presented.raw_len(),
        before_bytes: before,
        after_bytes: Some(after),
        duplicates: file.duplicates.len(),
        freed_bytes: 0,
        message: None,
    };
    if migrated && !args.dry_run {
        done.done(&task.input, &task.output, file.presented.tensor_bytes());
        if let Some(held) = held {
            if let Some(written) = written.filter(|_| !in_its_place) {
                let successors = [(task.output.clone(), written)];
                let names = std::slice::from_ref(&task.input);
                replaced::remove(tools.halt, &source, names, held.meta.nlink(), &successors)?;
                shards::sync(&task.input)?;
            }
            // A file of several names is there yet.
            outcome.freed_bytes = if held.meta.nlink() == 1 { before } else { 0 };
        }
    }
    Ok(outcome)
}

/// Writes indexes for plain shards, and removes those of BigSmall's whose shards are gone. Gives the bytes that were freed. A
/// directory in which that fails stops no other.
fn finish_directories(args: &MigrateArgs, done: shards::Progress, exit: &mut Exit) -> Result<u64> {
    let mut freed = 0;
    let earlier = |path: &Path| match opened::open(path).ok()? {
        Opened::Native(_, container) => Some(container.tensors().iter().map(|tensor| tensor.raw_len).sum()),
        Opened::BigSmall(_) => None,
    };
    let shown = |path: &Path, what: &str| match args.work.json {
        true => Ok(()),
        false => print(&format!("{}: {what}\n", out::shown(path))),
    };
    for (shards, dir, total) in done.complete(earlier) {
        let finished = shards.write_plain(&dir, total).and_then(|written| {
            let removed = if args.in_place { shards.remove()? } else { 0 };
            Ok((written, removed))
        });
        match finished {
            Ok((written, removed)) => {
                written.iter().try_for_each(|path| shown(path, "written"))?;
                if args.in_place {
                    shown(shards.path(), "removed, as its shards were migrated")?;
                }
                freed += removed;
            }
            Err(error) => {
                say(&error.to_string());
                *exit = exit.and(Exit::of(&error));
            }
        }
    }
    Ok(freed)
}

fn failed(task: &Task, error: &Error) -> Outcome {
    Outcome {
        input: task.input.clone(),
        output: task.output.clone(),
        state: "error",
        raw_bytes: task.raw_len,
        before_bytes: longpath::metadata(&task.input).map_or(0, |meta| meta.len()),
        after_bytes: None,
        duplicates: 0,
        freed_bytes: 0,
        message: Some(error.to_string()),
    }
}
