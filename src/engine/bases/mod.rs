//! Bases: the files whose tensors a delta or a container with shared tensors refers to.
//!
//! [`Finder`] looks for them, for our containers and for those of other packers, and [`BaseFile`] reads
//! one of them: a plain safetensors file or one in any container. What a search found is bound to the
//! image that needs it and never changes. A file is bound only after its own bases were bound, so
//! references form no circle and a chunk never waits for itself, whatever the indexes claim.
//!
//! Text in a container about where its base was is not trusted. Only its last components are used, as
//! names below directories that the user named or that the container itself lies in. A digest decides
//! whether a file is the right one.

mod base_file;
mod file_names;
mod finder;
mod foreign;
mod image;
mod lazy;
mod references;
mod search;

pub use base_file::BaseFile;
pub use finder::{Finder, Places};
pub(super) use lazy::LazyReferences;
pub use references::{MAX_DEPTH, References};
pub(super) use references::{gather, itself};
