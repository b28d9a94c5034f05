//! A web server on this machine that serves ranges, and fails in the ways that servers do.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong with an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// It takes so long until it begins.
    Late(Duration),
    /// The connection ends after so many bytes of the body, as if reset.
    Cut(usize),
    /// The body stops after so many bytes, and the connection stays open.
    Stall(usize),
    /// After so many bytes of the body a byte comes now and then.
    Trickle(usize),
    /// This status, with a `Retry-After` of so many seconds.
    Status(u16, Option<u64>),
    /// Another ETag than before.
    Etag(String),
    /// A `Content-Range` that is so many bytes further than the body.
    Lie(u64),
    /// The body is so much shorter than it says, and ends there.
    Short(usize),
    /// Bytes are flipped on the way.
    Flip,
    /// The whole file, whatever was asked for.
    NoRanges,
    /// This status with these headers, and no body.
    Answer(u16, Vec<(String, String)>),
    /// A redirect to this URL.
    Redirect(String),
    /// This page in HTML.
    Page(String),
    /// The right answer with one more header.
    Header(String, String),
    /// Only the first so many bytes of what was asked for, of a file of this length, as a `Content-Range` has it.
    Part(u64, String),
    /// Neither ETag nor anything else that tells versions apart but a time.
    NoEtag,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Bytes of the body that were sent.
    pub sent: usize,
    id: u64,
}

impl Seen {
    pub fn range(&self) -> Option<(u64, u64)> {
        let (first, last) = self.headers.get("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

/// Says what goes wrong with a request; the number counts requests of this path from 0.
pub type Plan = Box<dyn Fn(&Seen, usize) -> Option<Fault> + Send>;

#[derive(Default)]
struct State {
    /// Contents and ETag.
    files: BTreeMap<String, (Arc<Vec<u8>>, String)>,
    seen: Vec<Seen>,
    ids: u64,
    plan: Option<Plan>,
}

pub struct Server {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    down: Arc<AtomicBool>,
}

impl Server {
    /// A server without files at a port of its own.
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (state, down): (Arc<Mutex<State>>, Arc<AtomicBool>) = Default::default();
        let (shared, is_down) = (state.clone(), down.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_down.load(Ordering::SeqCst) {
                    continue;
                }
                let (shared, is_down) = (shared.clone(), is_down.clone());
                std::thread::spawn(move || serve(stream, &shared, &is_down));
            }
        });
        Self { address, state, down }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Puts a file at a path that starts with a slash.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        let etag = format!("\"{}\"", &blake3_hex(bytes)[..16]);
        self.state.lock().unwrap().files.insert(path.to_owned(), (Arc::new(bytes.to_vec()), etag));
    }

    pub fn bytes(&self, path: &str) -> Option<Arc<Vec<u8>>> {
        Some(self.state.lock().unwrap().files.get(path)?.0.clone())
    }

    pub fn plan(&self, plan: impl Fn(&Seen, usize) -> Option<Fault> + Send + 'static) {
        self.state.lock().unwrap().plan = Some(Box::new(plan));
    }

    pub fn no_plan(&self) {
        self.state.lock().unwrap().plan = None;
    }

    /// Takes no more connections, and ends those that there are at their next request.
    pub fn go(&self) {
        self.down.store(true, Ordering::SeqCst);
    }

    pub fn come_back(&self) {
        self.down.store(false, Ordering::SeqCst);
    }

    /// All requests since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }
}

fn blake3_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn serve(stream: TcpStream, state: &Mutex<State>, down: &AtomicBool) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    while let Some(seen) = request(&mut reader) {
        if down.load(Ordering::SeqCst) || answer(&mut stream, seen, state).is_none() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn request(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Seen { method, path, headers, sent: 0, id: 0 })
}

