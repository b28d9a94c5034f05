//! `bsfs mount`

use std::ffi::OsString;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bsfs::mount::{self, CacheMode, Event, MountOptions, Started};
use bsfs::{Error, Result};
use clap::{Args, ValueEnum};

use super::helper::{self, generic};
use super::logging::{LogFormat, start_log};
use super::notify::notify;
use super::numbers;
use super::out;
use super::progress::Bar;

/// How long a download may take.
const DOWNLOAD: Duration = Duration::from_secs(7 * 86_400);

/// How often the daemon tells how far a download is.
const TELL: Duration = Duration::from_millis(200);

/// Mount compressed weights as plain files
///
/// SOURCE is a directory or one .bs file, or a remote place: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or the
/// https:// address of a directory with an index page, or of a file, or hf://ORG/NAME[@REVISION] of the Hub. Of a remote place what is read is fetched as it is read, and
/// kept in the disk cache; credentials are those of the environment (AWS_..., GOOGLE_..., AZURE_..., HF_TOKEN). MOUNTPOINT is an existing directory outside of SOURCE, or SOURCE itself. Under it,
/// model.safetensors.bs is seen as model.safetensors, every other file as it is, all of it read-only.
///
/// A directory mounted over itself ("bsfs mount DIR DIR") shows its files at the paths that they always had; links are seen as
/// links. "bsfs unmount" gives it back for writing.
///
/// Files of the Python package bigsmall (.bs, .bsr) are seen as safetensors files too, and a model in several of them
/// with the model.safetensors.index.json that it needs.
///
/// Returns when the mount answers; a process in the background serves it until it is unmounted with "bsfs unmount".
///
/// As mount.bsfs this program is the helper of mount(8): "mount -t bsfs SOURCE MOUNTPOINT -o memory=1G,allow_other", and lines of
/// /etc/fstab. Options are those of this command with "_" or "-"; generic options of mount(8) and libfuse are accepted.
/// With --foreground a service manager that set NOTIFY_SOCKET is told when the mount answers.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// Directory (with all below it) or .bs file to show, or address of a remote place
    pub source: PathBuf,
    /// Existing directory to show it at
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// Serve in this process, log to standard error, end with Ctrl-C
    #[arg(short, long)]
    pub foreground: bool,
    /// Serve the open FUSE connection with this number, which somebody else has mounted (read-only): nothing is mounted or
    /// unmounted, and no privilege is needed. MOUNTPOINT only names it. /dev/fd/N as MOUNTPOINT means the same
    #[arg(long, value_name = "N")]
    pub fuse_fd: Option<u32>,
    /// Where what fine-tunes and deltas refer to is looked for, beside SOURCE itself and the cache of the Hugging Face Hub: a file
    /// (safetensors or .bs), or a directory. May be given several times
    #[arg(long, value_name = "PATH")]
    pub base: Vec<PathBuf>,
    /// Let other users read too (for users other than root it must be allowed in /etc/fuse.conf)
    #[arg(long)]
    pub allow_other: bool,
    /// Options as in /etc/fstab, separated by commas: those of this command with "_" or "-", and those of mount(8), of which
    /// noexec, nosymfollow, fsname=NAME and context=CONTEXT have an effect here
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<OsString>,
    /// With --allow-other: follow links that lead into this directory (or to this file) outside of SOURCE as well. Others are shown as
    /// links, since what this process can read they may not. May be given several times
    #[arg(long, value_name = "DIR")]
    pub follow: Vec<PathBuf>,
    /// Memory for decoded data and buffers together, in bytes or with K, M, G, from 64K on [default: 16M for each core, at
    /// least 256M, at most an eighth of the machine's memory]
    #[arg(long, value_name = "SIZE", value_parser = numbers::size(numbers::MEMORY), help_heading = "Memory and cache")]
    pub memory: Option<u64>,
    /// Which decoded data to keep on disk for later mounts
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Cache::Auto, help_heading = "Memory and cache")]
    pub cache: Cache,
    /// Directory for decoded data kept on disk [default: $XDG_CACHE_HOME/bsfs or ~/.cache/bsfs]
    #[arg(long, value_name = "DIR", help_heading = "Memory and cache")]
    pub cache_dir: Option<PathBuf>,
    /// Disk space for it, in bytes or with K, M, G; the least recently used leaves first [default: a tenth of the file system, at
    /// most 50 GiB]
    #[arg(long, value_name = "SIZE", value_parser = numbers::size(numbers::DISK), help_heading = "Memory and cache")]
    pub cache_size: Option<u64>,
    /// Of a remote place: fetch all of it into the disk cache before the mount is made
    #[arg(long, help_heading = "Memory and cache")]
    pub download: bool,
    /// Seconds that a read waits for a source of which nothing comes before it fails (1 to 31536000) [default: 60 for a server, 300
    /// for files of this machine]
    #[arg(long, value_name = "SECONDS", value_parser = numbers::seconds(1))]
    pub patience: Option<u64>,
    /// Put all files into it in the background ("bsfs status" shows how far that is); with --cache auto those that it keeps
    #[arg(long, help_heading = "Memory and cache")]
    pub warm: bool,
    /// Largest readahead of the kernel, in bytes or with K, M, up to 1G (takes effect for root only)
    #[arg(long, value_name = "SIZE", default_value = "2M", value_parser = numbers::size(numbers::READAHEAD), help_heading = "Memory and cache")]
    pub readahead: u64,
    /// Threads that decode, up to 1024 [default: one for each core]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = numbers::threads(), help_heading = "Memory and cache")]
    pub threads: usize,
    /// Threads that take requests from the kernel, up to 1024 [default: one for each core, at least 2]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = numbers::threads(), help_heading = "Memory and cache")]
    pub session_threads: usize,
    /// Requests for readahead that the kernel may have waiting, up to 65535 [default: 1024]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, help_heading = "Memory and cache")]
    pub max_background: u16,
    /// Leave compressed data in the page cache after it was read through. (Decoded data is there too by then)
    #[arg(long, help_heading = "Memory and cache")]
    pub keep_packed: bool,
    /// Show zeros in place of contents, for measurements
    #[arg(long, hide = true)]
    pub null: bool,
    /// Seconds for which the kernel may keep names, sizes and times without asking, up to 31536000 (opening a file always
    /// asks)
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = numbers::seconds(0), help_heading = "Memory and cache")]
    pub ttl: u64,
    /// Log to this file [default: ~/.local/state/bsfs/MOUNTPOINT.log, or standard error with --foreground]
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// One line of JSON for each event in the log, in place of text
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = "Watching")]
    pub log_format: LogFormat,
    /// Write figures for Prometheus to this file, every 15 seconds, for node_exporter's directory of such files
    #[arg(long, value_name = "FILE", help_heading = "Watching")]
    pub metrics_file: Option<PathBuf>,
    /// Seconds to wait until the mount answers (1 to 31536000)
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = numbers::seconds(1))]
    pub timeout: u64,
    /// Serve as the background process of another "bsfs mount", which waits for a line on standard output
    #[arg(long, hide = true, conflicts_with = "foreground")]
    pub daemon: bool,
}

