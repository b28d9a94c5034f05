//! What a container refers to: written, read back, and every rule broken once.

use super::index::section;
use super::tests::{open, sample, with_index};
use super::*;
use crate::error::Error;

/// The sample with these bases: a literal of bytes 0 to 4, chunks from 5, 13, 21 and 25 on, 28 bytes in all.
fn with_bases(bases: &Bases) -> Vec<u8> {
    let (_, bytes) = sample();
    with_index(&bytes, |index| {
        for (id, body) in bases.to_sections() {
            index.extend(id.to_le_bytes());
            index.extend([0; 6]);
            index.extend((body.len() as u64).to_le_bytes());
            index.extend(body);
        }
    })
}

/// The same with a section as `edit` makes it.
fn edited(bases: &Bases, id: u16, edit: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut sections = bases.to_sections();
    sections.iter_mut().filter(|(of, _)| *of == id).for_each(|(_, body)| edit(body));
    let (_, bytes) = sample();
    with_index(&bytes, |index| {
        for (id, body) in &sections {
            index.extend(id.to_le_bytes());
            index.extend([0; 6]);
            index.extend((body.len() as u64).to_le_bytes());
            index.extend(body);
        }
    })
}

fn tensor(digest: u8, raw_len: u64, name: &str, hint: &str) -> BaseRef {
    BaseRef { id: BaseId::Tensor([digest; 32]), raw_len, name: name.into(), hint: hint.into() }
}

fn itself(raw_len: u64) -> BaseRef {
    BaseRef { id: BaseId::Itself, raw_len, name: String::new(), hint: "".into() }
}

fn range(raw_offset: u64, len: u64, base: u32, offset: u64) -> BaseRange {
    BaseRange { raw_offset, len, base, offset }
}

fn three() -> Bases {
    Bases {
        refs: vec![
            tensor(1, 100, "first", "org/m.safetensors"),
            itself(28),
            tensor(2, 12, "zweite ✓", "org/m.safetensors"),
        ],
        ranges: vec![range(2, 4, 0, 96), range(13, 8, 1, 5), range(21, 7, 2, 5)],
        standalone_bytes: 4711,
    }
}

fn refused(bytes: &[u8], text: &str) {
    match open(bytes) {
        Ok(_) => panic!("opened, but: {text}"),
        Err(error @ Error::Corrupt { .. }) => {
            let said = error.to_string();
            assert!(said.contains(text) && said.contains("sample.bs"), "{text}: {said}");
        }
        Err(error) => panic!("{text}: {error}"),
    }
}

#[test]
fn bases_are_read_back() {
    let mut bases = three();
    bases.refs.push(BaseRef { id: BaseId::Unknown(200), ..tensor(0, 1 << 40, "", "another/hint") });
    let read = open(&with_bases(&bases)).unwrap();
    assert_eq!(*read.bases(), bases);
    assert!(read.bases().needs_others() && !read.bases().is_empty());
    let hints: Vec<_> = read.bases().refs.iter().map(|of| of.hint.as_ptr()).collect();
    assert_eq!(hints[0], hints[2], "texts are shared");
    let alone = Bases { refs: vec![itself(28)], ranges: vec![range(13, 8, 0, 5)], standalone_bytes: 0 };
    assert!(!open(&with_bases(&alone)).unwrap().bases().needs_others());
    let none = Bases { refs: vec![], ranges: vec![], standalone_bytes: 0 };
    assert!(open(&with_bases(&none)).unwrap().bases().is_empty());
    // What older readers need not know is in sections that they skip.
    assert!(open(&with_bases(&three())).unwrap().header().minor == 0);
}

#[test]
fn the_minor_version_says_whether_there_are_bases() {
    use std::io::Cursor;
    let (_, bytes) = sample();
    let file = open(&bytes).unwrap().file().clone();
    for (bases, minor) in [(Bases::default(), 0), (three(), 1)] {
        let mut w = Writer::new(Cursor::new(Vec::new())).unwrap();
        w.chunk(&[1; 28], crate::codec::Codec::Raw, 0).unwrap();
        let spans = [SpanSpec { raw_len: 28, elem: crate::tensor::ElemType::BYTES, row_elems: 0, chunk_len: 28 }];
        let bases = Bases { ranges: bases.ranges.into_iter().filter(|r| r.base != 1).collect(), ..bases };
        let finish = Finish { file: &file, spans: &spans, literals: &[], tensors: &[], bases: &bases };
        let (out, _) = w.finish(&finish).unwrap();
        let read = open(&out.into_inner()).unwrap();
        assert_eq!((read.header().minor, read.bases()), (minor, &bases));
    }
}

