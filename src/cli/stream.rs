//! Output to where bytes go one after the other: standard output, pipes, character devices.

use std::fs::{self, File, Metadata};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
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
/// Most links that are followed, as by the system.
const MOST_LINKS: usize = 40;

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
        let to = match descriptor(path) {
            _ if path == Path::new("-") => stdout()?,
            Some(descriptor) => duplicate(path, descriptor)?,
            None => device(path, stopped)?,
        };
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

fn stdout() -> Result<File> {
    if io::stdout().is_terminal() {
        return Err(Error::invalid("standard output is a terminal; send it to a file or another program"));
    }
    io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(Error::io("open", "standard output"))
}

/// The descriptor of this process that a path stands for, such as `/dev/stderr` and `/proc/self/fd/3`, if for one.
fn descriptor(path: &Path) -> Option<RawFd> {
    let id = |meta: &Metadata| (meta.dev(), meta.ino());
    let mut path = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        let directory = longpath::open(longpath::directory(&path), OFlags::PATH, Mode::empty()).ok()?;
        let here = directory.metadata().ok()?;
        // Held open, a directory of /proc keeps its inode number.
        let own = ["/proc/self/fd", "/proc/thread-self/fd"].iter().filter_map(|own| fs::metadata(own).ok());
        if own.into_iter().any(|own| id(&own) == id(&here)) {
            return path.file_name()?.to_str()?.parse().ok();
        }
        path = longpath::directory(&path).join(longpath::read_link(&path).ok()?);
    }
    None
}

/// Another descriptor of the same open file: opened again by its name, a regular file would be written from its beginning.
fn duplicate(path: &Path, descriptor: RawFd) -> Result<File> {
    // SAFETY: plain numbers; a number that is no open file is an error.
    let copy = unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(Error::io("open", path)(io::Error::last_os_error()));
    }
    // SAFETY: just made, and held by nothing else.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(copy) });
    if rustix::fs::fcntl_getfl(&file).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDONLY) {
        return Err(Error::invalid(format!("{}: not open for writing", path.display())));
    }
    Ok(file)
}

fn device(path: &Path, stopped: impl Fn() -> bool) -> Result<File> {
    let failed = |e: io::Error| Error::io("open", path)(e);
    loop {
        // A FIFO without a reader would block an ordinary open for ever.
        match longpath::open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()) {
            Ok(file) => {
                let kind = file.metadata().map_err(failed)?.file_type();
                if !kind.is_fifo() && !kind.is_char_device() {
                    let text = "neither a pipe nor a character device, and would be overwritten from its beginning";
                    return Err(Error::invalid(format!("{}: {text}", path.display())));
                }
                let flags = rustix::fs::fcntl_getfl(&file).map_err(|e| failed(e.into()))?;
                rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(|e| failed(e.into()))?;
                return Ok(file);
            }
            Err(e) if e.raw_os_error() == Some(Errno::NXIO.raw_os_error()) && is_fifo(path) => {
                if stopped() {
                    return Err(Error::Interrupted);
                }
                std::thread::sleep(LOOK);
            }
            Err(e) => return Err(failed(e)),
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
