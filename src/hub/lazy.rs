//! A repository of the Hub as a place whose files are read as they are needed: what `bsfs mount hf://org/name` shows.
//!
//! A revision is one commit for as long as the mount lives. Files are listed once, each is resolved when it is read first, and
//! again when its signed URL expires. What a mount without network shows is what the last one with it listed under this name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;

use super::client::{Client, RepoFile};
use super::repo::HubUri;
use super::retry::Retry;
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::source::remote::{Failure, Location, RemoteConfig, RemoteTree, Resolve, Secret, Site, SiteEntry};

/// A file of a repository at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Path in the repository, parts separated by `/`.
    pub path: String,
    /// Length, bytes.
    pub len: u64,
    /// SHA-256 of a file in LFS, git's id of others.
    pub version: String,
}

/// What is asked of the Hub for a mount. Called on threads that may wait.
pub trait Repository: Send + Sync {
    /// All files at the revision's commit, which is pinned by the first call.
    ///
    /// # Errors
    /// What went wrong, without secrets.
    fn files(&self) -> Result<Vec<Listed>, Failure>;

    /// Where a file of that commit is now. `listed` is the version that the listing gave.
    ///
    /// # Errors
    /// What went wrong, without secrets; [`Failure::Changed`] when it is known to be another content.
    fn locate(&self, path: &str, listed: &str) -> Result<Location, Failure>;
}

/// A repository at the commit that its revision is when it is asked for first.
pub struct Pinned {
    client: Client,
    uri: HubUri,
    commit: Mutex<Option<String>>,
}

/// Nobody interrupts a request: each has a time limit.
static GO_ON: AtomicBool = AtomicBool::new(false);

impl Pinned {
    /// A repository of the Hub of these settings. Requests are made once: who reads tries again, as long as his patience lasts.
    ///
    /// # Errors
    /// Those of [`Client::new`].
    pub fn new(uri: HubUri, settings: Settings) -> Result<Self> {
        let retry = Retry { attempts: 1, ..settings.retry };
        Ok(Self { client: Client::new(Settings { retry, ..settings })?, uri, commit: Mutex::default() })
    }

    fn commit(&self) -> Result<String, Failure> {
        if self.client.settings().offline {
            // Not now, and not after any wait.
            return Err(Failure::Again { why: "HF_HUB_OFFLINE is set".into(), after: Some(u64::MAX) });
        }
        let mut commit = self.commit.lock();
        if let Some(commit) = &*commit {
            return Ok(commit.clone());
        }
        let found = self.client.commit(&self.uri.repo, self.uri.revision(), &GO_ON).map_err(failure)?;
        log::info!("{} is commit {found}", self.uri);
        Ok(commit.insert(found).clone())
    }
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Server { again: true, after, status, message, .. } => {
            let slower = matches!(status, Some(429 | 503)).then_some(0);
            Failure::Again { why: message, after: after.or(slower) }
        }
        // The place is named by whoever tells it.
        Error::Server { message, .. } => Failure::Refused(message),
        error => Failure::Refused(error.to_string()),
    }
}

impl Repository for Pinned {
    fn files(&self) -> Result<Vec<Listed>, Failure> {
        let files = self.client.listing(&self.uri.repo, &self.commit()?, &GO_ON).map_err(failure)?;
        let listed = |file: RepoFile| Listed { len: file.size, version: file.etag().to_owned(), path: file.path };
        Ok(files.into_iter().map(listed).collect())
    }

    fn locate(&self, path: &str, listed: &str) -> Result<Location, Failure> {
        let resolved = self.client.resolve(&self.uri.repo, &self.commit()?, path, &GO_ON).map_err(failure)?;
        if resolved.contradicts(listed) {
            return Err(Failure::Changed);
        }
        let token = self.client.authorization().filter(|_| resolved.with_token);
        let token = token.and_then(|token| token.to_str().map(Secret::new).ok());
        let left = |at: SystemTime| at.duration_since(SystemTime::now()).unwrap_or_default();
        Ok(Location {
            url: Secret::new(resolved.url.as_str()),
            headers: token.map(|token| ("authorization".to_owned(), token)).into_iter().collect(),
            version: resolved.etag,
            len: resolved.size,
            expires: resolved.expires.and_then(|at| Instant::now().checked_add(left(at))),
        })
    }
}

