//! Whether a path of the source still leads to a known version of a file.

use std::path::Path;

use crate::access::Access;
use crate::source::{Identity, Stat, Tree};

/// Whether `path` leads to this version of a file; `None` is no file. A link that leads nowhere, or somewhere where nobody may
/// look, was no file when it was found and is none as long as it is there.
pub(super) fn has_version(tree: &dyn Tree, path: &Path, version: Option<Identity>, access: Option<Access>) -> bool {
    match version {
        Some(version) => match tree.stat(path) {
            Ok(Stat::File(now, may)) => now == version && (access.is_none() || may == access),
            _ => false,
        },
        None => !matches!(tree.stat_link(path), Ok(Stat::File(..))),
    }
}
