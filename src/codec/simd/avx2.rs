//! AVX2: eight states a register, table lookups by gathers.

use core::arch::x86_64::*;

use super::inputs::{ClassTables, Segment, States, TileLow, Words};
use super::loads::loads;
use super::scalar::{self, vectorised};
use super::slots::{Alias, CLASS_BITS, RANKS};
use super::small::{SMALL_BITS, SMALL_RANKS, SmallStates, SmallTable};
use super::types::{BLOCK, SMALL_GROUP};

vectorised!("avx2,bmi2,popcnt");

loads!("avx2", __m256i, _mm256_loadu_si256, _mm256_storeu_si256;
    load, store: [u32; 8];
    load_small, store_small: [u16; 16];
    load_bytes, store_bytes: [u8; 32];
);

/// For each set of lanes that take up a word, which of the next eight words each lane takes.
static SPREAD: [[u8; 8]; 256] = spread();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which checks it")]
const fn spread() -> [[u8; 8]; 256] {
    let mut table = [[0; 8]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut lane, mut next) = (0, 0);
        while lane < 8 {
            if mask >> lane & 1 == 1 {
                table[mask][lane] = next;
                next += 1;
            }
            lane += 1;
        }
        mask += 1;
    }
    table
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_states(states: &States) -> [__m256i; 8] {
    let mut v = [_mm256_setzero_si256(); 8];
    for (v, s) in v.iter_mut().zip(states.0.as_chunks::<8>().0) {
        *v = load(s);
    }
    v
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_states(states: &mut States, v: [__m256i; 8]) {
    for (v, s) in v.iter().zip(states.0.as_chunks_mut::<8>().0) {
        store(s, *v);
    }
}

/// Renormalises each state below 2^16 with one word; `at` advances over the words read.
///
/// # Safety
/// 16 bytes must be readable at `at`.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
unsafe fn refill(x: __m256i, at: &mut *const u8) -> __m256i {
    // Bit 16 and above: nothing there means that the state is low.
    let low = _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256());
    let mask = _mm256_movemask_ps(_mm256_castsi256_ps(low)) as usize & 255;
    // SAFETY: the caller's promise, and the eight bytes of a table's entry.
    let (words, lanes) = unsafe { (_mm_loadu_si128((*at).cast()), _mm_loadl_epi64(SPREAD.as_ptr().add(mask).cast())) };
    *at = at.wrapping_add(2 * mask.count_ones() as usize);
    let words = _mm256_permutevar8x32_epi32(_mm256_cvtepu16_epi32(words), _mm256_cvtepu8_epi32(lanes));
    _mm256_blendv_epi8(x, _mm256_or_si256(_mm256_slli_epi32(x, 16), words), low)
}

/// The entries that eight indices lead to. Single loads are faster than the instruction of this
/// name.
///
/// # Safety
/// Every index must be inside the table.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn gather(table: *const u32, index: __m256i) -> __m256i {
    let mut lanes = [0; 8];
    store(&mut lanes, index);
    let [a, b, c, d, e, f, g, h] = lanes;
    // SAFETY: the caller's promise.
    let at = |i: u32| unsafe { *table.add(i as usize) as i32 };
    let four = |a, b, c, d| {
        let low = _mm_insert_epi32::<1>(_mm_cvtsi32_si128(at(a)), at(b));
        let high = _mm_insert_epi32::<1>(_mm_cvtsi32_si128(at(c)), at(d));
        _mm_unpacklo_epi64(low, high)
    };
    _mm256_set_m128i(four(e, f, g, h), four(a, b, c, d))
}

/// Renormalises all states. A pass of its own: together with the decoding steps it would need too
/// many registers.
///
/// # Safety
/// 128 + 16 bytes must be readable at `at`.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
unsafe fn refill_all(states: &mut States, mut at: *const u8) -> *const u8 {
    for x in states.0.as_chunks_mut::<8>().0 {
        // SAFETY: seven refills before it took at most 112 bytes.
        let v = unsafe { refill(load(x), &mut at) };
        store(x, v);
    }
    at
}

