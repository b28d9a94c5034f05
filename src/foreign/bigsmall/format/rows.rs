//! The rows of a header, and why one cannot be read.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Display;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::MAX_DIMS;
use super::json::{List, Object, Text};
use crate::tensor::ElemType;

/// Why a tensor is refused, without the file's name and its own.
#[derive(Debug)]
pub enum Fault {
    /// A rule is broken.
    Broken(String),
    /// It needs this, which is not known here.
    Unknown(String),
}

/// A [`Fault::Broken`] from text.
pub fn broken(detail: impl Display) -> Fault {
    Fault::Broken(detail.to_string())
}

/// An entry as it is written.
#[derive(Deserialize)]
pub struct Row<'a> {
    #[serde(borrow)]
    pub name: Text<'a>,
    pub shape: List<u64, MAX_DIMS>,
    #[serde(borrow)]
    pub dtype: Text<'a>,
    #[serde(borrow)]
    pub codec: Text<'a>,
    pub compressed_bytes: u64,
    /// From the start of the data.
    pub offset: u64,
    #[serde(borrow)]
    pub md5: Text<'a>,
    /// Parsed one at a time, by what the codec needs of it.
    #[serde(borrow)]
    pub extra: Option<&'a RawValue>,
}

/// The header as far as it is checked: what resolving references takes.
pub struct Table<'a> {
    pub rows: Vec<Object<Row<'a>>>,
    /// In the order of the rows.
    pub tensors: Vec<Tensor>,
    /// Number of each name.
    pub names: HashMap<Cow<'a, str>, usize>,
    /// Offset of the data in the file.
    pub data_start: u64,
}

/// What an entry says of its tensor.
pub struct Tensor {
    pub elem: ElemType,
    pub shape: Vec<u64>,
    pub raw_len: u64,
    pub md5: [u8; 16],
}

/// A name in a message: without control characters, and not without end.
pub fn quoted(name: &str) -> String {
    let mut shown: String = name.chars().take(200).flat_map(char::escape_debug).collect();
    if name.chars().nth(200).is_some() {
        shown.push('…');
    }
    format!("'{shown}'")
}
