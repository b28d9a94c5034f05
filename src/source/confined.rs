//! Paths whose links lead only into places that are allowed.
//!
//! For a mount that other users read. The process may follow every link, they may not: a link to a file in a directory that they
//! cannot search would open that file to them. So a path is walked one name at a time, each from the open directory before
//! it, so that no link can be put in between; a link that leads out of all places is not followed; and of the directories
//! that links lead through, which the kernel does not see when it compares a reader with what is shown, the permissions are
//! kept, to be taken from what is shown.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::stat::Stat;
use crate::access::{Access, Acl};

/// Links that one path may lead through; the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Places that links may lead into.
#[derive(Debug)]
pub(super) struct Confined {
    /// Paths without links.
    places: Vec<PathBuf>,
    /// A mount point of this process, at which it never looks.
    exclude: Option<PathBuf>,
}

/// What a path leads to.
struct Reached {
    file: File,
    /// The directories that links led through.
    directories: Vec<Access>,
}

/// A link leads out of all places.
#[derive(Debug)]
struct Outside;

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a link leads out of the source, and other users read the mount; --follow DIR allows links into DIR",
        )
    }
}

impl std::error::Error for Outside {}

fn is_outside(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Outside>())
}

/// A walk along a path.
struct Walk<'a> {
    confined: &'a Confined,
    /// The directory, and its path, which has no links.
    dir: File,
    at: PathBuf,
    /// Names that are left, the next one last: those of links above those of the path itself.
    left: Vec<OsString>,
    /// How many of them are the path's own.
    own: usize,
    links: usize,
    /// Directories in which a name of a link was looked up.
    searched: Vec<(PathBuf, Access)>,
}

impl Confined {
    pub(super) fn new(places: Vec<PathBuf>, exclude: Option<PathBuf>) -> Self {
        Self { places, exclude }
    }

    /// What a path leads to; a link itself when it leads out of all places.
    pub(super) fn stat(&self, path: &Path) -> io::Result<Stat> {
        match self.reach(path, OFlags::PATH, true) {
            Ok(reached) => reached.stat(),
            Err(error) if is_outside(&error) => match self.stat_link(path) {
                // The path itself is no link: a directory on the way to it has become one.
                Ok(Stat::Link(identity)) => Ok(Stat::Link(identity)),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// What `stat` says of what a path leads to; an error when that is out of all places.
    pub(super) fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.reach(path, OFlags::PATH, true)?.file.metadata()
    }

    /// What a link itself is, wherever it leads.
    pub(super) fn stat_link(&self, path: &Path) -> io::Result<Stat> {
        self.reach(path, OFlags::PATH, false)?.stat()
    }

    /// The text of a link.
    pub(super) fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        text(&self.reach(path, OFlags::PATH, false)?.file)
    }

    /// The names in a directory, `.` and `..` apart, each with whether it is a directory by its own entry.
    pub(super) fn entries(&self, path: &Path) -> io::Result<Vec<(OsString, bool)>> {
        let directory = self.reach(path, OFlags::RDONLY | OFlags::DIRECTORY, true)?.file;
        let mut names = Vec::new();
        for entry in Dir::new(directory)? {
            let entry = entry?;
            let name = CString::from(entry.file_name()).into_bytes();
            if !matches!(&*name, b"." | b"..") {
                names.push((OsString::from_vec(name), entry.file_type() == FileType::Directory));
            }
        }
        Ok(names)
    }

    /// Opens a file for reading.
    pub(super) fn open(&self, path: &Path) -> io::Result<File> {
        // A FIFO without a writer would block an ordinary open for ever.
        self.reach(path, OFlags::RDONLY | OFlags::NONBLOCK, true).map(|reached| reached.file)
    }

    fn place_of(&self, path: &Path) -> Option<&PathBuf> {
        self.places.iter().filter(|place| path.starts_with(place)).max_by_key(|place| place.as_os_str().len())
    }

    /// Opens what `path` leads to; the link itself without `follow`, for which `flags` must be `PATH`.
    fn reach(&self, path: &Path, flags: OFlags, follow: bool) -> io::Result<Reached> {
        if self.place_of(path).is_some()
            // Where there are no links the kernel can do it at once.
            && let Ok(file) = rustix::fs::openat2(CWD, path, once(flags), Mode::empty(), ResolveFlags::NO_SYMLINKS)
        {
            let file = File::from(file);
            if !follow || !flags.contains(OFlags::PATH) || !file.metadata()?.is_symlink() {
                return Ok(Reached { file, directories: Vec::new() });
            }
        }
        let mut walk = Walk::start(self, path)?;
        let file = match walk.go(path, flags, follow) {
            // What is there, or that nothing is, is not told of places outside.
            result if walk.links > 0 && self.place_of(&walk.at).is_none() => {
                drop(result);
                return Err(io::Error::other(Outside));
            }
            result => result?,
        };
        // Nobody can be kept out of a place by the directories above it, as it is shown in spite of them.
        let place = self.place_of(&walk.at);
        let above = |directory: &Path| place.is_some_and(|place| place.starts_with(directory) && place != directory);
        let directories = walk.searched.into_iter().filter(|(path, _)| !above(path)).map(|(_, access)| access);
        Ok(Reached { file, directories: directories.collect() })
    }
}

impl Reached {
    fn stat(&self) -> io::Result<Stat> {
        Ok(Stat::of(&self.file.metadata()?, || acl(&self.file), &self.directories))
    }
}

impl<'a> Walk<'a> {
    fn start(confined: &'a Confined, path: &Path) -> io::Result<Self> {
        let place = confined.place_of(path).filter(|place| *place != path);
        let at = place.map_or(Path::new("/"), |place| place);
        let mut left: Vec<OsString> = Vec::new();
        push(&mut left, path.strip_prefix(at).unwrap_or(path));
        let own = left.len();
        Ok(Self { confined, dir: directly(at)?, at: at.to_path_buf(), left, own, links: 0, searched: Vec::new() })
    }

