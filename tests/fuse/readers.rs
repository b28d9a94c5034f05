//! Who may read what, where users other than the mounting one are let in.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bsfs::mount::Status;

use crate::common::mounted::{Mount, bsfs, stderr};
use crate::common::{Bench, age, eventually, noise, root_for, safetensors, skip};

const NOBODY: u32 = 65534;
const DAEMON: u32 = 1;
const SECRET: &[u8] = b"what only its owner may read";

/// A bench whose directories all users may search; `None` without root, which these tests need.
fn bench() -> Option<Bench> {
    if !root_for("other users") {
        return None;
    }
    let bench = Bench::new();
    for path in [&bench.dir, &bench.source()] {
        allow(path, 0o755);
    }
    Some(bench)
}

fn allow(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Makes a directory and a file in it.
fn file(path: PathBuf, directory: u32, mode: u32, bytes: &[u8]) -> PathBuf {
    let parent = path.parent().unwrap();
    fs::create_dir_all(parent).unwrap();
    fs::write(&path, bytes).unwrap();
    allow(&path, mode);
    allow(parent, directory);
    path
}

fn run(user: u32, program: &str, arguments: &[&std::ffi::OsStr]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user.to_string(), "--regid", &user.to_string(), "--clear-groups", program]);
    command.args(arguments).output().unwrap()
}

fn read_as(user: u32, path: impl AsRef<Path>) -> Option<Vec<u8>> {
    let output = run(user, "cat", &[path.as_ref().as_os_str()]);
    output.status.success().then_some(output.stdout)
}

fn log_of(mount: &Mount) -> String {
    fs::read_to_string(mount.path(".bsfs/log")).unwrap()
}

#[test]
fn a_link_out_of_the_source_opens_nothing() {
    let Some(bench) = bench() else { return };
    let (source, private) = (bench.source(), bench.dir.join("private"));
    let secret = file(private.join("secret"), 0o700, 0o644, SECRET);
    file(bench.dir.join("pool/deep/shared"), 0o755, 0o644, b"shared");
    allow(bench.dir.join("pool"), 0o755);
    // Opened as a container, it would be shown under the name of its original.
    bench.packed("model.safetensors.bs", SECRET);
    fs::rename(source.join("model.safetensors.bs"), private.join("model.safetensors.bs")).unwrap();
    for (name, target) in [
        ("absolute", secret.as_path()),
        ("relative", Path::new("../private/secret")),
        ("round", Path::new("../source/../private/secret")),
        ("chain", Path::new("relative")),
        ("directory", private.as_path()),
        ("model.safetensors.bs", Path::new("../private/model.safetensors.bs")),
        ("up", Path::new("..")),
        ("bigsmall.index.json", secret.as_path()),
        ("shared", Path::new("../pool/deep/shared")),
        ("system", Path::new("/proc/self/environ")),
        ("dangling", Path::new("../private/none")),
    ] {
        symlink(target, source.join(name)).unwrap();
    }
    fs::write(source.join("own"), b"own").unwrap();
    symlink(source.join("own"), source.join("own-absolute")).unwrap();
    symlink("../source/own", source.join("own-round")).unwrap();
    age(&source);
    let mount = Mount::new(&bench, &["--allow-other"]);
    for name in
        ["absolute", "relative", "round", "chain", "directory/secret", "up/private/secret", "bigsmall.index.json"]
    {
        assert_eq!(read_as(NOBODY, mount.path(name)), None, "{name}");
    }
    for name in ["model.safetensors", "model.safetensors.bs", "dangling"] {
        assert_eq!(read_as(NOBODY, mount.path(name)), None, "{name}");
    }
    for name in ["own", "own-absolute", "own-round"] {
        assert_eq!(read_as(NOBODY, mount.path(name)).as_deref(), Some(&b"own"[..]), "{name}");
        assert!(mount.path(name).symlink_metadata().unwrap().is_file(), "{name}: within the source it is followed");
    }
    assert_eq!(fs::read_link(mount.path("absolute")).unwrap(), secret, "shown as what it is");
    let log = log_of(&mount);
    let line = log.lines().find(|line| line.contains("source/relative:")).unwrap();
    assert!(line.contains("../private/secret") && line.contains("--follow"), "{line}");
    drop(mount);

    let pool = bench.dir.join("pool");
    let mount = Mount::new(&bench, &["--allow-other", "--follow", pool.to_str().unwrap()]);
    assert_eq!(read_as(NOBODY, mount.path("shared")).as_deref(), Some(&b"shared"[..]));
    assert!(mount.path("shared").symlink_metadata().unwrap().is_file());
    assert_eq!(
        (read_as(NOBODY, mount.path("absolute")), read_as(NOBODY, mount.path("directory/secret"))),
        (None, None)
    );
    // What may be followed is still not opened to users who could not go there.
    allow(pool.join("deep"), 0o700);
    assert_eq!(read_as(NOBODY, mount.path("shared")), None);
    drop(mount);

    let mount = Mount::new(&bench, &["--allow-other", "--follow", private.to_str().unwrap()]);
    assert_eq!(read_as(NOBODY, mount.path("absolute")), None);
    assert_eq!(fs::read(mount.path("absolute")).unwrap(), SECRET, "root");
    drop(mount);

    // For the mounting user alone links lead where they always do.
    let mount = Mount::new(&bench, &[]);
    assert_eq!(fs::read(mount.path("directory/secret")).unwrap(), SECRET);
    assert_eq!(fs::read(mount.path("model.safetensors")).unwrap(), SECRET);
}

