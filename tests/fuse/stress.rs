//! Everything at once, for a while: what many readers see of a mount that has next to no memory. Needs `/dev/fuse`.
//!
//! `BSFS_STRESS_SECONDS` makes it longer than ten seconds, `BSFS_STRESS_SEED` repeats the choices of a run that failed.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::mounted::{Mount, bsfs, is_mounted, is_running, stderr};
use crate::common::{Bench, eventually, noise, safetensors};

const THREADS: u64 = 16;
const PAGE: usize = 4096;
/// Larger than a chunk and than what the kernel asks for at once.
const LONGEST: usize = 3 << 20;
const MEMORY: u64 = 4 << 20;
/// What the daemon may need beside the chunks that it keeps: buffers of requests that run at the same time.
const BESIDE: u64 = 64 << 20;

/// What is shown, and what has to be read from it.
struct Shown {
    path: PathBuf,
    bytes: Vec<u8>,
    /// One descriptor that all threads use.
    shared: File,
}

/// A generator of choices, of its own for each thread.
struct Dice(u64);

impl Dice {
    fn new(seed: u64, thread: u64) -> Self {
        Self(seed.wrapping_add(thread << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % n
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// From 1 to [`LONGEST`] bytes, each order of magnitude as often.
    fn size(&mut self) -> usize {
        let most = 1 << (1 + self.below(22));
        1 + self.below(LONGEST.min(most))
    }
}

/// Tells the other threads when one has failed.
struct Alarm<'a>(&'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// What the threads do, and how often each of it was done.
const KINDS: [&str; 7] = ["read at", "read all", "read directly", "map", "open", "forget", "killed"];
type Counts = [AtomicU64; KINDS.len()];

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// A file of one F32 tensor whose high bytes are of few values.
fn single_precision(seed: u64, elements: usize) -> Vec<u8> {
    let header = format!(r#"{{"w":{{"dtype":"F32","shape":[{elements}],"data_offsets":[0,{}]}}}}"#, elements * 4);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    for (i, byte) in noise(seed, elements * 4).into_iter().enumerate() {
        bytes.push(if i % 4 == 3 { 0x3c | (byte & 0x83) } else { byte });
    }
    bytes
}

/// A file of many tensors of some hundred bytes each, of three types.
fn many_tensors(seed: u64, tensors: usize) -> Vec<u8> {
    let mut header = String::from("{");
    let mut end = 0;
    for n in 0..tensors {
        let (dtype, width) = [("BF16", 2), ("F32", 4), ("U8", 1)][n % 3];
        let elements = 1 + n * 37 % 700;
        let begin = end;
        end += elements * width;
        let comma = if n == 0 { "" } else { "," };
        write!(header, r#"{comma}"t{n}":{{"dtype":"{dtype}","shape":[{elements}],"data_offsets":[{begin},{end}]}}"#)
            .unwrap();
    }
    header.push('}');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(noise(seed, end));
    bytes
}

/// Fails where `got` is not what the file has at `offset`; `asked` is how much was wanted.
fn compare(shown: &Shown, what: &str, offset: usize, asked: usize, got: &[u8]) {
    let end = offset.saturating_add(asked).min(shown.bytes.len());
    let expected = shown.bytes.get(offset..end).unwrap_or_default();
    let name = shown.path.file_name().unwrap().display();
    assert_eq!(got.len(), expected.len(), "{what} of {name}, {asked} bytes at {offset}: the length");
    if let Some(at) = (0..got.len()).find(|&i| got[i] != expected[i]) {
        panic!("{what} of {name}, {asked} bytes at {offset}: differs first at {}", offset + at);
    }
}

/// A place in the file, or rarely beyond its end.
fn offset(dice: &mut Dice, shown: &Shown) -> usize {
    match dice.below(16) {
        0 => shown.bytes.len() - 1 - dice.below(PAGE),
        1 => shown.bytes.len() + dice.below(2 * PAGE),
        _ => dice.below(shown.bytes.len()),
    }
}

fn read_at(dice: &mut Dice, shown: &Shown, file: &File, buffer: &mut [u8]) {
    let (offset, size) = (offset(dice, shown), dice.size());
    let got = file.read_at(&mut buffer[..size], offset as u64).unwrap();
    compare(shown, "read at", offset, size, &buffer[..got]);
}

fn read_all(dice: &mut Dice, shown: &Shown, buffer: &mut [u8]) {
    let mut file = File::open(&shown.path).unwrap();
    let size = PAGE << dice.below(9);
    let mut at = 0;
    loop {
        let got = file.read(&mut buffer[..size]).unwrap();
        compare(shown, "read all", at, got, &buffer[..got]);
        at += got;
        if got == 0 {
            break;
        }
    }
    assert_eq!(at, shown.bytes.len(), "{}", shown.path.display());
}

fn read_directly(dice: &mut Dice, shown: &Shown, buffer: &mut [u8]) {
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(&shown.path).unwrap();
    let sector = *dice.pick(&[512, PAGE]);
    let start = buffer.as_ptr().align_offset(PAGE);
    for _ in 0..1 + dice.below(4) {
        let offset = offset(dice, shown) / sector * sector;
        let size = dice.size().next_multiple_of(sector);
        let got = file.read_at(&mut buffer[start..start + size], offset as u64).unwrap();
        compare(shown, "read directly", offset, size, &buffer[start..start + got]);
    }
}

fn map(dice: &mut Dice, shown: &Shown, file: &File) {
    let offset = dice.below(shown.bytes.len());
    let size = dice.size().min(shown.bytes.len() - offset);
    // To the end of the page, where what is behind the end of the file has to be zero.
    let tail =
        if offset + size == shown.bytes.len() { (offset + size).next_multiple_of(PAGE) - offset - size } else { 0 };
    // SAFETY: nothing writes to the file.
    let map = unsafe { memmap2::MmapOptions::new().offset(offset as u64).len(size + tail).map(file) }.unwrap();
    if dice.below(2) == 0 {
        // Backwards, so that no readahead has brought the next page.
        for at in (0..size).step_by(PAGE).rev() {
            let end = (at + PAGE).min(size);
            compare(shown, "map", offset + at, end - at, &map[at..end]);
        }
    } else {
        compare(shown, "map", offset, size, &map[..size]);
    }
    assert!(map[size..].iter().all(|byte| *byte == 0), "{}: bytes behind the end", shown.path.display());
}

/// The kernel drops what it has of the file, so that the next reads reach the daemon.
fn forget(dice: &mut Dice, shown: &Shown) {
    let (begin, len) = if dice.below(4) == 0 { (0, 0) } else { (offset(dice, shown), dice.size()) };
    // SAFETY: no memory is involved.
    let errno =
        unsafe { libc::posix_fadvise(shown.shared.as_raw_fd(), begin as i64, len as i64, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(errno, 0);
}

/// One thread's part, until the deadline.
fn read_and_compare(dice: &mut Dice, files: &[Shown], counts: &Counts, go_on: &dyn Fn() -> bool) {
    let mut buffer = vec![0; LONGEST + 2 * PAGE];
    let mut held: Vec<(&Shown, File)> = Vec::new();
    while go_on() {
        let shown = dice.pick(files);
        let kind = match dice.below(64) {
            0 => 1,
            1..24 => 0,
            24..36 => 2,
            36..48 => 3,
            48..56 => 4,
            _ => 5,
        };
        match kind {
            0 if held.is_empty() || dice.below(2) == 0 => read_at(dice, shown, &shown.shared, &mut buffer),
            0 => {
                let (shown, file) = dice.pick(&held);
                read_at(dice, shown, file, &mut buffer);
            }
            1 => read_all(dice, shown, &mut buffer),
            2 => read_directly(dice, shown, &mut buffer),
            3 => map(dice, shown, &shown.shared),
            4 => {
                let file = File::open(&shown.path).unwrap();
                assert_eq!(file.metadata().unwrap().len(), shown.bytes.len() as u64);
                held.push((shown, file));
                if held.len() > 8 {
                    held.swap_remove(dice.below(held.len()));
                }
            }
            _ => forget(dice, shown),
        }
        counts[kind].fetch_add(1, Ordering::Relaxed);
    }
}

/// What a child does until it is killed: it never returns. Only calls that are allowed between fork and exec, since other
/// threads may have held any lock when it was made.
fn child(shown: &Shown, mapped: bool, buffer: &mut [u8]) -> ! {
    let (fd, len) = (shown.shared.as_raw_fd(), shown.bytes.len());
    loop {
        // SAFETY: a new mapping that is taken away again, and a buffer that is as long as is said.
        let equal = unsafe {
            libc::posix_fadvise(fd, 0, 0, libc::POSIX_FADV_DONTNEED);
            if mapped {
                let at = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0);
                let equal = at != libc::MAP_FAILED && libc::memcmp(at, shown.bytes.as_ptr().cast(), len) == 0;
                libc::munmap(at, len);
                equal
            } else {
                let got = libc::pread(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0);
                got == len.min(buffer.len()) as isize
                    && libc::memcmp(buffer.as_ptr().cast(), shown.bytes.as_ptr().cast(), got as usize) == 0
            }
        };
        if !equal {
            // SAFETY: ends this process, and runs nothing of the parent's in it.
            unsafe { libc::_exit(1) };
        }
    }
}

/// Once a second a child that is killed while it reads, by turns from a mapping and by read.
fn kill_children(dice: &mut Dice, files: &[Shown], counts: &Counts, go_on: &dyn Fn() -> bool) {
    let mut buffer = vec![0; LONGEST];
    let mut mapped = false;
    while go_on() {
        let begin = Instant::now();
        let shown = dice.pick(files);
        mapped = !mapped;
        // SAFETY: the child calls nothing that takes a lock, and ends by a signal or `_exit`.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            child(shown, mapped, &mut buffer);
        }
        assert!(pid > 0, "{}", std::io::Error::last_os_error());
        std::thread::sleep(Duration::from_micros(dice.below(300_000) as u64));
        let mut status = 0;
        // SAFETY: the process is ours and not yet waited for; the pointer is valid for the call.
        let waited = unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, &raw mut status, 0)
        };
        assert_eq!(waited, pid);
        let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
        assert!(killed, "a child saw other bytes of {}: status {status}", shown.path.display());
        counts[6].fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs(1).saturating_sub(begin.elapsed()));
    }
}

/// The most memory that a process has had, bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The daemon's own figures, as the command prints them.
fn printed_status(bench: &Bench, mount: &Mount) -> serde_json::Value {
    let output = bsfs(bench, ["status".as_ref(), mount.point.as_os_str(), "--json".as_ref()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    list[0]["status"].clone()
}

#[test]
fn every_reader_gets_the_right_bytes_whatever_the_others_do_and_nothing_is_left_behind() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = variable("BSFS_STRESS_SEED").unwrap_or_else(now);
    let seconds = variable("BSFS_STRESS_SECONDS").unwrap_or(10);
    // Shown when the test fails.
    println!("BSFS_STRESS_SEED={seed} BSFS_STRESS_SECONDS={seconds}");

    let bench = Bench::new();
    let originals = [
        ("large", safetensors(1, 6_291_456)),
        ("odd", safetensors(2, 1_600_001)),
        ("middle", safetensors(3, 4_000_000)),
        ("single", single_precision(4, 2_100_003)),
        ("many", many_tensors(5, 6_000)),
    ];
    for (name, bytes) in &originals {
        bench.packed(&format!("{name}.safetensors.bs"), bytes);
    }
    let plain = noise(6, 3_333_333);
    bench.plain("plain.bin", &plain);
    let mount = Mount::new(&bench, &["--memory", "4M"]);
    let named = originals.into_iter().map(|(name, bytes)| (format!("{name}.safetensors"), bytes));
    let files: Vec<Shown> = named
        .chain([("plain.bin".to_owned(), plain)])
        .map(|(name, bytes)| {
            let path = mount.path(&name);
            Shown { shared: File::open(&path).unwrap(), path, bytes }
        })
        .collect();

    let counts = Counts::default();
    let failed = AtomicBool::new(false);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let go_on = || Instant::now() < deadline && !failed.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        for thread in 0..=THREADS {
            let (files, counts, go_on, failed) = (&files, &counts, &go_on, &failed);
            scope.spawn(move || {
                let _alarm = Alarm(failed);
                let mut dice = Dice::new(seed, thread);
                match thread {
                    THREADS => kill_children(&mut dice, files, counts, go_on),
                    _ => read_and_compare(&mut dice, files, counts, go_on),
                }
            });
        }
    });
    for shown in &files {
        let mut bytes = Vec::new();
        File::open(&shown.path).unwrap().read_to_end(&mut bytes).unwrap();
        compare(shown, "the last read", 0, shown.bytes.len(), &bytes);
    }
    drop(files);

