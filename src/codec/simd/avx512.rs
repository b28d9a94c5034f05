//! AVX-512 with VBMI and VBMI2: sixteen states a register, tables of classes in registers.

use core::arch::x86_64::*;

use super::encode::{EncodeTable, ReverseWords, SymbolTables};
use super::inputs::{ClassTables, Segment, States, TileLow, Words};
use super::loads::loads;
use super::scalar::{self, vectorised};
use super::slots::{AliasLanes, CLASS_BITS, RANKS};
use super::small::{SMALL_BITS, SMALL_RANKS, SmallStates, SmallTable};
use super::types::{BLOCK, ESCAPED, POSITION, SMALL_GROUP};

/// Slots of a class table.
const SLOTS: usize = 1 << CLASS_BITS;

vectorised!("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi2,popcnt");

loads!("avx512f", __m512i, _mm512_loadu_si512, _mm512_storeu_si512;
    load_u32, store_u32: [u32; 16];
    load_words, store_words: [u16; 32];
    load_bytes, store_bytes: [u8; 64];
);

/// Renormalises each state below 2^16 with one word; `at` advances over the words read.
///
/// # Safety
/// 32 bytes must be readable at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
unsafe fn refill(x: __m512i, at: &mut *const u8) -> __m512i {
    let low = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32(1 << 16));
    // SAFETY: the caller's promise.
    let words = _mm512_castsi256_si512(unsafe { _mm256_loadu_si256((*at).cast()) });
    // Each word to the upper half of its lane; what the lower half gets is shifted out.
    let words = _mm512_permutexvar_epi16(load_words(&UPPER), words);
    let words = _mm512_maskz_expand_epi32(low, words);
    *at = at.wrapping_add(2 * low.count_ones() as usize);
    // Where a state is low its upper half is 0, so its lower half moves up and a word comes in
    // below.
    _mm512_mask_shldi_epi32(x, low, x, words, 16)
}

/// Sixteen-bit indices that put word i / 2 into both halves of lane i / 2.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which checks it")]
static UPPER: [u16; 32] = {
    let mut index = [0; 32];
    let mut i = 0;
    while i < 32 {
        index[i] = i as u16 / 2;
        i += 1;
    }
    index
};

/// For number i of a block, where it is among the words of groups 0 and 1 (0-31) and of groups 2
/// and 3 (32-63), the first of each pair of groups in the lower halves of lanes, the second in the
/// upper ones.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which checks it")]
static NATURAL: [[u16; 32]; 2] = {
    let mut index = [[0; 32]; 2];
    let mut t = 0;
    while t < BLOCK {
        let (group, lane, at) = (t / 16, t % 16, POSITION[t]);
        index[at / 32][at % 32] = (32 * (group / 2) + 2 * lane + group % 2) as u16;
        t += 1;
    }
    index
};

/// Packs the low bytes of four vectors of states into natural order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn pack(v: [__m512i; 4]) -> __m512i {
    _mm512_packus_epi16(_mm512_packus_epi32(v[0], v[1]), _mm512_packus_epi32(v[2], v[3]))
}

/// A table of 32 entries in two registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn two(table: &[u32; RANKS]) -> [__m512i; 2] {
    match table.as_chunks::<16>().0 {
        [a, b] => [load_u32(a), load_u32(b)],
        _ => [_mm512_setzero_si512(); 2],
    }
}

/// An alias table in registers.
struct Table {
    other: [__m512i; 2],
    freq: [__m512i; 2],
}

impl Table {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(alias: &AliasLanes) -> Self {
        Self { other: two(&alias.other), freq: two(&alias.freq) }
    }

