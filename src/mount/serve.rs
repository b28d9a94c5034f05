//! Serves one mount in this process until it is unmounted.
//!
//! The mount ends in one of three ways, all of which end the connection, which ends the session, which ends
//! [`serve`]: a signal unmounts it, somebody else unmounts it, or the last file of a lazily unmounted one is closed.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{Config, Session, SessionACL};
use log::{debug, error, info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::adapter::Adapter;
use super::attach::{Detached, attach, detach};
use super::check::{check, check_base, check_given};
use super::control::Control;
use super::guard::Guard;
use super::meter::Requests;
use super::metrics::{self, Ask};
use super::passthrough::Passthrough;
use super::place::{self, Place};
use super::readable;
use super::status::{Answer, Status, ask};
use super::table;
use super::warm::{Progress, warm};
use crate::cache::{self, Store, default_dir};
use crate::engine::{Disk, Engine, EngineConfig, Keep};
use crate::error::{Error, Result};
use crate::vfs::{Inode, Vfs, VfsConfig};

/// Threads that take requests for a remote place, at least: each may wait for a listing.
const REMOTE_THREADS: usize = 8;
/// Exit code after a second signal, that of an interrupted program.
const INTERRUPTED: i32 = 130;

/// Which decoded bytes are kept on disk across mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// None.
    Off,
    /// Those that are worth it.
    #[default]
    Auto,
    /// All.
    All,
}

/// Bytes that wait to be written to the disk cache, at least: some chunks.
const MIN_QUEUE: u64 = 4 << 20;
/// How long the end of a mount may take for the sake of the disk cache: files that are nearly whole are finished.
const SETTLE: Duration = Duration::from_secs(20);

/// How long the kernel's first request may take.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// How long a process whose connection was given goes on for open files; those who end it often wait for 30 s.
const GRACE: Duration = Duration::from_secs(25);

/// Each is a thread that lives as long as the mount; more than this only wait for the same queue.
const MAX_SESSION_THREADS: usize = 256;

/// How a mount is made.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// A directory, or one container; or the address of a remote place.
    pub source: PathBuf,
    /// An existing directory outside of the source, or the source itself.
    pub mount_point: PathBuf,
    /// A connection that somebody else has mounted, read-only: nothing is mounted, unmounted or looked at under `mount_point` then,
    /// which only names it. No privilege is needed.
    pub fuse: Option<Arc<OwnedFd>>,
    /// Bound for decoded chunks and buffers together, bytes.
    pub memory: u64,
    /// Threads that decode; 0 for one for each core.
    pub threads: usize,
    /// Threads that take requests from the kernel and answer what is in memory; 0 for one for each core, two at least.
    pub session_threads: usize,
    /// Requests that the kernel may have waiting for readahead; 0 for four for each thread, 32 at least.
    pub max_background: u16,
    /// Where the bases of deltas may be: files, or directories that hold them.
    pub bases: Vec<PathBuf>,
    /// Leaves packed bytes in the system's page cache after they were read through.
    pub keep_packed: bool,
    /// Shows zeros of the right sizes, for measurements of everything but reading and decoding.
    pub null: bool,
    /// Lets users other than the mounting one in.
    pub allow_other: bool,
    /// How long the kernel may keep names and attributes without asking. Opening a file asks in any case.
    pub ttl: Duration,
    /// The kernel's readahead for this mount, bytes. Takes privilege; without it the kernel's own 128 KiB stay.
    pub readahead: u64,
    /// Which decoded bytes are kept on disk.
    pub cache: CacheMode,
    /// Where; `None` for [`default_dir`](crate::cache::default_dir).
    pub cache_dir: Option<PathBuf>,
    /// Disk space for all of them, bytes; `None` for the cache's own default.
    pub cache_size: Option<u64>,
    /// Of a remote place: fetches all of it into the disk cache before the mount is made.
    pub download: bool,
    /// How long a read waits for a server of which nothing comes before it fails.
    pub patience: Duration,
    /// Puts all files into the disk cache in the background.
    pub warm: bool,
    /// A file to write figures for Prometheus to, every 15 seconds.
    pub metrics_file: Option<PathBuf>,
    /// An address of this machine only that answers with them by HTTP.
    pub metrics_listen: Option<SocketAddr>,
    /// Where this process logs to, for [`Status`]. Setting up the log is the program's business.
    pub log_file: Option<PathBuf>,
}

