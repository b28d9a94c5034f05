use super::*;

const KINDS: [Numbers; 8] = [
    Numbers::Unknown,
    Numbers::Integers { log2_width: 0 },
    Numbers::Integers { log2_width: 1 },
    Numbers::Integers { log2_width: 2 },
    Numbers::Integers { log2_width: 3 },
    Numbers::Floats { log2_width: 1 },
    Numbers::Floats { log2_width: 2 },
    Numbers::Floats { log2_width: 3 },
];

fn random_bytes(len: usize, seed: u64) -> Vec<u8> {
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

/// Encodes and decodes; checks the promises of [`encode`].
fn check(numbers: Numbers, raw: &[u8]) -> (Codec, Vec<u8>) {
    let mut scratch = Scratch::default();
    let mut packed = Vec::new();
    let codec = encode(numbers, Mode::Balanced, raw, &mut packed, &mut scratch);
    assert!(packed.len() <= raw.len(), "{numbers:?} {} bytes became {}", raw.len(), packed.len());
    let mut again = vec![7; 3];
    assert_eq!(encode(numbers, Mode::Balanced, raw, &mut again, &mut Scratch::default()), codec);
    assert_eq!(packed, again, "a used scratch changes nothing");
    assert_eq!(unpack(codec, &packed, raw.len()).as_deref(), Ok(raw));
    (codec, packed)
}

fn unpack(codec: Codec, packed: &[u8], raw_len: usize) -> Result<Vec<u8>, Damage> {
    let mut buf = packed.to_vec();
    buf.resize(packed.len() + PAD, 0xa5);
    let mut out = vec![0x5a; raw_len];
    decode(codec, Packed::new(&buf, packed.len()).unwrap(), &mut out, &mut Scratch::default()).map(|()| out)
}

#[test]
fn every_kind_and_length_comes_back() {
    for numbers in KINDS {
        for len in (0..200).chain([255, 256, 257, 4095, 4096, 4097, 70_001]) {
            check(numbers, &random_bytes(len, len as u64 + 1));
            check(numbers, &vec![0; len]);
            let periodic: Vec<u8> = (0..len).map(|i| [0, 0x80, 0x3f, 1, 2, 3, 4, 5][i % 8]).collect();
            check(numbers, &periodic);
            let skewed: Vec<u8> = random_bytes(len, 9).iter().map(|b| b & 3).collect();
            check(numbers, &skewed);
        }
    }
}

#[test]
fn every_half_word_survives_in_every_layout() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for numbers in KINDS {
        check(numbers, &all);
    }
    // NaN payloads, infinities, both zeros, denormals, as F32 and F64 among ordinary weights.
    let mut f32s: Vec<u8> = Vec::new();
    let mut f64s: Vec<u8> = Vec::new();
    for i in 0..20_000_u32 {
        let odd = [0x7fc0_0001, 0xffbf_ffff, 0x7f80_0000, 0xff80_0000, 0, 0x8000_0000, 1, 0x807f_ffff];
        let x = if i % 50 == 0 { odd[(i / 50) as usize % 8] } else { (0.01 * f64::from(i).sin()) as f32 as u32 };
        f32s.extend(x.to_le_bytes());
        f64s.extend((u64::from(x) << 32 | 0x7ff0_0000_0000_0001).to_le_bytes());
    }
    check(Numbers::Floats { log2_width: 2 }, &f32s);
    check(Numbers::Floats { log2_width: 3 }, &f64s);
}

#[test]
fn weights_shrink_and_noise_does_not_grow() {
    let mut bf16 = Vec::new();
    let noise = random_bytes(400_000, 3);
    for four in noise.chunks_exact(4) {
        // A sum of four uniform numbers is near enough to Gaussian weights.
        let sum: i32 = four.iter().map(|&b| i32::from(b) - 128).sum();
        bf16.extend(((sum as f32 / 4000.0).to_bits() >> 16).to_le_bytes()[..2].iter());
    }
    let (codec, packed) = check(Numbers::Floats { log2_width: 1 }, &bf16);
    assert_eq!(codec, Codec::Planes);
    assert!(packed.len() * 100 < bf16.len() * 75, "{} of {}", packed.len(), bf16.len());
    assert_eq!(check(Numbers::Integers { log2_width: 0 }, &noise).0, Codec::Raw);
    assert_eq!(check(Numbers::Floats { log2_width: 2 }, &vec![0; 1 << 20]).1, [0]);
    let text = b"model.layers.0.self_attn.q_proj.weight ".repeat(300);
    assert_eq!(check(Numbers::Unknown, &text).0, Codec::Zstd);
}

#[test]
fn damaged_chunks_give_an_error_or_some_bytes_never_a_panic() {
    let text = b"the quick brown fox ".repeat(40);
    let mut planes = Vec::new();
    let mut pack = |raw: &[u8], log2_width| {
        let shape = plane::Shape { log2_width, rotate: log2_width % 2 == 1 };
        plane::encode(raw, shape, &mut planes, &mut plane::Scratch::default());
        planes.clone()
    };
    let cases = [
        (Codec::Raw, random_bytes(300, 1), 300),
        (Codec::Constant, vec![1, 2, 3, 4], 1000),
        (Codec::Zstd, check(Numbers::Unknown, &text).1, text.len()),
        (Codec::Planes, pack(&weights(2000), 0), 2000),
        (Codec::Planes, pack(&weights(4000), 1), 4000),
        (Codec::Planes, pack(&weights(4003), 2), 4003),
        (Codec::Planes, pack(&weights(8001), 3), 8001),
    ];
    for (codec, packed, raw_len) in cases {
        assert!(unpack(codec, &packed, raw_len).is_ok());
        for len in 0..packed.len() {
            let cut = unpack(codec, &packed[..len], raw_len);
            assert!(cut.is_err() || codec == Codec::Constant, "{codec:?} cut to {len} of {}", packed.len());
        }
        let mut longer = packed.clone();
        longer.push(0);
        assert!(unpack(codec, &longer, raw_len).is_err(), "{codec:?} with a byte more");
        for bit in 0..packed.len() * 8 {
            let mut flipped = packed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = unpack(codec, &flipped, raw_len);
            let _ = unpack(codec, &flipped, raw_len / 3);
        }
    }
}

fn weights(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| if i % 2 == 1 { [0x3c, 0x3d, 0xbc][i * i % 3] } else { random_bytes(1, i as u64 + 1)[0] })
        .collect()
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
    let text: Vec<u8> =
        (0..20_000_u32).flat_map(|i| format!("token {} {}\n", i % 977, i * i % 1013).into_bytes()).collect();
    let mut sizes = [Mode::Storage, Mode::Balanced, Mode::Inference].map(|mode| {
        let mut packed = Vec::new();
        encode(Numbers::Unknown, mode, &text, &mut packed, &mut Scratch::default());
        packed.len()
    });
    assert!(sizes[0] <= sizes[1] && sizes[0] <= sizes[2], "{sizes:?}");
    sizes.sort_unstable();
    assert!(sizes[2] < text.len() / 2);
}

#[test]
fn ids_are_fixed() {
    let ids: Vec<_> = Codec::ALL.iter().map(|c| (c.id(), c.name())).collect();
    assert_eq!(ids, [(0, "raw"), (1, "constant"), (2, "zstd"), (3, "planes")]);
    assert_eq!(Codec::from_id(4), None);
}
