//! Models that the Python package `bigsmall` packed, read through the kernel. Needs `/dev/fuse`.

use crate::common;
use crate::common::fixtures;
use crate::common::mounted;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;

use crate::common::fixtures::{all, damage, one, place, place_all, sha256, spans, tensors, with_hint};
use crate::common::mounted::{Mount, bsfs, model, stderr};
use crate::common::{Bench, age, eventually, noise};
use serde_json::Value;

const INDEX: &str = "model.safetensors.index.json";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
const BASE: &str = "delta-base-4.0.0.safetensors";
const DELTA: &str = "delta-4.0.0.bs";
/// Tensors of [`DELTA`] that are differences, and the others.
const DIFFERENCES: [&str; 4] = ["a.weight", "b.weight", "ids", "s"];
const OTHERS: [&str; 4] = ["changed_much", "only_ft.weight", "shape_differs", "tied_ft"];

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Pieces at random, of a file that nothing has read yet: offset and bytes.
fn pieces(file: &File, seed: u64) -> Vec<(u64, Vec<u8>)> {
    let len = file.metadata().unwrap().len();
    noise(seed, 16 * 12)
        .chunks(16)
        .map(|pair| {
            let number = |at: usize| u64::from_le_bytes(pair[at..at + 8].try_into().unwrap());
            let (offset, size) = (number(0) % len, number(8) % 300_000);
            let mut bytes = vec![0; size.min(len - offset) as usize];
            file.read_exact_at(&mut bytes, offset).unwrap();
            (offset, bytes)
        })
        .collect()
}

/// A mount that knows nothing of earlier ones.
fn uncached(bench: &Bench, options: &[&str]) -> Mount {
    Mount::new(bench, &[options, &["--cache", "off"]].concat())
}

fn errno(result: std::io::Result<()>) -> Option<i32> {
    result.err().map(|error| error.raw_os_error().unwrap())
}

/// The result of reading one tensor of a shown file, and of no byte beside it: around the page cache, which would ask for whole
/// pages.
fn read_tensor(path: &Path, tensor: &str) -> std::io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path)?;
    let read = |offset: u64, len: usize| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset).map(|()| bytes)
    };
    let len = u64::from_le_bytes(read(0, 8)?.try_into().unwrap());
    let header: Value = serde_json::from_slice(&read(8, len as usize)?).unwrap();
    let at = |n: usize| header[tensor]["data_offsets"][n].as_u64().unwrap();
    read(8 + len + at(0), (at(1) - at(0)) as usize)
}

fn log_of(bench: &Bench) -> String {
    let dir = bench.dir.join("state/bsfs");
    let logs = fs::read_dir(dir).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    logs.collect()
}

#[test]
fn every_tensor_that_any_release_wrote_is_what_it_was() {
    let bench = Bench::new();
    for fixture in all() {
        place(&bench, &fixture.path, &fixture.path);
        if let Some(base) = &fixture.base {
            place(&bench, base, base);
        }
    }
    for index in ["sharded-2.0.1/bigsmall.index.json", "sharded-4.0.0/bigsmall.index.json"] {
        place(&bench, index, index);
    }
    let mount = Mount::new(&bench, &[]);
    let mut seen = 0;
    for (number, fixture) in all().iter().enumerate() {
        let path = mount.path(&fixture.shown());
        let file = File::open(&path).unwrap();
        let pieces = pieces(&file, number as u64 + 1);
        let whole = fs::read(&path).unwrap();
        assert_eq!(whole.len() as u64, file.metadata().unwrap().len(), "{}", fixture.path);
        for (offset, piece) in pieces {
            assert!(piece == whole[offset as usize..][..piece.len()], "{}: a piece at {offset}", fixture.path);
        }
        assert_eq!(tensors(&whole), fixture.tensors, "{}", fixture.path);
        // SAFETY: nothing writes to the file.
        assert!(unsafe { memmap2::Mmap::map(&file) }.unwrap()[..] == whole);
        seen += fixture.tensors.len();
        assert!(!mount.path(&fixture.path).exists(), "{} is not shown twice", fixture.path);
    }
    assert!(seen > 200, "{seen} tensors");
    let status = mount.status();
    assert_eq!((status.errors, status.panics), (0, 0));
}

