//! Inodes: which numbers exist, what they stand for, and when they go.
//!
//! An inode stands for one version of one thing. A file that is replaced gets a new number, so pages and attributes
//! that the kernel keeps under the old one stay right for whoever has it open.
//!
//! An inode lives while a listing shows it or the kernel remembers it. Locks are taken in the order
//! table, then a directory's listing; neither is held while the source is looked at.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, RandomState};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::attr::Kind;
use super::class::{Class, Found, Known, Notes, Place, Scan, Stamp};
use super::ids::Inode;
use super::link::Shown;
use super::number::Key;
use super::open::OpenFile;
use super::packed::Opened;
use super::scan_lock::ScanLock;
use super::shard_index::Generated;
use crate::access::Access;
use crate::engine::Lane;
use crate::error::Result;
use crate::source::{Identity, Tree};

/// What an inode number stands for. Immutable but for the caches inside.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) inode: Inode,
    pub(super) generation: u32,
    /// What the number was made from.
    key: Key,
    /// The directory that shows it; the root is its own.
    pub(super) parent: Inode,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Directory(Arc<Directory>),
    File(File),
    Link(Shown),
}

/// A directory of the source.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) place: Place,
    /// What `stat` said of it last; `None` for a root that was never looked at.
    stamp: Mutex<Option<Stamp>>,
    /// The last scan with inodes.
    listing: Mutex<Option<Arc<Listing>>>,
    /// Held by the request that scans. The requests that wait here need its result.
    pub(super) scan_lock: ScanLock,
}

/// One version of a file.
#[derive(Debug)]
pub(super) struct File {
    /// What it is a part of.
    pub(super) tree: Arc<dyn Tree>,
    /// Where it is in the source.
    pub(super) path: PathBuf,
    pub(super) contents: Contents,
    /// Who may read it, as in the source.
    pub(super) access: Option<Access>,
    /// The open file, shared by all who have it open.
    pub(super) open: Mutex<Weak<OpenFile>>,
}

impl File {
    /// The version of the file of the source.
    pub(super) fn version(&self) -> Option<Identity> {
        match &self.contents {
            Contents::AsItIs(identity) => Some(*identity),
            Contents::Original(opened) => Some(opened.identity),
            Contents::Generated(generated) => generated.identity(),
        }
    }
}

/// What a file shows.
#[derive(Debug)]
pub(super) enum Contents {
    /// A file of the source as it is.
    AsItIs(Identity),
    /// What a container holds.
    Original(Opened),
    /// A text that was made.
    Generated(Arc<Generated>),
}

/// The names of a directory with their inodes, as of one scan.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) stamp: Stamp,
    /// When the scan ended, and how long it took.
    pub(super) taken: Instant,
    pub(super) took: Duration,
    pub(super) settled: bool,
    /// Sorted by name.
    entries: Vec<Entry>,
    pub(super) notes: Notes,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: OsString,
    /// The name in the source.
    source: OsString,
    class: Class,
    pub(super) node: Arc<Node>,
}

impl Node {
    /// What requests for it may have to wait for.
    pub(super) fn lane(&self) -> Lane {
        let source = match &self.body {
            Body::Directory(directory) => directory.seen().map(|stamp| stamp.id.0),
            Body::File(file) => file.version().map(|version| version.dev),
            Body::Link(link) => Some(link.version().dev),
        };
        Lane { source: source.unwrap_or(0), file: self.inode.0 }
    }

    pub(super) fn kind(&self) -> Kind {
        match self.body {
            Body::Directory(_) => Kind::Directory,
            Body::File(_) => Kind::File,
            Body::Link(_) => Kind::Symlink,
        }
    }

    /// Who may read a file.
    fn access(&self) -> Option<Access> {
        match &self.body {
            Body::File(file) => file.access,
            Body::Directory(_) | Body::Link(_) => None,
        }
    }

    pub(super) fn root(place: Place) -> Self {
        Self {
            inode: Inode::ROOT,
            generation: 0,
            key: Key::default(),
            parent: Inode::ROOT,
            body: Body::Directory(Arc::new(Directory::new(place, None))),
        }
    }
}

impl Directory {
    fn new(place: Place, stamp: Option<Stamp>) -> Self {
        Self { place, stamp: Mutex::new(stamp), listing: Mutex::new(None), scan_lock: ScanLock::default() }
    }

    /// What `stat` says of it now.
    pub(super) fn look(&self) -> Result<Stamp> {
        let stamp = Stamp::take(&*self.place.tree, &self.place.path)?;
        self.looked(stamp);
        Ok(stamp)
    }