    /// The rank (in the low five bits of the first) and the state before it takes up a word.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn step(&self, x: __m512i) -> (__m512i, __m512i) {
        let slot = _mm512_slli_epi32(x, 21);
        // Permutations look at the five lowest bits of an index alone: the bucket, the rank.
        let other = _mm512_permutex2var_epi32(self.other[0], x, self.other[1]);
        let aliased = _mm512_cmpgt_epu32_mask(slot, other);
        let rank = _mm512_mask_mov_epi32(x, aliased, other);
        let freq = _mm512_permutex2var_epi32(self.freq[0], rank, self.freq[1]);
        let product = _mm512_mullo_epi32(freq, _mm512_srli_epi32(x, 11));
        let bias = _mm512_maskz_srai_epi32(aliased, _mm512_slli_epi32(other, 15), 20);
        let place = _mm512_srli_epi32(slot, 26);
        (rank, _mm512_add_epi32(product, _mm512_add_epi32(place, bias)))
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_states(states: &States) -> [__m512i; 4] {
    let mut v = [_mm512_setzero_si512(); 4];
    for (v, s) in v.iter_mut().zip(states.0.as_chunks::<16>().0) {
        *v = load_u32(s);
    }
    v
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_states(states: &mut States, v: [__m512i; 4]) {
    for (v, s) in v.iter().zip(states.0.as_chunks_mut::<16>().0) {
        store_u32(s, *v);
    }
}

/// Joins the words of 32 numbers with the residual's 32 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn join(words: __m512i, residual: __m256i) -> __m512i {
    let r = _mm512_cvtepu8_epi16(residual);
    // a | (b & c), and then the sign, bit 6 of the residual, to bit 15.
    let low = _mm512_ternarylogic_epi32::<0xf8>(words, r, _mm512_set1_epi16(0x3f));
    _mm512_ternarylogic_epi32::<0xf8>(low, _mm512_slli_epi16(r, 9), _mm512_set1_epi16(i16::MIN))
}

/// The ranks of one block, in the low five bits of each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
fn block(table: &Table, x: &mut [__m512i; 4], words: &mut Words<'_>) -> Option<[__m512i; 4]> {
    let window = words.block()?;
    let start = window.as_ptr().cast::<u8>();
    let mut at = start;
    let mut ranks = [_mm512_setzero_si512(); 4];
    for (x, rank) in x.iter_mut().zip(&mut ranks) {
        let next;
        (*rank, next) = table.step(*x);
        // SAFETY: a block of 64 states takes at most 64 words, and `Words` has `PAD` bytes behind
        // its window.
        *x = unsafe { refill(next, &mut at) };
    }
    words.advance(at.addr() - start.addr());
    Some(ranks)
}

/// The heads of two groups, those of the second in the upper halves of lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn pair(heads: __m512i, a: __m512i, b: __m512i) -> __m512i {
    let ranks = _mm512_mask_mov_epi16(_mm512_slli_epi32(b, 16), 0x5555_5555, a);
    _mm512_permutexvar_epi16(ranks, heads)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub fn tile16(
    classes: &ClassTables,
    class: usize,
    states: &mut States,
    words: &mut Words<'_>,
    low: TileLow<'_>,
    out: &mut [[u8; 2 * BLOCK]],
) -> Option<bool> {
    let table = Table::new(classes.lanes.get(class)?);
    let heads = load_words(&low.heads.words);
    let natural = [load_words(&NATURAL[0]), load_words(&NATURAL[1])];
    let mut x = load_states(states);
    let mut seen = _mm512_setzero_si512();
    // Row 7 of the residual is gathered from the high bits of the rows before.
    let mut last = _mm512_setzero_si512();
    let rows = low.residual.as_chunks::<BLOCK>().0;
    for (row, out) in out.iter_mut().enumerate() {
        let ranks = block(&table, &mut x, words)?;
        let (a, b) = (pair(heads, ranks[0], ranks[1]), pair(heads, ranks[2], ranks[3]));
        seen = _mm512_ternarylogic_epi32::<0xfe>(seen, a, b);
        let mut residual = _mm512_srli_epi16(last, 1);
        if let Some(bytes) = rows.get(row) {
            let shifted = residual;
            residual = load_bytes(bytes);
            last = _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi8(i8::MIN), residual, shifted);
        }
        if let [first, second] = out.as_chunks_mut::<BLOCK>().0 {
            let numbers = _mm512_permutex2var_epi16(a, natural[0], b);
            store_bytes(first, join(numbers, _mm512_castsi512_si256(residual)));
            let numbers = _mm512_permutex2var_epi16(a, natural[1], b);
            store_bytes(second, join(numbers, _mm512_extracti64x4_epi64::<1>(residual)));
        }
    }
    store_states(states, x);
    Some(_mm512_test_epi16_mask(seen, _mm512_set1_epi16(ESCAPED as i16)) != 0)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub fn tile8(
    classes: &ClassTables,
    class: usize,
    states: &mut States,
    words: &mut Words<'_>,
    residual: &[u8; SMALL_GROUP],
    out: &mut [[u8; BLOCK]],
) -> bool {
    let Some(lanes) = classes.lanes.get(class) else { return false };
    let table = Table::new(lanes);
    let mut x = load_states(states);
    for (row, out) in out.iter_mut().enumerate() {
        let Some(ranks) = block(&table, &mut x, words) else { return false };
        let mut low = [_mm512_setzero_si512(); 4];
        for (low, rank) in low.iter_mut().zip(ranks) {
            *low = _mm512_and_si512(rank, _mm512_set1_epi32(31));
        }
        let ranks = _mm512_slli_epi16(pack(low), 2);
        let r = load_bytes(&scalar::small_residual_row(residual, row));
        let number = _mm512_ternarylogic_epi32::<0xf8>(ranks, r, _mm512_set1_epi8(3));
        let sign = _mm512_slli_epi16(r, 5);
        store_bytes(out, _mm512_ternarylogic_epi32::<0xf8>(number, sign, _mm512_set1_epi8(i8::MIN)));
    }
    store_states(states, x);
    true
}

/// For each group, the places of its lanes in a block, in the low bytes of lanes.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which checks it")]
static PLACES: [[u32; 16]; 4] = {
    let mut places = [[0; 16]; 4];
    let mut t = 0;
    while t < BLOCK {
        places[t / 16][t % 16] = POSITION[t] as u32;
        t += 1;
    }
    places
};

/// An encoder's table in registers.
struct Encoder<'a> {
    freq: [__m512i; 2],
    start: [__m512i; 2],
    reciprocal: [__m512; 2],
    slots: &'a [u16; SLOTS],
}

