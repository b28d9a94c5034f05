//! The safetensors header that is shown for a container, and where its tensors then lie.
//!
//! A container does not keep the header of the file it was made from, so one is made, by these rules. **They never
//! change**: the bytes, and so all offsets, of a shown file are the same in every release.
//!
//! 1. The file is the header's length (u64), the header, and the tensors, with nothing between or behind them.
//! 2. The header is JSON without spaces: first `__metadata__`, if the container has it (also when it is empty), its
//!    keys in order of their bytes, all values strings; then the tensors. A metadata value that was no string is its
//!    JSON text as a string.
//! 3. Tensors are in order of the bits of their elements, most first, then of the bytes of their names; in the header
//!    as in the data. So each lies at a multiple of its element's size.
//! 4. An entry is `{"dtype":…,"shape":…,"data_offsets":[…,…]}`. The shape is the tensor's own; that of a scalar is `[]`.
//! 5. Strings are UTF-8; escaped are `"`, `\` and control characters below U+0020: as `\b \t \n \f \r`, else as `\u00xx`
//!    in small letters.
//! 6. Spaces follow, until the data starts at a multiple of 64.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::MAX_RAW_LEN;
use super::container::{Container, Metadata};
use super::json::put_text;
use super::rows::quoted;
use crate::error::{Error, Result};
use crate::tensor::ElemType;
use crate::tensor::header::MAX_HEADER;

/// What the start of the data is a multiple of: a cache line, so that views of a mapped file are aligned.
const ALIGN: usize = 64;

/// A tensor to be shown.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// The number that [`Placed::entry`] gets; several tensors may have the same.
    pub entry: usize,
    /// Name.
    pub name: &'a str,
    /// Type of its numbers.
    pub elem: ElemType,
    /// Dtype as safetensors spells it.
    pub dtype: &'a str,
    /// Dimensions, outermost first.
    pub shape: &'a [u64],
    /// Length, bytes.
    pub raw_len: u64,
}

/// A tensor in the shown file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The container's entry whose bytes it has.
    pub entry: usize,
    /// Offset in the shown file, bytes.
    pub raw_offset: u64,
    /// Length, bytes; may be 0.
    pub raw_len: u64,
}

/// A shown file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Its first bytes, up to the data: length, JSON, spaces.
    pub header: Vec<u8>,
    /// Its tensors in order of offset, one right behind the other from the header's end.
    pub tensors: Vec<Placed>,
    /// Its length, bytes.
    pub raw_len: u64,
}

/// Lays out a file by the rules above, for messages about `path`.
///
/// # Errors
/// [`Error::Corrupt`] when two tensors have one name or one is called `__metadata__`; [`Error::TooLarge`] when the
/// tensors have more than [`MAX_RAW_LEN`] bytes or the header is longer than the safetensors library accepts.
pub fn layout(path: &Path, metadata: Option<&Metadata>, tensors: &[Shown<'_>]) -> Result<Layout> {
    let mut order: Vec<&Shown<'_>> = tensors.iter().collect();
    order.sort_by(|a, b| b.elem.bits().cmp(&a.elem.bits()).then_with(|| a.name.cmp(b.name)));
    let mut names = HashSet::with_capacity(order.len());
    names.insert("__metadata__");

    let mut header = vec![0; 8];
    header.push(b'{');
    if let Some(metadata) = metadata {
        header.extend_from_slice(b"\"__metadata__\":{");
        for (i, (key, value)) in metadata.iter().enumerate() {
            comma(&mut header, i > 0);
            put_text(&mut header, key);
            header.push(b':');
            put_text(&mut header, value);
        }
        header.push(b'}');
    }
    let mut placed = Vec::with_capacity(order.len());
    let mut at = 0_u64;
    for (i, tensor) in order.into_iter().enumerate() {
        if !names.insert(tensor.name) {
            return Err(Error::corrupt(path, "list of tensors", format!("{} occurs twice", quoted(tensor.name))));
        }
        let end = at.saturating_add(tensor.raw_len);
        if end > MAX_RAW_LEN {
            let what = "the length of all tensors";
            return Err(Error::TooLarge { path: path.into(), what, limit: MAX_RAW_LEN, got: end });
        }
        comma(&mut header, i > 0 || metadata.is_some());
        put_text(&mut header, tensor.name);
        header.extend_from_slice(b":{\"dtype\":");
        put_text(&mut header, tensor.dtype);
        header.extend_from_slice(b",\"shape\":[");
        for (i, dim) in tensor.shape.iter().enumerate() {
            comma(&mut header, i > 0);
            header.extend_from_slice(dim.to_string().as_bytes());
        }
        header.extend_from_slice(format!("],\"data_offsets\":[{at},{end}]}}").as_bytes());
        placed.push(Placed { entry: tensor.entry, raw_offset: at, raw_len: tensor.raw_len });
        at = end;
    }
    header.push(b'}');
    header.resize(header.len().next_multiple_of(ALIGN), b' ');
    let data_start = header.len() as u64;
    let len = data_start - 8;
    if len > MAX_HEADER {
        let what = "the length of the shown header";
        return Err(Error::TooLarge { path: path.into(), what, limit: MAX_HEADER, got: len });
    }
    for (to, from) in header.iter_mut().zip(len.to_le_bytes()) {
        *to = from;
    }
    for tensor in &mut placed {
        tensor.raw_offset += data_start;
    }
    Ok(Layout { header, tensors: placed, raw_len: data_start + at })
}

fn comma(to: &mut Vec<u8>, wanted: bool) {
    if wanted {
        to.push(b',');
    }
}

impl Container {
    /// The file to show for this container, with the `duplicates` (name, name of the tensor with the same bytes) that
    /// a shard index assigns to it, if there is one.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when a duplicate's master is not here, or its own name is; else those of [`layout`].
    pub fn layout<'a>(&'a self, duplicates: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Layout> {
        let mut shown: Vec<Shown<'_>> = self.entries.iter().enumerate().map(|(i, e)| e.shown(i, &e.name)).collect();
        let mut duplicates = duplicates.into_iter().peekable();
        if duplicates.peek().is_some() {
            let names: HashMap<&str, usize> = self.entries.iter().enumerate().map(|(i, e)| (&*e.name, i)).collect();
            for (name, master) in duplicates {
                let Some((i, entry)) = names.get(master).and_then(|&i| Some((i, self.entries.get(i)?))) else {
                    let detail = format!("{} has the bytes of {}, which is not there", quoted(name), quoted(master));
                    return Err(Error::corrupt(&self.path, "list of tensors", detail));
                };
                shown.push(entry.shown(i, name));
            }
        }
        layout(&self.path, self.metadata.as_ref(), &shown)
    }
}

impl super::Entry {
    fn shown<'a>(&'a self, entry: usize, name: &'a str) -> Shown<'a> {
        let Self { elem, dtype, ref shape, raw_len, .. } = *self;
        Shown { entry, name, elem, dtype, shape, raw_len }
    }
}
