//! Pairs of safetensors files, of which one is a fine-tune of the other. Golden containers are made from them: never change
//! what is here; add.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bsfs::codec::Mode;
use bsfs::compress::{Against, BaseSource, Options};
use bsfs::parallel;
use bsfs::source::FileSource;

use super::noise;

/// A tensor of one or both files.
struct Tensor {
    name: String,
    dtype: &'static str,
    /// Bytes of a number.
    width: usize,
    base: Option<Vec<u8>>,
    tuned: Option<Vec<u8>>,
}

/// A base and its fine-tune, of the tensors whose names `keep` takes: `count` numbers in each of the long ones. The same bytes
/// for the same arguments, everywhere.
pub fn pair(count: usize, keep: impl Fn(&str) -> bool) -> (Vec<u8>, Vec<u8>) {
    let mut tensors = Vec::new();
    let mut add = |name: &str, dtype, width, base: Option<Vec<u8>>, tuned: Option<Vec<u8>>| {
        if keep(name) {
            tensors.push(Tensor { name: name.to_owned(), dtype, width, base, tuned });
        }
    };
    let mut both = |name: &str, dtype, width, base: Vec<u8>, tuned| add(name, dtype, width, Some(base), Some(tuned));

    // An odd number of bytes first, so that no number behind it is aligned.
    let bytes = noise(20, count | 1);
    both("bytes.sparse", "U8", 1, bytes.clone(), replaced(21, &bytes, 1, 400));
    let words = bf16(1, count);
    both("equal", "BF16", 2, words.clone(), words);
    let words = bf16(2, count);
    let moved_words = moved(3, &words, 2, 3, 2);
    both("near", "BF16", 2, words, moved_words.clone());
    let words = bf16(4, count);
    // Differences of every length: near, farther than one byte tells, and any.
    both("wide", "BF16", 2, words.clone(), replaced(6, &moved(5, &words, 2, 300, 1), 2, 90));
    let words = bf16(7, count);
    both("signs", "BF16", 2, words.clone(), flipped(8, &moved(8, &words, 2, 1, 3), 2));
    let words = bf16(9, count);
    both("sparse", "BF16", 2, words.clone(), replaced(10, &words, 2, 500));
    both("unrelated", "BF16", 2, bf16(11, count), bf16(12, count));
    let halves = f16(13, count);
    both("half", "F16", 2, halves.clone(), moved(14, &halves, 2, 20, 1));
    let singles = f32(15, count);
    both("single", "F32", 4, singles.clone(), flipped(16, &moved(16, &singles, 4, 3000, 1), 4));
    let singles = f32(17, count);
    both("single.sparse", "F32", 4, singles.clone(), replaced(18, &singles, 4, 300));
    let doubles = f64(19, count);
    both("double", "F64", 8, doubles.clone(), moved(22, &doubles, 8, 5000, 2));
    let eighths = f8(23, count);
    both("eighth", "F8_E5M2", 1, eighths.clone(), flipped(24, &moved(24, &eighths, 1, 1, 4), 1));
    let ids: Vec<u8> = (0..count as u64).flat_map(|i| (i * 7919).to_le_bytes()).collect();
    both("ids", "I64", 8, ids.clone(), moved(25, &ids, 8, 1, 2));
    let ids: Vec<u8> = (0..count as u32).flat_map(|i| i.wrapping_mul(i).to_le_bytes()).collect();
    let later = numbers(&ids, 4).flat_map(|x| (x as u32).wrapping_add(1000).to_le_bytes()).collect();
    both("ids.later", "I32", 4, ids, later);
    let shorts = noise(26, 2 * count);
    both("shorts", "I16", 2, shorts.clone(), moved(27, &shorts, 2, 2, 2));
    let bytes = noise(28, count);
    both("bytes.near", "U8", 1, bytes.clone(), moved(29, &bytes, 1, 1, 3));
    // Rows were added.
    let rows = bf16(30, count / 64 * 64);
    both("rows", "BF16", 2, rows.clone(), [moved(31, &rows, 2, 2, 1), bf16(32, 64 * 9)].concat());
    // Short tensors share spans and so chunks, in which some bytes have a counterpart and some have none.
    for i in 0..12 {
        let words = bf16(40 + i, 1500);
        let tuned = moved(60 + i, &words, 2, 2, 1);
        add(&format!("short.{i}"), "BF16", 2, (i % 3 != 1).then_some(words), (i % 4 != 3).then_some(tuned));
    }
    // The same bytes twice: once of what has a base, once of what has none.
    add("near.tied", "BF16", 2, None, Some(moved_words));
    let new = bf16(33, count);
    add("new", "BF16", 2, None, Some(new.clone()));
    add("new.tied", "BF16", 2, None, Some(new));
    let file = |of: fn(&Tensor) -> Option<&Vec<u8>>| safetensors(tensors.iter().filter_map(|t| Some((t, of(t)?))));
    (file(|t| t.base.as_ref()), file(|t| t.tuned.as_ref()))
}

