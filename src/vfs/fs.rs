//! The tree, as requests ask for it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::attr::{Attr, FsFigures, Kind};
use super::bounds::Bounds;
use super::class::{Class, Place};
use super::handles::{Handles, Open};
use super::ids::{Handle, Inode};
use super::open::Data;
use super::packed::Packed;
use super::traffic::{ClosedFiles, FileTraffic, Reading};
use super::tree::{Body, Contents, Directory, Listing, Node, Table};
use super::{name, opener, scan, xattr};
use crate::access::Access;
use crate::engine::{Engine, Finder, Places};
use crate::error::{Error, Result};
use crate::source::{LocalTree, Stat, Timestamp, Tree, waits};

/// A listing that cannot prove itself unchanged (its directory was written to just before the scan) is trusted for
/// this long.
const UNSETTLED_AGE: Duration = Duration::from_millis(50);
/// A listing or an absent name is trusted for this long when the directory's own times have not changed: a `.bs`
/// rewritten in place, or the missing end of a link, change no directory. One that took longer to scan is trusted for as long
/// as that took, or such a directory would be scanned at each look.
const LISTING_AGE: Duration = Duration::from_secs(1);

/// How a tree is set up.
#[derive(Debug, Clone)]
pub struct VfsConfig {
    /// A directory, or one container, which is then the only file shown. Absolute, so that changing the working
    /// directory does not matter. A directory that is [kept open](crate::source::way::keep_open) because it is mounted over, as the
    /// [way to it](crate::source::way::way): then links are shown as links and never followed, since the same paths lead to the same things.
    pub source: PathBuf,
    /// Owner of what has none in the source: links, files that are made, and all of a source that does not know users.
    pub uid: u32,
    /// Group of the same.
    pub gid: u32,
    /// Where the tree is mounted, absolute and without links. The scan does not look there: the daemon would wait
    /// for itself.
    pub exclude: Option<PathBuf>,
    /// Where the bases of deltas may be: files, or directories that hold them. Absolute. What a delta itself says of its
    /// base is only taken for a name, to look for in these directories and beside the delta.
    pub bases: Vec<PathBuf>,
    /// Caches of the Hugging Face Hub in which bases are looked for.
    pub hubs: Vec<PathBuf>,
    /// Other users read what is shown: a file of this machine is a base only of what those users read who may read it itself.
    pub shared: bool,
}

/// Counters since the start, and gauges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VfsStats {
    /// Files and directories open now.
    pub open_files: u64,
    /// Reads of files.
    pub reads: u64,
    /// Bytes that they returned.
    pub read_bytes: u64,
    /// Inodes that exist now.
    pub inodes: u64,
    /// Bytes of memory that the containers' headers and indexes take, and the models' shard indexes.
    pub metadata_bytes: u64,
}

/// The tree. Shared by threads; no lock is held while a file is read, decoded or opened.
#[derive(Debug)]
pub struct Vfs {
    tree: Arc<dyn Tree>,
    pub(super) config: VfsConfig,
    engine: Arc<Engine>,
    finder: Arc<Finder>,
    pub(super) table: Mutex<Table>,
    pub(super) handles: Handles,
    counts: Arc<Counts>,
    closed: ClosedFiles,
}

/// What was read.
#[derive(Debug, Default)]
struct Counts {
    reads: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    fn add(&self, bytes: usize) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

pub(super) fn refuse(op: &'static str, path: impl AsRef<Path>, errno: Errno) -> Error {
    Error::io(op, path)(errno.into())
}

/// The files of this machine in which bases are looked for, where other users read what is shown: links lead from the places that were named
/// into each other only.
fn confined(config: &VfsConfig) -> Arc<dyn Tree> {
    let named = config.bases.iter().chain(&config.hubs).filter_map(|place| place.canonicalize().ok());
    let places = named.chain([config.source.clone()]).collect();
    Arc::new(LocalTree::confined(places, config.exclude.clone()))
}

impl Vfs {
    /// A tree over `config.source`. Looks at the source itself and at nothing in it.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no such source; what is wrong with the file when it is one and no container.
    pub fn new(config: VfsConfig, engine: Arc<Engine>) -> Result<Self> {
        Self::over(Arc::new(LocalTree::default()), config, engine)
    }