#[test]
fn parts_of_ranges_are_those_between_two_offsets() {
    let bases = three();
    let within = |start, end| bases.within(start, end).collect::<Vec<_>>();
    assert_eq!(within(0, 2), []);
    assert_eq!(within(0, 3), [range(2, 1, 0, 96)]);
    assert_eq!(within(5, 14), [range(5, 1, 0, 99), range(13, 1, 1, 5)]);
    assert_eq!(within(15, 22), [range(15, 6, 1, 7), range(21, 1, 2, 5)]);
    assert_eq!(within(28, 40), []);
    assert_eq!(within(0, 28), bases.ranges);
}

#[test]
fn texts_are_cut_by_the_writer_and_bounded_by_the_reader() {
    let long = "é".repeat(3000);
    let bases =
        Bases { refs: vec![tensor(1, 100, &long, &long)], ranges: vec![range(5, 4, 0, 0)], standalone_bytes: 0 };
    let read = open(&with_bases(&bases)).unwrap();
    let of = &read.bases().refs[0];
    assert_eq!((of.name.len(), of.hint.len()), (4096, 4096));
    assert!(long.starts_with(&of.name) && long.starts_with(&*of.hint));
    // Of one base, the places of the length of its name and of that of its hint, and of the texts.
    let short = Bases { refs: vec![tensor(1, 100, "n", "h")], ..bases };
    for (at, behind) in [(57, 61), (66, 70)] {
        let longer = |len: u32| {
            edited(&short, section::BASES, |body| {
                body[at..at + 4].copy_from_slice(&len.to_le_bytes());
                body.splice(behind..behind + 1, vec![b'x'; len as usize]);
            })
        };
        assert!(open(&longer(4096)).is_ok());
        refused(&longer(4097), "text");
    }
}

#[test]
fn every_rule_about_bases_is_kept() {
    let with = |edit: &dyn Fn(&mut Bases)| {
        let mut bases = three();
        edit(&mut bases);
        with_bases(&bases)
    };
    refused(&with(&|b| b.ranges[1].len = 0), "range 1 is empty or overlaps");
    refused(&with(&|b| b.ranges[1].raw_offset = 5), "range 1 is empty or overlaps");
    refused(&with(&|b| b.ranges.swap(0, 2)), "is empty or overlaps");
    refused(&with(&|b| b.ranges[2].len = 8), "range 2 ends beyond the file");
    refused(&with(&|b| b.ranges[2].raw_offset = u64::MAX), "range 2 ends beyond the file");
    refused(&with(&|b| b.ranges[0].base = 3), "range 0 is of base 3");
    refused(&with(&|b| b.ranges[0].base = u32::MAX), "range 0 is of base 4294967295");
    refused(&with(&|b| b.ranges[0].offset = 97), "range 0 ends beyond its base of 100 bytes");
    refused(&with(&|b| b.ranges[0].offset = u64::MAX), "range 0 ends beyond its base");
    refused(&with(&|b| b.ranges[0].offset = u64::MAX - 3), "range 0 ends beyond its base");
    refused(&with(&|b| b.refs[2].raw_len = 11), "range 2 ends beyond its base of 11 bytes");

    // Of one base: the number of its hint is at 53, the name at 61, the number of hints at 62, the hint at 70.
    let one = Bases { refs: vec![tensor(1, 100, "n", "h")], ranges: vec![range(5, 4, 0, 0)], standalone_bytes: 0 };
    assert!(open(&with_bases(&one)).is_ok());
    let of = |edit: &dyn Fn(&mut Vec<u8>)| edited(&one, section::BASES, edit);
    refused(&of(&|body| body[53] = 1), "base 0 has an unknown hint");
    refused(&of(&|body| body[61] = 0xff), "not UTF-8");
    refused(&of(&|body| body[70] = 0xff), "not UTF-8");
    // More hints than bases can use none of them, and cost memory.
    refused(
        &of(&|body| {
            body[62] = 2;
            body.splice(66..66, [0; 4]);
        }),
        "more hints than bases",
    );
    assert!(open(&of(&|body| body.extend([1, 2, 3]))).is_ok(), "bytes behind the hints are ignored");
    assert!(open(&edited(&one, section::BASE_RANGES, |body| body.extend([1, 2, 3]))).is_ok());

    for gone in [section::BASES, section::BASE_RANGES] {
        let (_, bytes) = sample();
        let half = with_index(&bytes, |index| {
            for (id, body) in three().to_sections().into_iter().filter(|(id, _)| *id != gone) {
                index.extend(id.to_le_bytes());
                index.extend([0; 6]);
                index.extend((body.len() as u64).to_le_bytes());
                index.extend(body);
            }
        });
        refused(&half, "one of the sections BASES and BASE RANGES is missing");
    }
}

