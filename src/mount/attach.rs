//! Attaches a FUSE connection to a mount point and takes it off again.
//!
//! Not through fuser, whose session unmounts its mount point once more when it ends: by then another daemon may have
//! mounted there. Root mounts with one system call; everyone else goes through `fusermount3`, which is set-uid root.

use std::ffi::{CString, OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use log::debug;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType};

use super::options::MountOptions;
use super::table::{FS_TYPE, Line};
use crate::error::{Error, Result};
use crate::source::as_before;

const DEVICE: &str = "/dev/fuse";
/// Is there where SELinux is in use.
const SELINUX: &str = "/sys/fs/selinux/enforce";
/// The helper, and its name in older packages.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];
/// Names the descriptor over which the helper sends the connection.
const HELPER_SOCKET: &str = "_FUSE_COMMFD";

fn fail(mount_point: &Path, message: impl Into<String>) -> Error {
    Error::Mount { mount_point: mount_point.to_path_buf(), message: message.into() }
}

/// Mounts on `mount_point` and returns the connection. `source` is the name in the mount table unless the options have one.
///
/// # Errors
/// [`Error::Mount`] saying what is missing.
pub(super) fn attach(source: &Path, mount_point: &Path, options: &MountOptions) -> Result<OwnedFd> {
    let source = options.generic.name.as_deref().unwrap_or(source.as_os_str());
    let opened = OpenOptions::new().read(true).write(true).open(DEVICE);
    let device = match opened {
        Ok(device) => OwnedFd::from(device),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            debug!("{DEVICE}: {e}; trying {}", HELPERS[0]);
            return attach_by_helper(source, mount_point, options);
        }
        Err(e) => {
            let advice =
                "load the module with 'modprobe fuse'; a container needs --device /dev/fuse --cap-add SYS_ADMIN";
            return Err(fail(mount_point, format!("cannot open {DEVICE}: {e}; {advice}")));
        }
    };
    let meta = std::fs::metadata(mount_point).map_err(Error::io("stat", mount_point))?;
    let mut data = OsString::from(format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        meta.mode(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    ));
    if options.allow_other {
        data.push(",allow_other");
    }
    // mount(8) leaves them out as well where there is no SELinux, and the kernel does not know them there.
    for context in options.generic.contexts.iter().filter(|_| Path::new(SELINUX).exists()) {
        data.push(",");
        data.push(context);
    }
    let data = CString::new(data.into_vec()).map_err(|e| fail(mount_point, e.to_string()))?;
    let mut flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::NOEXEC, options.generic.noexec);
    flags.set(MountFlags::NOSYMFOLLOW, options.generic.nosymfollow);
    match rustix::mount::mount(source, mount_point, FS_TYPE, flags, data.as_c_str()) {
        Ok(()) => Ok(device),
        Err(Errno::PERM) => attach_by_helper(source, mount_point, options),
        Err(errno) => Err(fail(mount_point, format!("cannot mount: {}", io::Error::from(errno)))),
    }
}

fn attach_by_helper(source: &OsStr, mount_point: &Path, options: &MountOptions) -> Result<OwnedFd> {
    let io = |what: &str, e: io::Error| fail(mount_point, format!("cannot {what}: {e}"));
    if options.generic.nosymfollow {
        return Err(fail(mount_point, "the mount helper does not know nosymfollow; only root can mount so"));
    }
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| io("make a socket", e.into()))?;
    let mut list = OsString::from("ro,nosuid,nodev,default_permissions,subtype=bsfs,fsname=");
    list.push(escape(source));
    for (option, set) in [(",allow_other", options.allow_other), (",noexec", options.generic.noexec)] {
        if set {
            list.push(option);
        }
    }
    // The socket becomes the helper's standard input, so nothing has to change between fork and exec.
    let output = helper(mount_point, theirs.into(), |command| {
        command.env(HELPER_SOCKET, "0").arg("-o").arg(&list).arg("--").arg(mount_point);
    })?;
    if !output.status.success() {
        let said = said(&output);
        return Err(fail(mount_point, format!("{said}{}", advice(&said))));
    }
    receive(&ours).map_err(|e| io("receive the connection from the mount helper", e))
}

/// What to do about a refusal of the mount helper.
fn advice(said: &str) -> &'static str {
    if said.contains(DEVICE) {
        "; root can open the device to all users with 'chmod 666 /dev/fuse'"
    } else if said.contains("Operation not permitted") {
        "; a container needs --device /dev/fuse --cap-add SYS_ADMIN"
    } else {
        ""
    }
}

/// Commas separate options, and the helper takes a backslash off.
fn escape(name: &OsStr) -> OsString {
    let mut bytes = Vec::with_capacity(name.len());
    for &byte in name.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            bytes.push(b'\\');
        }
        bytes.push(byte);
    }
    OsString::from_vec(bytes)
}

fn receive(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut data = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    descriptors.next().and_then(|mut d| d.next()).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// How an unmount went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Detached {
    /// It is off; with `lazy`, off the tree but perhaps served on.
    Done,
    /// It is in use. Nothing happened.
    Busy,
}

/// Takes the mount off. `lazy` takes it off the tree at once; what is open goes on until it is closed.
///
/// # Errors
/// [`Error::Mount`] when the system refuses for another reason than use.
pub(super) fn detach(mount_point: &Path, lazy: bool) -> Result<Detached> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(mount_point, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(Detached::Done),
        Err(Errno::BUSY) => Ok(Detached::Busy),
        Err(Errno::PERM) => {
            let output = helper(mount_point, Stdio::null(), |command| {
                command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(mount_point);
            })?;
            let said = said(&output);
            if output.status.success() {
                Ok(Detached::Done)
            } else if said.contains("busy") {
                Ok(Detached::Busy)
            } else {
                Err(fail(mount_point, said))
            }
        }
        Err(errno) => Err(fail(mount_point, format!("cannot unmount: {}", io::Error::from(errno)))),
    }
}

/// Ends the connection of a mount, so that requests that no thread will answer any more fail, as far as the system lets this
/// process. A process that waits for its own answer cannot even be killed before that.
pub(super) fn abort(line: &Line) {
    let number = line.device.split_once(':').map_or("", |(_, minor)| minor);
    // There for the user who mounted, where this file system is mounted.
    if std::fs::write(format!("/sys/fs/fuse/connections/{number}/abort"), "1").is_err() {
        let _ = rustix::mount::unmount(&line.mount_point, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW);
    }
}

/// Runs the mount helper. Its messages are read, so they are wanted in English.
fn helper(mount_point: &Path, stdin: Stdio, arguments: impl FnOnce(&mut Command)) -> Result<Output> {
    let failed = |e: io::Error| fail(mount_point, format!("cannot run {}: {e}", HELPERS[0]));
    let found = HELPERS.iter().find(|name| {
        let mut probe = Command::new(name);
        probe.arg("-V").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    });
    let Some(name) = found else {
        let advice = "install the package fuse3, or run as root";
        return Err(fail(mount_point, format!("{} is needed and was not found; {advice}", HELPERS[0])));
    };
    let mut command = Command::new(name);
    as_before(&mut command);
    command.env("LC_ALL", "C").stdin(stdin);
    arguments(&mut command);
    command.output().map_err(failed)
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim();
    if text.is_empty() { format!("the mount helper failed ({})", output.status) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_with_commas_is_one_option() {
        assert_eq!(escape(OsStr::new("/a,b\\c")), OsString::from("/a\\,b\\\\c"));
    }
}
