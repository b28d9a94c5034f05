//! The tree without a kernel.

use crate::common::fixtures;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::{Bench, ORIGINAL_MTIME, age, eventually, noise, pack, safetensors};
use bsfs::Error;
use bsfs::engine::{Engine, EngineConfig};
use bsfs::foreign::FORMATS;
use bsfs::vfs::{Attr, Handle, Inode, Kind, Vfs, VfsConfig};

fn tree_of(source: PathBuf, exclude: Option<PathBuf>) -> Vfs {
    let engine = Engine::new(EngineConfig { memory: 8 << 20, formats: FORMATS, ..EngineConfig::default() });
    Vfs::new(VfsConfig { source, uid: 7, gid: 8, exclude, bases: Vec::new(), hubs: Vec::new(), shared: false }, engine)
        .unwrap()
}

fn tree(bench: &Bench) -> Vfs {
    tree_of(bench.source(), None)
}

fn look(vfs: &Vfs, parent: Inode, name: impl AsRef<OsStr>) -> Option<Attr> {
    vfs.lookup(parent, name.as_ref()).unwrap()
}

/// The names of a directory, `.` and `..` apart.
fn list(vfs: &Vfs, dir: Inode) -> BTreeMap<OsString, (Inode, Kind)> {
    let handle = vfs.opendir(dir).unwrap();
    let mut found = BTreeMap::new();
    vfs.readdir(handle, 0, |item| {
        if item.name != "." && item.name != ".." {
            assert!(found.insert(item.name.to_owned(), (item.inode, item.kind)).is_none(), "{:?} twice", item.name);
        }
        true
    })
    .unwrap();
    vfs.release(handle);
    found
}

fn names(vfs: &Vfs, dir: Inode) -> Vec<String> {
    list(vfs, dir).into_keys().map(|name| name.to_string_lossy().into_owned()).collect()
}

/// Reads a whole file in pieces, through a handle of its own.
fn contents(vfs: &Vfs, inode: Inode) -> Vec<u8> {
    let handle = vfs.open(inode).unwrap();
    let bytes = drain(vfs, handle);
    vfs.release(handle);
    bytes
}

fn drain(vfs: &Vfs, handle: Handle) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let piece = vfs.read(handle, bytes.len() as u64, 100_000).unwrap();
        if piece.is_empty() {
            return bytes;
        }
        bytes.extend_from_slice(&piece);
    }
}

/// Everything that is listed is found by name with the same inode and kind, and files have the size that reading
/// gives.
fn assert_agrees(vfs: &Vfs, dir: Inode) {
    for (name, (inode, kind)) in list(vfs, dir) {
        let attr = look(vfs, dir, &name).unwrap_or_else(|| panic!("{name:?} is listed and not found"));
        assert_eq!((attr.inode, attr.kind), (inode, kind), "{name:?}");
        match kind {
            Kind::Directory => assert_agrees(vfs, inode),
            Kind::File => assert_eq!(contents(vfs, inode).len() as u64, attr.size, "{name:?}"),
            Kind::Symlink => panic!("no link is shown as one here: {name:?}"),
        }
    }
}

#[test]
fn a_container_is_shown_as_its_original_and_the_rest_as_it_is() {
    let bench = Bench::new();
    let original = safetensors(1, 300_000);
    bench.packed("model.safetensors.bs", &original);
    bench.plain("config.json", b"{}");
    bench.packed("deep/er/part.safetensors.bs", b"not safetensors at all");
    let vfs = tree(&bench);
    assert_eq!(names(&vfs, Inode::ROOT), ["config.json", "deep", "model.safetensors"]);
    assert_agrees(&vfs, Inode::ROOT);
    let model = look(&vfs, Inode::ROOT, "model.safetensors").unwrap();
    assert_eq!(contents(&vfs, model.inode), original);
    let deep = look(&vfs, Inode::ROOT, "deep").unwrap();
    let er = look(&vfs, deep.inode, "er").unwrap();
    let part = look(&vfs, er.inode, "part.safetensors").unwrap();
    assert_eq!(contents(&vfs, part.inode), b"not safetensors at all");
    let config = look(&vfs, Inode::ROOT, "config.json").unwrap();
    assert_eq!(contents(&vfs, config.inode), b"{}");
}

