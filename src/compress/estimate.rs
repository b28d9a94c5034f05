//! What compressing a file would save, from a sample of its chunks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::Options;
use super::digest::Digests;
use super::pipeline::{self, About};
use super::plan::{self, Plan};
use super::report::ratio;
use super::written::Nowhere;
use crate::codec::{Codec, Numbers};
use crate::error::{Error, Result};
use crate::format::native::{Bases, Writer};
use crate::parallel;
use crate::source::ReadAt;

/// Chunks of each kind that are looked at first: so many of the file's, in proportion to their bytes, and so many at least.
const FIRST: usize = 48;
const LEAST: usize = 6;
/// Chunks of a type that are shorter than this part of its longest are a kind of their own: many short ones say nothing of the long.
const SHORT: usize = 4;
/// Where more than this of a kind was looked at, in percent, the rest is as well.
const NEARLY_ALL: usize = 70;
/// Standard deviations that the margin is.
const DEVIATIONS: f64 = 2.5;
/// Chunks of a sample may be alike by chance: so many more are taken to differ by so much, part of raw.
const DOUBT: (f64, f64) = (2.0, 0.01);

/// What a container would be, about.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Length of the original, bytes.
    pub raw_bytes: u64,
    /// Length of the container, bytes, about.
    pub packed_bytes: u64,
    /// packed / raw, about.
    pub ratio: f64,
    /// Bytes of the original that were looked at.
    pub sampled_bytes: u64,
    /// How far `ratio` may be off, by the differences between the chunks of the sample; 0 when all were looked at.
    pub margin: f64,
}

/// Element type, and whether the chunk is long.
type Id = (u16, bool);

/// A chunk of the plan.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    offset: u64,
    len: usize,
    numbers: Numbers,
    kind: Id,
    /// What became of it, once it was looked at.
    found: Option<(usize, Codec)>,
}

/// The chunks of one kind, by their place in the list of all.
struct Kind {
    /// Raw, of all.
    bytes: u64,
    /// In the order in which they are looked at: each beginning of it is spread evenly over the file.
    order: Vec<usize>,
    looked: usize,
}

/// What is known of one kind.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// packed / raw.
    ratio: f64,
    /// Variance of the packed bytes of all its chunks, in bytes squared.
    variance: f64,
}

/// Compresses as many chunks of the file, spread over it and its element types, as it takes for `ratio` to be within `margin`
/// (0.0025: a quarter of a point) with great likelihood, and all with a margin of 0; writes nothing. The index is made as
/// [`compress`](super::compress()) makes it. Bases are not considered.
///
/// # Errors
/// Those of [`compress`](super::compress()), but for those of an output.
pub fn estimate(pool: &rayon::ThreadPool, source: &dyn ReadAt, options: &Options<'_>, margin: f64) -> Result<Estimate> {
    pipeline::check_input(source)?;
    let plan = plan::plan(source, options.chunk_len, options.mode)?;
    let mut chunks = chunks(&plan);
    let mut kinds: BTreeMap<Id, Kind> = BTreeMap::new();
    for (place, chunk) in chunks.iter().enumerate() {
        let kind = kinds.entry(chunk.kind).or_insert_with(|| Kind { bytes: 0, order: Vec::new(), looked: 0 });
        kind.bytes += chunk.len as u64;
        kind.order.push(place);
    }
    kinds.values_mut().for_each(|kind| spread(&mut kind.order));

    let aim = margin * source.len() as f64 / DEVIATIONS;
    let mut wanted: Vec<usize> = Vec::new();
    for kind in kinds.values_mut() {
        let first = (FIRST as f64 * kind.bytes as f64 / source.len() as f64).ceil() as usize;
        kind.more(if margin > 0.0 { first.max(LEAST) } else { usize::MAX }, &mut wanted);
    }
    let known = loop {
        wanted.sort_unstable();
        look(pool, source, options, &mut chunks, &wanted)?;
        wanted.clear();
        let known: BTreeMap<Id, Known> = kinds.iter().map(|(id, kind)| (*id, kind.known(&chunks))).collect();
        let variance: f64 = known.values().map(|known| known.variance).sum();
        if variance.sqrt() <= aim {
            break known;
        }
        for (id, kind) in &mut kinds {
            // What adds little to the doubt is known well enough.
            if known.get(id).is_some_and(|known| known.variance * 20.0 > variance) {
                kind.more(kind.looked / 2 + 1, &mut wanted);
            }
        }
        if wanted.is_empty() {
            break known;
        }
    };

    let packed = container_len(source, options, &plan, &chunks, &known)?;
    let sampled_bytes = chunks.iter().filter(|chunk| chunk.found.is_some()).map(|chunk| chunk.len as u64).sum();
    let variance: f64 = known.values().map(|known| known.variance).sum();
    let margin = DEVIATIONS * variance.sqrt() / (source.len() as f64).max(1.0);
    let ratio = ratio(source.len(), packed);
    Ok(Estimate { raw_bytes: source.len(), packed_bytes: packed, ratio, sampled_bytes, margin })
}

