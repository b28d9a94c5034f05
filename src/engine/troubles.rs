//! What is wrong with files of the source now, as far as that is known.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::sync::{Mutex, MutexGuard, lock};

/// Directories and files of which it is remembered, at most.
const MOST: usize = 10_000;

/// What is wrong, until it is mended.
#[derive(Debug, Default)]
pub struct Troubles(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// What the last scan of a directory found to be wrong with names in it.
    directories: BTreeMap<PathBuf, Vec<String>>,
    /// Files whose base was not found when it was looked for last.
    bases: BTreeMap<PathBuf, String>,
}

impl Troubles {
    fn lock(&self) -> MutexGuard<'_, Known> {
        lock(&self.0)
    }

    /// Notes what is wrong with names in a directory that was scanned; `is_there` says which files have a base still.
    pub fn scanned(&self, directory: &Path, wrong: Vec<String>, is_there: impl Fn(&Path) -> bool) {
        let mut known = self.lock();
        known.bases.retain(|file, _| file.parent() != Some(directory) || is_there(file));
        if wrong.is_empty() {
            known.directories.remove(directory);
        } else if known.directories.len() < MOST || known.directories.contains_key(directory) {
            known.directories.insert(directory.to_path_buf(), wrong);
        }
    }

    /// Notes, and logs when that is news, why the base of a file was not found; with `None` that it was.
    pub fn base(&self, file: &Path, wrong: Option<String>) {
        let mut known = self.lock();
        match wrong {
            Some(wrong) if known.bases.len() < MOST || known.bases.contains_key(file) => {
                if known.bases.insert(file.to_path_buf(), wrong.clone()).as_ref() != Some(&wrong) {
                    log::warn!("{wrong}");
                }
            }
            Some(_) => {}
            None => _ = known.bases.remove(file),
        }
    }

    /// The first `most` of all that is wrong, and how much there is.
    #[must_use]
    pub fn first(&self, most: usize) -> (Vec<String>, usize) {
        let known = self.lock();
        let all = known.bases.values().chain(known.directories.values().flatten());
        let count = known.bases.len() + known.directories.values().map(Vec::len).sum::<usize>();
        (all.take(most).cloned().collect(), count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_mended_or_is_gone_is_no_trouble() {
        let troubles = Troubles::default();
        for file in ["/a/x", "/a/y", "/b/z"] {
            troubles.base(Path::new(file), Some(format!("{file} lacks its base")));
        }
        troubles.base(Path::new("/a/x"), None);
        assert_eq!(troubles.first(1), (vec!["/a/y lacks its base".to_owned()], 2));
        troubles.scanned(Path::new("/a"), vec!["/a/w is broken".into()], |_| false);
        assert_eq!(troubles.first(9), (vec!["/b/z lacks its base".to_owned(), "/a/w is broken".to_owned()], 2));
        troubles.scanned(Path::new("/a"), Vec::new(), |_| true);
        assert_eq!(troubles.first(9).1, 1);
    }
}
