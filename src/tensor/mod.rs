//! What a file of weights says of itself: element types, and where which tensor lies.
//!
//! Input is bytes, output is a proposal. A parser is a hint and never a gate: whatever looks odd is left out of
//! the proposal and so carried as plain bytes.

pub mod archive;
pub mod dtype;
pub mod header;

pub use dtype::ElemType;
pub use header::{Header, TensorInfo};
