//! The mount: the only room that knows fuser.
//!
//! [`serve()`] mounts a [`Vfs`](crate::vfs::Vfs) and serves it in this process; [`start`] runs the program again as a
//! daemon that does so; [`unmount()`] ends a mount from outside; [`mounts`] lists them and asks each for its [`Status`].

mod adapter;
mod answer;
mod attach;
mod caller;
mod check;
mod connection;
mod control;
mod convert;
mod daemon;
mod device;
mod disk;
mod end;
mod errno;
mod exposition;
mod guard;
mod holders;
mod limit;
mod live;
mod logfile;
mod look;
mod memory;
mod meter;
mod metrics;
mod options;
mod passthrough;
mod pending;
mod place;
mod readable;
mod reporter;
mod requests;
mod rights;
mod serve;
mod signals;
mod slow;
mod status;
mod table;
mod unmount;
mod warm;

pub use caller::CallerGroup;
pub use check::is_below;
pub use control::CONTROL;
pub use daemon::{SOURCE_VARIABLE, Started, announce, announce_download, become_daemon, default_log_file, start};
pub use live::{Changes, Settings, remount};
pub use logfile::{LogFile, open_log};
pub use memory::default_memory;
pub use meter::Requests;
pub use options::{CacheMode, Event, Generic, MountOptions};
pub use readable::readable;
pub use rights::Rights;
pub use serve::serve;
pub use slow::SlowRead;
pub use status::{ATTRIBUTE, Answer, Status, ask};
pub use table::FS_TYPE;
pub use unmount::{MountRecord, Unmounted, mounts, unmount};
pub use warm::Warming;