impl<'a> Encoder<'a> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(table: &'a EncodeTable) -> Self {
        // SAFETY: 128 readable bytes.
        let reciprocal = unsafe {
            let at = table.reciprocal.as_ptr();
            [_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(16))]
        };
        Self { freq: two(&table.freq), start: two(&table.start), reciprocal, slots: &table.slots }
    }

    /// The states behind `x` once these ranks are coded; the words that they give off are put in
    /// front of `words`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,popcnt")]
    fn step(&self, x: __m512i, rank: __m512i, words: &mut ReverseWords) -> __m512i {
        let freq = _mm512_permutex2var_epi32(self.freq[0], rank, self.freq[1]);
        let start = _mm512_permutex2var_epi32(self.start[0], rank, self.start[1]);
        let reciprocal = _mm512_permutex2var_ps(self.reciprocal[0], rank, self.reciprocal[1]);
        let full = _mm512_cmpge_epu32_mask(_mm512_srli_epi32(x, 21), freq);
        let low = give(x, full, words);
        let (quotient, remainder) = divide(low, freq, reciprocal);
        // An index below 2048 whatever the rank: masked, since a rank that may not occur has none.
        let index = _mm512_and_si512(_mm512_add_epi32(start, remainder), _mm512_set1_epi32(SLOTS as i32 - 1));
        // SAFETY: `slots` has 2048 entries, and every index is below that.
        let slot = unsafe { gather_words(self.slots, index) };
        _mm512_or_si512(_mm512_slli_epi32(quotient, 11), slot)
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub fn encode_ranks(
    tables: &[EncodeTable],
    class: &[u8],
    ranks: &[[u8; BLOCK]],
    states: &mut States,
    words: &mut ReverseWords,
) {
    let [mut x0, mut x1, mut x2, mut x3] = load_states(states);
    // The three bytes above a place lead to another rank; permutations by ranks look at the lowest
    // byte alone.
    let places = [load_u32(&PLACES[0]), load_u32(&PLACES[1]), load_u32(&PLACES[2]), load_u32(&PLACES[3])];
    for (ranks, &class) in ranks.iter().zip(class).rev() {
        let Some(table) = tables.get(usize::from(class)) else { return };
        let encoder = Encoder::new(table);
        let row = load_bytes(ranks);
        x3 = encoder.step(x3, _mm512_permutexvar_epi8(places[3], row), words);
        x2 = encoder.step(x2, _mm512_permutexvar_epi8(places[2], row), words);
        x1 = encoder.step(x1, _mm512_permutexvar_epi8(places[1], row), words);
        x0 = encoder.step(x0, _mm512_permutexvar_epi8(places[0], row), words);
    }
    store_states(states, [x0, x1, x2, x3]);
}

/// # Safety
/// `base` and every column leave room for 256 entries in the tables.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub unsafe fn encode_symbols(
    tables: &SymbolTables,
    base: u32,
    columns: &[u32],
    symbols: &[[u8; BLOCK]],
    states: &mut States,
    words: &mut ReverseWords,
) {
    let [mut x0, mut x1, mut x2, mut x3] = load_states(states);
    let (places0, places1) = (load_u32(&PLACES[0]), load_u32(&PLACES[1]));
    let (places2, places3) = (load_u32(&PLACES[2]), load_u32(&PLACES[3]));
    let base = _mm512_set1_epi32(base as i32);
    let columns = columns.as_chunks::<16>().0;
    for (i, symbols) in symbols.iter().enumerate().rev() {
        let row = load_bytes(symbols);
        let entry = |g: usize, places| {
            let symbol = _mm512_and_si512(_mm512_permutexvar_epi8(places, row), _mm512_set1_epi32(255));
            let table = columns.get(4 * i + g).map_or(base, |offsets| _mm512_add_epi32(base, load_u32(offsets)));
            _mm512_add_epi32(symbol, table)
        };
        let (e0, e1) = (entry(0, places0), entry(1, places1));
        let (e2, e3) = (entry(2, places2), entry(3, places3));
        // SAFETY: the caller's promise; a symbol is below 256.
        unsafe {
            x3 = encode_symbol(x3, e3, tables, words);
            x2 = encode_symbol(x2, e2, tables, words);
            x1 = encode_symbol(x1, e1, tables, words);
            x0 = encode_symbol(x0, e0, tables, words);
        }
    }
    store_states(states, [x0, x1, x2, x3]);
}

