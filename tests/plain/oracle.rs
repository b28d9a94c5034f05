//! Independent judges of the bitstream: what we write is read back by the package `constriction`, from the words of
//! FORMAT.md alone, and is no longer than what that package writes itself; and by `scripts/readers/bsfs_container.py`, which
//! was written from FORMAT.md alone, too.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bsfs::codec::{Codec, Mode, Numbers, Scratch, encode, encode_against};
use bsfs::format::{BaseId, Container};
use bsfs::source::FileSource;
use constriction::Stack;
use constriction::backends::ReadWords;
use constriction::stream::Decode;
use constriction::stream::model::SmallContiguousCategoricalEntropyModel as Categorical;
use constriction::stream::stack::AnsCoder;

use crate::common::pairs::{pack_against, pair};
use crate::common::{noise, pack_as};

/// States, and symbols in a block.
const STATES: usize = 64;
/// Where every state starts when encoding.
const LOW: u32 = 1 << 16;

/// Symbols whose frequencies halve from one to the next, `kinds` of them with gaps between.
fn symbols(kinds: u32, len: usize) -> Vec<u8> {
    let mut state = u64::from(kinds);
    let mut random = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u32
    };
    (0..len)
        .map(|_| {
            let flat = random() % 8 == 0;
            let rank = if flat { random() % kinds } else { random().trailing_zeros().min(kinds - 1) };
            (rank * 255 / (kinds - 1)) as u8
        })
        .collect()
}

/// Takes the first `n` bytes off `bytes`.
fn take<'a>(bytes: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (front, rest) = bytes.split_at(n);
    *bytes = rest;
    front
}

/// A stream of FORMAT.md, "rANS", in its parts.
struct Stream {
    /// Symbol and frequency, ascending.
    table: Vec<(u8, u16)>,
    states: Vec<u32>,
    words: Vec<u16>,
}

impl Stream {
    fn read(mut bytes: &[u8]) -> Self {
        let bytes = &mut bytes;
        let m = usize::from(take(bytes, 1)[0]) + 1;
        let symbols: Vec<u8> = if m <= 32 {
            take(bytes, m).to_vec()
        } else {
            let bitmap = take(bytes, 32);
            (0..=255).filter(|s| bitmap[usize::from(s / 8)] >> (s % 8) & 1 == 1).collect()
        };
        assert_eq!(symbols.len(), m);
        let frequency = |_| match take(bytes, 1)[0] {
            low @ ..128 => u16::from(low) + 1,
            low => u16::from(low - 128) + 128 * u16::from(take(bytes, 1)[0]) + 1,
        };
        let frequencies: Vec<u16> = (0..m).map(frequency).collect();
        let states = take(bytes, 4 * STATES).as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let (words, odd) = bytes.as_chunks();
        assert!(odd.is_empty());
        let words = words.iter().map(|b| u16::from_le_bytes(*b)).collect();
        Self { table: symbols.into_iter().zip(frequencies).collect(), states, words }
    }

    /// The same frequencies as a model of constriction, of 2^12 slots; its symbols are places in the table.
    fn model(&self) -> Categorical {
        let frequencies = self.table.iter().map(|(_, f)| f);
        Categorical::from_nonzero_fixed_point_probabilities(frequencies, false).expect("frequencies that sum to 4096")
    }
}

/// Codec 3 with one plane of bytes, coded by mode 2: the stream of `raw`.
fn packed(raw: &[u8]) -> Stream {
    let mut packed = Vec::new();
    let codec = encode(Numbers::Integers { log2_width: 0 }, Mode::Balanced, raw, &mut packed, &mut Scratch::default());
    assert_eq!(codec, Codec::Planes);
    let mut bytes = &packed[..];
    assert_eq!(take(&mut bytes, 2), [0, 2], "one byte plane, not rotated, rANS");
    let len = u32::from_le_bytes(take(&mut bytes, 4).try_into().unwrap());
    assert_eq!(bytes.len(), len as usize);
    Stream::read(bytes)
}

/// The row of words that all states share.
#[derive(Clone, Copy)]
struct Row<'a>(&'a RefCell<std::slice::Iter<'a, u16>>);

impl ReadWords<u16, Stack> for Row<'_> {
    type ReadError = Infallible;

    fn read(&mut self) -> Result<Option<u16>, Infallible> {
        Ok(self.0.borrow_mut().next().copied())
    }
}

