//! How a mount is made, and what it tells on the way.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::caller::CallerGroup;
use super::logfile::LogFile;

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

/// The generic options of mount(8) that have an effect on a mount that is read-only, nosuid and nodev in any case.
#[derive(Debug, Clone, Default)]
pub struct Generic {
    /// Nothing below the mount point may be executed.
    pub noexec: bool,
    /// Links below the mount point are shown and not followed.
    pub nosymfollow: bool,
    /// What the mount table says that is mounted; `None` for the source.
    pub name: Option<OsString>,
    /// Security contexts for SELinux, each as `context="VALUE"`.
    pub contexts: Vec<OsString>,
}

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
    /// Requests that the kernel may have waiting for readahead; 0 for 1024.
    pub max_background: u16,
    /// Where the bases of deltas may be: files, or directories that hold them.
    pub bases: Vec<PathBuf>,
    /// Leaves packed bytes in the system's page cache after they were read through.
    pub keep_packed: bool,
    /// Shows zeros of the right sizes, for measurements of everything but reading and decoding.
    pub null: bool,
    /// Lets users other than the mounting one in. Links are then followed within the source only, and into [`follow`](Self::follow).
    pub allow_other: bool,
    /// Directories and files outside of the source that links may lead into though other users read the mount.
    pub follow: Vec<PathBuf>,
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
    /// How long a request waits for a source of which nothing comes before it fails; `None` for a minute where that is a server,
    /// and five where it is a file system of this machine.
    pub patience: Option<Duration>,
    /// Puts all files into the disk cache in the background.
    pub warm: bool,
    /// A file to write figures for Prometheus to, every 15 seconds.
    pub metrics_file: Option<PathBuf>,
    /// Generic options of mount(8).
    pub generic: Generic,
    /// Of a process that [`start`](super::start) started: the process group of its caller.
    pub caller: Option<CallerGroup>,
    /// Where this process logs to. Setting up the log is the program's business.
    pub log: Option<LogFile>,
}

/// What [`serve`](super::serve()) tells the program on the way.
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
