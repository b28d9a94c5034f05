//! What compressing a file would save, from a sample of its chunks.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::plan::{self, Plan};
use super::report::ratio;
use super::{Options, pipeline};
use crate::codec::Numbers;
use crate::error::{Error, Result};
use crate::parallel;
use crate::source::ReadAt;
use crate::tensor::ElemType;

/// Raw bytes of each element type that are looked at whatever the budget: few chunks tell little.
const LEAST: u64 = 4 << 20;
/// What a chunk, a tensor and a container take in an index, about, bytes: checksum, length and codec; digest, place and what is
/// left of a name; all else.
const PER_CHUNK: u64 = 11;
const PER_TENSOR: u64 = 45;
const PER_FILE: u64 = 250;
/// A literal header is text that repeats itself.
const LITERAL_RATIO: u64 = 7;

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
}

/// A chunk that is looked at.
struct Pick {
    offset: u64,
    len: usize,
    numbers: Numbers,
    elem: ElemType,
    /// How often it was met: a longer chunk is met more often.
    weight: u64,
}

/// What was found of one element type.
#[derive(Default, Clone, Copy)]
struct Found {
    raw: u64,
    packed: u64,
    /// packed / raw of each pick, in 2^32, by its weight. Their mean is that of all bytes: long chunks are met more often, and so
    /// must not count for more again.
    ratios: u128,
    weight: u64,
}

/// A run of chunks of one length.
struct Run {
    offset: u64,
    len: u64,
    chunk_len: u64,
    numbers: Numbers,
}

/// Compresses about `budget` bytes of the file, spread over it and over its element types in proportion, and all of it if that
/// is not much more; writes nothing. Bases are not considered.
///
/// # Errors
/// Those of [`compress`](super::compress()), but for those of an output.
pub fn estimate(pool: &rayon::ThreadPool, source: &dyn ReadAt, options: &Options<'_>, budget: u64) -> Result<Estimate> {
    pipeline::check_input(source)?;
    let plan = plan::plan(source, options.chunk_len, options.mode)?;
    let (runs, literal) = runs(&plan);
    let mut picks: Vec<Pick> = Vec::new();
    let all: u64 = runs.values().flatten().map(|run| run.len).sum();
    for (&elem, runs) in &runs {
        let of_type: u64 = runs.iter().map(|run| run.len).sum();
        let share = u128::from(budget) * u128::from(of_type) / u128::from(all.max(1));
        picks.extend(pick(ElemType(elem), runs, of_type, (share as u64).max(LEAST)));
    }
    picks.sort_by_key(|pick| pick.offset);

    let mut sums: BTreeMap<u16, Found> = BTreeMap::new();
    let mut next = picks.into_iter();
    parallel::ordered(
        pool,
        2 * pool.current_num_threads() + 2,
        || {
            if options.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let Some(pick) = next.next() else { return Ok(None) };
            let mut raw = vec![0; pick.len];
            source.read_exact_at(pick.offset, &mut raw)?;
            Ok(Some((pick, raw)))
        },
        |(pick, raw): (Pick, Vec<u8>)| {
            let what = (pick.numbers, pick.offset);
            let done = pipeline::encode_and_prove(source.path(), options.mode, what, &raw, None, <[u8]>::len)?;
            Ok((pick.elem, pick.weight, raw.len() as u64, done.packed as u64))
        },
        |(elem, weight, raw, packed)| {
            let sum = sums.entry(elem.0).or_default();
            sum.raw += raw;
            sum.packed += packed;
            sum.ratios += (u128::from(packed) << 32) / u128::from(raw.max(1)) * u128::from(weight);
            sum.weight += weight;
            Ok(())
        },
    )?;

    let mut packed = PER_FILE + literal / LITERAL_RATIO + PER_TENSOR * plan.tensors.len() as u64;
    for (elem, runs) in &runs {
        let raw: u64 = runs.iter().map(|run| run.len).sum();
        let found = sums.get(elem).copied().unwrap_or_default();
        packed += if found.raw == raw {
            found.packed
        } else {
            ((u128::from(raw) * (found.ratios / u128::from(found.weight.max(1)))) >> 32) as u64
        };
        packed += PER_CHUNK * runs.iter().map(|run| run.len.div_ceil(run.chunk_len)).sum::<u64>();
    }
    let sampled_bytes = sums.values().map(|found| found.raw).sum();
    let ratio = ratio(source.len(), packed);
    Ok(Estimate { raw_bytes: source.len(), packed_bytes: packed, ratio, sampled_bytes })
}