/// `--cache`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cache {
    /// Nothing
    Off,
    /// What takes longer to decode than to read: the files of bigsmall
    Auto,
    /// Everything
    All,
}

impl From<Cache> for CacheMode {
    fn from(cache: Cache) -> Self {
        match cache {
            Cache::Off => Self::Off,
            Cache::Auto => Self::Auto,
            Cache::All => Self::All,
        }
    }
}

/// Mounts; returns when the mount answers, or with `--foreground` when it has ended.
pub fn run(args: &MountArgs, as_helper: bool) -> Result<ExitCode> {
    // Before the daemon is started: a mistake is this process's to tell.
    generic(&args.options)?;
    if args.foreground || args.daemon || given(args).is_some() {
        return serve(args).map(|()| ExitCode::SUCCESS);
    }
    let arguments = daemon_arguments(args)?;
    let source = if is_remote(&args.source) { args.source.clone() } else { absolute(&args.source)?.into() };
    let timeout = if args.download { DOWNLOAD } else { Duration::from_secs(args.timeout) };
    let stop = out::stop_flag();
    let bar = args.download.then(|| Bar::new(0, false));
    let started = mount::start(arguments, &source, &args.mount_point, (timeout, &stop), |done, total| {
        bar.iter().for_each(|bar| bar.reach(done, total));
    });
    bar.iter().for_each(Bar::done);
    match started? {
        Started::Ready(_) => Ok(ExitCode::SUCCESS),
        // It has said why itself.
        Started::Failed(_) if as_helper => Ok(helper::NOT_MOUNTED.into()),
        Started::Failed(code) => Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(2))),
    }
}

/// The number of the connection that was given.
fn given(args: &MountArgs) -> Option<u32> {
    args.fuse_fd.or_else(|| args.mount_point.strip_prefix("/dev/fd").ok()?.to_str()?.parse().ok())
}

/// The connection with this number.
fn connection(number: u32) -> Result<Arc<OwnedFd>> {
    let path = Path::new("/proc/self/fd").join(number.to_string());
    let is_device =
        std::fs::read_link(&path).is_ok_and(|target| target.ends_with("dev/fuse") || target.ends_with("fuse"));
    let raw = i32::try_from(number).ok().filter(|&raw| is_device && raw > 2);
    let Some(raw) = raw else {
        let text = "is no open /dev/fuse; give the number of a descriptor that this process inherits";
        return Err(Error::invalid(format!("--fuse-fd {number}: {text}")));
    };
    // SAFETY: it is open, as was just seen, and nothing else in this process knows its number: it was inherited.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(|e| Error::io("use", &path)(e.into()))?;
    Ok(Arc::new(fd))
}

fn absolute(path: &Path) -> Result<OsString> {
    let resolved = std::path::absolute(path).map_err(|source| Error::Io { op: "resolve", path: path.into(), source });
    resolved.map(PathBuf::into_os_string)
}

