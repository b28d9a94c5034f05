//! `bsfs pull` against a hub that fails on request: what arrives is right or does not arrive, and nothing leaks on the way.

use crate::common;
use crate::common::hub;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bsfs::Error;
use bsfs::hub::{Client, HubUri, Progress, Pull, Pulled, Retry, Settings, State, Token};

use crate::common::hub::{Config, Fault, Hub, Side};
use crate::common::{eventually, noise};

const TOKEN: &str = "hf_geheim0123456789";

/// A repository with a file in LFS and two that are not, and an empty cache.
struct Bench {
    hub: Hub,
    dir: tempfile::TempDir,
    weights: Vec<u8>,
    commit: String,
}

impl Bench {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let (hub, weights) = (Hub::with(config), noise(7, 1_000_003));
        let files: [(&str, &[u8]); 3] =
            [("config.json", b"{}"), ("sub/a b.txt", b"text"), ("model.safetensors", &weights)];
        let commit = hub.commit("org/name", &files);
        Self { hub, dir: tempfile::tempdir().unwrap(), weights, commit }
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint: self.hub.endpoint(),
            token: None,
            cache: self.dir.path().join("hub"),
            offline: false,
            timeout: Duration::from_millis(500),
            retry: Retry { attempts: 4, first_pause: Duration::from_millis(10), longest_pause: Duration::from_secs(3) },
        }
    }

    fn pull(&self) -> bsfs::Result<Pulled> {
        pull(self.settings(), "hf://org/name")
    }

    /// Pulls, which must work, and compares every file.
    fn pull_right(&self) -> Pulled {
        let pulled = self.pull().unwrap();
        self.compare(&pulled.snapshot);
        pulled
    }

    fn compare(&self, snapshot: &Path) {
        assert_eq!(snapshot, self.repo().join("snapshots").join(&self.commit));
        assert_eq!(fs::read(snapshot.join("config.json")).unwrap(), b"{}");
        assert_eq!(fs::read(snapshot.join("sub/a b.txt")).unwrap(), b"text");
        assert!(fs::read(snapshot.join("model.safetensors")).unwrap() == self.weights);
        assert_eq!(fs::read_to_string(self.repo().join("refs/main")).unwrap(), self.commit);
        assert!(self.incomplete().is_none());
    }

    /// Pulls, which must fail with a message that holds all of `words`; the weights must have no name.
    fn pull_fails(&self, words: &[&str]) -> Error {
        let error = self.pull().unwrap_err();
        for word in words {
            assert!(error.to_string().contains(word), "no '{word}' in: {error}");
        }
        assert!(!self.repo().join("blobs").join(self.sha256()).exists());
        assert!(!self.repo().join("refs/main").exists());
        error
    }

    fn repo(&self) -> PathBuf {
        self.dir.path().join("hub/models--org--name")
    }

    fn sha256(&self) -> String {
        hub::write::sha256(&self.weights)
    }

    /// Bytes that the incomplete weights have.
    fn incomplete(&self) -> Option<u64> {
        let path = self.repo().join("blobs").join(format!("{}.incomplete", self.sha256()));
        fs::metadata(path).ok().map(|meta| meta.len())
    }

    /// `bsfs` with the environment of this hub and nothing else.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bsfs"));
        command.args(arguments).env_clear().env("HF_ENDPOINT", self.hub.endpoint()).env("HF_HOME", self.dir.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
        command
    }
}

