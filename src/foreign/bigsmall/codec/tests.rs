//! Every tensor of every file in `tests/bigsmall`, which the Python package wrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;

/// A window as the caller takes it.
const WINDOW: usize = 512 << 10;

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

fn blob(bytes: &[u8]) -> Arc<dyn Blob> {
    Arc::new(Bytes(bytes.to_vec()))
}

/// A tensor's packed bytes, out of a container.
#[derive(Clone)]
struct Packed {
    label: String,
    coding: Coding,
    bytes: Vec<u8>,
    raw_len: usize,
}

struct File {
    path: String,
    header: Value,
    data: Vec<u8>,
    manifest: Value,
}

impl File {
    fn entry(&self, name: &str) -> &Value {
        self.header["tensors"].as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap()
    }

    fn packed(&self, tensor: &Value) -> Option<Packed> {
        let name = tensor["name"].as_str().unwrap();
        let entry = self.entry(name);
        let codec = match entry["codec"].as_str().unwrap() {
            "zstd_xor_delta" => "zstd",
            codec => codec,
        };
        let at = entry["offset"].as_u64().unwrap() as usize;
        let len = entry["compressed_bytes"].as_u64().unwrap() as usize;
        Some(Packed {
            label: format!("{}:{name}", self.path),
            coding: Coding::from_name(codec, entry["extra"]["special_kind"].as_str())?,
            bytes: self.data[at..][..len].to_vec(),
            raw_len: tensor["nbytes"].as_u64().unwrap() as usize,
        })
    }
}

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bigsmall")
}

fn files() -> Vec<File> {
    let manifest: Value = serde_json::from_slice(&fs::read(dir().join("manifest.json")).unwrap()).unwrap();
    let files = manifest["files"].as_array().unwrap();
    files
        .iter()
        .map(|file| {
            let path = file["path"].as_str().unwrap().to_owned();
            let bytes = fs::read(dir().join(&path)).unwrap();
            let len = u32::from_le_bytes(bytes[6..10].try_into().unwrap()) as usize;
            let header = serde_json::from_slice(&bytes[10..10 + len]).unwrap();
            File { path, header, data: bytes[10 + len..].to_vec(), manifest: file.clone() }
        })
        .collect()
}

/// Everything that stands in the files on its own, parts of groups included.
fn all_packed() -> Vec<Packed> {
    let mut all = Vec::new();
    for file in files() {
        for tensor in file.manifest["tensors"].as_array().unwrap() {
            all.extend(file.packed(tensor));
        }
        for group in groups(&file) {
            all.extend(group.parts);
        }
    }
    all
}

struct Group {
    members: Vec<String>,
    parts: Vec<Packed>,
    is_chain: bool,
    width: usize,
    member_len: usize,
}

