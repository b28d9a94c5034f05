//! The definition of every kernel, in safe code. The others give the same bytes, the same errors,
//! the same positions.

#![expect(clippy::indexing_slicing, reason = "indices are masked, or bounded by a tile's or a table's fixed size")]

use super::encode::{EncodeTable, ReverseWords, SymbolTables};
use super::inputs::{ClassTables, Segment, States, TileLow, Words};
use super::slots::{CLASS_BITS, RANKS, SLOT_SYMBOL};
use super::small::{SMALL_BITS, SMALL_LOW, SmallStates, SmallTable};
use super::types::{BLOCK, ESCAPED, GROUP, Histogram, Op, POSITION, Ranked, SMALL_GROUP, TILE, WINDOW};

/// Compiles functions of this file again with the vector features of another kernel; the compiler
/// vectorises their loops.
macro_rules! vectorised {
    ($features:literal) => {
        vectorised! { $features
            fn join32(high: &[[u8; 2]], low: &[[u8; 2]], out: &mut [[u8; 4]]);
            fn join_bytes(high: &[u8], low: &[u8], out: &mut [[u8; 2]]);
            fn subtract(op: super::types::Op, log2_width: u8, raw: &[u8], base: &[u8], out: &mut [u8]);
            fn add(op: super::types::Op, log2_width: u8, base: &[u8], numbers: &mut [u8]);
            fn groups(wide: bool, shift: u8, bounds: &[u8], base: &[u8], out: &mut [u8]);
            fn spread_groups(groups: &[[u8; super::types::BLOCK]], bits: u32, offsets: &mut [u32]) -> u8;
            fn widen(bytes: &[u8], out: &mut [[u8; 2]]);
            fn cheapest(members: &[super::types::Histogram], costs: &[super::types::Histogram], of: &mut [u8]);
            fn rank_small_tile(
                body: &[u8; super::types::TILE],
                ranks: &mut [[u8; super::types::BLOCK]; 8],
                residual: &mut [u8; super::types::SMALL_GROUP]
            ) -> u32;
            fn marked(numbers: &[[u8; 2]], marker: u16) -> bool;
            fn split_bytes(raw: &[[u8; 2]], high: &mut [u8], low: &mut [u8]);
            fn split16(raw: &[[u8; 2]], heads: &mut [u16]);
            fn split32(raw: &[[u8; 4]], high: &mut [u16], low: &mut [[u8; 2]]);
            fn rank_tile(
                heads: &[u16; super::types::TILE],
                base: u16,
                ranks: &mut [[u8; super::types::BLOCK]; 8],
                residual: &mut [u8; super::types::GROUP]
            ) -> super::types::Ranked;
        }
    };
    ($features:literal $(fn $name:ident($($a:ident: $t:ty),*) $(-> $r:ty)?;)*) => {
        $(
            #[target_feature(enable = $features)]
            pub fn $name($($a: $t),*) $(-> $r)? {
                super::scalar::$name($($a),*)
            }
        )*
    };
}
pub(super) use vectorised;

/// One step of a 32-bit state over a slot table: its symbol, and the state before renormalisation.
#[inline(always)]
fn step<const BITS: u32>(entry: u32, x: u32) -> (u8, u32) {
    ((entry & SLOT_SYMBOL) as u8, ((entry >> 8 & 0xfff) + 1).wrapping_mul(x >> BITS).wrapping_add(entry >> 20))
}

/// Decodes one block of 64 symbols; `slot(t, x)` is the table's entry for state `t`.
#[inline(always)]
fn block<const BITS: u32>(
    states: &mut States,
    words: &mut Words<'_>,
    out: &mut [u8; BLOCK],
    slot: impl Fn(usize, u32) -> u32,
) -> bool {
    let Some(window) = words.block() else { return false };
    let mut used = 0;
    for t in 0..BLOCK {
        let x = states.0[t];
        let (symbol, next) = step::<BITS>(slot(t, x), x);
        out[POSITION[t]] = symbol;
        let word = u32::from(u16::from_le_bytes(window[used % BLOCK]));
        let low = next < 1 << 16;
        states.0[t] = if low { next << 16 | word } else { next };
        used += usize::from(low);
    }
    words.advance(2 * used);
    true
}

