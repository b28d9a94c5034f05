//! One zstd frame, inflated piece by piece.

use std::io;

use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::{DParameter, MAGICNUMBER, get_frame_content_size};

use super::Fault;
use super::feed::Share;
use super::part::Part;
use super::region::Region;
use super::state::Saved;
use crate::error::Damage;

/// log2 of the largest window that a frame may ask memory for: zstd's own limit without `--long`.
const WINDOW_LOG_MAX: u32 = 27;
/// The longest header of a frame.
const HEADER_MAX: u64 = 18;
/// The least packed bytes in memory.
const PIECE_LEAST: usize = 4096;

/// A frame whose content is known to have `len` bytes.
pub(super) struct Inflate {
    region: Region,
    decoder: Decoder<'static>,
    piece: Vec<u8>,
    piece_max: usize,
    /// Bytes of `piece` used up.
    used: usize,
    /// Packed bytes read so far.
    read: u64,
    /// Inflated bytes so far.
    at: u64,
    len: u64,
    /// Whether the frame has ended.
    ended: bool,
}

fn decoder() -> Result<Decoder<'static>, Damage> {
    let made = Decoder::new().and_then(|mut decoder| {
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        Ok(decoder)
    });
    made.map_err(|_| Damage::new("memory for a zstd context", 1, 0))
}

impl Inflate {
    /// A frame of `len` bytes that fills the region. No bytes at all are no frame, unless `len` is 0.
    pub fn new(region: Region, len: u64, share: Share) -> Result<Self, Fault> {
        let empty = region.len() == 0 && len == 0;
        if !empty {
            let mut head = vec![0; region.len().min(HEADER_MAX) as usize];
            region.read(0, &mut head)?;
            if !head.starts_with(&MAGICNUMBER.to_le_bytes()) {
                return Err(Damage::new("a zstd frame", 1, 0).into());
            }
            match get_frame_content_size(&head) {
                Ok(Some(size)) if size == len => {}
                Ok(Some(size)) => return Err(Damage::new("content size of a zstd frame", len, size).into()),
                _ => return Err(Damage::new("zstd frame with a content size", len, 0).into()),
            }
        }
        let piece_max = share.of(region.len()).max(PIECE_LEAST);
        let decoder = decoder()?;
        Ok(Self { region, decoder, piece: Vec::new(), piece_max, used: 0, read: 0, at: 0, len, ended: empty })
    }

    /// The next bytes, as many as `out` holds.
    pub fn read(&mut self, out: &mut [u8]) -> Result<(), Fault> {
        if out.len() as u64 > self.len - self.at {
            return Err(Damage::new("bytes of a zstd frame", out.len() as u64, self.len - self.at).into());
        }
        let mut done = 0;
        while done < out.len() {
            done += self.step(out.get_mut(done..).unwrap_or_default())?;
        }
        Ok(())
    }

    /// Some bytes, at least one unless `out` is empty or packed bytes were used up.
    fn step(&mut self, out: &mut [u8]) -> Result<usize, Fault> {
        let broken = Damage::new("zstd frame that inflates to its content size", self.len, self.at);
        if self.ended {
            return Err(broken.into());
        }
        if self.used == self.piece.len() {
            let more = (self.region.len() - self.read).min(self.piece_max as u64);
            self.used = 0;
            self.piece.resize(more as usize, 0);
            self.region.read(self.read, &mut self.piece)?;
            self.read += more;
        }
        let mut from = InBuffer::around(self.piece.get(self.used..).unwrap_or_default());
        let mut to = OutBuffer::around(out);
        let hint = self.decoder.run(&mut from, &mut to).map_err(|_: io::Error| broken)?;
        let (took, made) = (from.pos(), to.pos());
        self.used += took;
        self.at += made as u64;
        self.ended = hint == 0;
        if took == 0 && made == 0 && !self.ended {
            return Err(broken.into());
        }
        Ok(made)
    }

    /// Inflates from the start up to `at` again: no frame can be entered.
    pub fn go_to(&mut self, at: u64) -> Result<(), Fault> {
        if at < self.at || self.ended {
            self.decoder = decoder()?;
            self.piece.clear();
            (self.used, self.read, self.at, self.ended) = (0, 0, 0, self.region.len() == 0);
        }
        let mut skip = vec![0; (at - self.at).min(128 << 10) as usize];
        while self.at < at {
            let len = (at - self.at).min(skip.len() as u64) as usize;
            self.read(skip.get_mut(..len).unwrap_or_default())?;
        }
        Ok(())
    }

    /// That the frame ends here, and the region with it.
    pub fn finish(&mut self) -> Result<(), Fault> {
        if self.at != self.len {
            return Err(Damage::new("bytes of a zstd frame", self.len, self.at).into());
        }
        while !self.ended {
            self.step(&mut [])?;
        }
        let rest = self.region.len() - self.read + (self.piece.len() - self.used) as u64;
        match rest {
            0 => Ok(()),
            more => Err(Damage::new("bytes behind a zstd frame", 0, more).into()),
        }
    }
}

impl Part for Inflate {
    fn window(&mut self, _: &[u16], out: &mut [u8]) -> Result<(), Fault> {
        self.read(out)
    }

    fn save(&self, _: &mut Vec<u64>) -> bool {
        true
    }

    fn restore(&mut self, position: u64, _: &mut Saved<'_>) -> Result<(), Fault> {
        self.go_to(position)
    }

    fn finish(&mut self) -> Result<(), Fault> {
        Self::finish(self)
    }
}
