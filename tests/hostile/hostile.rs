//! Damaged and hostile containers: an error or the right bytes. Never wrong bytes, a panic, a hang, or an allocation
//! beyond the input's size plus 64 MiB.

use crate::{NOW, PEAK, alone};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bsfs::engine::{Engine, EngineConfig};
use bsfs::format::Container;
use bsfs::format::checksum::checksum;
use bsfs::format::native::{HEADER_LEN, Header};
use bsfs::source::MemorySource;

use crate::common::{noise, pack};

/// A small safetensors file whose container uses every codec.
fn sample() -> (Vec<u8>, Vec<u8>) {
    let weights: Vec<u8> =
        noise(1, 3000).iter().enumerate().map(|(i, b)| if i % 2 == 1 { 0x3c | b & 0x81 } else { *b }).collect();
    let text = b"to be or not to be ".repeat(20);
    let parts: [(&str, &str, &[u8]); 4] =
        [("w", "BF16", &weights), ("zeros", "F32", &[0; 400]), ("t", "U8", &text), ("n", "F64", &noise(2, 64))];
    let (mut header, mut data) = (String::from("{"), Vec::new());
    for (name, dtype, bytes) in parts {
        let n = bytes.len() / [("BF16", 2), ("F32", 4), ("U8", 1), ("F64", 8)].iter().find(|d| d.0 == dtype).unwrap().1;
        header += &format!(
            r#""{name}":{{"dtype":"{dtype}","shape":[{n}],"data_offsets":[{},{}]}},"#,
            data.len(),
            data.len() + bytes.len()
        );
        data.extend_from_slice(bytes);
    }
    header.pop();
    header += "}";
    let raw = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("m"), dir.path().join("m.bs"));
    fs::write(&input, &raw).unwrap();
    pack(&input, &output);
    (raw, fs::read(output).unwrap())
}

/// Opens and reads everything; panics are the test's failure.
fn read_all(packed: &[u8]) -> bsfs::Result<Vec<u8>> {
    let source = Arc::new(MemorySource::new("hostile.bs", packed.to_vec()));
    let container = Arc::new(Container::open(&*source)?);
    let image = Engine::new(EngineConfig { memory: 0, ..EngineConfig::default() }).image(container, source);
    // A hostile length is no reason to ask for so much at once.
    let len = image.len().min(1 << 20) as usize;
    image.read_at(0, len).map(|bytes| bytes.to_vec())
}

/// The container with its index replaced by what `edit` makes of it, and every checksum right again.
fn forge(packed: &[u8], edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let head: [u8; HEADER_LEN] = packed[..HEADER_LEN].try_into().unwrap();
    let mut header = Header::parse(&head, packed.len() as u64, "x".as_ref()).unwrap();
    let at = header.index_offset as usize;
    let mut index = zstd::bulk::decompress(&packed[at..], 1 << 20).unwrap();
    edit(&mut index);
    let index_packed = zstd::bulk::compress(&index, 1).unwrap();
    header.index_raw_len = index.len() as u32;
    header.index_packed_len = index_packed.len() as u32;
    header.index_checksum = checksum(&index_packed);
    header.container_len = (at + index_packed.len()) as u64;
    [&header.to_bytes(), &packed[HEADER_LEN..at], &index_packed].concat()
}

