//! Element types and their numbers on disk.

/// The type of the numbers in a span, as a number that is never reused for another type.
///
/// 0 is plain bytes; 1 to 255 are types with one number per element (or packed below a byte); 256 and up are
/// block types, 256 + the type id of ggml. A reader need not know a type: a span carries the bytes and numbers of
/// a unit beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ElemType(pub u16);

/// One row of the table of element types: how the type is called and how it is packed.
struct Row {
    id: u16,
    name: &'static str,
    bits: u16,
}

/// Names are those of safetensors headers. Numbers on disk: see [`ElemType`].
const TABLE: &[Row] = &[
    Row { id: 1, name: "F64", bits: 64 },
    Row { id: 2, name: "F32", bits: 32 },
    Row { id: 3, name: "F16", bits: 16 },
    Row { id: 4, name: "BF16", bits: 16 },
    Row { id: 5, name: "F8_E4M3", bits: 8 },
    Row { id: 6, name: "F8_E5M2", bits: 8 },
    Row { id: 7, name: "F8_E8M0", bits: 8 },
    Row { id: 8, name: "I8", bits: 8 },
    Row { id: 9, name: "U8", bits: 8 },
    Row { id: 10, name: "BOOL", bits: 8 },
    Row { id: 11, name: "I16", bits: 16 },
    Row { id: 12, name: "U16", bits: 16 },
    Row { id: 13, name: "I32", bits: 32 },
    Row { id: 14, name: "U32", bits: 32 },
    Row { id: 15, name: "I64", bits: 64 },
    Row { id: 16, name: "U64", bits: 64 },
    Row { id: 17, name: "C64", bits: 64 },
    Row { id: 18, name: "F4", bits: 4 },
    Row { id: 19, name: "F6_E2M3", bits: 6 },
    Row { id: 20, name: "F6_E3M2", bits: 6 },
    Row { id: 21, name: "F8_E4M3FNUZ", bits: 8 },
    Row { id: 22, name: "F8_E5M2FNUZ", bits: 8 },
];

impl ElemType {
    /// Bytes whose type is not known.
    pub const BYTES: Self = Self(0);
    /// IEEE 754 binary64.
    pub const F64: Self = Self(1);
    /// IEEE 754 binary32.
    pub const F32: Self = Self(2);
    /// IEEE 754 binary16.
    pub const F16: Self = Self(3);
    /// The high half of a binary32.
    pub const BF16: Self = Self(4);
    /// 32-bit float pairs.
    pub const C64: Self = Self(17);

    /// The type that a safetensors header calls `name`; `None` when this release does not know it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name == name).map(|row| Self(row.id))
    }

    /// The name in safetensors headers; `"bytes"` for plain bytes, `None` for a type this release does not know.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        if self == Self::BYTES {
            return Some("bytes");
        }
        TABLE.iter().find(|row| row.id == self.0).map(|row| row.name)
    }

    /// Bits of one number; 8 for plain bytes and types this release does not know.
    #[must_use]
    pub fn bits(self) -> u16 {
        TABLE.iter().find(|row| row.id == self.0).map_or(8, |row| row.bits)
    }

    /// The smallest run of whole numbers that fills whole bytes: (bytes, numbers).
    ///
    /// `(2, 1)` for BF16, `(1, 2)` for F4, `(3, 4)` for six-bit types.
    #[must_use]
    pub fn unit(self) -> (u16, u16) {
        match self.bits() {
            4 => (1, 2),
            6 => (3, 4),
            bits => (bits / 8, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_are_unique_and_lead_back() {
        for (i, row) in TABLE.iter().enumerate() {
            assert_eq!(ElemType::from_name(row.name), Some(ElemType(row.id)));
            assert_eq!(ElemType(row.id).name(), Some(row.name));
            assert!(TABLE[i + 1..].iter().all(|other| other.id != row.id && other.name != row.name));
            let (bytes, numbers) = ElemType(row.id).unit();
            assert_eq!(u32::from(bytes) * 8, u32::from(numbers) * u32::from(row.bits), "{}", row.name);
        }
        assert_eq!(ElemType::from_name("F128"), None);
        assert_eq!(ElemType(999).name(), None);
    }
}