fn pull(settings: Settings, uri: &str) -> bsfs::Result<Pulled> {
    let client = Client::new(settings)?;
    bsfs::hub::pull(&client, &HubUri::parse(uri)?, &Pull::default(), &AtomicBool::new(false), &())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_cache_looks_as_others_make_it() {
    let bench = Bench::new();
    let pulled = bench.pull_right();
    assert_eq!((pulled.files.len(), pulled.downloaded_bytes, pulled.bytes), (3, 1_000_009, 1_000_009));
    let link = |path: &str| fs::read_link(pulled.snapshot.join(path)).unwrap().display().to_string();
    assert_eq!(link("model.safetensors"), format!("../../blobs/{}", bench.sha256()));
    assert_eq!(link("sub/a b.txt"), format!("../../../blobs/{}", hub::git_oid(b"text")));
    assert!(bench.dir.path().join("hub/CACHEDIR.TAG").exists());
    assert!(bench.dir.path().join(format!("hub/.locks/models--org--name/{}.lock", bench.sha256())).exists());
    assert!(bench.repo().join(format!("trees/{}.json", bench.commit)).exists());

    // Again: one request for what `main` is now, none for files.
    bench.hub.seen();
    let again = bench.pull_right();
    assert!(again.files.iter().all(|file| file.state == State::Cached) && again.downloaded_bytes == 0);
    assert_eq!(bench.hub.seen().len(), 1);
    // A whole commit id needs none.
    pull(bench.settings(), &format!("hf://org/name@{}", bench.commit)).unwrap();
    assert_eq!(bench.hub.seen(), []);
    // A new commit shares what is the same.
    let commit = bench.hub.commit("org/name", &[("config.json", b"{ }")]);
    let new = bench.pull().unwrap();
    assert_eq!((new.commit, new.downloaded_bytes), (commit, 3));
    assert_eq!(new.files.iter().filter(|file| file.state == State::Linked).count(), 2);
}

#[test]
fn long_listings_come_in_pages_and_patterns_choose() {
    let bench = Bench::with(Config { page: 2, ..Config::default() });
    bench.pull_right();
    let client = Client::new(bench.settings()).unwrap();
    let uri = HubUri::parse("hf://org/name").unwrap();
    let some = |include: &[&str], exclude: &[&str]| {
        let own = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect();
        let options = Pull { include: own(include), exclude: own(exclude), threads: 1 };
        bsfs::hub::pull(&client, &uri, &options, &AtomicBool::new(false), &())
    };
    let paths = |pulled: Pulled| pulled.files.into_iter().map(|file| file.path).collect::<Vec<_>>();
    assert_eq!(paths(some(&["*.txt", "config.*"], &["sub/*"]).unwrap()), ["config.json"]);
    assert_eq!(paths(some(&[], &["*.safetensors"]).unwrap()), ["config.json", "sub/a b.txt"]);
    assert!(some(&["*.gguf"], &[]).unwrap_err().to_string().contains("patterns"));
}

#[test]
fn a_lost_connection_goes_on_where_it_was() {
    for fault in [Fault::Cut(300_000), Fault::Close(300_000), Fault::Truncate(300_000), Fault::Stall(300_000, 2000)] {
        let bench = Bench::new();
        bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, fault.clone());
        let pulled = bench.pull_right();
        assert_eq!(pulled.downloaded_bytes, 1_000_009, "{fault:?}");
        let ranges: Vec<_> = bench.hub.seen().into_iter().filter(|seen| seen.side == Side::Cdn).collect();
        assert_eq!(ranges.len(), 2, "{fault:?}");
        let from = ranges[1]
            .range
            .as_deref()
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<u64>().ok());
        assert!(from.is_some_and(|from| (1..=300_000).contains(&from)), "{fault:?}: {from:?}");
        assert!(ranges[1].if_range.as_deref().is_some_and(|tag| tag.starts_with("\"cdn-")), "{fault:?}");
    }
}

#[test]
fn a_connection_that_is_always_lost_ends_in_one_error_and_goes_on_another_day() {
    let bench = Bench::new();
    bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, Fault::Close(400_000));
    bench.hub.fail(Side::Cdn, "GET", "/lfs/", 99, Fault::Close(0));
    bench.pull_fails(&["model.safetensors", "attempts"]);
    let kept = bench.incomplete().unwrap();
    assert!((1..=400_000).contains(&kept));
    bench.hub.state().faults.clear();
    let pulled = bench.pull_right();
    assert!(pulled.downloaded_bytes <= 1_000_009 - kept);
}

#[test]
fn busy_servers_are_asked_again_when_they_say() {
    let bench = Bench::new();
    bench.hub.fail(Side::Hub, "GET", "/revision/", 1, Fault::Status(429, Some(1)));
    bench.hub.fail(Side::Hub, "GET", "/tree/", 2, Fault::Status(503, None));
    bench.hub.fail(Side::Hub, "HEAD", "model.safetensors", 1, Fault::Status(500, None));
    bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, Fault::Status(429, Some(1)));
    bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, Fault::Drop);
    let started = Instant::now();
    bench.pull_right();
    assert!(started.elapsed() >= Duration::from_secs(2), "Retry-After was not kept");

    // Nobody waits an hour.
    let bench = Bench::new();
    bench.hub.fail(Side::Hub, "GET", "/tree/", 9, Fault::Status(429, Some(3600)));
    bench.pull_fails(&["429", "3600 s"]);
    // A server that never has time.
    let bench = Bench::new();
    bench.hub.fail(Side::Cdn, "GET", "/lfs/", 99, Fault::Status(503, None));
    let error = bench.pull_fails(&["503", "4 attempts"]);
    assert!(matches!(error, Error::Server { status: Some(503), .. }));
}

