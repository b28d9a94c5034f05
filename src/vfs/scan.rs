//! Reads one directory of the source: what is there, what it is, and how it is shown.
//!
//! No inode numbers here, and no locks: opening containers takes as long as the disk does.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::{debug, warn};
use rustix::io::Errno;

use super::link::Link;
use super::name::{self, Candidate, Shown};
use super::packed::{self, Opened};
use super::shards::{self, Generated, Index, SHOWN_INDEX, has_version};
use crate::access::Access;
use crate::error::{Error, Result};
use crate::format::bigsmall::SHARD_INDEX;
use crate::source::{Identity, Stat, Timestamp, Tree, waits, way};

/// A directory's modification time proves nothing about changes within the clock's granularity before the scan.
const CLOCK_STEP: Duration = Duration::from_millis(50);

/// A call that takes longer hangs, as far as a scan is concerned.
const HUNG: Duration = Duration::from_secs(1);

/// Device and inode number of a directory.
pub(super) type DirId = (u64, u64);

/// What `stat` of a directory says about its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) id: DirId,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) access: Option<Access>,
}

impl Stamp {
    /// What is there now.
    pub(super) fn take(tree: &dyn Tree, path: &Path) -> Result<Self> {
        match tree.stat(path).map_err(Error::io("stat", path))? {
            Stat::Directory { id, mtime, ctime, access } => Ok(Self { id, mtime, ctime, access }),
            _ => Err(Error::io("list", path)(std::io::ErrorKind::NotADirectory.into())),
        }
    }
}

/// Where a directory's entries come from.
#[derive(Debug)]
pub(super) struct Place {
    /// What it is a part of.
    pub(super) tree: Arc<dyn Tree>,
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
    /// A directory, and what `stat` said of it.
    Directory(Stamp),
    /// A file shown as it is.
    Plain(Identity),
    /// A container.
    Container(Opened),
    /// A shard index that no file of the source holds.
    Generated(Arc<Generated>),
    /// A link that is shown as one.
    Link(Link),
}

impl Class {
    /// Whether it was on another file system than its directory.
    fn is_beyond(&self, directory: &Stamp) -> bool {
        let device = match self {
            Self::Directory(stamp) => stamp.id.0,
            Self::Plain(identity) => identity.dev,
            Self::Container(opened) => opened.identity.dev,
            Self::Generated(_) | Self::Link(_) => return false,
        };
        device != directory.id.0
    }

    /// Whether `name` in `dir`, a file with `access` if it is one, still is what was found, as far as `stat` can say.
    pub(super) fn unchanged(&self, tree: &dyn Tree, dir: &Path, (name, access): (&OsStr, Option<Access>)) -> bool {
        match self {
            Self::Directory(stamp) => {
                matches!(tree.stat(&dir.join(name)), Ok(Stat::Directory { id: now, .. }) if now == stamp.id)
            }
            Self::Plain(identity) => has_version(tree, &dir.join(name), Some(*identity), access),
            Self::Container(opened) => {
                has_version(tree, &dir.join(name), Some(opened.identity), access) && opened.index_unchanged(tree, dir)
            }
            Self::Generated(generated) => generated.unchanged(tree, dir),
            Self::Link(link) => link.unchanged(tree, &dir.join(name)),
        }
    }
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
    /// Who may read the file; `None` for what is no file, or of a tree that does not know users.
    pub(super) access: Option<Access>,
}

/// Everything known of a directory at one moment.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) stamp: Stamp,
    /// When the scan ended, and how long it took.
    pub(super) taken: Instant,
    pub(super) took: Duration,
    /// Whether an unchanged stamp proves unchanged names.
    pub(super) settled: bool,
    /// Sorted by shown name.
    pub(super) found: Vec<Found>,
    pub(super) notes: Notes,
}

/// What a scan learns besides names. The next one goes on from there.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// What was logged, so that nothing is repeated.
    pub(super) remarks: BTreeSet<String>,
    /// The directory's shard index, if it has one and containers that may need it.
    pub(super) index: Option<Arc<Index>>,
    /// What was made of it for readers of plain files, if it could be.
    pub(super) generated: Option<Arc<Generated>>,
    /// What is wrong with files that may be containers and cannot be opened as such, by name.
    pub(super) unopened: BTreeMap<OsString, String>,
    /// Names of which the system could not tell what they are, this time.
    pub(super) failed: HashSet<OsString>,
}

/// What each name of the source was in the last scan, and who might read it if it was a file.
pub(super) type Known<'a> = HashMap<&'a OsStr, (&'a Class, Option<Access>)>;

/// Where a scan may look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds<'a> {
    /// The source.
    pub(super) root: &'a Path,
    /// The mount point: looking at it from the daemon would wait for the daemon.
    pub(super) exclude: Option<&'a Path>,
}

