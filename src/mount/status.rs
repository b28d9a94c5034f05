//! What a daemon says of itself, and how to ask it.
//!
//! There is no registry: the mount table says which mounts exist, and each answers under a reserved extended
//! attribute of its root. So the answer is never out of date, and a daemon that died leaves nothing behind.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::meter::Requests;
use super::slow::SlowRead;
use super::warm::Warming;
use crate::cache::Counters;
use crate::engine::Stats;
use crate::source::Traffic;
use crate::vfs::FileTraffic;

/// The extended attribute of the root directory that holds a [`Status`] as JSON. It is not listed.
pub const ATTRIBUTE: &str = "user.bsfs.status";
/// The longest answer, bytes: the kernel's own limit for extended attributes.
pub(super) const MAX_BYTES: usize = 64 * 1024;
/// A daemon that has not answered by then is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a daemon says of itself. Serialises to the JSON of `bsfs status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its release.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// What it shows. Bytes that are not UTF-8 are replaced.
    pub source: String,
    /// Where. Bytes that are not UTF-8 are replaced.
    pub mount_point: String,
    /// What is wrong with it or its files now, in words, the worst first; empty when nothing is known to be.
    #[serde(default)]
    pub problems: Vec<String>,
    /// When it started, seconds since 1970.
    pub started: u64,
    /// How long ago, seconds.
    pub uptime_seconds: u64,
    /// Which disk cache is in use: "off", or what is kept ("auto", "all") and where.
    pub cache: String,
    /// Its log file; none when it logs to standard error.
    pub log_file: Option<String>,
    /// Files and directories open now.
    pub open_files: u64,
    /// Reads answered, and the bytes in them; what the page cache answers does not come here.
    pub reads: u64,
    /// Bytes in these answers.
    pub read_bytes: u64,
    /// Requests that failed for a fault of the mount or its source.
    pub errors: u64,
    /// Panics: of requests, which are part of `errors`, and of work that no request waits for (ahead of readers, for the disk
    /// cache).
    pub panics: u64,
    /// Time in which answers to reads were given, which is the kernel's copy into its pages; seconds, summed over threads.
    pub reply_seconds: f64,
    /// Inodes that exist now.
    pub inodes: u64,
    /// Memory that headers and indexes of containers take, bytes.
    pub metadata_bytes: u64,
    /// The read side: memory, hits, misses, decoded chunks.
    pub engine: Stats,
    /// What this process did with the disk cache; none without one.
    pub disk: Option<Counters>,
    /// Whether the kernel may read whole files of the disk cache by itself.
    pub passthrough: bool,
    /// Opens of files that the kernel reads by itself.
    pub passthrough_opens: u64,
    /// How far `--warm` is; none without it.
    pub warming: Option<Warming>,
    /// What was asked of the server; none for a source of this machine.
    pub remote: Option<Traffic>,
    /// Requests of the kernel by kind, their times, and their errors.
    #[serde(default)]
    pub requests: Requests,
    /// The slowest reads of the last five minutes, the worst first; 16 at most, and none of less than a millisecond.
    #[serde(default)]
    pub slow_reads: Vec<SlowRead>,
    /// The files of which most was read, the first of them first; 16 at most.
    #[serde(default)]
    pub busy_files: Vec<FileTraffic>,
}

impl Status {
    /// The same for users who may not list all directories of the source.
    pub(super) fn without_names(self) -> Self {
        let some = !self.problems.is_empty();
        let problems =
            some.then(|| "there are some, which the user who mounted can see".to_owned()).into_iter().collect();
        Self { log_file: None, slow_reads: Vec::new(), busy_files: Vec::new(), problems, ..self }
    }
}

/// What came back from a mount.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It works.
    Live(Box<Status>),
    /// Its daemon has gone; the mount is still in the table.
    Dead,
    /// It belongs to another user and was made without `--allow-other`.
    Denied,
    /// It does not answer: its daemon is stopped or stuck, or it is no mount of ours.
    Silent(String),
}

/// Asks the mount at `mount_point`.
#[must_use]
pub fn ask(mount_point: &Path) -> Answer {
    let (send, receive) = mpsc::channel();
    let path = mount_point.to_path_buf();
    // In a thread of its own, because a request to a daemon that is stopped waits for as long as it is stopped.
    let asking = std::thread::Builder::new().name("ask".into()).spawn(move || {
        let mut buffer = vec![0u8; MAX_BYTES];
        let answer = rustix::fs::getxattr(&path, ATTRIBUTE, buffer.as_mut_slice()).map(|len| {
            buffer.truncate(len);
            buffer
        });
        // The asker has given up by now when this fails.
        let _ = send.send(answer);
    });
    if let Err(error) = asking {
        return Answer::Silent(format!("cannot ask: {error}"));
    }
    match receive.recv_timeout(PATIENCE) {
        Ok(Ok(bytes)) => match serde_json::from_slice(&bytes) {
            Ok(status) => Answer::Live(Box::new(status)),
            Err(error) => Answer::Silent(format!("answer not understood: {error}")),
        },
        Ok(Err(Errno::NOTCONN)) => Answer::Dead,
        Ok(Err(Errno::ACCESS | Errno::PERM)) => Answer::Denied,
        // Aborted by another user of the connection while we asked.
        Ok(Err(Errno::CONNABORTED | Errno::NODEV)) => Answer::Dead,
        Ok(Err(errno)) => Answer::Silent(std::io::Error::from(errno).to_string()),
        Err(_) => Answer::Silent(format!("no answer for {} s", PATIENCE.as_secs())),
    }
}
