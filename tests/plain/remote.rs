//! Remote places without a kernel: what is read is what is there, whatever the server does on the way.

use crate::common;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::server::{Fault, Server};
use crate::common::{Bench, noise, pack, safetensors};
use bsfs::Error;
use bsfs::cache::{Config, Store};
use bsfs::engine::{Engine, EngineConfig};
use bsfs::source::remote::{Failure, Location, RemoteConfig, RemoteTree, Resolve, Secret, Site, SiteEntry};
use bsfs::source::{ReadAt, Tree};
use bsfs::vfs::{Inode, Vfs, VfsConfig};

const MIB: usize = 1 << 20;

fn config() -> RemoteConfig {
    RemoteConfig { patience: Duration::from_secs(8), silence: Duration::from_millis(1500), ..RemoteConfig::default() }
}

fn cached(bench: &Bench) -> RemoteConfig {
    let size = Config { size: Some(1 << 30), ..Config::default() };
    RemoteConfig { store: Some(Store::open(&bench.dir.join("cache"), &size).unwrap()), ..config() }
}

fn open(server: &Server, path: &str, config: RemoteConfig) -> Arc<RemoteTree> {
    RemoteTree::open(&server.url(path), config).unwrap().0
}

/// A file of a place that is a directory.
fn file(server: &Server, name: &str, config: RemoteConfig) -> (Arc<RemoteTree>, Arc<dyn ReadAt>) {
    let (tree, root) = RemoteTree::open(&server.url("/d/"), config).unwrap();
    let file = tree.open(&root.join(name)).unwrap();
    (tree, file)
}

fn read(file: &dyn ReadAt, at: u64, len: usize) -> bsfs::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(at, &mut bytes)?;
    Ok(bytes)
}

fn read_all(file: &dyn ReadAt, step: usize) -> bsfs::Result<Vec<u8>> {
    let mut all = Vec::new();
    while (all.len() as u64) < file.len() {
        let len = step.min((file.len() - all.len() as u64) as usize);
        all.extend(read(file, all.len() as u64, len)?);
    }
    Ok(all)
}

fn mounted(tree: Arc<RemoteTree>, source: std::path::PathBuf) -> Vfs {
    let config =
        VfsConfig { source, uid: 0, gid: 0, exclude: None, bases: Vec::new(), hubs: Vec::new(), shared: false };
    Vfs::over(tree, config, Engine::new(EngineConfig::default())).unwrap()
}

fn contents(vfs: &Vfs, directory: Inode, name: &str) -> Vec<u8> {
    let attr = vfs.lookup(directory, OsStr::new(name)).unwrap().unwrap_or_else(|| panic!("no {name}"));
    let handle = vfs.open(attr.inode).unwrap();
    let mut all = Vec::new();
    while (all.len() as u64) < attr.size {
        let data = vfs.read(handle, all.len() as u64, 1 << 17).unwrap();
        assert!(!data.is_empty());
        all.extend_from_slice(&data);
    }
    vfs.release(handle);
    all
}

fn names(vfs: &Vfs, directory: Inode) -> Vec<String> {
    let handle = vfs.opendir(directory).unwrap();
    let mut names = Vec::new();
    vfs.readdir(handle, 2, |item| {
        names.push(item.name.to_str().unwrap().to_owned());
        true
    })
    .unwrap();
    vfs.release(handle);
    names
}

fn packed(bench: &Bench, original: &[u8]) -> Vec<u8> {
    let path = bench.dir.join("packed.bs");
    pack(&bench.original(original), &path);
    std::fs::read(path).unwrap()
}