fn groups(file: &File) -> Vec<Group> {
    let masters = file.header["tensors"].as_array().unwrap().iter().filter(|entry| entry["codec"] == "group_stream_v1");
    masters
        .map(|entry| {
            let extra = &entry["extra"];
            let members: Vec<String> =
                extra["members"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
            let width = if extra["member_fmt"] == "fp32" { 4 } else { 2 };
            let shape = extra["member_shape"].as_array().unwrap();
            let member_len = shape.iter().map(|dim| dim.as_u64().unwrap() as usize).product::<usize>() * width;
            let mut at = entry["offset"].as_u64().unwrap() as usize;
            let mut part = |codec: &Value, extra: &Value, len: usize, raw_len: usize| {
                let kind = extra["special_kind"].as_str();
                let coding = Coding::from_name(codec.as_str().unwrap(), kind).unwrap();
                at += len;
                let bytes = file.data[at - len..at].to_vec();
                Packed { label: format!("{}:group", file.path), coding, bytes, raw_len }
            };
            let is_chain = extra["group_kind"] == "chain";
            let parts = if is_chain {
                let parts = extra["chain_parts"].as_array().unwrap();
                parts.iter().map(|p| part(&p[0], &p[1], p[2].as_u64().unwrap() as usize, member_len)).collect()
            } else {
                let len = entry["compressed_bytes"].as_u64().unwrap() as usize;
                vec![part(&extra["inner_codec"], &extra["inner_extras"], len, member_len * members.len())]
            };
            Group { members, parts, is_chain, width, member_len }
        })
        .collect()
}

fn decode(packed: &Packed, window: usize) -> Result<Vec<u8>, Fault> {
    decode_with(packed.coding, &packed.bytes, packed.raw_len, window, 1 << 20)
}

fn decode_with(coding: Coding, bytes: &[u8], len: usize, window: usize, buffer: usize) -> Result<Vec<u8>, Fault> {
    let (mut front, mut back) = open(coding, blob(bytes), len as u64, buffer)?;
    let mut symbols = Symbols::default();
    let mut raw = vec![0; len];
    for out in raw.chunks_mut(window) {
        front.window(out.len(), &mut symbols)?;
        back.window(&symbols, out)?;
    }
    front.finish()?;
    back.finish()?;
    Ok(raw)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn base(file: &File) -> Option<safetensors_base::Base> {
    file.manifest["base"].as_str().map(|path| safetensors_base::Base::read(&dir().join(path)))
}

mod safetensors_base {
    use super::*;

    pub struct Base {
        header: Value,
        data: Vec<u8>,
    }

    impl Base {
        pub fn read(path: &Path) -> Self {
            let bytes = fs::read(path).unwrap();
            let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let header = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
            Self { header, data: bytes[8 + len..].to_vec() }
        }

        pub fn tensor(&self, name: &str) -> &[u8] {
            let at = |i: usize| self.header[name]["data_offsets"][i].as_u64().unwrap() as usize;
            &self.data[at(0)..at(1)]
        }
    }
}

#[test]
fn every_tensor_of_every_file_is_what_was_compressed() {
    let (mut checked, mut bytes) = (0, 0);
    for window in [WINDOW, 64] {
        for file in files() {
            let base = base(&file);
            let mut grouped = std::collections::HashMap::new();
            for group in groups(&file) {
                let mut raw = Vec::new();
                for part in &group.parts {
                    let mut one = decode(part, window * 8).unwrap_or_else(|e| panic!("{}: {e:?}", part.label));
                    if group.is_chain && !raw.is_empty() {
                        let last: &[u8] = &raw[raw.len() - group.member_len..];
                        for (new, old) in one.chunks_mut(group.width).zip(last.chunks(group.width)) {
                            let number = |b: &[u8]| b.iter().rev().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
                            let sum = number(new).wrapping_add(number(old)).to_le_bytes();
                            new.copy_from_slice(&sum[..group.width]);
                        }
                    }
                    raw.extend(one);
                }
                for (name, raw) in group.members.iter().zip(raw.chunks(group.member_len)) {
                    grouped.insert(name.clone(), raw.to_vec());
                }
            }
            for tensor in file.manifest["tensors"].as_array().unwrap() {
                let name = tensor["name"].as_str().unwrap();
                let entry = file.entry(name);
                let raw = match entry["codec"].as_str().unwrap() {
                    "group_stream_v1" | "group_member" => grouped[name].clone(),
                    "tied_ref" => {
                        let master = entry["extra"]["tied_to"].as_str().unwrap();
                        grouped.get(master).cloned().unwrap_or_else(|| {
                            let mut other = tensor.clone();
                            other["name"] = master.into();
                            decode(&file.packed(&other).unwrap(), window * 8).unwrap()
                        })
                    }
                    codec => {
                        let packed = file.packed(tensor).unwrap();
                        let mut raw = decode(&packed, window * 8).unwrap_or_else(|e| panic!("{}: {e:?}", packed.label));
                        if codec == "zstd_xor_delta" {
                            raw.iter_mut().zip(base.as_ref().unwrap().tensor(name)).for_each(|(x, b)| *x ^= b);
                        }
                        raw
                    }
                };
                assert_eq!(sha256(&raw), tensor["sha256"].as_str().unwrap(), "{} {name}", file.path);
                checked += 1;
                bytes += raw.len();
            }
        }
    }
    assert_eq!(checked, 2 * 330);
    assert!(bytes > 8 << 20);
}

/// Windows of `packed`, and what it takes to start again at each.
fn pass(packed: &Packed, window: usize) -> (Vec<u8>, Vec<(usize, State, State)>) {
    let (mut front, mut back) = open(packed.coding, blob(&packed.bytes), packed.raw_len as u64, 1 << 16).unwrap();
    let (mut raw, mut notes, mut symbols) = (vec![0; packed.raw_len], Vec::new(), Symbols::default());
    for (i, out) in raw.chunks_mut(window).enumerate() {
        if let (Some(a), Some(b)) = (front.state(), back.state()) {
            notes.push((i * window, a, b));
        }
        front.window(out.len(), &mut symbols).unwrap();
        back.window(&symbols, out).unwrap();
    }
    (raw, notes)
}

#[test]
fn a_later_pass_starts_where_a_state_was_noted() {
    let mut resumed = std::collections::HashMap::new();
    for packed in all_packed() {
        let window = (packed.raw_len / 5).next_multiple_of(24).max(24);
        let (raw, notes) = pass(&packed, window);
        for (at, front_state, back_state) in notes {
            let (mut front, mut back) =
                open(packed.coding, blob(&packed.bytes), packed.raw_len as u64, 1 << 16).unwrap();
            let reread = |state: &State| State::from_bytes(&state.to_bytes()).unwrap();
            front.resume(at as u64, &reread(&front_state)).unwrap();
            back.resume(at as u64, &reread(&back_state)).unwrap();
            assert_eq!((front.state().unwrap(), back.state().unwrap()), (front_state, back_state));
            let (mut rest, mut symbols) = (vec![0; packed.raw_len - at], Symbols::default());
            for out in rest.chunks_mut(window / 2) {
                front.window(out.len(), &mut symbols).unwrap();
                back.window(&symbols, out).unwrap();
            }
            assert_eq!(rest, raw[at..], "{} from {at}", packed.label);
            front.finish().unwrap();
            back.finish().unwrap();
            *resumed.entry(packed.coding).or_insert(0) += 1;
        }
    }
    for (coding, ..) in Coding::ALL {
        // The row above is no part of a state.
        assert_eq!(resumed.contains_key(&coding), coding != Coding::WpeDelta, "{coding:?}");
    }
}

#[test]
fn a_state_of_another_blob_is_no_panic() {
    let all = samples();
    let half = |packed: &Packed| ((packed.raw_len / 2) & !7).max(8);
    let states: Vec<_> = all.iter().map(|p| pass(p, half(p)).1.pop().map(|(_, a, b)| [a, b])).collect();
    for (i, packed) in all.iter().enumerate() {
        for state in states.iter().cycle().skip(i + 1).take(4).flatten().flatten() {
            let (mut front, mut back) =
                open(packed.coding, blob(&packed.bytes), packed.raw_len as u64, 1 << 16).unwrap();
            let at = (packed.raw_len as u64 / 2) & !7;
            let front = front.resume(at, state).and_then(|()| {
                let mut symbols = Symbols::default();
                front.window((packed.raw_len - at as usize) & !7, &mut symbols)?;
                Ok(symbols)
            });
            if let (Ok(symbols), Ok(())) = (front, back.resume(at, state)) {
                let mut out = vec![0; (packed.raw_len - at as usize) & !7];
                let _ = back.window(&symbols, &mut out);
            }
        }
    }
}

/// One blob of each coding, the smallest above 200 raw bytes, and a larger one.
fn samples() -> Vec<Packed> {
    let mut all = all_packed();
    all.sort_by_key(|packed| packed.bytes.len());
    let mut samples = Vec::new();
    for (coding, ..) in Coding::ALL {
        let of = all.iter().filter(|packed| packed.coding == coding && packed.raw_len >= 200);
        let of: Vec<&Packed> = of.collect();
        samples.push(of[0].clone());
        samples.extend(of.get(of.len() / 2).map(|packed| (*packed).clone()));
    }
    samples
}

#[test]
fn every_cut_is_an_error() {
    for packed in samples() {
        for cut in (0..packed.bytes.len()).step_by(1 + packed.bytes.len() / 100) {
            let bytes = &packed.bytes[..cut];
            let decoded = decode_with(packed.coding, bytes, packed.raw_len, WINDOW, 1 << 16);
            assert!(decoded.is_err(), "{} cut to {cut}", packed.label);
        }
        let longer = [&packed.bytes[..], &[0]].concat();
        assert!(decode_with(packed.coding, &longer, packed.raw_len, WINDOW, 1 << 16).is_err(), "{}", packed.label);
        for len in [0, (packed.raw_len / 2) & !7, packed.raw_len + 8, packed.raw_len * 2] {
            let decoded = decode_with(packed.coding, &packed.bytes, len, WINDOW, 1 << 16);
            assert!(decoded.is_err(), "{} as {len} bytes", packed.label);
        }
    }
}

#[test]
fn damaged_bytes_give_an_error_or_bytes() {
    for packed in samples() {
        // Every byte of small blobs, else of the tables in front, and some behind.
        let len = packed.bytes.len();
        let places = (0..len).filter(|at| len < 300 || *at < 60 || at % (1 + len / 60) == 0);
        let (mut noticed, mut tried) = (0, 0);
        for (at, flip) in places.zip([1, 0x80, 0xff].into_iter().cycle()) {
            let mut bytes = packed.bytes.clone();
            bytes[at] ^= flip;
            tried += 1;
            noticed += usize::from(decode_with(packed.coding, &bytes, packed.raw_len, WINDOW, 1 << 16).is_err());
        }
        let always = matches!(packed.coding, Coding::Bf16SeRans | Coding::Bf16SeTans | Coding::Bf16SingleKernel);
        assert!(!always || noticed * 20 > tried * 19, "{}: {noticed} of {tried}", packed.label);
    }
}

/// A generator of numbers that is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Near 0, about as a sum of uniform numbers is.
    fn weight(&mut self) -> f32 {
        let sum: u64 = (0..4).map(|_| self.below(1 << 16)).sum();
        (sum as f32 / f32::from(u16::MAX) - 2.0) * 0.02
    }
}

/// Tensors of all kinds: spread like weights, of one value, of every word, empty.
fn tensors(elem: usize) -> Vec<Vec<u8>> {
    let mut random = Random(7);
    let weights = |count: usize| -> Vec<u8> {
        let mut random = Random(count as u64);
        (0..count)
            .flat_map(|_| {
                let bits = random.weight().to_bits();
                let half = |bits: u32| (bits >> 16) as u16;
                match elem {
                    1 => vec![(half(bits) >> 6) as u8],
                    2 => half(bits).to_le_bytes().to_vec(),
                    _ => (bits & !random.below(256) as u32).to_le_bytes().to_vec(),
                }
            })
            .collect()
    };
    let noise = |random: &mut Random, count: usize| (0..count * elem).map(|_| random.next() as u8).collect();
    let mut all = vec![vec![], vec![0; elem], vec![0; 5000 * elem], [0x12, 0x34, 0x56, 0x78].repeat(997)];
    for count in [1, 2, 3, 63, 1000, 40_000, WINDOW / elem - 1, WINDOW / elem, WINDOW / elem + 1] {
        all.push(weights(count));
    }
    for count in [1, 77, 70_000] {
        all.push(noise(&mut random, count));
    }
    all
}

#[test]
fn what_is_encoded_here_is_decoded_here() {
    for coding in [
        Coding::Raw,
        Coding::Zstd,
        Coding::Bf16SeAc,
        Coding::Bf16SeRans,
        Coding::Fp16SeAc,
        Coding::Fp32SeAc,
        Coding::Fp8CatAc,
    ] {
        for raw in tensors(coding.elem_bytes().max(1) as usize) {
            let packed = encode(coding, &raw).unwrap();
            for window in [WINDOW, 4096 - 64] {
                let decoded = decode_with(coding, &packed, raw.len(), window, 1 << 16);
                assert!(decoded.unwrap_or_else(|e| panic!("{coding:?} of {}: {e:?}", raw.len())) == raw);
            }
        }
    }
    assert!(encode(Coding::Bf16SeAc, &[1]).is_none());
    assert!(encode(Coding::Fp32SeAc, &[1, 2, 3]).is_none());
    assert!(encode(Coding::Bf16V8, &[1, 2]).is_none());
}

#[test]
fn blobs_are_those_of_the_package() {
    let mut same = std::collections::HashMap::new();
    for packed in all_packed().into_iter().filter(|packed| packed.raw_len > 0) {
        let raw = decode(&packed, WINDOW).unwrap();
        if let Some(ours) = encode(packed.coding, &raw) {
            let (equal, all) = same.entry(packed.coding).or_insert((0, 0));
            *equal += usize::from(ours == packed.bytes);
            *all += 1;
        }
    }
    for coding in [Coding::Raw, Coding::Bf16SeAc, Coding::Bf16SeRans, Coding::Fp16SeAc, Coding::Fp8CatAc] {
        let (equal, all) = same[&coding];
        assert!(equal == all && all >= 2, "{coding:?}: {same:?}");
    }
}

/// constriction's own decoders, over random models: skewed, of one symbol, uniform.
#[test]
fn streams_decode_as_constriction_decodes_them() {
    use super::coder::{Ans, Range};
    use super::feed::Share;
    use super::model::{self, Bytes, Wide, Words};
    use super::region::Region;
    use super::stream::Stream;
    use constriction::stream::queue::{DefaultRangeDecoder, DefaultRangeEncoder};
    use constriction::stream::stack::DefaultAnsCoder;
    use constriction::stream::{Decode, Encode};

    fn ours<C: coder::Coder, L: model::Lookup>(words: &[u32], counts: &[u32], step: usize) -> Vec<u16> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let share = Share::new(300, bytes.len() as u64);
        let mut stream = Stream::<C, L>::counted(Region::new(blob(&bytes)), counts.to_vec(), share).unwrap();
        let mut out = vec![0_u16; stream.left() as usize];
        out.chunks_mut(step).for_each(|out| stream.decode(out).unwrap());
        stream.finish().unwrap();
        out
    }

    let mut random = Random(11);
    for (alphabet, n) in [2, 16, 64, 128, 256, 512, 1024].into_iter().flat_map(|a| [0, 1, 2, 300, 9001].map(|n| (a, n)))
    {
        for skew in [1, 3, 12, 200] {
            let symbols: Vec<usize> =
                (0..n).map(|_| (0..skew).map(|_| random.below(alphabet)).min().unwrap() as usize).collect();
            let mut counts = vec![0_u32; alphabet as usize];
            symbols.iter().for_each(|symbol| counts[*symbol] += 1);
            let model = model::categorical(&counts).unwrap();

            let mut encoder = DefaultRangeEncoder::new();
            encoder.encode_iid_symbols(&symbols, &model).unwrap();
            let words = encoder.into_compressed().unwrap();
            let mut theirs = DefaultRangeDecoder::from_compressed(words.clone()).unwrap();
            let theirs: Vec<u16> = theirs.decode_iid_symbols(n as usize, &model).map(|s| s.unwrap() as u16).collect();
            assert!(theirs.iter().map(|symbol| usize::from(*symbol)).eq(symbols.iter().copied()));
            assert_eq!(ours::<Range, Wide>(&words, &counts, 1000), theirs);
            assert_eq!(ours::<Range, Words>(&words, &counts, 77), theirs);

            let mut coder = DefaultAnsCoder::new();
            coder.encode_iid_symbols_reverse(&symbols, &model).unwrap();
            let words = coder.into_compressed().unwrap();
            assert_eq!(ours::<Ans, Wide>(&words, &counts, 77), theirs);
            if alphabet <= 256 {
                assert_eq!(ours::<Ans, Bytes>(&words, &counts, 1000), theirs);
            }
        }
    }
}

