//! Translation between fuser and [`Vfs`]. It decides nothing about files.
//!
//! The tree is read-only: the kernel refuses writers itself (the mount is read-only), and should somebody remount it
//! for writing, every request that writes gets EROFS from here.

use std::ffi::OsStr;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use log::{debug, warn};
use rustix::fs::OFlags;

use super::answer::Answer;
use super::control::{Control, FILES, What};
use super::convert::{absent, attributes, handle, inode, kind};
use super::guard::Guard;
use super::live::{self, Live};
use super::passthrough::Passthrough;
use super::status;
use crate::error::Result;
use crate::vfs::{Inode, Vfs};

/// The largest request, bytes. Larger ones gain nothing and make a cold fault slow.
const MAX_REQUEST: u32 = 1024 * 1024;
/// The longest time for which the kernel may believe that a name does not exist.
const MAX_ABSENT: Duration = Duration::from_secs(5);
/// What the names of attributes of shown files begin with. They are given to who asks by name, and not listed: what copies a file
/// with its attributes would take them along.
const FACTS: &str = "user.bsfs.";
/// Inode numbers are never used twice, so one generation is enough.
const GENERATION: Generation = Generation(0);

/// Makes the answer to the status attribute, with names of files or without.
pub(super) type Report = Box<dyn Fn(bool) -> Vec<u8> + Send + Sync>;

/// A tree as fuser sees it.
pub(super) struct Adapter {
    pub(super) vfs: Arc<Vfs>,
    pub(super) guard: Arc<Guard>,
    pub(super) live: Arc<Live>,
    /// How many requests may wait in the background.
    pub(super) background: u16,
    pub(super) report: Report,
    /// The hidden directory.
    pub(super) control: Control,
    /// Time that went into answers to reads, which is the kernel's copy into its pages; nanoseconds.
    pub(super) replying: Arc<AtomicU64>,
    pub(super) passthrough: Arc<Passthrough>,
    /// There is a disk cache, whose files the kernel may read by itself.
    pub(super) caching: bool,
}

