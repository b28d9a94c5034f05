//! What is in a directory, as the server said it, and as it is kept for when the server is gone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::fetch::Version;
use super::file::blocks;

/// Name of the directory beside the cache's own; another layout takes another name.
const DIRECTORY: &str = "remote-v1";
/// The longest listing that is read back, bytes: a million names.
const MAX_BYTES: u64 = 256 << 20;
/// Listings that are kept; the oldest leave.
const MAX_KEPT: usize = 1000;
/// Longest name of a file, bytes.
const MAX_NAME: usize = 255;

/// What is known of a file before it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    /// Length, bytes.
    pub(super) len: u64,
    pub(super) version: Version,
    /// Time of the last change, seconds since 1970; 0 when it is not known.
    pub(super) modified: i64,
}

/// One name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Item {
    pub(super) name: String,
    /// How the server calls it: a key, or the rest of a URL. Holds no secrets.
    pub(super) address: String,
    /// `None` for a directory.
    pub(super) facts: Option<Facts>,
}

impl Item {
    /// A directory; `None` when its name cannot be shown.
    pub(super) fn directory(name: &str, address: &str) -> Option<Self> {
        is_name(name).then(|| Self { name: name.to_owned(), address: address.to_owned(), facts: None })
    }

    /// A file; `None` when its name cannot be shown, or it is longer than any file is.
    pub(super) fn file(name: &str, address: &str, facts: Facts) -> Option<Self> {
        let is_one = is_name(name) && blocks(facts.len).is_some();
        is_one.then(|| Self { name: name.to_owned(), address: address.to_owned(), facts: Some(facts) })
    }
}

/// What a server has in a directory.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) items: Vec<Item>,
    /// Names that cannot be shown.
    pub(super) odd: Vec<String>,
}

impl Found {
    /// Adds what has a name that can be shown, and takes note of what has another.
    pub(super) fn add(&mut self, name: &str, item: Option<Item>) {
        match item {
            Some(item) => self.items.push(item),
            None => self.odd.push(name.to_owned()),
        }
    }
}

fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME && !name.contains(['/', '\0'])
}

/// A directory at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listing {
    /// What it lists, which a file of the same digest must repeat.
    of: String,
    /// The place is this one file.
    pub(super) single: bool,
    /// Sorted by name; each name once.
    pub(super) items: Vec<Item>,
}

impl Listing {
    pub(super) fn new(of: String, single: bool, mut items: Vec<Item>) -> Self {
        // A directory before a file of the same name, which an object store may have.
        items.sort_by(|a, b| a.name.cmp(&b.name).then(a.facts.is_some().cmp(&b.facts.is_some())));
        items.dedup_by(|b, a| a.name == b.name);
        Self { of, single, items }
    }

    pub(super) fn find(&self, name: &str) -> Option<&Item> {
        let at = self.items.binary_search_by(|item| item.name.as_str().cmp(name)).ok()?;
        self.items.get(at)
    }
}

/// Listings on disk. What cannot be written is not there the next time, and nothing else.
#[derive(Debug)]
pub(super) struct Kept(PathBuf);

impl Kept {
    /// Those beside the cache in `cache`.
    pub(super) fn beside(cache: &Path) -> Self {
        Self(cache.join(DIRECTORY))
    }

    /// Removes all of them.
    pub(super) fn clear(&self) -> std::io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn path(&self, of: &str) -> PathBuf {
        let digest = blake3::hash(of.as_bytes());
        self.0.join(format!("{}.json", digest.to_hex()))
    }

    /// The listing of this name, if it was kept.
    pub(super) fn read(&self, of: &str) -> Option<Listing> {
        let mut text = Vec::new();
        let file = File::open(self.path(of)).ok()?;
        let length = file.take(MAX_BYTES + 1).read_to_end(&mut text).ok()? as u64;
        let listing: Listing = serde_json::from_slice(&text).ok().filter(|_| length <= MAX_BYTES)?;
        let sorted = listing.items.is_sorted_by(|a, b| a.name < b.name);
        let is_one =
            |item: &Item| is_name(&item.name) && item.facts.as_ref().is_none_or(|facts| blocks(facts.len).is_some());
        let good = listing.of == of && sorted && listing.items.iter().all(is_one);
        good.then_some(listing)
    }

    pub(super) fn write(&self, listing: &Listing) {
        if let Err(error) = self.try_write(listing) {
            log::warn!("{}: the listing cannot be kept: {error}", self.0.display());
        }
    }

    fn try_write(&self, listing: &Listing) -> std::io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let (path, text) = (self.path(&listing.of), serde_json::to_vec(listing)?);
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        let written = file.write_all(&text).and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        self.bound();
        written
    }

    fn bound(&self) {
        let Ok(entries) = fs::read_dir(&self.0) else { return };
        let mut kept: Vec<(SystemTime, PathBuf)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
            })
            .collect();
        if kept.len() > MAX_KEPT {
            kept.sort();
            let surplus = kept.len() - MAX_KEPT;
            for (_, path) in kept.into_iter().take(surplus) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_comes_back_and_one_of_another_place_or_with_a_path_for_a_name_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::beside(dir.path());
        let facts = Facts { len: 3, version: Version { etag: Some("\"x\"".into()), modified: None }, modified: 7 };
        let items = vec![Item::file("b", "p/b", facts.clone()).unwrap(), Item::directory("a", "p/a").unwrap()];
        let listing = Listing::new("s3://x/p".into(), false, items);
        assert!(listing.find("a").is_some() && listing.find("b").is_some() && listing.find("c").is_none());
        assert_eq!(kept.read("s3://x/p"), None);
        kept.write(&listing);
        assert_eq!(kept.read("s3://x/p"), Some(listing.clone()));
        fs::rename(kept.path("s3://x/p"), kept.path("s3://x/q")).unwrap();
        assert_eq!(kept.read("s3://x/q"), None);
        assert_eq!(Item::file("../b", "p/b", facts.clone()), None);
        let bad = Item { name: "../b".into(), address: "b".into(), facts: Some(facts) };
        kept.write(&Listing { of: "s3://x/r".into(), single: false, items: vec![bad] });
        assert_eq!(kept.read("s3://x/r"), None);
    }
}
