//! Numbers of inodes, and handles that are made of them.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::common::mounted::{Mount, model};
use crate::common::{Bench, age, noise, pack, root_for};

/// The numbers of all that is below a directory.
fn numbers(dir: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                left.push(path.clone());
            }
            found.insert(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned(), meta.ino());
        }
    }
    found
}

#[test]
fn a_file_has_its_number_in_every_mount_and_another_version_has_another() {
    let bench = Bench::new();
    model(&bench);
    fs::hard_link(bench.source().join("config.json"), bench.source().join("sub/linked.json")).unwrap();
    for n in 0..50 {
        bench.plain(&format!("sub/{n}"), &noise(n, 10));
    }
    let mount = Mount::new(&bench, &[]);
    let first = numbers(&mount.point);
    drop(mount);
    assert_eq!(first.values().collect::<std::collections::BTreeSet<_>>().len(), first.len(), "each its own");
    // In another order.
    let mount = Mount::new(&bench, &[]);
    for name in first.keys().rev() {
        assert_eq!(fs::symlink_metadata(mount.path(name)).unwrap().ino(), first[name], "{name}");
    }
    drop(mount);
    let packed = bench.dir.join("again");
    pack(&bench.original(&noise(3, 1000)), &packed);
    fs::rename(&packed, bench.source().join("model.safetensors.bs")).unwrap();
    bench.plain("sub/7", &noise(100, 10));
    age(&bench.source());
    let mount = Mount::new(&bench, &[]);
    let second = numbers(&mount.point);
    let differ: Vec<_> =
        first.iter().filter(|(name, number)| second[*name] != **number).map(|(name, _)| name).collect();
    assert_eq!(differ, ["model.safetensors", "sub/7"]);
    // And while it is mounted.
    let old = fs::metadata(mount.path("config.json")).unwrap().ino();
    bench.plain("config.json", b"another");
    let file = File::open(mount.path("config.json")).unwrap();
    assert_ne!(file.metadata().unwrap().ino(), old);
}

#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; 128],
}

fn handle_of(path: &Path) -> std::io::Result<FileHandle> {
    let mut handle = FileHandle { bytes: 128, kind: 0, handle: [0; 128] };
    let (path, mut mount) = (CString::new(path.as_os_str().as_bytes()).unwrap(), 0);
    // SAFETY: the handle has the room that it says, and all outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            std::ptr::from_mut(&mut handle),
            std::ptr::from_mut::<i32>(&mut mount),
            0,
        )
    };
    if done == 0 { Ok(handle) } else { Err(std::io::Error::last_os_error()) }
}

fn open_handle(mount: &File, handle: &mut FileHandle) -> std::io::Result<File> {
    // SAFETY: a handle that the kernel made; what is opened is ours.
    unsafe {
        let fd =
            libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), std::ptr::from_mut(handle), libc::O_RDONLY);
        if fd < 0 { Err(std::io::Error::last_os_error()) } else { Ok(File::from_raw_fd(fd as i32)) }
    }
}

#[test]
fn a_handle_never_opens_another_file() {
    if !root_for("opening files by handles") {
        return;
    }
    let bench = Bench::new();
    let names: Vec<String> = (0..30).map(|n| format!("{n}.json")).collect();
    for (n, name) in names.iter().enumerate() {
        bench.plain(name, &noise(n as u64, 1000));
    }
    let mount = Mount::new(&bench, &[]);
    let mut handles: Vec<_> = names.iter().map(|name| handle_of(&mount.path(name)).unwrap()).collect();
    drop(mount);
    // Half of them are other versions.
    for (n, name) in names.iter().enumerate().filter(|(n, _)| n % 2 == 0) {
        fs::remove_file(bench.source().join(name)).unwrap();
        bench.plain(name, &noise(1000 + n as u64, 1000));
    }
    let mount = Mount::new(&bench, &[]);
    numbers(&mount.point);
    let root = File::open(&mount.point).unwrap();
    let mut opened = 0;
    for (n, handle) in handles.iter_mut().enumerate() {
        match open_handle(&root, handle) {
            Ok(mut file) => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).unwrap();
                assert!(bytes == noise(n as u64, 1000), "{n}: another file");
                opened += 1;
            }
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ESTALE), "{n}"),
        }
    }
    assert!(opened <= names.len() / 2, "{opened}");
}
