//! Single flight: of several readers that miss one chunk, the first decodes it and the others wait for its result.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::memory::{Gauge, Key, MemoryCache, Raw};
use crate::error::Result;

/// How a chunk was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was in memory.
    Hit,
    /// Another reader decoded it meanwhile.
    Waited,
    /// It was decoded for this reader.
    Decoded,
}

/// The state of a decode that others wait for.
#[derive(Debug, Clone)]
enum Landing {
    Flying,
    Landed(Raw),
    /// The leader failed or panicked; who waited tries for itself, and so gets its own error.
    Crashed,
}

#[derive(Debug)]
struct Flight {
    landing: Mutex<Landing>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    memory: MemoryCache,
    flights: HashMap<Key, Arc<Flight>>,
}

/// The memory cache with single flight.
#[derive(Debug)]
pub struct Chunks {
    state: Mutex<State>,
}

/// A panic elsewhere does not make a cache's contents wrong: every change is made whole under the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a flight when the leader leaves, by whatever way.
struct Leader<'a> {
    chunks: &'a Chunks,
    key: Key,
    flight: Arc<Flight>,
    raw: Option<Raw>,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.chunks.state);
        if let Some(raw) = &self.raw {
            state.memory.put(self.key, raw);
        }
        state.flights.remove(&self.key);
        drop(state);
        *lock(&self.flight.landing) = self.raw.take().map_or(Landing::Crashed, Landing::Landed);
        self.flight.changed.notify_all();
    }
}

impl Chunks {
    /// An empty cache of at most `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { state: Mutex::new(State { memory: MemoryCache::new(limit), flights: HashMap::new() }) }
    }

    pub fn gauge(&self) -> Gauge {
        lock(&self.state).memory.gauge()
    }

    /// The chunk, from memory, from another reader's decode, or from `decode`, which runs without any lock held.
    ///
    /// # Errors
    /// Those of `decode`; nothing is kept then.
    pub fn get(&self, key: Key, decode: impl Fn() -> Result<Vec<u8>>) -> Result<(Raw, Outcome)> {
        loop {
            let mut state = lock(&self.state);
            if let Some(raw) = state.memory.get(&key) {
                return Ok((raw, Outcome::Hit));
            }
            if let Some(flight) = state.flights.get(&key).cloned() {
                drop(state);
                if let Some(raw) = flight.wait() {
                    return Ok((raw, Outcome::Waited));
                }
                continue;
            }
            let flight = Arc::new(Flight { landing: Mutex::new(Landing::Flying), changed: Condvar::new() });
            state.flights.insert(key, Arc::clone(&flight));
            drop(state);
            let mut leader = Leader { chunks: self, key, flight, raw: None };
            let raw = Arc::new(decode()?);
            leader.raw = Some(Arc::clone(&raw));
            return Ok((raw, Outcome::Decoded));
        }
    }
}

impl Flight {
    fn wait(&self) -> Option<Raw> {
        let mut landing = lock(&self.landing);
        loop {
            match &*landing {
                Landing::Flying => {
                    landing = self.changed.wait(landing).unwrap_or_else(PoisonError::into_inner);
                }
                Landing::Landed(raw) => return Some(Arc::clone(raw)),
                Landing::Crashed => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::format::ChunkId;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    const KEY: Key = Key { container: 1, chunk: ChunkId(0) };

    #[test]
    fn many_readers_decode_once() {
        let chunks = Chunks::new(1 << 20);
        let decodes = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    let decode = || {
                        decodes.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(30));
                        Ok(vec![7; 10])
                    };
                    assert_eq!(*chunks.get(KEY, decode).unwrap().0, vec![7; 10]);
                });
            }
        });
        assert_eq!(decodes.load(Ordering::SeqCst), 1);
        assert_eq!(chunks.get(KEY, || unreachable!()).unwrap().1, Outcome::Hit);
    }

    #[test]
    fn after_a_failed_or_panicked_decode_the_next_reader_tries_again() {
        let chunks = Chunks::new(1 << 20);
        let tries = AtomicUsize::new(0);
        let results: Vec<bool> = std::thread::scope(|s| {
            let readers: Vec<_> = (0..8)
                .map(|_| {
                    s.spawn(|| {
                        chunks.get(KEY, || {
                            std::thread::sleep(Duration::from_millis(5));
                            match tries.fetch_add(1, Ordering::SeqCst) {
                                0..3 => Err(Error::invalid("on purpose")),
                                3 => panic!("on purpose"),
                                _ => Ok(vec![1]),
                            }
                        })
                    })
                })
                .collect();
            readers.into_iter().map(|r| matches!(r.join(), Ok(Ok(_)))).collect()
        });
        assert_eq!(results.iter().filter(|ok| **ok).count(), 4);
        assert_eq!(tries.load(Ordering::SeqCst), 5);
        assert!(lock(&chunks.state).flights.is_empty());
    }

    #[test]
    fn with_no_memory_at_all_readers_are_served_all_the_same() {
        let chunks = Chunks::new(0);
        for _ in 0..3 {
            assert_eq!(chunks.get(KEY, || Ok(vec![1, 2])).unwrap().1, Outcome::Decoded);
        }
    }
}
