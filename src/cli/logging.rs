//! The log of a process that serves a mount.

use std::io::Write;
use std::path::Path;

use bsfs::Result;
use bsfs::escape::Escaped;
use bsfs::mount::{self, LogFile};
use clap::ValueEnum;
use log::LevelFilter;

use super::out;

/// `--log-format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Time, level and message
    Text,
    /// The same as an object, one a line
    Json,
}

/// Starts logging to `file`, or without one for the daemon of a mount point to its own file, or to standard error. Returns the file.
pub fn start_log(file: Option<&Path>, daemon_of: Option<&Path>, format: LogFormat) -> Result<Option<LogFile>> {
    let log = match file {
        Some(path) => Some(LogFile::open(path, false)?),
        None => daemon_of.and_then(mount::default_log_file).and_then(|path| match LogFile::open(&path, true) {
            Ok(log) => Some(log),
            Err(error) => {
                out::say(&format!("{error}; going on without a log"));
                None
            }
        }),
    };
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(LevelFilter::Info)
        .filter_module("bsfs", LevelFilter::Trace)
        .filter_module("fuser", LevelFilter::Warn)
        .format_target(false);
    builder.format(move |out, record| {
        let (time, text) = (out.timestamp_seconds(), record.args().to_string());
        let text = Escaped(mount::readable(&text));
        match format {
            LogFormat::Text => writeln!(out, "[{time} {:<5}] {text}", record.level()),
            LogFormat::Json => {
                let level = record.level().as_str().to_ascii_lowercase();
                let line = serde_json::json!({ "time": time.to_string(), "level": level, "message": text.to_string() });
                writeln!(out, "{line}")
            }
        }
    });
    builder.parse_env("BSFS_LOG");
    if let Some(log) = &log {
        builder.target(env_logger::Target::Pipe(Box::new(log.clone())));
    }
    // A daemon without a file has nowhere to log to; its standard error is the user's terminal.
    if log.is_some() || daemon_of.is_none() {
        // A program has one log; a second start keeps the first.
        if builder.try_init().is_ok() && std::env::var_os("BSFS_LOG").is_none() {
            // More only when "remount" asks for it.
            log::set_max_level(LevelFilter::Info);
        }
    }
    std::panic::set_hook(Box::new(|info| log::error!("{info}")));
    Ok(log)
}
