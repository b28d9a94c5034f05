//! Mounts that an automounter asks for: a program waits at a trigger until `bsfs mount` has returned. Needs root and autofs.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::common::mounted::{BSFS, Mount, Running, command, is_mounted, model, status_of, unmount};
use crate::common::{Bench, eventually, skip, skip_on_this_kernel};

/// Of linux/auto_fs.h: what was asked for is mounted; from now on nothing waits here.
const READY: libc::c_ulong = 0x9360;
const CATATONIC: libc::c_ulong = 0x9362;
/// The longest packet of the protocol.
const PACKET: usize = 512;
/// More than a mount takes, less than its own limit of 30 s.
const PATIENCE: Duration = Duration::from_secs(15);

/// The process group whose members pass triggers: what the automounter itself and its mount commands are in.
struct Owner(Running);

impl Owner {
    fn new() -> Self {
        let mut command = Command::new("sleep");
        Self(Running(command.arg("600").process_group(0).spawn().unwrap()))
    }

    fn group(&self) -> i32 {
        self.0.0.id().cast_signed()
    }
}

/// A direct automount point.
struct Trigger {
    point: PathBuf,
    /// The directory itself, whatever is mounted there.
    directory: OwnedFd,
    requests: File,
}

impl Trigger {
    /// `None` where the kernel has no autofs, or without the right to use it.
    fn new(owner: &Owner, point: &Path) -> Option<Self> {
        let mut ends = [0; 2];
        // SAFETY: room for two numbers.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        // SAFETY: both were just opened and have no other owner.
        let [requests, answers] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
        let options = format!("fd={},pgrp={},minproto=5,maxproto=5,direct\0", answers.as_raw_fd(), owner.group());
        let target = format!("{}\0", point.display());
        // SAFETY: strings that end with a zero byte and outlive the call.
        let mounted = unsafe {
            libc::mount(c"test".as_ptr(), target.as_ptr().cast(), c"autofs".as_ptr(), 0, options.as_ptr().cast())
        };
        if mounted != 0 {
            let error = std::io::Error::last_os_error();
            let tell = if error.raw_os_error() == Some(libc::ENODEV) { skip_on_this_kernel } else { skip };
            tell(&format!("no autofs: {error}"));
            return None;
        }
        Some(Self { point: point.to_path_buf(), directory: directory(owner, point), requests: File::from(requests) })
    }

    /// Waits for a program to step on it; the number of its request.
    fn request(&mut self) -> u32 {
        let mut wait = libc::pollfd { fd: self.requests.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure.
        assert_eq!(unsafe { libc::poll(&raw mut wait, 1, 10_000) }, 1, "nothing stepped on the trigger");
        let mut packet = [0; PACKET];
        let len = self.requests.read(&mut packet).unwrap();
        assert!(len >= 12, "{len}");
        u32::from_ne_bytes(packet[8..12].try_into().unwrap())
    }

    /// Lets the programs go on that wait, since something is mounted there.
    fn ready(&self, request: u32) {
        assert_eq!(self.control(READY, request.into()), 0);
    }

    fn control(&self, command: libc::c_ulong, value: libc::c_ulong) -> i32 {
        // SAFETY: these commands take a number.
        unsafe { libc::ioctl(self.directory.as_raw_fd(), command, value) }
    }
}

impl Drop for Trigger {
    fn drop(&mut self) {
        // First: this process would wait at the trigger as well.
        self.control(CATATONIC, 0);
        while unmount(&self.point, libc::MNT_DETACH).is_ok() {}
    }
}

/// Opens the directory of a trigger, which only members of the owner's group can: taken from one of them.
fn directory(owner: &Owner, point: &Path) -> OwnedFd {
    let mut command = Command::new("sh");
    command.args(["-c", "exec sleep 600 <\"$0\""]).arg(point).process_group(owner.group());
    let member = Running(command.spawn().unwrap());
    let (pid, input) = (member.0.id(), format!("/proc/{}/fd/0", member.0.id()));
    eventually("it is open", || fs::read_link(&input).is_ok_and(|path| path == point));
    // SAFETY: plain numbers; both results are new descriptors without another owner.
    unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        assert!(process >= 0, "{}", std::io::Error::last_os_error());
        let process = OwnedFd::from_raw_fd(process as i32);
        let directory = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), 0, 0);
        assert!(directory >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(directory as i32)
    }
}

/// A program that steps on the trigger at `point`: what it finds there.
fn visitor(point: &Path) -> (mpsc::Receiver<Vec<String>>, JoinHandle<()>) {
    let (send, receive) = mpsc::channel();
    let point = point.to_path_buf();
    let visit = move || {
        let names = fs::read_dir(point).into_iter().flatten().flatten();
        let _ = send.send(names.map(|name| name.file_name().into_string().unwrap()).collect());
    };
    (receive, std::thread::spawn(visit))
}