#[test]
fn an_answer_that_does_not_come_is_asked_for_again() {
    let bench = Bench::new();
    bench.hub.fail(Side::Hub, "GET", "/revision/", 1, Fault::Delay(1500));
    bench.hub.fail(Side::Hub, "GET", "/tree/", 2, Fault::Close(20));
    bench.pull_right();
    let bench = Bench::new();
    bench.hub.fail(Side::Hub, "GET", "/revision/", 99, Fault::Delay(1500));
    bench.pull_fails(&["no answer in time"]);
}

#[test]
fn an_expired_address_is_asked_for_again() {
    // Its date is over, which is known before it is used again.
    let bench = Bench::with(Config { expiry: 5, ..Config::default() });
    bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, Fault::Close(200_000));
    bench.pull_right();
    let seen = bench.hub.seen();
    let heads = seen.iter().filter(|seen| seen.method == "HEAD" && seen.path.ends_with(".safetensors")).count();
    assert_eq!((heads, seen.iter().filter(|seen| seen.status == 403).count()), (2, 0));
    // Refused though its date is not over, also in the middle of a file.
    let bench = Bench::new();
    bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, Fault::Expire);
    bench.pull_right();
    let bench = Bench::new();
    bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, Fault::Close(200_000));
    bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, Fault::Expire);
    let pulled = bench.pull_right();
    assert_eq!(pulled.downloaded_bytes, 1_000_009);
    let heads = bench
        .hub
        .seen()
        .into_iter()
        .filter(|seen| seen.method == "HEAD" && seen.path.ends_with(".safetensors"))
        .count();
    assert_eq!(heads, 2);
}

#[test]
fn a_mirror_with_entity_tags_of_its_own_is_pulled_from() {
    for tag in ["mirror-", &"0".repeat(32)] {
        let bench = Bench::with(Config { mirror: Some(tag.into()), ..Config::default() });
        bench.pull_right();
    }
}

#[test]
fn another_etag_is_no_file_of_this_commit() {
    let bench = Bench::new();
    bench.hub.fail(Side::Hub, "HEAD", "model.safetensors", 1, Fault::WrongEtag);
    bench.pull_fails(&["model.safetensors", "ETag", &bench.sha256()]);
}

#[test]
fn wrong_bytes_get_no_name() {
    // Once: fetched again. Always: an error, and nothing stays that would be wrong for ever.
    let bench = Bench::new();
    bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, Fault::Flip);
    bench.pull_right();
    let bench = Bench::new();
    bench.hub.fail(Side::Cdn, "GET", "/lfs/", 99, Fault::Flip);
    let error = bench.pull_fails(&["SHA-256", &bench.sha256()]);
    assert!(matches!(error, Error::Differs { .. }));
    assert_eq!(bench.incomplete(), None);
    // The same for git's hash.
    let bench = Bench::new();
    bench.hub.fail(Side::Hub, "GET", "config.json", 99, Fault::Flip);
    let error = bench.pull().unwrap_err().to_string();
    assert!(error.contains("git's SHA-1") && error.contains("config.json"), "{error}");
    assert!(!bench.repo().join("snapshots").join(&bench.commit).join("config.json").exists());
}

#[test]
fn what_an_earlier_attempt_left_is_proven_as_well() {
    // Right, of another file, and too long.
    let bench = Bench::new();
    let path = bench.repo().join("blobs").join(format!("{}.incomplete", bench.sha256()));
    for (left, most) in
        [(bench.weights[..600_000].to_vec(), 400_009), (noise(8, 600_000), 1_400_020), (noise(8, 1_000_004), 1_000_010)]
    {
        let _ = fs::remove_dir_all(bench.repo());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, left).unwrap();
        let pulled = bench.pull_right();
        assert!(pulled.downloaded_bytes <= most, "{} of {most}", pulled.downloaded_bytes);
    }
}

