//! NEON: four states a register, tables of classes as tables of bytes.

use core::arch::aarch64::*;

use super::inputs::{ClassTables, Segment, States, TileLow, Words};
use super::scalar::{self, vectorised};
use super::slots::{Alias, CLASS_BITS, RANKS};
use super::small::{SMALL_BITS, SmallStates, SmallTable};
use super::types::{BLOCK, ESCAPED, SMALL_GROUP};

vectorised!("neon");

#[inline(always)]
fn load(from: &[u32; 4]) -> uint32x4_t {
    // SAFETY: 16 readable bytes; every processor of aarch64 has NEON.
    unsafe { vld1q_u32(from.as_ptr()) }
}

#[inline(always)]
fn store(to: &mut [u32; 4], v: uint32x4_t) {
    // SAFETY: 16 writable bytes; every processor of aarch64 has NEON.
    unsafe { vst1q_u32(to.as_mut_ptr(), v) }
}

#[inline(always)]
fn load_small(from: &[u16; 8]) -> uint16x8_t {
    // SAFETY: 16 readable bytes; every processor of aarch64 has NEON.
    unsafe { vld1q_u16(from.as_ptr()) }
}

#[inline(always)]
fn store_small(to: &mut [u16; 8], v: uint16x8_t) {
    // SAFETY: 16 writable bytes; every processor of aarch64 has NEON.
    unsafe { vst1q_u16(to.as_mut_ptr(), v) }
}

#[inline(always)]
fn load_bytes(from: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 readable bytes; every processor of aarch64 has NEON.
    unsafe { vld1q_u8(from.as_ptr()) }
}

#[inline(always)]
fn store_bytes(to: &mut [u8; 16], v: uint8x16_t) {
    // SAFETY: 16 writable bytes; every processor of aarch64 has NEON.
    unsafe { vst1q_u8(to.as_mut_ptr(), v) }
}

/// A table of 32 bytes, for lookups.
#[inline(always)]
fn load_table(from: &[u8; RANKS]) -> uint8x16x2_t {
    // SAFETY: 32 readable bytes; every processor of aarch64 has NEON.
    unsafe { vld1q_u8_x2(from.as_ptr()) }
}

/// A table of 64 bytes, for lookups.
#[inline(always)]
fn load_table64(from: &[u8; 64]) -> uint8x16x4_t {
    // SAFETY: 64 readable bytes; every processor of aarch64 has NEON.
    unsafe { vld1q_u8_x4(from.as_ptr()) }
}

/// Writes the bytes of two vectors interleaved.
#[inline(always)]
fn store_zipped(to: &mut [u8; 32], even: uint8x16_t, odd: uint8x16_t) {
    // SAFETY: 32 writable bytes; every processor of aarch64 has NEON.
    unsafe { vst2q_u8(to.as_mut_ptr(), uint8x16x2_t(even, odd)) }
}

/// For each set of lanes of 32 bits that take up a word: where the bytes of all lanes come from,
/// the state's at 0-15, those of the next words from 16 on.
#[expect(clippy::indexing_slicing, reason = "an index out of range would not compile")]
static SPREAD: [u128; 16] = {
    let mut table = [0; 16];
    let mut mask = 0;
    while mask < 16 {
        let (mut bytes, mut lane, mut next) = ([0; 16], 0, 16);
        while lane < 4 {
            let at = 4 * lane as u8;
            let from = if mask >> lane & 1 == 1 { [next, next + 1, at, at + 1] } else { [at, at + 1, at + 2, at + 3] };
            [bytes[4 * lane], bytes[4 * lane + 1], bytes[4 * lane + 2], bytes[4 * lane + 3]] = from;
            next += 2 * (mask >> lane & 1) as u8;
            lane += 1;
        }
        table[mask] = u128::from_le_bytes(bytes);
        mask += 1;
    }
    table
};

/// The same for lanes of sixteen bits that take up a byte.
#[expect(clippy::indexing_slicing, reason = "an index out of range would not compile")]
static SPREAD_BYTES: [u128; 256] = {
    let mut table = [0; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut bytes, mut lane, mut next) = ([0; 16], 0, 16);
        while lane < 8 {
            let at = 2 * lane as u8;
            let from = if mask >> lane & 1 == 1 { [next, at] } else { [at, at + 1] };
            [bytes[2 * lane], bytes[2 * lane + 1]] = from;
            next += (mask >> lane & 1) as u8;
            lane += 1;
        }
        table[mask] = u128::from_le_bytes(bytes);
        mask += 1;
    }
    table
};

