//! How mounts begin and end: the commands, their messages, signals, users. Needs `/dev/fuse`.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::mounted::{
    Mount, Running, as_nobody, bsfs, command, is_mounted, is_running, model, signal, status_of, stderr, unmount,
};
use crate::common::{Bench, ORIGINAL_MTIME, eventually};

#[test]
fn status_counts_and_prints() {
    let bench = Bench::new();
    let original = model(&bench);
    let mount = Mount::new(&bench, &["--memory", "64M"]);
    let before = mount.status();
    assert_eq!((before.read_bytes, before.open_files, before.errors, before.panics), (0, 0, 0, 0));
    let mut file = File::open(mount.path("model.safetensors")).unwrap();
    file.read_to_end(&mut Vec::new()).unwrap();
    let after = mount.status();
    assert_eq!(after.open_files, 1);
    assert!(after.read_bytes >= original.len() as u64 && after.reads > 0, "{after:?}");
    assert_eq!(after.engine.memory_limit, 64 << 20);
    assert_eq!(after.source, bench.source().to_str().unwrap());
    assert_eq!(after.cache, format!("auto, {}", bench.dir.join("cache/bsfs").display()));
    assert!(after.metadata_bytes > 0 && after.started > ORIGINAL_MTIME as u64);
    let log = PathBuf::from(after.log_file.unwrap());
    assert!(log.starts_with(bench.dir.join("state/bsfs")));
    assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(log.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
    drop(file);
    eventually("the file is closed", || mount.status().open_files == 0);

    let json = bsfs(&bench, ["status".as_ref(), mount.point.as_os_str(), "--json".as_ref()]);
    assert!(json.status.success());
    let list: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(list[0]["state"], "live");
    assert_eq!(list[0]["status"]["pid"], mount.pid);
    assert_eq!(list[0]["mount_point"], mount.point.to_str().unwrap());
    let text = bsfs(&bench, ["status"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains(mount.point.to_str().unwrap()));
    assert_eq!(bsfs(&bench, ["status".as_ref(), bench.source().as_os_str()]).status.code(), Some(2));
}

#[test]
fn mistakes_are_named() {
    let bench = Bench::new();
    model(&bench);
    bench.plain("sub/inner/file", b"x");
    let source = bench.source();
    let point = bench.mount_point();
    let refused = |source: &Path, point: &Path, expected: &str| {
        let output = bsfs(&bench, ["mount".as_ref(), source.as_os_str(), point.as_os_str()]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "expected '{expected}' in: {said}");
        assert!(!is_mounted(point));
    };
    refused(&bench.dir.join("none"), &point, "cannot open the source");
    refused(&source, &bench.dir.join("none"), "no such directory");
    refused(&source, &source.join("config.json"), "not a directory");
    refused(&source, &source.join("sub"), "inside the source");
    refused(&source.join("sub/inner"), &source, "inside the mount point");
    refused(&source.join("config.json"), &point, ".bs");
    let link = bench.dir.join("link");
    symlink(&source, &link).unwrap();
    refused(&source, &link.join("sub"), "inside the source");

    let mount = Mount::new(&bench, &[]);
    let output = bsfs(&bench, ["mount".as_ref(), source.as_os_str(), point.as_os_str()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("already mounted"), "{}", stderr(&output));
    assert!(mount.path("config.json").exists(), "the first mount is as it was");

    let output = bsfs(&bench, ["unmount".as_ref(), source.as_os_str()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("not a bsfs mount"), "{}", stderr(&output));
    assert_eq!(bsfs(&bench, ["unmount", "/proc"]).status.code(), Some(2));
}

#[test]
fn what_the_mount_hides_is_mentioned() {
    let bench = Bench::new();
    model(&bench);
    fs::write(bench.mount_point().join("hidden"), b"x").unwrap();
    let output = bsfs(&bench, ["mount".as_ref(), bench.source().as_os_str(), bench.mount_point().as_os_str()]);
    let mount = Mount { point: bench.mount_point(), pid: status_of(&bench.mount_point()).unwrap().pid };
    assert!(output.status.success());
    assert!(stderr(&output).contains("not empty"), "{}", stderr(&output));
    assert!(mount.path("config.json").exists() && !mount.path("hidden").exists());
    let output = bsfs(&bench, ["unmount".as_ref(), mount.point.as_os_str()]);
    assert!(output.status.success());
    assert!(mount.path("hidden").exists());
}

#[test]
fn the_status_tells_which_disk_cache_is_in_use() {
    let bench = Bench::new();
    model(&bench);
    let (place, other) = (bench.dir.join("cache/bsfs"), bench.dir.join("other"));
    let other = other.to_str().unwrap();
    let (all, auto) = (format!("all, {}", place.display()), format!("auto, {}", place.display()));
    for (options, said) in [
        (&["--cache", "off"][..], "off"),
        (&["--cache", "all"], &all),
        (&["--cache", "auto"], &auto),
        (&[], &auto),
        (&["--cache-dir", other], &format!("auto, {other}")),
    ] {
        let mount = Mount::new(&bench, options);
        assert_eq!(mount.status().cache, said, "{options:?}");
        assert_eq!(mount.status().disk.is_some(), said != "off");
        assert!(bsfs(&bench, ["unmount".as_ref(), mount.point.as_os_str()]).status.success());
    }
}

#[test]
fn unmount_returns_when_the_daemon_has_ended() {
    let bench = Bench::new();
    model(&bench);
    let mount = Mount::new(&bench, &[]);
    fs::read(mount.path("model.safetensors")).unwrap();
    let output = bsfs(&bench, ["unmount".as_ref(), mount.point.as_os_str()]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
    assert!(!is_mounted(&mount.point) && !is_running(mount.pid));
    // At once again at the same place.
    let again = Mount::new(&bench, &[]);
    assert!(again.path("config.json").exists());
}

#[test]
fn a_busy_mount_says_who_holds_it() {
    let bench = Bench::new();
    let original = model(&bench);
    let mount = Mount::new(&bench, &[]);
    let unmount = |expected: &str| {
        let output = bsfs(&bench, ["unmount".as_ref(), mount.point.as_os_str()]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected) && said.contains("--lazy"), "expected '{expected}' in: {said}");
    };
    let shell = Running(Command::new("sleep").arg("60").current_dir(mount.path("sub")).spawn().unwrap());
    unmount(&format!("process {} (sleep 60): its working directory is there", shell.0.id()));
    drop(shell);
    let file = File::open(mount.path("model.safetensors")).unwrap();
    unmount(&format!("process {} ", std::process::id()));
    // SAFETY: nothing writes to the file.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    drop(file);
    unmount("it has a file mapped");
    assert!(map[..] == original);
    drop(map);
    assert!(bsfs(&bench, ["unmount".as_ref(), mount.point.as_os_str()]).status.success());
    assert!(!is_mounted(&mount.point));
}

#[test]
fn a_lazy_unmount_serves_what_is_open_until_it_is_closed() {
    let bench = Bench::new();
    let original = model(&bench);
    let mount = Mount::new(&bench, &[]);
    let file = File::open(mount.path("model.safetensors")).unwrap();
    let output = bsfs(&bench, ["unmount".as_ref(), "--lazy".as_ref(), mount.point.as_os_str()]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("process {}", mount.pid)), "{}", stderr(&output));
    assert!(!is_mounted(&mount.point) && is_running(mount.pid));
    let mut bytes = vec![0; original.len()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == original);
    // SAFETY: nothing writes to the file.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    drop(file);
    assert!(map[..] == original && is_running(mount.pid));

    // The place is free: another mount there does not mind the end of the first.
    let second = Mount::new(&bench, &[]);
    signal(mount.pid, libc::SIGTERM);
    let log = PathBuf::from(second.status().log_file.unwrap());
    eventually("the signal is taken", || fs::read_to_string(&log).unwrap().contains("no longer mounted"));
    assert!(is_mounted(&second.point) && is_running(mount.pid));
    drop(map);
    eventually("the daemon ends after the last close", || !is_running(mount.pid));
    assert!(is_mounted(&second.point) && is_running(second.pid));
    assert!(fs::read(second.path("model.safetensors")).unwrap() == original);
}

#[test]
fn signals_unmount() {
    let bench = Bench::new();
    model(&bench);
    for number in [libc::SIGTERM, libc::SIGINT] {
        let mount = Mount::new(&bench, &[]);
        signal(mount.pid, number);
        eventually("the daemon ends", || !is_running(mount.pid));
        assert!(!is_mounted(&mount.point), "signal {number}");
    }
}

#[test]
fn a_signal_while_files_are_open_detaches_and_a_second_ends() {
    let bench = Bench::new();
    let original = model(&bench);
    let mount = Mount::new(&bench, &[]);
    let file = File::open(mount.path("model.safetensors")).unwrap();
    signal(mount.pid, libc::SIGTERM);
    eventually("the mount is gone", || !is_mounted(&mount.point));
    let mut bytes = vec![0; 1000];
    file.read_exact_at(&mut bytes, 1_000_000).unwrap();
    assert!(bytes == original[1_000_000..1_001_000]);
    signal(mount.pid, libc::SIGTERM);
    eventually("the daemon ends", || !is_running(mount.pid));
    let error = file.read_at(&mut bytes, original.len() as u64 - 1000).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)), "{error}");
}

