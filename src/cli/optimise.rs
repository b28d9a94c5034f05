//! What to optimise: options of the verbs that compress.

use bsfs::codec::Mode;
use clap::Args;

use super::numbers;

#[derive(Debug, Args)]
pub struct Optimise {
    /// The smallest file, compressed more slowly
    #[arg(long, conflicts_with = "inference", help_heading = "What to optimise")]
    pub storage: bool,
    /// The fastest load
    #[arg(long, help_heading = "What to optimise")]
    pub inference: bool,
    /// Bytes of the original in a chunk, the unit of random access: 64K to 4M [default: 512K;
    /// 1M for F16 and F32, 2M with --storage]
    #[arg(long, value_name = "SIZE", value_parser = numbers::size(numbers::CHUNK), help_heading = "What to optimise")]
    pub chunk_size: Option<u64>,
}

/// What the verbs that compress have in common.
#[derive(Debug, Args)]
pub struct Work {
    #[command(flatten)]
    pub optimise: Optimise,
    /// Threads that decode and compress, up to 1024 [default: one for each core]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = numbers::threads())]
    pub threads: usize,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

impl Optimise {
    pub fn mode(&self) -> Mode {
        match (self.storage, self.inference) {
            (true, _) => Mode::Storage,
            (_, true) => Mode::Inference,
            _ => Mode::Balanced,
        }
    }

    pub fn chunk_len(&self) -> Option<u32> {
        self.chunk_size.and_then(|size| u32::try_from(size).ok())
    }
}