/// Makes each byte of a product the sum of that byte and those below it.
const ONES: u64 = 0x0101_0101_0101_0101;

/// The lower and the upper eight bytes.
#[inline]
#[target_feature(enable = "neon")]
fn halves(bytes: uint8x16_t) -> [u64; 2] {
    let halves = vreinterpretq_u64_u8(bytes);
    [vgetq_lane_u64::<0>(halves), vgetq_lane_u64::<1>(halves)]
}

/// Takes up what comes next in the lanes of `x` that entry `mask` of `spread` names.
///
/// # Safety
/// 8 bytes must be readable at `at`, and `mask` be below N.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn take<const N: usize>(spread: &[u128; N], mask: usize, x: uint8x16_t, at: *const u8) -> uint8x16_t {
    // SAFETY: the caller's promise, and the sixteen bytes of a table's entry.
    let (next, from) = unsafe { (vld1_u8(at), vld1q_u8(spread.as_ptr().add(mask).cast())) };
    vqtbl2q_u8(uint8x16x2_t(x, vcombine_u8(next, vdup_n_u8(0))), from)
}

/// 64 states: lane l of vector j of group g is state 16 g + 4 j + l, at place 16 j + 4 g + l of a
/// block.
type Groups = [[uint32x4_t; 4]; 4];

#[inline]
#[target_feature(enable = "neon")]
fn load_states(states: &States) -> Groups {
    let mut v = [[vdupq_n_u32(0); 4]; 4];
    for (v, s) in v.as_flattened_mut().iter_mut().zip(states.0.as_chunks::<4>().0) {
        *v = load(s);
    }
    v
}

#[inline]
#[target_feature(enable = "neon")]
fn store_states(states: &mut States, v: &Groups) {
    for (v, s) in v.as_flattened().iter().zip(states.0.as_chunks_mut::<4>().0) {
        store(s, *v);
    }
}

/// From groups to what lies side by side in a block, and back.
#[inline(always)]
const fn turned(x: Groups) -> Groups {
    [
        [x[0][0], x[1][0], x[2][0], x[3][0]],
        [x[0][1], x[1][1], x[2][1], x[3][1]],
        [x[0][2], x[1][2], x[2][2], x[3][2]],
        [x[0][3], x[1][3], x[2][3], x[3][3]],
    ]
}

/// The low halves of eight lanes.
#[inline]
#[target_feature(enable = "neon")]
fn pack32(a: uint32x4_t, b: uint32x4_t) -> uint16x8_t {
    vuzp1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b))
}

/// The low bytes of sixteen lanes.
#[inline]
#[target_feature(enable = "neon")]
fn pack16(a: uint16x8_t, b: uint16x8_t) -> uint8x16_t {
    vuzp1q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b))
}

/// Of sixteen states, 1, 2, 4 or 8 (by lane) where one is low, else 0.
#[inline]
#[target_feature(enable = "neon")]
fn low(x: &[uint32x4_t; 4]) -> uint8x16_t {
    // Bit 16 and above: nothing there means that the state is low.
    let high = |a, b| vceqzq_u16(vuzp2q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b)));
    let lanes = load_bytes(&[1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8]);
    vandq_u8(pack16(high(x[0], x[1]), high(x[2], x[3])), lanes)
}

/// Renormalises all states below 2^16; returns the number of bytes read.
#[inline]
#[target_feature(enable = "neon")]
fn refill(x: &mut Groups, window: &[[u8; 2]; BLOCK]) -> usize {
    let masks = vpaddq_u8(vpaddq_u8(low(&x[0]), low(&x[1])), vpaddq_u8(low(&x[2]), low(&x[3])));
    // What all vectors take is known at once, so none waits for those before it. Sums are at most
    // 128: nothing is carried.
    let [first, second] = halves(vshlq_n_u8::<1>(vcntq_u8(masks)));
    let first = first.wrapping_mul(ONES);
    let second = (second + (first >> 56)).wrapping_mul(ONES);
    let before = [first << 8, second << 8 | first >> 56];
    let start = window.as_ptr().cast::<u8>();
    for ((x, mut masks), mut before) in
        x.as_flattened_mut().as_chunks_mut::<8>().0.iter_mut().zip(halves(masks)).zip(before)
    {
        for x in x {
            // SAFETY: each vector takes at most 8 bytes, so the 15 before the last leave it 8 of
            // the window's 128.
            *x = unsafe {
                let at = start.add((before & 0xff) as usize);
                vreinterpretq_u32_u8(take(&SPREAD, (masks & 15) as usize, vreinterpretq_u8_u32(*x), at))
            };
            masks >>= 8;
            before >>= 8;
        }
    }
    (second >> 56) as usize
}

