//! What can be seen of a mount from outside: attributes of files, the hidden directory, metrics, probes, logs. Needs `/dev/fuse`.

use crate::common;
use crate::common::mounted;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::common::exposition::{parse, sum};
use crate::common::mounted::{Mount, bsfs, model, signal, stderr};
use crate::common::{Bench, age, eventually, root_for};
use sha2::{Digest, Sha256};

fn attribute(path: &Path, name: &str) -> Option<String> {
    let mut value = vec![0; 4096];
    let len = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
    Some(String::from_utf8(value[..len].to_vec()).unwrap())
}

#[test]
fn a_shown_file_tells_what_it_is_without_being_read() {
    let bench = Bench::new();
    let original = model(&bench);
    let mount = Mount::new(&bench, &[]);
    let file = mount.path("model.safetensors");
    let of = |name: &str| attribute(&file, name);
    let sha256: String = Sha256::digest(&original).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(of("user.bsfs.sha256"), Some(sha256));
    assert_eq!(of("user.bsfs.source").as_deref(), Some("model.safetensors.bs"));
    let packed = fs::metadata(bench.source().join("model.safetensors.bs")).unwrap().len();
    assert_eq!(of("user.bsfs.ratio"), Some(format!("{:.4}", packed as f64 / original.len() as f64)));
    assert!(of("user.bsfs.codec").unwrap().starts_with("classes"), "{:?}", of("user.bsfs.codec"));
    assert_eq!((of("user.bsfs.other"), of("user.other")), (None, None));
    assert_eq!(attribute(&mount.path("config.json"), "user.bsfs.sha256"), None);
    assert_eq!(rustix::fs::listxattr_query(&file).unwrap(), 0, "a copy takes none along");
    assert_eq!(mount.status().reads, 0);
}

#[test]
fn a_hidden_directory_tells_what_status_tells() {
    let bench = Bench::new();
    let original = model(&bench);
    let mount = Mount::new(&bench, &[]);
    assert!(fs::read(mount.path("model.safetensors")).unwrap() == original);
    let names = |dir: &Path| -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&mount.point), ["config.json", "model.safetensors", "sub"], "not listed");
    let hidden = mount.path(".bsfs");
    assert_eq!(names(&hidden), ["log", "metrics.prom", "stats.json"]);
    let stats: serde_json::Value = serde_json::from_slice(&fs::read(hidden.join("stats.json")).unwrap()).unwrap();
    assert_eq!(stats["pid"], mount.pid);
    assert!(stats["read_bytes"].as_u64().unwrap() >= original.len() as u64);
    assert!(fs::read_to_string(hidden.join("log")).unwrap().contains("threads take requests"));
    let metrics = fs::read_to_string(hidden.join("metrics.prom")).unwrap();
    assert!(metrics.contains("bsfs_read_bytes_total{mount="), "{metrics}");
    assert!(fs::metadata(hidden.join("stats.json")).unwrap().len() > 100);
    assert!(!hidden.join("other").exists() && !mount.path("sub/.bsfs").exists());
    let refused = File::create(hidden.join("stats.json")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    // It is as it was when it was opened, and the next one is new.
    let mut open = File::open(hidden.join("stats.json")).unwrap();
    let mut first = [0; 10];
    open.read_exact(&mut first).unwrap();
    fs::read(mount.path("config.json")).unwrap();
    let mut rest = String::new();
    open.read_to_string(&mut rest).unwrap();
    let whole = String::from_utf8(first.to_vec()).unwrap() + &rest;
    let _: serde_json::Value = serde_json::from_str(&whole).unwrap();
    drop(open);
    eventually("it is closed", || mount.status().open_files == 0);
}

