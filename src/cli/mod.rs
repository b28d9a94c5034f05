//! The command line: one file per verb, the public API underneath, and nothing else.

mod against;
mod ahead;
mod base;
mod bench;
mod cache;
mod companions;
mod complete;
mod compress;
mod decompress;
#[cfg(feature = "mount")]
mod doctor;
mod doubt;
mod estimate;
mod exit;
mod export;
mod flatten;
#[cfg(feature = "mount")]
mod helper;
mod info;
mod info_bases;
mod info_bigsmall;
mod lease;
mod left_out;
#[cfg(feature = "mount")]
mod logging;
mod migrate;
mod migrate_report;
mod migrated;
#[cfg(feature = "mount")]
mod mount;
#[cfg(feature = "mount")]
mod notify;
mod opened;
mod optimise;
mod out;
mod progress;
#[cfg(feature = "hub")]
mod pull;
#[cfg(feature = "hub")]
mod push;
#[cfg(feature = "mount")]
mod remount;
mod replace;
mod replace_plan;
mod replaced;
mod rounds;
#[cfg(feature = "mount")]
mod service;
#[cfg(feature = "mount")]
mod service_files;
mod shards;
mod share;
mod size;
#[cfg(feature = "mount")]
mod status;
mod stream;
mod tables;
#[cfg(feature = "mount")]
mod unmount;
mod unpack;
mod verify;
#[cfg(feature = "mount")]
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use exit::Exit;

/// Lossless compressed model weights, mounted as the plain files they came from
///
/// "bsfs compress" packs model.safetensors into model.safetensors.bs, about a third smaller for BF16 weights;
/// "bsfs mount" shows a directory of .bs files as the plain .safetensors files, byte for byte, decoding on demand.
///
/// Exit status: 0 done; 1 "verify" found a difference; 2 an error, also in the arguments; 65 the input is damaged, and the same would
/// come of another try; 75 the disk, the network or another program stood in the way, and another try may help; 130 interrupted. Of
/// several files that failed 75 is told before 2, and 2 before 65.
#[derive(Debug, Parser)]
#[command(name = "bsfs", version, help_expected = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Compress(compress::CompressArgs),
    Decompress(decompress::DecompressArgs),
    Estimate(estimate::EstimateArgs),
    Info(info::InfoArgs),
    Verify(verify::VerifyArgs),
    Migrate(migrate::MigrateArgs),
    Flatten(flatten::FlattenArgs),
    Export(export::ExportArgs),
    Bench(bench::BenchArgs),
    #[cfg(feature = "hub")]
    Pull(pull::PullArgs),
    #[cfg(feature = "hub")]
    Push(push::PushArgs),
    Cache(cache::CacheArgs),
    #[cfg(feature = "mount")]
    Mount(mount::MountArgs),
    #[cfg(feature = "mount")]
    #[command(visible_alias = "umount")]
    Unmount(unmount::UnmountArgs),
    #[cfg(feature = "mount")]
    Remount(remount::RemountArgs),
    #[cfg(feature = "mount")]
    Service(service::ServiceArgs),
    #[cfg(feature = "mount")]
    Status(status::StatusArgs),
    #[cfg(feature = "mount")]
    Doctor(doctor::DoctorArgs),
    Completions(complete::CompletionsArgs),
    Man(complete::ManArgs),
}

/// What this process was asked to do; `None` for nothing. Wrong arguments end it here.
fn command_line(arguments: Vec<OsString>) -> bsfs::Result<Option<Cli>> {
    #[cfg(feature = "mount")]
    let Some(arguments) = helper::arguments(arguments)? else { return Ok(None) };
    Ok(Some(Cli::parse_from(arguments)))
}

/// Parses the arguments, runs the verb, prints what went wrong, and gives the exit code.
pub fn main() -> ExitCode {
    out::outlive_size_limits();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    #[cfg(feature = "mount")]
    let as_helper = helper::is_called(&arguments);
    let failed = |error: bsfs::Error| {
        out::say(&error.to_string());
        #[cfg(feature = "mount")]
        if as_helper {
            return helper::NOT_MOUNTED.into();
        }
        Exit::of(&error).into()
    };
    let cli = match command_line(arguments) {
        Ok(Some(cli)) => cli,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => return failed(error),
    };
    let done = match cli.verb {
        Verb::Compress(args) => compress::run(&args),
        Verb::Decompress(args) => decompress::run(&args),
        Verb::Estimate(args) => estimate::run(&args),
        Verb::Info(args) => info::run(&args),
        Verb::Verify(args) => verify::run(&args),
        Verb::Migrate(args) => migrate::run(&args),
        Verb::Flatten(args) => flatten::run(&args),
        Verb::Export(args) => export::run(&args),
        Verb::Bench(args) => bench::run(&args),
        #[cfg(feature = "hub")]
        Verb::Pull(args) => pull::run(&args),
        #[cfg(feature = "hub")]
        Verb::Push(args) => push::run(&args),
        Verb::Cache(args) => cache::run(&args),
        #[cfg(feature = "mount")]
        Verb::Mount(args) => mount::run(&args, as_helper),
        #[cfg(feature = "mount")]
        Verb::Unmount(args) => unmount::run(&args),
        #[cfg(feature = "mount")]
        Verb::Remount(args) => remount::run(&args),
        #[cfg(feature = "mount")]
        Verb::Service(args) => service::run(&args),
        #[cfg(feature = "mount")]
        Verb::Status(args) => status::run(&args),
        #[cfg(feature = "mount")]
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Completions(args) => complete::completions(&args, Cli::command()),
        Verb::Man(args) => complete::man(&args, Cli::command()),
    };
    done.unwrap_or_else(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_help_and_no_two_clash() {
        Cli::command().debug_assert();
    }
}
