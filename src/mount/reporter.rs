//! Puts together what a mount says of itself.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::guard::Guard;
use super::options::MountOptions;
use super::passthrough::Passthrough;
use super::place::Place;
use super::status::Status;
use super::warm::Progress;
use crate::engine::Engine;
use crate::vfs::Vfs;

/// Files of which most was read, in a status.
const BUSY: usize = 16;

/// The parts of a mount that count.
pub(super) struct Reporter {
    pub(super) vfs: Arc<Vfs>,
    pub(super) engine: Arc<Engine>,
    pub(super) guard: Arc<Guard>,
    pub(super) place: Arc<Place>,
    pub(super) passthrough: Arc<Passthrough>,
    /// There when all files are put into the disk cache.
    pub(super) warming: Option<Arc<Progress>>,
    /// See [`Adapter`](super::adapter::Adapter).
    pub(super) replying: Arc<AtomicU64>,
    pub(super) started: Instant,
    /// What never changes.
    pub(super) fixed: Fixed,
}

/// What a mount is.
pub(super) struct Fixed {
    pub(super) source: String,
    pub(super) mount_point: String,
    pub(super) started: u64,
    pub(super) cache: String,
    pub(super) log_file: Option<String>,
}

impl Fixed {
    pub(super) fn new(options: &MountOptions, source: &Path, mount_point: &Path, cache: &str) -> Self {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Self {
            source: text(source),
            mount_point: text(mount_point),
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            cache: cache.to_owned(),
            log_file: options.log.as_ref().map(|log| text(log.path())),
        }
    }
}

impl Reporter {
    pub(super) fn now(&self) -> Status {
        let files = self.vfs.stats();
        let (engine, disk) = (self.engine.stats(), self.engine.disk().map(|disk| disk.store.counters()));
        let Fixed { source, mount_point, started, cache, log_file } = &self.fixed;
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            source: source.clone(),
            mount_point: mount_point.clone(),
            started: *started,
            uptime_seconds: self.started.elapsed().as_secs(),
            cache: cache.clone(),
            log_file: log_file.clone(),
            open_files: files.open_files,
            reads: files.reads,
            read_bytes: files.read_bytes,
            inodes: files.inodes,
            metadata_bytes: files.metadata_bytes,
            errors: self.guard.errors(),
            panics: self.guard.panics() + engine.panics + disk.map_or(0, |disk| disk.panics),
            reply_seconds: Duration::from_nanos(self.replying.load(Ordering::Relaxed)).as_secs_f64(),
            engine,
            disk,
            passthrough: self.passthrough.works(),
            passthrough_opens: self.passthrough.opened(),
            warming: self.warming.as_ref().map(|progress| progress.now()),
            remote: self.place.traffic(),
            requests: self.guard.meter.now(),
            slow_reads: self.guard.slow.now(Instant::now()),
            busy_files: self.vfs.busiest(BUSY),
        }
    }
}