fn safetensors<'a>(tensors: impl Iterator<Item = (&'a Tensor, &'a Vec<u8>)>) -> Vec<u8> {
    let (mut header, mut data) = (String::from("{"), Vec::new());
    for (Tensor { name, dtype, width, .. }, bytes) in tensors {
        let (count, end) = (bytes.len() / width, data.len() + bytes.len());
        let shape = if name == "rows" { format!("{},64", count / 64) } else { count.to_string() };
        let at = data.len();
        header += &format!(r#""{name}":{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{at},{end}]}},"#);
        data.extend_from_slice(bytes);
    }
    let header = header.trim_end_matches(',').to_owned() + "}";
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

/// Bits of floats with the exponents of weights.
fn bits(seed: u64, count: usize) -> impl Iterator<Item = u32> {
    noise(seed, 4 * count).as_chunks().0.to_vec().into_iter().map(|b: [u8; 4]| {
        let exponent = 122 - (u32::from(b[0]) | 0x80).trailing_zeros();
        u32::from(b[3] & 1) << 31 | exponent << 23 | u32::from(b[1]) << 15 | u32::from(b[2]) << 7 | u32::from(b[3]) >> 1
    })
}

fn f32(seed: u64, count: usize) -> Vec<u8> {
    bits(seed, count).flat_map(u32::to_le_bytes).collect()
}

fn bf16(seed: u64, count: usize) -> Vec<u8> {
    bits(seed, count).flat_map(|x| ((x >> 16) as u16).to_le_bytes()).collect()
}

fn half(x: u32) -> u16 {
    ((x >> 16 & 0x8000) | ((x >> 23 & 255) - 112) << 10 | x >> 13 & 0x3ff) as u16
}

fn f16(seed: u64, count: usize) -> Vec<u8> {
    bits(seed, count).flat_map(|x| half(x).to_le_bytes()).collect()
}

fn f8(seed: u64, count: usize) -> Vec<u8> {
    bits(seed, count).map(|x| (half(x) >> 8) as u8).collect()
}

fn f64(seed: u64, count: usize) -> Vec<u8> {
    let wide =
        |x: u32| u64::from(x >> 31) << 63 | u64::from((x >> 23 & 255) + 896) << 52 | u64::from(x & 0x7f_ffff) << 29;
    bits(seed, count).flat_map(|x| wide(x).to_le_bytes()).collect()
}

fn numbers(bytes: &[u8], width: usize) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(width).map(|b| b.iter().rev().fold(0, |x, &byte| x << 8 | u64::from(byte)))
}

/// One number in `one_in` moved by up to `step`, either way.
fn moved(seed: u64, bytes: &[u8], width: usize, step: u64, one_in: u64) -> Vec<u8> {
    let draws = numbers(&noise(seed, 8 * bytes.len()), 8).collect::<Vec<_>>();
    let move_by =
        |draw: u64| if (draw >> 40).is_multiple_of(one_in) { (draw & 0xffff_ffff) % (2 * step + 1) } else { step };
    let each = numbers(bytes, width).zip(draws).map(|(x, draw)| x.wrapping_add(move_by(draw)).wrapping_sub(step));
    each.flat_map(|x| x.to_le_bytes().into_iter().take(width)).collect()
}

/// One number in `one_in` is any other.
fn replaced(seed: u64, bytes: &[u8], width: usize, one_in: u64) -> Vec<u8> {
    let draws = numbers(&noise(seed, 8 * bytes.len()), 8).collect::<Vec<_>>();
    let each =
        numbers(bytes, width).zip(draws).map(|(x, draw)| if (draw >> 40).is_multiple_of(one_in) { draw } else { x });
    each.flat_map(|x| x.to_le_bytes().into_iter().take(width)).collect()
}

/// One number in 60 has the other sign.
fn flipped(seed: u64, bytes: &[u8], width: usize) -> Vec<u8> {
    let draws = noise(seed + 1000, bytes.len());
    let flip = |i: usize| i % width == width - 1 && draws[i].is_multiple_of(60);
    bytes.iter().enumerate().map(|(i, &byte)| if flip(i) { byte ^ 0x80 } else { byte }).collect()
}

/// Makes a container of `input` at `output` against `base`, as `bsfs compress --base` does: what occurs twice in `input`
/// refers to itself.
pub fn pack_against(mode: Mode, chunk_len: Option<u32>, base: &Path, input: &Path, output: &Path) {
    let (stop, pool) = (AtomicBool::new(false), parallel::pool(2).unwrap());
    let open = |path| Arc::new(FileSource::open(path).unwrap());
    let twice = bsfs::compress::duplicates(&pool, &[input.to_path_buf()], None);
    let against = Against::new(vec![Arc::new(BaseSource::plain(open(base)).unwrap())])
        .with_duplicates(0, &twice[0], |_| unreachable!("one file alone"))
        .unwrap();
    let options = Options { mode, chunk_len, force: true, against: Some(&against), stop: &stop };
    bsfs::compress::compress(&pool, input, output, &options, &()).unwrap();
}
