//! What `bsfs compress` does: which file becomes what, where.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bsfs::compress::{self, Entry};
use bsfs::longpath;
use bsfs::{Error, Result};

use super::against::Bases;
use super::compress_args::CompressArgs;
use super::exit::Exit;
use super::opened;
use super::out::{self, say, with_bs};
use super::share::{self, Share};
use super::stream;

/// Where an input is, and its name below the output when that is not its own.
pub type Input = (PathBuf, Option<PathBuf>);

/// One thing to do.
pub enum Task {
    Compress {
        input: PathBuf,
        output: PathBuf,
        len: u64,
        /// Whether the output is part of a mirror, and has the input's permissions.
        mirror: bool,
    },
    Copy {
        input: PathBuf,
        output: PathBuf,
        len: u64,
    },
    /// A link that says `text`, and leads to what became of another file of the run, if to one.
    Link {
        input: PathBuf,
        output: PathBuf,
        text: PathBuf,
        to: Option<PathBuf>,
    },
}

impl Task {
    pub fn output(&self) -> &Path {
        match self {
            Self::Compress { output, .. } | Self::Copy { output, .. } | Self::Link { output, .. } => output,
        }
    }

    /// The file that it is made of.
    pub fn input(&self) -> Option<&Path> {
        match self {
            Self::Compress { input, .. } | Self::Copy { input, .. } => Some(input),
            Self::Link { .. } => None,
        }
    }

    /// What is compressed.
    pub fn compressed(&self) -> Option<&Path> {
        match self {
            Self::Compress { input, .. } => Some(input),
            Self::Copy { .. } | Self::Link { .. } => None,
        }
    }

    pub fn len(&self) -> u64 {
        match self {
            Self::Compress { len, .. } | Self::Copy { len, .. } => *len,
            Self::Link { .. } => 0,
        }
    }
}

/// Files that are copied, and their lengths.
pub fn copied(tasks: &[Task]) -> Vec<(PathBuf, u64)> {
    let of = |task: &Task| match task {
        Task::Copy { input, len, .. } => Some((input.clone(), *len)),
        Task::Compress { .. } | Task::Link { .. } => None,
    };
    tasks.iter().filter_map(of).collect()
}

/// What is copied and is a container already, so that the way back unpacks it, too.
pub fn packed_already(tasks: &[Task]) -> Vec<PathBuf> {
    let copied = copied(tasks).into_iter().map(|(path, _)| path);
    copied.filter(|path| out::is_container(path) && opened::open(path).is_ok()).collect()
}

/// The archives among what is copied, in which there may be weights that other files have as well.
pub fn archives(tasks: &[Task]) -> Vec<PathBuf> {
    let copied = tasks.iter().filter_map(|task| match task {
        Task::Copy { input, .. } => Some(input),
        Task::Compress { .. } | Task::Link { .. } => None,
    });
    let is = |path: &&PathBuf| path.extension().is_some_and(|e| ["bin", "pt", "pth", "ckpt"].iter().any(|a| e == *a));
    copied.filter(is).cloned().collect()
}

/// Packs files that would be copied, if other files of the run have half of them, behind those that have it.
pub fn pack_repeated(tasks: &mut [Task], bases: &mut Bases) {
    let mut packed = HashSet::new();
    for task in tasks.iter_mut() {
        if let Task::Copy { input, output, len } = task
            && bases.pack_repeated(input, *len)
        {
            packed.insert(output.clone());
            *task = Task::Compress { input: input.clone(), output: with_bs(output), len: *len, mirror: true };
        }
    }
    for task in tasks.iter_mut() {
        if let Task::Link { output, text, to: Some(to), .. } = task
            && packed.contains(to)
        {
            (*output, *text, *to) = (with_bs(output), with_bs(text), with_bs(to));
        }
    }
    let late: HashSet<PathBuf> = packed.iter().map(|output| with_bs(output)).collect();
    tasks.sort_by_key(|task| match task {
        Task::Link { .. } => 2,
        task if late.contains(task.output()) => 1,
        _ => 0,
    });
}

/// The tasks of a share that are not done yet.
pub fn share_of(share: Share, tasks: Vec<Task>, force: bool, stop: &AtomicBool) -> Result<Vec<Task>> {
    let files: Vec<(&Path, u64)> = tasks.iter().map(|task| (task.output(), task.len())).collect();
    let own = share.of(&files);
    let mut left = Vec::new();
    for (task, own) in tasks.into_iter().zip(own) {
        let done = match &task {
            // A link may be made before what it leads to.
            Task::Link { .. } if !share.is_first() => continue,
            Task::Link { output, text, .. } => longpath::read_link(output).is_ok_and(|there| there == *text),
            _ if !own => continue,
            _ if force => false,
            Task::Compress { input, output, .. } => share::is_packed(input, output, stop)?,
            Task::Copy { input, output, .. } => share::is_copied(input, output)?,
        };
        if !done {
            left.push(task);
        }
    }
    Ok(left)
}

