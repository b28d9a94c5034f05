//! The other direction, for those who need a file that the Python package reads: blobs of the codings that its releases write by
//! default.

use constriction::UnwrapInfallible;
use constriction::stream::Encode;
use constriction::stream::queue::DefaultRangeEncoder;
use constriction::stream::stack::DefaultAnsCoder;

use super::Coding;
use super::layout::{BF16, FP16, Split, Width};
use super::model::categorical;

/// The package's level for the mantissa planes of F32.
const PLANE_LEVEL: i32 = 3;
/// Its level for whole tensors.
const TENSOR_LEVEL: i32 = 9;

/// What codes symbols of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entropy {
    Range,
    Ans,
}

impl Entropy {
    /// The codeword of `symbols`, whose counts are `counts`.
    fn code<T: Copy + Into<usize>>(self, symbols: &[T], counts: &[u32]) -> Option<Vec<u8>> {
        let model = categorical(counts).ok()?;
        let symbols = symbols.iter().map(|symbol| -> usize { (*symbol).into() });
        let words = match self {
            Self::Range => {
                let mut coder = DefaultRangeEncoder::new();
                coder.encode_iid_symbols(symbols, &model).ok()?;
                coder.into_compressed().unwrap_infallible()
            }
            Self::Ans => {
                let mut coder = DefaultAnsCoder::new();
                coder.encode_iid_symbols_reverse(symbols, &model).ok()?;
                coder.into_compressed().unwrap_infallible()
            }
        };
        Some(words.into_iter().flat_map(u32::to_le_bytes).collect())
    }
}

/// Packs the bytes of a tensor; `None` when the coding is none of `raw`, `zstd`, `bf16_se_ac`, `bf16_se_rans`, `fp16_se_ac`,
/// `fp32_se_ac` and `fp8_cat_ac`, when `raw` is not whole elements, or when it is too long for the blob's 32-bit lengths.
///
/// The blob may be longer than `raw`: choosing is the caller's.
#[must_use]
pub fn encode(coding: Coding, raw: &[u8]) -> Option<Vec<u8>> {
    match coding {
        Coding::Raw => Some(raw.to_vec()),
        Coding::Zstd => zstd::bulk::compress(raw, TENSOR_LEVEL).ok(),
        Coding::Bf16SeAc => split(raw, BF16, Entropy::Range),
        Coding::Bf16SeRans => split(raw, BF16, Entropy::Ans),
        Coding::Fp16SeAc => split(raw, FP16, Entropy::Range),
        Coding::Fp32SeAc => fp32(raw),
        Coding::Fp8CatAc => fp8(raw),
        _ => None,
    }
}

/// How often each symbol of the alphabet comes; `None` when there are more than 2^32 - 1 in all.
fn count<T: Copy + Into<usize>>(symbols: &[T], alphabet: usize) -> Option<Vec<u32>> {
    u32::try_from(symbols.len()).ok()?;
    let mut counts = vec![0; alphabet];
    for symbol in symbols {
        *counts.get_mut((*symbol).into())? += 1;
    }
    Some(counts)
}

/// A blob in the making.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn number(&mut self, width: Width, number: usize) {
        match width {
            Width::One => self.0.push(number as u8),
            Width::Two => self.0.extend((number as u16).to_le_bytes()),
        }
    }

    fn u32(&mut self, number: usize) -> Option<()> {
        self.0.extend(u32::try_from(number).ok()?.to_le_bytes());
        Some(())
    }

    /// Length of a table, its symbols, their counts.
    fn table(&mut self, len_width: Width, width: Width, counts: &[u32]) {
        self.number(len_width, counts.iter().filter(|count| **count > 0).count());
        for (symbol, _) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            self.number(width, symbol);
        }
        for count in counts.iter().filter(|count| **count > 0) {
            self.0.extend(count.to_le_bytes());
        }
    }

    fn blob32(&mut self, bytes: &[u8]) -> Option<()> {
        self.u32(bytes.len())?;
        self.0.extend(bytes);
        Some(())
    }
}

/// Symbols in one stream, mantissas in one for each exponent.
fn split(raw: &[u8], of: Split, entropy: Entropy) -> Option<Vec<u8>> {
    let (words, rest) = raw.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let exponents = 1_usize << of.exponent_bits;
    let words = words.iter().map(|word| u16::from_le_bytes(*word));
    let symbols: Vec<u16> = words.clone().map(|word| word >> of.mantissa_bits).collect();
    let counts = count(&symbols, exponents * 2)?;
    let mut buckets = vec![Vec::<u16>::new(); exponents];
    for word in words {
        let exponent = usize::from(word >> of.mantissa_bits) & (exponents - 1);
        buckets.get_mut(exponent)?.push(word & ((1 << of.mantissa_bits) - 1));
    }

    let mut out = Out::default();
    out.u32(symbols.len())?;
    out.table(of.symbol, of.symbol, &counts);
    out.blob32(&entropy.code(&symbols, &counts)?)?;
    let mut mantissas = Out::default();
    let present = || buckets.iter().enumerate().filter(|(_, bucket)| !bucket.is_empty());
    mantissas.u32(present().count())?;
    for (exponent, _) in present() {
        mantissas.number(of.exponent, exponent);
    }
    for (_, bucket) in present() {
        let counts = count(bucket, 1 << of.mantissa_bits)?;
        mantissas.u32(bucket.len())?;
        mantissas.table(of.mantissa, of.mantissa, &counts);
        mantissas.blob32(&entropy.code(bucket, &counts)?)?;
    }
    out.blob32(&mantissas.0)?;
    Some(out.0)
}

/// Symbols in one stream, mantissas in three planes.
fn fp32(raw: &[u8]) -> Option<Vec<u8>> {
    let (words, rest) = raw.as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let symbols: Vec<u16> = words.iter().map(|word| (u32::from_le_bytes(*word) >> 23) as u16).collect();
    let counts = count(&symbols, 512)?;
    let mut out = Out::default();
    out.u32(symbols.len())?;
    out.table(Width::Two, Width::Two, &counts);
    out.blob32(&Entropy::Range.code(&symbols, &counts)?)?;
    let planes: [fn(&[u8; 4]) -> u8; 3] = [|[a, ..]| *a, |[_, b, ..]| *b, |[_, _, c, _]| c & 0x7f];
    for plane in planes {
        let bytes: Vec<u8> = words.iter().map(plane).collect();
        out.blob32(&zstd::bulk::compress(&bytes, PLANE_LEVEL).ok()?)?;
    }
    Some(out.0)
}

/// Bytes in one stream.
fn fp8(raw: &[u8]) -> Option<Vec<u8>> {
    let counts = count(raw, 256)?;
    let mut out = Out::default();
    out.u32(raw.len())?;
    out.table(Width::Two, Width::One, &counts);
    out.blob32(&Entropy::Range.code(raw, &counts)?)?;
    Some(out.0)
}