    /// The same over another tree than that of this machine's files, in which `config.source` is the path of its root, or of one
    /// file. Of other trees any one file may be shown, as it is when it is no container.
    ///
    /// # Errors
    /// The same.
    pub fn over(tree: Arc<dyn Tree>, config: VfsConfig, engine: Arc<Engine>) -> Result<Self> {
        let source = &config.source;
        let stat = tree.stat(source).map_err(Error::io("open", source))?;
        let place = if let Stat::Directory { id, .. } = stat {
            Place { tree: Arc::clone(&tree), path: source.clone(), only: None, ancestors: vec![id] }
        } else {
            let (Some(parent), Some(file_name)) = (source.parent(), source.file_name()) else {
                return Err(Error::invalid(format!("{}: neither a file nor a directory", source.display())));
            };
            let named = name::may_be_container(file_name, engine.formats());
            if !named && tree.is_local() {
                return Err(Error::invalid(format!(
                    "{}: expected a directory or a file whose name ends in .bs",
                    source.display()
                )));
            }
            if named {
                Packed::read(&*tree.open(source)?, engine.formats())?;
            }
            let only = Some(file_name.to_owned());
            Place { tree: Arc::clone(&tree), path: parent.to_path_buf(), only, ancestors: Vec::new() }
        };
        let root = place.path.clone();
        Ok(Self {
            table: Mutex::new(Table::new(Arc::new(Node::root(place)))),
            finder: Arc::new(Finder::new(Places {
                named: config.bases.clone(),
                trees: vec![(Arc::clone(&tree), root)],
                hubs: config.hubs.clone(),
                exclude: config.exclude.clone(),
                confined: config.shared.then(|| confined(&config)),
            })),
            tree,
            config,
            engine,
            handles: Handles::default(),
            counts: Arc::default(),
            closed: ClosedFiles::default(),
        })
    }

    /// Finds a name in a directory and counts one reference to its inode, which [`Vfs::forget`] gives back.
    /// `None` when there is no such name.
    ///
    /// # Errors
    /// [`Error::Io`] when the source cannot be listed.
    pub fn lookup(&self, parent: Inode, name: &OsStr) -> Result<Option<Attr>> {
        let (node, directory) = self.directory("look up", parent)?;
        let listing = self.current(&node, &directory, Some(name))?;
        let Some(entry) = listing.find(name) else {
            return Ok(None);
        };
        let attr = self.attr(&entry.node)?;
        self.table.lock().remember(&entry.node);
        Ok(Some(attr))
    }

    /// Gives back `count` references to an inode.
    pub fn forget(&self, inode: Inode, count: u64) {
        if inode != Inode::ROOT {
            self.table.lock().forget(inode, count);
        }
    }

    /// Attributes of an inode that are known without looking at the source: all but those of directories.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no such inode.
    pub fn getattr_known(&self, inode: Inode) -> Result<Option<Attr>> {
        let node = self.node("stat", inode)?;
        Ok((node.kind() != Kind::Directory).then(|| self.attr_known(&node)))
    }

    /// Attributes of a directory as they were when it was looked at last; `None` when it was not.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no such inode.
    pub fn last_attr(&self, inode: Inode) -> Result<Option<Attr>> {
        let node = self.node("stat", inode)?;
        let seen = matches!(&node.body, Body::Directory(directory) if directory.seen().is_some());
        Ok(seen.then(|| self.attr_known(&node)))
    }

    /// Attributes of an inode. Those of a file never change.
    ///
    /// # Errors
    /// [`Error::Io`] when a directory of the source is gone, or there is no such inode.
    pub fn getattr(&self, inode: Inode) -> Result<Attr> {
        self.attr(&*self.node("stat", inode)?)
    }

    /// What is known of a shown file without reading it: `ratio` (packed / raw), `codec` (those of its chunks, that of most bytes
    /// first), `sha256` (of the original, hexadecimal), `source` (the container's name). `None` for what is not known, and for files
    /// that are shown as they are.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no such inode.
    pub fn xattr(&self, inode: Inode, name: &str) -> Result<Option<String>> {
        Ok(xattr::value(&*self.node("look at", inode)?, name))
    }

    /// The text of a link.
    ///
    /// # Errors
    /// [`Error::Io`] when the inode is none.
    pub fn read_link(&self, inode: Inode) -> Result<Vec<u8>> {
        let node = self.node("read the link", inode)?;
        let Body::Link(link) = &node.body else {
            return Err(refuse("read the link", &self.config.source, Errno::INVAL));
        };
        Ok(link.shown().as_os_str().as_bytes().to_vec())
    }

    /// Opens a file for reading. The handle is given back with [`Vfs::release`].
    ///
    /// # Errors
    /// [`Error::Changed`] when the inode is stale: the source holds another version by now, or none. Looking the
    /// name up again gives the present one. [`Error::Io`] when the source cannot be opened.
    pub fn open(&self, inode: Inode) -> Result<Handle> {
        let node = self.node("open", inode)?;
        let file = match &node.body {
            Body::File(file) => file,
            Body::Directory(_) => return Err(refuse("open", &self.config.source, Errno::ISDIR)),
            // The system follows links itself.
            Body::Link(_) => return Err(refuse("open", &self.config.source, Errno::LOOP)),
        };
        let open = opener::open(file, &self.engine, &self.finder)?;
        let reading = Reading { file: open, path: file.path.clone(), lane: node.lane(), traffic: Arc::default() };
        Ok(self.handles.insert(Open::File(Arc::new(reading))))
    }

