//! A small Hub for tests: speaks the protocol that `huggingface_hub` and bsfs use, from memory or from a directory, and fails
//! on request.
//!
//! There are two servers: the hub itself on `127.0.0.1`, and a "CDN" on another port of `localhost`, to which files in LFS are
//! redirected with signed addresses that expire. Both keep a log of requests.
//!
//! As a process of its own, with every directory `DIR/ORG/NAME` a repository (its files at revision `main`):
//!
//! ```text
//! BSFS_HUB_DIR=DIR BSFS_HUB_PORT=8000 cargo test --test plain -- --ignored --exact hub_server::serve --nocapture
//! HF_ENDPOINT=http://127.0.0.1:8000 ...
//! ```
//!
//! The CDN is on the next port. `BSFS_HUB_DELAY=MS` delays every answer, `BSFS_HUB_EXPIRY=S` is how long signed addresses work,
//! `BSFS_HUB_TOKEN=TOKEN` is needed to write (and to read repositories that are made private), `BSFS_HUB_MULTIPART=BYTES` is the length
//! from which uploads come in parts of that length. What is pushed is kept in memory until the process ends. `GET /_requests` gives the log
//! of both servers, a line each, and empties it; `POST /_faults` with lines "SIDE METHOD PATH TIMES FAULT" (see [`Fault::parse`]) adds faults.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test program uses a part of it")]

mod answer;
mod content;
mod fault;
mod wire;
pub mod write;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

pub use content::{Content, git_oid};
pub use fault::{Fault, Rule, Side};
use wire::Request;

/// What one request was, for assertions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub side: Side,
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Value of `Authorization`.
    pub authorization: Option<String>,
    /// Value of `Range`.
    pub range: Option<String>,
    /// Value of `If-Range`.
    pub if_range: Option<String>,
    /// Length of the body.
    pub sent: u64,
    /// Status of the answer; 0 when the connection was cut before one.
    pub status: u16,
}

/// One file at a commit.
#[derive(Debug, Clone)]
pub struct File {
    pub content: Content,
    /// SHA-256, when the file is in LFS.
    pub sha256: Option<String>,
    /// Git's id of the blob, or of the pointer.
    pub oid: String,
}

#[derive(Debug, Clone, Default)]
pub struct Repo {
    pub private: bool,
    pub gated: bool,
    /// Branches and tags.
    pub refs: BTreeMap<String, String>,
    pub commits: BTreeMap<String, BTreeMap<String, File>>,
    pub messages: Vec<String>,
}

#[derive(Debug, Default)]
pub struct State {
    pub repos: BTreeMap<String, Repo>,
    /// Contents in LFS, by SHA-256.
    pub lfs: BTreeMap<String, Content>,
    /// Parts of uploads under way.
    pub parts: BTreeMap<(String, u64), Vec<u8>>,
    pub faults: Vec<Rule>,
    pub seen: Vec<Seen>,
    /// Part of every signature; another number makes all addresses given out so far invalid.
    pub generation: u64,
}

#[derive(Debug, Clone)]
pub struct Config {
    /// Needed to write, and to read private repositories.
    pub token: Option<String>,
    /// Added to every answer.
    pub delay: Duration,
    /// How long signed addresses work, seconds.
    pub expiry: u64,
    /// Uploads longer than this come in parts of this length, bytes.
    pub multipart: u64,
    /// Entries on a page of a listing.
    pub page: usize,
    /// Serves all files itself, with this before the entity tags of its own, and without the Hub's.
    pub mirror: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { token: None, delay: Duration::ZERO, expiry: 3600, multipart: 5 << 30, page: 1000, mirror: None }
    }
}

pub struct Shared {
    pub config: Config,
    state: Mutex<State>,
    hub: SocketAddr,
    cdn: SocketAddr,
    stopped: AtomicBool,
}

impl Shared {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.hub.port())
    }

    /// Another name than the endpoint's, as well as another port.
    pub fn cdn(&self) -> String {
        format!("http://localhost:{}", self.cdn.port())
    }
}

