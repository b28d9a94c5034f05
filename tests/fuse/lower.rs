//! A source that is a FUSE mount itself: slow, failing, gone and back. Needs `/dev/fuse`, and root to mount.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::common::faulty::Faulty;
use crate::common::faulty::disk::{Call, Disk, Op, Verdict};
use crate::common::mounted::{self, Mount};
use crate::common::{Bench, eventually, pack, safetensors};

const SLOW: &str = "slow.safetensors.bs";

/// A disk below with two containers and a file, and what they are shown as.
struct Lower {
    slow: Vec<u8>,
    other: Vec<u8>,
    disk: Arc<Disk>,
    point: PathBuf,
    below: Faulty,
    bench: Bench,
}

impl Lower {
    fn new() -> Option<Self> {
        let (bench, disk) = (Bench::new(), Disk::new());
        let [slow, other] = [1, 2].map(|seed| safetensors(seed, 2_000_000));
        for (name, raw) in [(SLOW, &slow), ("other.safetensors.bs", &other)] {
            let packed = bench.dir.join("packed");
            pack(&bench.original(raw), &packed);
            disk.put(name, &fs::read(&packed).unwrap());
            fs::remove_file(packed).unwrap();
        }
        disk.put("config.json", b"{}");
        let point = bench.dir.join("lower");
        fs::create_dir(&point).unwrap();
        let below = Faulty::mount(&point, Arc::clone(&disk), false)?;
        Some(Self { slow, other, disk, point, below, bench })
    }

    fn mount(&self) -> Mount {
        Mount::of(&self.bench, &self.point, &self.bench.mount_point(), &["--ttl", "1"])
    }
}

/// Reads in a thread of its own.
fn reading(path: &Path) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (send, receive) = mpsc::channel();
    let path = path.to_path_buf();
    std::thread::spawn(move || send.send(fs::read(path)));
    receive
}

fn soon(path: &Path) -> io::Result<Vec<u8>> {
    reading(path).recv_timeout(Duration::from_secs(30)).expect("reading hangs")
}

/// Reads of what is in the second half of the packed file.
fn late(call: &Call<'_>) -> bool {
    call.op == Op::Read && call.name == SLOW && call.offset > 1_000_000
}

#[test]
fn a_read_that_hangs_below_keeps_nobody_else_waiting() {
    let Some(lower) = Lower::new() else { return };
    let mount = lower.mount();
    // The first listing opens the containers, and waits for all of them.
    assert_eq!(fs::read_dir(&mount.point).unwrap().count(), 3);
    lower.disk.hold();
    lower.disk.judge(|call| if late(call) { Verdict::Hold } else { Verdict::Go });
    let slow = reading(&mount.path("slow.safetensors"));
    let second = reading(&mount.path("slow.safetensors"));
    assert!(soon(&mount.path("other.safetensors")).unwrap() == lower.other);
    assert_eq!(soon(&mount.path("config.json")).unwrap(), b"{}");
    assert_eq!(fs::read_dir(&mount.point).unwrap().count(), 3);
    assert!(slow.try_recv().is_err(), "it hangs yet");
    lower.disk.release();
    for reader in [slow, second] {
        assert!(reader.recv_timeout(Duration::from_secs(30)).unwrap().unwrap() == lower.slow);
    }
    assert_eq!(mount.status().errors, 0);
}

#[test]
fn errors_from_below_are_passed_on_and_gone_when_it_is_well_again() {
    for errno in [libc::EIO, libc::ESTALE, libc::ETIMEDOUT] {
        let Some(lower) = Lower::new() else { return };
        let mount = lower.mount();
        let path = mount.path("slow.safetensors");
        let kept = fs::File::open(&path).unwrap();
        lower.disk.judge(move |call| if late(call) { Verdict::Fail(errno) } else { Verdict::Go });
        let failed = soon(&path).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(errno));
        assert!(soon(&mount.path("other.safetensors")).unwrap() == lower.other);
        lower.disk.calm();
        assert!(soon(&path).unwrap() == lower.slow);
        // What was open meanwhile goes on, too.
        let mut bytes = vec![0; lower.slow.len()];
        std::os::unix::fs::FileExt::read_exact_at(&kept, &mut bytes, 0).unwrap();
        assert!(bytes == lower.slow);
    }
}

#[test]
fn a_source_that_was_lost_and_is_mounted_anew_is_read_again() {
    let Some(mut lower) = Lower::new() else { return };
    let mount = lower.mount();
    assert_eq!(soon(&mount.path("config.json")).unwrap(), b"{}");
    lower.below.die();
    assert!(soon(&mount.path("slow.safetensors")).is_err());
    eventually("the names are gone with the source", || {
        fs::read_dir(&mount.point).map_or(true, |mut d| d.next().is_none())
    });
    let (point, disk) = (lower.point.clone(), Arc::clone(&lower.disk));
    let old = std::mem::replace(&mut lower.below, Faulty::mount(&point, disk, false).unwrap());
    // The dead one lies below the new one, as after "mount" again; taking one off takes the upper.
    assert!(mount.status().pid == mount.pid);
    eventually("it is read again", || {
        soon(&mount.path("slow.safetensors")).is_ok_and(|bytes| bytes == lower.slow)
            && soon(&mount.path("config.json")).is_ok_and(|bytes| bytes == b"{}")
    });
    drop(mount);
    drop(old);
}

