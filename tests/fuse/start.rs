//! Mounts that something else starts: mount(8), /etc/fstab, a service manager. Needs `/dev/fuse`.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::common::mounted::{BSFS, Mount, Running, command, is_mounted, model, signal, status_of, stderr};
use crate::common::{Bench, eventually, root_for, skip};

fn helper(bench: &Bench, arguments: &[&str]) -> Output {
    let path = bench.dir.join("mount.bsfs");
    if !path.exists() {
        symlink(BSFS, &path).unwrap();
    }
    let mut command = Command::new(path);
    command.env("XDG_STATE_HOME", bench.dir.join("state")).env("XDG_CACHE_HOME", bench.dir.join("cache"));
    command.args(arguments).current_dir(&bench.dir).output().unwrap()
}

#[test]
fn the_helper_of_mount_mounts() {
    let bench = Bench::new();
    let original = model(&bench);
    let options = "rw,_netdev,nofail,x-systemd.automount,memory=64M,cache=off";
    let output = helper(&bench, &["source", "mount", "-n", "-o", options]);
    assert!(output.status.success(), "{}", stderr(&output));
    let status = status_of(&bench.mount_point()).unwrap();
    let mount = Mount { point: bench.mount_point(), pid: status.pid };
    assert_eq!((status.engine.memory_limit, &*status.cache), (64 << 20, "off"));
    assert!(fs::read(mount.path("model.safetensors")).unwrap() == original);
    drop(mount);
    let output = helper(&bench, &["source", "mount", "-o", "rw,nonsense"]);
    assert_eq!(output.status.code(), Some(32));
    assert!(stderr(&output).contains("unknown mount option 'nonsense'"), "{}", stderr(&output));
    assert!(!is_mounted(&bench.mount_point()));
}

/// The line of the mount table for a mount point.
fn line_of(point: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().rfind(|line| line.split(' ').nth(4) == point.to_str()).unwrap_or_default().to_owned()
}

/// mount(8) adds noexec, nosuid and nodev to "user" and "users", and always "rw" or "ro".
#[test]
fn generic_options_of_fstab_mount_and_have_their_effect() {
    let bench = Bench::new();
    model(&bench);
    let is_root = rustix::process::geteuid().is_root();
    let cases = [
        ("rw,noexec,nosuid,nodev,users,cache=off", "noexec"),
        ("rw,noexec,nosuid,nodev,user=me,cache=off", "noexec"),
        ("ro,nosymfollow,nonempty,subtype=x,lazytime,mand,silent,cache=off", "nosymfollow"),
        (
            r#"rw,fsname=my models\,x,context="a:b:c:s0:c1,c2",auto_unmount,X-mount.mkdir,cache=off"#,
            r" my\040models,x ",
        ),
    ];
    for (options, shown) in cases.into_iter().filter(|(_, shown)| is_root || *shown != "nosymfollow") {
        let output = helper(&bench, &["source", "mount", "-o", options]);
        assert!(output.status.success(), "{options}: {}", stderr(&output));
        let mount = Mount { pid: status_of(&bench.mount_point()).unwrap().pid, point: bench.mount_point() };
        let line = line_of(&mount.point);
        assert!(line.contains(shown) && line.contains(" ro,nosuid,nodev"), "{options}: {line}");
        assert_eq!(fs::read(mount.path("config.json")).unwrap(), b"{\"a\": 1}");
    }
}

#[test]
fn the_command_takes_options_of_fstab() {
    let bench = Bench::new();
    model(&bench);
    let mount = Mount::new(&bench, &["-o", "noexec,memory=64M,cache=off", "-oallow_other"]);
    let status = mount.status();
    assert_eq!((status.engine.memory_limit, &*status.cache), (64 << 20, "off"));
    assert!(line_of(&mount.point).contains("noexec") && line_of(&mount.point).contains("allow_other"));
    let output = helper(&bench, &["source", "mount", "-o", "rw"]);
    assert_eq!(output.status.code(), Some(32));
    assert!(stderr(&output).contains("already mounted"), "{}", stderr(&output));
    drop(mount);
    let output =
        command(&bench).args(["mount", "-o", "rw,nonsense", "source", "mount"]).current_dir(&bench.dir).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("unknown mount option 'nonsense'"), "{}", stderr(&output));
}

/// In a mount name space of its own, where the helper is at its place and the table is the test's.
#[test]
fn a_line_of_fstab_and_the_type_mount() {
    if !root_for("mount(8)") {
        return;
    }
    let bench = Bench::new();
    model(&bench);
    let (source, point) = (bench.source(), bench.mount_point());
    let line = format!("{} {} bsfs memory=32M,cache=off,nofail,_netdev 0 0\n", source.display(), point.display());
    fs::write(bench.dir.join("fstab"), line).unwrap();
    for dir in ["upper", "work"] {
        fs::create_dir(bench.dir.join(dir)).unwrap();
    }
    let script = format!(
        "mount -t tmpfs none upper && mkdir upper/u upper/w && real=$(readlink -f /sbin) &&
         mount -t overlay -o lowerdir=$real,upperdir=upper/u,workdir=upper/w none $real &&
         ln -s {BSFS} /sbin/mount.bsfs && mount --bind fstab /etc/fstab || {{ echo cannot prepare; exit 0; }}
         set -ex
         mount {point}
         mount -a
         test $(grep -c \" {point} fuse.bsfs \" /proc/mounts) = 1
         ls {point}
         {BSFS} status {point} --json | grep memory_limit
         umount {point}
         mount -t bsfs -o cache=off {source} {point}
         ls {point}/sub
         umount {point}
         ! mount -t bsfs -o nonsense {source} {point}
         echo all done",
        point = point.display(),
        source = source.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]).current_dir(&bench.dir);
    let output = command.env("HOME", &bench.dir).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
    if said.contains("cannot prepare") {
        return skip(&said);
    }
    assert!(output.status.success() && said.contains("all done"), "{said}");
    assert!(said.contains("model.safetensors\n") && said.contains("part.safetensors\n"), "{said}");
    assert!(said.contains("\"memory_limit\": 33554432"), "{said}");
    assert!(said.contains("unknown mount option 'nonsense'"), "{said}");
}

#[test]
fn a_service_manager_is_told_when_the_mount_answers() {
    let bench = Bench::new();
    model(&bench);
    let path: PathBuf = bench.dir.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut foreground = command(&bench);
    foreground.args(["mount", "--foreground", "source", "mount"]).current_dir(&bench.dir).env("NOTIFY_SOCKET", &path);
    let mut running = Running(foreground.stderr(Stdio::null()).spawn().unwrap());
    let next = || {
        let mut text = [0; 256];
        let len = socket.recv(&mut text).unwrap();
        String::from_utf8(text[..len].to_vec()).unwrap()
    };
    let ready = next();
    assert!(ready.starts_with("READY=1\n"), "{ready}");
    assert!(is_mounted(&bench.mount_point()) && bench.mount_point().join("config.json").exists());
    signal(running.0.id(), libc::SIGTERM);
    assert_eq!(next(), "STOPPING=1");
    eventually("it has ended", || running.0.try_wait().unwrap().is_some());
    assert!(!is_mounted(&bench.mount_point()) && Path::new(&path).exists());
}
