//! Open files and what reading them gives.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::{Arc, Weak};

use super::base::Bases;
use super::packed::Packed;
use super::shards::{Generated, has_version};
use super::tree::{Contents, File};
use crate::engine::{Buffer, Bytes, Cost, Engine, Finder, Image, Lane};
use crate::error::{Error, Result};
use crate::source::{Identity, ReadAt};

/// An open version of a file. It holds the descriptor, so it goes on when the source is replaced or removed.
pub(super) enum OpenFile {
    /// A container, read as the original.
    Image(Image),
    /// A file shown as it is.
    Plain(Arc<dyn ReadAt>),
    /// A text that was made.
    Text(Arc<Generated>),
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image(_) => "OpenFile::Image",
            Self::Plain(_) => "OpenFile::Plain",
            Self::Text(_) => "OpenFile::Text",
        })
    }
}

impl OpenFile {
    /// Opens the version that `file` stands for; a delta with the first of `bases` that it can have. All who have it open
    /// share one descriptor and one image.
    ///
    /// # Errors
    /// [`Error::Changed`] when the path leads to something else by now: the caller should look the name up again.
    pub(super) fn open(
        file: &File,
        engine: &Arc<Engine>,
        (bases, finder): (&Bases, &Arc<Finder>),
    ) -> Result<Arc<Self>> {
        if !is_current(file) {
            return Err(Error::Changed { path: file.path.clone() });
        }
        let shared: Weak<Self> = file.open.lock().clone();
        if let Some(open) = shared.upgrade() {
            return Ok(open);
        }
        let open = Arc::new(match &file.contents {
            Contents::AsItIs(identity) => Self::Plain(open_version(file, *identity)?),
            Contents::Original(opened) => {
                let source = open_version(file, opened.identity)?;
                Self::Image(match &opened.packed {
                    Packed::Native(container) => finder.image(engine, Arc::clone(container), (&file.tree, source)),
                    Packed::BigSmall(presented) => {
                        let base = bases.find((&file.tree, presented.container()), opened.identity, engine, finder);
                        engine.presented(Arc::clone(presented), source, base)
                    }
                })
            }
            Contents::Generated(generated) => Self::Text(Arc::clone(generated)),
        });
        let mut slot = file.open.lock();
        // Two may have opened at once: both descriptors are right, the first is shared.
        if let Some(first) = slot.upgrade() {
            return Ok(first);
        }
        *slot = Arc::downgrade(&open);
        Ok(open)
    }

    /// The image of a container.
    pub(super) fn image(&self) -> Option<&Image> {
        match self {
            Self::Image(image) => Some(image),
            Self::Plain(_) | Self::Text(_) => None,
        }
    }

    /// Gives up to `size` bytes at `offset` to `done`, fewer only at the end of the file: at once when they are in memory,
    /// otherwise on another thread.
    pub(super) fn read(
        self: &Arc<Self>,
        engine: &Engine,
        lane: Lane,
        (offset, size): (u64, usize),
        done: impl FnOnce(Result<Data>) + Send + 'static,
    ) {
        Cost::begin();
        match &**self {
            Self::Image(image) => {
                image.read(offset, size, |bytes| done(bytes.map(|bytes| Data(Held::Image(bytes)))));
            }
            Self::Text(text) => done(Ok(Data::of_text(text, offset, size))),
            Self::Plain(source) => {
                let size = inside(&**source, offset, size);
                let mut buffer = engine.buffer(size);
                match source.read_cached(offset, &mut buffer) {
                    Some(got) if got == size => done(Ok(Data(Held::Plain { buffer, len: size }))),
                    _ => {
                        // While it waits for its turn it needs no memory.
                        drop(buffer);
                        let file = Arc::clone(self);
                        let job = move |buffer| {
                            if let Self::Plain(source) = &*file {
                                Cost::begin();
                                done(Cost::of_source(|| read_plain(&**source, offset, buffer)));
                            }
                        };
                        engine.run(lane, size, job);
                    }
                }
            }
        }
    }

    /// The same on this thread.
    pub(super) fn read_waiting(&self, engine: &Engine, offset: u64, size: usize) -> Result<Data> {
        match self {
            Self::Image(image) => Ok(Data(Held::Image(image.read_at(offset, size)?))),
            Self::Plain(source) => read_plain(&**source, offset, engine.buffer(inside(&**source, offset, size))),
            Self::Text(text) => Ok(Data::of_text(text, offset, size)),
        }
    }
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

/// How many of `size` bytes at `offset` this version has, should somebody be appending to the file.
fn inside(source: &dyn ReadAt, offset: u64, size: usize) -> usize {
    let rest = source.len().saturating_sub(offset);
    usize::try_from(rest).map_or(size, |rest| size.min(rest))
}

/// Fills a buffer.
fn read_plain(source: &dyn ReadAt, offset: u64, mut buffer: Buffer) -> Result<Data> {
    // Nothing to ask for beyond the end, where an offset may be more than the system takes.
    let len = if buffer.is_empty() { 0 } else { source.read_at(offset, &mut buffer)? };
    Ok(Data(Held::Plain { buffer, len }))
}

fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

/// Bytes that were read; derefs to `[u8]`.
pub struct Data(Held);

enum Held {
    Image(Bytes),
    Plain { buffer: Buffer, len: usize },
    Text { text: Arc<Generated>, range: Range<usize> },
}

impl Data {
    fn of_text(text: &Arc<Generated>, offset: u64, size: usize) -> Self {
        let len = text.text().len();
        let start = usize::try_from(offset).map_or(len, |offset| offset.min(len));
        let range = start..start.saturating_add(size).min(len);
        Self(Held::Text { text: Arc::clone(text), range })
    }
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Image(bytes) => bytes,
            Held::Plain { buffer, len } => buffer.get(..*len).unwrap_or_default(),
            Held::Text { text, range } => text.text().get(range.clone()).unwrap_or_default(),
        }
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({} bytes)", self.len())
    }
}
