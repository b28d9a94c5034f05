//! `bsfs compress`

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bsfs::compress::{self, Options, Original, Report, Sums, ratio};
use bsfs::longpath;
use bsfs::parallel;
use bsfs::source::FileSource;
use bsfs::{Error, Result};
use serde::Serialize;

use super::against::{Bases, Needs};
use super::base::BaseArg;
use super::companions::{self, Directories};
use super::compress_args::CompressArgs;
use super::compress_plan::{
    Input, Plan, Task, archives, check_outputs, copied, pack_repeated, packed_already, plan, share_of,
};
use super::doubt;
use super::exit::Exit;
use super::left_out;
use super::opened;
use super::out::{self, print, row, say, shorten, shown};
use super::progress::Bar;
use super::replace;
use super::share::{self};
use super::size::show_size;

/// All that is printed at the end.
#[derive(Debug, Serialize)]
struct Summary {
    files: Vec<Report>,
    copied_files: u64,
    copied_bytes: u64,
    raw_bytes: u64,
    packed_bytes: u64,
    ratio: f64,
    /// What the containers would take if they referred to nothing, about, bytes.
    standalone_bytes: u64,
    /// What --dedup would save, about, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    dedup_would_save_bytes: Option<u64>,
    #[serde(skip)]
    needs: Vec<Needs>,
    dry_run: bool,
    seconds: f64,
}