/// The entries of a table at four places.
///
/// # Safety
/// There must be entries at these places.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn gather(table: *const u32, at: uint32x4_t) -> uint32x4_t {
    let [a, b] = halves(vreinterpretq_u8_u32(at));
    // SAFETY: the caller's promise.
    unsafe {
        let v = vld1q_lane_u32::<0>(table.add(a as u32 as usize), vdupq_n_u32(0));
        let v = vld1q_lane_u32::<1>(table.add((a >> 32) as usize), v);
        let v = vld1q_lane_u32::<2>(table.add(b as u32 as usize), v);
        vld1q_lane_u32::<3>(table.add((b >> 32) as usize), v)
    }
}

#[target_feature(enable = "neon")]
pub fn symbols<const BITS: u32>(
    segment: &Segment<'_>,
    states: &mut States,
    words: &mut Words<'_>,
    out: &mut [[u8; BLOCK]],
) -> bool {
    let mut x = load_states(states);
    let mask = vdupq_n_u32((1 << BITS) - 1);
    let Some(tables) = segment.tables::<BITS>().map(<[u32]>::as_ptr) else { return false };
    let mut columns = segment.columns().map(|c| c.as_chunks::<BLOCK>().0.iter());
    for out in out {
        let Some(window) = words.block() else { return false };
        let mut slots = x;
        for slot in slots.as_flattened_mut() {
            *slot = vandq_u32(*slot, mask);
        }
        if let Some(offsets) = columns.as_mut().and_then(Iterator::next) {
            for (slot, offset) in slots.as_flattened_mut().iter_mut().zip(offsets.as_chunks::<4>().0) {
                *slot = vaddq_u32(*slot, load(offset));
            }
        }
        for (x, slot) in x.as_flattened_mut().iter_mut().zip(slots.as_flattened_mut()) {
            // SAFETY: every offset leaves room for 2^BITS entries (`Segment`), and slots are masked
            // to that.
            let entry = unsafe { gather(tables, *slot) };
            let freq = vaddq_u32(vandq_u32(vshrq_n_u32::<8>(entry), vdupq_n_u32(0xfff)), vdupq_n_u32(1));
            *x = vmlaq_u32(vshrq_n_u32::<20>(entry), freq, vshlq_u32(*x, vdupq_n_s32(-(BITS as i32))));
            *slot = entry;
        }
        words.advance(refill(&mut x, window));
        for (out, [a, b, c, d]) in out.as_chunks_mut::<16>().0.iter_mut().zip(turned(slots)) {
            store_bytes(out, pack16(pack32(a, b), pack32(c, d)));
        }
    }
    store_states(states, &x);
    true
}

/// An alias table as tables of bytes.
struct Table {
    split: uint8x16x2_t,
    other: uint8x16x2_t,
    bias: [uint8x16x2_t; 2],
    freq: [uint8x16x2_t; 2],
}

impl Table {
    #[inline]
    #[target_feature(enable = "neon")]
    fn new(alias: &Alias) -> Self {
        let [bias0, bias1] = &alias.bias;
        let [freq0, freq1] = &alias.freq;
        Self {
            split: load_table(&alias.split),
            other: load_table(&alias.other),
            bias: [load_table(bias0), load_table(bias1)],
            freq: [load_table(freq0), load_table(freq1)],
        }
    }

    /// Ranks, in the order of numbers, of the same vector of four groups; leaves the states before
    /// they take up words.
    #[inline]
    #[target_feature(enable = "neon")]
    fn step(&self, x: &mut [uint32x4_t; 4]) -> uint8x16_t {
        let [a, b] = [pack32(x[0], x[1]), pack32(x[2], x[3])];
        let bucket = vandq_u8(pack16(a, b), vdupq_n_u8(31));
        let place = vshrn_high_n_u16::<5>(vshrn_n_u16::<5>(a), b);
        let place = vandq_u8(place, vdupq_n_u8(63));
        let own = vcltq_u8(place, vqtbl2q_u8(self.split, bucket));
        let rank = vbslq_u8(own, bucket, vqtbl2q_u8(self.other, bucket));
        // An index out of range looks up 0.
        let biased = vorrq_u8(bucket, own);
        let bias = [vqtbl2q_u8(self.bias[0], biased), vqtbl2q_u8(self.bias[1], biased)];
        let freq = [vqtbl2q_u8(self.freq[0], rank), vqtbl2q_u8(self.freq[1], rank)];
        // Zipping undoes the packing.
        let offset = [
            vaddw_u8(vreinterpretq_u16_u8(vzip1q_u8(bias[0], bias[1])), vget_low_u8(place)),
            vaddw_high_u8(vreinterpretq_u16_u8(vzip2q_u8(bias[0], bias[1])), place),
        ];
        let freq =
            [vreinterpretq_u16_u8(vzip1q_u8(freq[0], freq[1])), vreinterpretq_u16_u8(vzip2q_u8(freq[0], freq[1]))];
        let next = |x, freq, offset| vmlaq_u32(offset, freq, vshrq_n_u32::<{ CLASS_BITS as i32 }>(x));
        let low = |v| vmovl_u16(vget_low_u16(v));
        let high = |v| vmovl_high_u16(v);
        *x = [
            next(x[0], low(freq[0]), low(offset[0])),
            next(x[1], high(freq[0]), high(offset[0])),
            next(x[2], low(freq[1]), low(offset[1])),
            next(x[3], high(freq[1]), high(offset[1])),
        ];
        rank
    }