#[test]
fn a_file_that_changes_between_requests_is_not_mixed() {
    // The rest has another tag: the beginning is thrown away.
    for second in [Fault::WrongEtag, Fault::NoRange] {
        let bench = Bench::new();
        bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, Fault::Close(300_000));
        bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, second);
        bench.pull_right();
    }
    // Another content under the same address.
    let bench = Bench::new();
    let sha256 = bench.sha256();
    bench.hub.state().lfs.insert(sha256, hub::Content::from(noise(9, 1_000_003)));
    bench.pull_fails(&["SHA-256"]);
    let sha256 = bench.sha256();
    bench.hub.state().lfs.insert(sha256, hub::Content::from(noise(9, 1_000_004)));
    bench.pull_fails(&["longer than the 1000003 bytes"]);
    let sha256 = bench.sha256();
    bench.hub.state().lfs.insert(sha256, hub::Content::from(noise(9, 1_000_002)));
    bench.pull_fails(&["shorter than the listing says"]);
}

#[test]
fn ranges_are_what_was_asked_for() {
    for lie in [Fault::LyingRange, Fault::LyingTotal, Fault::OtherRange] {
        let bench = Bench::new();
        bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, Fault::Close(300_000));
        bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, lie.clone());
        bench.pull_right();
        let bench = Bench::new();
        bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, Fault::Close(300_000));
        bench.hub.fail(Side::Cdn, "GET", "/lfs/", 99, lie);
        bench.pull_fails(
            &["not what was asked for", "Content-Range"]
                .map(|word| if word == "Content-Range" { "bytes " } else { word }),
        );
    }
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let bench = Bench::with(Config { token: Some(TOKEN.into()), ..Config::default() });
    bench.hub.state().repos.get_mut("org/name").unwrap().private = true;
    bench.pull_fails(&["401", "HF_TOKEN"]);
    let settings = Settings { token: Token::new(TOKEN), ..bench.settings() };
    bench.hub.seen();
    pull(settings.clone(), "hf://org/name").unwrap();
    let seen = bench.hub.seen();
    let bearer = format!("Bearer {TOKEN}");
    for seen in &seen {
        let expected = (seen.side == Side::Hub).then_some(bearer.as_str());
        assert_eq!(seen.authorization.as_deref(), expected, "{seen:?}");
    }
    assert!(seen.iter().any(|seen| seen.side == Side::Cdn));

    // Redirects of a hub that wants it otherwise: to another port, and to another name of the same.
    for host in ["127.0.0.1", "localhost"] {
        let other = Hub::new();
        let port = other.endpoint().rsplit(':').next().unwrap().to_owned();
        let to = format!("http://{host}:{port}/catch");
        for (method, path) in
            [("GET", "/revision/"), ("GET", "/tree/"), ("HEAD", "/resolve/"), ("GET", "resolve-cache")]
        {
            let _ = fs::remove_dir_all(bench.repo());
            bench.hub.fail(Side::Hub, method, path, 1, Fault::Redirect(to.clone()));
            let result = pull(settings.clone(), "hf://org/name");
            bench.hub.state().faults.clear();
            if let Err(error) = result {
                assert!(!error.to_string().contains(TOKEN));
            }
        }
        let seen = other.seen();
        // Where the bytes of a file are, is followed; what the hub itself should answer is not.
        assert!(!seen.is_empty() && seen.iter().all(|seen| seen.path == "/catch"));
        for seen in seen {
            assert_eq!(seen.authorization, None, "{seen:?}");
        }
    }
    // Not even the cache has it.
    assert!(!grep(bench.dir.path(), TOKEN));
}

/// Whether any file below `dir` has `needle` in it.
fn grep(dir: &Path, needle: &str) -> bool {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            grep(&path, needle)
        } else {
            fs::read(&path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|w| w == needle.as_bytes()))
        }
    })
}

