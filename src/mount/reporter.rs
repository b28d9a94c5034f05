//! Puts together what a mount says of itself.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::guard::Guard;
use super::options::{CacheMode, MountOptions};
use super::passthrough::Passthrough;
use super::place::Place;
use super::readable;
use super::slow::SlowRead;
use super::status::Status;
use super::warm::Progress;
use crate::engine::Engine;
use crate::source::waits;
use crate::vfs::Vfs;

/// Files of which most was read, in a status.
const BUSY: usize = 16;

/// Lines on what is wrong, in a status.
const PROBLEMS: usize = 10;
/// For so long an error of a request counts as something that is wrong now.
const LATELY: Duration = Duration::from_secs(3600);

/// A read or a call of the source that takes so long is slow whatever it is for.
const SLOW: Duration = Duration::from_secs(5);

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
    /// A disk cache was asked for.
    pub(super) cached: bool,
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
            cached: options.cache != CacheMode::Off,
        }
    }
}

impl Reporter {
    /// What is wrong now, the worst first; empty when nothing is known to be.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.place.traffic().is_some_and(|traffic| traffic.down) {
            problems.push("the server does not answer".to_owned());
        }
        let hangs = waits::longest();
        if hangs >= SLOW {
            problems.push(format!("the source does not answer: a call has been waiting for {} s", hangs.as_secs()));
        }
        if let Some((ago, text)) = self.guard.last().filter(|(ago, _)| *ago < LATELY) {
            let errors = self.guard.errors();
            problems.push(format!("{errors} requests failed, the last one {} s ago: {text}", ago.as_secs()));
        }
        if let Some(read) =
            self.guard.slow.now(Instant::now()).into_iter().find(|read| read.seconds >= SLOW.as_secs_f64())
        {
            let SlowRead { file, seconds, why, ago, .. } = read;
            problems.push(format!("a read of {file} took {seconds:.0} s ({why}), {ago} s ago"));
        }
        match self.engine.disk() {
            None if self.fixed.cached => problems.push("the disk cache cannot be used; the log says why".to_owned()),
            Some(disk) => {
                let counters = disk.store.counters();
                if disk.store.is_troubled() || (counters.errors > 0 && counters.written_chunks == 0) {
                    problems.push("the disk cache is not filled; the log says why".to_owned());
                }
            }
            None => {}
        }
        problems.extend(self.place.notes());
        let (files, all) = self.engine.troubles().first(PROBLEMS);
        let told = files.len();
        problems.extend(files);
        if all > told {
            problems.push(format!("{} more files cannot be read as they should; the log names them", all - told));
        }
        problems.iter().map(|text| readable::readable(text).into_owned()).collect()
    }

    pub(super) fn now(&self) -> Status {
        let files = self.vfs.stats();
        let (engine, disk) = (self.engine.stats(), self.engine.disk().map(|disk| disk.store.counters()));
        let Fixed { source, mount_point, started, cache, log_file, .. } = &self.fixed;
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            source: source.clone(),
            mount_point: mount_point.clone(),
            started: *started,
            problems: self.problems(),
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