/// Opens a repository as a tree.
///
/// # Errors
/// Those of [`RemoteTree::over`].
pub fn tree(uri: &HubUri, repository: Arc<dyn Repository>, config: RemoteConfig) -> Result<(Arc<RemoteTree>, PathBuf)> {
    let site = Shown { repository, files: Mutex::default() };
    // The same for a revision that was named and one that is meant.
    let label = format!("{}@{}", uri.repo, uri.revision());
    RemoteTree::over(Arc::new(site), Path::new(&label), config)
}

/// By directory: its names.
type Directories = BTreeMap<String, BTreeMap<String, SiteEntry>>;

struct Shown {
    repository: Arc<dyn Repository>,
    files: Mutex<Option<Arc<Directories>>>,
}

fn directories(files: Vec<Listed>) -> Directories {
    let mut all = Directories::new();
    all.entry(String::new()).or_default();
    let is_name = |part: &str| !matches!(part, "" | "." | "..");
    for file in files {
        // A name in the root that no file can have: the tree says so, and leaves it out.
        if !file.path.split('/').all(is_name) {
            let entry = SiteEntry { name: file.path.clone(), file: Some((file.len, file.version)), modified: 0 };
            all.entry(String::new()).or_default().insert(file.path, entry);
            continue;
        }
        let (mut above, mut name) = match file.path.rsplit_once('/') {
            Some((above, name)) => (above.to_owned(), name.to_owned()),
            None => (String::new(), file.path),
        };
        let entry = SiteEntry { name: name.clone(), file: Some((file.len, file.version)), modified: 0 };
        all.entry(above.clone()).or_default().insert(name, entry);
        while !above.is_empty() {
            let (up, directory) = match above.rsplit_once('/') {
                Some((up, name)) => (up.to_owned(), name.to_owned()),
                None => (String::new(), above),
            };
            (above, name) = (up, directory);
            let entry = SiteEntry { name: name.clone(), file: None, modified: 0 };
            all.entry(above.clone()).or_default().insert(name, entry);
        }
    }
    all
}

impl Site for Shown {
    fn list(&self, directory: &str) -> Result<Vec<SiteEntry>, Failure> {
        let mut files = self.files.lock();
        let all = match &*files {
            Some(all) => Arc::clone(all),
            None => {
                let all = Arc::new(directories(self.repository.files()?));
                *files = Some(Arc::clone(&all));
                all
            }
        };
        all.get(directory).map(|names| names.values().cloned().collect()).ok_or(Failure::Missing)
    }

    fn resolve(&self, file: &str, version: &str) -> Arc<dyn Resolve> {
        let (path, listed) = (file.to_owned(), version.to_owned());
        Arc::new(One { repository: Arc::clone(&self.repository), path, listed, own: Mutex::default() })
    }
}

struct One {
    repository: Arc<dyn Repository>,
    path: String,
    /// The version that the listing gave.
    listed: String,
    /// The tag that a mirror had for it first, when that was another.
    own: Mutex<Option<String>>,
}

impl Resolve for One {
    fn resolve(&self) -> Result<Location, Failure> {
        let location = self.repository.locate(&self.path, &self.listed)?;
        if location.version == self.listed {
            return Ok(location);
        }
        let mut own = self.own.lock();
        if own.get_or_insert_with(|| location.version.clone()) != &location.version {
            return Err(Failure::Changed);
        }
        Ok(Location { version: self.listed.clone(), ..location })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_a_listing_become_directories() {
        let file = |path: &str| Listed { path: path.into(), len: 1, version: "v".into() };
        let all = directories(vec![file("a"), file("b/c/d"), file("b/e")]);
        let names =
            |directory: &str| all[directory].values().map(|e| (e.name.clone(), e.file.is_some())).collect::<Vec<_>>();
        assert_eq!(names(""), [("a".to_owned(), true), ("b".to_owned(), false)]);
        assert_eq!(names("b"), [("c".to_owned(), false), ("e".to_owned(), true)]);
        assert_eq!(names("b/c"), [("d".to_owned(), true)]);
    }
}
