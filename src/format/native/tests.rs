use std::io::Cursor;

use super::*;
use crate::codec::Codec;
use crate::error::Error;
use crate::format::checksum::checksum;
use crate::source::MemorySource;
use crate::tensor::ElemType;

/// A literal of 5 bytes, a BF16 span of three chunks of at most 8, a zero-size tensor, and a tail of 3 bytes.
pub(super) fn sample() -> (Vec<u8>, Vec<u8>) {
    let raw: Vec<u8> = (0..5 + 20 + 3).collect();
    let mut w = Writer::new(Cursor::new(Vec::new())).unwrap();
    for (a, b) in [(5, 13), (13, 21), (21, 25), (25, 28)] {
        w.chunk(&raw[a..b], Codec::Raw, checksum(&raw[a..b])).unwrap();
    }
    let span = |raw_len, elem, chunk_len| SpanSpec { raw_len, elem, row_elems: 0, chunk_len };
    let spans = [span(5, ElemType::BYTES, 0), span(20, ElemType::BF16, 8), span(3, ElemType::BYTES, 8)];
    let tensor = |name: &str, raw_offset, raw_len: u64| TensorSpec {
        name: name.into(),
        dtype: "BF16".into(),
        shape: vec![raw_len / 2],
        raw_offset,
        raw_len,
        digest: *blake3::hash(&raw[raw_offset as usize..(raw_offset + raw_len) as usize]).as_bytes(),
    };
    let tensors = [tensor("first", 5, 12), tensor("empty", 17, 0), tensor("second", 17, 8)];
    let file = FileInfo {
        kind: Kind::SAFETENSORS,
        mode: 0,
        chunk_len: 8,
        mtime: (-5, 7),
        sha256: [3; 32],
        name: b"m\xff.safetensors".to_vec(),
        writer: "test".into(),
    };
    let finish =
        Finish { file: &file, spans: &spans, literals: &raw[..5], tensors: &tensors, bases: &Bases::default() };
    let (out, len) = w.finish(&finish).unwrap();
    let bytes = out.into_inner();
    assert_eq!(bytes.len() as u64, len);
    (raw, bytes)
}

pub(super) fn open(bytes: &[u8]) -> crate::Result<Container> {
    Container::open(&MemorySource::new("sample.bs", bytes.to_vec()))
}

/// The container with its index replaced by what `edit` makes of it, and all checksums right.
pub(super) fn with_index(bytes: &[u8], edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let head: [u8; HEADER_LEN] = bytes[..HEADER_LEN].try_into().unwrap();
    let mut header = Header::parse(&head, bytes.len() as u64, "x".as_ref()).unwrap();
    let at = header.index_offset as usize;
    let mut index = zstd::bulk::decompress(&bytes[at..], 1 << 20).unwrap();
    edit(&mut index);
    let packed = zstd::bulk::compress(&index, 3).unwrap();
    header.index_raw_len = index.len() as u32;
    header.index_packed_len = packed.len() as u32;
    header.index_checksum = checksum(&packed);
    header.container_len = (at + packed.len()) as u64;
    [header.to_bytes(), bytes[HEADER_LEN..at].to_vec(), packed].concat()
}

#[test]
fn what_was_written_is_read_back() {
    let (raw, bytes) = sample();
    let c = open(&bytes).unwrap();
    assert_eq!((c.raw_len(), c.chunk_count(), c.mtime()), (28, 4, (-5, 7)));
    assert_eq!(c.file().name, b"m\xff.safetensors");
    for offset in 0..28 {
        let (start, len) = match c.locate(offset).unwrap() {
            Piece::Literal { raw_offset, range } => {
                assert_eq!(&c.literals()[range.clone()], &raw[..5]);
                (raw_offset, range.len() as u64)
            }
            Piece::Chunk(chunk) => {
                let packed = &bytes[chunk.packed_offset as usize..][..chunk.packed_len as usize];
                assert_eq!(packed, &raw[chunk.raw_offset as usize..][..chunk.raw_len as usize]);
                assert_eq!(c.chunk(chunk.id), Some(chunk));
                (chunk.raw_offset, u64::from(chunk.raw_len))
            }
        };
        assert!((start..start + len).contains(&offset));
        let tensor = c.tensor_at(offset).map(|t| t.name.as_str());
        assert_eq!(
            tensor,
            match offset {
                5..17 => Some("first"),
                17..25 => Some("second"),
                _ => None,
            }
        );
    }
    assert_eq!(c.locate(28), None);
    assert_eq!(c.pieces().count(), 5);
    assert_eq!(c.tensors()[1].name, "empty");
}