#[test]
fn metrics_are_written_whole_and_over_nothing_but_files() {
    let bench = Bench::new();
    let original = model(&bench);
    let (dir, file) = (bench.dir.join("metrics"), bench.dir.join("metrics/m.prom"));
    fs::create_dir(&dir).unwrap();
    // Names that the daemon might use on the way, which are somebody's links.
    let other = bench.dir.join("other");
    fs::write(&other, b"theirs").unwrap();
    std::os::unix::fs::symlink(&other, &file).unwrap();
    let mount = Mount::new(&bench, &["--metrics-file", file.to_str().unwrap()]);
    parse(&fs::read_to_string(&file).unwrap());
    assert!(file.symlink_metadata().unwrap().is_file(), "a link is replaced, and not followed");
    assert_eq!(fs::read(&other).unwrap(), b"theirs");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing is left beside it");
    assert!(fs::read(mount.path("model.safetensors")).unwrap() == original);
    let told = fs::read_to_string(mount.path(".bsfs/metrics.prom")).unwrap();
    let samples = parse(&told);
    assert!(sum(&samples, "bsfs_read_bytes_total", &[]) >= original.len() as f64);
    // The header lies in the index.
    assert!(sum(&samples, "bsfs_decoded_bytes_total", &[("codec", "classes")]) >= original.len() as f64 - 1000.0);
    assert!(sum(&samples, "bsfs_fuse_request_seconds_count", &[("op", "read")]) > 0.0);
    assert!(told.contains(&format!("mount=\"{}\"", mount.point.display())));
    drop(mount);
    // A FIFO stands for devices, which only root makes.
    fs::remove_file(&file).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let (source, point) = (bench.source(), bench.mount_point());
    let arguments =
        ["mount", "--metrics-file", file.to_str().unwrap(), source.to_str().unwrap(), point.to_str().unwrap()];
    let refused = bsfs(&bench, arguments);
    assert!(!refused.status.success() && stderr(&refused).contains("m.prom"), "{}", stderr(&refused));
    assert!(!file.symlink_metadata().unwrap().is_file());
}

