//! Encode and decode speed per kind of numbers, on one thread, beside a copy of the same bytes in the same run.
//!
//! `cargo bench --bench codec [-- FILE]`: without FILE on generated weights, else on the bytes of FILE as BF16. Rates are
//! raw bytes over wall time, the median of five rounds; compare them as ratios to memcpy, not between machines.

use std::hint::black_box;
use std::time::Instant;

use bsfs::codec::{self, Mode, Numbers, PAD, Packed, Scratch};

const CHUNK: usize = 512 << 10;
const ROUNDS: usize = 5;

/// Numbers that spread like trained weights: a sum of uniform ones, another scale for each row of 768.
fn weights(count: usize) -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut scale = 0.02;
    (0..count)
        .map(|i| {
            if i % 768 == 0 {
                scale = 0.02 * (1.0 + uniform());
            }
            scale * (0..6).map(|_| uniform()).sum::<f32>()
        })
        .collect()
}

/// The median time of a run, seconds.
fn median(mut run: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn bench(name: &str, numbers: Numbers, raw: &[u8]) {
    let mut scratch = Scratch::default();
    let mut packed: Vec<(codec::Codec, Vec<u8>, usize)> = Vec::new();
    let encode = median(|| {
        packed.clear();
        for chunk in raw.chunks(CHUNK) {
            let mut out = Vec::new();
            let codec = codec::encode(numbers, Mode::Balanced, chunk, &mut out, &mut scratch);
            let len = out.len();
            out.resize(len + PAD, 0);
            packed.push((codec, out, len));
        }
    });
    let mut back = vec![0; CHUNK];
    let decode = median(|| {
        for ((codec, bytes, len), chunk) in packed.iter().zip(raw.chunks(CHUNK)) {
            let out = &mut back[..chunk.len()];
            codec::decode(*codec, Packed::new(bytes, *len).expect("padded"), out, &mut scratch).expect("sound");
            black_box(&out);
        }
    });
    let copy = median(|| {
        for chunk in raw.chunks(CHUNK) {
            back[..chunk.len()].copy_from_slice(chunk);
            black_box(&back);
        }
    });
    let rate = |seconds: f64| raw.len() as f64 / 1e9 / seconds;
    let ratio = packed.iter().map(|(_, _, len)| len).sum::<usize>() as f64 / raw.len() as f64;
    let (e, d, c) = (rate(encode), rate(decode), rate(copy));
    println!("{name:<8}  {ratio:>6.4}  {e:>6.3} GB/s  {d:>6.3} GB/s  {c:>6.2} GB/s  {:>6.3}", d / c);
}

fn main() {
    println!("kind       ratio      encode       decode       memcpy  decode / memcpy");
    if let Some(path) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) {
        let raw = std::fs::read(&path).expect("a file to read");
        bench("as BF16", Numbers::Bf16 { row: 0 }, &raw);
        return;
    }
    let values = weights(8 << 20);
    let bf16: Vec<u8> = values.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect();
    let f32s: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let bytes: Vec<u8> = values.iter().map(|x| (x * 2000.0) as i8 as u8).collect();
    bench("BF16", Numbers::Bf16 { row: 0 }, &bf16);
    bench("F32", Numbers::F32, &f32s);
    bench("I8", Numbers::Integers { log2_width: 0 }, &bytes);
    bench("unknown", Numbers::Unknown, &f32s);
    bench("zeros", Numbers::Bf16 { row: 0 }, &vec![0; 16 << 20]);
}
