//! `bsfs service`

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use bsfs::escape::Escaped;
use bsfs::{Error, Result};
use clap::{Args, Parser, Subcommand};

use super::helper;
use super::mount::MountArgs;
use super::out;
use super::service_files::{OURS, Places, UNIT, absolute, check_name, configuration, name_for, unit, value};

/// Mount at boot, by systemd
///
/// A service is a file NAME.conf in /etc/bsfs (with --user in ~/.config/bsfs), read by the unit bsfs@NAME.service. The unit itself
/// is written too, unless a package brought it.
#[derive(Debug, Args)]
pub struct ServiceArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Mount SOURCE at MOUNTPOINT now and at every start
    Install(InstallArgs),
    /// Unmount it, and do not mount it again
    Remove(RemoveArgs),
    /// Print the services there are
    List(ListArgs),
}

#[derive(Debug, Args)]
struct InstallArgs {
    /// What to show, as for "bsfs mount"
    source: String,
    /// Existing directory to show it at
    #[arg(value_name = "MOUNTPOINT")]
    mount_point: String,
    /// What to call it [default: MOUNTPOINT with '-' for '/']
    #[arg(long)]
    name: Option<String>,
    /// For this user alone, at every login (at every start of the machine after "loginctl enable-linger")
    #[arg(long)]
    user: bool,
    /// Only write the files
    #[arg(long)]
    no_start: bool,
    /// Options of "bsfs mount", behind "--"
    #[arg(last = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// The service
    name: String,
    /// One of this user
    #[arg(long)]
    user: bool,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Those of this user
    #[arg(long)]
    user: bool,
}

/// The options of a mount, to be checked before they are written.
#[derive(Debug, Parser)]
#[command(name = "bsfs mount", no_binary_name = true)]
struct Checked {
    #[command(flatten)]
    mount: MountArgs,
}

