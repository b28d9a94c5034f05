//! Dtypes as the package spells them, and the length of a tensor.

use super::MAX_RAW_LEN;
use crate::tensor::ElemType;

/// PyTorch's name and the safetensors code.
const TORCH: &[(&str, &str)] = &[
    ("float64", "F64"),
    ("float32", "F32"),
    ("float16", "F16"),
    ("bfloat16", "BF16"),
    ("float8_e4m3fn", "F8_E4M3"),
    ("float8_e5m2", "F8_E5M2"),
    ("float8_e8m0fnu", "F8_E8M0"),
    ("int64", "I64"),
    ("int32", "I32"),
    ("int16", "I16"),
    ("int8", "I8"),
    ("uint64", "U64"),
    ("uint32", "U32"),
    ("uint16", "U16"),
    ("uint8", "U8"),
    ("bool", "BOOL"),
    ("complex64", "C64"),
    (PAIRS, "F4"),
];

/// PyTorch's name for pairs of F4: its shapes count bytes, those of safetensors count numbers.
const PAIRS: &str = "float4_e2m1fn_x2";

/// What a header says of a tensor's numbers: their type, with the shape as safetensors has it. `None` for a dtype
/// that is not known.
///
/// # Errors
/// What is wrong with the shape.
pub fn read(dtype: &str, mut shape: Vec<u64>) -> Option<Result<(ElemType, Vec<u64>), String>> {
    if let Some((torch, code)) = TORCH.iter().find(|(torch, _)| *torch == dtype) {
        let elem = ElemType::from_name(code)?;
        if *torch == PAIRS {
            let Some(doubled) = shape.last().copied().and_then(|last| last.checked_mul(2)) else {
                return Some(Err(format!("{PAIRS} needs a last dimension that can be doubled")));
            };
            if let Some(last) = shape.last_mut() {
                *last = doubled;
            }
        }
        return Some(Ok((elem, shape)));
    }
    // Without PyTorch, the package writes codes that are not in its own table in small letters.
    let elem = ElemType::from_name(&dtype.to_ascii_uppercase())?;
    Some(Ok((elem, shape)))
}

/// PyTorch's name, with the shape as it counts: the inverse of [`read`]. A type that PyTorch does not have gets its
/// code in small letters, as the package does it.
pub fn write(elem: ElemType, code: &str, shape: &[u64]) -> (String, Vec<u64>) {
    let mut shape = shape.to_vec();
    let torch = TORCH.iter().find(|(_, of)| ElemType::from_name(of) == Some(elem)).map(|(torch, _)| *torch);
    match (torch, shape.last_mut()) {
        (Some(PAIRS), Some(last)) if last.is_multiple_of(2) => {
            *last /= 2;
            (PAIRS.to_owned(), shape)
        }
        (Some(PAIRS) | None, _) => (code.to_ascii_lowercase(), shape),
        (Some(torch), _) => (torch.to_owned(), shape),
    }
}

/// Bytes of a stored element: that of its codecs, which take types below a byte as bytes.
pub fn width(elem: ElemType) -> u64 {
    u64::from(elem.bits() / 8).max(1)
}

/// Bytes of a tensor of this type and shape. `None` when they are above [`MAX_RAW_LEN`], or would be without the
/// dimensions that are 0, or when they do not fill whole bytes.
pub fn raw_len(elem: ElemType, shape: &[u64]) -> Option<u64> {
    let elems = shape.iter().try_fold(1_u64, |n, &d| n.checked_mul(d.max(1)))?;
    let bits = elems.checked_mul(u64::from(elem.bits())).filter(|bits| bits.div_ceil(8) <= MAX_RAW_LEN)?;
    if shape.contains(&0) {
        return Some(0);
    }
    bits.is_multiple_of(8).then_some(bits / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_there_and_back() {
        for (torch, code) in TORCH {
            let (elem, shape) = read(torch, vec![3, 4]).unwrap().unwrap();
            assert_eq!(elem.name(), Some(*code));
            assert_eq!(write(elem, code, &shape), ((*torch).to_owned(), vec![3, 4]));
            for spelled in [code.to_ascii_lowercase(), (*code).to_owned()] {
                assert_eq!(read(&spelled, vec![3, 4]).unwrap().unwrap(), (elem, vec![3, 4]));
            }
        }
        for unknown in ["", "bytes", "FLOAT32", "float31", "torch.float32"] {
            assert!(read(unknown, vec![]).is_none(), "{unknown}");
        }
        let six = ElemType::from_name("F6_E2M3").unwrap();
        assert_eq!(write(six, "F6_E2M3", &[4]), ("f6_e2m3".to_owned(), vec![4]));
        let four = ElemType::from_name("F4").unwrap();
        assert_eq!(write(four, "F4", &[2, 3]), ("f4".to_owned(), vec![2, 3]));
    }

    #[test]
    fn pairs_count_twice_in_the_last_dimension() {
        let (elem, shape) = read(PAIRS, vec![3, 4]).unwrap().unwrap();
        assert_eq!(shape, [3, 8]);
        assert_eq!(raw_len(elem, &shape), Some(12));
        assert!(read(PAIRS, vec![]).unwrap().is_err());
        assert!(read(PAIRS, vec![u64::MAX]).unwrap().is_err());
    }

    #[test]
    fn lengths_are_bounded() {
        let len = |code, shape: &[u64]| raw_len(ElemType::from_name(code).unwrap(), shape);
        assert_eq!(len("BF16", &[]), Some(2));
        assert_eq!(len("F64", &[3, 0, 5]), Some(0));
        assert_eq!(len("U8", &[MAX_RAW_LEN]), Some(MAX_RAW_LEN));
        assert_eq!(len("U8", &[MAX_RAW_LEN + 1]), None);
        assert_eq!(len("U8", &[0, MAX_RAW_LEN + 1]), None);
        assert_eq!(len("F32", &[u64::MAX, 4]), None);
        assert_eq!(len("F4", &[3]), None);
        assert_eq!(len("F6_E2M3", &[4]), Some(3));
    }
}
