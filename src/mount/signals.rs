//! What signals do to a process that serves a mount.

use std::path::Path;
use std::sync::Weak;
use std::thread;
use std::time::{Duration, Instant};

use log::{error, info, warn};
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use super::attach::{Detached, detach};
use super::end::{self, END};
use super::logfile::LogFile;
use super::table;
use crate::vfs::Vfs;

/// Exit code after a second signal, that of an interrupted program.
const INTERRUPTED: i32 = 130;

/// How long a process whose connection was given, or one that a service manager ends, goes on for open files; those who end it
/// often wait for 30 s.
pub(super) const GRACE: Duration = Duration::from_secs(25);

/// Ends the process after a signal once nobody has a file open, or after a while: a connection that was given cannot be unmounted.
pub(super) fn drain_on(mut signals: Signals, vfs: &Weak<Vfs>, log: Option<&LogFile>) {
    for (number, signal) in signals.forever().filter(|signal| !only_log(*signal, log)).enumerate() {
        if number > 0 {
            warn!("second signal: ending at once");
            signal_hook::low_level::exit(INTERRUPTED);
        }
        info!("signal {signal}: ending when no file is open, in {} s at most", GRACE.as_secs());
        let vfs = Weak::clone(vfs);
        let wait = move || {
            let open_files = || vfs.upgrade().map_or(0, |vfs| vfs.stats().open_files);
            let (end, mut quiet) = (Instant::now() + GRACE, 0);
            while quiet < 3 && Instant::now() < end {
                thread::sleep(Duration::from_millis(100));
                quiet = if open_files() == 0 { quiet + 1 } else { 0 };
            }
            info!("ending; {} files are open", open_files());
            signal_hook::low_level::exit(0);
        };
        if thread::Builder::new().name("drain".into()).spawn(wait).is_err() {
            signal_hook::low_level::exit(0);
        }
    }
}

/// Ends the process after [`GRACE`], if it has not ended by then, for the reason `why`.
fn end_anyway(why: &'static str, settle: impl FnOnce(Instant) + Send + 'static) {
    let wait = move || {
        thread::sleep(GRACE);
        warn!("ending: {why}");
        end::by_deadline(END, settle);
        signal_hook::low_level::exit(0);
    };
    if thread::Builder::new().name("drain".into()).spawn(wait).is_err() {
        error!("cannot start a thread: going on until the last file is closed");
    }
}

/// Whether a signal only asked for the log to be opened anew, as SIGHUP does where there is one.
fn only_log(signal: i32, log: Option<&LogFile>) -> bool {
    let Some(log) = log.filter(|_| signal == SIGHUP) else { return false };
    match log.reopen() {
        Ok(()) => info!("the log file was opened anew"),
        Err(error) => warn!("{error}; going on with the one that is open"),
    }
    true
}

/// Unmounts after a signal. A service manager's process does not wait for ever for files that are open: it has `settle` do what
/// is left to do, by a deadline, and ends, before it is killed.
pub(super) fn unmount_on(
    mut signals: Signals,
    mount_point: &Path,
    device: &str,
    log: Option<&LogFile>,
    settle: impl FnOnce(Instant) + Send + 'static,
) {
    let mut first = true;
    let mut settle = Some(settle);
    for signal in signals.forever() {
        if only_log(signal, log) {
            continue;
        }
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
            Ok(Detached::Done) => {
                if let Some(settle) = settle.take() {
                    end_anyway("requests are under way that do not end", settle);
                }
            }
            Ok(Detached::Busy) => {
                warn!("files are open: unmounting lazily, going on until the last one is closed");
                match detach(mount_point, true) {
                    Ok(Detached::Done) => {}
                    Ok(Detached::Busy) => error!("{}: still busy", mount_point.display()),
                    Err(e) => error!("{e}"),
                }
                if let Some(settle) = settle.take().filter(|_| std::env::var_os("NOTIFY_SOCKET").is_some()) {
                    end_anyway("files are open, and reads of them fail from now on", settle);
                }
            }
            Err(e) => error!("{e}"),
        }
    }
}
