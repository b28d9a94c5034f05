//! The packed words of one stream, read piece by piece in the order in which its decoder takes them.

use super::Fault;
use super::region::Region;
use crate::error::Damage;

/// The least that a feed holds, bytes: below that, calls cost more than the bytes.
const LEAST: u64 = 256;

/// How the packed bytes that a blob may hold in memory are shared among its feeds: by their lengths.
#[derive(Clone, Copy)]
pub(super) struct Share {
    buffer: u64,
    blob: u64,
}

impl Share {
    pub fn new(buffer: usize, blob: u64) -> Self {
        Self { buffer: buffer as u64, blob: blob.max(1) }
    }

    /// Bytes for a stream of `len` bytes, a multiple of 4.
    pub fn of(self, len: u64) -> usize {
        let part = u128::from(self.buffer) * u128::from(len) / u128::from(self.blob);
        (part.min(u128::from(len)) as u64).max(LEAST).min(len.next_multiple_of(4)) as usize & !3
    }
}

/// Which end of the stream is read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Forwards,
    /// Word by word from the end; the bytes of a word stay in order.
    Backwards,
}

/// Words of a stream with a piece of them in memory.
pub(super) struct Feed {
    region: Region,
    width: u64,
    direction: Direction,
    piece: Vec<u8>,
    piece_max: usize,
    /// Words taken when the piece was read: its first word has this number.
    base: u64,
}

impl Feed {
    /// The words of `width` bytes that fill `region`.
    pub fn new(region: Region, width: u64, direction: Direction, share: Share) -> Result<Self, Damage> {
        if !region.len().is_multiple_of(width) {
            return Err(Damage::new("length of a stream in whole words", 0, region.len() % width));
        }
        let piece_max = share.of(region.len());
        Ok(Self { region, width, direction, piece: Vec::new(), piece_max, base: 0 })
    }

    /// Words in the stream.
    pub const fn total(&self) -> u64 {
        self.region.len() / self.width
    }

    /// The bytes in memory from word `at` on: at least one word, unless the stream ends there. Backwards, the word comes last.
    pub fn ahead(&mut self, at: u64) -> Result<&[u8], Fault> {
        let total = self.total();
        let words = self.piece.len() as u64 / self.width;
        if at < total && !(self.base..self.base + words).contains(&at) {
            let count = (total - at).min(self.piece_max as u64 / self.width);
            self.piece.resize((count * self.width) as usize, 0);
            let from = match self.direction {
                Direction::Forwards => at,
                Direction::Backwards => total - at - count,
            };
            self.base = at;
            let read = self.region.read(from * self.width, &mut self.piece);
            if read.is_err() {
                self.piece.clear();
            }
            read?;
        }
        let words = self.piece.len() as u64 / self.width;
        let skip = (at.saturating_sub(self.base).min(words) * self.width) as usize;
        Ok(match self.direction {
            Direction::Forwards => self.piece.get(skip..),
            Direction::Backwards => self.piece.get(..self.piece.len() - skip),
        }
        .unwrap_or_default())
    }
}
