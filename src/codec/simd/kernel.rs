//! The kinds of kernels, and detection of those that this machine can run.

use std::sync::OnceLock;

/// The vector instructions that the inner loops use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// None: the definition.
    Scalar,
    /// AVX2 (x86-64).
    Avx2,
    /// AVX-512 with VBMI and VBMI2 (x86-64).
    Avx512,
    /// NEON (aarch64).
    Neon,
}

impl Kernel {
    /// Every kernel, on this machine or not.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Neon];

    /// The name that `BSFS_KERNEL` and `bsfs bench` use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    /// Whether this machine can run it.
    #[must_use]
    pub fn available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("bmi2")
                    && is_x86_feature_detected!("popcnt")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512vbmi2")
                    && is_x86_feature_detected!("bmi2")
                    && is_x86_feature_detected!("popcnt")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            #[cfg(not(all(target_arch = "x86_64", target_arch = "aarch64")))]
            _ => false,
        }
    }

    /// The best that this machine has, or the one that the environment variable `BSFS_KERNEL` names
    /// if the machine has it. Found once.
    #[must_use]
    pub fn detect() -> Self {
        static FOUND: OnceLock<Kernel> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let wanted = std::env::var("BSFS_KERNEL").ok();
            if let Some(name) = wanted.as_deref().filter(|name| !name.is_empty()) {
                match Self::ALL.into_iter().find(|k| k.name() == name && k.available()) {
                    Some(kernel) => return kernel,
                    None => log::warn!("BSFS_KERNEL={name}: this machine has no such kernel; using its best"),
                }
            }
            [Self::Avx512, Self::Avx2, Self::Neon].into_iter().find(|k| k.available()).unwrap_or(Self::Scalar)
        })
    }
}

/// A kernel that this machine can run. Only [`AvailableKernel::new`] constructs one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AvailableKernel(Kernel);

impl AvailableKernel {
    /// The kernel, if this machine has it.
    pub fn new(kernel: Kernel) -> Option<Self> {
        kernel.available().then_some(Self(kernel))
    }

    /// The kernel of [`Kernel::detect`].
    pub fn detect() -> Self {
        Self(Kernel::detect())
    }

    /// The kind of kernel.
    pub const fn kernel(self) -> Kernel {
        self.0
    }
}
