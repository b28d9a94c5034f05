//! Bytes of object stores and web servers, read by ranges. The one place with an async runtime, on a thread of its own; what
//! leaves this room is blocking.

mod resolve;

pub use resolve::{Failure, Location, Resolve, Secret};
