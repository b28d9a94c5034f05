//! The figures of a mount for Prometheus: a file of them, and an address that answers with them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use log::{info, warn};

use super::exposition::metrics;
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
