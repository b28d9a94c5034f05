//! An independent judge of the bitstream: what we write is read back by the package `constriction`, from the words of
//! FORMAT.md alone, and is no longer than what that package writes itself.

use std::cell::RefCell;
use std::convert::Infallible;

use bsfs::codec::{Codec, Mode, Numbers, Scratch, encode};
use constriction::Stack;
use constriction::backends::ReadWords;
use constriction::stream::Decode;
use constriction::stream::model::SmallContiguousCategoricalEntropyModel as Categorical;
use constriction::stream::stack::AnsCoder;

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
