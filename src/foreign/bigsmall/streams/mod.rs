//! Containers behind an image.
//!
//! Their tensors are serial streams. A tensor is cut into windows, which are the image's chunks; a `pass` decodes them in
//! order, `points` are where later passes enter, and a `stream` decides which pass makes the window that a reader wants.
//!
//! **What is checked when.** The only check in such a file is an MD5 for each tensor. A tensor that is no longer than a quarter
//! of the memory (64 MiB at most) is decoded whole and compared before any of its bytes is given out. Of longer ones bytes
//! are given out as they are decoded; the digest is compared with the last of them, which fails if it is wrong, as does
//! every read of the tensor from then on. So nobody reads all of a damaged tensor without an error.

mod content;
mod limits;
mod pass;
mod points;
mod presented;
mod proof;
mod saved;
mod shared;
mod stream;
#[cfg(all(test, not(shuttle)))]
mod stream_tests;
mod ticket;

pub use content::{Image, Shown, verify};
pub use presented::Presented;
pub use shared::Streams;
