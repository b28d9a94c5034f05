//! `bsfs decompress`

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bsfs::compress::{self, Entry, Progress};
use bsfs::engine::{self, Engine, Finder, Whole};
use bsfs::format::Container;
use bsfs::longpath;
use bsfs::parallel;
use bsfs::sink::AtomicFile;
use bsfs::source::{FileSource, ReadAt};
use bsfs::{Error, Result};

use super::ahead::ImageSource;
use super::companions::{self, Directories};
use super::decompress_args::DecompressArgs;
use super::exit::Exit;
use super::opened::{self, Opened, open};
use super::out::{self, print, say, without_bs};
use super::progress::Bar;
use super::replace;
use super::shards;
use super::size::show_size;
use super::stream::Stream;
use super::unpack::{shown_path, unpack};

/// A container to be decompressed.
struct Task {
    input: PathBuf,
    output: PathBuf,
    raw_len: u64,
    /// Whether the output is part of a directory that is given back, and has the input's permissions.
    mirror: bool,
}

/// Decompresses everything.
pub fn run(args: &DecompressArgs) -> Result<ExitCode> {
    if args.replace {
        return replace::decompress(args);
    }
    let stop = out::stop_flag();
    let stream = args.output.as_deref().map(|out| Stream::open(out, || stop.load(Ordering::Relaxed)));
    if let Some(mut stream) = stream.transpose()?.flatten() {
        return stream_original(args, &mut stream, &stop);
    }
    let mut exit = Exit::Done;
    let Plan { tasks, copies, links, directories } = plan(args, &mut exit)?;
    let pool = parallel::pool(args.threads)?;
    let (engine, finder) = (opened::engine(args.threads), args.base.finder(&args.input)?);
    let copied: u64 = copies.iter().map(|(_, _, len)| len).sum();
    let bar = Bar::new(tasks.iter().map(|task| task.raw_len).sum::<u64>() + copied, false);
    let mut made = Directories::below(args.output.as_deref());
    exit = exit.and(made.make_all(&directories)?);
    let mut shards = shards::Progress::default();
    let (mut restored, mut companions, alone) = (0, 0, !longpath::is_dir(&args.input));
    let mut restore = |task: &Task| {
        bar.name(&task.input.display().to_string());
        let started = Instant::now();
        if let Some(bytes) = decompress(args, (&pool, &engine, &finder), task, &stop, &bar)? {
            shards.done(&task.input, &task.output, bytes);
        }
        restored += 1;
        let seconds = started.elapsed().as_secs_f64();
        let speed = task.raw_len as f64 / 1e6 / seconds.max(1e-9);
        let (output, size) = (out::shown(&task.output), show_size(task.raw_len));
        bar.suspend(|| print(&format!("{output}: {size}, {seconds:.2} s ({speed:.0} MB/s)\n")))
    };
    let copy = |(input, output, len): &(PathBuf, PathBuf, u64)| {
        bar.name(&input.display().to_string());
        companions::copy(input, output, args.force, &stop, &bar).map(|_| bar.skip(*len))
    };
    let link = |(input, output, text): &(PathBuf, PathBuf, PathBuf)| companions::link(input, output, text, args.force);
    let wanted = |output: &Path| !made.is_left_out(output);
    let tasks = tasks.iter().filter(|task| wanted(&task.output)).map(|task| (restore(task), 0));
    let copies = copies.iter().filter(|(_, output, _)| wanted(output)).map(|file| (copy(file), 1));
    let links = links.iter().filter(|(_, output, _)| wanted(output)).map(|file| (link(file), 1));
    let mut ended = None;
    for (done, is_companion) in tasks.chain(copies).chain(links) {
        match done {
            Ok(()) => companions += is_companion,
            Err(error) if alone || matches!(error, Error::Interrupted) || error.is_storage_full() => {
                ended = Some(error);
                break;
            }
            Err(error) => {
                bar.say(&error.to_string());
                exit = exit.and(Exit::of(&error));
            }
        }
    }
    bar.done();
    for (shards, dir, total) in shards.complete(|_| None) {
        match shards.write_plain(&dir, total) {
            Ok(written) => written.iter().try_for_each(|path| print(&format!("{}: written\n", out::shown(path))))?,
            Err(error) => {
                say(&error.to_string());
                exit = exit.and(Exit::of(&error));
            }
        }
    }
    exit = exit.and(made.finish(false));
    if let Some(error) = ended {
        return Err(error);
    }
    if !directories.is_empty() {
        print(&format!("{restored} restored, {companions} copied\n"))?;
    }
    Ok(exit.into())
}

