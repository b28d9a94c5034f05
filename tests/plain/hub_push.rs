//! `bsfs push`: what arrives is what was there, nothing is sent twice, and nothing is seen before all of it has arrived.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bsfs::Error;
use bsfs::hub::{Client, HubUri, Progress, Pull, Push, Pushed, Repo, Retry, Sent, Settings, Token};

use crate::common::hub::{Config, Fault, Hub, Side};
use crate::common::noise;

const TOKEN: &str = "hf_geheim0123456789";

/// A directory with two files for LFS and two for the commit itself, and a hub that wants a token.
struct Bench {
    hub: Hub,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("model");
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::create_dir_all(source.join(".git")).unwrap();
        fs::create_dir_all(source.join(".cache/huggingface")).unwrap();
        for (path, bytes) in [
            ("config.json", b"{}".to_vec()),
            ("a.bs", noise(1, 700_001)),
            ("sub/b c.bs", noise(2, 300_000)),
            ("sub/empty.bs", Vec::new()),
            (".git/config", b"no".to_vec()),
            (".cache/huggingface/x", b"no".to_vec()),
        ] {
            fs::write(source.join(path), bytes).unwrap();
        }
        Self { hub: Hub::with(Config { token: Some(TOKEN.into()), ..config }), dir }
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoint: self.hub.endpoint(),
            token: Token::new(TOKEN),
            cache: self.dir.path().join("hub"),
            offline: false,
            timeout: Duration::from_millis(1000),
            retry: Retry { attempts: 4, first_pause: Duration::from_millis(10), longest_pause: Duration::from_secs(3) },
        }
    }

    fn push_with(&self, settings: Settings, options: &Push) -> bsfs::Result<Pushed> {
        let client = Client::new(settings)?;
        let progress: Arc<dyn Progress + Send + Sync> = Arc::new(());
        bsfs::hub::push(&client, &self.source(), &Repo::new("org/name")?, options, &Arc::default(), &progress)
    }

    fn push(&self) -> bsfs::Result<Pushed> {
        self.push_with(self.settings(), &Push { create: true, ..Push::default() })
    }

    /// What the branch has.
    fn paths(&self) -> Vec<String> {
        let state = self.hub.state();
        let repo = &state.repos["org/name"];
        repo.commits[&repo.refs["main"]].keys().cloned().collect()
    }

    fn commits(&self) -> usize {
        self.hub.state().repos["org/name"].messages.len()
    }

    /// Pulls the repository into an empty cache and compares it with the directory.
    fn compare(&self) {
        let cache = tempfile::tempdir().unwrap();
        let client = Client::new(Settings { cache: cache.path().into(), ..self.settings() }).unwrap();
        let uri = HubUri::parse("hf://org/name").unwrap();
        let pulled = bsfs::hub::pull(&client, &uri, &Pull::default(), &AtomicBool::new(false), &()).unwrap();
        assert_eq!(self.paths(), [".gitattributes", "a.bs", "config.json", "sub/b c.bs", "sub/empty.bs"]);
        for path in ["a.bs", "config.json", "sub/b c.bs", "sub/empty.bs"] {
            assert!(
                fs::read(pulled.snapshot.join(path)).unwrap() == fs::read(self.source().join(path)).unwrap(),
                "{path}"
            );
        }
    }

    fn uploads(&self) -> usize {
        self.hub.seen().iter().filter(|seen| seen.method == "PUT").count()
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bsfs"));
        command.args(arguments).env_clear().env("HF_ENDPOINT", self.hub.endpoint()).env("HF_HOME", self.dir.path());
        command.env("HF_TOKEN", TOKEN).stdin(Stdio::null()).output().unwrap()
    }
}

#[test]
fn what_cannot_be_read_is_left_out_and_told() {
    let bench = Bench::new();
    let link = |text: &str, name: &str| std::os::unix::fs::symlink(text, bench.source().join(name)).unwrap();
    link("nowhere", "gone");
    link("..", "sub/up");
    fs::write(bench.source().join("a\nb"), b"no name for a repository").unwrap();
    let pushed = bench.push().unwrap();
    assert_eq!(pushed.files.len(), 4);
    for name in ["gone", "sub/up", "a\nb"] {
        let path = bench.source().join(name).display().to_string();
        assert!(
            pushed
                .left_out
                .iter()
                .any(|error| error.contains(&path.escape_default().to_string()) || error.contains(&path)),
            "{:?}",
            pushed.left_out
        );
    }
    assert_eq!((pushed.left_out.len(), bench.paths().len()), (3, 5));
}

