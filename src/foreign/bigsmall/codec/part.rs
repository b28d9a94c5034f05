//! What a coding is made of: a lead that gives symbols and a part that makes bytes.

use super::Fault;
use super::state::Saved;
use crate::error::Damage;

/// What runs in front: the symbols of elements.
pub(super) trait Lead: Send {
    /// The symbols of the next `count` elements, in place of what `symbols` holds.
    fn window(&mut self, count: usize, symbols: &mut Vec<u16>) -> Result<(), Fault>;

    /// Adds where it stands; `false` when it cannot be entered there.
    fn save(&self, to: &mut Vec<u64>) -> bool;

    /// Goes where a state says.
    fn restore(&mut self, from: &mut Saved<'_>) -> Result<(), Fault>;

    /// Checks the end, behind the last window.
    fn finish(&mut self) -> Result<(), Fault>;
}

/// What runs behind: bytes, from symbols when the coding has any.
pub(super) trait Part: Send {
    /// The next bytes, as many as `out` holds; `symbols` are those of its elements.
    fn window(&mut self, symbols: &[u16], out: &mut [u8]) -> Result<(), Fault>;

    /// Adds where it stands; `false` when it cannot be entered there.
    fn save(&self, to: &mut Vec<u64>) -> bool;

    /// Goes where a state says, `position` bytes behind the start.
    fn restore(&mut self, position: u64, from: &mut Saved<'_>) -> Result<(), Fault>;

    /// Checks the end, behind the last window.
    fn finish(&mut self) -> Result<(), Fault>;
}

/// No symbols.
pub(super) struct NoLead;

impl Lead for NoLead {
    fn window(&mut self, _: usize, symbols: &mut Vec<u16>) -> Result<(), Fault> {
        symbols.clear();
        Ok(())
    }

    fn save(&self, _: &mut Vec<u64>) -> bool {
        true
    }

    fn restore(&mut self, _: &mut Saved<'_>) -> Result<(), Fault> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

/// No bytes: a tensor without elements.
pub(super) struct NoPart;

impl Part for NoPart {
    fn window(&mut self, _: &[u16], out: &mut [u8]) -> Result<(), Fault> {
        match out.len() {
            0 => Ok(()),
            len => Err(Damage::new("bytes of an empty tensor", 0, len as u64).into()),
        }
    }

    fn save(&self, _: &mut Vec<u64>) -> bool {
        true
    }

    fn restore(&mut self, _: u64, _: &mut Saved<'_>) -> Result<(), Fault> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

/// A lead and its part as one, for codings that hold blobs of another coding.
pub(super) struct Whole {
    lead: Box<dyn Lead>,
    part: Box<dyn Part>,
    elem: usize,
    symbols: Vec<u16>,
}

impl Whole {
    /// `elem` is the bytes of an element.
    pub fn new((lead, part): (Box<dyn Lead>, Box<dyn Part>), elem: usize) -> Self {
        Self { lead, part, elem, symbols: Vec::new() }
    }
}

impl Part for Whole {
    fn window(&mut self, _: &[u16], out: &mut [u8]) -> Result<(), Fault> {
        self.lead.window(out.len() / self.elem, &mut self.symbols)?;
        self.part.window(&self.symbols, out)
    }

    fn save(&self, to: &mut Vec<u64>) -> bool {
        self.lead.save(to) && self.part.save(to)
    }

    fn restore(&mut self, position: u64, from: &mut Saved<'_>) -> Result<(), Fault> {
        self.lead.restore(from)?;
        self.part.restore(position, from)
    }

    fn finish(&mut self) -> Result<(), Fault> {
        self.lead.finish()?;
        self.part.finish()
    }
}