#[test]
fn neither_token_nor_signature_is_ever_told() {
    let bench = Bench::with(Config { token: Some(TOKEN.into()), ..Config::default() });
    for (side, path, fault) in [
        (Side::Hub, "/tree/", Fault::Status(404, None)),
        (Side::Hub, "/resolve/", Fault::Status(403, None)),
        (Side::Cdn, "/lfs/", Fault::Status(404, None)),
        (Side::Cdn, "/lfs/", Fault::Status(403, None)),
        (Side::Cdn, "/lfs/", Fault::Close(100)),
        (Side::Cdn, "/lfs/", Fault::Drop),
        (Side::Hub, "/resolve/", Fault::Drop),
        (Side::Cdn, "/lfs/", Fault::Flip),
    ] {
        bench.hub.fail(side, "", path, 99, fault.clone());
        let mut command = bench.command(&["pull", "hf://org/name"]);
        // As much log as there is.
        command.env("HF_TOKEN", TOKEN).env("HF_HUB_DOWNLOAD_TIMEOUT", "2").env("BSFS_LOG", "trace");
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Six attempts with growing pauses are too long for a test; what is told is told before the second.
        let deadline = Instant::now() + Duration::from_millis(2500);
        while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        let said = text(&output) + &String::from_utf8_lossy(&output.stdout);
        assert!(!said.is_empty(), "{fault:?}");
        assert!(!said.contains("geheim") && !said.contains("Signature"), "{fault:?}: {said}");
        bench.hub.state().faults.clear();
    }
    assert!(!grep(bench.dir.path(), TOKEN) && !grep(bench.dir.path(), "Signature="));
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    for path in ["../../../../evil", "/tmp/evil", "a/../../evil", "a//b"] {
        let bench = Bench::new();
        bench.hub.commit("org/name", &[(path, b"x")]);
        let error = bench.pull().unwrap_err().to_string();
        assert!(error.contains("no path inside a directory"), "{error}");
        assert!(!bench.dir.path().join("evil").exists());
    }
}

#[test]
fn offline_there_are_no_requests() {
    let bench = Bench::new();
    let offline = || Settings { offline: true, ..bench.settings() };
    let error = pull(offline(), "hf://org/name").unwrap_err().to_string();
    assert!(error.contains("not in the cache") && error.contains("HF_HUB_OFFLINE"), "{error}");
    bench.pull_right();
    bench.hub.seen();
    bench.compare(&pull(offline(), "hf://org/name").unwrap().snapshot);
    // Without a listing, what is there is what there is; with one, what is missing is told.
    let listing = bench.repo().join(format!("trees/{}.json", bench.commit));
    let kept = fs::read(&listing).unwrap();
    fs::remove_file(&listing).unwrap();
    assert_eq!(pull(offline(), "hf://org/name").unwrap().files.len(), 3);
    fs::write(&listing, kept).unwrap();
    fs::remove_file(bench.repo().join("snapshots").join(&bench.commit).join("config.json")).unwrap();
    let error = pull(offline(), "hf://org/name").unwrap_err().to_string();
    assert!(error.contains("1 of 3 files") && error.contains("config.json"), "{error}");
    assert_eq!(bench.hub.seen(), []);
}

#[test]
fn refusals_say_what_to_do() {
    let bench = Bench::with(Config { token: Some(TOKEN.into()), ..Config::default() });
    let said = |settings: Settings, uri: &str| pull(settings, uri).unwrap_err().to_string();
    assert!(said(bench.settings(), "hf://org/none").contains("is the name right?"));
    assert!(said(bench.settings(), "hf://org/name@none").contains("no such branch, tag or commit"));
    let wrong = Settings { token: Token::new("hf_wrong"), ..bench.settings() };
    assert!(said(wrong, "hf://org/name").contains("the token is not valid"));
    bench.hub.state().repos.get_mut("org/name").unwrap().gated = true;
    assert!(said(bench.settings(), "hf://org/name").contains("accept the conditions"));
    let nobody = Settings { endpoint: "http://127.0.0.1:1".into(), ..bench.settings() };
    assert!(said(nobody, "hf://org/name").contains("no connection"));
    let none = Settings { endpoint: "huggingface.co".into(), ..bench.settings() };
    assert!(said(none, "hf://org/name").contains("HF_ENDPOINT"));
}

#[test]
fn two_pulls_at_once_fetch_each_file_once() {
    let bench = Bench::new();
    bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, Fault::Delay(300));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| bench.pull().unwrap());
        let pulled = bench.pull().unwrap();
        let other = other.join().unwrap();
        assert_eq!(pulled.downloaded_bytes + other.downloaded_bytes, 1_000_009);
    });
    bench.pull_right();
    let gets = bench.hub.seen().into_iter().filter(|seen| seen.side == Side::Cdn).count();
    assert_eq!(gets, 1);
}