    /// Takes note of what `stat` said of it.
    fn looked(&self, stamp: Stamp) {
        *self.stamp.lock() = Some(stamp);
    }

    /// What `stat` said of it last.
    pub(super) fn seen(&self) -> Option<Stamp> {
        *self.stamp.lock()
    }

    pub(super) fn listing(&self) -> Option<Arc<Listing>> {
        self.listing.lock().clone()
    }
}

impl Listing {
    pub(super) fn find(&self, name: &OsStr) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|e| e.name.as_bytes().cmp(name.as_bytes())).ok()?;
        self.entries.get(at)
    }

    /// The entry at a position, counted from 0.
    pub(super) fn entry(&self, position: usize) -> Option<&Entry> {
        self.entries.get(position)
    }

    /// The class of each source name, and who may read it, for the next scan.
    pub(super) fn classes(&self) -> Known<'_> {
        self.entries.iter().map(|e| (e.source.as_os_str(), (&e.class, e.node.access()))).collect()
    }
}

impl Entry {
    /// The name in the source.
    pub(super) fn source(&self) -> &OsStr {
        &self.source
    }

    /// Whether the source still holds what the inode stands for.
    pub(super) fn unchanged(&self, directory: &Directory) -> bool {
        let (place, access) = (&directory.place, self.node.access());
        self.class.unchanged(&*place.tree, &place.path, (&self.source, access))
    }

    /// Whether `found` is what this entry's inode stands for.
    fn is(&self, found: &Found) -> bool {
        if let Body::File(file) = &self.node.body
            && file.access != found.access
        {
            return false;
        }
        match (&self.class, &found.class, &self.node.body) {
            (Class::Directory(old), Class::Directory(new), Body::Directory(_)) => old.id == new.id,
            (Class::Plain(old), Class::Plain(new), Body::File(_)) => old == new,
            (Class::Container(old), Class::Container(new), Body::File(file)) => match file.contents {
                Contents::Original(_) => found.decoded && old.identity == new.identity && old.index == new.index,
                _ => !found.decoded && old.identity == new.identity,
            },
            (Class::Generated(old), Class::Generated(new), Body::File(_)) => old.is(new),
            (Class::Link(_), Class::Link(new), Body::Link(shown)) => *shown == new.shown(found.decoded),
            _ => false,
        }
    }
}

/// All inodes that exist.
#[derive(Debug)]
pub(super) struct Table {
    records: HashMap<Inode, Record>,
    /// What tells this mount from others.
    salt: u64,
}

#[derive(Debug)]
struct Record {
    node: Arc<Node>,
    /// How often the kernel was told of it, less what it forgot.
    lookups: u64,
    /// Whether the current listing of its directory shows it.
    listed: bool,
}

impl Table {
    pub(super) fn new(root: Arc<Node>) -> Self {
        let record = Record { node: root, lookups: 1, listed: true };
        Self { records: HashMap::from([(Inode::ROOT, record)]), salt: RandomState::new().hash_one(std::process::id()) }
    }

    pub(super) fn get(&self, inode: Inode) -> Option<Arc<Node>> {
        self.records.get(&inode).map(|r| r.node.clone())
    }

    /// The kernel is told of `node`. Also revives a node that left its listing a moment ago.
    pub(super) fn remember(&mut self, node: &Arc<Node>) {
        let fresh = || Record { node: node.clone(), lookups: 0, listed: false };
        let record = self.records.entry(node.inode).or_insert_with(fresh);
        record.lookups = record.lookups.saturating_add(1);
    }

    /// The kernel forgot `count` of what it was told.
    pub(super) fn forget(&mut self, inode: Inode, count: u64) {
        if let Some(record) = self.records.get_mut(&inode) {
            record.lookups = record.lookups.saturating_sub(count);
        }
        self.drop_if_unused(inode);
    }

    /// Numbers of inodes, and bytes that the metadata of containers and shards takes.
    pub(super) fn sizes(&self) -> (usize, u64) {
        let bytes = self.records.values().map(|r| match &r.node.body {
            Body::File(File { contents: Contents::Original(opened), .. }) => opened.packed.memory(),
            Body::File(File { contents: Contents::Generated(generated), .. }) => generated.text().len() as u64,
            Body::File(File { contents: Contents::AsItIs(_), .. }) | Body::Link(_) => 0,
            Body::Directory(directory) => {
                directory.listing().and_then(|listing| Some(listing.notes.index.as_ref()?.memory())).unwrap_or(0)
            }
        });
        (self.records.len(), bytes.sum())
    }

