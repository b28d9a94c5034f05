//! Bases that are missing, replaced, lying, in a circle, or named by a stranger: an error or the right bytes, never wrong ones, and
//! nothing outside of where the user said. Needs `/dev/fuse`.

use crate::common::mounted;
use crate::common::tuned;
use std::fs::{self, File};
use std::io::Cursor;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::mounted::{BSFS, Mount};
use crate::common::tuned::{fails, file, json, len, model, moved, pack_against, put, run, tensor, text, unpacked};
use crate::common::{Bench, age, noise};
use bsfs::codec::Codec;
use bsfs::format::checksum::checksum;
use bsfs::format::native::{
    BaseId, BaseRange, BaseRef, Bases, FileInfo, Finish, HEADER_LEN, Header, Kind, SpanSpec, TensorSpec, Writer,
};
use bsfs::tensor::ElemType;
use sha2::{Digest, Sha256};

/// Bytes of a tensor that is all of a file.
const SIZE: usize = 100_000;

/// A container of `raw`, which is one tensor of the claimed digest, coded as the same as a base: a tensor of the digest `base`, which was
/// at `hint`, or without a base as it is.
fn craft(path: &Path, raw: &[u8], claimed: [u8; 32], base: Option<([u8; 32], &str)>) -> PathBuf {
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    match base {
        Some(_) => writer.chunk(&[0], Codec::Base, checksum(raw)).unwrap(),
        None => writer.chunk(raw, Codec::Raw, checksum(raw)).unwrap(),
    }
    let len = raw.len() as u64;
    let info = FileInfo {
        kind: Kind::PLAIN,
        mode: 0,
        chunk_len: raw.len() as u32,
        mtime: (0, 0),
        sha256: Sha256::digest(raw).into(),
        name: Vec::new(),
        writer: String::new(),
    };
    let spans = [SpanSpec { raw_len: len, elem: ElemType::BYTES, row_elems: 0, chunk_len: raw.len() as u32 }];
    let tensors = [TensorSpec {
        name: "w".into(),
        dtype: "U8".into(),
        shape: vec![len],
        raw_offset: 0,
        raw_len: len,
        digest: claimed,
    }];
    let refs = base.map(|(digest, hint)| BaseRef {
        id: BaseId::Tensor(digest),
        raw_len: len,
        name: "w".into(),
        hint: hint.into(),
    });
    let ranges = refs.iter().map(|_| BaseRange { raw_offset: 0, len, base: 0, offset: 0 }).collect();
    let bases = Bases { refs: refs.into_iter().collect(), ranges, standalone_bytes: 0 };
    let finish = Finish { file: &info, spans: &spans, literals: &[], tensors: &tensors, bases: &bases };
    let (out, _) = writer.finish(&finish).unwrap();
    put(path, &out.into_inner())
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// A plain file of one tensor.
fn plain(bytes: &[u8]) -> Vec<u8> {
    file(&[tuned::Tensor { name: "w".into(), dtype: "U8", shape: vec![bytes.len()], bytes: bytes.to_vec() }])
}

fn is_eio<T>(result: std::io::Result<T>) -> bool {
    result.err().and_then(|e| e.raw_os_error()) == Some(libc::EIO)
}

/// Runs the program, for a minute at most.
fn ends(bench: &Bench, arguments: &[&str]) -> String {
    let mut command = mounted::command(bench);
    command.args(arguments).stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let mut child = mounted::Running(command.spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "{arguments:?} does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(child.0.wait().unwrap().code(), Some(2), "{arguments:?}");
    std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap()
}

/// Checks that a file cannot be read: by `decompress`, which says `why`, and through a mount that shows it with its length.
fn is_refused(bench: &Bench, container: &Path, mount: &Mount, why: &str) {
    let out = bench.dir.join("refused");
    let said = ends(bench, &["decompress", text(container), "-o", text(&out)]);
    assert!(said.contains(why), "{container:?}: {said}");
    assert!(said.contains(container.file_name().unwrap().to_str().unwrap()), "{said}");
    assert!(!out.exists());
    let shown = mount.path(container.file_stem().unwrap().to_str().unwrap());
    assert_eq!(len(&shown), SIZE as u64);
    assert!(is_eio(fs::read(&shown)), "{container:?}");
    // Other tests make directories of the same name: what was found out is of no use for them.
    let verified = ends(bench, &["verify", text(container)]);
    assert!(verified.contains(why), "{verified}");
}

#[test]
fn circles_of_references_end_in_an_error() {
    let bench = Bench::new();
    let (source, raw) = (bench.source(), noise(1, SIZE));
    let at = |name: &str| source.join(name);
    // Two, three, and one that needs itself, under its own name, under another and as a link of both kinds.
    craft(&at("a.st.bs"), &raw, [1; 32], Some(([2; 32], "x/b.st")));
    craft(&at("b.st.bs"), &raw, [2; 32], Some(([1; 32], "x/a.st")));
    for n in 10..13 {
        let next = if n == 12 { 10 } else { n + 1 };
        craft(&at(&format!("c{n}.st.bs")), &raw, [n; 32], Some(([next; 32], &format!("x/c{next}.st"))));
    }
    craft(&at("own.st.bs"), &raw, [3; 32], Some(([3; 32], "x/own.st")));
    craft(&at("copied.st.bs"), &raw, [4; 32], Some(([4; 32], "x/copy.st")));
    fs::copy(at("copied.st.bs"), at("copy.st.bs")).unwrap();
    craft(&at("hard.st.bs"), &raw, [5; 32], Some(([5; 32], "x/other.st")));
    fs::hard_link(at("hard.st.bs"), at("other.st.bs")).unwrap();
    craft(&at("soft.st.bs"), &raw, [6; 32], Some(([6; 32], "x/link.st")));
    symlink("soft.st.bs", at("link.st.bs")).unwrap();
    put(&at("plain"), b"plain");
    let mount = Mount::new(&bench, &["--memory", "64K"]);
    for (name, why) in [
        ("a", "refers back to"),
        ("b", "refers back to"),
        ("c10", "refers back to"),
        ("c12", "refers back to"),
        ("own", "was not found"),
        ("copied", "refers back to"),
        ("copy", "refers back to"),
        ("hard", "was not found"),
        ("soft", "was not found"),
    ] {
        is_refused(&bench, &at(&format!("{name}.st.bs")), &mount, why);
    }
    assert_eq!(fs::read(mount.path("plain")).unwrap(), b"plain");
    // All that somebody may ask of a whole directory ends, too.
    ends(&bench, &["verify", text(&source)]);
    run(&bench, &["info", text(&source)]);
}

#[test]
fn what_a_container_claims_of_its_tensors_gives_no_wrong_bytes() {
    let bench = Bench::new();
    let (source, raw, other) = (bench.source(), noise(2, SIZE), noise(3, SIZE));
    let delta = craft(&source.join("delta.st.bs"), &raw, digest(&raw), Some((digest(&raw), "x/base.st")));
    craft(&source.join("base.st.bs"), &other, digest(&raw), None);
    let mount = Mount::new(&bench, &[]);
    let out = bench.dir.join("out");
    let said = fails(&bench, &["decompress", text(&delta), "-o", text(&out)], 65);
    assert!(said.contains("delta.st.bs") && said.contains("checksum"), "{said}");
    assert!(!out.exists());
    assert!(is_eio(fs::read(mount.path("delta.st"))));
    drop(mount);
    // What the user names is asked first.
    let right = put(&bench.dir.join("right/base.safetensors"), &plain(&raw));
    assert!(unpacked(&bench, &delta, Some(&right)) == raw);
    let mount = Mount::new(&bench, &["--base", text(&right)]);
    assert!(fs::read(mount.path("delta.st")).unwrap() == raw);
    // A plain file that has another tensor of this name and length is passed over.
    let bench = Bench::new();
    let delta = craft(&bench.source().join("delta.st.bs"), &raw, digest(&raw), Some((digest(&raw), "x/base.st")));
    put(&bench.source().join("base.st"), &plain(&other));
    let said = fails(&bench, &["decompress", text(&delta), "-o", text(&out)], 2);
    assert!(said.contains("base.st has another tensor 'w'"), "{said}");
    put(&bench.source().join("z.safetensors"), &plain(&raw));
    assert!(unpacked(&bench, &delta, None) == raw);
    let mount = Mount::new(&bench, &[]);
    assert!(fs::read(mount.path("delta.st")).unwrap() == raw);
}

#[test]
fn a_strangers_hint_opens_nothing_outside() {
    let bench = Bench::new();
    let (source, raw) = (bench.source(), noise(4, SIZE));
    let secret = put(&bench.dir.join("secret/base.safetensors"), &plain(&raw));
    let long = format!("{}base.safetensors", "a/".repeat(2030));
    let hints = [
        "../secret/base.safetensors",
        text(&secret),
        "secret/../../secret/base.safetensors",
        "..",
        "/",
        "",
        "a\0b/base.safetensors",
        "base.safetensors\0",
        "models--x/../../secret/base.safetensors",
        "models--../base.safetensors",
        "\\\\host\\base.safetensors",
        &"x".repeat(4096),
        &long,
    ];
    for (n, hint) in hints.iter().enumerate() {
        // None of them claims to hold what the others want.
        craft(&source.join(format!("d{n}.st.bs")), &raw, [n as u8; 32], Some((digest(&raw), hint)));
    }
    fs::create_dir_all(bench.dir.join("hub/models--x/snapshots/r")).unwrap();
    let mount = Mount::new(&bench, &[]);
    for n in 0..hints.len() {
        is_refused(&bench, &source.join(format!("d{n}.st.bs")), &mount, "was not found");
    }
    drop(mount);
    let mount = Mount::new(&bench, &["--base", text(&bench.dir.join("secret"))]);
    for n in 0..hints.len() {
        assert!(fs::read(mount.path(&format!("d{n}.st"))).unwrap() == raw, "{n}");
    }
}

#[test]
fn links_beside_a_delta_are_not_followed_and_those_that_the_user_names_are() {
    let bench = Bench::new();
    let (source, raw) = (bench.source(), noise(5, SIZE));
    let secret = put(&bench.dir.join("secret/base.safetensors"), &plain(&raw));
    let delta = craft(&source.join("d.st.bs"), &raw, digest(&raw), Some((digest(&raw), "x/base.safetensors")));
    for name in ["base.safetensors", "other.safetensors"] {
        symlink("../secret/base.safetensors", source.join(name)).unwrap();
    }
    symlink("../secret", source.join("secret")).unwrap();
    let out = bench.dir.join("out");
    let said = fails(&bench, &["decompress", text(&delta), "-o", text(&out)], 2);
    assert!(said.contains("was not found"), "{said}");
    let links = bench.dir.join("links");
    fs::create_dir(&links).unwrap();
    symlink(&secret, links.join("base.safetensors")).unwrap();
    for base in [&links, &links.join("base.safetensors")] {
        assert!(unpacked(&bench, &delta, Some(base)) == raw, "{base:?}");
        let mount = Mount::new(&bench, &["--base", text(base)]);
        assert!(fs::read(mount.path("d.st")).unwrap() == raw, "{base:?}");
    }
}

#[test]
fn a_base_is_found_in_every_place_that_the_manual_names() {
    let base = model(7, "BF16");
    let tuned = file(&moved(&base, 1));
    let hub = "hub/models--org--name/snapshots/rev/model.safetensors";
    let places = [
        ("source/model.safetensors", None),
        ("source/model.safetensors.bs", None),
        ("source/other-name.safetensors", None),
        ("elsewhere/model.safetensors", Some("elsewhere/model.safetensors")),
        ("elsewhere/deep/er/model.safetensors.bs", Some("elsewhere")),
        ("elsewhere/renamed.safetensors", Some("elsewhere")),
        (hub, None),
    ];
    // Without the feature nobody knows of the Hub.
    for (place, named) in places.into_iter().filter(|(place, _)| *place != hub || cfg!(feature = "hub")) {
        let bench = Bench::new();
        // As a download is: a link into blobs, with another revision before it.
        let made = put(&bench.dir.join("hub/models--org--name/blobs/1234"), &file(&base));
        let other = put(&bench.dir.join("hub/models--org--name/blobs/5678"), &file(&moved(&base, 2)));
        for (rev, blob) in [("rev", "1234"), ("early", "5678")] {
            let dir = bench.dir.join("hub/models--org--name/snapshots").join(rev);
            fs::create_dir_all(&dir).unwrap();
            symlink(format!("../../blobs/{blob}"), dir.join("model.safetensors")).unwrap();
        }
        let input = put(&bench.dir.join("tuned.safetensors"), &tuned);
        let delta = bench.source().join("tuned.safetensors.bs");
        pack_against(&bench, &input, &delta, Some(&bench.dir.join(hub)));
        if place != hub {
            let to = bench.dir.join(place);
            match place.ends_with(".bs") {
                true => _ = pack_against(&bench, &made, &to, None),
                false => _ = put(&to, &file(&base)),
            }
            fs::remove_dir_all(bench.dir.join("hub")).unwrap();
        }
        let named = named.map(|named| bench.dir.join(named));
        assert!(unpacked(&bench, &delta, named.as_deref()) == tuned, "{place}");
        let base = named.as_ref().map(|named| ["--base", text(named)]);
        let mount = Mount::new(&bench, base.as_ref().map_or(&[], |base| &base[..]));
        assert!(fs::read(mount.path("tuned.safetensors")).unwrap() == tuned, "{place}");
        drop((mount, other));
    }
    // Elsewhere in the mounted tree.
    let bench = Bench::new();
    let input = put(&bench.dir.join("tuned.safetensors"), &tuned);
    let plain = put(&bench.dir.join("model.safetensors"), &file(&base));
    pack_against(&bench, &input, &bench.source().join("a/b/tuned.safetensors.bs"), Some(&plain));
    pack_against(&bench, &plain, &bench.source().join("c/deep/x.safetensors.bs"), None);
    fs::remove_file(&plain).unwrap();
    let mount = Mount::new(&bench, &[]);
    assert!(fs::read(mount.path("a/b/tuned.safetensors")).unwrap() == tuned);
    let out = bench.dir.join("out");
    run(&bench, &["decompress", text(&bench.source()), "-o", text(&out)]);
    assert!(fs::read(out.join("a/b/tuned.safetensors")).unwrap() == tuned);
}

#[test]
fn a_missing_base_is_named_once_and_taken_when_it_comes() {
    let bench = Bench::new();
    let base = model(8, "BF16");
    let tuned = file(&moved(&base, 1));
    let plain = put(&bench.dir.join("base.safetensors"), &file(&base));
    let input = put(&bench.dir.join("tuned.safetensors"), &tuned);
    pack_against(&bench, &input, &bench.source().join("tuned.safetensors.bs"), Some(&plain));
    let whole = bench.packed("whole.safetensors.bs", &tuned);
    let log = bench.dir.join("log");
    let mount = Mount::new(&bench, &["--log-file", text(&log)]);
    let shown = mount.path("tuned.safetensors");
    assert_eq!(len(&shown), tuned.len() as u64);
    let open = File::open(&shown).unwrap();
    let mut bytes = vec![0; tuned.len()];
    for _ in 0..3 {
        assert!(is_eio(open.read_exact_at(&mut bytes[..100_000], 4096)));
        assert!(is_eio(fs::read(&shown)));
    }
    assert!(fs::read(mount.path("whole.safetensors")).unwrap() == tuned, "{whole:?}");
    let said = fs::read_to_string(&log).unwrap();
    let named: Vec<_> = said.lines().filter(|line| line.contains("was not found")).collect();
    assert!(!named.is_empty(), "{said}");
    assert!(
        named[0].contains("tuned.safetensors.bs")
            && named[0].contains("BLAKE3")
            && named[0].contains("base.safetensors")
    );
    // Each place of the file may say so; the same line does not come again and again.
    let mut once: Vec<_> = named.iter().map(|line| line.split_once("] ").map_or(*line, |(_, text)| text)).collect();
    let all = once.len();
    once.sort_unstable();
    once.dedup();
    assert!(all <= once.len() + 1, "{said}");
    put(&bench.source().join("base.safetensors"), &file(&base));
    std::thread::sleep(Duration::from_millis(2100));
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == tuned, "through a descriptor that was open");
    assert!(fs::read(&shown).unwrap() == tuned);
}

#[test]
fn a_base_that_is_written_over_gives_an_error_or_the_right_bytes() {
    for packed in [false, true] {
        let bench = Bench::new();
        let numbers: Vec<f32> = noise(9, 4 << 20).iter().map(|&b| (f32::from(b) - 127.0) / 3000.0).collect();
        let big = |values: &[f32]| vec![tensor("w", "BF16", &[2048, 2048], values)];
        let base = big(&numbers);
        let tuned = file(&moved(&base, 1));
        let plain = put(&bench.dir.join("bases/base.safetensors"), &file(&base));
        let input = put(&bench.dir.join("tuned.safetensors"), &tuned);
        pack_against(&bench, &input, &bench.source().join("tuned.safetensors.bs"), Some(&plain));
        let at = match packed {
            true => pack_against(&bench, &plain, &bench.dir.join("bases2/base.safetensors.bs"), None),
            false => plain,
        };
        let mount = Mount::new(&bench, &["--memory", "1M", "--base", text(&at)]);
        let shown = File::open(mount.path("tuned.safetensors")).unwrap();
        let mut first = vec![0; 1 << 20];
        shown.read_exact_at(&mut first, 0).unwrap();
        assert!(first == tuned[..first.len()]);
        // Behind the header, so that a fresh look finds the same tensors.
        let over = File::options().write(true).open(&at).unwrap();
        let from = len(&at) / 2;
        over.write_all_at(&noise(10, 1 << 20), from).unwrap();
        drop(over);
        let (mut right, mut wrong) = (0, 0);
        let mut piece = vec![0; 1 << 18];
        for offset in (0..tuned.len() - piece.len()).step_by(1 << 18) {
            match shown.read_exact_at(&mut piece, offset as u64) {
                Ok(()) => {
                    assert!(piece == tuned[offset..offset + piece.len()], "wrong bytes at {offset}");
                    right += 1;
                }
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EIO));
                    wrong += 1;
                }
            }
        }
        assert!(right > 0 && wrong > 0, "{right} read, {wrong} refused");
        // A base that is removed lives on for who has it open.
        drop(mount);
        put(&at, b"");
    }
    let bench = Bench::new();
    let base = model(12, "F16");
    let tuned = file(&moved(&base, 1));
    let plain = put(&bench.dir.join("bases/base.safetensors"), &file(&base));
    let input = put(&bench.dir.join("tuned.safetensors"), &tuned);
    let delta = pack_against(&bench, &input, &bench.source().join("tuned.safetensors.bs"), Some(&plain));
    let mount = Mount::new(&bench, &["--base", text(&bench.dir.join("bases"))]);
    let shown = File::open(mount.path("tuned.safetensors")).unwrap();
    shown.read_exact_at(&mut [0; 4096], 100_000).unwrap();
    fs::remove_file(&plain).unwrap();
    let mut bytes = vec![0; tuned.len()];
    shown.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == tuned);
    drop(mount);
    // Another model in its place is no base, and is named.
    put(&plain, &file(&moved(&base, 2)));
    let said =
        fails(&bench, &["decompress", text(&delta), "-o", text(&bench.dir.join("o")), "--base", text(&plain)], 2);
    assert!(said.contains("base.safetensors has another tensor"), "{said}");
}