#[test]
fn a_link_within_the_source_opens_only_what_its_readers_may_reach() {
    let Some(bench) = bench() else { return };
    let source = bench.source();
    file(source.join("closed/file"), 0o700, 0o644, SECRET);
    file(source.join("closed/deep/file"), 0o755, 0o644, SECRET);
    allow(source.join("closed"), 0o700);
    file(source.join("of-nobody/file"), 0o700, 0o644, b"nobody's");
    for path in ["of-nobody", "of-nobody/file"] {
        chown(source.join(path), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    file(source.join("of-group/file"), 0o750, 0o644, b"nobody's group's");
    for path in ["of-group", "of-group/file"] {
        chown(source.join(path), Some(0), Some(NOBODY)).unwrap();
    }
    for (name, target) in [
        ("to-file", "closed/file"),
        ("to-directory", "closed/deep"),
        ("to-closed", "closed"),
        ("twice", "to-file"),
        ("to-nobody", "of-nobody/file"),
        ("to-group", "of-group/file"),
    ] {
        symlink(target, source.join(name)).unwrap();
    }
    // The cache of the Hub: all names are links.
    bench.packed("models--o--n/blobs/1", b"numbers");
    fs::create_dir_all(source.join("models--o--n/snapshots/c")).unwrap();
    symlink("../../blobs/1", source.join("models--o--n/snapshots/c/model.safetensors.bs")).unwrap();
    for path in ["models--o--n", "models--o--n/blobs", "models--o--n/snapshots", "models--o--n/snapshots/c"] {
        allow(source.join(path), 0o755);
    }
    age(&source);
    let mount = Mount::new(&bench, &["--allow-other"]);
    for name in ["closed/file", "to-file", "to-directory/file", "to-closed/file", "to-closed/deep/file", "twice"] {
        assert_eq!(read_as(NOBODY, mount.path(name)), None, "{name}");
        assert_eq!(fs::read(mount.path(name)).unwrap(), SECRET, "{name}, root");
    }
    assert_eq!(read_as(NOBODY, mount.path("to-nobody")).as_deref(), Some(&b"nobody's"[..]));
    assert_eq!(read_as(NOBODY, mount.path("to-group")).as_deref(), Some(&b"nobody's group's"[..]));
    assert_eq!((read_as(DAEMON, mount.path("to-nobody")), read_as(DAEMON, mount.path("to-group"))), (None, None));
    let model = mount.path("models--o--n/snapshots/c/model.safetensors");
    assert_eq!(read_as(NOBODY, &model).as_deref(), Some(&b"numbers"[..]));
    // What is taken back is taken back at the next open.
    allow(source.join("models--o--n/blobs"), 0o700);
    assert_eq!(read_as(NOBODY, &model), None);
}

/// The daemon reads as root. Between its look at a link and its reading the link is replaced, over and over.
#[test]
fn a_link_that_changes_all_the_time_opens_nothing() {
    let Some(bench) = bench() else { return };
    let source = bench.source();
    let secret = file(bench.dir.join("private/secret"), 0o700, 0o644, SECRET);
    file(source.join("a/file"), 0o755, 0o644, b"open");
    file(source.join("closed/file"), 0o700, 0o644, SECRET);
    let mount = Mount::new(&bench, &["--allow-other", "--ttl", "0"]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let targets = [source.join("a/file"), secret.clone(), PathBuf::from("closed/file")];
            for target in targets.iter().cycle() {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let _ = fs::remove_file(source.join("next"));
                symlink(target, source.join("next")).unwrap();
                fs::rename(source.join("next"), source.join("link")).unwrap();
            }
        });
        let script = "for i in $(seq 300); do cat \"$0\" 2>/dev/null; done";
        let output = run(NOBODY, "sh", &["-c".as_ref(), script.as_ref(), mount.path("link").as_os_str()]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("open"), "it can be read at times");
        assert!(!said.contains("owner"), "{said}");
    });
}