    /// Replaces the listing of `dir` by `scan`. What has not changed keeps its inode.
    pub(super) fn publish(&mut self, dir: &Node, directory: &Directory, scan: Scan) -> Arc<Listing> {
        let old = directory.listing();
        // Another scan began later and was faster: this one was held up.
        if let Some(newer) = old.as_ref().filter(|old| old.taken - old.took > scan.taken - scan.took) {
            return Arc::clone(newer);
        }
        let before: HashMap<&OsStr, &Entry> =
            old.iter().flat_map(|listing| &listing.entries).map(|entry| (entry.source.as_os_str(), entry)).collect();
        let mut entries = Vec::with_capacity(scan.found.len());
        for found in scan.found {
            let node = match before.get(found.source.as_os_str()).filter(|entry| entry.is(&found)) {
                Some(entry) => {
                    if let (Class::Directory(stamp), Body::Directory(directory)) = (&found.class, &entry.node.body) {
                        directory.looked(*stamp);
                    }
                    entry.node.clone()
                }
                None => self.create(dir.inode, directory, &found),
            };
            entries.push(Entry { name: found.shown, source: found.source, class: found.class, node });
        }
        let kept: HashSet<Inode> = entries.iter().map(|e| e.node.inode).collect();
        let listing = Arc::new(Listing {
            stamp: scan.stamp,
            taken: scan.taken,
            took: scan.took,
            settled: scan.settled,
            entries,
            notes: scan.notes,
        });
        *directory.listing.lock() = Some(listing.clone());
        for entry in old.iter().flat_map(|listing| &listing.entries) {
            if !kept.contains(&entry.node.inode) {
                self.unlist(entry.node.inode);
            }
        }
        listing
    }

    fn create(&mut self, parent: Inode, directory: &Directory, found: &Found) -> Arc<Node> {
        let path = directory.place.path.join(&found.source);
        let tree = || Arc::clone(&directory.place.tree);
        let access = found.access;
        let open = || Mutex::new(Weak::new());
        let file = |contents| Body::File(File { tree: tree(), path: path.clone(), contents, access, open: open() });
        let body = match &found.class {
            Class::Directory(stamp) => {
                let mut ancestors = directory.place.ancestors.clone();
                ancestors.push(stamp.id);
                let place = Place { tree: tree(), path, only: None, ancestors };
                Body::Directory(Arc::new(Directory::new(place, Some(*stamp))))
            }
            Class::Plain(identity) => file(Contents::AsItIs(*identity)),
            Class::Container(opened) if found.decoded => file(Contents::Original(opened.clone())),
            Class::Container(opened) => file(Contents::AsItIs(opened.identity)),
            Class::Generated(generated) => file(Contents::Generated(Arc::clone(generated))),
            Class::Link(link) => Body::Link(link.shown(found.decoded)),
        };
        let key = Key::of(parent, directory.seen().map(|stamp| stamp.id.0), found);
        let (mut inode, mut generation) = key.number(None);
        for turn in 0.. {
            match self.records.get_mut(&inode) {
                None => break,
                // It left its listing, and the kernel has not forgotten it.
                Some(record) if record.node.key == key => {
                    record.listed = true;
                    return record.node.clone();
                }
                // Another thing has the number, which may be otherwise in the next mount.
                Some(_) => (inode, generation) = key.number(Some((self.salt, turn))),
            }
        }
        let node = Arc::new(Node { inode, generation, key, parent, body });
        self.records.insert(inode, Record { node: node.clone(), lookups: 0, listed: true });
        node
    }

    fn unlist(&mut self, inode: Inode) {
        if let Some(record) = self.records.get_mut(&inode) {
            record.listed = false;
        }
        self.drop_if_unused(inode);
    }

    /// Drops an inode that nobody knows, and what only its listing kept.
    fn drop_if_unused(&mut self, inode: Inode) {
        let mut doubtful = vec![inode];
        while let Some(inode) = doubtful.pop() {
            let unused = |r: &Record| r.lookups == 0 && !r.listed;
            if !self.records.get(&inode).is_some_and(unused) {
                continue;
            }
            let Some(record) = self.records.remove(&inode) else {
                continue;
            };
            let Body::Directory(directory) = &record.node.body else {
                continue;
            };
            let listing = directory.listing.lock().take();
            for entry in listing.iter().flat_map(|listing| &listing.entries) {
                if let Some(child) = self.records.get_mut(&entry.node.inode) {
                    child.listed = false;
                    doubtful.push(entry.node.inode);
                }
            }
        }
    }
}