#[test]
fn attributes_are_those_of_the_original() {
    let bench = Bench::new();
    let packed = bench.packed("m.safetensors.bs", &noise(2, 1000));
    let path = bench.plain("c", b"12345");
    let allow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    allow(&packed, 0o640);
    allow(&path, 0o4751);
    allow(&bench.source(), 0o710);
    let vfs = tree(&bench);
    let model = look(&vfs, Inode::ROOT, "m.safetensors").unwrap();
    assert_eq!((model.size, model.blocks(), model.mode, model.links), (1000, 2, 0o640, 1));
    let owner = fs::metadata(&packed).unwrap();
    assert_eq!((model.mtime, model.uid, model.gid), ((ORIGINAL_MTIME, 0), owner.uid(), owner.gid()));
    assert_eq!(vfs.getattr(model.inode).unwrap(), model);
    let plain = look(&vfs, Inode::ROOT, "c").unwrap();
    let modified = fs::metadata(path).unwrap().modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!((plain.size, plain.mtime), (5, (modified.as_secs() as i64, modified.subsec_nanos())));
    assert_eq!(plain.mode, 0o751);
    let root = vfs.getattr(Inode::ROOT).unwrap();
    assert_eq!((root.kind, root.mode, root.links), (Kind::Directory, 0o710, 2));
    // Another mode is another version: who has the file open keeps it.
    allow(&packed, 0o600);
    let again = look(&vfs, Inode::ROOT, "m.safetensors").unwrap();
    assert_eq!(again.mode, 0o600);
    assert_ne!(again.inode, model.inode);
}

#[test]
fn every_range_reads_as_in_the_original() {
    let bench = Bench::new();
    let original = safetensors(3, 1_000_000);
    bench.packed("m.safetensors.bs", &original);
    bench.plain("plain.bin", &original);
    let vfs = tree(&bench);
    for name in ["m.safetensors", "plain.bin"] {
        let handle = vfs.open(look(&vfs, Inode::ROOT, name).unwrap().inode).unwrap();
        let len = original.len() as u64;
        let mut ranges =
            vec![(0, 1), (len - 1, 1), (len - 1, 4096), (len, 1), (len + 5, 4096), (u64::MAX - 9, 100), (0, 0)];
        for pair in noise(4, 16 * 200).chunks(16) {
            let number = |at: usize| u64::from_le_bytes(pair[at..at + 8].try_into().unwrap());
            ranges.push((number(0) % (len + 100), number(8) % (1 << 20)));
        }
        for (offset, size) in ranges {
            let start = offset.min(len) as usize;
            let end = offset.saturating_add(size).min(len) as usize;
            let read = vfs.read(handle, offset, size as u32).unwrap();
            assert!(*read == original[start..end], "{name}: {size} bytes at {offset}");
        }
        vfs.release(handle);
    }
}

#[test]
fn a_plain_file_wins_and_the_container_stays_visible() {
    let bench = Bench::new();
    bench.packed("a.safetensors.bs", b"packed");
    let plain = bench.plain("a.safetensors", b"plain");
    let vfs = tree(&bench);
    assert_eq!(names(&vfs, Inode::ROOT), ["a.safetensors", "a.safetensors.bs"]);
    assert_agrees(&vfs, Inode::ROOT);
    let shown = look(&vfs, Inode::ROOT, "a.safetensors").unwrap();
    assert_eq!(contents(&vfs, shown.inode), b"plain");
    let container = look(&vfs, Inode::ROOT, "a.safetensors.bs").unwrap();
    assert_eq!(contents(&vfs, container.inode), fs::read(bench.source().join("a.safetensors.bs")).unwrap());
    // The name is free again.
    fs::remove_file(plain).unwrap();
    age(&bench.source());
    assert_eq!(names(&vfs, Inode::ROOT), ["a.safetensors"]);
    let shown = look(&vfs, Inode::ROOT, "a.safetensors").unwrap();
    assert_eq!(contents(&vfs, shown.inode), b"packed");
}

#[test]
fn what_cannot_be_opened_is_shown_as_it_is() {
    let bench = Bench::new();
    let whole = fs::read(bench.packed("cut.safetensors.bs", &noise(5, 5000))).unwrap();
    bench.plain("cut.safetensors.bs", &whole[..whole.len() / 2]);
    bench.plain("empty.bs", b"");
    bench.plain("text.bs", b"just text");
    bench.plain("python.bs", b"BGSM and no more");
    bench.plain(".bs", b"no name");
    let vfs = tree(&bench);
    assert_eq!(names(&vfs, Inode::ROOT), [".bs", "cut.safetensors.bs", "empty.bs", "python.bs", "text.bs"]);
    assert_agrees(&vfs, Inode::ROOT);
    assert!(look(&vfs, Inode::ROOT, "cut.safetensors").is_none());
    let cut = look(&vfs, Inode::ROOT, "cut.safetensors.bs").unwrap();
    assert_eq!(contents(&vfs, cut.inode), &whole[..whole.len() / 2]);
}

