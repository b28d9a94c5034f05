//! Versions of files, as they are before a file is replaced or removed.

use std::fs;

use bsfs::source::Identity;

/// Whether a file is this version, by all but the change time, which moves with a name.
pub fn is_version(version: Identity, meta: &fs::Metadata) -> bool {
    Identity { ctime: version.ctime, ..Identity::of(meta) } == version
}
