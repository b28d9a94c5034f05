//! Containers of earlier releases are read for ever.
//!
//! `tests/golden/` holds one container per file below, made by the release in its name. The originals are made anew
//! by [`originals`], what they refer to by [`base`]. `scripts/golden.sh` writes the files of a new release; those that are
//! there are never changed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bsfs::Error;
use bsfs::codec::{Codec, Mode};
use bsfs::engine::{self, Engine, EngineConfig, Finder, Places, Whole};
use bsfs::format::{BaseId, Container};
use bsfs::parallel;
use bsfs::source::{FileSource, MemorySource};

use crate::common::pairs::{pack_against, pair};
use crate::common::{noise, pack_as};

/// Originals by name. Never change one; add new ones. What follows a dot in a name is the mode.
fn originals() -> Vec<(&'static str, Vec<u8>)> {
    let floats = |seed, bytes: usize, width: usize| -> Vec<u8> {
        let top = [0x3b, 0x3c, 0xbc, 0x3d];
        let pick = |i: usize, b: u8| if i % width == width - 1 { top[usize::from(b & 3)] } else { b };
        noise(seed, bytes).into_iter().enumerate().map(|(i, b)| pick(i, b)).collect()
    };
    let parts: [(&str, &str, Vec<u8>); 6] = [
        ("bf16", r#""BF16","shape":[100,200]"#, floats(1, 40_000, 2)),
        ("f32", r#""F32","shape":[5000]"#, floats(2, 20_000, 4)),
        ("f64", r#""F64","shape":[1500]"#, floats(3, 12_000, 8)),
        ("zeros", r#""F16","shape":[35000]"#, vec![0; 70_000]),
        ("ids", r#""I64","shape":[300]"#, (0..300_u64).flat_map(u64::to_le_bytes).collect()),
        ("codes", r#""F8_E4M3","shape":[8001]"#, noise(4, 8001).iter().map(|b| b & 0x87).collect()),
    ];
    let (mut header, mut data) = (String::from("{"), Vec::new());
    for (name, rest, bytes) in &parts {
        header +=
            &format!(r#""{name}":{{"dtype":{rest},"data_offsets":[{},{}]}},"#, data.len(), data.len() + bytes.len());
        data.extend_from_slice(bytes);
    }
    let header = header.trim_end_matches(',').to_owned() + "} ";
    let mixed = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data, b"tail"].concat();
    vec![
        ("mixed", mixed),
        ("empty", Vec::new()),
        ("text", b"plain text, many times. ".repeat(500)),
        ("noise", noise(9, 3000)),
        ("weights", weights()),
        ("weights.inference", weights()),
        ("weights.storage", weights()),
        ("tuned", tuned().1),
    ]
}

/// A base and its fine-tune: tensors that are equal, near and almost equal, and one that occurs twice.
fn tuned() -> (Vec<u8>, Vec<u8>) {
    pair(33_000, |name| {
        ["equal", "near", "single.sparse", "ids.later", "shorts", "near.tied"].contains(&name)
            || name.starts_with("short.")
    })
}

/// The file that the original of this name is compressed against, if there is one.
fn base(name: &str) -> Option<Vec<u8>> {
    (name == "tuned").then(|| tuned().0)
}

/// Floats of every width whose scale differs from row to row, with zeros, an infinity and a NaN among them, so that classes,
/// groups, escapes and exceptions occur; and the same F32 behind an odd number of bytes of no type.
fn weights() -> Vec<u8> {
    const ROWS: usize = 260; // of F16, so that the tensor has a span of its own
    const COUNT: usize = 128 * 70 + 37;
    // Whole columns lean one way.
    let sign = |i: usize, byte: u8| (i % 128 / 3 % 2) as u32 ^ u32::from(byte & 7 == 0);
    // Integers alone: the same on every machine.
    let bits = |i: usize, byte: &[u8]| -> u32 {
        let exponent = 118 - byte[0].trailing_zeros() - byte[1].trailing_zeros() / 3 + (i / 128 % 5) as u32;
        match i % 1500 {
            3 => 0,
            700 => 0x7f80_0000,
            1100 => 0xffc0_0001,
            _ => {
                let mantissa = u32::from(byte[3]) << 15 | u32::from(byte[2]) << 7 | u32::from(byte[0]) >> 1;
                sign(i, byte[1]) << 31 | exponent << 23 | mantissa
            }
        }
    };
    let f32s: Vec<u32> = noise(17, ROWS * 128 * 4).chunks_exact(4).enumerate().map(|(i, b)| bits(i, b)).collect();
    let bf16 = f32s.iter().take(COUNT).flat_map(|x| ((x >> 16) as u16).to_le_bytes()).collect();
    let half = |x: &u32| ((x >> 16 & 0x8000) | ((x >> 23 & 255).clamp(101, 127) - 101) << 10 | x >> 13 & 0x3ff) as u16;
    let f16 = f32s.iter().flat_map(|x| half(x).to_le_bytes()).collect();
    let f8 = f32s.iter().take(COUNT).map(|x| (half(x) >> 8) as u8).collect();
    let f32 = |from: usize| -> Vec<u8> { f32s[from..from + COUNT].iter().flat_map(|x| x.to_le_bytes()).collect() };
    let upcast = f32s.iter().take(COUNT).flat_map(|x| (x & 0xffff_e000).to_le_bytes()).collect();
    let parts: [(&str, &str, String, Vec<u8>); 6] = [
        ("bf16", "BF16", format!("{COUNT}"), bf16),
        ("f16", "F16", format!("{ROWS},128"), f16),
        ("f8", "F8_E5M2", format!("{COUNT}"), f8),
        ("f32", "F32", format!("{COUNT}"), f32(0)),
        ("upcast", "F32", format!("{COUNT}"), upcast),
        ("odd", "Q9", "1".to_owned(), [&[1, 2, 3], &f32(5)[..]].concat()),
    ];
    let (mut header, mut data) = (String::from("{"), Vec::new());
    for (name, dtype, shape, bytes) in &parts {
        let end = data.len() + bytes.len();
        let at = format!(r#""data_offsets":[{},{end}]"#, data.len());
        header += &format!(r#""{name}":{{"dtype":"{dtype}","shape":[{shape}],{at}}},"#);
        data.extend_from_slice(bytes);
    }
    let header = header.trim_end_matches(',').to_owned() + "}";
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

#[test]
fn containers_of_every_release_are_read() {
    let originals = originals();
    let release = env!("CARGO_PKG_VERSION");
    if std::env::var_os("BSFS_WRITE_GOLDEN").is_some() {
        for (name, raw) in &originals {
            let to = directory().join(format!("{release}-{name}.bs"));
            if !to.exists() {
                let dir = tempfile::tempdir().unwrap();
                let from = dir.path().join(name);
                fs::write(&from, raw).unwrap();
                let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
                fs::File::options().write(true).open(&from).unwrap().set_modified(time).unwrap();
                let mode = match name.split_once('.') {
                    Some((_, "inference")) => Mode::Inference,
                    Some((_, "storage")) => Mode::Storage,
                    _ => Mode::Balanced,
                };
                match base(name) {
                    Some(base) => {
                        let beside = dir.path().join("bases/base.safetensors");
                        fs::create_dir(beside.parent().unwrap()).unwrap();
                        fs::write(&beside, base).unwrap();
                        pack_against(mode, None, &beside, &from, &to);
                    }
                    None => pack_as(mode, &from, &to),
                }
            }
        }
    }
    let (mut read, mut own_references, mut codecs) = (0, 0, BTreeSet::new());
    for entry in fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (_, name) = stem.split_once('-').unwrap();
        let raw = &originals.iter().find(|(n, _)| *n == name).unwrap().1;
        let source = FileSource::open(&path).unwrap();
        let container = Container::open(&source).unwrap();
        assert_eq!(container.mtime(), (1_700_000_000, 0));
        let original = MemorySource::new(name, raw.clone());
        let (pool, stop) = (parallel::pool(2).unwrap(), AtomicBool::new(false));
        let verify =
            |whole: Whole<'_>| engine::verify(&pool, whole, Some(&original), &stop, &mut |_, _| Ok(())).map(|_| ());
        let alone = verify(Whole::new(&container, &source));
        match base(name) {
            None => alone.unwrap(),
            Some(base) => {
                assert!(matches!(alone, Err(Error::NoBase { .. })), "{alone:?}");
                let dir = tempfile::tempdir().unwrap();
                // Whatever it is called.
                fs::write(dir.path().join("any.safetensors"), base).unwrap();
                let finder = Finder::new(Places { named: vec![dir.path().into()], ..Places::default() });
                let engine = Engine::new(EngineConfig::default());
                let references = finder.references(&engine, &container, source.identity());
                verify(Whole { references: references.as_deref(), ..Whole::new(&container, &source) }).unwrap();
                own_references += container.bases().refs.iter().filter(|base| base.id == BaseId::Itself).count();
            }
        }
        codecs.extend(container.spans().iter().flat_map(|s| container.span_chunks(s)).map(|c| c.codec().unwrap()));
        read += 1;
    }
    assert!(read >= originals.len());
    assert_eq!(codecs, Codec::ALL.into_iter().collect(), "every codec is kept");
    assert!(own_references > 0, "a file that refers to itself is kept");
}
