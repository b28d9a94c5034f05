//! Whether the machine ended uncleanly while a store was open.
//!
//! Each open store has a locked file `running-<boot>-<pid>-<n>`, which it removes when it ends. One of another boot that
//! nobody holds was left by a machine that went down; what had been proven until then is proven no more. So every seal
//! quotes the store's epoch, a number in the file `epoch`, and a new number voids them all. A process that was killed while
//! the machine went on voids nothing: what it wrote is with the kernel, and seals are written after their bytes are on the disk.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, OFlags};

use super::dir::{Dir, Lockable, Names, lock_within};
use super::map::{checksum, number};

const EPOCH: &str = "epoch";
const NEW_EPOCH: &str = "epoch.tmp";
const RUNNING: &str = "running-";
/// A process that was killed leaves a file behind; somebody who starts a thousand at once shall not read for ever.
const MOST_MARKERS: usize = 4096;

/// Whether a name is one of those that this file makes.
pub fn is_ours(name: &str) -> bool {
    name == EPOCH || name == NEW_EPOCH || name.starts_with(RUNNING)
}

/// The sign that a store is open. Removed when it is dropped.
#[derive(Debug)]
pub struct Presence {
    dir: Arc<Dir>,
    name: String,
    _locked: Lockable,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let removed = self.dir.lock_names().and_then(|names| self.dir.remove(&self.name, &names));
        if let Err(e) = removed {
            log::debug!("disk cache {}: {} stays: {e}", self.dir.path().display(), self.name);
        }
    }
}

/// How a store begins.
#[derive(Debug, Default)]
pub struct Start {
    /// The sign, where it could be left.
    pub presence: Option<Presence>,
    /// The number that seals have to quote; `None` when no seal can be trusted or made.
    pub epoch: Option<u64>,
    /// Nothing can be written here.
    pub read_only: bool,
}

/// Leaves our sign and looks at those of others.
pub fn begin(dir: &Arc<Dir>) -> Start {
    let mut start = Start::default();
    let said = |what: &str, e: &io::Error| {
        log::warn!("disk cache {}: {what}: {e}; files are not proven whole meanwhile", dir.path().display());
    };
    let names = match dir.lock_names() {
        Ok(names) => names,
        Err(e) => {
            said("cannot lock it", &e);
            return start;
        }
    };
    let boot = boot_id();
    match enter(dir, boot.as_deref().unwrap_or("unknown")) {
        Ok(presence) => start.presence = Some(presence),
        Err(e) if is_refusal(&e) => start.read_only = true,
        Err(e) => said("cannot leave a sign there", &e),
    }
    let Some(boot) = boot else { return start };
    let entered = start.presence.as_ref().map(|p| p.name.as_str());
    let found = look(dir, &boot, entered).and_then(|found| {
        let current = read(dir)?;
        match current.filter(|_| !found.unclean) {
            // Nobody may say so without having left a sign, or the next one would not know.
            Some(epoch) if start.presence.is_some() || start.read_only => Ok((epoch, found.dead)),
            _ if start.presence.is_none() => Err(io::Error::other("the store ended uncleanly, and cannot be written")),
            _ => Ok((renew(dir, &names)?, found.dead)),
        }
    });
    match found {
        Ok((epoch, dead)) => {
            start.epoch = Some(epoch);
            // Only now, when the disk has the new epoch.
            let removed = dead.iter().filter(|_| !start.read_only).try_for_each(|name| dir.remove(name, &names));
            if let Err(e) = removed.and_then(|()| if start.read_only { Ok(()) } else { dir.sync() }) {
                start.epoch = None;
                said("cannot put signs on the disk", &e);
            }
        }
        Err(e) => said("cannot tell whether it ended cleanly", &e),
    }
    start
}

fn enter(dir: &Arc<Dir>, boot: &str) -> io::Result<Presence> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Two containers may have the same process ids; the clock tells them apart.
    let unique = unique_number() ^ NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{RUNNING}{boot}-{}-{unique:x}", std::process::id());
    let file = Lockable(dir.create(&name)?);
    lock_within(&*file, FlockOperation::NonBlockingLockExclusive, Duration::ZERO)?;
    Ok(Presence { dir: Arc::clone(dir), name, _locked: file })
}

/// What others left.
struct Signs {
    /// Files that nobody holds.
    dead: Vec<String>,
    /// One of them is of another boot.
    unclean: bool,
}

fn look(dir: &Dir, boot: &str, entered: Option<&str>) -> io::Result<Signs> {
    let mut signs = Signs { dead: Vec::new(), unclean: false };
    let names = dir.names()?;
    let others = names.into_iter().filter(|name| name.starts_with(RUNNING) && Some(name.as_str()) != entered);
    for name in others.take(MOST_MARKERS) {
        let alive = match dir.file(&name, OFlags::RDONLY) {
            Ok(file) => rustix::fs::flock(&*Lockable(file), FlockOperation::NonBlockingLockExclusive).is_err(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            // Something that we did not make says nothing, but it may stand where a sign of ours stood.
            Err(_) => false,
        };
        if !alive {
            signs.unclean |= !name.strip_prefix(RUNNING).is_some_and(|rest| rest.starts_with(boot));
            signs.dead.push(name);
        }
    }
    Ok(signs)
}

fn read(dir: &Dir) -> io::Result<Option<u64>> {
    let mut bytes = [0; 16];
    match dir.file(EPOCH, OFlags::RDONLY).and_then(|file| file.read_exact_at(&mut bytes, 0)) {
        Ok(()) => {}
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => return Ok(None),
        Err(e) => return Err(e),
    }
    let (epoch, sum) = bytes.split_at(8);
    Ok((number(sum, 0) == checksum(epoch)).then(|| number(epoch, 0)))
}

/// A new epoch, on the disk when this returns.
fn renew(dir: &Dir, names: &Names) -> io::Result<u64> {
    let epoch = unique_number();
    let mut bytes = epoch.to_le_bytes().to_vec();
    bytes.extend(checksum(&bytes).to_le_bytes());
    dir.remove(NEW_EPOCH, names)?;
    let file = dir.create(NEW_EPOCH)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    dir.rename(NEW_EPOCH, EPOCH, names)?;
    dir.sync()?;
    Ok(epoch)
}

/// A number that was not given before: the clock, with the process in its last bits for clocks that were set back.
fn unique_number() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_nanos() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(std::process::id())
}

fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = id.trim();
    (id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')).then(|| id.to_owned())
}

/// Whether an error means that nothing can be written here at all.
pub fn is_refusal(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}