/// Decodes `out`, a run of blocks, with the tables of `segment`. `false` when the words end too
/// early.
pub fn symbols<const BITS: u32>(
    segment: &Segment<'_>,
    states: &mut States,
    words: &mut Words<'_>,
    out: &mut [[u8; BLOCK]],
) -> bool {
    let mask = (1 << BITS) - 1;
    let Some(tables) = segment.tables::<BITS>() else { return false };
    for (i, out) in out.iter_mut().enumerate() {
        let done = match segment.columns() {
            // Column offsets are below the tables' length less one table, which `Segment::new` has
            // checked.
            Some(columns) => {
                block::<BITS>(states, words, out, |t, x| tables[(columns[i * BLOCK + t] + (x & mask)) as usize])
            }
            None => block::<BITS>(states, words, out, |_, x| tables[(x & mask) as usize]),
        };
        if !done {
            return false;
        }
    }
    true
}

/// Decodes the ranks of at most a tile with one class.
fn ranks<'a>(
    classes: &ClassTables,
    class: usize,
    states: &mut States,
    words: &mut Words<'_>,
    out: &'a mut [[u8; BLOCK]],
) -> Option<&'a [[u8; BLOCK]]> {
    let segment = Segment::plain(classes.slots(class)?, CLASS_BITS)?;
    symbols::<CLASS_BITS>(&segment, states, words, out).then_some(out)
}

/// Decodes at most a tile of ranks with one class, and joins them with the rest of the numbers.
pub fn tile16(
    classes: &ClassTables,
    class: usize,
    states: &mut States,
    words: &mut Words<'_>,
    low: TileLow<'_>,
    out: &mut [[u8; 2 * BLOCK]],
) -> Option<bool> {
    let mut space = [[0; BLOCK]; TILE / BLOCK];
    let ranks = ranks(classes, class, states, words, space.get_mut(..out.len())?)?;
    let mut seen = 0;
    for (row, (ranks, out)) in ranks.iter().zip(out).enumerate() {
        let residual = residual_row(low.residual, row);
        for ((o, &rank), r) in out.as_chunks_mut::<2>().0.iter_mut().zip(ranks).zip(residual) {
            let word = low.heads.words[usize::from(rank) % RANKS];
            seen |= word;
            *o = (word | u16::from(r & 0x3f) | u16::from(r & 0x40) << 9).to_le_bytes();
        }
    }
    Some(seen & ESCAPED != 0)
}

/// Decodes at most a tile of ranks of floats of eight bits, and joins them with the rest.
pub fn tile8(
    classes: &ClassTables,
    class: usize,
    states: &mut States,
    words: &mut Words<'_>,
    residual: &[u8; SMALL_GROUP],
    out: &mut [[u8; BLOCK]],
) -> bool {
    if ranks(classes, class, states, words, out).is_none() {
        return false;
    }
    for (row, out) in out.iter_mut().enumerate() {
        for (o, r) in out.iter_mut().zip(small_residual_row(residual, row)) {
            *o = *o << 2 | r & 3 | (r & 4) << 5;
        }
    }
    true
}

/// Three bits of each number: rows 2k and 2k + 1 are the low six bits of bytes 64 k and on, rows 6
/// and 7 the high two bits of all three runs of bytes.
#[inline(always)]
pub fn small_residual_row(packed: &[u8; SMALL_GROUP], row: usize) -> [u8; BLOCK] {
    let rows = packed.as_chunks::<BLOCK>().0;
    let mut out = [0; BLOCK];
    if row < 6 {
        for (o, &b) in out.iter_mut().zip(&rows[row / 2]) {
            *o = b >> (row % 2 * 3) & 7;
        }
    } else {
        for (i, o) in out.iter_mut().enumerate() {
            let six = rows[0][i] >> 6 | rows[1][i] >> 6 << 2 | rows[2][i] >> 6 << 4;
            *o = six >> (row % 2 * 3) & 7;
        }
    }
    out
}

#[inline(always)]
pub fn join32(high: &[[u8; 2]], low: &[[u8; 2]], out: &mut [[u8; 4]]) {
    for ((o, h), l) in out.iter_mut().zip(high).zip(low) {
        *o = (u32::from(u16::from_le_bytes(*h)) << 16 | u32::from(u16::from_le_bytes(*l))).to_le_bytes();
    }
}

