//! The index of a directory of foreign containers, and the shard index that is shown to readers of plain files.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use log::warn;

use super::version::has_version;
use crate::engine::{ForeignFormat, ForeignIndex, read_index};
use crate::source::{Identity, Tree};

/// Name of the shard index that is made for a directory which has none.
pub(super) const SHOWN_INDEX: &str = "model.safetensors.index.json";

/// One version of the file that says more of a directory's foreign containers.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) format: &'static dyn ForeignFormat,
    pub(super) identity: Identity,
    /// `None` when it is broken, which was logged.
    pub(super) parsed: Option<Arc<dyn ForeignIndex>>,
}

impl Index {
    /// Reads the one in `dir`, of which `stat` said `identity`. Whatever is wrong is logged: once for each version, as the
    /// caller keeps the result.
    pub(super) fn read(tree: &dyn Tree, dir: &Path, identity: Identity, format: &'static dyn ForeignFormat) -> Self {
        let path = dir.join(format.index_name());
        match read_index(tree, &path, format) {
            Ok((identity, index)) => Self { format, identity, parsed: Some(index) },
            Err(error) => {
                warn!("{error}; shards are shown without what it says");
                Self { format, identity, parsed: None }
            }
        }
    }

    /// Bytes of memory that it takes, about: the text's own length, and as much again for tables.
    pub(super) fn memory(&self) -> u64 {
        if self.parsed.is_some() { 2 * self.identity.len } else { 0 }
    }
}

/// A `model.safetensors.index.json` for a directory of shards.
#[derive(Debug)]
pub(super) struct Generated {
    /// The versions of the files that it was made from: the index, then the shards.
    pub(super) rests_on: Vec<(OsString, Identity)>,
    /// `None` when it would promise what the shards do not hold, which was logged.
    pub(super) text: Option<Box<[u8]>>,
}

impl Generated {
    /// Its bytes.
    pub(super) fn text(&self) -> &[u8] {
        self.text.as_deref().unwrap_or_default()
    }

    /// Whether there is something to show.
    pub(super) fn is_good(&self) -> bool {
        self.text.is_some()
    }

    /// The version of the index that it was made from, whose times it has.
    pub(super) fn identity(&self) -> Option<Identity> {
        self.rests_on.first().map(|(_, identity)| *identity)
    }

    /// The versions that it was made from.
    pub(super) fn rests_on(&self) -> impl Iterator<Item = Identity> {
        self.rests_on.iter().map(|(_, version)| *version)
    }

    /// Whether another was made from the same files, and so is the same.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.rests_on == other.rests_on
    }

    /// Whether all that it was made from is what it was, and its place is free.
    pub(super) fn unchanged(&self, tree: &dyn Tree, dir: &Path) -> bool {
        self.rests_on.iter().all(|(name, identity)| has_version(tree, &dir.join(name), Some(*identity), None))
            && has_version(tree, &dir.join(SHOWN_INDEX), None, None)
    }
}
