//! A disk in memory: what is on it now, and every step that made it so.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

/// Number of the directory at the top.
pub const ROOT: u64 = 1;
/// What may be written, bytes, unless a test says otherwise.
const ROOM: u64 = 1 << 40;

/// A place for a name: a directory and the name in it.
pub type Place = (u64, OsString);

/// What changed the disk, or made changes last.
#[derive(Debug, Clone)]
pub enum Step {
    /// A file has these contents now.
    Write(u64, Arc<Vec<u8>>),
    /// A file got this name.
    Link(Place, u64),
    /// A name is gone.
    Unlink(Place),
    /// A file's name is another now; what had that is gone.
    Rename(Place, Place, u64),
    /// The contents of a file last.
    Sync(u64),
    /// What happened to the names in a directory lasts.
    SyncNames(u64),
}

/// What a process asks the disk for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Look,
    Stat,
    SetAttr,
    Create,
    Open,
    Read,
    Write,
    Sync,
    SyncNames,
    Link,
    Unlink,
    Rename,
    List,
}

/// One request.
#[derive(Debug)]
pub struct Call<'a> {
    /// How many came before it since the judge was set.
    pub number: u64,
    pub op: Op,
    /// The last component of a name of the file, or the name that is asked for; empty for a file that has none.
    pub name: &'a str,
    /// Whether the file was written through the mount.
    pub written: bool,
    /// Of reads and writes, bytes.
    pub offset: u64,
    pub len: usize,
}

impl Call<'_> {
    /// Whether a read is of this byte.
    pub fn covers(&self, offset: u64) -> bool {
        self.op == Op::Read && (self.offset..self.offset + self.len as u64).contains(&offset)
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Go,
    Fail(i32),
    /// A read gives another byte at this offset than the file has.
    Flip(u64),
    /// A read is answered when the test says so.
    Hold,
    /// Just before the request, another process renames a file with these bytes over this name in the same directory.
    Put(&'static str, &'static [u8]),
}

