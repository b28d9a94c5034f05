//! The command line as a user meets it: results, messages, exit codes, and what is left behind when things go wrong.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::common::{Bench, noise, root_for, safetensors};

/// Runs bsfs in `dir`.
fn bsfs(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bsfs")).args(arguments).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs bsfs, which must end with `code`; gives its standard output.
fn ok(dir: &Path, code: i32, arguments: &[&str]) -> String {
    let output = bsfs(dir, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs bsfs, which must fail with exit code 2 and one line that holds all of `words`.
fn fails(dir: &Path, arguments: &[&str], words: &[&str]) {
    fails_with(2, dir, arguments, words);
}

/// What another try may help, and what it may not.
const AGAIN: i32 = 75;
const DAMAGED: i32 = 65;

/// Runs bsfs, which must fail with this exit code and one line that holds all of `words`.
fn fails_with(code: i32, dir: &Path, arguments: &[&str], words: &[&str]) {
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

/// An access control list as its extended attribute has it: the owner reads and writes, user 7 reads, the group and others nothing.
const LIST: [(u16, u16, u32); 5] =
    [(1, 6, u32::MAX), (2, 4, 7), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];

fn list() -> Vec<u8> {
    let entries =
        LIST.iter().flat_map(|(tag, may, id)| [&tag.to_le_bytes()[..], &may.to_le_bytes(), &id.to_le_bytes()].concat());
    2_u32.to_le_bytes().into_iter().chain(entries).collect()
}

const ACL: &str = "system.posix_acl_access";

#[test]
fn access_lists_and_attributes_are_carried() {
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    let bench = Bench::new();
    let dir = &bench.dir;
    fs::create_dir(dir.join("model")).unwrap();
    for (name, bytes) in [("m.safetensors", safetensors(1, 100_000)), ("config.json", b"{}".to_vec())] {
        let path = dir.join("model").join(name);
        fs::write(&path, bytes).unwrap();
        let set = |name, value: &[u8]| setxattr(&path, name, value, XattrFlags::empty());
        if let Err(error) = set(ACL, &list()).and_then(|()| set("user.origin", b"there")) {
            return crate::common::skip(&format!("no access lists or attributes in {}: {error}", path.display()));
        }
    }
    let of = |path: &str, name: &str| {
        let mut value = vec![0; 1000];
        let len = getxattr(dir.join(path), name, &mut value[..]).unwrap_or(0);
        value.truncate(len);
        value
    };
    ok(dir, 0, &["compress", "model", "-o", "packed"]);
    ok(dir, 0, &["decompress", "packed/m.safetensors.bs", "-o", "back"]);
    ok(dir, 0, &["flatten", "packed/m.safetensors.bs", "-o", "flat.bs"]);
    ok(dir, 0, &["export", "--format", "bigsmall", "packed/m.safetensors.bs", "-o", "theirs.bs"]);
    ok(dir, 0, &["migrate", "theirs.bs", "-o", "migrated.bs"]);
    ok(dir, 0, &["decompress", "theirs.bs", "-o", "again"]);
    for made in
        ["packed/m.safetensors.bs", "packed/config.json", "back", "flat.bs", "theirs.bs", "migrated.bs", "again"]
    {
        assert!(of(made, ACL) == list(), "{made}: {:?}", of(made, ACL));
        assert_eq!(of(made, "user.origin"), b"there", "{made}");
    }
    let bytes = fs::read(dir.join("model/m.safetensors")).unwrap();
    ok(dir, 0, &["compress", "model", "--replace", "--yes"]);
    assert!(of("model/m.safetensors.bs", ACL) == list() && of("model/m.safetensors.bs", "user.origin") == b"there");
    ok(dir, 0, &["decompress", "model", "--replace", "--yes"]);
    assert!(of("model/m.safetensors", ACL) == list() && of("model/m.safetensors", "user.origin") == b"there");
    assert!(fs::read(dir.join("model/m.safetensors")).unwrap() == bytes);
}

#[test]
fn a_directorys_default_list_opens_no_output_to_users_whom_the_input_keeps_out() {
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let dir = &bench.dir;
    fs::write(dir.join("m.safetensors"), safetensors(1, 100_000)).unwrap();
    fs::set_permissions(dir.join("m.safetensors"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::create_dir(dir.join("out")).unwrap();
    if let Err(error) = setxattr(dir.join("out"), "system.posix_acl_default", &list(), XattrFlags::empty()) {
        return crate::common::skip(&format!("no access lists in {}: {error}", dir.display()));
    }
    for (arguments, output) in [
        (&["compress", "m.safetensors", "-o", "out/m.bs"][..], "out/m.bs"),
        (&["decompress", "out/m.bs", "-o", "out/back"], "out/back"),
    ] {
        ok(dir, 0, arguments);
        let mut value = vec![0; 1000];
        let len = getxattr(dir.join(output), ACL, &mut value[..]).unwrap_or(4);
        let may = value[4..len].chunks(8).find(|entry| entry[0] == 2 && entry[4] == 7).map(|entry| entry[2]);
        assert!(matches!(may, None | Some(0)), "{output}: user 7 has {may:?}");
    }
}

#[test]
fn what_only_its_owner_may_read_stays_so() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let dir = &bench.dir;
    let mode = |path: &str| fs::metadata(dir.join(path)).unwrap().permissions().mode() & 0o777;
    let private = |path: &str| fs::set_permissions(dir.join(path), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(dir.join("model")).unwrap();
    fs::write(dir.join("model/m.safetensors"), safetensors(1, 100_000)).unwrap();
    fs::write(dir.join("model/token"), b"secret").unwrap();
    fs::write(dir.join("model/config.json"), b"{}").unwrap();
    let open = mode("model/config.json");
    private("model/m.safetensors");
    private("model/token");
    ok(dir, 0, &["compress", "model", "-o", "packed"]);
    assert_eq!((mode("packed/m.safetensors.bs"), mode("packed/token")), (0o600, 0o600));
    assert_eq!(mode("packed/config.json"), open);
    ok(dir, 0, &["decompress", "packed/m.safetensors.bs", "-o", "back"]);
    ok(dir, 0, &["flatten", "packed/m.safetensors.bs", "-o", "flat.bs"]);
    ok(dir, 0, &["export", "--format", "bigsmall", "packed/m.safetensors.bs", "-o", "theirs.bs"]);
    ok(dir, 0, &["migrate", "theirs.bs", "-o", "migrated.bs"]);
    ok(dir, 0, &["decompress", "theirs.bs", "-o", "again"]);
    for made in ["back", "flat.bs", "theirs.bs", "migrated.bs", "again"] {
        assert_eq!(mode(made), 0o600, "{made}");
    }
}

#[test]
fn shares_of_a_directory_together_are_all_of_it() {
    let bench = Bench::new();
    let (dir, model) = (&bench.dir, bench.dir.join("model"));
    fs::create_dir_all(model.join("sub")).unwrap();
    for n in 0..5 {
        fs::write(model.join(format!("m{n}.safetensors")), safetensors(n, 20_000 + 30_000 * n as usize)).unwrap();
    }
    fs::write(model.join("sub/config.json"), b"{}").unwrap();
    symlink("m0.safetensors", model.join("link.safetensors")).unwrap();
    ok(dir, 0, &["compress", "model", "-o", "whole"]);
    for index in ["2/3", "0/3", "1/3", "0/3"] {
        ok(dir, 0, &["compress", "model", "-o", "shared", "--shard", index]);
    }
    let tree = |name: &str| {
        let tree = bsfs::compress::walk(&dir.join(name), None).unwrap();
        let read = |path: &Path| fs::read(dir.join(name).join(path)).unwrap();
        let mut files: Vec<_> = tree.entries.iter().map(|e| (e.path().to_owned(), read(e.path()))).collect();
        files.sort();
        files
    };
    assert!(tree("whole") == tree("shared") && tree("shared").len() == 7);
    // What is there is not made again, and what is something else is not replaced.
    let inode = |name: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(dir.join("shared").join(name)).unwrap());
    let before: Vec<u64> = (0..5).map(|n| inode(&format!("m{n}.safetensors.bs"))).collect();
    fs::remove_file(dir.join("shared/m3.safetensors.bs")).unwrap();
    for index in ["0/3", "1/3", "2/3"] {
        ok(dir, 0, &["compress", "model", "-o", "shared", "--shard", index]);
        let again = bsfs(dir, &["compress", "model", "-o", "shared", "--shard", index]);
        assert!(again.status.success() && again.stderr.is_empty(), "{}", text(&again.stderr));
    }
    let after: Vec<u64> = (0..5).map(|n| inode(&format!("m{n}.safetensors.bs"))).collect();
    assert_eq!((before[4], before[1]), (after[4], after[1]));
    assert!(tree("whole") == tree("shared"));
    fs::write(model.join("m4.safetensors"), safetensors(9, 140_000)).unwrap();
    let failed = ["0/1"].map(|index| bsfs(dir, &["compress", "model", "-o", "shared", "--shard", index]));
    assert_eq!(failed[0].status.code(), Some(2));
    assert!(text(&failed[0].stderr).contains("exists already"), "{}", text(&failed[0].stderr));
    assert_eq!(bsfs(dir, &["compress", "model", "-o", "x", "--shard", "3/3"]).status.code(), Some(2));
}

#[test]
fn the_same_share_twice_at_once_is_done_once_and_both_end_well() {
    let bench = Bench::new();
    let dir = &bench.dir;
    fs::create_dir(dir.join("model")).unwrap();
    for n in 0..4 {
        fs::write(dir.join(format!("model/m{n}.safetensors")), safetensors(n, 500_000)).unwrap();
    }
    for round in 0..5 {
        let out = format!("out{round}");
        let run = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_bsfs"));
            command.args(["compress", "model", "-o", &out, "--shard", "0/1"]).current_dir(dir);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        for run in [run(), run()] {
            let output = run.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
        ok(dir, 0, &["verify", &out, "--source", "model"]);
    }
}

#[test]
fn a_file_becomes_its_name_with_bs_and_comes_back() {
    let bench = Bench::new();
    let (dir, raw) = (&bench.dir, safetensors(1, 400_000));
    fs::write(dir.join("m.safetensors"), &raw).unwrap();
    let said = ok(dir, 0, &["compress", "m.safetensors"]);
    assert!(said.starts_with("m.safetensors.bs: 781.4 KiB → ") && said.contains("BF16"), "{said}");
    let verified = ok(dir, 0, &["verify", "m.safetensors.bs", "--source", "m.safetensors"]);
    assert!(verified.contains("sound"), "{verified}");

    fails(dir, &["compress", "m.safetensors"], &["m.safetensors.bs", "exists already", "--force"]);
    fails(dir, &["decompress", "m.safetensors.bs"], &["m.safetensors", "exists already", "--force"]);
    ok(dir, 0, &["compress", "m.safetensors", "--force", "--storage", "-j", "1"]);
    fs::rename(dir.join("m.safetensors"), dir.join("kept")).unwrap();
    ok(dir, 0, &["decompress", "m.safetensors.bs"]);
    assert!(fs::read(dir.join("m.safetensors")).unwrap() == raw);
    let modified = |name: &str| fs::metadata(dir.join(name)).unwrap().modified().unwrap();
    assert_eq!(modified("m.safetensors"), modified("kept"));
    ok(dir, 0, &["decompress", "m.safetensors.bs", "-o", "other"]);
    assert!(fs::read(dir.join("other")).unwrap() == raw);
}

#[test]
fn a_directory_becomes_a_mirror_and_comes_back() {
    let bench = Bench::new();
    let dir = &bench.dir;
    fs::create_dir_all(dir.join("hub/blobs")).unwrap();
    fs::create_dir_all(dir.join("hub/snapshots/c0ffee/sub")).unwrap();
    let (a, b) = (safetensors(1, 100_000), safetensors(2, 50_000));
    fs::write(dir.join("hub/blobs/aaaa"), &a).unwrap();
    fs::write(dir.join("hub/blobs/bbbb"), b"{}").unwrap();
    let snapshot = dir.join("hub/snapshots/c0ffee");
    symlink("../../blobs/aaaa", snapshot.join("model.safetensors")).unwrap();
    symlink("../../blobs/bbbb", snapshot.join("config.json")).unwrap();
    fs::write(snapshot.join("sub/b.safetensors"), &b).unwrap();

    fails(dir, &["compress", "hub/snapshots/c0ffee"], &["is a directory", "-o"]);
    fails(dir, &["compress", "hub", "-o", "hub"], &["same directory"]);
    ok(dir, 0, &["compress", "hub/snapshots/c0ffee", "-o", "packed"]);
    assert_eq!(names(&dir.join("packed")), ["config.json", "model.safetensors.bs", "sub"]);
    assert!(fs::symlink_metadata(dir.join("packed/config.json")).unwrap().is_file());
    ok(dir, 0, &["verify", "packed", "--source", "hub/snapshots/c0ffee"]);
    fails(dir, &["compress", "hub/snapshots/c0ffee", "-o", "packed"], &["exists already"]);

    // The whole cache: blobs are there once, and links lead to them.
    ok(dir, 0, &["compress", "hub", "-o", "whole"]);
    assert_eq!(names(&dir.join("whole/blobs")), ["aaaa.bs", "bbbb"]);
    assert_eq!(names(&dir.join("whole/snapshots/c0ffee")), ["config.json", "model.safetensors.bs", "sub"]);
    // Into a directory inside the input: it is not packed into itself.
    ok(dir, 0, &["compress", "hub", "-o", "hub/packed"]);
    assert_eq!(names(&dir.join("hub/packed")), ["blobs", "snapshots"]);

    ok(dir, 0, &["decompress", "packed", "-o", "back"]);
    assert!(fs::read(dir.join("back/model.safetensors")).unwrap() == a);
    assert!(fs::read(dir.join("back/sub/b.safetensors")).unwrap() == b);
    let both = ok(dir, 0, &["compress", "--json", "-o", "two", "back/model.safetensors", "back/sub"]);
    let json: serde_json::Value = serde_json::from_str(&both).unwrap();
    assert_eq!(json["files"].as_array().unwrap().len(), 2);
    assert_eq!(json["raw_bytes"], a.len() + b.len());
    assert_eq!(names(&dir.join("two")), ["model.safetensors.bs", "sub"]);
}

#[test]
fn mistakes_are_named_in_one_line() {
    let bench = Bench::new();
    let dir = &bench.dir;
    fs::write(dir.join("plain"), noise(1, 100)).unwrap();
    fs::write(dir.join("empty"), b"").unwrap();
    fs::write(dir.join("python.bs"), b"BGSM\x01\0\x02\0\0\0{}").unwrap();
    fs::write(dir.join("ours"), noise(2, 1000)).unwrap();
    ok(dir, 0, &["compress", "ours"]);
    fails(dir, &["compress", "nosuch"], &["nosuch: cannot open: No such file"]);
    fails(dir, &["compress", "ours.bs"], &["ours.bs", "container already"]);
    fails(dir, &["compress", "python.bs"], &["bigsmall"]);
    fails(dir, &["compress", "plain", "-o", "nosuch/out"], &["nosuch/out", "No such file"]);
    fails(dir, &["compress", "plain", "-o", "plain", "--force"], &["plain", "same file"]);
    fails(dir, &["decompress", "plain", "-o", "x"], &["plain: not a bsfs container: it starts with"]);
    fails(dir, &["info", "empty"], &["empty: not a bsfs container: the file is empty"]);
    fails_with(DAMAGED, dir, &["info", "python.bs"], &["python.bs: damaged header: missing field `tensors`"]);
    fails(dir, &["info", "source"], &["source: no .bs file"]);
    fails(dir, &["verify", "nosuch"], &["nosuch"]);
    fails(dir, &["verify", "ours.bs", "--source", "nosuch"], &["nosuch: cannot open: No such file"]);
    fails(dir, &["verify", ".", "--source", "nosuch"], &["nosuch: cannot open: No such file"]);
    fails(dir, &["verify", ".", "--source", "ours.bs"], &["ours.bs: is a file; to verify a directory"]);
    assert_eq!(bsfs(dir, &["compress"]).status.code(), Some(2));
    assert_eq!(bsfs(dir, &["compress", "plain", "--storage", "--inference"]).status.code(), Some(2));
    assert_eq!(fs::read(dir.join("plain")).unwrap(), noise(1, 100));
    assert_eq!(names(dir), ["empty", "mount", "ours", "ours.bs", "plain", "python.bs", "source"]);
}

#[test]
fn a_healthy_file_of_another_kind_is_not_called_damaged() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let kinds: [(&str, &[u8], &[&str]); 7] = [
        (
            "m.safetensors",
            &safetensors(1, 1000),
            &["plain safetensors, not compressed", "bsfs compress", "bsfs estimate"],
        ),
        ("m.gguf", b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0 and so on", &["plain GGUF, not compressed"]),
        ("m.pt", b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0 and so on", &["zip archive"]),
        (
            "pointer.bs",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            &["Git LFS pointer", "git lfs pull"],
        ),
        ("page.bs", b"<!DOCTYPE html><html>Please log in</html>", &["page of HTML", "download the file again"]),
        ("odd", b"something that is not known", &["it starts with \"somethin\""]),
        ("named.safetensors.bs", &safetensors(2, 1000), &["plain safetensors, not compressed"]),
    ];
    for (name, bytes, words) in kinds {
        fs::write(dir.join(name), bytes).unwrap();
        let words = [&[name, "not a bsfs container"], words].concat();
        for verb in ["info", "verify", "migrate", "decompress", "flatten"] {
            let more: &[&str] = if verb == "flatten" { &["--in-place"] } else { &[] };
            fails(dir, &[&[verb, name], more].concat(), &words);
        }
        assert_eq!(fs::read(dir.join(name)).unwrap(), bytes);
    }
    // What has the name of a container and is nothing else either was one.
    fs::write(dir.join("zeros.bs"), [0; 4096]).unwrap();
    fails_with(DAMAGED, dir, &["info", "zeros.bs"], &["zeros.bs: not a bsfs container"]);
}

#[test]
fn what_a_verb_did_and_what_it_needs_is_said() {
    let bench = Bench::new();
    let dir = &bench.dir;
    fs::create_dir(dir.join("plain")).unwrap();
    fs::write(dir.join("plain/m.safetensors"), safetensors(1, 50_000)).unwrap();
    ok(dir, 0, &["compress", "plain", "-o", "packed"]);
    let alone = ok(dir, 0, &["verify", "packed"]);
    assert!(alone.contains("sound") && !alone.contains("same bytes"), "{alone}");
    for (what, source) in [("packed", "plain"), ("packed/m.safetensors.bs", "plain/m.safetensors")] {
        let said = ok(dir, 0, &["verify", what, "--source", source]);
        assert!(said.contains("the same bytes as plain/m.safetensors"), "{said}");
        let json = ok(dir, 0, &["verify", what, "--source", source, "--json"]);
        assert!(json.contains("\"source\": \"plain/m.safetensors\""), "{json}");
    }
    fails(dir, &["flatten", "packed/m.safetensors.bs"], &["-o OUT", "--in-place"]);
    for (arguments, words) in [
        (&["compress", "plain/m.safetensors", "--chunk-size", "3"][..], &["--chunk-size", "64.0 KiB to 4.0 MiB"][..]),
        (&["compress", "plain/m.safetensors", "--chunk-size", "lots"], &["'lots' is not a size; try 512M or 10G"]),
        (&["verify", "packed", "-j", "18446744073709551615"], &["--threads", "0..=1024"]),
        (&["compress", "plain", "-o", "x", "--shard", "0/18446744073709551615"], &["--shard", "65536"]),
        (&["mount", "packed", "mount", "--timeout", "18446744073709551615"], &["--timeout", "1..=31536000"]),
        (&["mount", "packed", "mount", "--memory", "1"], &["--memory", "64.0 KiB to"]),
    ] {
        let output = bsfs(dir, arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
    }
}

#[test]
fn verify_tells_damage_from_what_could_not_be_done() {
    let bench = Bench::new();
    let (dir, raw) = (&bench.dir, safetensors(3, 300_000));
    fs::write(dir.join("m"), &raw).unwrap();
    ok(dir, 0, &["compress", "m"]);
    let sound = fs::read(dir.join("m.bs")).unwrap();
    let mut damaged = sound.clone();
    damaged[sound.len() / 2] ^= 1;
    fs::write(dir.join("m.bs"), &damaged).unwrap();
    let output = bsfs(dir, &["verify", "m.bs"]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("m.bs: damaged chunk of tensor 'b.weight' at offset"), "{message}");
    fails_with(DAMAGED, dir, &["decompress", "m.bs", "-o", "back"], &["damaged chunk"]);
    assert!(!dir.join("back").exists());

    fs::write(dir.join("m.bs"), &sound[..sound.len() - 1]).unwrap();
    let output = bsfs(dir, &["verify", "m.bs", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    assert_eq!(json[0]["state"], "damaged");
    assert!(json[0]["message"].as_str().unwrap().contains("cut short"), "{json}");

    fs::write(dir.join("m.bs"), &sound).unwrap();
    let mut other = raw;
    other[400_000] ^= 0x80;
    fs::write(dir.join("other"), &other).unwrap();
    let output = bsfs(dir, &["verify", "m.bs", "--source", "other"]);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.contains("byte at offset 400000 (tensor 'b.weight')"), "{message}");
}

#[test]
fn info_shows_people_and_programs_the_same() {
    let bench = Bench::new();
    let dir = &bench.dir;
    fs::write(dir.join("m.safetensors"), safetensors(4, 900_000)).unwrap();
    ok(dir, 0, &["compress", "m.safetensors"]);
    let table = ok(dir, 0, &["info", "m.safetensors.bs", "--tensors"]);
    for word in ["a.weight", "b.weight", "BF16", "SHA-256", "mode balanced", "classes"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let json: serde_json::Value = serde_json::from_str(&ok(dir, 0, &["info", ".", "--json", "--tensors"])).unwrap();
    let file = &json[0];
    assert_eq!(file["raw_bytes"], fs::metadata(dir.join("m.safetensors")).unwrap().len());
    assert_eq!(file["packed_bytes"], fs::metadata(dir.join("m.safetensors.bs")).unwrap().len());
    assert_eq!(file["tensors"].as_array().unwrap().len(), 2);
    let first = &file["tensors"][0];
    assert_eq!(first["codecs"], serde_json::json!(["classes"]));
    assert!((1..=8).contains(&first["classes"].as_u64().unwrap()));
    let packed: u64 = file["tensors"].as_array().unwrap().iter().map(|t| t["packed_bytes"].as_u64().unwrap()).sum();
    assert_eq!(packed, file["dtypes"][0]["packed_bytes"].as_u64().unwrap());
}

/// Waits until the process has begun its output, so that the signal comes in the middle.
fn start_long_compress(bench: &Bench) -> std::process::Child {
    let input = bench.dir.join("long");
    let mut file = std::io::BufWriter::new(fs::File::create(&input).unwrap());
    // Words that recur: the highest level of zstd takes seconds for them on any machine.
    let words = noise(1, 64 << 10);
    let order = noise(2, 640 << 10);
    for at in order.iter().map(|b| usize::from(*b) * 256) {
        file.write_all(&words[at..at + 64]).unwrap();
    }
    file.flush().unwrap();
    fs::write(bench.dir.join("long.bs"), b"an older output").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bsfs"));
    command.args(["compress", "long", "--force", "-j", "1", "--storage"]).current_dir(&bench.dir);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    child
}

#[test]
fn a_signal_in_the_middle_leaves_nothing_behind() {
    for (signal, code) in [(libc::SIGINT, Some(130)), (libc::SIGTERM, Some(130)), (libc::SIGKILL, None)] {
        let bench = Bench::new();
        let mut child = start_long_compress(&bench);
        assert!(child.try_wait().unwrap().is_none(), "too short for the test");
        // SAFETY: a plain system call on a process that is ours and has not been waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        assert_eq!(child.wait().unwrap().code(), code);
        assert_eq!(names(&bench.dir), ["long", "long.bs", "mount", "source"]);
        assert_eq!(fs::read(bench.dir.join("long.bs")).unwrap(), b"an older output");
    }
}

#[test]
fn a_full_disk_is_an_error_that_leaves_nothing_behind() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let small = dir.join("mount");
    fs::write(dir.join("m"), noise(1, 4 << 20)).unwrap();
    ok(dir, 0, &["compress", "m"]);
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1M", "tmpfs"]).arg(&small).output().unwrap();
    if !mounted.status.success() {
        assert!(!root_for("a small file system"), "{}", text(&mounted.stderr));
        return;
    }
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").args(["-l".as_ref(), self.0.as_os_str()]).output();
        }
    }
    let _unmount = Unmount(&small);
    fails_with(
        AGAIN,
        dir,
        &["compress", "m", "-o", "mount/m.bs"],
        &["mount/m.bs: cannot write", "No space left", "free some space"],
    );
    fails_with(AGAIN, dir, &["decompress", "m.bs", "-o", "mount/m"], &["No space left"]);
    assert_eq!(names(&small), [""; 0]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let bench = Bench::new();
    fs::write(bench.dir.join("m"), safetensors(1, 100_000)).unwrap();
    ok(&bench.dir, 0, &["compress", "m"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_bsfs"));
    let mut child = command.args(["info", "m.bs"]).current_dir(&bench.dir).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn bench_measures_a_file_and_its_container_alike() {
    let bench = Bench::new();
    let dir = &bench.dir;
    fs::write(dir.join("m"), safetensors(5, 400_000)).unwrap();
    ok(dir, 0, &["compress", "m", "--storage"]);
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&ok(dir, 0, &[&["bench", "--json", "--rounds", "2"], arguments].concat())).unwrap()
    };
    let (plain, packed) = (json(&["m", "--mode", "storage", "-j", "2"]), json(&["m.bs"]));
    for report in [&plain, &packed] {
        assert_eq!(report["raw_bytes"], fs::metadata(dir.join("m")).unwrap().len());
        assert_eq!(report["packed_bytes"], fs::metadata(dir.join("m.bs")).unwrap().len());
        assert_eq!(report["mode"], "storage");
        assert!(report["kernel"].is_string());
        for figures in [report, &report["dtypes"][0]] {
            let number = |name: &str| figures[name].as_f64().unwrap();
            assert_eq!(number("ratio"), number("packed_bytes") / number("raw_bytes"));
            assert!(number("decode_bytes_per_second") > 0.0 && number("memcpy_bytes_per_second") > 0.0);
            let quotient = number("decode_bytes_per_second") / number("memcpy_bytes_per_second");
            assert!((number("decode_per_memcpy") / quotient - 1.0).abs() < 1e-6);
        }
        assert_eq!(report["dtypes"][0]["dtype"], "BF16");
        assert_eq!(report["dtypes"][0]["raw_bytes"], 800_000);
    }
    assert_eq!((&plain["threads"], &packed["threads"]), (&2.into(), &1.into()));
    assert!(plain["encode_bytes_per_second"].as_f64().unwrap() > 0.0);
    assert!(plain["dtypes"][0]["encode_bytes_per_second"].as_f64().unwrap() > 0.0);
    assert!(packed["encode_bytes_per_second"].is_null() && packed["dtypes"][0]["encode_bytes_per_second"].is_null());

    let table = ok(dir, 0, &["bench", "m", "--rounds", "1"]);
    for word in ["mode balanced", "kernel", "1 thread", "memcpy", "BF16", "GB/s", "all"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    fs::write(dir.join("empty"), b"").unwrap();
    assert_eq!(json(&["empty"])["dtypes"], serde_json::json!([]));
    let mut damaged = fs::read(dir.join("m.bs")).unwrap();
    damaged[1000] ^= 1;
    fs::write(dir.join("m.bs"), damaged).unwrap();
    fails_with(DAMAGED, dir, &["bench", "m.bs"], &["m.bs: damaged chunk"]);
    fails(dir, &["bench", "m.bs", "--mode", "balanced"], &["encoded for storage", "leave out --mode"]);
    fails(dir, &["bench", "nosuch"], &["nosuch"]);
    for wrong in [["m", "--mode", "fast"], ["m", "--rounds", "0"]] {
        assert_eq!(bsfs(dir, &[&["bench"], &wrong[..]].concat()).status.code(), Some(2));
    }
    assert_eq!(names(dir), ["empty", "m", "m.bs", "mount", "source"]);
}

#[test]
fn completions_and_manual_pages_come_out_of_the_command_line() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(ok(&bench.dir, 0, &["completions", shell]).contains("decompress"));
    }
    fails(&bench.dir, &["man", "nosuch"], &["nosuch", "create it first"]);
    ok(&bench.dir, 0, &["man", "mount"]);
    let pages = names(&bench.mount_point());
    assert!(pages.contains(&"bsfs.1".to_owned()) && pages.contains(&"bsfs-compress.1".to_owned()), "{pages:?}");
    for verb in ["compress", "decompress", "info", "verify", "bench", "completions", "man"] {
        assert!(ok(&bench.dir, 0, &[verb, "--help"]).contains("Usage: bsfs"));
    }
}

#[test]
fn the_page_of_commands_is_what_the_program_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("scripts/commands.sh"));
    let output = command.env("BSFS", env!("CARGO_BIN_EXE_bsfs")).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let page = fs::read_to_string(root.join("docs/commands.md")).unwrap();
    assert!(text(&output.stdout) == page, "make it anew: scripts/commands.sh > docs/commands.md");
}
