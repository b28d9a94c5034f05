//! `bsfs compress --replace` and `bsfs decompress --replace`: what is said and asked before, and what became of each file.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use bsfs::compress::{Options, ratio};
use bsfs::escape::Escaped;
use bsfs::longpath;
use bsfs::parallel;
use bsfs::{Error, Result};
use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use super::compress_args::CompressArgs;
use super::decompress_args::DecompressArgs;
use super::doubt;
use super::estimate::estimates;
use super::exit::Exit;
use super::lease::{self, Halt};
use super::opened::{self, Opened};
use super::out::{self, print, say};
use super::progress::Bar;
use super::replace_plan::{Group, Plan, Way, plan};
use super::replaced::{self, Done, Tools};
use super::size::show_size;

/// What a file system may need besides the file: this part of it, and so many bytes.
const MARGIN: (u64, u64) = (64, 64 << 10);

/// What became of one file.
#[derive(Debug, Serialize)]
struct Outcome {
    input: PathBuf,
    output: Option<PathBuf>,
    /// "replaced", "finished" (the successor had been there), "kept" (it would be longer), "would be replaced", or "error"
    state: &'static str,
    before_bytes: u64,
    after_bytes: Option<u64>,
    message: Option<String>,
}

/// All that is printed at the end.
#[derive(Debug, Serialize)]
struct Summary {
    files: Vec<Outcome>,
    /// What was left as it is, and why.
    skipped: Vec<String>,
    /// Of what was replaced, bytes.
    before_bytes: u64,
    after_bytes: u64,
    seconds: f64,
}

/// How a run goes.
struct Job<'a> {
    way: Way,
    inputs: &'a [PathBuf],
    yes: bool,
    dry_run: bool,
    json: bool,
    force: bool,
    threads: usize,
}

/// Makes containers of files, in their place.
pub fn compress(args: &CompressArgs) -> Result<ExitCode> {
    let job = Job {
        way: Way::Pack,
        inputs: &args.inputs,
        yes: args.yes,
        dry_run: args.dry_run,
        json: args.work.json,
        force: args.force,
        threads: args.work.threads,
    };
    let stop = out::stop_flag();
    let halt = Halt::watch(stop.clone())?;
    let (mode, chunk_len) = (args.work.optimise.mode(), args.work.optimise.chunk_len());
    let options = |stop| Options { mode, chunk_len, force: args.force, against: None, stop };
    let expect = |pool: &rayon::ThreadPool, plan: &Plan| {
        let files: Vec<(PathBuf, u64)> =
            plan.groups.iter().filter_map(|group| Some((group.names.first()?.clone(), group.len))).collect();
        let bar = Bar::new(files.iter().map(|(_, len)| len).sum(), args.work.json);
        let (rows, _) = estimates(pool, &files, &options(&stop), &bar)?;
        bar.done();
        Ok(rows.into_iter().map(|row| (row.path, row.estimate.packed_bytes)).collect())
    };
    run(&job, &halt, expect, |tools, group| replaced::pack(tools, &options(&halt.any), group))
}

/// Makes files of containers, in their place.
pub fn decompress(args: &DecompressArgs) -> Result<ExitCode> {
    let inputs = [args.input.clone()];
    let job = Job {
        way: Way::Unpack,
        inputs: &inputs,
        yes: args.yes,
        dry_run: false,
        json: false,
        force: args.force,
        threads: args.threads,
    };
    let halt = Halt::watch(out::stop_flag())?;
    let expect = |_: &rayon::ThreadPool, plan: &Plan| {
        let lens = plan.groups.iter().filter_map(|group| {
            let name = group.names.first()?;
            match opened::open(name).ok()? {
                Opened::Native(_, container) => Some((name.clone(), container.raw_len())),
                Opened::BigSmall(_) => None,
            }
        });
        Ok(lens.collect())
    };
    let engine = opened::engine(args.threads);
    let finder = args.base.finder(&args.input)?;
    let references = |container: &bsfs::format::Container, version| Ok(finder.references(&engine, container, version));
    run(&job, &halt, expect, |tools, group| replaced::unpack(tools, references, group))
}