/// What to do.
pub struct Plan {
    pub tasks: Vec<Task>,
    /// Directories to make, parents first, and those that they mirror.
    pub directories: Vec<(PathBuf, PathBuf)>,
    /// Directories to make that mirror none.
    pub parents: Vec<PathBuf>,
    /// What could not be read, and so is left out.
    pub exit: Exit,
}

pub fn plan(args: &CompressArgs, inputs: &[Input]) -> Result<Plan> {
    let mut plan = Plan { tasks: Vec::new(), directories: Vec::new(), parents: Vec::new(), exit: Exit::Done };
    let several = inputs.len() > 1;
    if let Some(out) = &args.output {
        stream::refuse(out)?;
    }
    for (input, name) in inputs {
        let name_of = |input: &Path| name.clone().map_or_else(|| name_of(input), Ok);
        let meta = longpath::metadata(input).map_err(Error::io("open", input))?;
        if meta.is_dir() {
            let Some(out) = &args.output else {
                let text = "is a directory; say with -o DIR where its compressed mirror should go";
                return Err(Error::invalid(format!("{}: {text}", input.display())));
            };
            let out = if several { out.join(name_of(input)?) } else { out.clone() };
            plan_directory(input, &out, &mut plan)?;
            continue;
        }
        let output = match &args.output {
            None => with_bs(input),
            Some(out) if several || longpath::is_dir(out) => {
                plan.parents.push(out.clone());
                with_bs(&out.join(name_of(input)?))
            }
            Some(out) => out.clone(),
        };
        plan.tasks.push(Task::Compress { input: input.clone(), output, len: meta.len(), mirror: false });
    }
    Ok(plan)
}

fn name_of(path: &Path) -> Result<PathBuf> {
    if let Some(name) = path.file_name() {
        return Ok(PathBuf::from(name));
    }
    let absolute = fs::canonicalize(path).map_err(Error::io("open", path))?;
    let name = absolute.file_name().ok_or_else(|| Error::invalid(format!("{}: has no name", path.display())))?;
    Ok(PathBuf::from(name))
}

fn plan_directory(input: &Path, out: &Path, plan: &mut Plan) -> Result<()> {
    if longpath::same_file(input, out) {
        return Err(Error::invalid(format!("{}: input and output are the same directory", out.display())));
    }
    let tree = compress::walk(input, Some(out))?;
    for skipped in &tree.skipped {
        say(&format!("{skipped}; left out"));
    }
    plan.exit = plan.exit.and(out::left_out(&tree.errors));
    plan.directories.push((input.to_path_buf(), out.to_path_buf()));
    plan.directories.extend(tree.directories.iter().map(|dir| (input.join(dir), out.join(dir))));
    let mut packed: HashSet<PathBuf> = HashSet::new();
    for entry in tree.entries {
        plan.tasks.push(match entry {
            Entry::Compress { path, len } => {
                let task =
                    Task::Compress { input: input.join(&path), output: with_bs(&out.join(&path)), len, mirror: true };
                packed.insert(path);
                task
            }
            Entry::Copy { path, len } => Task::Copy { input: input.join(&path), output: out.join(path), len },
            Entry::Link { path, text, to } => {
                let (input, output) = (input.join(&path), out.join(path));
                match to.map(|to| (packed.contains(&to), out.join(to))) {
                    Some((true, to)) => {
                        Task::Link { input, output: with_bs(&output), text: with_bs(&text), to: Some(with_bs(&to)) }
                    }
                    to => Task::Link { input, output, text, to: to.map(|(_, to)| to) },
                }
            }
        });
    }
    Ok(())
}

/// Refuses before hours of work what would be refused behind them.
pub fn check_outputs(tasks: &[Task], force: bool) -> Result<()> {
    let mut seen = HashMap::new();
    for task in tasks {
        let output = task.output();
        if seen.insert(output, ()).is_some() {
            return Err(Error::invalid(format!("{}: two inputs would be written to it", output.display())));
        }
        let is_there = if matches!(task, Task::Link { .. }) { out::is_there_for_link } else { out::is_there };
        if is_there(output)? && !force {
            return Err(Error::Exists { path: output.to_path_buf() });
        }
    }
    Ok(())
}