#[test]
fn scalars_keep_their_shape_and_tensors_without_bytes_are_there() {
    let mut scalars = 0;
    let bench = Bench::new();
    let fixtures: Vec<_> = all()
        .into_iter()
        .filter(|fixture| fixture.path.starts_with("edge") || fixture.path.starts_with("mixed"))
        .collect();
    for fixture in &fixtures {
        place(&bench, &fixture.path, &fixture.path);
    }
    let mount = Mount::new(&bench, &[]);
    for fixture in &fixtures {
        for (name, (_, shape, range)) in spans(&fs::read(mount.path(&fixture.shown())).unwrap()) {
            assert_eq!(shape, fixture.tensors[&name].shape, "{name}");
            scalars += usize::from(shape.is_empty());
            assert_eq!(range.is_empty(), shape.contains(&0), "{name}");
        }
    }
    assert!(scalars > 0);
}

#[test]
fn sharded_models_have_the_names_and_the_index_that_readers_expect() {
    for release in ["sharded-2.0.1", "sharded-4.0.0"] {
        let bench = Bench::new();
        place_all(&bench, release, "");
        let mount = Mount::new(&bench, &[]);
        assert_eq!(names(&mount.point), ["bigsmall.index.json", "config.json", SHARDS[0], SHARDS[1], INDEX]);
        let own = fs::read(mount.path("bigsmall.index.json")).unwrap();
        assert_eq!(own, fs::read(fixtures::dir().join(release).join("bigsmall.index.json")).unwrap());

        let path = mount.path(INDEX);
        let text = fs::read(&path).unwrap();
        let meta = fs::metadata(&path).unwrap();
        let source = fs::metadata(bench.source().join("bigsmall.index.json")).unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o7777), (text.len() as u64, 0o644));
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (source.mtime(), source.mtime_nsec()));
        let index: Value = serde_json::from_slice(&text).unwrap();
        let expected: Vec<_> = all().into_iter().filter(|fixture| fixture.path.starts_with(release)).collect();
        let mut total = 0;
        let mut listed = BTreeSet::new();
        for (shard, fixture) in SHARDS.iter().zip(&expected) {
            let file = fs::read(mount.path(shard)).unwrap();
            assert_eq!(tensors(&file), fixture.tensors);
            for (name, (.., range)) in spans(&file) {
                assert_eq!(index["weight_map"][&name], **shard, "{name}");
                total += range.len() as u64;
                listed.insert(name);
            }
        }
        assert_eq!(index["weight_map"].as_object().unwrap().len(), listed.len());
        assert_eq!(index["metadata"]["total_size"], total);
        assert!(listed.contains("lm_head.weight") && listed.len() == 6);
        // In pieces, and past its end.
        let file = File::open(&path).unwrap();
        let mut piece = [0; 100];
        assert_eq!(file.read_at(&mut piece, meta.len() - 7).unwrap(), 7);
        assert_eq!(piece[..7], text[text.len() - 7..]);
        assert_eq!(file.read_at(&mut piece, meta.len() + 5).unwrap(), 0);
        assert_eq!(mount.status().errors, 0);
    }
}

