//! Ends a mount from outside, and lists mounts.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use super::attach::{Detached, detach};
use super::check::resolve;
use super::holders;
use super::status::{Answer, Status, ask};
use super::table::{self, FS_TYPE, Line};
use crate::error::{Error, Result};

/// How long a daemon may take to end after its mount has.
const PARTING: Duration = Duration::from_secs(10);

/// How an unmount ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// The mount is off, and its daemon, if it could be seen, has ended.
    Done,
    /// The mount was that of a daemon that had gone before.
    WasDead,
    /// The mount is off; this daemon goes on until the last open file is closed.
    Lingers(u32),
}

/// Unmounts `mount_point`. With `lazy` it is taken off the tree also while it is in use; what is open goes on.
///
/// # Errors
/// [`Error::Mount`] when it is no mount of ours, or is in use: the message says by whom.
pub fn unmount(mount_point: &Path, lazy: bool) -> Result<Unmounted> {
    let mount_point = resolve(mount_point).map_err(Error::io("open the mount point", mount_point))?;
    let fail = |message: String| Error::Mount { mount_point: mount_point.clone(), message };
    let line = match table::find(&mount_point)? {
        Some(line) if line.is_ours() => line,
        Some(line) => return Err(fail(format!("not a bsfs mount: its type is {}", line.fs_type))),
        None => return Err(fail("not a bsfs mount: nothing is mounted there".to_owned())),
    };
    let pid = match ask(&mount_point) {
        Answer::Dead => {
            detach(&mount_point, true)?;
            return Ok(Unmounted::WasDead);
        }
        Answer::Live(status) => Some(status.pid).filter(|&pid| is_daemon(pid)),
        Answer::Denied | Answer::Silent(_) => None,
    };
    if detach(&mount_point, false)? == Detached::Busy {
        if !lazy {
            return Err(fail(busy(&line, pid)));
        }
        detach(&mount_point, true)?;
        return Ok(pid.map_or(Unmounted::Done, Unmounted::Lingers));
    }
    let deadline = Instant::now() + PARTING;
    while pid.is_some_and(is_daemon) {
        if Instant::now() >= deadline {
            return Ok(pid.map_or(Unmounted::Done, Unmounted::Lingers));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(Unmounted::Done)
}

/// Whether this process number is a running process of ours: a daemon in another container has another number here.
fn is_daemon(pid: u32) -> bool {
    // pid (name) state ...; a zombie has ended, somebody only has not looked yet.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ended = |rest: &str| matches!(rest.trim_start().chars().next(), None | Some('Z' | 'X'));
    stat.split_once('(')
        .and_then(|(_, rest)| rest.rsplit_once(')'))
        .is_some_and(|(name, rest)| name == "bsfs" && !ended(rest))
}

/// Why a mount is busy; its own daemon is no reason.
fn busy(line: &Line, daemon: Option<u32>) -> String {
    let mut text = "in use; ".to_owned();
    let below = table::read().map(|table| holders::mounts_below(&line.mount_point, &table)).unwrap_or_default();
    for mount in &below {
        // Writing to a string does not fail.
        let _ = write!(text, "{} is mounted inside it; ", mount.display());
    }
    let (found, more) = holders::find(line, daemon);
    if found.is_empty() && below.is_empty() {
        text.push_str("by a process that you may not see; ");
    }
    for holder in found {
        let _ = write!(text, "{holder}; ");
    }
    if more {
        text.push_str("and more; ");
    }
    text.push_str("end what uses it, or detach it with --lazy: open files go on until they are closed");
    text
}

/// One of our mounts.
#[derive(Debug, Clone, Serialize)]
pub struct MountRecord {
    /// Where it is. In JSON, bytes that are not UTF-8 are replaced.
    #[serde(serialize_with = "as_text")]
    pub mount_point: PathBuf,
    /// What the mount table says that it shows. In JSON, bytes that are not UTF-8 are replaced.
    #[serde(serialize_with = "as_text")]
    pub source: PathBuf,
    /// "live", "dead", "not accessible", or why it does not answer.
    pub state: String,
    /// What its daemon says; none unless it is live.
    pub status: Option<Status>,
}

/// Paths need not be UTF-8, JSON must.
fn as_text<S: Serializer>(path: &Path, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// All mounts of ours that the mount table shows, each asked; or the one at `only`.
///
/// # Errors
/// [`Error::Mount`] when there is no mount of ours at `only`; [`Error::Io`] when the table cannot be read.
pub fn mounts(only: Option<&Path>) -> Result<Vec<MountRecord>> {
    let mut lines: Vec<Line> = table::read()?.into_iter().filter(Line::is_ours).collect();
    if let Some(only) = only {
        let path = resolve(only).map_err(Error::io("open the mount point", only))?;
        lines.retain(|line| line.mount_point == path);
        if lines.is_empty() {
            let message = format!("no mount of type {FS_TYPE} there");
            return Err(Error::Mount { mount_point: path, message });
        }
    }
    Ok(lines.into_iter().map(record).collect())
}

fn record(line: Line) -> MountRecord {
    let (state, status) = match ask(&line.mount_point) {
        Answer::Live(status) => ("live".to_owned(), Some(*status)),
        Answer::Dead => ("dead".to_owned(), None),
        Answer::Denied => ("not accessible".to_owned(), None),
        Answer::Silent(why) => (why, None),
    };
    MountRecord { mount_point: line.mount_point, source: line.source.into(), state, status }
}
