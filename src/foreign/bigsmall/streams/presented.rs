//! The safetensors file that a BigSmall container is shown as, cut into windows.

use std::ops::Range;
use std::sync::Arc;

use super::limits::WINDOW;
use crate::error::{Error, Result};
use crate::foreign::bigsmall::format::{Container, Layout};
use crate::format::{ChunkId, next_id};

/// A container with the header that is shown for it, and where its tensors lie behind that.
#[derive(Debug)]
pub struct Presented {
    id: u64,
    container: Arc<Container>,
    layout: Layout,
    /// The first window of each placed tensor, and of the one behind the last.
    first: Vec<u32>,
    /// For each placed tensor the first one with the same bytes.
    home: Vec<u32>,
}

/// A window of a placed tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// Its number in the file.
    pub chunk: ChunkId,
    /// The tensor's entry in the container.
    pub entry: usize,
    /// Its number in the tensor.
    pub window: u32,
    /// Offset in the shown file, bytes.
    pub raw_offset: u64,
    /// Bytes from there to the tensor's end.
    left: u64,
}

impl Presented {
    /// Lays out the file, with the `duplicates` (name, name of the tensor with the same bytes) that a shard index gives it.
    ///
    /// # Errors
    /// Those of [`Container::layout`]; [`Error::TooLarge`] for more windows than can be counted.
    pub fn new<'a>(
        container: &'a Arc<Container>,
        duplicates: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self> {
        let layout = container.layout(duplicates)?;
        let too_many = || Error::TooLarge {
            path: container.path().into(),
            what: "the length of all tensors",
            limit: u64::from(u32::MAX) * WINDOW,
            got: layout.raw_len,
        };
        let mut first = Vec::with_capacity(layout.tensors.len() + 1);
        let mut homes = vec![u32::MAX; container.entries().len()];
        let mut home = Vec::with_capacity(layout.tensors.len());
        let mut next = 0_u32;
        for (at, placed) in layout.tensors.iter().enumerate() {
            first.push(next);
            let windows = u32::try_from(placed.raw_len.div_ceil(WINDOW)).map_err(|_| too_many())?;
            next = next.checked_add(windows).ok_or_else(too_many)?;
            let master = match container.entries().get(placed.entry).map(|entry| &entry.content) {
                Some(crate::foreign::bigsmall::format::Content::Same(master)) => *master,
                _ => placed.entry,
            };
            if let Some(slot) = homes.get_mut(master).filter(|slot| **slot == u32::MAX) {
                *slot = at as u32;
            }
            home.push(homes.get(master).copied().unwrap_or(at as u32));
        }
        first.push(next);
        Ok(Self { id: next_id(), container: Arc::clone(container), layout, first, home })
    }

    /// The container.
    #[must_use]
    pub fn container(&self) -> &Arc<Container> {
        &self.container
    }

    /// The file's first bytes, up to the first tensor.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.layout.header
    }

    /// Length of the file, bytes.
    #[must_use]
    pub fn raw_len(&self) -> u64 {
        self.layout.raw_len
    }

    /// BLAKE3 of the shown header and of every tensor's MD5 in order: files of one digest have the same bytes, as far as MD5 tells.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.layout.header);
        for placed in &self.layout.tensors {
            hasher.update(self.container.entries().get(placed.entry).map_or(&[], |entry| &entry.md5));
        }
        *hasher.finalize().as_bytes()
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.layout.raw_len - self.layout.header.len() as u64
    }

    /// Bytes of memory that the metadata takes, about.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let tables = 4 * (self.first.len() + self.home.len());
        let placed = size_of_val(self.layout.tensors.as_slice());
        self.container.memory() + (self.layout.header.len() + tables + placed) as u64
    }

    /// Length and MD5 of the placed tensor of this number; `None` behind the last.
    pub(super) fn expected(&self, tensor: usize) -> Option<(u64, [u8; 16])> {
        let placed = self.layout.tensors.get(tensor)?;
        Some((placed.raw_len, self.container.entries().get(placed.entry)?.md5))
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Number of windows.
    pub(super) fn windows(&self) -> u32 {
        self.first.last().copied().unwrap_or(0)
    }

    pub(super) fn window(&self, chunk: ChunkId) -> Option<Window> {
        if chunk.0 >= self.windows() {
            return None;
        }
        // Tensors without bytes have the same first window as the one behind them: the last counts.
        let at = self.first.partition_point(|&first| first <= chunk.0).checked_sub(1)?;
        let (placed, first) = (self.layout.tensors.get(at)?, self.first.get(at)?);
        let window = chunk.0 - first;
        let within = u64::from(window) * WINDOW;
        let (raw_offset, left) = (placed.raw_offset + within, placed.raw_len.checked_sub(within)?);
        Some(Window { chunk, entry: placed.entry, window, raw_offset, left })
    }

    pub(super) fn window_at(&self, raw_offset: u64) -> Option<Window> {
        let tensors = &self.layout.tensors;
        let at = tensors.partition_point(|placed| placed.raw_offset + placed.raw_len <= raw_offset);
        let (placed, first) = (tensors.get(at)?, self.first.get(at)?);
        let window = (raw_offset.checked_sub(placed.raw_offset)? / WINDOW) as u32;
        self.window(ChunkId(first + window))
    }

    /// The window that holds the same bytes, of the first tensor that has them.
    pub(super) fn known_as(&self, chunk: ChunkId) -> ChunkId {
        let home = || {
            let at = self.first.partition_point(|&first| first <= chunk.0).checked_sub(1)?;
            let home = *self.home.get(at)? as usize;
            Some(ChunkId(chunk.0 - self.first.get(at)? + self.first.get(home)?))
        };
        home().unwrap_or(chunk)
    }

    /// The tensor that begins in `read` and does not end there; the last of several.
    pub(super) fn tensor_in(&self, read: &Range<u64>) -> Option<Range<u64>> {
        let tensors = &self.layout.tensors;
        let behind = tensors.partition_point(|placed| placed.raw_offset < read.end);
        let last = tensors.get(..behind)?.last()?;
        (last.raw_offset >= read.start).then(|| last.raw_offset..last.raw_offset + last.raw_len)
    }
}

impl Window {
    /// Its length, bytes.
    pub fn len(&self) -> u32 {
        self.left.min(WINDOW) as u32
    }
}
