//! The codecs that need a base.

use std::collections::BTreeSet;

use super::difference::{add, subtract};
use super::simd::{AvailableKernel, Op};
use super::tests::{KINDS, kernels, random_bytes, weights_of};
use super::*;
use crate::error::Damage;

const OPS: [Op; 3] = [Op::Xor, Op::Wrapping, Op::Mirrored];

/// Bytes of a number.
fn width(numbers: Numbers) -> usize {
    match numbers {
        Numbers::Unknown | Numbers::F8 | Numbers::Integers { log2_width: 0 } => 1,
        Numbers::F16 { .. } | Numbers::Bf16 { .. } | Numbers::Integers { log2_width: 1 } => 2,
        Numbers::F32 | Numbers::Integers { log2_width: 2 } => 4,
        Numbers::F64 | Numbers::Integers { .. } => 8,
    }
}

/// `f` of every whole number and its place; the bytes behind the last one stay.
fn map(numbers: Numbers, bytes: &[u8], mut f: impl FnMut(usize, u64) -> u64) -> Vec<u8> {
    let width = width(numbers);
    let mut out = Vec::with_capacity(bytes.len());
    for (i, number) in bytes.chunks(width).enumerate() {
        let mut wide = [0; 8];
        wide[..number.len()].copy_from_slice(number);
        let number_len = number.len();
        let moved = if number_len == width { f(i, u64::from_le_bytes(wide)) } else { u64::from_le_bytes(wide) };
        out.extend_from_slice(&moved.to_le_bytes()[..number_len]);
    }
    out
}

/// Chunks and their bases, `len` bytes each.
fn pairs(numbers: Numbers, len: usize) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let bits = 8 * width(numbers) as u32;
    let seed = len as u64 + 17;
    let mut base = weights_of(numbers, len.max(1) + 8, seed);
    base.truncate(len);
    assert_eq!(base.len(), len);
    let noise = random_bytes(8 * len + 64, seed + 1);
    let at = |i: usize| u64::from(noise[i % noise.len()]);
    let top = 1_u64 << (bits - 1);
    // NaN, infinities, both zeros, denormals, all ones: as far as a number of this width has them.
    let odd = [
        0,
        top,
        1,
        top | 1,
        top - 1,
        u64::MAX,
        0x7ff0_0000_0000_0000,
        0xfff0_0000_0000_0001,
        0x7f80_0000,
        0xffc0_0001,
        0x7f80,
        0x7c00,
        0xff80,
        0xfc01,
        0x7f,
    ];
    let few = map(numbers, &base, |i, x| x.wrapping_add(at(i) % 4).wrapping_sub(at(i + 1) % 4));
    let normal = map(numbers, &base, |i, x| {
        let sum: u64 = (0..6).map(|k| at(6 * i + k)).sum();
        x.wrapping_add(sum / 16).wrapping_sub(48)
    });
    let flips = map(numbers, &base, |i, x| if at(i) < 50 { x ^ top } else { x });
    let odd_raw = map(numbers, &base, |i, x| if at(i) < 60 { odd[at(i + 1) as usize % odd.len()] } else { x });
    let odd_base = map(numbers, &base, |i, x| if at(i + 7) < 60 { odd[at(i + 8) as usize % odd.len()] } else { x });
    let sparse = map(numbers, &base, |i, x| if at(i) == 3 && at(i + 1) < 200 { x ^ at(i + 2) } else { x });
    let shifted = map(numbers, &base, |_, x| x.wrapping_add(3));
    let mut last = base.clone();
    last.iter_mut().next_back().into_iter().for_each(|byte| *byte ^= 0x40);
    vec![
        ("equal", base.clone(), base.clone()),
        ("few ulp", few, base.clone()),
        ("normal", normal, base.clone()),
        ("sign flips", flips, base.clone()),
        ("odd", odd_raw, odd_base),
        ("sparse", sparse, base.clone()),
        ("shifted", shifted, base.clone()),
        ("last byte", last, base.clone()),
        ("of zeros", base.clone(), vec![0; len]),
        ("zeros of it", vec![0; len], base),
        ("unrelated", random_bytes(len, seed + 2), random_bytes(len, seed + 3)),
    ]
}

