//! Where the bytes of an entry come from, by its codec's name.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::container::{Content, Part};
use super::json::{Object, Text};
use super::parse::{Fault, Row, Table, Tensor, broken, quoted};
use super::{dtype, group};
use crate::foreign::bigsmall::codec::Coding;

/// Codec names that are references, not codecs.
const TIED: &str = "tied_ref";
const DELTA: &str = "zstd_xor_delta";
const GROUP: &str = "group_stream_v1";
pub const MEMBER: &str = "group_member";

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow)]
    special_kind: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Tied<'a> {
    #[serde(borrow)]
    tied_to: Text<'a>,
}

/// Finds where the bytes of entry `i` come from; those of its whole group when it holds one.
pub fn resolve(table: &Table<'_>, i: usize, contents: &mut [Option<Content>]) -> Result<(), Fault> {
    let (Some(Object(row)), Some(tensor)) = (table.rows.get(i), table.tensors.get(i)) else {
        return Err(broken("there is no such entry"));
    };
    let content = match &*row.codec.0 {
        GROUP => return group::resolve(table, i, contents),
        MEMBER => return Ok(()),
        _ => content(table, row, tensor)?,
    };
    if let Some(slot) = contents.get_mut(i) {
        *slot = Some(content);
    }
    Ok(())
}

/// The content of an entry that is in no group.
fn content(table: &Table<'_>, row: &Row<'_>, tensor: &Tensor) -> Result<Content, Fault> {
    let stored = Stored { offset: row.offset, len: row.compressed_bytes, raw_len: tensor.raw_len };
    match &*row.codec.0 {
        TIED => {
            empty(row)?;
            let Object(Tied { tied_to: Text(master) }) = extra(row.extra)?;
            let at = *table.names.get(&*master).ok_or_else(|| broken("it is tied to a tensor that is not there"))?;
            let (Some(Object(to)), Some(of)) = (table.rows.get(at), table.tensors.get(at)) else {
                return Err(broken("it is tied to a tensor that is not there"));
            };
            if to.codec.0 == TIED {
                return Err(broken("it is tied to a tensor that is itself tied"));
            }
            if of.raw_len != tensor.raw_len {
                return Err(broken(format_args!("{} bytes, tied to {}", tensor.raw_len, of.raw_len)));
            }
            Ok(Content::Same(at))
        }
        DELTA => part(table, &stored, "zstd", None, dtype::width(tensor.elem)).map(Content::Xor),
        codec => part(table, &stored, codec, row.extra, dtype::width(tensor.elem)).map(Content::Blob),
    }
}

/// A stretch of the data section, not yet checked against a codec.
pub struct Stored {
    pub offset: u64,
    pub len: u64,
    pub raw_len: u64,
}

/// A part, its codec checked against the `width` in bytes of the elements that it is to make.
pub fn part(
    table: &Table<'_>,
    stored: &Stored,
    codec: &str,
    extras: Option<&RawValue>,
    width: u64,
) -> Result<Part, Fault> {
    let kind = if codec == "special" {
        extra::<Object<Kind<'_>>>(extras)?.0.special_kind.map(|Text(kind)| kind.into_owned())
    } else {
        None
    };
    let coding = Coding::from_name(codec, kind.as_deref()).ok_or_else(|| {
        let kind = kind.as_deref().map_or_else(String::new, |kind| format!(", kind {},", quoted(kind)));
        Fault::Unknown(format!("codec {}{kind}", quoted(codec)))
    })?;
    if ![0, width].contains(&coding.elem_bytes()) {
        return Err(broken(format_args!("codec {codec} makes no elements of {width} bytes")));
    }
    let &Stored { offset, len, raw_len } = stored;
    if len == 0 && raw_len > 0 {
        return Err(broken(format_args!("no bytes at all, for {raw_len} raw ones")));
    }
    if coding == Coding::Raw && len != raw_len {
        return Err(broken(format_args!("{len} bytes stored as they are, where {raw_len} are expected")));
    }
    Ok(Part { coding, offset: table.data_start + offset, len, raw_len })
}

/// Refuses a reference with bytes of its own.
pub fn empty(row: &Row<'_>) -> Result<(), Fault> {
    match row.compressed_bytes {
        0 => Ok(()),
        len => Err(broken(format_args!("a reference, with {len} bytes of its own"))),
    }
}

/// What `extra` says.
pub fn extra<'a, T: Deserialize<'a>>(extra: Option<&'a RawValue>) -> Result<T, Fault> {
    let raw = extra.ok_or_else(|| broken("extra is missing"))?;
    serde_json::from_str(raw.get()).map_err(|e| broken(format_args!("extra: {e}")))
}
