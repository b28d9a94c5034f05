//! `bsfs cache`

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use bsfs::cache::{Config, Listed, Removed, Store, Usage, Verdict, default_dir};
use bsfs::escape::Escaped;
use bsfs::{Error, Result};
use clap::{Args, Subcommand};

use super::exit::Exit;
use super::numbers;
use super::out::{self, print, print_json, row, shorten};
use super::progress::Bar;
use super::size::show_size;

/// Width of the names in a list.
const LABEL: usize = 44;

/// Show, check or empty the disk cache
///
/// The disk cache holds decoded bytes as plain files, for later mounts of the same content. All mounts of a user share it; what a
/// mount has open stays.
#[derive(Debug, Args)]
pub struct CacheArgs {
    #[command(subcommand)]
    verb: CacheVerb,
}

#[derive(Debug, Subcommand)]
enum CacheVerb {
    /// Show what the cache takes and may take
    Stats(Place),
    /// List the files in the cache, most recently used first
    List(Place),
    /// Remove files, least recently used first, until the rest fits
    Prune {
        #[command(flatten)]
        place: Place,
        /// Disk space that may remain in use, such as 10G [default: a tenth of the file system, at most 50G]
        #[arg(long, value_name = "SIZE", value_parser = numbers::size(numbers::DISK))]
        size: Option<u64>,
    },
    /// Remove all files that are not in use
    Clear(Place),
    /// Read all that is cached and compare checksums
    ///
    /// What is wrong is named and forgotten, so that it is decoded again. Exit status 0: all is right; 1: something was wrong; 2: it
    /// could not be found out.
    Verify(Place),
}

/// Which cache, and how to print.
#[derive(Debug, Args)]
struct Place {
    /// Directory of the cache [default: $XDG_CACHE_HOME/bsfs, or ~/.cache/bsfs]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Print JSON; sizes are bytes, times seconds since 1970
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: &CacheArgs) -> Result<ExitCode> {
    match &args.verb {
        CacheVerb::Stats(place) => {
            let stats = open(place)?.map(|store| store.stats()).transpose()?;
            show(place, &stats, |stats| stats.as_ref().map(usage).unwrap_or_default())
        }
        CacheVerb::List(place) => {
            let listed = open(place)?.map_or(Ok(Vec::new()), |store| store.list())?;
            show(place, &listed, |listed| list(listed))
        }
        CacheVerb::Prune { place, size } => {
            let pruned = open(place)?.map_or(Ok(Removed::default()), |store| {
                let size = size.map_or_else(|| store.stats().map(|usage| usage.size_limit), Ok)?;
                store.prune(size)
            })?;
            show(place, &pruned, removed)
        }
        CacheVerb::Clear(place) => {
            let cleared = open(place)?.map_or(Ok(Removed::default()), |store| {
                #[cfg(feature = "remote")]
                store.path().parent().map(bsfs::source::remote::forget_listings).transpose()?;
                store.clear()
            })?;
            show(place, &cleared, removed)
        }
        CacheVerb::Verify(place) => {
            let found = open(place)?.map_or(Ok(Verdict::default()), |store| verify(place, &store))?;
            show(place, &found, verdict)?;
            Ok(if found.damaged.is_empty() { Exit::Done } else { Exit::Differs }.into())
        }
    }
}

/// The cache, or `None` and a word about it when there is none.
fn open(place: &Place) -> Result<Option<Arc<Store>>> {
    let dir = match &place.cache_dir {
        Some(dir) => dir.clone(),
        None => default_dir().ok_or_else(|| Error::invalid("there is no home directory; use --cache-dir"))?,
    };
    let store = Store::open_existing(&dir, &Config::default())?;
    if store.is_none() {
        out::say(&format!("{}: no cache there", dir.display()));
    }
    Ok(store)
}

fn show<T: serde::Serialize>(place: &Place, value: &T, text: impl FnOnce(&T) -> String) -> Result<ExitCode> {
    if place.json {
        print_json(value)?
    } else {
        print(&text(value))?
    }
    Ok(Exit::Done.into())
}

fn verify(place: &Place, store: &Store) -> Result<Verdict> {
    let stop = out::stop_flag();
    let bar = Bar::new(store.stats()?.present_bytes, place.json);
    let found = store.verify(&mut |bytes| {
        bar.skip(bytes);
        !stop.load(Ordering::Relaxed)
    });
    bar.done();
    found
}

fn usage(usage: &Usage) -> String {
    let Usage { entries, complete, sealed, in_use, .. } = usage;
    let mut text = format!("{}{}\n", out::shown(&usage.directory), if usage.read_only { "  (only read)" } else { "" });
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {name:<6} {value}");
    };
    line("files", format!("{entries}, {complete} of them complete, {sealed} proven whole, {in_use} in use"));
    line("disk", format!("{} of at most {}", show_size(usage.disk_bytes), show_size(usage.size_limit)));
    line("cached", show_size(usage.present_bytes));
    line("free", format!("{}, at least {} stay free", show_size(usage.free_bytes), show_size(usage.free_floor)));
    if usage.leftovers + usage.foreign > 0 {
        line("other", format!("{} files of killed processes, {} that are not ours", usage.leftovers, usage.foreign));
    }
    text
}

fn list(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "nothing is cached\n".to_owned();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let head = ["size", "cached", "on disk", "state", "used"].map(str::to_owned);
    let mut text = row("file", LABEL, &head);
    for entry in listed {
        let state = match entry {
            Listed { readable: false, .. } => "unreadable",
            Listed { sealed: true, .. } => "proven",
            Listed { complete: true, .. } => "complete",
            _ => "partial",
        };
        let used = if entry.in_use { "now".to_owned() } else { ago(now.saturating_sub(entry.last_used.max(0) as u64)) };
        let sizes = [entry.raw_len, entry.present_bytes, entry.disk_bytes].map(show_size);
        let name = if entry.readable { entry.label.clone() } else { entry.key.to_string() };
        let cells = [sizes.as_slice(), &[state.to_owned(), used]].concat();
        text += &row(&shorten(&name, LABEL), LABEL, &cells);
    }
    text
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => "just now".to_owned(),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

fn removed(removed: &Removed) -> String {
    let mut text = format!("removed {} files, {}", removed.entries, show_size(removed.bytes));
    if removed.leftovers > 0 {
        text += &format!(", and what {} killed processes left", removed.leftovers);
    }
    if removed.kept_in_use > 0 {
        text += &format!("; {} are in use and stay", removed.kept_in_use);
    }
    text + "\n"
}

fn verdict(verdict: &Verdict) -> String {
    let mut text = String::new();
    for damaged in &verdict.damaged {
        let at = damaged.offset.map(|offset| format!(" at offset {offset}")).unwrap_or_default();
        text += &format!(
            "damaged: {} ({}){at}: {}\n",
            Escaped(&damaged.file),
            Escaped(&damaged.label),
            Escaped(&damaged.what)
        );
    }
    for name in &verdict.leftovers {
        text += &format!("left by a killed process: {}\n", Escaped(name));
    }
    for name in &verdict.foreign {
        text += &format!("not ours: {}\n", Escaped(name));
    }
    let (files, chunks, bytes) = (verdict.entries, verdict.chunks, show_size(verdict.bytes));
    text + &format!("{files} files, {chunks} chunks, {bytes} right, {} damaged\n", verdict.damaged.len())
}
