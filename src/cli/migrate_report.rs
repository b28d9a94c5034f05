//! What `bsfs migrate` did, or would do.

use std::path::PathBuf;

use bsfs::Result;
use bsfs::compress::ratio;
use serde::Serialize;

use super::out::{print, say, shown};
use super::size::show_size;

/// What became of one file.
#[derive(Debug, Serialize)]
pub struct Outcome {
    pub input: PathBuf,
    pub output: PathBuf,
    /// "migrated", "kept" because the new one is larger, or "error"; with --dry-run what would be.
    pub state: &'static str,
    /// Bytes of the shown safetensors file.
    pub raw_bytes: u64,
    /// Bytes of the BigSmall file.
    pub before_bytes: u64,
    /// Bytes of the new container, also when it was not written; null after an error.
    pub after_bytes: Option<u64>,
    /// Tensors that it stores again, as only the shard index told of them.
    pub duplicates: usize,
    /// Bytes that removing the original gave back.
    pub freed_bytes: u64,
    pub message: Option<String>,
}

/// All that is printed at the end.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub dry_run: bool,
    pub files: Vec<Outcome>,
    /// Of what was migrated.
    pub before_bytes: u64,
    pub after_bytes: u64,
    pub freed_bytes: u64,
    pub seconds: f64,
}

/// Prints the line of one file.
pub fn show(o: &Outcome, dry_run: bool) -> Result<()> {
    if let Some(message) = &o.message {
        say(message);
        return Ok(());
    }
    let (before, after) = (o.before_bytes, o.after_bytes.unwrap_or(0));
    let sizes = format!("{} → {}", show_size(before), show_size(after));
    let again = match o.duplicates {
        0 => String::new(),
        n => format!("; {n} tensors with the bytes of others are stored again"),
    };
    let would = if dry_run { "would be " } else { "" };
    if o.state == "kept" {
        let text = format!("{} bytes larger; --allow-larger writes it all the same", after.saturating_sub(before));
        let would = if dry_run { "would be kept" } else { "kept" };
        return print(&format!("{}: {would}: {sizes}, {text}{again}\n", shown(&o.input)));
    }
    let change = format!("ratio {:.4} (was {:.4})", ratio(o.raw_bytes, after), ratio(o.raw_bytes, before));
    let removed = if o.freed_bytes > 0 { format!("; freed {}", show_size(o.freed_bytes)) } else { String::new() };
    print(&format!("{}: {would}{sizes}, {change}{again}{removed}\n", shown(&o.output)))
}

/// The line of all of them.
pub fn describe(s: &Summary) -> String {
    let count = |state: &str| s.files.iter().filter(|file| file.state == state).count();
    let mut text = format!(
        "{} {}: {} → {}",
        count("migrated"),
        if s.dry_run { "would be migrated" } else { "migrated" },
        show_size(s.before_bytes),
        show_size(s.after_bytes)
    );
    if count("kept") > 0 {
        text += &format!("; {} kept, as they would be larger", count("kept"));
    }
    if s.freed_bytes > 0 {
        text += &format!("; freed {}", show_size(s.freed_bytes));
    }
    text + "\n"
}
