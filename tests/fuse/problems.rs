//! What is wrong is told at the mount, and `bsfs status` says first whether anything is. Needs `/dev/fuse`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use crate::common::bindfs::Bindfs;
use crate::common::mounted::{Mount, bsfs, is_mounted, model, status_of, stderr};
use crate::common::tuned::{self, file, moved, pack_against, put};
use crate::common::{Bench, age, eventually, noise};

/// Mounts, which must work; what was told meanwhile.
fn told(bench: &Bench, options: &[&str]) -> (Mount, String) {
    let (source, point) = (bench.source(), bench.mount_point());
    let words = ["mount".as_ref()].into_iter().chain(options.iter().map(|option| option.as_ref()));
    let output = bsfs(bench, words.chain([source.as_os_str(), point.as_os_str()]));
    assert!(output.status.success(), "{}", stderr(&output));
    (Mount { pid: status_of(&point).unwrap().pid, point }, stderr(&output))
}

/// The first line of the status of a mount.
fn first_line(bench: &Bench, mount: &Mount) -> String {
    let Output { stdout, .. } = bsfs(bench, ["status".as_ref(), mount.point.as_os_str()]);
    String::from_utf8(stdout).unwrap().lines().next().unwrap().to_owned()
}

#[test]
fn a_container_that_cannot_be_opened_is_told_until_it_can_be() {
    let bench = Bench::new();
    model(&bench);
    let (good, bad) = (bench.source().join("model.safetensors.bs"), bench.source().join("bad.safetensors.bs"));
    let whole = fs::read(&good).unwrap();
    bench.plain("bad.safetensors.bs", &whole[..whole.len() / 2]);
    let (mount, said) = told(&bench, &[]);
    assert!(said.contains(bad.to_str().unwrap()) && said.lines().count() == 1, "{said}");
    let status = mount.status();
    assert!(status.problems.len() == 1 && status.problems[0].contains(bad.to_str().unwrap()), "{:?}", status.problems);
    assert_eq!(first_line(&bench, &mount), format!("{}  (live, with a problem)", mount.point.display()));
    bench.plain("bad.safetensors.bs", &whole);
    eventually("it is mended", || {
        fs::read_dir(&mount.point).unwrap().count();
        mount.status().problems.is_empty()
    });
    assert_eq!(first_line(&bench, &mount), format!("{}  (live, ok)", mount.point.display()));
    drop(mount);
    let (_mount, said) = told(&bench, &[]);
    assert_eq!(said, "");
}

#[test]
fn a_fine_tune_without_its_base_is_told_until_that_is_there() {
    let base = tuned::model(7, "BF16");
    let bench = Bench::new();
    let plain = put(&bench.dir.join("x/base.safetensors"), &file(&base));
    let (tuned, away) = (file(&moved(&base, 1)), bench.dir.join("away"));
    let input = put(&bench.dir.join("x/ft.safetensors"), &tuned);
    pack_against(&bench, &input, &bench.source().join("ft.safetensors.bs"), Some(&plain));
    fs::rename(bench.dir.join("x"), &away).unwrap();
    age(&bench.source());
    let (mount, said) = told(&bench, &[]);
    assert!(said.contains("ft.safetensors.bs") && said.lines().count() == 1, "{said}");
    assert_eq!(mount.status().problems.len(), 1);
    assert!(fs::read(mount.path("ft.safetensors")).is_err());
    // Told as a request that failed as well.
    assert_eq!(mount.status().problems.len(), 2, "{:?}", mount.status().problems);
    fs::copy(away.join("base.safetensors"), bench.source().join("base.safetensors")).unwrap();
    eventually("the base is found", || fs::read(mount.path("ft.safetensors")).is_ok_and(|bytes| bytes == tuned));
    let problems = mount.status().problems;
    assert!(problems.len() == 1 && problems[0].contains("requests failed, the last one"), "{problems:?}");
}