#[test]
fn in_the_foreground_it_stays_and_ends_with_success() {
    let bench = Bench::new();
    model(&bench);
    let log = bench.dir.join("log");
    let mut command = command(&bench);
    command.args(["mount", "--foreground", "--log-file"]).arg(&log).arg(bench.source()).arg(bench.mount_point());
    let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    eventually("it is mounted", || status_of(&bench.mount_point()).is_some());
    let mount = Mount { point: bench.mount_point(), pid: running.0.id() };
    assert_eq!(mount.status().pid, running.0.id());
    assert!(mount.path("config.json").exists());
    signal(mount.pid, libc::SIGINT);
    assert!(running.0.wait().unwrap().success());
    assert!(!is_mounted(&mount.point));
    assert!(fs::read_to_string(log).unwrap().contains("unmounted"));
}

#[test]
fn unmounting_by_other_means_ends_the_daemon() {
    let bench = Bench::new();
    model(&bench);
    let mount = Mount::new(&bench, &[]);
    if unmount(&mount.point, 0).is_err() {
        assert!(Command::new("fusermount3").arg("-u").arg(&mount.point).status().unwrap().success());
    }
    eventually("the daemon ends", || !is_running(mount.pid));
}

#[test]
fn the_mount_of_a_killed_daemon_is_recognised_and_replaced() {
    let bench = Bench::new();
    model(&bench);
    let mount = Mount::new(&bench, &[]);
    signal(mount.pid, libc::SIGKILL);
    eventually("the daemon is dead", || !is_running(mount.pid));
    let errno = || fs::metadata(mount.path("config.json")).unwrap_err().raw_os_error();
    eventually("the connection is closed", || errno() == Some(libc::ENOTCONN));
    let records = bsfs::mount::mounts(Some(&mount.point)).unwrap();
    assert_eq!((records[0].state.as_str(), records[0].status.is_none()), ("dead", true));

    let output = bsfs(&bench, ["mount".as_ref(), bench.source().as_os_str(), mount.point.as_os_str()]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("daemon that is gone"), "{}", stderr(&output));
    let again = Mount { point: mount.point.clone(), pid: status_of(&mount.point).unwrap().pid };
    assert_eq!(fs::read(again.path("sub/part.safetensors")).unwrap(), b"part");

    signal(again.pid, libc::SIGKILL);
    eventually("the daemon is dead", || !is_running(again.pid));
    let output = bsfs(&bench, ["unmount".as_ref(), mount.point.as_os_str()]);
    assert!(output.status.success() && stderr(&output).contains("ended before"), "{}", stderr(&output));
    assert!(!is_mounted(&mount.point));
}

