//! What the open files of one foreign format share in an engine.

use std::any::Any;
use std::fmt::Debug;

use super::stats::Reads;

/// What the open files of one format share in an engine.
pub trait ForeignState: Any + Debug + Send + Sync {
    /// Bytes of the checkpoints at which streams can be entered.
    fn checkpoint_bytes(&self) -> u64;

    /// Reads of packed bytes so far.
    fn reads(&self) -> &Reads;
}