    /// Up to `size` bytes at `offset`; fewer only at the end of the file, none beyond it. Waits for them.
    ///
    /// # Errors
    /// [`Error::Io`] for a handle that is no open file; otherwise what the engine or the source says.
    pub fn read(&self, handle: Handle, offset: u64, size: u32) -> Result<Data> {
        let reading = self.file(handle)?;
        let data = reading.file.read_waiting(&self.engine, offset, size as usize)?;
        self.counts.add(data.len());
        reading.traffic.add(data.len());
        Ok(data)
    }

    /// The same, given to `done`: at once when the bytes are in memory, otherwise from another thread, so that the caller
    /// never waits. After a panic there, `done` is dropped without a call.
    pub fn read_with(&self, handle: Handle, offset: u64, size: u32, done: impl FnOnce(Result<Data>) + Send + 'static) {
        let reading = match self.file(handle) {
            Ok(reading) => reading,
            Err(error) => return done(Err(error)),
        };
        let (counts, traffic) = (Arc::clone(&self.counts), Arc::clone(&reading.traffic));
        reading.file.read(&self.engine, reading.lane, (offset, size as usize), move |result| {
            if let Ok(data) = &result {
                counts.add(data.len());
                traffic.add(data.len());
            }
            done(result);
        });
        self.let_go(reading);
    }

    /// Gives back a file that may have been closed meanwhile. The last who has it closes the descriptor, which may hang: not on
    /// the caller's thread.
    fn let_go(&self, reading: Arc<Reading>) {
        if let Some(last) = Arc::into_inner(reading) {
            self.engine.run(last.lane, 0, move |_| drop(last));
        }
    }

    /// The whole file in the disk cache, if it was proven there: what it holds is what reads of `handle` give.
    #[must_use]
    pub fn sealed(&self, handle: Handle) -> Option<std::fs::File> {
        self.file(handle).ok()?.file.image()?.sealed()
    }

    /// Puts all of an open file into the disk cache; see [`Image::keep_on_disk`](crate::engine::Image::keep_on_disk). `None` for a file that is not decoded.
    ///
    /// # Errors
    /// The first chunk that cannot be decoded.
    pub fn keep_on_disk(&self, handle: Handle, stop: &dyn Fn() -> bool, done: &dyn Fn(u64)) -> Result<Option<bool>> {
        let reading = self.file(handle)?;
        reading.file.image().map(|image| image.keep_on_disk(stop, done)).transpose()
    }

    /// The `most` files of which most was read since the start.
    #[must_use]
    pub fn busiest(&self, most: usize) -> Vec<FileTraffic> {
        let open = self.handles.files().map(|file| (file.path.clone(), file.traffic.now()));
        self.closed.most(open, &self.config.source, most)
    }

    pub(super) fn file(&self, handle: Handle) -> Result<Arc<Reading>> {
        self.handles.file(handle).ok_or_else(|| refuse("read", &self.config.source, Errno::BADF))
    }

    /// Closes a handle. One that is not open is ignored.
    pub fn release(&self, handle: Handle) {
        let closed = self.handles.remove(handle);
        if let Some(Open::File(reading)) = &closed {
            self.closed.add(reading);
        }
        // Closing the descriptor may take a while on a network file system: after the lock.
        drop(closed);
    }

