//! BigSmall's containers through the read engine: every fixture, any order of reads, little memory, damage.

use crate::common;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use bsfs::cache::{Config, Store};
use bsfs::engine::{BaseFile, Disk, Engine, EngineConfig, Image, Keep};
use bsfs::foreign::bigsmall::Presented;
use bsfs::foreign::bigsmall::codec::{Coding, encode};
use bsfs::foreign::bigsmall::format::{Container, Finished, ShardIndex, header};
use bsfs::source::{FileSource, Identity, MemorySource, ReadAt};
use bsfs::tensor::ElemType;
use bsfs::{Error, parallel};
use md5::{Digest as _, Md5};
use sha2::Sha256;

const WINDOW: u64 = 512 << 10;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bigsmall")
}

fn engine(memory: u64) -> Arc<Engine> {
    Engine::new(EngineConfig { memory, threads: 2, ..EngineConfig::default() })
}

fn whole(image: &Image) -> bsfs::Result<Vec<u8>> {
    let mut all = Vec::new();
    while (all.len() as u64) < image.len() {
        all.extend_from_slice(&image.read_at(all.len() as u64, 1 << 20)?);
    }
    Ok(all)
}

/// Tensors of a safetensors file: name to dtype, shape and bytes.
fn tensors(file: &[u8]) -> BTreeMap<String, (String, Vec<u64>, Vec<u8>)> {
    let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&file[8..8 + len]).unwrap();
    let data = &file[8 + len..];
    let entries = json.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    entries
        .map(|(name, entry)| {
            let at = |i: usize| entry["data_offsets"][i].as_u64().unwrap() as usize;
            let shape = entry["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
            (name.clone(), (entry["dtype"].as_str().unwrap().to_owned(), shape, data[at(0)..at(1)].to_vec()))
        })
        .collect()
}

struct Opened {
    presented: Arc<Presented>,
    source: Arc<dyn ReadAt>,
    base: Option<Arc<BaseFile>>,
}

fn open(path: &Path, base: Option<&Path>) -> Opened {
    let source: Arc<dyn ReadAt> = Arc::new(FileSource::open(path).unwrap());
    let container = Arc::new(Container::open(&*source).unwrap());
    let index = fs::read(path.with_file_name("bigsmall.index.json")).ok();
    let index = index.map(|json| ShardIndex::parse(path, &json).unwrap());
    let duplicates = index.as_ref().map_or(&[][..], |i| i.duplicates(path.file_name().unwrap().to_str().unwrap()));
    let presented = Presented::new(&container, duplicates.iter().map(|d| (&*d.name, &*d.master))).unwrap();
    let base = base.map(|path| Arc::new(BaseFile::plain(Arc::new(FileSource::open(path).unwrap())).unwrap()));
    Opened { presented: Arc::new(presented), source, base }
}

impl Opened {
    fn image(&self, engine: &Arc<Engine>) -> Image {
        engine.foreign(self.presented.clone(), Arc::clone(&self.source), self.base.clone())
    }
}

#[test]
fn every_fixture_is_shown_bit_for_bit() {
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(fixtures().join("manifest.json")).unwrap()).unwrap();
    let pool = parallel::pool(2).unwrap();
    let mut checked = 0;
    for file in manifest["files"].as_array().unwrap() {
        let path = fixtures().join(file["path"].as_str().unwrap());
        let base = file["base"].as_str().map(|base| fixtures().join(base));
        let opened = open(&path, base.as_deref());
        for memory in [0, 1 << 20, 256 << 20] {
            let engine = engine(memory);
            let shown = whole(&opened.image(&engine)).unwrap();
            let found = tensors(&shown);
            for tensor in file["tensors"].as_array().unwrap() {
                let name = tensor["name"].as_str().unwrap();
                let Some((dtype, shape, bytes)) = found.get(name) else { panic!("{}: no {name}", path.display()) };
                assert_eq!(dtype, tensor["dtype"].as_str().unwrap(), "{name}");
                assert_eq!(serde_json::json!(shape), tensor["shape"], "{name}");
                let sum: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
                assert_eq!(sum, tensor["sha256"].as_str().unwrap(), "{} {name} memory {memory}", path.display());
                checked += 1;
            }
        }
        let from = (Arc::clone(&opened.source), opened.base.clone());
        let stop = AtomicBool::new(false);
        let count = engine(8 << 20).verify_foreign(&pool, opened.presented.clone(), from, &stop, &mut |_| {});
        assert_eq!(count.unwrap(), opened.presented.container().entries().len(), "{}", path.display());
    }
    assert!(checked > 900, "{checked}");
}

