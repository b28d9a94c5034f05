//! `bsfs export`

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bsfs::foreign::bigsmall::{self, Exported};
use bsfs::format::{SNIFF_LEN, Sniff, sniff};
use bsfs::longpath;
use bsfs::parallel;
use bsfs::source::{FileSource, ReadAt};
use bsfs::{Error, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::ahead::ImageSource;
use super::base::BaseArg;
use super::exit::Exit;
use super::numbers;
use super::opened;
use super::out::{self, print, say};
use super::progress::Bar;
use super::size::show_size;
use super::stream::Stream;
use super::tables::dtype_table;

/// Convert weights to the format of another packer
///
/// The format bigsmall is that of the Python package of that name: a version 1 container with the codecs that its default mode
/// uses (bf16_se_rans, fp16_se_ac, fp32_se_ac, fp8_cat_ac, zstd, raw), the smallest for each tensor. Releases from 3.4 on
/// decode all of them. Every tensor is decoded back and compared before it is written, and has its MD5 in the header. The
/// format keeps tensors, their order and __metadata__, but not the bytes of the file's header.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A safetensors file, or a container of bsfs that holds one
    #[arg(value_name = "FILE")]
    pub input: PathBuf,
    /// File to write; "-" is standard output
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// The format to write
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub format: Format,
    /// Replace an output that exists already
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub base: BaseArg,
    /// Threads that compress, up to 1024 [default: one for each core]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = numbers::threads())]
    pub threads: usize,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// What can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Containers of the Python package bigsmall
    Bigsmall,
}

/// All that is printed at the end.
#[derive(Debug, Serialize)]
struct Summary {
    input: PathBuf,
    output: PathBuf,
    #[serde(flatten)]
    exported: Exported,
    seconds: f64,
}

/// Exports one file.
pub fn run(args: &ExportArgs) -> Result<ExitCode> {
    // There is one so far.
    let Format::Bigsmall = args.format;
    let started = Instant::now();
    let stop = out::stop_flag();
    let pool = parallel::pool(args.threads)?;
    let source = open(args)?;
    if longpath::same_file(&args.input, &args.output) {
        return Err(Error::invalid(format!("{}: input and output are the same file", args.output.display())));
    }
    let mut stream = Stream::open(&args.output, || stop.load(Ordering::Relaxed))?;
    if stream.is_some() && args.json {
        return Err(Error::invalid("--json would be mixed with the container; leave it out, or write to a file"));
    }
    let bar = Bar::new(source.len(), args.json);
    bar.name(&args.input.display().to_string());
    let exported = match &mut stream {
        Some(stream) => bigsmall::export_to(&pool, &*source, (&args.output, stream), &stop, &bar),
        None => bigsmall::export(&pool, &*source, &args.output, args.force, &stop, &bar),
    };
    bar.done();
    let exported = exported?;
    if !exported.unread.is_empty() {
        let (output, dtypes) = (args.output.display(), exported.unread.join(", "));
        let text = "of which the package's own decoder fails (all releases up to 4.0.0); bsfs reads them";
        say(&format!("{output}: holds tensors of dtype {dtypes}, {text}"));
    }
    if stream.is_some() {
        return Ok(Exit::Done.into());
    }
    let seconds = started.elapsed().as_secs_f64();
    let summary = Summary { input: args.input.clone(), output: args.output.clone(), exported, seconds };
    if args.json {
        out::print_json(&summary)?;
    } else {
        print(&describe(&summary))?;
    }
    Ok(Exit::Done.into())
}

fn open(args: &ExportArgs) -> Result<Box<dyn ReadAt>> {
    let file = FileSource::open(&args.input)?;
    let mut first = [0; SNIFF_LEN];
    let got = file.read_at(0, &mut first)?;
    match sniff(first.get(..got).unwrap_or_default()) {
        Sniff::Other => {
            file.advise_sequential();
            Ok(Box::new(file))
        }
        Sniff::Native => {
            let finder = args.base.finder(&args.input)?;
            let image = opened::open(&args.input)?.image(&opened::engine(args.threads), &finder, None);
            Ok(Box::new(ImageSource::anywhere(image, &args.input).like(&file)?))
        }
        Sniff::Foreign(_) => {
            let text = "is a container of bigsmall already; \"bsfs decompress\" makes a safetensors file of it";
            Err(Error::invalid(format!("{}: {text}", args.input.display())))
        }
    }
}

fn describe(s: &Summary) -> String {
    let e = &s.exported;
    let (raw, packed) = (show_size(e.raw_bytes), show_size(e.packed_bytes));
    let speed = e.raw_bytes as f64 / 1e6 / s.seconds.max(1e-9);
    let mut text = format!(
        "{}: {raw} → {packed}, ratio {:.4}, {:.2} s ({speed:.0} MB/s)\n",
        out::shown(&s.output),
        e.ratio,
        s.seconds
    );
    let codecs: Vec<String> = e.codecs.iter().map(|(name, tensors)| format!("{tensors} × {name}")).collect();
    let _ = writeln!(text, "  codecs    {}", codecs.join(", "));
    dtype_table(&mut text, &e.dtypes);
    text
}
