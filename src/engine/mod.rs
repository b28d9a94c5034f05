//! The read side: an open container as the original's bytes, from many threads at once.
//!
//! One [`Engine`] serves all images of a process: it holds the memory cache of decoded chunks and sees to it that a
//! chunk is decoded once however many readers want it. No lock is held while a chunk is read or decoded.

mod bases;
pub(crate) mod buffer;
pub(crate) mod content;

pub(crate) mod cost;
mod decode;
mod disk;

mod finisher;
mod flight;
mod foreign;
mod foreign_state;
mod image;
pub(crate) mod memory;
mod native;
mod read_side;
mod scan;
mod shared;
mod spent;
pub(crate) mod stats;
pub(crate) mod sync;
mod troubles;
mod workers;

pub use bases::{BaseFile, Finder, MAX_DEPTH, Places, References};
pub use buffer::Buffer;
pub use cost::Cost;
pub use decode::decode_into;
pub use finisher::be_nice;
pub use foreign::{ForeignFile, ForeignFormat, ForeignIndex, Needs, read_index};
pub use foreign_state::ForeignState;
pub use image::{Bytes, Image};
pub use read_side::{Engine, EngineConfig};
pub use scan::{Verified, Whole, scan, verify};
#[doc(hidden)]
pub use shared::Core;
pub use shared::{Disk, Keep};
pub use stats::Stats;
pub use troubles::Troubles;
pub use workers::{Job, Lane, Workers};
