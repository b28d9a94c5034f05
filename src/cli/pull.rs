//! `bsfs pull`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use bsfs::Result;
use bsfs::hub::{self, Client, HubUri, Pull, Pulled, Settings, State};
use clap::Args;

use super::exit::Exit;
use super::numbers;
use super::out::{self, print_json, say};
use super::progress::Bar;
use super::size::show_size;

/// Download a model into the cache of the Hub
///
/// The files go to the cache that huggingface_hub, transformers and others use ($HF_HUB_CACHE, or hub below $HF_HOME or
/// ~/.cache/huggingface), in the same layout: what is there already, from whatever program, is not fetched again. Files are
/// proven by their SHA-256 before they get their names; what an interrupted pull has fetched is used by the next one.
///
/// Prints the directory that shows the files. HF_TOKEN (or the token file), HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean there.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Model on the Hub: hf://ORG/NAME, or hf://ORG/NAME@REVISION for a branch, tag or commit
    #[arg(value_name = "HF_URI")]
    pub repository: String,
    /// Take only files that match, such as "*.safetensors"; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Leave out files that match; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Connections at once: for as many files, or when there are fewer for pieces of long ones [default: 8]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = numbers::threads())]
    pub threads: usize,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Pulls, then prints where the files are.
pub fn run(args: &PullArgs) -> Result<ExitCode> {
    let uri = HubUri::parse(&args.repository)?;
    let options = Pull { include: args.include.clone(), exclude: args.exclude.clone(), threads: args.threads };
    let pulled = with_bar(&uri, &options, &out::stop_flag(), args.json)?;
    if args.json {
        print_json(&pulled)?;
    } else {
        say(&describe(&pulled));
        out::print_exactly(&format!("{}\n", pulled.snapshot.display()))?;
    }
    Ok(Exit::Done.into())
}

/// Pulls with a bar, unless `quiet`.
fn with_bar(uri: &HubUri, options: &Pull, stop: &AtomicBool, quiet: bool) -> Result<Pulled> {
    let client = Client::new(Settings::from_env()?)?;
    let bar = Bar::new(0, quiet);
    bar.show_warnings();
    let pulled = hub::pull(&client, uri, options, stop, &bar);
    bar.done();
    pulled
}

/// The directory to read for an input of another verb: the snapshot for an address of the Hub, else `None`.
pub fn snapshot(input: &std::path::Path, stop: &AtomicBool, quiet: bool) -> Result<Option<(PathBuf, HubUri)>> {
    let Some(text) = input.to_str().filter(|text| HubUri::is_one(text)) else { return Ok(None) };
    let uri = HubUri::parse(text)?;
    let pulled = with_bar(&uri, &Pull::default(), stop, quiet)?;
    if !quiet {
        say(&describe(&pulled));
    }
    Ok(Some((pulled.snapshot, uri)))
}

fn describe(pulled: &Pulled) -> String {
    let count = |state: State| pulled.files.iter().filter(|file| file.state == state).count();
    let (files, there) = (pulled.files.len(), count(State::Cached) + count(State::Linked));
    let speed = pulled.downloaded_bytes as f64 / 1e6 / pulled.seconds.max(1e-9);
    let (repository, revision, all, came) =
        (&pulled.repository, &pulled.revision, show_size(pulled.bytes), show_size(pulled.downloaded_bytes));
    let commit = pulled.commit.get(..12).unwrap_or_default();
    format!(
        "hf://{repository}@{revision} ({commit}): {files} files, {all}; {there} were there, {came} downloaded in {:.1} s ({speed:.0} MB/s)",
        pulled.seconds
    )
}