/// Differences of numbers of one width, and back.
macro_rules! moves {
    ($forth:ident, $back:ident, $unsigned:ty, $signed:ty) => {
        #[inline(always)]
        fn $forth(op: Op, raw: &[u8], base: &[u8], out: &mut [u8]) {
            const TOP: u32 = <$unsigned>::BITS - 1;
            const LOW: $unsigned = !(1 << TOP);
            let zigzag = |d: $unsigned| d << 1 ^ (d.cast_signed() >> TOP).cast_unsigned();
            #[inline(always)]
            fn each(out: &mut [u8], raw: &[u8], base: &[u8], f: impl Fn($unsigned, $unsigned) -> $unsigned) {
                let (out, raw, base) = (out.as_chunks_mut().0, raw.as_chunks().0, base.as_chunks().0);
                for ((out, x), y) in out.iter_mut().zip(raw).zip(base) {
                    *out = f(<$unsigned>::from_le_bytes(*x), <$unsigned>::from_le_bytes(*y)).to_le_bytes();
                }
            }
            match op {
                Op::Xor => each(out, raw, base, |x, y| x ^ y),
                Op::Wrapping => each(out, raw, base, |x, y| zigzag(x.wrapping_sub(y))),
                Op::Mirrored => each(out, raw, base, |x, y| {
                    // All ones when the signs differ: then x lies beyond zero, at a place below
                    // that of the least magnitude.
                    let beyond = ((x ^ y).cast_signed() >> TOP).cast_unsigned();
                    zigzag((x & LOW ^ beyond).wrapping_sub(y & LOW))
                }),
            }
        }

        #[inline(always)]
        fn $back(op: Op, base: &[u8], numbers: &mut [u8]) {
            const TOP: u32 = <$unsigned>::BITS - 1;
            const LOW: $unsigned = !(1 << TOP);
            let zagzig = |z: $unsigned| z >> 1 ^ (z & 1).wrapping_neg();
            #[inline(always)]
            fn each(numbers: &mut [u8], base: &[u8], f: impl Fn($unsigned, $unsigned) -> $unsigned) {
                for (z, y) in numbers.as_chunks_mut().0.iter_mut().zip(base.as_chunks().0) {
                    *z = f(<$unsigned>::from_le_bytes(*z), <$unsigned>::from_le_bytes(*y)).to_le_bytes();
                }
            }
            match op {
                Op::Xor => each(numbers, base, |z, y| z ^ y),
                Op::Wrapping => each(numbers, base, |z, y| zagzig(z).wrapping_add(y)),
                Op::Mirrored => each(numbers, base, |z, y| {
                    let place = zagzig(z).wrapping_add(y & LOW);
                    let beyond = (place.cast_signed() >> TOP).cast_unsigned();
                    place ^ beyond | (y ^ beyond) & !LOW
                }),
            }
        }
    };
}

moves!(subtract8, add8, u8, i8);
moves!(subtract16, add16, u16, i16);
moves!(subtract32, add32, u32, i32);
moves!(subtract64, add64, u64, i64);

#[inline(always)]
pub fn subtract(op: Op, log2_width: u8, raw: &[u8], base: &[u8], out: &mut [u8]) {
    match log2_width {
        0 => subtract8(op, raw, base, out),
        1 => subtract16(op, raw, base, out),
        2 => subtract32(op, raw, base, out),
        _ => subtract64(op, raw, base, out),
    }
}

#[inline(always)]
pub fn add(op: Op, log2_width: u8, base: &[u8], numbers: &mut [u8]) {
    match log2_width {
        0 => add8(op, base, numbers),
        1 => add16(op, base, numbers),
        2 => add32(op, base, numbers),
        _ => add64(op, base, numbers),
    }
}

#[inline(always)]
pub fn groups(wide: bool, shift: u8, bounds: &[u8], base: &[u8], out: &mut [u8]) {
    out.fill(0);
    let mut contexts = [0; TILE];
    for (i, out) in out.chunks_mut(TILE).enumerate() {
        if wide {
            let base = base.get(2 * TILE * i..).unwrap_or_default().as_chunks::<2>().0;
            for (c, y) in contexts.iter_mut().zip(base) {
                *c = ((u16::from_le_bytes(*y) & 0x7fff) >> (shift & 15)) as u8;
            }
        } else {
            for (c, y) in contexts.iter_mut().zip(base.get(TILE * i..).unwrap_or_default()) {
                *c = (y & 0x7f) >> (shift & 7);
            }
        }
        for &bound in bounds {
            for (out, &c) in out.iter_mut().zip(&contexts) {
                *out += u8::from(c >= bound);
            }
        }
    }
}

#[inline(always)]
pub fn spread_groups(groups: &[[u8; BLOCK]], bits: u32, offsets: &mut [u32]) -> u8 {
    let mut most = [0; BLOCK];
    for (block, offsets) in groups.iter().zip(offsets.as_chunks_mut::<BLOCK>().0) {
        // Four neighbours of a block are four neighbouring states (`POSITION`). Loops over arrays,
        // which become vectors.
        let mut ordered = [0; BLOCK];
        let (from, to) = (block.as_chunks::<4>().0, ordered.as_chunks_mut::<4>().0);
        for g in 0..4 {
            for q in 0..4 {
                to[4 * g + q] = from[4 * q + g];
            }
        }
        for (most, group) in most.iter_mut().zip(ordered) {
            *most = if group > *most { group } else { *most };
        }
        for (to, group) in offsets.iter_mut().zip(ordered) {
            *to = u32::from(group) << bits;
        }
    }
    most.iter().fold(0, |most, &group| if group > most { group } else { most })
}

