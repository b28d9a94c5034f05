//! The way out: a safetensors file becomes a container that the Python package `bigsmall` reads.
//!
//! Written are the codings that the package itself writes by default: `bf16_se_rans`, `fp16_se_ac`, `fp32_se_ac`,
//! `fp8_cat_ac`, `zstd` and `raw`, the smallest of those that fit the type. Each packed tensor is decoded back and compared
//! before it is written. The header comes first and tells the lengths of all that follows, so packed tensors wait in a
//! file without a name beside the output.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use md5::{Digest, Md5};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::codec::{Blob, Coding, Fault, Symbols, encode, open};
use super::format::{Finished, Metadata, header};
use crate::compress::plan::read_json;
use crate::compress::{DtypeReport, Progress, Sums, ratio};
use crate::error::{Error, Result};
use crate::parallel;
use crate::sink::AtomicFile;
use crate::source::ReadAt;
use crate::tensor::{ElemType, Header, TensorInfo};

/// The package does not pack shorter tensors, bytes.
const PACKED_FROM: u64 = 512;
/// Raw bytes of the tensors that are packed at once, unless a single one is longer.
const AT_ONCE: u64 = 512 << 20;
/// Bytes that are decoded back and compared at once; a multiple of every element's size.
const WINDOW: usize = 512 << 10;
/// Packed bytes that are held while decoding back.
const FEED: usize = 1 << 20;

