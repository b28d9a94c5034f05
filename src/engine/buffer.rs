//! Memory for packed and decoded bytes: counted, and used again, since fresh pages cost as much as decoding into them.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use memmap2::MmapMut;

use super::sync::{AtomicU64, Mutex, Ordering, lock};

/// Buffers that may wait to be used again.
const SPARE: usize = 64;
/// Lengths are rounded up to a multiple of this, so that chunks of about one length fit each other's buffers.
const STEP: usize = 64 << 10;

/// Where buffers come from. It counts all of them: those in use and those that wait.
#[derive(Debug)]
pub struct Pool {
    spare: Mutex<Vec<Memory>>,
    held: AtomicU64,
    limit: AtomicU64,
}

/// Memory from a pool, given back when it is dropped. Derefs to as many bytes as were asked for.
#[derive(Debug)]
pub struct Buffer {
    bytes: Memory,
    len: usize,
    pool: Arc<Pool>,
}

/// Memory of a buffer. Pages of its own, which the system has back as soon as it is dropped; an allocator would keep them, and
/// one heap for each thread, beside all that is counted here.
#[derive(Debug)]
enum Memory {
    Pages(MmapMut),
    Heap(Vec<u8>),
}

impl Memory {
    fn new(len: usize) -> Self {
        let pages = (len >= STEP).then(|| MmapMut::map_anon(len).ok()).flatten();
        pages.map_or_else(|| Self::Heap(vec![0; len]), Self::Pages)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Pages(pages) => pages,
            Self::Heap(bytes) => bytes,
        }
    }

    fn len(&self) -> usize {
        self.bytes().len()
    }
}

/// The capacity of a buffer for `len` bytes.
fn capacity(len: usize) -> usize {
    match len {
        0 => 0,
        1..=STEP => len.next_power_of_two().max(4096),
        _ => len.next_multiple_of(STEP),
    }
}

impl Pool {
    /// A pool that keeps nothing to be used again while there are more than `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { spare: Mutex::default(), held: AtomicU64::new(0), limit: AtomicU64::new(limit) })
    }

    /// Bytes in all buffers.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// The bound.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets another bound, and lets go of buffers that wait above it.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        let mut spare = lock(&self.spare);
        let mut dropped = Vec::new();
        while self.held() > limit
            && let Some(old) = spare.pop()
        {
            self.held.fetch_sub(old.len() as u64, Ordering::Relaxed);
            dropped.push(old);
        }
        drop(spare);
        drop(dropped);
    }

    /// Whether a buffer of `len` bytes would stay within the bound. Buffers that wait do not count: they can be had or let go.
    pub fn has_room(&self, len: usize) -> bool {
        let spare: usize = lock(&self.spare).iter().map(Memory::len).sum();
        self.held().saturating_sub(spare as u64) + capacity(len) as u64 <= self.limit()
    }

    /// A buffer of `len` bytes that hold anything. It is given whatever the bound; keeping to it is the cache's business.
    pub fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let need = capacity(len);
        let mut spare = lock(&self.spare);
        if let Some(at) = spare.iter().rposition(|b| b.len() >= need && b.len() <= need + need / 4) {
            return Buffer { bytes: spare.swap_remove(at), len, pool: Arc::clone(self) };
        }
        let mut dropped = Vec::new();
        while self.held() + need as u64 > self.limit()
            && let Some(old) = spare.pop()
        {
            self.held.fetch_sub(old.len() as u64, Ordering::Relaxed);
            dropped.push(old);
        }
        drop(spare);
        drop(dropped);
        self.held.fetch_add(need as u64, Ordering::Relaxed);
        Buffer { bytes: Memory::new(need), len, pool: Arc::clone(self) }
    }
}

impl Buffer {
    /// Bytes of memory that it takes.
    pub(super) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.bytes().get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let bytes = match &mut self.bytes {
            Memory::Pages(pages) => pages.as_mut(),
            Memory::Heap(bytes) => bytes,
        };
        bytes.get_mut(..self.len).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::replace(&mut self.bytes, Memory::Heap(Vec::new()));
        let mut spare = lock(&self.pool.spare);
        if self.pool.held() <= self.pool.limit() && spare.len() < SPARE {
            spare.push(bytes);
        } else {
            self.pool.held.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_let_go_above_the_bound() {
        let pool = Pool::new(1 << 20);
        let a = pool.take(300_000);
        assert_eq!((a.len(), pool.held()), (300_000, 327_680));
        let at = a.as_ptr();
        drop(a);
        let b = pool.take(310_000);
        assert_eq!((b.as_ptr(), pool.held()), (at, 327_680), "the same memory");
        assert!(pool.has_room(600_000) && !pool.has_room(800_000));
        let over = pool.take(1 << 20);
        drop((b, over));
        assert!(pool.held() <= 1 << 20);
        let whole = pool.take(1 << 20);
        assert_eq!(pool.held(), 1 << 20, "what waited made room");
        drop(whole);
        assert_eq!(Pool::new(0).take(5).len(), 5);
    }
}
