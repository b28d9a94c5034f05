//! A directory mounted over itself: the same paths, the same bytes, and never a daemon that waits for itself. Needs `/dev/fuse`.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crate::common::mounted::{Mount, as_nobody, bsfs, is_mounted, signal, status_of, stderr};
use crate::common::{Bench, eventually, pack, safetensors};

/// Does something that must not wait for ever.
fn soon<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(work()));
    receive.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("waits for itself: {what}"))
}

fn names(dir: &Path) -> Vec<String> {
    let dir = dir.to_path_buf();
    let list = move || fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let mut names: Vec<String> = soon("listing", list);
    names.sort();
    names
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let path = path.to_path_buf();
    soon("reading", move || fs::read(path))
}

/// A hub cache with one model in it, compressed in place; the bytes of its weights.
fn hub(bench: &Bench) -> Vec<u8> {
    let model = bench.source().join("models--o--n");
    for sub in ["blobs", "snapshots/aa", "snapshots/bb", "refs"] {
        fs::create_dir_all(model.join(sub)).unwrap();
    }
    let raw = safetensors(1, 400_000);
    fs::write(model.join("blobs/1111"), &raw).unwrap();
    fs::write(model.join("blobs/2222"), b"{}").unwrap();
    fs::write(model.join("refs/main"), b"aa").unwrap();
    for snapshot in ["aa", "bb"] {
        symlink("../../blobs/1111", model.join("snapshots").join(snapshot).join("model.safetensors")).unwrap();
        symlink("../../blobs/2222", model.join("snapshots").join(snapshot).join("config.json")).unwrap();
    }
    let source = bench.source();
    let output = bsfs(bench, ["compress", source.to_str().unwrap(), "--replace", "--yes"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(model.join("blobs/1111.bs").exists() && !model.join("snapshots/aa/model.safetensors").exists());
    raw
}

fn over(bench: &Bench) -> Mount {
    Mount::of(bench, &bench.source(), &bench.source(), &[])
}

fn unmounted(bench: &Bench, mount: Mount) {
    let output = bsfs(bench, ["unmount".as_ref(), mount.point.as_os_str()]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!is_mounted(&mount.point));
}

#[test]
fn a_hub_cache_packed_in_place_is_what_it_was() {
    let bench = Bench::new();
    let raw = hub(&bench);
    let age = fs::metadata(bench.source()).unwrap().modified().unwrap();
    let mount = over(&bench);
    let model = mount.path("models--o--n");
    assert_eq!(names(&model.join("blobs")), ["1111", "2222"]);
    for snapshot in ["aa", "bb"] {
        let at = model.join("snapshots").join(snapshot);
        assert_eq!(names(&at), ["config.json", "model.safetensors"]);
        assert_eq!(fs::read_link(at.join("model.safetensors")).unwrap(), Path::new("../../blobs/1111"));
        assert!(read(&at.join("model.safetensors")).unwrap() == raw);
        assert_eq!(read(&at.join("config.json")).unwrap(), b"{}");
        let meta = fs::symlink_metadata(at.join("model.safetensors")).unwrap();
        assert!(meta.is_symlink() && meta.len() == "../../blobs/1111".len() as u64);
    }
    assert_eq!(fs::canonicalize(model.join("snapshots/aa/model.safetensors")).unwrap(), model.join("blobs/1111"));

    // Nobody writes.
    let refused = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
    };
    refused(File::create(model.join("new")).map(drop));
    refused(File::options().append(true).open(model.join("refs/main")).map(drop));
    refused(fs::remove_file(model.join("blobs/1111")));
    refused(fs::create_dir(model.join("dir")));
    refused(symlink("x", model.join("link")));
    refused(fs::rename(model.join("refs/main"), model.join("refs/other")));

    // The directory is scanned once, not at each request, and has its own times.
    assert_eq!(fs::metadata(&mount.point).unwrap().modified().unwrap(), age);
    let status = mount.status();
    assert_eq!((&*status.source, status.errors), (bench.source().to_str().unwrap(), 0));
    let log = fs::read_to_string(status.log_file.unwrap()).unwrap();
    assert!(log.contains(bench.source().to_str().unwrap()) && !log.contains("/proc/self/fd"), "{log}");
    // A busy mount tells who uses it, and not its own daemon.
    let open = File::open(model.join("blobs/1111")).unwrap();
    let output = bsfs(&bench, ["unmount".as_ref(), mount.point.as_os_str()]);
    let said = stderr(&output);
    assert!(!output.status.success() && said.contains(&format!("process {}", std::process::id())), "{said}");
    assert!(!said.contains(&format!("process {}", mount.pid)), "{said}");
    drop(open);

    unmounted(&bench, mount);
    let model = bench.source().join("models--o--n");
    assert_eq!(names(&model.join("blobs")), ["1111.bs", "2222"]);
    File::create(model.join("new")).unwrap();
}

#[test]
fn elsewhere_a_packed_hub_cache_is_shown_as_well() {
    let bench = Bench::new();
    let raw = hub(&bench);
    symlink("../blobs/3333", bench.source().join("models--o--n/snapshots/gone.safetensors")).unwrap();
    let mount = Mount::new(&bench, &[]);
    let at = mount.path("models--o--n/snapshots/aa");
    assert_eq!(names(&at), ["config.json", "model.safetensors"]);
    assert!(read(&at.join("model.safetensors")).unwrap() == raw);
    assert_eq!(names(&mount.path("models--o--n/snapshots")), ["aa", "bb"], "what leads nowhere is not shown");
}

#[test]
fn no_link_leads_the_daemon_into_its_own_mount() {
    let bench = Bench::new();
    let source = bench.source();
    let raw = safetensors(2, 200_000);
    bench.packed("deep/er/w.safetensors.bs", &raw);
    bench.plain("deep/plain", b"plain");
    bench.plain("bb/x", b"x");
    let name = source.file_name().unwrap().to_str().unwrap().to_owned();
    symlink(source.join("deep"), source.join("absolute")).unwrap();
    symlink(format!("../{name}/deep/plain"), source.join("out-and-back")).unwrap();
    symlink(".", source.join("circle")).unwrap();
    symlink("circle/circle/deep", source.join("round")).unwrap();
    symlink(&bench.dir, source.join("outside")).unwrap();
    symlink(source.join("deep/er/w.safetensors.bs"), source.join("bb/abs.safetensors.bs")).unwrap();
    symlink("../deep/er/w.safetensors.bs", source.join("bb/rel.safetensors.bs")).unwrap();
    symlink("../absolute/er/w.safetensors.bs", source.join("bb/via.safetensors.bs")).unwrap();
    symlink("self.safetensors.bs", source.join("bb/self.safetensors.bs")).unwrap();
    let mount = over(&bench);
    assert_eq!(names(&mount.point), ["absolute", "bb", "circle", "deep", "out-and-back", "outside", "round"]);
    let expected = ["abs.safetensors.bs", "rel.safetensors", "self.safetensors.bs", "via.safetensors.bs", "x"];
    assert_eq!(names(&mount.path("bb")), expected);
    for way in ["deep/er/w.safetensors", "absolute/er/w.safetensors", "bb/rel.safetensors"] {
        assert!(read(&mount.path(way)).unwrap() == raw, "{way}");
    }
    for way in ["out-and-back", "circle/circle/deep/plain", "round/plain"] {
        assert_eq!(read(&mount.path(way)).unwrap(), b"plain", "{way}");
    }
    assert!(read(&mount.path(&format!("outside/{name}/deep/plain"))).is_ok());
    assert!(read(&mount.path("bb/self.safetensors.bs")).is_err());
    // Everything that walks comes to an end.
    let point = mount.point.clone();
    let walked = soon("walking", move || bsfs::compress::walk(&point, None).unwrap().entries.len());
    assert!(walked >= 4, "{walked}");
    assert_eq!(mount.status().errors, 0);
}

#[test]
fn what_happens_to_the_source_elsewhere_is_seen() {
    let bench = Bench::new();
    let raw = [safetensors(1, 100_000), safetensors(2, 110_000), safetensors(3, 120_000)];
    bench.packed("a.safetensors.bs", &raw[0]);
    bench.plain("sub/f", b"f");
    // From before the mount: the way that others have, who see the directory at another place.
    let kept = File::open(bench.source()).unwrap();
    let elsewhere = PathBuf::from(format!("/proc/self/fd/{}", kept.as_raw_fd()));
    let mount = Mount::of(&bench, &bench.source(), &bench.source(), &["--ttl", "1"]);
    assert!(read(&mount.path("a.safetensors")).unwrap() == raw[0]);
    assert!(!mount.path("b.safetensors").exists());

    let (original, packed) = (bench.dir.join("o"), bench.dir.join("o.bs"));
    let make = |raw: &[u8]| {
        fs::write(&original, raw).unwrap();
        pack(&original, &packed);
    };
    make(&raw[1]);
    fs::copy(&packed, elsewhere.join("b.safetensors.bs")).unwrap();
    eventually("a new file is found", || mount.path("b.safetensors").exists());
    assert!(read(&mount.path("b.safetensors")).unwrap() == raw[1]);
    assert_eq!(names(&mount.point), ["a.safetensors", "b.safetensors", "sub"]);

    make(&raw[2]);
    fs::copy(&packed, elsewhere.join(".new")).unwrap();
    fs::rename(elsewhere.join(".new"), elsewhere.join("a.safetensors.bs")).unwrap();
    eventually("a replaced file is seen", || read(&mount.path("a.safetensors")).unwrap() == raw[2]);
    fs::remove_file(elsewhere.join("b.safetensors.bs")).unwrap();
    eventually("a removed file is gone", || !mount.path("b.safetensors").exists());

    // A directory becomes a link into the mount, and a link becomes a directory.
    assert!(mount.path("sub/f").exists());
    fs::rename(elsewhere.join("sub"), elsewhere.join("moved")).unwrap();
    symlink(bench.source().join("moved"), elsewhere.join("sub")).unwrap();
    let is_link = |path: PathBuf| soon("lstat", move || fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink()));
    eventually("it is a link now", || is_link(mount.path("sub")));
    assert_eq!(read(&mount.path("sub/f")).unwrap(), b"f");
    fs::remove_file(elsewhere.join("sub")).unwrap();
    fs::rename(elsewhere.join("moved"), elsewhere.join("sub")).unwrap();
    eventually("it is a directory again", || !is_link(mount.path("sub")));
    assert_eq!(read(&mount.path("sub/f")).unwrap(), b"f");
    drop(kept);
}

