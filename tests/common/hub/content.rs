//! Contents of files, in memory or on disk, and their hashes.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::Digest;

#[derive(Debug, Clone)]
pub enum Content {
    Bytes(Arc<[u8]>),
    Disk(Arc<(std::fs::File, PathBuf)>, u64),
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl Content {
    pub fn open(path: &Path) -> Self {
        let file = std::fs::File::open(path).unwrap();
        let len = file.metadata().unwrap().len();
        Self::Disk(Arc::new((file, path.to_owned())), len)
    }

    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Disk(_, len) => *len,
        }
    }

    pub fn read_at(&self, at: u64, into: &mut [u8]) {
        match self {
            Self::Bytes(bytes) => into.copy_from_slice(&bytes[at as usize..at as usize + into.len()]),
            Self::Disk(file, _) => file.0.read_exact_at(into, at).unwrap(),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len() as usize];
        self.read_at(0, &mut bytes);
        bytes
    }

    pub fn sha256(&self) -> String {
        let mut hash = sha2::Sha256::new();
        match self {
            Self::Bytes(bytes) => hash.update(bytes),
            Self::Disk(file, _) => {
                let mut reader = std::fs::File::open(&file.1).unwrap();
                let mut buffer = vec![0; 1 << 20];
                loop {
                    match reader.read(&mut buffer).unwrap() {
                        0 => break,
                        n => hash.update(&buffer[..n]),
                    }
                }
            }
        }
        hex(&hash.finalize())
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Git's id of a blob.
pub fn git_oid(bytes: &[u8]) -> String {
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex(&hash.finalize())
}

/// What Git has in place of a file in LFS.
pub fn pointer(sha256: &str, size: u64) -> String {
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n")
}

/// Whether a file goes to LFS: the names of the Hub's usual `.gitattributes`, and all that is long.
pub fn is_lfs(path: &str, size: u64) -> bool {
    let name = [".safetensors", ".bs", ".bsr", ".bin", ".gguf", ".pt", ".npz"].iter().any(|end| path.ends_with(end));
    size > 0 && (name || size > 10 << 20)
}

/// All files below a directory, links followed.
pub fn collect(root: &Path, dir: &Path, files: &mut Vec<(String, Content)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.push((name, Content::open(&path)));
        }
    }
}