impl Adapter {
    fn run<T>(&self, op: &'static str, work: impl FnOnce(&Vfs) -> Result<T>) -> Result<T, Errno> {
        self.guard.run(op, || work(&self.vfs))
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each of these is refused only where the kernel has less to give, and then it gives what it has.
        let _ = config.set_max_write(MAX_REQUEST);
        let _ = config.set_max_background(self.background);
        for wanted in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_HAS_IOCTL_DIR,
        ] {
            if config.add_capabilities(wanted).is_err() {
                debug!("the kernel has no {wanted:?}");
            }
        }
        if self.caching
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok()
        {
            self.passthrough.offered();
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match Control::find(parent.0, name) {
            Some(Some(what)) => {
                return reply.entry(&Duration::ZERO, &attributes(&self.control.attr(what)), GENERATION);
            }
            Some(None) => return reply.error(Errno::ENOENT),
            None => {}
        }
        match self.run("lookup", |vfs| vfs.lookup(inode(parent), name)) {
            Ok(Some(attr)) => reply.entry(&self.live.ttl(), &attributes(&attr), GENERATION),
            Ok(None) => reply.entry(&self.live.ttl().min(MAX_ABSENT), &absent(), GENERATION),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, count: u64) {
        // Has no answer; what goes wrong is counted and logged.
        let _ = self.run("forget", |vfs| {
            vfs.forget(inode(ino), count);
            Ok(())
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        if let Some(what) = Control::what(ino.0) {
            return reply.attr(&Duration::ZERO, &attributes(&self.control.attr(what)));
        }
        match self.run("getattr", |vfs| vfs.getattr(inode(ino))) {
            Ok(attr) => reply.attr(&self.live.ttl(), &attributes(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.run("readlink", |vfs| vfs.read_link(inode(ino))) {
            Ok(text) => reply.data(&text),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        if let Some(What::File(at)) = Control::what(ino.0) {
            // Its length is another at each look.
            return reply.opened(FileHandle(self.control.open(at)), FopenFlags::FOPEN_DIRECT_IO);
        }
        match self.run("open", |vfs| vfs.open(inode(ino))) {
            Ok(handle) => {
                let direct = OFlags::from_bits_retain(flags.0.cast_unsigned()).contains(OFlags::DIRECT);
                self.passthrough.open(ino, FileHandle(handle.0), direct, || self.vfs.sealed(handle), reply);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if Control::has_handle(fh.0) {
            return self.control.read(fh.0, offset, size, |bytes| reply.data(bytes));
        }
        let answer = Answer {
            reply: Some(reply),
            vfs: self.vfs.clone(),
            guard: self.guard.clone(),
            replying: self.replying.clone(),
            asked: Instant::now(),
            handle: handle(fh),
            offset,
            size,
        };
        // The answer is given here for what is in memory, by another thread otherwise. A panic drops it, which counts it.
        let read = || self.vfs.read_with(handle(fh), offset, size, move |result| answer.give(result));
        let _ = catch_unwind(AssertUnwindSafe(read));
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if Control::has_handle(fh.0) {
            self.control.release(fh.0);
            return reply.ok();
        }
        self.passthrough.release(ino);
        self.close(fh, reply);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if Control::what(ino.0).is_some() {
            return reply.opened(FileHandle(ino.0), FopenFlags::empty());
        }
        match self.run("opendir", |vfs| vfs.opendir(inode(ino))) {
            Ok(handle) => reply.opened(FileHandle(handle.0), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if Control::has_handle(fh.0) {
            for (at, name) in FILES.iter().enumerate().skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
                let file = self.control.attr(What::File(at)).inode;
                if reply.add(INodeNo(file.0), at as u64 + 1, FileType::RegularFile, name) {
                    break;
                }
            }
            return reply.ok();
        }
        let filled = self.run("readdir", |vfs| {
            vfs.readdir(handle(fh), offset, |item| {
                !reply.add(INodeNo(item.inode.0), item.next, kind(item.kind), item.name)
            })
        });
        match filled {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        if Control::has_handle(fh.0) {
            for (at, name) in FILES.iter().enumerate().skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
                let file = attributes(&self.control.attr(What::File(at)));
                if reply.add(file.ino, at as u64 + 1, name, &Duration::ZERO, &file, GENERATION) {
                    break;
                }
            }
            return reply.ok();
        }
        let filled = self.run("readdirplus", |vfs| {
            vfs.readdirplus(handle(fh), offset, |item, attr| {
                let attr = attributes(attr);
                !reply.add(attr.ino, item.next, item.name, &self.live.ttl(), &attr, GENERATION)
            })
        });
        match filled {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        if Control::has_handle(fh.0) {
            return reply.ok();
        }
        self.close(fh, reply);
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.run("statfs", |vfs| Ok(vfs.statfs())) {
            Ok(f) => {
                reply.statfs(f.blocks, f.free, f.available, f.files, f.files_free, f.block, f.name_max, f.fragment);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let answer = if inode(ino) == Inode::ROOT && name == status::ATTRIBUTE {
            self.run("status", |_| Ok(Some((self.report)(is_owner(req)))))
        } else {
            match name.to_str().and_then(|name| name.strip_prefix(FACTS)) {
                Some(fact) if Control::what(ino.0).is_none() => {
                    self.run("getxattr", |vfs| Ok(vfs.fact(inode(ino), fact)?.map(String::into_bytes)))
                }
                _ => Ok(None),
            }
        };
        let answer = match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => return reply.error(Errno::NO_XATTR),
            Err(errno) => return reply.error(errno),
        };
        match (size as usize, answer.len()) {
            (_, len) if len > status::MAX_BYTES => reply.error(Errno::E2BIG),
            // Counters grow between the question for the size and the one for the value.
            (0, len) => reply.size(len.saturating_add(256).min(status::MAX_BYTES).try_into().unwrap_or(u32::MAX)),
            (room, len) if room < len => reply.error(Errno::ERANGE),
            _ => reply.data(&answer),
        }
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 { reply.size(0) } else { reply.data(&[]) }
    }

    // The kernel does without these: it asks once and remembers.

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _offset: i64, _whence: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // ENOSYS would switch all of them off.
        if inode(ino) != Inode::ROOT || cmd != live::COMMAND {
            return reply.error(Errno::ENOTTY);
        }
        if !is_owner(req) {
            return reply.error(Errno::EPERM);
        }
        match self.run("ioctl", |_| Ok(self.live.answer(in_data))) {
            Ok(answer) => reply.ioctl(0, &answer),
            Err(errno) => reply.error(errno),
        }
    }

    // Everything that writes.

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, _target: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _req: &Request, _ino: INodeNo, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }
}

/// Whether a request is of the user who mounted, or root's.
fn is_owner(req: &Request) -> bool {
    req.uid() == 0 || req.uid() == rustix::process::geteuid().as_raw()
}

impl Adapter {
    fn close(&self, fh: FileHandle, reply: ReplyEmpty) {
        let closed = self.run("release", |vfs| {
            vfs.release(handle(fh));
            Ok(())
        });
        match closed {
            Ok(()) => reply.ok(),
            Err(errno) => {
                warn!("handle {} was not closed", fh.0);
                reply.error(errno);
            }
        }
    }
}
