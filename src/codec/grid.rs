//! Numbers whose top bits are entropy coded with a table for each pair of row group and column
//! group: F16 (the top byte: sign, exponent, two bits of mantissa) and, where size counts most,
//! BF16 (exponent and two bits of mantissa).
//!
//! Rows of weights differ in scale, and columns of some in sign. Where numbers have no rows, runs
//! of 512 take their place. Written out in [`crate::format::native`], section "grid".

use super::Packed;
use super::bits::{BitReader, BitWriter};
use super::cluster::class_bits;
use super::grouping::{Grouping, Row, choose, cost};
use super::halves::group_len;
use super::memory::vec_bytes;
use super::simd::{AvailableKernel, BLOCK, Columns, LOW, ReverseWords, SYMBOLS, Segment, States, SymbolTables, TILE};
use super::tables::{self, TableSet};
use super::wire::{Fields, Stride, put_states, put_words};
use crate::error::Damage;

/// Widths of numbers that this codec has: 1 and 2 bytes.
const WIDTHS: u8 = 0b011;
/// Groups of rows, and of columns, at most.
const GROUPS: usize = 16;
/// Tables of a chunk, at most.
const TABLES: usize = 64;
/// Bytes of six bits of each number of a tile.
const SIX: usize = 6 * BLOCK;
/// Symbols of BF16 that are not stored whole.
const WINDOW: u16 = 255;

/// Which bits of a number are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The top byte. What is below it is stored as it is.
    TopByte = 0,
    /// Exponent and two bits of mantissa of a BF16 word, in a window of 255; other words are stored
    /// whole.
    Bf16 = 1,
}

/// How a chunk is to be coded.
#[derive(Debug, Clone, Copy)]
pub struct GridParams<'a> {
    /// Width and phase of the numbers.
    pub stride: Stride,
    /// Which bits are coded.
    pub layout: Layout,
    /// Numbers in a row; 0 or no multiple of 64 for none.
    pub row: usize,
    /// log2 of a table's slots: 11 or 12; 10 instead of 11 where there are more than four groups of
    /// columns, so that the tables of a row fit the first-level cache.
    pub bits: u32,
    /// Numbers of groups of rows and of columns to choose from.
    pub shapes: &'a [(usize, usize)],
}

/// Buffers reused from chunk to chunk.
#[derive(Default)]
pub struct Scratch {
    symbols: Vec<u8>,
    residual: Vec<u8>,
    escapes: Vec<u8>,
    words: ReverseWords,
    tables: Vec<u32>,
    rows: Vec<Row>,
}