fn unpack_with(
    (codec, packed): (Codec, &[u8]),
    base: &[u8],
    raw_len: usize,
    fill: u8,
    scratch: &mut Scratch,
) -> Result<Vec<u8>, Damage> {
    // No byte more than promised, spare capacity included: AddressSanitizer sees the first one that
    // is read beyond.
    let buf = [packed, &[fill; PAD]].concat();
    let mut out = vec![!fill; raw_len];
    decode_against(codec, Packed::new(&buf, packed.len()).unwrap(), base, &mut out, scratch).map(|()| out)
}

/// Encodes on every kernel, checks the promises of [`encode_against`], and gives what they all
/// wrote.
fn check(
    numbers: Numbers,
    (raw, base): (&[u8], &[u8]),
    limit: usize,
    kernels: &mut [Scratch],
) -> Option<(Codec, Vec<u8>)> {
    let mut first: Option<Option<(Codec, Vec<u8>)>> = None;
    for scratch in &mut *kernels {
        let what = format!("{:?} {numbers:?} {} limit {limit}", scratch.kernel(), raw.len());
        let mut packed = vec![7; 3];
        let found = encode_against(numbers, (raw, base), limit, &mut packed, scratch).map(|codec| (codec, packed));
        let first = first.get_or_insert_with(|| found.clone());
        assert!(found == *first, "{what}: another kernel packs otherwise");
        let Some((codec, packed)) = found else { continue };
        assert!(codec.needs_base(), "{what}: {codec:?}");
        assert!(packed.len() < limit, "{what}: {codec:?} takes {}", packed.len());
        for fill in [0xa5, 0] {
            let back = unpack_with((codec, &packed), base, raw.len(), fill, scratch);
            assert!(back.as_deref() == Ok(raw), "{what}: {codec:?} does not come back: {:?}", back.err());
        }
        assert!(decode_without_base(codec, &packed, raw.len(), scratch), "{what}");
    }
    first.flatten()
}

/// Whether decoding without a base, and with one of another length, is refused.
fn decode_without_base(codec: Codec, packed: &[u8], raw_len: usize, scratch: &mut Scratch) -> bool {
    let buf = [packed, &[0; PAD]].concat();
    let packed = Packed::new(&buf, packed.len()).unwrap();
    let mut out = vec![0; raw_len];
    decode(codec, packed, &mut out, scratch).is_err()
        && decode_against(codec, packed, &vec![0; raw_len + 1], &mut out, scratch).is_err()
        && (raw_len == 0 || decode_against(codec, packed, &[], &mut out, scratch).is_err())
}

