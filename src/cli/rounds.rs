//! The rounds of `bsfs bench`: decoding and memcpy of the same bytes into the same buffer, taking turns.

use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bsfs::engine;
use bsfs::format::{Container, Piece};
use bsfs::{Error, Result};
use rayon::prelude::*;

use super::progress::Bar;

/// What is measured: a container and the original's bytes, both in memory.
pub struct Subject {
    pub container: Container,
    /// The container's bytes, with [`PAD`](bsfs::codec::PAD) more behind them.
    pub packed: Vec<u8>,
    pub raw: Vec<u8>,
}

/// Median wall-clock times, seconds.
pub struct Rounds {
    pub decode: f64,
    pub memcpy: f64,
    pub dtypes: Vec<Measured>,
}

/// The same of one element type, and its chunks' bytes.
pub struct Measured {
    pub dtype: &'static str,
    pub raw_bytes: u64,
    pub packed_bytes: u64,
    pub decode: f64,
    pub memcpy: f64,
}

/// The pieces of one element type, and the time of each round.
struct Group<'a> {
    /// `None` for what lies in the index.
    dtype: Option<&'static str>,
    tasks: Vec<Task<'a>>,
    decode: Vec<f64>,
    memcpy: Vec<f64>,
}

/// A piece of the original, its raw bytes, and where they go.
struct Task<'a> {
    piece: Piece,
    raw: &'a [u8],
    out: &'a mut [u8],
}

/// Runs one round that does not count, compares what was decoded, and runs `rounds` that count. `stop` ends it at the
/// next chunk.
pub fn run(pool: &rayon::ThreadPool, subject: &Subject, rounds: u32, stop: &AtomicBool, bar: &Bar) -> Result<Rounds> {
    let Subject { container, packed, raw } = subject;
    // Not zeros: those would be pages that nobody has touched, and right wherever the original is zero.
    let mut out = vec![0xa5; raw.len()];
    let mut groups = groups(container, raw, &mut out);
    let decode = |task: &mut Task<'_>| match &task.piece {
        Piece::Chunk(chunk) => engine::decode_into(container, packed, chunk, task.out),
        Piece::Literal { range, .. } => {
            let literal = container.literals().get(range.clone()).unwrap_or_default();
            task.out.iter_mut().zip(literal).for_each(|(to, from)| *to = *from);
            Ok(())
        }
    };
    let memcpy = |task: &mut Task<'_>| {
        task.out.copy_from_slice(task.raw);
        // Nobody reads it; that must not make the copy superfluous.
        black_box(&mut *task.out);
        Ok(())
    };
    let (mut decodes, mut memcpys) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let mut sum = 0.0;
        for group in &mut groups {
            let seconds = timed(pool, &mut group.tasks, stop, decode)?;
            group.decode.push(seconds);
            sum += seconds;
        }
        decodes.push(sum);
        // Before the first copy, which would make up for what was not decoded.
        if round == 0 {
            compare(container.path(), &groups)?;
        }
        sum = 0.0;
        for group in &mut groups {
            let seconds = timed(pool, &mut group.tasks, stop, memcpy)?;
            group.memcpy.push(seconds);
            sum += seconds;
        }
        memcpys.push(sum);
        bar.skip(raw.len() as u64);
    }
    let dtypes = groups.iter().filter_map(measured).collect();
    Ok(Rounds { decode: median_behind_first(&decodes), memcpy: median_behind_first(&memcpys), dtypes })
}

/// The pieces of a container by element type, in order of the original.
fn groups<'a>(container: &Container, raw: &'a [u8], out: &'a mut [u8]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let (mut raw, mut out) = (raw, out);
    for piece in container.pieces() {
        let (offset, len) = match &piece {
            Piece::Chunk(chunk) => (chunk.raw_offset, chunk.raw_len as usize),
            Piece::Literal { raw_offset, range } => (*raw_offset, range.len()),
        };
        let Some((raw_piece, raw_rest)) = raw.split_at_checked(len) else { break };
        let Some((out_piece, out_rest)) = out.split_at_mut_checked(len) else { break };
        (raw, out) = (raw_rest, out_rest);
        let at = container.spans().partition_point(|span| span.raw_end() <= offset);
        let span = container.spans().get(at).filter(|span| !span.is_literal());
        let dtype = span.map(|span| span.elem.name().unwrap_or("unknown"));
        let task = Task { piece, raw: raw_piece, out: out_piece };
        match groups.iter_mut().find(|group| group.dtype == dtype) {
            Some(group) => group.tasks.push(task),
            None => groups.push(Group { dtype, tasks: vec![task], decode: Vec::new(), memcpy: Vec::new() }),
        }
    }
    groups
}

/// Runs `work` on every task, on all threads; gives the wall-clock time, seconds.
fn timed(
    pool: &rayon::ThreadPool,
    tasks: &mut [Task<'_>],
    stop: &AtomicBool,
    work: impl Fn(&mut Task<'_>) -> Result<()> + Sync,
) -> Result<f64> {
    // The clock starts in the pool, so that waking its first thread is not measured.
    pool.install(|| {
        let started = Instant::now();
        tasks.par_iter_mut().with_max_len(1).try_for_each(|task| check(stop).and_then(|()| work(task)))?;
        Ok(started.elapsed().as_secs_f64())
    })
}

/// [`Error::Interrupted`] once `stop` is set.
pub fn check(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}

/// Compares what was decoded with the original, byte for byte.
fn compare(path: &Path, groups: &[Group<'_>]) -> Result<()> {
    let Some(wrong) = groups.iter().flat_map(|group| &group.tasks).find(|task| *task.out != *task.raw) else {
        return Ok(());
    };
    let (raw_offset, codec) = match &wrong.piece {
        Piece::Chunk(chunk) => (chunk.raw_offset, chunk.codec().map_or("unknown", |codec| codec.name())),
        Piece::Literal { raw_offset, .. } => (*raw_offset, "literal"),
    };
    Err(Error::NotLossless { path: path.into(), raw_offset, codec })
}

fn measured(group: &Group<'_>) -> Option<Measured> {
    let packed = |task: &Task<'_>| match &task.piece {
        Piece::Chunk(chunk) => chunk.packed_len.into(),
        Piece::Literal { .. } => 0_u64,
    };
    Some(Measured {
        dtype: group.dtype?,
        raw_bytes: group.tasks.iter().map(|task| task.raw.len() as u64).sum(),
        packed_bytes: group.tasks.iter().map(packed).sum(),
        decode: median_behind_first(&group.decode),
        memcpy: median_behind_first(&group.memcpy),
    })
}

/// The median of all times but the first; 0 when there is none.
fn median_behind_first(seconds: &[f64]) -> f64 {
    let mut counted = seconds.get(1..).unwrap_or_default().to_vec();
    counted.sort_by(f64::total_cmp);
    counted.get(counted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_round_does_not_count() {
        assert_eq!(median_behind_first(&[9.0, 3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median_behind_first(&[9.0]), 0.0);
    }
}