    /// Goes along all names that are left. The directories of `path`, which is where readers see this, the kernel checks itself.
    fn go(&mut self, path: &Path, flags: OFlags, follow: bool) -> io::Result<File> {
        let shown_in = path.parent().unwrap_or(path);
        while let Some(name) = self.left.pop() {
            if self.left.len() < self.own {
                self.own = self.left.len();
            } else if !shown_in.starts_with(&self.at) {
                let access = Access::of(&self.dir.metadata()?, || acl(&self.dir));
                self.searched.push((self.at.clone(), access));
            }
            if name == ".." {
                self.at.pop();
                self.dir = directly(&self.at)?;
                continue;
            }
            let there = self.at.join(&name);
            if self.confined.exclude.as_ref() == Some(&there) {
                return Err(io::Error::other("leads into this mount"));
            }
            let last = self.left.is_empty();
            let child = File::from(rustix::fs::openat(&self.dir, &*name, once(OFlags::PATH), Mode::empty())?);
            let meta = child.metadata()?;
            if meta.is_symlink() && (follow || !last) {
                self.follow(&text(&child)?)?;
            } else if last {
                self.at = there;
                return if flags.contains(OFlags::PATH) || !(meta.is_file() || meta.is_dir()) {
                    Ok(child)
                } else {
                    Ok(rustix::fs::openat(&self.dir, &*name, once(flags), Mode::empty())?.into())
                };
            } else if meta.is_dir() {
                (self.at, self.dir) = (there, child);
            } else {
                return Err(Errno::NOTDIR.into());
            }
        }
        Ok(rustix::fs::openat(&self.dir, ".", once(flags), Mode::empty())?.into())
    }

    fn follow(&mut self, text: &Path) -> io::Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        if text.is_absolute() {
            self.at = PathBuf::from("/");
            self.dir = directly(&self.at)?;
        }
        push(&mut self.left, text);
        Ok(())
    }
}

/// Flags for a name that must be no link, or is opened as one.
fn once(flags: OFlags) -> OFlags {
    flags | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Puts the names of a path before those that are left.
fn push(left: &mut Vec<OsString>, path: &Path) {
    left.extend(path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_os_string()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    }));
}

/// Opens a directory by a path on which there must be no link.
fn directly(path: &Path) -> io::Result<File> {
    let flags = once(OFlags::PATH | OFlags::DIRECTORY);
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(directory) => Ok(directory.into()),
        // Before Linux 5.6, or where a container forbids what it does not know: the same by hand.
        Err(Errno::NOSYS | Errno::PERM) => {
            let mut directory = rustix::fs::open("/", flags, Mode::empty())?;
            for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
                directory = rustix::fs::openat(&directory, part.as_os_str(), flags, Mode::empty())?;
            }
            Ok(directory.into())
        }
        Err(errno) => Err(errno.into()),
    }
}

fn text(link: &File) -> io::Result<PathBuf> {
    let text = rustix::fs::readlinkat(link.as_fd(), "", Vec::new())?;
    Ok(OsStr::from_bytes(text.as_bytes()).into())
}

/// The access control list of a file that may be open for nothing but its path.
fn acl(file: &File) -> io::Result<Option<Acl>> {
    Acl::of_path(&Path::new("/proc/self/fd").join(file.as_raw_fd().to_string()))
}
