//! Writes the seeds: small inputs for every target, made by the real encoders.
//!
//! `cargo run --manifest-path tests/fuzz/Cargo.toml --example seeds`

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bsfs::foreign::bigsmall::codec::Coding;
use bsfs::codec::{Codec, Mode, Numbers, Scratch, encode, encode_against};
use bsfs::compress::{Options, compress};
use bsfs::foreign::bigsmall::format::{Container, Content};
use bsfs::format::checksum::checksum;
use bsfs::format::native::{
    BaseId, BaseRange, BaseRef, Bases, FileInfo, Finish, Kind, SpanSpec, TensorSpec, Writer,
};
use bsfs::source::MemorySource;
use bsfs::tensor::ElemType;
use bsfs_fuzz::{KINDS, MODES, base, take_apart};

/// Longer inputs make every execution slow.
const LONGEST: usize = 8000;

fn random(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u32
    }
}

/// `count` numbers like weights, runs of them of another scale, a few of them odd, in the kind's own bytes.
fn weights(numbers: Numbers, count: usize) -> Vec<u8> {
    let mut random = random(count as u64);
    let floats = (0..count).map(move |i| match i % 509 {
        300 => f32::NAN,
        400 => 1e30,
        _ => (0..6).map(|_| (random() % 2001) as f32 - 1000.0).sum::<f32>() * 1e-5 * (1 << (i / 512 % 3 * 3)) as f32,
    });
    let half = |x: f32| {
        let exponent = ((x.to_bits() >> 23 & 255) as i32 - 112).clamp(0, 31) as u32;
        ((x.to_bits() >> 16 & 0x8000) | exponent << 10 | (x.to_bits() >> 13 & 0x3ff)) as u16
    };
    match numbers {
        Numbers::F8 | Numbers::Integers { log2_width: 0 } => floats.map(|x| (half(x) >> 8) as u8).collect(),
        Numbers::F16 { .. } => floats.flat_map(|x| half(x).to_le_bytes()).collect(),
        Numbers::Bf16 { .. } | Numbers::Integers { log2_width: 1 } => {
            floats.flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect()
        }
        Numbers::F64 | Numbers::Integers { log2_width: 3 } => floats.flat_map(|x| f64::from(x).to_le_bytes()).collect(),
        _ => floats.flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// The seeds of a target.
fn dir(target: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Writes `raw` packed, for the target of its codec, unless `done` has that codec already.
fn decoder(name: &str, numbers: Numbers, mode: Mode, raw: &[u8], done: &mut HashSet<Codec>, scratch: &mut Scratch) {
    let mut packed = Vec::new();
    let codec = encode(numbers, mode, raw, &mut packed, scratch);
    if codec == Codec::Raw {
        return;
    }
    let bytes = [&((raw.len() - 1) as u16).to_le_bytes(), &packed[..]].concat();
    let dir = dir(codec.name());
    let known = fs::read_dir(&dir).unwrap().any(|other| fs::read(other.unwrap().path()).unwrap() == bytes);
    if bytes.len() <= 8000 && done.insert(codec) && !known {
        fs::write(dir.join(name), &bytes).unwrap();
    }
}

/// The smallest packed chunks of each codec, one for each kind of numbers and mode that takes it.
fn decoders() {
    let scratch = &mut Scratch::default();
    for (kind, numbers) in KINDS.into_iter().enumerate() {
        for mode in MODES {
            let mut done = HashSet::from([Codec::Constant, Codec::Zstd]);
            for count in [65, 300, 600, 1200, 1800, 2500, 3500, 5000] {
                let few: Vec<u8> = weights(numbers, count).iter().map(|b| b & 3).collect();
                for raw in [weights(numbers, count), few] {
                    let name = format!("{kind}-{mode:?}").to_lowercase();
                    decoder(&name, numbers, mode, &raw, &mut done, scratch);
                }
            }
        }
    }
    for len in [1, 2, 4, 8] {
        let raw = [1, 2, 3, 4, 5, 6, 7, 8][..len].repeat(100);
        decoder(&format!("{len}"), Numbers::Unknown, Mode::Balanced, &raw, &mut HashSet::new(), scratch);
    }
    let mut random = random(1);
    let mut words =
        |n| (0..n).map(|_| ["weight ", "bias ", "layers.", "0.", "11.", "mlp\n"][random() as usize % 6]).collect();
    let texts: [String; 3] = ["again and again ".repeat(20), words(300), words(2000)];
    for (i, text) in texts.iter().enumerate() {
        for mode in MODES {
            let name = format!("{i}-{mode:?}").to_lowercase();
            decoder(&name, Numbers::Unknown, mode, text.as_bytes(), &mut HashSet::new(), scratch);
        }
    }
}

/// Chunks that are near the base which the fuzzer decodes against, and pairs for the round trip.
fn against() {
    let scratch = &mut Scratch::default();
    for (kind, numbers) in KINDS.into_iter().enumerate() {
        let mut random = random(kind as u64 + 5);
        for (shape, len) in [("near", 1500), ("seldom", 2501), ("shifted", 403), ("long", 7000)] {
            let base = base(len);
            let raw: Vec<u8> = base
                .iter()
                .enumerate()
                .map(|(i, &y)| match shape {
                    "near" | "long" if i % 2 == 0 => y.wrapping_add((random() % 7) as u8).wrapping_sub(3),
                    "seldom" if random() % 200 == 0 => y ^ 0x55,
                    "shifted" => y.wrapping_add(1),
                    _ => y,
                })
                .collect();
            let mut packed = Vec::new();
            let Some(codec) = encode_against(numbers, (&raw, &base), usize::MAX, &mut packed, scratch) else { continue };
            let bytes = [&((len - 1) as u16).to_le_bytes(), &packed[..]].concat();
            let at = dir(codec.name());
            let known = fs::read_dir(&at).unwrap().any(|other| fs::read(other.unwrap().path()).unwrap() == bytes);
            if bytes.len() <= LONGEST && !known {
                fs::write(at.join(format!("{kind}-{shape}")), &bytes).unwrap();
            }
            if shape != "long" {
                let pair = [&[kind as u8], &raw[..], &base[..]].concat();
                fs::write(dir("against").join(format!("{kind}-{shape}")), &pair).unwrap();
            }
        }
    }
}

/// A container that refers to a tensor of another file, and to itself.
fn bases() -> Vec<u8> {
    let raw = weights(Numbers::Bf16 { row: 0 }, 600);
    let (first, second) = raw.split_at(400);
    let mut writer = Writer::new(std::io::Cursor::new(Vec::new())).unwrap();
    for (codec, bytes, packed) in
        [(Codec::Raw, first, first), (Codec::Base, first, &[0]), (Codec::Difference, second, &[4, 1, 0, 0]), (Codec::Raw, second, second)]
    {
        writer.chunk(packed, codec, checksum(bytes)).unwrap();
    }
    let span = |raw_len, chunk_len| SpanSpec { raw_len, elem: ElemType::BF16, row_elems: 0, chunk_len };
    let (a, b) = (first.len() as u64, second.len() as u64);
    let tensor = |name: &str, raw_offset, raw_len| TensorSpec {
        name: name.into(),
        dtype: "BF16".into(),
        shape: vec![raw_len / 2],
        raw_offset,
        raw_len,
        digest: [1; 32],
    };
    let bases = Bases {
        refs: vec![
            BaseRef { id: BaseId::Itself, raw_len: 2 * (a + b), name: String::new(), hint: "".into() },
            BaseRef { id: BaseId::Tensor([2; 32]), raw_len: b + 10, name: "t".into(), hint: "org/m.safetensors".into() },
        ],
        ranges: vec![
            BaseRange { raw_offset: a, len: a, base: 0, offset: 0 },
            BaseRange { raw_offset: 2 * a, len: b, base: 1, offset: 10 },
        ],
        standalone_bytes: 2 * (a + b),
    };
    let file = FileInfo {
        kind: Kind::SAFETENSORS,
        mode: 0,
        chunk_len: 400,
        mtime: (0, 0),
        sha256: [0; 32],
        name: b"m".to_vec(),
        writer: "seed".into(),
    };
    let spans = [span(2 * a, a as u32), span(2 * b, b as u32)];
    let tensors = [tensor("a", 0, a), tensor("b", a, a), tensor("c", 2 * a, 2 * b)];
    let finish = Finish { file: &file, spans: &spans, literals: &[], tensors: &tensors, bases: &bases };
    writer.finish(&finish).unwrap().0.into_inner()
}

fn round_trips() {
    for (kind, numbers) in KINDS.into_iter().enumerate() {
        // One mode each; the fuzzer finds the others.
        let mode = kind % MODES.len();
        let raw = weights(numbers, 1100 + 13 * kind);
        let raw = &raw[..raw.len().min(3900)];
        let name = format!("{kind}-{:?}", MODES[mode]).to_lowercase();
        fs::write(dir("round_trip").join(name), [&[(mode * KINDS.len() + kind) as u8], raw].concat()).unwrap();
    }
}

/// A safetensors file of a few small tensors, as a container and in parts.
fn containers() {
    let tensors: [(&str, &str, Vec<u8>); 4] = [
        ("a", "BF16", weights(Numbers::Bf16 { row: 0 }, 700)),
        ("b", "F32", vec![0; 400]),
        ("c", "U8", b"to be or not to be ".repeat(10)),
        ("d", "F16", weights(Numbers::F16 { row: 0 }, 400)),
    ];
    let (mut header, mut data) = (String::from("{"), Vec::new());
    for (name, dtype, bytes) in &tensors {
        let n =
            bytes.len() / [("BF16", 2), ("F16", 2), ("F32", 4), ("U8", 1)].iter().find(|d| d.0 == *dtype).unwrap().1;
        let (start, end) = (data.len(), data.len() + bytes.len());
        header += &format!(r#""{name}":{{"dtype":"{dtype}","shape":[{n}],"data_offsets":[{start},{end}]}},"#);
        data.extend_from_slice(bytes);
    }
    header.pop();
    header += "}";
    let referring = bases();
    fs::write(dir("container").join("bases-file"), [&[0], &referring[..]].concat()).unwrap();
    fs::write(dir("container").join("bases-parts"), [&[1], &take_apart(&referring).unwrap()[..]].concat()).unwrap();
    let safetensors = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    let work = tempfile::tempdir().unwrap();
    let (input, output) = (work.path().join("m"), work.path().join("m.bs"));
    let stop = AtomicBool::new(false);
    let pool = bsfs::parallel::pool(1).unwrap();
    for (name, raw, mode) in [
        ("safetensors", &safetensors[..], Mode::Balanced),
        ("inference", &safetensors[..], Mode::Inference),
        ("storage", &safetensors[..], Mode::Storage),
        ("text", &b"plain text, plain text. ".repeat(50)[..], Mode::Balanced),
        ("empty", &[], Mode::Balanced),
    ] {
        fs::write(&input, raw).unwrap();
        let options = Options { mode, chunk_len: Some(1024), force: true, against: None, stop: &stop };
        compress(&pool, &input, &output, &options, &()).unwrap();
        let file = fs::read(&output).unwrap();
        let seeds = dir("container");
        fs::write(seeds.join(format!("{name}-file")), [&[0], &file[..]].concat()).unwrap();
        fs::write(seeds.join(format!("{name}-parts")), [&[1], &take_apart(&file).unwrap()[..]].concat()).unwrap();
    }
}

/// The fixtures that are short, and the short blobs of all, one of each length to the kilobyte and coding.
fn bigsmall() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bigsmall");
    let mut seen = HashSet::new();
    let mut files: Vec<PathBuf> = fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|e| e == "bs" || e == "bsr")) {
        let bytes = fs::read(path).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let container = Container::open(&MemorySource::new("seed.bs", bytes.clone())).unwrap();
        if bytes.len() <= LONGEST {
            fs::write(dir("bigsmall_file").join(&name), &bytes).unwrap();
        }
        for (i, entry) in container.entries().iter().enumerate() {
            let (Content::Blob(part) | Content::Xor(part) | Content::Slice { part, .. }) = &entry.content else {
                continue;
            };
            if part.len as usize > LONGEST || part.raw_len >= 1 << 20 || !seen.insert((part.coding, part.len / 1024)) {
                continue;
            }
            let at = Coding::ALL.iter().position(|(coding, ..)| *coding == part.coding).unwrap();
            let len = (part.raw_len as u32).to_le_bytes();
            let blob = &bytes[part.offset as usize..(part.offset + part.len) as usize];
            let input = [&[at as u8, len[0], len[1], len[2], 31], blob].concat();
            fs::write(dir("bigsmall_blob").join(format!("{name}-{i}")), input).unwrap();
        }
    }
}

fn main() {
    let _ = fs::remove_dir_all(Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds"));
    decoders();
    against();
    round_trips();
    containers();
    bigsmall();
}
