//! What a mount takes from the program that makes it, and leaves to it; and limits that it inherits. Needs `/dev/fuse`.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::mounted::{BSFS, Mount, command, model, signal, status_of, stderr};
use crate::common::{Bench, eventually, safetensors, skip};

/// Of linux/fcntl.h: which signal tells of the end of a lease.
const F_SETSIG: libc::c_int = 10;

/// The shell with this script, in the directory of the test; `$0` is the program.
fn shell(bench: &Bench, script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.env("XDG_STATE_HOME", bench.dir.join("state")).env("XDG_CACHE_HOME", bench.dir.join("cache"));
    shell.args(["-c", script, BSFS]).current_dir(&bench.dir);
    shell
}

fn mounted(bench: &Bench) -> Mount {
    Mount { pid: status_of(&bench.mount_point()).unwrap().pid, point: bench.mount_point() }
}

/// What the descriptors of a process lead to, by number.
fn open_files(pid: u32) -> Vec<(i32, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let read =
        |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, fs::read_link(entry.path()).ok()?));
    entries.filter_map(read).collect()
}

#[test]
fn a_daemon_keeps_nothing_of_its_caller() {
    let bench = Bench::new();
    model(&bench);
    let script = "umask 0277; exec 9>lock 8>&1 7<.; flock -n 9; \"$0\" mount source mount 6<lock";
    let mut caller = shell(&bench, script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    assert!(caller.wait().unwrap().success());
    let mount = mounted(&bench);
    let pipe = fs::read_link(format!("/proc/self/fd/{}", caller.stdout.as_ref().unwrap().as_raw_fd())).unwrap();
    let open = open_files(mount.pid);
    let own = ["state", "cache"].map(|name| bench.dir.join(name));
    for (number, path) in &open {
        let is_own = own.iter().any(|own| path.starts_with(own));
        assert!(is_own || !path.starts_with(&bench.dir), "{number}: {open:?}");
        assert_ne!(path, &pipe, "{number}: {open:?}");
        assert!(*number > 2 || path == Path::new("/dev/null"), "{number}: {open:?}");
    }
    let lock = File::open(bench.dir.join("lock")).unwrap();
    // SAFETY: a plain number.
    assert_eq!(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }, 0, "the lock is free");
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", mount.pid)).unwrap(), Path::new("/"));
    let stat = fs::read_to_string(format!("/proc/{}/stat", mount.pid)).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(fields[3], mount.pid.to_string(), "a session of its own: {stat}");
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid)).unwrap();
    assert!(status.contains("\nUmask:\t0077\n"), "{status}");
}

#[test]
fn a_limit_on_file_sizes_is_a_miss_of_the_disk_cache() {
    let bench = Bench::new();
    let original = model(&bench);
    let script = "ulimit -f 64; \"$0\" mount --cache all --log-file log source mount";
    let output = shell(&bench, script).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let mount = mounted(&bench);
    assert!(fs::read(mount.path("model.safetensors")).unwrap() == original);
    eventually("the cache could not be written", || mount.status().disk.unwrap().errors > 0);
    eventually("the log says so", || fs::read_to_string(bench.dir.join("log")).unwrap().contains("File too large"));
    assert_eq!(fs::read(mount.path("sub/part.safetensors")).unwrap(), b"part");
}

#[test]
fn a_limit_on_file_sizes_is_an_error_of_the_verbs_and_leaves_nothing() {
    let bench = Bench::new();
    fs::write(bench.dir.join("m.safetensors"), safetensors(3, 500_000)).unwrap();
    crate::common::pack(&bench.dir.join("m.safetensors"), &bench.dir.join("packed.safetensors.bs"));
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&bench.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    for verb in ["compress m.safetensors", "decompress packed.safetensors.bs"] {
        let output = shell(&bench, &format!("ulimit -f 64; \"$0\" {verb}")).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(75), "{verb}: {said}");
        assert!(said.contains("File too large") && said.lines().count() == 1, "{verb}: {said}");
        assert_eq!(names(), before, "{verb}");
    }
}

/// File servers hold leases, and give them up when asked to.
#[test]
fn a_lease_on_a_source_is_waited_for() {
    let bench = Bench::new();
    let original = model(&bench);
    let held = File::options().read(true).write(true).open(bench.source().join("model.safetensors.bs")).unwrap();
    // SAFETY: plain numbers. What tells of the end of a lease is a signal that does nothing.
    let lease = |kind: i32| unsafe {
        libc::fcntl(held.as_raw_fd(), F_SETSIG, libc::SIGURG);
        libc::fcntl(held.as_raw_fd(), libc::F_SETLEASE, kind)
    };
    if lease(libc::F_WRLCK) != 0 {
        skip("no leases on this file system");
        return;
    }
    let mount = Mount::new(&bench, &[]);
    let path = mount.path("model.safetensors");
    let reader = std::thread::spawn(move || fs::read(path).unwrap());
    // SAFETY: plain numbers.
    let is_asked_for = || unsafe { libc::fcntl(held.as_raw_fd(), libc::F_GETLEASE) } != libc::F_WRLCK;
    eventually("the daemon asks for the lease to be given up", is_asked_for);
    assert!(!reader.is_finished());
    assert_eq!(lease(libc::F_UNLCK), 0);
    assert!(reader.join().unwrap() == original);
}

#[test]
fn an_interrupted_start_leaves_no_mount() {
    let bench = Bench::new();
    model(&bench);
    // A source that does not answer, so that the start takes as long as is wished.
    let slow = Mount::of(&bench, &bench.source(), &bench.mount_point(), &["--ttl", "0"]);
    signal(slow.pid, libc::SIGSTOP);
    let state = || fs::read_to_string(format!("/proc/{}/stat", slow.pid)).unwrap();
    eventually("the daemon of the source is stopped", || state().contains(") T "));
    let point = bench.dir.join("second");
    fs::create_dir(&point).unwrap();
    let mut child = command(&bench).arg("mount").args([slow.path("sub"), point.clone()]).spawn().unwrap();
    eventually("its daemon runs", || !children(child.id()).is_empty());
    signal(child.id(), libc::SIGINT);
    let mut ended = None;
    eventually("it has ended", || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    signal(slow.pid, libc::SIGCONT);
    assert_eq!(ended.unwrap().code(), Some(130));
    assert!(!crate::common::mounted::is_mounted(&point));
}

/// The processes that a process started and that run still.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    tasks.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}