/// Numbers in a blob ask for no memory, and for no time beyond that of the tensor's bytes.
#[test]
fn promises_cost_nothing() {
    let huge = 8_u64 << 30;
    let n = |elem: u64| ((huge / elem) as u32).to_le_bytes();
    for (coding, ..) in Coding::ALL {
        for fill in [0_u8, 1, 0xff] {
            for elem in [1, 2, 4] {
                let mut bytes = n(elem).to_vec();
                bytes.resize(4000, fill);
                assert!(open(coding, blob(&bytes), huge, 1 << 20).is_err(), "{coding:?}");
                let bytes = [b"PAR1".as_slice(), &bytes].concat();
                assert!(open(coding, blob(&bytes), huge, 1 << 20).is_err(), "{coding:?}");
            }
        }
    }
    // One symbol for a gigabyte and more needs no words at all: it opens, and costs what is asked of it.
    let mut bytes = u32::MAX.to_le_bytes().to_vec();
    bytes.extend([1, 0, 0]);
    bytes.extend(u32::MAX.to_le_bytes());
    bytes.extend([0; 4]);
    let (_, mut back) = open(Coding::Fp8CatAc, blob(&bytes), u64::from(u32::MAX), 1 << 20).unwrap();
    let mut out = vec![9; WINDOW];
    back.window(&Symbols::default(), &mut out).unwrap();
    assert!(out.iter().all(|byte| *byte == 0));
    assert!(back.finish().is_err());
}

