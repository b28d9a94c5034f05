//! Mounts for tests: made by the program, gone when the test ends.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use bsfs::mount::Status;

use crate::common::{Bench, root_for, safetensors};

pub const BSFS: &str = env!("CARGO_BIN_EXE_bsfs");

pub fn bsfs<S: AsRef<std::ffi::OsStr>>(bench: &Bench, arguments: impl IntoIterator<Item = S>) -> Output {
    command(bench).args(arguments).output().unwrap()
}

/// The program, with logs and cache of the test's own.
pub fn command(bench: &Bench) -> Command {
    let mut command = Command::new(BSFS);
    command.env("XDG_STATE_HOME", bench.dir.join("state")).env("XDG_CACHE_HOME", bench.dir.join("cache"));
    command.env("HF_HUB_CACHE", bench.dir.join("hub"));
    command
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn status_of(mount_point: &Path) -> Option<Status> {
    let mut records = bsfs::mount::mounts(Some(mount_point)).ok()?;
    records.pop()?.status
}

pub fn is_mounted(mount_point: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.contains(" - fuse.bsfs ") && line.split(' ').nth(4) == mount_point.to_str())
}

pub fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub fn signal(pid: u32, signal: i32) {
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
}

pub fn unmount(mount_point: &Path, flags: i32) -> std::io::Result<()> {
    let path = CString::new(mount_point.as_os_str().as_bytes()).unwrap();
    // SAFETY: a valid string that outlives the call.
    match unsafe { libc::umount2(path.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// A mount that goes when the test ends, however it ends.
pub struct Mount {
    pub point: PathBuf,
    pub pid: u32,
}

impl Mount {
    pub fn new(bench: &Bench, options: &[&str]) -> Self {
        Self::of(bench, &bench.source(), &bench.mount_point(), options)
    }

    pub fn of(bench: &Bench, source: &Path, point: &Path, options: &[&str]) -> Self {
        let mut arguments: Vec<&std::ffi::OsStr> = vec!["mount".as_ref()];
        arguments.extend(options.iter().map(|o| std::ffi::OsStr::new(*o)));
        arguments.extend([source.as_os_str(), point.as_os_str()]);
        let output = bsfs(bench, arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        let status = status_of(point).expect("the mount answers when the command returns");
        Self { point: point.to_path_buf(), pid: status.pid }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.point.join(name)
    }

    pub fn status(&self) -> Status {
        status_of(&self.point).unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // As another user than root this is refused, and killing the daemon leaves a dead mount to the helper.
        if is_mounted(&self.point) && unmount(&self.point, libc::MNT_DETACH).is_err() {
            let _ = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(&self.point).status();
        }
        let deadline = Instant::now() + Duration::from_secs(2);
        while is_running(self.pid) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if is_running(self.pid) {
            signal(self.pid, libc::SIGKILL);
        }
    }
}

/// A child that goes when the test ends.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A source with a container, a file as it is and a directory; returns the container's original.
pub fn model(bench: &Bench) -> Vec<u8> {
    let original = safetensors(11, 2_345_678);
    bench.packed("model.safetensors.bs", &original);
    bench.plain("config.json", b"{\"a\": 1}");
    bench.packed("sub/part.safetensors.bs", b"part");
    original
}

/// Runs a script as an ordinary user where `/dev/fuse` is open to all, as on a desktop, and `/etc/fuse.conf` is as
/// given. Takes root, whose tests the others are then.
pub fn as_nobody(bench: &Bench, fuse_conf: &str, script: &str) -> Option<Output> {
    if !root_for("another user") {
        return None;
    }
    let dir = &bench.dir;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    fs::copy(BSFS, dir.join("bsfs")).unwrap();
    fs::write(dir.join("fuse.conf"), fuse_conf).unwrap();
    fs::write(dir.join("script"), script).unwrap();
    for own in ["mount", "home"] {
        let path = dir.join(own);
        fs::create_dir_all(&path).unwrap();
        // Refused where something is mounted already, and not needed there.
        let _ = std::os::unix::fs::chown(&path, Some(65534), Some(65534));
    }
    // In a mount name space of its own, so that neither the device nor the mounts are seen outside.
    let setup = "rm -f fuse && mknod -m 666 fuse c 10 229 && mount --bind fuse /dev/fuse && mount --bind fuse.conf /etc/fuse.conf && \
                 exec setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=$PWD/home sh -e script";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", setup]).current_dir(dir);
    Some(command.env_remove("XDG_STATE_HOME").env_remove("XDG_CACHE_HOME").output().unwrap())
}
