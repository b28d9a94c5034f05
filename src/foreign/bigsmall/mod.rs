//! The containers of the Python package `bigsmall`, releases 1.0 to 4.0: read, shown as safetensors files, and written.
//!
//! [`format`](mod@format) reads and writes the container, [`codec`] its coders, [`streams`] are what an image reads, and
//! [`export()`] makes a container of a safetensors file.

pub mod codec;
mod export;
pub mod format;
mod read;
pub mod streams;

pub use export::{Exported, export, export_to};
pub use read::{BigSmall, open};
pub use streams::Presented;

/// The word for the format.
pub(crate) const NAME: &str = "bigsmall";
