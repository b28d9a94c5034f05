//! The shard index of a directory of containers, and the one that a directory of plain files has.
//!
//! The package leaves a tensor out of all shards when another one has the same bytes, and lists it here instead.
//! Which shard it was in is lost, so it is shown in its master's.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Deserialize;

use super::MAX_HEADER;
use super::json::{List, Members, Object, Text, put_ascii, shallow};
use super::rows::quoted;
use crate::error::{Error, Result};

/// Name of the file.
pub const SHARD_INDEX: &str = "bigsmall.index.json";

/// Most shards. Far above any model.
const MAX_SHARDS: usize = 1 << 16;

/// Most tensors of a model; one takes some 200 bytes of memory, however short its entry is.
const MAX_TENSORS: usize = 1 << 19;

/// Longest name of a file, bytes: that of file systems.
const MAX_NAME: usize = 255;

/// A tensor that no shard stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Duplicate {
    /// Name.
    pub name: String,
    /// The tensor with the same bytes, dtype and shape; no duplicate itself.
    pub master: String,
}

/// A checked shard index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardIndex {
    shards: Vec<String>,
    /// Every tensor's shard, a duplicate's being its master's.
    weight_map: BTreeMap<String, u32>,
    /// Of each shard, in order of name.
    duplicates: Vec<Vec<Duplicate>>,
}

#[derive(Deserialize)]
struct Index<'a> {
    #[serde(borrow)]
    metadata: Object<About<'a>>,
    #[serde(borrow)]
    weight_map: Members<'a, Text<'a>, MAX_TENSORS>,
}

#[derive(Deserialize)]
struct About<'a> {
    #[serde(borrow)]
    shards: List<Text<'a>, MAX_SHARDS>,
    #[serde(borrow)]
    duplicate_map: Option<Members<'a, Object<Master<'a>>, MAX_TENSORS>>,
}

#[derive(Deserialize)]
struct Master<'a> {
    #[serde(borrow)]
    master: Text<'a>,
}

impl ShardIndex {
    /// Checks and parses the text of a `bigsmall.index.json`, for messages about `path`.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above [`MAX_HEADER`] bytes; [`Error::Corrupt`] when it is not the JSON expected, a shard's
    /// name is no plain file name ending in `.bs`, a tensor occurs twice or lies in no shard, or a duplicate's master
    /// does not exist or is a duplicate itself.
    pub fn parse(path: &Path, json: &[u8]) -> Result<Self> {
        if json.len() as u64 > MAX_HEADER {
            let what = "the length of the shard index";
            return Err(Error::TooLarge { path: path.into(), what, limit: MAX_HEADER, got: json.len() as u64 });
        }
        check(json).map_err(|detail| Error::corrupt(path, "shard index", detail))
    }

    /// File names of the shards, in the model's order. None has a separator; all end in `.bs`.
    #[must_use]
    pub fn shards(&self) -> &[String] {
        &self.shards
    }

    /// The shard in which a tensor is shown.
    #[must_use]
    pub fn shard_of(&self, tensor: &str) -> Option<&str> {
        self.shards.get(*self.weight_map.get(tensor)? as usize).map(String::as_str)
    }

    /// The duplicates to be shown in this shard, in order of name; none for a file that is no shard.
    #[must_use]
    pub fn duplicates(&self, shard: &str) -> &[Duplicate] {
        let at = self.shards.iter().position(|of| of == shard);
        at.and_then(|at| self.duplicates.get(at)).map_or(&[], Vec::as_slice)
    }

