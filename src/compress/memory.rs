//! A container made in memory, and how long its encoding took: what measurements are made of.

use std::io::Cursor;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rayon::prelude::*;

use super::digest;
use super::pipeline::{self, About, Encoded};
use super::plan::{self, Plan};
use super::{Options, Progress};
use crate::codec::Numbers;
use crate::error::{Error, Result};
use crate::format::Bases;
use crate::format::native::Writer;
use crate::source::{MemorySource, ReadAt};

/// A container and what it took.
#[derive(Debug, Clone)]
pub struct InMemory {
    /// The container, the same bytes that [`compress`](super::compress) would have written.
    pub container: Vec<u8>,
    /// Wall-clock time of planning and of encoding every type, seconds. The digests are not in it.
    pub seconds: f64,
    /// The part of each element type.
    pub dtypes: Vec<DtypeSeconds>,
}

/// How long the chunks of one element type took.
#[derive(Debug, Clone, PartialEq)]
pub struct DtypeSeconds {
    /// Name of the type, as in [`DtypeReport`](super::DtypeReport).
    pub dtype: &'static str,
    /// Wall-clock time, seconds.
    pub seconds: f64,
}

/// A chunk to be encoded.
struct Job<'a> {
    number: usize,
    raw: &'a [u8],
    raw_offset: u64,
    numbers: Numbers,
    /// Where the packed bytes go, as long as the raw ones.
    room: &'a mut [u8],
}

/// Compresses `source` in memory, one element type after the other, so that the time of each is its own on any number
/// of threads. `mtime` is the original's modification time (seconds since 1970, nanoseconds); `options.force` means
/// nothing here. Beside the source, memory for its own length and for the container is needed.
///
/// # Errors
/// [`Error::NotLossless`] when a chunk does not decode back, [`Error::Interrupted`] when asked to stop,
/// [`Error::Invalid`] for a container as input.
pub fn encode_in_memory(
    pool: &rayon::ThreadPool,
    source: &MemorySource,
    mtime: (i64, u32),
    options: &Options<'_>,
    progress: &dyn Progress,
) -> Result<InMemory> {
    pipeline::check_input(source)?;
    let started = Instant::now();
    let plan = plan::plan(source, options.chunk_len, options.mode)?;
    let mut seconds = started.elapsed().as_secs_f64();
    // Written once, so that no page has to be made while the time runs: a program that compresses uses its buffers again.
    let mut room = vec![1; source.bytes().len()];
    let (groups, literals) = jobs(&plan, source.bytes(), &mut room);
    let (mut chunks, mut dtypes) = (Vec::<Numbered<'_>>::new(), Vec::new());
    for (dtype, jobs) in groups {
        let encode = |job| encode(job, source, options, progress);
        let (done, took) = pool.install(|| {
            let started = Instant::now();
            // Chunks are long enough to be handed out one by one.
            let done: Result<Vec<_>> = jobs.into_par_iter().with_max_len(1).map(encode).collect();
            (done, started.elapsed().as_secs_f64())
        });
        chunks.extend(done?);
        seconds += took;
        dtypes.push(DtypeSeconds { dtype, seconds: took });
    }
    chunks.sort_unstable_by_key(|(number, _)| *number);
    let refused = |error| Error::io("write in memory", source.path())(error);
    let mut writer = Writer::new(Cursor::new(Vec::new())).map_err(refused)?;
    for (_, Encoded { packed, codec, checksum, .. }) in chunks {
        writer.chunk(packed, codec, checksum).map_err(refused)?;
    }
    let digests = digest::digests(pipeline::ranges(&plan), source.bytes());
    let about = About { file: source.path(), mtime, options, plan: &plan, bases: &Bases::default() };
    let (out, ..) = pipeline::finish(writer, &about, &literals, digests).map_err(refused)?;
    Ok(InMemory { container: out.into_inner(), seconds, dtypes })
}

/// An encoded chunk behind its number.
type Numbered<'a> = (usize, Encoded<&'a [u8]>);

/// Encodes a chunk into its room.
fn encode<'a>(
    job: Job<'a>,
    source: &MemorySource,
    options: &Options<'_>,
    progress: &dyn Progress,
) -> Result<Numbered<'a>> {
    if options.stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    let Job { number, raw, raw_offset, numbers, room } = job;
    let what = (numbers, raw_offset);
    let encoded =
        pipeline::encode_and_prove(source.path(), options.mode, what, raw, None, move |packed| put(room, packed))?;
    progress.advance(raw.len() as u64, encoded.packed.len() as u64);
    Ok((number, encoded))
}

/// Copies bytes to the front of `room`, which is long enough.
fn put<'a>(room: &'a mut [u8], bytes: &[u8]) -> &'a [u8] {
    let (front, _) = room.split_at_mut_checked(bytes.len()).unwrap_or_default();
    front.copy_from_slice(bytes);
    front
}

type Groups<'a> = Vec<(&'static str, Vec<Job<'a>>)>;

/// The chunks of a plan by element type, and the literal bytes.
fn jobs<'a>(plan: &Plan, bytes: &'a [u8], mut space: &'a mut [u8]) -> (Groups<'a>, Vec<u8>) {
    let (mut groups, mut literals) = (Groups::new(), Vec::new());
    let (mut rest, mut raw_offset, mut number) = (bytes, 0, 0);
    for span in &plan.spans {
        let Some((mut raw, behind)) = rest.split_at_checked(span.raw_len as usize) else { break };
        rest = behind;
        if span.chunk_len == 0 {
            literals.extend_from_slice(raw);
            raw_offset += span.raw_len;
            continue;
        }
        let dtype = span.elem.name().unwrap_or("unknown");
        let at = groups.iter().position(|(of, _)| *of == dtype).unwrap_or_else(|| {
            groups.push((dtype, Vec::new()));
            groups.len() - 1
        });
        let Some((_, jobs)) = groups.get_mut(at) else { break };
        while !raw.is_empty() {
            let (chunk, left) = raw.split_at(raw.len().min(span.chunk_len as usize));
            let (room, behind) = std::mem::take(&mut space).split_at_mut_checked(chunk.len()).unwrap_or_default();
            space = behind;
            jobs.push(Job { number, raw: chunk, raw_offset, numbers: plan::numbers(span), room });
            raw = left;
            raw_offset += chunk.len() as u64;
            number += 1;
        }
    }
    (groups, literals)
}