#[test]
fn verify_follows_references_and_tells_damage_from_what_is_missing() {
    let bench = Bench::new();
    let base = model(13, "BF16");
    let plain = put(&bench.dir.join("base.safetensors"), &file(&base));
    let input = put(&bench.dir.join("tuned.safetensors"), &file(&moved(&base, 1)));
    let packed = pack_against(&bench, &plain, &bench.source().join("base.safetensors.bs"), None);
    let delta = pack_against(&bench, &input, &bench.source().join("tuned.safetensors.bs"), Some(&packed));
    let state = |path: &Path, code: i32| {
        let output = mounted::bsfs(&bench, ["verify", text(path), "--json"]);
        assert_eq!(output.status.code(), Some(code), "{}", mounted::stderr(&output));
        let outcomes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        outcomes.as_array().unwrap().iter().map(|o| o["state"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(state(&bench.source(), 0), ["sound", "sound"]);
    let source = json(&bench, &["verify", text(&delta), "--source", text(&input)]);
    assert_eq!(source[0]["state"], "sound");
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 0x20;
        put(path, &bytes);
    };
    // Of the base, which takes both down.
    flip(&packed);
    assert_eq!(state(&bench.source(), 1), ["damaged", "damaged"]);
    let said = fails(&bench, &["verify", text(&delta)], 1);
    assert!(said.contains("base.safetensors.bs"), "the file that is damaged is named: {said}");
    flip(&packed);
    flip(&delta);
    assert_eq!(state(&bench.source(), 1), ["sound", "damaged"]);
    flip(&delta);
    fs::remove_file(&packed).unwrap();
    assert_eq!(state(&bench.source(), 2), ["error"]);
}

/// A container with the codec of its chunk number `at` replaced.
fn with_codec(container: &[u8], at: usize, codec: u16) -> Vec<u8> {
    let mut header = Header::parse(container.first_chunk().unwrap(), container.len() as u64, "x".as_ref()).unwrap();
    let from = header.index_offset as usize;
    let mut index = zstd::bulk::decompress(&container[from..], 1 << 20).unwrap();
    let mut section = 0;
    while index[section] != 3 {
        section += 16 + u64::from_le_bytes(index[section + 8..section + 16].try_into().unwrap()) as usize;
    }
    let count = u32::from_le_bytes(index[section + 16..section + 20].try_into().unwrap()) as usize;
    let place = section + 20 + 4 * count + 2 * at;
    index[place..place + 2].copy_from_slice(&codec.to_le_bytes());
    let packed = zstd::bulk::compress(&index, 1).unwrap();
    header.index_packed_len = packed.len() as u32;
    header.index_checksum = checksum(&packed);
    header.container_len = (from + packed.len()) as u64;
    [&header.to_bytes(), &container[HEADER_LEN..from], &packed].concat()
}

#[test]
fn readers_that_lack_a_codec_name_it() {
    let bench = Bench::new();
    let base = model(14, "BF16");
    let plain = put(&bench.dir.join("base.safetensors"), &file(&base));
    let input = put(&bench.dir.join("tuned.safetensors"), &file(&moved(&base, 1)));
    let delta = pack_against(&bench, &input, &bench.source().join("tuned.safetensors.bs"), Some(&plain));
    let strange = put(&bench.dir.join("strange.bs"), &with_codec(&fs::read(&delta).unwrap(), 0, 77));
    let out = bench.dir.join("out");
    let said = fails(&bench, &["decompress", text(&strange), "-o", text(&out), "--base", text(&plain)], 2);
    assert!(said.contains("codec 77 of the chunk at offset"), "{said}");
    // A chunk that claims to need a base where the index names none has zeros for one, and the checksum tells.
    let alone = pack_against(&bench, &plain, &bench.dir.join("alone.bs"), None);
    for codec in 7..10 {
        let strange = put(&bench.dir.join("strange.bs"), &with_codec(&fs::read(&alone).unwrap(), 0, codec));
        let said = fails(&bench, &["decompress", text(&strange), "-o", text(&out)], 65);
        assert!(said.contains("damaged chunk of tensor 'embed.weight'"), "{codec}: {said}");
    }
}

#[test]
fn files_that_share_all_with_each_other_are_searched_for_once() {
    let bench = Bench::new();
    let from = bench.dir.join("in");
    let part =
        |n: u64| tuned::Tensor { name: format!("t{n}"), dtype: "U8", shape: vec![4096], bytes: noise(n + 1, 4096) };
    for n in 0..40 {
        let parts: Vec<_> = (0..=n).map(part).collect();
        put(&from.join(format!("f{n:02}.safetensors")), &file(&parts));
    }
    run(&bench, &["compress", "--dedup", text(&from), "-o", text(&bench.source())]);
    fs::remove_file(bench.source().join("f00.safetensors.bs")).unwrap();
    age(&bench.source());
    // Each lacks something for want of the first: without a memory, every way through the others is tried.
    let said = ends(
        &bench,
        &["decompress", text(&bench.source().join("f39.safetensors.bs")), "-o", text(&bench.dir.join("o"))],
    );
    assert!(said.contains("was not found"), "{said}");
    assert!(Command::new(BSFS).arg("--version").output().unwrap().status.success());
}
