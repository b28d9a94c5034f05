//! Sources whose file system does not answer: a process that shows it is stopped. What waits for it, and what goes on. Takes root
//! and bindfs.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::Duration;

use crate::common::bindfs::Bindfs;
use crate::common::mounted::{Mount, model, status_of};
use crate::common::{Bench, eventually, fixtures, safetensors};
use crate::open_files::mount_limited;

/// What goes on, even where other tests take the processor.
const SOON: Duration = Duration::from_secs(20);
/// More than there are threads that take requests, and threads for one source.
const MANY: usize = 100;

/// A source with two directories of other file systems.
struct Sources {
    model: Vec<u8>,
    hung: Bindfs,
    _other: Bindfs,
    bench: Bench,
}

impl Sources {
    fn new() -> Option<Self> {
        let bench = Bench::new();
        let model = model(&bench);
        for name in ["hung", "other"] {
            let real = bench.dir.join(format!("real-{name}"));
            fs::create_dir(&real).unwrap();
            fs::create_dir(bench.source().join(name)).unwrap();
            fs::copy(bench.source().join("model.safetensors.bs"), real.join("model.safetensors.bs")).unwrap();
            for n in 0..MANY {
                fs::write(real.join(format!("{n}.json")), n.to_string()).unwrap();
            }
        }
        let at = |name: &str| Bindfs::new(&bench.dir.join(format!("real-{name}")), &bench.source().join(name));
        let (hung, other) = (at("hung")?, at("other")?);
        Some(Self { model, hung, _other: other, bench })
    }

    fn mount(&self, options: &[&str]) -> Mount {
        let mount = Mount::new(&self.bench, &[&["--cache", "off"], options].concat());
        for dir in ["", "hung", "other", "sub"] {
            assert!(fs::read_dir(mount.path(dir)).unwrap().count() >= 1, "{dir}");
        }
        mount
    }
}

/// Does something in a thread of its own.
fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(work()));
    receive
}

fn soon<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    apart(work).recv_timeout(SOON).unwrap_or_else(|_| panic!("hangs: {what}"))
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_source_that_hangs_stalls_only_what_asks_for_it() {
    // Names on the way that the kernel asks for each time, and that it knows.
    for ttl in ["0", "60"] {
        only_who_asks_is_stalled(ttl);
    }
}

fn only_who_asks_is_stalled(ttl: &str) {
    let Some(sources) = Sources::new() else { return };
    std::os::unix::fs::symlink("../real-links", sources.bench.source().join("links")).unwrap();
    let links = sources.bench.dir.join("real-links");
    fs::create_dir(&links).unwrap();
    fs::write(links.join("a"), b"a").unwrap();
    std::os::unix::fs::symlink(sources.bench.source().join("hung/7.json"), links.join("b")).unwrap();
    let mount = sources.mount(&["--ttl", ttl]);
    assert_eq!(names(&mount.path("links")), ["a", "b"]);
    sources.hung.stop();
    let mut hanging = Vec::new();
    for n in 0..MANY {
        let path = mount.path(&format!("hung/{n}.json"));
        hanging.push(apart(move || fs::read(path).map(drop)));
    }
    let path = mount.path("hung/absent");
    hanging.push(apart(move || fs::metadata(path).map(drop)));
    let path = mount.path("hung/model.safetensors");
    hanging.push(apart(move || fs::read(path).map(drop)));
    let path = mount.path("hung");
    hanging.push(apart(move || fs::read_dir(path).map(drop)));
    // They have all come to the daemon by then, if it takes requests at all.
    eventually("requests that hang are waited for", || {
        let waiting = fs::read_dir("/proc/self/task").unwrap().filter(|task| {
            let path = task.as_ref().unwrap().path().join("wchan");
            fs::read_to_string(path).is_ok_and(|at| at.contains("request_wait_answer"))
        });
        waiting.count() >= MANY.min(30)
    });
    // The directory above has to be scanned anew.
    sources.bench.plain("new.json", b"{}");
    let point = mount.point.clone();
    let status = soon("status", move || status_of(&point)).expect("the mount answers");
    assert_eq!(status.pid, mount.pid);
    for (dir, count) in [("", 7), ("sub", 1), ("other", MANY + 1)] {
        let path = mount.path(dir);
        assert_eq!(soon(&format!("listing /{dir}"), move || names(&path)).len(), count, "{dir}");
    }
    for name in ["model.safetensors", "other/model.safetensors"] {
        let path = mount.path(name);
        assert!(soon(name, move || fs::read(path)).unwrap() == sources.model, "{name}");
    }
    for name in ["config.json", "new.json", "other/7.json", ".bsfs/metrics.prom", ".bsfs/stats.json"] {
        let path = mount.path(name);
        assert!(!soon(name, move || fs::read(path)).unwrap().is_empty(), "{name}");
    }
    // A file there that a link leads to: one who scans may wait for it, others see what was there.
    fs::write(links.join("c"), b"c").unwrap();
    let (send, listed) = mpsc::channel();
    for _ in 0..2 {
        let (send, dir) = (send.clone(), mount.path("links"));
        // It may be too late for the test.
        std::thread::spawn(move || _ = send.send(names(&dir)));
    }
    assert_eq!(listed.recv_timeout(SOON).expect("listing links"), ["a", "b", "c"]);
    let absent = mount.path("absent");
    assert!(soon("a name that is not there", move || fs::metadata(absent)).is_err());
    assert!(hanging.iter().all(|one| matches!(one.try_recv(), Err(TryRecvError::Empty))), "they hang yet");
    sources.hung.go();
    for (at, one) in hanging.into_iter().enumerate() {
        let answer = one.recv_timeout(SOON).expect("it goes on");
        assert!(at >= MANY || answer.is_ok(), "{at}: {answer:?}");
    }
    assert_eq!(mount.status().errors, 0);
}

