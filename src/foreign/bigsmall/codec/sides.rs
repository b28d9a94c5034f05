//! The two sides of an open blob, and what opens it.

use std::fmt;
use std::sync::Arc;

use super::bytes::{self, Raw};
use super::feed::Share;
use super::inflate::Inflate;
use super::layout::{Sides, bf16_ac, bf16_rans, bf16_tans, fp16_ac, single_kernel};
use super::lowcard::Lowcard;
use super::native::Halves;
use super::parallel::Parallel;
use super::part::{Lead, NoLead, NoPart, Part};
use super::region::Region;
use super::residual::Residual;
use super::sparsity::Sparsity;
use super::state::State;
use super::wpe_delta::WpeDelta;
use super::{Blob, Coding, Fault, contexts, planes};
use crate::error::Damage;

/// The symbols of a window, from [`Front::window`] to [`Back::window`]. Made once and used again.
#[derive(Debug, Default, Clone)]
pub struct Symbols(Vec<u16>);

/// Where a side stands in its tensor.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: u64,
    len: u64,
    elem: u64,
}

impl Place {
    /// Goes `raw` bytes on.
    fn advance(&mut self, raw: usize) -> Result<(), Damage> {
        let raw = raw as u64;
        if raw > self.len - self.at {
            return Err(Damage::new("window inside the tensor", self.len - self.at, raw));
        }
        if !raw.is_multiple_of(self.elem.max(1)) {
            return Err(Damage::new("window of whole elements", 0, raw % self.elem.max(1)));
        }
        self.at += raw;
        Ok(())
    }

    fn go_to(&mut self, position: u64) -> Result<(), Damage> {
        if position > self.len || !position.is_multiple_of(self.elem.max(1)) {
            return Err(Damage::new("position of a noted state", self.len, position));
        }
        self.at = position;
        Ok(())
    }

    fn end(&self) -> Result<(), Damage> {
        match self.len - self.at {
            0 => Ok(()),
            more => Err(Damage::new("bytes of the tensor left", 0, more)),
        }
    }
}

/// The side that goes ahead: symbols, window by window.
pub struct Front {
    lead: Box<dyn Lead>,
    place: Place,
}

/// The side that follows: the bytes of the tensor, window by window.
pub struct Back {
    part: Box<dyn Part>,
    place: Place,
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Front").field(&self.place).finish()
    }
}

impl fmt::Debug for Back {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Back").field(&self.place).finish()
    }
}

/// Opens a blob: reads its tables, checks them and builds the models.
///
/// `raw_len` is the tensor's bytes by shape and dtype, and what is decoded is never more. `buffer` is how many packed bytes the
/// blob's streams together hold in memory (with a few hundred bytes for each stream at least): 1 MiB is plenty. Whatever the
/// blob says, memory is bounded by `buffer`, the tables in it, the windows asked for, zstd's own window (at most 128 MiB), and
/// for `wpe_delta` and `bf16_v8` a row of the matrix.
///
/// # Errors
/// [`Fault::Damage`] when the tables break a rule or are those of another tensor, [`Fault::Read`] when the blob cannot be read.
pub fn open(coding: Coding, blob: Arc<dyn Blob>, raw_len: u64, buffer: usize) -> Result<(Front, Back), Fault> {
    let elem = coding.elem_bytes();
    if !raw_len.is_multiple_of(elem.max(1)) {
        return Err(Damage::new("tensor of whole elements", 0, raw_len % elem.max(1)).into());
    }
    let share = Share::new(buffer, blob.len());
    let (lead, part) = sides(coding, Region::new(blob), raw_len, share)?;
    let place = Place { at: 0, len: raw_len, elem };
    Ok((Front { lead, place }, Back { part, place }))
}

