//! All that lies below a directory. Links are listed, not followed; what cannot be read is left out and told.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::longpath;

/// A name below a directory.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its path below that directory.
    pub path: PathBuf,
    /// What `lstat` says.
    pub meta: Metadata,
}

impl Found {
    /// Device and inode number.
    #[must_use]
    pub fn id(&self) -> (u64, u64) {
        (self.meta.dev(), self.meta.ino())
    }
}

/// What a [`walk`] found, each kind in order of path.
#[derive(Debug, Default)]
pub struct Walk {
    /// Directories, parents first.
    pub directories: Vec<Found>,
    /// Regular files.
    pub files: Vec<Found>,
    /// Links.
    pub links: Vec<Found>,
    /// Devices, FIFOs and sockets.
    pub others: Vec<Found>,
    /// Directories on which another file system is mounted; not entered, if so wanted.
    pub mounts: Vec<Found>,
    /// What could not be read.
    pub errors: Vec<Error>,
}

/// What a [`walk`] does not enter.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bounds<'a> {
    /// A directory, by its device and inode number.
    pub leave_out: Option<(u64, u64)>,
    /// Directories and files whose path below the root ends so.
    pub leave_out_names: &'a [&'a str],
    /// Other file systems than that of the root.
    pub one_file_system: bool,
}

/// Lists all that lies below `root`, however deep.
///
/// # Errors
/// [`Error::Io`] when `root` itself cannot be listed. What cannot be read below it is in [`Walk::errors`].
pub fn walk(root: &Path, bounds: &Bounds<'_>) -> Result<Walk, Error> {
    let device = longpath::metadata(root).map_err(Error::io("open", root))?.dev();
    let mut walk = Walk::default();
    let list = |below: &Path| {
        let directory = if below.as_os_str().is_empty() { root.to_path_buf() } else { root.join(below) };
        let names = longpath::names(&directory).map_err(Error::io("list", &directory))?;
        // The last is looked at first.
        Ok::<_, Error>(names.into_iter().rev().map(|name| below.join(name)).collect::<Vec<_>>())
    };
    let mut left = list(Path::new(""))?;
    while let Some(path) = left.pop() {
        if bounds.leave_out_names.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        let full = root.join(&path);
        let meta = match longpath::symlink_metadata(&full) {
            Ok(meta) => meta,
            // Another process removed it meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => {
                walk.errors.push(Error::io("stat", &full)(e));
                continue;
            }
        };
        let found = Found { path, meta };
        if found.meta.is_dir() && Some(found.id()) == bounds.leave_out {
            continue;
        }
        if found.meta.is_symlink() {
            walk.links.push(found);
        } else if found.meta.is_file() {
            walk.files.push(found);
        } else if !found.meta.is_dir() {
            walk.others.push(found);
        } else if bounds.one_file_system && found.meta.dev() != device {
            walk.mounts.push(found);
        } else {
            match list(&found.path) {
                Ok(below) => {
                    left.extend(below);
                    walk.directories.push(found);
                }
                Err(error) => walk.errors.push(error),
            }
        }
    }
    Ok(walk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn everything_is_found_in_order_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("b/empty")).unwrap();
        fs::create_dir_all(root.join("out/in")).unwrap();
        for name in ["a", "b/x", "b-c", "out/y"] {
            fs::write(root.join(name), b"x").unwrap();
        }
        symlink("..", root.join("b/up")).unwrap();
        symlink("nowhere", root.join("gone")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let id = Found { path: PathBuf::new(), meta: fs::metadata(root.join("out")).unwrap() }.id();
        let walk =
            walk(root, &Bounds { leave_out: Some(id), leave_out_names: &["b-c"], one_file_system: true }).unwrap();
        let paths = |found: &[Found]| -> Vec<String> { found.iter().map(|f| f.path.display().to_string()).collect() };
        assert_eq!(paths(&walk.directories), ["b", "b/empty"]);
        assert_eq!(paths(&walk.files), ["a", "b/x"]);
        assert_eq!(
            (paths(&walk.links), paths(&walk.others)),
            (vec!["b/up".into(), "gone".into()], vec!["socket".into()])
        );
        assert!(walk.errors.is_empty() && super::walk(&root.join("a"), &Bounds::default()).is_err());
    }
}