#[test]
fn a_web_directory_is_shown_as_the_files_it_holds() {
    let (bench, server) = (Bench::new(), Server::new());
    let (model, plain) = (safetensors(3, 3_000_000), safetensors(4, 400_000));
    server.put("/m/x/model.safetensors.bs", &packed(&bench, &model));
    server.put("/m/x/plain.safetensors", &plain);
    server.put("/m/x/config.json", b"{}");
    server.put("/m/x/empty", b"");
    server.put("/m/x/with space.txt", b"s");
    server.put("/m/x/sub/deep.bin", &noise(1, 100_000));
    server.put("/m/other", b"not of it");
    let (tree, root) = RemoteTree::open(&server.url("/m/x/"), config()).unwrap();
    let vfs = mounted(tree, root);
    let expected = ["config.json", "empty", "model.safetensors", "plain.safetensors", "sub", "with space.txt"];
    assert_eq!(names(&vfs, Inode::ROOT), expected);
    assert_eq!(contents(&vfs, Inode::ROOT, "model.safetensors"), model);
    assert_eq!(contents(&vfs, Inode::ROOT, "plain.safetensors"), plain);
    assert_eq!(contents(&vfs, Inode::ROOT, "config.json"), b"{}");
    assert_eq!(contents(&vfs, Inode::ROOT, "empty"), b"");
    assert_eq!(contents(&vfs, Inode::ROOT, "with space.txt"), b"s");
    let sub = vfs.lookup(Inode::ROOT, OsStr::new("sub")).unwrap().unwrap();
    assert_eq!(contents(&vfs, sub.inode, "deep.bin"), noise(1, 100_000));
}

#[test]
fn one_file_of_a_server_is_a_place_too_and_its_query_is_shown_nowhere() {
    let (bench, server) = (Bench::new(), Server::new());
    let model = safetensors(5, 500_000);
    server.put("/m/model.safetensors.bs", &packed(&bench, &model));
    let url = server.url("/m/model.safetensors.bs?sig=verysecret");
    let (tree, source) = RemoteTree::open(&url, config()).unwrap();
    assert!(!format!("{tree:?} {}", source.display()).contains("verysecret"));
    let vfs = mounted(Arc::clone(&tree), source);
    assert_eq!(names(&vfs, Inode::ROOT), ["model.safetensors"]);
    assert_eq!(contents(&vfs, Inode::ROOT, "model.safetensors"), model);
    assert!(server.take_seen().iter().all(|seen| seen.path.contains("sig=verysecret")));
    server.plan(|_, _| Some(Fault::Status(403, None)));
    let error = RemoteTree::open(&url, config()).unwrap_err().to_string();
    assert!(error.contains("credentials") && !error.contains("verysecret"), "{error}");
}

#[test]
fn a_directory_may_be_named_without_its_slash() {
    let server = Server::new();
    server.put("/d/a", b"a");
    let to = server.url("/d/");
    server.plan(move |seen, _| (seen.path == "/d").then(|| Fault::Redirect(to.clone())));
    let (tree, root) = RemoteTree::open(&server.url("/d"), config()).unwrap();
    assert_eq!(tree.names(&root).unwrap(), ["a"]);
}

#[test]
fn opening_takes_two_requests_for_a_container_and_little_of_it() {
    let (bench, server) = (Bench::new(), Server::new());
    let container = packed(&bench, &safetensors(6, 8_000_000));
    for shard in 0..4 {
        server.put(&format!("/d/m-{shard}.safetensors.bs"), &container);
    }
    let (tree, root) = RemoteTree::open(&server.url("/d/"), config()).unwrap();
    let vfs = mounted(tree, root);
    assert_eq!(names(&vfs, Inode::ROOT).len(), 4);
    let seen = server.take_seen();
    assert!(seen.len() <= 1 + 4 * 2, "{} requests", seen.len());
    assert!(seen.iter().map(|seen| seen.sent).sum::<usize>() <= 4 * 3 * 65536);
}

#[test]
fn a_stream_takes_few_requests_and_a_single_read_takes_its_own_bytes() {
    let server = Server::new();
    let bytes = noise(7, 96 * MIB);
    server.put("/d/f", &bytes);
    let (_tree, f) = file(&server, "f", config());
    server.take_seen();
    assert_eq!(read(&*f, 50_000_000, 300_000).unwrap(), bytes[50_000_000..50_300_000]);
    let seen = server.take_seen();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].sent <= 300_000 + 2 * 65536);
    assert!(read_all(&*f, 350_000).unwrap() == bytes);
    let seen = server.take_seen();
    assert!(seen.len() <= 150 * 96 / 1024 + 8, "{} requests for 96 MiB", seen.len());
    let sent: usize = seen.iter().map(|seen| seen.sent).sum();
    assert!(sent <= 97 * MIB, "{sent} bytes: hardly any twice");
}