#[test]
fn a_delta_without_its_base_or_with_another_is_an_error() {
    let path = fixtures().join("delta-4.0.0.bs");
    let without = open(&path, None);
    let Err(error) = whole(&without.image(&engine(1 << 20))) else { panic!("read without a base") };
    assert!(matches!(error, Error::NoBase { .. }), "{error}");
    let other = tempfile::NamedTempFile::new().unwrap();
    let mut bytes = fs::read(fixtures().join("delta-base-4.0.0.safetensors")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(other.path(), bytes).unwrap();
    let Err(error) = whole(&open(&path, Some(other.path())).image(&engine(1 << 20))) else { panic!("wrong base") };
    assert!(matches!(&error, Error::Differs { what, .. } if what.contains("base")), "{error}");
}

/// A container with one BF16 tensor of `elements` weights (about), and one of bytes.
fn big(elements: usize) -> (Vec<u8>, Vec<u8>) {
    let noise = common::noise(7, 2 * elements);
    // Exponents around 120, as weights have them.
    let words = noise.as_chunks::<2>().0.iter().flat_map(|&[a, b]| {
        let exponent = 120 - (a & b & 15).trailing_ones() as u16;
        (u16::from(b & 0x80) << 8 | exponent << 7 | u16::from(a & 0x7f)).to_le_bytes()
    });
    let weights: Vec<u8> = words.collect();
    let small = common::noise(8, 5000);
    let blobs = [encode(Coding::Bf16SeRans, &weights).unwrap(), encode(Coding::Zstd, &small).unwrap()];
    let shapes = [[elements as u64], [5000]];
    let list: Vec<Finished<'_>> =
        [("weights", ElemType::BF16, Coding::Bf16SeRans), ("z", ElemType::from_name("U8").unwrap(), Coding::Zstd)]
            .iter()
            .zip([&weights, &small])
            .zip(blobs.iter().zip(&shapes))
            .map(|((&(name, elem, coding), raw), (blob, shape))| {
                let (packed_len, md5) = (blob.len() as u64, Md5::digest(raw).into());
                Finished { name, elem, shape, coding, packed_len, md5 }
            })
            .collect();
    let mut file = header(Path::new("big.bs"), None, &list).unwrap();
    blobs.iter().for_each(|blob| file.extend_from_slice(blob));
    (weights, file)
}

/// Counts what is read.
struct Counting(MemorySource, AtomicU64);

impl ReadAt for Counting {
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> bsfs::Result<()> {
        self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.0.read_exact_at(offset, buf)
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn identity(&self) -> Option<Identity> {
        Some(Identity { dev: 1, ino: 2, len: self.0.len(), mtime: (3, 4), ctime: (5, 6) })
    }
}

fn memory(file: Vec<u8>) -> (Opened, Arc<Counting>) {
    let source = Arc::new(Counting(MemorySource::new("big.bs", file), AtomicU64::new(0)));
    let container = Arc::new(Container::open(&*source).unwrap());
    let presented = Arc::new(Presented::new(&container, []).unwrap());
    (Opened { presented, source: source.clone(), base: None }, source)
}

#[test]
fn readers_of_a_long_tensor_get_its_bytes_in_any_order_with_little_memory() {
    let (weights, file) = big(6 << 20);
    // Proven first, and not; with room for the windows, and without.
    for (memory_bytes, threads) in [(64 << 20, 4), (8 << 20, 4), (1 << 20, 8)] {
        let (opened, _) = memory(file.clone());
        let engine = engine(memory_bytes);
        let image = Arc::new(opened.image(&engine));
        let data = opened.presented.header().len() as u64;
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (image, weights) = (Arc::clone(&image), &weights);
                scope.spawn(move || {
                    let mut seed = common::noise(thread + 1, 16 * 8);
                    for chunk in seed.as_chunks_mut::<8>().0 {
                        let n = u64::from_le_bytes(*chunk);
                        let at = n % (weights.len() as u64 - 1);
                        let len = (n >> 40) as usize % 700_000;
                        let expected = &weights[at as usize..(at as usize + len).min(weights.len())];
                        let (done, answer) = mpsc::channel();
                        image.read(data + at, expected.len(), move |bytes| done.send(bytes).unwrap());
                        let got = answer.recv().unwrap().unwrap();
                        assert!(*got == *expected, "{} bytes at {at}", expected.len());
                    }
                });
            }
        });
        assert!(engine.stats().buffer_bytes <= memory_bytes + (32 << 20), "{:?}", engine.stats());
        assert!(*image.read_at(data + 12 * (1 << 20), 5000).unwrap() == common::noise(8, 5000));
    }
}

