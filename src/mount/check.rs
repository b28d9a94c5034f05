//! What is checked before a mount is made, so that a mistake is named and not found out by an empty directory.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::caller::CallerGroup;
use super::options::{CacheMode, MountOptions};
use super::rights::Rights;
use super::table::{self, Line};
use super::{attach, status};
use crate::cache::default_dir;
use crate::error::{Error, Result};
use crate::source::way::keep_open;

/// Allows users other than root to open a mount to everyone.
const FUSE_CONF: &str = "/etc/fuse.conf";

/// File systems of the kernel itself, by the number that `statfs` gives: what is mounted below them hides a part of the
/// system's state, and some of their directories change while a path is followed.
const KERNEL_FILE_SYSTEMS: &[(u64, &str)] = &[
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0xcafe_4a11, "bpf"),
    (0x1cd1, "devpts"),
    (0x6165_676c, "pstore"),
    (0xde5e_81e4, "efivarfs"),
    (0x6265_6570, "configfs"),
    (0x4249_4e4d, "binfmt_misc"),
    (0x1980_0202, "mqueue"),
    (0x6573_5543, "fusectl"),
    (0xf97c_ff8c, "selinuxfs"),
    (0x9584_58f6, "hugetlbfs"),
];

fn fail(mount_point: &Path, message: impl Into<String>) -> Error {
    Error::Mount { mount_point: mount_point.to_path_buf(), message: message.into() }
}

/// An absolute path without links. Also for a mount point whose daemon is dead or belongs to somebody else, where
/// looking at the directory itself fails.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(path).or_else(|error| {
        let absolute = std::path::absolute(path)?;
        match (absolute.parent(), absolute.file_name()) {
            (Some(parent), Some(name)) if error.kind() != io::ErrorKind::NotFound => {
                Ok(fs::canonicalize(parent)?.join(name))
            }
            _ => Err(error),
        }
    })
}

/// Source and mount point as they are used, checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) source: PathBuf,
    pub(super) mount_point: PathBuf,
    /// The source, kept open, when it is the mount point itself.
    pub(super) over: Option<OwnedFd>,
    /// What the user should know though it does not stop the mount.
    pub(super) notes: Vec<String>,
}

/// The source of a mount that somebody else made, `None` when it is not of this machine; `mount_point` is only how it is called.
///
/// # Errors
/// [`Error::Io`] when there is no such source.
pub(super) fn check_given(source: Option<&Path>, mount_point: &Path) -> Result<Checked> {
    let source = source.map(real_source).transpose()?.unwrap_or_default();
    Ok(Checked { source, mount_point: mount_point.to_path_buf(), over: None, notes: Vec::new() })
}

fn real_source(source: &Path) -> Result<PathBuf> {
    fs::canonicalize(source).map_err(Error::io("open the source", source))
}

