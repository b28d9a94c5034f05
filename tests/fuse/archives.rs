//! PyTorch files and other archives of stored numbers: what they share with safetensors files is stored once, and whatever
//! they are, they come back. Needs `/dev/fuse`.

use std::fs;
use std::io::{Cursor, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::common::mounted::Mount;
use crate::common::tuned::{Tensor, file, json, len, model, put, run, text};
use crate::common::{Bench, noise};
use bsfs::codec::Mode;
use bsfs::compress::{self, Against, BaseSource, Options};
use bsfs::engine::{self, Engine, EngineConfig, Finder, Places, Whole};
use bsfs::format::Container;
use bsfs::parallel;
use bsfs::source::FileSource;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// An archive as PyTorch writes it: a pickle, the numbers stored, at offsets that are multiples of 64.
fn archive(model: &[Tensor]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file("archive/data.pkl", stored).unwrap();
    zip.write_all(&b"(pickled objects of some kind)".repeat(20)).unwrap();
    for (i, tensor) in model.iter().enumerate() {
        zip.start_file(format!("archive/data/{i}"), stored.with_alignment(64)).unwrap();
        zip.write_all(&tensor.bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn what_a_pytorch_file_repeats_is_stored_once() {
    let bench = Bench::new();
    let dir = bench.dir.join("repo");
    let numbers = model(1, "BF16");
    put(&dir.join("model.safetensors"), &file(&numbers));
    // Sorted before the file that keeps the numbers.
    put(&dir.join("consolidated.00.pth"), &archive(&numbers));
    put(&dir.join("pytorch_model.bin"), &archive(&numbers.iter().rev().cloned().collect::<Vec<_>>()));
    // Nobody else has what these hold, but one has the other's: they are copied.
    put(&dir.join("optimizer.bin"), &archive(&model(2, "F32")));
    put(&dir.join("optimizer.pt"), &archive(&model(2, "F32")));
    put(&dir.join("notes.bin"), b"PK\x03\x04 no archive at all, of course not");
    put(&dir.join("config.json"), b"{}");
    let once = bench.dir.join("once");
    run(&bench, &["compress", text(&dir.join("model.safetensors")), "-o", text(&once)]);
    let out = bench.source();
    let report = json(&bench, &["compress", "--dedup", text(&dir), "-o", text(&out), "-f"]);
    let packed: Vec<_> = report["files"].as_array().unwrap().iter().map(|f| f["output"].as_str().unwrap()).collect();
    assert_eq!(packed.len(), 3, "{packed:?}");
    assert!(packed[0].ends_with("model.safetensors.bs"), "the file that others need is first: {packed:?}");
    for name in ["optimizer.bin", "optimizer.pt", "notes.bin", "config.json"] {
        assert!(fs::read(out.join(name)).unwrap() == fs::read(dir.join(name)).unwrap(), "{name}");
    }
    let all: u64 = ["model.safetensors", "consolidated.00.pth", "pytorch_model.bin"]
        .iter()
        .map(|name| len(&out.join(format!("{name}.bs"))))
        .sum();
    assert!(all < len(&once) + 8000, "{all} where once takes {}", len(&once));
    let mount = Mount::new(&bench, &[]);
    for entry in fs::read_dir(&dir).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(
            fs::read(mount.path(name.to_str().unwrap())).unwrap() == fs::read(dir.join(&name)).unwrap(),
            "{name:?}"
        );
    }
    drop(mount);
    run(&bench, &["verify", text(&out), "--source", text(&dir)]);
    let separate = bench.dir.join("separate");
    run(&bench, &["compress", text(&dir), "-o", text(&separate)]);
    assert!(fs::read(separate.join("pytorch_model.bin")).unwrap() == fs::read(dir.join("pytorch_model.bin")).unwrap());
}

/// Compresses `bytes` against a base and decodes it again.
fn round_trip(bench: &Bench, bytes: &[u8], base: &Arc<BaseSource>) -> usize {
    let (input, output) = (bench.dir.join("in.bin"), bench.dir.join("in.bin.bs"));
    fs::write(&input, bytes).unwrap();
    let (pool, stop) = (parallel::pool(1).unwrap(), AtomicBool::new(false));
    let against = Against::new(vec![Arc::clone(base)]);
    let options = Options { mode: Mode::Balanced, chunk_len: None, force: true, against: Some(&against), stop: &stop };
    compress::compress(&pool, &input, &output, &options, &()).unwrap();
    let source = FileSource::open(&output).unwrap();
    let container = Container::open(&source).unwrap();
    let places = Places { named: vec![base.path().to_path_buf()], ..Places::default() };
    let engine = Engine::new(EngineConfig::default());
    let references = Arc::new(Finder::new(places)).references(&engine, &container, source.identity());
    let whole = Whole { container: &container, source: &source, references: references.as_deref() };
    let mut back = Vec::new();
    engine::verify(&pool, whole, None, &stop, &mut |_, piece| {
        back.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    assert!(back == bytes);
    container.tensors().len()
}

#[test]
fn an_archive_comes_back_however_damaged_it_is() {
    let bench = Bench::new();
    let numbers = model(3, "BF16");
    let base = put(&bench.dir.join("base.safetensors"), &file(&numbers));
    let base = Arc::new(BaseSource::plain(Arc::new(FileSource::open(base).unwrap())).unwrap());
    let whole = archive(&numbers);
    assert_eq!(round_trip(&bench, &whole, &base), numbers.len() + 1);
    // The directory at the end, where all claims are, and the front of each member.
    let directory = whole.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let luck = noise(5, 4096);
    for (n, at) in (directory..whole.len()).step_by(7).chain(0..60).enumerate() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (luck[n % luck.len()] & 7);
        round_trip(&bench, &bytes, &base);
        bytes[at] = 0xff;
        round_trip(&bench, &bytes, &base);
    }
    for cut in [0, 3, 4, 21, 22, 1000, directory, directory + 10, whole.len() - 1] {
        round_trip(&bench, &whole[..cut], &base);
    }
}