/// The symbols of eight states, in the low bytes of lanes; `x` becomes the states behind them.
///
/// # Safety
/// Every offset must leave room for 2^BITS entries in the tables; 16 bytes must be readable at
/// `at`.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
unsafe fn symbol<const BITS: u32>(
    tables: *const u32,
    offsets: Option<&[u32; 8]>,
    x: &mut __m256i,
    at: &mut *const u8,
) -> __m256i {
    let mut slot = _mm256_and_si256(*x, _mm256_set1_epi32((1 << BITS) - 1));
    if let Some(offsets) = offsets {
        slot = _mm256_add_epi32(slot, load(offsets));
    }
    // SAFETY: the caller's promise; slots are masked to 2^BITS.
    let entry = unsafe { gather(tables, slot) };
    let freq = _mm256_and_si256(_mm256_srli_epi32(entry, 8), _mm256_set1_epi32(0xfff));
    // A stored frequency is one less than the frequency: f q = (f - 1) q + q.
    let quotient = _mm256_srl_epi32(*x, _mm_cvtsi32_si128(BITS as i32));
    let product = _mm256_add_epi32(_mm256_mullo_epi32(freq, quotient), quotient);
    // SAFETY: the caller's promise.
    *x = unsafe { refill(_mm256_add_epi32(product, _mm256_srli_epi32(entry, 20)), at) };
    _mm256_and_si256(entry, _mm256_set1_epi32(0xff))
}

#[target_feature(enable = "avx2,bmi2,popcnt")]
pub fn symbols<const BITS: u32>(
    segment: &Segment<'_>,
    states: &mut States,
    words: &mut Words<'_>,
    out: &mut [[u8; BLOCK]],
) -> bool {
    let [mut x0, mut x1, mut x2, mut x3, mut x4, mut x5, mut x6, mut x7] = load_states(states);
    let Some(tables) = segment.tables::<BITS>().map(<[u32]>::as_ptr) else { return false };
    let columns = segment.columns().unwrap_or_default().as_chunks::<8>().0;
    for (i, out) in out.iter_mut().enumerate() {
        let Some(window) = words.block() else { return false };
        let start = window.as_ptr().cast::<u8>();
        let mut at = start;
        // Lanes 0-7 of each group of sixteen states make bytes 0-31, lanes 8-15 bytes 32-63.
        // SAFETY: every offset leaves room for 2^BITS entries (`Segment`). A block of 64 states
        // takes at most 64 words, and `Words` has `PAD` bytes behind its window.
        let [a0, b0, a1, b1, a2, b2, a3, b3] = unsafe {
            [
                symbol::<BITS>(tables, columns.get(8 * i), &mut x0, &mut at),
                symbol::<BITS>(tables, columns.get(8 * i + 1), &mut x1, &mut at),
                symbol::<BITS>(tables, columns.get(8 * i + 2), &mut x2, &mut at),
                symbol::<BITS>(tables, columns.get(8 * i + 3), &mut x3, &mut at),
                symbol::<BITS>(tables, columns.get(8 * i + 4), &mut x4, &mut at),
                symbol::<BITS>(tables, columns.get(8 * i + 5), &mut x5, &mut at),
                symbol::<BITS>(tables, columns.get(8 * i + 6), &mut x6, &mut at),
                symbol::<BITS>(tables, columns.get(8 * i + 7), &mut x7, &mut at),
            ]
        };
        words.advance(at.addr() - start.addr());
        let pack = |v0, v1, v2, v3| _mm256_packus_epi16(_mm256_packus_epi32(v0, v1), _mm256_packus_epi32(v2, v3));
        if let [first, second] = out.as_chunks_mut::<32>().0 {
            store_bytes(first, pack(a0, a1, a2, a3));
            store_bytes(second, pack(b0, b1, b2, b3));
        }
    }
    store_states(states, [x0, x1, x2, x3, x4, x5, x6, x7]);
    true
}

/// A table of 32 bytes, each half of it in both halves of a register.
struct Bytes {
    halves: [__m256i; 2],
}

impl Bytes {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(bytes: &[u8; RANKS]) -> Self {
        // SAFETY: 16 readable bytes, twice.
        let (a, b) =
            unsafe { (_mm_loadu_si128(bytes.as_ptr().cast()), _mm_loadu_si128(bytes.as_ptr().add(16).cast())) };
        Self { halves: [_mm256_broadcastsi128_si256(a), _mm256_broadcastsi128_si256(b)] }
    }

