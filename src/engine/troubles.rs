//! What is wrong with files of the source now, as far as that is known.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files that are remembered, at most.
const MOST: usize = 10_000;

/// A kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// A file that may be a container cannot be opened as one.
    Unopened,
    /// A base that a file refers to was not found.
    NoBase,
}

/// What is wrong, by file, until it is mended.
#[derive(Debug, Default)]
pub struct Troubles(Mutex<BTreeMap<(PathBuf, Trouble), String>>);

impl Troubles {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(PathBuf, Trouble), String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is wrong with a file; with `None` that nothing of this kind is.
    pub fn set(&self, file: &Path, trouble: Trouble, wrong: Option<String>) {
        let (mut all, key) = (self.lock(), (file.to_path_buf(), trouble));
        match wrong {
            Some(wrong) if all.len() < MOST || all.contains_key(&key) => _ = all.insert(key, wrong),
            Some(_) => {}
            None => _ = all.remove(&key),
        }
    }

    /// Forgets what is known of files right below a directory, but for what `keep` says.
    pub fn retain(&self, directory: &Path, keep: impl Fn(&Path, Trouble) -> bool) {
        self.lock().retain(|(file, trouble), _| file.parent() != Some(directory) || keep(file, *trouble));
    }

    /// The first `most` of all that is wrong, and how many there are.
    #[must_use]
    pub fn first(&self, most: usize) -> (Vec<String>, usize) {
        let all = self.lock();
        (all.values().take(most).cloned().collect(), all.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_mended_or_is_gone_is_no_trouble() {
        let troubles = Troubles::default();
        for file in ["/a/x", "/a/y", "/b/z"] {
            troubles.set(Path::new(file), Trouble::NoBase, Some(format!("{file} lacks its base")));
        }
        troubles.set(Path::new("/a/x"), Trouble::NoBase, None);
        assert_eq!(troubles.first(1), (vec!["/a/y lacks its base".to_owned()], 2));
        troubles.retain(Path::new("/a"), |_, trouble| trouble == Trouble::Unopened);
        assert_eq!(troubles.first(9), (vec!["/b/z lacks its base".to_owned()], 1));
    }
}
