//! Starts the serving process in the background.
//!
//! The program runs itself again in its foreground form, with a pipe as standard output, and waits for one line on
//! it. Nothing is forked: a process with threads cannot be.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use rustix::process::{Pid, Signal};

use super::caller::CallerGroup;
use super::status::{Answer, ask};
use super::{attach, table};
use crate::error::{Error, Result};
use crate::source::as_before;

/// The program itself, whatever has happened to its file since it started.
const PROGRAM: &str = "/proc/self/exe";
/// What the daemon writes when the mount answers.
const READY: &str = "ready";
/// What it writes before numbers of a download.
const DOWNLOADED: &str = "downloaded ";
/// How often it is looked whether nobody wants the mount any more.
const LOOK: Duration = Duration::from_millis(100);
/// How long a daemon that is told to stop may take.
const PARTING: Duration = Duration::from_secs(2);
/// The longest name that nearly every file system takes is 255 bytes.
const LONGEST_NAME: usize = 200;

/// How a start ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// The mount answers and is served by this process.
    Ready(u32),
    /// The daemon ended with this exit code, after it had said why on standard error.
    Failed(Option<i32>),
}

/// Environment variable that tells the daemon its source, which may hold secrets and is not for everyone's list of processes.
pub const SOURCE_VARIABLE: &str = "BSFS_MOUNT_SOURCE";

/// Runs this program again with `arguments`, which must make it serve a mount at `mount_point` and call [`announce`],
/// and waits until it has. `source` is given to it in [`SOURCE_VARIABLE`]. What it writes to standard error until then goes to this process's own;
/// `downloaded` is given what it says of bytes that are done and bytes in all.
///
/// # Errors
/// [`Error::Mount`] when there is no answer within `timeout`, [`Error::Interrupted`] once `stop` is set; the process is ended then.
pub fn start<I, S>(
    arguments: I,
    source: &Path,
    mount_point: &Path,
    (timeout, stop): (Duration, &AtomicBool),
    mut downloaded: impl FnMut(u64, u64),
) -> Result<Started>
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    inherit_nothing();
    let mount_point = &*std::path::absolute(mount_point).unwrap_or_else(|_| mount_point.to_path_buf());
    let before = table::find(mount_point).ok().flatten();
    let mut command = Command::new(PROGRAM);
    as_before(&mut command);
    let mut child = command
        .arg0("bsfs")
        .args(arguments)
        .env(SOURCE_VARIABLE, source)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Not inherited: a daemon that cannot be ended would keep whoever reads our standard error waiting.
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::io("start", PROGRAM))?;
    let read = |child: &mut Child| -> io::Result<_> {
        let forward = |pipe| thread::Builder::new().spawn(move || forward(pipe));
        let messages = child.stderr.take().map(forward).transpose()?;
        Ok((messages, child.stdout.take().map(lines).transpose()?))
    };
    let (messages, lines) = match read(&mut child) {
        Ok(read) => read,
        Err(error) => {
            end(&mut child);
            return Err(Error::io("start a thread", mount_point)(error));
        }
    };
    let all_said = || messages.map(JoinHandle::join);
    let deadline = Instant::now() + timeout;
    let line = lines.map(|lines| {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = lines.recv_timeout(left.min(LOOK));
            let numbers = |line: &String| {
                let (done, total) = line.strip_prefix(DOWNLOADED)?.trim_end().split_once(' ')?;
                Some((done.parse().ok()?, total.parse().ok()?))
            };
            if let Some((done, total)) = line.as_ref().ok().and_then(numbers) {
                downloaded(done, total);
                continue;
            }
            match line {
                Err(mpsc::RecvTimeoutError::Timeout) if !left.is_zero() && !stop.load(Ordering::Relaxed) => {}
                line => return line,
            }
        }
    });
    match line {
        Some(Ok(line)) if line.trim_end() == READY => {
            all_said();
            Ok(Started::Ready(child.id()))
        }
        // End of file: it has ended, or is about to.
        Some(Ok(_) | Err(mpsc::RecvTimeoutError::Disconnected)) | None => {
            let status = wait(&mut child, PARTING).map_err(Error::io("wait for the daemon", PROGRAM))?;
            match status {
                Some(_) => _ = all_said(),
                None => end(&mut child),
            }
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            Ok(Started::Failed(status.and_then(|status| status.code())))
        }
        Some(Err(mpsc::RecvTimeoutError::Timeout)) => {
            end(&mut child);
            let left = table::find(mount_point).ok().flatten().filter(table::Line::is_ours);
            if let Some(line) = left {
                if before.as_ref() != Some(&line) {
                    attach::abort(&line);
                }
                if ask(mount_point) == Answer::Dead {
                    // What it left behind, or what it was about to clear away.
                    let _ = attach::detach(mount_point, true);
                }
            }
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let message = format!("no answer within {} s; the daemon was ended", timeout.as_secs());
            Err(Error::Mount { mount_point: mount_point.to_path_buf(), message })
        }
    }
}

fn lines(output: ChildStdout) -> io::Result<mpsc::Receiver<String>> {
    let (send, receive) = mpsc::channel();
    thread::Builder::new().spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = String::new();
        // The receiver has given up when sending fails.
        while output.read_line(&mut line).is_ok_and(|len| len > 0) && send.send(std::mem::take(&mut line)).is_ok() {}
    })?;
    Ok(receive)
}

