//! `bsfs remount`

use std::path::PathBuf;
use std::process::ExitCode;

use bsfs::mount::{self, Changes, Settings};
use bsfs::{Error, Result};
use clap::Args;

use super::size::show_size;
use super::{numbers, out};

/// Change settings of a mount while it is in use
///
/// Prints what is in force then; without options only that. Takes the user who made the mount, or root. What is changed lasts as
/// long as the mount. "mount -o remount,memory=1G MOUNTPOINT" does the same for mounts of /etc/fstab.
#[derive(Debug, Args)]
pub struct RemountArgs {
    /// Where it is mounted
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// Memory for decoded data and buffers together, in bytes or with K, M, G. (Threads, and what streams of bigsmall need to be
    /// entered, stay as they were made at the start)
    #[arg(long, value_name = "SIZE", value_parser = numbers::size(numbers::MEMORY))]
    pub memory: Option<u64>,
    /// Disk space of the disk cache; what is too much leaves with the next chunk that is written
    #[arg(long, value_name = "SIZE", value_parser = numbers::size(numbers::DISK))]
    pub cache_size: Option<u64>,
    /// Largest readahead of the kernel (for mounts of root only)
    #[arg(long, value_name = "SIZE", value_parser = numbers::size(numbers::READAHEAD))]
    pub readahead: Option<u64>,
    /// Seconds for which the kernel may keep names, sizes and times without asking; for those that it gets from now on
    #[arg(long, value_name = "SECONDS", value_parser = numbers::seconds(0))]
    pub ttl: Option<u64>,
    /// What is logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// Asks the mount, and prints what it says.
pub fn run(args: &RemountArgs) -> Result<ExitCode> {
    let failed = |source| Error::Io { op: "resolve", path: args.mount_point.clone(), source };
    let mount_point = std::path::absolute(&args.mount_point).map_err(failed)?;
    let changes = Changes {
        memory: args.memory,
        cache_size: args.cache_size,
        readahead: args.readahead,
        ttl: args.ttl,
        log_level: args.log_level.clone(),
    };
    let Settings { memory, cache_size, readahead, ttl, log_level } = mount::remount(&mount_point, &changes)?;
    let size = |size: Option<u64>, none: &str| size.map_or_else(|| none.to_owned(), show_size);
    out::say(&format!(
        "{}: memory {}, cache size {}, readahead {}, ttl {ttl} s, log level {log_level}",
        mount_point.display(),
        show_size(memory),
        size(cache_size, "(no cache)"),
        size(readahead, "(the kernel's own)"),
    ));
    Ok(ExitCode::SUCCESS)
}
