//! A repository at a revision into the cache.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use parking_lot::Mutex;
use serde::Serialize;

use super::Progress;
use super::client::{Client, RepoFile};
use super::layout::Layout;
use super::part::Job;
use super::repo::HubUri;
use crate::error::{Error, Result};
use crate::parallel::on_threads;

/// Connections at once unless the user says otherwise.
const THREADS: usize = 8;
/// Most connections at once.
const MAX_THREADS: usize = 64;

/// What to pull.
#[derive(Debug, Clone, Default)]
pub struct Pull {
    /// Patterns of paths; a file that matches none is left out. None at all: every file. `*` goes over slashes, and a pattern that
    /// ends with a slash means all below it, as in `huggingface_hub`.
    pub include: Vec<String>,
    /// Patterns of paths that are left out.
    pub exclude: Vec<String>,
    /// Connections at once; 0 for 8. Each is for a file, or when there are fewer files for pieces of a long one.
    pub threads: usize,
}

/// How a file got into the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was there.
    Cached,
    /// Its content was there, from another revision or another program.
    Linked,
    /// It came from the server, or the rest of it.
    Downloaded,
}

/// One file of a snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct PulledFile {
    /// Path in the repository.
    pub path: String,
    /// Length, bytes.
    pub size: u64,
    /// How it got there.
    pub state: State,
}

/// What became of a pull.
#[derive(Debug, Clone, Serialize)]
pub struct Pulled {
    /// The repository's id.
    pub repository: String,
    /// What was asked for.
    pub revision: String,
    /// The commit that it was.
    pub commit: String,
    /// Directory with all files.
    pub snapshot: PathBuf,
    /// The files, in order of path.
    pub files: Vec<PulledFile>,
    /// Bytes that came from the server.
    pub downloaded_bytes: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Requests made.
    pub requests: u64,
    /// Wall-clock time.
    pub seconds: f64,
}