// One test, since the allocator counts for the whole process.
#[test]
fn every_flip_cut_and_forgery_is_an_error_or_the_right_bytes_within_bounds() {
    let _alone = alone();
    let (raw, packed) = sample();
    assert!(read_all(&packed).unwrap() == raw);
    let bounded = |what: &str, bytes: &[u8], run: &dyn Fn()| {
        let before = NOW.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        assert!(catch_unwind(AssertUnwindSafe(run)).is_ok(), "{what}: panic");
        let used = PEAK.load(Ordering::Relaxed) - before;
        assert!(used <= bytes.len() + (64 << 20), "{what}: {used} bytes allocated for {}", bytes.len());
    };
    for bit in 0..packed.len() * 8 {
        let mut flipped = packed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        bounded(&format!("bit {bit}"), &flipped, &|| {
            if let Ok(bytes) = read_all(&flipped) {
                assert!(bytes == raw, "wrong bytes");
            }
        });
    }
    for len in 0..packed.len() {
        bounded(&format!("cut to {len}"), &packed[..len], &|| assert!(read_all(&packed[..len]).is_err()));
    }

    // Numbers of the index that lie, under checksums that agree.
    let index_len = std::cell::Cell::new(0);
    forge(&packed, |index| index_len.set(index.len()));
    for at in 0..index_len.get() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let forged = forge(&packed, |index| index[at] = value);
            bounded(&format!("index byte {at} = {value}"), &forged, &|| _ = read_all(&forged));
        }
        for wide in [[0xff; 8], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0x40]] {
            let forged = forge(&packed, |index| {
                let end = index.len().min(at + 8);
                index[at..end].copy_from_slice(&wide[..end - at]);
            });
            bounded(&format!("index word {at} = {wide:?}"), &forged, &|| _ = read_all(&forged));
        }
    }

    // The largest index that a small container may have, of as many tensors, spans or chunks as fit.
    for section in [2_u8, 3, 5] {
        let forged = forge(&packed, |index| {
            let mut bloated = Vec::new();
            let mut at = 0;
            while at < index.len() {
                let len = u64::from_le_bytes(index[at + 8..at + 16].try_into().unwrap()) as usize;
                let (head, body) = index[at..at + 16 + len].split_at(16);
                let body = match (head[0] == section, section) {
                    (false, _) => body.to_vec(),
                    (true, 2) => columns(15 << 20, 30),
                    (true, 3) => columns(15 << 20, 14),
                    (true, _) => columns(15 << 20, 55),
                };
                bloated.extend_from_slice(&head[..8]);
                bloated.extend_from_slice(&(body.len() as u64).to_le_bytes());
                bloated.extend_from_slice(&body);
                at += 16 + len;
            }
            *index = bloated;
        });
        assert!(forged.len() < 1 << 20);
        let opened = Container::open(&MemorySource::new("large", forged.clone()));
        assert_eq!(opened.is_ok_and(|c| c.tensors().len() > 250_000), section == 5);
        bounded(&format!("a large section {section}"), &forged, &|| _ = read_all(&forged));
    }
    for (what, sections) in large_bases() {
        let forged = forge(&packed, |index| index.extend(&sections));
        assert!(forged.len() < 1 << 20);
        let opened = Container::open(&MemorySource::new("large", forged.clone()));
        assert_eq!(opened.is_ok_and(|c| c.bases().refs.len() > 250_000), what == "bases");
        bounded(&format!("many {what}"), &forged, &|| _ = read_all(&forged));
    }
}

/// A section of an index.
fn section(id: u16, body: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes()[..], &[0; 6], &(body.len() as u64).to_le_bytes(), body].concat()
}

/// Sections BASES and BASE RANGES of so many rows as 15 MiB hold.
fn large_bases() -> Vec<(&'static str, Vec<u8>)> {
    let head = |n: usize| [&[0; 8][..], &(n as u32).to_le_bytes()].concat();
    // Names of no bytes, each base with a hint of its own, of no bytes as well.
    let n = (15 << 20) / 53;
    let mut refs = head(n);
    refs.resize(refs.len() + n, 1);
    refs.resize(refs.len() + n * 48, 0);
    refs.extend((n as u32).to_le_bytes());
    refs.resize(refs.len() + n * 4, 0);
    let none = [0; 4];
    let mut hints = head(0);
    hints.extend(((15_u32 << 20) / 4).to_le_bytes());
    hints.resize(15 << 20, 0);
    let one = [&head(1)[..], &[1], &[0x7f; 8], &[0; 40], &[1, 0, 0, 0], &[0; 4]].concat();
    let count = (15 << 20) / 28;
    let mut ranges = (count as u32).to_le_bytes().to_vec();
    ranges.resize(4 + count * 28, 1);
    vec![
        ("bases", [section(7, &refs), section(8, &none)].concat()),
        ("hints", [section(7, &hints), section(8, &none)].concat()),
        ("ranges", [section(7, &one), section(8, &ranges)].concat()),
    ]
}

/// As many rows of `row` bytes of ones as fit into `len`, with their number in front, and a dtype name.
fn columns(len: usize, row: usize) -> Vec<u8> {
    let n = len / row;
    let mut bytes = (n as u32).to_le_bytes().to_vec();
    match row {
        // Tensors: offsets and lengths 0, no dimensions, one dtype, names of no bytes.
        55 => {
            bytes.resize(4 + n * 19, 0);
            bytes.extend([1, 0, 1, b'x']);
            bytes.resize(8 + n * 55, 0);
        }
        _ => bytes.resize(4 + n * row, 1),
    }
    bytes
}