#[test]
fn a_model_in_one_file_has_no_index_and_can_be_mounted_alone() {
    let bench = Bench::new();
    let packed = place(&bench, "mixed-2.0.1.bs", "model.bs");
    bench.plain("bigsmall.index.json", br#"{"metadata":{"shards":["model.bs"]},"weight_map":{}}"#);
    bench.plain("model.bs.ecc", b"BSECC1__");
    let expected = one("mixed-2.0.1.bs").tensors;
    let mount = Mount::new(&bench, &[]);
    assert_eq!(names(&mount.point), ["bigsmall.index.json", "model.bs.ecc", "model.safetensors"]);
    assert_eq!(fs::read(mount.path("model.bs.ecc")).unwrap(), b"BSECC1__");
    assert_eq!(tensors(&fs::read(mount.path("model.safetensors")).unwrap()), expected);
    let (shown, source) = (fs::metadata(mount.path("model.safetensors")).unwrap(), fs::metadata(&packed).unwrap());
    assert_eq!((shown.mtime(), shown.mtime_nsec()), (source.mtime(), source.mtime_nsec()));
    drop(mount);

    let mount = Mount::of(&bench, &packed, &bench.mount_point(), &[]);
    assert_eq!(names(&mount.point), ["model.safetensors"]);
    assert_eq!(tensors(&fs::read(mount.path("model.safetensors")).unwrap()), expected);
    drop(mount);

    // A shard that is the source shows what the index beside it adds.
    place_all(&bench, "sharded-4.0.0", "");
    let shard = bench.source().join("model-00001-of-00002.bs");
    let mount = Mount::of(&bench, &shard, &bench.mount_point(), &[]);
    assert_eq!(names(&mount.point), [SHARDS[0]]);
    let expected = one("sharded-4.0.0/model-00001-of-00002.bs").tensors;
    assert_eq!(tensors(&fs::read(mount.path(SHARDS[0])).unwrap()), expected);
    assert!(expected.contains_key("lm_head.weight"));
}

#[test]
fn runtime_files_are_containers_and_dual_files_are_named_in_the_log() {
    let bench = Bench::new();
    place(&bench, "runtime-4.0.0.bsr", "run.bsr");
    let dual = [&b"BGSD\x02\x00\x02\x00\x00\x00{}"[..], &[7; 100]].concat();
    bench.plain("model.bsd", &dual);
    bench.plain("renamed.bs", &dual);
    let mount = Mount::new(&bench, &[]);
    assert_eq!(names(&mount.point), ["model.bsd", "renamed.bs", "run.safetensors"]);
    assert_eq!(fs::read(mount.path("model.bsd")).unwrap(), dual);
    assert_eq!(fs::read(mount.path("renamed.bs")).unwrap(), dual);
    assert_eq!(tensors(&fs::read(mount.path("run.safetensors")).unwrap()), one("runtime-4.0.0.bsr").tensors);
    let log = log_of(&bench);
    let lines: Vec<_> = log.lines().filter(|line| line.contains("dual format")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines.iter().all(|line| line.contains("bigsmall compress") && line.contains("shown as it is")), "{log}");
    drop(mount);
    let output = bsfs(&bench, ["mount".into(), bench.source().join("model.bsd"), bench.mount_point()]);
    assert!(!output.status.success() && stderr(&output).contains("dual format"), "{}", stderr(&output));
}

/// Everything in the delta is right.
fn assert_resolved(mount: &Mount, name: &str) {
    assert_eq!(tensors(&fs::read(mount.path(name)).unwrap()), one(DELTA).tensors);
    assert_eq!(mount.status().errors, 0);
}

/// Its differences cannot be read, everything else can.
fn assert_unresolved(mount: &Mount, name: &str) {
    let path = mount.path(name);
    let expected = one(DELTA).tensors;
    for tensor in DIFFERENCES {
        assert_eq!(errno(read_tensor(&path, tensor).map(drop)), Some(libc::EIO), "{tensor}");
    }
    for tensor in OTHERS {
        assert_eq!(sha256(&read_tensor(&path, tensor).unwrap()), expected[tensor].sha256, "{tensor}");
    }
    assert!(mount.status().errors > 0);
}

#[test]
fn a_delta_finds_its_base_where_the_user_says_and_beside_itself() {
    // A file of any name.
    let bench = Bench::new();
    place(&bench, DELTA, "tuned.bs");
    let elsewhere = bench.dir.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let base = elsewhere.join("weights.safetensors");
    fs::copy(fixtures::dir().join(BASE), &base).unwrap();
    let mount = uncached(&bench, &["--base", base.to_str().unwrap()]);
    assert_resolved(&mount, "tuned.safetensors");
    drop(mount);

    // A path that means something in the directory of the caller only.
    let mount = uncached(&bench, &["--base", &format!("tests/bigsmall/{BASE}")]);
    assert_resolved(&mount, "tuned.safetensors");
    drop(mount);

    // A directory: its only file; the file of the right name among others; the same as a link, or packed.
    let mount = uncached(&bench, &["--base", elsewhere.to_str().unwrap()]);
    assert_resolved(&mount, "tuned.safetensors");
    drop(mount);
    fs::copy(fixtures::dir().join("delta-base-2.0.1.safetensors"), elsewhere.join("another.safetensors")).unwrap();
    let mount = uncached(&bench, &["--base", elsewhere.to_str().unwrap()]);
    assert_unresolved(&mount, "tuned.safetensors");
    drop(mount);
    symlink("weights.safetensors", elsewhere.join(BASE)).unwrap();
    let mount = uncached(&bench, &["--base", elsewhere.to_str().unwrap()]);
    assert_resolved(&mount, "tuned.safetensors");
    drop(mount);
    fs::remove_file(elsewhere.join(BASE)).unwrap();
    common::pack(&base, &elsewhere.join(format!("{BASE}.bs")));
    let mount = uncached(&bench, &["--base", elsewhere.to_str().unwrap()]);
    assert_resolved(&mount, "tuned.safetensors");
    drop(mount);

    // Beside it, as it was and packed.
    let beside = place(&bench, BASE, BASE);
    let mount = uncached(&bench, &[]);
    assert_resolved(&mount, "tuned.safetensors");
    drop(mount);
    bench.packed(&format!("{BASE}.bs"), &fs::read(&beside).unwrap());
    fs::remove_file(beside).unwrap();
    age(&bench.source());
    let mount = uncached(&bench, &[]);
    assert_resolved(&mount, "tuned.safetensors");
    assert_eq!(names(&mount.point), [BASE, "tuned.safetensors"]);
    drop(mount);

    // Beside it, packed by the package, which drops the ending.
    let packed = fixtures::stored(&fs::read(fixtures::dir().join(BASE)).unwrap());
    fs::remove_file(bench.source().join(format!("{BASE}.bs"))).unwrap();
    bench.plain(&BASE.replace(".safetensors", ".bs"), &packed);
    place(&bench, DELTA, "twin.bs");
    let mount = uncached(&bench, &[]);
    assert_resolved(&mount, "tuned.safetensors");
    let decoded = mount.status().engine.decoded_chunks;
    assert_resolved(&mount, "twin.safetensors");
    assert_eq!(names(&mount.point), [BASE, "tuned.safetensors", "twin.safetensors"]);
    let twin = mount.status().engine.decoded_chunks - decoded;
    assert!(twin < decoded, "{twin} chunks for the second delta, {decoded} for the first: the base is decoded once");
}

#[test]
fn two_deltas_with_two_bases_get_each_its_own() {
    let bench = Bench::new();
    let bases: Vec<_> = ["2.0.1", "4.0.0"].map(|release| format!("delta-base-{release}.safetensors")).into();
    for (base, release) in bases.iter().zip(["2.0.1", "4.0.0"]) {
        fs::copy(fixtures::dir().join(base), bench.dir.join(base)).unwrap();
        place(&bench, &format!("delta-{release}.bs"), &format!("delta-{release}.bs"));
    }
    let paths: Vec<_> = bases.iter().map(|base| bench.dir.join(base).to_str().unwrap().to_owned()).collect();
    let mount = Mount::new(&bench, &["--base", &paths[0], "--base", &paths[1]]);
    for release in ["2.0.1", "4.0.0"] {
        let shown = fs::read(mount.path(&format!("delta-{release}.safetensors"))).unwrap();
        assert_eq!(tensors(&shown), one(&format!("delta-{release}.bs")).tensors);
    }
}

#[test]
fn a_delta_without_its_base_is_shown_and_what_needs_none_can_be_read() {
    let bench = Bench::new();
    place(&bench, DELTA, "tuned.bs");
    place(&bench, "edge-dtypes-4.0.0.bs", "other.bs");
    let mount = Mount::new(&bench, &[]);
    assert_unresolved(&mount, "tuned.safetensors");
    let log = log_of(&bench);
    assert!(log.contains("tuned.bs: cannot be read without ") && log.contains("which was not found"), "{log}");
    assert!(log.contains("name it with --base"), "{log}");
    let other = tensors(&fs::read(mount.path("other.safetensors")).unwrap());
    assert_eq!(other, one("edge-dtypes-4.0.0.bs").tensors);
    // It is found as soon as it is there.
    place(&bench, BASE, BASE);
    assert_eq!(tensors(&fs::read(mount.path("tuned.safetensors")).unwrap()), one(DELTA).tensors);
}

#[test]
fn another_base_gives_an_error_and_no_wrong_bytes() {
    let bench = Bench::new();
    place(&bench, DELTA, "tuned.bs");
    let mut bytes = fs::read(fixtures::dir().join(BASE)).unwrap();
    // The same tensors, other values.
    let at = spans(&bytes);
    for tensor in DIFFERENCES {
        let range = &at[tensor].2;
        bytes[range.start + range.len() / 2] ^= 1;
    }
    let base = bench.dir.join("wrong.safetensors");
    fs::write(&base, &bytes).unwrap();
    let mount = Mount::new(&bench, &["--base", base.to_str().unwrap()]);
    assert_unresolved(&mount, "tuned.safetensors");
    let log = log_of(&bench);
    assert!(log.contains("MD5 of tensor 'a.weight'") && log.contains("the base may be another"), "{log}");
    drop(mount);

    // Broken, of other tensors, a delta itself: none of them stops anything else, and a good one behind them is found.
    let broken = bench.dir.join("broken.safetensors");
    fs::write(&broken, b"no header").unwrap();
    let unlike = bench.dir.join("unlike.safetensors");
    fs::write(&unlike, common::safetensors(1, 1000)).unwrap();
    let delta = fixtures::dir().join("delta-2.0.1.bs");
    let mut options = Vec::new();
    for path in [&broken, &unlike, &delta] {
        options.extend(["--base", path.to_str().unwrap()]);
    }
    let mount = Mount::new(&bench, &options);
    assert_unresolved(&mount, "tuned.safetensors");
    let log = log_of(&bench);
    assert!(log.contains("broken.safetensors: not a safetensors file"), "{log}");
    assert!(log.contains("delta-2.0.1.bs: is a delta itself"), "{log}");
    assert!(log.contains("of the base"), "{log}");
    drop(mount);
    let good = fixtures::dir().join(BASE);
    options.extend(["--base", good.to_str().unwrap()]);
    let mount = Mount::new(&bench, &options);
    assert_resolved(&mount, "tuned.safetensors");
}

#[test]
fn what_a_delta_says_of_its_base_leads_nowhere() {
    let bench = Bench::new();
    let outside = bench.dir.join("outside.safetensors");
    fs::copy(fixtures::dir().join(BASE), &outside).unwrap();
    let absolute = outside.to_str().unwrap();
    let hints = [
        absolute,
        "../outside.safetensors",
        "..\\outside.safetensors",
        "..",
        "/etc/passwd",
        "",
        "down/inside.safetensors",
    ];
    for (number, hint) in hints.iter().enumerate() {
        with_hint(&bench, DELTA, &format!("d{number}.bs"), hint);
    }
    place(&bench, BASE, "down/inside.safetensors");
    // A link beside the deltas, of the very name that one asks for.
    symlink(&outside, bench.source().join("linked.safetensors")).unwrap();
    with_hint(&bench, DELTA, "linked.bs.delta", "linked.safetensors");
    fs::rename(bench.source().join("linked.bs.delta"), bench.source().join("d7.bs")).unwrap();
    age(&bench.source());
    let mount = Mount::new(&bench, &[]);
    for number in 0..=hints.len() {
        let path = mount.path(&format!("d{number}.safetensors"));
        assert_eq!(errno(read_tensor(&path, "a.weight").map(drop)), Some(libc::EIO), "{number}");
        assert!(read_tensor(&path, "tied_ft").is_ok());
    }
    assert!(!log_of(&bench).contains("its base is"));
    drop(mount);
    // The user's word makes the same name good.
    let mount = Mount::new(&bench, &["--base", bench.dir.to_str().unwrap()]);
    for number in [0, 1, 2] {
        let file = fs::read(mount.path(&format!("d{number}.safetensors"))).unwrap();
        assert_eq!(tensors(&file), one(DELTA).tensors, "{number}");
    }
}

#[test]
fn a_base_that_is_not_there_or_in_the_mount_itself_is_refused() {
    let bench = Bench::new();
    model(&bench);
    let mount = |base: &Path| {
        let arguments = ["mount".as_ref(), "--base".as_ref(), base.as_os_str()];
        bsfs(&bench, arguments.into_iter().chain([bench.source().as_os_str(), bench.mount_point().as_os_str()]))
    };
    let output = mount(&bench.dir.join("missing"));
    assert!(!output.status.success() && stderr(&output).contains("cannot open the base"), "{}", stderr(&output));
    let output = mount(&bench.mount_point());
    assert!(!output.status.success() && stderr(&output).contains("lies under the mount point"), "{}", stderr(&output));
    assert!(!mounted::is_mounted(&bench.mount_point()));
}

#[test]
fn an_index_that_changes_while_mounted_changes_what_is_shown() {
    let bench = Bench::new();
    place_all(&bench, "sharded-4.0.0", "");
    let mount = Mount::new(&bench, &["--ttl", "3600"]);
    let (first, index) = (mount.path(SHARDS[0]), mount.path(INDEX));
    let with = one("sharded-4.0.0/model-00001-of-00002.bs").tensors;
    let mut without = with.clone();
    without.remove("lm_head.weight").unwrap();
    let whole = fs::read(&first).unwrap();
    assert_eq!(tensors(&whole), with);
    assert!(fs::metadata(&index).is_ok());
    let held = File::open(&first).unwrap();

    // Removed: the shards are what they hold, and nobody needs an index of them that would be made up.
    let source = bench.source().join("bigsmall.index.json");
    let text = fs::read_to_string(&source).unwrap();
    fs::remove_file(&source).unwrap();
    age(&bench.source());
    assert_eq!(tensors(&fs::read(&first).unwrap()), without);
    assert_eq!(File::open(&index).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    let mut again = vec![0; whole.len()];
    held.read_exact_at(&mut again, 0).unwrap();
    assert!(again == whole, "what is open stays what it is");

    // Back, then rewritten in place: broken, and good again.
    fs::write(&source, &text).unwrap();
    assert_eq!(tensors(&fs::read(&first).unwrap()), with);
    // The kernel remembers for seconds that a name was not there.
    eventually("the index is found", || fs::read_to_string(&index).is_ok_and(|text| text.contains("lm_head.weight")));
    fs::write(&source, b"{").unwrap();
    assert_eq!(tensors(&fs::read(&first).unwrap()), without);
    assert!(!names(&mount.point).contains(&INDEX.to_owned()));
    fs::write(&source, &text).unwrap();
    assert_eq!(tensors(&fs::read(&first).unwrap()), with);
    eventually("the index is found", || File::open(&index).is_ok());

    // A shard that goes takes the index with it.
    fs::remove_file(bench.source().join("model-00002-of-00002.bs")).unwrap();
    age(&bench.source());
    assert_eq!(File::open(&index).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(mount.status().errors, 0);
}

#[test]
fn damage_is_an_error_of_its_tensor_alone() {
    let bench = Bench::new();
    let path = place(&bench, "big-2.0.1.bs", "big.bs");
    let expected = one("big-2.0.1.bs").tensors;
    let shown = uncached(&bench, &[]);
    let whole = fs::read(shown.path("big.safetensors")).unwrap();
    drop(shown);
    let tensors = spans(&whole);
    let (victim, _) = tensors.iter().max_by_key(|(_, (.., range))| range.len()).unwrap();
    damage(&path, victim);
    let mount = uncached(&bench, &[]);
    let path = mount.path("big.safetensors");
    assert_eq!(errno(read_tensor(&path, victim).map(drop)), Some(libc::EIO));
    for name in tensors.keys().filter(|name| *name != victim) {
        assert_eq!(sha256(&read_tensor(&path, name).unwrap()), expected[name].sha256, "{name}");
    }
    assert!(tensors.len() > 2);
    assert!(log_of(&bench).contains(victim.as_str()));
    assert_eq!(mount.status().panics, 0);
}