    /// The bytes that `index`, each below 32, leads to; `upper` has bit 7 set where it is 16 or
    /// more.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn at(&self, index: __m256i, upper: __m256i) -> __m256i {
        let [a, b] = self.halves;
        _mm256_blendv_epi8(_mm256_shuffle_epi8(a, index), _mm256_shuffle_epi8(b, index), upper)
    }
}

/// Bit 4 of each byte moved to bit 7, where a blend looks.
#[inline]
#[target_feature(enable = "avx2")]
fn upper(index: __m256i) -> __m256i {
    _mm256_slli_epi16(index, 3)
}

/// An alias table as byte tables.
struct Table {
    split: Bytes,
    other: Bytes,
    bias: [Bytes; 2],
    freq: [Bytes; 2],
}

impl Table {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(alias: &Alias) -> Self {
        let [bias0, bias1] = &alias.bias;
        let [freq0, freq1] = &alias.freq;
        Self {
            split: Bytes::new(&alias.split),
            other: Bytes::new(&alias.other),
            bias: [Bytes::new(bias0), Bytes::new(bias1)],
            freq: [Bytes::new(freq0), Bytes::new(freq1)],
        }
    }

    /// One block's ranks; the states before they take up words.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn block(&self, states: &mut States) -> (__m256i, __m256i) {
        // Lanes 0-7 of each group of sixteen states make numbers 0-31, lanes 8-15 numbers 32-63.
        let x = load_states(states);
        let (first, [a0, a1, a2, a3]) = self.step([x[0], x[2], x[4], x[6]]);
        let (second, [b0, b1, b2, b3]) = self.step([x[1], x[3], x[5], x[7]]);
        store_states(states, [a0, b0, a1, b1, a2, b2, a3, b3]);
        (first, second)
    }

    /// Ranks, in the order of numbers, and the states before they take up words, of the same half
    /// of four groups.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn step(&self, x: [__m256i; 4]) -> (__m256i, [__m256i; 4]) {
        let zero = _mm256_setzero_si256();
        let slot = |x| _mm256_and_si256(x, _mm256_set1_epi32(2047));
        let slots = [_mm256_packus_epi32(slot(x[0]), slot(x[1])), _mm256_packus_epi32(slot(x[2]), slot(x[3]))];
        let bucket = |s| _mm256_and_si256(s, _mm256_set1_epi16(31));
        let bucket = _mm256_packus_epi16(bucket(slots[0]), bucket(slots[1]));
        let place = _mm256_packus_epi16(_mm256_srli_epi16(slots[0], 5), _mm256_srli_epi16(slots[1], 5));
        let up = upper(bucket);
        let split = self.split.at(bucket, up);
        let aliased = _mm256_cmpeq_epi8(_mm256_max_epu8(place, split), place);
        let rank = _mm256_blendv_epi8(bucket, self.other.at(bucket, up), aliased);
        let bias = [
            _mm256_and_si256(self.bias[0].at(bucket, up), aliased),
            _mm256_and_si256(self.bias[1].at(bucket, up), aliased),
        ];
        let up = upper(rank);
        let freq = [self.freq[0].at(rank, up), self.freq[1].at(rank, up)];
        // The unpacking undoes the packing: 16 bits, then 32.
        let offset = [
            _mm256_add_epi16(_mm256_unpacklo_epi8(bias[0], bias[1]), _mm256_unpacklo_epi8(place, zero)),
            _mm256_add_epi16(_mm256_unpackhi_epi8(bias[0], bias[1]), _mm256_unpackhi_epi8(place, zero)),
        ];
        let freq = [_mm256_unpacklo_epi8(freq[0], freq[1]), _mm256_unpackhi_epi8(freq[0], freq[1])];
        let low = |v| _mm256_unpacklo_epi16(v, zero);
        let high = |v| _mm256_unpackhi_epi16(v, zero);
        let next = |x, freq, offset| {
            _mm256_add_epi32(_mm256_mullo_epi32(freq, _mm256_srli_epi32(x, CLASS_BITS as i32)), offset)
        };
        let states = [
            next(x[0], low(freq[0]), low(offset[0])),
            next(x[1], high(freq[0]), high(offset[0])),
            next(x[2], low(freq[1]), low(offset[1])),
            next(x[3], high(freq[1]), high(offset[1])),
        ];
        (rank, states)
    }
}

