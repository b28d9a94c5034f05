use super::simd::AvailableKernel;
use super::wire::Stride;
use super::*;
use crate::error::Damage;

pub(super) const KINDS: [Numbers; 13] = [
    Numbers::Unknown,
    Numbers::Integers { log2_width: 0 },
    Numbers::Integers { log2_width: 1 },
    Numbers::Integers { log2_width: 2 },
    Numbers::Integers { log2_width: 3 },
    Numbers::F8,
    Numbers::F16 { row: 0 },
    Numbers::F16 { row: 64 },
    Numbers::Bf16 { row: 0 },
    Numbers::Bf16 { row: 192 },
    Numbers::F32,
    Numbers::F64,
    Numbers::F16 { row: 70 },
];
const MODES: [Mode; 3] = [Mode::Balanced, Mode::Inference, Mode::Storage];

pub(super) fn random_bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .collect()
}

/// Numbers near a normal distribution, the scale changing from row to row of 192, a few of them
/// zero, huge or NaN.
fn weights(count: usize, seed: u64) -> Vec<f32> {
    let noise = random_bytes(count * 4, seed);
    noise
        .chunks_exact(4)
        .enumerate()
        .map(|(i, four)| {
            let sum: i32 = four.iter().map(|&b| i32::from(b) - 128).sum();
            match i % 1009 {
                7 => 0.0,
                500 => 1e30,
                800 => f32::NAN,
                _ => sum as f32 / 4000.0 * (1.0 + (i / 192 % 7) as f32) + f32::from(four[0]) * 1e-7,
            }
        })
        .collect()
}