/// The states behind `x` once the symbols at these entries are coded.
///
/// # Safety
/// Every entry must be inside the tables.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,popcnt")]
unsafe fn encode_symbol(x: __m512i, entry: __m512i, tables: &SymbolTables, words: &mut ReverseWords) -> __m512i {
    // SAFETY: the caller's promise, twice.
    let (slots, reciprocal) =
        unsafe { (gather(tables.slots.as_ptr(), entry), gather(tables.reciprocal.as_ptr().cast(), entry)) };
    let freq = _mm512_and_si512(slots, _mm512_set1_epi32(0xffff));
    let start = _mm512_srli_epi32(slots, 16);
    // A frequency of all slots leaves no state that is too large; shifted, it stays within 32 bits
    // for the others.
    let full = _mm512_cmpge_epu32_mask(_mm512_srl_epi32(x, _mm_cvtsi32_si128(32 - tables.bits as i32)), freq);
    let low = give(x, full, words);
    let (quotient, remainder) = divide(low, freq, _mm512_castsi512_ps(reciprocal));
    let quotient = _mm512_sll_epi32(quotient, _mm_cvtsi32_si128(tables.bits as i32));
    _mm512_add_epi32(quotient, _mm512_add_epi32(start, remainder))
}

/// Puts the lower halves of the states that are too large in front of `words`, and gives the states
/// without them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,popcnt")]
fn give(x: __m512i, full: __mmask16, words: &mut ReverseWords) -> __m512i {
    let count = full.count_ones() as usize;
    // The words taken go to the top of the vector, which is stored so that it ends where the last
    // one began.
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let top = _mm512_add_epi32(lanes, _mm512_set1_epi32(count as i32));
    let taken = _mm512_permutexvar_epi32(top, _mm512_maskz_compress_epi32(full, x));
    let from = words.at.wrapping_sub(16);
    if let Some(room) = words.words.get_mut(from..).and_then(<[u16]>::first_chunk_mut::<16>) {
        // SAFETY: 32 writable bytes.
        unsafe { _mm256_storeu_si256(room.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(taken)) };
        words.at -= count;
    }
    _mm512_mask_srli_epi32(x, full, x, 16)
}

/// Quotient and remainder by a frequency, of quotients below 2^22.
#[inline]
#[target_feature(enable = "avx512f")]
fn divide(x: __m512i, freq: __m512i, reciprocal: __m512) -> (__m512i, __m512i) {
    const ROUND: i32 = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
    // Three steps are rounded down, so the quotient is the right one or less. With mantissas a of
    // x, b of the reciprocal and q of their product, all in [1, 2), each step loses less than its
    // last bit, which below 2^22 is worth at most q / 4a, q / 4b and 1 / 4 of the quotient. As ab
    // is q or 2q, and so a + b at most 3 or 4, that is less than 1 in all: the quotient is at most
    // one too small.
    let product = _mm512_mul_round_ps::<ROUND>(_mm512_cvt_roundepu32_ps::<ROUND>(x), reciprocal);
    let quotient = _mm512_cvttps_epu32(product);
    let remainder = _mm512_sub_epi32(x, _mm512_mullo_epi32(quotient, freq));
    let more = _mm512_cmpge_epu32_mask(remainder, freq);
    (
        _mm512_mask_add_epi32(quotient, more, quotient, _mm512_set1_epi32(1)),
        _mm512_mask_sub_epi32(remainder, more, remainder, freq),
    )
}