    /// Figures of the file system that holds the source.
    #[must_use]
    pub fn statfs(&self) -> FsFigures {
        let _call = waits::call();
        FsFigures::of(self.tree.is_local().then(|| rustix::fs::statvfs(&self.config.source).ok()).flatten())
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> VfsStats {
        let (inodes, metadata_bytes) = self.table.lock().sizes();
        VfsStats {
            open_files: self.handles.len() as u64,
            reads: self.counts.reads.load(Ordering::Relaxed),
            read_bytes: self.counts.bytes.load(Ordering::Relaxed),
            inodes: inodes as u64,
            metadata_bytes,
        }
    }

    pub(super) fn node(&self, op: &'static str, inode: Inode) -> Result<Arc<Node>> {
        // The kernel only names inodes that it was told of and has not forgotten.
        self.table.lock().get(inode).ok_or_else(|| refuse(op, &self.config.source, Errno::STALE))
    }

    pub(super) fn directory(&self, op: &'static str, inode: Inode) -> Result<(Arc<Node>, Arc<Directory>)> {
        let node = self.node(op, inode)?;
        let Body::Directory(directory) = &node.body else {
            return Err(refuse(op, &self.config.source, Errno::NOTDIR));
        };
        let directory = directory.clone();
        Ok((node, directory))
    }

    /// The listing of a directory, scanned again when it may be out of date; `name` is what will be looked for in it.
    pub(super) fn current(
        &self,
        node: &Arc<Node>,
        directory: &Directory,
        name: Option<&OsStr>,
    ) -> Result<Arc<Listing>> {
        if let Some(listing) = directory.listing().filter(|l| is_current(directory, l, name)) {
            return Ok(listing);
        }
        let _guard = directory.scan_lock.take();
        // Another request may have scanned while this one waited for the lock.
        let old = directory.listing();
        if let Some(listing) = old.as_ref().filter(|l| is_current(directory, l, name)) {
            return Ok(listing.clone());
        }
        let known = old.as_ref().map(|l| l.classes()).unwrap_or_default();
        let notes = old.as_ref().map(|l| &l.notes);
        let bounds = Bounds {
            root: &self.config.source,
            exclude: self.config.exclude.as_deref(),
            formats: self.engine.formats(),
        };
        // What the name was made from, if it was shown before.
        let wanted = name.map(|name| old.as_ref().and_then(|l| l.find(name)).map_or(name, |entry| entry.source()));
        let scan = scan::scan(&directory.place, &known, notes, (bounds, wanted))?;
        for found in &scan.found {
            if let Class::Container(opened) = &found.class
                && let Packed::Native(container) = &opened.packed
            {
                self.finder.remember(opened.identity, container);
            }
        }
        scan.note(self.engine.troubles(), &directory.place.path);
        Ok(self.table.lock().publish(node, directory, scan))
    }

    /// Attributes of what a node stands for; of a directory those of this moment.
    fn attr(&self, node: &Node) -> Result<Attr> {
        if let Body::Directory(directory) = &node.body {
            match directory.look() {
                // The mount point itself always answers, so that the mount can be asked what is wrong with it.
                Err(error) if node.inode != Inode::ROOT => return Err(error),
                _ => {}
            }
        }
        Ok(self.attr_known(node))
    }

    /// The same as far as it is known without looking at the source.
    pub(super) fn attr_known(&self, node: &Node) -> Attr {
        let nanos = |n: i64| u32::try_from(n).unwrap_or(0);
        let common = |kind, size, mtime, ctime, access: Option<Access>, links| {
            let (uid, gid, mode) = match access {
                // Who may read is not for the daemon to widen.
                Some(access) => (access.uid, access.gid, access.mode),
                None => {
                    let mode = match kind {
                        Kind::Directory => 0o755,
                        Kind::File => 0o644,
                        Kind::Symlink => 0o777,
                    };
                    (self.config.uid, self.config.gid, mode)
                }
            };
            Attr { inode: node.inode, generation: node.generation, kind, size, mtime, ctime, mode, links, uid, gid }
        };
        match &node.body {
            Body::Directory(directory) => {
                let of = |(seconds, n): Timestamp| (seconds, nanos(n));
                let seen = directory.seen().map(|stamp| (of(stamp.mtime), of(stamp.ctime), stamp.access));
                let (mtime, ctime, access) = seen.unwrap_or(((0, 0), (0, 0), None));
                common(Kind::Directory, 0, mtime, ctime, access, 2)
            }
            Body::Link(link) => {
                let version = link.version();
                let of = |(seconds, n): (i64, i64)| (seconds, nanos(n));
                let size = link.shown().as_os_str().len() as u64;
                common(Kind::Symlink, size, of(version.mtime), of(version.ctime), None, 1)
            }
            Body::File(file) => {
                let version = file.version();
                let (size, original) = match &file.contents {
                    Contents::AsItIs(identity) => (identity.len, None),
                    Contents::Original(opened) => (opened.packed.raw_len(), opened.packed.mtime()),
                    Contents::Generated(generated) => (generated.text().len() as u64, None),
                };
                let of = |time: Option<(i64, i64)>| time.map_or((0, 0), |(seconds, n)| (seconds, nanos(n)));
                let ctime = of(version.map(|version| version.ctime));
                let mtime = original.unwrap_or_else(|| of(version.map(|version| version.mtime)));
                common(Kind::File, size, mtime, ctime, file.access, 1)
            }
        }
    }
}

/// Whether a listing still tells the truth, as far as a few calls of `stat` can say.
fn is_current(directory: &Directory, listing: &Listing, name: Option<&OsStr>) -> bool {
    let age = listing.taken.elapsed();
    if !directory.look().is_ok_and(|stamp| stamp == listing.stamp) {
        return false;
    }
    if !listing.settled && age > UNSETTLED_AGE.max(listing.took) {
        return false;
    }
    match name.and_then(|name| listing.find(name)) {
        Some(entry) => entry.unchanged(directory),
        None => age <= LISTING_AGE.max(listing.took),
    }
}