/// `count` such numbers in the given kind's own bytes.
pub(super) fn weights_of(numbers: Numbers, count: usize, seed: u64) -> Vec<u8> {
    let floats = weights(count, seed);
    let half = |x: f32| {
        // Truncated, which is all that a test needs.
        let bits = x.to_bits();
        let exponent = ((bits >> 23 & 255) as i32 - 112).clamp(0, 31) as u32;
        ((bits >> 16 & 0x8000) | exponent << 10 | (bits >> 13 & 0x3ff)) as u16
    };
    match numbers {
        Numbers::F8 | Numbers::Integers { log2_width: 0 } => floats.iter().map(|&x| (half(x) >> 8) as u8).collect(),
        Numbers::F16 { .. } => floats.iter().flat_map(|&x| half(x).to_le_bytes()).collect(),
        Numbers::Bf16 { .. } | Numbers::Integers { log2_width: 1 } => {
            floats.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect()
        }
        Numbers::F64 | Numbers::Integers { log2_width: 3 } => {
            floats.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect()
        }
        Numbers::F32 | Numbers::Integers { .. } | Numbers::Unknown => {
            floats.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
    }
}

pub(super) fn kernels() -> Vec<Scratch> {
    Kernel::ALL.into_iter().filter_map(Scratch::with_kernel).collect()
}

/// Encodes and decodes on every kernel; checks the promises of [`encode`].
fn check_in(mode: Mode, numbers: Numbers, raw: &[u8], kernels: &mut [Scratch]) -> (Codec, Vec<u8>) {
    let mut first: Option<(Codec, Vec<u8>)> = None;
    for scratch in &mut *kernels {
        let mut packed = vec![7; 3];
        let codec = encode(numbers, mode, raw, &mut packed, scratch);
        assert!(packed.len() <= raw.len(), "{numbers:?} {} bytes became {}", raw.len(), packed.len());
        let (first_codec, first_packed) = first.get_or_insert_with(|| (codec, packed.clone()));
        assert_eq!(codec, *first_codec, "{:?} {mode:?} {numbers:?} {}", scratch.kernel(), raw.len());
        assert!(packed == *first_packed, "{:?} {mode:?} {numbers:?} {}", scratch.kernel(), raw.len());
        let back = unpack_on(codec, &packed, raw.len(), scratch);
        assert!(back.as_deref() == Ok(raw), "{:?} {mode:?} {numbers:?} {codec:?} {}", scratch.kernel(), raw.len());
    }
    first.unwrap()
}

fn check(numbers: Numbers, raw: &[u8]) -> (Codec, Vec<u8>) {
    check_in(Mode::Balanced, numbers, raw, &mut kernels())
}

fn unpack_on(codec: Codec, packed: &[u8], raw_len: usize, scratch: &mut Scratch) -> Result<Vec<u8>, Damage> {
    // No byte more than promised, spare capacity included: AddressSanitizer sees the first one that
    // is read beyond.
    let buf = [packed, &[0xa5; PAD]].concat();
    let mut out = vec![0x5a; raw_len];
    decode(codec, Packed::new(&buf, packed.len()).unwrap(), &mut out, scratch).map(|()| out)
}

fn unpack(codec: Codec, packed: &[u8], raw_len: usize) -> Result<Vec<u8>, Damage> {
    unpack_on(codec, packed, raw_len, &mut Scratch::default())
}

#[test]
fn every_kind_mode_kernel_and_length_comes_back() {
    let kernels = &mut kernels();
    for numbers in KINDS {
        for mode in MODES {
            for len in (0..200).chain([255, 256, 257, 1023, 1024, 1025, 4095, 4096, 4097, 70_001]) {
                check_in(mode, numbers, &random_bytes(len, len as u64 + 1), kernels);
                check_in(mode, numbers, &vec![0; len], kernels);
                let periodic: Vec<u8> = (0..len).map(|i| [0, 0x80, 0x3f, 1, 2, 3, 4, 5][i % 8]).collect();
                check_in(mode, numbers, &periodic, kernels);
                let skewed: Vec<u8> = random_bytes(len, 9).iter().map(|b| b & 3).collect();
                check_in(mode, numbers, &skewed, kernels);
                let count = len.max(1) * 3;
                let mut weights = weights_of(numbers, count, len as u64);
                weights.truncate(weights.len() - weights.len().min(len % 3));
                check_in(mode, numbers, &weights, kernels);
            }
        }
    }
}

#[test]
fn every_half_word_survives_in_every_layout() {
    let kernels = &mut kernels();
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    // Each half-word among weights, so that the codecs with escapes do not give up.
    let mut among = Vec::new();
    for (i, word) in weights_of(Numbers::Bf16 { row: 0 }, 1 << 20, 5).as_chunks::<2>().0.iter().enumerate() {
        among.extend(if i % 16 == 3 { ((i / 16) as u16).to_le_bytes() } else { *word });
    }
    for numbers in KINDS {
        for mode in MODES {
            check_in(mode, numbers, &all, kernels);
            check_in(mode, numbers, &among, kernels);
        }
    }
    // NaN payloads, infinities, both zeros, denormals, as F32 and F64 among ordinary weights.
    let mut f32s: Vec<u8> = Vec::new();
    let mut f64s: Vec<u8> = Vec::new();
    for (i, x) in weights(40_000, 8).into_iter().enumerate() {
        let odd = [0x7fc0_0001, 0xffbf_ffff, 0x7f80_0000, 0xff80_0000, 0, 0x8000_0000, 1, 0x807f_ffff];
        let x = if i % 50 == 0 { odd[i / 50 % 8] } else { x.to_bits() };
        f32s.extend(x.to_le_bytes());
        f64s.extend((u64::from(x) << 32 | 0x7ff0_0000_0000_0001).to_le_bytes());
    }
    for mode in MODES {
        check_in(mode, Numbers::F32, &f32s, kernels);
        check_in(mode, Numbers::F64, &f64s, kernels);
    }
}

#[test]
fn adversarial_distributions_come_back() {
    let kernels = &mut kernels();
    let mut cases: Vec<Vec<u8>> = Vec::new();
    // The symbols lie in the top byte of two, as in floats of sixteen bits; the bottom byte is
    // noise.
    let mut add = |symbols: &mut dyn FnMut(usize) -> u8| {
        let noise = random_bytes(40_000, 77);
        cases.push(noise.iter().enumerate().flat_map(|(i, &low)| [low, symbols(i)]).collect());
    };
    add(&mut |_| 0x3c);
    add(&mut |i| if i % 2 == 0 { 0x3c } else { 0x42 });
    add(&mut |i| (i % 256) as u8);
    add(&mut |i| if i == 20_000 { 9 } else { 0x3d });
    add(&mut |i| (i as u64 * i as u64 % 65_537) as u8);
    // Fibonacci counts: symbol k is 1.6 times as frequent as symbol k + 1.
    add(&mut |i| 0x30 + ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 40).leading_zeros() as u8);
    // Blocks of their own scale, so that every class is used.
    add(&mut |i| 0x20 + (i / 700 % 32) as u8 + (i % 3) as u8);
    for raw in &cases {
        for numbers in KINDS {
            for mode in MODES {
                check_in(mode, numbers, raw, kernels);
            }
        }
    }
}