/// Sets an access control list by setfacl(1).
fn acl(entries: &str, path: &Path) -> bool {
    let set = Command::new("setfacl").args(["-m", entries]).arg(path).status();
    let done = set.is_ok_and(|status| status.success());
    if !done {
        skip(&format!("no setfacl(1), or no access lists in {}", path.display()));
    }
    done
}

#[test]
fn an_access_list_is_never_widened() {
    let Some(bench) = bench() else { return };
    let source = bench.source();
    let case = |name: &str, mode: u32, entries: &str| {
        let path = file(source.join(name), 0o755, mode, SECRET);
        chown(&path, Some(0), Some(DAEMON)).unwrap();
        acl(entries, &path)
    };
    // The group bits of the mode are the mask then: r in all of these.
    if !case("group-out", 0o600, "u:nobody:r,g::-") {
        return;
    }
    assert!(case("user-out", 0o644, "u:daemon:-,m::r") && case("group-less", 0o644, "g:nogroup:-,g::r"));
    assert!(case("all-may", 0o644, "u:nobody:r,g:nogroup:r,m::r"));
    file(source.join("closed/file"), 0o755, 0o644, SECRET);
    chown(source.join("closed"), Some(0), Some(DAEMON)).unwrap();
    allow(source.join("closed"), 0o700);
    assert!(acl("u:nobody:rx,g::-", &source.join("closed")));
    symlink("closed/file", source.join("into-closed")).unwrap();
    age(&source);
    let mount = Mount::new(&bench, &["--allow-other"]);
    for name in ["group-out", "user-out", "closed/file", "into-closed"] {
        assert_eq!(read_as(DAEMON, source.join(name)), None, "{name}, in the source");
        assert_eq!(read_as(DAEMON, mount.path(name)), None, "{name}");
    }
    assert_eq!(read_as(NOBODY, source.join("group-less")), None, "in the source");
    assert_eq!(read_as(NOBODY, mount.path("group-less")), None);
    assert_eq!(read_as(NOBODY, mount.path("all-may")).as_deref(), Some(SECRET));
    assert_eq!(read_as(DAEMON, mount.path("group-less")).as_deref(), Some(SECRET), "the owning group has r");
}

#[test]
fn a_base_is_not_read_for_those_who_may_not_read_it() {
    let Some(bench) = bench() else { return };
    let source = bench.source();
    let base = file(source.join("bases/base.safetensors"), 0o755, 0o600, &safetensors(1, 300_000));
    let mut bytes = safetensors(1, 300_000);
    let len = bytes.len();
    bytes[len / 2] ^= 1;
    fs::write(bench.dir.join("tuned.safetensors"), &bytes).unwrap();
    let packed = bench.source().join("tuned.safetensors.bs");
    let tuned = bench.dir.join("tuned.safetensors");
    let [tuned, base_of, to] = [&tuned, &base, &packed].map(|path| path.to_str().unwrap());
    let output = bsfs(&bench, ["compress", tuned, "--base", base_of, "-o", to]);
    assert!(output.status.success(), "{}", stderr(&output));
    allow(&packed, 0o644);
    age(&source);
    // Permission to read it is not enough in a directory that they may not search.
    for (of_base, of_directory) in [(0o600, 0o755), (0o644, 0o700)] {
        allow(&base, of_base);
        allow(source.join("bases"), of_directory);
        let mount = Mount::new(&bench, &["--allow-other"]);
        assert!(read_as(NOBODY, mount.path("tuned.safetensors")).is_none());
        let log = log_of(&mount);
        assert!(log.contains("base.safetensors may not be read by all who may read"), "{log}");
    }
    // A server knows no users: all read what it has.
    let server = crate::common::server::Server::new();
    server.put("/m/tuned.safetensors.bs", &fs::read(&packed).unwrap());
    let (url, point) = (server.url("/m/"), bench.dir.join("remote"));
    fs::create_dir(&point).unwrap();
    for (of_base, of_directory, is_read) in [(0o600, 0o755, false), (0o644, 0o700, false), (0o644, 0o755, true)] {
        allow(&base, of_base);
        allow(source.join("bases"), of_directory);
        let options = ["--allow-other", "--base", base.to_str().unwrap()];
        let mount = Mount::of(&bench, Path::new(&url), &point, &options);
        assert_eq!(read_as(NOBODY, mount.path("tuned.safetensors")).is_some(), is_read);
    }
    allow(source.join("bases"), 0o700);
    let mount = Mount::new(&bench, &["--allow-other"]);
    let shown = mount.path("tuned.safetensors");
    assert!(read_as(NOBODY, &shown).is_none());
    allow(source.join("bases"), 0o755);
    eventually("the base is found", || read_as(NOBODY, &shown).as_deref() == Some(&bytes[..]));
}

