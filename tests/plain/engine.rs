//! The read side on containers of our own: byte identity, bounded memory, damage, determinism.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::common;
use bsfs::codec::Mode;
use bsfs::compress::{Options, compress};
use bsfs::engine::{Cost, Engine, EngineConfig, Image, Whole, verify};
use bsfs::error::Error;
use bsfs::format::{ChunkId, Container};
use bsfs::source::{FileSource, MemorySource, ReadAt};

/// A safetensors file of odd parts, and its container.
fn sample() -> (Vec<u8>, Vec<u8>) {
    let mut data = Vec::new();
    let mut header = String::from(r#"{"__metadata__":{"a":"b"}"#);
    let mut add = |name: &str, dtype: &str, shape: &str, bytes: &[u8]| {
        header += &format!(
            r#","{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{},{}]}}"#,
            data.len(),
            data.len() + bytes.len()
        );
        data.extend_from_slice(bytes);
    };
    let weights: Vec<u8> = (0..300_000_u32)
        .flat_map(|i| {
            [
                (i.wrapping_mul(2_654_435_761) >> 24) as u8,
                [0x3c, 0x3d, 0xbc, 0xbd][(i.wrapping_mul(i) >> 3) as usize % 4],
            ]
        })
        .collect();
    add("scalar", "F32", "[]", &1.5_f32.to_le_bytes());
    add("weights", "BF16", "[300,1000]", &weights);
    add("empty", "F16", "[0]", &[]);
    add("odd", "F9", "[3]", &[1, 2, 3]);
    header += "}   ";
    let mut raw = (header.len() as u64).to_le_bytes().to_vec();
    raw.extend(header.bytes());
    raw.extend(&data);
    raw.extend(b"trailing bytes");
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("m.safetensors"), dir.path().join("m.safetensors.bs"));
    std::fs::write(&input, &raw).unwrap();
    let stop = AtomicBool::new(false);
    let options = Options { mode: Mode::Balanced, chunk_len: Some(64 << 10), force: false, against: None, stop: &stop };
    let pool = bsfs::parallel::pool(2).unwrap();
    compress(&pool, &input, &output, &options, &()).unwrap();
    (raw, std::fs::read(&output).unwrap())
}

fn open(engine: &Arc<Engine>, packed: Vec<u8>) -> bsfs::Result<Image> {
    let source = Arc::new(MemorySource::new("m.bs", packed));
    let container = Arc::new(Container::open(&*source)?);
    Ok(engine.image(container, source))
}

fn engine(memory: u64) -> Arc<Engine> {
    Engine::new(EngineConfig { memory, ..EngineConfig::default() })
}

#[test]
fn any_range_equals_the_original_whatever_the_memory() {
    let (raw, packed) = sample();
    for memory in [0, 100_000, 1 << 30] {
        let engine = engine(memory);
        let image = open(&engine, packed.clone()).unwrap();
        assert_eq!(image.len(), raw.len() as u64);
        assert_eq!(&*image.read_at(0, raw.len() + 10).unwrap(), &raw[..]);
        let mut seed = 7_u64;
        for _ in 0..2000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            let offset = (seed >> 33) as usize % (raw.len() + 20);
            let size = [1, 5, 512, 4096, 70_000, 200_000][(seed >> 20) as usize % 6];
            let expected = raw.get(offset..raw.len().min(offset + size)).unwrap_or_default();
            assert_eq!(&*image.read_at(offset as u64, size).unwrap(), expected);
        }
        assert_eq!(image.read_at(u64::MAX, 4096).unwrap().len(), 0);
        let stats = engine.stats();
        assert!(stats.memory_bytes <= memory && stats.errors == 0 && stats.misses == stats.decoded_chunks);
        assert_eq!(stats.hits > 0, memory > 0);
    }
}

#[test]
fn many_threads_with_less_memory_than_chunks_get_the_right_bytes() {
    let (raw, packed) = sample();
    let engine = engine(192 << 10);
    let image = open(&engine, packed).unwrap();
    std::thread::scope(|s| {
        for t in 0..8_usize {
            let (raw, image) = (&raw, &image);
            s.spawn(move || {
                for i in 0..300 {
                    let offset = (t * 7919 + i * 104_729) % raw.len();
                    let expected = &raw[offset..raw.len().min(offset + 100_000)];
                    assert_eq!(&*image.read_at(offset as u64, 100_000).unwrap(), expected);
                }
            });
        }
    });
    assert!(engine.stats().evicted_chunks > 0);
}

