//! Memory for packed and decoded bytes: counted, bounded, and used again, since fresh pages cost as much as decoding into them.
//!
//! **The bound.** Work that needs memory begins when what it may need was reserved ([`Pool::try_reserve`]); while it runs it takes
//! buffers without asking, so that no work waits for memory while it holds some, and none waits for another that waits. The
//! memory cache leaves room for what is reserved.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use memmap2::MmapMut;

use super::sync::{AtomicU64, Mutex, Ordering, lock};
use crate::codec::Scratch;

/// Buffers that may wait to be used again, and as many contexts of codecs.
const SPARE: usize = 64;
/// Lengths are rounded up to a multiple of this, so that chunks of about one length fit each other's buffers.
const STEP: usize = 64 << 10;
/// Of the bound, what is not for reserved work: answers on their way to the kernel, bytes on their way to the disk cache, windows
/// of tensors that are not proven yet.
const UNRESERVED: u64 = 4;

/// Where buffers come from. It counts all of them: those in use and those that wait.
#[derive(Debug)]
pub struct Pool {
    spare: Mutex<Spare>,
    held: AtomicU64,
    reserved: AtomicU64,
    limit: AtomicU64,
}

/// What waits to be used again.
#[derive(Debug, Default)]
struct Spare {
    memory: Vec<Memory>,
    /// With the bytes that they hold.
    scratch: Vec<(Scratch, u64)>,
    /// Bytes of both.
    bytes: u64,
}

impl Spare {
    /// Takes out something to be let go of; gives its bytes.
    fn pop(&mut self, dropped: &mut Dropped) -> Option<u64> {
        let bytes = if let Some(memory) = self.memory.pop() {
            let bytes = memory.len() as u64;
            dropped.0.push(memory);
            bytes
        } else {
            let (scratch, bytes) = self.scratch.pop()?;
            dropped.1.push(scratch);
            bytes
        };
        self.bytes -= bytes;
        Some(bytes)
    }
}

/// What is to be let go of, after the lock.
#[derive(Default)]
struct Dropped(Vec<Memory>, Vec<Scratch>);

/// Memory that work under way may take, until this is dropped.
#[derive(Debug)]
pub struct Reserved {
    pool: Arc<Pool>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.pool.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The context of a codec, given back to its pool when it is dropped.
#[derive(Debug)]
pub struct Context {
    scratch: Option<Scratch>,
    bytes: u64,
    pool: Arc<Pool>,
}

impl Context {
    /// The context.
    pub fn get(&mut self) -> &mut Scratch {
        self.scratch.get_or_insert_default()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let Some(scratch) = self.scratch.take() else { return };
        let (pool, bytes) = (&self.pool, scratch.memory() as u64);
        let mut spare = lock(&pool.spare);
        pool.held.fetch_sub(self.bytes, Ordering::Relaxed);
        if pool.held() + bytes <= pool.limit() && spare.scratch.len() < SPARE {
            pool.held.fetch_add(bytes, Ordering::Relaxed);
            spare.bytes += bytes;
            spare.scratch.push((scratch, bytes));
            return;
        }
        drop(spare);
        drop(scratch);
    }
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
pub fn capacity(len: usize) -> usize {
    match len {
        0 => 0,
        1..=STEP => len.next_power_of_two().max(4096),
        _ => len.next_multiple_of(STEP),
    }
}

impl Pool {
    /// A pool that keeps nothing to be used again while there are more than `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        let (held, reserved) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { spare: Mutex::default(), held, reserved, limit: AtomicU64::new(limit) })
    }

    /// Bytes in all buffers and contexts.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// The bound.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets another bound, and lets go of what waits above it.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        self.trim(&mut lock(&self.spare), 0);
    }

    /// Lets go of what waits, until `need` bytes more fit into the bound or nothing waits. To be dropped after the lock.
    fn trim(&self, spare: &mut Spare, need: u64) -> Dropped {
        let mut dropped = Dropped::default();
        while self.held().saturating_add(need) > self.limit()
            && let Some(bytes) = spare.pop(&mut dropped)
        {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
        }
        dropped
    }

    /// Reserves `bytes` for work that is about to begin: if they fit beside what is reserved for other work, or none is.
    pub fn try_reserve(self: &Arc<Self>, bytes: u64) -> Option<Reserved> {
        let most = self.limit() - self.limit() / UNRESERVED;
        let fits = |reserved: u64| {
            let sum = reserved.saturating_add(bytes);
            (reserved == 0 || sum <= most).then_some(sum)
        };
        let reserved = self.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        reserved.is_ok().then(|| Reserved { pool: Arc::clone(self), bytes })
    }