#[test]
fn links_are_followed_and_judged_by_their_own_name() {
    let bench = Bench::new();
    let cache = bench.dir.join("cache");
    fs::create_dir_all(cache.join("blobs")).unwrap();
    let snapshot = cache.join("snapshots/0123abcd");
    fs::create_dir_all(&snapshot).unwrap();
    let original = noise(6, 20_000);
    pack(&bench.original(&original), &cache.join("blobs/e3b0c442"));
    fs::write(cache.join("blobs/44298fc1"), b"{}").unwrap();
    symlink("../../blobs/e3b0c442", snapshot.join("model.safetensors.bs")).unwrap();
    symlink("../../blobs/44298fc1", snapshot.join("config.json")).unwrap();
    symlink("../../blobs/missing", snapshot.join("dangling.json")).unwrap();
    age(&snapshot);
    let vfs = tree_of(snapshot, None);
    assert_eq!(names(&vfs, Inode::ROOT), ["config.json", "model.safetensors"]);
    assert_agrees(&vfs, Inode::ROOT);
    let model = look(&vfs, Inode::ROOT, "model.safetensors").unwrap();
    assert_eq!(contents(&vfs, model.inode), original);

    // Seen from above, the blob itself is as it is: its name says nothing of a container.
    let vfs = tree_of(cache, None);
    let blobs = look(&vfs, Inode::ROOT, "blobs").unwrap();
    assert_eq!(names(&vfs, blobs.inode), ["44298fc1", "e3b0c442"]);
}

#[test]
fn what_is_neither_file_nor_directory_and_endless_links_are_not_listed() {
    let bench = Bench::new();
    bench.plain("sub/file", b"x");
    let source = bench.source();
    let fifo = source.join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    symlink("/dev/null", source.join("device")).unwrap();
    symlink("self", source.join("self")).unwrap();
    symlink(".", source.join("here")).unwrap();
    symlink("..", source.join("sub/up")).unwrap();
    symlink(&source, source.join("sub/absolute")).unwrap();
    symlink("sub", source.join("beside")).unwrap();
    let vfs = tree(&bench);
    assert_eq!(names(&vfs, Inode::ROOT), ["beside", "sub"]);
    for dir in ["sub", "beside"] {
        assert_eq!(names(&vfs, look(&vfs, Inode::ROOT, dir).unwrap().inode), ["file"]);
    }
}

#[test]
fn names_are_bytes() {
    let bench = Bench::new();
    let name = OsStr::from_bytes(b"caf\xe9 \n.safetensors.bs");
    pack(&bench.original(b"latin"), &bench.source().join("x.bs"));
    fs::rename(bench.source().join("x.bs"), bench.source().join(name)).unwrap();
    let vfs = tree(&bench);
    assert_agrees(&vfs, Inode::ROOT);
    let shown = look(&vfs, Inode::ROOT, OsStr::from_bytes(b"caf\xe9 \n.safetensors")).unwrap();
    assert_eq!(contents(&vfs, shown.inode), b"latin");
}

#[test]
fn one_file_as_the_source() {
    let bench = Bench::new();
    let path = bench.packed("one.safetensors.bs", b"one");
    bench.plain("other", b"other");
    let vfs = tree_of(path.clone(), None);
    assert_eq!(names(&vfs, Inode::ROOT), ["one.safetensors"]);
    assert!(look(&vfs, Inode::ROOT, "other").is_none());
    assert_agrees(&vfs, Inode::ROOT);
    bench.packed("one.safetensors.bs", b"another");
    let shown = look(&vfs, Inode::ROOT, "one.safetensors").unwrap();
    assert_eq!(contents(&vfs, shown.inode), b"another");
    fs::remove_file(path).unwrap();
    assert!(look(&vfs, Inode::ROOT, "one.safetensors").is_none());

    let engine = Engine::new(EngineConfig { memory: 1, formats: FORMATS, ..EngineConfig::default() });
    let refused = |name: &str| {
        let config = VfsConfig {
            source: bench.source().join(name),
            uid: 0,
            gid: 0,
            exclude: None,
            bases: Vec::new(),
            hubs: Vec::new(),
            shared: false,
        };
        Vfs::new(config, engine.clone()).unwrap_err()
    };
    assert!(matches!(refused("other"), Error::Invalid { .. }));
    assert!(matches!(refused("missing"), Error::Io { .. }));
    bench.plain("broken.bs", b"broken, and long enough");
    assert!(matches!(refused("broken.bs"), Error::NotAContainer { .. }));
}

#[test]
fn a_replaced_file_is_a_new_inode_and_open_ones_keep_the_old_version() {
    let bench = Bench::new();
    let (old, new) = (noise(7, 50_000), noise(8, 60_000));
    bench.packed("m.safetensors.bs", &old);
    let vfs = tree(&bench);
    let before = look(&vfs, Inode::ROOT, "m.safetensors").unwrap();
    let handle = vfs.open(before.inode).unwrap();
    bench.packed("m.safetensors.bs", &new);
    assert!(matches!(vfs.open(before.inode), Err(Error::Changed { .. })), "the old inode is stale");
    let after = look(&vfs, Inode::ROOT, "m.safetensors").unwrap();
    assert_ne!(before.inode, after.inode);
    assert_eq!(after.size, 60_000);
    assert_eq!(contents(&vfs, after.inode), new);
    assert_eq!(drain(&vfs, handle), old, "the open file goes on");
    assert_eq!(vfs.getattr(before.inode).unwrap(), before);
    vfs.release(handle);
    assert!(matches!(vfs.open(before.inode), Err(Error::Changed { .. })));
}

