//! One file: read, hash, encode, prove, write.

use std::cell::RefCell;
use std::fs::Metadata;
use std::io::{self, BufWriter, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::Mutex;

use super::against::{Against, BaseRuns};
use super::base_source::LEAST;
use super::digest::{Digester, Digests};
use super::plan::{self, Plan};
use super::report::{Report, Sums, ratio};
use super::written::{Nowhere, Written};
use super::{DEFAULT_CHUNK_LEN, Options, Progress};
use crate::access::Attributes;
use crate::codec::{self, Codec, Mode, Numbers, PAD, Packed, Scratch};
use crate::error::{Error, Result};
use crate::format::checksum::{checksum, hex};
use crate::format::native::{FileInfo, Finish, TensorSpec, Writer};
use crate::format::{Bases, Sniff, sniff};
use crate::longpath;
use crate::parallel;
use crate::sink::AtomicFile;
use crate::source::{FileSource, ReadAt};
use crate::tensor::ElemType;

/// What a worker gets: raw bytes and what they are.
struct Job {
    raw: Arc<Vec<u8>>,
    raw_offset: u64,
    numbers: Numbers,
    span: usize,
}

/// What it gives back.
struct Done {
    raw: Arc<Vec<u8>>,
    raw_offset: u64,
    encoded: Encoded<Vec<u8>>,
    span: usize,
}

/// A chunk that has been shown to decode back.
pub(super) struct Encoded<T> {
    /// The packed bytes, or what was made of them.
    pub(super) packed: T,
    pub(super) codec: Codec,
    /// XXH3 of the raw bytes.
    pub(super) checksum: u64,
    /// Packed bytes without a base; of a chunk that is its base about.
    pub(super) alone: u64,
}

/// What is compressed, wherever its bytes come from.
#[derive(Clone, Copy)]
pub struct Original<'a> {
    /// Its bytes, which are read once, from front to back.
    pub source: &'a dyn ReadAt,
    /// Its path or name; the container notes the last component.
    pub name: &'a Path,
    /// Its modification time: seconds since 1970, nanoseconds.
    pub mtime: (i64, u32),
}

impl std::fmt::Debug for Original<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Original").field(&self.source.path()).finish()
    }
}

/// Compresses the file `input` to the container `output`. The input is only read.
///
/// # Errors
/// [`Error::Exists`] for an output that may not be replaced, [`Error::Changed`] when somebody writes to the input,
/// [`Error::NotLossless`] when a chunk does not decode back, [`Error::Interrupted`] when asked to stop, and those of
/// the system. No output is left then, and an existing one is untouched.
pub fn compress(
    pool: &rayon::ThreadPool,
    input: &Path,
    output: &Path,
    options: &Options<'_>,
    progress: &dyn Progress,
) -> Result<Report> {
    compress_file(pool, input, output, options, Taken::Bound, progress)
}

/// The same, to a container that has the attributes of the input, as far as the user may and the file system keeps them: a file
/// of a directory's mirror.
///
/// # Errors
/// Those of [`compress`].
pub fn compress_mirrored(
    pool: &rayon::ThreadPool,
    input: &Path,
    output: &Path,
    options: &Options<'_>,
    progress: &dyn Progress,
) -> Result<Report> {
    compress_file(pool, input, output, options, Taken::Kept, progress)
}

/// What a container takes over of a file's attributes.
#[derive(Clone, Copy)]
enum Taken<'a> {
    /// Nothing is allowed that the input does not allow.
    Bound,
    /// Those of the input that the file system keeps.
    Kept,
    /// All of these.
    All(&'a Attributes),
}

fn compress_file(
    pool: &rayon::ThreadPool,
    input: &Path,
    output: &Path,
    options: &Options<'_>,
    taken: Taken<'_>,
    progress: &dyn Progress,
) -> Result<Report> {
    let source = FileSource::open(input)?;
    if same_file(&source, output) {
        return Err(Error::invalid(format!("{}: input and output are the same file", output.display())));
    }
    source.advise_sequential();
    let (seconds, nanoseconds) = source.identity().mtime;
    let mtime = (seconds, u32::try_from(nanoseconds).unwrap_or(0));
    let original = Original { source: &source, name: input, mtime };
    let (file, report) = write(pool, &original, output, options, taken, progress)?;
    if !source.unchanged()? {
        return Err(Error::Changed { path: input.into() });
    }
    file.publish()?;
    Ok(report)
}

