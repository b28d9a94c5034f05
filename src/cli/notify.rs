//! Tells a service manager that waits for it how far this process is: `Type=notify` of systemd.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends a state, for example `READY=1`, to whom `$NOTIFY_SOCKET` names. Nobody there is no error: the service manager notices
/// by itself what it is not told.
pub fn notify(state: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        let sent = address(&socket).and_then(|to| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &to));
        if let Err(error) = sent {
            log::debug!("cannot tell the service manager: {error}");
        }
    }
}

/// A path, or behind `@` a name that is in no file system.
fn address(socket: &OsStr) -> std::io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(OsStr::from_bytes(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_are_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let name = format!("@bsfs-test-{}", std::process::id());
        for socket in [path.as_os_str(), OsStr::new(&name)] {
            let listener = UnixDatagram::bind_addr(&address(socket).unwrap()).unwrap();
            UnixDatagram::unbound().unwrap().send_to_addr(b"READY=1", &address(socket).unwrap()).unwrap();
            let mut got = [0; 16];
            let len = listener.recv(&mut got).unwrap();
            assert_eq!(&got[..len], b"READY=1");
        }
    }
}
