//! Where a scan may look, and for what.

use std::path::Path;

use crate::engine::ForeignFormat;

/// Where a scan may look, and for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds<'a> {
    /// The source.
    pub(super) root: &'a Path,
    /// The mount point: looking at it from the daemon would wait for the daemon.
    pub(super) exclude: Option<&'a Path>,
    /// The formats of other packers that are read.
    pub(super) formats: &'static [&'static dyn ForeignFormat],
}
