//! A read-only tree without a kernel: the source directory as it is shown.
//!
//! `X.safetensors.bs` is shown as `X.safetensors` with the original's size and times, a model that the Python package
//! `bigsmall` packed as the safetensors files that readers expect, every other file as it is; links are followed.
//! `name` holds the rule; `scan` reads a directory, with `packed` for containers and `shards` for models in several of
//! `bigsmall`'s; `tree` keeps the inodes, `open` reads files, `base` finds what deltas refer to.
//! Methods take inode numbers and handles as FUSE does, and know nothing of FUSE otherwise.
//!
//! **What is shown is what is there.** A lookup, an open or a new listing compares with the source (a few `stat`s)
//! and scans again when something changed. An inode stands for one version of a file: its size and contents never
//! change, and [`Vfs::open`] refuses it as stale once its path leads to another version. Files that are open keep the
//! version that they opened.

mod attr;
mod bounds;
mod class;
mod directory;
mod first_look;
mod fs;
mod handles;
mod ids;
mod lanes;
mod link;
mod name;
mod names;
mod number;
mod open;
mod opener;
mod packed;
mod scan;
mod scan_lock;
mod shard_index;
mod shards;
mod traffic;
mod tree;
mod version;
mod xattr;

pub use attr::{Attr, BLOCK_SIZE, FsFigures, Item, Kind, Time};
pub use directory::Moment;
pub use fs::{Vfs, VfsConfig, VfsStats};
pub use ids::{Handle, Inode};
pub use open::Data;
pub use traffic::FileTraffic;