/// `None` when the connection is to be ended.
fn answer(stream: &mut TcpStream, mut seen: Seen, state: &Mutex<State>) -> Option<()> {
    let (fault, file, index) = {
        let mut state = state.lock().unwrap();
        let before = state.seen.iter().filter(|s| s.path == seen.path).count();
        let fault = state.plan.as_ref().and_then(|plan| plan(&seen, before));
        let path = decoded(seen.path.split('?').next().unwrap());
        let index = path.ends_with('/').then(|| page(&state, &path)).flatten();
        state.ids += 1;
        seen.id = state.ids;
        state.seen.push(seen.clone());
        // A file may be one query's own.
        (fault, state.files.get(&seen.path).or_else(|| state.files.get(&path)).cloned(), index)
    };
    let mut status =
        |text: &str| stream.write_all(format!("HTTP/1.1 {text}\r\nContent-Length: 0\r\n\r\n").as_bytes()).ok();
    match &fault {
        Some(Fault::Late(time)) => std::thread::sleep(*time),
        Some(Fault::Status(code, after)) => {
            let after = after.map(|s| format!("\r\nRetry-After: {s}")).unwrap_or_default();
            return status(&format!("{code} Fault{after}"));
        }
        Some(Fault::Answer(code, headers)) => {
            let headers: String = headers.iter().map(|(name, value)| format!("\r\n{name}: {value}")).collect();
            return status(&format!("{code} Answer{headers}"));
        }
        Some(Fault::Redirect(to)) => return status(&format!("302 Found\r\nLocation: {to}")),
        _ => {}
    }
    if let Some(page) = if let Some(Fault::Page(page)) = &fault { Some(page.clone()) } else { index } {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n", page.len());
        return stream.write_all((head + &page).as_bytes()).ok();
    }
    let Some((bytes, mut etag)) = file else { return status("404 Not Found") };
    if let Some(Fault::Etag(other)) = &fault {
        etag.clone_from(other);
    }
    if seen.headers.get("if-match").is_some_and(|wanted| *wanted != etag) && !matches!(fault, Some(Fault::Etag(_))) {
        return status("412 Precondition Failed");
    }
    let len = bytes.len() as u64;
    let range = seen.range().filter(|_| fault != Some(Fault::NoRanges));
    if range.is_some_and(|(first, _)| first >= len) {
        return status("416 Range Not Satisfiable");
    }
    let (first, mut end) = range.map_or((0, len), |(first, last)| (first, len.min(last + 1)));
    let mut total = len.to_string();
    if let Some(Fault::Part(most, said)) = &fault {
        end = end.min(first + most);
        total.clone_from(said);
    }
    let mut body = bytes[first as usize..end as usize].to_vec();
    let lie = if let Some(Fault::Lie(by)) = fault { by } else { 0 };
    let mut head = match range {
        Some(_) => {
            format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {}-{}/{total}\r\n",
                first + lie,
                end - 1 + lie
            )
        }
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };
    if let Some(Fault::Header(name, value)) = &fault {
        head += &format!("{name}: {value}\r\n");
    }
    if fault != Some(Fault::NoEtag) {
        head += &format!("ETag: {etag}\r\n");
    }
    head += &format!("Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: {}\r\n\r\n", body.len());
    if fault == Some(Fault::Flip) {
        body.iter_mut().for_each(|byte| *byte ^= 0x55);
    }
    let most = match fault {
        Some(Fault::Cut(n) | Fault::Stall(n) | Fault::Trickle(n)) => n.min(body.len()),
        Some(Fault::Short(n)) => body.len() - n.min(body.len()),
        _ => body.len(),
    };
    if seen.method != "HEAD" {
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(&body[..most]).ok()?;
        state.lock().unwrap().seen.iter_mut().filter(|s| s.id == seen.id).for_each(|s| s.sent = most);
    } else {
        stream.write_all(head.as_bytes()).ok()?;
    }
    match fault {
        Some(Fault::Trickle(_)) => {
            for byte in body[most..].chunks(1).take(400) {
                std::thread::sleep(Duration::from_millis(50));
                stream.write_all(byte).ok()?;
            }
            None
        }
        Some(Fault::Stall(_)) => {
            std::thread::sleep(Duration::from_secs(20));
            None
        }
        Some(Fault::Cut(_) | Fault::Short(_)) => None,
        _ => Some(()),
    }
}

/// A path without percent-encoding.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits: String = [rest.next(), rest.next()].into_iter().flatten().map(char::from).collect();
            bytes.push(u8::from_str_radix(&digits, 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// An index of the files and directories right below a path.
fn page(state: &State, path: &str) -> Option<String> {
    let mut names: Vec<String> = Vec::new();
    for file in state.files.keys().filter_map(|file| file.strip_prefix(path)) {
        let name = file.split_inclusive('/').next().unwrap_or_default().to_owned();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let links = names.iter().map(|name| format!("<li><a href=\"{}\">{name}</a></li>\n", name.replace(' ', "%20")));
    (!names.is_empty()).then(|| format!("<html><a href=\"../\">..</a><ul>{}</ul></html>", links.collect::<String>()))
}