    /// Reserves `bytes` for work that must begin now, whatever the bound.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Reserved {
        self.reserved.fetch_add(bytes, Ordering::Relaxed);
        Reserved { pool: Arc::clone(self), bytes }
    }

    /// Whether `len` bytes more can be in use within the bound, beside the `cached` bytes of the memory cache and all that is
    /// reserved. What waits to be used again does not count: it can be had or let go.
    pub fn has_room(&self, cached: u64, len: usize) -> bool {
        let spare = lock(&self.spare).bytes;
        let in_use = self.held().saturating_sub(spare).saturating_sub(cached);
        let wanted = (in_use + capacity(len) as u64).max(self.reserved.load(Ordering::Relaxed));
        cached.saturating_add(wanted) <= self.limit()
    }

    /// A buffer of `len` bytes that hold anything. It is given whatever the bound: what keeps to it is the work that reserves,
    /// and the memory cache.
    pub fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let need = capacity(len);
        let mut spare = lock(&self.spare);
        if let Some(at) = spare.memory.iter().rposition(|b| b.len() >= need && b.len() <= need + need / 4) {
            let bytes = spare.memory.swap_remove(at);
            spare.bytes -= bytes.len() as u64;
            return Buffer { bytes, len, pool: Arc::clone(self) };
        }
        let dropped = self.trim(&mut spare, need as u64);
        self.held.fetch_add(need as u64, Ordering::Relaxed);
        drop(spare);
        drop(dropped);
        Buffer { bytes: Memory::new(need), len, pool: Arc::clone(self) }
    }

    /// A context to decode with.
    pub fn context(self: &Arc<Self>) -> Context {
        let mut spare = lock(&self.spare);
        let (scratch, bytes) = spare.scratch.pop().map_or((None, 0), |(scratch, bytes)| (Some(scratch), bytes));
        spare.bytes -= bytes;
        Context { scratch, bytes, pool: Arc::clone(self) }
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
        if self.pool.held() <= self.pool.limit() && spare.memory.len() < SPARE {
            spare.bytes += bytes.len() as u64;
            spare.memory.push(bytes);
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
        assert!(pool.has_room(0, 600_000) && !pool.has_room(0, 800_000) && pool.has_room(327_680, 600_000));
        let over = pool.take(1 << 20);
        drop((b, over));
        assert!(pool.held() <= 1 << 20);
        let whole = pool.take(1 << 20);
        assert_eq!(pool.held(), 1 << 20, "what waited made room");
        drop(whole);
        assert_eq!(Pool::new(0).take(5).len(), 5);
    }

    #[test]
    fn what_is_reserved_fits_the_bound_and_what_comes_first_always_begins() {
        let pool = Pool::new(4 << 20);
        let large = pool.try_reserve(64 << 20).expect("alone");
        assert!(pool.try_reserve(1).is_none());
        drop(large);
        let first = pool.try_reserve(2 << 20).unwrap();
        let second = pool.try_reserve(1 << 20).unwrap();
        assert!(pool.try_reserve(1).is_none(), "a quarter is for what is not reserved");
        // The memory cache leaves what is reserved, also before it is taken.
        let (cached, more) = (pool.take(1 << 20), pool.take(STEP));
        assert!(pool.has_room(1 << 20, 0) && !pool.has_room((1 << 20) + STEP as u64, 0));
        drop(more);
        let taken = pool.take(1 << 20);
        assert!(pool.has_room(1 << 20, 2 << 20) && !pool.has_room(1 << 20, 3 << 20));
        drop((first, second, cached, taken));
        assert_eq!(pool.reserved.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn contexts_are_counted_used_again_and_let_go_above_the_bound() {
        let pool = Pool::new(64 << 20);
        let bits: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let mut packed = Vec::new();
        let (numbers, mode) = (crate::codec::Numbers::Unknown, crate::codec::Mode::Balanced);
        let _ = crate::codec::encode(numbers, mode, &bits, &mut packed, pool.context().get());
        let held = pool.held();
        assert!(held > 0, "the context that waits is counted");
        let again = pool.context();
        assert_eq!((again.bytes, pool.held()), (held, held));
        drop(again);
        pool.set_limit(0);
        assert_eq!(pool.held(), 0);
    }
}