    /// One block's ranks.
    #[inline]
    #[target_feature(enable = "neon")]
    fn block(&self, states: &mut Groups, words: &mut Words<'_>) -> Option<[uint8x16_t; 4]> {
        let window = words.block()?;
        let mut x = turned(*states);
        let ranks = [self.step(&mut x[0]), self.step(&mut x[1]), self.step(&mut x[2]), self.step(&mut x[3])];
        *states = turned(x);
        words.advance(refill(states, window));
        Some(ranks)
    }
}

#[target_feature(enable = "neon")]
pub fn tile16(
    classes: &ClassTables,
    class: usize,
    states: &mut States,
    words: &mut Words<'_>,
    low: TileLow<'_>,
    out: &mut [[u8; 2 * BLOCK]],
) -> Option<bool> {
    let table = Table::new(classes.aliases.get(class)?);
    let [heads0, heads1] = &low.heads.bytes;
    let heads = [load_table(heads0), load_table(heads1)];
    let mut seen = vdupq_n_u8(0);
    let mut x = load_states(states);
    let mut rows = low.residual.as_chunks::<BLOCK>().0.iter();
    // Row 7 of the residual is gathered from the high bits of the rows before.
    let mut last = [vdupq_n_u8(0); 4];
    for out in out {
        let ranks = table.block(&mut x, words)?;
        let row = rows.next();
        let mut residual = last;
        match row {
            Some(row) => {
                for ((r, last), row) in residual.iter_mut().zip(&mut last).zip(row.as_chunks::<16>().0) {
                    *r = load_bytes(row);
                    *last = vsriq_n_u8::<1>(*r, *last);
                }
            }
            None => {
                for r in &mut residual {
                    *r = vshrq_n_u8::<1>(*r);
                }
            }
        }
        for ((rank, r), out) in ranks.into_iter().zip(residual).zip(out.as_chunks_mut::<32>().0) {
            let head = vqtbl2q_u8(heads[0], rank);
            seen = vorrq_u8(seen, head);
            let sign = vandq_u8(vshlq_n_u8::<1>(r), vdupq_n_u8(0x80));
            store_zipped(
                out,
                vorrq_u8(head, vandq_u8(r, vdupq_n_u8(0x3f))),
                vorrq_u8(vqtbl2q_u8(heads[1], rank), sign),
            );
        }
    }
    store_states(states, &x);
    Some(vmaxvq_u8(vandq_u8(seen, vdupq_n_u8(ESCAPED as u8))) != 0)
}

#[target_feature(enable = "neon")]
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
    let mut x = load_states(states);
    for (row, out) in out.iter_mut().enumerate() {
        let Some(ranks) = table.block(&mut x, words) else { return false };
        let residual = scalar::small_residual_row(residual, row);
        for ((out, rank), r) in out.as_chunks_mut::<16>().0.iter_mut().zip(ranks).zip(residual.as_chunks::<16>().0) {
            let r = load_bytes(r);
            let sign = vandq_u8(vshlq_n_u8::<5>(r), vdupq_n_u8(0x80));
            let low = vorrq_u8(vandq_u8(r, vdupq_n_u8(3)), sign);
            store_bytes(out, vorrq_u8(vshlq_n_u8::<2>(rank), low));
        }
    }
    store_states(states, &x);
    true
}

/// A table of exponents in registers.
struct Exponents {
    rank: [uint8x16x4_t; 2],
    freq: uint8x16_t,
    start: uint8x16_t,
    exponent: uint8x16_t,
}