#[test]
fn a_root_that_hangs_leaves_the_mount_its_status_and_what_was_open_is_closed_in_the_end() {
    let bench = Bench::new();
    let real = bench.dir.join("real");
    fs::create_dir(&real).unwrap();
    fs::write(real.join("a.json"), b"{}").unwrap();
    let Some(hung) = Bindfs::new(&real, &bench.source()) else { return };
    let mount = Mount::new(&bench, &["--cache", "off", "--ttl", "1", "--patience", "1"]);
    let open: Vec<_> = (0..8).map(|_| fs::File::open(mount.path("a.json")).unwrap()).collect();
    assert!(mount.status().open_files >= 8);
    hung.stop();
    std::thread::sleep(Duration::from_secs(2));
    let stats = mount.path(".bsfs/stats.json");
    for _ in 0..3 {
        let (point, stats) = (mount.point.clone(), stats.clone());
        assert!(soon("status", move || status_of(&point)).is_some());
        assert!(!soon("stats.json", move || fs::read(stats)).unwrap().is_empty());
    }
    // More opens than run at once, so that what closes has to wait for its turn, longer than the patience.
    let hanging: Vec<_> = (0..8)
        .map(|_| {
            let path = mount.path("a.json");
            apart(move || fs::File::open(path).map(drop))
        })
        .collect();
    drop(open);
    for one in hanging {
        // Each request of an open waits for the patience, and the kernel tries again after some errors.
        let _ = one.recv_timeout(3 * SOON).expect("an answer after the patience");
    }
    hung.go();
    eventually("all are closed", || mount.status().open_files == 0);
}

#[test]
fn reads_of_many_files_that_hang_leave_others_alone() {
    let Some(sources) = Sources::new() else { return };
    let real = sources.bench.dir.join("real-hung");
    for n in 0..MANY {
        fs::copy(real.join("model.safetensors.bs"), real.join(format!("m{n}.safetensors.bs"))).unwrap();
    }
    let mount = sources.mount(&[]);
    let open = |n: usize| fs::File::open(mount.path(&format!("hung/m{n}.safetensors"))).unwrap();
    let files: Vec<_> = (0..MANY).map(open).collect();
    sources.hung.stop();
    let read = |file: fs::File| {
        apart(move || {
            let mut byte = [0];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, 1_000_000)
        })
    };
    let hanging: Vec<_> = files.into_iter().map(read).collect();
    let path = mount.path("other/model.safetensors");
    assert!(soon("a file of another source", move || fs::read(path)).unwrap() == sources.model);
    let path = mount.path("model.safetensors");
    assert!(soon("a file", move || fs::read(path)).unwrap() == sources.model);
    sources.hung.go();
    for one in hanging {
        one.recv_timeout(SOON).expect("it goes on").unwrap();
    }
}

