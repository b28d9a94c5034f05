//! `bsfs bench`

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use bsfs::codec::{Kernel, Mode, PAD};
use bsfs::compress::{self, DtypeSeconds, Options, ratio};
use bsfs::engine;
use bsfs::format::{Container, Sniff, sniff};
use bsfs::parallel;
use bsfs::source::{FileSource, MemorySource, ReadAt};
use bsfs::{Error, Result};
use clap::Args;
use serde::Serialize;

use super::exit::Exit;
use super::numbers;
use super::out::{self, print, row, shorten};
use super::progress::Bar;
use super::rounds::{self, Rounds, Subject};
use super::size::show_size;

/// Measure speed of encoding and decoding in memory
///
/// Reads FILE once, writes nothing, and needs memory for about three times its length. A plain file is encoded as
/// "compress" does it, each chunk decoded back and compared, but for the digests (SHA-256, BLAKE3); then it is
/// decoded. A container is decoded only.
///
/// Decoding is the whole way from packed bytes to raw bytes that have passed their checksum, into one buffer of the
/// file's length. memcpy copies the same raw bytes into the same buffer, chunk by chunk on as many threads, and takes
/// turns with decoding, so that noise hits both. Both are medians over the rounds, after one that does not count;
/// encoding is measured once. One dtype is worked on after the other and has its own time, and a whole is their sum:
/// on several threads each dtype ends with the slowest of them. GB/s are 10^9 raw bytes per second of wall-clock time.
/// A file that fits into the processor's caches says little about longer ones.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// File of weights, or a container
    pub file: PathBuf,
    /// What encoding optimises: balanced, inference or storage [default: balanced]
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    pub mode: Option<Mode>,
    /// Threads that encode, decode and copy, up to 1024; 0 is one for each core
    #[arg(short = 'j', long, value_name = "N", default_value_t = 1, value_parser = numbers::threads())]
    pub threads: usize,
    /// Rounds that count
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    let mut modes = [Mode::Balanced, Mode::Inference, Mode::Storage].into_iter();
    modes.find(|mode| Mode::name_of(mode.id()) == Some(text)).ok_or("use balanced, inference or storage".to_owned())
}

/// All that is printed at the end.
#[derive(Debug, Serialize)]
struct Report {
    file: PathBuf,
    mode: &'static str,
    kernel: &'static str,
    threads: usize,
    rounds: u32,
    /// `packed_bytes` is the whole container's length.
    #[serde(flatten)]
    all: Figures,
    dtypes: Vec<DtypeRow>,
}

/// Without the container's header and index, and what they hold of the original.
#[derive(Debug, Serialize)]
struct DtypeRow {
    dtype: &'static str,
    #[serde(flatten)]
    figures: Figures,
}

/// Speeds are raw bytes per second.
#[derive(Debug, Serialize)]
struct Figures {
    raw_bytes: u64,
    packed_bytes: u64,
    ratio: f64,
    encode_bytes_per_second: Option<f64>,
    decode_bytes_per_second: f64,
    memcpy_bytes_per_second: f64,
    decode_per_memcpy: f64,
}

impl Figures {
    fn new(raw_bytes: u64, packed_bytes: u64, encode: Option<f64>, decode: f64, memcpy: f64) -> Self {
        // A clock may stand still while a few bytes are copied.
        let speed = |seconds: f64| raw_bytes as f64 / seconds.max(1e-9);
        Self {
            raw_bytes,
            packed_bytes,
            ratio: ratio(raw_bytes, packed_bytes),
            encode_bytes_per_second: encode.map(speed),
            decode_bytes_per_second: speed(decode),
            memcpy_bytes_per_second: speed(memcpy),
            decode_per_memcpy: memcpy.max(1e-9) / decode.max(1e-9),
        }
    }
}

/// Measures, then prints the figures.
pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    let stop = out::stop_flag();
    let pool = parallel::pool(args.threads)?;
    let file = FileSource::open(&args.file)?;
    let bytes = read(&file, &stop)?;
    let bar = Bar::new(file.len() * u64::from(args.rounds + 2), args.json);
    bar.name(&args.file.display().to_string());
    let result = subject(args, &pool, &file, bytes, &stop, &bar).and_then(|(subject, encoded)| {
        let times = rounds::run(&pool, &subject, args.rounds, &stop, &bar)?;
        Ok(report(args, pool.current_num_threads(), &subject.container, encoded, times))
    });
    bar.done();
    let report = result?;
    if args.json {
        out::print_json(&report)?;
    } else {
        print(&describe(&report))?;
    }
    Ok(Exit::Done.into())
}

/// The bytes of a file, in a vector that has room for [`PAD`] more.
fn read(file: &FileSource, stop: &AtomicBool) -> Result<Vec<u8>> {
    file.advise_sequential();
    let len = file.len() as usize;
    let mut bytes = Vec::with_capacity(len + PAD);
    bytes.resize(len, 0);
    let mut offset = 0;
    for piece in bytes.chunks_mut(16 << 20) {
        rounds::check(stop)?;
        file.read_exact_at(offset, piece)?;
        offset += piece.len() as u64;
    }
    Ok(bytes)
}

