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
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use log::debug;
use rustix::fs::OFlags;

use super::answer::Answer;
use super::control::{Control, FILES, What};
use super::convert::{absent, attributes, generation, handle, inode, kind};
use super::live::{self, Live};
use super::passthrough::Passthrough;
use super::pending::{MOMENT, Reply, Subject};
use super::requests::{OWN, Requests, nothing};
use super::status;
use crate::source::waits;
use crate::vfs::{Attr, FsFigures, Handle, Inode, Moment, Vfs};

/// The largest request, bytes. Larger ones gain nothing and make a cold fault slow.
const MAX_REQUEST: u32 = 1024 * 1024;
/// The longest time for which the kernel may believe that a name does not exist.
const MAX_ABSENT: Duration = Duration::from_secs(5);
/// What the names of attributes of shown files begin with. They are given to who asks by name, and not listed: what copies a file
/// with its attributes would take them along.
const FACTS: &str = "user.bsfs.";
/// That of the hidden directory and of what does not exist.
const GENERATION: Generation = Generation(0);

/// Makes the answer to the status attribute, with names of files or without.
pub(super) type Report = Arc<dyn Fn(bool) -> Vec<u8> + Send + Sync>;

/// A tree as fuser sees it.
pub(super) struct Adapter {
    pub(super) requests: Requests,
    pub(super) live: Arc<Live>,
    /// How many requests may wait in the background.
    pub(super) background: u16,
    pub(super) report: Report,
    /// The hidden directory.
    pub(super) control: Arc<Control>,
    /// Time that went into answers to reads, which is the kernel's copy into its pages; nanoseconds.
    pub(super) replying: Arc<AtomicU64>,
    pub(super) passthrough: Arc<Passthrough>,
    /// There is a disk cache, whose files the kernel may read by itself.
    pub(super) caching: bool,
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
        let none = |(), reply: ReplyEntry| reply.error(Errno::ENOENT);
        match Control::find(parent.0, name) {
            Some(Some(what)) => {
                let give = |attr: Attr, reply: ReplyEntry| reply.entry(&Duration::ZERO, &attributes(&attr), GENERATION);
                return self.own("lookup", reply, move |control| control.attr(what), give);
            }
            Some(None) => return self.requests.at_once("lookup", reply, |_| Ok(()), none),
            None => {}
        }
        let (parent, name, ttl) = (inode(parent), name.to_owned(), self.live.ttl());
        let lane = self.requests.vfs.lane_of_name(parent, &name);
        self.requests.later(
            ("lookup", lane, Subject::Name(parent, name.clone())),
            reply,
            move |vfs| vfs.lookup(parent, &name),
            move |found, reply| match found {
                Some(attr) => reply.entry(&ttl, &attributes(&attr), generation(&attr)),
                None => reply.entry(&ttl.min(MAX_ABSENT), &absent(), GENERATION),
            },
            |found, vfs| found.iter().for_each(|attr| vfs.forget(attr.inode, 1)),
        );
    }

    fn forget(&self, _req: &Request, ino: INodeNo, count: u64) {
        // Has no answer; what goes wrong is counted and logged.
        let _ = self.requests.guard.run("forget", || {
            self.requests.vfs.forget(inode(ino), count);
            Ok(())
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        if let Some(what) = Control::what(ino.0) {
            let give = |attr: Attr, reply: ReplyAttr| reply.attr(&Duration::ZERO, &attributes(&attr));
            return self.own("getattr", reply, move |control| control.attr(what), give);
        }
        let (ino, ttl) = (inode(ino), self.live.ttl());
        let give = move |attr: Attr, reply: ReplyAttr| reply.attr(&ttl, &attributes(&attr));
        match self.requests.guard.catch("getattr", || self.requests.vfs.getattr_known(ino)) {
            Ok(Some(attr)) => self.requests.at_once("getattr", reply, |_| Ok(attr), give),
            Ok(None) => {
                let about = ("getattr", self.requests.vfs.lane(ino), Subject::Inode(ino));
                let work = move |vfs: &Vfs| vfs.getattr(ino);
                // Whatever hangs, the mount itself is reached: every path leads through its root, and the mount is asked there
                // what is wrong with it.
                match self.requests.guard.catch("getattr", || self.requests.vfs.last_attr(ino)) {
                    Ok(Some(attr)) if ino == Inode::ROOT && waits::longest() >= MOMENT => {
                        self.requests.at_once("getattr", reply, |_| Ok(attr), give);
                    }
                    Ok(Some(attr)) if ino == Inode::ROOT => {
                        self.requests.soon(about, reply, work, give, move |reply| give(attr, reply));
                    }
                    _ => self.requests.later(about, reply, work, give, nothing),
                }
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let read = |vfs: &Vfs| vfs.read_link(inode(ino));
        self.requests.at_once("readlink", reply, read, |text, reply| reply.data(&text));
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        if let Some(What::File(at)) = Control::what(ino.0) {
            // Its length is another at each look.
            let give = |handle, reply: ReplyOpen| reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
            return self.own("open", reply, move |control| control.open(at), give);
        }
        let direct = OFlags::from_bits_retain(flags.0.cast_unsigned()).contains(OFlags::DIRECT);
        let (passthrough, vfs, node) = (Arc::clone(&self.passthrough), Arc::clone(&self.requests.vfs), inode(ino));
        self.requests.later(
            ("open", vfs.lane(node), Subject::Inode(node)),
            reply,
            move |vfs| vfs.open(node),
            move |handle, reply| {
                passthrough.open(ino, FileHandle(handle.0), direct, || vfs.sealed(handle), reply);
            },
            |handle, vfs| vfs.release(handle),
        );
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
            let read = |bytes: &[u8], reply: ReplyData| reply.data(bytes);
            return self.requests.at_once(
                "read",
                reply,
                |_| Ok(()),
                |(), reply| {
                    self.control.read(fh.0, offset, size, |bytes| read(bytes, reply));
                },
            );
        }
        let Requests { vfs, guard, pendings, .. } = &self.requests;
        let answer = Answer {
            pending: pendings.add("read", Subject::Handle(handle(fh)), reply),
            vfs: Arc::clone(vfs),
            guard: Arc::clone(guard),
            replying: self.replying.clone(),
            handle: handle(fh),
            offset,
            size,
        };
        // The answer is given here for what is in memory, by another thread otherwise. A panic drops it, which counts it.
        let read = || vfs.read_with(handle(fh), offset, size, move |result| answer.give(result));
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
            let release = |(), reply: ReplyEmpty| {
                self.control.release(fh.0);
                reply.ok();
            };
            return self.requests.at_once("release", reply, |_| Ok(()), release);
        }
        let passthrough = Arc::clone(&self.passthrough);
        self.close(fh, reply, move || passthrough.release(ino));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if Control::what(ino.0).is_some() {
            return reply.opened(FileHandle(ino.0), FopenFlags::empty());
        }
        let node = inode(ino);
        self.requests.later(
            ("opendir", self.requests.vfs.lane(node), Subject::Inode(node)),
            reply,
            move |vfs| vfs.opendir(node),
            |handle, reply| reply.opened(FileHandle(handle.0), FopenFlags::empty()),
            |handle, vfs| vfs.release(handle),
        );
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        if Control::has_handle(fh.0) {
            let first = usize::try_from(offset).unwrap_or(usize::MAX);
            let list = |(), mut reply: ReplyDirectory| {
                for (at, name) in FILES.iter().enumerate().skip(first) {
                    let file = Control::inode(What::File(at));
                    if reply.add(INodeNo(file.0), at as u64 + 1, FileType::RegularFile, name) {
                        break;
                    }
                }
                reply.ok();
            };
            return self.requests.at_once("readdir", reply, |_| Ok(()), list);
        }
        self.list("readdir", (handle(fh), offset), reply, move |(moment, _), mut reply| {
            moment.items(offset, |item| !reply.add(INodeNo(item.inode.0), item.next, kind(item.kind), item.name));
            reply.ok();
        });
    }

    fn readdirplus(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        if Control::has_handle(fh.0) {
            let first = usize::try_from(offset).unwrap_or(usize::MAX);
            let files = move |control: &Control| {
                let files = (0..FILES.len()).map(|at| attributes(&control.attr(What::File(at))));
                files.collect::<Vec<_>>()
            };
            return self.own("readdirplus", reply, files, move |files, mut reply| {
                for (at, (file, name)) in files.iter().zip(FILES).enumerate().skip(first) {
                    if reply.add(file.ino, at as u64 + 1, name, &Duration::ZERO, file, GENERATION) {
                        break;
                    }
                }
                reply.ok();
            });
        }
        let ttl = self.live.ttl();
        self.list("readdirplus", (handle(fh), offset), reply, move |(moment, vfs), mut reply| {
            vfs.items_plus(&moment, offset, |item, attr| {
                let (attr, generation) = (attributes(attr), generation(attr));
                !reply.add(attr.ino, item.next, item.name, &ttl, &attr, generation)
            });
            reply.ok();
        });
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        if Control::has_handle(fh.0) {
            return reply.ok();
        }
        // Closes nothing in the source.
        let release = |vfs: &Vfs| {
            vfs.release(handle(fh));
            Ok(())
        };
        self.requests.at_once("release", reply, release, |(), reply| reply.ok());
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let about = ("statfs", self.requests.vfs.lane(Inode::ROOT), Subject::Inode(Inode::ROOT));
        let give = |f: FsFigures, reply: ReplyStatfs| {
            reply.statfs(f.blocks, f.free, f.available, f.files, f.files_free, f.block, f.name_max, f.fragment);
        };
        self.requests.later(about, reply, |vfs| Ok(vfs.statfs()), give, nothing);
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if inode(ino) == Inode::ROOT && name == status::ATTRIBUTE {
            let (report, names) = (Arc::clone(&self.report), is_owner(req));
            let work = move |_: &Control| Some(report(names));
            return self.own("status", reply, work, move |text, reply| value(text, size, reply));
        }
        let fact = |vfs: &Vfs| match name.to_str().and_then(|name| name.strip_prefix(FACTS)) {
            Some(fact) if Control::what(ino.0).is_none() => Ok(vfs.xattr(inode(ino), fact)?.map(String::into_bytes)),
            _ => Ok(None),
        };
        self.requests.at_once("getxattr", reply, fact, |fact, reply| value(fact, size, reply));
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
        let (live, question) = (Arc::clone(&self.live), in_data.to_vec());
        let give = |answer: Vec<u8>, reply: ReplyIoctl| reply.ioctl(0, &answer);
        self.own("ioctl", reply, move |_| live.answer(&question), give);
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
    /// Answers with what this process itself has to say, on another thread.
    fn own<R: Reply, T: 'static>(
        &self,
        op: &'static str,
        reply: R,
        work: impl FnOnce(&Control) -> T + Send + 'static,
        give: impl FnOnce(T, R) + Send + 'static,
    ) {
        let control = Arc::clone(&self.control);
        self.requests.later((op, OWN, Subject::Mount), reply, move |_| Ok(work(&control)), give, nothing);
    }

    /// Answers with the names of an open directory: at once, unless they are to be read anew.
    fn list<R: Reply>(
        &self,
        op: &'static str,
        (handle, offset): (Handle, u64),
        reply: R,
        give: impl FnOnce((Moment, Arc<Vfs>), R) + Send + 'static,
    ) {
        let vfs = Arc::clone(&self.requests.vfs);
        let (rewound, lane) = (vfs.is_rewound(handle, offset), vfs.lane_of_handle(handle));
        let work = move |_: &Vfs| Ok((vfs.moment(handle, offset)?, vfs));
        if rewound {
            self.requests.later((op, lane, Subject::Handle(handle)), reply, work, give, nothing);
        } else {
            self.requests.at_once(op, reply, work, give);
        }
    }

    /// Closes a file, after what is done `before`. The kernel tells it once, and no program waits for the reply.
    fn close(&self, fh: FileHandle, reply: ReplyEmpty, before: impl FnOnce() + Send + 'static) {
        let handle = handle(fh);
        let lane = self.requests.vfs.lane_of_handle(handle);
        reply.ok();
        self.requests.afterwards("release", lane, move |vfs| {
            before();
            vfs.release(handle);
            Ok(())
        });
    }
}

/// Answers with the value of an extended attribute.
fn value(value: Option<Vec<u8>>, size: u32, reply: ReplyXattr) {
    let Some(value) = value else { return reply.error(Errno::NO_XATTR) };
    match (size as usize, value.len()) {
        (_, len) if len > status::MAX_BYTES => reply.error(Errno::E2BIG),
        // Counters grow between the question for the size and the one for the value.
        (0, len) => reply.size(len.saturating_add(256).min(status::MAX_BYTES).try_into().unwrap_or(u32::MAX)),
        (room, len) if room < len => reply.error(Errno::ERANGE),
        _ => reply.data(&value),
    }
}
