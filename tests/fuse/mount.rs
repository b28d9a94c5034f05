//! What a mount shows, through the kernel. Needs `/dev/fuse`.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use crate::common::mounted::{Mount, model};
use crate::common::{Bench, ORIGINAL_MTIME, noise, pack, root_for, safetensors};
use bsfs::mount::Status;

/// A buffer whose address and length O_DIRECT takes.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let bytes = vec![0u8; len + 4096];
        let start = bytes.as_ptr().align_offset(4096);
        Self { bytes, start, len }
    }

    fn slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

fn open_direct(path: &Path) -> File {
    File::options().read(true).custom_flags(libc::O_DIRECT | libc::O_NONBLOCK).open(path).unwrap()
}

#[test]
fn files_are_identical_by_read_and_by_both_kinds_of_mapping() {
    let bench = Bench::new();
    let original = model(&bench);
    let mount = Mount::new(&bench, &[]);
    let path = mount.path("model.safetensors");
    assert!(fs::read(&path).unwrap() == original);
    assert_eq!(fs::read(mount.path("config.json")).unwrap(), b"{\"a\": 1}");
    assert_eq!(fs::read(mount.path("sub/part.safetensors")).unwrap(), b"part");
    let file = File::open(&path).unwrap();
    // SAFETY: nothing writes to the file.
    let shared = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    assert!(shared[..] == original);
    // SAFETY: nothing writes to the file; what is written below stays in this mapping.
    let mut private = unsafe { memmap2::MmapOptions::new().map_copy(&file) }.unwrap();
    assert!(private[..] == original);
    private[0] ^= 1;
    assert!(shared[..] == original, "a private mapping is private");
}

#[test]
fn files_are_identical_by_mapping_before_anything_was_read() {
    let bench = Bench::new();
    let original = model(&bench);
    let mount = Mount::new(&bench, &[]);
    let file = File::open(mount.path("model.safetensors")).unwrap();
    // SAFETY: nothing writes to the file.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    drop(file);
    // Page by page from the end: no readahead helps, and the file is closed.
    for page in (0..original.len()).step_by(4096).rev() {
        let end = (page + 4096).min(original.len());
        assert!(map[page..end] == original[page..end], "page at {page}");
    }
}

#[test]
fn sixteen_threads_read_directly_in_overlapping_pieces() {
    const PIECE: usize = 528_384;
    let bench = Bench::new();
    let original = model(&bench);
    let mount = Mount::new(&bench, &[]);
    let path = mount.path("model.safetensors");
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (path, original) = (&path, &original);
            scope.spawn(move || {
                let file = open_direct(path);
                let mut buffer = Aligned::new(PIECE);
                // Neighbours overlap by a page; threads go through the pieces in different orders.
                let offsets: Vec<usize> = (0..original.len() + PIECE).step_by(PIECE - 4096).collect();
                for n in 0..offsets.len() {
                    let offset = offsets[(n * 7 + thread * 3) % offsets.len()];
                    let got = file.read_at(buffer.slice(), offset as u64).unwrap();
                    let end = (offset + PIECE).min(original.len());
                    let expected = original.get(offset..end).unwrap_or_default();
                    assert!(buffer.slice()[..got] == *expected, "{got} bytes at {offset}");
                }
            });
        }
    });
}

#[test]
fn direct_reads_of_odd_sizes_on_sectors_and_past_the_end() {
    let bench = Bench::new();
    let original = model(&bench);
    let mount = Mount::new(&bench, &[]);
    let file = open_direct(&mount.path("model.safetensors"));
    let last = original.len() / 512 * 512;
    for size in [512, 1536, 1_044_992, 1_048_064, 1_048_576, 8 << 20] {
        let mut buffer = Aligned::new(size);
        for offset in [0, 512, 1024 * 513, 3_145_728 - 512, last, last + 512, last + (1 << 30)] {
            let got = file.read_at(buffer.slice(), offset as u64).unwrap();
            let expected = original.get(offset..(offset + size).min(original.len())).unwrap_or_default();
            assert!(buffer.slice()[..got] == *expected, "{got} bytes of {size} at {offset}");
        }
    }
}