#[test]
fn a_daemon_that_died_is_followed_by_another() {
    let bench = Bench::new();
    let raw = safetensors(1, 100_000);
    bench.packed("a.safetensors.bs", &raw);
    let mount = over(&bench);
    let again = bsfs(&bench, ["mount".as_ref(), bench.source().as_os_str(), bench.source().as_os_str()]);
    assert!(stderr(&again).contains("already mounted"), "{}", stderr(&again));
    signal(mount.pid, libc::SIGKILL);
    eventually("the daemon is gone", || fs::read_dir(bench.source()).is_err());
    let next = over(&bench);
    assert_ne!(next.pid, mount.pid);
    assert!(read(&next.path("a.safetensors")).unwrap() == raw);
    assert_eq!(status_of(&bench.source()).unwrap().pid, next.pid);
    unmounted(&bench, next);
    assert_eq!(names(&bench.source()), ["a.safetensors.bs"]);
}

#[test]
fn an_ordinary_user_mounts_his_own_directory_over_itself() {
    let bench = Bench::new();
    let raw = hub(&bench);
    fs::write(bench.dir.join("expected"), &raw).unwrap();
    let script = "cp -a source home/hub
        ./bsfs mount home/hub home/hub
        cmp expected home/hub/models--o--n/snapshots/aa/model.safetensors
        readlink home/hub/models--o--n/snapshots/aa/model.safetensors
        ! touch home/hub/new 2>/dev/null
        ./bsfs unmount home/hub
        ls home/hub/models--o--n/blobs
        ./bsfs decompress home/hub --replace --yes
        cmp expected home/hub/models--o--n/blobs/1111";
    let Some(output) = as_nobody(&bench, "", script) else { return };
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("../../blobs/1111\n") && said.contains("1111.bs\n") && said.contains("1 replaced"), "{said}");
}