#[test]
fn what_is_not_listed_is_told() {
    let bench = Bench::new();
    model(&bench);
    symlink("nothing", bench.source().join("dangling")).unwrap();
    age(&bench.source());
    let (mount, said) = told(&bench, &[]);
    assert!(said.contains("dangling: cannot be followed") && said.lines().count() == 1, "{said}");
    assert_eq!(mount.status().problems.len(), 1);
    drop(mount);
    let outside = put(&bench.dir.join("outside/weights.bin"), b"weights");
    fs::remove_file(bench.source().join("dangling")).unwrap();
    symlink(&outside, bench.source().join("weights.bin")).unwrap();
    age(&bench.source());
    let (_mount, said) = told(&bench, &["--allow-other"]);
    assert!(said.contains("leads out of the source") && said.contains("--follow"), "{said}");
}

#[test]
fn of_many_problems_a_few_are_told() {
    let bench = Bench::new();
    for n in 0..20 {
        bench.plain(&format!("{n}.safetensors.bs"), &noise(n, 5000));
    }
    let (mount, said) = told(&bench, &[]);
    assert_eq!(said.lines().count(), 6, "{said}");
    assert!(said.contains("more problems; see 'bsfs status"), "{said}");
    let problems = mount.status().problems;
    assert!(problems.len() == 11 && problems[10].starts_with("10 more files"), "{problems:?}");
}

#[test]
fn a_disk_cache_that_was_asked_for_and_cannot_be_had_is_a_problem() {
    let bench = Bench::new();
    model(&bench);
    let cache = bench.plain("no-directory", b"x");
    let (mount, said) = told(&bench, &["--cache", "all", "--cache-dir", cache.to_str().unwrap()]);
    assert!(said.contains("going on without a disk cache"), "{said}");
    assert!(mount.status().problems[0].contains("disk cache"), "{:?}", mount.status().problems);
    assert!(first_line(&bench, &mount).contains("with a problem"));
}

#[test]
fn a_source_that_does_not_answer_is_a_problem_until_it_does() {
    let bench = Bench::new();
    let original = model(&bench);
    let (real, below) = (bench.dir.join("real"), bench.source().join("below"));
    fs::create_dir(&real).unwrap();
    fs::create_dir(&below).unwrap();
    fs::copy(bench.source().join("model.safetensors.bs"), real.join("model.safetensors.bs")).unwrap();
    let Some(bindfs) = Bindfs::new(&real, &below) else { return };
    let (mount, said) = told(&bench, &["--cache", "off", "--ttl", "0"]);
    assert_eq!(said, "");
    bindfs.stop();
    let path = mount.path("below/model.safetensors");
    let reader = std::thread::spawn(move || fs::read(path).unwrap());
    let hangs = || mount.status().problems.iter().any(|text| text.contains("the source does not answer"));
    eventually("it is told", hangs);
    assert!(first_line(&bench, &mount).contains("problem"));
    bindfs.go();
    assert!(reader.join().unwrap() == original);
    eventually("it is told no more", || !hangs());
}

#[test]
fn a_mount_point_in_a_file_system_of_the_kernel_is_refused_at_once() {
    let bench = Bench::new();
    model(&bench);
    let link = bench.dir.join("link");
    symlink("/proc/sys/kernel", &link).unwrap();
    let places =
        ["/proc", "/proc/self", "/proc/self/fdinfo", "/sys", "/sys/kernel", "/dev/pts", link.to_str().unwrap()];
    for place in places.iter().map(Path::new).filter(|place| place.is_dir()) {
        let began = Instant::now();
        let output = bsfs(&bench, ["mount".as_ref(), bench.source().as_os_str(), place.as_os_str()]);
        assert!(began.elapsed() < Duration::from_secs(10), "{}", place.display());
        assert_eq!(output.status.code(), Some(2), "{}: {}", place.display(), stderr(&output));
        assert!(stderr(&output).contains("file system of the kernel"), "{}", stderr(&output));
        assert!(!is_mounted(place));
    }
}
