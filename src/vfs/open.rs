//! Open files and what reading them gives.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use super::lock;
use super::tree::File;
use crate::engine::{Buffer, Bytes, Engine, Image};
use crate::error::{Error, Result};
use crate::source::{FileSource, ReadAt};

/// An open version of a file. It holds the descriptor, so it goes on when the source is replaced or removed.
pub(super) enum OpenFile {
    /// A container, read as the original.
    Image(Image),
    /// A file shown as it is.
    Plain(FileSource),
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image(_) => "OpenFile::Image",
            Self::Plain(_) => "OpenFile::Plain",
        })
    }
}

impl OpenFile {
    /// Opens the version that `file` stands for. All who have it open share one descriptor and one image.
    ///
    /// # Errors
    /// [`Error::Changed`] when the path leads to something else by now: the caller should look the name up again.
    pub(super) fn open(file: &File, engine: &Arc<Engine>) -> Result<Arc<Self>> {
        let stale = || Error::Changed { path: file.path.clone() };
        let shared: Weak<Self> = lock(&file.open).clone();
        if let Some(open) = shared.upgrade() {
            let meta = std::fs::metadata(&file.path).map_err(|_| stale())?;
            return if crate::source::Identity::of(&meta) == file.identity { Ok(open) } else { Err(stale()) };
        }
        let source = match FileSource::open(&file.path) {
            Ok(source) => source,
            // Gone, or a directory by now. Looking the name up again says which, and forgets the name.
            Err(Error::Io { source, .. }) if is_gone(&source) => return Err(stale()),
            Err(Error::Invalid { .. }) => return Err(stale()),
            Err(error) => return Err(error),
        };
        if source.identity() != file.identity {
            return Err(stale());
        }
        let open = Arc::new(match &file.container {
            Some(container) => Self::Image(engine.image(container.clone(), Arc::new(source))),
            None => Self::Plain(source),
        });
        let mut slot = lock(&file.open);
        // Two may have opened at once: both descriptors are right, the first is shared.
        if let Some(first) = slot.upgrade() {
            return Ok(first);
        }
        *slot = Arc::downgrade(&open);
        Ok(open)
    }

    /// Gives up to `size` bytes at `offset` to `done`, fewer only at the end of the file: at once when they are in memory,
    /// otherwise on another thread.
    pub(super) fn read(
        self: &Arc<Self>,
        engine: &Engine,
        offset: u64,
        size: usize,
        done: impl FnOnce(Result<Data>) + Send + 'static,
    ) {
        match &**self {
            Self::Image(image) => {
                image.read(offset, size, |bytes| done(bytes.map(|bytes| Data(Held::Image(bytes)))));
            }
            Self::Plain(source) => {
                let size = inside(source, offset, size);
                let mut buffer = engine.buffer(size);
                match source.read_cached(offset, &mut buffer) {
                    Some(got) if got == size => done(Ok(Data(Held::Plain { buffer, len: size }))),
                    _ => {
                        let file = Arc::clone(self);
                        let job = move || {
                            if let Self::Plain(source) = &*file {
                                done(read_plain(source, offset, buffer));
                            }
                        };
                        // Apart from the numbers of containers, which count up from 1.
                        engine.run(u64::MAX - source.identity().ino, Box::new(job));
                    }
                }
            }
        }
    }

    /// The same on this thread.
    pub(super) fn read_waiting(&self, engine: &Engine, offset: u64, size: usize) -> Result<Data> {
        match self {
            Self::Image(image) => Ok(Data(Held::Image(image.read_at(offset, size)?))),
            Self::Plain(source) => read_plain(source, offset, engine.buffer(inside(source, offset, size))),
        }
    }
}

/// How many of `size` bytes at `offset` this version has, should somebody be appending to the file.
fn inside(source: &FileSource, offset: u64, size: usize) -> usize {
    let rest = source.len().saturating_sub(offset);
    usize::try_from(rest).map_or(size, |rest| size.min(rest))
}

/// Fills a buffer.
fn read_plain(source: &FileSource, offset: u64, mut buffer: Buffer) -> Result<Data> {
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
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Image(bytes) => bytes,
            Held::Plain { buffer, len } => buffer.get(..*len).unwrap_or_default(),
        }
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({} bytes)", self.len())
    }
}