/// The packed bytes of `raw` in `out` (replaced); `false` when they would not be fewer than
/// `limit`.
pub fn encode(
    kernel: AvailableKernel,
    params: &GridParams<'_>,
    raw: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> bool {
    let (head, body, tail) = params.stride.split(raw);
    let n = body.len() / params.stride.width();
    if n == 0 {
        return false;
    }
    let base = scratch.split(kernel, params, body);
    let grouping = choose(kernel, &scratch.symbols, params.row, params.shapes, &mut scratch.rows);
    let counts = grouping.count(&scratch.symbols, &scratch.rows, 1);
    let fixed = head.len() + tail.len() + scratch.residual.len() + scratch.escapes.len() + 2 * BLOCK;
    if fixed + ((cost(&counts, 1) + grouping.id_bits()) / 8) as usize >= limit {
        return false;
    }
    let bits = if grouping.shape.1 > 4 && params.bits == 11 { 10 } else { params.bits };
    let tables = TableSet::new(&counts, bits);
    let states = scratch.code(kernel, bits, &grouping, &tables.freqs);

    out.clear();
    out.push(params.stride.to_byte());
    out.push(params.layout as u8 | ((bits - 10) as u8) << 1);
    out.extend_from_slice(&[(grouping.shape.0 - 1) as u8, (grouping.shape.1 - 1) as u8]);
    out.extend_from_slice(&((grouping.columns.len() / BLOCK) as u16).to_le_bytes());
    out.extend_from_slice(&base.to_le_bytes());
    out.extend_from_slice(&(2 * scratch.words.words().len() as u32).to_le_bytes());
    out.extend_from_slice(&(scratch.escapes.len() as u32).to_le_bytes());
    let tables = tables.to_bytes();
    out.extend_from_slice(&(tables.len() as u32).to_le_bytes());
    out.extend_from_slice(&tables);
    out.extend_from_slice(head);
    out.extend_from_slice(tail);
    for (ids, groups) in [(&grouping.columns, grouping.shape.1), (&grouping.rows, grouping.shape.0)] {
        let mut bits = BitWriter::default();
        ids.iter().for_each(|&id| bits.put(id.into(), class_bits(groups)));
        out.extend_from_slice(&bits.finish());
    }
    out.extend_from_slice(&scratch.residual);
    out.extend_from_slice(&scratch.escapes);
    put_states(&states, out);
    put_words(scratch.words.words().iter(), out);
    out.len() < limit
}

impl Scratch {
    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.symbols.capacity()
            + self.residual.capacity()
            + self.escapes.capacity()
            + vec_bytes(&self.tables)
            + vec_bytes(&self.rows)
            + self.words.memory()
    }

    /// Symbols and what is stored as it is. Gives the first symbol of a window.
    fn split(&mut self, kernel: AvailableKernel, params: &GridParams<'_>, body: &[u8]) -> u16 {
        self.symbols.clear();
        self.residual.clear();
        self.escapes.clear();
        match (params.layout, params.stride.log2_width) {
            (Layout::TopByte, 0) => self.symbols.extend_from_slice(body),
            (Layout::TopByte, _) => {
                let numbers = body.as_chunks().0;
                self.symbols.resize(numbers.len(), 0);
                self.residual.resize(numbers.len(), 0);
                kernel.split_bytes(numbers, &mut self.symbols, &mut self.residual);
            }
            (Layout::Bf16, _) => {
                let words = body.as_chunks::<2>().0;
                let symbol = |word: &[u8; 2]| u16::from_le_bytes(*word) >> 5 & 0x3ff;
                let base = window(words.iter().map(symbol));
                for tile in words.chunks(TILE) {
                    for word in tile {
                        let place = symbol(word).wrapping_sub(base);
                        if place < WINDOW {
                            self.symbols.push(place as u8 + 1);
                        } else {
                            self.symbols.push(0);
                            self.escapes.extend_from_slice(word);
                        }
                    }
                    let six = tile.iter().map(|w| u16::from_le_bytes(*w)).map(|w| (w & 0x1f | w >> 10 & 0x20) as u8);
                    if tile.len() < SIX { self.residual.extend(six) } else { self.residual.extend(group_six(six)) }
                }
                return base;
            }
        }
        0
    }

    /// Codes all symbols, the last first. What fills up the last block is added to them.
    fn code(&mut self, kernel: AvailableKernel, bits: u32, grouping: &Grouping, freqs: &[[u16; SYMBOLS]]) -> States {
        let tables = SymbolTables::new(freqs, bits);
        let (width, of_columns) = (grouping.columns.len(), grouping.shape.1);
        let last = usize::from(grouping.rows.last().copied().unwrap_or(0)) * of_columns;
        for at in self.symbols.len()..self.symbols.len().next_multiple_of(BLOCK) {
            let column = grouping.columns.get(at % width).copied().unwrap_or(0);
            self.symbols.push(tables.cheapest(last + usize::from(column)));
        }
        let offsets: Vec<u32> = grouping.columns.iter().map(|&c| u32::from(c) * SYMBOLS as u32).collect();
        let columns = (of_columns > 1).then(|| Columns::new(&offsets));
        let mut states = States([LOW; BLOCK]);
        self.words.reserve(self.symbols.len() / BLOCK);
        for (row, &group) in self.symbols.chunks(width).zip(&grouping.rows).rev() {
            let base = u32::from(group) * (of_columns * SYMBOLS) as u32;
            let blocks = row.as_chunks().0;
            kernel.encode_symbols(&tables, base, columns.as_ref(), blocks, &mut states, &mut self.words);
        }
        states
    }
}

/// The first symbol of the window of 255 that holds most.
fn window(symbols: impl Iterator<Item = u16>) -> u16 {
    let mut counts = [0_u32; 1024];
    for symbol in symbols {
        if let Some(c) = counts.get_mut(usize::from(symbol)) {
            *c += 1;
        }
    }
    let at = |i: usize| counts.get(i).copied().unwrap_or(0);
    let width = usize::from(WINDOW);
    let mut inside: u32 = (0..width).map(at).sum();
    let mut best = (inside, 0);
    for base in 1..=1024 - width {
        inside = inside - at(base - 1) + at(base + width - 1);
        best = best.max((inside, base));
    }
    best.1 as u16
}

