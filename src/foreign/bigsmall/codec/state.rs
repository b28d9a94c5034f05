//! Where the coders of a blob stand, as a few integers.

use super::Fault;
use crate::error::Damage;

/// Where the coders of a [`Front`](super::Front) or a [`Back`](super::Back) stand between two windows.
///
/// A later pass over the same blob starts there instead of at its beginning. What the integers mean is the coding's business;
/// a state of another blob or position gives an error or wrong bytes, never a panic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State(Box<[u64]>);

impl State {
    pub(super) fn new(words: Vec<u64>) -> Self {
        Self(words.into_boxed_slice())
    }

    pub(super) fn reader(&self) -> Saved<'_> {
        Saved(self.0.iter())
    }

    /// Bytes of memory that it takes, without the handle itself.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// The state as bytes, for a file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// The state of [`State::to_bytes`]; `None` when the length is none that it makes. Whether it fits a blob is found out by
    /// `resume`.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        rest.is_empty().then(|| Self(words.iter().map(|word| u64::from_le_bytes(*word)).collect()))
    }
}

/// The integers of a state, in the order in which they were written.
pub(super) struct Saved<'a>(std::slice::Iter<'a, u64>);

impl Saved<'_> {
    /// The next one.
    pub fn next(&mut self) -> Result<u64, Fault> {
        self.0.next().copied().ok_or(Fault::Damage(Damage::new("length of a noted state", 1, 0)))
    }

    /// That there is none left.
    pub fn end(&self) -> Result<(), Fault> {
        match self.0.len() {
            0 => Ok(()),
            more => Err(Damage::new("length of a noted state", 0, more as u64).into()),
        }
    }
}
