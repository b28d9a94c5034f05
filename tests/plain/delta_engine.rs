//! Chunks that need other chunks: the right bytes from many threads at once however little memory there is, an end, and one decode
//! for all that need the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::channel;
use std::time::Duration;

use bsfs::codec::Mode;
use bsfs::compress::{Against, BaseSource, Options, compress, duplicates};
use bsfs::engine::{Engine, EngineConfig, Finder, Image, Places};
use bsfs::format::Container;
use bsfs::source::FileSource;

use crate::common::noise;

/// A file of two BF16 tensors of `elements` each, the second the same as the first if it is `tied`.
fn original(elements: usize, seed: u64, tied: bool) -> Vec<u8> {
    let len = 2 * elements;
    let entry = |name: &str, at: usize| {
        format!(r#""{name}":{{"dtype":"BF16","shape":[{elements}],"data_offsets":[{at},{}]}}"#, at + len)
    };
    let header = format!("{{{},{}}}", entry("a", 0), entry("b", len));
    let numbers =
        |seed| noise(seed, len).into_iter().enumerate().map(|(i, b)| if i % 2 == 1 { 0x3c | b & 0x81 } else { b });
    let second = if tied { seed } else { seed + 1 };
    let data: Vec<u8> = numbers(seed).chain(numbers(second)).collect();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

/// Every third number a little larger.
fn moved(file: &[u8], by: u8) -> Vec<u8> {
    let head = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut file = file.to_vec();
    file[head..].chunks_exact_mut(6).for_each(|n| n[0] = n[0].wrapping_add(by));
    file
}

fn pack(input: &Path, output: &Path, against: &Against) {
    let stop = AtomicBool::new(false);
    let options =
        Options { mode: Mode::Balanced, chunk_len: Some(64 << 10), force: true, against: Some(against), stop: &stop };
    compress(&bsfs::parallel::pool(2).unwrap(), input, output, &options, &()).unwrap();
}

/// Containers, each with its original.
struct Shelf {
    dir: tempfile::TempDir,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Shelf {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), files: Vec::new() }
    }

    /// Packs `bytes` against the original of number `base`.
    fn add(&mut self, bytes: Vec<u8>, base: Option<usize>) -> usize {
        let number = self.files.len();
        let input = self.dir.path().join(format!("originals/m{number}.safetensors"));
        fs::create_dir_all(input.parent().unwrap()).unwrap();
        fs::write(&input, &bytes).unwrap();
        let open = |path: &Path| Arc::new(FileSource::open(path).unwrap());
        let base = base.map(|n| self.dir.path().join(format!("originals/m{n}.safetensors")));
        let bases = base.map(|path| Arc::new(BaseSource::plain(open(&path)).unwrap()));
        let pool = bsfs::parallel::pool(2).unwrap();
        let twice = duplicates(&pool, std::slice::from_ref(&input), None);
        let against = Against::new(bases.into_iter().collect()).with_duplicates(0, &twice[0], |_| unreachable!());
        let output = self.dir.path().join(format!("m{number}.safetensors.bs"));
        pack(&input, &output, &against.unwrap());
        self.files.push((output, bytes));
        number
    }

    /// All opened, by one engine and one finder.
    fn open(&self, engine: &Arc<Engine>) -> Vec<Image> {
        let finder = Arc::new(Finder::new(Places::default()));
        let open = |(path, _): &(PathBuf, Vec<u8>)| {
            let source = Arc::new(FileSource::open(path).unwrap());
            let container = Arc::new(Container::open(&*source).unwrap());
            finder.remember(source.identity(), &container);
            finder.image(engine, container, (&(Arc::new(bsfs::source::LocalTree::default()) as _), source))
        };
        self.files.iter().map(open).collect()
    }

    fn chunks(&self) -> u64 {
        let count =
            |(path, _): &(PathBuf, Vec<u8>)| Container::open(&FileSource::open(path).unwrap()).unwrap().chunk_count();
        self.files.iter().map(|file| u64::from(count(file))).sum()
    }
}

/// Runs `test` on a thread of its own, which has two minutes: a deadlock is a failure and no endless test.
fn watched(test: impl FnOnce() + Send + 'static) {
    let (send, receive) = channel();
    let thread = std::thread::spawn(move || {
        test();
        send.send(()).unwrap();
    });
    match receive.recv_timeout(Duration::from_secs(120)) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("it does not end"),
        _ => thread.join().unwrap(),
    }
}