/// Joins the words of 16 numbers with their bytes of the residual.
#[inline]
#[target_feature(enable = "avx2")]
fn join(words: __m256i, residual: __m128i) -> __m256i {
    let r = _mm256_cvtepu8_epi16(residual);
    let sign = _mm256_and_si256(_mm256_slli_epi16(r, 9), _mm256_set1_epi16(i16::MIN));
    _mm256_or_si256(words, _mm256_or_si256(_mm256_and_si256(r, _mm256_set1_epi16(0x3f)), sign))
}

/// Writes 32 numbers of these ranks; gives the low bytes of their heads.
#[inline]
#[target_feature(enable = "avx2")]
fn put(heads: &[Bytes; 2], ranks: __m256i, residual: __m256i, out: &mut [u8; BLOCK]) -> __m256i {
    let up = upper(ranks);
    let (low, high) = (heads[0].at(ranks, up), heads[1].at(ranks, up));
    // Byte interleaving stays within halves of a register: 0-7 and 16-23 first, then 8-15 and
    // 24-31.
    let (a, b) = (_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high));
    let first = join(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_castsi256_si128(residual));
    let second = join(_mm256_permute2x128_si256::<0x31>(a, b), _mm256_extracti128_si256::<1>(residual));
    if let [to_first, to_second] = out.as_chunks_mut::<32>().0 {
        store_bytes(to_first, first);
        store_bytes(to_second, second);
    }
    low
}

/// The ranks of one block, numbers 0-31 and 32-63.
#[inline]
#[target_feature(enable = "avx2,bmi2,popcnt")]
fn block(table: &Table, states: &mut States, words: &mut Words<'_>) -> Option<(__m256i, __m256i)> {
    let window = words.block()?;
    let start = window.as_ptr().cast::<u8>();
    let ranks = table.block(states);
    // SAFETY: a block of 64 states takes at most 64 words, and `Words` has `PAD` bytes behind its
    // window.
    let at = unsafe { refill_all(states, start) };
    words.advance(at.addr() - start.addr());
    Some(ranks)
}

#[target_feature(enable = "avx2,bmi2,popcnt")]
pub fn tile16(
    classes: &ClassTables,
    class: usize,
    states: &mut States,
    words: &mut Words<'_>,
    low: TileLow<'_>,
    out: &mut [[u8; 2 * BLOCK]],
) -> Option<bool> {
    let table = Table::new(classes.aliases.get(class)?);
    let [bytes0, bytes1] = &low.heads.bytes;
    let heads = [Bytes::new(bytes0), Bytes::new(bytes1)];
    let mut seen = _mm256_setzero_si256();
    let rows = low.residual.as_chunks::<BLOCK>().0;
    // Row 7 of the residual is gathered from the high bits of the rows before.
    let mut last = [_mm256_setzero_si256(); 2];
    let top = _mm256_set1_epi8(i8::MIN);
    for (row, out) in out.iter_mut().enumerate() {
        let (first, second) = block(&table, states, words)?;
        last = [
            _mm256_andnot_si256(top, _mm256_srli_epi16(last[0], 1)),
            _mm256_andnot_si256(top, _mm256_srli_epi16(last[1], 1)),
        ];
        let mut residual = last;
        if let Some([a, b]) = rows.get(row).map(|r| r.as_chunks::<32>().0) {
            residual = [load_bytes(a), load_bytes(b)];
            last = [
                _mm256_or_si256(last[0], _mm256_and_si256(residual[0], top)),
                _mm256_or_si256(last[1], _mm256_and_si256(residual[1], top)),
            ];
        }
        if let [out0, out1] = out.as_chunks_mut::<BLOCK>().0 {
            seen = _mm256_or_si256(seen, put(&heads, first, residual[0], out0));
            seen = _mm256_or_si256(seen, put(&heads, second, residual[1], out1));
        }
    }
    Some(_mm256_movemask_epi8(_mm256_slli_epi16(seen, 7)) != 0)
}

