//! What the verbs share: printing, JSON, signals, and finding containers.

use std::ffi::OsStr;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bsfs::escape::{self, Escaped};
use bsfs::longpath;
use bsfs::sink::Place;
use bsfs::{Error, Result};
use serde::Serialize;

use super::exit::Exit;

/// Writes lines for people to standard output, with escapes. Names in them are [`shown`], or their newlines would count as these.
pub fn print(text: &str) -> Result<()> {
    print_exactly(&escape::lines(text))
}

/// Writes to standard output for programs. Nobody listening any more is no error.
pub fn print_exactly(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("write", "standard output")(e)),
        _ => Ok(()),
    }
}

/// Prints a value as JSON.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(value);
    let json = json.map_err(|e| Error::invalid(format!("cannot print as JSON: {e}")))?;
    print_exactly(&format!("{}\n", escape::json(&json)))
}

/// A path as one line shows it.
pub fn shown(path: &Path) -> Escaped<std::path::Display<'_>> {
    Escaped(path.display())
}

/// A message for the user, one line on standard error.
pub fn say(text: &str) {
    // A standard error that is closed is no reason to stop.
    let _ = writeln!(io::stderr(), "bsfs: {}", Escaped(text));
}

/// Becomes true at the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once.
pub fn stop_flag() -> Arc<AtomicBool> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Without handlers a signal ends the process, which leaves no half file either.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop));
        let _ = signal_hook::flag::register(signal, Arc::clone(&stop));
    }
    stop
}

/// Says what was left out, as it could not be read; gives how the program ends for that.
pub fn left_out(errors: &[Error]) -> Exit {
    errors.iter().for_each(|error| say(&format!("{error}; left out")));
    errors.iter().map(Exit::of).fold(Exit::Done, Exit::and)
}

/// Makes a limit on the size of files (`ulimit -f`, `LimitFSIZE=`) an error of the write that meets it. Otherwise it ends
/// the process.
pub fn outlive_size_limits() {
    // With a handler, which need not do anything, the write fails. Unlike "ignored" it is not passed on to other programs.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
}

/// The `.bs` and `.bsr` files of a path: itself for a file, all below it for a directory, in order of path. What cannot be read
/// below a directory is left out, and [`Exit`] says so.
pub fn containers(path: &Path) -> Result<(Vec<PathBuf>, Exit)> {
    if !longpath::is_dir(path) {
        return Ok((vec![path.to_path_buf()], Exit::Done));
    }
    let tree = bsfs::compress::walk(path, None)?;
    let exit = left_out(&tree.errors);
    let mut found: Vec<PathBuf> = tree
        .entries
        .iter()
        // What a link leads to is found under its own name.
        .filter(|entry| !entry.is_link() && is_container(entry.path()))
        .map(|entry| path.join(entry.path()))
        .collect();
    found.sort();
    if found.is_empty() && exit == Exit::Done {
        return Err(Error::invalid(format!("{}: no .bs file in this directory or below it", path.display())));
    }
    Ok((found, exit))
}

/// Whether a file is a container by its name.
pub fn is_container(path: &Path) -> bool {
    [Some(OsStr::new("bs")), Some(OsStr::new("bsr"))].contains(&path.extension())
}

/// Whether something has that name already, so that it would be replaced.
///
/// # Errors
/// [`Error::Invalid`] when it is no regular file, which is never replaced.
pub fn is_there(output: &Path) -> Result<bool> {
    occupied(output, Place::of(output)?)
}

/// The same of a link that is to be made there.
pub fn is_there_for_link(output: &Path) -> Result<bool> {
    occupied(output, Place::of_link(output)?)
}

fn occupied(output: &Path, place: Place) -> Result<bool> {
    place.check(output)?;
    Ok(place != Place::Free)
}

/// `path` with `.bs` behind its name.
pub fn with_bs(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bs");
    PathBuf::from(name)
}

/// `path` without the `.bs` at its end; `None` when it has none, or nothing before it.
pub fn without_bs(path: &Path) -> Option<PathBuf> {
    (path.extension()? == "bs").then(|| path.with_extension(""))
}

/// One line of a table whose first column is text and whose others are numbers.
pub fn row(first: &str, width: usize, rest: &[String]) -> String {
    let first = Escaped(first).to_string();
    let mut line = format!("  {first:<width$}");
    for cell in rest {
        let cell = Escaped(cell).to_string();
        line += &format!("  {cell:>10}");
    }
    line.truncate(line.trim_end().len());
    line + "\n"
}

/// A path for a table cell, with escapes, the end of it when it is long.
pub fn shorten(text: &str, most: usize) -> String {
    let text = Escaped(text).to_string();
    let length = text.chars().count();
    if length <= most {
        return text;
    }
    std::iter::once('…').chain(text.chars().skip(length + 1 - most)).collect()
}