#[test]
fn sixteen_threads_read_files_that_are_and_are_not_packed() {
    let bench = Bench::new();
    let originals: Vec<Vec<u8>> = (0..6).map(|n| safetensors(n, 400_000)).collect();
    for (n, original) in originals.iter().enumerate() {
        bench.packed(&format!("m{n}.safetensors.bs"), original);
        bench.plain(&format!("p{n}.bin"), original);
    }
    let mount = Mount::new(&bench, &[]);
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (mount, originals) = (&mount, &originals);
            scope.spawn(move || {
                for n in 0..6 {
                    let n = (n + thread) % 6;
                    let name = if thread % 2 == 0 { format!("m{n}.safetensors") } else { format!("p{n}.bin") };
                    assert!(fs::read(mount.path(&name)).unwrap() == originals[n], "{name}");
                }
            });
        }
    });
    let status = mount.status();
    assert_eq!((status.errors, status.panics), (0, 0));
}

#[test]
fn ordinary_calls_see_ordinary_files() {
    let bench = Bench::new();
    let original = model(&bench);
    let mount = Mount::new(&bench, &[]);
    let meta = fs::metadata(mount.path("model.safetensors")).unwrap();
    assert_eq!(meta.len(), original.len() as u64);
    assert_eq!(meta.mode() & 0o7777, 0o644);
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (ORIGINAL_MTIME, 0));
    assert_eq!((meta.blocks(), meta.nlink()), (meta.len().div_ceil(512), 1));
    assert!(meta.blksize().is_power_of_two());
    let sub = fs::metadata(mount.path("sub")).unwrap();
    assert_eq!((sub.mode() & 0o7777, sub.nlink(), sub.is_dir()), (0o755, 2, true));
    assert_eq!(meta.ino(), fs::metadata(mount.path("model.safetensors")).unwrap().ino());

    let mut names = Vec::new();
    for entry in fs::read_dir(&mount.point).unwrap() {
        let entry = entry.unwrap();
        let found = fs::metadata(entry.path()).unwrap();
        assert_eq!(entry.file_type().unwrap().is_dir(), found.is_dir(), "{entry:?}");
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "sub"]);

    let mut file = File::open(mount.path("model.safetensors")).unwrap();
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), meta.len());
    assert_eq!(file.read(&mut [0; 16]).unwrap(), 0, "past the end");
    assert_eq!(file.read_at(&mut [0; 100], meta.len() - 10).unwrap(), 10);
    let no_atime = libc::O_NOATIME | libc::O_NOFOLLOW;
    File::options().read(true).custom_flags(no_atime).open(mount.path("config.json")).unwrap();
}