impl Exponents {
    #[inline]
    #[target_feature(enable = "neon")]
    fn new(table: &SmallTable) -> Option<Self> {
        let [rank0, rank1] = table.rank.as_chunks::<64>().0 else { return None };
        Some(Self {
            rank: [load_table64(rank0), load_table64(rank1)],
            freq: load_bytes(&table.freq),
            start: load_bytes(&table.start),
            exponent: load_bytes(&table.exponent),
        })
    }

    /// The exponents of sixteen numbers; leaves the states before they take up bytes.
    #[inline]
    #[target_feature(enable = "neon")]
    fn step(&self, x: &mut [uint16x8_t; 2]) -> uint8x16_t {
        let slot = vandq_u8(pack16(x[0], x[1]), vdupq_n_u8((1 << SMALL_BITS) - 1));
        // The second lookup leaves alone what the first has found: there its index is out of range.
        let rank = vqtbl4q_u8(self.rank[0], slot);
        let rank = vqtbx4q_u8(rank, self.rank[1], vsubq_u8(slot, vdupq_n_u8(64)));
        let freq = vqtbl1q_u8(self.freq, rank);
        let offset = vsubq_u8(slot, vqtbl1q_u8(self.start, rank));
        let next = |x, freq, offset| vmlaq_u16(offset, freq, vshrq_n_u16::<{ SMALL_BITS as i32 }>(x));
        let low = |v| vmovl_u8(vget_low_u8(v));
        *x = [next(x[0], low(freq), low(offset)), next(x[1], vmovl_high_u8(freq), vmovl_high_u8(offset))];
        vqtbl1q_u8(self.exponent, rank)
    }
}

/// Of sixteen states, 2^lane where one is low, else 0.
#[inline]
#[target_feature(enable = "neon")]
fn low_small(x: &[uint16x8_t; 2]) -> uint8x16_t {
    let high = vuzp2q_u8(vreinterpretq_u8_u16(x[0]), vreinterpretq_u8_u16(x[1]));
    vandq_u8(vceqzq_u8(high), load_bytes(&[1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128]))
}

/// Renormalises all states below 2^8; returns the number of bytes read.
#[inline]
#[target_feature(enable = "neon")]
fn refill_small(x: &mut [[uint16x8_t; 2]; 4], window: &[u8; BLOCK]) -> usize {
    let masks = vpaddq_u8(vpaddq_u8(low_small(&x[0]), low_small(&x[1])), vpaddq_u8(low_small(&x[2]), low_small(&x[3])));
    let masks = vpaddq_u8(masks, masks);
    let [taken, _] = halves(vcntq_u8(masks));
    let taken = taken.wrapping_mul(ONES);
    let mut before = taken << 8;
    let [mut masks, _] = halves(masks);
    for x in x.as_flattened_mut() {
        // SAFETY: each vector takes at most 8 bytes, so the 7 before the last leave it 8 of the
        // window's 64.
        *x = unsafe {
            let at = window.as_ptr().add((before & 0xff) as usize);
            vreinterpretq_u16_u8(take(&SPREAD_BYTES, (masks & 0xff) as usize, vreinterpretq_u8_u16(*x), at))
        };
        masks >>= 8;
        before >>= 8;
    }
    (taken >> 56) as usize
}

#[target_feature(enable = "neon")]
pub fn exponents16(
    table: &SmallTable,
    states: &mut SmallStates,
    words: &mut Words<'_>,
    residual: &[[u8; BLOCK]],
    out: &mut [[u8; 2 * BLOCK]],
) -> bool {
    let Some(table) = Exponents::new(table) else { return false };
    let mut x = [[vdupq_n_u16(0); 2]; 4];
    for (x, s) in x.as_flattened_mut().iter_mut().zip(states.0.as_chunks::<8>().0) {
        *x = load_small(s);
    }
    for (residual, out) in residual.iter().zip(out) {
        let Some(window) = words.small_block() else { return false };
        let exponents = [table.step(&mut x[0]), table.step(&mut x[1]), table.step(&mut x[2]), table.step(&mut x[3])];
        words.advance(refill_small(&mut x, window));
        let (rows, out) = (residual.as_chunks::<16>().0, out.as_chunks_mut::<32>().0);
        for ((exponent, r), out) in exponents.into_iter().zip(rows).zip(out) {
            let r = load_bytes(r);
            // Below, bit 0 of the exponent comes above the mantissa; above, the sign above the
            // other bits.
            store_zipped(out, vsliq_n_u8::<7>(r, exponent), vsriq_n_u8::<1>(r, exponent));
        }
    }
    for (x, s) in x.as_flattened().iter().zip(states.0.as_chunks_mut::<8>().0) {
        store_small(s, *x);
    }
    true
}