/// Compresses `original` to the container `output`, which `admit` reads back from the disk before it gets its name: with `false`
/// or an error it is thrown away. `None` when it was.
///
/// # Errors
/// Those of [`compress`], of the source and of `admit`. No output is left then, and an existing one is untouched.
pub fn compress_from(
    pool: &rayon::ThreadPool,
    original: &Original<'_>,
    output: &Path,
    options: &Options<'_>,
    progress: &dyn Progress,
    admit: impl FnOnce(&dyn ReadAt) -> Result<bool>,
) -> Result<Option<Report>> {
    let done = compress_beside(pool, original, output, options, Beside::default(), progress, admit)?;
    Ok(done.map(|(report, _)| report))
}

/// What a container takes from the file that it is going to stand for.
#[derive(Clone, Copy, Default)]
pub struct Beside<'a> {
    /// The attributes that the container gets, the owner as far as the user may.
    pub like: Option<&'a Attributes>,
    /// Tells the file that has the output's name, and that the container replaces: no other is. Not by its change time.
    pub over: Option<&'a dyn Fn(&Metadata) -> bool>,
}

impl std::fmt::Debug for Beside<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Beside").field("like", &self.like).finish_non_exhaustive()
    }
}

/// The same, to a container that is going to stand for a file.
///
/// # Errors
/// Those of [`compress_from`], and [`Error::Changed`] when the output's name leads to another file than the one to replace.
pub fn compress_beside(
    pool: &rayon::ThreadPool,
    original: &Original<'_>,
    output: &Path,
    options: &Options<'_>,
    beside: Beside<'_>,
    progress: &dyn Progress,
    admit: impl FnOnce(&dyn ReadAt) -> Result<bool>,
) -> Result<Option<(Report, Metadata)>> {
    let (mut file, report) =
        write(pool, original, output, options, beside.like.map_or(Taken::Bound, Taken::All), progress)?;
    let admitted = admit(&Written::new(file.file(), output)?)?;
    if !admitted {
        return Ok(None);
    }
    let published = match beside.over {
        Some(is_it) => file.publish_over(is_it)?,
        None => file.publish()?,
    };
    Ok(Some((report, published)))
}

/// What [`compress_from`] would write, byte for byte, without writing anything.
///
/// # Errors
/// The same, but for those of the output.
pub fn measure(
    pool: &rayon::ThreadPool,
    original: &Original<'_>,
    output: &Path,
    options: &Options<'_>,
    progress: &dyn Progress,
) -> Result<Report> {
    let (_, report) = encode(pool, original, output, Nowhere::default(), options, progress)?;
    match without_bases(&report, options) {
        Some(options) => encode(pool, original, output, Nowhere::default(), &options, &()).map(|(_, report)| report),
        None => Ok(report),
    }
}

/// How to compress once more, when references take more than they save, which is only known in the end.
fn without_bases<'a>(report: &Report, options: &Options<'a>) -> Option<Options<'a>> {
    let larger = report.standalone_bytes.is_some_and(|alone| alone < report.packed_bytes);
    larger.then(|| Options { against: None, ..options.clone() })
}

/// Writes the container into a file that has no name yet.
fn write(
    pool: &rayon::ThreadPool,
    original: &Original<'_>,
    output: &Path,
    options: &Options<'_>,
    taken: Taken<'_>,
    progress: &dyn Progress,
) -> Result<(AtomicFile, Report)> {
    check_input(original.source)?;
    // First of all, so that an output that cannot be written fails now and not after hours.
    let create = || {
        let mut file = AtomicFile::create(output, options.force)?;
        let note = match (taken, original.source.attributes()?) {
            (Taken::All(like), _) => file.resemble(like).map(|()| None)?,
            (Taken::Kept, Some(attributes)) => file.mirror(&attributes)?,
            (Taken::Bound, Some(attributes)) => file.narrow(&attributes)?,
            (_, None) => None,
        };
        note.iter().for_each(|note| progress.note(note));
        Ok(BufWriter::with_capacity(1 << 20, file))
    };
    let (mut file, mut report) = encode(pool, original, output, create()?, options, progress)?;
    if let Some(options) = without_bases(&report, options) {
        (file, report) = encode(pool, original, output, create()?, &options, &())?;
    }
    let file = file.into_inner().map_err(|e| Error::io("write", output)(e.into_error()))?;
    Ok((file, report))
}