/// Sixteen indices as eight pairs: half as many loads bring them to where addresses are made.
#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(index: __m512i) -> [u64; 8] {
    #[repr(C, align(64))]
    struct Pairs([u64; 8]);
    let mut pairs = Pairs([0; 8]);
    // SAFETY: 64 writable bytes.
    unsafe { _mm512_storeu_si512(pairs.0.as_mut_ptr().cast(), index) };
    pairs.0
}

/// The entries of sixteen bits that sixteen indices lead to.
///
/// # Safety
/// Every index must be inside the table.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn gather_words(table: &[u16; SLOTS], index: __m512i) -> __m512i {
    let [a, b, c, d, e, f, g, h] = pairs(index);
    let table = table.as_ptr();
    // SAFETY: the caller's promise.
    let at = |i: u64| unsafe { i32::from(*table.add(i as usize)) };
    let four = |p: u64, q: u64| {
        let v = _mm_insert_epi16::<0>(_mm_setzero_si128(), at(p & 0xffff_ffff));
        let v = _mm_insert_epi16::<1>(v, at(p >> 32));
        let v = _mm_insert_epi16::<2>(v, at(q & 0xffff_ffff));
        _mm_insert_epi16::<3>(v, at(q >> 32))
    };
    let low = _mm_unpacklo_epi64(four(a, b), four(c, d));
    let high = _mm_unpacklo_epi64(four(e, f), four(g, h));
    _mm512_cvtepu16_epi32(_mm256_set_m128i(high, low))
}