#[test]
fn a_file_rewritten_in_place_is_noticed_though_its_directory_has_not_changed() {
    let bench = Bench::new();
    let packed = bench.packed("m.safetensors.bs", b"first version");
    let plain = bench.plain("c.json", b"one");
    let vfs = tree(&bench);
    let before = (look(&vfs, Inode::ROOT, "m.safetensors").unwrap(), look(&vfs, Inode::ROOT, "c.json").unwrap());
    let other = bench.dir.join("other.bs");
    pack(&bench.original(b"version two!!"), &other);
    fs::write(&packed, fs::read(&other).unwrap()).unwrap();
    fs::write(&plain, b"two").unwrap();
    let after = (look(&vfs, Inode::ROOT, "m.safetensors").unwrap(), look(&vfs, Inode::ROOT, "c.json").unwrap());
    assert_ne!((before.0.inode, before.1.inode), (after.0.inode, after.1.inode));
    assert_eq!(contents(&vfs, after.0.inode), b"version two!!");
    assert_eq!(contents(&vfs, after.1.inode), b"two");

    // Broken in place: the name goes, the file is there under its own.
    fs::write(&packed, b"broken").unwrap();
    assert!(look(&vfs, Inode::ROOT, "m.safetensors").is_none());
    assert_eq!(contents(&vfs, look(&vfs, Inode::ROOT, "m.safetensors.bs").unwrap().inode), b"broken");
}

#[test]
fn a_name_that_appears_without_a_change_of_its_directory_is_found_within_seconds() {
    let bench = Bench::new();
    symlink("../target", bench.source().join("link.json")).unwrap();
    let packed = bench.plain("m.safetensors.bs", b"not yet a container");
    let vfs = tree(&bench);
    assert_eq!(names(&vfs, Inode::ROOT), ["m.safetensors.bs"]);
    fs::write(bench.dir.join("target"), b"{}").unwrap();
    let other = bench.dir.join("other");
    pack(&bench.original(b"contents"), &other);
    fs::write(packed, fs::read(other).unwrap()).unwrap();
    let found = |name: &str| look(&vfs, Inode::ROOT, name).is_some();
    eventually("both are found", || found("link.json") && found("m.safetensors"));
    assert_eq!(names(&vfs, Inode::ROOT), ["link.json", "m.safetensors"]);
}

#[test]
fn a_removed_file_is_gone_and_open_ones_go_on() {
    let bench = Bench::new();
    let path = bench.packed("m.safetensors.bs", b"contents");
    bench.plain("sub/file", b"x");
    let vfs = tree(&bench);
    let shown = look(&vfs, Inode::ROOT, "m.safetensors").unwrap();
    let sub = look(&vfs, Inode::ROOT, "sub").unwrap();
    let handle = vfs.open(shown.inode).unwrap();
    fs::remove_file(path).unwrap();
    assert!(matches!(vfs.open(shown.inode), Err(Error::Changed { .. })));
    assert!(look(&vfs, Inode::ROOT, "m.safetensors").is_none());
    assert_eq!(drain(&vfs, handle), b"contents");
    vfs.release(handle);

    fs::remove_dir_all(bench.source().join("sub")).unwrap();
    assert!(vfs.lookup(sub.inode, OsStr::new("file")).is_err());
    assert!(vfs.getattr(sub.inode).is_err());
    assert!(names(&vfs, Inode::ROOT).is_empty());
}

#[test]
fn what_has_not_changed_keeps_its_inode() {
    let bench = Bench::new();
    bench.packed("m.safetensors.bs", b"contents");
    bench.plain("sub/file", b"x");
    let vfs = tree(&bench);
    let before = list(&vfs, Inode::ROOT);
    let file = look(&vfs, before[OsStr::new("sub")].0, "file").unwrap();
    for n in 0..3 {
        bench.plain(&format!("new{n}"), b"n");
        let now = list(&vfs, Inode::ROOT);
        assert_eq!(now.len(), 3 + n);
        for (name, found) in &before {
            assert_eq!(now.get(name), Some(found), "{name:?}");
        }
    }
    assert_eq!(look(&vfs, before[OsStr::new("sub")].0, "file").unwrap(), file);
}