fn sides(coding: Coding, region: Region, len: u64, share: Share) -> Result<Sides, Fault> {
    if len == 0 && region.len() == 0 {
        return Ok((Box::new(NoLead), Box::new(NoPart)));
    }
    let n = len / coding.elem_bytes().max(1);
    let part: Box<dyn Part> = match coding {
        Coding::Bf16SeAc => return bf16_ac(region, n, share),
        Coding::Bf16SeRans => return bf16_rans(region, n, share),
        Coding::Bf16SeTans => return bf16_tans(region, n, share),
        Coding::Fp16SeAc => return fp16_ac(region, n, share),
        Coding::Bf16SingleKernel => return single_kernel(region, n, share),
        Coding::Bf16V8 => return contexts::open(region, n, share),
        Coding::Fp32SeAc => return planes::open(region, n, share),
        Coding::Raw => Box::new(Raw::new(region, len)?),
        Coding::Zstd => Box::new(Inflate::new(region, len, share)?),
        Coding::Lowcard => Box::new(Lowcard::open(region, len, share)?),
        Coding::WpeDelta => Box::new(WpeDelta::open(region, len)?),
        Coding::Bf16Parallel => Box::new(Parallel::open(region, n, share)?),
        Coding::Bf16Sparsity => Box::new(Sparsity::open(region, n, share)?),
        Coding::Fp2Residual => Box::new(Residual::open(region, n, share)?),
        Coding::Bf16NativeF32 => Box::new(Halves::open(region, n, share)?),
        Coding::Bf16NativeF32V2 => Box::new(Halves::open_v2(region, n, share)?),
        Coding::Fp8CatAc => Box::new(bytes::fp8(region, len, share)?),
        Coding::Fp4CatAc => Box::new(bytes::fp4(region, len, share)?),
    };
    Ok((Box::new(NoLead), part))
}

impl Front {
    /// The symbols of the next `raw` bytes of the tensor, which are whole elements; none for codings without a stream of them.
    ///
    /// # Errors
    /// [`Fault`]; the side is then of no more use.
    pub fn window(&mut self, raw: usize, symbols: &mut Symbols) -> Result<(), Fault> {
        self.place.advance(raw)?;
        self.lead.window(raw / self.place.elem.max(1) as usize, &mut symbols.0)
    }

    /// Where the side stands; `None` when the coding cannot be entered in the middle, or its state is too large to note.
    #[must_use]
    pub fn state(&self) -> Option<State> {
        let mut words = Vec::new();
        self.lead.save(&mut words).then(|| State::new(words))
    }

    /// Goes to `position`, where [`Front::state`] gave `state`.
    ///
    /// # Errors
    /// [`Fault::Damage`] when the state is none of this coding or not of this place.
    pub fn resume(&mut self, position: u64, state: &State) -> Result<(), Fault> {
        self.place.go_to(position)?;
        let mut words = state.reader();
        self.lead.restore(&mut words)?;
        words.end()
    }

    /// Checks the end, behind the last window: every stream is used up, and when the pass began at 0, every symbol came as often
    /// as its table says.
    ///
    /// # Errors
    /// [`Fault::Damage`] with the rule that is broken.
    pub fn finish(&mut self) -> Result<(), Fault> {
        self.place.end()?;
        self.lead.finish()
    }
}

impl Back {
    /// The next bytes of the tensor, which are whole elements, from their symbols.
    ///
    /// # Errors
    /// [`Fault`]; `out` then holds anything, and the side is of no more use.
    pub fn window(&mut self, symbols: &Symbols, out: &mut [u8]) -> Result<(), Fault> {
        self.place.advance(out.len())?;
        self.part.window(&symbols.0, out)
    }

    /// Where the side stands, as [`Front::state`].
    #[must_use]
    pub fn state(&self) -> Option<State> {
        let mut words = Vec::new();
        self.part.save(&mut words).then(|| State::new(words))
    }

    /// Goes to `position`, where [`Back::state`] gave `state`. A zstd frame cannot be entered: it is inflated from its start
    /// again and thrown away up to `position`, which takes time, but no more than the frame does.
    ///
    /// # Errors
    /// [`Fault::Damage`] when the state is none of this coding or not of this place, [`Fault::Read`].
    pub fn resume(&mut self, position: u64, state: &State) -> Result<(), Fault> {
        self.place.go_to(position)?;
        let mut words = state.reader();
        self.part.restore(position, &mut words)?;
        words.end()
    }

    /// Checks the end, as [`Front::finish`].
    ///
    /// # Errors
    /// [`Fault`] with the rule that is broken.
    pub fn finish(&mut self) -> Result<(), Fault> {
        self.place.end()?;
        self.part.finish()
    }
}