#[test]
fn a_mount_over_another_mount_shows_it_and_passes_its_errors_on() {
    let Some(lower) = Lower::new() else { return };
    let mount = Mount::of(&lower.bench, &lower.point, &lower.point, &["--ttl", "1"]);
    let path = mount.path("slow.safetensors");
    assert!(path.exists());
    lower.disk.judge(|call| if late(call) { Verdict::Fail(libc::EIO) } else { Verdict::Go });
    assert_eq!(soon(&path).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(soon(&mount.path("other.safetensors")).unwrap() == lower.other);
    lower.disk.calm();
    assert!(soon(&path).unwrap() == lower.slow);
    assert_eq!(soon(&mount.path("config.json")).unwrap(), b"{}");
    drop(mount);
    assert!(fs::read_dir(&lower.point).unwrap().count() == 3);
}

#[test]
fn a_container_that_could_not_be_opened_for_an_error_below_is_opened_when_it_is_well_again() {
    let Some(lower) = Lower::new() else { return };
    let mount = lower.mount();
    lower.disk.judge(|call| if late(call) { Verdict::Fail(libc::EIO) } else { Verdict::Go });
    assert!(fs::read_dir(&mount.point).unwrap().count() >= 2);
    lower.disk.calm();
    eventually("it is shown as what it holds", || {
        soon(&mount.path("slow.safetensors")).is_ok_and(|bytes| bytes == lower.slow)
    });
}

#[test]
fn a_source_that_hangs_does_not_hold_up_the_end_of_a_mount() {
    let Some(lower) = Lower::new() else { return };
    let options = ["--ttl", "1", "--cache", "all"];
    let mount = Mount::of(&lower.bench, &lower.point, &lower.bench.mount_point(), &options);
    // Opened before: the index is at the end of the packed file.
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(mount.path("slow.safetensors")).unwrap();
    let held = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&held);
    lower.disk.hold();
    lower.disk.judge(move |call| {
        let last = call.op == Op::Read && call.name == SLOW && call.offset > 1_900_000;
        noted.fetch_or(last, Ordering::Relaxed);
        if last { Verdict::Hold } else { Verdict::Go }
    });
    // More than half of its chunks, around the kernel's readahead: what is missing is decoded once the file is closed, and waits
    // for the source.
    let mut piece = vec![0; 1 << 20];
    for n in 0..2 {
        file.read_exact_at(&mut piece, n << 20).unwrap();
        assert!(piece == lower.slow[(n << 20) as usize..][..1 << 20]);
    }
    drop(file);
    eventually("the source hangs", || held.load(Ordering::Relaxed));
    eventually("it is unmounted", || mounted::unmount(&mount.point, 0).is_ok());
    let begun = Instant::now();
    while mounted::is_running(mount.pid) {
        assert!(begun.elapsed() < Duration::from_secs(30), "the daemon waits for its source");
        std::thread::sleep(Duration::from_millis(50));
    }
    lower.disk.release();
}

#[test]
fn a_slow_read_says_what_it_waited_for() {
    let Some(lower) = Lower::new() else { return };
    let options = ["--ttl", "1", "--cache", "off"];
    let mount = Mount::of(&lower.bench, &lower.point, &lower.bench.mount_point(), &options);
    let path = mount.path("slow.safetensors");
    let len = lower.slow.len() as u64;
    let held = Arc::new(AtomicBool::new(false));
    // Around the page cache, so that the second read reaches the daemon while the first waits.
    let read = |offset: u64| {
        let path = path.clone();
        std::thread::spawn(move || {
            let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
            let mut bytes = vec![0; 8192];
            file.read_exact_at(&mut bytes[..4096], offset).unwrap();
        })
    };
    // Threads that have worked for others before.
    drop(fs::read(mount.path("other.safetensors")).unwrap());
    for offset in [0, len / 8] {
        read(offset).join().unwrap();
    }
    lower.disk.hold();
    let noted = Arc::clone(&held);
    lower.disk.judge(move |call| {
        let last = late(call);
        noted.fetch_or(last, Ordering::Relaxed);
        if last { Verdict::Hold } else { Verdict::Go }
    });
    let at = len / 8 * 7 / 4096 * 4096;
    let first = read(at);
    eventually("the source hangs", || held.load(Ordering::Relaxed));
    let second = read(at);
    // So long both wait, the second a little less.
    std::thread::sleep(Duration::from_secs(1));
    lower.disk.release();
    first.join().unwrap();
    second.join().unwrap();
    let slow = mount.status().slow_reads;
    let mut why: Vec<_> =
        slow.iter().filter(|read| read.seconds >= 0.1).map(|read| (read.file.as_str(), read.why.as_str())).collect();
    why.sort_unstable();
    assert_eq!(why, [(SLOW, "source"), (SLOW, "wait")], "{slow:?}");
}
