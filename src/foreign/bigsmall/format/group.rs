//! Groups: tensors of one shape that are packed together, in the blob of one of them.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::MAX_DIMS;
use super::container::{Content, Part};
use super::json::{List, Object, Text};
use super::rows::{Fault, Table, broken, quoted};
use super::stored::{MEMBER, Stored, empty, extra, part};

/// Most members. The list of one group is held at a time, and is up to eight times as large as its text.
const MAX_MEMBERS: usize = 1 << 16;

#[derive(Deserialize)]
struct Group<'a> {
    #[serde(borrow)]
    group_kind: Text<'a>,
    #[serde(borrow)]
    members: List<Text<'a>, MAX_MEMBERS>,
    member_shape: List<u64, MAX_DIMS>,
    #[serde(borrow)]
    member_fmt: Text<'a>,
    #[serde(borrow)]
    inner_codec: Option<Text<'a>>,
    #[serde(borrow)]
    inner_extras: Option<&'a RawValue>,
    /// Codec, its extra, and length.
    #[serde(borrow)]
    chain_parts: Option<List<(Text<'a>, Option<&'a RawValue>, u64), MAX_MEMBERS>>,
}

#[derive(Deserialize)]
struct Member<'a> {
    #[serde(borrow)]
    group_master: Text<'a>,
    member_index: Option<u64>,
}

/// What all members share.
enum Shared {
    Stack(Part),
    Chain(Arc<[Part]>),
}

/// Gives the members of the group whose master is entry `i` their contents, its own included.
pub fn resolve(table: &Table<'_>, i: usize, contents: &mut [Option<Content>]) -> Result<(), Fault> {
    let Some(Object(master)) = table.rows.get(i) else {
        return Err(broken("there is no such entry"));
    };
    let Object(group) = extra::<Object<Group<'_>>>(master.extra)?;
    let width: u8 = match &*group.member_fmt.0 {
        "bf16" | "fp16" => 2,
        "fp32" => 4,
        other => return Err(Fault::Unknown(format!("group format {}", quoted(other)))),
    };
    let List(members) = group.members;
    let raw_len = group.member_shape.0.iter().try_fold(u64::from(width), |n, &d| n.checked_mul(d));
    let raw_len = raw_len.ok_or_else(|| broken("member_shape is too large"))?;
    let all = raw_len.checked_mul(members.len() as u64).ok_or_else(|| broken("member_shape is too large"))?;

    let shared = match &*group.group_kind.0 {
        "stack" => {
            let Text(codec) = group.inner_codec.ok_or_else(|| broken("inner_codec is missing"))?;
            let stored = Stored { offset: master.offset, len: master.compressed_bytes, raw_len: all };
            Shared::Stack(part(table, &stored, &codec, group.inner_extras, u64::from(width))?)
        }
        "chain" => {
            let List(parts) = group.chain_parts.ok_or_else(|| broken("chain_parts is missing"))?;
            if parts.len() != members.len() {
                return Err(broken(format_args!("{} parts for {} members", parts.len(), members.len())));
            }
            let mut at = 0_u64;
            let mut chain = Vec::with_capacity(parts.len());
            for (Text(codec), extras, len) in parts {
                let offset = master.offset + at;
                at = at
                    .checked_add(len)
                    .filter(|&end| end <= master.compressed_bytes)
                    .ok_or_else(|| broken("its parts are longer than its bytes"))?;
                chain.push(part(table, &Stored { offset, len, raw_len }, &codec, extras, u64::from(width))?);
            }
            if at != master.compressed_bytes {
                return Err(broken(format_args!("its parts have {at} bytes of {}", master.compressed_bytes)));
            }
            Shared::Chain(chain.into())
        }
        other => return Err(Fault::Unknown(format!("group kind {}", quoted(other)))),
    };

    for (j, Text(name)) in members.iter().enumerate() {
        let at = member(table, i, name, j as u64).map_err(|fault| match fault {
            Fault::Broken(detail) => broken(format_args!("its member {}: {detail}", quoted(name))),
            unknown @ Fault::Unknown(_) => unknown,
        })?;
        let fits = table.tensors.get(at).is_some_and(|t| t.raw_len == raw_len && t.elem.bits() == u16::from(width) * 8);
        if !fits {
            let detail = format_args!("its member {} is not {raw_len} bytes of {width}-byte elements", quoted(name));
            return Err(broken(detail));
        }
        let content = match &shared {
            // Below `all`, which did not overflow.
            Shared::Stack(part) => Content::Slice { part: *part, skip: j as u64 * raw_len },
            Shared::Chain(parts) => Content::Chain { parts: Arc::clone(parts), count: j + 1, width },
        };
        match contents.get_mut(at) {
            Some(slot @ None) => *slot = Some(content),
            _ => return Err(broken(format_args!("its member {} is listed twice", quoted(name)))),
        }
    }
    if contents.get(i).is_none_or(Option::is_none) {
        return Err(broken("the group does not list its own tensor"));
    }
    Ok(())
}

/// The number of the group's member `j`, which names the group in turn.
fn member(table: &Table<'_>, master: usize, name: &str, j: u64) -> Result<usize, Fault> {
    let at = *table.names.get(name).ok_or_else(|| broken("it is not there"))?;
    if at == master {
        return Ok(at);
    }
    let Some(Object(row)) = table.rows.get(at).filter(|Object(row)| row.codec.0 == MEMBER) else {
        return Err(broken("it is packed by itself"));
    };
    empty(row)?;
    let Object(found) = extra::<Object<Member<'_>>>(row.extra)?;
    if table.names.get(&*found.group_master.0) != Some(&master) {
        return Err(broken("it names another group"));
    }
    if found.member_index.is_some_and(|index| index != j) {
        return Err(broken(format_args!("it is number {j}, and says another")));
    }
    Ok(at)
}
