//! Buffers and contexts that encoding and decoding reuse from chunk to chunk.

use super::simd::{AvailableKernel, Kernel};
use super::{classes, delta, difference, exponents, grid, plane, zstd};

/// Buffers and contexts that encoding and decoding reuse from chunk to chunk, and the kernel to
/// run. Each concurrent operation needs its own.
pub struct Scratch {
    pub(super) kernel: AvailableKernel,
    pub(super) planes: plane::Scratch,
    pub(super) classes: classes::Scratch,
    pub(super) exponents: exponents::Scratch,
    pub(super) grid: grid::Scratch,
    pub(super) delta: delta::Scratch,
    pub(super) difference: difference::Scratch,
    pub(super) zstd: zstd::Scratch,
    pub(super) spare: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::on(AvailableKernel::detect())
    }
}

impl Scratch {
    /// With this kernel instead of [`Kernel::detect`]'s; `None` when the machine cannot run it.
    #[must_use]
    pub fn with_kernel(kernel: Kernel) -> Option<Self> {
        AvailableKernel::new(kernel).map(Self::on)
    }

    fn on(kernel: AvailableKernel) -> Self {
        Self {
            kernel,
            planes: plane::Scratch::default(),
            classes: classes::Scratch::default(),
            exponents: exponents::Scratch::default(),
            grid: grid::Scratch::default(),
            delta: delta::Scratch::default(),
            difference: difference::Scratch::default(),
            zstd: zstd::Scratch::default(),
            spare: Vec::new(),
        }
    }

    /// Bytes of memory held, approximately.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.planes.memory()
            + self.classes.memory()
            + self.exponents.memory()
            + self.grid.memory()
            + self.delta.memory()
            + self.difference.memory()
            + self.zstd.memory()
            + self.spare.capacity()
    }

    /// The kernel that encoding and decoding use.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel.kernel()
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scratch")
    }
}
