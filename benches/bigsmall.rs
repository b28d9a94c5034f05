//! Decode speed of BigSmall's codings on one thread: the side that goes ahead, the side that follows, and both.
//!
//! `cargo bench --bench bigsmall [-- FILTER]`, FILTER being part of a name such as `bf16_se_rans/front`. Numbers are generated;
//! rates are raw bytes. Opening a blob (tables and models) is not in them, but has a line of its own.

use std::sync::Arc;
use std::time::Duration;

use bsfs::Error;
use bsfs::foreign::bigsmall::codec::{Blob, Coding, Symbols, encode, open};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// A window as the engine takes it.
const WINDOW: usize = 512 << 10;
/// Bytes of the tensor.
const LEN: usize = 8 * WINDOW;
/// Packed bytes in memory.
const BUFFER: usize = 1 << 20;

struct Bytes(Vec<u8>);

impl Blob for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Error> {
        to.copy_from_slice(&self.0[at as usize..][..to.len()]);
        Ok(())
    }
}

/// Numbers that spread like trained weights: a sum of uniform ones, another scale for each 768.
fn weights(count: usize) -> impl Iterator<Item = f32> {
    let mut state = 1_u64;
    let mut uniform = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut scale = 0.02;
    (0..count).map(move |i| {
        if i % 768 == 0 {
            scale = 0.02 * (1.0 + uniform());
        }
        (uniform() + uniform() + uniform() + uniform()) * scale
    })
}

fn tensor(coding: Coding) -> Vec<u8> {
    let elem = coding.elem_bytes() as usize;
    let words = weights(LEN / elem).map(|x| match coding {
        Coding::Fp8CatAc => (x.to_bits() >> 20) << 24,
        // The exponent moved into five bits, which is right for numbers of this size.
        Coding::Fp16SeAc => {
            (x.to_bits() >> 31) << 31 | (x.to_bits() >> 13).saturating_sub(112 << 10) << 16 & 0x7fff_0000
        }
        _ => x.to_bits(),
    });
    words.flat_map(|word| word.to_le_bytes()[4 - elem..].to_vec()).collect()
}

fn codings(c: &mut Criterion) {
    for coding in [Coding::Bf16SeRans, Coding::Bf16SeAc, Coding::Fp16SeAc, Coding::Fp32SeAc, Coding::Fp8CatAc] {
        let raw = tensor(coding);
        let blob: Arc<dyn Blob> = Arc::new(Bytes(encode(coding, &raw).unwrap()));
        let opened = || open(coding, Arc::clone(&blob), LEN as u64, BUFFER).unwrap();
        let mut group = c.benchmark_group(coding.name());
        group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600)).sample_size(10);

        group.bench_function("open", |b| b.iter(opened));
        group.throughput(Throughput::Bytes(LEN as u64));
        let mut ahead: Vec<Symbols> = vec![Symbols::default(); LEN / WINDOW];
        let mut out = vec![0; WINDOW];
        group.bench_function("front", |b| {
            let (mut front, _) = opened();
            let start = front.state().unwrap();
            b.iter(|| {
                front.resume(0, &start).unwrap();
                ahead.iter_mut().for_each(|symbols| front.window(WINDOW, symbols).unwrap());
            });
        });
        let (mut front, _) = opened();
        ahead.iter_mut().for_each(|symbols| front.window(WINDOW, symbols).unwrap());
        group.bench_function("back", |b| {
            let (_, mut back) = opened();
            let start = back.state().unwrap();
            b.iter(|| {
                back.resume(0, &start).unwrap();
                ahead.iter().for_each(|symbols| back.window(symbols, &mut out).unwrap());
            });
        });
        let mut symbols = Symbols::default();
        group.bench_function("both", |b| {
            b.iter(|| {
                let (mut front, mut back) = opened();
                for _ in 0..LEN / WINDOW {
                    front.window(WINDOW, &mut symbols).unwrap();
                    back.window(&symbols, &mut out).unwrap();
                }
                front.finish().unwrap();
                back.finish().unwrap();
            });
        });
        group.finish();
    }
}

criterion_group!(benches, codings);
criterion_main!(benches);