#[test]
fn inodes_live_while_they_are_listed_or_remembered() {
    let bench = Bench::new();
    bench.plain("sub/a", b"a");
    bench.plain("sub/b", b"b");
    let vfs = tree(&bench);
    let sub = look(&vfs, Inode::ROOT, "sub").unwrap();
    let a = look(&vfs, sub.inode, "a").unwrap();
    assert_eq!(look(&vfs, sub.inode, "a").unwrap(), a);
    assert_eq!(vfs.stats().inodes, 4);
    vfs.forget(a.inode, 1);
    vfs.forget(a.inode, 1);
    assert_eq!(look(&vfs, sub.inode, "a").unwrap(), a, "listed still");
    fs::remove_file(bench.source().join("sub/a")).unwrap();
    age(&bench.source().join("sub"));
    assert!(look(&vfs, sub.inode, "a").is_none());
    assert_eq!(vfs.getattr(a.inode).unwrap(), a, "remembered still");
    vfs.forget(a.inode, 1);
    assert!(vfs.getattr(a.inode).is_err());
    assert_eq!(vfs.stats().inodes, 3);
    // A directory goes with all that only it kept.
    fs::remove_dir_all(bench.source().join("sub")).unwrap();
    age(&bench.source());
    assert!(look(&vfs, Inode::ROOT, "sub").is_none());
    vfs.forget(sub.inode, 1);
    assert_eq!(vfs.stats().inodes, 1);
    vfs.forget(Inode::ROOT, 1);
    assert!(vfs.getattr(Inode::ROOT).is_ok());
}

#[test]
fn a_directory_can_be_read_in_pieces_while_it_changes() {
    let bench = Bench::new();
    for n in 0..50 {
        bench.plain(&format!("f{n:02}"), b"");
    }
    let vfs = tree(&bench);
    let handle = vfs.opendir(Inode::ROOT).unwrap();
    let mut seen = Vec::new();
    let mut offset = 0;
    loop {
        let mut room = 7;
        let mut next = offset;
        let mut refused = false;
        vfs.readdirplus(handle, offset, |item, attr| {
            assert_eq!(item.inode, attr.inode);
            if room == 0 {
                refused = true;
                return false;
            }
            room -= 1;
            next = item.next;
            seen.push(item.name.to_string_lossy().into_owned());
            true
        })
        .unwrap();
        if !refused {
            break;
        }
        offset = next;
        let _ = fs::remove_file(bench.source().join(format!("f{offset:02}")));
    }
    let mut expected = vec![".".to_owned(), "..".to_owned()];
    expected.extend((0..50).map(|n| format!("f{n:02}")));
    assert_eq!(seen, expected);
    vfs.release(handle);
    assert!(vfs.readdir(handle, 0, |_| true).is_err(), "the handle is closed");
    assert!(names(&vfs, Inode::ROOT).len() < 50);
}

#[test]
fn entries_with_attributes_count_as_lookups() {
    let bench = Bench::new();
    let path = bench.plain("file", b"x");
    let vfs = tree(&bench);
    let handle = vfs.opendir(Inode::ROOT).unwrap();
    let mut inode = None;
    vfs.readdirplus(handle, 2, |item, _| {
        inode = Some(item.inode);
        true
    })
    .unwrap();
    vfs.release(handle);
    let inode = inode.unwrap();
    fs::remove_file(path).unwrap();
    age(&bench.source());
    assert!(names(&vfs, Inode::ROOT).is_empty());
    assert!(vfs.getattr(inode).is_ok(), "the kernel was told of it");
    vfs.forget(inode, 1);
    assert!(vfs.getattr(inode).is_err());
}

#[test]
fn the_mount_point_is_not_looked_at() {
    let bench = Bench::new();
    let mount_point = bench.source().join("sub/here");
    fs::create_dir_all(mount_point.join("inside")).unwrap();
    bench.plain("sub/file", b"x");
    symlink("sub/here", bench.source().join("relative")).unwrap();
    symlink(mount_point.join("inside"), bench.source().join("absolute")).unwrap();
    symlink("sub/../sub/here/inside", bench.source().join("roundabout")).unwrap();
    let vfs = tree_of(bench.source(), Some(mount_point));
    assert_eq!(names(&vfs, Inode::ROOT), ["sub"]);
    assert_eq!(names(&vfs, look(&vfs, Inode::ROOT, "sub").unwrap().inode), ["file"]);
}

#[test]
fn a_thousand_containers() {
    let bench = Bench::new();
    for n in 0..1000 {
        pack(&bench.original(&n.to_string().into_bytes()), &bench.source().join(format!("m{n:04}.safetensors.bs")));
    }
    age(&bench.source());
    let vfs = tree(&bench);
    let found = list(&vfs, Inode::ROOT);
    assert_eq!(found.len(), 1000);
    for n in [0, 1, 500, 999] {
        let attr = look(&vfs, Inode::ROOT, format!("m{n:04}.safetensors")).unwrap();
        assert_eq!(contents(&vfs, attr.inode), n.to_string().as_bytes());
    }
}

