//! `bsfs push`

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use bsfs::Result;
use bsfs::escape::Escaped;
use bsfs::hub::{self, Client, Progress, Push, Pushed, Repo, Sent, Settings};
use clap::Args;

use super::exit::Exit;
use super::numbers;
use super::out::{self, print, print_json};
use super::progress::Bar;
use super::size::show_size;

/// Upload a directory to the Hub
///
/// The files of DIR become one commit of the model repository; files that are only in the repository stay. Contents that the Hub
/// has already are not sent again, so an interrupted push goes on where it was. Nothing is visible before the last step.
///
/// Needs a token that may write, in HF_TOKEN or the token file. Others load the model with "bsfs mount" or "bsfs pull".
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Directory to upload, such as the output of "bsfs compress"
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Repository on the Hub
    #[arg(value_name = "ORG/NAME")]
    pub repository: String,
    /// Make the repository if it is not there
    #[arg(long)]
    pub create: bool,
    /// Make it visible to its owners only
    #[arg(long, requires = "create")]
    pub private: bool,
    /// Branch to commit to
    #[arg(long, value_name = "BRANCH", default_value = "main")]
    pub revision: String,
    /// First line of the commit
    #[arg(short, long, value_name = "TEXT", default_value = "Upload with bsfs")]
    pub message: String,
    /// Files that are sent at once [default: 4]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = numbers::threads())]
    pub threads: usize,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// Pushes, then prints what became of it.
pub fn run(args: &PushArgs) -> Result<ExitCode> {
    let repo = Repo::new(args.repository.strip_prefix("hf://").unwrap_or(&args.repository))?;
    let options = Push {
        revision: args.revision.clone(),
        message: args.message.clone(),
        create: args.create,
        private: args.private,
        threads: args.threads,
    };
    let client = Client::new(Settings::from_env()?)?;
    let bar = Arc::new(Bar::new(0, args.json));
    bar.show_warnings();
    let progress: Arc<dyn Progress + Send + Sync> = Arc::clone(&bar) as _;
    let pushed = hub::push(&client, &args.dir, &repo, &options, &out::stop_flag(), &progress);
    bar.done();
    let pushed = pushed?;
    if args.json {
        print_json(&pushed)?;
    } else {
        print(&describe(&pushed))?;
    }
    pushed.left_out.iter().for_each(|error| out::say(&format!("{error}; left out")));
    Ok(if pushed.left_out.is_empty() { Exit::Done } else { Exit::Failed }.into())
}

fn describe(pushed: &Pushed) -> String {
    let count = |state: Sent| pushed.files.iter().filter(|file| file.state == state).count();
    let mut text = String::new();
    for file in pushed.files.iter().filter(|file| file.state == Sent::Ignored) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "left out by the repository's .gitignore: {}", Escaped(&file.path));
    }
    let (files, sent) = (pushed.files.len(), count(Sent::Uploaded));
    let there = count(Sent::Unchanged) + count(Sent::Known);
    let bytes = show_size(pushed.uploaded_bytes);
    let made = if pushed.created { ", a new repository" } else { "" };
    let _ = writeln!(
        text,
        "hf://{}@{}{made}: {files} files; {there} were there, {sent} sent, {bytes} in {:.1} s\n{}",
        Escaped(&pushed.repository),
        Escaped(&pushed.revision),
        pushed.seconds,
        Escaped(&pushed.url)
    );
    text
}
