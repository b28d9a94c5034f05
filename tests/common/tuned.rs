//! Models and what is made of them, for tests of what refers to something else.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::common::mounted::{bsfs, stderr};
use crate::common::{Bench, age, noise};

#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

pub type Model = Vec<Tensor>;

/// Bytes of a number.
pub fn width(dtype: &str) -> usize {
    match dtype {
        "F32" => 4,
        "BF16" | "F16" => 2,
        _ => 1,
    }
}

fn to_bytes(dtype: &str, x: f32) -> Vec<u8> {
    let bits = x.to_bits();
    match dtype {
        "F32" => bits.to_le_bytes().to_vec(),
        // Rounded half up, as good as any for a test.
        "BF16" => (((bits + 0x8000) >> 16) as u16).to_le_bytes().to_vec(),
        "F16" => {
            let exponent = ((bits >> 23 & 255) as i32 - 112).clamp(0, 30) as u32;
            ((bits >> 16 & 0x8000 | exponent << 10 | bits >> 13 & 0x3ff) as u16).to_le_bytes().to_vec()
        }
        _ => vec![(bits >> 20) as u8],
    }
}

/// Numbers near a normal distribution.
fn normal(seed: u64, count: usize, scale: f32) -> Vec<f32> {
    let noise = noise(seed, 4 * count);
    noise.chunks_exact(4).map(|b| b.iter().map(|&b| f32::from(b) - 127.5).sum::<f32>() / 148.0 * scale).collect()
}

pub fn tensor(name: &str, dtype: &'static str, shape: &[usize], values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|&x| to_bytes(dtype, x)).collect();
    Tensor { name: name.into(), dtype, shape: shape.to_vec(), bytes }
}

/// A model: an embedding, two layers of a matrix and a norm, and a scalar.
pub fn model(seed: u64, dtype: &'static str) -> Model {
    let numbers = |n: u64, count| normal(seed * 100 + n, count, 0.04);
    let mut all = vec![tensor("embed.weight", dtype, &[500, 128], &numbers(1, 500 * 128))];
    for layer in 0..2 {
        let n = 10 * (layer + 1);
        all.push(tensor(&format!("layers.{layer}.mlp"), dtype, &[256, 256], &numbers(n, 256 * 256)));
        all.push(tensor(&format!("layers.{layer}.norm"), dtype, &[256], &numbers(n + 1, 256)));
    }
    all.push(tensor("scale", "F32", &[], &[1.5]));
    all
}

/// A part of the numbers moved by one to three units in the last place.
pub fn moved(model: &[Tensor], seed: u64) -> Model {
    let mut model = model.to_vec();
    for (n, tensor) in model.iter_mut().enumerate() {
        let width = width(tensor.dtype);
        let noise = noise(seed + n as u64, tensor.bytes.len() / width);
        for (number, luck) in tensor.bytes.chunks_exact_mut(width).zip(noise) {
            let by = [1_i64, -1, 2, -3][usize::from(luck >> 6)];
            if luck & 63 < 16 {
                let mut wide = [0; 8];
                wide[..width].copy_from_slice(number);
                let moved = i64::from_le_bytes(wide) + by;
                number.copy_from_slice(&moved.to_le_bytes()[..width]);
            }
        }
    }
    model
}