/// Whether the command has returned with success in time.
fn succeeds(child: Child) -> bool {
    let (mut running, end) = (Running(child), Instant::now() + PATIENCE);
    while Instant::now() < end {
        if let Some(status) = running.0.try_wait().unwrap() {
            return status.success();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// The owner of a trigger runs `command` when a program steps on it, and that program sees the mount.
fn mounts_on_demand(bench: &Bench, mut command: Command) {
    let owner = Owner::new();
    let Some(mut trigger) = Trigger::new(&owner, &bench.mount_point()) else { return };
    let (found, visit) = visitor(&trigger.point);
    let request = trigger.request();
    let mounted = succeeds(command.process_group(owner.group()).stderr(Stdio::inherit()).spawn().unwrap());
    if mounted {
        trigger.ready(request);
    } else {
        drop(trigger);
        visit.join().unwrap();
        panic!("it waits for the mount that it makes, or has failed");
    }
    let mount = Mount { pid: status_of(&trigger.point).unwrap().pid, point: trigger.point.clone() };
    assert!(found.recv_timeout(PATIENCE).unwrap().contains(&"model.safetensors".to_owned()));
    visit.join().unwrap();
    drop(mount);
    eventually("nothing of ours is mounted there", || !is_mounted(&trigger.point));
}

#[test]
fn an_automounter_gets_a_mount_from_the_command() {
    let bench = Bench::new();
    model(&bench);
    let mut command = command(&bench);
    command.arg("mount").args([bench.source(), bench.mount_point()]).args(["--cache", "off"]);
    mounts_on_demand(&bench, command);
}

#[test]
fn an_automounter_gets_a_mount_from_the_helper_of_mount() {
    let bench = Bench::new();
    model(&bench);
    let helper = bench.dir.join("mount.bsfs");
    symlink(BSFS, &helper).unwrap();
    let mut command = Command::new(helper);
    command.env("XDG_STATE_HOME", bench.dir.join("state")).env("XDG_CACHE_HOME", bench.dir.join("cache"));
    command.args([bench.source(), bench.mount_point()]).args(["-o", "rw,x-systemd.automount,cache=all"]);
    mounts_on_demand(&bench, command);
}

/// systemd owns all triggers of a system, those of sources as well: they must be stepped on.
#[test]
fn a_source_behind_a_trigger_of_the_same_owner_is_mounted_first() {
    let bench = Bench::new();
    model(&bench);
    let shared = bench.dir.join("shared");
    fs::create_dir(&shared).unwrap();
    let owner = Owner::new();
    let Some(mut source) = Trigger::new(&owner, &shared) else { return };
    let Some(mut trigger) = Trigger::new(&owner, &bench.mount_point()) else { return };
    let (found, visit) = visitor(&trigger.point);
    let request = trigger.request();
    let mut command = command(&bench);
    command.arg("mount").args([&shared, &bench.mount_point()]).args(["--cache", "off"]);
    let child = command.process_group(owner.group()).spawn().unwrap();
    let asked = source.request();
    let mut bind = Command::new("mount");
    let bound = bind.arg("--bind").args([bench.source(), shared]).process_group(owner.group()).status().unwrap();
    assert!(bound.success());
    source.ready(asked);
    let mounted = succeeds(child);
    if !mounted {
        drop(trigger);
        visit.join().unwrap();
        panic!("it waits for the mount that it makes, or has failed");
    }
    trigger.ready(request);
    let mount = Mount { pid: status_of(&trigger.point).unwrap().pid, point: trigger.point.clone() };
    assert!(found.recv_timeout(PATIENCE).unwrap().contains(&"model.safetensors".to_owned()));
    visit.join().unwrap();
    drop(mount);
}

/// What lies below the mount point cannot be used by the mount; looking there must not wait for it either.
#[test]
fn what_lies_below_the_trigger_is_refused_and_not_waited_for() {
    let bench = Bench::new();
    model(&bench);
    let owner = Owner::new();
    let Some(mut trigger) = Trigger::new(&owner, &bench.mount_point()) else { return };
    let (_found, visit) = visitor(&trigger.point);
    trigger.request();
    let inside = trigger.point.join("inside");
    let link = bench.dir.join("link");
    symlink(&inside, &link).unwrap();
    for option in ["--cache-dir", "--log-file", "--base", "--metrics-file", "--follow"] {
        for path in [&inside, &link] {
            let mut command = command(&bench);
            command.arg("mount").args([bench.source(), bench.mount_point()]).arg(option).arg(path);
            let began = Instant::now();
            assert!(!succeeds(command.process_group(owner.group()).spawn().unwrap()), "{option} {}", path.display());
            assert!(began.elapsed() < PATIENCE, "{option} {} waits for the mount", path.display());
        }
    }
    drop(trigger);
    visit.join().unwrap();
}