/// Writes the container to `out`, which errors call `output`.
fn encode<W: Write + Seek>(
    pool: &rayon::ThreadPool,
    original: &Original<'_>,
    output: &Path,
    out: W,
    options: &Options<'_>,
    progress: &dyn Progress,
) -> Result<(W, Report)> {
    let started = Instant::now();
    let Original { source, name, mtime } = *original;
    check_input(source)?;
    let plan = plan::plan(source, options.chunk_len, options.mode)?;
    let mut writer = Writer::new(out).map_err(Error::io("write", output))?;

    let window = 2 * pool.current_num_threads() + 2;
    let digester = Digester::start(ranges(&plan), window)?;
    let mut feed = Feed::new(source, &plan, &digester);
    let nothing = Against::default();
    let mut references = BaseRuns::new(options.against.unwrap_or(&nothing), source, &plan)?;
    let mut used: Vec<(u64, u64)> = Vec::new();
    let (mut standalone, mut written) = (0, 0);
    let mut sums = Sums::default();
    // Buffers of packed bytes that were written: fresh pages for each chunk would cost a tenth of the time.
    let free: Mutex<Vec<Vec<u8>>> = Mutex::default();
    parallel::ordered(
        pool,
        window,
        || {
            if options.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            feed.next()
        },
        |job: Job| {
            let mut buffer = free.lock().pop().unwrap_or_default();
            let keep = |packed: &[u8]| {
                buffer.clear();
                buffer.extend_from_slice(packed);
                buffer
            };
            let what = (job.numbers, job.raw_offset);
            let encoded = encode_and_prove(source.path(), options.mode, what, &job.raw, Some(&references), keep)?;
            Ok(Done { raw: job.raw, raw_offset: job.raw_offset, encoded, span: job.span })
        },
        |done: Done| {
            let Encoded { packed, codec, checksum, alone } = done.encoded;
            writer.chunk(&packed, codec, checksum).map_err(Error::io("write", output))?;
            let (raw, len) = (done.raw.len() as u64, packed.len() as u64);
            free.lock().push(packed);
            let elem = plan.spans.get(done.span).map_or(ElemType::BYTES, |span| span.elem);
            sums.add(elem.name().unwrap_or("unknown"), raw, len);
            if codec.needs_base() {
                used.push((done.raw_offset, done.raw_offset + raw));
            }
            standalone += alone;
            written += len;
            progress.advance(raw, len);
            Ok(())
        },
    )?;
    let literals = feed.finish()?;
    let digests = digester.finish()?;
    let sha256 = hex(&digests.sha256);
    used.iter().for_each(|&(start, end)| references.mark(start, end));
    let referring = references.used_bytes();
    let (bases, needs) = references.finish(pool, standalone)?;
    let tensors = plan.tensors.iter().zip(&digests.ranges).filter(|(t, _)| t.len >= LEAST);
    let tensors = tensors.map(|(t, &digest)| (digest, t.len)).collect();
    let about = About { file: name, mtime, options, plan: &plan, bases: &bases };
    let (mut out, packed_bytes, bases_bytes) =
        finish(writer, &about, &literals, digests).map_err(Error::io("write", output))?;
    out.flush().map_err(Error::io("write", output))?;
    let report = Report {
        input: source.path().into(),
        output: output.into(),
        raw_bytes: source.len(),
        packed_bytes,
        ratio: ratio(source.len(), packed_bytes),
        // The rest of the container is as long without.
        standalone_bytes: (!bases.is_empty()).then(|| packed_bytes - bases_bytes + standalone - written),
        referring_bytes: (!bases.is_empty()).then_some(referring),
        needs,
        tensors,
        seconds: started.elapsed().as_secs_f64(),
        sha256,
        dtypes: sums.rows(),
    };
    Ok((out, report))
}

