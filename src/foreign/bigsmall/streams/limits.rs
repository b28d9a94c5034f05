//! Lengths that all of the streams keep to.

/// Bytes of a window; a multiple of every element's size. Where interleavings are explored they are short.
pub const WINDOW: u64 = if cfg!(shuttle) { 64 } else { 512 << 10 };
/// Tensors up to a quarter of the memory, and to this, are proven before they are given out.
pub const PROVEN_FIRST: u64 = 64 << 20;
/// Points of a stream are at least so far apart, bytes.
pub const APART: u64 = 2 * WINDOW;
/// What a pass holds in memory, about, bytes.
pub const PASS: u64 = 2 << 20;