/// A source that takes a while, and adds up how long.
struct Slow {
    bytes: MemorySource,
    each: Duration,
    spent: AtomicU64,
}

impl ReadAt for Slow {
    fn path(&self) -> &Path {
        self.bytes.path()
    }

    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> bsfs::Result<()> {
        let begun = Instant::now();
        std::thread::sleep(self.each);
        let done = self.bytes.read_exact_at(offset, buf);
        self.spent.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
        done
    }
}

#[test]
fn the_cost_of_a_read_is_its_own_and_not_that_of_its_threads_earlier_work() {
    let (raw, packed) = sample();
    let container = Arc::new(Container::open(&MemorySource::new("m.bs", packed.clone())).unwrap());
    let bytes = MemorySource::new("m.bs", packed);
    let source = Arc::new(Slow { bytes, each: Duration::from_millis(10), spent: AtomicU64::new(0) });
    let engine = Engine::new(EngineConfig { memory: 0, threads: 1, ahead: false, ..EngineConfig::default() });
    let image = engine.image(container, Arc::clone(&source) as Arc<dyn ReadAt>);
    let mut told = Duration::ZERO;
    // From behind the header, which is in memory.
    for n in 1..20 {
        let (send, receive) = mpsc::channel();
        // The thread that gives the answer is the one that did the work.
        image.read(n * 30_000, 100, move |result| send.send((result.unwrap().to_vec(), Cost::last())).unwrap());
        let (bytes, cost) = receive.recv().unwrap();
        assert!(bytes == raw[n as usize * 30_000..][..100]);
        assert!(cost.source >= source.each, "{cost:?}");
        told += cost.source;
    }
    let spent = Duration::from_nanos(source.spent.load(Ordering::Relaxed));
    assert!(told <= spent + spent / 10, "{told:?} were told of {spent:?}");
}