#[test]
fn many_threads_see_one_tree() {
    let bench = Bench::new();
    let original = safetensors(9, 500_000);
    bench.packed("m.safetensors.bs", &original);
    for n in 0..40 {
        bench.packed(&format!("p{n}.safetensors.bs"), format!("contents {n}").as_bytes());
    }
    let vfs = Arc::new(tree(&bench));
    let inodes: Vec<Vec<Inode>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let model = look(&vfs, Inode::ROOT, "m.safetensors").unwrap();
                    assert!(contents(&vfs, model.inode) == original);
                    let mut all = vec![model.inode];
                    for n in 0..40 {
                        let attr = look(&vfs, Inode::ROOT, format!("p{n}.safetensors")).unwrap();
                        assert_eq!(contents(&vfs, attr.inode), format!("contents {n}").as_bytes());
                        all.push(attr.inode);
                    }
                    all
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(inodes.iter().all(|all| *all == inodes[0]));
    let stats = vfs.stats();
    assert_eq!((stats.open_files, stats.inodes), (0, 42));
    assert!(stats.read_bytes >= 16 * original.len() as u64 && stats.reads > 16);
    assert!(stats.metadata_bytes > 0);
}

#[test]
fn wrong_numbers_are_errors() {
    let bench = Bench::new();
    let path = bench.plain("file", b"x");
    let vfs = tree(&bench);
    let file = look(&vfs, Inode::ROOT, "file").unwrap().inode;
    assert!(vfs.getattr(Inode(99)).is_err());
    assert!(vfs.lookup(file, OsStr::new("x")).is_err());
    assert!(vfs.opendir(file).is_err());
    assert!(vfs.open(Inode::ROOT).is_err());
    assert!(vfs.read(Handle(99), 0, 1).is_err());
    let dir = vfs.opendir(Inode::ROOT).unwrap();
    assert!(vfs.read(dir, 0, 1).is_err());
    vfs.release(dir);
    vfs.release(dir);
    assert!(vfs.statfs().block > 0);
    assert!(Path::new(&path).exists());
}

const INDEX: &str = "model.safetensors.index.json";
const SHARDED: [&str; 5] = [
    "bigsmall.index.json",
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    INDEX,
];

fn file(vfs: &Vfs, name: &str) -> Vec<u8> {
    let attr = look(vfs, Inode::ROOT, name).unwrap_or_else(|| panic!("no {name}"));
    contents(vfs, attr.inode)
}

#[test]
fn every_file_of_bigsmalls_is_shown_with_the_right_tensors() {
    let bench = Bench::new();
    let fixtures = fixtures::all();
    for fixture in fixtures.iter().filter(|fixture| !fixture.path.contains('/')) {
        fixtures::place(&bench, &fixture.path, &fixture.path);
        fixture.base.iter().for_each(|base| drop(fixtures::place(&bench, base, base)));
    }
    let vfs = tree(&bench);
    for (seed, fixture) in fixtures.iter().filter(|fixture| !fixture.path.contains('/')).enumerate() {
        let attr = look(&vfs, Inode::ROOT, fixture.shown()).unwrap_or_else(|| panic!("no {}", fixture.shown()));
        let handle = vfs.open(attr.inode).unwrap();
        // At random first, when nothing has been decoded, and from then on against the whole.
        let pieces: Vec<_> = noise(seed as u64 + 1, 16 * 20)
            .chunks(16)
            .map(|pair| {
                let number = |at: usize| u64::from_le_bytes(pair[at..at + 8].try_into().unwrap());
                let (offset, size) = (number(0) % (attr.size + 10), (number(8) % 400_000) as u32);
                (offset, size, vfs.read(handle, offset, size).unwrap().to_vec())
            })
            .collect();
        let whole = drain(&vfs, handle);
        vfs.release(handle);
        assert_eq!(whole.len() as u64, attr.size, "{}", fixture.path);
        for (offset, size, piece) in pieces {
            let start = offset.min(attr.size) as usize;
            let end = (offset + u64::from(size)).min(attr.size) as usize;
            assert!(piece == whole[start..end], "{}: {size} bytes at {offset}", fixture.path);
        }
        assert_eq!(fixtures::tensors(&whole), fixture.tensors, "{}", fixture.path);
    }
    assert!(vfs.stats().metadata_bytes > 10_000);
}

