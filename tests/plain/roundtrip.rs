//! The original file comes back byte for byte, whatever it was.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use bsfs::codec::{Mode, PAD};
use bsfs::compress::{Options, Report, compress, encode_in_memory};
use bsfs::engine;
use bsfs::format::{Container, Piece};
use bsfs::parallel;
use bsfs::source::{FileSource, MemorySource, ReadAt};

use crate::common::noise;

fn run(input: &Path, output: &Path, mode: Mode, chunk_len: Option<u32>) -> Report {
    let stop = AtomicBool::new(false);
    let options = Options { mode, chunk_len, force: true, against: None, stop: &stop };
    compress(&parallel::pool(2).unwrap(), input, output, &options, &()).unwrap()
}

/// Compresses `raw` and proves that it comes back, by the digests and by every byte.
fn check(what: &str, raw: &[u8]) -> Container {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("m.safetensors"), dir.path().join("m.safetensors.bs"));
    fs::write(&input, raw).unwrap();
    let mut kept = None;
    for (mode, chunk_len) in [
        (Mode::Storage, Some(64 << 10)),
        (Mode::Inference, Some(4 << 20)),
        (Mode::Balanced, None),
        (Mode::Storage, None),
    ] {
        let report = run(&input, &output, mode, chunk_len);
        assert_eq!(report.raw_bytes, raw.len() as u64);
        let source = FileSource::open(&output).unwrap();
        assert_eq!(report.packed_bytes, source.len());
        let container = Container::open(&source).unwrap();
        let mut back = Vec::new();
        let stop = AtomicBool::new(false);
        let original = FileSource::open(&input).unwrap();
        let mut take = |offset, bytes: &[u8]| {
            assert_eq!(offset, back.len() as u64);
            back.extend_from_slice(bytes);
            Ok(())
        };
        let pool = parallel::pool(2).unwrap();
        engine::verify(&pool, engine::Whole::new(&container, &source), Some(&original), &stop, &mut take).unwrap();
        assert!(back == raw, "{what}");
        kept = Some(container);
    }
    kept.unwrap()
}

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn a_container_in_memory_is_the_one_that_is_written_and_decodes_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("m.safetensors"), dir.path().join("m.safetensors.bs"));
    let header = r#"{"a":{"dtype":"BF16","shape":[90000],"data_offsets":[0,180000]},
        "b":{"dtype":"U8","shape":[99],"data_offsets":[180000,180099]},
        "c":{"dtype":"BF16","shape":[40000],"data_offsets":[180100,260100]}}"#;
    let raw = safetensors(header, &noise(9, 260_100));
    fs::write(&input, &raw).unwrap();
    run(&input, &output, Mode::Balanced, Some(64 << 10));
    let mtime = FileSource::open(&input).unwrap().identity().mtime;
    let stop = AtomicBool::new(false);
    let options = Options { mode: Mode::Balanced, chunk_len: Some(64 << 10), force: false, against: None, stop: &stop };
    let (pool, source) = (parallel::pool(2).unwrap(), MemorySource::new(&input, raw.clone()));
    let made = encode_in_memory(&pool, &source, (mtime.0, mtime.1 as u32), &options, &()).unwrap();
    assert!(made.container == fs::read(&output).unwrap());
    let dtypes: Vec<_> = made.dtypes.iter().map(|row| row.dtype).collect();
    assert_eq!(dtypes, ["BF16", "U8", "bytes"]);
    assert!(made.seconds >= made.dtypes.iter().map(|row| row.seconds).sum());

    let container = Container::open(&MemorySource::new("packed", made.container.clone())).unwrap();
    let mut packed = [&made.container[..], &[0; PAD]].concat();
    for piece in container.pieces() {
        let Piece::Chunk(chunk) = piece else { continue };
        let start = chunk.raw_offset as usize;
        let expected = &raw[start..start + chunk.raw_len as usize];
        let mut out = vec![0; expected.len()];
        engine::decode_into(&container, &packed, &chunk, &mut out).unwrap();
        assert!(out == expected);
        assert!(engine::decode_into(&container, &packed, &chunk, &mut out[1..]).is_err());
        let at = chunk.packed_offset as usize;
        assert!(engine::decode_into(&container, &packed[..at + 1], &chunk, &mut out).is_err());
        packed[at + chunk.packed_len as usize / 2] ^= 4;
        let damaged = engine::decode_into(&container, &packed, &chunk, &mut out);
        assert!(matches!(damaged, Err(bsfs::Error::Chunk { raw_offset, .. }) if raw_offset == chunk.raw_offset));
    }
    options.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let stopped = encode_in_memory(&pool, &source, (0, 0), &options, &());
    assert!(matches!(stopped, Err(bsfs::Error::Interrupted)));
}

