//! The disk cache of a mount.

use log::warn;

use super::options::{CacheMode, Event, MountOptions};
use crate::cache::{self, Store, default_dir};
use crate::engine::{Disk, Keep};
use crate::error::Result;

/// Bytes that wait to be written to the disk cache, at least: some chunks.
const MIN_QUEUE: u64 = 4 << 20;
/// The disk cache that was asked for. One that cannot be had is said, and done without.
pub(super) fn open_cache(options: &MountOptions, tell: &mut impl FnMut(Event) -> Result<()>) -> Result<Option<Disk>> {
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