#[target_feature(enable = "avx2,bmi2,popcnt")]
pub fn tile8(
    classes: &ClassTables,
    class: usize,
    states: &mut States,
    words: &mut Words<'_>,
    residual: &[u8; SMALL_GROUP],
    out: &mut [[u8; BLOCK]],
) -> bool {
    let Some(alias) = classes.aliases.get(class) else { return false };
    let table = Table::new(alias);
    let join = |ranks, r| {
        let sign = _mm256_and_si256(_mm256_slli_epi16(r, 5), _mm256_set1_epi8(i8::MIN));
        let low = _mm256_or_si256(_mm256_and_si256(r, _mm256_set1_epi8(3)), sign);
        _mm256_or_si256(_mm256_slli_epi16(ranks, 2), low)
    };
    for (row, out) in out.iter_mut().enumerate() {
        let Some((first, second)) = block(&table, states, words) else { return false };
        let residual = scalar::small_residual_row(residual, row);
        if let ([r0, r1], [out0, out1]) = (residual.as_chunks::<32>().0, out.as_chunks_mut::<32>().0) {
            store_bytes(out0, join(first, load_bytes(r0)));
            store_bytes(out1, join(second, load_bytes(r1)));
        }
    }
    true
}

/// For each set of eight lanes that take up a byte, the shuffle that puts the next bytes into their
/// low halves.
static SPREAD_BYTES: [[u8; 16]; 256] = spread_bytes();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which checks it")]
const fn spread_bytes() -> [[u8; 16]; 256] {
    let mut table = [[0x80; 16]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut lane, mut next) = (0, 0);
        while lane < 8 {
            if mask >> lane & 1 == 1 {
                table[mask][2 * lane] = next;
                next += 1;
            }
            lane += 1;
        }
        mask += 1;
    }
    table
}

/// The next bytes for the lanes of `mask`; `at` moves over them.
///
/// # Safety
/// 8 bytes must be readable at `at`.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
unsafe fn take_bytes(mask: u8, at: &mut *const u8) -> __m128i {
    // SAFETY: the caller's promise, and the sixteen bytes of a table's entry.
    let (bytes, lanes) = unsafe {
        let entry = SPREAD_BYTES.as_ptr().add(usize::from(mask));
        (_mm_loadl_epi64((*at).cast()), _mm_loadu_si128(entry.cast()))
    };
    *at = at.wrapping_add(mask.count_ones() as usize);
    _mm_shuffle_epi8(bytes, lanes)
}

/// Renormalises each 16-bit state below 2^8 with one byte; `at` advances over the bytes read.
///
/// # Safety
/// 16 bytes must be readable at `at`.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
unsafe fn refill_small(x: __m256i, at: &mut *const u8) -> __m256i {
    let low = _mm256_cmpeq_epi16(_mm256_srli_epi16(x, 8), _mm256_setzero_si256());
    let packed = _mm_packs_epi16(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
    let [first, second] = (_mm_movemask_epi8(packed) as u16).to_le_bytes();
    // SAFETY: the first takes at most 8 of the bytes that the caller promises.
    let bytes = unsafe {
        let first = take_bytes(first, at);
        _mm256_set_m128i(take_bytes(second, at), first)
    };
    _mm256_blendv_epi8(x, _mm256_or_si256(_mm256_slli_epi16(x, 8), bytes), low)
}

/// A table of sixteen bytes in both halves of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn sixteen(bytes: &[u8; SMALL_RANKS]) -> __m256i {
    // SAFETY: 16 readable bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// A table of exponents in registers.
struct Exponents<'a> {
    freq: __m256i,
    start: __m256i,
    /// Bits 1-7 of the exponents, and bit 0 where it lies in the low byte of a word.
    high: __m256i,
    low: __m256i,
    /// First slots of all ranks but the first.
    starts: &'a [u8],
}