#[test]
fn sixteen_threads_on_a_chain_get_the_right_bytes_whatever_the_memory() {
    let mut shelf = Shelf::new();
    let base = original(120_000, 1, false);
    let first = shelf.add(base.clone(), None);
    let second = shelf.add(moved(&base, 1), Some(first));
    let third = shelf.add(moved(&base, 2), Some(second));
    shelf.add(moved(&base, 3), Some(third));
    let tied = shelf.add(original(120_000, 5, true), None);
    assert!(
        fs::metadata(&shelf.files[tied].0).unwrap().len() < fs::metadata(&shelf.files[first].0).unwrap().len() * 6 / 10
    );
    assert!(fs::metadata(&shelf.files[3].0).unwrap().len() < fs::metadata(&shelf.files[first].0).unwrap().len() / 2);
    let shelf = Arc::new(shelf);
    watched(move || {
        for memory in [4 << 10, 64 << 10, 200 << 10, 1 << 20] {
            let engine = Engine::new(EngineConfig { memory, threads: 4, ..EngineConfig::default() });
            let images = shelf.open(&engine);
            std::thread::scope(|scope| {
                for thread in 0..16_usize {
                    let (shelf, images) = (&shelf, &images);
                    scope.spawn(move || {
                        for turn in 0..40 {
                            let at = (thread + turn) % images.len();
                            let (image, raw) = (&images[at], &shelf.files[at].1);
                            let offset = (thread * 104_729 + turn * 31_337) % raw.len();
                            let expected = &raw[offset..raw.len().min(offset + 90_000)];
                            if turn % 2 == 0 {
                                assert!(
                                    *image.read_at(offset as u64, 90_000).unwrap() == *expected,
                                    "{at} at {offset}"
                                );
                                continue;
                            }
                            let (send, receive) = channel();
                            image.read(offset as u64, 90_000, move |bytes| {
                                send.send(bytes.map(|b| b.to_vec())).unwrap()
                            });
                            assert!(receive.recv().unwrap().unwrap() == expected, "{at} at {offset}");
                        }
                    });
                }
            });
            let stats = engine.stats();
            assert_eq!(stats.errors, 0);
            assert!(stats.memory_bytes <= memory, "{stats:?}");
        }
    });
}

#[test]
fn a_base_is_decoded_once_for_ten_that_need_it() {
    let mut shelf = Shelf::new();
    let base = original(100_000, 11, false);
    shelf.add(base.clone(), None);
    for n in 1..=10 {
        shelf.add(moved(&base, n), Some(0));
    }
    let engine = Engine::new(EngineConfig { memory: 256 << 20, ..EngineConfig::default() });
    let images = shelf.open(&engine);
    // Fine-tunes before their base, and two at a time.
    std::thread::scope(|scope| {
        for half in [0, 1] {
            let (images, shelf) = (&images, &shelf);
            scope.spawn(move || {
                for at in (0..images.len()).rev().filter(|at| at % 2 == half) {
                    let raw = &shelf.files[at].1;
                    for offset in (0..raw.len()).step_by(50_000) {
                        let expected = &raw[offset..raw.len().min(offset + 50_000)];
                        assert!(*images[at].read_at(offset as u64, 50_000).unwrap() == *expected);
                    }
                }
            });
        }
    });
    let stats = engine.stats();
    assert_eq!((stats.decoded_chunks, stats.evicted_chunks), (shelf.chunks(), 0), "{stats:?}");
    // One piece of one fine-tune needs one chunk of it and one of the base.
    let engine = Engine::new(EngineConfig { memory: 256 << 20, ahead: false, ..EngineConfig::default() });
    let images = shelf.open(&engine);
    assert!(*images[4].read_at(110_000, 1000).unwrap() == shelf.files[4].1[110_000..111_000]);
    assert_eq!(engine.stats().decoded_chunks, 2, "{:?}", engine.stats());
}

#[test]
fn without_a_finder_what_needs_no_base_is_read_and_the_rest_is_named() {
    let mut shelf = Shelf::new();
    let base = original(60_000, 21, false);
    shelf.add(base.clone(), None);
    let mut tuned = moved(&base, 1);
    let (half, all) = (tuned.len() / 2 + 60, tuned.len());
    tuned[half..].copy_from_slice(&noise(99, all - half));
    let at = shelf.add(tuned.clone(), Some(0));
    let engine = Engine::new(EngineConfig::default());
    let source = Arc::new(FileSource::open(&shelf.files[at].0).unwrap());
    let container = Arc::new(Container::open(&*source).unwrap());
    let image = engine.image(container, source);
    assert!(*image.read_at(half as u64 + 70_000, 1000).unwrap() == tuned[half + 70_000..half + 71_000]);
    let error = image.read_at(1000, 1000).unwrap_err();
    assert!(
        matches!(&error, bsfs::Error::NoBase { want, hint, .. } if want.contains("tensor 'a'") && hint.ends_with("m0.safetensors"))
    );
    assert_eq!(engine.stats().errors, 1);
}
