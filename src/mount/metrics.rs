//! The figures of a mount for Prometheus: its text format, a file of it, and an address that answers with it.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use log::{info, warn};

use super::meter::BOUNDS;
use super::status::Status;
use crate::error::{Error, Result};

/// How often the file is written.
const EVERY: Duration = Duration::from_secs(15);
/// The longest request that is read.
const MAX_REQUEST: usize = 8192;
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes a status.
pub(super) type Ask = Arc<dyn Fn() -> Status + Send + Sync>;

/// The figures of mounts in the text format of Prometheus, version 0.0.4. Each has its mount point as a label.
#[must_use]
pub fn metrics(mounts: &[Status]) -> String {
    let mut page = Page { text: String::new(), mounts };
    let disk = |s: &Status, of: fn(&crate::cache::Counters) -> u64| s.disk.as_ref().map_or(0, of);
    page.family("build_info", "gauge", "The release.", |s| vec![(format!("version=\"{}\"", label(&s.version)), 1.0)]);
    page.one("start_time_seconds", "gauge", "When the daemon started, since 1970.", |s| s.started as f64);
    page.family("fuse_requests_total", "counter", "Requests of the kernel.", |s| {
        s.requests.count.iter().map(|(op, n)| (format!("op=\"{}\"", label(op)), *n as f64)).collect()
    });
    page.family("fuse_errors_total", "counter", "Requests answered with an error.", |s| {
        let labels = |key: &str| {
            let (op, errno) = key.split_once(' ').unwrap_or((key, "0"));
            format!("op=\"{}\",errno=\"{}\"", label(op), label(errno))
        };
        s.requests.errors.iter().map(|(key, n)| (labels(key), *n as f64)).collect()
    });
    page.histogram();
    page.one("read_bytes_total", "counter", "Bytes in answers to reads.", |s| s.read_bytes as f64);
    page.one("open_files", "gauge", "Files and directories open.", |s| s.open_files as f64);
    page.one(
        "integrity_failures_total",
        "counter",
        "Reads of the engine that failed: damage, and failing sources.",
        |s| s.engine.errors as f64,
    );
    page.one("panics_total", "counter", "Requests that ended in a panic.", |s| s.panics as f64);
    page.one("decode_seconds_total", "counter", "Time of decoding, summed over threads.", |s| s.engine.decode_seconds);
    page.one("decoded_bytes_total", "counter", "Bytes decoded.", |s| s.engine.decoded_bytes as f64);
    page.one("source_bytes_total", "counter", "Packed bytes read.", |s| s.engine.packed_bytes_read as f64);
    page.one("source_seconds_total", "counter", "Time of reading them, summed over threads.", |s| {
        s.engine.source_seconds
    });
    page.one("wait_seconds_total", "counter", "Time of readers that waited for another.", |s| s.engine.wait_seconds);
    page.one("cache_bytes", "gauge", "Bytes of the memory cache.", |s| s.engine.memory_bytes as f64);
    page.one("buffer_bytes", "gauge", "Bytes of all buffers, the memory cache included.", |s| {
        s.engine.buffer_bytes as f64
    });
    page.one("buffer_limit_bytes", "gauge", "Their bound.", |s| s.engine.memory_limit as f64);
    let tiers =
        |memory: f64, disk: f64| vec![("tier=\"memory\"".to_owned(), memory), ("tier=\"disk\"".to_owned(), disk)];
    page.family("cache_hits_total", "counter", "Chunks found.", |s| {
        tiers(s.engine.hits as f64, disk(s, |d| d.hits) as f64)
    });
    page.family("cache_misses_total", "counter", "Chunks not found.", |s| {
        tiers(s.engine.misses as f64, disk(s, |d| d.misses) as f64)
    });
    page.family("cache_evictions_total", "counter", "Chunks of memory, and files of the disk, that made room.", |s| {
        tiers(s.engine.evicted_chunks as f64, disk(s, |d| d.evicted_entries) as f64)
    });
    page.family("prefetch_chunks_total", "counter", "Chunks decoded ahead, read since or dropped unread.", |s| {
        vec![
            ("result=\"used\"".into(), s.engine.ahead_used as f64),
            ("result=\"wasted\"".into(), s.engine.ahead_wasted as f64),
        ]
    });
    page.text
}

struct Page<'a> {
    text: String,
    mounts: &'a [Status],
}

