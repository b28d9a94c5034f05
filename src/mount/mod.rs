//! The mount: the only room that knows fuser.
//!
//! [`serve()`] mounts a [`Vfs`](crate::vfs::Vfs) and serves it in this process; [`start`] runs the program again as a
//! daemon that does so; [`unmount()`] ends a mount from outside; [`mounts`] lists them and asks each for its [`Status`].

mod adapter;
mod attach;
mod check;
mod control;
mod daemon;
mod errno;
mod guard;
mod holders;
mod limit;
mod meter;
mod metrics;
mod passthrough;
mod place;
mod readable;
mod serve;
mod status;
mod table;
mod unmount;
mod warm;

pub use control::CONTROL;
pub use daemon::{
    SOURCE_VARIABLE, Started, announce, announce_download, become_daemon, default_log_file, open_log, start,
};
pub use meter::{BOUNDS, Requests};
pub use metrics::metrics;
pub use readable::readable;
pub use serve::{CacheMode, Event, MountOptions, serve};
pub use status::{ATTRIBUTE, Answer, Status, ask};
pub use table::FS_TYPE;
pub use unmount::{MountRecord, Unmounted, mounts, unmount};
pub use warm::Warming;
