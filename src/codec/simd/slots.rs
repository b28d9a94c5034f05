//! Lookup tables of a set of frequencies: slot tables and alias tables.

#![expect(clippy::indexing_slicing, reason = "indices are symbols, ranks and slots, bounded by the arrays they index")]

/// Ranks of a class: the escape, zero, and 30 symbols of a window.
pub const RANKS: usize = 32;
/// log2 of the slots of a class table.
pub const CLASS_BITS: u32 = 11;
/// Slots of a bucket of an alias table.
const BUCKET: u16 = 64;
/// The bits of a slot table's entry that hold its symbol; its frequency less one lies in bits 8-19,
/// its offset among the symbol's slots in bits 20-31.
pub const SLOT_SYMBOL: u32 = 0xff;

/// Entries of a slot table: one per slot.
pub const fn entry(symbol: u32, freq: u32, offset: u32) -> u32 {
    symbol | (freq - 1) << 8 | offset << 20
}

/// Fills `slots`, a table of 2^L slots, with symbols in ascending order, each in as many slots as
/// its frequency.
pub fn fill_slots(freqs: &[u16], slots: &mut [u32]) {
    let mut at = 0;
    for (symbol, &freq) in (0_u32..).zip(freqs) {
        let freq = u32::from(freq);
        if freq > 0 {
            let base = entry(symbol, freq, 0);
            for (offset, slot) in (0..freq).zip(&mut slots[at..at + freq as usize]) {
                *slot = base | offset << 20;
            }
            at += freq as usize;
        }
    }
}

/// Which slots a class table gives to which rank, as 32 buckets of 64 slots: slot s lies at place s
/// / 32 of bucket s mod 32. The first `split` places of bucket b belong to rank b, the others to
/// its alias. Bytes, which is what vector units look up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[repr(C, align(64))]
pub struct Alias {
    /// Places of each bucket that are its own rank's, 0 to 64.
    pub split: [u8; RANKS],
    /// The other rank of each bucket.
    pub other: [u8; RANKS],
    /// What turns a place in a bucket into an offset among the other rank's slots: low and high
    /// byte, two's complement.
    pub bias: [[u8; RANKS]; 2],
    /// Low and high byte of each rank's frequency.
    pub freq: [[u8; RANKS]; 2],
}

impl Alias {
    /// The one arrangement of frequencies, which sum to 2048, that the bitstream means.
    pub fn new(freq: &[u16; RANKS]) -> Self {
        let mut left = *freq;
        let mut alias = Self { split: [BUCKET as u8; RANKS], ..Self::default() };
        let (mut small, mut large) = ([0_usize; RANKS], [0_usize; RANKS]);
        let (mut smalls, mut larges) = (0, 0);
        for (rank, &f) in freq.iter().enumerate() {
            [alias.freq[0][rank], alias.freq[1][rank]] = f.to_le_bytes();
            if f < BUCKET {
                small[smalls] = rank;
                smalls += 1;
            } else {
                large[larges] = rank;
                larges += 1;
            }
        }
        // The last small one fills its bucket up from the last large one. While a bucket lacks
        // slots another has too many.
        while smalls > 0 && larges > 0 {
            smalls -= 1;
            let (s, l) = (small[smalls], large[larges - 1]);
            left[l] -= BUCKET - left[s];
            alias.split[s] = left[s] as u8;
            alias.other[s] = l as u8;
            [alias.bias[0][s], alias.bias[1][s]] = left[l].wrapping_sub(left[s]).to_le_bytes();
            if left[l] < BUCKET {
                larges -= 1;
                small[smalls] = l;
                smalls += 1;
            }
        }
        alias
    }

    /// The frequency of a rank.
    pub const fn freq(&self, rank: usize) -> u16 {
        u16::from_le_bytes([self.freq[0][rank], self.freq[1][rank]])
    }

    /// What turns a place in a bucket into an offset among the other rank's slots.
    pub const fn bias(&self, bucket: usize) -> u16 {
        u16::from_le_bytes([self.bias[0][bucket], self.bias[1][bucket]])
    }

    /// Calls `see` with each slot, its rank, and its offset among the rank's slots.
    #[inline(always)]
    pub fn owners(&self, mut see: impl FnMut(usize, usize, u16)) {
        for bucket in 0..RANKS {
            let (split, other, bias) = (self.split[bucket].into(), self.other[bucket].into(), self.bias(bucket));
            for place in 0..split {
                see(usize::from(place) * RANKS + bucket, bucket, place);
            }
            for place in split..BUCKET {
                see(usize::from(place) * RANKS + bucket, other, place.wrapping_add(bias));
            }
        }
    }

    /// The same as a slot table.
    pub fn fill_slots(&self, slots: &mut [u32; 1 << CLASS_BITS]) {
        self.owners(|slot, rank, offset| {
            slots[slot] = entry(rank as u32, u32::from(self.freq(rank).max(1)), offset.into());
        });
    }

    /// The inverse: the slot of every rank's every offset, ranks in ascending order.
    pub fn fill_inverse(&self, start: &[u32; RANKS], inverse: &mut [u16; 1 << CLASS_BITS]) {
        self.owners(|slot, rank, offset| {
            // Masked, so that no bound is tested.
            inverse[(start[rank] as usize + usize::from(offset)) % (1 << CLASS_BITS)] = slot as u16;
        });
    }
}

/// An alias table in four registers of sixteen lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct AliasLanes {
    /// Per bucket b: the other rank in bits 0-4; in bits 5-16, signed, its bias; and the split, so
    /// that `slot << 21 > lane` (unsigned) exactly when the slot is the other rank's: the sum of
    /// that and of (64 split + b - 1) * 2^21. It is why rank 0 must have a slot: bucket 0 cannot be
    /// another's from place 0 on.
    pub other: [u32; RANKS],
    /// Frequencies.
    pub freq: [u32; RANKS],
}

impl AliasLanes {
    /// Another form of `alias`, in which rank 0 has a slot.
    pub fn new(alias: &Alias) -> Self {
        let lane = |b: usize| {
            let (mut split, mut other, mut bias) = (u32::from(alias.split[b]), alias.other[b], alias.bias(b));
            if split == u32::from(BUCKET) {
                // 64 does not fit: a bucket that is its own rank's alone has that rank as the other
                // too.
                (split, other, bias) = (u32::from(b == 0), b as u8, 0);
            }
            (split << 26 | (b as u32) << 21).wrapping_sub(1 << 21) | u32::from(bias & 0xfff) << 5 | u32::from(other)
        };
        Self { other: std::array::from_fn(lane), freq: std::array::from_fn(|r| u32::from(alias.freq(r))) }
    }
}

/// The first slot of each symbol when symbols take their slots in ascending order.
pub fn starts<const N: usize>(freq: &[u16; N]) -> [u32; N] {
    let mut sum = 0;
    freq.map(|f| {
        let start = sum;
        sum += u32::from(f);
        start
    })
}