/// Every fault of a body or an answer that another request can heal, on a part of the requests.
#[test]
fn what_goes_wrong_on_the_way_is_asked_for_again_and_nothing_is_mixed_up() {
    let bytes = noise(8, 24 * MIB);
    let faults = [
        Fault::Cut(100_000),
        Fault::Cut(0),
        Fault::Short(70_001),
        Fault::Status(503, None),
        Fault::Status(429, Some(1)),
        Fault::Status(500, None),
        Fault::Stall(200_000),
        Fault::Trickle(150_000),
        Fault::Late(Duration::from_secs(3)),
    ];
    for fault in faults {
        let server = Server::new();
        server.put("/d/f", &bytes);
        let (tree, f) = file(&server, "f", config());
        let planned = fault.clone();
        server.plan(move |_, number| (number % 3 == 1).then(|| planned.clone()));
        assert!(read_all(&*f, 300_000).unwrap() == bytes, "{fault:?}");
        let traffic = tree.traffic().unwrap();
        assert!(traffic.retries + traffic.hedges > 0, "{fault:?}: {traffic:?}");
        assert!(server.take_seen().iter().all(|seen| !seen.path.ends_with('f')
            || seen.headers.contains_key("if-match")
            || seen.range() == Some((0, 65535))));
        if matches!(fault, Fault::Status(429, _)) {
            assert!(traffic.throttled > 0 && traffic.window < 8);
        }
    }
}

#[test]
fn a_retry_waits_for_as_long_as_the_server_says() {
    let server = Server::new();
    server.put("/d/f", &noise(9, MIB));
    let (_tree, f) = file(&server, "f", config());
    server.take_seen();
    server.plan(|_, number| (number == 0).then_some(Fault::Status(429, Some(2))));
    let begun = Instant::now();
    read(&*f, 500_000, 1000).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(2));
    server.plan(|_, _| Some(Fault::Status(503, Some(3600))));
    let begun = Instant::now();
    assert!(read(&*f, 800_000, 1000).is_err());
    assert!(begun.elapsed() < Duration::from_secs(2), "nobody waits an hour");
}

#[test]
fn another_version_is_an_error_and_never_given_out() {
    let (one, two) = (noise(10, 8 * MIB), noise(11, 8 * MIB));
    let server = Server::new();
    server.put("/d/f", &one);
    let (_tree, f) = file(&server, "f", config());
    assert_eq!(read(&*f, 0, 100_000).unwrap(), one[..100_000]);
    server.put("/d/f", &two);
    let error = read(&*f, 5_000_000, 100_000).unwrap_err();
    assert!(matches!(&error, Error::Remote { outage: false, .. }) && error.to_string().contains("changed"), "{error}");
    assert!(server.take_seen().iter().any(|seen| seen.headers.contains_key("if-match")));

    // A server that does not know If-Match tells by its ETag.
    let server = Server::new();
    server.put("/d/f", &one);
    let (_tree, f) = file(&server, "f", config());
    server.plan(|_, _| Some(Fault::Etag("\"other\"".into())));
    assert!(read(&*f, 5_000_000, 100_000).unwrap_err().to_string().contains("changed"));

    // In the middle of a body: the rest would be of another version.
    let server = Server::new();
    server.put("/d/f", &one);
    let (_tree, f) = file(&server, "f", config());
    server.plan(|_, number| Some(if number == 1 { Fault::Cut(100_000) } else { Fault::Etag("\"other\"".into()) }));
    assert!(read(&*f, 5_000_000, 300_000).unwrap_err().to_string().contains("changed"));

    // Shorter now.
    let server = Server::new();
    server.put("/d/f", &one);
    let (_tree, f) = file(&server, "f", config());
    server.put("/d/f", &one[..1000]);
    assert!(read(&*f, 5_000_000, 300_000).unwrap_err().to_string().contains("changed"));
}