/// What [`serve`] tells the program on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something that the user should know.
    Note(String),
    /// Before the mount is made: so much of a remote place has been fetched.
    Downloading {
        /// Bytes that are there.
        done: u64,
        /// Bytes of all files.
        total: u64,
    },
    /// The mount answers.
    Ready {
        /// The mount point, absolute and without links.
        mount_point: PathBuf,
    },
}

/// Mounts and serves until the mount has ended. SIGTERM, SIGINT and SIGHUP unmount; while files are open the mount
/// is only taken off the tree, and served until the last one is closed. A second signal ends the process. A connection that was
/// given is not unmounted: a signal ends the process when no file is open any more, within 25 seconds.
///
/// `tell` is called on this thread. Its error ends the mount.
///
/// # Errors
/// [`Error::Mount`] and [`Error::Io`] when it cannot be mounted, the error of `tell`.
pub fn serve(options: &MountOptions, mut tell: impl FnMut(Event) -> Result<()>) -> Result<()> {
    let remote = place::is_remote(options);
    let source = Some(options.source.as_path()).filter(|_| !remote);
    let checked = match options.fuse {
        None => check(source, &options.mount_point, options.allow_other)?,
        Some(_) => check_given(source, &options.mount_point)?,
    };
    for note in checked.notes {
        warn!("{note}");
        tell(Event::Note(note))?;
    }
    let mount_point = checked.mount_point;
    let started = (Instant::now(), SystemTime::now());
    let disk = open_cache(options, &mount_point, &mut tell)?;
    let cache = disk.as_ref().map_or_else(
        || "off".to_owned(),
        |disk| {
            let what = if disk.keep == Keep::All { "all" } else { "auto" };
            // The directory that the verbs take; what is in it has the format's version as another level.
            let dir = disk.store.path().parent().unwrap_or(disk.store.path());
            format!("{what}, {}", dir.display())
        },
    );
    let place = if remote {
        Place::remote(options, disk.as_ref().map(|disk| &disk.store))?
    } else {
        Place::local(checked.source, checked.over)
    };
    if options.download {
        place.download(&mut |done, total| tell(Event::Downloading { done, total }))?;
    }
    let place = Arc::new(place);
    let config = EngineConfig {
        disk: disk.clone(),
        memory: options.memory,
        threads: options.threads,
        drop_packed: !options.keep_packed,
        null: options.null,
        ..EngineConfig::default()
    };
    let engine = Engine::new(place::share(options, config));
    if options.null {
        warn!("showing zeros in place of the contents of every compressed file, as asked");
    }
    if let Some(way) = place.way() {
        readable::over(way, &mount_point);
    }
    let base = |base: &PathBuf| check_base(base, &mount_point, place.way());
    let vfs = Arc::new(Vfs::over(
        Arc::clone(&place.tree),
        VfsConfig {
            source: place.source.clone(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            exclude: Some(mount_point.clone()),
            hubs: place::hub_caches().into_iter().filter(|hub| !hub.starts_with(&mount_point)).collect(),
            bases: options.bases.iter().map(base).collect::<Result<_>>()?,
        },
        engine.clone(),
    )?);
    let guard = Arc::new(Guard::default());
    let threads = match options.session_threads {
        0 => thread::available_parallelism().map_or(2, usize::from).max(if remote { REMOTE_THREADS } else { 2 }),
        n => n.min(MAX_SESSION_THREADS),
    };
    let replying = Arc::new(AtomicU64::new(0));
    let passthrough = Arc::new(Passthrough::default());
    let progress = Arc::new(Progress::default());
    let ask: Ask = {
        let (vfs, guard, replying) = (vfs.clone(), guard.clone(), replying.clone());
        let (engine, passthrough) = (engine.clone(), passthrough.clone());
        let (progress, warming) = (progress.clone(), options.warm);
        let place = Arc::clone(&place);
        let mut status = initial_status(options, &place.label, &mount_point, started.1);
        status.cache.clone_from(&cache);
        Arc::new(move || {
            let files = vfs.stats();
            Status {
                uptime_seconds: started.0.elapsed().as_secs(),
                open_files: files.open_files,
                reads: files.reads,
                read_bytes: files.read_bytes,
                inodes: files.inodes,
                metadata_bytes: files.metadata_bytes,
                errors: guard.errors(),
                panics: guard.panics(),
                reply_seconds: Duration::from_nanos(replying.load(Ordering::Relaxed)).as_secs_f64(),
                engine: engine.stats(),
                disk: engine.disk().map(|disk| disk.store.counters()),
                passthrough: passthrough.works(),
                passthrough_opens: passthrough.opened(),
                remote: place.traffic(),
                warming: warming.then(|| progress.now()),
                requests: guard.meter.now(),
                ..status.clone()
            }
        })
    };
    let report = {
        let ask = Arc::clone(&ask);
        move || serde_json::to_vec(&ask()).unwrap_or_default()
    };
    // Both before the mount: a file under it could not be written later, and what is wrong is said.
    if let Some(path) = &options.metrics_file {
        if leads_to(path).starts_with(&mount_point) {
            let text = "the file for metrics lies under the mount point, which is read-only";
            return Err(Error::invalid(format!("{}: {text}", path.display())));
        }
        metrics::to_file(path, Arc::clone(&ask))?;
    }
    if let Some(address) = options.metrics_listen {
        metrics::listen(address, Arc::clone(&ask))?;
    }
    let log = options.log_file.as_ref().and_then(|path| fs::File::open(path).ok());
    let adapter = Adapter {
        vfs: vfs.clone(),
        guard,
        ttl: options.ttl,
        background: match options.max_background {
            0 => u16::try_from(threads.saturating_mul(4).clamp(32, 1024)).unwrap_or(32),
            n => n,
        },
        report: Box::new(report),
        control: Control::new(ask, log),
        replying,
        passthrough,
        caching: disk.is_some(),
    };

    // Before the mount: a signal that comes in between waits instead of leaving a dead mount behind.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(Error::io("wait for signals", &mount_point))?;
    let (device, mounted) = match &options.fuse {
        None => {
            let device = attach(&place.label, &mount_point, options.allow_other)?;
            (device, Some(Mounted { mount_point: &mount_point }))
        }
        Some(given) => (given.try_clone().map_err(Error::io("use the connection", &mount_point))?, None),
    };
    // Who may come in was said by whoever mounted.
    let all = options.allow_other || options.fuse.is_some();
    let acl = if all { SessionACL::All } else { SessionACL::Owner };
    let mut config = Config::default();
    config.acl = acl;
    config.n_threads = Some(threads);
    let session = connect(adapter, device, config, &mount_point)?;
    let serving = thread::Builder::new()
        .name("session".into())
        .spawn(move || session.run())
        .map_err(Error::io("start a thread", &mount_point))?;

    let number = if mounted.is_some() {
        let device = device_number(&mount_point)?;
        set_readahead(&device, options.readahead);
        confirm(&mount_point)?;
        Some(device)
    } else {
        info!("whoever mounted may want a readahead of {} KiB", options.readahead / 1024);
        None
    };
    let on_signal = signals.handle();
    let ending = {
        let (mount_point, vfs) = (mount_point.clone(), vfs.clone());
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || match number {
                Some(device) => wait_for_signals(signals, &mount_point, &device),
                None => drain(signals, &vfs),
            })
            .map_err(Error::io("start a thread", &place.label))?
    };
    info!(
        "bsfs {} shows {} at {}; {threads} threads take requests, {} bytes of memory for decoded chunks, disk cache {cache}",
        env!("CARGO_PKG_VERSION"),
        place.label.display(),
        mount_point.display(),
        options.memory,
    );
    tell(Event::Ready { mount_point: mount_point.clone() })?;
    // From here on somebody else may unmount at any time, and another mount may take the place.
    if let Some(mounted) = mounted {
        mounted.keep();
    }
    // Names in the log what in the source cannot be shown as it should, before somebody needs it.
    if let Ok(handle) = vfs.opendir(Inode::ROOT) {
        vfs.release(handle);
    }

    let warming = options.warm.then(|| {
        let (vfs, progress) = (vfs.clone(), progress.clone());
        thread::Builder::new().name("warm".into()).spawn(move || warm(&vfs, &progress))
    });

    let ended = serving.join();
    progress.stop.store(true, Ordering::Relaxed);
    if let Some(Ok(warming)) = warming {
        // It looks at the flag between two chunks.
        let _ = warming.join();
    }
    // What was open at the end is closed, and so on its way to being finished.
    drop(vfs);
    drop(place);
    engine.settle(SETTLE);
    on_signal.close();
    if ending.join().is_err() {
        error!("defect in bsfs, please report it: the thread for signals panicked");
    }
    match ended {
        Ok(Ok(())) => {
            info!("unmounted {}", mount_point.display());
            Ok(())
        }
        Ok(Err(e)) => Err(Error::io("serve", &mount_point)(e)),
        Err(_) => {
            let message = "defect in bsfs, please report it: a session thread panicked".to_owned();
            Err(Error::Mount { mount_point: mount_point.clone(), message })
        }
    }
}

