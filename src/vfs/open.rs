//! Open files and what reading them gives.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use super::lock;
use super::tree::File;
use crate::engine::{Bytes, Engine, Image};
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

    /// Up to `size` bytes at `offset`; fewer only at the end of the file.
    pub(super) fn read(&self, offset: u64, size: usize) -> Result<Data> {
        match self {
            Self::Image(image) => Ok(Data(Held::Image(image.read_at(offset, size)?))),
            Self::Plain(source) => {
                // The size of this version, should somebody be appending to the file.
                let rest = source.len().saturating_sub(offset);
                let size = usize::try_from(rest).map_or(size, |rest| size.min(rest));
                let mut buffer = BUFFER.take();
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                // Nothing to ask for beyond the end, where an offset may be more than the system takes.
                let room = buffer.get_mut(..size).unwrap_or_default();
                let got = if room.is_empty() { Ok(0) } else { source.read_at(offset, room) };
                let data = Data(Held::Plain { buffer, len: *got.as_ref().unwrap_or(&0) });
                got.map(|_| data)
            }
        }
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

thread_local! {
    // A request is at most 1 MiB and each session thread handles one at a time: the buffer is reused instead of
    // being mapped, zeroed and unmapped for each read.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that were read; derefs to `[u8]`.
pub struct Data(Held);

enum Held {
    Image(Bytes),
    Plain { buffer: Vec<u8>, len: usize },
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

impl Drop for Data {
    fn drop(&mut self) {
        if let Held::Plain { buffer, .. } = &mut self.0 {
            // Fails only while the thread ends, when there is nobody left to use it.
            let _ = BUFFER.try_with(|slot| slot.replace(std::mem::take(buffer)));
        }
    }
}
