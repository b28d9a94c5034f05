//! The verbs on containers of the Python package `bigsmall`: what is shown, what is written, and what is left alone.
//!
//! `tests/bigsmall` was written by the package itself; its manifest tells what each tensor must be.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::{Bench, noise};

fn bsfs(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bsfs")).args(arguments).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn ok(dir: &Path, arguments: &[&str]) -> String {
    let output = bsfs(dir, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{}", text(&output.stderr));
    text(&output.stdout)
}

fn json_of(dir: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&ok(dir, arguments)).unwrap()
}

/// Runs bsfs, which must end with `code` and one line that holds all of `words`.
fn fails(dir: &Path, code: i32, arguments: &[&str], words: &[&str]) {
    let output = bsfs(dir, arguments);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{message}");
    assert_eq!(message.lines().count(), 1, "{arguments:?}\n{message}");
    for word in words {
        assert!(message.contains(word), "{arguments:?} does not say '{word}': {message}");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bigsmall")
}

/// Copies a directory of fixtures.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

fn manifest() -> Vec<Value> {
    let text = fs::read(fixtures().join("manifest.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()["files"].as_array().unwrap().clone()
}

/// Dtype, shape and bytes of each tensor of a safetensors file.
fn tensors(file: &[u8]) -> BTreeMap<String, (String, Value, Vec<u8>)> {
    let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + len]).unwrap();
    let data = &file[8 + len..];
    let tensor = |entry: &Value| {
        let at = |i: usize| entry["data_offsets"][i].as_u64().unwrap() as usize;
        (entry["dtype"].as_str().unwrap().to_owned(), entry["shape"].clone(), data[at(0)..at(1)].to_vec())
    };
    let entries = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    entries.map(|(name, entry)| (name.clone(), tensor(entry))).collect()
}

/// A safetensors file of these tensors, one behind the other.
fn safetensors(metadata: Option<Value>, of: &[(&str, &str, Vec<u64>, Vec<u8>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    if let Some(metadata) = metadata {
        header.insert("__metadata__".into(), metadata);
    }
    let mut data = Vec::new();
    for (name, dtype, shape, raw) in of {
        let offsets = [data.len(), data.len() + raw.len()];
        header.insert((*name).into(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        data.extend(raw);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name under which a container is shown.
fn shown(path: &str) -> String {
    format!("{}.safetensors", path.rsplit_once('.').unwrap().0)
}

/// Replaces text in the header of a container by text of any length.
fn edit(file: &[u8], from: &str, to: &str) -> Vec<u8> {
    let len = u32::from_le_bytes(file[6..10].try_into().unwrap()) as usize;
    let header = text(&file[10..10 + len]);
    assert!(header.contains(from), "{header}");
    let header = header.replacen(from, to, 1);
    [&file[..6], &(header.len() as u32).to_le_bytes(), header.as_bytes(), &file[10 + len..]].concat()
}

#[test]
fn every_container_of_the_package_is_verified_and_comes_back() {
    let bench = Bench::new();
    let dir = &bench.dir;
    copy(&fixtures(), &dir.join("fx"));
    let verified = json_of(dir, &["verify", "fx", "--json"]);
    let verified = verified.as_array().unwrap();
    assert!(verified.iter().all(|file| file["state"] == "sound" && file["format"] == "bigsmall"), "{verified:?}");
    ok(dir, &["decompress", "fx", "-o", "plain"]);
    let manifest = manifest();
    assert_eq!(verified.len(), manifest.len());
    for file in &manifest {
        let path = file["path"].as_str().unwrap();
        let found = tensors(&fs::read(dir.join("plain").join(shown(path))).unwrap());
        let expected = file["tensors"].as_array().unwrap();
        // The manifest notes a directory's duplicates with its last shard; they are shown with their masters.
        if !path.contains('/') {
            assert_eq!(found.len(), expected.len(), "{path}");
        }
        for tensor in expected {
            let (dtype, shape, raw) = &found[tensor["name"].as_str().unwrap()];
            assert_eq!((dtype.as_str(), shape), (tensor["dtype"].as_str().unwrap(), &tensor["shape"]), "{path}");
            assert_eq!(hex(&Sha256::digest(raw)), tensor["sha256"], "{path}: {}", tensor["name"]);
        }
        for (name, sha256) in file["duplicates"].as_object().into_iter().flatten() {
            let shard = dir.join("plain/sharded-4.0.0/model-00001-of-00002.safetensors");
            assert_eq!(hex(&Sha256::digest(&tensors(&fs::read(shard).unwrap())[name].2)), *sha256, "{path}: {name}");
        }
    }
    let index = fs::read(dir.join("plain/sharded-4.0.0/model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["weight_map"]["lm_head.weight"], "model-00001-of-00002.safetensors");
    assert_eq!(index["weight_map"].as_object().unwrap().len(), 6);

    // With the plain files beside them, every tensor is compared by name.
    ok(dir, &["verify", "fx", "--source", "plain"]);
    let original = dir.join("plain/big-4.0.0.safetensors");
    let mut other = fs::read(&original).unwrap();
    *other.last_mut().unwrap() ^= 1;
    fs::write(&original, &other).unwrap();
    let arguments = ["verify", "fx/big-4.0.0.bs", "--source", "plain/big-4.0.0.safetensors"];
    fails(dir, 1, &arguments, &["fx/big-4.0.0.bs", "byte", "of tensor", "differs: expected"]);
    fails(dir, 2, &["decompress", "fx/big-4.0.0.bs", "-o", "fx/big-4.0.0.bs", "--force"], &["same file"]);
    fails(dir, 2, &["decompress", "fx", "-o", "plain"], &["exists already", "--force"]);
}

#[test]
fn info_tells_what_the_header_tells() {
    let (dir, manifest) = (fixtures(), manifest());
    for file in &manifest {
        let path = file["path"].as_str().unwrap();
        let info = &json_of(&dir, &["info", path, "--json", "--tensors"])[0];
        assert_eq!(info["format"], "bigsmall");
        assert_eq!(info["packed_bytes"], fs::metadata(dir.join(path)).unwrap().len());
        assert_eq!(info["shown_name"], shown(path.rsplit('/').next().unwrap()));
        assert_eq!(info["delta"], path.starts_with("delta"));
        let own = file["tensors"].as_array().unwrap();
        let listed = info["tensors"].as_array().unwrap();
        assert_eq!(info["tensor_count"], listed.len());
        assert_eq!(info["duplicates"], listed.len() - own.len());
        let packed =
            |rows: &Value| rows.as_array().unwrap().iter().map(|r| r["packed_bytes"].as_u64().unwrap()).sum::<u64>();
        assert_eq!(packed(&info["codecs"]), packed(&info["dtypes"]), "{path}");
        assert!(packed(&info["codecs"]) < info["packed_bytes"].as_u64().unwrap());
        for tensor in own {
            let row = listed.iter().find(|row| row["name"] == tensor["name"]).unwrap();
            assert_eq!((&row["dtype"], &row["shape"]), (&tensor["dtype"], &tensor["shape"]));
            assert_eq!(row["raw_bytes"], tensor["nbytes"]);
            let (codec, expected) = (row["codecs"][0].as_str().unwrap(), tensor["codec"].as_str().unwrap());
            let grouped = codec.starts_with("group_stream_v1/") && expected.starts_with("group_");
            assert!(grouped || codec.split('/').next() == Some(expected), "{path}: {codec}, {expected}");
        }
    }
    let table = ok(&dir, &["info", "delta-4.0.0.bs"]);
    for word in
        ["bigsmall", "delta-4.0.0.safetensors", "--base", "'delta-base-4.0.0.safetensors'", "zstd_xor_delta", "BF16"]
    {
        assert!(table.contains(word), "{word}: {table}");
    }
    let table = ok(&dir, &["info", "sharded-4.0.0"]);
    assert!(table.contains("1 of them by the shard index") && table.contains("2 files:"), "{table}");
}

#[test]
fn migrated_containers_hold_what_is_shown() {
    let bench = Bench::new();
    let dir = &bench.dir;
    copy(&fixtures(), &dir.join("fx"));
    let before = names(&dir.join("fx"));
    ok(dir, &["migrate", "fx", "-o", "out", "--dry-run"]);
    assert!(!dir.join("out").exists());
    let planned = json_of(dir, &["migrate", "fx", "--dry-run", "--json", "--allow-larger"]);
    assert_eq!(names(&dir.join("fx")), before);

    let done = json_of(dir, &["migrate", "fx", "-o", "out", "--allow-larger", "--json"]);
    let files = done["files"].as_array().unwrap();
    assert_eq!(files.len(), manifest().len());
    for (planned, done) in planned["files"].as_array().unwrap().iter().zip(files) {
        // What was said without writing is what was written.
        assert_eq!(planned["after_bytes"], done["after_bytes"]);
        let output = dir.join(done["output"].as_str().unwrap());
        assert_eq!(done["after_bytes"], fs::metadata(&output).unwrap().len());
        assert_eq!(done["state"], "migrated");
    }
    assert_eq!(names(&dir.join("fx")), before);
    ok(dir, &["verify", "out"]);
    ok(dir, &["decompress", "out", "-o", "back"]);
    ok(dir, &["decompress", "fx", "-o", "plain"]);
    for file in manifest() {
        let path = shown(file["path"].as_str().unwrap());
        assert!(fs::read(dir.join("back").join(&path)).unwrap() == fs::read(dir.join("plain").join(&path)).unwrap());
    }
    let index = "sharded-4.0.0/model.safetensors.index.json";
    assert_eq!(fs::read(dir.join("out").join(index)).unwrap(), fs::read(dir.join("plain").join(index)).unwrap());
    let info = &json_of(dir, &["info", "out/big-4.0.0.safetensors.bs", "--json"])[0];
    assert_eq!((&info["format"], &info["original_name"]), (&"bsfs".into(), &"big-4.0.0.safetensors".into()));
    // Again: what is there is not replaced unless asked.
    fails(dir, 2, &["migrate", "fx/big-4.0.0.bs", "-o", "out"], &["exists already", "--force"]);
    ok(dir, &["migrate", "fx/big-4.0.0.bs", "-o", "out", "--force", "--storage", "-j", "1"]);
    fails(dir, 2, &["migrate", "out/big-4.0.0.safetensors.bs"], &["container of bsfs already"]);
    fails(dir, 2, &["migrate", "out"], &["no container of bigsmall"]);
}

#[test]
fn what_would_be_larger_is_kept_unless_asked() {
    let bench = Bench::new();
    let dir = &bench.dir;
    fs::copy(fixtures().join("v8-3.13.0.bs"), dir.join("m.bs")).unwrap();
    let said = ok(dir, &["migrate", "m.bs", "--in-place"]);
    assert!(said.contains("m.bs: kept: ") && said.contains("--allow-larger"), "{said}");
    assert_eq!(names(dir), ["m.bs", "mount", "source"]);
    let said = ok(dir, &["migrate", "m.bs", "--dry-run"]);
    assert!(said.contains("would be kept"), "{said}");
    ok(dir, &["migrate", "m.bs", "--in-place", "--allow-larger"]);
    assert_eq!(names(dir), ["m.safetensors.bs", "mount", "source"]);
}

#[test]
fn in_place_removes_what_was_verified_and_nothing_else() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let sound = fs::read(fixtures().join("big-3.5.0.bs")).unwrap();
    let len = sound.len();
    // The last blob, so that others are decoded before.
    let mut damaged = sound.clone();
    damaged[len - 100] ^= 1;
    fs::write(dir.join("m.bs"), &damaged).unwrap();
    fails(dir, 65, &["migrate", "m.bs", "--in-place"], &["m.bs", "tensor '"]);
    fails(dir, 65, &["migrate", "m.bs"], &["m.bs", "tensor '"]);
    fails(dir, 65, &["decompress", "m.bs"], &["m.bs", "tensor '"]);
    fails(dir, 1, &["verify", "m.bs"], &["m.bs", "tensor '"]);
    assert_eq!(names(dir), ["m.bs", "mount", "source"]);
    assert!(fs::read(dir.join("m.bs")).unwrap() == damaged);

    // A wrong digest with sound bytes is as bad.
    let info = &json_of(&fixtures(), &["info", "big-3.5.0.bs", "--json", "--tensors"])[0];
    let md5 = info["tensors"][0]["md5"].as_str().unwrap().to_owned();
    let wrong = format!("{}{}", if md5.starts_with('0') { '1' } else { '0' }, &md5[1..]);
    fs::write(dir.join("m.bs"), edit(&sound, &md5, &wrong)).unwrap();
    fails(dir, 65, &["migrate", "m.bs", "--in-place"], &["MD5 of tensor", &wrong, &md5]);
    assert_eq!(names(dir), ["m.bs", "mount", "source"]);

    fs::write(dir.join("m.bs"), &sound).unwrap();
    let said = ok(dir, &["migrate", "m.bs", "--in-place"]);
    assert!(said.contains("freed"), "{said}");
    assert_eq!(names(dir), ["m.safetensors.bs", "mount", "source"]);
    ok(dir, &["verify", "m.safetensors.bs"]);

    // One that has the successor's name already is replaced, but only in place.
    fs::write(dir.join("m.safetensors.bs"), &sound).unwrap();
    fails(dir, 2, &["migrate", "m.safetensors.bs"], &["same name", "--in-place"]);
    fails(dir, 2, &["migrate", "m.safetensors.bs", "--force"], &["same name", "--in-place"]);
    ok(dir, &["migrate", "m.safetensors.bs", "--in-place"]);
    let info = &json_of(dir, &["info", "m.safetensors.bs", "--json"])[0];
    assert_eq!((&info["format"], &info["original_name"]), (&"bsfs".into(), &"m.safetensors".into()));

    // A link is not what the user means to free.
    fs::write(dir.join("blob"), &sound).unwrap();
    symlink("blob", dir.join("l.bs")).unwrap();
    fails(dir, 2, &["migrate", "l.bs", "--in-place"], &["is a link"]);
    assert_eq!(bsfs(dir, &["migrate", "l.bs", "--in-place", "-o", "x"]).status.code(), Some(2));
    ok(dir, &["migrate", "l.bs"]);
    assert!(fs::read(dir.join("blob")).unwrap() == sound);
}

#[test]
fn a_tensor_too_long_to_be_proven_first_is_proven_before_the_file_has_its_name() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let long = (70 << 20) + 3;
    let file =
        safetensors(None, &[("long", "U8", vec![long as u64], vec![7; long]), ("short", "U8", vec![3], vec![1; 3])]);
    fs::write(dir.join("m.safetensors"), &file).unwrap();
    ok(dir, &["export", "m.safetensors", "--format", "bigsmall", "-o", "m.bs"]);
    ok(dir, &["decompress", "m.bs", "-o", "back"]);
    assert!(tensors(&fs::read(dir.join("back")).unwrap()) == tensors(&file));
    fs::remove_file(dir.join("back")).unwrap();
    let info = &json_of(dir, &["info", "m.bs", "--json", "--tensors"])[0];
    let md5 = info["tensors"][0]["md5"].as_str().unwrap();
    let sound = fs::read(dir.join("m.bs")).unwrap();
    fs::write(dir.join("m.bs"), edit(&sound, md5, "00000000000000000000000000000000")).unwrap();
    for arguments in [&["decompress", "m.bs", "-o", "back"][..], &["migrate", "m.bs", "--in-place", "--allow-larger"]] {
        fails(dir, 65, arguments, &["MD5 of tensor 'long'", md5]);
    }
    fails(dir, 1, &["verify", "m.bs"], &["MD5 of tensor 'long'", md5]);
    assert_eq!(names(dir), ["m.bs", "m.safetensors", "mount", "source"]);
}

#[test]
fn a_migration_that_is_stopped_leaves_the_original_alone() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let words = noise(1, 64 << 10);
    let raw: Vec<u8> = noise(2, 640 << 10).iter().flat_map(|b| words[usize::from(*b) * 256..][..64].to_vec()).collect();
    let file = safetensors(None, &[("a", "U8", vec![raw.len() as u64], raw)]);
    fs::write(dir.join("m.safetensors"), file).unwrap();
    ok(dir, &["export", "m.safetensors", "--format", "bigsmall", "-o", "m.bs"]);
    fs::remove_file(dir.join("m.safetensors")).unwrap();
    let sound = fs::read(dir.join("m.bs")).unwrap();
    for (signal, code) in [(libc::SIGINT, Some(130)), (libc::SIGKILL, None)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bsfs"));
        command.args(["migrate", "m.bs", "--in-place", "-j", "1", "--storage", "--allow-larger"]).current_dir(dir);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(child.try_wait().unwrap().is_none(), "too short for the test");
        // SAFETY: a plain system call on a process that is ours and has not been waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        assert_eq!(child.wait().unwrap().code(), code);
        assert_eq!(names(dir), ["m.bs", "mount", "source"]);
        assert!(fs::read(dir.join("m.bs")).unwrap() == sound);
    }
}

#[test]
fn shards_are_migrated_as_a_whole() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let model = dir.join("model");
    copy(&fixtures().join("sharded-4.0.0"), &model);
    // An index that cannot be read may tell of tensors that are nowhere else.
    let index = fs::read(model.join("bigsmall.index.json")).unwrap();
    fs::write(model.join("bigsmall.index.json"), b"{").unwrap();
    let one = ["migrate", "model/model-00001-of-00002.bs", "--in-place"];
    fails(dir, 2, &one, &["bigsmall.index.json", "tensors may be lost"]);
    // And stops no other directory.
    copy(&fixtures().join("sharded-4.0.0"), &dir.join("all/sound"));
    copy(&model, &dir.join("all/broken"));
    let output = bsfs(dir, &["migrate", "all", "--in-place"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr).matches("tensors may be lost").count(), 2, "{}", text(&output.stderr));
    assert_eq!(names(&dir.join("all/broken")), names(&model));
    assert!(names(&dir.join("all/sound")).iter().all(|name| !name.ends_with("2.bs") && !name.starts_with("bigsmall")));
    let output = bsfs(dir, &["verify", "model"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("damaged shard index"));
    fs::write(model.join("bigsmall.index.json"), &index).unwrap();
    assert_eq!(names(&model).len(), 4);

    // Half of it, as after an interruption; then the rest.
    ok(dir, &["migrate", "model/model-00001-of-00002.bs", "--in-place"]);
    assert!(model.join("bigsmall.index.json").exists() && !model.join("model-00001-of-00002.bs").exists());
    ok(dir, &["verify", "model"]);
    // Ended before the index is done, as by a full disk; a file in the way in one directory stops no other.
    for (sub, shards) in [("ended/done", 2), ("ended/stuck", 2)] {
        copy(&fixtures().join("sharded-4.0.0"), &dir.join(sub));
        for n in 1..=shards {
            ok(dir, &["migrate", &format!("{sub}/model-0000{n}-of-00002.bs"), "--in-place"]);
            fs::write(dir.join(sub).join("bigsmall.index.json"), &index).unwrap();
        }
        let _ = fs::remove_file(dir.join(sub).join("model.safetensors.index.json"));
    }
    copy(&fixtures().join("sharded-4.0.0"), &dir.join("ended/other"));
    fs::write(dir.join("ended/done/.bigsmall.index.json.bsfs-aside"), b"x").unwrap();
    let output = bsfs(dir, &["migrate", "ended", "--in-place", "--json"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["files"].as_array().unwrap().len(), 2);
    for (sub, index) in [("done", true), ("stuck", false), ("other", false)] {
        let at = dir.join("ended").join(sub);
        assert!(at.join("model.safetensors.index.json").exists(), "{sub}");
        assert_eq!(at.join("bigsmall.index.json").exists(), index, "{sub}");
    }
    fs::remove_file(dir.join("ended/done/.bigsmall.index.json.bsfs-aside")).unwrap();
    ok(dir, &["migrate", "ended", "--in-place"]);
    assert!(!dir.join("ended/done/bigsmall.index.json").exists());
    let said = ok(dir, &["migrate", "model", "--in-place"]);
    assert!(said.contains("bigsmall.index.json: removed"), "{said}");
    let both = ["model-00001-of-00002.safetensors.bs", "model-00002-of-00002.safetensors.bs"];
    assert_eq!(names(&model), [&["config.json"][..], &both, &["model.safetensors.index.json"]].concat());
    ok(dir, &["verify", "model"]);
    ok(dir, &["decompress", "model", "-o", "back"]);
    let first = tensors(&fs::read(dir.join("back/model-00001-of-00002.safetensors")).unwrap());
    assert_eq!(first["lm_head.weight"], first["model.embed_tokens.weight"]);
    let index: Value = serde_json::from_slice(&fs::read(model.join("model.safetensors.index.json")).unwrap()).unwrap();
    let second = tensors(&fs::read(dir.join("back/model-00002-of-00002.safetensors")).unwrap());
    let bytes: usize = first.values().chain(second.values()).map(|(_, _, raw)| raw.len()).sum();
    assert_eq!(index["metadata"]["total_size"], bytes);

    // A shard that is missing is damage.
    copy(&fixtures().join("sharded-2.0.1"), &dir.join("half"));
    fs::remove_file(dir.join("half/model-00002-of-00002.bs")).unwrap();
    // Once, also where the directory's containers lie on both sides of another's.
    fs::create_dir(dir.join("half/n")).unwrap();
    for name in ["n/m.bs", "z.bs"] {
        fs::copy(fixtures().join("big-4.0.0.bs"), dir.join("half").join(name)).unwrap();
    }
    fails(dir, 1, &["verify", "half"], &["half/bigsmall.index.json", "model-00002-of-00002.bs, which is not there"]);
}

#[test]
fn what_is_made_of_shards_in_a_closed_directory_is_as_closed() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let dir = &bench.dir;
    let close = |path: &str, mode| fs::set_permissions(dir.join(path), fs::Permissions::from_mode(mode)).unwrap();
    copy(&fixtures().join("sharded-4.0.0"), &dir.join("theirs/sub/model"));
    fs::remove_file(dir.join("theirs/sub/model/config.json")).unwrap();
    close("theirs/sub/model/bigsmall.index.json", 0o600);
    close("theirs/sub", 0o700);
    for verb in ["migrate", "decompress"] {
        ok(dir, &[verb, "theirs", "-o", verb]);
        let mode = |path: &str| {
            let path = dir.join(verb).join(path);
            fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode() & 0o777
        };
        assert_eq!(mode("sub"), 0o700, "{verb}");
        assert_eq!(mode("sub/model/model.safetensors.index.json"), 0o600, "{verb}");
    }
    ok(dir, &["verify", "migrate"]);
}

#[test]
fn deltas_need_their_base_and_notice_a_wrong_one() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let sub = dir.join("d");
    fs::create_dir(&sub).unwrap();
    fs::copy(fixtures().join("delta-4.0.0.bs"), sub.join("delta.bs")).unwrap();
    let base = fs::read(fixtures().join("delta-base-4.0.0.safetensors")).unwrap();
    fs::write(dir.join("base.safetensors"), &base).unwrap();
    let hint = "delta-base-4.0.0.safetensors";
    fails(dir, 2, &["verify", "d/delta.bs"], &["d/delta.bs", hint, "--base"]);
    fails(dir, 2, &["decompress", "d/delta.bs"], &["d/delta.bs", hint, "--base"]);
    fails(dir, 2, &["migrate", "d/delta.bs"], &["d/delta.bs", hint, "--base"]);
    // A link beside it is not followed: the name is a stranger's.
    symlink("../base.safetensors", sub.join(hint)).unwrap();
    fails(dir, 2, &["verify", "d/delta.bs"], &["--base"]);
    fs::remove_file(sub.join(hint)).unwrap();
    assert_eq!(names(&sub), ["delta.bs"]);

    ok(dir, &["verify", "d/delta.bs", "--base", "base.safetensors"]);
    ok(dir, &["compress", "base.safetensors"]);
    ok(dir, &["export", "--format", "bigsmall", "base.safetensors", "-o", "base.bs"]);
    for base in ["base.safetensors.bs", "base.bs"] {
        ok(dir, &["decompress", "d/delta.bs", "--base", base, "-o", "out", "--force"]);
        let found = tensors(&fs::read(dir.join("out")).unwrap());
        let manifest = manifest();
        let file = manifest.iter().find(|file| file["path"] == "delta-4.0.0.bs").unwrap();
        for tensor in file["tensors"].as_array().unwrap() {
            let name = tensor["name"].as_str().unwrap();
            assert_eq!(hex(&Sha256::digest(&found[name].2)), tensor["sha256"], "{name}");
        }
    }
    ok(dir, &["migrate", "d/delta.bs", "--base", "base.bs", "-o", "whole.bs", "--allow-larger"]);
    ok(dir, &["decompress", "whole.bs", "-o", "whole"]);
    assert!(fs::read(dir.join("whole")).unwrap() == fs::read(dir.join("out")).unwrap());

    let mut wrong = base.clone();
    let at = wrong.len() - 6000;
    wrong[at] ^= 1;
    fs::write(dir.join("wrong.safetensors"), &wrong).unwrap();
    fails(dir, 1, &["verify", "d/delta.bs", "--base", "wrong.safetensors"], &["MD5 of tensor", "base may be another"]);
    fails(dir, 65, &["migrate", "d/delta.bs", "--base", "wrong.safetensors", "--in-place"], &["base may be another"]);
    fails(dir, 65, &["decompress", "d/delta.bs", "--base", "wrong.safetensors"], &["base may be another"]);
    fails(dir, 2, &["decompress", "d/delta.bs", "--base", "d/delta.bs"], &["is a delta itself"]);
    fs::write(dir.join("noise"), noise(1, 1000)).unwrap();
    fails(dir, 2, &["decompress", "d/delta.bs", "--base", "noise"], &["noise", "no base for a delta"]);
    assert_eq!(names(&sub), ["delta.bs"]);
}

/// Bytes whose exponents are of few values, as in weights, for elements of `width` bytes.
fn weights(seed: u64, elements: usize, width: usize) -> Vec<u8> {
    let mut bytes = noise(seed, elements * width);
    for element in bytes.chunks_mut(width) {
        let last = element.last_mut().unwrap();
        *last = 0x3c | (*last & 0x83);
    }
    bytes
}

#[test]
fn exported_tensors_come_back_whatever_their_type() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let sized =
        [("F64", 8), ("F32", 4), ("F16", 2), ("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1), ("I64", 8), ("I32", 4)];
    let more =
        [("I16", 2), ("I8", 1), ("U64", 8), ("U32", 4), ("U16", 2), ("U8", 1), ("BOOL", 1), ("C64", 8), ("F8_E8M0", 1)];
    let mut all = Vec::new();
    let names: Vec<(String, &str, usize)> = sized
        .into_iter()
        .chain(more)
        .flat_map(|(dtype, width)| ["scalar", "empty", "few", "many"].map(|of| (format!("{dtype}.{of}"), dtype, width)))
        .collect();
    for (i, (name, dtype, width)) in names.iter().enumerate() {
        let (shape, elements) = match i % 4 {
            0 => (vec![], 1),
            1 => (vec![3, 0, 2], 0),
            2 => (vec![7], 7),
            _ => (vec![300, 200], 60_000),
        };
        let raw = if dtype == &"BOOL" {
            noise(i as u64, elements).iter().map(|b| b & 1).collect()
        } else {
            weights(i as u64, elements, *width)
        };
        all.push((name.as_str(), *dtype, shape, raw));
    }
    all.push(("zeros", "BF16", vec![100_000], vec![0; 200_000]));
    all.push(("noise \u{e9}\"\\", "F32", vec![50_000], noise(9, 200_000)));
    let file = safetensors(Some(json!({"format": "pt", "b": "\u{4e2d}"})), &all);
    fs::write(dir.join("m.safetensors"), &file).unwrap();
    let report = json_of(dir, &["export", "m.safetensors", "--format", "bigsmall", "-o", "m.bs", "--json"]);
    assert_eq!(report["packed_bytes"], fs::metadata(dir.join("m.bs")).unwrap().len());
    for codec in ["bf16_se_rans", "fp16_se_ac", "fp32_se_ac", "fp8_cat_ac", "zstd", "raw"] {
        assert!(report["codecs"][codec].as_u64() > Some(0), "{codec}: {report}");
    }
    assert_eq!(&fs::read(dir.join("m.bs")).unwrap()[..6], b"BGSM\x01\0");
    assert_eq!(report["unread"], json!(["C64", "F64", "F8_E8M0", "U32", "U64"]));
    ok(dir, &["verify", "m.bs", "--source", "m.safetensors"]);
    ok(dir, &["decompress", "m.bs", "-o", "back"]);
    let back = fs::read(dir.join("back")).unwrap();
    assert_eq!(tensors(&back), tensors(&file));
    let header = text(&back[8..100]);
    assert!(header.starts_with("{\"__metadata__\":{\"b\":\"\u{4e2d}\",\"format\":\"pt\"},"), "{header}");

    // Of a container of ours the same, on any number of threads; what is there stays.
    ok(dir, &["compress", "m.safetensors"]);
    ok(dir, &["export", "m.safetensors.bs", "--format", "bigsmall", "-o", "again.bs", "-j", "1"]);
    assert!(fs::read(dir.join("again.bs")).unwrap() == fs::read(dir.join("m.bs")).unwrap());
    fails(dir, 2, &["export", "m.safetensors", "--format", "bigsmall", "-o", "m.bs"], &["m.bs", "exists already"]);
    fails(dir, 2, &["export", "m.bs", "--format", "bigsmall", "-o", "x.bs"], &["m.bs", "of bigsmall already"]);
    let same = ["export", "m.safetensors", "--format", "bigsmall", "-o", "m.safetensors", "--force"];
    fails(dir, 2, &same, &["same file"]);
    assert!(fs::read(dir.join("m.safetensors")).unwrap() == file);
}

#[test]
fn what_holds_more_than_tensors_is_not_exported() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let sound = safetensors(None, &[("a", "U8", vec![600], noise(1, 600)), ("b", "F32", vec![2], noise(2, 8))]);
    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = sound.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        [&sound[..at], to.as_bytes(), &sound[at + from.len()..]].concat()
    };
    let cases = [
        (noise(3, 5000), "not a safetensors file"),
        (Vec::new(), "not a safetensors file"),
        ([&sound[..], b"more"].concat(), "belong to no tensor"),
        (sound[..sound.len() - 1].to_vec(), "belong to no tensor"),
        (replaced("[600,608]", "[500,508]"), "belong to no tensor"),
        (replaced("\"F32\"", "\"F33\""), "tensor 'b' has dtype F33"),
        (replaced("[2]", "[3]"), "tensor 'b' has dtype F32 and shape [3]"),
        (replaced("\"b\"", "\"a\""), "tensor 'a' occurs twice"),
    ];
    for (bytes, word) in cases {
        fs::write(dir.join("m"), &bytes).unwrap();
        fails(dir, 2, &["export", "m", "--format", "bigsmall", "-o", "m.bs"], &["m: ", word]);
        assert_eq!(names(dir), ["m", "mount", "source"], "{word}");
    }
}

#[test]
fn bad_files_give_one_clear_error() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let sound = fs::read(fixtures().join("big-4.0.0.bs")).unwrap();
    let write = |bytes: &[u8]| fs::write(dir.join("m.bs"), bytes).unwrap();
    let header = u32::from_le_bytes(sound[6..10].try_into().unwrap()) as usize + 10;
    for len in [4, 9, 10, header / 2, header - 1, header, header + 1, sound.len() / 2, sound.len() - 1] {
        write(&sound[..len]);
        fails(dir, 1, &["verify", "m.bs"], &["m.bs: "]);
        for verb in ["info", "decompress", "migrate"] {
            fails(dir, 65, &[verb, "m.bs"], &["m.bs: "]);
        }
    }
    for at in (0..64).map(|i| header + (sound.len() - header) * i / 64) {
        let mut flipped = sound.clone();
        flipped[at] ^= 1 << (at % 8);
        write(&flipped);
        fails(dir, 1, &["verify", "m.bs"], &["m.bs: ", "tensor '"]);
        if at % 4 == 0 {
            fails(dir, 65, &["decompress", "m.bs"], &["m.bs: ", "tensor '"]);
        }
    }
    write(&edit(&sound, "\"codec\":\"bf16_se_rans\"", "\"codec\":\"bf16_new\""));
    fails(
        dir,
        2,
        &["info", "m.bs"],
        &["codec 'bf16_new' of tensor 'model.layers.0.mlp.down_proj.weight' is not supported"],
    );
    fails(
        dir,
        2,
        &["verify", "m.bs"],
        &["codec 'bf16_new' of tensor 'model.layers.0.mlp.down_proj.weight' is not supported"],
    );
    write(b"BGSD\x01\0\x02\0\0\0{}");
    fails(dir, 2, &["info", "m.bs"], &["m.bs", "dual format", "bigsmall compress"]);
    fails(dir, 2, &["compress", "m.bs", "-o", "m.bs", "--force"], &["same file"]);
    write(&sound);
    fails(dir, 2, &["compress", "m.bs"], &["container of the Python package bigsmall", "bsfs migrate"]);
    assert_eq!(names(dir), ["m.bs", "mount", "source"]);
    // Two containers of one shown name.
    ok(dir, &["migrate", "m.bs"]);
    fs::create_dir(dir.join("out")).unwrap();
    fails(dir, 2, &["decompress", ".", "-o", "out"], &["two containers would be written to it"]);
}