#[test]
fn a_stream_of_ours_is_decoded_by_another_implementation() {
    for (kinds, len) in [(2, 4096), (5, 10_000), (32, 20_003), (33, 20_031), (256, 100_001)] {
        let raw = symbols(kinds, len);
        let stream = packed(&raw);
        let (model, words) = (stream.model(), RefCell::new(stream.words.iter()));
        let mut coders: Vec<AnsCoder<u16, u32, Row<'_>>> =
            stream.states.iter().map(|&x| AnsCoder::from_raw_parts(Row(&words), x)).collect();
        let mut decoded = Vec::new();
        for _ in 0..len.div_ceil(STATES) {
            let mut block = [0; STATES];
            for (t, coder) in coders.iter_mut().enumerate() {
                let (g, l) = (t / 16, t % 16);
                block[16 * (l / 4) + 4 * g + l % 4] = stream.table[coder.decode_symbol(&model).unwrap()].0;
            }
            decoded.extend(block);
        }
        decoded.truncate(len);
        assert!(decoded == raw, "{kinds} kinds of symbols");
        assert_eq!(words.borrow().len(), 0, "words left");
        assert!(coders.into_iter().all(|coder| coder.into_raw_parts().1 == LOW), "a state does not end where it began");
    }
}

#[test]
fn a_stream_of_ours_is_as_short_as_anothers() {
    for (kinds, len) in [(2, 50_000), (16, 50_000), (256, 200_000)] {
        let raw = symbols(kinds, len);
        let stream = packed(&raw);
        let place =
            |s: &u8| stream.table.iter().position(|(symbol, _)| symbol == s).expect("every symbol is in the table");
        let mut coder = AnsCoder::<u16, u32>::new();
        coder.encode_iid_symbols_reverse(raw.iter().map(place), &stream.model()).unwrap();
        let theirs = 2 * coder.num_words();
        let ours = 4 * stream.states.len() + 2 * stream.words.len();
        assert!(ours <= theirs + theirs / 100 + 4 * STATES, "{kinds} kinds: {ours} bytes, constriction takes {theirs}");
    }
}

/// A Python that finds the independent reader.
fn python() -> (Command, PathBuf) {
    let readers = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/readers");
    let mut command = Command::new(std::env::var_os("BSFS_PYTHON").unwrap_or_else(|| "python3".into()));
    command.env("PYTHONPATH", &readers).env("PYTHONDONTWRITEBYTECODE", "1");
    (command, readers.join("bsfs_container.py"))
}

/// Has the independent reader write the original of `container` to `out`, with these files as bases.
fn read_back(container: &Path, bases: &[&Path], out: &Path) -> Output {
    let _ = fs::remove_file(out);
    let (mut command, reader) = python();
    command.arg(reader).arg(container).arg("-o").arg(out);
    bases.iter().for_each(|base| _ = command.arg("--base").arg(base));
    command.output().expect("a Python")
}

/// How the chunks of a container use their bases: codec, operation, width, and the codec within.
fn ways(container: &Container, bytes: &[u8]) -> BTreeSet<(Codec, u8, u8, u8)> {
    let chunks = container.spans().iter().flat_map(|span| container.span_chunks(span));
    let way = |chunk: bsfs::format::Chunk| {
        let packed = &bytes[chunk.packed_offset as usize..][..chunk.packed_len as usize];
        match chunk.codec().unwrap() {
            Codec::Delta => (Codec::Delta, packed[0] >> 1 & 3, 1 << (packed[0] & 1), 0),
            Codec::Difference => (Codec::Difference, packed[0] & 3, 1 << (packed[0] >> 2 & 3), packed[1]),
            other => (other, 0, 0, 0),
        }
    };
    chunks.map(way).collect()
}

