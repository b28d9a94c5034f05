//! Fine-tunes stored against a base, and duplicates stored once: what is written, and that it comes back through `decompress`
//! and through a mount. Needs `/dev/fuse`.

use crate::common;
use crate::common::tuned;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::mounted::{Mount, bsfs, stderr};
use crate::common::tuned::{
    Model, fails, file, json, len, merged, model, moved, pack_against, put, renamed, run, text, unpacked, with_rows,
};
use crate::common::{Bench, noise};
use sha2::{Digest, Sha256};

/// A fine-tune in files, the files of its base, and the part of what it takes alone that it may take.
struct Pair {
    name: String,
    base: Vec<Vec<u8>>,
    tuned: Vec<Vec<u8>>,
    most: f64,
}

fn pair(name: &str, base: &[&[tuned::Tensor]], tuned: &[&[tuned::Tensor]], most: f64) -> Pair {
    let files = |models: &[&[tuned::Tensor]]| models.iter().map(|m| file(m)).collect();
    Pair { name: name.into(), base: files(base), tuned: files(tuned), most }
}

fn all_pairs() -> Vec<Pair> {
    let mut all = Vec::new();
    let mut seed = 0;
    let mut next = |dtype| {
        seed += 1;
        model(seed, dtype)
    };
    for (dtype, few, merge) in [("BF16", 0.17, 0.5), ("F16", 0.14, 0.62), ("F32", 0.08, 0.84)] {
        let base = next(dtype);
        all.push(pair(&format!("moved-{dtype}"), &[&base], &[&moved(&base, 5)], few));
        let base = next(dtype);
        all.push(pair(&format!("merged-{dtype}"), &[&base], &[&merged(&base, 6)], merge));
    }
    let base = next("BF16");
    all.push(pair("more-rows", &[&base], &[&moved(&with_rows(&base, 540, 77), 7)], 0.21));
    let base = next("F16");
    all.push(pair("fewer-rows", &[&base], &[&moved(&with_rows(&base, 333, 78), 8)], 0.15));
    let base = next("BF16");
    all.push(pair("renamed", &[&base], &[&renamed(&moved(&base, 9))], 0.17));
    let base = next("BF16");
    let tuned = moved(&base, 10);
    all.push(pair("two-to-three", &[&base[..3], &base[3..]], &[&tuned[..1], &tuned[1..4], &tuned[4..]], 0.17));
    let base = next("F32");
    let tuned = moved(&base, 11);
    let other_order: Model = [&tuned[3..], &tuned[..3]].concat();
    all.push(pair(
        "three-to-two",
        &[&base[..1], &base[1..4], &base[4..]],
        &[&other_order[..2], &other_order[2..]],
        0.08,
    ));
    let base = next("BF16");
    all.push(pair("unrelated", &[&base], &[&next("BF16")], 1.0));
    // Other names and shapes as well, one of them in a type of its own.
    let base = next("BF16");
    all.push(pair("of-another-type", &[&base], &[&next("F16")], 1.0));
    all
}

fn names(count: usize) -> Vec<String> {
    match count {
        1 => vec!["model.safetensors".into()],
        n => (1..=n).map(|i| format!("model-{i:05}-of-{n:05}.safetensors")).collect(),
    }
}

