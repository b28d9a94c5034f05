//! Files that the Python package `bigsmall` wrote, and what is in them.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bsfs::foreign::bigsmall::codec::{Coding, encode};
use md5::Md5;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::{Bench, age};

/// A tensor: what the manifest says of it, or what was found in a shown file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub dtype: String,
    pub shape: Vec<u64>,
    pub sha256: String,
}

/// By name.
pub type Tensors = BTreeMap<String, Tensor>;

/// A file of the manifest.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// Below [`dir`].
    pub path: String,
    /// The base of a delta.
    pub base: Option<String>,
    pub tensors: Tensors,
}

pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bigsmall")
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// All files of the manifest, duplicates of other shards' tensors added to the shard that holds those.
pub fn all() -> Vec<Fixture> {
    let manifest: Value = serde_json::from_slice(&fs::read(dir().join("manifest.json")).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let files = manifest["files"].as_array().unwrap();
    let mut all: Vec<Fixture> = files
        .iter()
        .map(|file| {
            let tensors = file["tensors"].as_array().unwrap().iter().map(|tensor| {
                let shape = tensor["shape"].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap()).collect();
                (
                    text(&tensor["name"]),
                    Tensor { dtype: text(&tensor["dtype"]), shape, sha256: text(&tensor["sha256"]) },
                )
            });
            let base = file["base"].as_str().map(str::to_owned);
            Fixture { path: text(&file["path"]), base, tensors: tensors.collect() }
        })
        .collect();
    for file in files {
        let directory = text(&file["path"]).split('/').next().unwrap().to_owned();
        for (name, about) in file["duplicate_map"].as_object().into_iter().flatten() {
            let holds = |shard: &&mut Fixture| {
                shard.path.starts_with(&directory) && shard.tensors.contains_key(about["master"].as_str().unwrap())
            };
            let shard = all.iter_mut().find(holds).unwrap();
            let master = shard.tensors[about["master"].as_str().unwrap()].clone();
            assert_eq!(master.sha256, text(&file["duplicates"][name]));
            shard.tensors.insert(name.clone(), master);
        }
    }
    assert!(all.len() > 30);
    all
}

pub fn one(path: &str) -> Fixture {
    all().into_iter().find(|fixture| fixture.path == path).unwrap()
}

impl Fixture {
    /// The name that it is shown under, below the directory of all.
    pub fn shown(&self) -> String {
        let stem = self.path.strip_suffix(".bs").or_else(|| self.path.strip_suffix(".bsr")).unwrap();
        format!("{stem}.safetensors")
    }
}

/// Copies a fixture below the source, as `to`.
pub fn place(bench: &Bench, from: &str, to: &str) -> PathBuf {
    bench.plain(to, &fs::read(dir().join(from)).unwrap())
}

/// Copies all files of a directory of fixtures below the source.
pub fn place_all(bench: &Bench, from: &str, to: &str) {
    for entry in fs::read_dir(dir().join(from)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        place(bench, &format!("{from}/{name}"), &format!("{to}{name}"));
    }
}

/// Where each tensor lies in a safetensors file, with its dtype and shape: by an independent reader where that knows all
/// dtypes, which is also what checks the header.
pub fn spans(file: &[u8]) -> BTreeMap<String, (String, Vec<u64>, std::ops::Range<usize>)> {
    safetensors::SafeTensors::deserialize(file).expect("a good safetensors file");
    let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + len]).unwrap();
    let number = |value: &Value| value.as_u64().unwrap();
    header
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .map(|(name, about)| {
            let shape = about["shape"].as_array().unwrap().iter().map(number).collect();
            let at = |n: usize| 8 + len + number(&about["data_offsets"][n]) as usize;
            (name.clone(), (about["dtype"].as_str().unwrap().to_owned(), shape, at(0)..at(1)))
        })
        .collect()
}

/// The tensors of a safetensors file.
pub fn tensors(file: &[u8]) -> Tensors {
    let tensor = |(name, (dtype, shape, range)): (String, (String, Vec<u64>, std::ops::Range<usize>))| {
        (name, Tensor { dtype, shape, sha256: sha256(&file[range]) })
    };
    spans(file).into_iter().map(tensor).collect()
}

/// Writes a container like `from`, with another `base_model`.
pub fn with_hint(bench: &Bench, from: &str, to: &str, hint: &str) -> PathBuf {
    let file = fs::read(dir().join(from)).unwrap();
    let len = u32::from_le_bytes(file[6..10].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&file[10..10 + len]).unwrap();
    header["base_model"] = hint.into();
    let header = header.to_string();
    let mut bytes = file[..6].to_vec();
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(&file[10 + len..]);
    bench.plain(to, &bytes)
}

/// A container as the package writes it for tensors that it does not compress, of a safetensors file.
pub fn stored(file: &[u8]) -> Vec<u8> {
    container(file, |_, bytes| ("raw", bytes.to_vec()))
}

/// A delta as the package writes it: every tensor of `file` as its difference from the tensor of the same name in `base`.
pub fn delta(file: &[u8], base: &[u8]) -> Vec<u8> {
    let at = spans(base);
    container(file, |name, bytes| {
        let xored: Vec<u8> = bytes.iter().zip(&base[at[name].2.clone()]).map(|(a, b)| a ^ b).collect();
        ("zstd_xor_delta", encode(Coding::Zstd, &xored).unwrap())
    })
}

/// A container of the tensors of a safetensors file; `pack` gives the codec's name and the packed bytes of each.
fn container(file: &[u8], pack: impl Fn(&str, &[u8]) -> (&'static str, Vec<u8>)) -> Vec<u8> {
    let mut data = Vec::new();
    let mut entries = Vec::new();
    for (name, (dtype, shape, range)) in spans(file) {
        let bytes = &file[range];
        let (codec, packed) = pack(&name, bytes);
        entries.push(json!({
            "name": name, "shape": shape, "dtype": dtype, "codec": codec, "special": null, "extra": null,
            "compressed_bytes": packed.len(), "offset": data.len(), "md5": hex(&Md5::digest(bytes)),
        }));
        data.extend(packed);
    }
    let count = entries.len();
    let header = json!({ "format": "bf16", "mode": "balanced", "model_type": "llm", "base_model": null,
        "tensor_count": count, "safetensors_metadata": null, "tensors": entries });
    let header = header.to_string();
    let len = (header.len() as u32).to_le_bytes();
    [&b"BGSM\x01\x00"[..], &len, header.as_bytes(), &data].concat()
}

/// Flips a bit in the middle of a tensor's packed bytes.
pub fn damage(path: &Path, tensor: &str) {
    let mut file = fs::read(path).unwrap();
    let len = u32::from_le_bytes(file[6..10].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[10..10 + len]).unwrap();
    let entry = header["tensors"].as_array().unwrap().iter().find(|entry| entry["name"] == tensor).unwrap();
    let number = |key: &str| entry[key].as_u64().unwrap() as usize;
    file[10 + len + number("offset") + number("compressed_bytes") / 2] ^= 0x10;
    fs::write(path, file).unwrap();
    age(path.parent().unwrap());
}
