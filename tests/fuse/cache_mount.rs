//! The disk cache under a mount, through the kernel: what a second mount finds there, and what it makes of everything that may happen
//! to a directory. Needs `/dev/fuse`; what the kernel reads by itself needs root as well.

use crate::common::fixtures;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::common::mounted::{Mount, as_nobody, bsfs, command, is_mounted, is_running, signal, status_of, stderr};
use crate::common::{Bench, eventually, noise, root_for, safetensors};
use bsfs::mount::Status;
use serde_json::Value;

const SHOWN: &str = "model.safetensors";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn cache_of(bench: &Bench) -> PathBuf {
    bench.dir.join("kept")
}

/// A source with one container of `elements` numbers; returns the original.
fn model(bench: &Bench, elements: usize) -> Vec<u8> {
    let original = safetensors(11, elements);
    bench.packed(&format!("{SHOWN}.bs"), &original);
    original
}

fn mounted_at(bench: &Bench, source: &Path, point: &Path, options: &[&str]) -> Mount {
    let cache = cache_of(bench);
    let all = ["--cache", "all", "--cache-dir", cache.to_str().unwrap()];
    Mount::of(bench, source, point, &[&all[..], options].concat())
}

/// A mount that keeps everything.
fn mounted(bench: &Bench, options: &[&str]) -> Mount {
    mounted_at(bench, &bench.source(), &bench.mount_point(), options)
}

/// Another mount point.
fn place(bench: &Bench, name: &str) -> PathBuf {
    let point = bench.dir.join(name);
    fs::create_dir_all(&point).unwrap();
    point
}

/// Unmounts, after which the cache is settled.
fn end(bench: &Bench, mount: Mount) {
    // What another test starts meanwhile has our open files for a moment.
    eventually("it is unmounted", || {
        let output = bsfs(bench, ["unmount".as_ref(), mount.point.as_os_str()]);
        assert!(output.status.success() || stderr(&output).contains("in use"), "{}", stderr(&output));
        output.status.success()
    });
    eventually("the daemon ends", || !is_running(mount.pid));
}

/// Mounts, reads, unmounts: the files are proven in the cache afterwards.
fn fill(bench: &Bench, names: &[&str]) {
    let mount = mounted(bench, &[]);
    for name in names {
        fs::read(mount.path(name)).unwrap();
    }
    eventually("all are whole", || sealed(&mount) >= names.len() as u64);
    end(bench, mount);
    let proven = listed(bench).iter().filter(|entry| entry["sealed"] == true).count();
    assert!(proven >= names.len(), "{:?}", listed(bench));
}

fn cache_verb(bench: &Bench, arguments: &[&str]) -> Output {
    let mut command = command(bench);
    command.arg("cache").args(arguments).arg("--cache-dir").arg(cache_of(bench)).output().unwrap()
}

fn listed(bench: &Bench) -> Vec<Value> {
    let output = cache_verb(bench, &["list", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice::<Value>(&output.stdout).unwrap().as_array().unwrap().clone()
}

/// The files of the cache with this ending.
fn files(bench: &Bench, ending: &str) -> Vec<PathBuf> {
    let dir = fs::read_dir(cache_of(bench).join("v1")).unwrap();
    let mut found: Vec<_> = dir.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|found| found == ending));
    found.sort();
    found
}

fn sealed(mount: &Mount) -> u64 {
    mount.status().disk.unwrap().sealed_entries
}

/// Where the kernel reads by itself, these opens were such; in any case nothing was decoded.
fn assert_kept(status: &Status) {
    assert_eq!((status.engine.decoded_chunks, status.errors, status.panics), (0, 0, 0), "{status:?}");
    if is_root() {
        assert!(status.passthrough && status.passthrough_opens > 0, "{status:?}");
    } else {
        assert_eq!(status.passthrough_opens, 0);
        assert!(status.engine.disk_chunks > 0, "{status:?}");
    }
}

fn map(file: &File) -> memmap2::Mmap {
    // SAFETY: nothing writes to the file.
    unsafe { memmap2::Mmap::map(file) }.unwrap()
}

fn direct(path: &Path) -> File {
    File::options().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap()
}

