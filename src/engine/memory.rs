//! The memory cache: decoded chunks, least recently used out first, bounded in bytes.

use std::sync::Arc;

use lru::LruCache;

use crate::format::ChunkId;

/// A chunk of a container of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// [`Container::id`](crate::format::Container::id).
    pub container: u64,
    /// Which chunk.
    pub chunk: ChunkId,
}

/// The raw bytes of a chunk.
pub type Raw = Arc<Vec<u8>>;

/// Not synchronised: the owner locks it for a lookup, never for a decode.
#[derive(Debug)]
pub struct MemoryCache {
    chunks: LruCache<Key, Raw>,
    limit: u64,
    bytes: u64,
    evicted: u64,
}

/// What the cache holds now.
#[derive(Debug, Clone, Copy)]
pub struct Gauge {
    pub bytes: u64,
    pub limit: u64,
    pub chunks: u64,
    pub evicted: u64,
}

impl MemoryCache {
    pub fn new(limit: u64) -> Self {
        Self { chunks: LruCache::unbounded(), limit, bytes: 0, evicted: 0 }
    }

    pub fn get(&mut self, key: &Key) -> Option<Raw> {
        self.chunks.get(key).cloned()
    }

    /// Keeps a chunk; drops the least recently used ones first if it would not fit. A chunk above the limit is not kept.
    pub fn put(&mut self, key: Key, raw: &Raw) {
        let len = raw.len() as u64;
        if len > self.limit {
            return;
        }
        while self.bytes > self.limit - len {
            let Some((_, old)) = self.chunks.pop_lru() else { break };
            self.bytes -= old.len() as u64;
            self.evicted += 1;
        }
        self.bytes += len;
        if let Some(old) = self.chunks.put(key, Arc::clone(raw)) {
            self.bytes -= old.len() as u64;
        }
    }

    pub fn gauge(&self) -> Gauge {
        Gauge { bytes: self.bytes, limit: self.limit, chunks: self.chunks.len() as u64, evicted: self.evicted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(chunk: u32) -> Key {
        Key { container: 1, chunk: ChunkId(chunk) }
    }

    #[test]
    fn bytes_stay_within_the_limit_and_the_least_recently_used_leaves_first() {
        let mut cache = MemoryCache::new(100);
        let raw = |len| Arc::new(vec![0; len]);
        cache.put(key(1), &raw(40));
        cache.put(key(2), &raw(40));
        assert!(cache.get(&key(1)).is_some());
        cache.put(key(3), &raw(40));
        assert!(cache.get(&key(2)).is_none() && cache.get(&key(1)).is_some() && cache.get(&key(3)).is_some());
        cache.put(key(3), &raw(10));
        assert_eq!((cache.gauge().bytes, cache.gauge().chunks, cache.gauge().evicted), (50, 2, 1));
        cache.put(key(4), &raw(101));
        assert!(cache.get(&key(4)).is_none() && cache.get(&key(1)).is_some());
        cache.put(key(5), &raw(100));
        assert_eq!((cache.gauge().bytes, cache.gauge().chunks), (100, 1));
        let mut none = MemoryCache::new(0);
        none.put(key(1), &raw(1));
        assert_eq!(none.gauge().bytes, 0);
    }
}