#[test]
fn a_mount_that_does_not_answer_in_time_is_given_up() {
    let bench = Bench::new();
    model(&bench);
    let first = Mount::new(&bench, &["--ttl", "0"]);
    let point = bench.dir.join("second");
    fs::create_dir(&point).unwrap();
    signal(first.pid, libc::SIGSTOP);
    let state = || fs::read_to_string(format!("/proc/{}/stat", first.pid)).unwrap();
    eventually("the first daemon is stopped", || state().contains(") T "));
    let began = Instant::now();
    let source = first.path("sub");
    let output =
        bsfs(&bench, ["mount".as_ref(), "--timeout".as_ref(), "1".as_ref(), source.as_os_str(), point.as_os_str()]);
    let state = bsfs::mount::mounts(Some(&first.point)).unwrap()[0].state.clone();
    signal(first.pid, libc::SIGCONT);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no answer within 1 s"), "{}", stderr(&output));
    assert!(began.elapsed() < Duration::from_secs(20) && !is_mounted(&point));
    assert!(state.contains("no answer"), "{state}");
    eventually("nothing is left of it", || {
        let children = fs::read_dir("/proc").unwrap().flatten().filter(|process| {
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&words).contains(point.to_str().unwrap())
        });
        children.count() == 0
    });
    assert_eq!(fs::read(first.path("sub/part.safetensors")).unwrap(), b"part");
}

