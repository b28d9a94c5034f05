//! More files in use than the process may have open.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output};

use crate::common::mounted::{BSFS, Mount, command, status_of, stderr};
use crate::common::{Bench, eventually, noise, pack, safetensors};

/// Far more than 64.
const MANY: usize = 120;

/// The program with so few open files allowed, soft and hard.
fn limited(bench: &Bench, most: u32, arguments: &[&str]) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\""), BSFS]).args(arguments);
    for (name, value) in command(bench).get_envs() {
        shell.env(name, value.unwrap());
    }
    shell.output().unwrap()
}

pub(crate) fn mount_limited(bench: &Bench, most: u32, options: &[&str]) -> Mount {
    let point = bench.mount_point();
    let (source, to) = (bench.source(), point.to_str().unwrap().to_owned());
    let arguments = [&["mount", "--cache", "off"], options, &[source.to_str().unwrap(), &to]].concat();
    let output = limited(bench, most, &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    Mount { pid: status_of(&point).unwrap().pid, point }
}

/// A source with many containers and as many plain files, and what they hold.
fn many(bench: &Bench) -> (Vec<u8>, Vec<u8>) {
    let (model, plain) = (safetensors(5, 40_000), noise(6, 50_000));
    let first = bench.packed("0.safetensors.bs", &model);
    for n in 0..MANY {
        if n > 0 {
            fs::copy(&first, bench.source().join(format!("{n}.safetensors.bs"))).unwrap();
        }
        fs::write(bench.source().join(format!("{n}.json")), &plain).unwrap();
    }
    (model, plain)
}

fn assert_holds(file: &File, bytes: &[u8], what: &str) {
    let mut got = vec![0; bytes.len()];
    file.read_exact_at(&mut got, 0).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(got == bytes, "{what}");
    // The next read has to come to the daemon.
    // SAFETY: advice only.
    unsafe { libc::posix_fadvise(std::os::fd::AsRawFd::as_raw_fd(file), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

#[test]
fn more_files_are_open_and_mapped_than_the_daemon_may_have_open() {
    let bench = Bench::new();
    let (model, plain) = many(&bench);
    let mount = mount_limited(&bench, 64, &[]);
    let open = |n: usize, ending: &str| File::open(mount.path(&format!("{n}.{ending}"))).unwrap();
    let files: Vec<_> = (0..MANY).map(|n| (open(n, "safetensors"), open(n, "json"))).collect();
    // SAFETY: nothing changes what is mapped.
    let maps: Vec<_> = files.iter().map(|(file, _)| unsafe { memmap2::Mmap::map(file).unwrap() }).collect();
    for round in 0..2 {
        for (n, (file, json)) in files.iter().enumerate() {
            assert_holds(file, &model, &format!("{n} in round {round}"));
            assert_holds(json, &plain, &format!("{n}.json in round {round}"));
        }
    }
    assert!(maps.iter().all(|map| **map == model[..]));
    let held = fs::read_dir(format!("/proc/{}/fd", mount.pid)).unwrap().count();
    assert!(held < 64, "{held}");
    assert_eq!(mount.status().errors, 0);
}

#[test]
fn what_was_removed_or_replaced_while_open_is_read_on_as_long_as_it_was_held_open() {
    let bench = Bench::new();
    let (model, plain) = many(&bench);
    let mount = mount_limited(&bench, 64, &[]);
    let [removed, replaced] = ["0.safetensors", "1.json"].map(|name| File::open(mount.path(name)).unwrap());
    fs::remove_file(bench.source().join("0.safetensors.bs")).unwrap();
    let other = bench.dir.join("other");
    fs::write(&other, noise(9, 50_000)).unwrap();
    fs::rename(&other, bench.source().join("1.json")).unwrap();
    // They are the ones that were not used for longest.
    let others: Vec<_> = (2..MANY).map(|n| File::open(mount.path(&format!("{n}.safetensors"))).unwrap()).collect();
    others.iter().for_each(|file| assert_holds(file, &model, "another"));
    assert_holds(&removed, &model, "removed");
    assert_holds(&replaced, &plain, "replaced");
}

#[test]
fn what_changed_while_it_was_closed_is_an_error_and_never_another_byte() {
    let bench = Bench::new();
    let (model, plain) = many(&bench);
    let mount = mount_limited(&bench, 64, &[]);
    let first = File::open(mount.path("0.json")).unwrap();
    let others: Vec<_> = (1..MANY).map(|n| File::open(mount.path(&format!("{n}.safetensors"))).unwrap()).collect();
    others.iter().for_each(|file| assert_holds(file, &model, "another"));
    let source = bench.source().join("0.json");
    assert!(!is_open(&mount, &source), "closed for the others");
    let other = bench.dir.join("other");
    fs::write(&other, noise(9, plain.len())).unwrap();
    fs::rename(&other, &source).unwrap();
    let mut got = [0; 10];
    let error = first.read_exact_at(&mut got, 0).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::ESTALE | libc::EIO)), "{error}");
    assert!(fs::read(mount.path("0.json")).unwrap() == noise(9, plain.len()));
}

fn is_open(mount: &Mount, source: &Path) -> bool {
    let fds = fs::read_dir(format!("/proc/{}/fd", mount.pid)).unwrap();
    fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok()).any(|path| path == source)
}