#[test]
fn files_that_are_not_safetensors() {
    check("no bytes", b"");
    for len in [1, 7, 8, 9, 1000] {
        check("noise", &noise(len as u64, len));
    }
    check("text", &b"not a model at all\n".repeat(50_000));
    check("a header longer than the file", &safetensors("{}", b"")[..9]);
    check("a length that is no length", &[&u64::MAX.to_le_bytes()[..], &noise(3, 100_000)].concat());
    check("a header that is no JSON", &safetensors(r#"{"a":{"dtype":"F32""#, &noise(4, 5000)));
    check("a header that is no object", &safetensors("[1,2,3]", &noise(5, 50)));
    check("GGUF", &[b"GGUF\x03\0\0\0", &noise(6, 300_000)[..]].concat());
    check("zip", &[b"PK\x03\x04", &noise(7, 3000)[..]].concat());
    check("nested JSON", &safetensors(&("{\"a\":".repeat(5000) + "1" + &"}".repeat(5000)), b"xyz"));
    check("name that is not UTF-8", &safetensors("{\"\u{fffd}\":1}", b""));
}

#[test]
fn safetensors_of_every_shape() {
    check("empty header", &safetensors("{}", b""));
    check("padding and metadata", &safetensors("{\"__metadata__\":{\"b\":\"1\",\"a\":\"2\"}}        ", b""));
    let c = check(
        "holes, order, zero-size, scalar, unknown, overlap, trailing",
        &safetensors(
            r#"{"z":{"dtype":"F32","shape":[1000],"data_offsets":[96000,100000]},
               "zero":{"dtype":"F16","shape":[0,3],"data_offsets":[0,0]},
               "scalar":{"dtype":"F64","shape":[],"data_offsets":[8,16]},
               "unknown":{"dtype":"Q9_X","shape":[3,7],"data_offsets":[21,90021]},
               "overlap":{"dtype":"U8","shape":[50],"data_offsets":[95990,96040]},
               "late zero":{"dtype":"I8","shape":[0],"data_offsets":[100000,100000]}}"#,
            &noise(8, 100_123),
        ),
    );
    let names: Vec<_> = c.tensors().iter().map(|t| t.name.as_str()).collect();
    // Of two tensors that overlap the one that begins first is kept; the other's bytes are plain bytes.
    assert_eq!(names, ["zero", "scalar", "unknown", "overlap", "late zero"]);
    check(
        "the same name twice",
        &safetensors(
            r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"a":{"dtype":"U8","shape":[3],"data_offsets":[3,6]}}"#,
            b"abcdef",
        ),
    );
    // The header is kept in the index up to a limit, and in chunks beyond it.
    let long = format!("{{\"__metadata__\":{{\"x\":\"{}\"}}}}", "tokens and merges ".repeat(100_000));
    let c = check("a header of 1.8 MB", &safetensors(&long, &noise(9, 1000)));
    assert!(c.literals().is_empty() && c.header().index_packed_len < 1000);
}

#[test]
fn every_dtype_at_odd_lengths_and_offsets() {
    let dtypes = [
        ("BOOL", 8),
        ("U8", 8),
        ("I8", 8),
        ("F8_E5M2", 8),
        ("F8_E4M3", 8),
        ("F8_E8M0", 8),
        ("I16", 16),
        ("U16", 16),
        ("F16", 16),
        ("BF16", 16),
        ("I32", 32),
        ("U32", 32),
        ("F32", 32),
        ("C64", 64),
        ("F64", 64),
        ("I64", 64),
        ("U64", 64),
        ("F4", 4),
        ("F6_E2M3", 6),
        ("F6_E3M2", 6),
    ];
    for shift in [0, 1, 3] {
        let (mut header, mut data) = (String::from("{"), noise(1, shift));
        for (i, (dtype, bits)) in dtypes.iter().enumerate() {
            // 4 numbers always fill whole bytes.
            let elems = [4, 52, 40_004, 80_000][(i + shift) % 4];
            let (begin, len) = (data.len(), elems * bits / 8);
            header += &format!(
                r#""{dtype}":{{"dtype":"{dtype}","shape":[{},4],"data_offsets":[{begin},{}]}},"#,
                elems / 4,
                begin + len
            );
            let gauss = noise(i as u64 + 10, len)
                .chunks(4)
                .flat_map(|c| c.iter().map(|b| b >> (b & 3)).collect::<Vec<_>>())
                .collect::<Vec<u8>>();
            data.extend(gauss);
        }
        header.pop();
        header += "}";
        let c = check("every dtype", &safetensors(&header, &data));
        assert_eq!(c.tensors().len(), dtypes.len());
        assert_eq!(c.tensors().iter().map(|t| &*t.dtype).collect::<Vec<_>>(), dtypes.map(|d| d.0));
    }
}

