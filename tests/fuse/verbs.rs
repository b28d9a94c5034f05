//! What the verbs do on file systems that fail, hold, or lack something, and what a killed run leaves for the next one.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use crate::common::faulty::Faulty;
use crate::common::faulty::disk::{Call, Disk, Op, Verdict};
use crate::common::mounted::signal;
use crate::common::{Bench, eventually, fixtures, held, pack, safetensors, skip};
use bsfs::source::{FileSource, MemorySource};

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bsfs"));
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs bsfs, which must end with `code`; gives what it printed.
fn ends(dir: &Path, code: i32, arguments: &[&str]) -> String {
    let output = command(dir, arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{}", said(&output));
    said(&output)
}

fn names(dir: &Path) -> Vec<String> {
    bsfs::longpath::names(dir).unwrap().into_iter().map(|name| name.into_string().unwrap()).collect()
}

/// What is put in the place of a file at the last moment.
const OTHER: &[u8] = b"another file, that another process made";

/// Has a file renamed over `name` just before it is moved aside, or before it is removed or replaced.
fn intrude(disk: &Disk, name: &'static str) {
    let mut done = false;
    disk.judge(move |call: &Call<'_>| {
        let of = |op, named: &str| call.op == op && call.name == named;
        let wanted = of(Op::Rename, &format!(".{name}.bsfs-aside")) || of(Op::Unlink, name) || of(Op::Rename, name);
        if wanted && !done {
            done = true;
            return Verdict::Put(name, OTHER);
        }
        Verdict::Go
    });
}

#[test]
fn a_file_that_gets_the_name_at_the_last_moment_is_kept() {
    let theirs = fs::read(fixtures::dir().join("big-4.0.0.bs")).unwrap();
    for nameless in [true, false] {
        let (bench, disk) = (Bench::new(), Disk::new());
        let Some(_mount) = Faulty::mount(&bench.mount_point(), Arc::clone(&disk), nameless) else { return };
        let dir = &bench.dir;
        let raw = safetensors(1, 50_000);
        disk.put("m.safetensors", &raw);
        pack(&bench.original(&raw), &dir.join("packed"));
        let packed = fs::read(dir.join("packed")).unwrap();
        let holds = |name: &str| {
            disk.get(name)
                .is_some_and(|data| held(&MemorySource::new(name, data.to_vec())).is_ok_and(|held| held == raw))
        };

        intrude(&disk, "m.safetensors");
        let text = ends(dir, 75, &["compress", "mount/m.safetensors", "--replace", "--yes"]);
        disk.calm();
        assert!(text.contains("changed while it was read"), "{text}");
        assert_eq!(disk.files(), ["m.safetensors", "m.safetensors.bs"], "nameless {nameless}");
        assert!(**disk.get("m.safetensors").unwrap() == *OTHER && holds("m.safetensors.bs"));

        disk.put("u.safetensors.bs", &packed);
        intrude(&disk, "u.safetensors.bs");
        ends(dir, 75, &["decompress", "mount/u.safetensors.bs", "--replace", "--yes"]);
        disk.calm();
        assert!(**disk.get("u.safetensors.bs").unwrap() == *OTHER && **disk.get("u.safetensors").unwrap() == raw);

        disk.put("f.bs", &packed);
        intrude(&disk, "f.bs");
        ends(dir, 75, &["flatten", "mount/f.bs", "--in-place"]);
        disk.calm();
        assert!(**disk.get("f.bs").unwrap() == *OTHER, "nameless {nameless}");

        disk.put("b.bs", &theirs);
        intrude(&disk, "b.bs");
        ends(dir, 75, &["migrate", "mount/b.bs", "--in-place", "--allow-larger"]);
        disk.calm();
        assert!(**disk.get("b.bs").unwrap() == *OTHER && disk.get("b.safetensors.bs").is_some());
        assert!(disk.files().iter().all(|name| !name.starts_with('.')), "{:?}", disk.files());
    }
}