/// Six bits of each of at most a tile's numbers: rows 0 to 5 in the low six bits of 64 bytes each,
/// rows 6 and 7 in the high two bits of three rows each.
fn group_six(bits: impl Iterator<Item = u8>) -> [u8; SIX] {
    let mut group = [[0; BLOCK]; 6];
    for (i, six) in bits.enumerate() {
        let (row, at) = (i / BLOCK, i % BLOCK);
        if row < 6 {
            if let Some(byte) = group.get_mut(row).and_then(|g| g.get_mut(at)) {
                *byte |= six;
            }
        } else if let Some(three) = group.get_mut((row - 6) * 3..(row - 5) * 3) {
            for (k, g) in three.iter_mut().enumerate() {
                if let Some(byte) = g.get_mut(at) {
                    *byte |= (six >> (2 * k) & 3) << 6;
                }
            }
        }
    }
    let mut flat = [0; SIX];
    flat.copy_from_slice(group.as_flattened());
    flat
}

/// The tables and groups of a packed chunk.
pub fn class_count(packed: &[u8]) -> Option<u16> {
    let tables = (u32::from(*packed.get(2)?) + 1) * (u32::from(*packed.get(3)?) + 1);
    u16::try_from(tables).ok().filter(|&tables| usize::from(tables) <= TABLES)
}

/// Decodes a chunk to exactly `out`.
pub fn decode(
    kernel: AvailableKernel,
    packed: Packed<'_>,
    out: &mut [u8],
    scratch: &mut Scratch,
) -> Result<(), Damage> {
    let mut fields = Fields::new(packed.bytes());
    let stride = Stride::from_byte(fields.u8()?, WIDTHS)?;
    let how = fields.u8()?;
    let (layout, bits) = (how & 1, 10 + u32::from(how >> 1));
    if bits > 12 || layout == Layout::Bf16 as u8 && stride.log2_width != 1 {
        return Err(Damage::new("layout and slots of a grid, below", 6, how.into()));
    }
    let (of_rows, of_columns) = (usize::from(fields.u8()?) + 1, usize::from(fields.u8()?) + 1);
    if of_rows > GROUPS || of_columns > GROUPS || of_rows * of_columns > TABLES {
        return Err(Damage::new("tables of a grid, at most", TABLES as u64, (of_rows * of_columns) as u64));
    }
    let width = usize::from(fields.u16()?) * BLOCK;
    if width == 0 {
        return Err(Damage::new("numbers in a row, at least", BLOCK as u64, 0));
    }
    let base = fields.u16()?;
    let (words_len, escapes_len) = (fields.len32()?, fields.len32()?);
    let tables_len = fields.len32()?;
    tables::read_all(fields.bytes(tables_len)?, of_rows * of_columns, bits, &mut scratch.tables)?;
    let (head, body, tail) = stride.split_mut(out);
    head.copy_from_slice(fields.bytes(head.len())?);
    tail.copy_from_slice(fields.bytes(tail.len())?);
    let n = body.len() / stride.width();
    // One group of columns is no choice: nothing is stored for it, and the width, which is
    // unchecked, sizes no allocation.
    let known = if of_columns == 1 { 0 } else { width };
    let columns = ids(fields.bytes((known * class_bits(of_columns) as usize).div_ceil(8))?, known, of_columns)?;
    let count = n.div_ceil(width);
    let rows = ids(fields.bytes((count * class_bits(of_rows) as usize).div_ceil(8))?, count, of_rows)?;
    let residual_len = match (layout, stride.log2_width) {
        (0, 0) => 0,
        (0, _) => n,
        _ => n / TILE * SIX + group_len(n % TILE, SIX),
    };
    let residual = fields.bytes(residual_len)?;
    let escapes = fields.bytes(escapes_len)?;
    if escapes_len % 2 != 0 {
        return Err(Damage::new("bytes of escapes, even", escapes_len as u64 + 1, escapes_len as u64));
    }
    let (mut states, rest) = States::read(fields.rest())?;
    let mut words = packed.coded(rest, words_len)?;
    let offsets: Vec<u32> = columns.iter().map(|&c| u32::from(c) << bits).collect();
    let columns = Columns::new(&offsets);

    let whole = layout == 0 && stride.log2_width == 0;
    scratch.symbols.resize(n.next_multiple_of(BLOCK), 0);
    let mut at = 0;
    for &row in &rows {
        let tables = scratch.tables.get((usize::from(row) * of_columns) << bits..).unwrap_or_default();
        let segment =
            if of_columns == 1 { Segment::plain(tables, bits) } else { Segment::by_column(tables, &columns, bits) };
        let to = scratch.symbols.len().min(at + width);
        let blocks = scratch.symbols.get_mut(at..to).unwrap_or_default().as_chunks_mut().0;
        if !segment.is_some_and(|s| kernel.symbols(&s, &mut states, &mut words, blocks)) {
            return Err(Damage::new("coded words enough for a row", 1, 0));
        }
        if stride.log2_width == 1 && layout == 0 {
            // While the symbols are at hand.
            let end = n.min(to);
            if let (Some(high), Some(low)) = (scratch.symbols.get(at..end), residual.get(at..end)) {
                kernel.join_bytes(high, low, body.as_chunks_mut().0.get_mut(at..end).unwrap_or_default());
            }
        }
        at = to;
    }
    words.finish()?;
    states.finish()?;
    if whole {
        body.copy_from_slice(scratch.symbols.get(..n).unwrap_or_default());
    } else if layout == 1 {
        return join_bf16(&scratch.symbols, residual, base, escapes, body.as_chunks_mut().0);
    }
    match escapes.len() {
        0 => Ok(()),
        left => Err(Damage::new("escapes of a grid that has none", 0, left as u64)),
    }
}

