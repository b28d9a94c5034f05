//! A process without privileges that serves what another has mounted: `--fuse-fd`. Takes root for the other one.

#[cfg(feature = "remote")]
use crate::common;
use crate::common::mounted;
use crate::common::server;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::common::mounted::{BSFS, Running, is_mounted, model, signal, unmount};
use crate::common::{Bench, eventually, root_for};
use rustix::mount::{MountFlags, mount};

/// Mounts, and starts a process of another user without capabilities that serves. `None` without root.
fn served(bench: &Bench, form: &str) -> Option<(PathBuf, Running)> {
    served_from(bench, form, bench.source().as_os_str(), &["--cache", "off"])
}

/// The same from another source.
fn served_from(bench: &Bench, form: &str, source: &OsStr, options: &[&str]) -> Option<(PathBuf, Running)> {
    if !root_for("a mount for another process") {
        return None;
    }
    let point = bench.mount_point();
    let device = OwnedFd::from(File::options().read(true).write(true).open("/dev/fuse").unwrap());
    let number = device.as_raw_fd();
    let mounting = format!("fd={number},rootmode=40000,user_id=65534,group_id=65534,default_permissions,allow_other");
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount("models", &point, "fuse.bsfs", flags, CString::new(mounting).unwrap().as_c_str()).unwrap();
    // A copy that the other user reaches.
    let program = bench.dir.join("bsfs");
    fs::copy(BSFS, &program).unwrap();
    for path in [&bench.dir, &bench.source(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    rustix::io::fcntl_setfd(&device, rustix::io::FdFlags::empty()).unwrap();
    let mut child = Command::new("setpriv");
    child.args(
        "--reuid 65534 --regid 65534 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all --".split(' '),
    );
    child.arg(&program).arg("mount").args(options);
    if form == "--fuse-fd" {
        child.args(["--fuse-fd", &number.to_string()]).arg(source).arg("models");
    } else {
        child.arg(source).arg(format!("/dev/fd/{number}"));
    }
    let log = File::create(bench.dir.join("log")).unwrap();
    let running = Running(child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    // Or a reader of a dead child's mount would wait for us.
    drop(device);
    Some((point, running))
}

fn soon<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(work()));
    receive.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("no answer: {what}"))
}

fn log(bench: &Bench) -> String {
    fs::read_to_string(bench.dir.join("log")).unwrap()
}

#[test]
fn a_process_without_privileges_serves_a_mount_that_it_was_given() {
    for form in ["--fuse-fd", "/dev/fd"] {
        let bench = Bench::new();
        let original = model(&bench);
        let Some((point, mut running)) = served(&bench, form) else { return };
        let path = point.join("model.safetensors");
        let got = {
            let path = path.clone();
            soon("reading", move || fs::read(path))
        };
        assert!(got.unwrap_or_else(|e| panic!("{e}: {}", log(&bench))) == original);
        let status = fs::read_to_string(format!("/proc/{}/status", running.0.id())).unwrap();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        assert_eq!((&*field("CapEff:"), &*field("NoNewPrivs:")), ("0000000000000000", "1"));
        assert!(field("Uid:").starts_with("65534"));
        let stats = fs::read_to_string(point.join(".bsfs/stats.json")).unwrap();
        assert!(stats.contains("\"read_bytes\""), "{stats}");
        let refused = File::create(point.join("x")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        // Whoever mounted ends it.
        unmount(&point, 0).unwrap();
        eventually("it has ended", || running.0.try_wait().unwrap().is_some());
        assert!(running.0.wait().unwrap().success(), "{}", log(&bench));
    }
}

#[test]
fn told_to_end_it_serves_open_files_first() {
    let bench = Bench::new();
    let original = model(&bench);
    let Some((point, mut running)) = served(&bench, "--fuse-fd") else { return };
    let path = point.join("model.safetensors");
    let file = soon("opening", move || File::open(path)).unwrap();
    let mut bytes = [0; 1000];
    file.read_exact_at(&mut bytes, 0).unwrap();
    signal(running.0.id(), libc::SIGTERM);
    std::thread::sleep(Duration::from_millis(800));
    file.read_exact_at(&mut bytes, original.len() as u64 - 1000).unwrap();
    assert_eq!(bytes[..], original[original.len() - 1000..]);
    assert!(running.0.try_wait().unwrap().is_none() && is_mounted(&point));
    drop(file);
    eventually("it has ended", || running.0.try_wait().unwrap().is_some());
    assert!(running.0.wait().unwrap().success(), "{}", log(&bench));
    unmount(&point, libc::MNT_DETACH).unwrap();
}

#[test]
fn a_number_of_something_else_is_refused() {
    let bench = Bench::new();
    model(&bench);
    for arguments in [["--fuse-fd", "77", "source", "models"], ["--cache", "off", "source", "/dev/fd/1"]] {
        let mut refused = Command::new(BSFS);
        let output =
            refused.arg("mount").args(arguments).current_dir(&bench.dir).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(mounted::stderr(&output).contains("is no open /dev/fuse"), "{}", mounted::stderr(&output));
    }
}

#[cfg(feature = "remote")]
#[test]
fn a_process_without_privileges_serves_what_is_on_a_server_and_keeps_it() {
    for form in ["--fuse-fd", "/dev/fd"] {
        let (bench, server) = (Bench::new(), server::Server::new());
        let original = common::safetensors(51, 3_000_000);
        let packed = bench.dir.join("packed.bs");
        common::pack(&bench.original(&original), &packed);
        server.put("/m/model.safetensors.bs", &fs::read(packed).unwrap());
        server.put("/m/config.json", b"{}");
        let kept = bench.dir.join("kept");
        fs::create_dir(&kept).unwrap();
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o700)).unwrap();
        // As root, which the test needs anyway.
        if std::os::unix::fs::chown(&kept, Some(65534), Some(65534)).is_err() {
            return;
        }
        let url = server.url("/m/?X-Signature=verysecret");
        let options = ["--patience", "1", "--cache", "auto", "--cache-dir", kept.to_str().unwrap()];
        for gone in [false, true] {
            if gone {
                server.go();
            }
            let Some((point, mut running)) = served_from(&bench, form, url.as_ref(), &options) else { return };
            for (name, bytes) in [("model.safetensors", &original[..]), ("config.json", b"{}")] {
                let path = point.join(name);
                let got = soon("reading", move || fs::read(path));
                assert!(got.unwrap_or_else(|e| panic!("{name}: {e}: {}", log(&bench))) == bytes, "{form} {gone}");
            }
            unmount(&point, 0).unwrap();
            eventually("it has ended", || running.0.try_wait().unwrap().is_some());
            assert!(running.0.wait().unwrap().success(), "{}", log(&bench));
            assert!(!log(&bench).contains("verysecret"), "{}", log(&bench));
        }
    }
}
