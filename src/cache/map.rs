//! The map of an entry: what the file is, where its chunks lie, which of them are there, and whether all was proven.
//!
//! Little-endian. A header of 4096 bytes: magic (8), version (u32), length of the label (u32), key (32), length of the file
//! (u64), chunks (u32), literals (u32), XXH3 of the table (u64), label (255), zeros, at 1016 the XXH3 of all before it; at 1024
//! the seal. Then the table, 16 bytes for each part: offset (u64), length (u64). Then the records, 16 bytes for each part: XXH3
//! of its bytes (u64) and a check word over key, number and that sum. A record that does not check is no record: zeros, torn
//! writes and records of other files or chunks all mean "absent".

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use twox_hash::XxHash3_64;

use super::dir::Lockable;
use super::key::Key;
use super::table::{MAX_PARTS, Part, tiles};

const MAGIC: [u8; 8] = *b"bsfsmap\n";
const VERSION: u32 = 1;
const HEADER: usize = 4096;
const LABEL: usize = 255;
const LABEL_AT: usize = 72;
const SUM_AT: usize = 1016;
const SEAL_AT: u64 = 1024;
/// Bytes of a seal.
pub const SEAL: usize = 80;
const ROW: u64 = 16;

/// The checksum of a chunk: XXH3 with 64 bits. Finds damage; does not resist forgery, which the directory's mode has to.
pub fn checksum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// A little-endian number in `bytes`; 0 where there is none.
pub fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// An open map whose header and table were found right.
#[derive(Debug)]
pub struct Map {
    file: Lockable,
    key: Key,
    label: String,
    len: u64,
    chunks: u32,
    parts: Vec<Part>,
}

/// What is wrong with a map.
#[derive(Debug)]
pub enum Wrong {
    /// It is damaged, or of another file or release: to be made anew.
    Damaged(&'static str),
    /// The system did not let us read it.
    Io(io::Error),
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("the map is cut short"),
            _ => Self::Io(error),
        }
    }
}

impl Map {
    /// Writes a map without records to an empty file.
    pub fn create(file: &File, key: Key, label: &str, len: u64, chunks: u32, parts: &[Part]) -> io::Result<()> {
        let table = encode(parts);
        let end = (0..=label.len().min(LABEL)).rev().find(|&end| label.is_char_boundary(end)).unwrap_or(0);
        let label = label.get(..end).unwrap_or_default();
        let literals = (parts.len() as u64).saturating_sub(chunks.into()) as u32;
        let mut header = Vec::with_capacity(HEADER);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((label.len() as u32).to_le_bytes());
        header.extend(key.0);
        header.extend(len.to_le_bytes());
        header.extend(chunks.to_le_bytes());
        header.extend(literals.to_le_bytes());
        header.extend(checksum(&table).to_le_bytes());
        header.extend(label.as_bytes());
        header.resize(SUM_AT, 0);
        header.extend(checksum(&header).to_le_bytes());
        header.resize(HEADER, 0);
        header.extend(table);
        file.write_all_at(&header, 0)?;
        file.set_len(HEADER as u64 + 2 * ROW * parts.len() as u64)
    }

    /// Reads header and table of the map of `key`. Allocates no more than the file is long.
    pub fn open(file: Lockable, key: Key) -> Result<Self, Wrong> {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let head = header.get(..SUM_AT).unwrap_or_default();
        let words = (number(head, 8), number(head, 56));
        let (version, label_len) = (words.0 as u32, (words.0 >> 32) as usize);
        let (chunks, literals) = (words.1 as u32, (words.1 >> 32) as u32);
        if !head.starts_with(&MAGIC) || version != VERSION {
            return Err(Wrong::Damaged("not a map of this release"));
        }
        if number(&header, SUM_AT) != checksum(head) {
            return Err(Wrong::Damaged("the header's checksum differs"));
        }
        if head.get(16..48) != Some(key.0.as_slice()) {
            return Err(Wrong::Damaged("the map is of another file"));
        }
        let label = head.get(LABEL_AT..LABEL_AT.saturating_add(label_len)).filter(|_| label_len <= LABEL);
        let label =
            label.and_then(|label| std::str::from_utf8(label).ok()).ok_or(Wrong::Damaged("the label"))?.to_owned();
        let count =
            chunks.checked_add(literals).filter(|&n| n <= MAX_PARTS).ok_or(Wrong::Damaged("too many chunks"))?;
        if file.metadata()?.len() != HEADER as u64 + 2 * ROW * u64::from(count) {
            return Err(Wrong::Damaged("the map has the wrong length"));
        }
        let mut table = vec![0; count as usize * ROW as usize];
        file.read_exact_at(&mut table, HEADER as u64)?;
        if checksum(&table) != number(head, 64) {
            return Err(Wrong::Damaged("the table's checksum differs"));
        }
        let part = |row: &[u8]| Some(Part { offset: number(row, 0), len: u32::try_from(number(row, 8)).ok()? });
        let parts: Option<Vec<Part>> = table.chunks_exact(ROW as usize).map(part).collect();
        let len = number(head, 48);
        let parts = parts.filter(|parts| tiles(parts, len)).ok_or(Wrong::Damaged("the table"))?;
        Ok(Self { file, key, label, len, chunks, parts })
    }