#[test]
fn shards_show_what_their_index_adds_and_get_the_index_that_readers_expect() {
    let bench = Bench::new();
    fixtures::place_all(&bench, "sharded-4.0.0", "");
    let vfs = tree(&bench);
    assert_eq!(names(&vfs, Inode::ROOT), SHARDED);
    assert_agrees(&vfs, Inode::ROOT);
    for fixture in fixtures::all().iter().filter(|fixture| fixture.path.starts_with("sharded-4.0.0")) {
        let name = fixture.shown().split_off("sharded-4.0.0/".len());
        assert_eq!(fixtures::tensors(&file(&vfs, &name)), fixture.tensors, "{name}");
    }
    let text = String::from_utf8(file(&vfs, INDEX)).unwrap();
    assert!(text.contains(r#""lm_head.weight": "model-00001-of-00002.safetensors""#), "{text}");
    // In a directory below as well, and once more: nothing has changed, so nothing is another.
    fixtures::place_all(&bench, "sharded-2.0.1", "below/");
    let before = list(&vfs, Inode::ROOT);
    let below = look(&vfs, Inode::ROOT, "below").unwrap();
    assert_eq!(names(&vfs, below.inode), SHARDED);
    bench.plain("another", b"x");
    let after = list(&vfs, Inode::ROOT);
    for (name, found) in &before {
        assert_eq!(after.get(name), Some(found), "{name:?}");
    }
}

#[test]
fn a_shard_index_that_changes_makes_new_inodes_and_stale_ones() {
    let bench = Bench::new();
    fixtures::place_all(&bench, "sharded-4.0.0", "");
    fixtures::place(&bench, "native-4.0.0.bs", "model-00003.bs");
    bench.packed("ours.safetensors.bs", b"ours");
    let vfs = tree(&bench);
    let shown = [SHARDED[2], SHARDED[3], INDEX];
    let inodes = || shown.map(|name| look(&vfs, Inode::ROOT, name).unwrap().inode);
    let ours = look(&vfs, Inode::ROOT, "ours.safetensors").unwrap();
    let (before, held) = (inodes(), look(&vfs, Inode::ROOT, SHARDED[2]).unwrap());
    let handle = vfs.open(before[0]).unwrap();
    // Rewritten in place, which changes no directory: another order of the same.
    let path = bench.source().join("bigsmall.index.json");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("  ", " ")).unwrap();
    for inode in before {
        assert!(matches!(vfs.open(inode), Err(Error::Changed { .. })), "stale");
    }
    let after = inodes();
    for (n, name) in shown.iter().enumerate() {
        assert_ne!(before[n], after[n], "{name}");
        assert!(vfs.open(after[n]).is_ok(), "{name}");
    }
    assert_eq!(drain(&vfs, handle).len() as u64, held.size, "the open file goes on");
    assert_eq!(look(&vfs, Inode::ROOT, "ours.safetensors").unwrap(), ours, "not what needs no index");

    // A shard that is rewritten in place is another, and so is what rests on it; not so the rest.
    let shard = bench.source().join("model-00002-of-00002.bs");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes).unwrap();
    assert!(matches!(vfs.open(after[2]), Err(Error::Changed { .. })));
    let last = inodes();
    assert!(last[0] == after[0] && last[1] != after[1] && last[2] != after[2]);
}