/// Sets a flag when so many bytes have come.
struct StopAt(AtomicU64, u64, Arc<AtomicBool>);

impl Progress for StopAt {
    fn expect(&self, _bytes: u64) {}
    fn advance(&self, bytes: u64) {
        if self.0.fetch_add(bytes, Ordering::SeqCst) + bytes > self.1 {
            self.2.store(true, Ordering::SeqCst);
        }
    }
    fn retreat(&self, _bytes: u64) {}
    fn name(&self, _path: &str) {}
}

#[test]
fn an_interruption_leaves_what_can_be_resumed() {
    let bench = Bench::new();
    let stop = Arc::new(AtomicBool::new(false));
    let progress = StopAt(AtomicU64::new(0), 300_000, Arc::clone(&stop));
    let client = Client::new(bench.settings()).unwrap();
    let uri = HubUri::parse("hf://org/name").unwrap();
    let result = bsfs::hub::pull(&client, &uri, &Pull::default(), &stop, &progress);
    assert!(matches!(result, Err(Error::Interrupted)));
    let kept = bench.incomplete().unwrap();
    assert!(kept > 0 && !bench.repo().join("refs/main").exists());
    assert!(bench.pull_right().downloaded_bytes <= 1_000_009 - kept);
}

#[test]
fn a_signal_ends_a_pull_and_a_killed_one_is_resumed() {
    for signal in ["INT", "KILL"] {
        let bench = Bench::new();
        bench.hub.fail(Side::Cdn, "GET", "/lfs/", 1, Fault::Stall(500_000, 1500));
        let mut child =
            bench.command(&["pull", "hf://org/name"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        eventually("half of the file is there", || bench.incomplete() == Some(500_000));
        let killed = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let status = child.wait().unwrap();
        assert_eq!(status.code(), (signal == "INT").then_some(130));
        assert_eq!(bench.incomplete(), Some(500_000));
        // The two small files, 9 bytes together, may have been there already.
        let left = bench.pull_right().downloaded_bytes;
        assert!((500_000..=500_009).contains(&left), "{signal}: {left}");
    }
}

#[test]
fn the_verb_prints_the_directory() {
    let bench = Bench::new();
    let output = bench.command(&["pull", "hf://org/name", "--exclude", "*.txt"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let snapshot = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(Path::new(snapshot.trim_end()), bench.repo().join("snapshots").join(&bench.commit));
    assert!(text(&output).contains("2 files") && text(&output).contains("0 were there"), "{}", text(&output));
    let output = bench.command(&["pull", "hf://org/name", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((json["files"][0]["state"].as_str(), json["downloaded_bytes"].as_u64()), (Some("cached"), Some(4)));
    let output = bench.command(&["pull", "hf://datasets/org/name"]).output().unwrap();
    assert_eq!((output.status.code(), text(&output).lines().count()), (Some(2), 1));
    assert!(text(&output).contains("models only"));
}

#[test]
fn what_is_on_the_hub_is_compressed() {
    let bench = Bench::new();
    let model = common::safetensors(1, 200_000);
    bench.hub.commit("org/name", &[("model.safetensors", &model)]);
    let output = bench.command(&["compress", "hf://org/name"]).output().unwrap();
    assert!(output.status.code() == Some(2) && text(&output).contains("-o DIR"), "{}", text(&output));
    let out = bench.dir.path().join("out");
    let output = bench.command(&["compress", "hf://org/name", "-o", out.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(fs::read(out.join("config.json")).unwrap(), b"{}");
    let back = bench.dir.path().join("back");
    let packed = out.join("model.safetensors.bs");
    let output =
        bench.command(&["decompress", packed.to_str().unwrap(), "-o", back.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(fs::read(back).unwrap() == model);
}

#[test]
fn a_server_that_gives_a_byte_at_a_time_is_given_up() {
    // One connection after the other.
    let bench = Bench::new();
    bench.hub.commit("org/name", &[("config.json", &[b' '; 100])]);
    bench.hub.fail(Side::Hub, "GET", "config.json", u32::MAX, Fault::Close(1));
    let error = bench.pull().unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("4 attempts"), "{error}");
    // And one that goes on, of a listing and of a file.
    for path in ["/tree/", "config.json"] {
        let bench = Bench::new();
        bench.hub.commit("org/name", &[("config.json", &[b' '; 400])]);
        bench.hub.fail(Side::Hub, "GET", path, u32::MAX, Fault::Trickle(5, 100));
        let error = bench.pull().unwrap_err().to_string();
        assert!(error.contains("too slowly"), "{error}");
    }
}

#[test]
fn a_success_that_is_none_is_an_error_of_the_server() {
    let bench = Bench::new();
    bench.hub.fail(Side::Cdn, "GET", "/lfs/", u32::MAX, Fault::Status(204, None));
    let error = bench.pull_fails(&["204"]);
    assert!(matches!(error, Error::Server { .. }), "{error:?}");
}

#[test]
fn names_that_would_write_on_the_terminal_are_refused() {
    let bench = Bench::new();
    bench.hub.commit("org/name", &[("a\u{1b}[2J\nb", b"x")]);
    let error = bench.pull().unwrap_err().to_string();
    assert!(error.contains("no path inside a directory") && !error.contains('\u{1b}'), "{error}");
}

#[test]
fn a_date_in_retry_after_is_kept_by_the_clock_of_the_server() {
    let bench = Bench::new();
    let now = "Sun, 06 Nov 1994 08:49:37 GMT";
    bench.hub.fail(Side::Hub, "GET", "/tree/", 1, Fault::Later(now.into(), "Sun, 06 Nov 1994 08:49:39 GMT".into()));
    let started = Instant::now();
    bench.pull_right();
    assert!(started.elapsed() >= Duration::from_secs(2));
}

#[test]
fn a_long_file_comes_over_several_connections_and_only_its_beginning_counts() {
    let long = noise(11, (40 << 20) + 12_345);
    let bench = Bench::new();
    let commit = bench.hub.commit("org/long", &[("m.safetensors", &long)]);
    let sha256 = hub::write::sha256(&long);
    let blobs = bench.dir.path().join("hub/models--org--long/blobs");
    let incomplete = blobs.join(format!("{sha256}.incomplete"));
    let right = |again: bool| {
        let pulled = pull(bench.settings(), "hf://org/long").unwrap();
        assert!(fs::read(pulled.snapshot.join("m.safetensors")).unwrap() == long);
        assert!(again || pulled.downloaded_bytes == long.len() as u64, "{}", pulled.downloaded_bytes);
        assert!(pulled.snapshot.ends_with(&commit) && !incomplete.exists());
        fs::remove_dir_all(blobs.parent().unwrap()).unwrap();
        let seen: Vec<_> = bench.hub.seen().into_iter().filter(|seen| seen.side == Side::Cdn).collect();
        assert!(seen.iter().all(|seen| seen.authorization.is_none()));
        seen
    };
    let seen = right(false);
    assert_eq!(seen.len(), 6, "{seen:?}");
    assert!(seen.iter().all(|seen| seen.range.as_deref().is_some_and(|range| !range.ends_with('-'))), "{seen:?}");
    // What fails in one of them, or in all.
    for (times, fault) in [
        (2, Fault::Cut(100_000)),
        (1, Fault::Status(503, None)),
        (1, Fault::LyingRange),
        (1, Fault::LyingTotal),
        (1, Fault::Stall(1000, 2000)),
        (1, Fault::Expire),
        (1, Fault::Flip),
        (7, Fault::NoRange),
        (1, Fault::WrongEtag),
    ] {
        bench.hub.fail(Side::Cdn, "GET", "/lfs/", times, fault.clone());
        eprintln!("{fault:?}");
        right(true);
        bench.hub.state().faults.clear();
    }
    // What an interrupted one leaves is a beginning, which the next one goes on from.
    let stop = Arc::new(AtomicBool::new(false));
    let progress = StopAt(AtomicU64::new(0), 30 << 20, Arc::clone(&stop));
    let client = Client::new(bench.settings()).unwrap();
    let uri = HubUri::parse("hf://org/long").unwrap();
    let result = bsfs::hub::pull(&client, &uri, &Pull::default(), &stop, &progress);
    assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    let kept = fs::read(&incomplete).unwrap();
    assert!(kept.len() < long.len() && kept[..] == long[..kept.len()]);
    right(true);
}