#[test]
fn generated_pairs_come_back_and_take_less_than_alone() {
    let bench = Bench::new();
    let (plain, packed) = (bench.dir.join("plain"), bench.dir.join("packed"));
    let mut originals: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for (n, pair) in all_pairs().iter().enumerate() {
        let base_dir = plain.join(&pair.name);
        for (name, bytes) in names(pair.base.len()).iter().zip(&pair.base) {
            put(&base_dir.join(name), bytes);
            pack_against(&bench, &base_dir.join(name), &packed.join(&pair.name).join(format!("{name}.bs")), None);
        }
        // Every other base is a container when the fine-tune is made.
        let bases = if n % 2 == 0 { &plain } else { &packed };
        let tuned = bench.dir.join("tuned").join(&pair.name);
        let (mut small, mut alone) = (0, 0);
        for (name, bytes) in names(pair.tuned.len()).iter().zip(&pair.tuned) {
            let input = put(&tuned.join(name), bytes);
            let below = PathBuf::from(&pair.name).join(format!("{name}.bs"));
            let to = bench.source().join(&below);
            let base = bases.join(&pair.name);
            let dry = json(&bench, &["compress", "-n", text(&input), "--base", text(&base)]);
            pack_against(&bench, &input, &to, Some(&base));
            assert_eq!(dry["packed_bytes"], len(&to), "{below:?}: what --dry-run says");
            assert!(!input.with_extension("safetensors.bs").exists());
            let one = bench.dir.join("again.bs");
            run(&bench, &["compress", "-f", "-j1", text(&input), "--base", text(&base), "-o", text(&one)]);
            assert!(fs::read(&one).unwrap() == fs::read(&to).unwrap(), "{below:?}: depends on the threads");
            run(&bench, &["compress", "-f", "-j8", text(&input), "--base", text(&base), "-o", text(&one)]);
            assert!(fs::read(&one).unwrap() == fs::read(&to).unwrap(), "{below:?}: depends on the threads");
            let standalone = pack_against(&bench, &input, &bench.dir.join("alone").join(&below), None);
            assert!(len(&to) <= len(&standalone), "{below:?}: {} above {}", len(&to), len(&standalone));
            if let Some(about) = dry["files"][0]["standalone_bytes"].as_u64() {
                let off = about.abs_diff(len(&standalone));
                assert!(off * 100 <= len(&standalone), "{below:?}: {about} for {} alone", len(&standalone));
            } else {
                assert_eq!(len(&to), len(&standalone), "{below:?}");
            }
            small += len(&to);
            alone += len(&standalone);
            originals.push((below, bytes.clone()));
        }
        let part = small as f64 / alone as f64;
        assert!(part <= pair.most, "{}: {part}", pair.name);
        assert!(pair.most < 1.0 || small == alone, "{}: nothing to refer to", pair.name);
    }
    // Whatever the base was then, it may be the other now.
    for bases in [&plain, &packed] {
        let mount = Mount::new(&bench, &["--base", text(bases)]);
        for (below, original) in &originals {
            let shown = below.with_extension("");
            assert!(fs::read(mount.path(text(&shown))).unwrap() == *original, "{below:?} mounted");
            let back = unpacked(&bench, &bench.source().join(below), Some(&bases.join(below.parent().unwrap())));
            assert!(back == *original, "{below:?} decompressed");
        }
    }
}

#[test]
fn what_occurs_twice_is_stored_once() {
    let bench = Bench::new();
    // Large enough that header and index do not count.
    let big = |seed| {
        let mut all = model(seed, "BF16");
        let values: Vec<f32> = noise(seed, 600_000).iter().map(|&b| (f32::from(b) - 127.0) / 3000.0).collect();
        all.push(tuned::tensor("lm_head.weight", "BF16", &[600, 1000], &values));
        all
    };
    let one = big(50);
    let once = put(&bench.dir.join("in/once/model.safetensors"), &file(&one));
    let alone = pack_against(&bench, &once, &bench.dir.join("once.bs"), None);
    // Again under its own name elsewhere, and consolidated in other order with other names.
    let mut consolidated = renamed(&one);
    consolidated.reverse();
    put(&bench.dir.join("in/twice/a/model.safetensors"), &file(&one));
    put(&bench.dir.join("in/twice/b/model.safetensors"), &file(&one));
    put(&bench.dir.join("in/shards/model-00001-of-00002.safetensors"), &file(&one[..3]));
    put(&bench.dir.join("in/shards/model-00002-of-00002.safetensors"), &file(&one[3..]));
    put(&bench.dir.join("in/shards/consolidated.safetensors"), &file(&consolidated));
    // A second copy of a tensor in the same file: tied weights.
    let mut tied = one.clone();
    let head = tied.last().unwrap().clone();
    tied.insert(1, tuned::Tensor { name: "tied".into(), ..head });
    put(&bench.dir.join("in/tied/model.safetensors"), &file(&tied));
    for (dir, files) in [("twice", 2), ("shards", 3), ("tied", 1)] {
        let (from, to) = (bench.dir.join("in").join(dir), bench.source().join(dir));
        let dry = json(&bench, &["compress", "--dedup", "-n", text(&from), "-o", text(&to)]);
        assert!(!to.exists());
        let apart = json(&bench, &["compress", "-n", text(&from), "-o", text(&to)]);
        let report = json(&bench, &["compress", "--dedup", text(&from), "-o", text(&to)]);
        assert_eq!(dry["packed_bytes"], report["packed_bytes"], "{dir}");
        assert_eq!(report["files"].as_array().unwrap().len(), files);
        let packed = report["packed_bytes"].as_u64().unwrap();
        assert!(packed as f64 <= len(&alone) as f64 * 1.01, "{dir}: {packed} for {} once", len(&alone));
        let standalone = report["standalone_bytes"].as_u64().unwrap();
        let least = if dir == "tied" { 1.4 } else { 1.9 };
        assert!(standalone as f64 > len(&alone) as f64 * least, "{dir}: {standalone}");
        let (apart, saves) = (apart["packed_bytes"].as_u64().unwrap(), &apart["dedup_would_save_bytes"]);
        if dir == "tied" {
            assert!(apart == packed && saves.is_null(), "what a file repeats of itself is stored once in any case");
        } else {
            assert!(apart as f64 > len(&alone) as f64 * least, "{dir}: {apart} without --dedup");
            let off = saves.as_u64().unwrap().abs_diff(apart - packed);
            assert!(off * 20 < apart - packed, "{dir}: {saves} of {}", apart - packed);
        }
    }
    common::age(&bench.source());
    let mount = Mount::new(&bench, &[]);
    let out = bench.dir.join("out");
    run(&bench, &["decompress", text(&bench.source()), "-o", text(&out)]);
    for below in [
        "twice/a/model.safetensors",
        "twice/b/model.safetensors",
        "shards/model-00001-of-00002.safetensors",
        "shards/model-00002-of-00002.safetensors",
        "shards/consolidated.safetensors",
        "tied/model.safetensors",
    ] {
        let original = fs::read(bench.dir.join("in").join(below)).unwrap();
        assert!(fs::read(mount.path(below)).unwrap() == original, "{below} mounted");
        assert!(fs::read(out.join(below)).unwrap() == original, "{below} decompressed");
    }
    // Tied weights need no other file, and a file beside is found for a single one.
    let of = |below: &str| unpacked(&bench, &bench.source().join(below), None);
    assert!(of("tied/model.safetensors.bs") == file(&tied));
    assert!(of("shards/model-00002-of-00002.safetensors.bs") == file(&one[3..]));
    let verified = json(&bench, &["verify", text(&bench.source())]);
    assert!(verified.as_array().unwrap().iter().all(|v| v["state"] == "sound"), "{verified}");
}