    let begin = Instant::now();
    eventually("all files are closed", || printed_status(&bench, &mount)["open_files"] == 0);
    println!("files closed after {:?}", begin.elapsed());
    let status = printed_status(&bench, &mount);
    println!("{status:#}");
    for (kind, count) in KINDS.iter().zip(&counts) {
        println!("{kind}: {}", count.load(Ordering::Relaxed));
        assert!(count.load(Ordering::Relaxed) > 0, "{kind} never happened");
    }
    assert_eq!((&status["errors"], &status["panics"]), (&0.into(), &0.into()));
    assert_eq!(status["engine"]["errors"], 0);
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    assert!(number(&status["engine"]["evicted_chunks"]) > 0, "memory was never short");
    assert!(number(&status["engine"]["memory_bytes"]) <= MEMORY);
    let peak = peak_memory(mount.pid);
    println!("peak: {peak} bytes");
    assert!(peak <= MEMORY + BESIDE, "the daemon took {peak} bytes");
    let log = fs::read_to_string(status["log_file"].as_str().unwrap()).unwrap();
    assert!(!log.contains("ERROR"), "{log}");

    let output = bsfs(&bench, ["unmount".as_ref(), mount.point.as_os_str()]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!is_mounted(&mount.point));
    eventually("the daemon ends", || !is_running(mount.pid));
}
