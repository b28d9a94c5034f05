//! Single flight: of several readers that miss one chunk, the first decodes it and the others wait for its result.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::buffer::{Buffer, Pool};
use super::cost::Cost;
use super::memory::{Found, Gauge, Key, MemoryCache, Raw};
use super::sync::{Condvar, Mutex, lock, wait};
use crate::error::Result;

/// How a chunk was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was in memory.
    Hit,
    /// It was being decoded meanwhile.
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

/// Ends a flight when the leader leaves, by whatever way.
struct Leader<'a> {
    chunks: &'a Chunks,
    key: Key,
    flight: Arc<Flight>,
    raw: Option<Raw>,
    /// Bytes that the leader itself is going to read; `None` for a chunk that nobody asked for yet.
    read: Option<usize>,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.chunks.state);
        if let Some(raw) = &self.raw {
            state.memory.put(self.key, raw, self.read.unwrap_or(0), self.read.is_none());
        }
        state.flights.remove(&self.key);
        drop(state);
        *lock(&self.flight.landing) = self.raw.take().map_or(Landing::Crashed, Landing::Landed);
        self.flight.changed.notify_all();
    }
}

impl Chunks {
    /// An empty cache of buffers from `pool`.
    pub fn new(pool: Arc<Pool>) -> Self {
        Self { state: Mutex::new(State { memory: MemoryCache::new(pool), flights: HashMap::new() }) }
    }

    pub fn gauge(&self) -> Gauge {
        lock(&self.state).memory.gauge()
    }

    /// Whether the chunks are in memory, all of them.
    pub fn have(&self, keys: impl IntoIterator<Item = Key>) -> bool {
        let state = lock(&self.state);
        keys.into_iter().all(|key| state.memory.has(&key))
    }

    /// The chunk, of which `read` bytes are going to be read, if it is in memory.
    pub fn find(&self, key: Key, read: usize) -> Option<Found> {
        lock(&self.state).memory.get(&key, read)
    }

    /// Drops chunks so that buffers of `len` bytes in all fit, as far as that goes.
    pub fn make_room(&self, len: usize) {
        lock(&self.state).memory.make_room(len, false);
    }

    /// The chunk, from memory, from another's decode, or from `decode`, which runs without any lock held. `read` bytes of it
    /// are going to be read.
    ///
    /// # Errors
    /// Those of `decode`; nothing is kept then.
    pub fn get(&self, key: Key, read: usize, decode: impl Fn() -> Result<Buffer>) -> Result<(Found, Outcome)> {
        let mut outcome = Outcome::Hit;
        loop {
            let mut state = lock(&self.state);
            if let Some(found) = state.memory.get(&key, read) {
                return Ok((found, outcome));
            }
            if let Some(flight) = state.flights.get(&key).cloned() {
                drop(state);
                outcome = Outcome::Waited;
                // What has landed may be too large to be kept, or be gone again: what the flight holds counts.
                let begun = Instant::now();
                let landed = flight.wait();
                Cost::add(|cost| cost.wait += begun.elapsed());
                if let Some(raw) = landed {
                    let found = lock(&self.state).memory.get(&key, read);
                    return Ok((found.unwrap_or(Found { raw, spent: false }), outcome));
                }
                continue;
            }
            let mut leader = self.lead(key, Some(read), &mut state.flights);
            drop(state);
            let raw = Arc::new(decode()?);
            leader.raw = Some(Arc::clone(&raw));
            let spent = read >= raw.len();
            return Ok((Found { raw, spent }, Outcome::Decoded));
        }
    }

    /// Decodes a chunk that nobody asked for yet, unless it is there, or on its way, or `len` bytes have no room. Gives
    /// whether it did.
    ///
    /// # Errors
    /// Those of `decode`; nothing is kept then, and who wants the chunk will get an error of its own.
    pub fn ahead(&self, key: Key, len: usize, decode: impl FnOnce() -> Result<Buffer>) -> Result<bool> {
        let mut state = lock(&self.state);
        if state.memory.has(&key) || state.flights.contains_key(&key) || !state.memory.make_room(len, true) {
            return Ok(false);
        }
        let mut leader = self.lead(key, None, &mut state.flights);
        drop(state);
        leader.raw = Some(Arc::new(decode()?));
        Ok(true)
    }

    fn lead(&self, key: Key, read: Option<usize>, flights: &mut HashMap<Key, Arc<Flight>>) -> Leader<'_> {
        let flight = Arc::new(Flight { landing: Mutex::new(Landing::Flying), changed: Condvar::new() });
        flights.insert(key, Arc::clone(&flight));
        Leader { chunks: self, key, flight, raw: None, read }
    }
}

