//! Promises about mounts and file systems of the tests' own: they need `/dev/fuse`, and some of them root.

#[path = "../common/mod.rs"]
mod common;

mod archives;
mod bigsmall_mount;
mod cache_mount;
mod daemon;
mod delta;
mod delta_hostile;
mod faults;
mod hostile_mount;
mod hub_mount;
mod lower;
mod mount;
mod over;
mod remote_mount;
mod replace;
mod sidecar;
mod start;
mod stopped;
mod stress;
mod troubleshooting;
mod watch;