/// All chunks of a plan that are encoded, in order.
fn chunks(plan: &Plan) -> Vec<Chunk> {
    let (mut chunks, mut offset) = (Vec::new(), 0);
    for span in &plan.spans {
        let numbers = plan::numbers(span);
        let mut within = 0;
        while span.chunk_len > 0 && within < span.raw_len {
            let len = (span.raw_len - within).min(u64::from(span.chunk_len));
            let kind = (span.elem.0, true);
            chunks.push(Chunk { offset: offset + within, len: len as usize, numbers, kind, found: None });
            within += len;
        }
        offset += span.raw_len;
    }
    let mut longest: BTreeMap<u16, usize> = BTreeMap::new();
    for chunk in &chunks {
        let len = longest.entry(chunk.kind.0).or_default();
        *len = chunk.len.max(*len);
    }
    for chunk in &mut chunks {
        chunk.kind.1 = chunk.len >= longest.get(&chunk.kind.0).copied().unwrap_or(0) / SHORT;
    }
    chunks
}

/// Puts places in an order of which each beginning is spread evenly, and in step with nothing: layers repeat, and with a fixed
/// step it could be the same tensor of each that is looked at.
fn spread(order: &mut [usize]) {
    let mut keyed: Vec<(u32, usize)> = order
        .iter()
        .enumerate()
        // The golden section's multiples, which fill an interval evenly, as a fraction of 2^32.
        .map(|(number, &place)| ((number as u32).wrapping_mul(0x9e37_79b9), place))
        .collect();
    keyed.sort_unstable();
    order.iter_mut().zip(keyed).for_each(|(to, (_, place))| *to = place);
}

impl Kind {
    /// Adds the next `count` places to `wanted`.
    fn more(&mut self, count: usize, wanted: &mut Vec<usize>) {
        let mut end = self.looked.saturating_add(count);
        if end.saturating_mul(100) >= self.order.len().saturating_mul(NEARLY_ALL) {
            end = self.order.len();
        }
        wanted.extend_from_slice(self.order.get(self.looked..end).unwrap_or_default());
        self.looked = end;
    }

    /// What the chunks that were looked at say of all.
    fn known(&self, chunks: &[Chunk]) -> Known {
        let seen = || {
            let looked = self.order.get(..self.looked).unwrap_or_default();
            let of =
                |&place: &usize| chunks.get(place).and_then(|chunk| Some((chunk.len as f64, chunk.found?.0 as f64)));
            looked.iter().filter_map(of)
        };
        let (count, all) = (self.looked as f64, self.order.len() as f64);
        let (raw, packed) = seen().fold((0.0, 0.0), |(raw, packed), (r, p)| (raw + r, packed + p));
        let ratio = if raw > 0.0 { packed / raw } else { 0.0 };
        if self.looked == self.order.len() {
            return Known { ratio, variance: 0.0 };
        }
        let squares: f64 = seen().map(|(r, p)| (p - ratio * r).powi(2)).sum();
        let doubt = DOUBT.0 * (DOUBT.1 * raw / count.max(1.0)).powi(2);
        let of_one = (squares + doubt) / (count + DOUBT.0 - 1.0);
        Known { ratio, variance: all * all * of_one / count.max(1.0) * (1.0 - count / all) }
    }
}

/// Encodes chunks and notes what became of them.
fn look(
    pool: &rayon::ThreadPool,
    source: &dyn ReadAt,
    options: &Options<'_>,
    chunks: &mut [Chunk],
    wanted: &[usize],
) -> Result<()> {
    let jobs: Vec<(usize, Chunk)> = wanted.iter().filter_map(|&place| Some((place, *chunks.get(place)?))).collect();
    let mut next = jobs.into_iter();
    parallel::ordered(
        pool,
        2 * pool.current_num_threads() + 2,
        || {
            if options.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let Some((place, chunk)) = next.next() else { return Ok(None) };
            let mut raw = vec![0; chunk.len];
            source.read_exact_at(chunk.offset, &mut raw)?;
            Ok(Some((place, chunk, raw)))
        },
        |(place, chunk, raw): (usize, Chunk, Vec<u8>)| {
            let what = (chunk.numbers, chunk.offset);
            let done = pipeline::encode_and_prove(source.path(), options.mode, what, &raw, None, <[u8]>::len)?;
            Ok((place, done.packed, done.codec))
        },
        |(place, packed, codec)| {
            if let Some(chunk) = chunks.get_mut(place) {
                chunk.found = Some((packed, codec));
            }
            Ok(())
        },
    )
}