type Judge = Box<dyn FnMut(&Call<'_>) -> Verdict + Send>;

#[derive(Debug, Clone)]
pub struct Node {
    /// Contents; `None` for a directory.
    pub data: Option<Arc<Vec<u8>>>,
    pub names: BTreeMap<OsString, u64>,
    pub mode: u16,
    pub owner: (u32, u32),
    pub links: u32,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
    /// Its last name.
    pub name: OsString,
    pub written: bool,
}

pub struct State {
    pub nodes: BTreeMap<u64, Node>,
    next: u64,
    pub log: Vec<Step>,
    judge: Option<Judge>,
    calls: u64,
    /// Bytes that may be written yet.
    pub room: u64,
    held: bool,
}

/// Shared by the test and who serves the mount.
pub struct Disk {
    state: Mutex<State>,
    released: Condvar,
}

impl Disk {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        let mut state = State {
            nodes: BTreeMap::new(),
            next: ROOT,
            log: Vec::new(),
            judge: None,
            calls: 0,
            room: ROOM,
            held: false,
        };
        state.make(None);
        Arc::new(Self { state: Mutex::new(state), released: Condvar::new() })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Has each request judged from now on.
    pub fn judge(&self, judge: impl FnMut(&Call<'_>) -> Verdict + Send + 'static) {
        let mut state = self.lock();
        state.calls = 0;
        state.judge = Some(Box::new(judge));
    }

    /// Everything goes well from now on; gives how many requests there were since [`Disk::judge`].
    pub fn calm(&self) -> u64 {
        let mut state = self.lock();
        (state.judge, state.room) = (None, ROOM);
        state.calls
    }

    /// So many bytes may be written from now on.
    pub fn room(&self, bytes: u64) {
        self.lock().room = bytes;
    }

    /// Reads that are held wait until [`Disk::release`].
    pub fn hold(&self) {
        self.lock().held = true;
    }

    pub fn release(&self) {
        self.lock().held = false;
        self.released.notify_all();
    }

    /// Waits while reads are held, for a minute at most.
    pub fn wait(&self) {
        let (_state, waited) =
            self.released.wait_timeout_while(self.lock(), Duration::from_secs(60), |state| state.held).unwrap();
        assert!(!waited.timed_out(), "nobody released the reads");
    }

    /// Puts a file onto the disk, to last, with the directories above it; gives its number.
    pub fn put(&self, path: &str, bytes: &[u8]) -> u64 {
        self.lock().put(path, bytes)
    }

    /// Puts a file into a directory that is there, as a program does that does not sync.
    pub fn copy_in(&self, path: &str, bytes: &[u8]) {
        let mut state = self.lock();
        let place = (state.directory(path), last(path));
        let ino = state.make(Some(Vec::new()));
        state.link(ino, place.clone());
        state.log.push(Step::Link(place, ino));
        state.write(ino, bytes.to_vec());
    }

    /// A second name for a file, to last.
    pub fn put_link(&self, ino: u64, path: &str) {
        let mut state = self.lock();
        let dir = state.directory(path);
        state.link(ino, (dir, last(path)));
    }

    /// All that is on the disk, to be put back later.
    pub fn image(&self) -> BTreeMap<u64, Node> {
        self.lock().nodes.clone()
    }

    /// Puts back what [`Disk::image`] gave.
    pub fn restore(&self, image: &BTreeMap<u64, Node>) {
        self.lock().nodes = image.clone();
    }

    /// Contents of a file, if it is there.
    pub fn get(&self, path: &str) -> Option<Arc<Vec<u8>>> {
        let state = self.lock();
        state.nodes[&state.find(path)?].data.clone()
    }

    /// The paths of all files.
    pub fn files(&self) -> Vec<String> {
        let state = self.lock();
        let (mut found, mut left) = (Vec::new(), vec![(String::new(), ROOT)]);
        while let Some((path, ino)) = left.pop() {
            for (name, &below) in &state.nodes[&ino].names {
                let path = format!("{path}{}", name.to_str().unwrap());
                match state.nodes[&below].data {
                    Some(_) => found.push(path),
                    None => left.push((path + "/", below)),
                }
            }
        }
        found.sort();
        found
    }
}

fn last(path: &str) -> OsString {
    Path::new(path).file_name().unwrap().to_owned()
}

impl State {
    pub fn make(&mut self, data: Option<Vec<u8>>) -> u64 {
        let (ino, now) = (self.next, SystemTime::now());
        self.next += 1;
        let mode = if data.is_some() { 0o644 } else { 0o755 };
        let node = Node {
            data: data.map(Arc::new),
            names: BTreeMap::new(),
            mode,
            owner: (0, 0),
            links: 0,
            mtime: now,
            ctime: now,
            name: OsString::new(),
            written: false,
        };
        self.nodes.insert(ino, node);
        ino
    }

    fn directory(&mut self, path: &str) -> u64 {
        let mut dir = ROOT;
        for part in Path::new(path).parent().unwrap() {
            dir = match self.nodes[&dir].names.get(part) {
                Some(&below) => below,
                None => {
                    let below = self.make(None);
                    self.node(dir).names.insert(part.to_owned(), below);
                    below
                }
            };
        }
        dir
    }

    fn put(&mut self, path: &str, bytes: &[u8]) -> u64 {
        let dir = self.directory(path);
        let ino = self.make(Some(bytes.to_vec()));
        self.link(ino, (dir, last(path)));
        ino
    }

    pub fn find(&self, path: &str) -> Option<u64> {
        Path::new(path).iter().try_fold(ROOT, |dir, name| self.nodes[&dir].names.get(name).copied())
    }

    pub fn node(&mut self, ino: u64) -> &mut Node {
        self.nodes.get_mut(&ino).unwrap()
    }

    pub fn ask(&mut self, op: Op, ino: u64, name: Option<&OsStr>, offset: u64, len: usize) -> Verdict {
        let Some(judge) = &mut self.judge else { return Verdict::Go };
        let node = self.nodes.get(&ino);
        let name = name.or(node.map(|node| &*node.name)).unwrap_or_default().to_string_lossy();
        let written = node.is_some_and(|node| node.written);
        let call = Call { number: self.calls, op, name: &name, written, offset, len };
        self.calls += 1;
        judge(&call)
    }

    pub fn link(&mut self, ino: u64, (dir, name): Place) {
        self.node(dir).names.insert(name.clone(), ino);
        let node = self.node(ino);
        node.links += 1;
        (node.name, node.ctime) = (name, SystemTime::now());
    }

    pub fn unlink(&mut self, (dir, name): &Place) -> Option<u64> {
        let ino = self.node(*dir).names.remove(name)?;
        let node = self.node(ino);
        node.links -= 1;
        node.ctime = SystemTime::now();
        Some(ino)
    }

    /// Replaces the contents; a step.
    pub fn write(&mut self, ino: u64, data: Vec<u8>) {
        let data = Arc::new(data);
        let node = self.node(ino);
        node.data = Some(Arc::clone(&data));
        (node.mtime, node.written) = (SystemTime::now(), true);
        node.ctime = node.mtime;
        self.log.push(Step::Write(ino, data));
    }
}