#[test]
fn all_buffers_keep_to_the_bound_however_many_threads_read() {
    const MEMORY: u64 = 32 << 20;
    let raw = common::safetensors(5, 16 << 20);
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("m.safetensors"), dir.path().join("m.safetensors.bs"));
    std::fs::write(&input, &raw).unwrap();
    common::pack(&input, &output);
    let packed = std::fs::read(output).unwrap();
    let container = Arc::new(Container::open(&MemorySource::new("m.bs", packed.clone())).unwrap());
    let bytes = MemorySource::new("m.bs", packed);
    let source: Arc<dyn ReadAt> = Arc::new(Slow { bytes, each: Duration::from_millis(2), spent: AtomicU64::new(0) });
    let engine = Engine::new(EngineConfig { memory: MEMORY, threads: 64, ..EngineConfig::default() });
    let images: Vec<_> = (0..8).map(|_| engine.image(Arc::clone(&container), Arc::clone(&source))).collect();
    let (peak, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(engine.stats().buffer_bytes, Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
        let readers: Vec<_> = (0..64_usize)
            .map(|thread| {
                let (raw, image) = (&raw, &images[thread % images.len()]);
                scope.spawn(move || {
                    for n in 0..20 {
                        let at = (thread * 7_919_003 + n * 1_048_577) % raw.len();
                        let expected = &raw[at..raw.len().min(at + (1 << 20))];
                        let (send, receive) = mpsc::channel();
                        image.read(at as u64, 1 << 20, move |bytes| send.send(bytes.unwrap().to_vec()).unwrap());
                        assert!(receive.recv().unwrap() == expected, "at {at}");
                    }
                })
            })
            .collect();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    let peak = peak.into_inner();
    assert!(peak <= MEMORY, "{peak} bytes of {MEMORY}");
    assert!(engine.stats().ahead_chunks > 0 && peak > MEMORY / 2, "{peak}");
}

/// Pages of a file that the page cache has, of all its pages.
fn pages_in_memory(path: &Path) -> (usize, usize) {
    let file = std::fs::File::open(path).unwrap();
    // SAFETY: nothing changes the file meanwhile.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    let mut pages = vec![0_u8; map.len().div_ceil(4096)];
    // SAFETY: a mapping of that length, and a byte for each of its pages.
    let done = unsafe { libc::mincore(map.as_ptr().cast_mut().cast(), map.len(), pages.as_mut_ptr()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    (pages.iter().filter(|page| **page & 1 == 1).count(), pages.len())
}

#[test]
fn packed_bytes_leave_the_page_cache_if_this_engine_read_them_in_and_stay_if_others_did() {
    let raw = common::safetensors(6, 24 << 20);
    // On a disk, where that may be: what lies in memory alone cannot leave it.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (input, output) = (dir.path().join("m.safetensors"), dir.path().join("m.safetensors.bs"));
    std::fs::write(&input, &raw).unwrap();
    common::pack(&input, &output);
    let file = std::fs::File::open(&output).unwrap();
    file.sync_all().unwrap();
    let forget = || rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let read = || {
        let source: Arc<dyn ReadAt> = Arc::new(FileSource::open(&output).unwrap());
        let container = Arc::new(Container::open(&*source).unwrap());
        let engine = Engine::new(EngineConfig { ahead: false, ..EngineConfig::default() });
        let image = engine.image(container, source);
        for at in (0..raw.len()).step_by(1 << 20) {
            assert!(*image.read_at(at as u64, 1 << 20).unwrap() == raw[at..raw.len().min(at + (1 << 20))]);
        }
    };
    forget();
    if pages_in_memory(&output).0 > 0 || FileSource::open(&output).unwrap().in_memory(0, 1).is_none() {
        return common::skip("the system does not say what it has in memory, or does not drop it");
    }
    read();
    let (left, all) = pages_in_memory(&output);
    // What the header and the index lie in was in memory when they had been read.
    assert!(left < all / 2, "{left} of {all} pages are there twice");
    // Another process keeps it warm. The system may need pages for itself meanwhile, which is no fault of the engine.
    let stays = || {
        std::fs::read(&output).unwrap();
        read();
        pages_in_memory(&output) == (all, all)
    };
    assert!((0..5).any(|_| stays()), "what others keep warm leaves: {:?}", pages_in_memory(&output));
}

#[test]
fn no_flip_and_no_truncation_gives_wrong_bytes() {
    let (raw, packed) = sample();
    let engine = engine(0);
    let flips = (0..packed.len()).step_by(97).chain(0..300).chain(packed.len() - 300..packed.len());
    let (mut tried, mut noticed) = (0, 0);
    for at in flips {
        tried += 1;
        let mut damaged = packed.clone();
        damaged[at] ^= 1 << (at % 8);
        let read = open(&engine, damaged).and_then(|image| image.read_at(0, raw.len()));
        match read {
            // Some bits of a zstd frame do not matter to what it inflates to.
            Ok(bytes) => assert!(*bytes == *raw, "the flip at {at} gave wrong bytes"),
            Err(error) => {
                noticed += 1;
                assert!(error.to_string().contains("m.bs"), "{error}");
            }
        }
    }
    assert!(noticed * 100 > tried * 98, "{noticed} of {tried}");
    for len in (0..packed.len()).step_by(501) {
        assert!(open(&engine, packed[..len].to_vec()).is_err());
    }
}

#[test]
fn a_damaged_chunk_names_its_tensor_and_the_others_are_read() {
    let (raw, mut packed) = sample();
    let engine = engine(1 << 20);
    let container = Container::open(&MemorySource::new("m.bs", packed.clone())).unwrap();
    let chunk = container.chunk(ChunkId(3)).unwrap();
    packed[chunk.packed_offset as usize + 100] ^= 0x10;
    let image = open(&engine, packed).unwrap();
    let Err(error) = image.read_at(chunk.raw_offset, 1) else { panic!("damage not noticed") };
    assert!(
        matches!(&error, Error::Chunk { tensor, raw_offset, .. } if tensor == "weights" && *raw_offset == chunk.raw_offset)
    );
    assert_eq!(&*image.read_at(0, 1000).unwrap(), &raw[..1000]);
    assert_eq!(engine.stats().errors, 1);
}

#[test]
fn verify_passes_a_sound_container_and_names_a_difference() {
    let (raw, packed) = sample();
    let pool = bsfs::parallel::pool(2).unwrap();
    let stop = AtomicBool::new(false);
    let source = MemorySource::new("m.bs", packed);
    let container = Container::open(&source).unwrap();
    let mut seen = 0;
    let original = MemorySource::new("m.safetensors", raw.clone());
    let verified = verify(&pool, Whole::new(&container, &source), Some(&original), &stop, &mut |_, bytes| {
        seen += bytes.len() as u64;
        Ok(())
    })
    .unwrap();
    assert_eq!((verified.raw_bytes, verified.tensors), (raw.len() as u64, 4));
    assert_eq!(seen, raw.len() as u64);
    let mut other = raw;
    other[2000] ^= 1;
    let other = MemorySource::new("other", other);
    let text = verify(&pool, Whole::new(&container, &source), Some(&other), &stop, &mut |_, _| Ok(()))
        .unwrap_err()
        .to_string();
    assert!(text.contains("byte at offset 2000 (tensor 'weights') of other differs"), "{text}");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(
        verify(&pool, Whole::new(&container, &source), None, &stop, &mut |_, _| Ok(())),
        Err(Error::Interrupted)
    ));
}

#[test]
fn the_same_file_gives_the_same_container_whatever_the_threads() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, _) = sample();
    let input = dir.path().join("m.safetensors");
    std::fs::write(&input, &raw).unwrap();
    let stop = AtomicBool::new(false);
    let mut containers = Vec::new();
    for threads in [1, 2, 5] {
        let pool = bsfs::parallel::pool(threads).unwrap();
        let output = dir.path().join(format!("{threads}.bs"));
        for chunk_len in [Some(64 << 10), None] {
            let options = Options { mode: Mode::Balanced, chunk_len, force: true, against: None, stop: &stop };
            compress(&pool, &input, &output, &options, &()).unwrap();
            containers.push(std::fs::read(&output).unwrap());
        }
        let source = FileSource::open(&output).unwrap();
        assert_eq!(Container::open(&source).unwrap().file().name, b"m.safetensors");
    }
    assert!(containers[0] == containers[2] && containers[2] == containers[4]);
    assert!(containers[1] == containers[3] && containers[3] == containers[5]);
}

