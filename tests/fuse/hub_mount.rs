//! `bsfs mount hf://…` through the kernel, against a hub that fails on request.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use crate::common::hub::{Config, Fault, Hub, Seen, Side};
use crate::common::mounted::{Mount, bsfs, command, is_mounted, status_of, stderr};
use crate::common::{Bench, noise, pack, safetensors};

const TOKEN: &str = "hf_geheim0123456789";
const PLAIN: usize = 6_000_000;

/// A repository that only the token may see: a container, a plain file, two that are not in LFS.
struct Model {
    bench: Bench,
    hub: Hub,
    original: Vec<u8>,
    plain: Vec<u8>,
}

impl Model {
    fn new() -> Self {
        Self::with(Config { token: Some(TOKEN.into()), ..Config::default() })
    }

    fn with(config: Config) -> Self {
        let (bench, hub) = (Bench::new(), Hub::with(config));
        let (original, plain) = (safetensors(31, 1_500_000), safetensors(32, PLAIN / 2));
        let packed = bench.dir.join("packed.bs");
        pack(&bench.original(&original), &packed);
        let packed = fs::read(packed).unwrap();
        let files: [(&str, &[u8]); 4] = [
            ("model.safetensors.bs", &packed),
            ("plain.safetensors", &plain),
            ("config.json", b"{}"),
            ("sub dir/a b.txt", b"text"),
        ];
        hub.commit("org/name", &files);
        hub.state().repos.get_mut("org/name").unwrap().private = true;
        Self { bench, hub, original, plain }
    }

    /// Mounts, or says why not.
    fn start(&self, uri: &str, environment: &[(&str, &str)], options: &[&str]) -> Output {
        let mut command = command(&self.bench);
        command.env("HF_ENDPOINT", self.hub.endpoint()).env("HF_TOKEN", TOKEN);
        command.env("HF_HOME", self.bench.dir.join("none")).envs(environment.iter().copied());
        command.arg("mount").args(options).args(["--log-file".as_ref(), self.log().as_os_str()]);
        command.arg(uri).arg(self.bench.mount_point()).output().unwrap()
    }

    fn mount(&self, uri: &str, environment: &[(&str, &str)], options: &[&str]) -> Mount {
        let output = self.start(uri, environment, options);
        assert!(output.status.success(), "{}", stderr(&output));
        Mount { point: self.bench.mount_point(), pid: status_of(&self.bench.mount_point()).unwrap().pid }
    }

    /// Why a mount is not made, in one line.
    fn refused(&self, uri: &str, environment: &[(&str, &str)]) -> String {
        self.ends(uri, environment, 2)
    }

    /// The same, with the exit code that it ends with.
    fn ends(&self, uri: &str, environment: &[(&str, &str)], code: i32) -> String {
        let output = self.start(uri, environment, &["--patience", "1"]);
        assert_eq!(output.status.code(), Some(code));
        assert!(!is_mounted(&self.bench.mount_point()));
        let text = stderr(&output);
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        assert!(!text.contains(TOKEN), "{text}");
        text
    }

    fn log(&self) -> PathBuf {
        self.bench.dir.join("log")
    }

    fn compare(&self, mount: &Mount) {
        assert!(fs::read(mount.path("model.safetensors")).unwrap() == self.original);
        assert!(fs::read(mount.path("plain.safetensors")).unwrap() == self.plain);
        assert_eq!(fs::read(mount.path("config.json")).unwrap(), b"{}");
        assert_eq!(fs::read(mount.path("sub dir/a b.txt")).unwrap(), b"text");
    }

    fn unmount(&self, mount: Mount) {
        let output = bsfs(&self.bench, ["unmount".as_ref(), self.bench.mount_point().as_os_str()]);
        assert!(output.status.success(), "{}", stderr(&output));
        drop(mount);
    }
}