#[test]
fn a_directory_arrives_as_one_commit_and_comes_back() {
    let bench = Bench::new();
    let options = Push { create: true, private: true, message: "all of it".into(), ..Push::default() };
    let pushed = bench.push_with(bench.settings(), &options).unwrap();
    assert!(pushed.created);
    assert_eq!(pushed.uploaded_bytes, 1_000_003);
    assert!(pushed.files.iter().all(|file| file.state == Sent::Uploaded));
    assert!(bench.hub.state().repos["org/name"].private);
    assert_eq!(bench.hub.state().repos["org/name"].messages, ["initial commit", "all of it"]);
    bench.compare();
    for seen in bench.hub.seen() {
        let expected = (seen.side == Side::Hub).then(|| format!("Bearer {TOKEN}"));
        assert_eq!(seen.authorization, expected, "{seen:?}");
    }
}

#[test]
fn what_is_there_is_not_sent_again() {
    let bench = Bench::new();
    bench.push().unwrap();
    bench.hub.seen();
    // Nothing changed: nothing sent, and no empty commit.
    let again = bench.push().unwrap();
    assert!(
        again.files.iter().all(|file| file.state == Sent::Unchanged) && again.uploaded_bytes == 0 && !again.created
    );
    assert_eq!((bench.uploads(), bench.commits()), (0, 2));
    // The same content under other names is known, and files that are only in the repository stay.
    fs::rename(bench.source().join("a.bs"), bench.source().join("z.bs")).unwrap();
    fs::copy(bench.source().join("z.bs"), bench.source().join("y.bs")).unwrap();
    let renamed = bench.push().unwrap();
    let state = |path: &str| renamed.files.iter().find(|file| file.path == path).unwrap().state;
    assert_eq!([state("z.bs"), state("y.bs"), state("config.json")], [Sent::Known, Sent::Known, Sent::Unchanged]);
    assert_eq!((bench.uploads(), bench.commits()), (0, 3));
    assert!(bench.paths().contains(&"a.bs".to_owned()) && bench.paths().contains(&"z.bs".to_owned()));
    // Two files of one content are sent once.
    for name in ["p.bs", "q.bs"] {
        fs::write(bench.source().join(name), noise(5, 1000)).unwrap();
    }
    assert_eq!(bench.push().unwrap().uploaded_bytes, 1000);
    assert_eq!(bench.uploads(), 1);
}

#[test]
fn long_files_go_in_parts() {
    let bench = Bench::with(Config { multipart: 250_000, ..Config::default() });
    bench.hub.fail(Side::Cdn, "PUT", "/part/", 1, Fault::Status(500, None));
    bench.push().unwrap();
    // Three parts and two, and one of them twice.
    assert_eq!(bench.uploads(), 6);
    bench.compare();
}

#[test]
fn an_upload_that_fails_is_tried_again_and_then_commits_nothing() {
    for fault in [Fault::Status(503, Some(0)), Fault::Status(500, None), Fault::Close(0)] {
        let bench = Bench::new();
        bench.hub.fail(Side::Cdn, "PUT", "/upload/", 2, fault);
        bench.push().unwrap();
        bench.compare();
    }
    let bench = Bench::new();
    bench.hub.fail(Side::Cdn, "PUT", "/upload/", 99, Fault::Status(503, None));
    let error = bench.push().unwrap_err().to_string();
    assert!(error.contains("503") && error.contains("upload of") && !error.contains("Signature"), "{error}");
    assert_eq!(bench.commits(), 1);
    // Those that had arrived are known by then.
    bench.hub.state().faults.clear();
    bench.push().unwrap();
    bench.compare();
}

#[test]
fn a_commit_whose_answer_is_lost_is_not_made_twice() {
    let bench = Bench::new();
    bench.hub.fail(Side::Hub, "POST", "/commit/", 1, Fault::Close(0));
    let error = bench.push().unwrap_err().to_string();
    assert!(error.contains("push again"), "{error}");
    bench.push().unwrap();
    assert_eq!(bench.commits(), 2);
    bench.compare();
    // Nor one of which a server in between says that it got no answer.
    fs::write(bench.source().join("config.json"), b"{  }").unwrap();
    bench.hub.fail(Side::Hub, "POST", "/commit/", 1, Fault::Status(504, None));
    let error = bench.push().unwrap_err().to_string();
    assert!(error.contains("504") && error.contains("push again") && !error.contains("nothing was done"), "{error}");
    assert_eq!(bench.commits(), 2);
    // Refused for now, it is sent again.
    fs::write(bench.source().join("config.json"), b"{ }").unwrap();
    bench.hub.fail(Side::Hub, "POST", "/commit/", 1, Fault::Status(429, Some(1)));
    bench.push().unwrap();
    assert_eq!(bench.commits(), 3);
}