#[test]
fn names_that_are_probed_do_not_exist() {
    let bench = Bench::new();
    model(&bench);
    let mount = Mount::new(&bench, &[]);
    for name in ["model.safetensors.bs", "modules.json", "sub/none", "none/none", "model.safetensors.index.json"] {
        for _ in 0..2 {
            let error = fs::metadata(mount.path(name)).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{name}");
        }
    }
    let error = fs::metadata(mount.path("config.json/x")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
    assert_eq!(mount.status().errors, 0);
}

#[test]
fn nobody_can_write() {
    let bench = Bench::new();
    model(&bench);
    let mount = Mount::new(&bench, &[]);
    let path = mount.path("model.safetensors");
    // Whoever is not root may be told about the mode instead.
    let refused = |what: &str, result: std::io::Result<()>| {
        let errno = result.unwrap_err().raw_os_error().unwrap();
        assert!(matches!(errno, libc::EROFS | libc::EACCES | libc::EPERM), "{what}: errno {errno}");
    };
    refused("write", File::options().write(true).open(&path).map(drop));
    refused("read and write", File::options().read(true).write(true).open(&path).map(drop));
    refused("truncate", File::options().write(true).truncate(true).open(&path).map(drop));
    refused("append", File::options().append(true).open(&path).map(drop));
    refused("create", File::create(mount.path("new")).map(drop));
    refused("mkdir", fs::create_dir(mount.path("new")));
    refused("unlink", fs::remove_file(&path));
    refused("rmdir", fs::remove_dir(mount.path("sub")));
    refused("rename", fs::rename(&path, mount.path("other")));
    refused("link", fs::hard_link(&path, mount.path("other")));
    refused("symlink", symlink("x", mount.path("other")));
    refused("chmod", fs::set_permissions(&path, fs::Permissions::from_mode(0o644)));
    if root_for("a writer that no mode refuses") {
        let error = File::options().write(true).open(&path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "root too");
    }
}

#[test]
fn the_file_system_has_figures() {
    let bench = Bench::new();
    model(&bench);
    let mount = Mount::new(&bench, &[]);
    let path = CString::new(mount.path("config.json").as_os_str().as_bytes()).unwrap();
    // SAFETY: a plain structure of numbers, for which zero is valid; filled by the call.
    let mut figures: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call.
    assert_eq!(unsafe { libc::statvfs(path.as_ptr(), &raw mut figures) }, 0);
    assert!(figures.f_bsize > 0 && figures.f_frsize > 0);
    assert_eq!(figures.f_namemax, 255);
    assert_eq!(figures.f_flag & libc::ST_RDONLY, libc::ST_RDONLY);
}

fn getxattr(path: &Path, name: &str, buffer: &mut [u8]) -> Result<usize, i32> {
    rustix::fs::getxattr(path, name, buffer).map_err(|e| e.raw_os_error())
}

#[test]
fn extended_attributes_are_none_but_the_status() {
    let bench = Bench::new();
    model(&bench);
    let mount = Mount::new(&bench, &[]);
    let mut buffer = vec![0u8; 65536];
    for path in [&mount.point, &mount.path("model.safetensors")] {
        assert_eq!(rustix::fs::listxattr_query(path).unwrap(), 0);
        assert_eq!(rustix::fs::listxattr(path, &mut buffer[..]).unwrap(), 0);
        for name in ["security.selinux", "system.posix_acl_access", "user.other"] {
            let errno = getxattr(path, name, &mut buffer).unwrap_err();
            assert!(matches!(errno, libc::ENODATA | libc::EOPNOTSUPP), "{name}: errno {errno}");
        }
    }
    let name = "user.bsfs.status";
    assert_eq!(getxattr(&mount.path("model.safetensors"), name, &mut buffer), Err(libc::ENODATA));
    let size = rustix::fs::getxattr_query(&mount.point, name).unwrap();
    assert_eq!(getxattr(&mount.point, name, &mut buffer[..10]), Err(libc::ERANGE));
    let len = getxattr(&mount.point, name, &mut buffer[..size]).unwrap();
    let status: Status = serde_json::from_slice(&buffer[..len]).unwrap();
    assert_eq!(status.pid, mount.pid);
}

#[test]
fn the_mount_table_says_what_it_is() {
    let bench = Bench::new();
    let source = bench.dir.join("so,ur ce\\");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), b"x").unwrap();
    let mount = Mount::of(&bench, &source, &bench.mount_point(), &[]);
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(mount.point.to_str().unwrap())).unwrap();
    let fields: Vec<&str> = line.split(' ').collect();
    assert_eq!(fields[2], "fuse.bsfs");
    assert_eq!(fields[0], format!("{}/so,ur\\040ce\\134", bench.dir.display()));
    for option in ["ro", "nosuid", "nodev", "default_permissions"] {
        assert!(fields[3].split(',').any(|o| o == option), "{option} in {}", fields[3]);
    }
    assert!(!fields[3].contains("allow_other"));
    let records = bsfs::mount::mounts(Some(&mount.point)).unwrap();
    assert_eq!(records[0].source, source);
    if root_for("readahead") {
        let dev = fs::metadata(&mount.point).unwrap().dev();
        let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", libc::major(dev), libc::minor(dev));
        assert_eq!(fs::read_to_string(path).unwrap().trim(), "2048");
    }
}