#[test]
fn an_index_that_cannot_be_followed_is_not_followed() {
    let bench = Bench::new();
    fixtures::place_all(&bench, "sharded-2.0.1", "");
    let path = bench.source().join("bigsmall.index.json");
    let good = fs::read_to_string(&path).unwrap();
    let duplicate = |name: &str, master: &str| {
        let map = format!(r#""duplicate_map": {{"{name}": {{"master": "{master}"}}}}, "shards""#);
        good.replacen(r#""shards""#, &map, 1)
    };
    let elsewhere = good.replace("model-00001", "../source/model-00001");
    let bad: [(&str, String); 8] = [
        ("no JSON", "{".into()),
        ("no text", String::new()),
        ("a shard elsewhere", elsewhere),
        ("a shard that is not there", good.replace("model-00002-of-00002.bs", "model-00003-of-00003.bs")),
        ("a tensor that is not there", good.replace("\"ids\"", "\"other\"")),
        ("a tensor in the other shard", good.replace("\"ids\": \"model-00002", "\"ids\": \"model-00001")),
        ("a duplicate that is stored too", duplicate("model.layers.0.norm", "model.embed_tokens.weight")),
        ("a duplicate of nothing", duplicate("x", "y")),
    ];
    let expected = fixtures::one("sharded-2.0.1/model-00001-of-00002.bs").tensors;
    for (what, text) in bad {
        assert_ne!(text, good, "{what}");
        fs::write(&path, text).unwrap();
        let vfs = tree(&bench);
        assert_eq!(names(&vfs, Inode::ROOT), SHARDED[..4], "{what}");
        assert_eq!(fixtures::tensors(&file(&vfs, SHARDED[2])), expected, "{what}");
        assert_agrees(&vfs, Inode::ROOT);
    }
    // Stored in the other shard: each shows what it is said to, and nobody is told which one is meant.
    fs::write(&path, duplicate("lm_head.weight", "model.embed_tokens.weight")).unwrap();
    let vfs = tree(&bench);
    assert_eq!(names(&vfs, Inode::ROOT), SHARDED[..4]);
    assert_agrees(&vfs, Inode::ROOT);
    // Too long to be read at all, and no file.
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let vfs = tree(&bench);
    assert_eq!(names(&vfs, Inode::ROOT), SHARDED[..4]);
    assert_eq!(fixtures::tensors(&file(&vfs, SHARDED[2])), expected);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let vfs = tree(&bench);
    assert_eq!(names(&vfs, Inode::ROOT), SHARDED[..4]);
    assert_eq!(fixtures::tensors(&file(&vfs, SHARDED[2])), expected);
}

#[test]
fn an_index_is_made_only_where_none_is_and_all_shards_are_shown() {
    let bench = Bench::new();
    fixtures::place_all(&bench, "sharded-4.0.0", "");
    let vfs = tree(&bench);
    let made = file(&vfs, INDEX);
    bench.plain(INDEX, b"{}");
    assert_eq!(file(&vfs, INDEX), b"{}");
    fs::remove_file(bench.source().join(INDEX)).unwrap();
    age(&bench.source());
    assert_eq!(file(&vfs, INDEX), made);
    // A shard's place is taken: it is seen as it is, and no index may name it.
    let plain = bench.plain(SHARDED[2], b"plain");
    assert!(look(&vfs, Inode::ROOT, INDEX).is_none());
    assert!(look(&vfs, Inode::ROOT, "model-00001-of-00002.bs").is_some());
    fs::remove_file(plain).unwrap();
    age(&bench.source());
    assert_eq!(file(&vfs, INDEX), made);
    // A shard of another kind under its name.
    bench.packed("model-00002-of-00002.bs", b"ours");
    assert!(look(&vfs, Inode::ROOT, INDEX).is_none());
    assert_agrees(&vfs, Inode::ROOT);
}

#[test]
fn a_model_of_links_as_in_a_download_cache_is_shown_whole() {
    let bench = Bench::new();
    let snapshot = bench.dir.join("snapshot");
    fs::create_dir(&snapshot).unwrap();
    fixtures::place_all(&bench, "sharded-4.0.0", "");
    for entry in fs::read_dir(bench.source()).unwrap() {
        let name = entry.unwrap().file_name();
        symlink(Path::new("../source").join(&name), snapshot.join(&name)).unwrap();
    }
    age(&snapshot);
    let vfs = tree_of(snapshot.clone(), None);
    assert_eq!(names(&vfs, Inode::ROOT), SHARDED);
    assert_agrees(&vfs, Inode::ROOT);
    let expected = fixtures::one("sharded-4.0.0/model-00001-of-00002.bs").tensors;
    assert_eq!(fixtures::tensors(&file(&vfs, SHARDED[2])), expected);
    // An index that would be read from the mount itself is none, also for a file alone.
    let mount_point = bench.mount_point();
    fs::write(mount_point.join("x"), fs::read(bench.source().join("bigsmall.index.json")).unwrap()).unwrap();
    fs::remove_file(snapshot.join("bigsmall.index.json")).unwrap();
    symlink(mount_point.join("x"), snapshot.join("bigsmall.index.json")).unwrap();
    age(&snapshot);
    for source in [snapshot.clone(), snapshot.join("model-00001-of-00002.bs")] {
        let vfs = tree_of(source, Some(mount_point.clone()));
        assert!(!fixtures::tensors(&file(&vfs, SHARDED[2])).contains_key("lm_head.weight"));
        assert!(look(&vfs, Inode::ROOT, INDEX).is_none());
    }
}

/// The files of this machine, whose directories take a while to list.
#[derive(Debug, Default)]
struct Slow(bsfs::source::LocalTree, std::sync::atomic::AtomicU32);

impl bsfs::source::Tree for Slow {
    fn stat(&self, path: &Path) -> std::io::Result<bsfs::source::Stat> {
        self.0.stat(path)
    }

    fn names(&self, path: &Path) -> bsfs::Result<Vec<OsString>> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(1500));
        self.0.names(path)
    }

    fn open(&self, path: &Path) -> bsfs::Result<Arc<dyn bsfs::source::ReadAt>> {
        self.0.open(path)
    }

    fn is_local(&self) -> bool {
        true
    }
}

#[test]
fn a_directory_that_takes_long_to_scan_is_not_scanned_at_each_look() {
    let bench = Bench::new();
    bench.plain("a.json", b"a");
    let slow = Arc::new(Slow::default());
    let config = VfsConfig {
        source: bench.source(),
        uid: 7,
        gid: 8,
        exclude: None,
        bases: Vec::new(),
        hubs: Vec::new(),
        shared: false,
    };
    let vfs = Vfs::over(Arc::clone(&slow) as _, config, Engine::new(EngineConfig::default())).unwrap();
    for _ in 0..5 {
        assert_eq!(names(&vfs, Inode::ROOT), ["a.json"]);
        assert!(look(&vfs, Inode::ROOT, "absent").is_none());
    }
    assert_eq!(slow.1.load(std::sync::atomic::Ordering::SeqCst), 1);
    // What changes shows all the same.
    bench.plain("b.json", b"b");
    assert_eq!(names(&vfs, Inode::ROOT), ["a.json", "b.json"]);
}
