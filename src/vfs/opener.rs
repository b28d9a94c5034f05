//! Opens the version of a file that an inode stands for.

use std::sync::{Arc, Weak};

use super::open::OpenFile;
use super::packed::Packed;
use super::tree::{Contents, File};
use super::version::has_version;
use crate::engine::{Engine, Finder};
use crate::error::{Error, Result};
use crate::source::{Identity, ReadAt};

/// Opens the version that `file` stands for; `finder` finds the bases that it needs. All open handles
/// share one descriptor and one image.
///
/// # Errors
/// [`Error::Changed`] when the path leads to something else by now: the caller should look the name up again.
pub(super) fn open(file: &File, engine: &Arc<Engine>, finder: &Arc<Finder>) -> Result<Arc<OpenFile>> {
    if !is_current(file) {
        return Err(Error::Changed { path: file.path.clone() });
    }
    let shared: Weak<OpenFile> = file.open.lock().clone();
    if let Some(open) = shared.upgrade() {
        return Ok(open);
    }
    let open = Arc::new(match &file.contents {
        Contents::AsItIs(identity) => OpenFile::Plain(open_version(file, *identity)?),
        Contents::Original(opened) => {
            let source = open_version(file, opened.identity)?;
            OpenFile::Image(match &opened.packed {
                Packed::Native(container) => finder.image(engine, Arc::clone(container), (&file.tree, source)),
                Packed::Foreign { shown, .. } => finder.foreign_image(engine, Arc::clone(shown), (&file.tree, source)),
            })
        }
        Contents::Generated(generated) => OpenFile::Text(Arc::clone(generated)),
    });
    let mut slot = file.open.lock();
    // Two may have opened at once: both descriptors are right, the first is shared.
    if let Some(first) = slot.upgrade() {
        return Ok(first);
    }
    *slot = Arc::downgrade(&open);
    Ok(open)
}

/// Whether what the file is made from is what it was, as far as `stat` can say.
fn is_current(file: &File) -> bool {
    let Some(dir) = file.path.parent() else { return false };
    let tree = &*file.tree;
    match &file.contents {
        Contents::AsItIs(identity) => has_version(tree, &file.path, Some(*identity), file.access),
        Contents::Original(opened) => {
            has_version(tree, &file.path, Some(opened.identity), file.access) && opened.index_unchanged(tree, dir)
        }
        Contents::Generated(generated) => generated.unchanged(tree, dir),
    }
}

/// Opens one version of a file of the source.
fn open_version(file: &File, version: Identity) -> Result<Arc<dyn ReadAt>> {
    let stale = || Error::Changed { path: file.path.clone() };
    match file.tree.open(&file.path) {
        Ok(source) if source.identity() == Some(version) => Ok(source),
        // Another, gone, or a directory by now. Looking the name up again says which, and forgets the name.
        Ok(_) | Err(Error::Invalid { .. }) => Err(stale()),
        Err(Error::Io { source, .. }) if is_gone(&source) => Err(stale()),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}