#[test]
fn a_container_needs_no_other_file_unless_the_user_asks_for_it() {
    let bench = Bench::new();
    let first = model(80, "BF16");
    let mut second = first.clone();
    second[3] = moved(&first, 9)[3].clone();
    for (step, model) in [("1", &first), ("2", &second)] {
        put(&bench.dir.join(format!("run/step-{step}/model.safetensors")), &file(model));
    }
    let (from, to) = (bench.dir.join("run"), bench.source());
    let packed = |step: &str| to.join(format!("step-{step}/model.safetensors.bs"));
    let said = run(&bench, &["compress", text(&from), "-o", text(&to)]);
    assert!(said.contains("--dedup would save about ") && !said.contains("needed to read"), "{said}");
    fs::remove_dir_all(to.join("step-1")).unwrap();
    assert!(unpacked(&bench, &packed("2"), None) == file(&second), "the first checkpoint is gone");
    let info = json(&bench, &["info", text(&packed("2"))]);
    assert!(info[0].get("bases").is_none(), "{info}");
    // In one file's place there is no other to share with.
    fs::create_dir(bench.dir.join("replaced")).unwrap();
    fs::copy(from.join("step-2/model.safetensors"), bench.dir.join("replaced/m.safetensors")).unwrap();
    run(&bench, &["compress", text(&bench.dir.join("replaced")), "--replace", "--yes"]);
    assert!(unpacked(&bench, &bench.dir.join("replaced/m.safetensors.bs"), None) == file(&second));

    fs::remove_dir_all(&to).unwrap();
    let said = run(&bench, &["compress", "--dedup", text(&from), "-o", text(&to)]);
    let needs = format!("shares tensors with {}, which is needed to read it", packed("1").display());
    assert!(said.contains(&needs) && !said.contains("base") && !said.contains("would save"), "{said}");
    assert!(unpacked(&bench, &packed("2"), Some(&to)) == file(&second));
    let said = run(&bench, &["info", text(&packed("2"))]);
    assert!(said.contains("needs     step-1/model.safetensors"), "{said}");
    let said = run(&bench, &["info", text(&to)]);
    assert!(said.contains(&format!("→ {}", packed("1").display())), "{said}");
    fs::remove_dir_all(to.join("step-1")).unwrap();
    let said = fails(&bench, &["decompress", text(&packed("2")), "-o", text(&bench.dir.join("no"))], 2);
    assert!(said.contains("cannot be read without 'step-1/model.safetensors'"), "{said}");
    // A base is still one, beside what files have in common.
    let base = put(&bench.dir.join("base.safetensors"), &file(&moved(&first, 6)));
    let report = json(&bench, &["compress", "--dedup", text(&from), "-f", "-o", text(&to), "--base", text(&base)]);
    let needs: Vec<_> = report["files"][1]["needs"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    assert!(needs.contains(&text(&base)) && needs.contains(&text(&packed("1"))), "{needs:?}");
    assert!(unpacked(&bench, &packed("2"), Some(&bench.dir)) == file(&second));
}

#[test]
fn a_base_that_is_of_no_use_is_said() {
    let bench = Bench::new();
    let ours = put(&bench.dir.join("ours.safetensors"), &file(&model(85, "BF16")));
    let theirs = put(&bench.dir.join("theirs.safetensors"), &file(&model(86, "F32")));
    let said = |base: &Path| stderr(&bsfs(&bench, ["compress", "-n", text(&ours), "--base", text(base)]));
    assert!(
        said(&theirs).contains("ours.safetensors: nothing is stored as a difference from what is named with --base")
    );
    assert!(said(&ours).contains("ours.safetensors: is the file that is named with --base"));
    let near = put(&bench.dir.join("near.safetensors"), &file(&moved(&model(85, "BF16"), 3)));
    assert_eq!(said(&near), "");
}

/// `count` containers, each the base of the next, and the last one's original. The first base is plain.
fn chain(bench: &Bench, dir: &Path, count: usize) -> (Vec<PathBuf>, Model) {
    let mut now = model(70, "BF16");
    let mut files = vec![put(&dir.join("m0.safetensors"), &file(&now))];
    for n in 1..=count {
        now = moved(&now, 700 + n as u64);
        let input = put(&bench.dir.join(format!("chain/m{n}.safetensors")), &file(&now));
        let before = files.last().unwrap().clone();
        files.push(pack_against(bench, &input, &dir.join(format!("m{n}.safetensors.bs")), Some(&before)));
    }
    (files, now)
}

#[test]
fn chains_work_up_to_eight_files_and_longer_ones_are_not_made() {
    let bench = Bench::new();
    let (files, last) = chain(&bench, &bench.source(), 8);
    let info = json(&bench, &["info", text(&files[8])]);
    assert!(info[0]["bases"]["referring_bytes"].as_u64().unwrap() > 200_000, "{info}");
    assert!(unpacked(&bench, &files[8], None) == file(&last));
    let mount = Mount::new(&bench, &["--memory", "1M"]);
    assert!(fs::read(mount.path("m8.safetensors")).unwrap() == file(&last));
    drop(mount);
    let verified = json(&bench, &["verify", text(&bench.source())]);
    assert!(verified.as_array().unwrap().iter().all(|v| v["state"] == "sound"), "{verified}");

    // Nobody could read what refers to the last one.
    let next = put(&bench.dir.join("chain/m9.safetensors"), &file(&moved(&last, 709)));
    let said = fails(
        &bench,
        &["compress", text(&next), "-o", text(&bench.source().join("m9.bs")), "--base", text(&files[8])],
        2,
    );
    assert!(said.contains("m8.safetensors.bs") && said.contains("flatten"), "{said}");
    assert!(!bench.source().join("m9.bs").exists());
    // A base that is alone again takes it.
    let flat = bench.dir.join("flat/m8.safetensors.bs");
    fs::create_dir(bench.dir.join("flat")).unwrap();
    run(&bench, &["flatten", text(&files[8]), "-o", text(&flat)]);
    let m9 = pack_against(&bench, &next, &bench.source().join("m9.safetensors.bs"), Some(&flat));
    // Its base by digest is the flat one and the one of depth 8 alike; with that one alone it cannot be read.
    assert!(unpacked(&bench, &m9, Some(&flat)) == fs::read(&next).unwrap());
    let said = fails(&bench, &["decompress", text(&m9), "-o", text(&bench.dir.join("no"))], 2);
    assert!(said.contains("needs more than 8 files one for another"), "{said}");
    assert!(!bench.dir.join("no").exists());
    let mount = Mount::new(&bench, &[]);
    assert_eq!(len(&mount.path("m9.safetensors")), len(&next));
    let error = fs::read(mount.path("m9.safetensors")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(fs::read(mount.path("m8.safetensors")).unwrap() == file(&last));
}

#[test]
fn many_files_that_share_something_with_the_one_before_make_no_chain_that_nobody_reads() {
    // Short tensors lie in one chunk, which then needs all that one of them needs.
    for rows in [400, 20] {
        let bench = Bench::new();
        let from = bench.dir.join("in");
        let part = |n: u64| {
            let values: Vec<f32> =
                noise(n + 900, rows * 100).iter().map(|&b| (f32::from(b) - 127.0) / 3000.0).collect();
            tuned::tensor(&format!("t{n}"), "BF16", &[rows, 100], &values)
        };
        for n in 0..14 {
            put(&from.join(format!("f{n:02}.safetensors")), &file(&[part(n), part(n + 1)]));
        }
        let report = json(&bench, &["compress", "--dedup", text(&from), "-o", text(&bench.source())]);
        let (packed, alone) = (report["packed_bytes"].as_u64().unwrap(), report["standalone_bytes"].as_u64().unwrap());
        assert!(packed * 10 < alone * if rows == 400 { 7 } else { 9 }, "{packed} of {alone}");
        common::age(&bench.source());
        let mount = Mount::new(&bench, &[]);
        for n in 0..14 {
            let original = fs::read(from.join(format!("f{n:02}.safetensors"))).unwrap();
            assert!(fs::read(mount.path(&format!("f{n:02}.safetensors"))).unwrap() == original, "{rows} rows, {n}");
            let container = bench.source().join(format!("f{n:02}.safetensors.bs"));
            assert!(unpacked(&bench, &container, None) == original, "{rows} rows, {n}");
        }
    }
}

#[test]
fn a_base_is_neither_what_is_compressed_nor_what_is_replaced() {
    let bench = Bench::new();
    let base = model(30, "BF16");
    let dir = bench.dir.join("in");
    let plain = put(&dir.join("base.safetensors"), &file(&base));
    let tuned = put(&dir.join("tuned.safetensors"), &file(&moved(&base, 3)));
    // Of a directory with its own base: the base must not need itself.
    for arg in [&plain, &dir] {
        let out = bench.dir.join("out");
        run(&bench, &["compress", text(&dir), "-o", text(&out), "--base", text(&plain)]);
        fs::rename(&plain, dir.join("gone")).unwrap();
        assert!(unpacked(&bench, &out.join("base.safetensors.bs"), None) == file(&base), "{arg:?}");
        assert!(unpacked(&bench, &out.join("tuned.safetensors.bs"), None) == fs::read(&tuned).unwrap(), "{arg:?}");
        fs::rename(dir.join("gone"), &plain).unwrap();
        fs::remove_dir_all(&out).unwrap();
    }
    // The container that is to be replaced holds the only bytes.
    let packed = pack_against(&bench, &plain, &bench.dir.join("base.safetensors.bs"), None);
    let before = fs::read(&packed).unwrap();
    let said = fails(&bench, &["compress", text(&plain), "-f", "-o", text(&packed), "--base", text(&packed)], 2);
    assert!(said.contains("base.safetensors.bs") && said.contains("--base"), "{said}");
    assert!(fs::read(&packed).unwrap() == before);
    let said = fails(&bench, &["compress", text(&tuned), "-n", "--base", text(&bench.dir.join("none"))], 2);
    assert!(said.contains("none: no such file or directory, named with --base"), "{said}");
    let said = fails(&bench, &["compress", text(&tuned), "-n", "--base", text(&put(&dir.join("x.txt"), b"text"))], 2);
    assert!(said.contains("neither a safetensors file nor an archive of stored numbers, and so no base"), "{said}");
}

#[test]
fn info_tells_what_is_needed_and_who_depends_on_whom() {
    let bench = Bench::new();
    let base = model(20, "BF16");
    let plain = put(&bench.dir.join("org/base.safetensors"), &file(&base));
    let packed = pack_against(&bench, &plain, &bench.source().join("z-base.safetensors.bs"), None);
    for name in ["a", "b"] {
        // The norm and the scale are the same in all.
        let mut tuned = moved(&base, name.len() as u64 + u64::from(name.as_bytes()[0]));
        tuned[1] = base[1].clone();
        let input = put(&bench.dir.join(format!("{name}.safetensors")), &file(&tuned));
        pack_against(&bench, &input, &bench.source().join(format!("{name}.safetensors.bs")), Some(&packed));
    }
    let infos = json(&bench, &["info", text(&bench.source())]);
    let of =
        |name: &str| infos.as_array().unwrap().iter().find(|i| i["file"].as_str().unwrap().ends_with(name)).unwrap();
    assert!(of("z-base.safetensors.bs").get("bases").is_none());
    for name in ["a.safetensors.bs", "b.safetensors.bs"] {
        let bases = &of(name)["bases"];
        let file = &bases["files"][0];
        assert_eq!(bases["files"].as_array().unwrap().len(), 1, "{bases}");
        assert_eq!(file["hint"], "source/z-base.safetensors.bs");
        assert_eq!(file["found"].as_array().unwrap().len(), 1, "{name}: {bases}");
        assert!(file["found"][0].as_str().unwrap().ends_with("z-base.safetensors.bs"), "{name}: {bases}");
        assert_eq!(file["elsewhere"], 0);
        let referring = bases["referring_bytes"].as_u64().unwrap();
        assert!(referring > 380_000 && referring < of(name)["raw_bytes"].as_u64().unwrap(), "{bases}");
        assert_eq!(bases["itself_bytes"], 0);
        let alone =
            pack_against(&bench, &bench.dir.join(name.trim_end_matches(".bs")), &bench.dir.join("alone.bs"), None);
        let about = bases["standalone_bytes"].as_u64().unwrap();
        fs::remove_file(&alone).unwrap_or(());
        assert!(about > 2 * of(name)["packed_bytes"].as_u64().unwrap(), "{about}");
    }
    let said = run(&bench, &["info", text(&bench.source())]);
    assert!(said.contains("needed by others:"), "{said}");
    let line = said.lines().find(|line| line.contains("z-base.safetensors.bs by ")).expect("who depends on it");
    assert!(line.contains("a.safetensors.bs") && line.contains("b.safetensors.bs"), "{line}");
    let said = run(&bench, &["info", text(&bench.source().join("a.safetensors.bs"))]);
    assert!(said.contains("source/z-base.safetensors.bs") && said.contains("alone"), "{said}");
    fs::remove_file(&packed).unwrap();
    let said = run(&bench, &["info", text(&bench.source())]);
    assert!(said.contains("that no container listed here has"), "{said}");
}

#[test]
fn a_flat_container_needs_nobody() {
    let bench = Bench::new();
    let base = model(40, "F32");
    let tuned = file(&merged(&base, 2));
    let plain = put(&bench.dir.join("bases/base.safetensors"), &file(&base));
    let input = put(&bench.dir.join("tuned.safetensors"), &tuned);
    let delta = pack_against(&bench, &input, &bench.source().join("tuned.safetensors.bs"), Some(&plain));
    let said = fails(&bench, &["flatten", text(&delta), "--in-place"], 2);
    assert!(said.contains("base.safetensors") && said.contains("--base"), "{said}");
    let bases = bench.dir.join("bases");
    let said = fails(&bench, &["flatten", text(&delta), "-o", text(&delta), "--base", text(&bases)], 2);
    assert!(said.contains("--in-place"), "{said}");
    let before = fs::read(&delta).unwrap();
    let flat = bench.dir.join("flat.bs");
    let report = json(&bench, &["flatten", text(&delta), "-o", text(&flat), "--base", text(&bases)]);
    let hex: String = Sha256::digest(&tuned).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(report["sha256"], hex.as_str());
    assert!(fs::read(&delta).unwrap() == before, "-o leaves the input");
    run(&bench, &["flatten", text(&delta), "--in-place", "--base", text(&bases)]);
    assert!(fs::read(&delta).unwrap() == fs::read(&flat).unwrap());
    fs::remove_dir_all(&bases).unwrap();
    let info = json(&bench, &["info", text(&delta)]);
    assert!(info[0].get("bases").is_none());
    assert_eq!(info[0]["sha256"], hex.as_str());
    assert!(unpacked(&bench, &delta, None) == tuned);
    // What compress would have written, but for the chunks' length and time.
    let alone = pack_against(&bench, &input, &bench.dir.join("alone.bs"), None);
    assert!(len(&alone).abs_diff(len(&flat)) < 64);
    let mount = Mount::new(&bench, &[]);
    assert!(fs::read(mount.path("tuned.safetensors")).unwrap() == tuned);
}
