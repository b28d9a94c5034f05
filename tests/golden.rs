//! Containers of earlier releases are read for ever.
//!
//! `tests/golden/` holds one container per file below, made by the release in its name. The originals are made anew
//! by [`originals`]. `scripts/golden.sh` writes the files of a new release; those that are there are never changed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bsfs::codec::Codec;
use bsfs::engine;
use bsfs::format::Container;
use bsfs::parallel;
use bsfs::source::{FileSource, MemorySource};

mod common;
use common::{noise, pack};

/// Originals by name. Never change one; add new ones.
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
    ]
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
                pack(&from, &to);
            }
        }
    }
    let (mut read, mut codecs) = (0, BTreeSet::new());
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
        engine::verify(&pool, &container, &source, Some(&original), &stop, &mut |_, _| Ok(())).unwrap();
        codecs.extend(container.spans().iter().flat_map(|s| container.span_chunks(s)).map(|c| c.codec().unwrap()));
        read += 1;
    }
    assert!(read >= originals.len());
    assert_eq!(codecs, Codec::ALL.into_iter().collect(), "every codec is kept");
}
