//! The connection to the kernel while it begins.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fuser::{Config, Session};
use log::warn;

use super::adapter::Adapter;
use super::attach::{abort, detach};
use super::status::{Answer, ask};
use super::table::{self};
use crate::error::{Error, Result};

/// How long the kernel's first request may take.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// Begins to serve a connection. The kernel's first request waits there since it was mounted; where somebody else has taken it, it
/// never comes.
pub(super) fn connect(
    adapter: Adapter,
    device: OwnedFd,
    config: Config,
    mount_point: &Path,
) -> Result<Session<Adapter>> {
    let (send, receive) = mpsc::channel();
    let begin = move || {
        let acl = config.acl;
        // Nobody waits any more when this fails.
        let _ = send.send(Session::from_fd(adapter, device, acl, config));
    };
    thread::Builder::new().name("connect".into()).spawn(begin).map_err(Error::io("start a thread", mount_point))?;
    match receive.recv_timeout(FIRST_REQUEST) {
        Ok(session) => session.map_err(Error::io("start the connection", mount_point)),
        Err(_) => {
            let message = "nothing came over the connection; is it mounted, and served by nobody else?".to_owned();
            Err(Error::Mount { mount_point: mount_point.to_path_buf(), message })
        }
    }
}

/// Takes the mount off again when setting up fails half way.
pub(super) struct Mounted<'a> {
    pub(super) mount_point: &'a Path,
}

impl Mounted<'_> {
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Ok(Some(line)) = table::find(self.mount_point)
            && line.is_ours()
        {
            abort(&line);
        }
        // Aborted by force it may be off already.
        if !table::find(self.mount_point).is_ok_and(|line| line.is_some_and(|line| line.is_ours())) {
            return;
        }
        if let Err(e) = detach(self.mount_point, true) {
            warn!("{e}");
        }
    }
}

/// Whether what answers at the mount point is this process.
pub(super) fn confirm(mount_point: &Path) -> Result<()> {
    let message = match ask(mount_point) {
        Answer::Live(status) if status.pid == std::process::id() => return Ok(()),
        Answer::Live(status) => format!("process {} mounted here at the same time", status.pid),
        Answer::Dead => "the connection ended while the mount was made".to_owned(),
        Answer::Denied => "the mount does not let its own user in".to_owned(),
        Answer::Silent(why) => format!("the mount does not answer: {why}"),
    };
    Err(Error::Mount { mount_point: mount_point.to_path_buf(), message })
}
