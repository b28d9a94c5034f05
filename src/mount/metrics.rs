//! The figures of a mount for Prometheus, in a file.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use log::warn;

use super::exposition::metrics;
use super::guard::Guard;
use super::status::Status;
use crate::error::{Error, Result};
use crate::sink::AtomicFile;

/// How often the file is written.
const EVERY: Duration = Duration::from_secs(15);

/// Makes a status.
pub(super) type Ask = Arc<dyn Fn() -> Status + Send + Sync>;

/// Writes the figures to `path` now and every 15 seconds, each time a whole file, as long as `ask` lives elsewhere.
///
/// # Errors
/// Those of [`AtomicFile`] when the first one cannot be written; it replaces regular files only.
pub(super) fn to_file(path: &Path, ask: &Ask, guard: Arc<Guard>) -> Result<()> {
    let path = std::path::absolute(path).map_err(Error::io("resolve", path))?;
    write(&path, ask)?;
    let ask = Arc::downgrade(ask);
    let loop_ = move || {
        let mut failed = false;
        loop {
            thread::sleep(EVERY);
            let Some(ask) = ask.upgrade() else { return };
            let Some(result) = guard.own("metrics", || write(&path, &ask)) else { continue };
            if let (Err(error), false) = (&result, failed) {
                warn!("{error}; trying again");
            }
            failed = result.is_err();
        }
    };
    thread::Builder::new().name("metrics".into()).spawn(loop_).map(drop).map_err(Error::io("start a thread", ""))
}

fn write(path: &Path, ask: &Ask) -> Result<()> {
    let mut file = AtomicFile::create(path, true)?;
    file.write_all(metrics(&ask()).as_bytes()).map_err(Error::io("write", path))?;
    file.publish().map(drop)
}
