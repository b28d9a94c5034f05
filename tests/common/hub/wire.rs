//! HTTP/1.1, as much as the clients use.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::content::Content;
use super::fault::Fault;

pub struct Request {
    pub method: String,
    /// Decoded.
    pub path: String,
    /// The same in parts, each decoded: a part may hold a slash.
    pub segments: Vec<String>,
    pub query: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn query(&self, name: &str) -> Option<String> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, v)| v.to_owned())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The next request of a connection; `None` at its end.
    pub fn read(reader: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let mut words = line.split_whitespace();
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
            let Some((key, value)) = line.trim_end().split_once(':') else { break };
            headers.push((key.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let segments = path.trim_matches('/').split('/').map(decode).collect();
        let mut request =
            Self { method, path: decode(path), segments, query: query.to_owned(), headers, body: Vec::new() };
        if request.header("expect").is_some() {
            reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
        if request.header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
                let len = usize::from_str_radix(line.trim().split(';').next()?, 16).ok()?;
                let mut chunk = vec![0; len + 2];
                reader.read_exact(&mut chunk).ok()?;
                request.body.extend(chunk.get(..len)?);
                if len == 0 {
                    break;
                }
            }
        } else if let Some(len) = request.header("content-length").and_then(|len| len.parse::<usize>().ok()) {
            request.body = vec![0; len];
            reader.read_exact(&mut request.body).ok()?;
        }
        Some(request)
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let two = behind.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match two.filter(|_| *first == b'%').and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Content,
    /// What of the body is sent, and what is announced as its length.
    pub start: u64,
    pub len: u64,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Content>) -> Self {
        let body = body.into();
        let len = body.len();
        Self { status, headers: Vec::new(), body, start: 0, len }
    }

    pub fn json(status: u16, value: &serde_json::Value) -> Self {
        Self::new(status, value.to_string().into_bytes()).with("Content-Type", "application/json")
    }

    /// A refusal as the Hub gives it.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::json(status, &serde_json::json!({ "error": message }))
            .with("X-Error-Code", code)
            .with("X-Error-Message", message)
    }

    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.set(key, value);
        self
    }

    pub fn set(&mut self, key: &str, value: &str) {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(key));
        self.headers.push((key.to_owned(), value.to_owned()));
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(key)).map(|(_, value)| value.as_str())
    }

    /// Sends it; `false` when the connection is not to be used any more.
    pub fn send(&self, stream: &mut TcpStream, head_only: bool, fault: Option<&Fault>) -> bool {
        let mut head = format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\n", self.status, self.len);
        for (key, value) in &self.headers {
            head += &format!("{key}: {value}\r\n");
        }
        if stream.write_all((head + "\r\n").as_bytes()).is_err() {
            return false;
        }
        if head_only {
            return true;
        }
        let (mut at, end) = (self.start, self.start + self.len);
        let mut buffer = vec![0; 256 << 10];
        while at < end {
            let mut len = (end - at).min(buffer.len() as u64);
            match fault {
                Some(Fault::Cut(after)) => {
                    let left = (self.start + after).saturating_sub(at);
                    if left == 0 {
                        // The client must have read what was sent before: a reset discards what is under way.
                        std::thread::sleep(Duration::from_millis(30));
                        let _ = rustix::net::sockopt::set_socket_linger(&*stream, Some(Duration::ZERO));
                        return false;
                    }
                    len = len.min(left);
                }
                Some(Fault::Close(after)) => {
                    let left = (self.start + after).saturating_sub(at);
                    if left == 0 {
                        return false;
                    }
                    len = len.min(left);
                }
                Some(Fault::Rate(rate)) => std::thread::sleep(Duration::from_secs_f64(len as f64 / *rate as f64)),
                Some(Fault::Trickle(after, millis)) => {
                    let left = (self.start + after).saturating_sub(at);
                    if left == 0 {
                        std::thread::sleep(Duration::from_millis(*millis));
                    }
                    len = len.min(left.max(1));
                }
                Some(Fault::Stall(after, millis)) => {
                    let left = (self.start + after).saturating_sub(at);
                    if left == 0 {
                        std::thread::sleep(Duration::from_millis(*millis));
                        return false;
                    }
                    len = len.min(left);
                }
                _ => {}
            }
            let part = &mut buffer[..len as usize];
            self.body.read_at(at, part);
            if matches!(fault, Some(Fault::Flip)) && at == self.start {
                part[0] ^= 1;
            }
            if stream.write_all(part).is_err() {
                return false;
            }
            at += len;
        }
        stream.flush().is_ok()
    }
}
