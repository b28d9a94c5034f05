//! The disk as the kernel asks for it.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::disk::{Disk, Op, Place, State, Step, Verdict};

/// The kernel keeps no names and no attributes: all that is done comes here.
const TTL: Duration = Duration::ZERO;
/// Longest write, bytes.
const WRITE: u32 = 32 << 10;

pub struct Server(pub Arc<Disk>);

impl State {
    /// The verdict on a request that is no read.
    fn may(&mut self, op: Op, ino: u64, name: Option<&OsStr>, offset: u64, len: usize) -> Result<(), Errno> {
        match self.ask(op, ino, name, offset, len) {
            Verdict::Fail(errno) => Err(Errno::from_i32(errno)),
            Verdict::Put(name, bytes) => {
                let (new, place) = (self.make(Some(bytes.to_vec())), (ino, name.into()));
                self.unlink(&place);
                self.link(new, place);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn attr(&self, ino: u64) -> Result<FileAttr, Errno> {
        let node = self.nodes.get(&ino).ok_or(Errno::ENOENT)?;
        let size = node.data.as_ref().map_or(0, |data| data.len() as u64);
        Ok(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: node.mtime,
            mtime: node.mtime,
            ctime: node.ctime,
            crtime: UNIX_EPOCH,
            kind: if node.data.is_some() { FileType::RegularFile } else { FileType::Directory },
            perm: node.mode,
            nlink: if node.data.is_some() { node.links } else { 2 },
            uid: node.owner.0,
            gid: node.owner.1,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn entry(&self, place: &Place) -> Result<u64, Errno> {
        self.nodes.get(&place.0).and_then(|dir| dir.names.get(&place.1)).copied().ok_or(Errno::ENOENT)
    }

    fn create(&mut self, (dir, name): Place, mode: u32, owner: (u32, u32)) -> Result<(u64, FileAttr), Errno> {
        self.may(Op::Create, dir, Some(&name), 0, 0)?;
        if self.entry(&(dir, name.clone())).is_ok() {
            return Err(Errno::EEXIST);
        }
        let ino = self.make(Some(Vec::new()));
        let node = self.node(ino);
        (node.mode, node.owner, node.written) = ((mode & 0o7777) as u16, owner, true);
        // That is what a file without a name is called.
        if name != "/" {
            self.link(ino, (dir, name.clone()));
            self.log.push(Step::Link((dir, name), ino));
        }
        Ok((ino, self.attr(ino)?))
    }

    fn resize(&mut self, ino: u64, len: u64) -> Result<(), Errno> {
        let mut data = self.nodes[&ino].data.as_deref().ok_or(Errno::EISDIR)?.clone();
        data.resize(len as usize, 0);
        self.write(ino, data);
        Ok(())
    }

    fn put_bytes(&mut self, ino: u64, offset: u64, bytes: &[u8]) -> Result<u32, Errno> {
        self.may(Op::Write, ino, None, offset, bytes.len())?;
        let bytes = &bytes[..bytes.len().min(self.room as usize)];
        if bytes.is_empty() {
            return Err(Errno::ENOSPC);
        }
        self.room -= bytes.len() as u64;
        let mut data = self.nodes[&ino].data.as_deref().ok_or(Errno::EISDIR)?.clone();
        let end = offset as usize + bytes.len();
        data.resize(data.len().max(end), 0);
        data[offset as usize..end].copy_from_slice(bytes);
        self.write(ino, data);
        Ok(bytes.len() as u32)
    }

    fn rename(&mut self, from: Place, to: Place, flags: RenameFlags) -> Result<(), Errno> {
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            return Err(Errno::EINVAL);
        }
        self.may(Op::Rename, from.0, Some(&to.1), 0, 0)?;
        let ino = self.entry(&from)?;
        if flags.contains(RenameFlags::RENAME_NOREPLACE) && self.entry(&to).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.unlink(&to);
        self.link(ino, to.clone());
        self.unlink(&from);
        self.log.push(Step::Rename(from, to, ino));
        Ok(())
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _ = config.set_max_write(WRITE);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.0.lock();
        let place = (parent.0, name.to_owned());
        let found = state.may(Op::Look, parent.0, Some(name), 0, 0).and_then(|()| state.attr(state.entry(&place)?));
        match found {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let mut state = self.0.lock();
        match state.may(Op::Stat, ino.0, None, 0, 0).and_then(|()| state.attr(ino.0)) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.0.lock();
        let done = state.may(Op::SetAttr, ino.0, None, 0, 0).and_then(|()| {
            if let Some(size) = size {
                state.resize(ino.0, size)?;
            }
            let node = state.node(ino.0);
            node.mode = mode.map_or(node.mode, |mode| (mode & 0o7777) as u16);
            node.owner = (uid.unwrap_or(node.owner.0), gid.unwrap_or(node.owner.1));
            node.ctime = SystemTime::now();
            match mtime {
                Some(TimeOrNow::SpecificTime(time)) => node.mtime = time,
                Some(TimeOrNow::Now) => node.mtime = node.ctime,
                None => {}
            }
            state.attr(ino.0)
        });
        match done {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.0.lock();
        let place = (parent.0, name.to_owned());
        let done = state.may(Op::Unlink, parent.0, Some(name), 0, 0).and_then(|()| {
            state.unlink(&place).ok_or(Errno::ENOENT)?;
            state.log.push(Step::Unlink(place));
            Ok(())
        });
        empty(reply, done);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent.0, name.to_owned()), (newparent.0, newname.to_owned()));
        empty(reply, self.0.lock().rename(from, to, flags));
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let mut state = self.0.lock();
        let place = (newparent.0, newname.to_owned());
        let done = state.may(Op::Link, newparent.0, Some(newname), 0, 0).and_then(|()| {
            if state.entry(&place).is_ok() {
                return Err(Errno::EEXIST);
            }
            state.link(ino.0, place.clone());
            state.log.push(Step::Link(place, ino.0));
            state.attr(ino.0)
        });
        match done {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.0.lock().may(Op::Open, ino.0, None, 0, 0) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.0.lock().create((parent.0, name.to_owned()), mode & !umask, (req.uid(), req.gid())) {
            Ok((_, attr)) => reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.0.lock();
        let verdict = state.ask(Op::Read, ino.0, None, offset, size as usize);
        let Some(data) = state.nodes.get(&ino.0).and_then(|node| node.data.clone()) else {
            return reply.error(Errno::EISDIR);
        };
        let from = data.len().min(offset as usize);
        let mut bytes = data[from..data.len().min(from + size as usize)].to_vec();
        match verdict {
            Verdict::Fail(errno) => return reply.error(Errno::from_i32(errno)),
            Verdict::Flip(at) => {
                if let Some(byte) = at.checked_sub(offset).and_then(|at| bytes.get_mut(at as usize)) {
                    *byte ^= 0x10;
                }
            }
            Verdict::Hold => {
                let disk = Arc::clone(&self.0);
                std::thread::spawn(move || {
                    disk.wait();
                    reply.data(&bytes);
                });
                return;
            }
            Verdict::Go | Verdict::Put(..) => {}
        }
        reply.data(&bytes);
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.lock().put_bytes(ino.0, offset, data) {
            Ok(len) => reply.written(len),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let mut state = self.0.lock();
        let done = state.may(Op::Sync, ino.0, None, 0, 0);
        if done.is_ok() {
            state.log.push(Step::Sync(ino.0));
        }
        empty(reply, done);
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let mut state = self.0.lock();
        let done = state.may(Op::SyncNames, ino.0, None, 0, 0);
        if done.is_ok() {
            state.log.push(Step::SyncNames(ino.0));
        }
        empty(reply, done);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut state = self.0.lock();
        if let Err(errno) = state.may(Op::List, ino.0, None, offset, 0) {
            return reply.error(errno);
        }
        let Some(dir) = state.nodes.get(&ino.0) else { return reply.error(Errno::ENOENT) };
        for (number, (name, below)) in dir.names.iter().enumerate().skip(offset as usize) {
            let kind = if state.nodes[below].data.is_some() { FileType::RegularFile } else { FileType::Directory };
            if reply.add(INodeNo(*below), number as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // More than there may be, as on a disk that others fill.
        reply.statfs(1 << 30, 1 << 30, 1 << 30, 1 << 20, 1 << 20, 4096, 255, 4096);
    }
}
