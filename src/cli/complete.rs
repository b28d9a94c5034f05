//! `bsfs completions` and `bsfs man`: what clap knows, for shells and for `man`.

use std::path::PathBuf;
use std::process::ExitCode;

use bsfs::{Error, Result};
use clap::{Args, Command};

use super::out;

/// Print a completion script for a shell
///
/// For bash: bsfs completions bash > ~/.local/share/bash-completion/completions/bsfs
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    pub shell: clap_complete::Shell,
}

/// Write manual pages
///
/// One page for bsfs and one for each of its commands, in the format of man(1).
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Existing directory to write bsfs.1, bsfs-compress.1 … to; pages of these names are replaced
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// Prints the script to standard output.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "bsfs", &mut script);
    out::print_exactly(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the pages.
pub fn man(args: &ManArgs, command: Command) -> Result<ExitCode> {
    if !args.dir.is_dir() {
        return Err(Error::invalid(format!("{}: no such directory; create it first", args.dir.display())));
    }
    clap_mangen::generate_to(command, &args.dir).map_err(Error::io("write manual pages to", &args.dir))?;
    Ok(ExitCode::SUCCESS)
}