/// A tensor much longer than the buffer is decoded with few packed bytes in memory at a time.
#[test]
fn reads_are_no_longer_than_the_buffer() {
    struct Meter(Bytes, std::sync::Mutex<(usize, usize)>);
    impl Blob for Meter {
        fn len(&self) -> u64 {
            self.0.len()
        }

        fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Error> {
            let mut most = self.1.lock().unwrap();
            *most = (most.0.max(to.len()), most.1 + 1);
            self.0.read(at, to)
        }
    }
    let raw = &tensors(2)[4 + 8];
    for coding in [Coding::Bf16SeAc, Coding::Bf16SeRans, Coding::Fp16SeAc, Coding::Zstd] {
        let meter = Arc::new(Meter(Bytes(encode(coding, raw).unwrap()), Default::default()));
        let (mut front, mut back) = open(coding, meter.clone(), raw.len() as u64, 1 << 14).unwrap();
        let (mut symbols, mut out) = (Symbols::default(), vec![0; 1 << 14]);
        for raw in raw.chunks(1 << 14) {
            front.window(raw.len(), &mut symbols).unwrap();
            back.window(&symbols, &mut out[..raw.len()]).unwrap();
            assert!(out[..raw.len()] == *raw);
        }
        let (longest, reads) = *meter.1.lock().unwrap();
        assert!(longest <= 1 << 14, "{coding:?}: {longest}");
        assert!(reads < 6000, "{coding:?}: {reads}");
    }
}