#[test]
fn weights_take_the_codec_made_for_them() {
    let kernels = &mut kernels();
    let of = |mode, numbers, kernels: &mut [Scratch]| {
        let raw = weights_of(numbers, 200_000, 3);
        let (codec, packed) = check_in(mode, numbers, &raw, kernels);
        (codec, packed.len() as f64 / raw.len() as f64)
    };
    let cases = [
        (Mode::Balanced, Numbers::Bf16 { row: 192 }, Codec::Classes, 0.70),
        (Mode::Inference, Numbers::Bf16 { row: 192 }, Codec::Exponents, 0.71),
        (Mode::Storage, Numbers::Bf16 { row: 192 }, Codec::Grid, 0.70),
        (Mode::Balanced, Numbers::F16 { row: 192 }, Codec::Grid, 0.88),
        (Mode::Balanced, Numbers::F32, Codec::Classes, 0.85),
        (Mode::Inference, Numbers::F32, Codec::Exponents, 0.86),
        (Mode::Balanced, Numbers::F8, Codec::Classes, 0.88),
        (Mode::Balanced, Numbers::F64, Codec::Planes, 0.80),
        (Mode::Balanced, Numbers::Unknown, Codec::Classes, 0.85),
    ];
    for (mode, numbers, codec, most) in cases {
        let (got, ratio) = of(mode, numbers, kernels);
        assert!(got == codec && ratio < most, "{mode:?} {numbers:?}: {got:?} {ratio}");
    }
    // Bytes of unknown type pack like the floats they are, wherever in the chunk these begin.
    let typed = check(Numbers::F32, &weights_of(Numbers::F32, 120_000, 4)).1.len();
    for phase in 1..4 {
        let shifted = [&random_bytes(phase, 1), &weights_of(Numbers::F32, 120_000, 4)[..]].concat();
        let (codec, packed) = check(Numbers::Unknown, &shifted);
        assert!(codec == Codec::Classes && packed.len() <= typed + 64, "{phase}: {codec:?} {} {typed}", packed.len());
    }
}

#[test]
fn floats_made_from_shorter_ones_keep_the_shorter_size() {
    let floats = weights(100_000, 12);
    let short: Vec<u8> = floats.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect();
    let from_bf16: Vec<u8> = floats.iter().flat_map(|x| (x.to_bits() & 0xffff_0000).to_le_bytes()).collect();
    let from_f16: Vec<u8> = floats.iter().flat_map(|x| (x.to_bits() & 0xffff_e000).to_le_bytes()).collect();
    let bf16 = check(Numbers::Bf16 { row: 0 }, &short).1.len();
    let f32 = check(Numbers::F32, &from_bf16).1.len();
    assert!(f32 < bf16 + 200, "{f32} {bf16}");
    let f32 = check(Numbers::F32, &from_f16).1.len();
    assert!(f32 < bf16 + 100_000 * 3 / 8 + 200, "{f32} {bf16}");
}

#[test]
fn noise_does_not_grow_and_constants_vanish() {
    let noise = random_bytes(400_000, 3);
    for numbers in KINDS {
        assert_eq!(check(numbers, &noise).0, Codec::Raw);
    }
    assert_eq!(check(Numbers::F32, &vec![0; 1 << 20]).1, [0]);
    let text = b"model.layers.0.self_attn.q_proj.weight ".repeat(300);
    assert_eq!(check(Numbers::Unknown, &text).0, Codec::Zstd);
}

/// Small chunks of every codec.
fn samples() -> Vec<(Codec, Vec<u8>, usize)> {
    let mut cases = vec![
        (Codec::Raw, random_bytes(300, 1), 300),
        (Codec::Constant, vec![1, 2, 3, 4], 1000),
        (Codec::Zstd, check(Numbers::Unknown, &b"the quick brown fox ".repeat(40)).1, 800),
    ];
    for (log2_width, len) in [(0, 2000), (1, 4000), (2, 4003), (3, 8001)] {
        let shape = plane::Shape { log2_width, rotate: log2_width % 2 == 1 };
        let raw: Vec<u8> = (0..len)
            .map(|i| if i % 2 == 1 { [0x3c, 0x3d, 0xbc][i * i % 3] } else { random_bytes(1, i as u64 + 1)[0] })
            .collect();
        let mut packed = Vec::new();
        assert!(plane::encode(
            AvailableKernel::detect(),
            &raw,
            shape,
            usize::MAX,
            &mut packed,
            &mut plane::Scratch::default()
        ));
        cases.push((Codec::Planes, packed, len));
    }
    let kernel = AvailableKernel::detect();
    let (mut classes, mut exponents, mut grid) = Default::default();
    for (log2_width, numbers, count) in
        [(1, Numbers::Bf16 { row: 0 }, 3000), (2, Numbers::F32, 1601), (0, Numbers::F8, 3001)]
    {
        let raw = weights_of(numbers, count, 21);
        let stride = Stride { log2_width, skip: log2_width };
        let mut packed = Vec::new();
        assert!(classes::encode(kernel, stride, &raw, usize::MAX, &mut packed, &mut classes));
        cases.push((Codec::Classes, packed.clone(), raw.len()));
        if log2_width > 0 {
            assert!(exponents::encode(kernel, stride, &raw, usize::MAX, &mut packed, &mut exponents));
            cases.push((Codec::Exponents, packed, raw.len()));
        }
    }
    for (numbers, layout, row, shapes) in [
        (Numbers::F16 { row: 192 }, grid::Layout::TopByte, 192, &[(4, 4)]),
        (Numbers::Bf16 { row: 192 }, grid::Layout::Bf16, 192, &[(2, 3)]),
        (Numbers::Bf16 { row: 0 }, grid::Layout::Bf16, 0, &[(3, 1)]),
    ] {
        let raw = weights_of(numbers, 192 * 20 + 5, 21);
        let plan = grid::GridParams { stride: Stride::of(1), layout, row, bits: 11, shapes };
        let mut packed = Vec::new();
        assert!(grid::encode(kernel, &plan, &raw, usize::MAX, &mut packed, &mut grid));
        cases.push((Codec::Grid, packed, raw.len()));
    }
    cases
}

