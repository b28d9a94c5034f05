//! The header of a safetensors file, read leniently.
//!
//! Source: <https://github.com/huggingface/safetensors#format>. The crate `safetensors` refuses a file with a hole,
//! an unknown dtype or an unordered table; here such a file still gets spans for all that is sound in it, since the
//! header's bytes are kept verbatim and nothing is rebuilt from what is parsed.

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::ElemType;

/// Headers above this many bytes are not parsed (the safetensors library refuses them too); the file is then
/// carried as plain bytes.
pub const MAX_HEADER: u64 = 100_000_000;

/// One tensor as the header tells of it, checked against the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name in the header.
    pub name: String,
    /// Dtype in the header, also when it is not known.
    pub dtype: String,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Element type of the bytes: [`ElemType::BYTES`] when the dtype is unknown or disagrees with shape and length.
    pub elem: ElemType,
    /// Offset of the first byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

impl TensorInfo {
    /// Numbers in a row, the last dimension; 0 for scalars and for tensors whose type is not known.
    #[must_use]
    pub fn row_elems(&self) -> u64 {
        if self.elem == ElemType::BYTES { 0 } else { self.shape.last().copied().unwrap_or(0) }
    }
}

/// A parsed header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Offset of the first data byte: 8 + the header's length.
    pub data_start: u64,
    /// Tensors in order of offset; none overlaps another, all lie inside the file. Zero-size ones included.
    pub tensors: Vec<TensorInfo>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Name and unparsed value of each member, in file order; a JSON map type would drop repeated names.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &'de RawValue>()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        d.deserialize_map(Collect)
    }
}

impl Header {
    /// The length of the JSON text that the first 8 bytes of a file announce, if a file of `file_len` bytes can
    /// hold it and it is not above [`MAX_HEADER`].
    #[must_use]
    pub fn json_len(first8: [u8; 8], file_len: u64) -> Option<u64> {
        let len = u64::from_le_bytes(first8);
        ((2..=MAX_HEADER).contains(&len) && len + 8 <= file_len).then_some(len)
    }

    /// Parses the JSON text of a header. `None` when it is no JSON object: the file is not safetensors.
    ///
    /// Tensors that lie outside the file, overlap an earlier one or have a malformed entry are left out; their
    /// bytes are then plain bytes.
    #[must_use]
    pub fn parse(json: &[u8], file_len: u64) -> Option<Self> {
        let data_start = (json.len() as u64).checked_add(8)?;
        let data_len = file_len.checked_sub(data_start)?;
        let Members(members) = serde_json::from_slice(json).ok()?;
        let mut tensors: Vec<TensorInfo> = members
            .into_iter()
            .filter(|(name, _)| name != "__metadata__")
            .filter_map(|(name, raw)| {
                let Entry { dtype, shape, data_offsets: (begin, end) } = serde_json::from_str(raw.get()).ok()?;
                if begin > end || end > data_len {
                    return None;
                }
                let len = end - begin;
                let elem = ElemType::from_name(&dtype)
                    .filter(|elem| raw_len(*elem, &shape) == Some(len))
                    .unwrap_or(ElemType::BYTES);
                Some(TensorInfo { name, dtype, shape, elem, offset: data_start + begin, len })
            })
            .collect();
        // Stable, so that zero-size tensors keep their order in the header and lie before the one they touch.
        tensors.sort_by_key(|t| (t.offset, t.len));
        let mut end = data_start;
        tensors.retain(|t| {
            let fits = t.offset >= end;
            if fits {
                end = t.offset + t.len;
            }
            fits
        });
        Some(Self { data_start, tensors })
    }
}

/// Bytes of a tensor of this type and shape; `None` when they overflow or do not fill whole bytes.
fn raw_len(elem: ElemType, shape: &[u64]) -> Option<u64> {
    let elems = shape.iter().try_fold(1_u64, |n, &d| n.checked_mul(d))?;
    let bits = elems.checked_mul(u64::from(elem.bits()))?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, data: u64) -> Option<Header> {
        Header::parse(json.as_bytes(), 8 + json.len() as u64 + data)
    }

    #[test]
    fn sound_tensors_are_found_in_offset_order() {
        let h = parse(
            r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},
                "a":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]},"z":{"dtype":"F16","shape":[0],"data_offsets":[4,4]}}"#,
            12,
        )
        .unwrap();
        let names: Vec<_> = h.tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "z", "b"]);
        assert_eq!(h.tensors[0].offset, h.data_start);
        assert_eq!(h.tensors[0].row_elems(), 2);
        assert_eq!(h.tensors[2].elem, ElemType::F32);
    }

    #[test]
    fn odd_tensors_lose_their_type_or_are_left_out() {
        let h = parse(
            r#"{"unknown":{"dtype":"F7","shape":[3],"data_offsets":[0,3]},
                "short":{"dtype":"F32","shape":[2],"data_offsets":[3,7]},
                "overlap":{"dtype":"U8","shape":[2],"data_offsets":[6,8]},
                "beyond":{"dtype":"U8","shape":[2],"data_offsets":[90,92]},
                "backward":{"dtype":"U8","shape":[0],"data_offsets":[9,8]},
                "huge":{"dtype":"F32","shape":[18446744073709551615,4],"data_offsets":[8,12]},
                "malformed":{"dtype":7},"extra":{"dtype":"U8","shape":[],"data_offsets":[12,13],"more":[1]}}"#,
            20,
        )
        .unwrap();
        let found: Vec<_> = h.tensors.iter().map(|t| (t.name.as_str(), t.elem.name().unwrap())).collect();
        assert_eq!(found, [("unknown", "bytes"), ("short", "bytes"), ("huge", "bytes"), ("extra", "U8")]);
    }

    #[test]
    fn other_files_have_no_header() {
        assert_eq!(parse("[1,2]", 0), None);
        assert_eq!(parse("{\"a\":", 0), None);
        assert_eq!(Header::json_len(*b"GGUF\x03\0\0\0", 100), None);
        assert_eq!(Header::json_len(9_u64.to_le_bytes(), 16), None);
        assert_eq!(Header::json_len(8_u64.to_le_bytes(), 16), Some(8));
        assert_eq!(Header::json_len(u64::MAX.to_le_bytes(), u64::MAX), None);
    }
}
