//! Reads one directory of the source: what is there, what it is, and how it is shown.
//!
//! No inode numbers here, and no locks: opening containers takes as long as the disk does.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::{debug, warn};
use rustix::io::Errno;

use super::bounds::Bounds;
use super::class::{Class, Found, Known, Notes, Place, Scan, Stamp};
use super::link::Link;
use super::name::{self, Candidate, Shown};
use super::packed::{self, Opened};
use super::shard_index::SHOWN_INDEX;
use super::shards;
use crate::access::Access;
use crate::error::{Error, Result};
use crate::source::{Identity, Stat, waits, way};

/// A directory's modification time proves nothing about changes within the clock's granularity before the scan.
const CLOCK_STEP: Duration = Duration::from_millis(50);

/// A call that takes longer hangs, as far as a scan is concerned.
const HUNG: Duration = Duration::from_secs(1);

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
                match Link::read(tree, &path, identity, bounds) {
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
                if let Some(link) = Link::to_packed(tree, &path, bounds) {
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
                _ if name::may_be_container(&source, bounds.formats) => unopened.push((source, identity)),
                _ => classes.push((source, Class::Plain(identity))),
            }
        } else {
            remarks.insert(format!("{}: neither a file nor a directory; not listed", path.display()));
        }
    }
    for ((source, identity), opened) in
        unopened.iter().zip(packed::open_all(tree, &place.path, &unopened, bounds.formats))
    {
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
    let index_name = index.as_ref().map_or("", |index| index.format.index_name());
    let of_index = accesses.get(OsStr::new(index_name)).copied();
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
