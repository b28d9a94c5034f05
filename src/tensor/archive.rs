//! Members of a zip archive that are stored as they are: what PyTorch's `.bin` and `.pth` files, and `.npz`, keep numbers in.

use std::io::{Read, Seek};

use zip::{CompressionMethod, ZipArchive};

use super::{ElemType, TensorInfo};

/// Most members that are looked at.
const MAX_MEMBERS: usize = 1 << 20;

/// The stored members of an archive of `len` bytes as tensors of no type, in order of offset and without overlap; `None` when
/// it is no archive that can be read, or has no such member.
pub fn members(reader: impl Read + Seek, len: u64) -> Option<Vec<TensorInfo>> {
    let mut archive = ZipArchive::new(reader).ok()?;
    let count = archive.len().min(MAX_MEMBERS);
    let mut found: Vec<TensorInfo> = Vec::new();
    for at in 0..count {
        let Ok(member) = archive.by_index_raw(at) else { continue };
        if member.compression() != CompressionMethod::Stored || member.encrypted() || member.is_dir() {
            continue;
        }
        let (Some(offset), size) = (member.data_start(), member.size()) else { continue };
        if size > 0 && offset.checked_add(size).is_some_and(|end| end <= len) {
            let name = member.name().map(|name| name.into_owned()).unwrap_or_default();
            let dtype = String::new();
            found.push(TensorInfo { name, dtype, shape: vec![size], elem: ElemType::BYTES, offset, len: size });
        }
    }
    found.sort_by_key(|t| t.offset);
    found.dedup_by(|b, a| b.offset < a.offset + a.len);
    (!found.is_empty()).then_some(found)
}
