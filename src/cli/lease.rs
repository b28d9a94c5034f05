//! A file that nobody writes to meanwhile: a read lease of the kernel, and who stands in its way.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bsfs::access::Attributes;
use bsfs::longpath;
use bsfs::sink::aside::{self, Healed};
use bsfs::source::{self, Bounds, FileSource, Identity};
use bsfs::{Error, Result};
use rustix::fs::{Mode, OFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGIO, SIGTERM};

use super::exit::Exit;
use super::out;

/// More processes than these are not named.
const MOST: usize = 3;

/// Why work must stop: the user's wish, or somebody who wants to write to the file in work.
pub struct Halt {
    /// Set by both; what work looks at.
    pub any: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    wanted: Arc<AtomicBool>,
}

impl Halt {
    /// Watches signals from now on. `stop` is the flag that the user's signals set.
    pub fn watch(stop: Arc<AtomicBool>) -> Result<Self> {
        let halt = Self { any: Arc::default(), stop, wanted: Arc::default() };
        let failed = Error::io("watch signals", "");
        // The kernel tells with SIGIO that somebody opens a file of ours for writing, and has them wait; unheard, it would end us.
        let registered = [SIGINT, SIGTERM, SIGHUP, SIGIO]
            .iter()
            .try_for_each(|&signal| signal_hook::flag::register(signal, Arc::clone(&halt.any)).map(drop))
            .and_then(|()| signal_hook::flag::register(SIGIO, Arc::clone(&halt.wanted)).map(drop));
        registered.map_err(failed)?;
        Ok(halt)
    }

    /// Whether the user asked to stop.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// [`Error::Interrupted`] once work must stop.
    pub fn check(&self) -> Result<()> {
        if self.any.load(Ordering::SeqCst) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Begins with the next file. What was wanted of the last one is settled.
    pub fn next(&self) {
        self.wanted.store(false, Ordering::SeqCst);
        self.any.store(self.stopped(), Ordering::SeqCst);
    }

    /// Whether work stopped because another process wants to write, and the user did not ask to stop.
    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst) && !self.stopped()
    }

    /// Says why work on `path` was interrupted, if it was for another process.
    pub fn explain<T>(&self, path: &Path, result: Result<T>) -> Result<T> {
        match result {
            Err(Error::Interrupted) if self.is_wanted() => Err(Error::invalid(format!(
                "{}: another process opened it for writing meanwhile; left as it is",
                path.display()
            ))),
            result => result,
        }
    }
}

/// Held while a file is read, proven and removed. While it is, whoever opens the file for writing waits, and [`Halt`] says so:
/// so nothing is written that gets lost. Where there are no leases (network file systems, files of others) writers are looked
/// for, and times are compared.
pub struct Lease {
    file: File,
}

impl Lease {
    /// Takes it on this version of `path`.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming who has the file open for writing, [`Error::Changed`] when it is another by now.
    pub fn take(path: &Path, version: Identity) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = longpath::open(path, flags, Mode::empty()).map_err(Error::io("open", path))?;
        if Identity::of(&file.metadata().map_err(Error::io("stat", path))?) != version {
            return Err(Error::Changed { path: path.into() });
        }
        // SAFETY: plain numbers; the descriptor is open.
        let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } == 0;
        let refused = !taken && std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock;
        let mut writers = if taken { Vec::new() } else { users(version) };
        writers.retain(|user| user.writes);
        if refused || !writers.is_empty() {
            let who = if writers.is_empty() { "a process that you may not see".into() } else { names(&writers) };
            return Err(Error::invalid(format!("{}: open for writing by {who}; left as it is", path.display())));
        }
        aside::mark(&file);
        Ok(Self { file })
    }
}

/// A file that is going to be removed or replaced by its only name that matters.
pub struct Held<'a> {
    source: &'a FileSource,
    path: &'a Path,
    /// What `lstat` says of it.
    pub meta: Metadata,
    /// What its successor gets of it.
    pub attributes: Attributes,
    _lease: Lease,
}

impl<'a> Held<'a> {
    /// Takes the lease on the version that `source` is open of.
    ///
    /// # Errors
    /// Those of [`Lease::take`]; [`Error::Invalid`] for a name too long to be moved aside.
    pub fn take(source: &'a FileSource, path: &'a Path) -> Result<Self> {
        aside::check(path)?;
        let lease = Lease::take(path, source.identity())?;
        let meta = longpath::symlink_metadata(path).map_err(Error::io("stat", path))?;
        let attributes = Attributes::of(&lease.file).map_err(Error::io("look at the permissions of", path))?;
        let held = Self { source, path, meta, attributes, _lease: lease };
        held.same(Identity::of(&held.meta))?;
        Ok(held)
    }

