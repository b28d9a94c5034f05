//! Open files and what reading them gives.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use super::shard_index::Generated;
use crate::engine::{Buffer, Bytes, Cost, Engine, Image, Lane};
use crate::error::Result;
use crate::source::ReadAt;

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