#[test]
fn a_new_file_with_the_inode_number_and_times_of_the_closed_one_is_another_file() {
    let bench = Bench::new();
    let (_, plain) = many(&bench);
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_577_836_800);
    let make = |name: &str, bytes: &[u8]| {
        let path = bench.plain(name, bytes);
        File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        path
    };
    let linked = make("linked.json", &plain);
    let mount = mount_limited(&bench, 48, &[]);
    let second = File::open(mount.path("linked.json")).unwrap();
    // Other processes may take the number that is free, and some file systems give none again.
    for attempt in 0..10 {
        let name = format!("victim-{attempt}.json");
        let victim = make(&name, &plain);
        let first = File::open(mount.path(&name)).unwrap();
        let others: Vec<_> = (0..20).map(|n| File::open(mount.path(&format!("{n}.json"))).unwrap()).collect();
        others.iter().for_each(|file| assert_holds(file, &plain, "another"));
        eventually("closed for the others", || !is_open(&mount, &victim) && !is_open(&mount, &linked));
        let number = fs::metadata(&victim).unwrap().ino();
        fs::remove_file(&victim).unwrap();
        // Each file takes the first number that is free.
        let mut made = (0..50).map(|n| make(&format!("new-{attempt}-{n}"), &noise(9, plain.len())));
        if let Some(again) = made.find(|path| fs::metadata(path).unwrap().ino() == number) {
            fs::rename(again, &victim).unwrap();
            let error = first.read_exact_at(&mut [0; 10], 0).unwrap_err();
            assert!(matches!(error.raw_os_error(), Some(libc::ESTALE | libc::EIO)), "{error}");
            break;
        }
    }
    let has_birth_times = fs::metadata(&linked).unwrap().created().is_ok();
    // The same file with another change time is still the same.
    fs::hard_link(&linked, bench.dir.join("link")).unwrap();
    if has_birth_times {
        assert_holds(&second, &plain, "linked");
    }
}

#[test]
fn a_directory_of_many_is_described_and_is_a_base_with_few_open_files() {
    let bench = Bench::new();
    let (model, _) = many(&bench);
    let source = bench.source();
    let output = limited(&bench, 64, &["info", source.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let (input, to) = (bench.dir.join("tune.safetensors"), bench.dir.join("tune.bs"));
    fs::write(&input, &model).unwrap();
    let [input, to, source] = [&input, &to, &source].map(|path: &std::path::PathBuf| path.to_str().unwrap());
    let output = limited(&bench, 64, &["compress", input, "-o", to, "--base", source]);
    assert!(output.status.success(), "{}", stderr(&output));
    let few = fs::metadata(to).unwrap().len();
    assert!(few < fs::metadata(Path::new(source).join("1.safetensors.bs")).unwrap().len(), "{few}");
}

#[test]
fn the_limit_is_raised_for_the_daemon_and_not_for_what_it_runs() {
    let bench = Bench::new();
    pack(&bench.original(b"x"), &bench.source().join("x.bs"));
    let mount = Mount::new(&bench, &[]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", mount.pid)).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<_> = line.split_whitespace().filter(|word| word.parse::<u64>().is_ok()).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
}
