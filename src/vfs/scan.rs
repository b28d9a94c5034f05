//! Reads one directory of the source: what is there, what it is, and how it is shown.
//!
//! No inode numbers here, and no locks: opening containers takes as long as the disk does.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::{debug, warn};

use super::name::{self, Candidate, Maker, Shown};
use crate::error::{Error, Result};
use crate::format::{Container, Sniff, sniff};
use crate::source::{FileSource, Identity};

/// A directory's modification time proves nothing about changes within the clock's granularity before the scan.
const CLOCK_STEP: Duration = Duration::from_millis(50);
/// Below this many containers a thread costs more than it saves.
const OPENS_PER_THREAD: usize = 16;
/// More threads than this do not make a disk faster.
const MAX_OPENERS: usize = 8;

/// Device and inode number of a directory.
pub(super) type DirId = (u64, u64);

/// What `stat` of a directory says about its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    id: DirId,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            id: (meta.dev(), meta.ino()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// Where a directory's entries come from.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory.
    pub(super) path: PathBuf,
    /// Show this name only: the source is one file.
    pub(super) only: Option<OsString>,
    /// The directory itself and those above it, up to the source.
    pub(super) ancestors: Vec<DirId>,
}

/// What a name of the source is.
#[derive(Debug, Clone)]
pub(super) enum Class {
    /// A directory.
    Directory(DirId),
    /// A file shown as it is.
    Plain(Identity),
    /// A container; `Arc` because inodes and open files share it.
    Container(Identity, Maker, Arc<Container>),
}

/// One name of the source, settled.
#[derive(Debug)]
pub(super) struct Found {
    /// The name in the source.
    pub(super) source: OsString,
    /// The name that it is shown under.
    pub(super) shown: OsString,
    /// What it is.
    pub(super) class: Class,
    /// Whether a container is shown as the original.
    pub(super) decoded: bool,
}

/// Everything known of a directory at one moment.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) stamp: Stamp,
    /// When the scan began.
    pub(super) taken: Instant,
    /// Whether an unchanged stamp proves unchanged names.
    pub(super) settled: bool,
    /// Sorted by shown name.
    pub(super) found: Vec<Found>,
    /// What was logged, so that the next scan repeats nothing.
    pub(super) remarks: BTreeSet<String>,
}

/// Scans `place`. `known` gives the class that a source name had in the last scan; a container that has not changed
/// is not opened again. `exclude` is the mount point: looking at it from the daemon would wait for the daemon.
pub(super) fn scan(
    place: &Place,
    known: &HashMap<&OsStr, &Class>,
    remarked: &BTreeSet<String>,
    exclude: Option<&Path>,
) -> Result<Scan> {
    let taken = Instant::now();
    let now = SystemTime::now();
    let meta = std::fs::metadata(&place.path).map_err(Error::io("stat", &place.path))?;
    let mut remarks = BTreeSet::new();
    let real = exclude.and_then(|_| std::fs::canonicalize(&place.path).ok());
    let mut classes: Vec<(OsString, Class)> = Vec::new();
    let mut unopened: Vec<(OsString, Identity)> = Vec::new();
    for source in names(place)? {
        let path = place.path.join(&source);
        if let (Some(exclude), Some(real)) = (exclude, &real)
            && leads_to(&path, &real.join(&source), exclude)
        {
            remarks.insert(format!("{}: leads into this mount; not listed", path.display()));
            continue;
        }
        let meta = match std::fs::metadata(&path) {
            Ok(meta) => meta,
            // Removed since it was listed: as if it had never been there. A link is still there and dangles.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && std::fs::symlink_metadata(&path).is_err() => continue,
            Err(e) => {
                remarks.insert(format!("{}: cannot be followed ({e}); not listed", path.display()));
                continue;
            }
        };
        if meta.is_dir() {
            let id = (meta.dev(), meta.ino());
            // Listed, such a link would make the tree endless for everything that walks it.
            if place.ancestors.contains(&id) {
                remarks.insert(format!("{}: a link to a directory above itself; not listed", path.display()));
            } else {
                classes.push((source, Class::Directory(id)));
            }
        } else if meta.is_file() {
            let identity = Identity::of(&meta);
            match known.get(source.as_os_str()) {
                Some(class @ (Class::Plain(old) | Class::Container(old, ..))) if *old == identity => {
                    classes.push((source, (*class).clone()));
                }
                _ if name::may_be_container(&source) => unopened.push((source, identity)),
                _ => classes.push((source, Class::Plain(identity))),
            }
        } else {
            remarks.insert(format!("{}: neither a file nor a directory; not listed", path.display()));
        }
    }
    for ((source, identity), opened) in unopened.iter().zip(open_all(&place.path, &unopened)) {
        let class = match opened {
            Ok((identity, maker, container)) => Class::Container(identity, maker, Arc::new(container)),
            Err(error) => {
                // Once for each version of the file: the next scan knows the class.
                warn!("{error}; shown as it is");
                Class::Plain(*identity)
            }
        };
        classes.push((source.clone(), class));
    }
    let found = settle(place, classes, &mut remarks);
    for remark in remarks.difference(remarked) {
        warn!("{remark}");
    }
    debug!("{}: {} names in {:?}", place.path.display(), found.len(), taken.elapsed());
    Ok(Scan { stamp: Stamp::of(&meta), taken, settled: settled(&meta, now), found, remarks })
}