/// Begins to serve a connection. The kernel's first request waits there since it was mounted; where somebody else has taken it, it
/// never comes.
fn connect(adapter: Adapter, device: OwnedFd, config: Config, mount_point: &Path) -> Result<Session<Adapter>> {
    let (send, receive) = mpsc::channel();
    let begin = move || {
        let acl = config.acl;
        // Nobody waits any more when this fails.
        let _ = send.send(Session::from_fd(adapter, device, acl, config));
    };
    thread::Builder::new().name("connect".into()).spawn(begin).map_err(Error::io("start a thread", mount_point))?;
    match receive.recv_timeout(FIRST_REQUEST) {
        Ok(session) => session.map_err(Error::io("start the connection", mount_point)),
        Err(_) => {
            let message = "nothing came over the connection; is it mounted, and served by nobody else?".to_owned();
            Err(Error::Mount { mount_point: mount_point.to_path_buf(), message })
        }
    }
}

/// Ends the process after a signal once nobody has a file open, or after a while: a connection that was given cannot be unmounted.
fn drain(mut signals: Signals, vfs: &Arc<Vfs>) {
    for (number, signal) in signals.forever().enumerate() {
        if number > 0 {
            warn!("second signal: ending at once");
            signal_hook::low_level::exit(INTERRUPTED);
        }
        info!("signal {signal}: ending when no file is open, in {} s at most", GRACE.as_secs());
        let vfs = Arc::clone(vfs);
        let wait = move || {
            let (end, mut quiet) = (Instant::now() + GRACE, 0);
            while quiet < 3 && Instant::now() < end {
                thread::sleep(Duration::from_millis(100));
                quiet = if vfs.stats().open_files == 0 { quiet + 1 } else { 0 };
            }
            info!("ending; {} files are open", vfs.stats().open_files);
            signal_hook::low_level::exit(0);
        };
        if thread::Builder::new().name("drain".into()).spawn(wait).is_err() {
            signal_hook::low_level::exit(0);
        }
    }
}