#[test]
fn what_a_killed_run_left_aside_is_put_back_by_the_next_and_two_files_are_never_made_one() {
    let bench = Bench::new();
    let dir = &bench.source();
    let raw = safetensors(1, 50_000);
    let aside = dir.join(".m.safetensors.bsfs-aside");
    for named in [&["m.safetensors"][..], &["."]] {
        // It was killed between moving the original aside and removing it.
        fs::write(dir.join("m.safetensors"), &raw).unwrap();
        ends(dir, 0, &["compress", "m.safetensors", "--force"]);
        fs::rename(dir.join("m.safetensors"), &aside).unwrap();
        let text = ends(dir, 0, &[&["compress", "--replace", "--yes"], named].concat());
        assert!(text.contains("1 replaced"), "{text}");
        assert_eq!(names(dir), ["m.safetensors.bs"]);
        assert!(held(&FileSource::open(dir.join("m.safetensors.bs")).unwrap()).unwrap() == raw);
    }
    // In a dry run it is told, and stays; as do those of other file systems, which are not entered.
    fs::write(&aside, &raw).unwrap();
    for named in ["m.safetensors.bs", "."] {
        let text = ends(dir, 0, &["compress", named, "--replace", "--dry-run", "--force"]);
        assert_eq!(text.contains(".m.safetensors.bsfs-aside: was moved aside"), named == ".", "{text}");
    }
    let text = ends(dir, 2, &["migrate", ".", "--in-place", "--dry-run"]);
    assert!(text.contains(".m.safetensors.bsfs-aside: was moved aside"), "{text}");
    assert_eq!(names(dir), [".m.safetensors.bsfs-aside", "m.safetensors.bs"]);
    fs::remove_file(&aside).unwrap();
    let disk = Disk::new();
    disk.put(".far.safetensors.bsfs-aside", &raw);
    if let Some(_mount) = Faulty::mount(&bench.mount_point(), Arc::clone(&disk), true) {
        ends(&bench.dir, 0, &["compress", ".", "--replace", "--yes"]);
        assert_eq!(disk.files(), [".far.safetensors.bsfs-aside"]);
    }
    // Before anything else is looked at.
    for verb in [&["flatten", "--in-place"][..], &["decompress", "--replace", "--yes"]] {
        fs::rename(dir.join("m.safetensors.bs"), dir.join(".m.safetensors.bs.bsfs-aside")).unwrap();
        ends(dir, 0, &[verb, &["m.safetensors.bs"]].concat());
    }
    assert_eq!(names(dir), ["m.safetensors"]);
    fs::write(dir.join("m.safetensors"), &raw).unwrap();
    // Another file has the name by now.
    fs::write(&aside, b"theirs").unwrap();
    fs::write(dir.join("m.safetensors"), &raw).unwrap();
    let text = ends(dir, 0, &["compress", ".", "--replace", "--yes", "--dry-run"]);
    assert!(text.contains(".m.safetensors.bsfs-aside: was moved aside by a run that did not end"), "{text}");
    let text = ends(dir, 2, &["compress", ".", "--replace", "--yes"]);
    assert!(text.contains("another file was moved aside as"), "{text}");
    assert_eq!((fs::read(&aside).unwrap(), fs::read(dir.join("m.safetensors")).unwrap()), (b"theirs".to_vec(), raw));
}

#[test]
fn in_place_verbs_leave_files_alone_that_another_process_writes_to_and_keep_permissions() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let raw = safetensors(1, 50_000);
    pack(&bench.original(&raw), &dir.join("f.bs"));
    fs::copy(fixtures::dir().join("big-4.0.0.bs"), dir.join("b.bs")).unwrap();
    let verbs: [(&str, &[&str]); 2] =
        [("f.bs", &["flatten", "f.bs", "--in-place"]), ("b.bs", &["migrate", "b.bs", "--in-place", "--allow-larger"])];
    for (name, arguments) in verbs {
        let path = dir.join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let before = fs::read(&path).unwrap();
        let writer = File::options().append(true).open(&path).unwrap();
        let text = ends(dir, 2, arguments);
        assert!(text.contains(&format!("open for writing by process {}", std::process::id())), "{text}");
        assert!(fs::read(&path).unwrap() == before);
        drop(writer);
        ends(dir, 0, arguments);
    }
    for name in ["f.bs", "b.safetensors.bs"] {
        assert_eq!(fs::metadata(dir.join(name)).unwrap().mode() & 0o777, 0o640, "{name}");
    }
    assert!(!dir.join("b.bs").exists());
}

#[test]
fn asked_to_stop_a_long_copy_stops_and_leaves_no_part() {
    for verb in ["compress", "decompress"] {
        let (bench, disk) = (Bench::new(), Disk::new());
        disk.put("in/config.bin", &vec![7; 40 << 20]);
        disk.put("in/m.safetensors", &safetensors(1, 1000));
        disk.put("in/z.safetensors.bs", &[]);
        let Some(_mount) = Faulty::mount(&bench.mount_point(), Arc::clone(&disk), true) else { return };
        disk.hold();
        let (reads, seen) = (Arc::new(std::sync::atomic::AtomicBool::new(false)), std::sync::atomic::Ordering::SeqCst);
        let noted = Arc::clone(&reads);
        disk.judge(move |call: &Call<'_>| {
            if call.op == Op::Read && call.name == "config.bin" && call.offset > 0 {
                noted.store(true, seen);
                return Verdict::Hold;
            }
            Verdict::Go
        });
        let run = command(&bench.dir, &[verb, "mount/in", "-o", "out"]).spawn().unwrap();
        eventually("the copy is read", || reads.load(seen));
        signal(run.id(), libc::SIGINT);
        disk.calm();
        disk.release();
        let output = run.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", said(&output));
        assert!(!names(&bench.dir.join("out")).iter().any(|name| name.contains("config")), "{verb}");
    }
}