/// Scans `place`. `known` gives the class that a source name had in the last scan, which left these notes; a container that
/// has not changed is not opened again. The name of the source that is `wanted` is looked at in any case.
pub(super) fn scan(
    place: &Place,
    known: &Known<'_>,
    last: Option<&Notes>,
    (bounds, wanted): (Bounds<'_>, Option<&OsStr>),
) -> Result<Scan> {
    // On a way round the mount no link is followed, and nothing else leads into it.
    let exclude = bounds.exclude.filter(|_| place.tree.is_local() && !way::is_way(&place.path));
    let taken = Instant::now();
    let now = SystemTime::now();
    let tree = &*place.tree;
    let stamp = Stamp::take(tree, &place.path)?;
    let mut remarks = BTreeSet::new();
    let real = exclude.and_then(|_| way::canonicalize(&place.path).ok());
    let mut classes: Vec<(OsString, Class)> = Vec::new();
    let mut unopened: Vec<(OsString, Identity)> = Vec::new();
    let mut accesses: HashMap<OsString, Access> = HashMap::new();
    let mut failed: HashSet<OsString> = HashSet::new();
    let mut wrong: BTreeMap<OsString, String> = BTreeMap::new();
    let failed_before = |name: &OsString| last.is_some_and(|last| last.failed.contains(name));
    let hung = waits::longest() > HUNG;
    for (source, is_directory) in entries(place)? {
        let path = place.path.join(&source);
        // What another file system holds may hang while this directory does not. A directory there is looked at when its own
        // name is asked for, and everything there is taken for what it was while some source hangs.
        if let Some((class, access)) = known.get(source.as_os_str()).filter(|(class, _)| class.is_beyond(&stamp))
            && wanted != Some(source.as_os_str())
            && (hung || is_directory && matches!(class, Class::Directory(_)))
        {
            let said = last.and_then(|last| last.unopened.get(&source));
            wrong.extend(said.map(|said| (source.clone(), said.clone())));
            accesses.extend(access.map(|access| (source.clone(), access)));
            classes.push((source, (*class).clone()));
            continue;
        }
        if let (Some(exclude), Some(real)) = (exclude, &real)
            && way::leads_to(&path, &real.join(&source), exclude)
        {
            remarks.insert(format!("{}: leads into this mount; not listed", path.display()));
            continue;
        }
        let stat = match tree.stat(&path) {
            Ok(Stat::Link(identity)) => {
                match Link::read(tree, &path, identity, bounds.root) {
                    Ok(link) => {
                        if tree.is_confined() && !way::is_way(&path) {
                            remarks.insert(outside(&path, &link));
                        }
                        classes.push((source, Class::Link(link)));
                    }
                    Err(e) => drop(remarks.insert(format!("{}: cannot be read ({e}); not listed", path.display()))),
                }
                continue;
            }
            Ok(stat) => stat,
            // Removed since it was listed: as if it had never been there. A link is still there and dangles.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && tree.stat_link(&path).is_err() => continue,
            Err(e) => {
                if let Some(link) = Link::to_packed(tree, &path, bounds.root) {
                    classes.push((source, Class::Link(link)));
                    continue;
                }
                remarks.insert(format!("{}: cannot be followed ({e}); not listed", path.display()));
                if may_pass(&e) {
                    failed.insert(source);
                }
                continue;
            }
        };
        if let Stat::Directory { id, mtime, ctime, access } = stat {
            // Listed, such a link would make the tree endless for everything that walks it.
            if place.ancestors.contains(&id) {
                remarks.insert(format!("{}: a link to a directory above itself; not listed", path.display()));
            } else {
                classes.push((source, Class::Directory(Stamp { id, mtime, ctime, access })));
            }
        } else if let Stat::File(identity, access) = stat {
            if let Some(access) = access {
                accesses.insert(source.clone(), access);
            }
            match known.get(source.as_os_str()).map(|(class, _)| *class) {
                Some(class @ (Class::Plain(old) | Class::Container(Opened { identity: old, .. })))
                    if *old == identity && !failed_before(&source) =>
                {
                    let said = last.and_then(|last| last.unopened.get(&source));
                    wrong.extend(said.map(|said| (source.clone(), said.clone())));
                    classes.push((source, class.clone()));
                }
                _ if name::may_be_container(&source) => unopened.push((source, identity)),
                _ => classes.push((source, Class::Plain(identity))),
            }
        } else {
            remarks.insert(format!("{}: neither a file nor a directory; not listed", path.display()));
        }
    }
    for ((source, identity), opened) in unopened.iter().zip(packed::open_all(tree, &place.path, &unopened)) {
        let class = match opened {
            Ok(opened) => Class::Container(opened),
            // Nothing is known of it: another try will tell, when there is a server.
            Err(error @ Error::Remote { outage: true, .. }) => return Err(error),
            // The disk or the server below failed, and not the container: the next scan tries again.
            Err(Error::Io { op, path, source: e }) if may_pass(&e) => {
                failed.insert(source.clone());
                let error = Error::Io { op, path, source: e };
                remarks.insert(format!("{error}; shown as it is"));
                Class::Plain(*identity)
            }
            Err(error) => {
                // Once for each version of the file: the next scan knows the class.
                warn!("{error}; shown as it is");
                wrong.insert(source.clone(), error.to_string());
                Class::Plain(*identity)
            }
        };
        classes.push((source.clone(), class));
    }
    let index = shards::index_of(place, &classes, last, exclude.zip(real.as_deref()));
    for (source, class) in &mut classes {
        if let Class::Container(opened) = class {
            shards::apply(&place.path, source, opened, index.as_deref());
        }
    }
    let mut found = settle(place, classes, &mut remarks);
    let of_index = accesses.get(OsStr::new(SHARD_INDEX)).copied();
    for found in &mut found {
        found.access = accesses.remove(&found.source);
    }
    let free = place.only.is_none() && !found.iter().any(|found| found.shown == SHOWN_INDEX);
    let generated = index.as_deref().filter(|_| free).and_then(|index| {
        let last = last.and_then(|last| last.generated.as_ref());
        shards::generate(&place.path, index, &found, last, &mut remarks)
    });
    if let Some(generated) = generated.as_ref().filter(|generated| generated.is_good()) {
        let class = Class::Generated(Arc::clone(generated));
        found.push(Found {
            source: SHOWN_INDEX.into(),
            shown: SHOWN_INDEX.into(),
            class,
            decoded: false,
            // It tells what that file tells.
            access: of_index,
        });
    }
    found.sort_unstable_by(|a, b| a.shown.as_bytes().cmp(b.shown.as_bytes()));
    for remark in remarks.iter().filter(|remark| !last.is_some_and(|last| last.remarks.contains(*remark))) {
        warn!("{remark}");
    }
    debug!("{}: {} names in {:?}", place.path.display(), found.len(), taken.elapsed());
    let settled = failed.is_empty() && (!tree.is_local() || settled(&stamp, now));
    let notes = Notes { remarks, index, generated, unopened: wrong, failed };
    Ok(Scan { stamp, taken: Instant::now(), took: taken.elapsed(), settled, found, notes })
}

/// What to say of a link that is shown as one because of where it leads.
fn outside(path: &Path, link: &Link) -> String {
    format!(
        "{}: leads out of the source, to {}, and other users may read this mount: shown as a link; \
         --follow DIR shows what links into DIR lead to",
        path.display(),
        link.shown(false).shown().display()
    )
}

/// Whether the system may answer otherwise the next time, though nothing has changed.
fn may_pass(e: &std::io::Error) -> bool {
    !matches!(
        rustix::io::Errno::from_io_error(e),
        None | Some(Errno::NOENT | Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::NOTDIR | Errno::NAMETOOLONG)
    )
}

/// The names in the source directory, `.` and `..` apart, and which are known to be directories.
fn entries(place: &Place) -> Result<Vec<(OsString, bool)>> {
    if let Some(only) = &place.only {
        return Ok(vec![(only.clone(), false)]);
    }
    place.tree.entries(&place.path)
}

/// Whether the directory was left alone for long enough before `now`.
fn settled(stamp: &Stamp, now: SystemTime) -> bool {
    let (seconds, nanos) = stamp.mtime;
    let since = Duration::new(seconds.unsigned_abs(), u32::try_from(nanos).unwrap_or(0));
    let mtime = if seconds >= 0 { UNIX_EPOCH.checked_add(since) } else { UNIX_EPOCH.checked_sub(since) };
    match mtime.map(|mtime| now.duration_since(mtime)) {
        Some(Ok(age)) => age > CLOCK_STEP,
        // A time far in the future is a wrong clock, and stays what it is.
        Some(Err(ahead)) => ahead.duration() > CLOCK_STEP,
        None => true,
    }
}

/// Gives every name its shown name.
fn settle(place: &Place, classes: Vec<(OsString, Class)>, remarks: &mut BTreeSet<String>) -> Vec<Found> {
    let candidates: Vec<Candidate<'_>> = classes
        .iter()
        .map(|(name, class)| {
            let maker = match class {
                Class::Container(opened) => Some(opened.packed.maker()),
                Class::Link(link) => link.maker(),
                Class::Directory(_) | Class::Plain(_) | Class::Generated(_) => None,
            };
            Candidate { name, maker }
        })
        .collect();
    let shown = name::settle(&candidates);
    classes
        .into_iter()
        .zip(shown)
        .map(|((source, class), shown)| match shown {
            Shown::Original(shown) => Found { source, shown, class, decoded: true, access: None },
            Shown::AsItIs => Found { shown: source.clone(), source, class, decoded: false, access: None },
            Shown::Taken(name) => {
                let path = place.path.join(&source);
                remarks.insert(format!(
                    "{}: the name {} is taken by another file; shown as it is",
                    path.display(),
                    name.display()
                ));
                Found { shown: source.clone(), source, class, decoded: false, access: None }
            }
        })
        .collect()
}