/// Times of encoding, seconds: in all and of each element type.
type Encoded = (f64, Vec<DtypeSeconds>);

/// A container and the original's bytes: made of a plain file, or decoded from a container.
fn subject(
    args: &BenchArgs,
    pool: &rayon::ThreadPool,
    file: &FileSource,
    bytes: Vec<u8>,
    stop: &AtomicBool,
    bar: &Bar,
) -> Result<(Subject, Option<Encoded>)> {
    let is_container = sniff(&bytes) == Sniff::Native;
    let source = MemorySource::new(&args.file, bytes);
    if !is_container {
        let options =
            Options { mode: args.mode.unwrap_or_default(), chunk_len: None, force: false, against: None, stop };
        let (seconds, nanoseconds) = file.identity().mtime;
        let mtime = (seconds, u32::try_from(nanoseconds).unwrap_or(0));
        let made = compress::encode_in_memory(pool, &source, mtime, &options, bar)?;
        let (container, packed) = opened(MemorySource::new(&args.file, made.container))?;
        let subject = Subject { container, packed, raw: source.into_bytes() };
        return Ok((subject, Some((made.seconds, made.dtypes))));
    }
    let container = Container::open(&source)?;
    if args.mode.is_some() {
        let mode = Mode::name_of(container.file().mode).unwrap_or("unknown");
        let text = format!("is a container, encoded for {mode}; leave out --mode, or name the original");
        return Err(Error::invalid(format!("{}: {text}", args.file.display())));
    }
    let mut raw = Vec::new();
    engine::scan(pool, engine::Whole::new(&container, &source), stop, |_, piece| {
        raw.extend_from_slice(piece);
        Ok(())
    })?;
    let (container, packed) = opened(source)?;
    Ok((Subject { container, packed, raw }, None))
}

/// A container and its bytes, padded.
fn opened(source: MemorySource) -> Result<(Container, Vec<u8>)> {
    let container = Container::open(&source)?;
    let mut packed = source.into_bytes();
    packed.resize(packed.len() + PAD, 0);
    Ok((container, packed))
}

fn report(args: &BenchArgs, threads: usize, container: &Container, encoded: Option<Encoded>, rounds: Rounds) -> Report {
    let (seconds, list) = encoded.map_or((None, Vec::new()), |(seconds, list)| (Some(seconds), list));
    let rows = rounds.dtypes.into_iter().map(|d| {
        let encode = list.iter().find(|row| row.dtype == d.dtype).map(|row| row.seconds);
        let figures = Figures::new(d.raw_bytes, d.packed_bytes, encode, d.decode, d.memcpy);
        DtypeRow { dtype: d.dtype, figures }
    });
    let mut dtypes: Vec<DtypeRow> = rows.collect();
    dtypes.sort_by_key(|row| std::cmp::Reverse(row.figures.raw_bytes));
    let (raw, packed) = (container.raw_len(), container.header().container_len);
    Report {
        file: args.file.clone(),
        mode: Mode::name_of(container.file().mode).unwrap_or("unknown"),
        kernel: Kernel::detect().name(),
        threads,
        rounds: args.rounds,
        all: Figures::new(raw, packed, seconds, rounds.decode, rounds.memcpy),
        dtypes,
    }
}

fn describe(r: &Report) -> String {
    let speed = |bytes_per_second: f64| format!("{:.2} GB/s", bytes_per_second / 1e9);
    let line = |name: &str, f: &Figures| {
        let cells = [
            show_size(f.raw_bytes),
            show_size(f.packed_bytes),
            format!("{:.4}", f.ratio),
            f.encode_bytes_per_second.map_or("-".into(), speed),
            speed(f.decode_bytes_per_second),
            format!("{:.3}", f.decode_per_memcpy),
        ];
        row(&shorten(name, 12), 12, &cells)
    };
    let mut text = String::new();
    let threads = if r.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", r.threads) };
    let memcpy = speed(r.all.memcpy_bytes_per_second);
    let _ = writeln!(text, "{}: mode {}, kernel {}, {threads}, memcpy {memcpy}", out::shown(&r.file), r.mode, r.kernel);
    text += &row("dtype", 12, &["raw", "packed", "ratio", "encode", "decode", "of memcpy"].map(String::from));
    for dtype in &r.dtypes {
        text += &line(dtype.dtype, &dtype.figures);
    }
    text + &line("all", &r.all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_finite_when_there_is_nothing() {
        let f = Figures::new(0, 100, Some(0.0), 0.0, 0.0);
        assert!(f.ratio == 1.0 && f.decode_bytes_per_second == 0.0 && f.decode_per_memcpy == 1.0);
    }
}