/// An update of rank 2 merged into every matrix.
pub fn merged(model: &[Tensor], seed: u64) -> Model {
    let mut model = model.to_vec();
    for (n, tensor) in model.iter_mut().enumerate().filter(|(_, t)| t.shape.len() == 2) {
        let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
        let a = normal(seed * 7 + n as u64, 2 * rows, 0.02);
        let b = normal(seed * 11 + n as u64, 2 * columns, 0.02);
        let width = width(tensor.dtype);
        for (i, number) in tensor.bytes.chunks_exact_mut(width).enumerate() {
            let (row, column) = (i / columns, i % columns);
            let delta = a[2 * row] * b[2 * column] + a[2 * row + 1] * b[2 * column + 1];
            let old = match tensor.dtype {
                "F32" => f32::from_le_bytes(number.try_into().unwrap()),
                "BF16" => f32::from_bits(u32::from(u16::from_le_bytes(number.try_into().unwrap())) << 16),
                _ => {
                    let half = u32::from(u16::from_le_bytes(number.try_into().unwrap()));
                    f32::from_bits((half & 0x8000) << 16 | ((half >> 10 & 31) + 112) << 23 | (half & 0x3ff) << 13)
                }
            };
            number.copy_from_slice(&to_bytes(tensor.dtype, old + delta));
        }
    }
    model
}

/// The embedding with so many rows: more are made up, others left out.
pub fn with_rows(model: &[Tensor], rows: usize, seed: u64) -> Model {
    let mut model = model.to_vec();
    let tensor = &mut model[0];
    let row = tensor.bytes.len() / tensor.shape[0];
    let new = normal(seed, rows * tensor.shape[1], 0.04);
    let more: Vec<u8> = new.iter().flat_map(|&x| to_bytes(tensor.dtype, x)).collect();
    let old = tensor.bytes.len().min(rows * row);
    tensor.bytes.truncate(old);
    tensor.bytes.extend(&more[old..]);
    tensor.shape[0] = rows;
    model
}

pub fn renamed(model: &[Tensor]) -> Model {
    model
        .iter()
        .map(|t| Tensor { name: format!("model.{}", t.name.replace("layers", "blocks")), ..t.clone() })
        .collect()
}

/// A safetensors file of these tensors, in this order.
pub fn file(tensors: &[Tensor]) -> Vec<u8> {
    let (mut header, mut data) = (String::from(r#"{"__metadata__":{"format":"pt"}"#), Vec::new());
    for t in tensors {
        let start = data.len();
        data.extend(&t.bytes);
        header += &format!(
            r#","{}":{{"dtype":"{}","shape":{:?},"data_offsets":[{start},{}]}}"#,
            t.name,
            t.dtype,
            t.shape,
            data.len()
        );
    }
    header += "}";
    let header = format!("{header:<width$}", width = header.len().next_multiple_of(8));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

/// Writes a file, and its directories.
pub fn put(path: &Path, bytes: &[u8]) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    age(path.parent().unwrap());
    path.to_path_buf()
}

/// Runs the program, which must succeed.
pub fn run(bench: &Bench, arguments: &[&str]) -> String {
    let output = bsfs(bench, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The same, and reads what it prints.
pub fn json(bench: &Bench, arguments: &[&str]) -> Value {
    serde_json::from_str(&run(bench, &[arguments, &["--json"]].concat())).unwrap()
}

/// Runs the program, which must fail; gives what it says.
pub fn fails(bench: &Bench, arguments: &[&str], code: i32) -> String {
    let output: Output = bsfs(bench, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
    stderr(&output)
}

/// Text of a path.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Length of a file, bytes.
pub fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// Compresses `from` to `to` against a base, if there is one.
pub fn pack_against(bench: &Bench, from: &Path, to: &Path, base: Option<&Path>) -> PathBuf {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let mut arguments = vec!["compress", text(from), "-o", text(to), "--json"];
    arguments.extend(base.iter().flat_map(|base| ["--base", text(base)]));
    run(bench, &arguments);
    age(to.parent().unwrap());
    to.to_path_buf()
}

/// What `decompress` writes of a container.
pub fn unpacked(bench: &Bench, container: &Path, base: Option<&Path>) -> Vec<u8> {
    let to = bench.dir.join("unpacked");
    let mut arguments = vec!["decompress", text(container), "-f", "-o", text(&to)];
    arguments.extend(base.iter().flat_map(|base| ["--base", text(base)]));
    run(bench, &arguments);
    fs::read(to).unwrap()
}
