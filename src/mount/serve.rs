//! Serves one mount in this process until it is unmounted.
//!
//! The mount ends in one of three ways, all of which end the connection, which ends the session, which ends
//! [`serve`]: a signal unmounts it, somebody else unmounts it, or the last file of a lazily unmounted one is closed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Config, SessionACL};
use log::{error, info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::adapter::Adapter;
use super::attach::attach;
use super::caller::CallerGroup;
use super::check::{check, check_base, check_follow, check_given};
use super::connection::{Mounted, confirm, connect};
use super::control::Control;
use super::device::{device_number, set_readahead};
use super::disk::open_cache;
use super::end::{self, END};
use super::guard::Guard;
use super::live::Live;
use super::look::look;
use super::metrics::{self, Ask};
use super::options::{Event, MountOptions};
use super::passthrough::Passthrough;
use super::pending::Pendings;
use super::place::{self, Place};
use super::readable;
use super::reporter::{Fixed, Reporter};
use super::requests::Requests;
use super::signals::{drain_on, unmount_on};
use super::warm::{Progress, warm};
use crate::engine::{Engine, EngineConfig, Keep, Workers};
use crate::error::{Error, Result};
use crate::vfs::{Vfs, VfsConfig};

/// How long a source of this machine may hang before requests that wait for it fail.
const PATIENCE: Duration = Duration::from_secs(300);
/// Reads that the kernel may have waiting at once. What hangs counts, of whatever source: with few, they would end all reads.
const BACKGROUND: u16 = 1024;
/// Problems that are told before the mount is made; "status" has them all.
const TOLD: usize = 5;

/// Each is a thread that lives as long as the mount; more than this only wait for the same queue.
const MAX_SESSION_THREADS: usize = 256;

/// Mounts and serves until the mount has ended. SIGTERM and SIGINT unmount, and SIGHUP, which opens the log file anew if there is
/// one; while files are open the mount
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
    let mut checked = match options.fuse {
        None => check(source, options)?,
        Some(_) => check_given(source, &options.mount_point)?,
    };
    for note in std::mem::take(&mut checked.notes) {
        warn!("{note}");
        tell(Event::Note(note))?;
    }
    let mount_point = checked.mount_point.clone();
    // The process that mounted has decided which users may come in.
    let all = options.allow_other || options.fuse.is_some();
    let follow: Vec<PathBuf> =
        options.follow.iter().map(|place| check_follow(place, &mount_point)).collect::<Result<_>>()?;
    let started = Instant::now();
    let disk = open_cache(options, &mut tell)?;
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
        Place::local(checked, all.then_some(&*follow))
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
        formats: crate::foreign::FORMATS,
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
            shared: all,
        },
        engine.clone(),
    )?);
    let guard = Arc::new(Guard::default());
    let threads = match options.session_threads {
        0 => thread::available_parallelism().map_or(2, usize::from).max(2),
        n => n.min(MAX_SESSION_THREADS),
    };
    let replying = Arc::new(AtomicU64::new(0));
    let passthrough = Arc::new(Passthrough::default());
    let progress = Arc::new(Progress::default());
    let reporter = Reporter {
        vfs: vfs.clone(),
        engine: engine.clone(),
        guard: guard.clone(),
        place: Arc::clone(&place),
        passthrough: passthrough.clone(),
        warming: options.warm.then(|| progress.clone()),
        replying: replying.clone(),
        started,
        fixed: Fixed::new(options, &place.label, &mount_point, &cache),
    };
    let ask: Ask = Arc::new(move || reporter.now());
    let report = {
        let ask = Arc::clone(&ask);
        move |names: bool| {
            let status = ask();
            serde_json::to_vec(&if names { status } else { status.without_names() }).unwrap_or_default()
        }
    };
    let live =
        Arc::new(Live { engine: engine.clone(), ttl: AtomicU64::new(options.ttl.as_secs()), device: OnceLock::new() });
    // Both before the mount: what is wrong is said.
    if let Some(path) = &options.metrics_file {
        metrics::to_file(path, &ask, guard.clone())?;
    }
    let patience = options.patience.unwrap_or(PATIENCE);
    let adapter = Adapter {
        requests: Requests {
            vfs: vfs.clone(),
            guard: guard.clone(),
            pendings: Pendings::new(vfs.clone(), guard.clone(), patience)?,
            workers: Workers::for_short_requests(),
        },
        live: live.clone(),
        background: match options.max_background {
            0 => BACKGROUND,
            n => n,
        },
        report: Arc::new(report),
        control: Arc::new(Control::new(Arc::clone(&ask), options.log.clone())),
        replying,
        passthrough,
        caching: disk.is_some(),
    };

    // While nothing waits for the mount.
    let looking = look(&vfs, guard.clone());
    let problems = ask().problems;
    // It holds what the end of the mount drops; the adapter keeps it until then.
    drop(ask);
    for problem in problems.iter().take(TOLD) {
        tell(Event::Note(problem.clone()))?;
    }
    if problems.len() > TOLD {
        let text = format!("{} more problems; see 'bsfs status {}'", problems.len() - TOLD, mount_point.display());
        tell(Event::Note(text))?;
    }

    // Before the mount: a signal that comes in between waits instead of leaving a dead mount behind.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(Error::io("wait for signals", &mount_point))?;
    // Until the mount is announced: programs that wait for it at a trigger go on only then.
    let joined = options.caller.map(CallerGroup::join);
    let (device, mounted) = match &options.fuse {
        None => {
            let device = attach(&place.name, &mount_point, options)?;
            (device, Some(Mounted { mount_point: &mount_point }))
        }
        Some(given) => (given.try_clone().map_err(Error::io("use the connection", &mount_point))?, None),
    };
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
        // Without privilege the kernel's own stays.
        let _ = set_readahead(&device, options.readahead);
        let _ = live.device.set(device.clone());
        confirm(&mount_point)?;
        Some(device)
    } else {
        info!("whoever mounted may want a readahead of {} KiB", options.readahead / 1024);
        None
    };
    let on_signal = signals.handle();
    let ending = {
        let (mount_point, vfs, log) = (mount_point.clone(), Arc::downgrade(&vfs), options.log.clone());
        let engine = Arc::downgrade(&engine);
        let settle = move |deadline| engine.upgrade().iter().for_each(|engine| engine.settle(deadline));
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || match number {
                Some(device) => unmount_on(signals, &mount_point, &device, log.as_ref(), settle),
                None => drain_on(signals, &vfs, log.as_ref()),
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
    drop(joined);
    // From here on somebody else may unmount at any time, and another mount may take the place.
    if let Some(mounted) = mounted {
        mounted.keep();
    }
    let (over, warmed) = mpsc::channel::<()>();
    if options.warm {
        let (vfs, progress) = (vfs.clone(), progress.clone());
        let run = move || {
            let _ = guard.own("warm", || warm(&vfs, &progress));
            drop(vfs);
            drop(over);
        };
        if let Err(error) = thread::Builder::new().name("warm".into()).spawn(run) {
            warn!("not warmed: cannot start a thread: {error}");
        }
    } else {
        drop(over);
    }

    let ended = serving.join();
    progress.stop.store(true, Ordering::Relaxed);
    drop(looking);
    end::by_deadline(END, move |deadline| {
        // It looks at the flag between two chunks.
        let _ = warmed.recv_timeout(deadline.saturating_duration_since(Instant::now()) / 2);
        // What was open at the end is closed, and so on its way to being finished.
        drop((vfs, place));
        engine.settle(deadline);
        // The cache's writer ends with the last of these.
        drop((engine, live, disk));
        on_signal.close();
        if ending.join().is_err() {
            error!("defect in bsfs, please report it: the thread for signals panicked");
        }
    });
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