/// Compresses everything, then prints what became of it.
pub fn run(args: &CompressArgs) -> Result<ExitCode> {
    if args.replace {
        return replace::compress(args);
    }
    let started = Instant::now();
    let stop = out::stop_flag();
    let (mode, chunk_len) = (args.work.optimise.mode(), args.work.optimise.chunk_len());
    let Plan { mut tasks, directories, parents, mut exit } = plan(args, &found(args, &stop)?)?;
    if let Some(share) = args.shard {
        tasks = share_of(share, tasks, args.force, &stop)?;
    }
    let pool = parallel::pool(args.work.threads)?;
    let archives = if args.dedup { archives(&tasks) } else { Vec::new() };
    let mut inputs: Vec<PathBuf> = tasks.iter().filter_map(Task::compressed).map(Path::to_path_buf).collect();
    let sure = inputs.len();
    inputs.extend(archives);
    let engine = opened::engine(args.work.threads);
    let outputs: HashMap<&Path, &Path> = tasks.iter().filter_map(|task| Some((task.input()?, task.output()))).collect();
    let outputs = inputs.iter().filter_map(|input| outputs.get(&**input).map(|output| output.to_path_buf())).collect();
    let base = BaseArg { base: args.base.clone() };
    let mut bases = Bases::open(&engine, &base, &inputs, outputs, args.output.is_some())?;
    if !args.dry_run {
        // Before the inputs are compared, which may take a while.
        check_outputs(&tasks, args.force || args.shard.is_some())?;
    }
    bases.compare(&pool, args.dedup, inputs.len() - sure);
    if args.dedup {
        pack_repeated(&mut tasks, &mut bases);
    }
    let mut made = Directories::below(args.output.as_deref());
    if !args.dry_run {
        check_outputs(&tasks, args.force || args.shard.is_some())?;
        for dir in &parents {
            longpath::create_dir_all(dir).map_err(Error::io("create directory", dir))?;
        }
        exit = exit.and(made.make_all(&directories)?);
    }

    if let [first, others @ ..] = &*packed_already(&tasks) {
        let are = match others.len() {
            0 => "is a container already; copied as it is".to_owned(),
            1 => "and another file are containers already; copied as they are".to_owned(),
            more => format!("and {more} others are containers already; copied as they are"),
        };
        say(&format!("{} {are}, and unpacked when the mirror is decompressed", first.display()));
    }
    let bar = Bar::new(tasks.iter().map(Task::len).sum(), args.work.json);
    let mut summary = Summary {
        files: Vec::new(),
        copied_files: 0,
        copied_bytes: 0,
        raw_bytes: 0,
        packed_bytes: 0,
        ratio: 1.0,
        standalone_bytes: 0,
        dedup_would_save_bytes: None,
        needs: Vec::new(),
        dry_run: args.dry_run,
        seconds: 0.0,
    };
    let exit = exit.and(bases.left_out());
    let mut failed = (exit != Exit::Done).then_some(exit);
    let mut ended = None;
    for task in tasks.iter().filter(|task| !made.is_left_out(task.output())) {
        match task {
            Task::Compress { input, mirror, .. } => {
                doubt::packed(input, *mirror).iter().for_each(|about| bar.say(&format!("{about}; packed as it is")));
            }
            Task::Copy { input, .. } => {
                doubt::copied(input).iter().for_each(|about| bar.say(&format!("{about}; copied as it is")));
            }
            Task::Link { .. } => {}
        }
        let done = match task {
            Task::Compress { input, output, mirror, .. } => {
                bar.name(&input.display().to_string());
                bases.of(input).and_then(|against| {
                    let options = Options { mode, chunk_len, force: args.force, against: Some(&against), stop: &stop };
                    let mut report = if args.dry_run {
                        measure(&pool, input, output, &options, &bar)?
                    } else {
                        let compress = if *mirror { compress::compress_mirrored } else { compress::compress };
                        compress(&pool, input, output, &options, &bar)?
                    };
                    let needs = bases.done(input, &mut report);
                    needs.warning(input).iter().for_each(|warning| bar.say(warning));
                    summary.needs.push(needs);
                    summary.files.push(report);
                    Ok(())
                })
            }
            Task::Copy { len, .. } if args.dry_run => {
                bar.skip(*len);
                summary.copied_files += 1;
                summary.copied_bytes += len;
                Ok(())
            }
            Task::Link { .. } if args.dry_run => Ok(()),
            Task::Copy { input, output, len } => {
                companions::copy(input, output, args.force, &stop, &bar).map(|copied| {
                    bar.skip(*len);
                    summary.copied_files += 1;
                    summary.copied_bytes += copied;
                })
            }
            Task::Link { input, output, text, .. } => companions::link(input, output, text, args.force),
        };
        // The same share on another machine has just made it.
        let done = match (done, task) {
            (Err(error @ Error::Exists { .. }), Task::Compress { input, output, .. }) if args.shard.is_some() => {
                share::is_packed(input, output, &stop).and_then(|same| if same { Ok(()) } else { Err(error) })
            }
            (Err(error @ Error::Exists { .. }), Task::Copy { input, output, .. }) if args.shard.is_some() => {
                share::is_copied(input, output).and_then(|same| if same { Ok(()) } else { Err(error) })
            }
            (done, _) => done,
        };
        match done {
            Ok(()) => {}
            // One bad file does not stop the others; a full disk would fail them all.
            Err(error) => {
                let ends = matches!(error, Error::Interrupted) || error.is_storage_full();
                if ends || (tasks.len() == 1 && directories.is_empty()) {
                    ended = Some(error);
                    break;
                }
                bar.say(&error.to_string());
                failed = Some(failed.unwrap_or(Exit::Done).and(Exit::of(&error)));
                if let Some(input) = task.compressed() {
                    bases.failed(input);
                }
            }
        }
    }
    bar.done();
    let finished = made.finish(args.shard.is_some());
    if let Some(error) = ended {
        return Err(error);
    }
    if finished != Exit::Done {
        failed = Some(failed.unwrap_or(Exit::Done).and(finished));
    }
    summary.raw_bytes = summary.files.iter().map(|f| f.raw_bytes).sum();
    summary.packed_bytes = summary.files.iter().map(|f| f.packed_bytes).sum();
    summary.standalone_bytes = summary.files.iter().map(|f| f.standalone_bytes.unwrap_or(f.packed_bytes)).sum();
    // One share does not see the other files.
    let saves = bases.repeated_bytes();
    summary.dedup_would_save_bytes =
        (!args.dedup && args.shard.is_none() && saves * 100 >= summary.packed_bytes.max(100)).then_some(saves);
    summary.ratio = ratio(summary.raw_bytes, summary.packed_bytes);
    summary.seconds = started.elapsed().as_secs_f64();
    if args.work.json {
        out::print_json(&summary)?;
    } else {
        print(&describe(&summary))?;
    }
    // One share knows nothing of what others do.
    if summary.files.is_empty() && failed.is_none() && args.shard.is_none() {
        left_out::nothing(&copied(&tasks)).iter().for_each(|text| say(text));
    }
    if failed.is_some() {
        say("some files failed; see above");
    }
    Ok(failed.unwrap_or(Exit::Done).into())
}

