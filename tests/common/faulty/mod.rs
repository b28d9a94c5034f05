//! A file system for tests, that fails and forgets: reads that differ from what was written, errors at any request, a full disk,
//! and what is left when the power goes (`crash`). Over `/dev/fuse`; mounting takes root.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

pub mod crash;
pub mod disk;
mod serve;

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use disk::Disk;
use fuser::{Config, Session, SessionACL};

/// Longer than any request or answer.
const LONGEST: usize = 1 << 20;
/// Numbers of requests, and where a request has its own.
const FUSE_CREATE: u32 = 35;
const FUSE_TMPFILE: u32 = 51;
const OPCODE: std::ops::Range<usize> = 4..8;

/// A mount of a [`Disk`], gone when it is dropped.
pub struct Faulty {
    pub point: PathBuf,
    pub disk: Arc<Disk>,
    /// Closed to end who serves it.
    serving: Option<(PipeWriter, JoinHandle<()>)>,
}

impl Faulty {
    /// Mounts on `point`. Whether files without a name (`O_TMPFILE`) can be made there is said by `nameless`. `None` where mounting
    /// is not allowed.
    pub fn mount(point: &Path, disk: Arc<Disk>, nameless: bool) -> Option<Self> {
        if !crate::common::root_for("mounting a file system of the test") {
            return None;
        }
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let (at, options) = (CString::new(point.as_os_str().as_bytes()).unwrap(), CString::new(options).unwrap());
        // SAFETY: strings that outlive the call.
        let done = unsafe {
            libc::mount(
                c"faulty".as_ptr(),
                at.as_ptr(),
                c"fuse.faulty".as_ptr(),
                libc::MS_NOSUID | libc::MS_NODEV,
                options.as_ptr().cast(),
            )
        };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        let (kernel, server) = sockets();
        let (stop, stopped) = io::pipe().map(|(read, write)| (write, read)).unwrap();
        let between = std::thread::spawn(move || carry(device, File::from(kernel), stopped.as_raw_fd(), nameless));
        let session = {
            let mut config = Config::default();
            config.acl = SessionACL::All;
            Session::from_fd(serve::Server(Arc::clone(&disk)), server, SessionACL::All, config).unwrap()
        };
        // It ends with an error when its socket is closed.
        std::thread::spawn(move || drop(session.run()));
        Some(Self { point: point.to_path_buf(), disk, serving: Some((stop, between)) })
    }

    /// Nobody serves it any more, as when a daemon was killed; it stays mounted.
    pub fn die(&mut self) {
        if let Some((stop, between)) = self.serving.take() {
            drop(stop);
            between.join().unwrap();
        }
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.disk.release();
        let at = CString::new(self.point.as_os_str().as_bytes()).unwrap();
        // SAFETY: a string that outlives the call.
        unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
        self.die();
    }
}

/// A pair of sockets that keep requests apart and take long ones.
fn sockets() -> (OwnedFd, OwnedFd) {
    let mut pair: [RawFd; 2] = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: two descriptors are written to where there is room for two.
    assert_eq!(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) }, 0);
    let room = 4 * LONGEST as libc::c_int;
    for fd in pair {
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: a number that outlives the call.
        let done = unsafe {
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, std::ptr::from_ref(&room).cast(), size)
        };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    }
    // SAFETY: both are open and nobody else's.
    pair.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).into()
}

/// Carries requests from the kernel to the server and answers back, until `stop` is closed or the mount is gone. The server's library
/// does not know files without a name: they are made as files called "/", which is what the kernel calls them.
fn carry(mut device: File, mut server: File, stop: RawFd, nameless: bool) {
    let mut buffer = vec![0; LONGEST];
    loop {
        let wait = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut ready = [wait(device.as_raw_fd()), wait(server.as_raw_fd()), wait(stop)];
        // SAFETY: three entries are given, and all are open.
        let polled = unsafe { libc::poll(ready.as_mut_ptr(), 3, -1) };
        if polled < 0 && io::Error::last_os_error().kind() == ErrorKind::Interrupted {
            continue;
        }
        if polled < 0 || ready[2].revents != 0 {
            return;
        }
        if ready[1].revents != 0 {
            match server.read(&mut buffer) {
                // What the kernel does not want any more is no loss.
                Ok(len) if len > 0 => drop(device.write(&buffer[..len])),
                _ => return,
            }
        }
        if ready[0].revents != 0 {
            match device.read(&mut buffer) {
                Ok(len) => {
                    if nameless && buffer[OPCODE] == FUSE_TMPFILE.to_ne_bytes() {
                        buffer[OPCODE].copy_from_slice(&FUSE_CREATE.to_ne_bytes());
                    }
                    if server.write(&buffer[..len]).is_err() {
                        return;
                    }
                }
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return,
                Err(_) => {}
            }
        }
    }
}