#[test]
fn a_later_reader_enters_in_the_middle() {
    let (weights, file) = big(6 << 20);
    let (opened, counted) = memory(file.clone());
    // No memory: every window is made again.
    let image = opened.image(&engine(8 << 20));
    let data = opened.presented.header().len() as u64;
    let last = weights.len() as u64 - 1000;
    assert_eq!(*image.read_at(data + last, 1000).unwrap(), weights[last as usize..]);
    let first_pass = counted.1.swap(0, Ordering::Relaxed);
    assert!(first_pass > file.len() as u64 / 2, "{first_pass}");
    for at in [9 * WINDOW + 5, 3 * WINDOW, 20 * WINDOW + 77, 11 * WINDOW] {
        let at = at.min(last);
        assert_eq!(*image.read_at(data + at, 1000).unwrap(), weights[at as usize..at as usize + 1000]);
    }
    let again = counted.1.swap(0, Ordering::Relaxed);
    // Each enters at most three windows before what it wants, and reads its feeds and tables.
    assert!(again < 4 * (4 * WINDOW + (1 << 20)), "{again}");
    assert!(again > 0);
}

#[test]
fn a_later_mount_enters_in_the_middle_too() {
    let (weights, file) = big(4 << 20);
    let dir = tempfile::tempdir().unwrap();
    let with_cache = || {
        let store = Store::open(&dir.path().join("cache"), &Config::default()).unwrap();
        let disk = Some(Disk { store: Arc::clone(&store), keep: Keep::Expensive });
        let config = EngineConfig { memory: 8 << 20, threads: 2, disk, ..EngineConfig::default() };
        (Engine::new(config), store)
    };
    let data = {
        let (opened, _) = memory(file.clone());
        let (engine, store) = with_cache();
        let image = opened.image(&engine);
        assert!(whole(&image).unwrap()[opened.presented.header().len()..].starts_with(&weights));
        assert!(store.flush(std::time::Duration::from_secs(20)));
        let points = store.list().unwrap().into_iter().find(|entry| entry.label.contains("points")).unwrap();
        assert!(points.present_bytes > 0);
        // The decoded bytes go, as they do when others need the room; the points stay.
        let bytes = store.list().unwrap().into_iter().find(|entry| !entry.label.contains("points")).unwrap();
        drop((image, engine));
        for name in ["data", "map"] {
            fs::remove_file(dir.path().join(format!("cache/v1/{}.{name}", bytes.key))).unwrap();
        }
        opened.presented.header().len() as u64
    };
    let (opened, counted) = memory(file);
    let (engine, _store) = with_cache();
    let image = opened.image(&engine);
    for at in [6 * WINDOW + 5, 13 * WINDOW, 2 * WINDOW + 77] {
        assert_eq!(*image.read_at(data + at, 1000).unwrap(), weights[at as usize..at as usize + 1000]);
    }
    let read = counted.1.load(Ordering::Relaxed);
    assert!(read < 3 * (4 * WINDOW + (1 << 20)), "{read}");
    assert!(engine.stats().decoded_chunks <= 9, "{:?}", engine.stats());
}

#[test]
fn damage_in_a_tensor_is_an_error_for_that_tensor_and_no_other() {
    let (weights, file) = big(2 << 20);
    let blob = Container::open(&MemorySource::new("big.bs", file.clone())).unwrap();
    let data_start = match &blob.entries()[0].content {
        bsfs::foreign::bigsmall::format::Content::Blob(part) => part.offset..part.offset + part.len,
        other => panic!("{other:?}"),
    };
    let step = (data_start.end - data_start.start) as usize / 23;
    for (n, at) in data_start.clone().step_by(step).enumerate() {
        let mut damaged = file.clone();
        damaged[at as usize] ^= 0x40;
        let (opened, _) = memory(damaged);
        // Proven first with the first amount, not with the second.
        let memory_bytes = if n % 2 == 0 { 64 << 20 } else { 2 << 20 };
        let engine = engine(memory_bytes);
        let image = opened.image(&engine);
        let data = opened.presented.header().len() as u64;
        let mut read = 0;
        let error = loop {
            match image.read_at(data + read, 300_000) {
                Ok(bytes) => {
                    read += bytes.len() as u64;
                    assert!(read < weights.len() as u64, "all of a damaged tensor was read");
                    assert!(memory_bytes < (64 << 20), "bytes were given out before the tensor was proven");
                }
                Err(error) => break error,
            }
        };
        assert!(
            matches!(&error, Error::Chunk { tensor, .. } if tensor == "weights")
                || matches!(&error, Error::Differs { what, .. } if what.contains("weights")),
            "{error}"
        );
        assert!(image.read_at(data, 10).is_err(), "once found it stays so");
        assert!(*image.read_at(data + weights.len() as u64, 5000).unwrap() == common::noise(8, 5000));
        assert_eq!(engine.stats().buffer_bytes.max(80 << 20), 80 << 20);
    }
}