impl Flight {
    fn wait(&self) -> Option<Raw> {
        let mut landing = lock(&self.landing);
        loop {
            match &*landing {
                Landing::Flying => {
                    landing = wait(&self.changed, landing);
                }
                Landing::Landed(raw) => return Some(Arc::clone(raw)),
                Landing::Crashed => return None,
            }
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::format::ChunkId;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    const KEY: Key = Key { container: 1, chunk: ChunkId(0) };

    fn chunks(limit: u64) -> (Chunks, impl Fn(u8) -> Buffer) {
        let pool = Pool::new(limit);
        let make = {
            let pool = Arc::clone(&pool);
            move |byte| {
                let mut buffer = pool.take(10);
                buffer.fill(byte);
                buffer
            }
        };
        (Chunks::new(pool), make)
    }

    #[test]
    fn many_readers_decode_once() {
        let (chunks, make) = chunks(1 << 20);
        let decodes = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    let decode = || {
                        decodes.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(30));
                        Ok(make(7))
                    };
                    assert_eq!(**chunks.get(KEY, 1, decode).unwrap().0.raw, [7; 10]);
                });
            }
        });
        assert_eq!(decodes.load(Ordering::SeqCst), 1);
        assert_eq!(chunks.get(KEY, 1, || unreachable!()).unwrap().1, Outcome::Hit);
        assert!(!chunks.ahead(KEY, 10, || unreachable!()).unwrap());
    }

    #[test]
    fn after_a_failed_or_panicked_decode_the_next_reader_tries_again() {
        let (chunks, make) = chunks(1 << 20);
        let tries = AtomicUsize::new(0);
        let results: Vec<bool> = std::thread::scope(|s| {
            let readers: Vec<_> = (0..8)
                .map(|_| {
                    s.spawn(|| {
                        chunks.get(KEY, 1, || {
                            std::thread::sleep(Duration::from_millis(5));
                            match tries.fetch_add(1, Ordering::SeqCst) {
                                0..3 => Err(Error::invalid("on purpose")),
                                3 => panic!("on purpose"),
                                _ => Ok(make(1)),
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
    fn a_reader_waits_for_what_is_decoded_ahead_and_decodes_it_itself_when_that_fails() {
        let (chunks, make) = chunks(1 << 20);
        for fails in [false, true] {
            let key = Key { container: 2, chunk: ChunkId(fails.into()) };
            let (begun, reading) = std::sync::mpsc::channel();
            std::thread::scope(|s| {
                let (chunks, make) = (&chunks, &make);
                s.spawn(move || {
                    chunks.ahead(key, 10, || {
                        begun.send(()).unwrap();
                        std::thread::sleep(Duration::from_millis(20));
                        if fails { Err(Error::invalid("on purpose")) } else { Ok(make(3)) }
                    })
                });
                reading.recv().unwrap();
                let (found, outcome) = chunks.get(key, 1, || Ok(make(4))).unwrap();
                assert_eq!((found.raw[0], outcome), if fails { (4, Outcome::Decoded) } else { (3, Outcome::Waited) });
            });
        }
        assert_eq!(chunks.gauge().ahead_used.0, 1);
    }

    #[test]
    fn with_no_memory_at_all_readers_are_served_all_the_same() {
        let (chunks, make) = chunks(0);
        for _ in 0..3 {
            assert_eq!(chunks.get(KEY, 2, || Ok(make(1))).unwrap().1, Outcome::Decoded);
        }
        assert!(!chunks.ahead(KEY, 10, || unreachable!()).unwrap());
    }
}

/// Every interleaving that the scheduler finds: `RUSTFLAGS='--cfg shuttle' cargo test --lib shuttled`.
#[cfg(all(test, shuttle))]
mod shuttled {
    use super::*;
    use crate::error::Error;
    use crate::format::ChunkId;
    use shuttle::sync::atomic::{AtomicUsize, Ordering};
    use shuttle::thread;

    fn key(chunk: usize) -> Key {
        Key { container: 1, chunk: ChunkId(chunk as u32) }
    }

    /// Readers of two chunks, one that decodes them ahead, failing decodes, and memory for one chunk.
    #[test]
    fn readers_get_their_chunk_whatever_happens_when() {
        shuttle::check_random(
            || {
                let pool = Pool::new(10_000);
                let chunks = Arc::new(Chunks::new(Arc::clone(&pool)));
                let (flying, failures) =
                    (Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]), Arc::new(AtomicUsize::new(0)));
                let decode = {
                    let (pool, flying, failures) = (Arc::clone(&pool), Arc::clone(&flying), Arc::clone(&failures));
                    move |at: usize| {
                        assert_eq!(flying[at].fetch_add(1, Ordering::SeqCst), 0, "decoded by two at once");
                        thread::yield_now();
                        let fails = failures.fetch_add(1, Ordering::SeqCst) == 1;
                        flying[at].fetch_sub(1, Ordering::SeqCst);
                        if fails {
                            return Err(Error::invalid("on purpose"));
                        }
                        let mut buffer = pool.take(5000);
                        buffer.fill(at as u8);
                        Ok(buffer)
                    }
                };
                let mut threads = Vec::new();
                for reader in 0..3 {
                    let (chunks, decode) = (Arc::clone(&chunks), decode.clone());
                    threads.push(thread::spawn(move || {
                        for turn in 0..2 {
                            let at = (reader + turn) % 2;
                            if let Ok((found, _)) = chunks.get(key(at), 2500, || decode(at)) {
                                assert!(found.raw.iter().all(|&b| b == at as u8));
                            }
                        }
                    }));
                }
                let (ahead, decode) = (Arc::clone(&chunks), decode.clone());
                threads.push(thread::spawn(move || {
                    for at in 0..2 {
                        let _ = ahead.ahead(key(at), 5000, || decode(at));
                    }
                }));
                threads.into_iter().for_each(|t| t.join().unwrap());
                let state = lock(&chunks.state);
                assert!(state.flights.is_empty());
                assert!(state.memory.gauge().bytes <= 10_000);
            },
            20_000,
        );
    }
}