#[test]
fn a_range_of_the_file_itself_leads_to_chunks_before_it_that_lead_nowhere() {
    let with = |ranges: &[BaseRange]| {
        with_bases(&Bases {
            refs: vec![itself(1000), tensor(1, 1000, "t", "h")],
            ranges: ranges.to_vec(),
            standalone_bytes: 0,
        })
    };
    let good: [&[BaseRange]; 6] = [
        &[range(13, 8, 0, 5)],
        &[range(5, 5, 0, 0)],
        &[range(25, 3, 0, 22)],
        // Into one chunk by two, and across chunks.
        &[range(15, 2, 0, 5), range(21, 4, 0, 5)],
        &[range(25, 3, 0, 12)],
        // What refers to another file may be referred to.
        &[range(5, 8, 1, 0), range(13, 8, 0, 5)],
    ];
    for ranges in good {
        assert!(open(&with(ranges)).is_ok(), "{ranges:?}");
    }
    for (ranges, text) in [
        (&[range(13, 4, 0, 13)][..], "not before it"),
        (&[range(5, 4, 0, 13)], "not before it"),
        (&[range(0, 2, 0, 0)], "not before it"),
        (&[range(0, 2, 0, 2)], "not before it"),
        // Its bytes are before it, its chunk is not.
        (&[range(17, 4, 0, 13)], "not before it"),
        (&[range(13, 4, 0, 11)], "not before it"),
        (&[range(13, 3, 0, 25)], "not before it"),
        (&[range(13, 4, 0, 28)], "beyond its end"),
        (&[range(13, 4, 0, 26)], "beyond its end"),
        (&[range(13, 4, 0, 996)], "beyond its end"),
        (&[range(5, 4, 0, 0), range(13, 4, 0, 5)], "which refers to the file itself"),
        // Another byte of the same chunk.
        (&[range(12, 1, 0, 0), range(13, 4, 0, 5)], "which refers to the file itself"),
        // A range that begins before the chunk and reaches into it.
        (&[range(9, 5, 0, 0), range(21, 4, 0, 15)], "which refers to the file itself"),
        (&[range(5, 2, 0, 0), range(13, 2, 1, 0), range(21, 4, 0, 8)], "which refers to the file itself"),
    ] {
        refused(&with(ranges), text);
    }
}

#[test]
fn no_byte_and_no_length_of_the_sections_makes_a_panic() {
    let bases = three();
    for id in [section::BASES, section::BASE_RANGES] {
        let len = bases.to_sections().iter().find(|(of, _)| *of == id).unwrap().1.len();
        for cut in 0..len {
            refused(&edited(&bases, id, |body| body.truncate(cut)), "it ends too early");
        }
        for at in 0..len {
            for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                let _ = open(&edited(&bases, id, |body| body[at] = value));
            }
            for wide in [[0xff; 8], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0x40]] {
                let _ = open(&edited(&bases, id, |body| {
                    let end = body.len().min(at + 8);
                    body[at..end].copy_from_slice(&wide[..end - at]);
                }));
            }
        }
    }
    // Counts that no bytes are there for. What they would allocate is measured in tests/hostile.
    for (id, at) in [(section::BASES, 8), (section::BASE_RANGES, 0)] {
        let many = edited(&bases, id, |body| body[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes()));
        refused(&many, "it ends too early");
    }
}