/// Passes messages on as they come, until the other end is closed.
fn forward(mut pipe: ChildStderr) {
    // A standard error that is closed is no reason to stop.
    let _ = io::copy(&mut pipe, &mut io::stderr());
}

fn end(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()).map(Pid::from_raw)
        && let Some(pid) = pid
    {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    if !matches!(wait(child, PARTING), Ok(Some(_))) {
        let _ = child.kill();
        let _ = wait(child, PARTING);
    }
}

/// Waits, but not for ever: a process inside a system call that hangs cannot be ended.
fn wait(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Keeps the open files of this process from the programs that it starts. A daemon would hold the locks and pipes of
/// its caller for as long as it lives.
fn inherit_nothing() {
    let numbers = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    for number in numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter(|&n| n > 2) {
        // SAFETY: plain numbers. A descriptor that was closed meanwhile is EBADF.
        #[allow(unsafe_code, reason = "the descriptors have no owner in this process")]
        unsafe {
            libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

/// Makes this process a daemon: no working directory to keep busy, a name to be found by, files with the permissions
/// that it asks for. Its session becomes its own with [`announce`].
///
/// # Errors
/// [`Error::Io`] when the system refuses.
pub fn become_daemon() -> Result<CallerGroup> {
    let group = CallerGroup::leave();
    let _ = rustix::thread::set_name(c"bsfs");
    // What others may not do stays as the caller wants it.
    let mask = rustix::process::umask(Mode::RWXG | Mode::RWXO);
    rustix::process::umask((mask | Mode::WGRP | Mode::WOTH) - Mode::RWXU);
    std::env::set_current_dir("/").map_err(Error::io("enter", "/"))?;
    Ok(group)
}

/// Tells the process that [`start`]ed this one that the mount answers, and lets go of its terminal and session.
///
/// # Errors
/// [`Error::Io`] when that process has ended: nobody waits for this mount any more.
pub fn announce() -> Result<()> {
    // Fails for a process that leads its group already; then there is nothing to leave.
    let _ = rustix::process::setsid();
    let mut output = io::stdout().lock();
    writeln!(output, "{READY}").and_then(|()| output.flush()).map_err(Error::io("announce the mount", "stdout"))?;
    let null = || OpenOptions::new().read(true).write(true).open("/dev/null").map_err(Error::io("open", "/dev/null"));
    let failed = |e: rustix::io::Errno| Error::io("let go of", "the terminal")(e.into());
    let null = null()?;
    rustix::stdio::dup2_stdin(&null).map_err(failed)?;
    rustix::stdio::dup2_stdout(&null).map_err(failed)?;
    rustix::stdio::dup2_stderr(&null).map_err(failed)
}

/// Tells the process that [`start`]ed this one how far a download is.
///
/// # Errors
/// [`Error::Io`] when that process has ended: nobody waits for this mount any more.
pub fn announce_download(done: u64, total: u64) -> Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{DOWNLOADED}{done} {total}").and_then(|()| output.flush()).map_err(Error::io("tell", "stdout"))
}

/// Where the daemon of a mount logs to unless told otherwise: `bsfs/NAME.log` under `$XDG_STATE_HOME` or
/// `~/.local/state`. `None` without a home directory.
#[must_use]
pub fn default_log_file(mount_point: &Path) -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(absolute)
        .or_else(|| std::env::home_dir().filter(absolute).map(|home| home.join(".local/state")))?;
    Some(state.join("bsfs").join(format!("{}.log", escape(mount_point))))
}

/// A file name for a path: `/` becomes `-`, everything unusual `%` and two hexadecimal digits.
fn escape(path: &Path) -> String {
    use std::fmt::Write as _;
    let mut name = String::new();
    for &byte in path.as_os_str().as_bytes().strip_prefix(b"/").unwrap_or(path.as_os_str().as_bytes()) {
        match byte {
            b'/' => name.push('-'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => name.push(char::from(byte)),
            b'.' if !name.is_empty() => name.push('.'),
            // Writing to a string does not fail.
            _ => _ = write!(name, "%{byte:02X}"),
        }
    }
    if name.len() > LONGEST_NAME {
        let digest = blake3::hash(path.as_os_str().as_bytes()).to_hex();
        // All characters are ASCII, so any cut is between two.
        name.truncate(LONGEST_NAME - 17);
        let _ = write!(name, "-{}", digest.get(..16).unwrap_or_default());
    }
    if name.is_empty() { "root".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_names_are_distinct_and_short() {
        assert_eq!(escape(Path::new("/mnt/my models")), "mnt-my%20models");
        assert_eq!(escape(Path::new("/mnt/a-b")), "mnt-a%2Db");
        assert_ne!(escape(Path::new("/mnt/a-b")), escape(Path::new("/mnt/a/b")));
        assert_eq!(escape(Path::new("/.x")), "%2Ex");
        assert_eq!(escape(Path::new("/")), "root");
        let long = |end: &str| escape(Path::new(&format!("/{}{end}", "x".repeat(400))));
        assert_eq!(long("1").len(), LONGEST_NAME);
        assert_ne!(long("1"), long("2"));
    }
}
