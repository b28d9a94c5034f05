//! Where the bytes of a tensor are stored, checked against its row.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::container::Part;
use super::json::{Object, Text};
use super::rows::{Fault, Row, Table, broken, quoted};
use crate::foreign::bigsmall::codec::Coding;

#[derive(Deserialize)]
pub struct Kind<'a> {
    #[serde(borrow)]
    special_kind: Option<Text<'a>>,
}

pub const MEMBER: &str = "group_member";

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