#[test]
fn more_tensors_than_sixteen_bits_count() {
    let n = 70_000;
    let mut header = String::from("{");
    for i in 0..n {
        header +=
            &format!(r#""layers.{i}.scale":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}},"#, i * 4, i * 4 + 4);
    }
    header.pop();
    header += "}";
    let c = check("70,000 tensors", &safetensors(&header, &noise(2, n * 4)));
    assert_eq!(c.tensors().len(), n);
    assert!(c.spans().len() < 5 && c.chunk_count() < 60, "short neighbours share spans and chunks");
}

#[test]
fn a_sparse_file_over_four_gibibytes() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("big.safetensors"), dir.path().join("big.bs"));
    let len: u64 = (4 << 30) + 12_345;
    let end = noise(1, 300_000);
    let header = format!(r#"{{"w":{{"dtype":"U8","shape":[{}],"data_offsets":[0,{}]}}}}"#, len - 100, len - 100);
    let mut file = fs::File::create(&input).unwrap();
    file.write_all(&safetensors(&header, b"")).unwrap();
    let start = file.stream_position().unwrap();
    file.set_len(start + len).unwrap();
    file.seek(SeekFrom::End(-300_000)).unwrap();
    file.write_all(&end).unwrap();

    let report = run(&input, &output, Mode::Balanced, Some(4 << 20));
    assert!(report.packed_bytes < 400_000);
    let source = std::sync::Arc::new(FileSource::open(&output).unwrap());
    let container = std::sync::Arc::new(Container::open(&*source).unwrap());
    assert_eq!(container.raw_len(), start + len);
    let image = engine::Engine::new(engine::EngineConfig { memory: 32 << 20, ..engine::EngineConfig::default() })
        .image(container, source);
    assert_eq!(&*image.read_at(start + len - 300_000, 1 << 20).unwrap(), &end[..]);
    let over = image.read_at((4 << 30) + 100, 1000).unwrap();
    assert!(*over == end[end.len() - (start + len - (4 << 30)) as usize + 100..][..1000]);
    assert!(*image.read_at((4 << 30) - 1_000_000, 1000).unwrap() == [0; 1000]);
}

#[test]
fn the_same_tensor_gives_the_same_payload_in_any_file() {
    let dir = tempfile::tempdir().unwrap();
    let weights: Vec<u8> =
        noise(5, 1_400_000).iter().enumerate().map(|(i, b)| if i % 2 == 1 { 0x3c | b & 0x83 } else { *b }).collect();
    let mut payloads = Vec::new();
    for before in [0, 2, 70_001] {
        let header = format!(
            r#"{{"x":{{"dtype":"U8","shape":[{before}],"data_offsets":[0,{before}]}},"w":{{"dtype":"BF16","shape":[700,1000],"data_offsets":[{before},{}]}}}}"#,
            before + 1_400_000
        );
        let (input, output) = (dir.path().join("m"), dir.path().join("m.bs"));
        fs::write(&input, safetensors(&header, &[&noise(9, before)[..], &weights].concat())).unwrap();
        run(&input, &output, Mode::Balanced, None);
        let source = FileSource::open(&output).unwrap();
        let container = Container::open(&source).unwrap();
        let span = container.spans().iter().find(|s| s.raw_len == 1_400_000).unwrap();
        let chunks: Vec<_> = container.span_chunks(span).collect();
        assert_eq!(chunks.len(), 3);
        let mut payload = vec![0; chunks.iter().map(|c| c.packed_len as usize).sum()];
        source.read_exact_at(chunks[0].packed_offset, &mut payload).unwrap();
        payloads.push(payload);
    }
    assert!(payloads[0] == payloads[1] && payloads[1] == payloads[2]);
}

#[test]
fn the_input_is_left_alone_and_a_changing_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("m"), dir.path().join("m.bs"));
    fs::write(&input, noise(1, 3_000_000)).unwrap();
    let before = fs::metadata(&input).unwrap();
    run(&input, &output, Mode::Balanced, None);
    let after = fs::metadata(&input).unwrap();
    assert_eq!((before.ino(), before.mtime(), before.mtime_nsec()), (after.ino(), after.mtime(), after.mtime_nsec()));
    assert_eq!(fs::read(&input).unwrap(), noise(1, 3_000_000));

    /// Writes to the input as soon as the first chunk is through.
    struct Meddler(fs::File);
    impl bsfs::compress::Progress for Meddler {
        fn advance(&self, _: u64, _: u64) {
            std::thread::sleep(std::time::Duration::from_millis(20));
            self.0.write_at(b"x", 2_999_999).unwrap();
        }
    }
    let meddler = Meddler(fs::File::options().write(true).open(&input).unwrap());
    let stop = AtomicBool::new(false);
    let options = Options { mode: Mode::Balanced, chunk_len: Some(64 << 10), force: true, against: None, stop: &stop };
    let kept = fs::read(&output).unwrap();
    let result = compress(&parallel::pool(1).unwrap(), &input, &output, &options, &meddler);
    assert!(matches!(result, Err(bsfs::Error::Changed { .. })), "{result:?}");
    assert!(fs::read(&output).unwrap() == kept, "the old output is untouched");
}