/// The names in the source directory, `.` and `..` apart.
fn names(place: &Place) -> Result<Vec<OsString>> {
    if let Some(only) = &place.only {
        return Ok(vec![only.clone()]);
    }
    let fail = || Error::io("list", &place.path);
    std::fs::read_dir(&place.path).map_err(fail())?.map(|entry| Ok(entry.map_err(fail())?.file_name())).collect()
}

/// Whether `path` is the mount point, or a link whose text points at it or below. `real` is `path` with all links
/// above its last component resolved. Only text is compared: a `stat` that reaches the mount would wait for us.
fn leads_to(path: &Path, real: &Path, exclude: &Path) -> bool {
    if real == exclude {
        return true;
    }
    let Ok(target) = std::fs::read_link(path) else {
        return false;
    };
    let Some(parent) = real.parent() else { return false };
    let mut plain = PathBuf::new();
    for part in parent.join(target).components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain.starts_with(exclude)
}

/// Whether the directory was left alone for long enough before `now`.
fn settled(meta: &Metadata, now: SystemTime) -> bool {
    match meta.modified().map(|mtime| now.duration_since(mtime)) {
        Ok(Ok(age)) => age > CLOCK_STEP,
        // A time far in the future is a wrong clock, and stays what it is.
        Ok(Err(ahead)) => ahead.duration() > CLOCK_STEP,
        Err(_) => true,
    }
}

type Opened = (Identity, Maker, Container);

/// Opens containers, several at a time when there are many. Results are in the order of `files`.
fn open_all(dir: &Path, files: &[(OsString, Identity)]) -> Vec<Result<Opened>> {
    let open = |(name, _): &(OsString, Identity)| open_container(&dir.join(name));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.clamp(2, MAX_OPENERS).min(files.len() / OPENS_PER_THREAD);
    if threads < 2 {
        return files.iter().map(open).collect();
    }
    std::thread::scope(|scope| {
        let workers: Vec<_> = files
            .chunks(files.len().div_ceil(threads))
            .map(|part| scope.spawn(move || part.iter().map(open).collect::<Vec<_>>()))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload)))
            .collect()
    })
}

/// Opens one file as a container; the descriptor is closed again, the identity says what was read.
fn open_container(path: &Path) -> Result<Opened> {
    let source = FileSource::open(path)?;
    let mut first = [0u8; 8];
    let maker = match source.read_at(0, &mut first).map(|n| sniff(first.get(..n).unwrap_or_default()))? {
        Sniff::BigSmall => Maker::BigSmall,
        // Let the format say what is wrong with anything else.
        Sniff::Native | Sniff::Other => Maker::Native,
    };
    let container = Container::open(&source)?;
    if !source.unchanged()? {
        return Err(Error::Changed { path: path.to_path_buf() });
    }
    Ok((source.identity(), maker, container))
}

/// Gives every name its shown name, sorted by it.
fn settle(place: &Place, classes: Vec<(OsString, Class)>, remarks: &mut BTreeSet<String>) -> Vec<Found> {
    let candidates: Vec<Candidate<'_>> = classes
        .iter()
        .map(|(name, class)| {
            let maker = if let Class::Container(_, maker, _) = class { Some(*maker) } else { None };
            Candidate { name, maker }
        })
        .collect();
    let shown = name::settle(&candidates);
    let mut found: Vec<Found> = classes
        .into_iter()
        .zip(shown)
        .map(|((source, class), shown)| match shown {
            Shown::Original(shown) => Found { source, shown, class, decoded: true },
            Shown::AsItIs => Found { shown: source.clone(), source, class, decoded: false },
            Shown::Taken(name) => {
                let path = place.path.join(&source);
                remarks.insert(format!(
                    "{}: the name {} is taken by another file; shown as it is",
                    path.display(),
                    name.display()
                ));
                Found { shown: source.clone(), source, class, decoded: false }
            }
        })
        .collect();
    found.sort_unstable_by(|a, b| a.shown.as_bytes().cmp(b.shown.as_bytes()));
    found
}