/// Reads pieces of any size at any place.
fn assert_pieces(file: &File, original: &[u8], seed: u64, count: usize) {
    for pair in noise(seed, 16 * count).chunks(16) {
        let number = |at: usize| u64::from_le_bytes(pair[at..at + 8].try_into().unwrap()) as usize;
        let offset = number(0) % original.len();
        let len = (number(8) % 1_500_000).min(original.len() - offset);
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset as u64).unwrap();
        assert!(bytes == original[offset..offset + len], "{len} bytes at {offset}");
    }
}

#[test]
fn a_second_mount_decodes_nothing_however_it_is_read() {
    let bench = Bench::new();
    let original = model(&bench, 2_345_678);
    fill(&bench, &[SHOWN]);
    let mount = mounted(&bench, &[]);
    let path = mount.path(SHOWN);
    assert!(fs::read(&path).unwrap() == original);
    let file = File::open(&path).unwrap();
    assert!(map(&file)[..] == original);
    // SAFETY: nothing writes to the file; what is written stays in this mapping.
    let mut private = unsafe { memmap2::MmapOptions::new().map_copy(&file) }.unwrap();
    private[0] ^= 1;
    assert!(private[1..] == original[1..]);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (path, original) = (&path, &original);
            scope.spawn(move || {
                let file = if thread % 2 == 0 { File::open(path).unwrap() } else { direct(path) };
                assert_pieces(&file, original, thread + 1, 12);
                let map = map(&file);
                for page in (0..original.len()).step_by(4096 * 7).rev() {
                    assert!(map[page] == original[page]);
                }
            });
        }
    });
    assert!(direct(&path).read_at(&mut [0; 4096], original.len() as u64 + 10).unwrap() == 0);
    assert_kept(&mount.status());
    let said = bsfs(&bench, ["status".as_ref(), mount.point.as_os_str()]);
    let by = if is_root() { "read by the kernel" } else { "read by this process" };
    assert!(String::from_utf8_lossy(&said.stdout).contains(by), "{said:?}");
    drop((file, private));
    end(&bench, mount);
    // And a third.
    let mount = mounted(&bench, &[]);
    assert!(map(&File::open(mount.path(SHOWN)).unwrap())[..] == original);
    assert_kept(&mount.status());
}

/// While the file is open, or mapped only, somebody else completes the cache.
fn becomes_whole(only_mapped: bool) {
    let bench = Bench::new();
    let original = model(&bench, 2_000_000);
    let mount = mounted(&bench, &[]);
    let path = mount.path(SHOWN);
    let held = File::open(&path).unwrap();
    let mapped = map(&held);
    assert!(mapped[..1000] == original[..1000]);
    let held = (!only_mapped).then_some(held);
    let other = mounted_at(&bench, &bench.source(), &place(&bench, "other"), &[]);
    assert!(fs::read(other.path(SHOWN)).unwrap() == original);
    // The file is finished and proven after it was closed. The end of a mount does not wait for that for ever.
    eventually("the file is whole", || sealed(&other) == 1);
    end(&bench, other);
    assert_eq!(listed(&bench)[0]["sealed"], true);

    let second = File::open(&path).unwrap();
    assert_pieces(&second, &original, 3, 10);
    assert!(map(&second)[..] == original);
    assert!(fs::read(&path).unwrap() == original);
    assert!(direct(&path).read_at(&mut [0; 100], 7).unwrap() == 100);
    if let Some(held) = &held {
        assert_pieces(held, &original, 4, 10);
    }
    assert!(mapped[..] == original);
    assert_eq!(mount.status().passthrough_opens, 0, "all follow the first");
    drop((second, held, mapped));
    eventually("all are closed", || mount.status().open_files == 0);
    let decoded = mount.status().engine.decoded_chunks;
    let file = File::open(&path).unwrap();
    assert!(map(&file)[..] == original);
    assert_pieces(&file, &original, 5, 10);
    let status = mount.status();
    assert_eq!((status.passthrough_opens > 0, status.errors), (is_root(), 0));
    assert_eq!(status.engine.decoded_chunks, decoded);
}

#[test]
fn a_file_that_is_open_while_it_becomes_whole_stays_what_it_is_and_the_next_is_passed_through() {
    becomes_whole(false);
}

#[test]
fn a_file_that_is_mapped_while_it_becomes_whole_stays_what_it_is_and_the_next_is_passed_through() {
    becomes_whole(true);
}

