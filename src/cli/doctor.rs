//! `bsfs doctor`

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use bsfs::codec::{Kernel, Mode, PAD};
use bsfs::compress::{self, Options};
use bsfs::escape::Escaped;
use bsfs::format::Container;
use bsfs::mount::Rights;
use bsfs::source::MemorySource;
use bsfs::{Result, cache, mount, parallel};
use clap::Args;
use serde::Serialize;

use super::exit::Exit;
use super::out::{self, print};
use super::progress::Bar;
use super::rounds::{self, Subject};
use super::size::show_size;

/// Numbers that the speed is measured with.
const ELEMENTS: usize = 8 << 20;

/// Check the setup of this machine
///
/// Each finding with what to do about it. Exit status: 0 mounts can be made; 1 something is wrong.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    /// "good", "note" or "wrong"
    state: &'static str,
    found: String,
    /// What to do; empty when there is nothing.
    advice: String,
}

fn good(what: &'static str, found: impl Into<String>) -> Finding {
    Finding { what, state: "good", found: found.into(), advice: String::new() }
}

fn note(what: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { what, state: "note", found: found.into(), advice: advice.into() }
}

fn wrong(what: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { state: "wrong", ..note(what, found, advice) }
}

/// Looks and prints.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let rights = Rights::of_this_process();
    let root = rustix::process::getuid().is_root();
    let mut findings =
        vec![device(), helper(rights), others(rights.mount || root), kernel(), passthrough(rights), readahead(rights)];
    findings.push(speed()?);
    findings.push(disk_cache());
    findings.extend(mounts()?);
    if args.json {
        out::print_json(&findings)?;
    } else {
        let line = |f: &Finding| {
            let advice = if f.advice.is_empty() { String::new() } else { format!("\n{:14}→ {}", "", f.advice) };
            let mark = if f.state == "good" { "" } else { f.state };
            format!("{:<12}  {mark}{}{}{advice}\n", f.what, if mark.is_empty() { "" } else { ": " }, Escaped(&f.found))
        };
        print(&findings.iter().map(line).collect::<String>())?;
    }
    let ill = findings.iter().any(|finding| finding.state == "wrong");
    Ok(if ill { Exit::Differs } else { Exit::Done }.into())
}

fn device() -> Finding {
    let what = "/dev/fuse";
    match fs::File::options().read(true).write(true).open(what) {
        Ok(_) => good(what, "opens"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            wrong(what, "is not there", "modprobe fuse; a container needs --device /dev/fuse --cap-add SYS_ADMIN")
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            note(what, "does not open here; the mount helper opens it", "root can allow all with: chmod 666 /dev/fuse")
        }
        Err(e) => {
            wrong(what, format!("does not open: {e}"), "a container needs --device /dev/fuse --cap-add SYS_ADMIN")
        }
    }
}

fn helper(rights: Rights) -> Finding {
    let what = "fusermount3";
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(what)).find(|path| path.is_file());
    let set_uid = |path: &Path| fs::metadata(path).is_ok_and(|m| m.uid() == 0 && m.permissions().mode() & 0o4000 != 0);
    match found {
        Some(path) if set_uid(&path) => good(what, path.display().to_string()),
        _ if rights.mount && device().state == "good" => good(what, "not needed: this process may mount by itself"),
        Some(path) => wrong(
            what,
            format!("{} is not set-uid root", path.display()),
            "root: chmod u+s it, or reinstall the package fuse3",
        ),
        None => wrong(what, "is not there, and only root can mount without it", "install the package fuse3"),
    }
}

fn others(may: bool) -> Finding {
    let what = "allow-other";
    let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if may || conf.lines().any(|line| line.trim() == "user_allow_other") {
        good(what, "mounts can be opened to other users")
    } else {
        let advice = "if other users or containers are to read: root adds the line user_allow_other to /etc/fuse.conf";
        note(what, "mounts are seen by the user who makes them", advice)
    }
}

/// The release of the kernel, and its first two numbers.
fn release() -> (String, (u32, u32)) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (release, version)
}

fn kernel() -> Finding {
    let what = "kernel";
    match release() {
        (release, version) if version < (5, 6) => {
            note(what, release, "a directory can be mounted over itself from Linux 5.6 on")
        }
        (release, _) => good(what, release),
    }
}

fn passthrough(rights: Rights) -> Finding {
    let what = "passthrough";
    if release().1 < (6, 9) {
        note(what, "the kernel does not read the disk cache by itself", "from Linux 6.9 on it does, for root")
    } else if rights.passthrough {
        good(what, "the kernel can read complete files of the disk cache by itself")
    } else {
        let advice = "mounted by root of the machine (CAP_SYS_ADMIN, no user namespace) the kernel reads complete files by itself";
        note(what, "the daemon reads the disk cache", advice)
    }
}

