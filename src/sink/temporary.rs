//! Names of files that are being written, on file systems without `O_TMPFILE`, and the removal of those that a killed process
//! left behind.
//!
//! The process that writes a temporary holds a lock on it (`flock`). The lock goes with the process, so a temporary whose lock
//! can be taken belongs to no process. Locks may not reach other machines on a network file system, and process numbers mean
//! nothing in another container; so the name tells the boot of the machine, and temporaries of another boot are removed only
//! when nothing was written to them for a day.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::test_kill_process;

/// What the end of a name begins with, and ends with.
const MARK: (&str, &str) = (".bsfs-", ".tmp");
/// A temporary of another boot, or another machine, is removed when it was not written to for so long.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// What tells this boot of the machine from others; "0" where the system does not say.
static BOOT: LazyLock<String> = LazyLock::new(|| {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.get(..8).filter(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit())).unwrap_or("0").to_owned()
});

/// A new name for a file that is to be called `name`.
pub fn name(name: &OsStr) -> OsString {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut temporary = OsString::from(".");
    temporary.push(name);
    // Names may have 255 bytes; the marks that make this one ours need some of them.
    if temporary.len() > 200 {
        temporary.clear();
    }
    let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    temporary.push(format!("{}{}-{pid}-{number}{}", MARK.0, *BOOT, MARK.1));
    temporary
}

/// The boot and the process that a name of ours tells; `None` for other names.
fn origin(name: &OsStr) -> Option<(String, i32)> {
    let name = String::from_utf8_lossy(name.as_bytes());
    let (before, marks) = name.strip_suffix(MARK.1)?.rsplit_once(MARK.0)?;
    let mut parts = marks.split('-');
    let (boot, pid, number) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_ours = parts.next().is_none() && boot.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_hidden = before.is_empty() || before.starts_with('.');
    (is_ours && is_hidden && digits(number) && digits(pid)).then(|| Some((boot.to_owned(), pid.parse().ok()?)))?
}

/// Locks a file that this process writes, as far as the file system has locks; `false` if another process has it locked.
#[must_use]
pub fn lock(file: impl AsFd) -> bool {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) != Err(Errno::WOULDBLOCK)
}

/// Whether no process holds a lock on a file. Where there are no locks it is taken to be held.
pub fn is_abandoned(file: impl AsFd) -> bool {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// Opens a regular file of a directory to look at its lock.
pub fn open(directory: BorrowedFd<'_>, name: &OsStr, access: OFlags) -> Option<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(directory, name, flags | access, Mode::empty()).ok()?);
    file.metadata().is_ok_and(|meta| meta.is_file()).then_some(file)
}

/// Whether a directory has this name.
pub fn is_name(directory: BorrowedFd<'_>, name: &OsStr) -> bool {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Whether a name of a directory leads to this file.
///
/// # Errors
/// Those of the system.
pub fn leads_to(directory: BorrowedFd<'_>, name: &OsStr, file: &File) -> rustix::io::Result<bool> {
    let there = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let own = rustix::fs::fstat(file)?;
    Ok((there.st_dev, there.st_ino) == (own.st_dev, own.st_ino))
}

/// Removes the temporaries in a directory whose process has ended; once for each directory in the life of this process. What
/// cannot be looked at or removed stays.
pub fn sweep(directory: &OwnedFd) {
    static SWEPT: LazyLock<Mutex<HashSet<(u64, u64)>>> = LazyLock::new(Mutex::default);
    let Ok(meta) = rustix::fs::fstat(directory) else { return };
    if !SWEPT.lock().insert((meta.st_dev, meta.st_ino)) {
        return;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(open) = rustix::fs::openat(directory, ".", flags, Mode::empty()) else { return };
    for entry in Dir::new(open).into_iter().flatten().flatten() {
        sweep_one(directory.as_fd(), OsStr::from_bytes(entry.file_name().to_bytes()));
    }
}

fn sweep_one(directory: BorrowedFd<'_>, name: &OsStr) {
    let Some((boot, pid)) = origin(name) else { return };
    let of_this_boot = *BOOT != "0" && boot == *BOOT;
    // For writing if that is allowed, since network file systems want it for a lock.
    let file = open(directory, name, OFlags::RDWR).or_else(|| open(directory, name, OFlags::RDONLY));
    let Some(file) = file else {
        // A link has no lock. Its process is of this boot, so its number tells whether it lives.
        let is_link = rustix::fs::readlinkat(directory, name, Vec::new()).is_ok();
        let process = rustix::process::Pid::from_raw(pid);
        if is_link && of_this_boot && process.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH)) {
            let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
        }
        return;
    };
    let is_old = || {
        let written = file.metadata().and_then(|meta| meta.modified());
        written.is_ok_and(|written| written.elapsed().is_ok_and(|age| age > OLD))
    };
    if (of_this_boot || is_old()) && is_abandoned(&file) && leads_to(directory, name, &file) == Ok(true) {
        let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::SystemTime;

    #[test]
    fn only_what_is_ours_and_of_no_process_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &OsStr| dir.path().join(name);
        let own = |name: &str| super::name(OsStr::new(name));
        let (dead, alive, long) = (own("dead.bs"), own("alive.bs"), own(&"n".repeat(250)));
        let (other, old) = (".x.bs.bsfs-0a1b2c3d-7-0.tmp", ".y.bs.bsfs-0a1b2c3d-7-1.tmp");
        let strangers = [
            ".x.bs.17-0.tmp",
            ".keepbsfs-0a1b-7-0.tmp",
            ".x.bsfs-.tmp",
            ".x.bsfs-zz-1-1.tmp",
            "x.bsfs-0a-1-1.tmp",
            ".x.bsfs-0a-1-1.tmp.bs",
        ];
        let names = [&dead, &alive, &long].into_iter().map(|name| name.to_str().unwrap());
        for name in names.clone().chain([other, old]).chain(strangers) {
            fs::write(at(OsStr::new(name)), b"x").unwrap();
        }
        let held = File::open(at(&alive)).unwrap();
        assert!(lock(&held) && !lock(File::open(at(&alive)).unwrap()));
        let days_ago = SystemTime::now() - 3 * OLD;
        File::options().write(true).open(at(OsStr::new(old))).unwrap().set_modified(days_ago).unwrap();
        File::options().write(true).open(at(OsStr::new(strangers[1]))).unwrap().set_modified(days_ago).unwrap();
        fs::create_dir(at(&own("directory"))).unwrap();
        // No process has such a number.
        let links = [format!(".l.bsfs-{}-{}-0.tmp", *BOOT, i32::MAX), own("living").into_string().unwrap()];
        links.iter().for_each(|link| std::os::unix::fs::symlink("nothing", at(OsStr::new(link))).unwrap());

        let directory = OwnedFd::from(File::open(dir.path()).unwrap());
        sweep(&directory);
        for gone in [dead.to_str().unwrap(), long.to_str().unwrap(), old] {
            assert!(!at(OsStr::new(gone)).exists(), "{gone}");
        }
        assert_eq!(links.map(|link| at(OsStr::new(&link)).is_symlink()), [false, true]);
        for kept in strangers.into_iter().chain([alive.to_str().unwrap(), other]) {
            assert!(at(OsStr::new(kept)).exists(), "{kept}");
        }
    }
}
