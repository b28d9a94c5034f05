//! `bsfs`: lossless compressed model weights, mounted as the plain files they came from.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
