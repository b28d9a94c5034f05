//! `bsfs flatten`

use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bsfs::compress::{self, Beside, Options, Original};
use bsfs::engine::{self, Whole};
use bsfs::format::Container;
use bsfs::format::checksum::hex;
use bsfs::longpath;
use bsfs::parallel;
use bsfs::source::{Bounds, ReadAt};
use bsfs::{Error, Result};
use clap::Args;

use super::ahead::ImageSource;
use super::base::BaseArg;
use super::exit::Exit;
use super::lease::{self, Halt, Held};
use super::opened::{self, Opened};
use super::optimise::Work;
use super::out::{self, print};
use super::progress::Bar;
use super::size::show_size;
use super::stream;
use super::version::is_version;

/// Make a container independent of other files
///
/// Containers that "compress --base" wrote, or that share tensors with another file of their directory, need that file.
/// The new container holds the same original alone: it is decoded again and its SHA-256 compared before it has its name.
#[derive(Debug, Args)]
pub struct FlattenArgs {
    /// The container
    #[arg(value_name = "FILE")]
    pub input: PathBuf,
    /// File to write
    #[arg(short, long, value_name = "OUT", conflicts_with = "in_place")]
    pub output: Option<PathBuf>,
    /// Replace the container
    #[arg(long)]
    pub in_place: bool,
    /// Replace an output that exists already
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub base: BaseArg,
    #[command(flatten)]
    pub work: Work,
}

/// Flattens one container.
pub fn run(args: &FlattenArgs) -> Result<ExitCode> {
    // First: the container itself may lie aside.
    let healed = if args.in_place { lease::heal(&args.input, &Bounds::default(), false).tell() } else { Exit::Done };
    let output = output(args)?;
    let halt = Halt::watch(out::stop_flag())?;
    let stop = &*halt.any;
    let pool = parallel::pool(args.work.threads)?;
    let engine = opened::engine(args.work.threads);
    let Opened::Native(source, container) = opened::open(&args.input)? else {
        let text = "is a container of bigsmall; \"bsfs migrate\" makes one of bsfs of it";
        return Err(Error::invalid(format!("{}: {text}", args.input.display())));
    };
    let held = if args.in_place { Some(Held::take(&source, &args.input)?) } else { None };
    let finder = args.base.finder(Path::new(""))?;
    let references = finder.references(&engine, &container, source.identity());
    if let Some(references) = &references {
        references.complete(&container)?;
    }
    let before = source.identity().len;
    let image = engine.image_with(container.clone(), source.clone(), references);
    let shown = ImageSource::new(image, &args.input, 0).like(&*source)?;
    let name = PathBuf::from(std::ffi::OsStr::from_bytes(&container.file().name));
    let original = Original { source: &shown, name: &name, mtime: container.mtime() };
    let options = Options {
        mode: args.work.optimise.mode(),
        chunk_len: args.work.optimise.chunk_len(),
        force: args.force || args.in_place,
        against: None,
        stop,
    };
    let bar = Bar::new(container.raw_len(), args.work.json);
    bar.name(&args.input.display().to_string());
    let expected = container.file().sha256;
    let admit = |written: &dyn ReadAt| {
        let made = Container::open(written)?;
        let verified = engine::verify(&pool, Whole::new(&made, written), None, stop, &mut |_, _| Ok(()))?;
        if made.file().sha256 == expected {
            return held.iter().try_for_each(|held| held.check(&halt)).map(|()| true);
        }
        let what = "SHA-256 of the original, read back before it was published,".into();
        Err(Error::Differs { path: output.clone(), what, expected: hex(&expected), got: verified.sha256 })
    };
    let is_it = |meta: &Metadata| is_version(source.identity(), meta);
    let beside = match &held {
        Some(held) => Beside { like: Some(&held.attributes), over: Some(&is_it) },
        None => Beside::default(),
    };
    let report = compress::compress_beside(&pool, &original, &output, &options, beside, &bar, admit);
    bar.done();
    let report = halt.explain(&args.input, report)?;
    let Some((report, _)) = report else { return Ok(Exit::Failed.into()) };
    if args.work.json {
        out::print_json(&report)?;
    } else {
        let (from, to) = (show_size(before), show_size(report.packed_bytes));
        print(&format!("{}: {from} → {to}, ratio {:.4}; needs no other file\n", out::shown(&output), report.ratio))?;
    }
    Ok(healed.into())
}

fn output(args: &FlattenArgs) -> Result<PathBuf> {
    let Some(out) = &args.output else {
        if !args.in_place {
            let text = "say with -o OUT what to write, or with --in-place that the container itself is to be replaced";
            return Err(Error::invalid(format!("{}: {text}", args.input.display())));
        }
        let meta = longpath::symlink_metadata(&args.input).map_err(Error::io("stat", &args.input))?;
        if meta.is_symlink() {
            let text = "is a link, and --in-place would leave what it leads to; use -o, or name that file";
            return Err(Error::invalid(format!("{}: {text}", args.input.display())));
        }
        return Ok(args.input.clone());
    };
    stream::refuse(out)?;
    let output = if longpath::is_dir(out) { out.join(args.input.file_name().unwrap_or_default()) } else { out.clone() };
    if longpath::same_file(&args.input, &output) {
        return Err(Error::invalid(format!("{}: is the input; use --in-place to replace it", output.display())));
    }
    Ok(output)
}
