//! The digests of a file and of its tensors, made on a thread of their own while chunks are encoded.
//!
//! SHA-256 has to see the whole file in order; a chunk is encoded on any worker. So the bytes go to both.

use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Digests of a file.
pub struct Digests {
    /// SHA-256 of all bytes.
    pub sha256: [u8; 32],
    /// BLAKE3 of each range, in the order they were given.
    pub ranges: Vec<[u8; 32]>,
}

/// The digests of bytes that are all in memory; `ranges` as for [`Digester::start`].
pub fn digests(ranges: Vec<(u64, u64)>, bytes: &[u8]) -> Digests {
    let mut state = State::new(ranges);
    state.update(bytes);
    state.finish()
}

/// A thread that hashes what it is sent.
pub struct Digester {
    send: SyncSender<Arc<Vec<u8>>>,
    thread: JoinHandle<Digests>,
}

impl Digester {
    /// Starts the thread. `ranges` are (offset, length) in the file, ascending, without overlap; `window` bounds how
    /// many buffers may wait.
    ///
    /// # Errors
    /// [`Error::Io`] when the thread cannot be made.
    pub fn start(ranges: Vec<(u64, u64)>, window: usize) -> Result<Self> {
        let (send, receive) = mpsc::sync_channel::<Arc<Vec<u8>>>(window);
        let thread = std::thread::Builder::new()
            .name("bsfs-digest".into())
            .spawn(move || {
                let mut state = State::new(ranges);
                for bytes in receive {
                    state.update(&bytes);
                }
                state.finish()
            })
            .map_err(Error::io("start threads", ""))?;
        Ok(Self { send, thread })
    }

    /// Hashes the next bytes of the file, in order.
    pub fn update(&self, bytes: Arc<Vec<u8>>) {
        // The thread only ends early by a panic, which finish() reports.
        let _ = self.send.send(bytes);
    }

    /// Waits for the digests.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the thread panicked.
    pub fn finish(self) -> Result<Digests> {
        drop(self.send);
        self.thread.join().map_err(|_| Error::invalid("the digest thread panicked; this is a defect in bsfs"))
    }
}

struct State {
    sha256: Sha256,
    at: u64,
    ranges: std::vec::IntoIter<(u64, u64)>,
    current: Option<((u64, u64), blake3::Hasher)>,
    done: Vec<[u8; 32]>,
}

impl State {
    fn new(ranges: Vec<(u64, u64)>) -> Self {
        let done = Vec::with_capacity(ranges.len());
        let mut state = Self { sha256: Sha256::new(), at: 0, ranges: ranges.into_iter(), current: None, done };
        state.next();
        state
    }

    /// Turns to the next range that is not empty.
    fn next(&mut self) {
        self.current = None;
        for (offset, len) in self.ranges.by_ref() {
            if len > 0 {
                self.current = Some(((offset, len), blake3::Hasher::new()));
                return;
            }
            self.done.push(*blake3::hash(b"").as_bytes());
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        let (start, end) = (self.at, self.at + bytes.len() as u64);
        while let Some(((offset, len), hasher)) = &mut self.current {
            let (a, b) = (start.max(*offset), end.min(*offset + *len));
            if a < b {
                hasher.update(bytes.get((a - start) as usize..(b - start) as usize).unwrap_or_default());
            }
            if *offset + *len > end {
                break;
            }
            self.done.push(*hasher.finalize().as_bytes());
            self.next();
        }
        self.at = end;
    }

    fn finish(self) -> Digests {
        Digests { sha256: self.sha256.finalize().into(), ranges: self.done }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_across_and_inside_buffers_are_hashed_alone() {
        let bytes: Vec<u8> = (0..=255).collect();
        let ranges = vec![(0, 0), (3, 10), (13, 0), (13, 200), (213, 1), (230, 26), (256, 0)];
        let expected: Vec<_> =
            ranges.iter().map(|&(o, n)| *blake3::hash(&bytes[o as usize..(o + n) as usize]).as_bytes()).collect();
        assert_eq!(digests(ranges.clone(), &bytes).ranges, expected);
        for step in [1, 7, 13, 256] {
            let d = Digester::start(ranges.clone(), 2).unwrap();
            bytes.chunks(step).for_each(|piece| d.update(Arc::new(piece.to_vec())));
            let digests = d.finish().unwrap();
            assert_eq!(digests.ranges, expected);
            assert_eq!(digests.sha256[..], Sha256::digest(&bytes)[..]);
        }
    }
}