fn readahead(rights: Rights) -> Finding {
    let what = "readahead";
    match rights.readahead {
        Some(true) => good(what, "raised to 2 MiB for each mount (--readahead)"),
        Some(false) => note(
            what,
            "the kernel's own, 128 KiB",
            "mounted by root of the machine it is raised, which makes cold reads faster",
        ),
        None => note(what, "not known: there is no /sys/class/bdi", "mount /sys to see and to raise it"),
    }
}

/// Decodes numbers like weights, as `bsfs bench` does.
fn speed() -> Result<Finding> {
    let stop = AtomicBool::new(false);
    let pool = parallel::pool(0)?;
    let header =
        format!(r#"{{"w":{{"dtype":"BF16","shape":[{},1024],"data_offsets":[0,{}]}}}}"#, ELEMENTS / 1024, ELEMENTS * 2);
    let mut raw = (header.len() as u64).to_le_bytes().to_vec();
    raw.extend(header.as_bytes());
    let mut state = 1_u64;
    for _ in 0..ELEMENTS {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        // The exponents of weights fall off by halves.
        let exponent = 120 - ((state >> 32) as u32).leading_zeros().min(20) as u16;
        raw.extend((((state >> 24) as u16 & 0x807f) | (exponent << 7)).to_le_bytes());
    }
    let options = Options { mode: Mode::Balanced, chunk_len: None, force: false, against: None, stop: &stop };
    let name = "speed.safetensors";
    let source = MemorySource::new(name, raw);
    let made = compress::encode_in_memory(&pool, &source, (0, 0), &options, &())?;
    let packed = MemorySource::new(name, made.container);
    let container = Container::open(&packed)?;
    let mut packed = packed.into_bytes();
    packed.resize(packed.len() + PAD, 0);
    let subject = Subject { container, packed, raw: source.into_bytes() };
    let times = rounds::run(&pool, &subject, 3, &stop, &Bar::new(0, true))?;
    let gb = |seconds: f64| subject.raw.len() as f64 / 1e9 / seconds.max(1e-9);
    let threads = pool.current_num_threads();
    let found = format!(
        "kernel {}; {threads} threads decode BF16 at {:.1} GB/s, encode at {:.1}",
        Kernel::detect().name(),
        gb(times.decode),
        gb(made.seconds)
    );
    Ok(match Kernel::detect() {
        Kernel::Scalar => note("processor", found, "no AVX2 or NEON here, or BSFS_KERNEL=scalar is set"),
        _ => good("processor", found),
    })
}

fn disk_cache() -> Finding {
    let what = "disk cache";
    let Some(dir) = cache::default_dir() else {
        return note(what, "has no place: neither XDG_CACHE_HOME nor HOME is set", "use --cache-dir");
    };
    let shown = dir.display();
    let Ok(meta) = fs::metadata(&dir) else {
        return good(what, format!("{shown}: none yet"));
    };
    if meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        let advice = format!("chmod 700 {shown}, owned by you; or use --cache-dir");
        return wrong(what, format!("{shown}: others can write there, so it is not used"), advice);
    }
    match rustix::fs::statvfs(&dir) {
        Ok(fs) if fs.f_bavail.saturating_mul(fs.f_frsize) < 1 << 30 => note(
            what,
            format!("{shown}: less than 1 GiB is free, so nothing is added"),
            "bsfs cache prune, or --cache-dir",
        ),
        Ok(fs) => good(what, format!("{shown}, {} free", show_size(fs.f_bavail.saturating_mul(fs.f_frsize)))),
        Err(e) => wrong(what, format!("{shown}: {}", io::Error::from(e)), "use --cache-dir"),
    }
}

fn mounts() -> Result<Vec<Finding>> {
    let what = "mounts";
    let records = mount::mounts(None)?;
    let mut findings = vec![good(what, format!("{} answer", records.iter().filter(|r| r.status.is_some()).count()))];
    for record in &records {
        let at = record.mount_point.display();
        match (&record.status, &*record.state) {
            (Some(status), _) if status.panics > 0 => {
                let log = status.log_file.as_deref().unwrap_or("its log");
                findings.push(wrong(
                    what,
                    format!("{at}: {} panics", status.panics),
                    format!("report what {log} says"),
                ));
            }
            (Some(status), _) if status.errors > 0 => {
                let log = status.log_file.as_deref().unwrap_or("its log");
                findings.push(note(
                    what,
                    format!("{at}: {} requests failed", status.errors),
                    format!("{log} says why"),
                ));
            }
            (Some(_), _) | (None, "not accessible") => {}
            (None, "dead") => {
                findings.push(wrong(what, format!("{at}: its process has gone"), format!("bsfs unmount {at}")))
            }
            (None, state) => {
                findings.push(wrong(
                    what,
                    format!("{at}: {state}"),
                    format!("bsfs unmount --lazy {at}, and end its process"),
                ));
            }
        }
    }
    Ok(findings)
}