impl Exponents<'_> {
    /// The words of 32 numbers without their residuals, and the states before they take up bytes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn step(&self, x: [__m256i; 2]) -> ([__m256i; 2], [__m256i; 2]) {
        let zero = _mm256_setzero_si256();
        let mask = _mm256_set1_epi16((1 << SMALL_BITS) - 1);
        let slots = [_mm256_and_si256(x[0], mask), _mm256_and_si256(x[1], mask)];
        let slot = _mm256_packus_epi16(slots[0], slots[1]);
        // The rank is the number of ranks whose first slot has been passed.
        let mut rank = zero;
        for &start in self.starts {
            rank = _mm256_sub_epi8(rank, _mm256_cmpgt_epi8(slot, _mm256_set1_epi8(start as i8 - 1)));
        }
        let freq = _mm256_shuffle_epi8(self.freq, rank);
        let offset = _mm256_sub_epi8(slot, _mm256_shuffle_epi8(self.start, rank));
        let next = |x, freq, offset| {
            _mm256_add_epi16(_mm256_mullo_epi16(freq, _mm256_srli_epi16(x, SMALL_BITS as i32)), offset)
        };
        let states = [
            next(x[0], _mm256_unpacklo_epi8(freq, zero), _mm256_unpacklo_epi8(offset, zero)),
            next(x[1], _mm256_unpackhi_epi8(freq, zero), _mm256_unpackhi_epi8(offset, zero)),
        ];
        let (low, high) = (_mm256_shuffle_epi8(self.low, rank), _mm256_shuffle_epi8(self.high, rank));
        ([_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)], states)
    }
}

/// Joins words of 16 numbers with the sign (bit 7) and the mantissa of each.
#[inline]
#[target_feature(enable = "avx2")]
fn join_mantissa(words: __m256i, residual: &[u8; 16], out: &mut [u8; 32]) {
    // SAFETY: 16 readable bytes.
    let r = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(residual.as_ptr().cast()) });
    let sign = _mm256_and_si256(_mm256_slli_epi16(r, 8), _mm256_set1_epi16(i16::MIN));
    let mantissa = _mm256_and_si256(r, _mm256_set1_epi16(0x7f));
    store_bytes(out, _mm256_or_si256(words, _mm256_or_si256(mantissa, sign)));
}

#[target_feature(enable = "avx2,bmi2,popcnt")]
pub fn exponents16(
    table: &SmallTable,
    states: &mut SmallStates,
    words: &mut Words<'_>,
    residual: &[[u8; BLOCK]],
    out: &mut [[u8; 2 * BLOCK]],
) -> bool {
    let Some(starts) = table.start.get(1..table.used.max(1)) else { return false };
    let exponent = sixteen(&table.exponent);
    let exponents = Exponents {
        freq: sixteen(&table.freq),
        start: sixteen(&table.start),
        high: _mm256_and_si256(_mm256_srli_epi16(exponent, 1), _mm256_set1_epi8(0x7f)),
        low: _mm256_and_si256(_mm256_slli_epi16(exponent, 7), _mm256_set1_epi8(i8::MIN)),
        starts,
    };
    let [s0, s1, s2, s3] = states.0.as_chunks_mut::<16>().0 else { return false };
    let mut x = [load_small(s0), load_small(s1), load_small(s2), load_small(s3)];
    for (residual, out) in residual.iter().zip(out) {
        let Some(window) = words.small_block() else { return false };
        let begin = window.as_ptr();
        let mut at = begin;
        let (first, [x0, x1]) = exponents.step([x[0], x[1]]);
        let (second, [x2, x3]) = exponents.step([x[2], x[3]]);
        // SAFETY: a block takes at most 64 bytes, 16 for each vector, and `Words` has `PAD` bytes
        // behind its window.
        unsafe {
            x = [
                refill_small(x0, &mut at),
                refill_small(x1, &mut at),
                refill_small(x2, &mut at),
                refill_small(x3, &mut at),
            ];
        }
        words.advance(at.addr() - begin.addr());
        let (r, out) = (residual.as_chunks::<16>().0, out.as_chunks_mut::<32>().0);
        if let ([r0, r1, r2, r3], [o0, o1, o2, o3]) = (r, out) {
            join_mantissa(first[0], r0, o0);
            join_mantissa(first[1], r1, o1);
            join_mantissa(second[0], r2, o2);
            join_mantissa(second[1], r3, o3);
        }
    }
    store_small(s0, x[0]);
    store_small(s1, x[1]);
    store_small(s2, x[2]);
    store_small(s3, x[3]);
    true
}