#[test]
fn others_read_what_the_source_lets_them_read() {
    if !root_for("another user") {
        return;
    }
    let bench = Bench::new();
    bench.plain("all", b"all");
    bench.plain("private", b"private");
    bench.packed("of-nobody.safetensors.bs", b"nobody's");
    bench.packed("dir/file.safetensors.bs", b"file");
    let source = bench.source();
    let allow = |name: &str, mode| fs::set_permissions(source.join(name), fs::Permissions::from_mode(mode)).unwrap();
    allow("all", 0o644);
    allow("private", 0o600);
    allow("of-nobody.safetensors.bs", 0o600);
    allow("dir", 0o700);
    std::os::unix::fs::chown(source.join("of-nobody.safetensors.bs"), Some(65534), Some(65534)).unwrap();
    for path in [&bench.dir, &source] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mount = Mount::new(&bench, &["--allow-other"]);
    let read = |name: &str| {
        let mut cat = std::process::Command::new("setpriv");
        cat.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "cat"]).arg(mount.path(name));
        let output = cat.output().unwrap();
        output.status.success().then_some(output.stdout)
    };
    assert_eq!(read("all").as_deref(), Some(&b"all"[..]));
    assert_eq!(read("of-nobody.safetensors").as_deref(), Some(&b"nobody's"[..]));
    assert_eq!((read("private"), read("dir/file.safetensors")), (None, None));
    assert_eq!(fs::read(mount.path("private")).unwrap(), b"private");
    // What is taken back is taken back at the next open, whatever the kernel remembers.
    allow("all", 0o600);
    assert_eq!(read("all"), None);
}

#[test]
fn a_replaced_file_is_seen_by_the_next_open_whatever_the_kernel_keeps() {
    let bench = Bench::new();
    let (one, two, three) = (noise(1, 300_000), noise(2, 400_000), noise(3, 400_000));
    let packed = bench.packed("m.safetensors.bs", &one);
    let plain = bench.plain("c.json", b"one");
    let mount = Mount::new(&bench, &["--ttl", "3600"]);
    let path = mount.path("m.safetensors");
    let held = File::open(&path).unwrap();
    let inode = held.metadata().unwrap().ino();
    assert!(fs::read(&path).unwrap() == one);
    assert_eq!(fs::read(mount.path("c.json")).unwrap(), b"one");

    // Renamed over.
    bench.packed("m.safetensors.bs", &two);
    fs::write(bench.dir.join("c.new"), b"second").unwrap();
    fs::rename(bench.dir.join("c.new"), &plain).unwrap();
    let file = File::open(&path).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), two.len() as u64);
    assert_ne!(meta.ino(), inode);
    assert!(fs::read(&path).unwrap() == two);
    assert_eq!(fs::read(mount.path("c.json")).unwrap(), b"second");
    assert_eq!(fs::metadata(&path).unwrap().len(), two.len() as u64);
    // SAFETY: nothing writes to the file that is mapped.
    assert!(unsafe { memmap2::Mmap::map(&file) }.unwrap()[..] == two);
    // A direct read does not come from the page cache, so the daemon still serves the old version.
    let mut old = vec![0; one.len()];
    held.read_exact_at(&mut old, 0).unwrap();
    assert!(old == one, "what is open stays what it is");

    // Rewritten in place.
    let other = bench.dir.join("other");
    pack(&bench.original(&three), &other);
    fs::write(&packed, fs::read(&other).unwrap()).unwrap();
    fs::write(&plain, b"third version").unwrap();
    assert!(fs::read(&path).unwrap() == three);
    assert_eq!(fs::read(mount.path("c.json")).unwrap(), b"third version");

    // Removed.
    fs::remove_file(&packed).unwrap();
    assert_eq!(File::open(&path).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    held.read_exact_at(&mut old, 0).unwrap();
    assert!(old == one);
    assert_eq!(mount.status().errors, 0);
}

#[test]
fn an_open_file_serves_its_version_also_when_nothing_of_it_was_read_before() {
    let bench = Bench::new();
    let (one, two) = (noise(1, 3_000_000), noise(2, 3_000_000));
    bench.packed("m.safetensors.bs", &one);
    let mount = Mount::new(&bench, &[]);
    let held = File::open(mount.path("m.safetensors")).unwrap();
    bench.packed("m.safetensors.bs", &two);
    assert!(fs::read(mount.path("m.safetensors")).unwrap() == two);
    let mut bytes = vec![0; one.len()];
    held.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == one);
}

