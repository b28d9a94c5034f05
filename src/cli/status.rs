//! `bsfs status`

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use bsfs::escape::Escaped;
use bsfs::mount::{self, MountRecord};
use bsfs::{Error, Result};
use clap::Args;

use super::out;
use super::size::show_size;
use super::watch;

/// List mounts and their state
///
/// Asks each mount that the mount table shows. Sizes in JSON are bytes, times seconds.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only the mount at this directory; it is an error when there is none
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: Option<PathBuf>,
    /// Print a JSON array, one object for each mount
    #[arg(long)]
    pub json: bool,
    /// Print nothing, and fail unless the mount at MOUNTPOINT answers (without one: unless all do, and there is one). Never takes
    /// longer than a few seconds, whatever state the mount is in: a probe for whoever restarts things
    #[arg(long, conflicts_with = "json")]
    pub check: bool,
    /// Show a view that follows the mounts, until q is pressed
    #[arg(short, long, conflicts_with_all = ["json", "check"])]
    pub watch: bool,
}

/// Prints the mounts to standard output.
pub fn run(args: &StatusArgs) -> Result<ExitCode> {
    if args.watch {
        return watch::run(args.mount_point.as_deref());
    }
    let records = mount::mounts(args.mount_point.as_deref())?;
    if args.check {
        return check(&records);
    }
    if args.json {
        out::print_json(&records)?;
    } else if records.is_empty() {
        out::print("no bsfs mounts\n")?;
    } else {
        out::print(&records.iter().map(describe).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(record: &MountRecord) -> String {
    let well = match record.status.as_ref().map(|status| status.problems.len()) {
        None => String::new(),
        Some(0) => ", ok".to_owned(),
        Some(1) => ", with a problem".to_owned(),
        Some(n) => format!(", with {n} problems"),
    };
    let mut text = format!("{}  ({}{well})\n", out::shown(&record.mount_point), Escaped(&record.state));
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {name:<9} {}", Escaped(value));
    };
    for problem in record.status.iter().flat_map(|status| &status.problems) {
        line("problem", problem.clone());
    }
    line("source", record.source.display().to_string());
    let Some(s) = &record.status else { return text };
    let e = &s.engine;
    line("process", format!("{}, bsfs {}, up {}", s.pid, s.version, show_duration(s.uptime_seconds)));
    line("log", s.log_file.clone().unwrap_or_else(|| "standard error".to_owned()));
    line(
        "memory",
        format!(
            "{} of {}, {} of it in {} chunks; headers and indexes {}; disk cache {}",
            show_size(e.buffer_bytes),
            show_size(e.memory_limit),
            show_size(e.memory_bytes),
            e.memory_chunks,
            show_size(s.metadata_bytes),
            s.cache
        ),
    );
    if e.point_bytes > 0 {
        line("points", format!("{} to enter streams without random access", show_size(e.point_bytes)));
    }
    if let Some(disk) = &s.disk {
        let by = if s.passthrough { "the kernel" } else { "this process" };
        line(
            "disk",
            format!(
                "{} chunks read, {} written, {} dropped, {} damaged; {} files proven; whole files are read by {by} ({} opens)",
                disk.hits,
                disk.written_chunks,
                disk.dropped_chunks,
                disk.damaged_chunks,
                disk.sealed_entries,
                s.passthrough_opens
            ),
        );
    }
    if let Some(remote) = &s.remote {
        let state = if remote.down { "does not answer" } else { "answers" };
        line(
            "server",
            format!(
                "{state}; {} requests for {}, {} again, {} doubled, {} told to slow down, {} reads failed",
                remote.requests,
                show_size(remote.bytes),
                remote.retries,
                remote.hedges,
                remote.throttled,
                remote.failures
            ),
        );
    }
    if let Some(warming) = &s.warming {
        let state = if warming.finished { "done" } else { "under way" };
        let (kept, files, bytes) = (warming.files_kept, warming.files, show_size(warming.bytes));
        line("warming", format!("{state}: {kept} of {files} files in the cache, {bytes} decoded for it"));
    }
    line("reads", format!("{} ({}); {} open", s.reads, show_size(s.read_bytes), s.open_files));
    line("chunks", format!("{} hits, {} misses, {} waits, {} evicted", e.hits, e.misses, e.waits, e.evicted_chunks));
    let (decoded, packed) = (show_size(e.decoded_bytes), show_size(e.packed_bytes_read));
    line("decoded", format!("{} chunks, {decoded} from {packed}", e.decoded_chunks));
    line(
        "ahead",
        format!("{} chunks, {} of them read, {} dropped unread", e.ahead_chunks, e.ahead_used, e.ahead_wasted),
    );
    let times = [e.source_seconds, e.decode_seconds, e.wait_seconds, e.gather_seconds, s.reply_seconds];
    let [source, decode, wait, gather, reply] = times.map(|t| format!("{t:.2} s"));
    line("time", format!("source {source}, decode {decode}, wait {wait}, gather {gather}, reply {reply}"));
    line("errors", format!("{}; {} panics", s.errors, s.panics));
    text
}

fn check(records: &[MountRecord]) -> Result<ExitCode> {
    if records.is_empty() {
        return Err(Error::invalid("no bsfs mounts"));
    }
    match records.iter().find(|record| record.status.is_none()) {
        None => Ok(ExitCode::SUCCESS),
        Some(MountRecord { mount_point, state, .. }) => {
            Err(Error::Mount { mount_point: mount_point.clone(), message: state.clone() })
        }
    }
}

fn show_duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}