/// `cargo test --release --lib codec::bigsmall -- --ignored --nocapture speed`: the best of many passes over the large tensors of
/// two files. They are short, 238 kB, so a table is hardly warm.
#[test]
#[ignore = "a measurement"]
fn speed() {
    use std::time::{Duration, Instant};
    for packed in all_packed().into_iter().filter(|packed| packed.raw_len > 200_000) {
        let mut best = [Duration::MAX; 3];
        for _ in 0..200 {
            let start = Instant::now();
            let (mut front, mut back) =
                open(packed.coding, blob(&packed.bytes), packed.raw_len as u64, 1 << 20).unwrap();
            let (mut symbols, mut out) = (Symbols::default(), vec![0; packed.raw_len]);
            let opened = Instant::now();
            front.window(packed.raw_len, &mut symbols).unwrap();
            let ahead = Instant::now();
            back.window(&symbols, &mut out).unwrap();
            for (best, time) in best.iter_mut().zip([opened - start, ahead - opened, ahead.elapsed()]) {
                *best = time.min(*best);
            }
        }
        let rate = |time: Duration| packed.raw_len as f64 / time.as_secs_f64() / 1e6;
        let [open, front, back] = best;
        eprintln!(
            "{} {}: open {open:?}, front {:.0}, back {:.0}, both {:.0} MB/s",
            packed.label,
            packed.coding.name(),
            rate(front),
            rate(back),
            rate(front + back)
        );
    }
}