/// What compressing a file would write, without writing it.
fn measure(pool: &rayon::ThreadPool, input: &Path, output: &Path, options: &Options<'_>, bar: &Bar) -> Result<Report> {
    let source = FileSource::open(input)?;
    source.advise_sequential();
    // The index holds it, and is compressed: another time may take another length.
    let (seconds, nanoseconds) = source.identity().mtime;
    let mtime = (seconds, u32::try_from(nanoseconds).unwrap_or(0));
    compress::measure(pool, &Original { source: &source, name: input, mtime }, output, options, bar)
}

/// The inputs as paths; those on the Hub are downloaded first.
#[cfg(feature = "hub")]
fn found(args: &CompressArgs, stop: &AtomicBool) -> Result<Vec<Input>> {
    let on_hub = |input: &&PathBuf| input.to_str().is_some_and(bsfs::hub::HubUri::is_one);
    if let (Some(first), None) = (args.inputs.iter().find(on_hub), &args.output) {
        return Err(Error::invalid(format!(
            "{}: say with -o DIR where the compressed model should go",
            first.display()
        )));
    }
    let place = |input: &PathBuf| {
        Ok(match super::pull::snapshot(input, stop, args.work.json)? {
            Some((path, uri)) => (path, uri.repo.id().rsplit('/').next().map(PathBuf::from)),
            None => (input.clone(), None),
        })
    };
    args.inputs.iter().map(place).collect()
}

/// The inputs as paths.
#[cfg(not(feature = "hub"))]
fn found(args: &CompressArgs, _stop: &AtomicBool) -> Result<Vec<Input>> {
    Ok(args.inputs.iter().map(|input| (input.clone(), None)).collect())
}

fn describe(s: &Summary) -> String {
    let mut text = String::new();
    let line = |name: &str, raw: u64, packed: u64, ratio: f64, seconds: f64| {
        let speed = raw as f64 / 1e6 / seconds.max(1e-9);
        let (raw, packed) = (show_size(raw), show_size(packed));
        format!("{name}: {raw} → {packed}, ratio {ratio:.4}, {seconds:.2} s ({speed:.0} MB/s)\n")
    };
    for (f, needs) in s.files.iter().zip(&s.needs) {
        text += &line(&shown(&f.output).to_string(), f.raw_bytes, f.packed_bytes, f.ratio, f.seconds);
        needs.describe(&mut text, f);
    }
    if s.files.len() > 1 || (s.files.len() == 1 && s.copied_files > 0) {
        let files = s.files.len();
        text += &line(&format!("{files} compressed"), s.raw_bytes, s.packed_bytes, s.ratio, s.seconds);
    }
    if s.copied_files > 0 {
        let _ = writeln!(text, "{} copied as they are: {}", s.copied_files, show_size(s.copied_bytes));
    }
    if let Some(bytes) = s.dedup_would_save_bytes {
        let saves = show_size(bytes);
        let _ = writeln!(
            text,
            "--dedup would save about {saves}: files have tensors in common, and would then need each other"
        );
    }
    if s.dry_run {
        text += "nothing was written\n";
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