/// A directory shown without `O_TMPFILE`, as network file systems and most of FUSE are.
struct Bound(std::path::PathBuf);

impl Bound {
    fn new(of: &Path, at: &Path) -> Option<Self> {
        let bound = Command::new("bindfs").args([of, at]).status();
        if bound.is_ok_and(|status| status.success()) {
            return Some(Self(at.into()));
        }
        skip("bindfs is not installed, or may not mount");
        None
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_temporary_of_a_killed_run_is_removed_by_the_next_and_one_of_a_living_run_is_not() {
    let bench = Bench::new();
    let (dir, at) = (&bench.dir, bench.mount_point());
    let Some(_bound) = Bound::new(&bench.source(), &at) else { return };
    fs::write(dir.join("big"), safetensors(1, 40 << 20)).unwrap();
    fs::write(dir.join("small"), safetensors(2, 1000)).unwrap();
    let start = || command(dir, &["compress", "big", "-o", "mount/big.bs", "--storage", "-j", "1"]).spawn().unwrap();
    let temporaries = || names(&at).into_iter().filter(|name| name.ends_with(".tmp")).count();
    let mut killed = start();
    eventually("it writes", || temporaries() == 1);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(temporaries(), 1);
    let living = start();
    eventually("the other writes, and removed what was left", || {
        names(&at).iter().any(|name| name.contains(&format!("-{}-", living.id())))
    });
    ends(dir, 0, &["compress", "small", "-o", "mount/small.bs"]);
    assert_eq!(temporaries(), 1, "{:?}", names(&at));
    signal(living.id(), libc::SIGTERM);
    assert_eq!(living.wait_with_output().unwrap().status.code(), Some(130));
    assert_eq!(names(&at), ["small.bs"]);
}

#[test]
fn without_proc_everything_works_all_the_same() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let raw = safetensors(1, 50_000);
    fs::write(dir.join("m.safetensors"), &raw).unwrap();
    let script = "mount -t tmpfs none /proc && $0 compress m.safetensors -o m.bs && $0 compress m.safetensors -o m.bs --force && \
                  $0 decompress m.bs -o back && $0 compress m.safetensors --replace --yes";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, env!("CARGO_BIN_EXE_bsfs")])
        .current_dir(dir)
        .output()
        .unwrap();
    if !rustix::process::geteuid().is_root() {
        skip("hiding /proc takes root");
        return;
    }
    assert!(output.status.success(), "{}", said(&output));
    assert!(fs::read(dir.join("back")).unwrap() == raw);
    for name in ["m.bs", "m.safetensors.bs"] {
        assert!(held(&FileSource::open(dir.join(name)).unwrap()).unwrap() == raw, "{name}");
    }
    assert_eq!(names(dir), ["back", "m.bs", "m.safetensors.bs", "mount", "source"]);
}

#[test]
fn devices_are_not_replaced_and_disks_are_not_written_to() {
    let bench = Bench::new();
    let dir = &bench.dir;
    fs::write(dir.join("m.safetensors"), safetensors(1, 50_000)).unwrap();
    ends(dir, 0, &["compress", "m.safetensors"]);
    // The disk has a number for experiments: there is none.
    for (name, kind, major, minor) in [("null", "c", "1", "3"), ("disk", "b", "240", "99")] {
        let made = Command::new("mknod").args([name, kind, major, minor]).current_dir(dir).status().unwrap();
        if !made.success() {
            skip("making device nodes takes root");
            return;
        }
    }
    for output in ["null", "disk"] {
        ends(dir, 2, &["compress", "m.safetensors", "-o", output, "--force"]);
        ends(dir, 2, &["flatten", "m.safetensors.bs", "-o", output, "--force"]);
    }
    ends(dir, 0, &["decompress", "m.safetensors.bs", "-o", "null", "--force"]);
    let text = ends(dir, 2, &["decompress", "m.safetensors.bs", "-o", "disk", "--force"]);
    assert!(text.contains("a block device, which is never replaced"), "{text}");
    let kind = |name: &str| fs::metadata(dir.join(name)).unwrap().file_type();
    assert!(kind("null").is_char_device() && kind("disk").is_block_device());
    // What becomes a device while it is written.
    let long = dir.join("long");
    let mut file = File::create(&long).unwrap();
    file.write_all(&safetensors(3, 20 << 20)).unwrap();
    fs::write(dir.join("out.bs"), b"old").unwrap();
    let run = command(dir, &["compress", "long", "-o", "out.bs", "--force", "--storage", "-j", "1"]).spawn().unwrap();
    let open = || {
        fs::read_dir(format!("/proc/{}/fd", run.id())).unwrap().flatten().filter_map(|fd| fs::read_link(fd.path()).ok())
    };
    eventually("it writes", || open().any(|path| path.to_string_lossy().contains("(deleted)")));
    fs::rename(dir.join("null"), dir.join("out.bs")).unwrap();
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(kind("out.bs").is_char_device());
}
