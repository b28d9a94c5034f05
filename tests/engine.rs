//! The read side on containers of our own: byte identity, bounded memory, damage, determinism.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bsfs::codec::Mode;
use bsfs::compress::{Options, compress};
use bsfs::engine::{Engine, EngineConfig, Image, verify};
use bsfs::error::Error;
use bsfs::format::{ChunkId, Container};
use bsfs::source::{FileSource, MemorySource};

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
    let options = Options { mode: Mode::Balanced, chunk_len: Some(64 << 10), force: false, stop: &stop };
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
    Engine::new(EngineConfig { memory })
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
    let chunk = open(&engine, packed.clone()).unwrap().container().chunk(ChunkId(3)).unwrap();
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
    let verified = verify(&pool, &container, &source, Some(&original), &stop, &mut |_, bytes| {
        seen += bytes.len() as u64;
        Ok(())
    })
    .unwrap();
    assert_eq!((verified.raw_bytes, verified.tensors), (raw.len() as u64, 4));
    assert_eq!(seen, raw.len() as u64);
    let mut other = raw;
    other[2000] ^= 1;
    let other = MemorySource::new("other", other);
    let text = verify(&pool, &container, &source, Some(&other), &stop, &mut |_, _| Ok(())).unwrap_err().to_string();
    assert!(text.contains("byte at offset 2000 (tensor 'weights') of other differs"), "{text}");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(verify(&pool, &container, &source, None, &stop, &mut |_, _| Ok(())), Err(Error::Interrupted)));
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
            let options = Options { mode: Mode::Balanced, chunk_len, force: true, stop: &stop };
            compress(&pool, &input, &output, &options, &()).unwrap();
            containers.push(std::fs::read(&output).unwrap());
        }
        let source = FileSource::open(&output).unwrap();
        assert_eq!(Container::open(&source).unwrap().file().name, b"m.safetensors");
    }
    assert!(containers[0] == containers[2] && containers[2] == containers[4]);
    assert!(containers[1] == containers[3] && containers[3] == containers[5]);
}
