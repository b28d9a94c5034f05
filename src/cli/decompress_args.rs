//! The arguments of `bsfs decompress`.

use std::path::PathBuf;

use clap::Args;

use super::base::BaseArg;
use super::numbers;

/// Restore the original files, byte for byte
///
/// NAME.bs becomes NAME beside it, or the file or directory given with --output. Every chunk, every tensor and the
/// whole file are checked before the output appears under its name. The modification time is the original's.
///
/// With --output a directory is given back whole: files that are no containers are copied, links and directories made again.
/// With "-o -" one file goes to standard output; each chunk is checked before it is written, and the whole at the end.
///
/// A container of the Python package bigsmall holds tensors and not the file they came from: NAME.bs (or .bsr) becomes
/// NAME.safetensors, the same tensors with a header that is always the same for the same container. The MD5 of each tensor is
/// checked. Beside its shards, model.safetensors.index.json is written if there is none.
///
/// With --replace each container (of bsfs) is removed once the original, beside it, was read back from the disk and has the
/// SHA-256 that the container tells: the way back from "bsfs compress --replace", with the same promises.
#[derive(Debug, Args)]
pub struct DecompressArgs {
    /// Container of either format, or a directory of which all .bs and .bsr files are decompressed
    pub input: PathBuf,
    /// File to write, or directory; "-" is standard output [default: beside the container, without .bs]
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Replace outputs that exist already; of a link itself, not what it leads to
    #[arg(short, long)]
    pub force: bool,
    /// Remove each container once its original, beside it, was proven; asks before
    #[arg(long, conflicts_with = "output")]
    pub replace: bool,
    /// Do not ask
    #[arg(short, long, requires = "replace")]
    pub yes: bool,
    #[command(flatten)]
    pub base: BaseArg,
    /// Threads that decompress, up to 1024 [default: one for each core]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = numbers::threads())]
    pub threads: usize,
}
