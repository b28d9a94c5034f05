//! One file that others refer to: the reader of bases.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::sync::{Mutex, lock};
use crate::engine::{Cost, Image};
use crate::error::{Error, Result};
use crate::format::Container;
use crate::format::checksum::blake3_of;
use crate::source::ReadAt;
use crate::tensor::Header;

/// A base: the tensors of a plain safetensors file, or of one in a container. Reads come from many
/// threads at once.
#[derive(Debug)]
pub struct BaseFile {
    path: PathBuf,
    bytes: Bytes,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
    by_digest: HashMap<([u8; 32], u64), usize>,
    /// Length of the longest chain of files that it needs itself.
    depth: usize,
    /// Whether every base of its own was found.
    whole: bool,
    /// Whether its container states the digests of its tensors.
    tells_digests: bool,
}

enum Bytes {
    Plain(Arc<dyn ReadAt>),
    /// The image, and the file that it is read from.
    Image(Image, Arc<dyn ReadAt>),
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Bytes::Plain",
            Self::Image(..) => "Bytes::Image",
        })
    }
}

#[derive(Debug)]
struct Tensor {
    offset: u64,
    len: u64,
    /// BLAKE3 of its bytes: stated by the container, or computed once by reading the tensor.
    digest: Mutex<Option<[u8; 32]>>,
}

impl BaseFile {
    /// A plain safetensors file.
    ///
    /// # Errors
    /// Those of reading it; [`Error::Invalid`] when it is no safetensors file.
    pub fn plain(source: Arc<dyn ReadAt>) -> Result<Self> {
        let (path, len) = (source.path().to_path_buf(), source.len());
        Self::from_header(path, Bytes::Plain(source), len)
    }

    /// The safetensors file in a container read from `source`; digests that the container states are
    /// not used.
    ///
    /// # Errors
    /// Those of reading it; [`Error::Invalid`] when it is no safetensors file.
    pub fn image(image: Image, source: Arc<dyn ReadAt>) -> Result<Self> {
        let (path, len) = (source.path().to_path_buf(), image.len());
        Self::from_header(path, Bytes::Image(image, source), len)
    }

    /// A container of ours. `depth` is the longest chain of files that it needs; `whole` says whether
    /// all of them were found.
    #[must_use]
    pub(super) fn native(
        container: &Container,
        image: Image,
        source: Arc<dyn ReadAt>,
        (depth, whole): (usize, bool),
    ) -> Self {
        let tensors = container.tensors().iter().map(|t| (t.name.clone(), t.raw_offset, t.raw_len, Some(t.digest)));
        let file = Self::new(source.path().to_path_buf(), Bytes::Image(image, source), tensors);
        Self { depth, whole, tells_digests: true, ..file }
    }

    fn from_header(path: PathBuf, bytes: Bytes, len: u64) -> Result<Self> {
        let no = || Error::invalid(format!("{}: not a safetensors file, and so no base for a delta", path.display()));
        let mut first = [0; 8];
        if len < 8 {
            return Err(no());
        }
        bytes.read(&path, 0, &mut first)?;
        let json_len = Header::json_len(first, len).ok_or_else(no)?;
        let mut brace = [0];
        bytes.read(&path, 8, &mut brace)?;
        if brace != *b"{" {
            return Err(no());
        }
        // Bounded by the file's length and by what the safetensors library accepts.
        let mut json = vec![0; json_len as usize];
        bytes.read(&path, 8, &mut json)?;
        let header = Header::parse(&json, len).ok_or_else(no)?;
        let tensors = header.tensors.into_iter().map(|t| (t.name, t.offset, t.len, None));
        Ok(Self::new(path, bytes, tensors))
    }

    fn new(path: PathBuf, bytes: Bytes, found: impl Iterator<Item = (String, u64, u64, Option<[u8; 32]>)>) -> Self {
        let (mut tensors, mut by_name, mut by_digest) = (Vec::new(), HashMap::new(), HashMap::new());
        for (at, (name, offset, len, digest)) in found.enumerate() {
            if let Some(digest) = digest {
                by_digest.entry((digest, len)).or_insert(at);
            }
            by_name.entry(name).or_insert(at);
            tensors.push(Tensor { offset, len, digest: Mutex::new(digest) });
        }
        Self { path, bytes, tensors, by_name, by_digest, depth: 0, whole: true, tells_digests: false }
    }

    /// The file that errors name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the longest chain of files that it needs itself.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    pub(super) fn tells_digests(&self) -> bool {
        self.tells_digests
    }

    /// The tensor with this digest and length. Without stated digests: the tensor of this name, if it
    /// has this length.
    pub(super) fn find(&self, digest: &[u8; 32], len: u64, name: &str) -> Option<usize> {
        if self.tells_digests {
            return self.by_digest.get(&(*digest, len)).copied();
        }
        let at = *self.by_name.get(name)?;
        self.tensors.get(at).filter(|tensor| tensor.len == len).map(|_| at)
    }

    /// Whether a tensor has this digest. Reads all of the tensor if its digest is not known.
    pub(super) fn has(&self, tensor: usize, digest: &[u8; 32]) -> Result<bool> {
        let Some(tensor) = self.tensors.get(tensor) else { return Ok(false) };
        // Concurrent callers wait. No deadlock: only files without references are hashed.
        let mut known = lock(&tensor.digest);
        if let Some(known) = *known {
            return Ok(known == *digest);
        }
        let read = |offset, out: &mut [u8]| self.bytes.read(&self.path, offset, out);
        let found = blake3_of(tensor.offset, tensor.len, read)?;
        *known = Some(found);
        Ok(found == *digest)
    }

    /// Whether the digest of a tensor is known without reading it.
    pub(super) fn knows(&self, tensor: usize) -> bool {
        let known = |tensor: &Tensor| lock(&tensor.digest).is_some();
        self.tensors.get(tensor).is_some_and(known)
    }

    /// Fills `out` with bytes of a tensor from `offset`, all of which are inside it.
    pub(super) fn read(&self, tensor: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        let inside = |t: &&Tensor| offset.checked_add(out.len() as u64).is_some_and(|end| end <= t.len);
        let Some(tensor) = self.tensors.get(tensor).filter(inside) else {
            return Err(Error::invalid(format!("{}: no such bytes in a tensor", self.path.display())));
        };
        self.bytes.read(&self.path, tensor.offset + offset, out)
    }

    /// Length of the tensor of this name, bytes.
    #[must_use]
    pub fn tensor_len(&self, name: &str) -> Option<u64> {
        Some(self.tensors.get(*self.by_name.get(name)?)?.len)
    }

    /// Fills `out` with bytes of the tensor of this name from `offset`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the tensor has no such bytes; those of the file.
    pub fn read_by_name(&self, name: &str, offset: u64, out: &mut [u8]) -> Result<()> {
        // No tensor has a number as high as this.
        self.read(self.by_name.get(name).copied().unwrap_or(usize::MAX), offset, out)
    }

    /// Whether the file is unchanged since it was opened.
    pub(super) fn unchanged(&self) -> bool {
        match &self.bytes {
            Bytes::Plain(source) => source.unchanged().unwrap_or(false),
            Bytes::Image(_, source) => source.unchanged().unwrap_or(false),
        }
    }
}

impl Bytes {
    fn read(&self, path: &Path, offset: u64, out: &mut [u8]) -> Result<()> {
        match self {
            Self::Plain(source) => Cost::of_source(|| source.read_exact_at(offset, out)),
            Self::Image(image, _) => image.read_exact_at(path, offset, out),
        }
    }
}