/// Bytes in memory that count who reads them, and wait while a gate is shut.
struct Gated {
    inner: MemorySource,
    reads: std::sync::atomic::AtomicUsize,
    shut: std::sync::Mutex<bool>,
    opened: std::sync::Condvar,
}

impl Gated {
    fn new(packed: Vec<u8>) -> Arc<Self> {
        let inner = MemorySource::new("gated.bs", packed);
        Arc::new(Self { inner, reads: 0.into(), shut: false.into(), opened: std::sync::Condvar::new() })
    }

    fn shut(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.opened.notify_all();
    }

    fn reads(&self) -> usize {
        self.reads.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl ReadAt for Gated {
    fn path(&self) -> &std::path::Path {
        self.inner.path()
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> bsfs::Result<()> {
        self.reads.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let shut = self.shut.lock().unwrap();
        drop(self.opened.wait_while(shut, |shut| *shut).unwrap());
        self.inner.read_exact_at(offset, buf)
    }
}

/// The bytes of a read that may be answered by another thread.
fn ask(image: &Image, offset: usize, size: usize) -> std::sync::mpsc::Receiver<bsfs::Result<Vec<u8>>> {
    let (send, receive) = std::sync::mpsc::channel();
    image.read(offset as u64, size, move |bytes| drop(send.send(bytes.map(|bytes| bytes.to_vec()))));
    receive
}

const SOON: std::time::Duration = std::time::Duration::from_secs(20);

/// A BF16 tensor of 8 MiB, and its container of 128 chunks.
fn large() -> (Vec<u8>, Vec<u8>) {
    let header = r#"{"w":{"dtype":"BF16","shape":[4194304],"data_offsets":[0,8388608]}}"#;
    let mut raw = (header.len() as u64).to_le_bytes().to_vec();
    raw.extend(header.bytes());
    raw.extend((0..4_194_304_u32).flat_map(|i| {
        [(i.wrapping_mul(2_654_435_761) >> 24) as u8, [0x3c, 0x3d, 0xbc, 0xbd][(i.wrapping_mul(i) >> 3) as usize % 4]]
    }));
    let stop = AtomicBool::new(false);
    let options = Options { mode: Mode::Balanced, chunk_len: Some(64 << 10), force: false, against: None, stop: &stop };
    let pool = bsfs::parallel::pool(2).unwrap();
    let made = bsfs::compress::encode_in_memory(&pool, &MemorySource::new("w", raw.clone()), (0, 0), &options, &());
    (raw, made.unwrap().container)
}

#[test]
fn what_is_answered_by_other_threads_equals_the_original_and_streams_are_decoded_ahead() {
    let (raw, packed) = large();
    for memory in [0, 300_000, 2 << 20, 64 << 20] {
        let engine = engine(memory);
        let image = open(&engine, packed.clone()).unwrap();
        for at in (0..raw.len() + 200_000).step_by(100_000) {
            let expected = &raw[raw.len().min(at)..raw.len().min(at + 100_000)];
            assert!(
                ask(&image, at, 100_000).recv_timeout(SOON).unwrap().unwrap() == expected,
                "at {at}, memory {memory}"
            );
        }
        let stats = engine.stats();
        assert_eq!(stats.errors, 0);
        assert!(memory < 2 << 20 || stats.ahead_used > 20, "{stats:?}");
        assert!(stats.buffer_bytes <= memory + (1 << 20), "{stats:?}");
    }
}

#[test]
fn many_readers_stay_within_the_memory() {
    let (raw, packed) = large();
    let engine = engine(1 << 20);
    let image = open(&engine, packed).unwrap();
    let most = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|s| {
        for reader in 0..64_usize {
            let (engine, image, raw, most) = (&engine, &image, &raw, &most);
            s.spawn(move || {
                for turn in 0..20 {
                    let at = (reader * 131_072 + turn * 6000) % raw.len();
                    let bytes = ask(image, at, 6000).recv_timeout(SOON).unwrap().unwrap();
                    assert!(bytes == raw[at..raw.len().min(at + 6000)]);
                    most.fetch_max(engine.stats().buffer_bytes, std::sync::atomic::Ordering::SeqCst);
                }
            });
        }
    });
    // What is being decoded for readers is had in any case: 8 threads for one file at most, two buffers each.
    assert!(most.into_inner() <= (1 << 20) + 8 * 2 * (128 << 10));
}

#[test]
fn a_source_that_hangs_stalls_only_its_own_readers() {
    let (raw, packed) = large();
    let engine = engine(64 << 20);
    let slow = Gated::new(packed.clone());
    let container = Arc::new(Container::open(&*slow).unwrap());
    let stalled = engine.image(container, slow.clone());
    let other = open(&engine, packed).unwrap();
    slow.shut(true);
    let waiting: Vec<_> = (0..100).map(|i| ask(&stalled, i * 80_000, 1000)).collect();
    for at in [0, 5_000_000, 1_000_000] {
        assert!(ask(&other, at, 200_000).recv_timeout(SOON).unwrap().unwrap() == raw[at..at + 200_000]);
    }
    slow.shut(false);
    for (i, answer) in waiting.into_iter().enumerate() {
        assert!(answer.recv_timeout(SOON).unwrap().unwrap() == raw[i * 80_000..i * 80_000 + 1000]);
    }
}

#[test]
fn closing_a_file_ends_the_work_ahead_of_its_readers() {
    let (_, packed) = large();
    let engine = engine(64 << 20);
    let source = Gated::new(packed);
    let container = Arc::new(Container::open(&*source).unwrap());
    let image = engine.image(container, source.clone());
    source.shut(true);
    // 2 MiB, 32 chunks, are planned behind these, and wait as the readers do.
    for at in 0..6 {
        drop(ask(&image, at * 65_536, 65_536));
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    let before = source.reads();
    drop(image);
    source.shut(false);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(source.reads() <= before + 12, "{} reads after {before}: more than readers asked for", source.reads());
    let settled = source.reads();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(source.reads(), settled);
}
