//! Promises about mounts and file systems of the tests' own: they need `/dev/fuse`, and some of them root.

#[path = "../common/mod.rs"]
mod common;

mod archives;
mod automount;
mod bigsmall_faults;
mod bigsmall_mount;
mod cache_mount;
mod caller;
mod daemon;
mod delta;
mod delta_hostile;
mod escapes;
mod faults;
mod hostile_mount;
mod hub_mount;
mod limits;
mod lower;
mod mount;
mod numbers;
mod open_files;
mod over;
mod problems;
mod readers;
mod remote_mount;
mod replace;
mod sidecar;
mod start;
mod stopped;
mod stress;
mod troubleshooting;
mod verbs;
mod watch;
