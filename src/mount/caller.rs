//! The process group of the program that started a daemon.

use rustix::process::Pid;

/// The process group in which a daemon was started, as long as it is not its own.
///
/// autofs lets the process group of its automounter pass a trigger, and makes all other processes wait until the mount
/// command returns. So the daemon looks at its mount point in the group of that command. Elsewhere it is in a group of
/// its own, because a source may lie behind another trigger of the same automounter (systemd owns all of a system), and
/// to members of the automounter's group such a trigger is an empty directory.
#[derive(Debug, Clone, Copy)]
pub struct CallerGroup(Option<Pid>);

impl CallerGroup {
    /// Leaves the group of the caller.
    pub(super) fn leave() -> Self {
        // SAFETY: getpgrp has no conditions.
        #[allow(unsafe_code, reason = "rustix takes a group of another process name space, 0, for impossible")]
        let group = Pid::from_raw(unsafe { libc::getpgrp() });
        // There is no way back into a group without a number.
        Self(group.filter(|_| rustix::process::setpgid(None, None).is_ok()))
    }

    /// Makes this process a member of the caller's group until the result is dropped.
    pub(super) fn join(self) -> Joined {
        if let Some(group) = self.0 {
            // Refused when all its members have ended, and then no automounter waits for this process.
            let _ = rustix::process::setpgid(None, Some(group));
        }
        Joined(self)
    }
}

/// The time in which a daemon is a member of its caller's group.
pub(super) struct Joined(CallerGroup);

impl Drop for Joined {
    fn drop(&mut self) {
        if self.0.0.is_some() {
            // Refused after `announce`: the leader of a session stays what it is.
            let _ = rustix::process::setpgid(None, None);
        }
    }
}