/// Checks source, `None` when it is not of this machine, and mount point, and clears the mount of a dead daemon away.
///
/// # Errors
/// [`Error::Mount`] or [`Error::Io`] naming what is wrong.
pub(super) fn check(source: Option<&Path>, options: &MountOptions) -> Result<Checked> {
    let (mount_point, mut notes) = (options.mount_point.as_path(), Vec::new());
    // A dead mount over itself cannot be looked at before it is cleared away.
    let itself = {
        let _joined = options.caller.map(CallerGroup::join);
        let at = resolve(mount_point);
        if let (Some(source), Ok(at)) = (source, &at) {
            // Found out here: looking below the mount point in any other group may wait for the mount.
            if leads_to(source).ancestors().skip(1).any(|above| above == at) {
                return Err(fail(at, hidden(source)));
            }
        }
        source.is_some_and(|source| resolve(source).is_ok_and(|source| at.is_ok_and(|at| at == source)))
    };
    let found = source.filter(|_| !itself).map(real_source).transpose()?;
    let _joined = options.caller.map(CallerGroup::join);
    let mount_point = resolve(mount_point).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            fail(mount_point, format!("no such directory; make it with: mkdir -p {}", mount_point.display()))
        }
        _ => Error::io("open the mount point", mount_point)(e),
    })?;
    notes.extend(clear(&mount_point)?);
    let meta = fs::metadata(&mount_point).map_err(Error::io("stat", &mount_point))?;
    if !meta.is_dir() {
        return Err(fail(&mount_point, "the mount point is not a directory"));
    }
    let kind = rustix::fs::statfs(&mount_point).map_err(|e| Error::io("stat", &mount_point)(e.into()))?.f_type;
    if let Some((_, name)) = KERNEL_FILE_SYSTEMS.iter().find(|(number, _)| *number == kind as u64) {
        let message = format!("the mount point is in a {name} file system of the kernel; choose another directory");
        return Err(fail(&mount_point, message));
    }
    let over = if itself { Some(keep_open(&mount_point).map_err(cannot_keep(&mount_point))?) } else { None };
    if let Some(source) = &found {
        apart(source, &mount_point, &meta)?;
    }
    if over.is_none() && fs::read_dir(&mount_point).is_ok_and(|mut entries| entries.next().is_some()) {
        notes.push(format!("{}: not empty; what is in it is hidden while mounted", mount_point.display()));
    }
    // The helper asks for the line unless its caller is root; the kernel does not.
    let exempt = || Rights::of_this_process().mount || rustix::process::getuid().is_root();
    if options.allow_other && !exempt() && !may_allow_other(fs::read_to_string(FUSE_CONF)) {
        let message = format!("--allow-other needs the line user_allow_other in {FUSE_CONF}, which root can add");
        return Err(fail(&mount_point, message));
    }
    outside(&mount_point, over.is_some(), options)?;
    let source = found.or_else(|| itself.then(|| mount_point.clone())).unwrap_or_default();
    Ok(Checked { source, mount_point, over, notes })
}

/// Refuses what the mount needs and would hide: reading below its own mount point, the daemon would wait for itself.
fn outside(mount_point: &Path, over: bool, options: &MountOptions) -> Result<()> {
    let cache = options.cache_dir.clone().or_else(default_dir).filter(|_| options.cache != CacheMode::Off);
    let files = [("disk cache", cache), ("file for metrics", options.metrics_file.clone())].into_iter();
    let files = files.filter_map(|(name, path)| Some((name, path?)));
    // Over itself a mount has a way to them.
    let bases = options.bases.iter().filter(|_| !over).map(|base| ("base", base.clone()));
    let follow = options.follow.iter().map(|place| ("place to follow links into", place.clone()));
    for (name, path) in files.chain(bases).chain(follow) {
        if leads_to(&path).starts_with(mount_point) {
            return Err(Error::invalid(format!("{}: the {name} lies under the mount point", path.display())));
        }
    }
    Ok(())
}

/// Whether a path leads below a mount point, where only the mount itself can be looked at.
#[must_use]
pub fn is_below(path: &Path, mount_point: &Path, caller: Option<CallerGroup>) -> bool {
    let _joined = caller.map(CallerGroup::join);
    resolve(mount_point).is_ok_and(|mount_point| leads_to(path).starts_with(mount_point))
}

/// Links that are followed to find out where a path leads, as many as the system follows.
const LINKS: usize = 40;

/// A path without links, also when it ends in what is not there yet.
fn leads_to(path: &Path) -> PathBuf {
    let mut path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    for _ in 0..LINKS {
        let there = path.ancestors().find_map(|above| Some((above, fs::canonicalize(above).ok()?)));
        let Some((rest, real)) = there.and_then(|(above, real)| Some((path.strip_prefix(above).ok()?, real))) else {
            break;
        };
        let mut parts = rest.components();
        let Some(next) = parts.next() else { return real };
        // A link that leads to nothing yet.
        match fs::read_link(real.join(next)) {
            Ok(target) => path = real.join(target).join(parts.as_path()),
            Err(_) => return real.join(rest),
        }
    }
    path
}

fn hidden(source: &Path) -> String {
    let source = source.display();
    format!("the source is inside the mount point, which would hide it; choose another mount point (source {source})")
}

/// What to say when a directory cannot be mounted over itself.
fn cannot_keep(mount_point: &Path) -> impl FnOnce(io::Error) -> Error {
    let mount_point = mount_point.to_path_buf();
    move |error| match error.raw_os_error() {
        Some(errno) if errno == Errno::NOSYS.raw_os_error() => {
            fail(&mount_point, "mounting a directory over itself takes Linux 5.6; choose another mount point")
        }
        _ => Error::io("open the source", &mount_point)(error),
    }
}

