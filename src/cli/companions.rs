//! What a mirror holds beside containers: files that are copied, links, and directories.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bsfs::access::Attributes;
use bsfs::longpath;
use bsfs::sink::{self, AtomicFile};
use bsfs::source::Identity;
use bsfs::{Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use super::out::say;
use super::progress::Bar;

/// Bytes that are copied before the signals are looked at.
const STEP: u64 = 16 << 20;

/// Copies a file with its permissions and its time; gives how many bytes it had.
pub fn copy(input: &Path, output: &Path, force: bool, stop: &AtomicBool, bar: &Bar) -> Result<u64> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let from = longpath::open(input, flags, Mode::empty()).map_err(Error::io("open", input))?;
    let meta = from.metadata().map_err(Error::io("stat", input))?;
    if !meta.is_file() {
        return Err(Error::invalid(format!("{}: not a regular file any more", input.display())));
    }
    let mut to = AtomicFile::create(output, force)?;
    let attributes = Attributes::of(&from).map_err(Error::io("look at the permissions of", input))?;
    to.mirror(&attributes)?.iter().for_each(|note| bar.say(note));
    let mut copied = 0;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let step = io::copy(&mut (&from).take(STEP), to.file()).map_err(Error::io("write", output))?;
        copied += step;
        // The file may have more bytes than the system says: documents that are made as they are read.
        if step == 0 {
            break;
        }
    }
    let now = from.metadata().map_err(Error::io("stat", input))?;
    if Identity::of(&now) != Identity::of(&meta) {
        return Err(Error::Changed { path: input.into() });
    }
    if copied < meta.len() {
        return Err(Error::Truncated { path: input.into(), expected: meta.len(), got: copied });
    }
    to.set_modified(meta.modified().map_err(Error::io("stat", input))?)?;
    to.publish()?;
    Ok(copied)
}

/// Makes a link that says `text`, with the time of the link `input`.
pub fn link(input: &Path, output: &Path, text: &Path, force: bool) -> Result<()> {
    sink::symlink(text, output, force)?;
    let timed = || {
        let meta = longpath::symlink_metadata(input)?;
        let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let last_modification = Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() };
        let (directory, name) = longpath::parent(output)?;
        let times = Timestamps { last_access, last_modification };
        Ok::<_, io::Error>(rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    };
    // Not every file system keeps times of links.
    let _ = timed();
    Ok(())
}

/// Directories that a run made, and those that they are the mirror of.
#[derive(Default)]
pub struct Directories(Vec<(PathBuf, PathBuf)>);

impl Directories {
    /// Makes `output`, the mirror of `input`, unless it is there. Other users can do no more with it than with `input`.
    pub fn make(&mut self, input: &Path, output: &Path) -> Result<()> {
        if !longpath::create_dir_all(output).map_err(Error::io("create directory", output))? {
            return Ok(());
        }
        let failed = || Error::io("set the permissions of", output);
        let (dir, meta) = (open(output)?, longpath::metadata(input).map_err(Error::io("stat", input))?);
        let own = dir.metadata().map_err(failed())?.mode();
        rustix::fs::fchmod(&dir, Mode::from_raw_mode((own & meta.mode() & 0o777) | 0o700))
            .map_err(|e| failed()(e.into()))?;
        self.0.push((input.into(), output.into()));
        Ok(())
    }

    /// Gives the directories the permissions and times of those that they mirror, once all is in them.
    pub fn finish(self) -> Result<()> {
        for (input, output) in self.0.into_iter().rev() {
            let failed = || Error::io("set the permissions of", &output);
            let (dir, from) = (open(&output)?, open(&input)?);
            let attributes = Attributes::of(&from).map_err(Error::io("look at the permissions of", &input))?;
            if let Some(lost) = attributes.give_kept(&dir).map_err(failed())? {
                say(&format!("{}: the file system does not keep the input's {lost}", output.display()));
            }
            let time = from.metadata().and_then(|meta| meta.modified()).map_err(Error::io("stat", &input))?;
            dir.set_modified(time).map_err(Error::io("set the time of", &output))?;
        }
        Ok(())
    }
}

fn open(directory: &Path) -> Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    longpath::open(directory, flags, Mode::empty()).map_err(Error::io("open", directory))
}
