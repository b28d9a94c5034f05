//! What a run did, as the command line prints it and `--json` writes it.

use std::path::PathBuf;

use serde::Serialize;

/// One compressed file.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The original.
    pub input: PathBuf,
    /// The container.
    pub output: PathBuf,
    /// Length of the original, bytes.
    pub raw_bytes: u64,
    /// Length of the container, bytes, all included.
    pub packed_bytes: u64,
    /// packed / raw; 1 for a file of no bytes.
    pub ratio: f64,
    /// What it would take without a base, about, bytes; `None` when it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standalone_bytes: Option<u64>,
    /// Bytes of the original that are stored as differences from a base, or as the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referring_bytes: Option<u64>,
    /// Other files that it cannot be read without: those that hold what it refers to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<PathBuf>,
    /// BLAKE3 and length of each tensor that another file could refer to.
    #[serde(skip)]
    pub tensors: Vec<([u8; 32], u64)>,
    /// Wall-clock time.
    pub seconds: f64,
    /// SHA-256 of the original, hexadecimal.
    pub sha256: String,
    /// Per element type, the largest first. Header and index are in none of them.
    pub dtypes: Vec<DtypeReport>,
}

/// The spans of one element type.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DtypeReport {
    /// Name of the type; "bytes" for what has none.
    pub dtype: String,
    /// Bytes in the original.
    pub raw_bytes: u64,
    /// Bytes in the container.
    pub packed_bytes: u64,
    /// packed / raw.
    pub ratio: f64,
}

/// packed / raw; 1 when there is nothing.
#[must_use]
pub fn ratio(raw: u64, packed: u64) -> f64 {
    if raw == 0 { 1.0 } else { packed as f64 / raw as f64 }
}

/// Sums by element type.
#[derive(Debug, Default)]
pub struct Sums(Vec<DtypeReport>);

impl Sums {
    /// Adds a piece of a type.
    pub fn add(&mut self, dtype: &str, raw: u64, packed: u64) {
        let at = self.0.iter().position(|row| row.dtype == dtype).unwrap_or_else(|| {
            self.0.push(DtypeReport { dtype: dtype.to_owned(), raw_bytes: 0, packed_bytes: 0, ratio: 1.0 });
            self.0.len() - 1
        });
        if let Some(row) = self.0.get_mut(at) {
            row.raw_bytes += raw;
            row.packed_bytes += packed;
            row.ratio = ratio(row.raw_bytes, row.packed_bytes);
        }
    }

    /// The rows, the largest raw length first.
    #[must_use]
    pub fn rows(mut self) -> Vec<DtypeReport> {
        self.0.sort_by(|a, b| b.raw_bytes.cmp(&a.raw_bytes).then_with(|| a.dtype.cmp(&b.dtype)));
        self.0
    }
}
