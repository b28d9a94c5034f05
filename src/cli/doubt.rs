//! Says what is probably not what the user means.

use std::path::Path;

use bsfs::Result;
use bsfs::compress::{self, is_weights};
use bsfs::source::FileSource;

use super::out::say;

/// Why a file that is going to be packed is probably not the one that the user means. Of a file without an ending, as the blobs
/// of a hub cache are, that was `found` and not named, a link told that it is one of weights.
pub fn packed(path: &Path, found: bool) -> Option<String> {
    let weights = is_weights(path) || (found && path.extension().is_none());
    told(path, |source| compress::doubt(source, weights))
}

/// The same of one that is copied.
pub fn copied(path: &Path) -> Option<String> {
    told(path, |source| compress::doubt_copy(source))
}

/// A file that cannot be read is for those who read it to tell.
fn told(path: &Path, doubt: impl FnOnce(&FileSource) -> Result<Option<String>>) -> Option<String> {
    let about = FileSource::open(path).and_then(|source| doubt(&source)).ok().flatten()?;
    Some(format!("{}: {about}", path.display()))
}

/// Says it, if there is something.
pub fn say_packed(path: &Path, found: bool) {
    packed(path, found).iter().for_each(|about| say(about));
}
