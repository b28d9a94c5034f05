//! The device of a mount: its number, and the readahead that the kernel keeps for it.

use std::fs;
use std::path::Path;

use log::{debug, info};

use super::table::{self, Line};
use crate::error::{Error, Result};

/// The new mount's device number as `major:minor`, by the mount table: what asks the mount itself waits for threads of this
/// process, and cannot be ended when there are none.
pub(super) fn device_number(mount_point: &Path) -> Result<String> {
    let found = table::find(mount_point)?.filter(Line::is_ours);
    let gone = || Error::Mount { mount_point: mount_point.into(), message: "the mount is gone again".to_owned() };
    found.map(|line| line.device).ok_or_else(gone)
}

/// The kernel offers a FUSE file system no more than 128 KiB of readahead; only this setting goes further.
///
/// # Errors
/// Why it stays as it is.
pub(super) fn set_readahead(device: &str, bytes: u64) -> std::io::Result<()> {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    let kib = bytes / 1024;
    let set = fs::write(&path, kib.to_string());
    match &set {
        Ok(()) => info!("readahead of {kib} KiB"),
        Err(e) => debug!("{path}: {e}; the kernel's own readahead stays"),
    }
    set
}