#[test]
fn who_waits_for_a_source_that_hangs_gets_an_error_after_the_patience_of_the_mount() {
    let Some(sources) = Sources::new() else { return };
    let log = sources.bench.dir.join("log");
    let mount = sources.mount(&["--patience", "2", "--log-file", log.to_str().unwrap()]);
    let open = fs::File::open(mount.path("hung/model.safetensors")).unwrap();
    sources.hung.stop();
    let mut hanging: Vec<Receiver<io::Result<()>>> = Vec::new();
    for name in ["hung/1.json", "hung/absent", "hung/model.safetensors"] {
        let path = mount.path(name);
        hanging.push(apart(move || fs::read(path).map(drop)));
    }
    let path = mount.path("hung");
    hanging.push(apart(move || fs::read_dir(path).map(drop)));
    hanging.push(apart(move || {
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&open, &mut byte, 1_000_000)
    }));
    for (at, one) in hanging.into_iter().enumerate() {
        let error = one.recv_timeout(SOON).expect("it ends").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{at}");
    }
    let told = fs::read_to_string(&log).unwrap();
    let line = |name: &str| told.lines().any(|line| line.contains(name) && line.contains("--patience"));
    assert!(line("hung/model.safetensors.bs") && line("hung/absent"), "{told}");
    assert!(mount.status().errors > 0);
    sources.hung.go();
    let path = mount.path("hung/model.safetensors");
    eventually("it is read again", || fs::read(&path).is_ok_and(|bytes| bytes == sources.model));
    assert_eq!(fs::read(mount.path("hung/1.json")).unwrap(), b"1");
}

#[test]
fn a_base_that_hangs_ends_with_the_patience_of_the_mount() {
    let bench = Bench::new();
    let [real, shown] = ["real", "shown"].map(|name| bench.dir.join(name));
    fs::create_dir(&shown).unwrap();
    fs::create_dir_all(real.join("sub")).unwrap();
    fs::copy(fixtures::dir().join("delta-base-2.0.1.safetensors"), real.join("base.safetensors")).unwrap();
    let Some(hung) = Bindfs::new(&real, &shown) else { return };
    // A directory, a file, and a directory below: the first call that hangs is another one.
    fixtures::place(&bench, "delta-2.0.1.bs", "delta.bs");
    for named in [shown.clone(), shown.join("base.safetensors"), shown.join("sub")] {
        let mount = Mount::new(&bench, &["--cache", "off", "--patience", "2", "--base", named.to_str().unwrap()]);
        let path = mount.path("delta.safetensors");
        fs::metadata(&path).unwrap();
        hung.stop();
        let open = apart(move || fs::read(path).map(drop));
        let error = open.recv_timeout(SOON).expect("it ends").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{}", named.display());
        assert!(mount.status().errors > 0);
        hung.go();
    }
}

#[test]
fn files_of_a_source_that_hangs_are_not_closed_by_those_who_open_others() {
    let Some(sources) = Sources::new() else { return };
    let mount = mount_limited(&sources.bench, 48, &["--patience", "4"]);
    for dir in ["hung", "other"] {
        assert_eq!(names(&mount.path(dir)).len(), MANY + 1, "{dir}");
    }
    let open = |dir: &str, n: usize| fs::File::open(mount.path(&format!("{dir}/{n}.json"))).unwrap();
    let held: Vec<_> = (0..8).map(|n| open("hung", n)).collect();
    sources.hung.stop();
    for n in 0..40 {
        let path = mount.path(&format!("other/{n}.json"));
        assert_eq!(soon("another source", move || fs::read(path)).unwrap(), n.to_string().as_bytes());
    }
    assert_eq!(mount.status().errors, 0);
    sources.hung.go();
    for (n, file) in held.iter().enumerate() {
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut byte, 0).unwrap();
        assert_eq!(byte, *n.to_string().as_bytes());
    }
}

#[test]
fn what_is_slow_is_no_source_that_hangs() {
    let bench = Bench::new();
    let bytes = safetensors(3, 3_000_000);
    bench.packed("model.safetensors.bs", &bytes);
    let mount = Mount::new(&bench, &["--patience", "1", "--memory", "4M", "--cache", "off"]);
    // Reads for longer than the patience.
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        let file = fs::File::open(mount.path("model.safetensors")).unwrap();
        // SAFETY: advice only.
        unsafe { libc::posix_fadvise(std::os::fd::AsRawFd::as_raw_fd(&file), 0, 0, libc::POSIX_FADV_DONTNEED) };
        assert!(fs::read(mount.path("model.safetensors")).unwrap() == bytes);
    }
    assert_eq!(mount.status().errors, 0);
}