/// The chunks of a plan by element type, and the bytes that lie in the index.
fn runs(plan: &Plan) -> (BTreeMap<u16, Vec<Run>>, u64) {
    let (mut runs, mut literal, mut offset): (BTreeMap<u16, Vec<Run>>, _, _) = (BTreeMap::new(), 0, 0);
    for span in &plan.spans {
        if span.chunk_len == 0 {
            literal += span.raw_len;
        } else {
            let chunk_len = u64::from(span.chunk_len);
            let run = Run { offset, len: span.raw_len, chunk_len, numbers: plan::numbers(span) };
            runs.entry(span.elem.0).or_default().push(run);
        }
        offset += span.raw_len;
    }
    (runs, literal)
}

/// Chunks of one type for about `budget` of its `total` bytes. One in each of equal parts, not always at the same place in it:
/// layers repeat, and a fixed step could meet the same tensor in each.
fn pick(elem: ElemType, runs: &[Run], total: u64, budget: u64) -> Vec<Pick> {
    let chunk = |run: &Run, number: u64| {
        let at = number * run.chunk_len;
        let len = run.chunk_len.min(run.len - at) as usize;
        Pick { offset: run.offset + at, len, numbers: run.numbers, elem, weight: 1 }
    };
    let chunks: u64 = runs.iter().map(|run| run.len.div_ceil(run.chunk_len)).sum();
    let wanted = (u128::from(chunks) * u128::from(budget)).div_ceil(u128::from(total.max(1))) as u64;
    if wanted.saturating_mul(3) >= chunks.saturating_mul(2) {
        return runs.iter().flat_map(|run| (0..run.len.div_ceil(run.chunk_len)).map(move |n| chunk(run, n))).collect();
    }
    let (mut picks, mut run_start, mut at): (Vec<Pick>, _, _) = (Vec::new(), 0, 0);
    let mut last = None;
    for number in 0..wanted {
        // The golden section's multiples, which fill an interval evenly, as a fraction of 2^32.
        let within = u128::from((number as u32).wrapping_mul(0x9e37_79b9));
        let position = (u128::from(total) * ((u128::from(number) << 32) + within) / (u128::from(wanted) << 32)) as u64;
        while let Some(run) = runs.get(at).filter(|run| position >= run_start + run.len) {
            run_start += run.len;
            at += 1;
        }
        let Some(run) = runs.get(at) else { break };
        let found = (at, (position - run_start) / run.chunk_len);
        match picks.last_mut().filter(|_| last == Some(found)) {
            Some(again) => again.weight += 1,
            None => picks.push(chunk(run, found.1)),
        }
        last = Some(found);
    }
    picks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_over_all_and_within_it() {
        let run = |offset, len| Run { offset, len, chunk_len: 1000, numbers: Numbers::Unknown };
        let runs = [run(64, 100_500), run(500_000, 300), run(900_000, 899_200)];
        let picks = pick(ElemType::BYTES, &runs, 1_000_000, 100_000);
        assert!((95..=101).contains(&picks.len()), "{}", picks.len());
        let inside =
            |p: &Pick| runs.iter().any(|r| p.offset >= r.offset && p.offset + p.len as u64 <= r.offset + r.len);
        assert!(picks.iter().all(inside));
        let front = picks.iter().filter(|p| p.offset < 500_000).count();
        assert!((8..=13).contains(&front), "{front}");
        let mut offsets: Vec<u64> = picks.iter().map(|p| p.offset).collect();
        offsets.dedup();
        assert_eq!(offsets.len(), picks.len());
        // No step is met throughout, nor two by turns.
        let steps: Vec<u64> = offsets.windows(2).map(|w| w[1] - w[0]).collect();
        for period in 1..4 {
            let same = steps.windows(period + 1).filter(|w| w[0].abs_diff(w[period]) <= 1000).count();
            assert!(same < steps.len() * 3 / 4, "{period} {steps:?}");
        }

        let all = pick(ElemType::BYTES, &runs, 1_000_000, 700_000);
        assert_eq!(all.iter().map(|p| p.len as u64).sum::<u64>(), 1_000_000);
    }
}