/// The groups of rows or columns, each checked.
fn ids(bytes: &[u8], count: usize, groups: usize) -> Result<Vec<u8>, Damage> {
    let mut bits = BitReader::new(bytes);
    (0..count)
        .map(|_| {
            let id = bits.take(class_bits(groups))?;
            if (id as usize) < groups {
                return Ok(id as u8);
            }
            Err(Damage::new("group of a row or column, below", groups as u64, id.into()))
        })
        .collect()
}

/// Joins symbols and residuals of BF16 words, and puts those that were stored whole into their
/// places.
fn join_bf16(symbols: &[u8], residual: &[u8], base: u16, escapes: &[u8], out: &mut [[u8; 2]]) -> Result<(), Damage> {
    let mut escapes = escapes.as_chunks::<2>().0.iter();
    let mut groups = residual.chunks(SIX);
    for (symbols, out) in symbols.chunks(TILE).zip(out.chunks_mut(TILE)) {
        let stored = groups.next().unwrap_or_default();
        let mut six = [0; TILE];
        match stored.as_chunks::<BLOCK>().0 {
            rows @ [a0, a1, a2, b0, b1, b2] if stored.len() == SIX => {
                for (six, row) in six.as_chunks_mut::<BLOCK>().0.iter_mut().zip(rows) {
                    six.iter_mut().zip(row).for_each(|(six, byte)| *six = byte & 0x3f);
                }
                for (to, [x, y, z]) in
                    six.as_chunks_mut::<BLOCK>().0.iter_mut().skip(6).zip([[a0, a1, a2], [b0, b1, b2]])
                {
                    for (((to, x), y), z) in to.iter_mut().zip(x).zip(y).zip(z) {
                        *to = x >> 6 | y >> 6 << 2 | z >> 6 << 4;
                    }
                }
            }
            _ => six.iter_mut().zip(stored).for_each(|(six, byte)| *six = byte & 0x3f),
        }
        for ((out, &symbol), six) in out.iter_mut().zip(symbols).zip(six) {
            let head = base.wrapping_add(u16::from(symbol)).wrapping_sub(1) & 0x3ff;
            let low = u16::from(six);
            *out = (head << 5 | low & 0x1f | (low & 0x20) << 10).to_le_bytes();
        }
        if symbols.iter().take(out.len()).fold(false, |any, &s| any | (s == 0)) {
            for (out, _) in out.iter_mut().zip(symbols).filter(|(_, s)| **s == 0) {
                *out = *escapes.next().ok_or(Damage::new("escapes left", 1, 0))?;
            }
        }
    }
    match escapes.len() {
        0 => Ok(()),
        left => Err(Damage::new("escapes left at the end", 0, left as u64)),
    }
}
