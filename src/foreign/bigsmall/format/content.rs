//! Where the bytes of an entry come from, by its codec's name.

use serde::Deserialize;

use super::container::Content;
use super::json::{Object, Text};
use super::rows::{Fault, Row, Table, Tensor, broken};
use super::stored::{MEMBER, Stored, empty, extra, part};
use super::{dtype, group};

/// Codec names that are references, not codecs.
const TIED: &str = "tied_ref";
const DELTA: &str = "zstd_xor_delta";
const GROUP: &str = "group_stream_v1";

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