impl Page<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP bsfs_{name} {help}\n# TYPE bsfs_{name} {kind}");
    }

    fn family(&mut self, name: &str, kind: &str, help: &str, of: impl Fn(&Status) -> Vec<(String, f64)>) {
        self.head(name, kind, help);
        for status in self.mounts {
            let mount = label(&status.mount_point);
            for (labels, value) in of(status) {
                let comma = if labels.is_empty() { "" } else { "," };
                let _ = writeln!(self.text, "bsfs_{name}{{mount=\"{mount}\"{comma}{labels}}} {value}");
            }
        }
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, of: impl Fn(&Status) -> f64) {
        self.family(name, kind, help, |status| vec![(String::new(), of(status))]);
    }

    fn histogram(&mut self) {
        self.head("fuse_request_seconds", "histogram", "Time from a read to its answer.");
        for status in self.mounts {
            let mount = label(&status.mount_point);
            let mut sum = 0;
            for (at, count) in status.requests.read_times.iter().enumerate() {
                sum += count;
                let bound = BOUNDS.get(at).map_or("+Inf".to_owned(), |micros| (*micros as f64 / 1e6).to_string());
                let labels = format!("mount=\"{mount}\",op=\"read\",le=\"{bound}\"");
                let _ = writeln!(self.text, "bsfs_fuse_request_seconds_bucket{{{labels}}} {sum}");
            }
            let labels = format!("mount=\"{mount}\",op=\"read\"");
            let seconds = status.requests.read_seconds;
            let _ = writeln!(self.text, "bsfs_fuse_request_seconds_sum{{{labels}}} {seconds}");
            let _ = writeln!(self.text, "bsfs_fuse_request_seconds_count{{{labels}}} {sum}");
        }
    }
}

/// Text inside the quotes of a label.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Writes the figures to `path` now and every 15 seconds, each time a whole file, as long as the process lives.
///
/// # Errors
/// [`Error::Io`] when the first one cannot be written.
pub(super) fn to_file(path: &Path, ask: Ask) -> Result<()> {
    let path = std::path::absolute(path).map_err(Error::io("resolve", path))?;
    write(&path, &ask)?;
    let loop_ = move || {
        let mut failed = false;
        loop {
            thread::sleep(EVERY);
            let result = write(&path, &ask);
            if let (Err(error), false) = (&result, failed) {
                warn!("{error}; trying again");
            }
            failed = result.is_err();
        }
    };
    thread::Builder::new().name("metrics".into()).spawn(loop_).map(drop).map_err(Error::io("start a thread", "bsfs"))
}

fn write(path: &Path, ask: &Ask) -> Result<()> {
    // What reads such directories takes names that end in .prom.
    let mut temporary = path.to_path_buf().into_os_string();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    fs::write(&temporary, metrics(&[ask()])).map_err(Error::io("write", &temporary))?;
    fs::rename(&temporary, path).map_err(Error::io("write", path))
}

/// Answers requests at `address`, which must be one of this machine only, as long as the process lives.
///
/// # Errors
/// [`Error::Invalid`] for another address, [`Error::Io`] when it cannot be had.
pub(super) fn listen(address: SocketAddr, ask: Ask) -> Result<()> {
    if !address.ip().is_loopback() {
        let text = "expected an address of this machine only, such as 127.0.0.1:9400: there is no access control";
        return Err(Error::invalid(format!("--metrics-listen {address}: {text}")));
    }
    let failed = || Error::io("listen", address.to_string());
    let listener = TcpListener::bind(address).map_err(failed())?;
    info!("metrics at http://{}/metrics", listener.local_addr().map_err(failed())?);
    let loop_ = move || {
        for client in listener.incoming().flatten() {
            // One after the other: a scrape is short, and who is slow is cut off.
            let _ = answer(client, &ask);
        }
    };
    thread::Builder::new().name("metrics".into()).spawn(loop_).map(drop).map_err(Error::io("start a thread", "bsfs"))
}

fn answer(mut client: TcpStream, ask: &Ask) -> std::io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut request = vec![0; MAX_REQUEST];
    let mut len = 0;
    while let Some(rest) = request.get_mut(len..).filter(|rest| !rest.is_empty()) {
        let got = client.read(rest)?;
        len += got;
        let so_far = request.get(..len).unwrap_or_default();
        if got == 0 || so_far.windows(4).any(|end| end == b"\r\n\r\n") {
            break;
        }
    }
    let line = request.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let (status, body) = match line.split(|&byte| byte == b' ').nth(1) {
        Some(b"/metrics" | b"/") if line.starts_with(b"GET ") => ("200 OK", metrics(&[ask()])),
        _ => ("404 Not Found", "only GET /metrics\n".to_owned()),
    };
    let head = "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\nConnection: close";
    write!(client, "HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(label("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
