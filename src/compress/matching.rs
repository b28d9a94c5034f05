//! Which tensor of a base a tensor is compared with.
//!
//! By name first. A tensor that gained or lost rows is compared as far as both go. One that was renamed is looked for among
//! those of its type and shape, by a sample of its numbers.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::base_source::BaseSource;
use super::plan;
use crate::codec::{self, Mode, Scratch};
use crate::error::Result;
use crate::format::native::SpanSpec;
use crate::source::ReadAt;
use crate::tensor::TensorInfo;

/// Bytes of a sample.
const SAMPLE: u64 = 8 << 10;
/// Tensors of one shape that a renamed one is compared with, at most; and comparisons of one file beyond the first one of each
/// tensor, so that many tensors take time in proportion.
const TRIES: usize = 512;
const ALL_TRIES: usize = 1 << 17;
/// A sample that takes less than so many hundredths of what it takes alone is of the same tensor, and below the second one
/// nothing better is looked for.
const LIKE: usize = 85;
const SURE: usize = 50;

/// A tensor of a base: index of the file, and index of the tensor in it.
type BaseTensor = (usize, usize);

/// The counterpart of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counterpart {
    pub raw_offset: u64,
    /// Bytes from the first of both that are compared.
    pub len: u64,
    pub file: usize,
    pub tensor: usize,
    /// Length of the counterpart's name, bytes.
    pub name_len: usize,
}

/// Looks for the counterpart of each of `tensors`, which lie in `original`.
pub fn find(files: &[Arc<BaseSource>], original: &dyn ReadAt, tensors: &[&TensorInfo]) -> Result<Vec<Counterpart>> {
    let mut by_name: HashMap<&str, Vec<BaseTensor>> = HashMap::new();
    let mut by_shape: HashMap<(&str, &[u64]), Vec<BaseTensor>> = HashMap::new();
    for (f, file) in files.iter().enumerate() {
        for (t, tensor) in file.tensors.iter().enumerate() {
            by_name.entry(&tensor.name).or_default().push((f, t));
            by_shape.entry((&tensor.dtype, &tensor.shape)).or_default().push((f, t));
        }
    }
    let of = |(f, t): BaseTensor| files.get(f).and_then(|file| file.tensors.get(t));
    let mut found = Vec::new();
    let mut put = |tensor: &TensorInfo, at: BaseTensor, len: u64| {
        let name_len = of(at).map_or(0, |base| base.name.len());
        found.push(Counterpart { raw_offset: tensor.offset, len, file: at.0, tensor: at.1, name_len });
    };
    // How many tensors of this type and shape came before: renamed ones often keep their order.
    let mut place: HashMap<(&str, &[u64]), usize> = HashMap::new();
    let mut tries = ALL_TRIES;
    for tensor in tensors {
        let shape = (tensor.dtype.as_str(), tensor.shape.as_slice());
        let ordinal = *place.entry(shape).and_modify(|n| *n += 1).or_insert(0);
        let named = by_name.get(tensor.name.as_str()).map_or(&[][..], Vec::as_slice);
        let exact = named.iter().copied().find(|&at| of(at).is_some_and(|base| same_shape(base, tensor)));
        if let Some(at) = exact {
            put(tensor, at, tensor.len);
            continue;
        }
        let rows = named.iter().copied().find_map(|at| Some((at, common_rows(of(at)?, tensor)?)));
        if let Some((at, len)) = rows {
            put(tensor, at, len);
            continue;
        }
        let candidates = by_shape.get(&shape).map_or(&[][..], Vec::as_slice);
        if let Some(at) = renamed(files, original, tensor, candidates, ordinal, &mut tries)? {
            put(tensor, at, tensor.len);
        }
    }
    Ok(found)
}

fn same_shape(base: &TensorInfo, tensor: &TensorInfo) -> bool {
    base.dtype == tensor.dtype && base.shape == tensor.shape && base.len == tensor.len
}

/// Bytes of the rows that both have, if they only differ in how many there are.
fn common_rows(base: &TensorInfo, tensor: &TensorInfo) -> Option<u64> {
    let (_, of_base) = base.shape.split_first()?;
    let (_, of_tensor) = tensor.shape.split_first()?;
    let len = base.len.min(tensor.len);
    (base.dtype == tensor.dtype && of_base == of_tensor && len > 0).then_some(len)
}

/// The one of `candidates` that is most like `tensor`, if one is.
fn renamed(
    files: &[Arc<BaseSource>],
    original: &dyn ReadAt,
    tensor: &TensorInfo,
    candidates: &[BaseTensor],
    ordinal: usize,
    tries: &mut usize,
) -> Result<Option<BaseTensor>> {
    if candidates.is_empty() {
        return Ok(None);
    }
    let (unit, _) = tensor.elem.unit();
    let len = tensor.len.min(SAMPLE) / u64::from(unit) * u64::from(unit);
    let at = (tensor.len - len) / 2 / u64::from(unit) * u64::from(unit);
    let span = SpanSpec { raw_len: len.max(1), elem: tensor.elem, row_elems: 0, chunk_len: len.max(1) as u32 };
    let numbers = plan::numbers(&span);
    let mut sample = vec![0; len as usize];
    original.read_exact_at(tensor.offset + at, &mut sample)?;
    let mut other = vec![0; len as usize];
    let mut best: Option<(usize, BaseTensor)> = None;
    let first = (ordinal < candidates.len()).then_some(ordinal);
    let order =
        first.into_iter().chain((0..candidates.len()).filter(|&i| Some(i) != first)).take(TRIES.min(1 + *tries));
    thread_local! {
        static SPACE: RefCell<(Scratch, Vec<u8>)> = RefCell::default();
    }
    SPACE.with_borrow_mut(|(scratch, packed)| {
        codec::encode(numbers, Mode::Balanced, &sample, packed, scratch);
        let alone = packed.len();
        for candidate in order.filter_map(|i| candidates.get(i).copied()) {
            let (f, t) = candidate;
            let Some(file) = files.get(f) else { continue };
            let Some(base) = file.tensors.get(t).filter(|base| base.len == tensor.len) else { continue };
            file.read(base, at, &mut other)?;
            *tries = tries.saturating_sub(1);
            let limit = best.map_or(alone * LIKE / 100, |(len, _)| len);
            if codec::encode_against(numbers, (&sample, &other), limit, packed, scratch).is_some() {
                best = Some((packed.len(), candidate));
                if packed.len() * 100 < alone * SURE {
                    break;
                }
            }
        }
        Ok(best.map(|(_, candidate)| candidate))
    })
}