/// Plans, asks, and does it. `expect` tells what files will become, bytes.
fn run(
    job: &Job<'_>,
    halt: &Halt,
    expect: impl FnOnce(&rayon::ThreadPool, &Plan) -> Result<HashMap<PathBuf, u64>>,
    mut one: impl FnMut(&Tools<'_>, &Group) -> Result<Done>,
) -> Result<ExitCode> {
    let started = Instant::now();
    let plan = plan(job.inputs, job.way, job.dry_run)?;
    plan.skipped.iter().for_each(|skipped| say(&format!("{skipped}; left as it is")));
    let mut exit = out::left_out(&plan.errors);
    if job.way == Way::Pack {
        plan.groups.iter().filter_map(|group| group.names.first()).for_each(|name| doubt::say_packed(name, true));
    }
    let pool = parallel::pool(job.threads)?;
    let expected = expect(&pool, &plan)?;
    let becomes = |group: &Group| group.names.first().and_then(|name| expected.get(name)).copied();
    if !job.json {
        print(&announce(job.way, &plan, &becomes))?;
    }
    if plan.groups.is_empty() {
        if job.json {
            out::print_json(&Summary {
                files: Vec::new(),
                skipped: plan.skipped,
                before_bytes: 0,
                after_bytes: 0,
                seconds: 0.0,
            })?;
        }
        return Ok(exit.into());
    }
    if !job.dry_run && !agreed(job.yes)? {
        say("nothing was changed");
        return Ok(exit.into());
    }

    let bar = Bar::new(plan.groups.iter().map(|group| becomes_raw(job.way, group, &becomes)).sum(), job.json);
    let tools = Tools { pool, halt, bar: &bar, force: job.force };
    let mut summary =
        Summary { files: Vec::new(), skipped: plan.skipped, before_bytes: 0, after_bytes: 0, seconds: 0.0 };
    for group in &plan.groups {
        let Some(name) = group.names.first() else { continue };
        bar.name(&name.display().to_string());
        halt.next();
        let done =
            if job.dry_run { Ok(None) } else { room(name, becomes(group)).and_then(|()| one(&tools, group)).map(Some) };
        let done = halt.explain(name, done);
        if matches!(done, Err(Error::Interrupted)) {
            bar.done();
            say("interrupted; all that was replaced was proven, and running the same again goes on");
            return Err(Error::Interrupted);
        }
        if let Err(error) = &done {
            exit = exit.and(Exit::of(error));
        }
        let outcome = outcome(group, name, done, becomes(group));
        if let (Some(after), "replaced" | "finished") = (outcome.after_bytes, outcome.state) {
            summary.before_bytes += outcome.before_bytes;
            summary.after_bytes += after;
        }
        if !job.json && !job.dry_run {
            bar.suspend(|| show(&outcome))?;
        }
        summary.files.push(outcome);
    }
    bar.done();
    summary.seconds = started.elapsed().as_secs_f64();
    if job.json {
        out::print_json(&summary)?;
    } else if job.dry_run {
        print("nothing was changed\n")?;
    } else {
        print(&finish(job, &summary, plan.links))?;
    }
    Ok(exit.into())
}

/// Raw bytes of a group, for the bar.
fn becomes_raw(way: Way, group: &Group, becomes: &dyn Fn(&Group) -> Option<u64>) -> u64 {
    if way == Way::Pack { group.len } else { becomes(group).unwrap_or(0) }
}

/// What will be done.
fn announce(way: Way, plan: &Plan, becomes: &dyn Fn(&Group) -> Option<u64>) -> String {
    if plan.groups.is_empty() {
        let what = if way == Way::Pack { ".safetensors file" } else { ".bs file" };
        let named = if way == Way::Pack { "; a file that you name is taken whatever it is called" } else { "" };
        return format!("no {what} to replace{named}\n");
    }
    let count = plan.groups.len();
    let before: u64 = plan.groups.iter().map(|group| group.len).sum();
    let after: u64 = plan.groups.iter().map(|group| becomes(group).unwrap_or(group.len)).sum();
    let largest = plan.groups.iter().filter_map(becomes).max().unwrap_or(0);
    let files = if count == 1 { "file" } else { "files" };
    let mut text = match way {
        Way::Pack => format!(
            "{count} {files}, {}, will become .bs in their place: about {} (ratio {:.3}), {} less\n",
            show_size(before),
            show_size(after),
            ratio(before, after),
            show_size(before.saturating_sub(after))
        ),
        Way::Unpack => {
            let (before, after) = (show_size(before), show_size(after));
            format!("{count} .bs {files}, {before}, will become the originals in their place: {after}\n")
        }
    };
    text += "Each is removed once its successor was read back from the disk and proven to hold the same.\n";
    if let Some(free) = plan.groups.first().and_then(|group| free(group.names.first()?)) {
        let (largest, free) = (show_size(largest), show_size(free));
        text += &format!("The longest needs {largest} beside it while that is done; {free} are free.\n");
    }
    text
}

/// Asks on the terminal.
fn agreed(yes: bool) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        let text = "--replace removes files, and there is no terminal to ask at: add --yes, or --dry-run to see more";
        return Err(Error::invalid(text));
    }
    // A standard error that is closed is no reason to stop; nobody then answers yes.
    let _ = write!(io::stderr(), "Go on? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(Error::io("read", "standard input"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Free bytes of the file system that a file is on.
fn free(path: &Path) -> Option<u64> {
    let dir = longpath::open(longpath::directory(path), OFlags::PATH, Mode::empty()).ok()?;
    rustix::fs::fstatvfs(dir).ok().map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}

/// Refuses what would fill the disk.
fn room(path: &Path, needs: Option<u64>) -> Result<()> {
    match (free(path), needs) {
        (Some(free), Some(needs)) if free < needs.saturating_add(needs / MARGIN.0 + MARGIN.1) => {
            let (needs, free) = (show_size(needs), show_size(free));
            let text = format!("needs about {needs} of free space beside it, and {free} are free; left as it is");
            Err(Error::invalid(format!("{}: {text}", path.display())))
        }
        _ => Ok(()),
    }
}

fn outcome(group: &Group, name: &Path, done: Result<Option<Done>>, expected: Option<u64>) -> Outcome {
    let of = |state, output, after_bytes, message| Outcome {
        input: name.to_path_buf(),
        output,
        state,
        before_bytes: group.len,
        after_bytes,
        message,
    };
    match done {
        Ok(None) => of("would be replaced", None, expected, None),
        Ok(Some(Done::Kept(longer))) => {
            let text = format!("would be {longer} bytes longer; left as it is");
            of("kept", None, Some(group.len + longer), Some(text))
        }
        Ok(Some(Done::Replaced { output, len, found, readers })) => {
            let state = if found { "finished" } else { "replaced" };
            let message = (!readers.is_empty())
                .then(|| format!("nothing is freed before {} ends, which reads it", lease::names(&readers)));
            of(state, Some(output), Some(len), message)
        }
        Err(error) => of("error", None, None, Some(error.to_string())),
    }
}

fn show(outcome: &Outcome) -> Result<()> {
    let name = out::shown(&outcome.input);
    match (&outcome.output, &outcome.message) {
        (Some(output), message) => {
            let (before, after) = (show_size(outcome.before_bytes), show_size(outcome.after_bytes.unwrap_or(0)));
            let found = if outcome.state == "finished" { ", which was there and was proven" } else { "" };
            let message = message.as_ref().map_or(String::new(), |message| format!("; {}", Escaped(message)));
            print(&format!("{}: {before} → {after}{found}{message}\n", out::shown(output)))
        }
        (None, Some(message)) if outcome.state == "error" => {
            say(message);
            Ok(())
        }
        (None, message) => print(&format!("{name}: {}\n", Escaped(message.as_deref().unwrap_or(outcome.state)))),
    }
}

fn finish(job: &Job<'_>, s: &Summary, links: usize) -> String {
    let count = |states: &[&str]| s.files.iter().filter(|file| states.contains(&file.state)).count();
    let mut text = format!(
        "{} replaced: {} → {}, ratio {:.4}, {:.1} s",
        count(&["replaced", "finished"]),
        show_size(s.before_bytes),
        show_size(s.after_bytes),
        match job.way {
            Way::Pack => ratio(s.before_bytes, s.after_bytes),
            Way::Unpack => ratio(s.after_bytes, s.before_bytes),
        },
        s.seconds
    );
    for (states, what) in [(&["kept"][..], "kept"), (&["error"], "failed")] {
        if count(states) > 0 {
            text += &format!("; {} {what}", count(states));
        }
    }
    text += "\n";
    let replaced = s.files.iter().filter(|file| ["replaced", "finished"].contains(&file.state));
    let replaced: Vec<&Path> = replaced.map(|file| file.input.as_path()).collect();
    if job.way == Way::Pack
        && let Some(first) = replaced.first()
    {
        let named = job.inputs.iter().find(|input| longpath::is_dir(input));
        let dir = out::shown(named.map_or_else(|| longpath::directory(first), |dir| dir.as_path()));
        let links = if links > 0 { format!(", and what links lead to ({links}),") } else { String::new() };
        text += &format!(
            "The files{links} cannot be read at their places until the directory is mounted, after each reboot too:\n  \
             bsfs mount {dir} {dir}            until it is unmounted\n  \
             bsfs service install {dir} {dir}  now and at each start of the machine\n"
        );
        if replaced.iter().any(|file| is_in_hub_cache(file)) {
            text += "Programs that look for a model in this cache while it is not mounted may download it again.\n";
        }
    }
    text
}

/// Whether a file lies in a cache of the Hugging Face Hub.
fn is_in_hub_cache(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let is_model = |name: &std::ffi::OsStr| {
        ["models--", "datasets--", "spaces--"].iter().any(|kind| name.as_bytes().starts_with(kind.as_bytes()))
    };
    path.iter().any(is_model) || path.parent().and_then(Path::file_name).is_some_and(|name| name == "blobs")
}