#[test]
fn a_file_of_no_bytes_is_a_container_too() {
    let w = Writer::new(Cursor::new(Vec::new())).unwrap();
    let (_, bytes) = sample();
    let file = open(&bytes).unwrap().file().clone();
    let (out, _) =
        w.finish(&Finish { file: &file, spans: &[], literals: &[], tensors: &[], bases: &Bases::default() }).unwrap();
    let c = open(&out.into_inner()).unwrap();
    assert_eq!((c.raw_len(), c.chunk_count(), c.locate(0)), (0, 0, None));
}

#[test]
fn every_truncation_and_every_flip_of_header_and_index_is_noticed() {
    let (_, bytes) = sample();
    for len in 0..bytes.len() {
        assert!(open(&bytes[..len]).is_err(), "cut to {len}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(open(&longer), Err(Error::Corrupt { .. })));
    let index = open(&bytes).unwrap().header().index_offset as usize;
    for bit in (0..8 * HEADER_LEN).chain(8 * index..8 * bytes.len()) {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn no_byte_of_an_index_with_right_checksums_makes_a_panic_or_a_large_allocation() {
    let (_, bytes) = sample();
    let len = {
        let mut n = 0;
        with_index(&bytes, |index| n = index.len());
        n
    };
    let (mut opened, mut whole) = (0, 0);
    for at in 0..len {
        for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
            opened += usize::from(open(&with_index(&bytes, |index| index[at] = value)).is_ok());
        }
        // Without its last section, TENSORS, which no reader needs, an index is whole.
        let cut = open(&with_index(&bytes, |index| index.truncate(at)));
        whole += usize::from(cut.is_ok_and(|c| c.tensors().is_empty()));
    }
    assert_eq!(whole, 1);
    assert!(opened > 0);
}

#[test]
fn versions_flags_and_sections_to_come_are_named_or_skipped() {
    let (_, bytes) = sample();
    let head: [u8; HEADER_LEN] = bytes[..HEADER_LEN].try_into().unwrap();
    let header = Header::parse(&head, bytes.len() as u64, "x".as_ref()).unwrap();
    let with_header = |header: Header| [header.to_bytes(), bytes[HEADER_LEN..].to_vec()].concat();
    assert!(open(&with_header(Header { minor: 9, flags: 0x10000, ..header })).is_ok());
    let text = open(&with_header(Header { flags: 4, ..header })).unwrap_err().to_string();
    assert!(text.contains("required flags 0x4"), "{text}");
    let mut major = header.to_bytes();
    major[8] = 2;
    let check = checksum(&major[..56]);
    major[56..].copy_from_slice(&check.to_le_bytes());
    let text = open(&[major, bytes[HEADER_LEN..].to_vec()].concat()).unwrap_err().to_string();
    assert!(text.contains("container version 2.0 is not supported"), "{text}");

    let section = |id: u8, required: u8| [&[id, 0, required, 0, 0, 0, 0, 0, 2][..], &[0; 7], b"ab"].concat();
    assert!(open(&with_index(&bytes, |index| index.extend(section(77, 0)))).is_ok());
    let text = open(&with_index(&bytes, |index| index.extend(section(77, 1)))).unwrap_err().to_string();
    assert!(text.contains("index section 77"), "{text}");
    let twice = [section(77, 0), section(77, 0)].concat();
    assert!(open(&with_index(&bytes, |index| index.extend(twice))).is_err());
    let text = open(&with_index(&bytes, |index| index.extend(section(1, 1)))).unwrap_err().to_string();
    assert!(text.contains("section 1 occurs twice"), "{text}");
}

#[test]
fn an_index_that_claims_to_inflate_to_a_gigabyte_is_refused_before_it_is_inflated() {
    let (_, bytes) = sample();
    let bomb = with_index(&bytes, |index| index.resize(100 << 20, 0));
    assert!(bomb.len() < 20_000);
    assert!(matches!(open(&bomb), Err(Error::TooLarge { .. })));
}

#[test]
fn other_files_are_told_apart_by_their_first_bytes() {
    use crate::format::{Sniff, sniff};
    let (_, bytes) = sample();
    assert_eq!(sniff(&bytes), Sniff::Native);
    assert_eq!(sniff(b"BGSM\x01\0"), Sniff::Foreign("the Python package bigsmall"));
    assert_eq!(sniff(b"\x89bsf\n\x1a\n"), Sniff::Other);
    assert!(matches!(open(b"BGSM\x01\0\0\0"), Err(Error::Unsupported { .. })));
    assert!(matches!(open(b"PK\x03\x04"), Err(Error::NotAContainer { .. })));
    assert!(matches!(open(b""), Err(Error::NotAContainer { .. })));
}