/// The servers; they end when this is dropped.
pub struct Hub {
    pub shared: Arc<Shared>,
}

impl Hub {
    pub fn new() -> Self {
        Self::with(Config::default())
    }

    pub fn with(config: Config) -> Self {
        Self::on(config, 0)
    }

    /// On this port, and the CDN on the next; 0 for any two.
    pub fn on(config: Config, port: u16) -> Self {
        let bind = |port| TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|e| panic!("port {port}: {e}"));
        let (hub, cdn) = (bind(port), bind(if port == 0 { 0 } else { port + 1 }));
        let shared = Arc::new(Shared {
            config,
            state: Mutex::default(),
            hub: hub.local_addr().unwrap(),
            cdn: cdn.local_addr().unwrap(),
            stopped: AtomicBool::new(false),
        });
        for (side, listener) in [(Side::Hub, hub), (Side::Cdn, cdn)] {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if shared.stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else { continue };
                    thread::spawn(move || connection(&shared, side, stream));
                }
            });
        }
        Self { shared }
    }

    pub fn endpoint(&self) -> String {
        self.shared.endpoint()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// Commits files to `main` of a repository that need not exist, beside those that are there; gives the commit.
    pub fn commit(&self, id: &str, files: &[(&str, &[u8])]) -> String {
        let files: Vec<_> = files.iter().map(|(path, bytes)| ((*path).to_owned(), Content::from(*bytes))).collect();
        self.state().commit(id, "main", files, &[], "files")
    }

    /// Every directory `dir/ORG/NAME` becomes a repository; files in LFS stay where they are.
    pub fn serve_directory(&self, dir: &Path) {
        let inside = |dir: &Path| {
            let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            names
        };
        for org in inside(dir).into_iter().filter(|path| path.is_dir()) {
            for repo in inside(&org).into_iter().filter(|path| path.is_dir()) {
                let mut files = Vec::new();
                content::collect(&repo, &repo, &mut files);
                let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
                let id = format!("{}/{}", name(&org), name(&repo));
                let commit = self.state().commit(&id, "main", files, &[], "files");
                eprintln!("hub: {id} at {commit}");
            }
        }
    }

    /// Adds a fault.
    pub fn fail(&self, side: Side, method: &str, path: &str, times: u32, fault: Fault) {
        let rule = Rule { side, method: method.to_owned(), path: path.to_owned(), times, fault };
        self.state().faults.push(rule);
    }

    /// All addresses that were given out so far cease to work.
    pub fn expire(&self) {
        self.state().generation += 1;
    }

    /// The log of requests, which begins anew.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for address in [self.shared.hub, self.shared.cdn] {
            let _ = TcpStream::connect(address);
        }
    }
}

/// Answers the requests of one connection.
fn connection(shared: &Shared, side: Side, stream: TcpStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let _ = stream.set_nodelay(true);
    let mut reader = std::io::BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader) {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let mut seen = Seen {
            side,
            method: request.method.clone(),
            path: request.path.clone(),
            authorization: request.header("authorization").map(str::to_owned),
            range: request.header("range").map(str::to_owned),
            if_range: request.header("if-range").map(str::to_owned),
            sent: request.body.len() as u64,
            status: 0,
        };
        thread::sleep(shared.config.delay);
        let fault = shared.state().fault(side, &request);
        let reply =
            fault::before(fault.as_ref()).or_else(|| Some(answer::answer(shared, side, &request, fault.as_ref())));
        let Some(mut reply) = reply.filter(|_| fault != Some(Fault::Drop)) else { return };
        seen.status = reply.status;
        if !request.path.starts_with("/_") {
            shared.state().seen.push(seen);
        }
        fault::distort(fault.as_ref(), &mut reply);
        let head = request.method == "HEAD";
        if !reply.send(reader.get_mut(), head, fault.as_ref()) {
            return;
        }
    }
}