/// Whether a source is the address of a remote place. A path of this machine that looks like one goes before.
fn is_remote(source: &Path) -> bool {
    source.to_str().is_some_and(|text| text.contains("://")) && !source.exists()
}

/// The same mount as a command for the background process, which has another working directory.
fn daemon_arguments(args: &MountArgs) -> Result<Vec<OsString>> {
    let mut list: Vec<OsString> = vec!["mount".into(), "--daemon".into()];
    let mut option = |name: &str, value: OsString| list.extend([name.into(), value]);
    option("--readahead", args.readahead.to_string().into());
    option("--ttl", args.ttl.to_string().into());
    option("--threads", args.threads.to_string().into());
    option("--session-threads", args.session_threads.to_string().into());
    option("--max-background", args.max_background.to_string().into());
    if let Some(memory) = args.memory {
        option("--memory", memory.to_string().into());
    }
    if let Some(cache) = args.cache.to_possible_value() {
        option("--cache", cache.get_name().into());
    }
    if let Some(patience) = args.patience {
        option("--patience", patience.to_string().into());
    }
    if let Some(dir) = &args.cache_dir {
        option("--cache-dir", absolute(dir)?);
    }
    if let Some(size) = args.cache_size {
        option("--cache-size", size.to_string().into());
    }
    if let Some(format) = args.log_format.to_possible_value() {
        option("--log-format", format.get_name().into());
    }
    if let Some(file) = &args.metrics_file {
        option("--metrics-file", absolute(file)?);
    }
    if let Some(file) = &args.log_file {
        option("--log-file", absolute(file)?);
    }
    for base in &args.base {
        option("--base", absolute(base)?);
    }
    for place in &args.follow {
        option("--follow", absolute(place)?);
    }
    for generic in &args.options {
        option("-o", generic.clone());
    }
    let flags = [
        ("--allow-other", args.allow_other),
        ("--keep-packed", args.keep_packed),
        ("--null", args.null),
        ("--warm", args.warm),
        ("--download", args.download),
    ];
    list.extend(flags.iter().filter(|(_, set)| *set).map(|(flag, _)| flag.into()));
    // The daemon learns the source in another way.
    list.extend(["--".into(), ".".into(), absolute(&args.mount_point)?]);
    Ok(list)
}

fn serve(args: &MountArgs) -> Result<()> {
    let caller = args.daemon.then(mount::become_daemon).transpose()?;
    if let Some(log) = args.log_file.as_ref().filter(|log| mount::is_below(log, &args.mount_point, caller)) {
        return Err(Error::invalid(format!("{}: the log file lies under the mount point", log.display())));
    }
    let log = start_log(args.log_file.as_deref(), args.daemon.then_some(&*args.mount_point), args.log_format)?;
    let told = std::env::var_os(mount::SOURCE_VARIABLE).filter(|_| args.daemon);
    let options = MountOptions {
        source: told.map_or_else(|| args.source.clone(), PathBuf::from),
        download: args.download,
        patience: args.patience.map(Duration::from_secs),
        mount_point: args.mount_point.clone(),
        fuse: given(args).map(connection).transpose()?,
        bases: args.base.clone(),
        memory: args.memory.unwrap_or_else(|| mount::default_memory(args.threads)),
        threads: args.threads,
        session_threads: args.session_threads,
        max_background: args.max_background,
        keep_packed: args.keep_packed,
        null: args.null,
        allow_other: args.allow_other,
        follow: args.follow.clone(),
        ttl: Duration::from_secs(args.ttl),
        readahead: args.readahead,
        cache: args.cache.into(),
        cache_dir: args.cache_dir.clone(),
        cache_size: args.cache_size,
        warm: args.warm,
        metrics_file: args.metrics_file.clone(),
        generic: generic(&args.options)?,
        caller,
        log,
    };
    let (mut told_last, mut bar) = (Instant::now(), None);
    let served = mount::serve(&options, |event| match event {
        Event::Note(note) => {
            // In the foreground it has been logged to the same place.
            if args.daemon || args.log_file.is_some() {
                out::say(&note);
            }
            Ok(())
        }
        Event::Downloading { done, total } if args.daemon => {
            if done == total || told_last.elapsed() >= TELL {
                told_last = Instant::now();
                mount::announce_download(done, total)?;
            }
            Ok(())
        }
        Event::Downloading { done, total } => {
            bar.get_or_insert_with(|| Bar::new(total, false)).reach(done, total);
            if done == total {
                bar.take().iter().for_each(Bar::done);
            }
            Ok(())
        }
        Event::Ready { .. } if args.daemon => mount::announce(),
        Event::Ready { mount_point } => {
            notify(&format!("READY=1\nSTATUS=serving {}", out::shown(&mount_point)));
            Ok(())
        }
    });
    if !args.daemon {
        notify("STOPPING=1");
    }
    if let Err(error) = &served
        && args.daemon
    {
        // After the start nobody reads standard error.
        log::error!("{error}");
    }
    served
}