#[test]
fn auto_keeps_what_takes_long_to_decode() {
    let bench = Bench::new();
    model(&bench, 500_000);
    fixtures::place(&bench, "big-4.0.0.bs", "big.bs");
    let cache = cache_of(&bench);
    let options = ["--cache-dir", cache.to_str().unwrap()];
    let mount = Mount::new(&bench, &options);
    fs::read(mount.path(SHOWN)).unwrap();
    let first = fs::read(mount.path("big.safetensors")).unwrap();
    end(&bench, mount);
    let kept = listed(&bench);
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!((kept[0]["label"].as_str(), kept[0]["sealed"].as_bool()), (Some("big.bs"), Some(true)));
    let mount = Mount::new(&bench, &options);
    assert!(fs::read(mount.path("big.safetensors")).unwrap() == first);
    assert_eq!(fixtures::tensors(&first), fixtures::one("big-4.0.0.bs").tensors);
    assert_kept(&mount.status());
    fs::read(mount.path(SHOWN)).unwrap();
    assert!(mount.status().engine.decoded_chunks > 0);
}

#[test]
fn the_same_content_is_found_under_any_name_and_place() {
    let bench = Bench::new();
    let original = model(&bench, 1_000_000);
    fill(&bench, &[SHOWN]);
    let elsewhere = bench.dir.join("elsewhere");
    fs::create_dir_all(elsewhere.join("deep")).unwrap();
    let from = bench.source().join(format!("{SHOWN}.bs"));
    fs::copy(&from, elsewhere.join("renamed.safetensors.bs")).unwrap();
    fs::copy(&from, elsewhere.join("deep/copy.bin.bs")).unwrap();
    let mount = mounted_at(&bench, &elsewhere, &bench.mount_point(), &[]);
    for name in ["renamed.safetensors", "deep/copy.bin"] {
        assert!(fs::read(mount.path(name)).unwrap() == original);
    }
    assert_kept(&mount.status());
    end(&bench, mount);
    assert_eq!(listed(&bench).len(), 1);
    // One container alone.
    let mount = mounted_at(&bench, &from, &bench.mount_point(), &[]);
    assert!(fs::read(mount.path(SHOWN)).unwrap() == original);
    assert_kept(&mount.status());
}

#[test]
fn a_container_that_was_replaced_gives_its_new_bytes() {
    let bench = Bench::new();
    let [one, two, three] = [1, 2, 3].map(|seed| safetensors(seed, 1_000_000));
    let name = format!("{SHOWN}.bs");
    bench.packed(&name, &one);
    fill(&bench, &[SHOWN]);
    // Between mounts: the same name, length and time.
    let time = fs::metadata(bench.source().join(&name)).unwrap().modified().unwrap();
    bench.packed(&name, &two);
    File::options().write(true).open(bench.source().join(&name)).unwrap().set_modified(time).unwrap();
    let mount = mounted(&bench, &[]);
    let path = mount.path(SHOWN);
    assert!(fs::read(&path).unwrap() == two);
    end(&bench, mount);
    assert_eq!(listed(&bench).len(), 2);
    // Under a mount, while the old one is open and passed through.
    let mount = mounted(&bench, &[]);
    let held = File::open(&path).unwrap();
    let mapped = map(&held);
    bench.packed(&name, &three);
    assert!(fs::read(&path).unwrap() == three);
    assert!(mapped[..] == two, "what is open stays");
    bench.packed(&name, &one);
    let file = File::open(&path).unwrap();
    assert!(map(&file)[..] == one);
    assert_pieces(&held, &two, 1, 10);
    assert_eq!(mount.status().errors, 0);
}

#[test]
fn warming_completes_all_files_and_says_how_far_it_is() {
    let bench = Bench::new();
    let names = ["a.safetensors", "b.safetensors", "sub/c.safetensors"];
    let originals: Vec<Vec<u8>> = (0..3).map(|seed| safetensors(seed, 700_000)).collect();
    for (name, original) in names.iter().zip(&originals) {
        bench.packed(&format!("{name}.bs"), original);
    }
    bench.plain("config.json", b"{}");
    let mount = mounted(&bench, &["--warm"]);
    eventually("it is warm", || mount.status().warming.unwrap().finished);
    let warming = mount.status().warming.unwrap();
    assert_eq!((warming.files, warming.files_kept), (3, 3));
    // What a header takes is not decoded.
    let bytes = originals.iter().map(|original| original.len() as u64).sum::<u64>();
    assert!(warming.bytes <= bytes && warming.bytes + 3 * 1024 > bytes, "{warming:?}");
    let said = bsfs(&bench, ["status".as_ref(), mount.point.as_os_str()]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("done: 3 of 3 files in the cache"), "{said}");
    for (name, original) in names.iter().zip(&originals) {
        assert!(fs::read(mount.path(name)).unwrap() == *original);
    }
    end(&bench, mount);
    assert!(listed(&bench).iter().filter(|entry| entry["sealed"] == true).count() == 3);
    let mount = mounted(&bench, &["--warm"]);
    eventually("it is warm", || mount.status().warming.unwrap().finished);
    assert_eq!(mount.status().warming.unwrap().bytes, 0, "nothing is left to do");
    assert_eq!(mount.status().engine.decoded_chunks, 0);
}

