//! What a mirror holds beside containers: files that are copied, links, and directories.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bsfs::access::Attributes;
use bsfs::longpath;
use bsfs::sink::{self, AtomicFile};
use bsfs::source::Identity;
use bsfs::{Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use super::exit::Exit;
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
    to.mirror(&attributes(&from, input)?)?.iter().for_each(|note| bar.say(note));
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
pub struct Directories {
    /// What the user named, which may be a link. None below it is followed: it could lead to files of others.
    out: PathBuf,
    made: Vec<(PathBuf, PathBuf)>,
    /// Those that could not be made.
    failed: Vec<PathBuf>,
}

impl Directories {
    /// Those of a run that writes to `out`.
    pub fn below(out: Option<&Path>) -> Self {
        Self { out: out.unwrap_or(Path::new("")).into(), ..Self::default() }
    }

    /// Makes these, parents first. What cannot be made is said, and all below it is left out.
    ///
    /// # Errors
    /// Those of the output itself, and a full disk.
    pub fn make_all<P: AsRef<Path>>(&mut self, directories: &[(P, P)]) -> Result<Exit> {
        let mut exit = Exit::Done;
        for (input, output) in directories {
            let (input, output) = (input.as_ref(), output.as_ref());
            if self.is_left_out(output) {
                continue;
            }
            if let Err(error) = self.make(input, output) {
                if *output == self.out || error.is_storage_full() {
                    return Err(error);
                }
                say(&format!("{error}; left out"));
                exit = exit.and(Exit::of(&error));
                self.failed.push(output.into());
            }
        }
        Ok(exit)
    }

    /// Whether `output` lies below a directory that could not be made.
    pub fn is_left_out(&self, output: &Path) -> bool {
        self.failed.iter().any(|failed| output.starts_with(failed))
    }

    /// Makes `output`, the mirror of `input`, unless it is there. Other users can do no more with it than with `input`.
    fn make(&mut self, input: &Path, output: &Path) -> Result<()> {
        let above = longpath::directory(output);
        longpath::create_dir_all(above).map_err(Error::io("create directory", above))?;
        let made = match longpath::create_dir(output, Mode::RWXU) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
            made => made.map(|()| true).map_err(Error::io("create directory", output))?,
        };
        let is_link = !made && longpath::symlink_metadata(output).is_ok_and(|meta| meta.is_symlink());
        if is_link && *output != self.out {
            let text = "a link where a directory is to be written; links below the output are not followed";
            return Err(Error::invalid(format!("{}: {text}", output.display())));
        }
        let dir = self.open(output, if made { OFlags::RDONLY } else { OFlags::PATH })?;
        if made {
            let failed = Error::io("set the permissions of", output);
            attributes(&open(input)?, input)?.open_directory(&dir).map_err(failed)?;
            self.made.push((input.into(), output.into()));
        }
        Ok(())
    }

    /// Gives the directories the permissions and times of those that they mirror, once all is in them. What fails is said. Those
    /// that other machines write to as well (`shared`) are not closed to their owner, and keep their times.
    pub fn finish(self, shared: bool) -> Exit {
        let failed = |error: Error| {
            say(&error.to_string());
            Exit::of(&error)
        };
        let finished = self.made.iter().rev().map(|(input, output)| self.finish_one(input, output, shared));
        finished.filter_map(|done| done.err().map(failed)).fold(Exit::Done, Exit::and)
    }

    fn finish_one(&self, input: &Path, output: &Path, shared: bool) -> Result<()> {
        let (dir, from) = (self.open(output, OFlags::RDONLY)?, open(input)?);
        let wanted = attributes(&from, input)?;
        let wanted = if shared { wanted.open_to_owner() } else { wanted };
        let lost = wanted.give_kept(&dir).map_err(Error::io("set the permissions of", output))?;
        if let Some(lost) = lost {
            say(&format!("{}: the file system does not keep the input's {lost}", output.display()));
        }
        if shared {
            return Ok(());
        }
        let time = from.metadata().and_then(|meta| meta.modified()).map_err(Error::io("stat", input))?;
        dir.set_modified(time).map_err(Error::io("set the time of", output))
    }

    /// Opens a directory of the output.
    fn open(&self, output: &Path, flags: OFlags) -> Result<File> {
        let link = if *output == self.out { OFlags::empty() } else { OFlags::NOFOLLOW };
        longpath::open(output, flags | OFlags::DIRECTORY | link, Mode::empty())
            .map_err(Error::io("create directory", output))
    }
}

fn attributes(file: &File, path: &Path) -> Result<Attributes> {
    Attributes::of(file).map_err(Error::io("look at the permissions of", path))
}

fn open(directory: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    longpath::open(directory, flags, Mode::empty()).map_err(Error::io("open", directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_directory_that_cannot_be_finished_does_not_keep_others_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut made = Directories::below(Some(&at("out")));
        for name in ["", "a", "b", "c"] {
            let (input, output) = (at("in").join(name), at("out").join(name));
            fs::create_dir(&input).unwrap();
            made.make(&input, &output).unwrap();
            File::open(&input).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        fs::remove_dir(at("in/b")).unwrap();
        assert_eq!(made.finish(false), Exit::Failed);
        for (name, is) in [("out/a", true), ("out/b", false), ("out/c", true)] {
            assert_eq!(fs::metadata(at(name)).unwrap().modified().unwrap() == std::time::UNIX_EPOCH, is, "{name}");
        }
    }
}
