//! Decode and encode speed per kind of numbers, mode and kernel, on one thread, beside a copy of the same bytes.
//!
//! `cargo bench --bench codec [-- FILTER]`, FILTER being part of a name such as `decode/bf16/inference/avx512`, `encode/f32` or
//! `memcpy`. Numbers are generated. Rates are raw bytes; compare them as ratios to memcpy, not between machines.

use std::time::Duration;

use bsfs::codec::{self, Kernel, Mode, Numbers, PAD, Packed, Scratch};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// The bytes of a chunk, as `compress` makes them.
const CHUNK: usize = 512 << 10;
/// Numbers in a row.
const ROW: u32 = 768;

const MODES: [(&str, Mode); 3] =
    [("balanced", Mode::Balanced), ("inference", Mode::Inference), ("storage", Mode::Storage)];

/// Numbers that spread like trained weights: a sum of uniform ones, another scale for each row.
fn weights(count: usize) -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut scale = 0.02;
    (0..count)
        .map(|i| {
            if i % ROW as usize == 0 {
                scale = 0.02 * (1.0 + uniform());
            }
            scale * (0..6).map(|_| uniform()).sum::<f32>()
        })
        .collect()
}

/// F16, rounded down; weights as small as these become zero or a denormal of no mantissa.
fn half(x: f32) -> u16 {
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 255).saturating_sub(112).min(31);
    ((bits >> 16 & 0x8000) | exponent << 10 | (bits >> 13 & 0x3ff)) as u16
}

/// A chunk of each kind of numbers.
fn chunks() -> Vec<(&'static str, Numbers, Vec<u8>)> {
    let of = |width: usize| weights(CHUNK / width).into_iter();
    vec![
        ("bf16", Numbers::Bf16 { row: ROW }, of(2).flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect()),
        ("f16", Numbers::F16 { row: ROW }, of(2).flat_map(|x| half(x).to_le_bytes()).collect()),
        ("f32", Numbers::F32, of(4).flat_map(f32::to_le_bytes).collect()),
        // E5M2 is the upper half of F16.
        ("f8", Numbers::F8, of(1).map(|x| (half(x) >> 8) as u8).collect()),
        ("u8", Numbers::Integers { log2_width: 0 }, of(1).map(|x| (x * 2000.0 + 128.0) as u8).collect()),
    ]
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memcpy");
    let (from, mut to) = (vec![1_u8; CHUNK], vec![0; CHUNK]);
    group.throughput(Throughput::Bytes(CHUNK as u64));
    group.bench_function("memcpy", |b| b.iter(|| std::hint::black_box(&mut to[..]).copy_from_slice(&from)));
    group.finish();

    for (kind, numbers, raw) in chunks() {
        for (mode_name, mode) in MODES {
            for kernel in Kernel::ALL {
                let Some(mut scratch) = Scratch::with_kernel(kernel) else { continue };
                let mut packed = Vec::new();
                let codec = codec::encode(numbers, mode, &raw, &mut packed, &mut scratch);
                let len = packed.len();
                packed.resize(len + PAD, 0);
                let packed = Packed::new(&packed, len).expect("padded");

                let id = format!("{kind}/{mode_name}/{}", kernel.name());
                let mut back = vec![0; raw.len()];
                let mut group = criterion.benchmark_group("decode");
                group.throughput(Throughput::Bytes(raw.len() as u64));
                group.bench_function(&id, |b| {
                    b.iter(|| {
                        codec::decode(codec, packed, std::hint::black_box(&mut back), &mut scratch).expect("sound")
                    });
                });
                group.finish();
                assert!(back.iter().all(|&b| b == 0) || back == raw, "{id}: does not come back");

                let mut group = criterion.benchmark_group("encode");
                group.throughput(Throughput::Bytes(raw.len() as u64));
                let mut out = Vec::new();
                group.bench_function(&id, |b| {
                    b.iter(|| codec::encode(numbers, mode, std::hint::black_box(&raw), &mut out, &mut scratch));
                });
                group.finish();
            }
        }
    }
}

criterion_group! {
    name = codecs;
    // About a second each; all of it under three minutes.
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(500))
        .without_plots();
    targets = benches
}
criterion_main!(codecs);
