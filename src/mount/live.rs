//! What can be changed while a mount is served, and how it is asked for: by an ioctl on the root, which works on a read-only mount,
//! and which nobody sends by accident.

use std::fs::File;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use log::{LevelFilter, info};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, opcode};
use serde::{Deserialize, Serialize};

use super::device::set_readahead;
use crate::engine::Engine;
use crate::error::{Error, Result};

/// Bytes of a question and of its answer: JSON with zeros behind it.
const LEN: usize = 4096;
/// The question.
pub(super) const COMMAND: Opcode = opcode::read_write::<[u8; LEN]>(b'b', 1);
/// A daemon that has not answered by then is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(5);
/// Seconds; for as good as always.
const MAX_TTL: u64 = 365 * 86_400;
/// More than any machine has, bytes.
const MAX_BYTES: u64 = 1 << 50;

/// Settings to be changed; those that are `None` stay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Bound for decoded chunks and buffers together, bytes.
    pub memory: Option<u64>,
    /// Disk space of the disk cache, bytes.
    pub cache_size: Option<u64>,
    /// The kernel's readahead, bytes.
    pub readahead: Option<u64>,
    /// How long the kernel may keep names, seconds. What it has been given before stays for as long as was said then.
    pub ttl: Option<u64>,
    /// "error", "warn", "info", "debug" or "trace".
    pub log_level: Option<String>,
}

/// Settings that are in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// As in [`Changes`]; of a remote place the engine's part of it.
    pub memory: u64,
    /// As in [`Changes`]; `None` without a disk cache.
    pub cache_size: Option<u64>,
    /// As in [`Changes`]; `None` when it cannot be found out.
    pub readahead: Option<u64>,
    /// As in [`Changes`].
    pub ttl: u64,
    /// As in [`Changes`].
    pub log_level: String,
}

#[derive(Serialize, Deserialize)]
enum Reply {
    Settings(Settings),
    Refused(String),
}

/// What of a mount can change.
pub(super) struct Live {
    pub(super) engine: Arc<Engine>,
    /// Seconds.
    pub(super) ttl: AtomicU64,
    /// The mount's device, `major:minor`, once it is known and ours.
    pub(super) device: OnceLock<String>,
}

impl Live {
    /// How long the kernel may keep names and attributes.
    pub(super) fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl.load(Ordering::Relaxed))
    }

    /// The answer to a question.
    pub(super) fn answer(&self, question: &[u8]) -> Vec<u8> {
        let end = question.iter().position(|byte| *byte == 0).unwrap_or(question.len());
        let asked = serde_json::from_slice(question.get(..end).unwrap_or_default());
        let done = asked.map_err(|e| format!("not understood: {e}")).and_then(|changes| self.change(&changes));
        let reply = done.map_or_else(Reply::Refused, Reply::Settings);
        let mut answer = serde_json::to_vec(&reply).unwrap_or_default();
        answer.resize(LEN, 0);
        answer
    }

    /// Makes all changes, or none and says why.
    fn change(&self, changes: &Changes) -> Result<Settings, String> {
        let too_much = [changes.memory, changes.cache_size, changes.readahead].into_iter().flatten();
        if let Some(bytes) = too_much.into_iter().find(|bytes| *bytes > MAX_BYTES) {
            return Err(format!("{bytes} bytes are more than any machine has"));
        }
        if changes.ttl.is_some_and(|ttl| ttl > MAX_TTL) {
            return Err(format!("expected a time of {MAX_TTL} seconds at most"));
        }
        let level = changes.log_level.as_deref().map(LevelFilter::from_str).transpose();
        let level = level.map_err(|_| "expected a log level: error, warn, info, debug or trace".to_owned())?;
        if changes.cache_size.is_some() && self.engine.disk().is_none() {
            return Err("this mount has no disk cache".to_owned());
        }
        if let Some(readahead) = changes.readahead {
            let device = self.device.get().ok_or("whoever made this mount sets its readahead")?;
            set_readahead(device, readahead).map_err(|e| format!("cannot set the readahead: {e}"))?;
        }
        if let Some(memory) = changes.memory {
            self.engine.set_memory(memory);
        }
        if let (Some(size), Some(disk)) = (changes.cache_size, self.engine.disk()) {
            disk.store.set_size(size);
        }
        if let Some(ttl) = changes.ttl {
            self.ttl.store(ttl, Ordering::Relaxed);
        }
        if let Some(level) = level {
            log::set_max_level(level);
        }
        if *changes != Changes::default() {
            info!("changed while mounted: {changes:?}");
        }
        Ok(self.settings())
    }

    fn settings(&self) -> Settings {
        let read = |device: &String| {
            let text = std::fs::read_to_string(format!("/sys/class/bdi/{device}/read_ahead_kb")).ok()?;
            Some(text.trim().parse::<u64>().ok()? << 10)
        };
        Settings {
            memory: self.engine.memory(),
            cache_size: self.engine.disk().map(|disk| disk.store.size()),
            readahead: self.device.get().and_then(read),
            ttl: self.ttl.load(Ordering::Relaxed),
            log_level: log::max_level().as_str().to_ascii_lowercase(),
        }
    }
}