#[inline(always)]
pub fn widen(bytes: &[u8], out: &mut [[u8; 2]]) {
    for (out, &byte) in out.iter_mut().zip(bytes) {
        *out = u16::from(byte).to_le_bytes();
    }
}

#[inline(always)]
pub fn join_bytes(high: &[u8], low: &[u8], out: &mut [[u8; 2]]) {
    for ((o, &h), &l) in out.iter_mut().zip(high).zip(low) {
        *o = (u16::from(h) << 8 | u16::from(l)).to_le_bytes();
    }
}

#[inline(always)]
pub fn cheapest(members: &[Histogram], costs: &[Histogram], of: &mut [u8]) {
    for (of, member) in of.iter_mut().zip(members) {
        let mut least = u32::MAX;
        for (group, costs) in (0_u8..).zip(costs) {
            let mut cost = 0_u32;
            for (&n, &c) in member.iter().zip(costs) {
                cost = cost.wrapping_add(u32::from(n) * u32::from(c));
            }
            if cost < least {
                (least, *of) = (cost, group);
            }
        }
    }
}

#[inline(always)]
pub fn rank_small_tile(body: &[u8; TILE], ranks: &mut [[u8; BLOCK]; 8], residual: &mut [u8; SMALL_GROUP]) -> u32 {
    let rows = body.as_chunks::<BLOCK>().0;
    let mut sum = 0;
    for (ranks, row) in ranks.iter_mut().zip(rows) {
        for (rank, byte) in ranks.iter_mut().zip(row) {
            *rank = byte >> 2 & 31;
            sum += u32::from(*rank);
        }
    }
    let three = |byte: u8| byte & 3 | byte >> 5 & 4;
    for (k, out) in residual.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        for (i, out) in out.iter_mut().enumerate() {
            let six = three(rows[6][i]) | three(rows[7][i]) << 3;
            *out = three(rows[2 * k][i]) | three(rows[2 * k + 1][i]) << 3 | (six >> (2 * k) & 3) << 6;
        }
    }
    sum
}

#[inline(always)]
pub fn marked(numbers: &[[u8; 2]], marker: u16) -> bool {
    numbers.iter().fold(false, |any, number| any | (u16::from_le_bytes(*number) & 0x7fc0 == marker))
}

#[inline(always)]
pub fn split_bytes(raw: &[[u8; 2]], high: &mut [u8], low: &mut [u8]) {
    for ((high, low), raw) in high.iter_mut().zip(low).zip(raw) {
        let word = u16::from_le_bytes(*raw);
        (*high, *low) = ((word >> 8) as u8, word as u8);
    }
}

#[inline(always)]
pub fn split16(raw: &[[u8; 2]], heads: &mut [u16]) {
    for (head, raw) in heads.iter_mut().zip(raw) {
        *head = u16::from_le_bytes(*raw);
    }
}

#[inline(always)]
pub fn split32(raw: &[[u8; 4]], high: &mut [u16], low: &mut [[u8; 2]]) {
    for ((high, low), raw) in high.iter_mut().zip(low).zip(raw) {
        let word = u32::from_le_bytes(*raw);
        (*high, *low) = ((word >> 16) as u16, (word as u16).to_le_bytes());
    }
}

#[inline(always)]
pub fn rank_tile(heads: &[u16; TILE], base: u16, ranks: &mut [[u8; BLOCK]; 8], residual: &mut [u8; GROUP]) -> Ranked {
    let (mut mask, mut sum) = (0_u32, 0_u32);
    for (ranks, heads) in ranks.iter_mut().zip(heads.as_chunks::<BLOCK>().0) {
        for (rank, &head) in ranks.iter_mut().zip(heads) {
            let symbol = head >> 6 & 0x1ff;
            let place = symbol.wrapping_sub(base);
            *rank = if place < WINDOW { place as u8 + 2 } else { u8::from(symbol == 0) };
        }
        for &rank in ranks.iter() {
            mask |= 1 << rank;
            sum += u32::from(rank);
        }
    }
    let rest = |head: u16| (head & 0x3f) as u8 | (head >> 9 & 0x40) as u8;
    let (rows, last) = heads.as_chunks::<BLOCK>().0.split_at(7);
    for (k, (out, heads)) in residual.as_chunks_mut::<BLOCK>().0.iter_mut().zip(rows).enumerate() {
        for ((out, &head), &last) in out.iter_mut().zip(heads).zip(&last[0]) {
            *out = rest(head) | (rest(last) >> k & 1) << 7;
        }
    }
    Ranked { mask, sum }
}