#[test]
fn every_kind_pair_kernel_and_length_comes_back() {
    let kernels = &mut kernels();
    let mut seen = BTreeSet::new();
    for numbers in KINDS {
        for len in (0..200).chain([255, 256, 257, 1023, 1024, 1025, 2047, 2048, 2049, 4096, 70_001]) {
            for (name, raw, base) in pairs(numbers, len) {
                let found = check(numbers, (&raw, &base), usize::MAX, kernels);
                let Some((codec, packed)) = found else { continue };
                assert_eq!(codec == Codec::Base, raw == base, "{name} {len}");
                seen.insert((codec, if codec == Codec::Difference { packed[1] } else { 0 }));
                // Fewer than the limit or nothing: what was the best has no room any more.
                for limit in [0, 1, 2, packed.len() / 2, packed.len()] {
                    check(numbers, (&raw, &base), limit, kernels);
                }
            }
        }
    }
    // Codecs, and those within a difference: one that no pair leads to is not tested here.
    let expected = [
        (Codec::Base, 0),
        (Codec::Delta, 0),
        (Codec::Difference, Codec::Constant.id() as u8),
        (Codec::Difference, Codec::Zstd.id() as u8),
        (Codec::Difference, Codec::Planes.id() as u8),
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn fine_tunes_take_a_fraction_of_what_they_take_alone() {
    let kernels = &mut kernels();
    for (numbers, most) in [
        (Numbers::Bf16 { row: 0 }, 0.35),
        (Numbers::F16 { row: 0 }, 0.35),
        (Numbers::F8, 0.75),
        (Numbers::F32, 0.30),
        (Numbers::F64, 0.20),
        (Numbers::Integers { log2_width: 1 }, 0.35),
    ] {
        let raw_len = 262_144;
        let pairs = pairs(numbers, raw_len);
        let mut len = |name: &str| {
            let (_, raw, base) = pairs.iter().find(|(n, ..)| *n == name).unwrap();
            check(numbers, (raw, base), usize::MAX, &mut *kernels).map_or(raw_len, |(_, packed)| packed.len())
        };
        // 15 values each of seldom one: fewer than three bits a number.
        let few = len("few ulp") as f64 / raw_len as f64;
        assert!(few < most, "{numbers:?}: {few}");
        assert!(len("sparse") < raw_len / 20, "{numbers:?}: {}", len("sparse"));
        assert_eq!(len("equal"), 1);
        assert!(len("last byte") < 600, "{numbers:?}: {}", len("last byte"));
    }
}

#[test]
fn unrelated_bytes_are_left_alone() {
    let kernels = &mut kernels();
    for numbers in KINDS {
        let (_, raw, base) = pairs(numbers, 70_001).pop().unwrap();
        assert!(check(numbers, (&raw, &base), raw.len(), kernels).is_none(), "{numbers:?}");
        assert!(check(numbers, (&raw, &base[1..]), usize::MAX, kernels).is_none(), "{numbers:?}: of another length");
    }
}

/// The place of a float in the order of floats, from the most negative one.
fn place(x: u64, bits: u32) -> i128 {
    let (top, low) = (x >> (bits - 1) & 1, x & !(1 << (bits - 1)));
    if top == 1 { -1 - i128::from(low) } else { i128::from(low) }
}

/// What FORMAT.md says of a difference, written from its text.
fn specified(op: Op, x: u64, y: u64, bits: u32) -> u64 {
    let ones = u64::MAX >> (64 - bits);
    let fold = |d: u64| {
        let d = d & ones;
        if d >> (bits - 1) == 0 {
            d.wrapping_mul(2) & ones
        } else {
            (d.wrapping_neg() & ones).wrapping_mul(2).wrapping_sub(1) & ones
        }
    };
    let low = |v: u64| v & (ones >> 1);
    match op {
        Op::Xor => x ^ y,
        Op::Wrapping => fold(x.wrapping_sub(y)),
        Op::Mirrored => {
            let same = x >> (bits - 1) == y >> (bits - 1);
            let p = if same { low(x) } else { ones - low(x) };
            fold(p.wrapping_sub(low(y)))
        }
    }
}

/// Checks all `xs` against one `y`.
fn check_differences(bits: u32, y: u64, xs: &[u64], kernel: AvailableKernel) {
    let width = bits as usize / 8;
    let bytes = |n: u64| n.to_le_bytes()[..width].to_vec();
    let raw: Vec<u8> = xs.iter().flat_map(|&x| bytes(x)).collect();
    let base: Vec<u8> = xs.iter().flat_map(|_| bytes(y)).collect();
    let mut moved = Vec::new();
    for op in OPS {
        subtract(kernel, op, width.ilog2() as u8, (&raw, &base), &mut moved);
        for (z, &x) in moved.chunks(width).zip(xs) {
            let mut wide = [0; 8];
            wide[..width].copy_from_slice(z);
            let z = u64::from_le_bytes(wide);
            assert_eq!(z, specified(op, x, y, bits), "{op:?} x {x:#x} y {y:#x}");
            let away = place(x, bits) - place(y, bits);
            let far = away.unsigned_abs();
            if op == Op::Mirrored && far < 1 << (bits - 1) {
                // Even where x lies on the side of y that is away from zero.
                let outwards = (away > 0) == (y >> (bits - 1) == 0);
                let expected = if far == 0 || outwards { 2 * far } else { 2 * far - 1 };
                assert_eq!(u128::from(z), expected, "x {x:#x} y {y:#x}");
            }
        }
        add(kernel, op, width.ilog2() as u8, &base, &mut moved);
        assert!(moved == raw, "{op:?} y {y:#x}");
    }
}

#[test]
fn a_difference_is_what_the_format_says_and_leads_back() {
    for scratch in kernels() {
        let kernel = scratch.kernel;
        let all: Vec<u64> = (0..=255).collect();
        for y in 0..=255 {
            check_differences(8, y, &all, kernel);
        }
        let all: Vec<u64> = (0..=65_535).collect();
        let edges = [0, 1, 0x7f, 0x80, 0x3f80, 0x7f7f, 0x7f80, 0x7fff, 0x8000, 0x8001, 0xbf80, 0xff80, 0xffff, 0x4000];
        for y in edges.into_iter().chain((0..40).map(|i| i * 1637 + 11)) {
            check_differences(16, y, &all, kernel);
        }
        for bits in [32, 64] {
            let ones = u64::MAX >> (64 - bits);
            let mut some: Vec<u64> = random_bytes(8 * 500, 9)
                .chunks_exact(8)
                .map(|x| u64::from_le_bytes(x.try_into().unwrap()) & ones)
                .collect();
            some.extend([0, 1, ones, ones >> 1, (ones >> 1) + 1, (ones >> 1) + 2, (ones >> 1) - 1, ones - 1]);
            for &y in &some[some.len() - 120..] {
                check_differences(bits, y, &some, kernel);
            }
        }
    }
}

/// A codec, its packed bytes, the base and the raw bytes.
type Sample = (Codec, Vec<u8>, Vec<u8>, Vec<u8>);

/// Small chunks of every codec with a base, in every form: (codec, packed, base, raw).
fn samples() -> Vec<Sample> {
    let kernel = AvailableKernel::detect();
    let mut cases = vec![(Codec::Base, vec![0], random_bytes(300, 1), random_bytes(300, 1))];
    // As large as the base's exponent is odd or even, so that there are groups.
    let base: Vec<u8> = weights_of(Numbers::Bf16 { row: 0 }, 6001, 3)[..12_001].to_vec();
    let noise = random_bytes(6001, 4);
    let raw = map(Numbers::Bf16 { row: 0 }, &base, |i, y| {
        let by = u64::from(noise[i]) % if y >> 7 & 1 == 1 { 3 } else { 100 };
        y.wrapping_add(by) ^ if i == 70 { 0x7fff } else { 0 }
    });
    let plan = delta::DeltaParams { op: Op::Mirrored, log2_width: 1, shift: 7 };
    let mut packed = Vec::new();
    assert!(delta::encode(kernel, plan, (&raw, &base), usize::MAX, &mut packed, &mut Default::default()));
    cases.push((Codec::Delta, packed, base, raw));
    for (numbers, len, shift) in
        [(Numbers::Bf16 { row: 0 }, 1801, 7), (Numbers::F16 { row: 0 }, 1300, 9), (Numbers::F8, 901, 2)]
    {
        let log2_width = width(numbers).ilog2() as u8;
        for (name, raw, base) in pairs(numbers, len) {
            let op = match name {
                "normal" => Op::Mirrored,
                "few ulp" => Op::Wrapping,
                "odd" => Op::Xor,
                _ => continue,
            };
            let plan = delta::DeltaParams { op, log2_width, shift };
            let mut packed = Vec::new();
            let whole = delta::encode(kernel, plan, (&raw, &base), usize::MAX, &mut packed, &mut Default::default());
            assert!(whole, "{name}");
            cases.push((Codec::Delta, packed, base, raw));
        }
    }
    for (numbers, len) in [(Numbers::F32, 1203), (Numbers::F64, 2001), (Numbers::Bf16 { row: 0 }, 1001)] {
        let log2_width = width(numbers).ilog2() as u8;
        for (name, raw, base) in pairs(numbers, len) {
            let (op, sparse) = match name {
                "normal" => (Op::Mirrored, false),
                "few ulp" => (Op::Xor, false),
                "sparse" => (Op::Wrapping, true),
                "shifted" => (Op::Wrapping, false),
                _ => continue,
            };
            let plan = difference::DifferenceParams { op, log2_width, sparse };
            let (mut packed, mut space) = (Vec::new(), difference::Scratch::default());
            let (mut planes, mut zstd) = (plane::Scratch::default(), zstd::Scratch::default());
            let space = (&mut space, &mut planes, &mut zstd);
            assert!(difference::encode(kernel, plan, (&raw, &base), usize::MAX, &mut packed, space), "{name}");
            cases.push((Codec::Difference, packed, base, raw));
        }
    }
    cases
}

#[test]
fn damaged_chunks_give_the_same_on_every_kernel_an_error_or_some_bytes_never_a_panic() {
    let kernels = &mut kernels();
    let mut noticed = 0_usize;
    let mut tried = 0_usize;
    for (codec, packed, base, raw) in samples() {
        let mut same = |bytes: &[u8], raw_len: usize| {
            let base = &base[..raw_len];
            let results: Vec<_> =
                kernels.iter_mut().map(|k| unpack_with((codec, bytes), base, raw_len, 0xa5, k)).collect();
            assert!(results.windows(2).all(|w| w[0] == w[1]), "{codec:?}: kernels differ");
            results.into_iter().next().unwrap()
        };
        assert!(same(&packed, raw.len()).as_deref() == Ok(&raw));
        let constant = codec == Codec::Difference && packed[1] == Codec::Constant.id() as u8;
        for len in 0..packed.len() {
            if len > 600 && len % 7 != 0 {
                continue;
            }
            let cut = same(&packed[..len], raw.len());
            assert!(cut.is_err() || constant, "{codec:?} cut to {len} of {}", packed.len());
        }
        let longer = [&packed[..], &[0]].concat();
        assert!(constant || same(&longer, raw.len()).is_err(), "{codec:?} with a byte more");
        for bit in 0..packed.len() * 8 {
            if bit > 6000 && bit % 11 != 0 {
                continue;
            }
            let mut flipped = packed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            tried += 1;
            noticed += usize::from(same(&flipped, raw.len()).as_deref() != Ok(&raw));
            let _ = same(&flipped, raw.len() / 3);
        }
    }
    // The others are bits without a meaning, such as padding of runs of bits.
    assert!(noticed * 100 > tried * 95, "{noticed} of {tried}");
}

#[test]
fn every_rule_of_a_delta_is_kept() {
    let scratch = &mut Scratch::default();
    let samples = samples();
    let of = |codec, at: usize| samples.iter().filter(|(c, ..)| *c == codec).nth(at).unwrap().clone();
    let mut refused = |(codec, packed, base, raw): &(Codec, Vec<u8>, Vec<u8>, Vec<u8>), text: &str| {
        let damage = unpack_with((*codec, packed), base, raw.len(), 0, scratch).unwrap_err();
        assert!(damage.rule.contains(text), "{text}: {}", damage.rule);
    };
    let edited = |case: &(Codec, Vec<u8>, Vec<u8>, Vec<u8>), edit: &dyn Fn(&mut Vec<u8>)| {
        let mut case = case.clone();
        edit(&mut case.1);
        case
    };
    let wide = of(Codec::Delta, 0);
    assert!(wide.1[0] & 1 == 1 && wide.1[2] > 0, "two bytes and several groups");
    refused(&edited(&wide, &|p| p[0] |= 0b110), "width, kind and slots");
    refused(&edited(&wide, &|p| p[0] |= 0b11000), "width, kind and slots");
    refused(&edited(&wide, &|p| p[0] |= 0b10_0000), "width, kind and slots");
    refused(&edited(&wide, &|p| p[1] = 6), "bits below a context");
    refused(&edited(&wide, &|p| p[1] = 16), "bits below a context");
    refused(&edited(&wide, &|p| p[2] = 16), "groups of a delta");
    refused(&edited(&wide, &|p| p[3] = 0), "first context of a group");
    if wide.1[2] > 1 {
        refused(&edited(&wide, &|p| p[4] = p[3]), "first context of a group");
    }
    let narrow = of(Codec::Delta, 7);
    assert!(narrow.1[0] & 1 == 0, "one byte");
    refused(&edited(&narrow, &|p| p[1] = 8), "bits below a context");
    // A byte of extra that no symbol takes, which the length of the words makes room for.
    let at = 3 + usize::from(wide.1[2]);
    let extra = edited(&wide, &|p| {
        let lens: Vec<u32> =
            (0..3).map(|i| u32::from_le_bytes(p[at + 4 * i..at + 4 * i + 4].try_into().unwrap())).collect();
        p[at + 4..at + 8].copy_from_slice(&(lens[1] + 1).to_le_bytes());
        let behind = at + 12 + lens[2] as usize + wide.3.len() % 2 + lens[1] as usize;
        p.insert(behind, 0);
    });
    refused(&extra, "bytes behind symbols left at the end");

    let difference = of(Codec::Difference, 0);
    refused(&edited(&difference, &|p| p[0] |= 3), "kind and width of a difference");
    refused(&edited(&difference, &|p| p[0] |= 16), "kind and width of a difference");
    for codec in [0, 4, 5, 6, 7, 8, 9, 10, 255] {
        refused(&edited(&difference, &|p| p[1] = codec), "codec of a difference");
    }
    let base = of(Codec::Base, 0);
    for packed in [vec![], vec![1], vec![0, 0]] {
        refused(&edited(&base, &|p| *p = packed.clone()), "a chunk that is its base");
    }
}
