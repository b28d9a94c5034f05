//! The disk cache of a mount.

use std::fs;
use std::path::{Path, PathBuf};

use log::warn;

use super::options::{CacheMode, Event, MountOptions};
use crate::cache::{self, Store, default_dir};
use crate::engine::{Disk, Keep};
use crate::error::{Error, Result};

/// Bytes that wait to be written to the disk cache, at least: some chunks.
const MIN_QUEUE: u64 = 4 << 20;
/// The disk cache that was asked for. One that cannot be had is said, and done without.
pub(super) fn open_cache(
    options: &MountOptions,
    mount_point: &Path,
    tell: &mut impl FnMut(Event) -> Result<()>,
) -> Result<Option<Disk>> {
    let keep = match options.cache {
        CacheMode::Off => return Ok(None),
        CacheMode::Auto => Keep::Expensive,
        CacheMode::All => Keep::All,
    };
    let mut without = |why: String| {
        let note = format!("{why}; going on without a disk cache");
        warn!("{note}");
        tell(Event::Note(note))
    };
    let Some(dir) = options.cache_dir.clone().or_else(default_dir) else {
        without("no place for a disk cache: neither XDG_CACHE_HOME nor HOME is set".to_owned())?;
        return Ok(None);
    };
    // Reading its own mount, the daemon would wait for itself.
    if leads_to(&dir).starts_with(mount_point) {
        return Err(Error::invalid(format!("{}: the disk cache lies under the mount point", dir.display())));
    }
    let defaults = cache::Config::default();
    let queue = defaults.queue.min(options.memory / 8).max(MIN_QUEUE);
    match Store::open(&dir, &cache::Config { size: options.cache_size, queue, ..defaults }) {
        Ok(store) => Ok(Some(Disk { store, keep })),
        Err(error) => {
            without(error.to_string())?;
            Ok(None)
        }
    }
}

/// A path without links, as far as it exists.
pub(super) fn leads_to(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let found = path.ancestors().find_map(|ancestor| {
        let real = fs::canonicalize(ancestor).ok()?;
        Some(path.strip_prefix(ancestor).map_or_else(|_| real.clone(), |rest| real.join(rest)))
    });
    found.unwrap_or(path)
}