/// Does what was asked.
pub fn run(args: &ServiceArgs) -> Result<ExitCode> {
    match &args.what {
        What::Install(args) => install(args),
        What::Remove(args) => remove(args),
        What::List(args) => list(args),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn install(args: &InstallArgs) -> Result<()> {
    let ends = ["--", args.source.as_str(), args.mount_point.as_str()];
    let words = args.options.iter().map(String::as_str).chain(ends);
    let words = helper::expand(words.map(OsString::from).collect())?;
    let checked = Checked::try_parse_from(words).map_err(|e| Error::invalid(e.to_string().trim().to_owned()))?.mount;
    if checked.foreground || checked.daemon || checked.fuse_fd.is_some() {
        return Err(Error::invalid("--foreground is the unit's, and a service mounts by itself"));
    }
    let mount_point = absolute(&checked.mount_point)?;
    if !mount_point.is_dir() {
        return Err(Error::invalid(format!("{}: expected an existing directory", mount_point.display())));
    }
    let name = args.name.clone().unwrap_or_else(|| name_for(&mount_point));
    check_name(&name)?;
    let text = configuration(&checked, &args.options)?;
    let places = Places::new(args.user)?;
    if !args.no_start {
        needs_systemd(&args.options, &checked)?;
    }
    let file = places.configuration(&name);
    write_new(&file, &text)?;
    let mut written = vec![file];
    if places.unit().is_none()
        && let Some(dir) = places.units.first()
    {
        let program = std::env::current_exe().map_err(Error::io("find", "this program"))?;
        let path = dir.join(UNIT);
        write_new(&path, &unit(args.user, &program)?)?;
        written.push(path);
    }
    for path in &written {
        out::say(&format!("wrote {}", path.display()));
    }
    let service = format!("bsfs@{name}.service");
    if args.no_start {
        let user = if args.user { " --user" } else { "" };
        out::say(&format!("to start it: systemctl{user} daemon-reload && systemctl{user} enable --now {service}"));
        return Ok(());
    }
    systemctl(args.user, &["daemon-reload"])?;
    systemctl(args.user, &["enable", "--now", &service]).map_err(|error| {
        let user = if args.user { " --user" } else { "" };
        let again = format!("bsfs service remove{user} {name}");
        Error::invalid(format!("{error}; journalctl{user} -u {service} says why, and '{again}' takes it away"))
    })?;
    out::say(&format!("{service} serves {}", mount_point.display()));
    Ok(())
}

fn remove(args: &RemoveArgs) -> Result<()> {
    check_name(&args.name)?;
    let places = Places::new(args.user)?;
    let file = places.configuration(&args.name);
    let text = fs::read_to_string(&file).map_err(Error::io("read", &file))?;
    if !text.starts_with(OURS) {
        let text = "was not written by 'bsfs service install'; remove it by hand";
        return Err(Error::invalid(format!("{}: {text}", file.display())));
    }
    if is_running() {
        systemctl(args.user, &["disable", "--now", &format!("bsfs@{}.service", args.name)])?;
    }
    fs::remove_file(&file).map_err(Error::io("remove", &file))?;
    out::say(&format!("removed {}", file.display()));
    // The unit goes with the last of its services.
    let unit = places.units.first().map(|dir| dir.join(UNIT));
    let is_ours = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.starts_with(OURS));
    if let Some(unit) = unit.filter(|path| configurations(&places).is_empty() && is_ours(path)) {
        fs::remove_file(&unit).map_err(Error::io("remove", &unit))?;
        out::say(&format!("removed {}", unit.display()));
        if is_running() {
            systemctl(args.user, &["daemon-reload"])?;
        }
    }
    Ok(())
}

fn list(args: &ListArgs) -> Result<()> {
    let places = Places::new(args.user)?;
    let mut lines = String::new();
    for (name, text) in configurations(&places) {
        let state = state(args.user, &name);
        let (source, mount_point) = (value(&text, "SOURCE"), value(&text, "MOUNTPOINT"));
        lines += &format!("{}\n", Escaped(format!("{name}  ({state})  {source} at {mount_point}")));
    }
    out::print(if lines.is_empty() { "no services\n" } else { &lines })
}

/// The services there are, with their files' texts.
fn configurations(places: &Places) -> Vec<(String, String)> {
    let entries = fs::read_dir(&places.configurations).into_iter().flatten().flatten();
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name().to_str()?.strip_suffix(".conf")?.to_owned();
        Some((name, fs::read_to_string(entry.path()).ok()?))
    };
    let mut found: Vec<_> = entries.filter_map(read).collect();
    found.sort();
    found
}

fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Says what to do where there is no systemd.
fn needs_systemd(options: &[String], args: &MountArgs) -> Result<()> {
    if is_running() {
        return Ok(());
    }
    let (source, mount_point) = (args.source.display(), args.mount_point.display());
    let options = options.join(" ");
    Err(Error::invalid(format!(
        "systemd does not run here. Whatever starts things here may run 'bsfs mount --foreground {options} -- {source} \
         {mount_point}', or put '{source} {mount_point} bsfs _netdev,nofail 0 0' into /etc/fstab; --no-start only writes the files"
    )))
}

/// Writes a file that is not there yet. The same text that is there already is as good.
fn write_new(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::io("make the directory", parent))?;
    }
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    let mut file = match made {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let text = "is there and says something else; remove it, or choose another --name";
            return Err(Error::invalid(format!("{} {text}", path.display())));
        }
        made => made.map_err(Error::io("create", path))?,
    };
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(Error::io("write", path))
}

fn systemctl(user: bool, words: &[&str]) -> Result<()> {
    let mut command = Command::new("systemctl");
    bsfs::source::as_before(&mut command);
    command.args(user.then_some("--user")).args(words).stdin(Stdio::null());
    let output = command.output().map_err(Error::io("run", "systemctl"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or("no reason given");
    Err(Error::invalid(format!("systemctl {}: {first}", words.join(" "))))
}

fn state(user: bool, name: &str) -> String {
    let mut command = Command::new("systemctl");
    bsfs::source::as_before(&mut command);
    command.args(user.then_some("--user")).args(["is-active", &format!("bsfs@{name}.service")]);
    let said =
        command.stdin(Stdio::null()).output().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    said.ok().filter(|said| !said.is_empty()).unwrap_or_else(|| "not known".to_owned())
}