/// Refuses an input that is a container already, and one of which more or fewer bytes can be read than it should have.
pub(super) fn check_input(source: &dyn ReadAt) -> Result<()> {
    source.check_end()?;
    let mut first = [0; 8];
    let len = source.len().min(first.len() as u64) as usize;
    let first = first.get_mut(..len).unwrap_or_default();
    source.read_exact_at(0, first)?;
    match sniff(first) {
        Sniff::Other => Ok(()),
        Sniff::Native => Err(Error::invalid(format!(
            "{}: is a bsfs container already; decompress it first",
            source.path().display()
        ))),
        Sniff::Foreign(name) => Err(Error::invalid(format!(
            "{}: is a container of {name} already; \"bsfs migrate\" makes one of bsfs of it",
            source.path().display()
        ))),
    }
}

fn same_file(source: &FileSource, output: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = source.identity();
    longpath::metadata(output).is_ok_and(|meta| (meta.dev(), meta.ino()) == (id.dev, id.ino))
}

/// The ranges of a file whose digests its container holds.
pub(super) fn ranges(plan: &Plan) -> Vec<(u64, u64)> {
    plan.tensors.iter().map(|t| (t.offset, t.len)).collect()
}

/// What an index says beside digests.
pub(super) struct About<'a> {
    pub(super) file: &'a Path,
    pub(super) mtime: (i64, u32),
    pub(super) options: &'a Options<'a>,
    pub(super) plan: &'a Plan,
    pub(super) bases: &'a Bases,
}