/// What to do.
#[derive(Default)]
struct Plan {
    tasks: Vec<Task>,
    /// Files that are copied as they are, and their lengths.
    copies: Vec<(PathBuf, PathBuf, u64)>,
    /// Links that are made again, and what they say.
    links: Vec<(PathBuf, PathBuf, PathBuf)>,
    /// Directories to make, parents first, and those that they mirror.
    directories: Vec<(PathBuf, PathBuf)>,
}

/// What to do. Of a directory, what cannot be read is left out, and `exit` says so.
fn plan(args: &DecompressArgs, exit: &mut Exit) -> Result<Plan> {
    let mut plan = Plan::default();
    match &args.output {
        Some(out) if longpath::is_dir(&args.input) => plan_mirror(args, out, &mut plan, exit)?,
        _ => {
            let (inputs, unread) = out::containers(&args.input)?;
            *exit = exit.and(unread);
            for input in inputs {
                let Some(opened) = left_out(args, open(&input), exit)? else { continue };
                let output = output_of(args, &input, &opened)?;
                plan.tasks.push(Task { input, output, raw_len: opened.raw_len(), mirror: false });
            }
        }
    }
    // Containers of both formats, or a container and a file of the name that it gets.
    let files = plan.tasks.iter().map(|task| &task.output).chain(plan.copies.iter().map(|(_, output, _)| output));
    let links = plan.links.iter().map(|(_, output, _)| output);
    let mut seen = HashSet::new();
    for (output, is_link) in files.map(|output| (output, false)).chain(links.map(|output| (output, true))) {
        let is_there = if is_link { out::is_there_for_link } else { out::is_there };
        if is_there(output)? && !args.force {
            return Err(Error::Exists { path: output.clone() });
        }
        if !seen.insert(output) {
            let text = "two containers would be written to it; decompress them one by one, with -o";
            return Err(Error::invalid(format!("{}: {text}", output.display())));
        }
    }
    Ok(plan)
}

