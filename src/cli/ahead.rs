//! An image as a source of bytes: read from front to back, with some reads under way ahead of the reader.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};

use bsfs::access::Attributes;
use bsfs::engine::{Bytes, Image};
use bsfs::source::ReadAt;
use bsfs::{Error, Result};
use parking_lot::Mutex;

/// Bytes of a read; that of a window of BigSmall's tensors.
const STEP: usize = 512 << 10;
/// Reads under way.
const READS: usize = 8;

/// An image that is read as a file.
pub struct ImageSource {
    image: Image,
    path: PathBuf,
    /// Those of what it is the image of; `None` where there are none.
    attributes: Option<Attributes>,
    ahead: Mutex<Ahead>,
}

/// Reads under way, from `next` on, each behind the one before it.
struct Ahead {
    /// Where the reader is expected.
    next: u64,
    /// Where the next read begins.
    asked: u64,
    /// What was read and is not used up: the bytes, and how many of them are.
    current: Option<(Bytes, usize)>,
    reads: VecDeque<Receiver<Result<Bytes>>>,
}

impl ImageSource {
    /// `path` is what errors call it. Reads that begin at `first`, and those that go on where they ended, are read ahead of;
    /// others are not. Bytes before `first` are in memory.
    pub fn new(image: Image, path: &Path, first: u64) -> Self {
        let ahead = Ahead { next: first, asked: first, current: None, reads: VecDeque::new() };
        Self { image, path: path.into(), attributes: None, ahead: Mutex::new(ahead) }
    }

    /// What is made of the image is for those who may read `container`.
    pub fn like(mut self, container: &dyn ReadAt) -> Result<Self> {
        self.attributes = container.attributes()?;
        Ok(self)
    }

    /// The same, for reads in any order.
    pub fn anywhere(image: Image, path: &Path) -> Self {
        Self::new(image, path, u64::MAX)
    }

    fn ended(&self) -> Error {
        let len = self.image.len();
        Error::Truncated { path: self.path.clone(), expected: len.saturating_add(1), got: len }
    }

    /// The next bytes, in order.
    fn follow(&self, ahead: &mut Ahead, mut out: &mut [u8]) -> Result<()> {
        while !out.is_empty() {
            if let Some((bytes, used)) = &mut ahead.current
                && *used < bytes.len()
            {
                let n = out.len().min(bytes.len() - *used);
                let from = bytes.get(*used..*used + n).unwrap_or_default();
                let (to, rest) = std::mem::take(&mut out).split_at_mut(n);
                to.copy_from_slice(from);
                out = rest;
                *used += n;
                ahead.next += n as u64;
                continue;
            }
            ahead.current = None;
            while ahead.reads.len() < READS && ahead.asked < self.image.len() {
                let (send, receive) = sync_channel(1);
                // Nobody waits any more after an error.
                self.image.read(ahead.asked, STEP, move |result| drop(send.send(result)));
                ahead.asked += STEP as u64;
                ahead.reads.push_back(receive);
            }
            let read = ahead.reads.pop_front().ok_or_else(|| self.ended())?;
            let bytes = read.recv().map_err(|_| Error::invalid("a worker panicked; this is a defect in bsfs"))??;
            if bytes.is_empty() {
                return Err(self.ended());
            }
            ahead.current = Some((bytes, 0));
        }
        Ok(())
    }
}

impl ReadAt for ImageSource {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.image.len()
    }

    fn attributes(&self) -> Result<Option<Attributes>> {
        Ok(self.attributes.clone())
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut ahead = self.ahead.lock();
        if offset == ahead.next {
            return self.follow(&mut ahead, buf);
        }
        drop(ahead);
        self.image.read_exact_at(&self.path, offset, buf)
    }
}
