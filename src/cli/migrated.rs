//! The proof that a container of ours holds what the BigSmall container held that it was made of.

use std::sync::atomic::AtomicBool;

use bsfs::engine;
use bsfs::format::Container;
use bsfs::format::checksum::hex;
use bsfs::source::ReadAt;
use bsfs::{Error, Result};
use md5::{Digest, Md5};

use super::opened::BigSmall;

/// Decodes `written`, a container read back from the disk, checks it against itself, and compares it with `file`: the shown
/// header byte for byte, and each tensor with the MD5 that the BigSmall container holds.
pub fn prove(pool: &rayon::ThreadPool, file: &BigSmall, written: &dyn ReadAt, stop: &AtomicBool) -> Result<()> {
    let container = Container::open(written)?;
    let header = file.presented.header();
    let (tensors, md5s) = (file.tensors()?, file.md5s());
    let differs = |what: String, expected: String, got: String| Error::Differs {
        path: written.path().into(),
        what: format!("{what}, read back before it was published,"),
        expected,
        got,
    };
    if container.raw_len() != file.presented.raw_len() {
        let (expected, got) = (file.presented.raw_len(), container.raw_len());
        return Err(differs("the original's length".into(), expected.to_string(), got.to_string()));
    }
    let mut next = tensors.iter().peekable();
    let mut md5 = Md5::new();
    engine::verify(pool, &container, written, None, stop, &mut |offset, raw| {
        let end = offset + raw.len() as u64;
        if let Some(expected) = header.get(offset as usize..).filter(|rest| !rest.is_empty()) {
            let same = expected.iter().zip(raw).all(|(a, b)| a == b);
            if !same {
                return Err(differs("the shown header".into(), "the one of the original".into(), "another".into()));
            }
        }
        while let Some(tensor) = next.peek() {
            let tensor_end = tensor.offset + tensor.len;
            let (a, b) = (offset.max(tensor.offset), end.min(tensor_end));
            if a < b {
                md5.update(raw.get((a - offset) as usize..(b - offset) as usize).unwrap_or_default());
            }
            if tensor_end > end {
                break;
            }
            let got: [u8; 16] = md5.finalize_reset().into();
            let expected = *md5s.get(&*tensor.name).ok_or_else(|| file.strange("a shown tensor has no entry"))?;
            // A tensor without bytes is not decoded, so nothing says what its MD5 should be.
            if tensor.len > 0 && got != expected {
                return Err(differs(format!("MD5 of tensor '{}'", tensor.name), hex(&expected), hex(&got)));
            }
            next.next();
        }
        Ok(())
    })?;
    if let Some(lost) = next.next() {
        return Err(file.strange(&format!("tensor '{}' is not in what was written", lost.name)));
    }
    if !file.source.unchanged()? {
        return Err(Error::Changed { path: file.source.path().into() });
    }
    Ok(())
}