/// Length of the container, with an index like the one that it will have: what is not known is made up of numbers that cannot be
/// compressed either.
fn container_len(
    source: &dyn ReadAt,
    options: &Options<'_>,
    plan: &Plan,
    chunks: &[Chunk],
    known: &BTreeMap<Id, Known>,
) -> Result<u64> {
    let failed = || Error::io("estimate the index of", source.path());
    let mut numbers = blake3::Hasher::new().finalize_xof();
    let mut any = || {
        let mut digest = [0; 32];
        numbers.fill(&mut digest);
        digest
    };
    let mut writer = Writer::new(Nowhere::default()).map_err(failed())?;
    let mut nothing = Vec::new();
    // Of each kind, what rounding has left out so far, and the last codec that was seen.
    let mut before: BTreeMap<Id, (f64, Codec)> = BTreeMap::new();
    for chunk in chunks {
        let (left, codec) = before.entry(chunk.kind).or_insert((0.0, Codec::Raw));
        let packed = match chunk.found {
            Some((packed, used)) => {
                *codec = used;
                packed
            }
            None => {
                let exact = known.get(&chunk.kind).map_or(1.0, |known| known.ratio) * chunk.len as f64 + *left;
                *left = exact - exact.floor();
                exact as usize
            }
        };
        nothing.resize(nothing.len().max(packed), 0);
        let [a, b, c, d, e, f, g, h, ..] = any();
        let check = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        writer.chunk(nothing.get(..packed).unwrap_or_default(), *codec, check).map_err(failed())?;
    }
    let mut literals = Vec::new();
    let mut offset = 0;
    for span in &plan.spans {
        if span.chunk_len == 0 {
            let from = literals.len();
            literals.resize(from + span.raw_len as usize, 0);
            source.read_exact_at(offset, literals.get_mut(from..).unwrap_or_default())?;
        }
        offset += span.raw_len;
    }
    let digests = Digests { sha256: any(), ranges: plan.tensors.iter().map(|_| any()).collect() };
    let bases = Bases::default();
    let file = source.path().file_name().map_or(source.path(), Path::new);
    let about = About { file, mtime: (i64::from(i32::MAX) / 3, 123_456_789), options, plan, bases: &bases };
    pipeline::finish(writer, &about, &literals, digests).map(|(_, len, _)| len).map_err(failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_beginning_of_the_order_is_spread_evenly() {
        for count in [1_usize, 2, 100, 997] {
            let mut order: Vec<usize> = (0..count).collect();
            spread(&mut order);
            let mut all = order.clone();
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
        let mut order: Vec<usize> = (0..1000).collect();
        spread(&mut order);
        for taken in [20, 50, 200] {
            let front = order[..taken].iter().filter(|&&place| place < 500).count();
            assert!(front.abs_diff(taken / 2) <= 2, "{taken} {front}");
            // Of whatever repeats, each is met about as often.
            for period in 2..12 {
                let mut met = vec![0_usize; period];
                order[..taken].iter().for_each(|place| met[place % period] += 1);
                let few = taken / period;
                assert!(met.iter().all(|&n| n + 3 + few / 2 >= few), "{taken} {period} {met:?}");
            }
        }
    }

    #[test]
    fn what_was_looked_at_whole_is_known_and_a_few_that_are_alike_are_doubted() {
        let chunk = |place: usize, packed: Option<usize>| Chunk {
            offset: 1000 * place as u64,
            len: 1000,
            numbers: Numbers::Unknown,
            kind: (0, true),
            found: packed.map(|packed| (packed, Codec::Raw)),
        };
        let kind = |looked| Kind { bytes: 10_000, order: (0..10).collect(), looked };
        let all: Vec<Chunk> = (0..10).map(|n| chunk(n, Some(600 + 10 * n))).collect();
        let known = kind(10).known(&all);
        assert!((known.ratio - 0.645).abs() < 1e-9 && known.variance == 0.0, "{known:?}");
        let some: Vec<Chunk> = (0..10).map(|n| chunk(n, (n < 5).then_some(700))).collect();
        let known = kind(5).known(&some);
        assert!((known.ratio - 0.7).abs() < 1e-9 && known.variance > 0.0, "{known:?}");
    }
}