/// Dashboards are built on these names.
#[test]
fn metrics_have_the_names_and_labels_that_are_promised() {
    let bench = Bench::new();
    let original = model(&bench);
    let damaged = bench.packed("damaged.safetensors.bs", &common::safetensors(3, 500_000));
    let mut bytes = fs::read(&damaged).unwrap();
    let len = bytes.len();
    bytes[64..len / 2].iter_mut().for_each(|byte| *byte ^= 0xff);
    fs::write(&damaged, bytes).unwrap();
    age(&bench.source());
    let mount = Mount::new(&bench, &["--cache", "all"]);
    assert!(fs::read(mount.path("model.safetensors")).unwrap() == original);
    let printed = || fs::read_to_string(mount.path(".bsfs/metrics.prom")).unwrap();
    let whole = parse(&printed());
    assert_eq!(sum(&whole, "bsfs_integrity_failures_total", &[]), 0.0);
    assert!(fs::read(mount.path("damaged.safetensors")).is_err());
    eventually("the disk cache was measured", || {
        printed().contains("bsfs_cache_bytes{") && {
            let samples = parse(&printed());
            samples.iter().any(|s| s.name == "bsfs_cache_bytes" && s.labels["tier"] == "disk" && s.value > 0.0)
        }
    });
    let text = printed();
    let samples = parse(&text);
    let has = |name: &str, labels: &[&str]| {
        let found = samples.iter().find(|sample| sample.name == name).unwrap_or_else(|| panic!("no {name}"));
        let mut expected = [&["mount"], labels].concat();
        expected.sort_unstable();
        assert_eq!(found.labels.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{name}");
    };
    for (name, labels) in [
        ("bsfs_fuse_requests_total", &["op"][..]),
        ("bsfs_fuse_errors_total", &["op", "errno"]),
        ("bsfs_fuse_request_seconds_bucket", &["op", "le"]),
        ("bsfs_read_bytes_total", &[]),
        ("bsfs_decode_seconds_total", &[]),
        ("bsfs_decoded_bytes_total", &["codec"]),
        ("bsfs_cache_bytes", &["tier"]),
        ("bsfs_cache_hits_total", &["tier"]),
        ("bsfs_cache_misses_total", &["tier"]),
        ("bsfs_cache_evictions_total", &["tier"]),
        ("bsfs_prefetch_bytes_total", &["result"]),
        ("bsfs_source_requests_total", &["kind", "status"]),
        ("bsfs_source_first_byte_seconds_bucket", &["le"]),
        ("bsfs_source_bytes_total", &[]),
        ("bsfs_integrity_failures_total", &[]),
        ("bsfs_build_info", &["version"]),
    ] {
        has(name, labels);
    }
    let of = |name: &str, labels: &[(&str, &str)]| sum(&samples, name, labels);
    assert!(of("bsfs_integrity_failures_total", &[]) > 0.0);
    assert!(of("bsfs_fuse_errors_total", &[("op", "read"), ("errno", "5")]) > 0.0);
    assert_eq!(of("bsfs_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert!(of("bsfs_source_requests_total", &[("kind", "read"), ("status", "ok")]) > 0.0);
    assert_eq!(of("bsfs_source_requests_total", &[("status", "failed")]), 0.0);
    assert!(of("bsfs_source_bytes_total", &[]) > 0.0 && of("bsfs_source_first_byte_seconds_count", &[]) > 0.0);
    assert!(of("bsfs_prefetch_bytes_total", &[("result", "used")]) > 0.0, "{text}");
    // Until the files are finished for the disk cache, both grow between two looks.
    eventually("the codecs' bytes are all that was decoded", || {
        let by_codec = sum(&parse(&printed()), "bsfs_decoded_bytes_total", &[]);
        by_codec == mount.status().engine.decoded_bytes as f64
    });
}

#[test]
fn a_status_names_the_busiest_files_and_the_slowest_reads() {
    let bench = Bench::new();
    let original = model(&bench);
    let mount = Mount::new(&bench, &[]);
    assert!(fs::read(mount.path("model.safetensors")).unwrap() == original);
    fs::read(mount.path("config.json")).unwrap();
    eventually("they are closed", || mount.status().open_files == 0);
    let status = mount.status();
    let busy: Vec<_> = status.busy_files.iter().map(|file| (file.file.as_str(), file.bytes)).collect();
    assert_eq!(busy, [("model.safetensors.bs", original.len() as u64), ("config.json", 8)]);
    // An open file counts too, and a second time.
    let open = File::open(mount.path("model.safetensors")).unwrap();
    rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&open, &mut [0; 4096], 1 << 20).unwrap();
    let after = mount.status();
    assert!(after.busy_files[0].bytes > busy[0].1, "{:?}", after.busy_files);
    for read in &after.slow_reads {
        assert!(read.seconds >= 0.001 && !read.file.is_empty() && read.length > 0, "{read:?}");
        assert!(["source", "disk cache", "decode", "wait", "reply", "queue"].contains(&read.why.as_str()), "{read:?}");
    }
    assert!(after.slow_reads.is_sorted_by(|a, b| a.seconds >= b.seconds) && after.slow_reads.len() <= 16);
}

#[test]
fn a_log_that_was_moved_away_is_begun_anew() {
    let bench = Bench::new();
    model(&bench);
    let (log, old) = (bench.dir.join("log"), bench.dir.join("log.1"));
    let mount = Mount::new(&bench, &["--log-file", log.to_str().unwrap()]);
    fs::rename(&log, &old).unwrap();
    signal(mount.pid, libc::SIGHUP);
    eventually("the log is there again", || fs::read_to_string(&log).is_ok_and(|text| text.contains("opened anew")));
    assert!(fs::read_to_string(&old).unwrap().contains("threads take requests"));
    let shown = fs::read_to_string(mount.path(".bsfs/log")).unwrap();
    assert!(shown.contains("opened anew") && !shown.contains("threads take requests"), "{shown}");
    assert!(mounted::is_mounted(&mount.point), "a daemon is not ended by it");
}

#[test]
fn settings_change_while_mounted_and_only_for_the_owner() {
    let bench = Bench::new();
    let original = model(&bench);
    let log = bench.dir.join("log");
    let mount = Mount::new(&bench, &["--allow-other", "--cache", "all", "--log-file", log.to_str().unwrap()]);
    let remount = |options: &[&str]| {
        let mut words = vec!["remount".as_ref(), mount.point.as_os_str()];
        words.extend(options.iter().map(|option| std::ffi::OsStr::new(*option)));
        bsfs(&bench, words)
    };
    let file = mount.path("model.safetensors");
    assert!(fs::read(&file).unwrap() == original);
    assert!(mount.status().engine.buffer_bytes > 1 << 20);
    let changed = remount(&["--memory", "1M", "--cache-size", "3M", "--ttl", "7", "--log-level", "debug"]);
    let said = stderr(&changed);
    for part in ["memory 1.0 MiB", "cache size 3.0 MiB", "ttl 7 s", "log level debug"] {
        assert!(changed.status.success() && said.contains(part), "{said}");
    }
    let engine = mount.status().engine;
    assert_eq!((engine.memory_limit, engine.ahead_window), (1 << 20, 1 << 17));
    // What is in use, for the disk cache for one, leaves when it is given back.
    eventually("what was too much has left", || mount.status().engine.buffer_bytes <= 1 << 20);
    // The kernel's readahead, as the kernel says it.
    let dev = std::os::unix::fs::MetadataExt::dev(&fs::metadata(&mount.point).unwrap());
    let setting = format!("/sys/class/bdi/{}:{}/read_ahead_kb", rustix::fs::major(dev), rustix::fs::minor(dev));
    if root_for("readahead") {
        assert!(remount(&["--readahead", "512K"]).status.success());
        assert_eq!(fs::read_to_string(&setting).unwrap().trim(), "512");
    }
    // What is wrong changes nothing at all.
    let refused = remount(&["--memory", "8M", "--log-level", "loud"]);
    assert!(refused.status.code() == Some(2) && stderr(&refused).contains("expected a log level"));
    assert_eq!(mount.status().engine.memory_limit, 1 << 20);
    // Debug lines come from now on.
    assert!(bsfs(&bench, ["remount".as_ref(), mount.point.as_os_str()]).status.success());
    assert!(!mount.path("none").exists());
    assert!(fs::read_to_string(&log).unwrap().contains("changed while mounted"));
    let open = File::open(&file).unwrap();
    rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert!(fs::read(&file).unwrap() == original, "with little memory");
    // Another user may read, and may not change.
    if root_for("another user") {
        std::os::unix::fs::chown(&bench.dir, Some(65534), None).unwrap();
        let program = bench.dir.join("bsfs");
        fs::copy(mounted::BSFS, &program).unwrap();
        let mut other = std::process::Command::new("setpriv");
        other.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
        let output = other.arg("remount").arg(&mount.point).args(["--memory", "2M"]).output().unwrap();
        assert!(output.status.code() == Some(2) && stderr(&output).contains("only the user"), "{}", stderr(&output));
        assert_eq!(mount.status().engine.memory_limit, 1 << 20);
    }
    let none = bsfs(&bench, ["remount".as_ref(), bench.dir.as_os_str()]);
    assert!(none.status.code() == Some(2) && stderr(&none).contains("no mount of bsfs"), "{}", stderr(&none));
}

#[test]
fn a_service_is_written_for_systemd_and_taken_away_again() {
    let bench = Bench::new();
    model(&bench);
    let config = bench.dir.join("config");
    let (source, point) = (bench.source(), bench.mount_point());
    let service = |words: &[&str]| {
        let mut command = mounted::command(&bench);
        command.env("XDG_CONFIG_HOME", &config).arg("service").args(words).output().unwrap()
    };
    let places = [source.to_str().unwrap(), point.to_str().unwrap()];
    let install =
        |more: &[&str]| service(&[&["install", "--user", "--no-start", "--name", "x"], &places[..], more].concat());
    let refused = install(&["--", "--memory", "lots"]);
    assert!(!refused.status.success() && !config.exists(), "{}", stderr(&refused));
    let done = install(&["--", "--memory", "1G"]);
    assert!(done.status.success(), "{}", stderr(&done));
    let file = config.join("bsfs/x.conf");
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains(&format!("MOUNTPOINT=\"{}\"", places[1])) && text.contains("OPTIONS=\"--memory 1G\""),
        "{text}"
    );
    let unit = config.join("systemd/user/bsfs@.service");
    let installed = unit.exists();
    assert!(install(&["--", "--memory", "1G"]).status.success(), "the same again");
    let other = install(&["--", "--memory", "2G"]);
    assert!(!other.status.success() && stderr(&other).contains("says something else"), "{}", stderr(&other));
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    assert!(String::from_utf8_lossy(&service(&["list", "--user"]).stdout).contains(&format!("at {}", places[1])));
    // Another's file stays.
    fs::write(config.join("bsfs/y.conf"), "SOURCE=/a\n").unwrap();
    assert!(!service(&["remove", "--user", "y"]).status.success() && config.join("bsfs/y.conf").exists());
    fs::remove_file(config.join("bsfs/y.conf")).unwrap();
    if !Path::new("/run/systemd/system").exists() {
        let needs = service(&["install", "--user", places[0], places[1]]);
        assert!(stderr(&needs).contains("/etc/fstab"), "{}", stderr(&needs));
        let removed = service(&["remove", "--user", "x"]);
        assert!(removed.status.success() && !file.exists() && !(installed && unit.exists()), "{}", stderr(&removed));
    }
}

#[test]
fn a_probe_tells_whether_a_mount_answers() {
    let bench = Bench::new();
    model(&bench);
    let point = bench.mount_point();
    let probe = || bsfs(&bench, ["status".as_ref(), point.as_os_str(), "--check".as_ref()]);
    assert_eq!(probe().status.code(), Some(2));
    let mount = Mount::new(&bench, &[]);
    let live = probe();
    assert!(live.status.success() && live.stdout.is_empty() && live.stderr.is_empty());
    signal(mount.pid, libc::SIGSTOP);
    let state = || fs::read_to_string(format!("/proc/{}/stat", mount.pid)).unwrap();
    eventually("it stands still", || state().contains(") T "));
    let stopped = probe();
    signal(mount.pid, libc::SIGCONT);
    assert_eq!(stopped.status.code(), Some(2));
    assert!(stderr(&stopped).contains("no answer"), "{}", stderr(&stopped));
    assert!(probe().status.success());
    signal(mount.pid, libc::SIGKILL);
    eventually("the daemon is gone", || fs::read_dir(&mount.point).is_err());
    let dead = probe();
    assert!(dead.status.code() == Some(2) && stderr(&dead).contains("dead"), "{}", stderr(&dead));
}

#[test]
fn the_doctor_finds_a_dead_mount_and_says_what_to_do() {
    let bench = Bench::new();
    model(&bench);
    let point = bench.mount_point();
    let mount = Mount::new(&bench, &[]);
    let findings =
        || -> Vec<serde_json::Value> { serde_json::from_slice(&bsfs(&bench, ["doctor", "--json"]).stdout).unwrap() };
    // There may be other mounts on this machine.
    let ours = || findings().into_iter().find(|f| f["found"].as_str().unwrap().starts_with(point.to_str().unwrap()));
    assert!(ours().is_none());
    let all = findings();
    assert!(all.iter().any(|f| f["what"] == "/dev/fuse" && f["state"] == "good"), "{all:?}");
    assert!(all.iter().any(|f| f["what"] == "processor" && f["found"].as_str().unwrap().contains("GB/s")), "{all:?}");
    signal(mount.pid, libc::SIGKILL);
    eventually("the daemon is gone", || fs::read_dir(&mount.point).is_err());
    let dead = ours().unwrap();
    assert_eq!(
        (&dead["state"], &dead["advice"]),
        (&"wrong".into(), &format!("bsfs unmount {}", point.display()).into())
    );
    assert_eq!(bsfs(&bench, ["doctor"]).status.code(), Some(1));
}

#[test]
fn a_source_that_fails_does_not_flood_the_log() {
    let bench = Bench::new();
    let packed = bench.packed("m.safetensors.bs", &common::safetensors(3, 2_000_000));
    let mut bytes = fs::read(&packed).unwrap();
    let len = bytes.len();
    bytes[64..len / 2].iter_mut().for_each(|byte| *byte ^= 0xff);
    fs::write(&packed, bytes).unwrap();
    age(&bench.source());
    let log = bench.dir.join("log");
    let mount = Mount::new(&bench, &["--log-file", log.to_str().unwrap()]);
    let file = File::open(mount.path("m.safetensors")).unwrap();
    let mut buffer = [0; 512];
    let failed =
        (0..300).filter(|n| std::os::unix::fs::FileExt::read_at(&file, &mut buffer, 4096 + n * 4096).is_err()).count();
    assert!(failed > 100, "{failed}");
    let lines = fs::read_to_string(&log)
        .unwrap()
        .lines()
        .filter(|line| line.contains("ERROR") && line.contains("read:"))
        .count();
    assert!((1..=60).contains(&lines), "{lines} lines for {failed} errors");
    let status = mount.status();
    assert!(
        status.errors >= failed as u64 && status.requests.errors["read 5"] >= failed as u64,
        "{:?}",
        status.requests
    );
}
