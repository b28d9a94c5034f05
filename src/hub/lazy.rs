//! A repository of the Hub as a place whose files are read as they are needed: what `bsfs mount hf://org/name` shows.
//!
//! A revision is one commit for as long as the mount lives. Files are listed once, each is resolved when it is read first, and
//! again when its signed URL expires. What a mount without network shows is what the last one with it listed under this name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::source::remote::{Failure, Location, RemoteConfig, RemoteTree, Resolve, Site, SiteEntry};

/// A file of a repository at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Path in the repository, parts separated by `/`.
    pub path: String,
    /// Length, bytes.
    pub len: u64,
    /// What [`Location::version`] will be: SHA-256 of a file in LFS, git's id of others.
    pub version: String,
}

/// What is asked of the Hub for a mount. Called on threads that may wait.
pub trait Repository: Send + Sync {
    /// All files at the revision's commit, which is pinned by the first call.
    ///
    /// # Errors
    /// What went wrong, without secrets.
    fn files(&self) -> Result<Vec<Listed>, Failure>;

    /// Where a file of that commit is now.
    ///
    /// # Errors
    /// What went wrong, without secrets.
    fn locate(&self, path: &str) -> Result<Location, Failure>;
}

/// What `hf://org/name[@revision]` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// `org/name`.
    pub id: String,
    /// A branch, a tag or a commit; `main` unless it was said.
    pub revision: String,
}

impl Named {
    /// Takes the text of an address apart.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it names no repository.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::invalid("not a repository of the Hub; expected hf://ORG/NAME or hf://ORG/NAME@REVISION");
        let rest = text.strip_prefix("hf://").ok_or_else(wrong)?;
        let (id, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let id = id.trim_end_matches('/');
        let is_part = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && !matches!(part, "." | "..") && part.chars().all(allowed)
        };
        let parts: Vec<&str> = id.split('/').collect();
        let good = parts.len() == 2 && parts.iter().all(|part| is_part(part));
        let revised = !revision.is_empty() && revision.split('/').all(is_part);
        if good && revised { Ok(Self { id: id.to_owned(), revision: revision.to_owned() }) } else { Err(wrong()) }
    }

    /// How messages and the cache call it.
    #[must_use]
    pub fn label(&self) -> String {
        format!("hf://{}@{}", self.id, self.revision)
    }
}

/// Opens a repository as a tree.
///
/// # Errors
/// Those of [`RemoteTree::over`].
pub fn open(
    named: &Named,
    repository: Arc<dyn Repository>,
    config: RemoteConfig,
) -> Result<(Arc<RemoteTree>, PathBuf)> {
    let site = Shown { repository, files: Mutex::default() };
    RemoteTree::over(Arc::new(site), Path::new(&named.label()), config)
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
    for file in files {
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
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
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

    fn resolve(&self, file: &str) -> Arc<dyn Resolve> {
        Arc::new(One { repository: Arc::clone(&self.repository), path: file.to_owned() })
    }
}

struct One {
    repository: Arc<dyn Repository>,
    path: String,
}

impl Resolve for One {
    fn resolve(&self) -> Result<Location, Failure> {
        self.repository.locate(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_repository_and_a_revision_or_is_refused() {
        let named = Named::parse("hf://org/na.me-1").unwrap();
        assert_eq!((named.id.as_str(), named.revision.as_str()), ("org/na.me-1", "main"));
        assert_eq!(Named::parse("hf://org/name@refs/pr/1").unwrap().label(), "hf://org/name@refs/pr/1");
        for bad in
            ["hf://org", "hf://org/../x", "hf://org/name@", "hf://org/name/file", "hf://o rg/name", "hf://org/n@a?b"]
        {
            assert!(Named::parse(bad).is_err(), "{bad}");
        }
    }

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