/// Brings the files of a repository into the cache and gives the directory that shows them. Several pulls of the same at once, by
/// whatever program, wait for each other's files. A branch is noted in the cache when all files are there.
///
/// # Errors
/// [`Error::Server`], [`Error::Differs`], [`Error::Io`]; [`Error::Invalid`] for patterns that are none or match nothing, and offline
/// when something is missing; [`Error::Interrupted`]. What has come so far is used by the next pull.
pub fn pull(
    client: &Client,
    uri: &HubUri,
    options: &Pull,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Pulled> {
    let started = Instant::now();
    let filter = Filter::new(options)?;
    let layout = Layout::new(&client.settings().cache, &uri.repo);
    let requests = client.requests();
    let (commit, mut files) = listing(client, uri, &layout, stop)?;
    files.retain(|file| filter.takes(&file.path));
    if files.is_empty() {
        let text = if options.include.is_empty() && options.exclude.is_empty() {
            "has no files"
        } else {
            "has no file that these patterns take"
        };
        return Err(Error::invalid(format!("{uri}: the repository {text}")));
    }
    progress.expect(files.iter().map(|file| file.size).sum());
    let (there, mut missing): (Vec<_>, Vec<_>) = files.iter().partition(|file| layout.has(&commit, file));
    for file in &there {
        progress.advance(file.size);
    }
    if let Some(first) = missing.first().filter(|_| client.settings().offline) {
        let what =
            format!("{uri}: {} of {} files are not in the cache, {} first", missing.len(), files.len(), first.path);
        return Err(client.offline(&what));
    }
    let mut came = Vec::new();
    if !missing.is_empty() {
        layout.prepare()?;
        check_room(&layout, &missing)?;
        // The longest first, so that no long one is left at the end.
        missing.sort_by_key(|file| std::cmp::Reverse(file.size));
        // As many connections as files at once, also when there are fewer files.
        let threads = if options.threads == 0 { THREADS } else { options.threads.min(MAX_THREADS) };
        let connections = (threads / missing.len()).max(1) as u64;
        let job = Job { client, repo: &uri.repo, commit: &commit, layout: &layout, stop, progress, connections };
        came = fetch_all(&job, &missing, options.threads)?;
    }
    if !client.settings().offline {
        match layout.set_ref(uri.revision(), &commit) {
            Err(error) if came.is_empty() => log::warn!("the revision is not noted: {error}"),
            noted => noted?,
        }
    }
    let state = |file: &RepoFile| match came.iter().find(|(path, _)| *path == file.path) {
        None => State::Cached,
        Some((_, None)) => State::Linked,
        Some((_, Some(_))) => State::Downloaded,
    };
    Ok(Pulled {
        repository: uri.repo.id().to_owned(),
        revision: uri.revision().to_owned(),
        snapshot: layout.snapshot(&commit),
        bytes: files.iter().map(|file| file.size).sum(),
        files: files
            .iter()
            .map(|file| PulledFile { path: file.path.clone(), size: file.size, state: state(file) })
            .collect(),
        downloaded_bytes: came.iter().filter_map(|(_, bytes)| *bytes).sum(),
        requests: client.requests() - requests,
        seconds: started.elapsed().as_secs_f64(),
        commit,
    })
}

/// The commit and its files: from the server, or offline from the cache.
fn listing(client: &Client, uri: &HubUri, layout: &Layout, stop: &AtomicBool) -> Result<(String, Vec<RepoFile>)> {
    if client.settings().offline {
        let known = layout.get_ref(uri.revision()).and_then(|commit| {
            // Programs that keep no listing leave what they fetched, which may be all there is to know.
            let files = layout.read_tree(&commit).or_else(|| layout.walk_snapshot(&commit))?;
            Some((commit, files))
        });
        let missing = || client.offline(&format!("{uri}: not in the cache at {}", layout.directory().display()));
        return known.ok_or_else(missing);
    }
    let commit = client.commit(&uri.repo, uri.revision(), stop)?;
    if let Some(files) = layout.read_tree(&commit) {
        return Ok((commit, files));
    }
    let files = client.files(&uri.repo, &commit, stop)?;
    if let Err(error) = layout.write_tree(&commit, &files) {
        // All that is wanted may be there, in a cache that can only be read.
        log::warn!("the listing is not kept: {error}");
    }
    Ok((commit, files))
}

/// Refuses before hours of work what would end on a full disk.
fn check_room(layout: &Layout, missing: &[&RepoFile]) -> Result<()> {
    let present = |file: &RepoFile| std::fs::metadata(layout.incomplete(file.etag())).map_or(0, |meta| meta.len());
    let needed: u64 = missing
        .iter()
        .filter(|file| !layout.has_blob(file))
        .map(|file| file.size.saturating_sub(present(file)))
        .fold(0, u64::saturating_add);
    let Ok(stat) = rustix::fs::statvfs(layout.directory()) else { return Ok(()) };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if needed > free {
        let text = format!(
            "{needed} bytes are missing and {free} are free there; free some space or set HF_HUB_CACHE to another place"
        );
        return Err(Error::invalid(format!("{}: {text}", layout.directory().display())));
    }
    Ok(())
}

/// Fetches and links files on several threads; gives what came of each. After a failure no further file is begun.
fn fetch_all(job: &Job<'_>, missing: &[&RepoFile], threads: usize) -> Result<Vec<(String, Option<u64>)>> {
    let threads = if threads == 0 { THREADS } else { threads.min(MAX_THREADS) }.min(missing.len());
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (came, first) = (Mutex::new(Vec::new()), Mutex::new(None));
    let work = || {
        while !failed.load(Ordering::Relaxed)
            && let Some(file) = missing.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let done = job.fetch(file).and_then(|bytes| job.layout.link(job.commit, file).map(|()| bytes));
            match done {
                Ok(bytes) => came.lock().push((file.path.clone(), bytes)),
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    first.lock().get_or_insert(error);
                }
            }
        }
    };
    on_threads(threads, work);
    match first.lock().take() {
        Some(error) => Err(error),
        None => Ok(std::mem::take(&mut *came.lock())),
    }
}

/// Which paths are taken.
struct Filter {
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Filter {
    fn new(options: &Pull) -> Result<Self> {
        let set = |patterns: &[String]| {
            let mut set = GlobSetBuilder::new();
            for pattern in patterns {
                let whole = if pattern.ends_with('/') { format!("{pattern}*") } else { pattern.clone() };
                let glob = GlobBuilder::new(&whole).literal_separator(false).build();
                set.add(glob.map_err(|e| {
                    Error::invalid(format!("'{}': not a pattern: {}", pattern.escape_debug(), e.kind()))
                })?);
            }
            set.build().map_err(|e| Error::invalid(format!("these patterns are too much: {e}")))
        };
        let include = (!options.include.is_empty()).then(|| set(&options.include)).transpose()?;
        Ok(Self { include, exclude: set(&options.exclude)? })
    }

    fn takes(&self, path: &str) -> bool {
        self.include.as_ref().is_none_or(|set| set.is_match(path)) && !self.exclude.is_match(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_the_python_package() {
        let filter = |include: &[&str], exclude: &[&str]| {
            let own = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect();
            Filter::new(&Pull { include: own(include), exclude: own(exclude), threads: 0 }).unwrap()
        };
        let some = filter(&["*.json", "sub/"], &["*secret*"]);
        for (path, taken) in
            [("a.json", true), ("x/a.json", true), ("sub/deep/a.bin", true), ("a.bin", false), ("sub/secret", false)]
        {
            assert_eq!(some.takes(path), taken, "{path}");
        }
        assert!(filter(&[], &[]).takes("anything"));
        assert!(Filter::new(&Pull { include: vec!["[".into()], ..Pull::default() }).is_err());
    }
}
