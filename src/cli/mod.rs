//! The command line: one file per verb, the public API underneath, and nothing else.

mod against;
mod ahead;
mod base;
mod bench;
mod cache;
mod companions;
mod complete;
mod compress;
mod compress_args;
mod compress_plan;
mod decompress;
mod decompress_args;
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
mod memory;
mod migrate;
mod migrate_report;
mod migrated;
#[cfg(feature = "mount")]
mod mount;
#[cfg(feature = "mount")]
mod notify;
mod numbers;
mod opened;
mod optimise;
mod out;
mod overview;
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
mod version;
#[cfg(feature = "mount")]
mod watch;

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use exit::Exit;

/// Compress model weights without loss, and mount them as the plain files they came from
///
/// "bsfs compress" packs model.safetensors into model.safetensors.bs, about a third
/// smaller for BF16 weights. "bsfs mount" shows a directory of .bs files as the
/// original files, byte for byte.
#[derive(Debug, Parser)]
#[command(name = "bsfs", version, help_expected = true, max_term_width = 80, after_long_help = EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

/// The end of `bsfs --help`.
const EXIT_STATUS: &str = "\
Exit status: 0 done; 1 \"verify\" found a difference; 2 an error, including
invalid arguments; 65 the input is damaged, and retrying will not help; 75 the
disk, the network or another program failed, and retrying may help; 130
interrupted. If files fail for different reasons, 75 takes precedence over 2,
and 2 over 65.";

#[derive(Debug, Subcommand)]
enum Verb {
    Compress(compress_args::CompressArgs),
    Decompress(decompress_args::DecompressArgs),
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
    let mut command = overview::complete(Cli::command());
    let parsed = command.try_get_matches_from_mut(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    Ok(Some(parsed.unwrap_or_else(|error| refuse(&without_hidden(error)))))
}

/// Ends with what clap says, as one line if it may quote an argument that is more than text: a shell puts names of files there.
fn refuse(error: &clap::Error) -> ! {
    let is_hidden = |argument: OsString| argument.to_string_lossy().contains(bsfs::escape::is_hidden);
    if error.use_stderr() && std::env::args_os().any(is_hidden) {
        out::say(error.render().to_string().trim());
        std::process::exit(error.exit_code());
    }
    error.exit()
}

/// An error of arguments whose tip is no option that the help hides.
fn without_hidden(mut error: clap::Error) -> clap::Error {
    let text = |error: &clap::Error| match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let names = |arg: &clap::Arg, text: &str| arg.get_long().is_some_and(|long| text.strip_prefix("--") == Some(long));
    let verbs = Cli::command();
    let hidden = |text: &str| {
        let args = verbs.get_subcommands().flat_map(clap::Command::get_arguments);
        args.filter(|arg| names(arg, text)).any(clap::Arg::is_hide_set)
    };
    if text(&error).is_some_and(|text| hidden(&text)) {
        error.remove(ContextKind::SuggestedArg);
    }
    error
}

/// Parses the arguments, runs the verb, prints what went wrong, and gives the exit code.
pub fn main() -> ExitCode {
    bsfs::source::raise_limit();
    out::outlive_size_limits();
    memory::end_without_memory();
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
    // Whatever goes wrong is one of the exit statuses; the panic has said itself what it was.
    let run = AssertUnwindSafe(|| {
        #[cfg(feature = "mount")]
        return run(cli, as_helper);
        #[cfg(not(feature = "mount"))]
        run(cli)
    });
    match std::panic::catch_unwind(run) {
        Ok(done) => done.unwrap_or_else(failed),
        Err(_) => failed(bsfs::Error::invalid("this is a defect in bsfs, please report it")),
    }
}

fn run(cli: Cli, #[cfg(feature = "mount")] as_helper: bool) -> bsfs::Result<ExitCode> {
    match cli.verb {
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
        Verb::Completions(args) => complete::completions(&args, overview::complete(Cli::command())),
        Verb::Man(args) => complete::man(&args, overview::complete(Cli::command())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_help_and_no_two_clash() {
        Cli::command().debug_assert();
    }

    /// The verbs with what they are called by, those below others too.
    fn verbs(command: &clap::Command, words: &[String]) -> Vec<(Vec<String>, clap::Command)> {
        let below = |verb: &clap::Command| {
            let words = [words, &[verb.get_name().to_owned()]].concat();
            [vec![(words.clone(), verb.clone())], verbs(verb, &words)].concat()
        };
        command.get_subcommands().flat_map(below).collect()
    }

    #[test]
    fn every_number_has_a_range() {
        let mut numbers = 0;
        for (words, verb) in verbs(&Cli::command(), &["bsfs".to_owned()]) {
            for arg in verb.get_arguments() {
                let is_number = |name: &clap::builder::Str| ["N", "I/N", "SIZE", "SECONDS"].contains(&name.as_str());
                let Some(long) = arg.get_long() else { continue };
                if !arg.get_value_names().is_some_and(|names| names.iter().any(is_number)) {
                    continue;
                }
                numbers += 1;
                for wrong in
                    ["18446744073709551615", "18446744073709551616", "0/18446744073709551615", "-1", "lots", ""]
                {
                    let given = [&words[..], &[format!("--{long}={wrong}")]].concat();
                    let error = Cli::command().try_get_matches_from(&given).unwrap_err();
                    let kind = error.kind();
                    use clap::error::ErrorKind::{InvalidValue, ValueValidation};
                    assert!([InvalidValue, ValueValidation].contains(&kind), "{given:?}: {kind:?}");
                }
            }
        }
        assert!(numbers > 20, "{numbers}");
    }

    #[test]
    fn no_tip_leads_to_what_the_help_hides() {
        let said = |given: &[&str]| without_hidden(Cli::try_parse_from(given).unwrap_err()).to_string();
        for (words, verb) in verbs(&Cli::command(), &["bsfs".to_owned()]) {
            for hidden in verb.get_arguments().filter(|arg| arg.is_hide_set()).filter_map(clap::Arg::get_long) {
                let near = format!("--{hidden}x");
                let words: Vec<&str> = words.iter().map(String::as_str).chain([&*near]).collect();
                let said = said(&words);
                assert!(!said.contains("tip:") || !said.contains(&format!("'--{hidden}'")), "{said}");
            }
        }
        assert!(!said(&["bsfs", "mount", "a", "b", "--read-only"]).contains("daemon"));
        assert!(said(&["bsfs", "mount", "a", "b", "--memry", "1G"]).contains("'--memory'"), "other tips stay");
    }
}