#[test]
fn refusals_say_what_to_do() {
    let bench = Bench::new();
    let said = |settings: Settings, options: Push| bench.push_with(settings, &options).unwrap_err().to_string();
    let without = said(Settings { token: None, ..bench.settings() }, Push::default());
    assert!(without.contains("HF_TOKEN"), "{without}");
    let wrong = said(Settings { token: Token::new("hf_wrong"), ..bench.settings() }, Push::default());
    assert!(wrong.contains("the token is not valid"), "{wrong}");
    let missing = said(bench.settings(), Push::default());
    assert!(missing.contains("--create"), "{missing}");
    let offline = said(Settings { offline: true, ..bench.settings() }, Push::default());
    assert!(offline.contains("HF_HUB_OFFLINE"), "{offline}");
    fs::remove_dir_all(bench.source()).unwrap();
    fs::create_dir(bench.source()).unwrap();
    assert!(said(bench.settings(), Push::default()).contains("no files"));
    assert_eq!(bench.hub.state().repos.len(), 0);
}

/// Changes a file when the first bytes are sent.
struct ChangeAt(PathBuf, AtomicU64);

impl Progress for ChangeAt {
    fn expect(&self, _bytes: u64) {}
    fn advance(&self, bytes: u64) {
        if bytes > 0 && self.1.fetch_add(1, Ordering::SeqCst) == 0 {
            fs::write(&self.0, b"other").unwrap();
        }
    }
    fn retreat(&self, _bytes: u64) {}
    fn name(&self, _path: &str) {}
}

#[test]
fn a_file_that_changes_meanwhile_is_not_committed() {
    for name in ["a.bs", "config.json"] {
        let bench = Bench::new();
        let client = Client::new(bench.settings()).unwrap();
        let progress: Arc<dyn Progress + Send + Sync> =
            Arc::new(ChangeAt(bench.source().join(name), AtomicU64::new(0)));
        let options = Push { create: true, threads: 1, ..Push::default() };
        let repo = Repo::new("org/name").unwrap();
        let result = bsfs::hub::push(&client, &bench.source(), &repo, &options, &Arc::default(), &progress);
        assert!(matches!(result, Err(Error::Changed { .. } | Error::Server { .. })), "{name}: {result:?}");
        assert_eq!(bench.commits(), 1);
    }
}

/// Sets a flag when the first bytes are sent.
struct StopAt(Arc<AtomicBool>);

impl Progress for StopAt {
    fn expect(&self, _bytes: u64) {}
    fn advance(&self, bytes: u64) {
        self.0.store(bytes > 0, Ordering::SeqCst);
    }
    fn retreat(&self, _bytes: u64) {}
    fn name(&self, _path: &str) {}
}

#[test]
fn an_interruption_commits_nothing() {
    let bench = Bench::new();
    let client = Client::new(bench.settings()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let progress: Arc<dyn Progress + Send + Sync> = Arc::new(StopAt(Arc::clone(&stop)));
    let options = Push { create: true, ..Push::default() };
    let result = bsfs::hub::push(&client, &bench.source(), &Repo::new("org/name").unwrap(), &options, &stop, &progress);
    assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    assert_eq!(bench.commits(), 1);
}

#[test]
fn the_verb_says_what_it_did() {
    let bench = Bench::new();
    let dir = bench.source();
    let dir = dir.to_str().unwrap();
    let output = bench.command(&["push", dir, "org/name", "--create", "--private", "-m", "hello"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        said.contains("a new repository") && said.contains("4 files") && said.contains("/org/name/commit/"),
        "{said}"
    );
    assert_eq!(bench.hub.state().repos["org/name"].messages[1], "hello");
    fs::write(bench.source().join("x.ignored"), b"x").unwrap();
    let output = bench.command(&["push", dir, "hf://org/name", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let states: Vec<_> = json["files"].as_array().unwrap().iter().map(|file| file["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["unchanged", "unchanged", "unchanged", "unchanged", "ignored"]);
    assert!(!bench.paths().contains(&"x.ignored".to_owned()));
    let output = bench.command(&["push", dir, "datasets/org/name"]);
    assert_eq!(output.status.code(), Some(2));
}