#[test]
fn an_unmount_ends_warming_promptly() {
    let bench = Bench::new();
    for seed in 0..12 {
        bench.packed(&format!("m{seed:02}.safetensors.bs"), &safetensors(seed, 3_000_000));
    }
    let mount = mounted(&bench, &["--warm", "--threads", "1"]);
    eventually("it has begun", || mount.status().warming.unwrap().bytes > 0);
    let warming = mount.status().warming.unwrap();
    let begin = Instant::now();
    end(&bench, mount);
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert!(!warming.finished || warming.files_kept == 12, "{warming:?}");
    // What is there is right.
    assert!(cache_verb(&bench, &["verify"]).status.success());
}

#[test]
fn a_daemon_that_is_killed_while_it_fills_leaves_no_wrong_byte() {
    let rounds: u64 = std::env::var("BSFS_KILL_ROUNDS").map_or(12, |rounds| rounds.parse().unwrap());
    let bench = Bench::new();
    let originals: Vec<Vec<u8>> = (0..3).map(|seed| safetensors(seed, 1_500_000)).collect();
    for (n, original) in originals.iter().enumerate() {
        bench.packed(&format!("m{n}.safetensors.bs"), original);
    }
    fixtures::place(&bench, "big-4.0.0.bs", "big.bs");
    let big = fixtures::one("big-4.0.0.bs").tensors;
    let draw = noise(rounds, 2 * rounds as usize);
    for round in 0..rounds as usize {
        let mount = mounted(&bench, &["--warm"]);
        let reading = AtomicBool::new(true);
        std::thread::scope(|scope| {
            let mount = &mount;
            for original in &originals {
                let reading = &reading;
                scope.spawn(move || {
                    let at = original.as_ptr() as usize;
                    while reading.load(Ordering::Relaxed) {
                        for n in 0..3 {
                            // Errors are those of a daemon that is gone.
                            let _ = fs::read(mount.path(&format!("m{}.safetensors", (n + at / 64) % 3)));
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_micros(
                u64::from(draw[2 * round]) * 600 + u64::from(draw[2 * round + 1]),
            ));
            signal(mount.pid, libc::SIGKILL);
            eventually("the daemon is gone", || !is_running(mount.pid));
            reading.store(false, Ordering::Relaxed);
        });
        drop(mount);
        let mount = mounted(&bench, &[]);
        for (n, original) in originals.iter().enumerate() {
            assert!(fs::read(mount.path(&format!("m{n}.safetensors"))).unwrap() == *original, "round {round}");
        }
        assert_eq!(fixtures::tensors(&fs::read(mount.path("big.safetensors")).unwrap()), big, "round {round}");
        assert_eq!(mount.status().errors, 0);
        signal(mount.pid, libc::SIGKILL);
        eventually("the daemon is gone", || !is_running(mount.pid));
        drop(mount);
        let verified = cache_verb(&bench, &["verify"]);
        assert!(verified.status.success(), "round {round}: {verified:?}");
        if round % 3 == 2 {
            // From the start again.
            assert!(cache_verb(&bench, &["clear"]).status.success());
        }
    }
}

/// Writes into a file of the cache, whatever its mode.
fn overwrite(path: &Path, change: impl FnOnce(&File)) {
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    change(&File::options().read(true).write(true).open(path).unwrap());
    fs::set_permissions(path, mode).unwrap();
}

fn flip(path: &Path, at: u64, bit: u8) {
    overwrite(path, |file| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
    });
}

#[test]
fn a_bit_that_flips_anywhere_between_mounts_is_not_seen() {
    let bench = Bench::new();
    let original = model(&bench, 1_000_000);
    fill(&bench, &[SHOWN]);
    let len = |ending: &str| fs::metadata(&files(&bench, ending)[0]).unwrap().len();
    let (data, map) = (len("data"), len("map"));
    assert_eq!(data, original.len() as u64);
    // Each field of the map's header, its padding, the seal, the table and the records.
    let rows = (map - 4096) / 32;
    let fields =
        [0, 7, 8, 12, 16, 47, 48, 56, 60, 64, 72, 200, 900, 1016, 1023, 1024, 1031, 1032, 1064, 1103, 1200, 4095];
    let in_rows = [0, 7, 8, 15].map(|at| 4096 + at).into_iter();
    let records = (0..rows).step_by(2).flat_map(|row| [4096 + 16 * (rows + row), 4096 + 16 * (rows + row) + 9]);
    let places: Vec<(&str, u64)> = fields
        .into_iter()
        .chain(in_rows)
        .chain(records)
        .map(|at| ("map", at))
        .chain([0, 8, 100, 524_287, 524_288, data / 2, data - 1].map(|at| ("data", at)))
        .collect();
    for (n, &(ending, at)) in places.iter().enumerate() {
        flip(&files(&bench, ending)[0], at, n as u8 % 8);
        let mount = mounted(&bench, &[]);
        assert!(fs::read(mount.path(SHOWN)).unwrap() == original, "{ending} at {at}");
        let status = mount.status();
        assert_eq!(status.errors, 0);
        let untouched = ending == "map" && (1104..4096).contains(&at);
        assert!(untouched || status.passthrough_opens == 0, "{ending} at {at}: its seal does not hold any more");
        end(&bench, mount);
        if ending == "data" && at < 180 {
            // What is wrong in the header of the file is found when it is proven, and written again by the next mount.
            fill(&bench, &[SHOWN]);
        }
        let healed = listed(&bench);
        assert!(healed.len() == 1 && healed[0]["sealed"] == true, "{ending} at {at}: {healed:?}");
    }
}

type Harm<'a> = &'a dyn Fn(&Path);

#[test]
fn what_is_cut_short_or_not_ours_is_made_anew() {
    let bench = Bench::new();
    let original = model(&bench, 1_000_000);
    let other = bench.dir.join("foreign");
    fs::write(&other, noise(9, original.len())).unwrap();
    fill(&bench, &[SHOWN]);
    let cut = |len: fn(u64) -> u64| {
        move |path: &Path| overwrite(path, |file| file.set_len(len(file.metadata().unwrap().len())).unwrap())
    };
    let foreign = |path: &Path| {
        fs::remove_file(path).unwrap();
        fs::write(path, noise(9, 2_000_000)).unwrap();
    };
    // Of the right length, with a time of its own.
    let twin = |path: &Path| {
        fs::remove_file(path).unwrap();
        fs::copy(&other, path).unwrap();
    };
    let link = |path: &Path| {
        fs::remove_file(path).unwrap();
        symlink(&other, path).unwrap();
    };
    let directory = |path: &Path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    };
    let fifo = |path: &Path| {
        fs::remove_file(path).unwrap();
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    let gone = |path: &Path| fs::remove_file(path).unwrap();
    let harms: [(&str, Harm<'_>); 10] = [
        ("empty", &cut(|_| 0)),
        ("half", &cut(|len| len / 2)),
        ("a byte less", &cut(|len| len - 1)),
        ("a byte more", &cut(|len| len + 1)),
        ("foreign", &foreign),
        ("twin", &twin),
        ("link", &link),
        ("directory", &directory),
        ("fifo", &fifo),
        ("gone", &gone),
    ];
    for (what, harm) in harms {
        for ending in ["data", "map"] {
            harm(&files(&bench, ending)[0]);
            let mount = mounted(&bench, &[]);
            assert!(fs::read(mount.path(SHOWN)).unwrap() == original, "{ending}: {what}");
            assert!(map(&File::open(mount.path(SHOWN)).unwrap())[..] == original, "{ending}: {what}");
            assert_eq!(mount.status().errors, 0, "{ending}: {what}");
            end(&bench, mount);
            for path in ["data", "map"].iter().flat_map(|ending| files(&bench, ending)) {
                if path.is_dir() {
                    // That is not removed for us.
                    fs::remove_dir(path).unwrap();
                }
            }
            if listed(&bench).iter().all(|entry| entry["sealed"] != true) {
                assert_eq!(what, "directory", "{ending}: {what} is made anew");
                fill(&bench, &[SHOWN]);
            }
        }
    }
    assert!(fs::read(&other).unwrap() == noise(9, original.len()), "what a link led to is untouched");
}

#[test]
fn two_daemons_share_a_cache_while_it_is_pruned_and_cleared() {
    let bench = Bench::new();
    let originals: Vec<Vec<u8>> = (0..3).map(|seed| safetensors(seed, 800_000)).collect();
    for (n, original) in originals.iter().enumerate() {
        bench.packed(&format!("m{n}.safetensors.bs"), original);
    }
    let first = mounted(&bench, &["--memory", "8M"]);
    let second = mounted_at(&bench, &bench.source(), &place(&bench, "other"), &["--memory", "8M", "--warm"]);
    let going = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let (going, bench, originals) = (&going, &bench, &originals);
        scope.spawn(move || {
            while going.load(Ordering::Relaxed) {
                for verb in [&["prune", "--size", "0"][..], &["clear"], &["stats"], &["verify"]] {
                    let output = cache_verb(bench, verb);
                    assert_ne!(output.status.code(), Some(1), "{output:?}");
                }
            }
        });
        let readers: Vec<_> = [&first, &second, &first, &second]
            .into_iter()
            .enumerate()
            .map(|(reader, mount)| {
                scope.spawn(move || {
                    for round in 0..12_usize {
                        let n = (round + reader) % 3;
                        let path = mount.path(&format!("m{n}.safetensors"));
                        if round % 2 == 0 {
                            assert!(fs::read(&path).unwrap() == originals[n]);
                        } else {
                            let file = direct(&path);
                            assert!(map(&file)[..] == originals[n]);
                            assert_pieces(&file, &originals[n], round as u64, 4);
                        }
                    }
                })
            })
            .collect();
        let ended: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        going.store(false, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    for mount in [&first, &second] {
        let status = mount.status();
        assert_eq!((status.errors, status.panics), (0, 0));
    }
    end(&bench, first);
    end(&bench, second);
    assert!(cache_verb(&bench, &["verify"]).status.success());
}

/// A file system of its own for the cache, until it is dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(bench: &Bench, options: &str) -> Option<Self> {
        let at = cache_of(bench);
        fs::create_dir_all(&at).unwrap();
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).output().unwrap();
        if !output.status.success() {
            assert!(!root_for("mounting a tmpfs"), "{}", stderr(&output));
            return None;
        }
        Some(Self(at))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_is_smaller_than_the_model_is_filled_and_no_read_fails() {
    let bench = Bench::new();
    let originals: Vec<Vec<u8>> = (0..3).map(|seed| safetensors(seed, 3_000_000)).collect();
    for (n, original) in originals.iter().enumerate() {
        bench.packed(&format!("m{n}.safetensors.bs"), original);
    }
    bench.packed("small.safetensors.bs", &safetensors(9, 100_000));
    let Some(_tmpfs) = Tmpfs::new(&bench, "size=8m,mode=700") else { return };
    for options in [&[][..], &["--warm"], &["--cache-size", "100M"]] {
        let mount = mounted(&bench, options);
        for _ in 0..2 {
            for (n, original) in originals.iter().enumerate() {
                let path = mount.path(&format!("m{n}.safetensors"));
                assert!(fs::read(&path).unwrap() == *original, "{options:?}");
                let file = File::open(&path).unwrap();
                assert!(map(&file)[..] == *original);
                assert_pieces(&direct(&path), original, 7, 5);
            }
            assert!(fs::read(mount.path("small.safetensors")).unwrap() == safetensors(9, 100_000));
        }
        let status = mount.status();
        assert_eq!((status.errors, status.panics), (0, 0), "{options:?}");
        let begin = Instant::now();
        end(&bench, mount);
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        assert!(cache_verb(&bench, &["verify"]).status.success());
    }
}

#[test]
fn a_cache_that_can_only_be_read_is_read() {
    let bench = Bench::new();
    let original = model(&bench, 1_000_000);
    bench.packed("other.safetensors.bs", &safetensors(2, 300_000));
    fill(&bench, &[SHOWN]);
    let kept = cache_of(&bench);
    if !root_for("a read-only file system") {
        return;
    }
    let here =
        |arguments: &[&str]| assert!(Command::new("mount").args(arguments).arg(&kept).status().unwrap().success());
    here(&["--bind", kept.to_str().unwrap()]);
    let _bound = Tmpfs(kept.clone());
    here(&["-o", "remount,bind,ro"]);
    let mount = mounted(&bench, &["--warm"]);
    assert!(fs::read(mount.path(SHOWN)).unwrap() == original);
    assert!(fs::read(mount.path("other.safetensors")).unwrap() == safetensors(2, 300_000));
    let status = mount.status();
    assert_eq!(status.errors, 0);
    assert!(status.passthrough_opens > 0 || status.engine.disk_chunks > 0, "{status:?}");
    end(&bench, mount);
    assert_eq!(listed(&bench).len(), 1);
}

#[test]
fn a_cache_that_vanishes_under_the_mount_is_done_without() {
    let bench = Bench::new();
    let original = model(&bench, 1_000_000);
    bench.packed("other.safetensors.bs", &safetensors(2, 1_000_000));
    fill(&bench, &[SHOWN]);
    let mount = mounted(&bench, &[]);
    let file = File::open(mount.path(SHOWN)).unwrap();
    fs::remove_dir_all(cache_of(&bench)).unwrap();
    assert!(map(&file)[..] == original, "what is open stays");
    drop(file);
    for _ in 0..2 {
        assert!(fs::read(mount.path(SHOWN)).unwrap() == original);
        assert!(fs::read(mount.path("other.safetensors")).unwrap() == safetensors(2, 1_000_000));
    }
    assert_eq!(mount.status().errors, 0);
    end(&bench, mount);
    // And made again by the next.
    fill(&bench, &[SHOWN]);
}

/// Mounts and gives what was said.
fn noted(bench: &Bench, options: &[&str]) -> (Mount, String) {
    let (source, point) = (bench.source(), bench.mount_point());
    let mut arguments: Vec<&std::ffi::OsStr> = vec!["mount".as_ref()];
    arguments.extend(options.iter().map(|o| std::ffi::OsStr::new(*o)));
    arguments.extend([source.as_os_str(), point.as_os_str()]);
    let output = bsfs(bench, arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let pid = status_of(&point).unwrap().pid;
    (Mount { point, pid }, stderr(&output))
}

#[test]
fn a_place_that_cannot_be_used_is_said_and_done_without() {
    let bench = Bench::new();
    let original = model(&bench, 300_000);
    let open = bench.dir.join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let file = bench.dir.join("file");
    fs::write(&file, b"x").unwrap();
    let link = bench.dir.join("link");
    symlink("open", &link).unwrap();
    for place in [&open, &file, &link, Path::new("/proc/none")] {
        let (mount, said) = noted(&bench, &["--cache", "all", "--cache-dir", place.to_str().unwrap(), "--warm"]);
        assert!(said.contains("going on without a disk cache") && said.contains(place.to_str().unwrap()), "{said}");
        assert!(fs::read(mount.path(SHOWN)).unwrap() == original);
        let status = mount.status();
        assert_eq!((status.cache.as_str(), status.disk.is_none(), status.errors), ("off", true, 0));
        end(&bench, mount);
    }
    assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
}

#[test]
fn a_cache_under_its_own_mount_point_is_refused() {
    let bench = Bench::new();
    model(&bench, 300_000);
    let link = bench.dir.join("link");
    symlink(bench.mount_point(), &link).unwrap();
    let (source, point) = (bench.source(), bench.mount_point());
    let dotted = bench.dir.join("source/../mount/kept");
    for dir in [point.join("kept"), point.clone(), link.join("deep/kept"), dotted] {
        let output = bsfs(
            &bench,
            ["mount".as_ref(), "--cache-dir".as_ref(), dir.as_os_str(), source.as_os_str(), point.as_os_str()],
        );
        let _mount = is_mounted(&point).then(|| Mount { point: point.clone(), pid: status_of(&point).unwrap().pid });
        assert_eq!(output.status.code(), Some(2), "{}: {}", dir.display(), stderr(&output));
        assert!(stderr(&output).contains("under the mount point"), "{}", stderr(&output));
    }
    assert_eq!(fs::read_dir(&point).unwrap().count(), 0);
}

#[test]
fn the_cache_keeps_its_size_and_the_least_recently_used_leaves() {
    let bench = Bench::new();
    let names: Vec<String> = (0..4).map(|n| format!("m{n}.safetensors")).collect();
    for (seed, name) in names.iter().enumerate() {
        bench.packed(&format!("{name}.bs"), &safetensors(seed as u64, 1_000_000));
    }
    // Room for three.
    let options = ["--cache-size", "7M"];
    let read = |n: usize| {
        let mount = mounted(&bench, &options);
        assert!(fs::read(mount.path(&names[n])).unwrap() == safetensors(n as u64, 1_000_000));
        end(&bench, mount);
        let used: u64 = ["data", "map"]
            .iter()
            .flat_map(|ending| files(&bench, ending))
            .map(|path| std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap()) * 512)
            .sum();
        assert!(used <= 7 << 20, "{used} bytes after m{n}");
    };
    (0..3).for_each(read);
    let labels = || {
        let mut labels: Vec<String> =
            listed(&bench).iter().map(|entry| entry["label"].as_str().unwrap()[..2].to_owned()).collect();
        labels.sort();
        labels
    };
    assert_eq!(labels(), ["m0", "m1", "m2"]);
    // All were used a while ago, in this order; then the first is used again.
    for entry in listed(&bench) {
        let n: u64 = entry["label"].as_str().unwrap()[1..2].parse().unwrap();
        let path = cache_of(&bench).join(format!("v1/{}.map", entry["key"].as_str().unwrap()));
        let time = SystemTime::now() - Duration::from_secs(3600 - 60 * n);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }
    read(0);
    read(3);
    assert_eq!(labels(), ["m0", "m2", "m3"]);
}

#[test]
fn an_ordinary_user_is_served_from_the_cache_by_the_daemon() {
    let bench = Bench::new();
    let original = model(&bench, 1_000_000);
    fs::write(bench.dir.join("original"), &original).unwrap();
    let script = r#"
        ./bsfs mount --cache all source mount
        cmp original mount/model.safetensors
        ./bsfs unmount mount
        ./bsfs cache list >kept
        grep -q proven kept
        test $(stat -c %a home/.cache/bsfs) = 700
        ./bsfs mount --cache all source mount
        cmp original mount/model.safetensors
        dd if=mount/model.safetensors of=copy bs=1M iflag=direct 2>/dev/null
        cmp original copy
        ./bsfs status mount
        ./bsfs status mount --json >json
        ./bsfs unmount mount
        cp json status
        echo all done
    "#;
    fs::create_dir_all(bench.dir.join("home")).unwrap();
    let Some(output) = as_nobody(&bench, "", &format!("set -x\n{script}")) else { return };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.ends_with("all done\n"), "{said}{}", stderr(&output));
    assert!(said.contains("whole files are read by this process (0 opens)"), "{said}");
    let json: Value = serde_json::from_slice(&fs::read(bench.dir.join("status")).unwrap()).unwrap();
    let status = &json[0]["status"];
    assert_eq!((&status["passthrough_opens"], &status["engine"]["decoded_chunks"]), (&0.into(), &0.into()), "{status}");
    assert!(status["engine"]["disk_chunks"].as_u64().unwrap() > 0 && status["errors"] == 0, "{status}");
}

/// The most memory that a process has had, bytes.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn filling_stays_within_the_memory_that_was_given() {
    let bench = Bench::new();
    let original = model(&bench, 100_000_000);
    let mount = mounted(&bench, &["--memory", "32M", "--warm"]);
    let path = mount.path(SHOWN);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let file = direct(&path);
                let mut bytes = vec![0; 4 << 20];
                for at in (0..original.len()).step_by(bytes.len()) {
                    let got = file.read_at(&mut bytes, at as u64).unwrap();
                    assert!(bytes[..got] == original[at..at + got]);
                }
            });
        }
    });
    eventually("it is whole", || sealed(&mount) == 1);
    let most = peak(mount.pid);
    assert!(most <= (32 << 20) + (64 << 20), "{most} bytes");
    end(&bench, mount);
    let mount = mounted(&bench, &["--memory", "32M"]);
    assert!(map(&File::open(mount.path(SHOWN)).unwrap())[..] == original);
    assert_kept(&mount.status());
    let most = peak(mount.pid);
    assert!(most <= (32 << 20) + (64 << 20), "{most} bytes");
}