#[test]
fn an_answer_of_other_bytes_than_were_asked_for_is_refused() {
    let bytes = noise(12, 8 * MIB);
    for (fault, word) in [(Fault::Lie(1000), "asked for bytes"), (Fault::NoRanges, "ranges")] {
        let server = Server::new();
        server.put("/d/f", &bytes);
        let (_tree, f) = file(&server, "f", config());
        server.plan(move |_, _| Some(fault.clone()));
        let error = read(&*f, 4_000_000, 1000).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        server.no_plan();
        assert_eq!(read(&*f, 4_000_000, 1000).unwrap(), bytes[4_000_000..4_001_000], "it works again");
    }
}

#[test]
fn bytes_that_were_flipped_on_the_way_are_fetched_anew_and_leave_the_cache() {
    let (bench, server) = (Bench::new(), Server::new());
    let model = safetensors(13, 2_000_000);
    server.put("/d/m.safetensors.bs", &packed(&bench, &model));
    let remote = cached(&bench);
    let store = remote.store.clone().unwrap();
    let (tree, root) = RemoteTree::open(&server.url("/d/"), remote).unwrap();
    let vfs = mounted(tree, root);
    names(&vfs, Inode::ROOT);
    server.take_seen();
    server.plan(|_, number| (number == 0).then_some(Fault::Flip));
    assert_eq!(contents(&vfs, Inode::ROOT, "m.safetensors"), model);
    server.no_plan();
    assert!(store.flush(Duration::from_secs(20)));
    drop(vfs);
    server.go();
    let (tree, root) = RemoteTree::open(&server.url("/d/"), cached(&bench)).unwrap();
    let vfs = mounted(tree, root);
    assert_eq!(contents(&vfs, Inode::ROOT, "m.safetensors"), model);
}

