//! The memory cache: decoded chunks, bounded in bytes together with all buffers.
//!
//! Chunks of which every byte was read are the first to leave: the page cache has them by then. A few stay for readers that
//! come back to the edges, as those do that go around the page cache. Then the least recently used leave.

use std::sync::Arc;

use lru::LruCache;

use super::buffer::{Buffer, Pool};
use crate::format::ChunkId;

/// Bytes of chunks that were read whole and are kept all the same: an eighth of the memory, at most this much. More would only
/// push the buffers that are used next out of the processor's caches.
const SPENT: u64 = 8 << 20;

/// A chunk of a container of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// [`Container::id`](crate::format::Container::id).
    pub container: u64,
    /// Which chunk.
    pub chunk: ChunkId,
}

/// The raw bytes of a chunk.
pub type Raw = Arc<Buffer>;

#[derive(Debug)]
struct Entry {
    raw: Raw,
    /// Bytes that were read, overlaps counted again.
    read: u64,
    /// Decoded before anybody asked, and not asked for yet.
    ahead: bool,
}

/// Not synchronised: the owner locks it for a lookup, never for a decode.
#[derive(Debug)]
pub struct MemoryCache {
    chunks: LruCache<Key, Entry>,
    spent: LruCache<Key, Raw>,
    pool: Arc<Pool>,
    bytes: u64,
    spent_bytes: u64,
    evicted: u64,
    /// Of chunks decoded ahead: number and bytes.
    wasted: (u64, u64),
    used: (u64, u64),
}

/// What the cache holds now.
#[derive(Debug, Clone, Copy)]
pub struct Gauge {
    pub bytes: u64,
    pub limit: u64,
    pub chunks: u64,
    pub evicted: u64,
    /// Chunks decoded ahead that somebody read, and their bytes.
    pub ahead_used: (u64, u64),
    /// Chunks decoded ahead that had to go before anybody read them, and their bytes.
    pub ahead_wasted: (u64, u64),
}

/// A chunk from memory.
#[derive(Debug)]
pub struct Found {
    pub raw: Raw,
    /// All of it has been read by now.
    pub spent: bool,
}

impl MemoryCache {
    pub fn new(pool: Arc<Pool>) -> Self {
        let (chunks, spent) = (LruCache::unbounded(), LruCache::unbounded());
        Self { chunks, spent, pool, bytes: 0, spent_bytes: 0, evicted: 0, wasted: (0, 0), used: (0, 0) }
    }

    /// The chunk, of which `read` bytes are going to be read.
    pub fn get(&mut self, key: &Key, read: usize) -> Option<Found> {
        let Some(entry) = self.chunks.get_mut(key) else {
            return self.spent.get(key).cloned().map(|raw| Found { raw, spent: false });
        };
        if std::mem::take(&mut entry.ahead) {
            self.used = (self.used.0 + 1, self.used.1 + entry.raw.len() as u64);
        }
        entry.read += read as u64;
        let (raw, spent) = (Arc::clone(&entry.raw), entry.read >= entry.raw.len() as u64);
        if spent && read > 0 {
            self.spend(key);
        }
        Some(Found { raw, spent })
    }

    /// Puts a chunk among those that were read whole.
    fn spend(&mut self, key: &Key) {
        let Some(entry) = self.chunks.pop(key) else { return };
        self.spent_bytes += entry.raw.size();
        self.spent.put(*key, entry.raw);
        while self.spent_bytes > SPENT.min(self.pool.limit() / 8) && self.evict_spent() {}
    }

    fn evict_spent(&mut self) -> bool {
        let Some((_, old)) = self.spent.pop_lru() else { return false };
        self.spent_bytes -= old.size();
        self.bytes -= old.size();
        self.evicted += 1;
        true
    }

    /// Whether the chunk is there.
    pub fn has(&self, key: &Key) -> bool {
        self.chunks.contains(key) || self.spent.contains(key)
    }

    /// Drops chunks until a buffer of `len` bytes fits into the bound, or none are left. For a chunk that nobody asked for
    /// yet (`ahead`) no other such chunk is dropped. Gives whether it fits.
    pub fn make_room(&mut self, len: usize, ahead: bool) -> bool {
        while !self.pool.has_room(self.bytes, len) {
            if self.evict_spent() {
                continue;
            }
            if ahead && self.chunks.peek_lru().is_some_and(|(_, entry)| entry.ahead) {
                return false;
            }
            if !self.evict_unspent() {
                return false;
            }
        }
        true
    }