#[test]
fn the_hidden_directory_tells_names_to_its_owner_only() {
    let Some(bench) = bench() else { return };
    file(bench.source().join("closed/hidden-name"), 0o700, 0o600, &noise(1, 100_000));
    age(&bench.source());
    let mount = Mount::new(&bench, &["--allow-other"]);
    fs::read(mount.path("closed/hidden-name")).unwrap();
    for name in ["log", "stats.json"] {
        assert!(read_as(NOBODY, mount.path(".bsfs").join(name)).is_none(), "{name}");
        fs::read(mount.path(".bsfs").join(name)).unwrap();
    }
    let metrics = read_as(NOBODY, mount.path(".bsfs/metrics.prom")).unwrap();
    assert!(!String::from_utf8_lossy(&metrics).contains("hidden-name"));
    assert!(mount.status().busy_files.iter().any(|file| file.file == "closed/hidden-name"));
    allow(&bench.dir, 0o755);
    fs::copy(crate::common::mounted::BSFS, bench.dir.join("bsfs")).unwrap();
    let program = bench.dir.join("bsfs");
    let arguments = ["status".as_ref(), mount.point.as_os_str(), "--json".as_ref()];
    let output = run(NOBODY, program.to_str().unwrap(), &arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !text.contains("hidden-name"), "{text}");
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    let status = status.as_array().map_or(&status, |all| &all[0]);
    let status: Status = serde_json::from_value(status.get("status").unwrap_or(status).clone()).unwrap();
    assert!(status.reads > 0 && status.busy_files.is_empty() && status.log_file.is_none());
}

#[test]
fn copies_can_be_changed_and_removed() {
    let Some(bench) = bench() else { return };
    for directory in ["a", "b", "c"] {
        file(bench.source().join(directory).join("config.json"), 0o755, 0o644, b"{}");
    }
    bench.packed("m.safetensors.bs", &noise(1, 1000));
    let own = bench.dir.join("own");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    let mount = Mount::new(&bench, &["--allow-other"]);
    let meta = |name: &str| fs::metadata(mount.path(name)).unwrap().mode() & 0o7777;
    assert_eq!((meta("a"), meta("a/config.json"), meta("m.safetensors")), (0o755, 0o644, 0o644));
    let refused = rustix::fs::access(mount.path("a/config.json"), rustix::fs::Access::WRITE_OK);
    assert_eq!(refused, Err(rustix::io::Errno::ROFS));
    assert_eq!(
        File::options().write(true).open(mount.path("a/config.json")).unwrap_err().raw_os_error(),
        Some(libc::EROFS)
    );
    let ways = [
        ("cp", "cp -r \"$0\" copy"),
        ("rsync", "rsync -r \"$0/\" copy"),
        ("tar", "mkdir copy && tar -C \"$0\" -cf - . | tar -C copy -xf -"),
        ("python3", "python3 -c 'import shutil, sys; shutil.copytree(sys.argv[1], \"copy\")' \"$0\""),
    ];
    for (tool, copy) in ways {
        let there = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
        if !there {
            skip(&format!("no {tool}"));
            continue;
        }
        let script = format!(
            "cd '{}' && {copy} && test $(find copy -type f | wc -l) = 4 && echo x >> copy/a/config.json && \
             echo y > copy/b/new && rm -r copy",
            own.display()
        );
        let output = run(NOBODY, "sh", &["-c".as_ref(), script.as_ref(), mount.point.as_os_str()]);
        assert!(output.status.success(), "{tool}: {}", stderr(&output));
    }
}