fn read_at(path: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fs::File::open(path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

/// Bytes that a request asks for.
fn asked(seen: &Seen) -> u64 {
    let (from, to) = seen.range.as_ref().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    to.parse::<u64>().unwrap() + 1 - from.parse::<u64>().unwrap()
}

#[test]
fn a_repository_is_shown_at_one_commit_and_only_what_is_read_is_fetched() {
    let model = Model::new();
    let mount = model.mount("hf://org/name", &[], &[]);
    assert_eq!(mount.status().source, "hf://org/name@main");
    // As it was named: so mount(8) finds a line of fstab again.
    let line = format!("hf://org/name {} fuse.bsfs ", mount.point.display());
    assert!(fs::read_to_string("/proc/self/mounts").unwrap().contains(&line));
    let at = 3_000_000;
    assert!(read_at(&mount.path("plain.safetensors"), at, 5000) == model.plain[at as usize..][..5000]);
    let seen = model.hub.seen();
    let cdn: Vec<_> = seen.iter().filter(|seen| seen.side == Side::Cdn).collect();
    assert!(!cdn.is_empty() && cdn.iter().all(|seen| seen.method == "GET" && seen.authorization.is_none()), "{cdn:?}");
    assert!(cdn.iter().map(|seen| asked(seen)).sum::<u64>() < 2_500_000, "{cdn:?}");
    let bearer = format!("Bearer {TOKEN}");
    assert!(seen.iter().all(|seen| seen.side == Side::Cdn || seen.authorization.as_ref() == Some(&bearer)), "{seen:?}");
    // Another commit is another mount's.
    model.hub.commit("org/name", &[("config.json", b"{\"new\": 1}")]);
    model.compare(&mount);
    let later = model.hub.seen();
    for path in ["model.safetensors.bs", "plain.safetensors", "config.json"] {
        let heads = later.iter().chain(&seen).filter(|seen| seen.method == "HEAD" && seen.path.ends_with(path));
        let resolved = heads.filter(|seen| seen.path.starts_with("/org/name/resolve/")).count();
        assert!(resolved == 1, "{path} resolved {resolved} times");
    }
}

#[test]
fn a_mirror_with_entity_tags_of_its_own_is_shown_as_the_hub_is() {
    // Its own, and such as look like a digest of git's.
    for tag in ["mirror-", &"0".repeat(32)] {
        let model = Model::with(Config { mirror: Some(tag.into()), token: Some(TOKEN.into()), ..Config::default() });
        let mount = model.mount("hf://org/name", &[], &["--cache", "off", "--patience", "1"]);
        model.compare(&mount);
        assert_eq!(mount.status().problems, [""; 0]);
        model.unmount(mount);
        // Another tag than the first is another content.
        let mount = model.mount("hf://org/name", &[], &["--cache", "off", "--patience", "1"]);
        let path = mount.path("plain.safetensors");
        assert!(read_at(&path, 1_000_000, 4096) == model.plain[1_000_000..][..4096]);
        model.hub.fail(Side::Hub, "GET", "plain", u32::MAX, Fault::WrongEtag);
        assert_eq!(fs::read(&path).unwrap_err().raw_os_error(), Some(libc::EIO));
        let status = mount.status();
        assert!(status.problems.iter().any(|text| text.contains("changed on the server")), "{:?}", status.problems);
    }
    let model = Model::new();
    model.hub.fail(Side::Hub, "HEAD", "model", u32::MAX, Fault::WrongEtag);
    let output = model.start("hf://org/name", &[], &["--cache", "off", "--patience", "1"]);
    let _mount = Mount { point: model.bench.mount_point(), pid: status_of(&model.bench.mount_point()).unwrap().pid };
    assert!(stderr(&output).contains("model.safetensors.bs: the file changed on the server"), "{}", stderr(&output));
}

#[test]
fn names_that_no_file_can_have_are_left_out_of_a_repository_and_told() {
    let model = Model::new();
    let long = "n".repeat(300);
    let odd = ["x/../up", "a//b", "./c", long.as_str(), "d\\e"];
    let files: Vec<(&str, &[u8])> = odd.iter().map(|name| (*name, &b"odd"[..])).collect();
    model.hub.commit("org/name", &files);
    let output = model.start("hf://org/name", &[], &["--cache", "off"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let mount = Mount { point: model.bench.mount_point(), pid: status_of(&model.bench.mount_point()).unwrap().pid };
    assert!(stderr(&output).contains("4 names that no file here can have are left out"), "{}", stderr(&output));
    assert_eq!(fs::read(mount.path("d\\e")).unwrap(), b"odd");
    assert!(!mount.path("up").exists() && !mount.path("x").exists());
}

#[test]
fn a_revision_may_be_a_branch_with_slashes_or_a_commit() {
    let model = Model::new();
    let commit = model.hub.state().repos["org/name"].refs["main"].clone();
    model.hub.state().repos.get_mut("org/name").unwrap().refs.insert("refs/pr/1".into(), commit.clone());
    model.hub.commit("org/name", &[("config.json", b"{\"new\": 1}")]);
    for revision in [commit.as_str(), "refs/pr/1"] {
        let mount = model.mount(&format!("hf://org/name@{revision}"), &[], &[]);
        model.compare(&mount);
        model.unmount(mount);
    }
    let mount = model.mount("hf://org/name", &[], &[]);
    assert_eq!(fs::read(mount.path("config.json")).unwrap(), b"{\"new\": 1}");
}

#[test]
fn addresses_that_expire_are_asked_for_again() {
    let model = Model::new();
    let mount = model.mount("hf://org/name", &[], &["--cache", "off"]);
    let path = mount.path("plain.safetensors");
    assert!(read_at(&path, 1_000_000, 4096) == model.plain[1_000_000..][..4096]);
    assert_eq!(model.hub.seen().iter().filter(|seen| seen.path.ends_with("plain.safetensors")).count(), 1);
    model.hub.expire();
    assert!(read_at(&path, 4_000_000, 4096) == model.plain[4_000_000..][..4096]);
    let seen = model.hub.seen();
    assert!(seen.iter().any(|seen| seen.side == Side::Cdn && seen.status == 403), "{seen:?}");
    let resolved = seen.iter().filter(|seen| seen.method == "HEAD").count();
    assert_eq!(resolved, 1, "{seen:?}");
    model.compare(&mount);
    // Addresses that never work are an error, not a loop.
    let short = Model::with(Config { token: Some(TOKEN.into()), expiry: 0, ..Config::default() });
    let mount = short.mount("hf://org/name", &[], &["--cache", "off", "--patience", "1"]);
    assert_eq!(fs::read(mount.path("plain.safetensors")).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(short.hub.seen().len() < 200);
}

#[test]
fn what_fails_for_a_while_is_asked_for_again_and_what_lies_is_not_taken() {
    for (side, method, path, times, fault) in [
        (Side::Hub, "GET", "/revision/", 2, Fault::Status(503, None)),
        (Side::Hub, "GET", "/tree/", 1, Fault::Status(429, Some(1))),
        (Side::Hub, "GET", "/tree/", 1, Fault::Cut(20)),
        (Side::Hub, "HEAD", "plain", 2, Fault::Status(503, None)),
        (Side::Hub, "HEAD", "model", 1, Fault::Drop),
        (Side::Cdn, "GET", "", 3, Fault::Cut(30_000)),
        (Side::Cdn, "GET", "", 3, Fault::Close(1)),
        (Side::Cdn, "GET", "", 2, Fault::Status(500, None)),
        (Side::Cdn, "GET", "", 1, Fault::Expire),
    ] {
        let model = Model::new();
        let name = format!("{fault:?} of {path}");
        eprintln!("{name}");
        model.hub.fail(side, method, path, times, fault);
        let mount = model.mount("hf://org/name", &[], &["--cache", "off"]);
        model.compare(&mount);
        assert!(model.hub.state().faults.iter().all(|rule| rule.times == 0), "{name} did not happen");
    }
    for fault in [Fault::LyingRange, Fault::LyingTotal, Fault::OtherRange, Fault::WrongEtag] {
        let model = Model::new();
        let mount = model.mount("hf://org/name", &[], &["--cache", "off", "--patience", "1"]);
        let path = mount.path("plain.safetensors");
        assert!(read_at(&path, 1_000_000, 4096) == model.plain[1_000_000..][..4096]);
        model.hub.fail(Side::Cdn, "GET", "", u32::MAX, fault.clone());
        // What was read ahead is right, whatever comes now.
        if let Ok(bytes) = fs::read(&path) {
            panic!("{fault:?} was taken: right is {}", bytes == model.plain);
        }
        model.hub.state().faults.clear();
        assert!(fs::read(&path).unwrap() == model.plain, "{fault:?}");
    }
}

#[test]
fn the_token_does_not_follow_a_redirect_to_another_host() {
    let (model, evil) = (Model::new(), Hub::new());
    let elsewhere = |path: &str| Fault::Redirect(format!("{}{path}", evil.endpoint()));
    for path in ["/revision/", "/tree/"] {
        model.hub.fail(Side::Hub, "GET", path, u32::MAX, elsewhere("/api/models/org/name/revision/main"));
        assert!(model.refused("hf://org/name", &[]).contains("another server"));
        model.hub.state().faults.clear();
    }
    let mount = model.mount("hf://org/name", &[], &["--cache", "off", "--patience", "1"]);
    model.hub.fail(Side::Hub, "HEAD", "plain", u32::MAX, elsewhere("/lfs/plain"));
    assert_eq!(fs::read(mount.path("plain.safetensors")).unwrap_err().raw_os_error(), Some(libc::EIO));
    model.hub.fail(Side::Cdn, "GET", "", u32::MAX, elsewhere("/lfs/model"));
    assert_eq!(fs::read(mount.path("model.safetensors")).unwrap_err().raw_os_error(), Some(libc::EIO));
    let seen = evil.seen();
    assert!(!seen.is_empty() && seen.iter().all(|seen| seen.authorization.is_none()), "{seen:?}");
}

#[test]
fn a_kept_repository_needs_neither_network_nor_server() {
    let mut model = Model::new();
    let begun = Instant::now();
    // As with a server that is away: another day it may work.
    let text = model.ends("hf://org/name", &[("HF_HUB_OFFLINE", "1")], 75);
    assert!(text.contains("HF_HUB_OFFLINE"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(10), "nothing was waited for");
    assert_eq!(model.hub.seen(), []);
    let mount = model.mount("hf://org/name", &[], &[]);
    model.compare(&mount);
    model.unmount(mount);
    model.hub.seen();
    let mount = model.mount("hf://org/name", &[("HF_HUB_OFFLINE", "1")], &[]);
    model.compare(&mount);
    model.unmount(mount);
    assert_eq!(model.hub.seen(), []);
    // Gone: nobody listens any more.
    let gone = model.hub.endpoint();
    model.hub = Hub::new();
    let mount = model.mount("hf://org/name", &[("HF_ENDPOINT", &gone)], &[]);
    model.compare(&mount);
}

#[test]
fn a_repository_of_bigsmall_is_shown_as_a_directory_of_its_files_is() {
    let model = Model::new();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bigsmall/sharded-4.0.0");
    let files: Vec<(String, Vec<u8>)> = fs::read_dir(&from)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    model.hub.commit("org/small", &borrowed);
    let contents = |mount: &Mount| {
        let mut all: Vec<_> = fs::read_dir(&mount.point)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
            .collect();
        all.sort();
        all
    };
    let mount = Mount::of(&model.bench, &from, &model.bench.mount_point(), &[]);
    let local = contents(&mount);
    model.unmount(mount);
    assert!(local.iter().any(|(name, _)| name == "model.safetensors.index.json"));
    let mount = model.mount("hf://org/small", &[], &[]);
    assert!(contents(&mount) == local);
}

#[test]
fn neither_token_nor_signature_is_seen_from_outside() {
    let model = Model::new();
    let missing = model.refused("hf://org/missing", &[]);
    assert!(missing.contains("hf://org/missing@main") && missing.contains("404"), "{missing}");
    let wrong = model.refused("hf://org/name", &[("HF_TOKEN", "hf_falsch42")]);
    assert!(wrong.contains("token") && !wrong.contains("hf_falsch42"), "{wrong}");
    let mount = model.mount("hf://org/name", &[("BSFS_LOG", "debug")], &["--patience", "1"]);
    model.compare(&mount);
    let noise = noise(5, 1_000_000);
    model.hub.commit("org/name", &[("never.safetensors", &noise)]);
    model.hub.fail(Side::Cdn, "GET", "", u32::MAX, Fault::Status(403, None));
    model.unmount(mount);
    let mount = model.mount("hf://org/name", &[("BSFS_LOG", "debug")], &["--patience", "1"]);
    fs::read(mount.path("never.safetensors")).unwrap_err();
    let mut seen = vec![fs::read(format!("/proc/{}/cmdline", mount.pid)).unwrap()];
    seen.push(bsfs(&model.bench, ["status", "--json"]).stdout);
    seen.push(bsfs(&model.bench, ["cache", "list", "--json"]).stdout);
    seen.push(fs::read("/proc/self/mounts").unwrap());
    seen.push(fs::read(model.log()).unwrap());
    let log = String::from_utf8_lossy(seen.last().unwrap()).into_owned();
    assert!(log.contains("never.safetensors"), "{log}");
    let mut directories = vec![model.bench.dir.join("cache"), model.bench.dir.join("state")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() { directories.push(entry) } else { seen.push(fs::read(entry).unwrap()) }
        }
    }
    assert!(seen.len() > 7, "the cache was looked at");
    for bytes in seen {
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(TOKEN) && !text.contains("Signature") && !text.contains("Expires="), "{text}");
    }
}
