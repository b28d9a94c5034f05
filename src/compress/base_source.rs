//! A file whose tensors may be referred to, as the write side reads it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::plan;
use crate::error::{Error, Result};
use crate::format::checksum::blake3_of;
use crate::source::{FileSource, Identity, ReadAt};
use crate::tensor::TensorInfo;

/// Shorter tensors are not referred to: the reference would cost as much.
pub(super) const LEAST: u64 = 1 << 10;

/// A file whose tensors may be referred to.
pub struct BaseSource {
    source: Arc<dyn ReadAt>,
    /// The file itself, if it is plain: it must not change while it is in use.
    plain: Option<Arc<FileSource>>,
    pub(super) hint: String,
    pub(super) tensors: Vec<TensorInfo>,
    /// BLAKE3 of each tensor, as far as it is known.
    digests: Mutex<Vec<Option<[u8; 32]>>>,
}

impl std::fmt::Debug for BaseSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BaseSource").field(&self.source.path()).finish()
    }
}

impl BaseSource {
    /// A plain safetensors file, or an archive of stored numbers.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is neither; those of the source.
    pub fn plain(source: Arc<FileSource>) -> Result<Self> {
        Ok(Self { plain: Some(Arc::clone(&source)), ..Self::new(source, &[])? })
    }

    /// A safetensors file, wherever its bytes come from. `digests` has BLAKE3 of the tensors for which
    /// it is known, by offset in the file and length.
    ///
    /// # Errors
    /// Those of [`Self::plain`].
    pub fn new(source: Arc<dyn ReadAt>, digests: &[((u64, u64), [u8; 32])]) -> Result<Self> {
        let path = source.path();
        let no = || {
            Error::invalid(format!(
                "{}: neither a safetensors file nor an archive of stored numbers, and so no base",
                path.display()
            ))
        };
        let tensors = plan::tensors(&*source)?;
        if tensors.is_empty() {
            return Err(no());
        }
        let digests: HashMap<_, _> = digests.iter().copied().collect();
        let digests = tensors.iter().map(|t| digests.get(&(t.offset, t.len)).copied()).collect();
        Ok(Self { hint: hint(path), plain: None, tensors, digests: Mutex::new(digests), source })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    pub(super) fn read(&self, tensor: &TensorInfo, offset: u64, out: &mut [u8]) -> Result<()> {
        self.source.read_exact_at(tensor.offset + offset, out)
    }

    pub(super) fn digest(&self, at: usize) -> Result<[u8; 32]> {
        let known = || self.digests.lock();
        if let Some(digest) = known().get(at).copied().flatten() {
            return Ok(digest);
        }
        let no = || Error::invalid(format!("{}: no tensor {at}", self.path().display()));
        let tensor = self.tensors.get(at).ok_or_else(no)?;
        let digest = blake3_of(tensor.offset, tensor.len, |at, out| self.source.read_exact_at(at, out))?;
        if let Some(slot) = known().get_mut(at) {
            *slot = Some(digest);
        }
        Ok(digest)
    }

    /// The number of the tensor with this offset and length.
    pub(super) fn tensor(&self, offset: u64, len: u64) -> Option<usize> {
        let from = self.tensors.partition_point(|t| t.offset < offset);
        let here = self.tensors.iter().enumerate().skip(from).take_while(|(_, t)| t.offset == offset);
        // Empty tensors may lie at the offset of the one behind them.
        here.into_iter().find(|(_, t)| t.len == len).map(|(at, _)| at)
    }

    /// Sets the digest of a tensor that was read in this version of the file.
    ///
    /// # Errors
    /// [`Error::Changed`] when another version is open.
    pub(super) fn set_digest(&self, tensor: usize, digest: [u8; 32], version: Identity) -> Result<()> {
        if self.source.identity() != Some(version) {
            return Err(Error::Changed { path: self.path().into() });
        }
        if let Some(slot) = self.digests.lock().get_mut(tensor) {
            *slot = Some(digest);
        }
        Ok(())
    }

    pub(super) fn check(&self) -> Result<()> {
        match &self.plain {
            Some(plain) if !plain.unchanged()? => Err(Error::Changed { path: self.path().into() }),
            _ => Ok(()),
        }
    }
}

/// The last components of a path, as containers store them: enough to find the file again, and the
/// Hub repository that it is in.
fn hint(path: &Path) -> String {
    let parts: Vec<_> = path
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(part) => Some(part.to_string_lossy()),
            _ => None,
        })
        .collect();
    // In a cache of the Hub four: models--org--name/snapshots/commit/file.
    let hub = parts.iter().rposition(|part| part.starts_with("models--")).filter(|at| parts.len() - at <= 8);
    let from = hub.unwrap_or(parts.len().saturating_sub(2));
    parts.get(from..).unwrap_or_default().join("/")
}
