//! What all parts of an open cache know: its directory, its bounds, what it counts.

use std::sync::Arc;

use super::counters::Counts;
use super::dir::Dir;
use super::epoch::Presence;
use super::limits::Limits;

/// What all parts of an open cache know.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) dir: Arc<Dir>,
    pub(super) limits: Limits,
    pub(super) counts: Counts,
    /// What verified markers have to quote.
    pub(super) epoch: Option<u64>,
    pub(super) read_only: bool,
    pub(super) _presence: Option<Presence>,
}