    fn evict_unspent(&mut self) -> bool {
        let Some((_, old)) = self.chunks.pop_lru() else { return false };
        self.bytes -= old.raw.size();
        self.evicted += 1;
        if old.ahead {
            self.wasted = (self.wasted.0 + 1, self.wasted.1 + old.raw.len() as u64);
        }
        true
    }

    /// Keeps a chunk, of which `read` bytes are going to be read; `ahead` if it was decoded before anybody asked. One that
    /// is too large for the bound is not kept.
    pub fn put(&mut self, key: Key, raw: &Raw, read: usize, ahead: bool) {
        // Its own buffer is counted already. Where too many are in use elsewhere, all others leave but not what waits for
        // its reader.
        if raw.size() > self.pool.limit() || self.has(&key) || (!self.make_room(0, ahead) && ahead) {
            return;
        }
        self.bytes += raw.size();
        self.chunks.put(key, Entry { raw: Arc::clone(raw), read: read as u64, ahead });
        if read >= raw.len() {
            self.spend(&key);
        }
    }

    pub fn gauge(&self) -> Gauge {
        Gauge {
            bytes: self.bytes,
            limit: self.pool.limit(),
            chunks: (self.chunks.len() + self.spent.len()) as u64,
            evicted: self.evicted,
            ahead_used: self.used,
            ahead_wasted: self.wasted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(chunk: u32) -> Key {
        Key { container: 1, chunk: ChunkId(chunk) }
    }

    fn cache(limit: u64) -> (MemoryCache, impl Fn(usize) -> Raw) {
        let pool = Pool::new(limit);
        (MemoryCache::new(Arc::clone(&pool)), move |len| Arc::new(pool.take(len)))
    }

    #[test]
    fn bytes_stay_within_the_limit_and_the_least_recently_used_leaves_first() {
        let (mut cache, raw) = cache(100 << 10);
        cache.put(key(1), &raw(32 << 10), 0, false);
        cache.put(key(2), &raw(32 << 10), 0, false);
        assert!(cache.get(&key(1), 1).is_some());
        assert!(cache.make_room(64 << 10, false));
        cache.put(key(3), &raw(32 << 10), 0, false);
        assert!(!cache.has(&key(2)) && cache.has(&key(1)) && cache.has(&key(3)));
        assert_eq!((cache.gauge().bytes, cache.gauge().chunks, cache.gauge().evicted), (64 << 10, 2, 1));
        assert!(!cache.make_room(128 << 10, false));
        cache.put(key(4), &raw(128 << 10), 0, false);
        assert!(!cache.has(&key(4)), "larger than the limit");
        let (mut none, raw) = super::tests::cache(0);
        none.put(key(1), &raw(1), 0, false);
        assert_eq!(none.gauge().bytes, 0);
    }

    #[test]
    fn what_was_read_whole_leaves_before_what_was_not() {
        let (mut cache, raw) = cache(1 << 20);
        cache.put(key(1), &raw(64 << 10), 10, false);
        cache.put(key(2), &raw(64 << 10), 0, true);
        assert!(!cache.get(&key(2), 32 << 10).unwrap().spent);
        assert!(cache.get(&key(2), 32 << 10).unwrap().spent);
        assert!(cache.has(&key(2)), "the edges of it may be asked for once more");
        assert!(cache.make_room(900 << 10, false));
        assert!(cache.has(&key(1)) && !cache.has(&key(2)));
        assert_eq!(cache.gauge().ahead_used, (1, 64 << 10));
    }

    #[test]
    fn what_is_decoded_ahead_drops_nothing_that_waits_for_its_reader() {
        let (mut cache, raw) = cache(128 << 10);
        cache.put(key(1), &raw(64 << 10), 0, true);
        cache.put(key(2), &raw(64 << 10), 0, true);
        assert!(!cache.make_room(64 << 10, true) && cache.has(&key(1)));
        assert!(cache.make_room(64 << 10, false) && !cache.has(&key(1)));
        assert_eq!(cache.gauge().ahead_wasted, (1, 64 << 10));
    }
}