#[test]
fn new_names_are_listed_at_once_and_found_when_they_are_asked_for_anew() {
    let bench = Bench::new();
    bench.plain("old", b"");
    let mount = Mount::new(&bench, &["--ttl", "0"]);
    assert!(fs::metadata(mount.path("new.safetensors")).is_err());
    bench.packed("new.safetensors.bs", b"contents");
    let listed: Vec<_> = fs::read_dir(&mount.point).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(listed.iter().any(|name| name == "new.safetensors"), "{listed:?}");
    assert_eq!(fs::read(mount.path("new.safetensors")).unwrap(), b"contents");
}

#[test]
fn damage_is_an_error_of_that_read_and_other_files_go_on() {
    let bench = Bench::new();
    let original = safetensors(5, 2_000_000);
    let path = bench.packed("m.safetensors.bs", &original);
    bench.packed("n.safetensors.bs", &original);
    let mount = Mount::new(&bench, &[]);
    let held = File::open(mount.path("m.safetensors")).unwrap();
    let len = fs::metadata(&path).unwrap().len();
    File::options().write(true).open(&path).unwrap().set_len(len / 2).unwrap();
    let error = held.read_at(&mut [0; 4096], original.len() as u64 - 4096).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(fs::read(mount.path("n.safetensors")).unwrap() == original);
    let status = mount.status();
    assert!(status.errors > 0 && status.panics == 0, "{status:?}");
    let log = fs::read_to_string(status.log_file.unwrap()).unwrap();
    assert!(log.lines().any(|line| line.contains("ERROR") && line.contains("m.safetensors.bs")), "{log}");
    // By now it is no container any more.
    assert_eq!(File::open(mount.path("m.safetensors")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(fs::metadata(mount.path("m.safetensors.bs")).unwrap().len(), len / 2);
}

#[test]
fn a_thousand_files_are_listed_with_their_sizes() {
    let bench = Bench::new();
    for n in 0..1000usize {
        pack(&bench.original(&noise(1, n)), &bench.source().join(format!("m{n:04}.safetensors.bs")));
    }
    let mount = Mount::new(&bench, &[]);
    for _ in 0..2 {
        let mut sizes: Vec<(String, u64)> = fs::read_dir(&mount.point)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())
            })
            .collect();
        sizes.sort();
        assert_eq!(sizes.len(), 1000);
        for (n, (name, size)) in sizes.iter().enumerate() {
            assert_eq!((name.as_str(), *size), (format!("m{n:04}.safetensors").as_str(), n as u64));
        }
    }
}

#[test]
fn a_mount_of_a_mount_works() {
    let bench = Bench::new();
    let original = model(&bench);
    let first = Mount::new(&bench, &[]);
    let point = bench.dir.join("second");
    fs::create_dir(&point).unwrap();
    let second = Mount::of(&bench, &first.point, &point, &[]);
    assert!(fs::read(second.path("model.safetensors")).unwrap() == original);
    drop(second);
    drop(first);
}

#[test]
fn a_directory_that_is_rewound_shows_what_is_there_then() {
    let bench = Bench::new();
    model(&bench);
    let mount = Mount::new(&bench, &["--ttl", "0"]);
    let path = CString::new(mount.point.as_os_str().as_bytes()).unwrap();
    // SAFETY: a directory that is open until the end, and entries that are used before the next call.
    unsafe {
        let dir = libc::opendir(path.as_ptr());
        let names = || {
            let mut names = Vec::new();
            while let Some(entry) = libc::readdir(dir).as_ref() {
                let name = std::ffi::CStr::from_ptr(entry.d_name.as_ptr());
                names.push(name.to_str().unwrap().to_owned());
            }
            names
        };
        let before = names();
        bench.plain("new.json", b"{}");
        fs::remove_file(bench.source().join("config.json")).unwrap();
        libc::rewinddir(dir);
        let after = names();
        libc::closedir(dir);
        assert!(before.iter().any(|name| name == "config.json") && !before.iter().any(|name| name == "new.json"));
        assert!(after.iter().any(|name| name == "new.json") && !after.iter().any(|name| name == "config.json"));
    }
}