#[test]
fn what_cannot_be_read_fails_after_a_bounded_time_and_works_again_when_the_network_does() {
    let server = Server::new();
    let bytes = noise(14, 8 * MIB);
    server.put("/d/f", &bytes);
    let patience = Duration::from_secs(2);
    let (tree, f) = file(&server, "f", RemoteConfig { patience, ..config() });
    server.go();
    let begun = Instant::now();
    let error = read(&*f, 4_000_000, 1000).unwrap_err();
    assert!(matches!(error, Error::Remote { outage: true, .. }), "{error}");
    assert!(begun.elapsed() < patience + Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(tree.traffic().unwrap().down);
    server.come_back();
    assert_eq!(read(&*f, 4_000_000, 1000).unwrap(), bytes[4_000_000..4_001_000]);
    assert!(!tree.traffic().unwrap().down);
}

#[test]
fn a_second_time_all_is_there_without_the_server() {
    let (bench, server) = (Bench::new(), Server::new());
    let (model, plain) = (safetensors(15, 4_000_000), noise(16, 3 * MIB));
    server.put("/d/model.safetensors.bs", &packed(&bench, &model));
    server.put("/d/plain.bin", &plain);
    server.put("/d/config.json", b"{\"a\": 1}");
    server.put("/d/sub/small.txt", b"small");
    let look = |offline: bool| {
        let config = cached(&bench);
        let store = config.store.clone().unwrap();
        let (tree, root) = RemoteTree::open(&server.url("/d/"), config).unwrap();
        let vfs = mounted(tree, root);
        assert_eq!(contents(&vfs, Inode::ROOT, "model.safetensors"), model);
        assert_eq!(contents(&vfs, Inode::ROOT, "plain.bin"), plain);
        let sub = vfs.lookup(Inode::ROOT, OsStr::new("sub")).unwrap().unwrap();
        assert_eq!(names(&vfs, sub.inode), ["small.txt"]);
        if offline {
            // Never opened the first time.
            assert_eq!(contents(&vfs, Inode::ROOT, "config.json"), b"{\"a\": 1}");
            assert_eq!(contents(&vfs, sub.inode, "small.txt"), b"small");
        }
        assert!(store.flush(Duration::from_secs(20)));
    };
    look(false);
    let before = server.take_seen();
    assert!(!before.is_empty());
    // With the server there only what tells the versions is asked for.
    look(true);
    let again: usize = server.take_seen().iter().map(|seen| seen.sent).sum();
    assert!(again < 5 * 65536 + 1000, "{again} bytes");
    server.go();
    look(true);
}

#[test]
fn a_download_leaves_nothing_to_be_fetched() {
    let (bench, server) = (Bench::new(), Server::new());
    let (model, plain) = (safetensors(17, 4_000_000), noise(18, 5 * MIB));
    server.put("/d/model.safetensors.bs", &packed(&bench, &model));
    server.put("/d/sub/plain.bin", &plain);
    assert!(open(&server, "/d/", config()).download(&mut |_, _| Ok(())).is_err(), "nowhere to");
    let (tree, root) = RemoteTree::open(&server.url("/d/"), cached(&bench)).unwrap();
    let mut last = (0, 0);
    let mut tell = |done, total| {
        last = (done, total);
        Ok(())
    };
    tree.download(&mut tell).unwrap();
    assert!(last.0 == last.1 && last.1 > 0, "{last:?}");
    server.go();
    let vfs = mounted(tree, root);
    assert_eq!(contents(&vfs, Inode::ROOT, "model.safetensors"), model);
    let sub = vfs.lookup(Inode::ROOT, OsStr::new("sub")).unwrap().unwrap();
    assert_eq!(contents(&vfs, sub.inode, "plain.bin"), plain);
}

#[test]
fn what_is_not_there_or_not_allowed_is_said_in_a_line() {
    let server = Server::new();
    server.put("/d/f", b"x");
    let fail = |text: &str| RemoteTree::open(text, config()).unwrap_err().to_string();
    assert!(fail(&server.url("/nothing/")).contains("no such"), "{}", fail(&server.url("/nothing/")));
    assert!(fail(&server.url("/d/g")).contains("no such"));
    assert!(fail("ftp://host/x").contains("known are s3"));
    server.plan(|_, _| Some(Fault::Status(401, None)));
    assert!(fail(&server.url("/d/")).contains("credentials"));
}

#[test]
fn what_is_held_of_packed_bytes_stays_within_its_bound() {
    let server = Server::new();
    let bytes = noise(19, 64 * MIB);
    server.put("/d/f", &bytes);
    let (_tree, f) = file(&server, "f", RemoteConfig { memory: 4 << 20, ..config() });
    server.take_seen();
    assert!(read_all(&*f, 300_000).unwrap() == bytes);
    let longest = server.take_seen().iter().filter_map(|seen| seen.range()).map(|(a, b)| b - a).max().unwrap();
    assert!(longest <= 4 << 20);
}

/// A place behind a redirect to another host, whose URLs expire.
struct Hub {
    api: String,
    expire: std::sync::atomic::AtomicU64,
    resolved: std::sync::atomic::AtomicU64,
    storage: String,
    version: std::sync::Mutex<String>,
    len: u64,
}

struct File(Arc<Hub>, String);

struct Shown(Arc<Hub>);

impl Site for Shown {
    fn list(&self, directory: &str) -> Result<Vec<SiteEntry>, Failure> {
        assert_eq!(directory, "");
        let version = self.0.version.lock().unwrap().clone();
        Ok(vec![SiteEntry { name: "f".into(), file: Some((self.0.len, version)), modified: 0 }])
    }

    fn resolve(&self, file: &str, _version: &str) -> Arc<dyn Resolve> {
        Arc::new(File(self.0.clone(), file.to_owned()))
    }
}

impl Resolve for File {
    fn resolve(&self) -> Result<Location, Failure> {
        use std::sync::atomic::Ordering::SeqCst;
        let count = self.0.resolved.fetch_add(1, SeqCst);
        let expires = Duration::from_millis(self.0.expire.load(SeqCst));
        let url = match count % 2 {
            0 => format!("{}/{}?sig={count}", self.0.storage, self.1),
            _ => format!("{}/{}?sig={count}", self.0.api, self.1),
        };
        Ok(Location {
            url: Secret::new(url),
            headers: vec![("authorization".into(), Secret::new("Bearer verysecret"))],
            version: self.0.version.lock().unwrap().clone(),
            len: Some(self.0.len),
            expires: (!expires.is_zero()).then(|| Instant::now() + expires),
        })
    }
}

#[test]
fn a_file_behind_a_signed_url_is_resolved_once_and_again_when_that_is_denied_or_expires() {
    use std::sync::atomic::Ordering::SeqCst;
    let (storage, api) = (Server::new(), Server::new());
    let bytes = noise(20, 8 * MIB);
    storage.put("/f", &bytes);
    api.put("/f", &bytes);
    // The API's host sends the client to another host, where no token may arrive.
    let to = format!("http://localhost:{}/f?sig=moved", storage.address.port());
    api.plan(move |_, _| Some(Fault::Redirect(to.clone())));
    let hub = Arc::new(Hub {
        api: api.url(""),
        storage: storage.url(""),
        expire: 0.into(),
        resolved: 0.into(),
        version: std::sync::Mutex::new("v1".into()),
        len: bytes.len() as u64,
    });
    let label = std::path::Path::new("hf://a/b");
    let (tree, root) = RemoteTree::over(Arc::new(Shown(hub.clone())), label, config()).unwrap();
    let f = tree.open(&root.join("f")).unwrap();
    assert_eq!(read(&*f, 1_000_000, 1000).unwrap(), bytes[1_000_000..1_001_000]);
    assert_eq!(read(&*f, 3_000_000, 1000).unwrap(), bytes[3_000_000..3_001_000]);
    assert_eq!(hub.resolved.load(SeqCst), 1);
    // The URL has expired: the host denies it, and the next one works.
    storage.take_seen();
    storage.plan(|seen, _| seen.path.ends_with("sig=0").then_some(Fault::Status(403, None)));
    assert_eq!(read(&*f, 5_000_000, 1000).unwrap(), bytes[5_000_000..5_001_000]);
    assert_eq!(hub.resolved.load(SeqCst), 2);
    assert_eq!(api.take_seen()[0].headers["authorization"], "Bearer verysecret");
    let moved: Vec<_> = storage.take_seen().into_iter().filter(|seen| seen.path.ends_with("moved")).collect();
    assert!(!moved.is_empty() && moved.iter().all(|seen| !seen.headers.contains_key("authorization")));
    // Another version under the same name is never read on with.
    *hub.version.lock().unwrap() = "v2".into();
    api.plan(|_, _| Some(Fault::Status(403, None)));
    assert!(read(&*f, 7_000_000, 1000).unwrap_err().to_string().contains("changed"));
}

#[test]
fn a_directory_that_cannot_be_listed_is_not_asked_for_at_each_look() {
    let server = Server::new();
    server.put("/d/sub/f", b"f");
    server.plan(|seen, _| seen.path.ends_with("/sub/").then_some(Fault::Status(403, None)));
    let tree = open(&server, "/d/", config());
    let root = std::path::PathBuf::from(server.url("/d"));
    server.take_seen();
    for _ in 0..5 {
        let error = tree.names(&root.join("sub")).unwrap_err();
        assert!(error.to_string().contains("credentials"), "{error}");
    }
    assert_eq!(server.take_seen().len(), 1);
}

#[test]
fn the_host_that_an_address_leads_to_does_not_learn_the_signature() {
    let (server, other) = (Server::new(), Server::new());
    server.put("/f", b"bytes");
    other.put("/elsewhere", b"bytes");
    let to = other.url("/elsewhere");
    server.plan(move |_, _| Some(Fault::Redirect(to.clone())));
    let (tree, path) = RemoteTree::open(&server.url("/f?sig=verysecret"), config()).unwrap();
    assert_eq!(read(&*tree.open(&path).unwrap(), 0, 5).unwrap(), b"bytes");
    let seen = other.take_seen();
    assert!(!seen.is_empty() && !format!("{seen:?}").contains("verysecret"), "{seen:?}");
}

#[test]
fn a_body_that_was_packed_on_its_way_is_not_taken_for_the_file() {
    let server = Server::new();
    server.put("/d/f", &noise(21, MIB));
    let (_tree, f) = file(&server, "f", config());
    server.plan(|_, _| Some(Fault::Header("Content-Encoding".into(), "gzip".into())));
    let error = read(&*f, 500_000, 1000).unwrap_err().to_string();
    assert!(error.contains("packs"), "{error}");
    // Nor is a page of names.
    let error = RemoteTree::open(&server.url("/d/f"), config()).unwrap_err().to_string();
    assert!(error.contains("packs"), "{error}");
}

#[test]
fn names_are_what_they_are_whatever_addresses_make_of_their_signs() {
    let (server, other) = (Server::new(), Server::new());
    let names = ["a:b", "c#d", "e?f", "g%h", "i+j", "k é", "l;m=n&o", "%2e", "http:p"];
    for name in names {
        server.put(&format!("/d/s:t/{name}"), name.as_bytes());
    }
    let quoted = |name: &str| {
        name.bytes()
            .map(|b| if b.is_ascii_alphanumeric() { char::from(b).into() } else { format!("%{b:02X}") })
            .collect::<String>()
    };
    let link = |name: &str| format!("<a href=\"{}\">x</a>", quoted(name));
    let below: String = names.iter().map(|name| link(name)).collect();
    server.plan(move |seen, _| match seen.path.as_str() {
        "/d/" => Some(Fault::Page("<a href=\"./s:t/\">s</a>".into())),
        path if path.ends_with('/') => Some(Fault::Page(below.clone())),
        _ => None,
    });
    let (tree, root) = RemoteTree::open(&server.url("/d/"), config()).unwrap();
    let mut expected: Vec<_> = names.into();
    expected.sort_unstable();
    assert_eq!(tree.names(&root.join("s:t")).unwrap(), expected);
    for name in names {
        let f = tree.open(&root.join("s:t").join(name)).unwrap();
        assert_eq!(read(&*f, 0, name.len()).unwrap(), name.as_bytes(), "{name}");
    }
    // A name that reads as an address of another host is one of this directory all the same.
    let port = other.address.port();
    server.put(&format!("/d/http:127.0.0.1:{port}"), b"mine");
    server.plan(move |seen, _| {
        (seen.path == "/d/").then(|| Fault::Page(format!("<a href=\"./http:127.0.0.1:{port}\">x</a>")))
    });
    let (tree, root) = RemoteTree::open(&server.url("/d/"), config()).unwrap();
    let f = tree.open(&root.join(format!("http:127.0.0.1:{port}"))).unwrap();
    assert_eq!(read(&*f, 0, 4).unwrap(), b"mine");
    assert!(other.take_seen().is_empty());
}

#[test]
fn a_server_that_gives_a_byte_at_a_time_is_one_that_does_not_answer() {
    let server = Server::new();
    server.put("/d/f", &noise(22, 65536 + 300));
    let (_tree, f) = file(&server, "f", RemoteConfig { patience: Duration::from_secs(1), ..config() });
    server.take_seen();
    server.plan(|_, _| Some(Fault::Cut(1)));
    assert!(matches!(read(&*f, 65536, 300), Err(Error::Remote { outage: true, .. })));
    assert!(server.take_seen().len() < 30, "and is left alone more and more");
}

#[test]
fn a_length_that_no_file_has_or_that_is_not_said_is_not_believed() {
    for (most, total) in [(65536, "18446744073709551615"), (65536, "281474976710657"), (10, "*")] {
        let server = Server::new();
        server.put("/d/f", &noise(23, 100_000));
        server.put("/d/g", b"g");
        server.plan(move |seen, _| seen.path.ends_with('f').then(|| Fault::Part(most, total.into())));
        let tree = open(&server, "/d/", config());
        assert_eq!(tree.names(std::path::Path::new(&server.url("/d"))).unwrap(), ["g"], "{total}");
    }
}

#[test]
fn an_empty_file_needs_no_head_requests() {
    let server = Server::new();
    server.put("/d/empty", b"");
    server.plan(|seen, _| (seen.method == "HEAD").then_some(Fault::Status(405, None)));
    let tree = open(&server, "/d/", config());
    let root = std::path::PathBuf::from(server.url("/d"));
    assert_eq!(tree.names(&root).unwrap(), ["empty"]);
    assert_eq!(tree.open(&root.join("empty")).unwrap().len(), 0);
}

#[test]
fn a_retry_waits_until_the_time_that_the_server_says_by_its_own_clock() {
    let server = Server::new();
    server.put("/d/f", &noise(24, MIB));
    let (_tree, f) = file(&server, "f", config());
    server.take_seen();
    let (now, then) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:40 GMT");
    server.plan(move |_, number| {
        let headers = vec![("Date".to_owned(), now.to_owned()), ("Retry-After".to_owned(), then.to_owned())];
        (number == 0).then_some(Fault::Answer(429, headers))
    });
    let begun = Instant::now();
    read(&*f, 500_000, 1000).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(3));
}