#[test]
fn files_that_refer_to_others_find_them() {
    let bench = Bench::new();
    let base = safetensors(1, 600_000);
    // The same tensors but for the last bytes.
    let mut tuned = base.clone();
    let len = tuned.len();
    tuned[len - 5000..].iter_mut().for_each(|byte| *byte ^= 3);
    let plain = bench.dir.join("plain");
    fs::create_dir_all(plain.join("sub")).unwrap();
    fs::write(plain.join("base.safetensors"), &base).unwrap();
    fs::write(plain.join("sub/tuned.safetensors"), &tuned).unwrap();
    let (from, to) = (plain.to_str().unwrap(), bench.source());
    let output = bsfs(&bench, ["compress", from, "-o", to.to_str().unwrap(), "--dedup"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let source = bsfs::source::FileSource::open(to.join("sub/tuned.safetensors.bs")).unwrap();
    assert!(bsfs::format::Container::open(&source).unwrap().bases().needs_others());
    let mount = over(&bench);
    assert!(read(&mount.path("sub/tuned.safetensors")).unwrap() == tuned);
    assert!(read(&mount.path("base.safetensors")).unwrap() == base);
    drop(mount);

    // In place each holds all, and no container is taken for an original.
    let output = bsfs(&bench, ["compress", from, "--replace", "--yes"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let source = bsfs::source::FileSource::open(plain.join("sub/tuned.safetensors.bs")).unwrap();
    assert!(!bsfs::format::Container::open(&source).unwrap().bases().needs_others());
    // What refers to a file finds it packed or plain; the way back leads through both.
    let output = bsfs(&bench, ["decompress", to.to_str().unwrap(), "--replace", "--yes"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(fs::read(to.join("sub/tuned.safetensors")).unwrap() == tuned);
    assert!(fs::read(to.join("base.safetensors")).unwrap() == base);
}
