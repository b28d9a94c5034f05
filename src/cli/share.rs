//! `--shard I/N`: the part of a directory that one of several machines compresses.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use bsfs::format::Container;
use bsfs::longpath;
use bsfs::source::{FileSource, ReadAt};
use bsfs::{Error, Result};
use sha2::{Digest, Sha256};

/// Shares at most.
const MOST: usize = 65_536;
/// Bytes that are hashed at once.
const STEP: u64 = 1 << 20;

/// Number `index` of `count`, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    index: usize,
    count: usize,
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match parsed {
            Some((index, count)) if index < count && count <= MOST => Ok(Self { index, count }),
            _ => Err(format!("expected I/N with I from 0 to N-1 and N up to {MOST}, such as 0/8")),
        }
    }
}

impl Share {
    /// Which of these files, names and lengths, are this share's. All shares together have each once, and all who ask about the
    /// same files get the same answer: the longest go first, each to the share that has least so far.
    pub fn of(self, files: &[(&Path, u64)]) -> Vec<bool> {
        let mut order: Vec<usize> = (0..files.len()).collect();
        let key = |at: usize| files.get(at).map(|(path, len)| (std::cmp::Reverse(*len), path.as_os_str().as_bytes()));
        order.sort_by(|&a, &b| key(a).cmp(&key(b)));
        let mut loads = vec![0_u64; self.count];
        let mut own = vec![false; files.len()];
        for at in order {
            let least = loads.iter().enumerate().min_by_key(|(number, load)| (**load, *number)).map_or(0, |(n, _)| n);
            let len = files.get(at).map_or(0, |(_, len)| *len);
            if let Some(load) = loads.get_mut(least) {
                // A file without bytes is work as well.
                *load += len + 1;
            }
            if let Some(own) = own.get_mut(at).filter(|_| least == self.index) {
                *own = true;
            }
        }
        own
    }

    /// Whether this share makes the links of a directory.
    pub fn is_first(self) -> bool {
        self.index == 0
    }
}

/// Whether `output` is a container of `input` already, by the digest that it tells.
///
/// # Errors
/// [`Error::Exists`] when it is something else.
pub fn is_packed(input: &Path, output: &Path, stop: &AtomicBool) -> Result<bool> {
    if longpath::symlink_metadata(output).is_err() {
        return Ok(false);
    }
    let exists = || Error::Exists { path: output.into() };
    let container = FileSource::open(output).and_then(|file| Container::open(&file)).map_err(|_| exists())?;
    let source = FileSource::open(input)?;
    if container.raw_len() != source.len() {
        return Err(exists());
    }
    source.check_end()?;
    source.advise_sequential();
    let (mut digest, mut at, mut piece) = (Sha256::new(), 0, Vec::new());
    while at < source.len() {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        piece.resize((source.len() - at).min(STEP) as usize, 0);
        source.read_exact_at(at, &mut piece)?;
        digest.update(&piece);
        at += piece.len() as u64;
    }
    let digest: [u8; 32] = digest.finalize().into();
    if digest == container.file().sha256 { Ok(true) } else { Err(exists()) }
}

/// Whether `output` is a copy of `input` already, by length and time.
///
/// # Errors
/// [`Error::Exists`] when it is something else.
pub fn is_copied(input: &Path, output: &Path) -> Result<bool> {
    let Ok(there) = longpath::symlink_metadata(output) else { return Ok(false) };
    let meta = longpath::metadata(input).map_err(Error::io("stat", input))?;
    if there.is_file() && there.len() == meta.len() && there.modified().ok() == meta.modified().ok() {
        return Ok(true);
    }
    Err(Error::Exists { path: output.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_have_each_file_once_whatever_the_order() {
        let names: Vec<String> = (0..100).map(|n| format!("m{n}")).collect();
        let mut files: Vec<(&Path, u64)> =
            names.iter().enumerate().map(|(n, name)| (Path::new(name), (n as u64 * 37) % 91 * 1000)).collect();
        let split = |files: &[(&Path, u64)]| -> Vec<Vec<String>> {
            (0..7)
                .map(|index| {
                    let own = Share { index, count: 7 }.of(files);
                    let mut mine: Vec<String> =
                        files.iter().zip(own).filter(|(_, own)| *own).map(|(f, _)| f.0.display().to_string()).collect();
                    mine.sort();
                    mine
                })
                .collect()
        };
        let first = split(&files);
        let mut all: Vec<String> = first.iter().flatten().cloned().collect();
        all.sort();
        let mut expected = names.clone();
        expected.sort();
        assert_eq!(all, expected);
        let len = |name: &String| files.iter().find(|f| f.0 == Path::new(name)).unwrap().1;
        let loads: Vec<u64> = first.iter().map(|share| share.iter().map(len).sum()).collect();
        assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 90_000, "{loads:?}");
        files.reverse();
        assert_eq!(split(&files), first);
    }

    #[test]
    fn shares_are_counted_from_0() {
        assert_eq!("2/3".parse(), Ok(Share { index: 2, count: 3 }));
        for bad in ["3/3", "1", "-1/2", "0/0", "a/b", "1/2/3", ""] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }
}
