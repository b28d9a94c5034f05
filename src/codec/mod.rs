//! One chunk in, one chunk out: pure functions on slices.
//!
//! A chunk's packed bytes say all that is needed to decode them, given the codec's id and the raw
//! length; nothing depends on other chunks, on threads or on the machine. The functions here are
//! the definition of the bitstreams (written out in [`crate::format::native`]); faster ones must
//! give the same bytes.
//!
//! Packed bytes are untrusted. Every decoder checks what it reads before it uses it, allocates
//! nothing by a number from the stream, runs loops by the raw length alone, and writes exactly the
//! output it was given or fails. Whether the result is *right* only the chunk's checksum tells.

mod bits;
mod classes;
mod cluster;
mod constant;
mod decode;
mod delta;
mod difference;
mod entropy;
mod exponents;
mod grid;
mod grouping;
mod groups;
mod halves;
mod id;
mod memory;
mod numbers;
mod packed;
mod plane;
mod rans;
mod scratch;
mod select;
#[allow(unsafe_code, reason = "vector loads and stores; every block says why it is sound")]
mod simd;
mod sniff;
mod tables;
mod wire;
mod zstd;

pub(crate) use self::zstd::is_one_frame;
pub use decode::{decode, decode_against};
pub use id::Codec;
pub use numbers::Numbers;
pub use packed::Packed;
pub use scratch::Scratch;
pub use select::{Mode, encode, encode_against};
pub use simd::{Kernel, PAD};

#[cfg(test)]
mod against_tests;
#[cfg(test)]
mod tests;
