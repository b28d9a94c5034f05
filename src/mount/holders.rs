//! Who keeps a mount busy.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::Path;

use super::table::Line;

/// More than these are not listed.
const MOST: usize = 5;

/// A process that uses a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    /// Its command line, shortened.
    pub(super) command: String,
    /// What it uses: "working directory", "an open file".
    pub(super) by: &'static str,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({}): {}", self.pid, self.command, self.by)
    }
}

/// At most [`MOST`] processes besides this one and the `daemon` that use the mount, and whether there are more. Only those of the asking user, unless
/// that is root. Looks at names and device numbers only: a `stat` of an open file would ask the daemon.
pub(super) fn find(mount: &Line, daemon: Option<u32>) -> (Vec<Holder>, bool) {
    let mut holders = Vec::new();
    let Ok(processes) = fs::read_dir("/proc") else {
        return (holders, false);
    };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A daemon that mounted over its source keeps that open.
        if pid == std::process::id() || Some(pid) == daemon {
            continue;
        }
        let Some(by) = uses(&process.path(), mount) else {
            continue;
        };
        if holders.len() == MOST {
            return (holders, true);
        }
        holders.push(Holder { pid, command: command(&process.path()), by });
    }
    holders.sort_unstable_by_key(|holder| holder.pid);
    (holders, false)
}

fn uses(process: &Path, mount: &Line) -> Option<&'static str> {
    let below = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(&mount.mount_point));
    let files = || fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    if below(&process.join("cwd")) {
        Some("its working directory is there")
    } else if below(&process.join("root")) {
        Some("its root directory is there")
    } else if files().any(|file| below(&file.path())) {
        Some("it has a file open")
    } else if maps(process, &mount.device) {
        Some("it has a file mapped")
    } else {
        None
    }
}

/// Whether a mapping of the process is of the device, given as decimal `major:minor`.
fn maps(process: &Path, device: &str) -> bool {
    let Some(device) = device
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)))
    else {
        return false;
    };
    let text = fs::read(process.join("maps")).unwrap_or_default();
    // address permissions offset major:minor inode path, device numbers in hexadecimal
    String::from_utf8_lossy(&text).lines().any(|line| {
        let field = line.split_ascii_whitespace().nth(3).and_then(|field| field.split_once(':'));
        field.is_some_and(|(major, minor)| {
            (u32::from_str_radix(major, 16), u32::from_str_radix(minor, 16)) == (Ok(device.0), Ok(device.1))
        })
    })
}

fn command(process: &Path) -> String {
    let words = fs::read(process.join("cmdline")).unwrap_or_default();
    let mut text = String::from_utf8_lossy(&words).replace('\0', " ").trim().to_owned();
    if text.is_empty() {
        text = fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned();
    }
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}...", text.get(..cut).unwrap_or_default()),
        None => text,
    }
}

/// Mount points below `mount_point`, which keep it busy too.
pub(super) fn mounts_below(mount_point: &Path, table: &[Line]) -> Vec<OsString> {
    let below = |line: &&Line| line.mount_point != mount_point && line.mount_point.starts_with(mount_point);
    table.iter().filter(below).map(|line| line.mount_point.clone().into_os_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_the_file_system_of_its_working_directory() {
        let here = std::env::current_dir().unwrap();
        let mount = Line { device: "0:0".into(), mount_point: here, fs_type: "x".into(), source: "x".into() };
        assert_eq!(uses(Path::new("/proc/self"), &mount), Some("its working directory is there"));
    }

    #[test]
    fn mapped_files_are_found_by_device() {
        use std::os::unix::fs::MetadataExt;
        let dev = fs::metadata("/proc/self/exe").unwrap().dev();
        let device = format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
        assert!(maps(Path::new("/proc/self"), &device));
        assert!(!maps(Path::new("/proc/self"), "4095:77"));
    }

    #[test]
    fn mounts_below_do_not_count_neighbours() {
        let line = |path: &str| Line {
            device: "0:1".into(),
            mount_point: path.into(),
            fs_type: "x".into(),
            source: "x".into(),
        };
        let table = [line("/m"), line("/m/a"), line("/mm")];
        assert_eq!(mounts_below(Path::new("/m"), &table), ["/m/a"]);
    }
}