    /// The open file, whose lock says that the entry is in use.
    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn key(&self) -> Key {
        self.key
    }

    pub fn label(&self) -> &str {
        &self.label
    }

    /// Length of the data file.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub fn part(&self, at: u32) -> Option<Part> {
        self.parts.get(at as usize).copied()
    }

    fn record_at(&self, at: u32) -> u64 {
        HEADER as u64 + ROW * (self.parts.len() as u64 + u64::from(at))
    }

    fn check(&self, at: u32, sum: u64) -> u64 {
        let mut text = [0; 48];
        let (key, rest) = text.split_at_mut(32);
        let (number, word) = rest.split_at_mut(8);
        key.copy_from_slice(&self.key.0);
        number.copy_from_slice(&u64::from(at).to_le_bytes());
        word.copy_from_slice(&sum.to_le_bytes());
        checksum(&text)
    }

    fn decode(&self, at: u32, row: &[u8]) -> Option<u64> {
        let sum = number(row, 0);
        (number(row, 8) == self.check(at, sum)).then_some(sum)
    }

    /// The checksum of a part that is there.
    pub fn record(&self, at: u32) -> io::Result<Option<u64>> {
        let mut row = [0; ROW as usize];
        self.file.read_exact_at(&mut row, self.record_at(at))?;
        Ok(self.decode(at, &row))
    }

    /// The parts that have a record, in order.
    pub fn recorded(&self) -> io::Result<Vec<u32>> {
        let mut rows = vec![0; self.parts.len() * ROW as usize];
        self.file.read_exact_at(&mut rows, self.record_at(0))?;
        let rows = (0..).zip(rows.chunks_exact(ROW as usize));
        Ok(rows.filter_map(|(at, row)| self.decode(at, row).map(|_| at)).collect())
    }

    /// Notes that a part is there, after its bytes are.
    pub fn set_record(&self, at: u32, sum: u64) -> io::Result<()> {
        let mut row = [0; ROW as usize];
        let (left, right) = row.split_at_mut(8);
        left.copy_from_slice(&sum.to_le_bytes());
        right.copy_from_slice(&self.check(at, sum).to_le_bytes());
        self.file.write_all_at(&row, self.record_at(at))
    }

    /// Notes that a part is not there.
    pub fn clear_record(&self, at: u32) -> io::Result<()> {
        self.file.write_all_at(&[0; ROW as usize], self.record_at(at))
    }

    /// The place of the seal, whatever it holds.
    pub fn seal(&self) -> io::Result<[u8; SEAL]> {
        let mut seal = [0; SEAL];
        self.file.read_exact_at(&mut seal, SEAL_AT)?;
        Ok(seal)
    }

    /// Writes the seal; zeros for none.
    pub fn set_seal(&self, seal: &[u8; SEAL]) -> io::Result<()> {
        self.file.write_all_at(seal, SEAL_AT)
    }
}

fn encode(parts: &[Part]) -> Vec<u8> {
    parts.iter().flat_map(|part| [part.offset, part.len.into()]).flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flip_and_truncation_of_a_map_is_refused_or_loses_records_only() {
        let key = Key([7; 32]);
        let parts: Vec<Part> = (0..5).map(|i| Part { offset: i * 10, len: 10 }).collect();
        let file = tempfile::tempfile().unwrap();
        Map::create(&file, key, &"ä".repeat(200), 50, 4, &parts).unwrap();
        let map = Map::open(Lockable(file.try_clone().unwrap()), key).unwrap();
        assert_eq!((map.len(), map.chunks(), map.parts(), map.label().len()), (50, 4, parts.as_slice(), 254));
        for at in 0..5 {
            map.set_record(at, u64::from(at) * 1000).unwrap();
        }
        assert_eq!(map.recorded().unwrap(), [0, 1, 2, 3, 4]);
        let len = file.metadata().unwrap().len();
        let mut whole = vec![0; len as usize];
        file.read_exact_at(&mut whole, 0).unwrap();
        for (at, &byte) in whole.iter().enumerate() {
            for bit in [0x01, 0x80] {
                file.write_all_at(&[byte ^ bit], at as u64).unwrap();
                if let Ok(map) = Map::open(Lockable(file.try_clone().unwrap()), key) {
                    assert!(at >= SUM_AT + 8, "byte {at} of the header is not covered");
                    let lost = at.checked_sub(HEADER + 5 * 16).map(|at| at as u32 / 16);
                    for part in 0..5 {
                        let sum = map.record(part).unwrap();
                        assert_eq!(sum, (lost != Some(part)).then_some(u64::from(part) * 1000), "byte {at}");
                    }
                }
                file.write_all_at(&[byte], at as u64).unwrap();
            }
        }
        for len in 0..len {
            file.set_len(len).unwrap();
            assert!(Map::open(Lockable(file.try_clone().unwrap()), key).is_err(), "{len}");
            assert!(map.record(4).is_err());
        }
        file.write_all_at(&whole, 0).unwrap();
        assert!(Map::open(Lockable(file.try_clone().unwrap()), Key([8; 32])).is_err());
        file.set_len(len + 1).unwrap();
        assert!(Map::open(Lockable(file), key).is_err());
    }
}
