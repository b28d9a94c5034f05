//! The proof that a container of ours holds what the BigSmall container held that it was made of.

use std::sync::atomic::AtomicBool;

use bsfs::engine::{self, Whole};
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
    engine::verify(pool, Whole::new(&container, written), None, stop, &mut |offset, raw| {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bsfs::compress::{Options, compress};
    use bsfs::parallel;
    use bsfs::source::FileSource;

    use std::sync::Arc;

    use bsfs::engine::{Finder, Places};

    use super::*;
    use crate::cli::opened::{self, Opened};

    #[test]
    fn a_container_of_other_bytes_is_refused() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bigsmall/big-4.0.0.bs");
        let open = || match opened::open(&path) {
            Ok(Opened::BigSmall(file)) => file,
            _ => panic!("no container of bigsmall"),
        };
        let (file, engine) = (open(), opened::engine(1));
        let image = Opened::BigSmall(open()).image(&engine, &Arc::new(Finder::new(Places::default())), None);
        let mut sound = vec![0; image.len() as usize];
        image.read_exact_at(&path, 0, &mut sound).unwrap();

        let dir = tempfile::tempdir().unwrap();
        let (plain, packed) = (dir.path().join("plain"), dir.path().join("packed"));
        let (pool, stop) = (parallel::pool(1).unwrap(), AtomicBool::new(false));
        let proved = |bytes: &[u8]| {
            std::fs::write(&plain, bytes).unwrap();
            let mode = bsfs::codec::Mode::Balanced;
            let options = Options { mode, chunk_len: None, force: true, against: None, stop: &stop };
            compress(&pool, &plain, &packed, &options, &()).unwrap();
            prove(&pool, &file, &FileSource::open(&packed).unwrap(), &stop)
        };
        proved(&sound).unwrap();
        let refused = |at: usize, to: u8, word: &str| {
            let mut other = sound.clone();
            assert_ne!(other[at], to);
            other[at] = to;
            let message = proved(&other).unwrap_err().to_string();
            assert!(message.contains(word) && message.contains("read back"), "{message}");
        };
        let (header, last) = (file.presented.header().len(), sound.len() - 1);
        refused(header - 1, b'\n', "the shown header");
        for at in [header, last - 100_000, last] {
            refused(at, !sound[at], "MD5 of tensor");
        }
        let message = proved(&sound[..last]).unwrap_err().to_string();
        assert!(message.contains("length"), "{message}");
    }
}