#[test]
fn an_ordinary_user_mounts_and_unmounts() {
    let bench = Bench::new();
    let original = model(&bench);
    fs::create_dir(bench.dir.join("so,urce")).unwrap();
    fs::copy(bench.source().join("model.safetensors.bs"), bench.dir.join("so,urce/model.safetensors.bs")).unwrap();
    let script = r#"
        ./bsfs mount so,urce mount
        cmp original mount/model.safetensors
        grep -q "^$PWD/so,urce $PWD/mount fuse.bsfs ro,nosuid,nodev" /proc/mounts
        ./bsfs status mount | grep -q live
        test -s home/.local/state/bsfs/*.log
        ! ./bsfs mount --allow-other so,urce mount 2>/dev/null
        exec 3<mount/model.safetensors
        ! ./bsfs unmount mount 2>busy
        grep -q "it has a file open" busy
        ./bsfs unmount --lazy mount
        cmp original - <&3
        exec 3<&-
        ./bsfs mount so,urce mount
        ./bsfs unmount mount
        ! grep bsfs /proc/mounts
        ./bsfs mount so,urce mount
        kill -9 $(./bsfs status mount --json | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
        sleep 0.2
        ./bsfs mount so,urce mount 2>dead || cat dead
        grep -q "daemon that is gone" dead
        kill $(./bsfs status mount --json | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
        for i in 1 2 3 4 5 6 7 8 9; do grep -q bsfs /proc/mounts && sleep 0.1 || break; done
        ! grep bsfs /proc/mounts
        ! ./bsfs mount --allow-other so,urce mount 2>other
        grep -q user_allow_other other
        echo all done
    "#;
    fs::write(bench.dir.join("original"), &original).unwrap();
    let Some(output) = as_nobody(&bench, "# nothing\n", &format!("set -x\n{script}")) else {
        return;
    };
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("all done\n"), "{}", stderr(&output));
}

#[test]
fn others_are_let_in_only_when_asked_to() {
    let bench = Bench::new();
    model(&bench);
    let mount = Mount::new(&bench, &[]);
    let script = "cat mount/config.json || echo refused; ./bsfs status mount --json";
    let Some(output) = as_nobody(&bench, "", script) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with("refused") && said.contains("\"not accessible\""), "{said} {}", stderr(&output));
    drop(mount);
    let mount = Mount::new(&bench, &["--allow-other"]);
    let output = as_nobody(&bench, "", script).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with("{\"a\": 1}") && said.contains("\"live\""), "{said} {}", stderr(&output));
    drop(mount);
}

#[test]
fn a_source_that_goes_away_leaves_open_files_and_the_status() {
    let bench = Bench::new();
    let original = model(&bench);
    let mount = Mount::new(&bench, &["--ttl", "0"]);
    let file = File::open(mount.path("model.safetensors")).unwrap();
    fs::remove_dir_all(bench.source()).unwrap();
    let mut bytes = vec![0; original.len()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == original);
    assert_eq!(fs::read_dir(&mount.point).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(File::open(mount.path("config.json")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(mount.status().open_files, 1);
    drop(file);
    assert!(bsfs(&bench, ["unmount".as_ref(), mount.point.as_os_str()]).status.success());
}