/// A container that was opened; `None` for one of a directory that could not be, which is said.
fn left_out(args: &DecompressArgs, opened: Result<Opened>, exit: &mut Exit) -> Result<Option<Opened>> {
    match opened {
        Ok(opened) => {
            if let Opened::BigSmall(container) = &opened {
                container.warn();
            }
            Ok(Some(opened))
        }
        Err(error) if longpath::is_dir(&args.input) => {
            say(&format!("{error}; left out"));
            *exit = exit.and(Exit::of(&error));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// All of a directory: containers, other files, links and directories.
fn plan_mirror(args: &DecompressArgs, out: &Path, plan: &mut Plan, exit: &mut Exit) -> Result<()> {
    let root = &args.input;
    if longpath::same_file(root, out) {
        let text = "is the input; without -o the originals go beside their containers";
        return Err(Error::invalid(format!("{}: {text}", out.display())));
    }
    let tree = compress::walk(root, Some(out))?;
    tree.skipped.iter().for_each(|skipped| say(&format!("{skipped}; left out")));
    *exit = exit.and(out::left_out(&tree.errors));
    plan.directories.push((root.clone(), out.to_path_buf()));
    plan.directories.extend(tree.directories.iter().map(|dir| (root.join(dir), out.join(dir))));
    let mut restored: HashMap<PathBuf, Naming> = HashMap::new();
    for entry in tree.entries {
        let path = entry.path();
        let (input, output) = (root.join(path), out.join(path));
        match entry {
            Entry::Compress { ref path, len } | Entry::Copy { ref path, len } => {
                if !out::is_container(path) {
                    plan.copies.push((input, output, len));
                    continue;
                }
                let opened = match open(&input) {
                    Err(error @ Error::NotAContainer { .. }) => {
                        say(&format!("{error}; copied as it is"));
                        // All of it is there in any case; else it may be what is left of a container.
                        if len > 0 && !error.is_of_another_kind() {
                            *exit = exit.and(Exit::of(&error));
                        }
                        plan.copies.push((input, output, len));
                        continue;
                    }
                    opened => left_out(args, opened, exit)?,
                };
                let Some(opened) = opened else { continue };
                let output = naming(&opened)(&output).unwrap_or(output);
                plan.tasks.push(Task { input, output, raw_len: opened.raw_len(), mirror: true });
                restored.insert(path.clone(), naming(&opened));
            }
            Entry::Link { text, to, .. } => {
                let naming = to.and_then(|to| restored.get(&to));
                let named = |path: &Path| naming.and_then(|naming| naming(path));
                plan.links.push((input, named(&output).unwrap_or(output), named(&text).unwrap_or(text)));
            }
        }
    }
    if plan.tasks.is_empty() && *exit == Exit::Done {
        say(&format!("{}: no .bs file in this directory or below it; all is copied as it is", root.display()));
    }
    Ok(())
}

/// What names the original of a container, if its name tells.
type Naming = fn(&Path) -> Option<PathBuf>;

fn naming(opened: &Opened) -> Naming {
    match opened {
        Opened::Native(..) => without_bs,
        Opened::BigSmall(_) => shown_path,
    }
}

fn unnamed(input: &Path) -> Error {
    Error::invalid(format!("{}: the name does not end in .bs; say with -o what to write", input.display()))
}

fn output_of(args: &DecompressArgs, input: &Path, opened: &Opened) -> Result<PathBuf> {
    let Some(out) = &args.output else {
        return naming(opened)(input).ok_or_else(|| unnamed(input));
    };
    if longpath::is_dir(out) {
        let name = input.file_name().map(PathBuf::from).unwrap_or_default();
        return Ok(out.join(naming(opened)(&name).unwrap_or(name)));
    }
    Ok(out.clone())
}

/// Decompresses one file; gives the bytes of its tensors if it may be a shard.
fn decompress(
    args: &DecompressArgs,
    (pool, engine, finder): (&rayon::ThreadPool, &Arc<Engine>, &Arc<Finder>),
    Task { input, output, mirror, .. }: &Task,
    stop: &AtomicBool,
    bar: &Bar,
) -> Result<Option<u64>> {
    let opened = open(input)?;
    if longpath::same_file(input, output) {
        return Err(Error::invalid(format!("{}: input and output are the same file", output.display())));
    }
    let create = |source: &FileSource| {
        let mut file = AtomicFile::create(output, args.force)?;
        if let Some(attributes) = source.attributes()? {
            let note = if *mirror { file.mirror(&attributes)? } else { file.narrow(&attributes)? };
            note.iter().for_each(|note| bar.note(note));
        }
        Ok::<_, Error>(file)
    };
    match opened {
        Opened::Native(source, container) => {
            let mut file = create(&source)?;
            decompress_to((pool, engine, finder), (&source, &container), stop, &mut |raw| {
                file.write_all(raw).map_err(Error::io("write", output))?;
                bar.advance(raw.len() as u64, 0);
                Ok(())
            })?;
            let (seconds, nanoseconds) = container.mtime();
            file.set_modified_at(seconds, nanoseconds)?;
            file.publish()?;
            Ok(None)
        }
        Opened::BigSmall(container) => {
            let base = args.base.find(engine, finder, &container)?;
            let file = create(&container.source)?;
            unpack((pool, engine), &container, base, file, stop, bar)?;
            Ok(Some(container.presented.tensor_bytes()))
        }
    }
}

/// Gives the bytes of a container's original to `take`, in order; all of it is checked by the end.
fn decompress_to(
    (pool, engine, finder): (&rayon::ThreadPool, &Arc<Engine>, &Arc<Finder>),
    (source, container): (&Arc<FileSource>, &Arc<Container>),
    stop: &AtomicBool,
    take: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    source.advise_sequential();
    let references = finder.references(engine, container, source.identity());
    let whole = Whole { container, source: &**source, references: references.as_deref() };
    if let Some(references) = &references {
        references.complete(container)?;
    }
    engine::verify(pool, whole, None, stop, &mut |_, raw: &[u8]| take(raw)).map(drop)
}

/// Writes the original of one container to where bytes go one after the other. What was written before an error stays written.
fn stream_original(args: &DecompressArgs, to: &mut Stream, stop: &AtomicBool) -> Result<ExitCode> {
    if longpath::is_dir(&args.input) {
        let text = "is a directory, which no stream can take; name one container, or a directory with -o";
        return Err(Error::invalid(format!("{}: {text}", args.input.display())));
    }
    let pool = parallel::pool(args.threads)?;
    let engine = opened::engine(args.threads);
    match open(&args.input)? {
        Opened::Native(source, container) => {
            decompress_to(
                (&pool, &engine, &args.base.finder(&args.input)?),
                (&source, &container),
                stop,
                &mut |raw| to.write(raw),
            )?;
        }
        Opened::BigSmall(container) => {
            container.warn();
            let base = args.base.find(&engine, &args.base.finder(&args.input)?, &container)?;
            let from = container.presented.header().len() as u64;
            let image = engine.foreign(container.presented.clone(), container.source.clone(), base);
            let image = ImageSource::new(image, &args.input, from);
            let (mut at, mut buffer) = (0, vec![0; 1 << 20]);
            while at < image.len() {
                if stop.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
                // The header apart, behind which the image is read ahead.
                let end = if at < from { from } else { image.len() };
                let step = (end - at).min(buffer.len() as u64);
                let piece = buffer.get_mut(..step as usize).unwrap_or_default();
                image.read_exact_at(at, piece)?;
                to.write(piece)?;
                at += step;
            }
            if !container.source.unchanged()? {
                return Err(Error::Changed { path: args.input.clone() });
            }
        }
    }
    Ok(Exit::Done.into())
}
