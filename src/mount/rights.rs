//! What this process may do. The user id does not tell: root of a user namespace may little, and root of a container not all.

use std::fs;
use std::path::Path;

/// Number of the first user namespace, that of the machine, in every kernel (`PROC_USER_INIT_INO`).
const FIRST_USER_NAMESPACE: &str = "user:[4026531837]";

/// The rights that mounts use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// To mount without the set-uid helper: `CAP_SYS_ADMIN`.
    pub mount: bool,
    /// To have the kernel read files of the disk cache by itself: `CAP_SYS_ADMIN` on the machine, not only in a user namespace.
    pub passthrough: bool,
    /// To raise the readahead of a mount. `None` when there is nothing here to try it with.
    pub readahead: Option<bool>,
}

impl Rights {
    /// Asks the kernel.
    #[must_use]
    pub fn of_this_process() -> Self {
        let mount = has_sys_admin();
        let machine = fs::read_link("/proc/self/ns/user").is_ok_and(|ns| ns == Path::new(FIRST_USER_NAMESPACE));
        Self { mount, passthrough: mount && machine, readahead: may_write_readahead() }
    }
}

/// Whether `CAP_SYS_ADMIN` is effective. Where that cannot be found out, the first try tells.
fn has_sys_admin() -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_none_or(|set| set & SYS_ADMIN != 0)
}

/// Whether the readahead of some device can be opened for writing; nothing is written.
fn may_write_readahead() -> Option<bool> {
    let device = fs::read_dir("/sys/class/bdi").ok()?.next()?.ok()?;
    Some(fs::File::options().write(true).open(device.path().join("read_ahead_kb")).is_ok())
}
