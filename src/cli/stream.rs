//! Output to where bytes go one after the other: standard output, pipes, character devices.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bsfs::longpath;
use bsfs::sink::Place;
use bsfs::{Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// How often is looked whether a FIFO has a reader.
const LOOK: Duration = Duration::from_millis(20);

/// Where bytes go one after the other.
pub struct Stream {
    to: File,
    path: PathBuf,
}

impl Stream {
    /// Opens what `path` names, if that is a stream: "-" is standard output. `stopped` ends the wait for the reader of a FIFO.
    pub fn open(path: &Path, stopped: impl Fn() -> bool) -> Result<Option<Self>> {
        if path != Path::new("-") && Place::of(path)? != Place::Stream {
            return Ok(None);
        }
        let to = if is_stdout(path) { stdout()? } else { device(path, stopped).map_err(Error::io("open", path))? };
        Ok(Some(Self { to, path: path.into() }))
    }

    /// Writes all of `bytes`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).map_err(Error::io("write", &self.path))
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a path is standard output: opened again by its name, a file would be written from its beginning.
fn is_stdout(path: &Path) -> bool {
    let id = |meta: &std::fs::Metadata| (meta.dev(), meta.ino());
    let own = io::stdout().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    path == Path::new("-")
        || matches!((longpath::metadata(path), own), (Ok(there), Ok(own)) if id(&there) == id(&own) && !own.file_type().is_char_device())
}

fn stdout() -> Result<File> {
    if io::stdout().is_terminal() {
        return Err(Error::invalid("standard output is a terminal; send it to a file or another program"));
    }
    io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(Error::io("open", "standard output"))
}

fn device(path: &Path, stopped: impl Fn() -> bool) -> io::Result<File> {
    loop {
        // A FIFO without a reader would block an ordinary open for ever.
        match longpath::open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()) {
            Ok(file) => {
                let flags = rustix::fs::fcntl_getfl(&file)?;
                rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
                return Ok(file);
            }
            Err(e) if e.raw_os_error() == Some(Errno::NXIO.raw_os_error()) && is_fifo(path) && !stopped() => {
                std::thread::sleep(LOOK);
            }
            Err(e) => return Err(e),
        }
    }
}

fn is_fifo(path: &Path) -> bool {
    longpath::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo())
}

/// Refuses a stream as the place for a container.
pub fn refuse(output: &Path) -> Result<()> {
    if output != Path::new("-") && Place::of(output)? != Place::Stream {
        return Ok(());
    }
    let text =
        "a container cannot be written to a stream, as its beginning is written last; name a file, and copy that";
    Err(Error::invalid(format!("{}: {text}", output.display())))
}