    fn same(&self, now: Identity) -> Result<()> {
        if now == self.source.identity() { Ok(()) } else { Err(Error::Changed { path: self.path.into() }) }
    }

    /// Looks whether the name still leads to this version, and whether another process has it open for writing.
    ///
    /// # Errors
    /// [`Error::Changed`] and [`Error::Interrupted`].
    pub fn check(&self, halt: &Halt) -> Result<()> {
        halt.check()?;
        let meta = longpath::symlink_metadata(self.path).map_err(Error::io("stat", self.path))?;
        self.same(Identity::of(&meta))?;
        if users(self.source.identity()).iter().any(|user| user.writes) {
            return Err(Error::Changed { path: self.path.into() });
        }
        halt.check()
    }
}

/// What [`heal`] did not put back, and why.
#[derive(Default)]
pub struct Unhealed {
    /// For the user to look at.
    pub said: Vec<String>,
    /// What could not be looked at or renamed, and so is left out.
    pub errors: Vec<Error>,
}

impl Unhealed {
    /// Tells it all; gives how the program ends for that.
    pub fn tell(&self) -> Exit {
        self.said.iter().for_each(|said| out::say(said));
        out::left_out(&self.errors)
    }
}

/// Puts back what a killed process left aside (see [`aside`]) of `path`, or below it within `bounds`; only looks in a `dry_run`.
pub fn heal(path: &Path, bounds: &Bounds<'_>, dry_run: bool) -> Unhealed {
    let (mut asides, mut left) = (vec![aside::aside_path(path)], Unhealed::default());
    if longpath::is_dir(path) {
        // What cannot be listed is told by the verb, which lists it as well.
        let found = source::walk(path, bounds).map(|walk| walk.files).unwrap_or_default();
        asides = found.into_iter().map(|found| path.join(found.path)).collect();
    }
    for at in asides {
        let Some(origin) = aside::origin(&at).filter(|_| longpath::symlink_metadata(&at).is_ok()) else { continue };
        let healed = match dry_run {
            true if longpath::symlink_metadata(&origin).is_ok() => Ok(Healed::Taken),
            true => {
                let text = "was moved aside by another run; without --dry-run it is put back, unless that run goes on";
                left.said.push(format!("{}: {text}", at.display()));
                continue;
            }
            false => aside::heal(&at),
        };
        match healed {
            Err(error) => left.errors.push(error),
            Ok(Healed::PutBack | Healed::InUse) => {}
            Ok(Healed::Taken) => left.said.push(format!(
                "{}: was moved aside by a run that did not end, and {} is another file now, perhaps its successor; \
                 compare both ('bsfs info'), and remove the one that you do not want",
                at.display(),
                origin.display()
            )),
        }
    }
    left
}

/// A process that has a file open.
pub struct User {
    /// "process N (command)"
    pub name: String,
    pub writes: bool,
}

/// Processes that have this file open, but for this one; only those that the user may see.
pub fn users(version: Identity) -> Vec<User> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        let process = process.path();
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let writes: Vec<bool> = files.filter_map(|fd| writes(&process, &fd.file_name(), version)).collect();
        if !writes.is_empty() {
            let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
            let name = format!("process {pid} ({})", command.trim());
            found.push(User { name, writes: writes.contains(&true) });
        }
    }
    found
}

/// Whether an open file of a process is open for writing; `None` when it is another file.
fn writes(process: &Path, number: &OsStr, version: Identity) -> Option<bool> {
    let info = fs::read_to_string(process.join("fdinfo").join(number)).ok()?;
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    // First by number: asking a file of a file system that hangs would hang.
    if field("ino:").is_some_and(|ino| ino.parse() != Ok(version.ino)) {
        return None;
    }
    let meta = fs::metadata(process.join("fd").join(number)).ok()?;
    let flags = field("flags:").and_then(|flags| u32::from_str_radix(flags, 8).ok()).unwrap_or(0);
    ((meta.dev(), meta.ino()) == (version.dev, version.ino)).then_some(flags & 3 != 0)
}

/// Names for a message, the first few.
pub fn names(users: &[User]) -> String {
    let first: Vec<&str> = users.iter().take(MOST).map(|user| &*user.name).collect();
    let more = if users.len() > MOST { " and others" } else { "" };
    format!("{}{more}", first.join(", "))
}