    /// The text of the `model.safetensors.index.json` of the shown directory, as the package `transformers` writes it.
    ///
    /// `total_size` is the bytes of all tensors, duplicates included; `shown` gives the name under which a shard is
    /// shown, which is [`shown_name`] unless that is taken. A directory with one shard needs no such file.
    #[must_use]
    pub fn weight_index(&self, total_size: u64, shown: impl Fn(&str) -> String) -> Vec<u8> {
        let shown: Vec<String> = self.shards.iter().map(|shard| shown(shard)).collect();
        let mut out = Vec::new();
        out.extend_from_slice(b"{\n  \"metadata\": {\n    \"total_size\": ");
        out.extend_from_slice(total_size.to_string().as_bytes());
        out.extend_from_slice(b"\n  },\n  \"weight_map\": {");
        for (i, (tensor, &shard)) in self.weight_map.iter().enumerate() {
            out.extend_from_slice(if i == 0 { b"\n    " } else { b",\n    " });
            put_ascii(&mut out, tensor);
            out.extend_from_slice(b": ");
            put_ascii(&mut out, shown.get(shard as usize).map_or("", String::as_str));
        }
        out.extend_from_slice(if self.weight_map.is_empty() { b"}\n}\n" } else { b"\n  }\n}\n" });
        out
    }
}

/// The name under which a container is shown: `x.bs` and `x.safetensors.bs` as `x.safetensors`. `None` for another
/// name, and when the shown one would be too long for a file.
#[must_use]
pub fn shown_name(container: &str) -> Option<String> {
    let stem = container.strip_suffix(".bs").filter(|stem| !["", ".", ".."].contains(stem))?;
    let stem = stem.strip_suffix(".safetensors").unwrap_or(stem);
    Some(format!("{stem}.safetensors")).filter(|shown| shown.len() <= MAX_NAME)
}

/// Whether a stranger's text is the name of a container in the same directory.
fn is_shard_name(name: &str) -> bool {
    shown_name(name).is_some() && !name.contains(['/', '\\', '\0'])
}

fn check(json: &[u8]) -> Result<ShardIndex, String> {
    let text = std::str::from_utf8(json).map_err(|e| format!("no UTF-8 at byte {}", e.valid_up_to()))?;
    if !shallow(text) {
        return Err("the JSON is nested too deep".into());
    }
    let Object(index) = serde_json::from_str::<Object<Index<'_>>>(text).map_err(|e| e.to_string())?;
    let Object(About { shards: List(shards), duplicate_map }) = index.metadata;

    let mut numbers = HashMap::with_capacity(shards.len());
    for (i, Text(name)) in shards.iter().enumerate() {
        if !is_shard_name(name) {
            return Err(format!("{} is no file name of a shard", quoted(name)));
        }
        if numbers.insert(&**name, i as u32).is_some() {
            return Err(format!("the shard {} occurs twice", quoted(name)));
        }
    }
    let mut weight_map = BTreeMap::new();
    for (Text(tensor), Text(shard)) in index.weight_map.0 {
        let Some(&shard) = numbers.get(&*shard) else {
            return Err(format!("{} is in {}, which is no shard", quoted(&tensor), quoted(&shard)));
        };
        if weight_map.contains_key(&*tensor) {
            return Err(format!("the tensor {} occurs twice", quoted(&tensor)));
        }
        weight_map.insert(tensor.into_owned(), shard);
    }

    let mut masters = BTreeMap::new();
    for (Text(name), Object(Master { master: Text(master) })) in
        duplicate_map.map(|members| members.0).unwrap_or_default()
    {
        if masters.contains_key(&name) {
            return Err(format!("the duplicate {} occurs twice", quoted(&name)));
        }
        masters.insert(name, master);
    }
    let mut duplicates = vec![Vec::new(); shards.len()];
    for (name, master) in &masters {
        let Some(&shard) = weight_map.get(&**master).filter(|_| !masters.contains_key(master)) else {
            let (name, master) = (quoted(name), quoted(master));
            return Err(format!("{name} is a duplicate of {master}, which no shard stores"));
        };
        if let Some(of) = duplicates.get_mut(shard as usize) {
            of.push(Duplicate { name: name.clone().into_owned(), master: master.clone().into_owned() });
        }
        weight_map.insert(name.clone().into_owned(), shard);
    }
    let shards = shards.into_iter().map(|Text(name)| name.into_owned()).collect();
    Ok(ShardIndex { shards, weight_map, duplicates })
}