/// The entries that sixteen indices lead to. Single loads are faster than the instruction of this
/// name.
///
/// # Safety
/// Every index must be inside the table.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn gather(table: *const u32, index: __m512i) -> __m512i {
    let [a, b, c, d, e, f, g, h] = pairs(index);
    // SAFETY: the caller's promise.
    let at = |i: u64| unsafe { *table.add(i as usize) as i32 };
    let two = |pair: u64| _mm_insert_epi32::<1>(_mm_cvtsi32_si128(at(pair & 0xffff_ffff)), at(pair >> 32));
    let low = _mm256_set_m128i(_mm_unpacklo_epi64(two(c), two(d)), _mm_unpacklo_epi64(two(a), two(b)));
    let high = _mm256_set_m128i(_mm_unpacklo_epi64(two(g), two(h)), _mm_unpacklo_epi64(two(e), two(f)));
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// The symbols of sixteen states, in the low bytes of lanes; `x` becomes the states behind them.
///
/// # Safety
/// Every offset must leave room for 2^BITS entries in the tables; 32 bytes must be readable at
/// `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
unsafe fn symbol<const BITS: u32>(
    tables: *const u32,
    offsets: Option<&[u32; 16]>,
    x: &mut __m512i,
    at: &mut *const u8,
) -> __m512i {
    let mut slot = _mm512_and_si512(*x, _mm512_set1_epi32((1 << BITS) - 1));
    if let Some(offsets) = offsets {
        slot = _mm512_add_epi32(slot, load_u32(offsets));
    }
    // SAFETY: the caller's promise; slots are masked to 2^BITS.
    let entry = unsafe { gather(tables, slot) };
    let freq = _mm512_and_si512(_mm512_srli_epi32(entry, 8), _mm512_set1_epi32(0xfff));
    // A stored frequency is one less than the frequency: f q = (f - 1) q + q.
    let quotient = _mm512_srli_epi32(*x, BITS);
    let product = _mm512_add_epi32(_mm512_mullo_epi32(freq, quotient), quotient);
    // SAFETY: the caller's promise.
    *x = unsafe { refill(_mm512_add_epi32(product, _mm512_srli_epi32(entry, 20)), at) };
    _mm512_and_si512(entry, _mm512_set1_epi32(0xff))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub fn symbols<const BITS: u32>(
    segment: &Segment<'_>,
    states: &mut States,
    words: &mut Words<'_>,
    out: &mut [[u8; BLOCK]],
) -> bool {
    let [mut x0, mut x1, mut x2, mut x3] = load_states(states);
    let Some(tables) = segment.tables::<BITS>().map(<[u32]>::as_ptr) else { return false };
    let columns = segment.columns().unwrap_or_default().as_chunks::<16>().0;
    for (i, out) in out.iter_mut().enumerate() {
        let Some(window) = words.block() else { return false };
        let start = window.as_ptr().cast::<u8>();
        let mut at = start;
        // SAFETY: every offset leaves room for 2^BITS entries (`Segment`). A block of 64 states
        // takes at most 64 words, and `Words` has `PAD` bytes behind its window.
        let entries = unsafe {
            [
                symbol::<BITS>(tables, columns.get(4 * i), &mut x0, &mut at),
                symbol::<BITS>(tables, columns.get(4 * i + 1), &mut x1, &mut at),
                symbol::<BITS>(tables, columns.get(4 * i + 2), &mut x2, &mut at),
                symbol::<BITS>(tables, columns.get(4 * i + 3), &mut x3, &mut at),
            ]
        };
        words.advance(at.addr() - start.addr());
        store_bytes(out, pack(entries));
    }
    store_states(states, [x0, x1, x2, x3]);
    true
}

/// A table of sixteen bytes as 32 lanes of sixteen bits, for a permutation that looks at four bits
/// of a rank.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn sixteen(bytes: &[u8; SMALL_RANKS]) -> __m512i {
    // SAFETY: 16 readable bytes.
    let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    _mm512_cvtepu8_epi16(_mm256_broadcastsi128_si256(bytes))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
pub fn exponents16(
    table: &SmallTable,
    states: &mut SmallStates,
    words: &mut Words<'_>,
    residual: &[[u8; BLOCK]],
    out: &mut [[u8; 2 * BLOCK]],
) -> bool {
    let [rank0, rank1] = table.rank.as_chunks::<BLOCK>().0 else { return false };
    let (rank0, rank1) = (load_bytes(rank0), load_bytes(rank1));
    let (freq, start) = (sixteen(&table.freq), sixteen(&table.start));
    let exponent = _mm512_slli_epi16(sixteen(&table.exponent), 7);
    let [x0, x1] = states.0.as_chunks_mut::<32>().0 else { return false };
    let mut x = [load_words(x0), load_words(x1)];
    for (residual, out) in residual.iter().zip(out) {
        let Some(window) = words.small_block() else { return false };
        let begin = window.as_ptr();
        let mut at = begin;
        let halves = residual.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0);
        for (x, (residual, out)) in x.iter_mut().zip(halves) {
            // Permutations look at the lowest bits of an index alone: seven here, five of the rank
            // (it has four).
            let rank = _mm512_permutex2var_epi8(rank0, *x, rank1);
            let quotient = _mm512_srli_epi16(*x, SMALL_BITS);
            let slot = _mm512_and_si512(*x, _mm512_set1_epi16((1 << SMALL_BITS) - 1));
            let product = _mm512_mullo_epi16(_mm512_permutexvar_epi16(rank, freq), quotient);
            let offset = _mm512_sub_epi16(slot, _mm512_permutexvar_epi16(rank, start));
            let next = _mm512_add_epi16(product, offset);
            let low = _mm512_cmplt_epu16_mask(next, _mm512_set1_epi16(1 << 8));
            // SAFETY: a block takes at most 64 bytes, 32 for each half, and `Words` has `PAD` bytes
            // behind its window.
            let bytes = unsafe { _mm256_loadu_si256(at.cast()) };
            let bytes = _mm512_maskz_expand_epi16(low, _mm512_cvtepu8_epi16(bytes));
            at = at.wrapping_add(low.count_ones() as usize);
            *x = _mm512_or_si512(_mm512_mask_slli_epi16(next, low, next, 8), bytes);
            // SAFETY: 32 readable bytes.
            let r = _mm512_cvtepu8_epi16(unsafe { _mm256_loadu_si256(residual.as_ptr().cast()) });
            let word = _mm512_permutexvar_epi16(rank, exponent);
            let word = _mm512_ternarylogic_epi32::<0xf8>(word, r, _mm512_set1_epi16(0x7f));
            let sign = _mm512_set1_epi16(i16::MIN);
            store_bytes(out, _mm512_ternarylogic_epi32::<0xf8>(word, _mm512_slli_epi16(r, 8), sign));
        }
        words.advance(at.addr() - begin.addr());
    }
    store_words(x0, x[0]);
    store_words(x1, x[1]);
    true
}