/// Changes settings of the mount at `mount_point`, and gives those that are in force then. Takes its owner, or root.
///
/// # Errors
/// [`Error::Mount`] when it is no mount of ours, does not answer or refuses.
pub fn remount(mount_point: &Path, changes: &Changes) -> Result<Settings> {
    let fail = |message: String| Error::Mount { mount_point: mount_point.to_path_buf(), message };
    let mut buffer = serde_json::to_vec(changes).unwrap_or_default();
    buffer.resize(LEN, 0);
    let (send, receive) = mpsc::channel();
    let path = mount_point.to_path_buf();
    // In a thread of its own, because a question to a daemon that is stopped waits for as long as it is stopped.
    let asking = std::thread::Builder::new().name("ask".into()).spawn(move || {
        // The asker has given up by now when this fails.
        let _ = send.send(exchange(&path, buffer));
    });
    asking.map_err(Error::io("start a thread", mount_point))?;
    let answer = match receive.recv_timeout(PATIENCE) {
        Ok(Ok(answer)) => answer,
        Ok(Err(Errno::PERM | Errno::ACCESS)) => {
            return Err(fail("only the user who made this mount, or root, may change it".to_owned()));
        }
        Ok(Err(Errno::NOTCONN | Errno::CONNABORTED)) => return Err(fail("dead: its process has ended".to_owned())),
        Ok(Err(Errno::NOTTY | Errno::NOSYS | Errno::INVAL)) => {
            return Err(fail("is no mount of bsfs, or one of a release that cannot be changed".to_owned()));
        }
        Ok(Err(errno)) => return Err(fail(std::io::Error::from(errno).to_string())),
        Err(_) => return Err(fail(format!("no answer for {} s", PATIENCE.as_secs()))),
    };
    let end = answer.iter().position(|byte| *byte == 0).unwrap_or(answer.len());
    match serde_json::from_slice(answer.get(..end).unwrap_or_default()) {
        Ok(Reply::Settings(settings)) => Ok(settings),
        Ok(Reply::Refused(why)) => Err(fail(why)),
        Err(error) => Err(fail(format!("answer not understood: {error}"))),
    }
}

fn exchange(path: &Path, buffer: Vec<u8>) -> Result<Vec<u8>, Errno> {
    let mut bytes: [u8; LEN] = buffer.try_into().map_err(|_| Errno::TOOBIG)?;
    let root = File::open(path).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    // SAFETY: the command is made for a value of this size in both directions, and whatever bytes come are good.
    #[allow(unsafe_code, reason = "an ioctl")]
    unsafe {
        rustix::ioctl::ioctl(&root, Updater::<COMMAND, [u8; LEN]>::new(&mut bytes))?;
    }
    Ok(bytes.to_vec())
}