/// Writes index and header behind the chunks; gives the length of the container, and of what its index says of
/// bases, bytes.
pub(super) fn finish<W: Write + Seek>(
    writer: Writer<W>,
    about: &About<'_>,
    literals: &[u8],
    digests: Digests,
) -> io::Result<(W, u64, u64)> {
    let &About { file, mtime, options, plan, bases } = about;
    let info = FileInfo {
        kind: plan.kind,
        mode: options.mode.id(),
        chunk_len: options.chunk_len.unwrap_or(DEFAULT_CHUNK_LEN),
        mtime,
        sha256: digests.sha256,
        name: file.file_name().unwrap_or_default().as_bytes().to_vec(),
        writer: concat!("bsfs ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let tensors: Vec<TensorSpec> =
        plan.tensors.iter().zip(digests.ranges).map(|(t, digest)| tensor(t, digest)).collect();
    let all = Finish { file: &info, spans: &plan.spans, literals, tensors: &tensors, bases };
    let bases_len = writer.bases_len(&all)?;
    writer.finish(&all).map(|(out, len)| (out, len, bases_len))
}

fn tensor(t: &crate::tensor::TensorInfo, digest: [u8; 32]) -> TensorSpec {
    TensorSpec {
        name: t.name.clone(),
        dtype: t.dtype.clone(),
        shape: t.shape.clone(),
        raw_offset: t.offset,
        raw_len: t.len,
        digest,
    }
}

/// Reads the chunks of a plan in order, gives each to the digests and to a worker, and keeps the literal bytes.
struct Feed<'a> {
    source: &'a dyn ReadAt,
    plan: &'a Plan,
    digester: &'a Digester,
    span: usize,
    within: u64,
    offset: u64,
    literals: Vec<u8>,
    free: Vec<Arc<Vec<u8>>>,
}

impl<'a> Feed<'a> {
    fn new(source: &'a dyn ReadAt, plan: &'a Plan, digester: &'a Digester) -> Self {
        Self { source, plan, digester, span: 0, within: 0, offset: 0, literals: Vec::new(), free: Vec::new() }
    }

    fn next(&mut self) -> Result<Option<Job>> {
        while let Some(span) = self.plan.spans.get(self.span) {
            let left = span.raw_len - self.within;
            if left == 0 {
                self.span += 1;
                self.within = 0;
                continue;
            }
            let literal = span.chunk_len == 0;
            let len = if literal { left } else { left.min(u64::from(span.chunk_len)) };
            let raw_offset = self.offset;
            let raw = self.read(len as usize)?;
            self.within += len;
            if literal {
                self.literals.extend_from_slice(&raw);
                continue;
            }
            return Ok(Some(Job { raw, raw_offset, numbers: plan::numbers(span), span: self.span }));
        }
        Ok(None)
    }

    fn read(&mut self, len: usize) -> Result<Arc<Vec<u8>>> {
        // A buffer that worker and digests have let go of is used again: fresh pages cost as much as reading.
        let free = self.free.iter().position(|buf| Arc::strong_count(buf) == 1).map(|at| self.free.swap_remove(at));
        let mut buf = free.and_then(Arc::into_inner).unwrap_or_default();
        buf.resize(len, 0);
        self.source.read_exact_at(self.offset, &mut buf)?;
        self.offset += len as u64;
        let buf = Arc::new(buf);
        self.free.push(Arc::clone(&buf));
        self.digester.update(Arc::clone(&buf));
        Ok(buf)
    }

    /// The literal bytes, once all was read.
    fn finish(self) -> Result<Vec<u8>> {
        if self.offset == self.source.len() {
            // Once more: it may have been written to meanwhile, where times do not tell of that.
            self.source.check_end()?;
            return Ok(self.literals);
        }
        Err(Error::Changed { path: self.source.path().into() })
    }
}

/// Least bytes of a chunk that is the same as its base that are coded.
const SAME_PIECE: usize = 32 << 10;

thread_local! {
    /// Fresh pages for each chunk would cost a tenth of the time.
    static WORKER: RefCell<Space> = RefCell::default();
}

/// Memory that a worker uses again.
#[derive(Default)]
struct Space {
    scratch: Scratch,
    packed: Vec<u8>,
    back: Vec<u8>,
    base: Vec<u8>,
    other: Vec<u8>,
}

/// Encodes a chunk, decodes it back and compares; `keep` gets the packed bytes, which lie in memory that is used again.
/// `input` and `raw_offset` are for the message when it differs.
pub(super) fn encode_and_prove<T>(
    input: &Path,
    mode: Mode,
    (numbers, raw_offset): (Numbers, u64),
    raw: &[u8],
    references: Option<&BaseRuns<'_>>,
    keep: impl FnOnce(&[u8]) -> T,
) -> Result<Encoded<T>> {
    WORKER.with_borrow_mut(|Space { scratch, packed, back, base, other }| {
        let mut cost = None;
        if let Some(references) = references.filter(|references| !references.is_empty()) {
            base.resize(raw.len(), 0);
            cost = references.read(raw_offset, base)?;
        }
        // Of what is the same as its base a piece tells what all would take: coding it is the longest part of the work.
        let mut same = cost.is_some_and(|cost| raw == base.as_slice() && raw.len() > 2 * cost);
        let mut piece = if same { raw.get(..(raw.len() / 8).max(SAME_PIECE)).unwrap_or(raw) } else { raw };
        let mut codec = codec::encode(numbers, mode, piece, packed, scratch);
        if same && codec == Codec::Constant {
            // All of it may be, and then it is smaller than a reference.
            (same, piece) = (false, raw);
            codec = codec::encode(numbers, mode, raw, packed, scratch);
        }
        let limit = if same { raw.len() } else { packed.len() };
        let alone = packed.len() as u64 * raw.len() as u64 / piece.len().max(1) as u64;
        if let Some(limit) = cost.and_then(|cost| limit.checked_sub(cost))
            && let Some(found) = codec::encode_against(numbers, (raw, base), limit, other, scratch)
        {
            codec = found;
            std::mem::swap(packed, other);
        }
        let len = packed.len();
        packed.resize(len + PAD, 0);
        back.resize(raw.len(), 0);
        let base = if codec.needs_base() { base.as_slice() } else { &[] };
        let decoded = Packed::new(packed, len).map(|p| codec::decode_against(codec, p, base, back, scratch));
        if decoded != Some(Ok(())) || *back != *raw {
            return Err(Error::NotLossless { path: input.into(), raw_offset, codec: codec.name() });
        }
        let packed = keep(packed.get(..len).unwrap_or_default());
        Ok(Encoded { packed, codec, checksum: checksum(raw), alone })
    })
}