/// Refuses a mount point in use; takes off a mount of ours whose daemon is dead.
fn clear(mount_point: &Path) -> Result<Option<String>> {
    let mounted: Option<Line> = table::find(mount_point)?;
    let dead = |line: &Line| line.is_ours() && status::ask(mount_point) == status::Answer::Dead;
    match (&mounted, fs::metadata(mount_point)) {
        (Some(line), _) if dead(line) => {
            attach::detach(mount_point, true)?;
            Ok(Some(format!("{}: unmounted the mount of a daemon that is gone", mount_point.display())))
        }
        (Some(line), _) if line.is_ours() => {
            let source = line.source.display();
            let message =
                format!("already mounted, showing {source}; unmount it with: bsfs unmount {}", mount_point.display());
            Err(fail(mount_point, message))
        }
        (Some(line), Err(e)) if e.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => {
            let message = format!("a mount of type {} whose daemon is gone; unmount it first", line.fs_type);
            Err(fail(mount_point, message))
        }
        (_, Err(e)) => Err(Error::io("open the mount point", mount_point)(e)),
        (_, Ok(_)) => Ok(None),
    }
}

/// A source that the mount would hide, or that would show the mount, is refused: reading it would wait for itself.
fn apart(source: &Path, mount_point: &Path, mount_meta: &fs::Metadata) -> Result<()> {
    let same = fs::metadata(source).is_ok_and(|m| (m.dev(), m.ino()) == (mount_meta.dev(), mount_meta.ino()));
    let message = if same || source == mount_point {
        "source and mount point are the same directory by two paths; to mount it over itself give one of them twice"
    } else if mount_point.starts_with(source) {
        "the mount point is inside the source; choose one outside of it"
    } else {
        return Ok(());
    };
    Err(fail(mount_point, format!("{message} (source {})", source.display())))
}

/// The absolute path of a base for deltas, which keeps its name when it is a link.
///
/// # Errors
/// [`Error::Io`] when it is not there, [`Error::Invalid`] when it would be looked for in the mount itself, unless that has a `way`
/// round it.
pub(super) fn check_base(base: &Path, mount_point: &Path, way: Option<&Path>) -> Result<PathBuf> {
    let fail_to_open = || Error::io("open the base", base);
    let real = fs::canonicalize(base).map_err(fail_to_open())?;
    let absolute = std::path::absolute(base).map_err(fail_to_open())?;
    if let (Some(way), Ok(below)) = (way, real.strip_prefix(mount_point)) {
        return Ok(way.join(below));
    }
    if real.starts_with(mount_point) || absolute.starts_with(mount_point) {
        return Err(Error::invalid(format!("{}: the base lies under the mount point", base.display())));
    }
    Ok(absolute)
}

/// A place that links may lead into, without links.
///
/// # Errors
/// [`Error::Io`] when it is not there, [`Error::Mount`] when it is in the mount itself.
pub(super) fn check_follow(place: &PathBuf, mount_point: &Path) -> Result<PathBuf> {
    let real = fs::canonicalize(place).map_err(Error::io("open the place to follow links into", place))?;
    if real.starts_with(mount_point) {
        let message = format!("{}, which --follow names, is inside the mount point", place.display());
        return Err(fail(mount_point, message));
    }
    Ok(real)
}

fn may_allow_other(conf: io::Result<String>) -> bool {
    conf.is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_where_its_links_lead_whether_that_is_there_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        std::os::unix::fs::symlink("none/deep", real.join("a")).unwrap();
        std::os::unix::fs::symlink(real.join("a/x"), real.join("b")).unwrap();
        std::os::unix::fs::symlink("c", real.join("c")).unwrap();
        assert_eq!(leads_to(&real.join("b/y")), real.join("none/deep/x/y"));
        assert_eq!(leads_to(&real), real);
        assert!(leads_to(&real.join("c/y")).ends_with("c/y"), "a circle ends");
    }

    #[test]
    fn user_allow_other_must_be_a_line_of_its_own() {
        assert!(may_allow_other(Ok("# x\n user_allow_other\n".into())));
        assert!(!may_allow_other(Ok("#user_allow_other\n".into())));
        assert!(!may_allow_other(Err(io::ErrorKind::NotFound.into())));
    }
}
