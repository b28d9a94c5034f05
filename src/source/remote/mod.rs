//! Files of object stores and web servers, read by ranges: `s3://`, `gs://`, `az://`, `https://`, `http://`, and what a
//! [`Site`] lists.
//!
//! The one place with an async runtime, on a thread of its own; what leaves this room is blocking.
//!
//! - A file is read in the version that its directory's listing saw: every request is pinned to its ETag, every answer compared
//!   with it. Versions are never mixed; a file that changed cannot be read until it is listed anew.
//! - `address` takes the text that users write apart, `tree` is the place as a [`Tree`](super::Tree), `listing` what is in a
//!   directory, `web`, `objects` and `http` ask servers, `fetch` asks until it has the bytes, `pace` says how much at once, `file`
//!   has the blocks.
//! - Packed bytes are kept in the disk cache, block by block, and listings beside it: what was read once can be read without the
//!   server.
//! - No URL with a query, no name or password of one, and no header is in a message, in the log or in the cache.

mod address;
mod fetch;
mod file;
mod http;
mod listing;
mod objects;
mod pace;
mod resolve;
mod runtime;
mod tree;
mod web;

pub use address::is_remote;
#[cfg(feature = "hub")]
pub(crate) use http::{certificate, retry_after};
pub use resolve::{Failure, Location, Resolve, Secret};
pub use tree::{RemoteTree, Site, SiteEntry};

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cache::Store;
use crate::error::Error;

/// Unit of what is asked for, kept and counted, bytes.
const BLOCK: u64 = 64 << 10;

/// Lines on what is wrong with a place that are remembered, at most.
const MOST_NOTES: usize = 10;
/// A file that was read so lately shares the memory.
const READING: Duration = Duration::from_secs(3);
/// How long a request ahead of readers waits for the disk, for each piece of its body.
const FOLLOW: Duration = Duration::from_millis(500);

/// How a place is read.
#[derive(Debug, Clone)]
pub struct RemoteConfig {
    /// Bound for packed bytes that were fetched ahead or are on their way, bytes. What a single read needs is had in any case.
    pub memory: u64,
    /// How long a read waits for bytes, none of which come, before it is an error.
    pub patience: Duration,
    /// How long one request may be silent before it is made again.
    pub silence: Duration,
    /// Where packed bytes are kept; listings are kept beside it.
    pub store: Option<Arc<Store>>,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self { memory: 64 << 20, patience: Duration::from_secs(60), silence: Duration::from_secs(15), store: None }
    }
}

/// Removes the listings that are kept beside the cache in `cache`, the directory that users name.
///
/// # Errors
/// [`Error::Io`] when they cannot be removed.
pub fn forget_listings(cache: &Path) -> crate::Result<()> {
    listing::Kept::beside(cache).clear().map_err(Error::io("remove the listings in", cache))
}

/// What all files of a place share.
#[derive(Debug)]
struct Shared {
    /// The place in messages.
    label: PathBuf,
    config: RemoteConfig,
    runtime: runtime::Runtime,
    client: reqwest::Client,
    pace: pace::Pace,
    began: Instant,
    held: AtomicU64,
    files: Mutex<Vec<Weak<file::Inner>>>,
    /// What is wrong with the place, in words.
    notes: Mutex<Vec<String>>,
}

impl std::fmt::Debug for file::Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inner")
    }
}

impl Shared {
    /// Logs what is wrong with the place, and has it told at the mount and in the status.
    fn note(&self, text: String) {
        log::warn!("{text}");
        let mut notes = self.notes.lock();
        if notes.len() < MOST_NOTES && !notes.contains(&text) {
            notes.push(text);
        }
    }

    /// Counts bytes in memory or on their way there.
    fn hold(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    fn release(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.held.load(Ordering::Relaxed).saturating_add(bytes) <= self.config.memory
    }

    /// Waits a little when the disk is slower than the network: what it does not take is fetched again some day.
    async fn let_cache_follow(&self) {
        let Some(store) = &self.config.store else { return };
        let begun = Instant::now();
        while store.is_behind() && begun.elapsed() < FOLLOW {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn add(&self, file: &Arc<file::Inner>) {
        let mut files = self.files.lock();
        files.retain(|file| file.strong_count() > 0);
        files.push(Arc::downgrade(file));
    }

    /// Notes that streams of a file are read, if so, and tells of how many files they are, at least one.
    fn streaming(&self, file: &file::Inner, streams: bool) -> u64 {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if streams {
            file.last_streamed.store(now.max(1), Ordering::Relaxed);
        }
        let files = self.files.lock();
        let lately = |file: &Arc<file::Inner>| {
            let at = file.last_streamed.load(Ordering::Relaxed);
            at > 0 && now.saturating_sub(at) < READING.as_millis() as u64
        };
        (files.iter().filter_map(Weak::upgrade).filter(lately).count() as u64).max(1)
    }

    fn open(&self) -> Vec<Arc<file::Inner>> {
        let files = self.files.lock();
        files.iter().filter_map(Weak::upgrade).collect()
    }

    /// Has all files ask for what they have queued.
    fn pump(&self) {
        self.open().iter().for_each(|file| file.pump());
    }

    /// Drops blocks that nobody read for a while, oldest first, until `bytes` find room.
    fn evict(&self, bytes: u64) {
        let files = self.open();
        let mut old: Vec<_> = files
            .iter()
            .flat_map(|file| file.unread().into_iter().map(move |(since, block)| (since, block, file)))
            .collect();
        old.sort_by_key(|(since, block, _)| (*since, *block));
        for (_, block, file) in old {
            if self.has_room(bytes) {
                return;
            }
            file.drop_block(block);
        }
    }
}

/// What a failure is to who reads.
fn error(path: &Path, failure: Failure) -> Error {
    let outage = matches!(failure, Failure::Again { .. });
    let message = match &failure {
        Failure::Again { why, .. } => format!("the server does not answer ({why})"),
        Failure::Changed => {
            "the file changed on the server since it was listed; mount it again to see what it is now".into()
        }
        Failure::Missing => "there is no such file or directory on the server".into(),
        Failure::Denied => "the server does not allow it; are credentials missing, wrong or expired?".into(),
        Failure::Refused(why) => why.clone(),
    };
    Error::Remote { path: path.into(), message, outage }
}
