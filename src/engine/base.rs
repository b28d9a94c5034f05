//! What deltas refer to: the tensors of another file, by name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Cost, Image};
use crate::error::{Error, Result};
use crate::source::ReadAt;
use crate::tensor::header::Header;

/// Raw bytes of tensors. Called from many threads at once.
pub trait Base: Send + Sync {
    /// The file that errors name.
    fn path(&self) -> &Path;

    /// Length of a tensor, bytes; `None` when there is none of this name.
    fn tensor_len(&self, name: &str) -> Option<u64>;

    /// Fills `out` with bytes of a tensor from `offset`, all of which are inside the tensor.
    ///
    /// # Errors
    /// Those of the file.
    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<()>;
}

/// A safetensors file as a base: a plain one, or one that a container holds.
pub struct FileBase {
    bytes: From,
    path: PathBuf,
    /// Offset in the file and length, bytes.
    tensors: HashMap<String, (u64, u64)>,
}

enum From {
    Plain(Arc<dyn ReadAt>),
    Image(Image),
}

impl From {
    fn read(&self, path: &Path, offset: u64, out: &mut [u8]) -> Result<()> {
        match self {
            Self::Plain(source) => Cost::of_source(|| source.read_exact_at(offset, out)),
            Self::Image(image) => image.read_exact_at(path, offset, out),
        }
    }
}

impl FileBase {
    /// A plain safetensors file.
    ///
    /// # Errors
    /// Those of reading it; [`Error::Invalid`] when it is no safetensors file.
    pub fn plain(source: Arc<dyn ReadAt>) -> Result<Self> {
        let (path, len) = (source.path().to_path_buf(), source.len());
        Self::new(From::Plain(source), path, len)
    }

    /// A safetensors file in a container, whose path errors name.
    ///
    /// # Errors
    /// The same.
    pub fn image(image: Image, path: &Path) -> Result<Self> {
        let len = image.len();
        Self::new(From::Image(image), path.into(), len)
    }

    fn new(bytes: From, path: PathBuf, len: u64) -> Result<Self> {
        let no = || Error::invalid(format!("{}: not a safetensors file, and so no base for a delta", path.display()));
        let mut first = [0; 8];
        if len < 8 {
            return Err(no());
        }
        bytes.read(&path, 0, &mut first)?;
        // Bounded by the file's length and by what the safetensors library accepts.
        let mut json = vec![0; Header::json_len(first, len).ok_or_else(no)? as usize];
        bytes.read(&path, 8, &mut json)?;
        let header = Header::parse(&json, len).ok_or_else(no)?;
        let tensors = header.tensors.into_iter().map(|t| (t.name, (t.offset, t.len))).collect();
        Ok(Self { bytes, path, tensors })
    }
}

impl Base for FileBase {
    fn path(&self) -> &Path {
        &self.path
    }

    fn tensor_len(&self, name: &str) -> Option<u64> {
        self.tensors.get(name).map(|(_, len)| *len)
    }

    fn read(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<()> {
        let Some((start, _)) =
            self.tensors.get(name).filter(|(_, len)| offset.saturating_add(out.len() as u64) <= *len)
        else {
            return Err(Error::invalid(format!("{}: no such bytes in tensor '{name}'", self.path.display())));
        };
        self.bytes.read(&self.path, start + offset, out)
    }
}
