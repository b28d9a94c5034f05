//! An incomplete file of the cache, and what fetching the rest of it needs.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::Progress;
use super::client::{Client, RepoFile};
use super::hash::Sum;
use super::layout::Layout;
use super::repo::Repo;
use crate::error::{Error, Result};

/// A body of which less comes within so many time-outs is asked for again, bytes per second.
const SLOWEST: f64 = 1024.0;

const WINDOW: u32 = 4;

/// What a download needs beside the file.
pub struct Job<'a> {
    pub client: &'a Client,
    pub repo: &'a Repo,
    pub commit: &'a str,
    pub layout: &'a Layout,
    pub stop: &'a AtomicBool,
    pub progress: &'a dyn Progress,
    /// Connections for one long file.
    pub connections: u64,
}

/// An incomplete file with the hash of what it has.
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) sum: Sum,
    /// Bytes that are there.
    pub(super) at: u64,
}

/// Whether a body comes at all: each of its bytes may come within the time-out of a connection.
pub(super) struct Speed {
    window: Duration,
    begun: Instant,
    lately: u64,
}

impl Speed {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { window: timeout * WINDOW, begun: Instant::now(), lately: 0 }
    }

    /// Takes note of bytes that came.
    pub(super) fn is_low(&mut self, bytes: u64) -> bool {
        self.lately += bytes;
        let took = self.begun.elapsed();
        if took < self.window {
            return false;
        }
        let low = (self.lately as f64) < SLOWEST * took.as_secs_f64();
        (self.begun, self.lately) = (Instant::now(), 0);
        low
    }
}

impl Part {
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.took(bytes);
        Ok(())
    }

    pub(super) fn took(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        self.at += bytes.len() as u64;
    }

    /// Begins anew in another file: where locks do not work, somebody may have given this one its name meanwhile.
    pub(super) fn restart(&mut self, file: &RepoFile) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", &self.path)(e)),
            _ => {}
        }
        let open = File::options().read(true).write(true).create_new(true).open(&self.path);
        self.file = open.map_err(Error::io("create", &self.path))?;
        (self.sum, self.at) = (Sum::of(file), 0);
        Ok(())
    }
}

/// Start and total length in `bytes START-END/TOTAL`.
pub(super) fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()?))
}
