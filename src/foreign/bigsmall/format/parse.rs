//! From the JSON header to a [`Container`]: every rule that can be checked without unpacking.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::container::{Container, Content, Entry, Metadata};
use super::json::{List, Members, Object, Text, shallow};
use super::rows::{Fault, Row, Table, Tensor, broken, quoted};
use super::{MAX_RAW_LEN, content, dtype};
use crate::error::{Error, Result};

/// Most tensors; their entries would not fit a header of the longest size.
const MAX_TENSORS: usize = 1 << 20;

/// Most keys of `__metadata__`: a map takes several times the bytes of its shortest keys.
const MAX_METADATA: usize = 1 << 16;

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    tensors: List<Object<Row<'a>>, MAX_TENSORS>,
    tensor_count: Option<u64>,
    #[serde(borrow)]
    safetensors_metadata: Option<Members<'a, &'a RawValue, MAX_METADATA>>,
    #[serde(borrow)]
    base_model: Option<Text<'a>>,
}

/// Checks and parses the JSON text of the header of a file.
pub fn container(path: &Path, json: &[u8], data_start: u64, file_len: u64) -> Result<Container> {
    let corrupt = |detail: String| Error::corrupt(path, "header", detail);
    let text = std::str::from_utf8(json).map_err(|e| corrupt(format!("no UTF-8 at byte {}", e.valid_up_to())))?;
    if !shallow(text) {
        return Err(corrupt("the JSON is nested too deep".into()));
    }
    let Object(head) = serde_json::from_str::<Object<Head<'_>>>(text).map_err(|e| corrupt(e.to_string()))?;
    let List(rows) = head.tensors;
    if head.tensor_count.is_some_and(|count| count != rows.len() as u64) {
        let count = head.tensor_count.unwrap_or_default();
        return Err(corrupt(format!("tensor_count is {count}, there are {} tensors", rows.len())));
    }
    let metadata = head.safetensors_metadata.map(metadata).transpose().map_err(corrupt)?;

    let mut table =
        Table { tensors: Vec::with_capacity(rows.len()), names: HashMap::with_capacity(rows.len()), rows, data_start };
    let refused = |table: &Table<'_>, i: usize, fault| {
        let name = table.rows.get(i).map_or_else(String::new, |Object(row)| quoted(&row.name.0));
        match fault {
            Fault::Broken(detail) => Error::corrupt(path, format!("header, tensor {name}"), detail),
            Fault::Unknown(what) => Error::Unsupported { path: path.into(), what: format!("{what} of tensor {name}") },
        }
    };
    let mut total = 0_u64;
    for i in 0..table.rows.len() {
        let tensor = own(&mut table, i, file_len - data_start).map_err(|fault| refused(&table, i, fault))?;
        total += tensor.raw_len;
        if total > MAX_RAW_LEN {
            let what = "the length of all tensors";
            return Err(Error::TooLarge { path: path.into(), what, limit: MAX_RAW_LEN, got: total });
        }
        table.tensors.push(tensor);
    }
    apart(&table.rows).map_err(|(i, fault)| refused(&table, i, fault))?;

    let mut contents: Vec<Option<Content>> = vec![None; table.rows.len()];
    for i in 0..table.rows.len() {
        content::resolve(&table, i, &mut contents).map_err(|fault| refused(&table, i, fault))?;
    }
    // Every other entry has its content; a member gets it from the group that lists it.
    if let Some(i) = contents.iter().position(Option::is_none) {
        return Err(refused(&table, i, broken("no group lists it")));
    }
    let entries = table.rows.into_iter().zip(table.tensors).zip(contents);
    let entries = entries
        .filter_map(|((Object(row), tensor), content)| {
            let Tensor { elem, shape, raw_len, md5 } = tensor;
            let (name, dtype) = (row.name.0.into_owned(), elem.name()?);
            Some(Entry { name, elem, dtype, shape, raw_len, md5, content: content? })
        })
        .collect();
    let base_model = head.base_model.map(|text| text.0.into_owned());
    Ok(Container { path: path.into(), file_len, entries, metadata, base_model })
}

fn metadata(Members(members): Members<'_, &RawValue, MAX_METADATA>) -> Result<Metadata, String> {
    let mut found = Metadata::new();
    for (Text(key), value) in members {
        let value = match serde_json::from_str::<Text<'_>>(value.get()) {
            Ok(Text(text)) => text.into_owned(),
            Err(_) => value.get().to_owned(),
        };
        if found.contains_key(&*key) {
            return Err(format!("the key {} of safetensors_metadata occurs twice", quoted(&key)));
        }
        found.insert(key.into_owned(), value);
    }
    Ok(found)
}

/// Checks what an entry says by itself; takes its shape and notes its name.
fn own(table: &mut Table<'_>, i: usize, data_len: u64) -> Result<Tensor, Fault> {
    let Some(Object(row)) = table.rows.get_mut(i) else {
        return Err(broken("there is no such entry"));
    };
    if row.name.0 == "__metadata__" {
        return Err(broken("the name is taken by safetensors"));
    }
    if table.names.insert(row.name.0.clone(), i).is_some() {
        return Err(broken("the name occurs twice"));
    }
    let (elem, shape) = dtype::read(&row.dtype.0, std::mem::take(&mut row.shape.0))
        .ok_or_else(|| Fault::Unknown(format!("dtype {}", quoted(&row.dtype.0))))?
        .map_err(Fault::Broken)?;
    let raw_len = dtype::raw_len(elem, &shape)
        .ok_or_else(|| broken(format_args!("shape {shape:?} is no length in bytes, or one above {MAX_RAW_LEN}")))?;
    if row.offset.checked_add(row.compressed_bytes).is_none_or(|end| end > data_len) {
        let (len, offset) = (row.compressed_bytes, row.offset);
        return Err(broken(format_args!("{len} bytes at {offset} end beyond the {data_len} bytes of data")));
    }
    let md5 = md5(&row.md5.0).ok_or_else(|| broken("its MD5 is not 32 hexadecimal digits"))?;
    Ok(Tensor { elem, shape, raw_len, md5 })
}

fn md5(hex: &str) -> Option<[u8; 16]> {
    // from_str_radix alone would take a sign, too.
    let digits = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u128::from_str_radix(hex, 16).ok().map(u128::to_be_bytes))?
}

/// Blobs that share bytes would let a small file unpack to a huge one.
fn apart(rows: &[Object<Row<'_>>]) -> Result<(), (usize, Fault)> {
    let mut spans: Vec<(u64, u64, usize)> = rows
        .iter()
        .enumerate()
        .filter(|(_, Object(row))| row.compressed_bytes > 0)
        .map(|(i, Object(row))| (row.offset, row.offset + row.compressed_bytes, i))
        .collect();
    spans.sort_unstable();
    let mut end = 0;
    for (start, next, i) in spans {
        if start < end {
            return Err((i, broken(format_args!("its bytes at {start} overlap others that end at {end}"))));
        }
        end = next;
    }
    Ok(())
}