#[test]
#[ignore = "needs a Python with scripts/readers/requirements-light.txt: python3, or what BSFS_PYTHON names"]
fn a_container_and_its_base_are_read_by_another_implementation() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (base, packed_base, tuned) = (at("base.safetensors"), at("base.bs"), at("tuned.safetensors"));
    let (container, out) = (at("tuned.bs"), at("out"));
    let mut all = BTreeSet::new();
    for (count, mode, chunk_len) in [
        (35_001, Mode::Balanced, None),
        (40_000, Mode::Storage, None),
        // Several chunks to a tensor.
        (70_001, Mode::Inference, Some(64 << 10)),
        // All tensors share spans.
        (1009, Mode::Balanced, None),
    ] {
        let (base_bytes, tuned_bytes) = pair(count, |_| true);
        fs::write(&base, &base_bytes).unwrap();
        fs::write(&tuned, &tuned_bytes).unwrap();
        pack_as(mode, &base, &packed_base);
        pack_against(mode, chunk_len, &base, &tuned, &container);
        let opened = Container::open(&FileSource::open(&container).unwrap()).unwrap();
        all.extend(ways(&opened, &fs::read(&container).unwrap()));
        let itself = opened.bases().refs.iter().any(|base| base.id == BaseId::Itself);
        assert_eq!(itself, count > 1009, "{count}: what occurs twice in chunks of its own is stored once");

        for bases in [&[&*base][..], &[&packed_base], &[&container, &packed_base]] {
            let output = read_back(&container, bases, &out);
            assert!(output.status.success(), "{count}, {bases:?}: {}", String::from_utf8_lossy(&output.stderr));
            assert!(fs::read(&out).unwrap() == tuned_bytes, "{count}, {bases:?}: other bytes");
        }
        // Without its base, with what it is needed for, and with one that is not the same.
        let mut other = base_bytes.clone();
        let last = other.len() - 1;
        other.iter_mut().skip(last / 2).step_by(500).for_each(|byte| *byte ^= 1);
        fs::write(&base, &other).unwrap();
        for bases in [&[][..], &[&*container], &[&base]] {
            let output = read_back(&container, bases, &out);
            assert_eq!(output.status.code(), Some(1), "{count}, {bases:?}");
            assert!(!out.exists(), "{count}, {bases:?}: a file of what was not proven");
        }
    }
    for codec in [Codec::Base, Codec::Delta, Codec::Difference] {
        assert!(all.iter().any(|way| way.0 == codec), "{} does not occur: {all:?}", codec.name());
    }
    let used = |of: fn(&(Codec, u8, u8, u8)) -> u8, codec| -> BTreeSet<u8> {
        all.iter().filter(|way| way.0 == codec).map(of).collect()
    };
    assert_eq!(used(|way| way.1, Codec::Delta), [0, 1, 2].into(), "operations: {all:?}");
    assert_eq!(used(|way| way.2, Codec::Delta), [1, 2].into(), "widths: {all:?}");
    assert_eq!(used(|way| way.1, Codec::Difference), [0, 1, 2].into(), "operations: {all:?}");
    assert_eq!(used(|way| way.2, Codec::Difference), [1, 2, 4, 8].into(), "widths: {all:?}");
    assert_eq!(used(|way| way.3, Codec::Difference), [1, 2, 3].into(), "codecs within: {all:?}");
}

#[test]
#[ignore = "needs a Python with scripts/readers/requirements-light.txt: python3, or what BSFS_PYTHON names"]
fn chunks_with_bytes_behind_the_last_number_are_read_by_another_implementation() {
    const READ: &str = "
import sys, bsfs_container
for line in sys.stdin:
    codec, packed, base, raw = line.split()
    read = bsfs_container.decode_against(int(codec), bytes.fromhex(packed), bytes.fromhex(base), 'chunk')
    assert read == bytes.fromhex(raw), line[:40]
";
    let kinds = [
        Numbers::Bf16 { row: 0 },
        Numbers::F16 { row: 0 },
        Numbers::F8,
        Numbers::F32,
        Numbers::F64,
        Numbers::Integers { log2_width: 0 },
        Numbers::Integers { log2_width: 1 },
        Numbers::Integers { log2_width: 2 },
        Numbers::Integers { log2_width: 3 },
        Numbers::Unknown,
    ];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (mut lines, mut odd) = (String::new(), BTreeSet::new());
    for (numbers, len) in kinds.iter().flat_map(|kind| [64, 193, 1500, 4099, 20_007].map(|len| (*kind, len))) {
        let base = noise(len as u64, len);
        for (seed, one_in) in [(0, 40), (1, 2), (2, 5)] {
            // Some bytes, and the last ones.
            let changes = noise(70 + seed, len);
            let change = |(i, (byte, draw)): (usize, (&u8, &u8))| match draw % one_in == 0 || i + 3 >= len {
                true => byte.wrapping_add(1 + (seed as u8 & 1)),
                false => *byte,
            };
            let raw: Vec<u8> = base.iter().zip(&changes).enumerate().map(change).collect();
            let mut packed = Vec::new();
            let found = encode_against(numbers, (&raw, &base), len, &mut packed, &mut Scratch::default());
            if let Some(codec) = found {
                let width = match codec {
                    Codec::Delta => 1 << (packed[0] & 1),
                    _ => 1 << (packed[0] >> 2 & 3),
                };
                if len % width != 0 {
                    odd.insert((codec, width));
                }
                lines += &format!("{} {} {} {}\n", codec.id(), hex(&packed), hex(&base), hex(&raw));
            }
        }
    }
    assert_eq!(odd, [(Codec::Delta, 2), (Codec::Difference, 2), (Codec::Difference, 4), (Codec::Difference, 8)].into());
    let (mut command, _) = python();
    let mut child = command.args(["-c", READ]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a Python");
    // It says nothing before it fails, and then it reads no more.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