/// Types that the package, up to 4.0.0, takes for 16-bit ones, and so fails to shape.
const UNREAD: &[&str] =
    &["F64", "U32", "U64", "C64", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4", "F6_E2M3", "F6_E3M2"];

/// What [`export`] wrote.
#[derive(Debug, Clone, Serialize)]
pub struct Exported {
    /// Length of the safetensors file, bytes.
    pub raw_bytes: u64,
    /// Length of the container, bytes.
    pub packed_bytes: u64,
    /// packed / raw.
    pub ratio: f64,
    /// Number of tensors.
    pub tensors: usize,
    /// Per element type, the largest first.
    pub dtypes: Vec<DtypeReport>,
    /// Tensors of each codec name.
    pub codecs: BTreeMap<&'static str, u64>,
    /// Types in the file that releases up to 4.0.0 of the package fail to read, and with them the file, although it holds them.
    pub unread: Vec<String>,
}

/// A tensor on its way.
struct Packed {
    at: usize,
    coding: Coding,
    bytes: Vec<u8>,
    md5: [u8; 16],
}

/// Writes the safetensors file `source` as a container of `bigsmall`, version 1, to `output`.
///
/// # Errors
/// [`Error::Invalid`] for a file that is no sound safetensors file; [`Error::NotLossless`] when a tensor does not decode back,
/// [`Error::Exists`], [`Error::Interrupted`], those of the source and of the system. No output is left then.
pub fn export(
    pool: &rayon::ThreadPool,
    source: &dyn ReadAt,
    output: &Path,
    force: bool,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Exported> {
    let mut file = AtomicFile::create(output, force)?;
    if let Some(attributes) = source.attributes()? {
        file.narrow(&attributes)?.iter().for_each(|note| progress.note(note));
    }
    // Never published, so nothing of it is left.
    let mut waiting = AtomicFile::create(output, true)?;
    let exported = write(pool, source, (output, file.file(), waiting.file()), stop, progress)?;
    file.publish()?;
    Ok(exported)
}

/// The same, to where bytes go one after the other, which errors call `name`. Packed tensors wait in the directory for temporary
/// files.
///
/// # Errors
/// Those of [`export`] and of `out`.
pub fn export_to(
    pool: &rayon::ThreadPool,
    source: &dyn ReadAt,
    (name, out): (&Path, &mut dyn Write),
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Exported> {
    let directory = std::env::temp_dir();
    let mut waiting = nameless(&directory).map_err(Error::io("create a temporary file in", &directory))?;
    write(pool, source, (name, out, &mut waiting), stop, progress)
}

/// A file without a name that nobody else may read. All may write to the directory: no name in it is in the way.
fn nameless(directory: &Path) -> io::Result<File> {
    let (flags, mode) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    if let Ok(file) = rustix::fs::open(directory, flags | OFlags::TMPFILE, mode) {
        return Ok(file.into());
    }
    // The file system has no such files. The name is one by chance, of 64 bits.
    let chance = RandomState::new().hash_one(std::process::id());
    let path = directory.join(format!(".bsfs-export-{chance:016x}.tmp"));
    let file = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
    rustix::fs::unlink(&path)?;
    Ok(file.into())
}

fn write(
    pool: &rayon::ThreadPool,
    source: &dyn ReadAt,
    (output, out, waiting): (&Path, &mut dyn Write, &mut File),
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Exported> {
    source.check_end()?;
    let (tensors, metadata) = read(source)?;
    let gate = Gate::default();
    let mut next = tensors.iter().enumerate();
    let (mut packed, mut sums, mut codecs) = (Vec::with_capacity(tensors.len()), Sums::default(), BTreeMap::new());
    parallel::ordered(
        pool,
        2 * pool.current_num_threads(),
        || if stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(next.next()) },
        |(at, tensor)| gate.pass(tensor.len, || pack(source, at, tensor, stop)),
        |done: Packed| {
            waiting.write_all(&done.bytes).map_err(Error::io("write", output))?;
            let Some(tensor) = tensors.get(done.at) else { return Ok(()) };
            let len = done.bytes.len() as u64;
            sums.add(tensor.elem.name().unwrap_or("unknown"), tensor.len, len);
            *codecs.entry(done.coding.name()).or_insert(0) += 1;
            packed.push((done.coding, len, done.md5));
            progress.advance(tensor.len, len);
            Ok(())
        },
    )?;
    let finished: Vec<Finished<'_>> = tensors
        .iter()
        .zip(&packed)
        .map(|(t, &(coding, packed_len, md5))| Finished {
            name: &t.name,
            elem: t.elem,
            shape: &t.shape,
            coding,
            packed_len,
            md5,
        })
        .collect();
    let head = header(output, metadata.as_ref(), &finished)?;
    out.write_all(&head).map_err(Error::io("write", output))?;
    waiting.seek(SeekFrom::Start(0)).map_err(Error::io("read back", output))?;
    let copied = io::copy(waiting, out).map_err(Error::io("write", output))?;
    let expected: u64 = packed.iter().map(|(_, len, _)| len).sum();
    if copied != expected {
        return Err(Error::Truncated { path: output.into(), expected, got: copied });
    }
    let packed_bytes = head.len() as u64 + expected;
    Ok(Exported {
        raw_bytes: source.len(),
        packed_bytes,
        ratio: ratio(source.len(), packed_bytes),
        tensors: tensors.len(),
        dtypes: sums.rows(),
        codecs,
        unread: unread(&tensors),
    })
}

fn unread(tensors: &[TensorInfo]) -> Vec<String> {
    let mut names: Vec<String> =
        tensors.iter().filter(|t| t.len > 0 && UNREAD.contains(&&*t.dtype)).map(|t| t.dtype.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// The tensors of a safetensors file in order of offset, every byte behind the header being one of theirs, and its metadata.
fn read(source: &dyn ReadAt) -> Result<(Vec<TensorInfo>, Option<Metadata>)> {
    let no = |why: &str| {
        let text = "so it cannot become a container of bigsmall, which holds tensors";
        Error::invalid(format!("{}: {why}, {text}", source.path().display()))
    };
    let json = read_json(source)?.ok_or_else(|| no("not a safetensors file"))?;
    let parsed = Header::parse(&json, source.len()).ok_or_else(|| no("not a safetensors file"))?;
    let named = names(&json).ok_or_else(|| no("the header is damaged"))?;
    let mut found = HashSet::new();
    let mut at = parsed.data_start;
    for tensor in &parsed.tensors {
        if tensor.elem == ElemType::BYTES {
            let what = format!("tensor '{}' has dtype {} and shape {:?}", tensor.name, tensor.dtype, tensor.shape);
            return Err(no(&format!("{what}, which is unknown or not its {} bytes", tensor.len)));
        }
        if tensor.offset != at {
            return Err(no(&format!("bytes {at} to {} belong to no tensor", tensor.offset)));
        }
        if !found.insert(&tensor.name) {
            return Err(no(&format!("tensor '{}' occurs twice", tensor.name)));
        }
        at += tensor.len;
    }
    if at != source.len() {
        return Err(no(&format!("bytes {at} to {} belong to no tensor", source.len())));
    }
    if let Some(lost) = named.0.iter().find(|name| !found.contains(name)) {
        return Err(no(&format!("tensor '{lost}' overlaps another, lies outside the file or is malformed")));
    }
    Ok((parsed.tensors, named.1))
}

/// Names of all tensors, and what is below `__metadata__`.
fn names(json: &[u8]) -> Option<(Vec<String>, Option<Metadata>)> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(json).ok()?;
    let metadata = match members.get("__metadata__") {
        None => None,
        Some(raw) => {
            let values: Option<BTreeMap<String, Value>> = serde_json::from_str(raw.get()).ok()?;
            let text = |value| match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            values.map(|values| values.into_iter().map(|(key, value)| (key, text(value))).collect())
        }
    };
    Some((members.into_keys().filter(|name| name != "__metadata__").collect(), metadata))
}

/// Bounds the raw bytes of the tensors in work.
#[derive(Default)]
struct Gate {
    inside: Mutex<u64>,
    left: Condvar,
}

impl Gate {
    /// Does `work` on a tensor of `len` bytes when there is room; alone when there never would be.
    fn pass<T>(&self, len: u64, work: impl FnOnce() -> T) -> T {
        let full = |inside: &mut u64| *inside > 0 && inside.saturating_add(len) > AT_ONCE;
        let mut inside = self.inside.lock();
        self.left.wait_while(&mut inside, full);
        *inside += len;
        drop(inside);
        let _leave = Leave(self, len);
        work()
    }
}

/// Leaves also when the work panicked.
struct Leave<'a>(&'a Gate, u64);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        *self.0.inside.lock() -= self.1;
        self.0.left.notify_all();
    }
}

/// The coding of the package's default mode for a type, beside `zstd` and `raw`.
fn coding_of(elem: ElemType) -> Option<Coding> {
    match elem.name()? {
        "BF16" => Some(Coding::Bf16SeRans),
        "F16" => Some(Coding::Fp16SeAc),
        "F32" => Some(Coding::Fp32SeAc),
        "F8_E4M3" | "F8_E5M2" => Some(Coding::Fp8CatAc),
        _ => None,
    }
}

/// Reads a tensor and packs it, the smallest way.
fn pack(source: &dyn ReadAt, at: usize, tensor: &TensorInfo, stop: &AtomicBool) -> Result<Packed> {
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    let too_long = || Error::TooLarge {
        path: source.path().into(),
        what: "the length of a tensor",
        limit: usize::MAX as u64,
        got: tensor.len,
    };
    let mut raw = vec![0; usize::try_from(tensor.len).map_err(|_| too_long())?];
    source.read_exact_at(tensor.offset, &mut raw)?;
    let md5 = Md5::digest(&raw).into();
    let mut best = None;
    if tensor.len >= PACKED_FROM {
        for coding in coding_of(tensor.elem).into_iter().chain([Coding::Zstd]) {
            // What is too long for a coding's 32-bit lengths is packed another way.
            let Some(bytes) = encode(coding, &raw) else { continue };
            let shortest = best.as_ref().map_or(raw.len(), |(_, bytes): &(_, Vec<u8>)| bytes.len());
            if bytes.len() < shortest {
                best = Some((coding, bytes));
            }
        }
    }
    let Some((coding, bytes)) = best else {
        return Ok(Packed { at, coding: Coding::Raw, bytes: raw, md5 });
    };
    let bytes = Arc::new(bytes);
    let same = is_same(coding, &bytes, &raw);
    let bytes = Arc::try_unwrap(bytes).unwrap_or_else(|shared| shared.to_vec());
    match same {
        Ok(true) => Ok(Packed { at, coding, bytes, md5 }),
        Ok(false) | Err(Fault::Damage(_)) => {
            Err(Error::NotLossless { path: source.path().into(), raw_offset: tensor.offset, codec: coding.name() })
        }
        Err(Fault::Read(error)) => Err(error),
    }
}

/// Packed bytes in memory.
struct Bytes(Arc<Vec<u8>>);

impl Blob for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
        let found = usize::try_from(at).ok().and_then(|at| self.0.get(at..at.checked_add(to.len())?));
        to.copy_from_slice(found.ok_or_else(|| Error::invalid("a packed tensor was read beyond its end"))?);
        Ok(())
    }
}

/// Whether `packed` decodes to `raw`, to the last byte and with nothing left.
fn is_same(coding: Coding, packed: &Arc<Vec<u8>>, raw: &[u8]) -> Result<bool, Fault> {
    let (mut front, mut back) = open(coding, Arc::new(Bytes(Arc::clone(packed))), raw.len() as u64, FEED)?;
    let (mut symbols, mut out) = (Symbols::default(), Vec::new());
    for window in raw.chunks(WINDOW) {
        out.resize(window.len(), 0);
        front.window(window.len(), &mut symbols)?;
        back.window(&symbols, &mut out)?;
        if out != window {
            return Ok(false);
        }
    }
    front.finish()?;
    back.finish()?;
    Ok(true)
}
