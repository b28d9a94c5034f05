//! A directory that is shown by another process over FUSE, and hangs when that process is stopped. Takes bindfs and root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::mounted::{signal, unmount};
use super::{eventually, root_for, skip};

/// Goes on, and goes, when the test ends.
pub struct Bindfs {
    child: Child,
    point: PathBuf,
}

impl Bindfs {
    /// Shows `real` at `point`. `None` where that cannot be done.
    pub fn new(real: &Path, point: &Path) -> Option<Self> {
        let mut command = Command::new("bindfs");
        command.args(["-f", "-o", "attr_timeout=0,entry_timeout=0,negative_timeout=0"]);
        if !root_for("reading through the mount of another process") {
            return None;
        }
        let Ok(child) = command.args([real, point]).stderr(Stdio::null()).spawn() else {
            skip("bindfs is not installed");
            return None;
        };
        let mut bindfs = Self { child, point: point.to_path_buf() };
        let mounted = || {
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            table.lines().any(|line| line.split(' ').nth(4) == point.to_str())
        };
        eventually("bindfs mounts", || {
            assert!(bindfs.child.try_wait().unwrap().is_none(), "bindfs cannot mount");
            mounted()
        });
        Some(bindfs)
    }

    /// Nothing is answered from now on.
    pub fn stop(&self) {
        signal(self.child.id(), libc::SIGSTOP);
    }

    /// All is answered again.
    pub fn go(&self) {
        signal(self.child.id(), libc::SIGCONT);
    }
}

impl Drop for Bindfs {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.go();
        }
        let _ = unmount(&self.point, libc::MNT_DETACH);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