#[test]
fn directories_without_end_come_to_an_end() {
    let (bench, server) = (Bench::new(), Server::new());
    server.plan(|_, _| Some(Fault::Page("<a href=\"x/\">x</a>".into())));
    let (tree, _) = RemoteTree::open(&server.url("/d/"), cached(&bench)).unwrap();
    tree.download(&mut |_, _| Ok(())).unwrap();
    assert!(server.take_seen().len() < 200);
}

#[test]
fn all_small_files_of_a_directory_are_kept_for_when_the_server_is_gone() {
    let (bench, server) = (Bench::new(), Server::new());
    let files: Vec<_> = (0..24).map(|n| (format!("f{n:02}"), noise(100 + n, 150_000))).collect();
    for (name, bytes) in &files {
        server.put(&format!("/d/{name}"), bytes);
    }
    // So slow that all would be under way at once.
    server.plan(|seen, _| {
        seen.range().is_some_and(|(first, _)| first > 0).then_some(Fault::Late(Duration::from_millis(300)))
    });
    let config = cached(&bench);
    let store = config.store.clone().unwrap();
    let (tree, _) = RemoteTree::open(&server.url("/d/"), config).unwrap();
    common::eventually("all has come", || tree.traffic().unwrap().bytes >= 24 * 150_000);
    assert!(store.flush(Duration::from_secs(20)));
    drop((tree, store));
    server.go();
    let (tree, root) = RemoteTree::open(&server.url("/d/"), cached(&bench)).unwrap();
    for (name, bytes) in &files {
        assert!(read_all(&*tree.open(&root.join(name)).unwrap(), 100_000).unwrap() == *bytes, "{name}");
    }
}

