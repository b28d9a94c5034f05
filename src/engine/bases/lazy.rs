//! References that are looked for when a read first needs them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::references::References;
use crate::engine::sync::{Mutex, lock};

/// A missing base is looked for again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Searches for what a container refers to.
type Resolve = dyn Fn() -> Option<Arc<References>> + Send + Sync;

/// References of one container. The first read that needs one starts the search; while a base is
/// missing, a read after [`RETRY_AFTER`] repeats it.
pub(in crate::engine) struct LazyReferences {
    resolve: Box<Resolve>,
    resolved: Mutex<Option<Resolved>>,
}

struct Resolved {
    at: Instant,
    references: Arc<References>,
    /// Whether this search replaced references that were suspect.
    replaced_suspect: bool,
}

impl LazyReferences {
    pub(in crate::engine) fn new(resolve: impl Fn() -> Option<Arc<References>> + Send + Sync + 'static) -> Self {
        Self { resolve: Box::new(resolve), resolved: Mutex::default() }
    }

    /// The references. Concurrent callers wait for the search; the search waits for none of them,
    /// because it decodes only chunks that refer to nothing.
    pub(in crate::engine) fn get(&self) -> Option<Arc<References>> {
        let mut resolved = lock(&self.resolved);
        let mut replace_suspect = false;
        if let Some(last) = &*resolved {
            // Suspect references are searched for at once, but not twice in a row.
            let suspect = last.references.are_suspect();
            replace_suspect = suspect && !last.replaced_suspect;
            let final_ = last.references.is_whole() && !suspect;
            if !replace_suspect && (final_ || last.at.elapsed() < RETRY_AFTER) {
                return Some(Arc::clone(&last.references));
            }
        }
        let references = (self.resolve)()?;
        *resolved = Some(Resolved {
            at: Instant::now(),
            references: Arc::clone(&references),
            replaced_suspect: replace_suspect,
        });
        Some(references)
    }
}
