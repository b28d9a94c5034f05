//! Bounds of a cache.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bounds of a cache, bytes.
#[derive(Debug)]
pub struct Limits {
    /// Disk space of all files.
    size: AtomicU64,
    /// Space that is left free on the file system.
    pub floor: u64,
}

impl Limits {
    /// The bounds as asked for. By default a tenth of the file system, at most 50 GiB, and 1 GiB or a twentieth of the file
    /// system free, whichever is less.
    pub fn new(size: Option<u64>, floor: Option<u64>, file_system: u64) -> Self {
        Self {
            size: AtomicU64::new(size.unwrap_or_else(|| (file_system / 10).min(50 << 30))),
            floor: floor.unwrap_or_else(|| (file_system / 20).min(1 << 30)),
        }
    }

    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    pub fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Relaxed);
    }
}
