//! The arguments of `bsfs compress`.

use std::path::PathBuf;

use clap::Args;

use super::optimise::Work;
use super::share::Share;

/// Compress weights without loss
///
/// A file becomes NAME.bs beside it, or the file given with --output. A directory becomes a mirror under --output:
/// every .safetensors file is compressed, every other file copied as it is, links are followed. A model on the Hugging Face Hub, hf://ORG/NAME[@REVISION], is pulled into
/// the hub cache first (see "bsfs pull"). The input is never changed. Every chunk is decoded back and compared before it is written.
///
/// Every container can be read without any other file, but for these two. With --base a fine-tune is stored as what differs from
/// its base, which is needed to read it. With --dedup tensors that several files of the run have are stored once, in the first
/// of these files, which the others need: beside them, or below the same mount. PyTorch files (.bin, .pt, .pth, .ckpt) that
/// mostly repeat other files are then compressed as well. What one file repeats of itself is stored once in any case.
///
/// With --replace each file of weights becomes NAME.bs in its place, one after the other, the shortest first: the container is
/// written beside it, read back from the disk, decoded and compared with it, and only then is the original removed. There must be
/// room for one more file. Interrupted at any moment, each file is the original, or packed and proven, or both, and running the
/// same again goes on. In directories these are the files called .safetensors and those that a link of such a name leads to, as
/// in the cache of the Hugging Face Hub; links stay as they are, and lead somewhere again when the directory is mounted over
/// itself ("bsfs mount DIR DIR"). Every container holds all of its file: nothing is stored once for several. Files that are open
/// for writing, and hard links with names elsewhere, are left as they are, and said. Permissions, access lists and extended
/// attributes stay. "bsfs decompress --replace" is the way back.
#[derive(Debug, Args)]
pub struct CompressArgs {
    /// Files, directories or models on the Hub (hf://ORG/NAME) to compress
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// File to write, or directory; a directory as INPUT needs one
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Replace outputs that exist already; of a link itself, not what it leads to
    #[arg(short, long)]
    pub force: bool,
    /// Remove each original once its container, beside it, was proven to hold it; asks before, and says what it will save
    #[arg(long, conflicts_with_all = ["output", "base"])]
    pub replace: bool,
    /// Do not ask
    #[arg(short, long, requires = "replace")]
    pub yes: bool,
    /// Store tensors as differences from those of the same name in this safetensors file, container or directory. May be repeated
    #[arg(long, value_name = "BASE")]
    pub base: Vec<PathBuf>,
    /// Do share I (from 0) of N of the files, for N machines with the same INPUT and OUT, in any order. Files that are there
    /// already are not made again
    #[arg(long, value_name = "I/N", conflicts_with_all = ["replace", "dedup"])]
    pub shard: Option<Share>,
    /// Store tensors that several files have once; the other files then need the one that has them
    #[arg(long, conflicts_with = "replace")]
    pub dedup: bool,
    /// Write nothing, and print what would be written, with and without the base
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub work: Work,
}