/// The disk cache that was asked for. One that cannot be had is said, and done without.
fn open_cache(
    options: &MountOptions,
    mount_point: &Path,
    tell: &mut impl FnMut(Event) -> Result<()>,
) -> Result<Option<Disk>> {
    let keep = match options.cache {
        CacheMode::Off => return Ok(None),
        CacheMode::Auto => Keep::Expensive,
        CacheMode::All => Keep::All,
    };
    let mut without = |why: String| {
        let note = format!("{why}; going on without a disk cache");
        warn!("{note}");
        tell(Event::Note(note))
    };
    let Some(dir) = options.cache_dir.clone().or_else(default_dir) else {
        without("no place for a disk cache: neither XDG_CACHE_HOME nor HOME is set".to_owned())?;
        return Ok(None);
    };
    // Reading its own mount, the daemon would wait for itself.
    if leads_to(&dir).starts_with(mount_point) {
        return Err(Error::invalid(format!("{}: the disk cache lies under the mount point", dir.display())));
    }
    let defaults = cache::Config::default();
    let queue = defaults.queue.min(options.memory / 8).max(MIN_QUEUE);
    match Store::open(&dir, &cache::Config { size: options.cache_size, queue, ..defaults }) {
        Ok(store) => Ok(Some(Disk { store, keep })),
        Err(error) => {
            without(error.to_string())?;
            Ok(None)
        }
    }
}

