//! What an entry is found by.

use std::fmt;

use serde::{Serialize, Serializer};

/// The identity of what an entry holds: a digest of the source's content and of all that decides about the decoded bytes, such
/// as the format's version. Two files of the same key must present the same bytes. Shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; 32]);

impl Key {
    /// The key of 64 lower-case hexadecimal digits; `None` for any other text.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 || digits.iter().any(|d| !matches!(d, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(key))
    }

    /// The name of the file of decoded bytes.
    pub(super) fn data(&self) -> String {
        format!("{self}.data")
    }

    /// The name of the map.
    pub(super) fn map(&self) -> String {
        format!("{self}.map")
    }

    /// The name of a map while it is made.
    pub(super) fn unfinished(&self) -> String {
        format!("{self}.tmp")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_lower_case_digits() {
        let key = Key(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(Key::from_hex(&key.to_string()), Some(key));
        for bad in ["", &"g".repeat(64), &"A".repeat(64), &"0".repeat(63), &"+".repeat(64)] {
            assert_eq!(Key::from_hex(bad), None);
        }
    }
}