/// Codes blocks of ranks, the last first.
pub fn encode_ranks(
    tables: &[EncodeTable],
    class: &[u8],
    ranks: &[[u8; BLOCK]],
    states: &mut States,
    words: &mut ReverseWords,
) {
    for (ranks, &class) in ranks.iter().zip(class).rev() {
        let table = &tables[usize::from(class)];
        for t in (0..BLOCK).rev() {
            let rank = usize::from(ranks[POSITION[t]]);
            let freq = table.freq[rank];
            let mut x = states.0[t];
            // The word is always written and counts only if it is emitted: no branch.
            words.words[words.at - 1] = x as u16;
            let full = x >> (32 - CLASS_BITS) >= freq;
            words.at -= usize::from(full);
            x = if full { x >> 16 } else { x };
            let (quotient, remainder) = (x / freq, x % freq);
            states.0[t] = quotient << CLASS_BITS | u32::from(table.slots[(table.start[rank] + remainder) as usize]);
        }
    }
}

/// Codes blocks of symbols, the last first.
pub fn encode_symbols(
    tables: &SymbolTables,
    base: u32,
    columns: &[u32],
    symbols: &[[u8; BLOCK]],
    states: &mut States,
    words: &mut ReverseWords,
) {
    let bits = tables.bits;
    for (i, symbols) in symbols.iter().enumerate().rev() {
        let columns = columns.get(i * BLOCK..(i + 1) * BLOCK);
        for t in (0..BLOCK).rev() {
            let entry = base + columns.map_or(0, |c| c[t]) + u32::from(symbols[POSITION[t]]);
            let (slots, exact) = (tables.slots[entry as usize], tables.exact[entry as usize]);
            let (freq, start) = (slots & 0xffff, slots >> 16);
            let mut x = states.0[t];
            // The word is always written and counts only if it is emitted: no branch.
            words.words[words.at - 1] = x as u16;
            let full = u64::from(x) >= u64::from(freq) << (32 - bits);
            words.at -= usize::from(full);
            x = if full { x >> 16 } else { x };
            let quotient = ((u128::from(x) * u128::from(exact)) >> 64) as u32 + u32::from(freq == 1);
            states.0[t] = (quotient << bits) + start + (x - quotient * freq);
        }
    }
}

/// The seven bits of each number that are stored as they are: row r of 64 numbers is the low bits
/// of 64 bytes; row 7 is spread over the high bits of the other seven.
fn residual_row(packed: &[u8; GROUP], row: usize) -> [u8; BLOCK] {
    let mut out = [0; BLOCK];
    let rows = packed.as_chunks::<BLOCK>().0;
    if row < 7 {
        for (o, &b) in out.iter_mut().zip(&rows[row]) {
            *o = b & 0x7f;
        }
    } else {
        for (k, row) in rows.iter().enumerate() {
            for (o, &b) in out.iter_mut().zip(row) {
                *o |= (b >> 7) << k;
            }
        }
    }
    out
}

/// Decodes blocks of BF16 words, the exponents coded, the rest as it is.
pub fn exponents16(
    table: &SmallTable,
    states: &mut SmallStates,
    words: &mut Words<'_>,
    residual: &[[u8; BLOCK]],
    out: &mut [[u8; 2 * BLOCK]],
) -> bool {
    for (residual, out) in residual.iter().zip(out) {
        let Some(window) = words.small_block() else { return false };
        let mut used = 0;
        for (t, out) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let x = states.0[t];
            let slot = x % (1 << SMALL_BITS);
            let rank = usize::from(table.rank[usize::from(slot)]);
            let freq = u16::from(table.freq[rank]);
            let next = freq.wrapping_mul(x >> SMALL_BITS).wrapping_add(slot).wrapping_sub(table.start[rank].into());
            let low = next < SMALL_LOW;
            states.0[t] = if low { next << 8 | u16::from(window[used % BLOCK]) } else { next };
            used += usize::from(low);
            let r = u16::from(residual[t]);
            *out = (u16::from(table.exponent[rank]) << 7 | r & 0x7f | (r & 0x80) << 8).to_le_bytes();
        }
        words.advance(used);
    }
    true
}