#[test]
fn what_a_query_chooses_is_not_taken_for_what_another_chose() {
    let (bench, server) = (Bench::new(), Server::new());
    let (one, two) = (noise(25, 200_000), noise(26, 200_000));
    server.put("/get/f?file=1", &one);
    server.put("/get/f?file=1&X-Amz-Signature=a", &one);
    server.put("/get/f?file=2", &two);
    server.plan(|_, _| Some(Fault::NoEtag));
    let look = |query: &str| {
        let config = cached(&bench);
        let store = config.store.clone().unwrap();
        let (tree, path) = RemoteTree::open(&server.url(&format!("/get/f?{query}")), config)?;
        let bytes = read_all(&*tree.open(&path).unwrap(), 100_000)?;
        assert!(store.flush(Duration::from_secs(20)));
        Ok::<_, Error>(bytes)
    };
    // A read does not wait for the cache, which leaves out what it has no time for; a later read brings that.
    for (query, bytes) in [("file=1", &one), ("file=2", &two)] {
        common::eventually("all of it is kept", || {
            server.take_seen();
            assert!(look(query).unwrap() == *bytes);
            // Its first bytes are asked for each time it is opened: that is how its version is learnt.
            server.take_seen().iter().map(|request| request.sent).sum::<usize>() <= 64 << 10
        });
    }
    server.go();
    assert!(look("file=1&X-Amz-Signature=a").unwrap() == one, "another signature is the same file");
    assert!(look("file=3").is_err());
}