#[test]
fn damaged_chunks_give_the_same_on_every_kernel_an_error_or_some_bytes_never_a_panic() {
    let kernels = &mut kernels();
    for (codec, packed, raw_len) in samples() {
        assert!(unpack(codec, &packed, raw_len).is_ok());
        let mut same = |bytes: &[u8], raw_len: usize| {
            let results: Vec<_> = kernels.iter_mut().map(|k| unpack_on(codec, bytes, raw_len, k)).collect();
            assert!(results.windows(2).all(|w| w[0] == w[1]), "{codec:?}: kernels differ");
            results.into_iter().next().unwrap()
        };
        for len in 0..packed.len() {
            if len > 600 && len % 7 != 0 {
                continue;
            }
            let cut = same(&packed[..len], raw_len);
            assert!(cut.is_err() || codec == Codec::Constant, "{codec:?} cut to {len} of {}", packed.len());
        }
        let mut longer = packed.clone();
        longer.push(0);
        assert!(unpack(codec, &longer, raw_len).is_err(), "{codec:?} with a byte more");
        for bit in 0..packed.len() * 8 {
            if bit > 6000 && bit % 11 != 0 {
                continue;
            }
            let mut flipped = packed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = same(&flipped, raw_len);
            let _ = same(&flipped, raw_len / 3);
        }
    }
}

#[test]
fn classes_are_read_from_the_first_bytes() {
    for (codec, packed, _) in samples() {
        let classes = codec.classes(&packed[..packed.len().min(4)]);
        assert_eq!(classes.is_some(), matches!(codec, Codec::Classes | Codec::Grid));
        assert!(classes.is_none_or(|n| (1..=64).contains(&n)));
    }
}

#[test]
fn a_chunk_is_one_zstd_frame_and_nothing_else() {
    let (codec, one) = check(Numbers::Unknown, &b"again and again ".repeat(20));
    assert_eq!(codec, Codec::Zstd);
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2];
    let empty = ::zstd::bulk::compress(b"", 1).unwrap();
    for other in [[&one[..], &skippable].concat(), [&skippable[..], &one].concat(), [&one[..], &empty].concat()] {
        assert!(unpack(codec, &other, 320).is_err());
    }
}

#[test]
fn storage_is_never_larger_than_balanced() {
    let kernels = &mut kernels();
    let text: Vec<u8> =
        (0..20_000_u32).flat_map(|i| format!("token {} {}\n", i % 977, i * i % 1013).into_bytes()).collect();
    let mut cases = vec![(Numbers::Unknown, text)];
    cases.extend(KINDS.map(|numbers| (numbers, weights_of(numbers, 300_000, 2))));
    for (numbers, raw) in cases {
        let [balanced, inference, storage] = MODES.map(|mode| check_in(mode, numbers, &raw, kernels).1.len());
        assert!(storage <= balanced && storage <= inference, "{numbers:?} {balanced} {inference} {storage}");
    }
}

#[test]
fn ids_are_fixed() {
    let ids: Vec<_> = Codec::ALL.iter().map(|c| (c.id(), c.name())).collect();
    let expected = [
        (0, "raw"),
        (1, "constant"),
        (2, "zstd"),
        (3, "planes"),
        (4, "classes"),
        (5, "exponents"),
        (6, "grid"),
        (7, "base"),
        (8, "delta"),
        (9, "difference"),
    ];
    assert_eq!(ids, expected);
    assert_eq!(Codec::from_id(10), None);
}
