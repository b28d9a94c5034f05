//! Lossless compressed model weights, mounted as the plain files they came from.
//!
//! `bsfs compress` packs a file of weights into a container (`.bs`), about a third smaller for BF16; `bsfs mount`
//! shows a directory of containers as the original files, byte for byte, decoding on demand.
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//! use std::sync::Arc;
//! use bsfs::{codec::Mode, compress, engine, format::Container, parallel, source::FileSource};
//!
//! # fn main() -> bsfs::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! let (plain, packed) = (dir.path().join("weights.bin"), dir.path().join("weights.bin.bs"));
//! std::fs::write(&plain, vec![7; 1_000_000]).unwrap();
//!
//! let stop = AtomicBool::new(false);
//! let options = compress::Options {
//!     mode: Mode::Balanced,
//!     chunk_len: None,
//!     force: false,
//!     against: None,
//!     stop: &stop,
//! };
//! let report = compress::compress(&parallel::pool(2)?, &plain, &packed, &options, &())?;
//! assert!(report.packed_bytes < 1000);
//!
//! let source = Arc::new(FileSource::open(&packed)?);
//! let container = Arc::new(Container::open(&*source)?);
//! let engine = engine::Engine::new(engine::EngineConfig::default());
//! let image = engine.image(container, source);
//! assert_eq!(image.len(), 1_000_000);
//! assert_eq!(&*image.read_at(999_990, 100)?, [7; 10]);
//! # Ok(())
//! # }
//! ```
//!
//! The modules; an import only points down (`tests/plain/layers.rs` keeps it so):

#![deny(missing_docs, unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod access;
pub mod cache;
pub mod codec;
pub mod compress;
pub mod engine;
pub mod error;
pub mod escape;
pub mod foreign;
pub mod format;
#[cfg(feature = "hub")]
pub mod hub;
pub mod longpath;
pub mod memory;
#[cfg(feature = "mount")]
pub mod mount;
pub mod parallel;
pub mod sink;
pub mod source;
pub mod tensor;
pub mod vfs;

pub use error::{Error, Result};