/// A path without links, as far as it exists.
fn leads_to(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let found = path.ancestors().find_map(|ancestor| {
        let real = fs::canonicalize(ancestor).ok()?;
        Some(path.strip_prefix(ancestor).map_or_else(|_| real.clone(), |rest| real.join(rest)))
    });
    found.unwrap_or(path)
}

/// Takes the mount off again when setting up fails half way.
struct Mounted<'a> {
    mount_point: &'a Path,
}

impl Mounted<'_> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Err(e) = detach(self.mount_point, true) {
            warn!("{e}");
        }
    }
}

fn initial_status(options: &MountOptions, source: &Path, mount_point: &Path, started: SystemTime) -> Status {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        source: text(source),
        mount_point: text(mount_point),
        started: started.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        uptime_seconds: 0,
        cache: "off".to_owned(),
        log_file: options.log_file.as_deref().map(text),
        open_files: 0,
        reads: 0,
        read_bytes: 0,
        errors: 0,
        panics: 0,
        reply_seconds: 0.0,
        inodes: 0,
        metadata_bytes: 0,
        engine: crate::engine::Stats::default(),
        disk: None,
        passthrough: false,
        passthrough_opens: 0,
        warming: None,
        remote: None,
        requests: Requests::default(),
    }
}

/// The mount's device number as `major:minor`. Asks the new mount for its root, so it also waits until that answers.
fn device_number(mount_point: &Path) -> Result<String> {
    let dev = fs::metadata(mount_point).map_err(Error::io("stat", mount_point))?.dev();
    Ok(format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev)))
}

/// Whether what answers at the mount point is this process.
fn confirm(mount_point: &Path) -> Result<()> {
    let message = match ask(mount_point) {
        Answer::Live(status) if status.pid == std::process::id() => return Ok(()),
        Answer::Live(status) => format!("process {} mounted here at the same time", status.pid),
        Answer::Dead => "the connection ended while the mount was made".to_owned(),
        Answer::Denied => "the mount does not let its own user in".to_owned(),
        Answer::Silent(why) => format!("the mount does not answer: {why}"),
    };
    Err(Error::Mount { mount_point: mount_point.to_path_buf(), message })
}

/// The kernel offers a FUSE file system no more than 128 KiB of readahead; only this setting goes further.
fn set_readahead(device: &str, bytes: u64) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    let kib = bytes / 1024;
    match fs::write(&path, kib.to_string()) {
        Ok(()) => info!("readahead of {kib} KiB"),
        Err(e) => debug!("{path}: {e}; the kernel's own readahead stays"),
    }
}

fn wait_for_signals(mut signals: Signals, mount_point: &Path, device: &str) {
    let mut first = true;
    for signal in signals.forever() {
        if !first {
            warn!("second signal: ending at once, open files fail from now on");
            // Nothing to unwind: a lazily unmounted connection ends with its process.
            signal_hook::low_level::exit(INTERRUPTED);
        }
        first = false;
        info!("signal {signal}: unmounting");
        // By now the place may be empty or hold another mount; that one is not ours to take off.
        if !table::find(mount_point).is_ok_and(|line| line.is_some_and(|line| line.device == device)) {
            info!("no longer mounted; going on until the last file is closed");
            continue;
        }
        match detach(mount_point, false) {
            Ok(Detached::Done) => {}
            Ok(Detached::Busy) => {
                warn!("files are open: unmounting lazily, going on until the last one is closed");
                match detach(mount_point, true) {
                    Ok(Detached::Done) => {}
                    Ok(Detached::Busy) => error!("{}: still busy", mount_point.display()),
                    Err(e) => error!("{e}"),
                }
            }
            Err(e) => error!("{e}"),
        }
    }
}
