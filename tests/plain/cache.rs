//! The disk cache keeps its promises: a chunk is right or a miss, whatever happens to the files.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::common::{Bench, eventually, noise, root_for};
use bsfs::cache::{Config, Description, Entry, Key, Proof, Sealing, Store};

const BSFS: &str = env!("CARGO_BIN_EXE_bsfs");
const CHUNK: usize = 3000;
const HEADER: usize = 100;

/// A file of noise with a header and chunks, and the directory of a cache.
struct Model {
    bytes: Vec<u8>,
    key: Key,
}

impl Model {
    fn new(seed: u8, len: usize) -> Self {
        Self { bytes: noise(seed.into(), len), key: Key([seed; 32]) }
    }

    fn chunks(&self) -> u32 {
        (self.bytes.len() - HEADER).div_ceil(CHUNK) as u32
    }

    fn range(&self, chunk: u32) -> (u64, u64) {
        let start = HEADER + chunk as usize * CHUNK;
        (start as u64, CHUNK.min(self.bytes.len() - start) as u64)
    }

    fn chunk(&self, chunk: u32) -> &[u8] {
        let (offset, len) = self.range(chunk);
        &self.bytes[offset as usize..][..len as usize]
    }

    fn entry(&self, store: &Store) -> Option<Arc<Entry>> {
        let literals = vec![(0, Arc::from(&self.bytes[..HEADER]))];
        let chunk = |at: u32| self.range(at);
        let len = self.bytes.len() as u64;
        store.entry(self.key, &Description { label: "a model", len, chunks: self.chunks(), chunk: &chunk, literals })
    }

    fn offer(&self, entry: &Arc<Entry>, chunk: u32) {
        entry.offer(chunk, self.chunk(chunk).to_vec());
    }

    fn fill(&self, store: &Store) -> Arc<Entry> {
        let entry = self.entry(store).unwrap();
        (0..self.chunks()).for_each(|at| self.offer(&entry, at));
        flush(store);
        entry
    }

    /// The chunks that are read and right; one that is read and wrong fails the test.
    fn right(&self, entry: &Entry) -> Vec<u32> {
        let right = (0..self.chunks()).filter(|&at| {
            let expected = self.chunk(at);
            let mut got = vec![0; expected.len()];
            let hit = entry.read(at, &mut got);
            assert!(!hit || got == expected, "wrong bytes in chunk {at}");
            hit
        });
        right.collect()
    }

    fn data(&self, dir: &Path) -> PathBuf {
        dir.join(format!("v1/{}.data", self.key))
    }

    fn map(&self, dir: &Path) -> PathBuf {
        dir.join(format!("v1/{}.map", self.key))
    }

    fn proof(&self) -> Whole<'_> {
        Whole { expected: &self.bytes, got: Vec::new(), most: usize::MAX }
    }
}

/// A proof by comparing everything.
struct Whole<'a> {
    expected: &'a [u8],
    got: Vec<u8>,
    most: usize,
}

impl Proof for Whole<'_> {
    fn feed(&mut self, offset: u64, bytes: &[u8]) -> bool {
        assert_eq!(offset, self.got.len() as u64);
        self.got.extend(bytes);
        self.got.len() < self.most
    }

    fn proven(&mut self) -> bool {
        self.got == self.expected
    }
}

fn config() -> Config {
    Config { size: Some(1 << 30), floor: Some(0), ..Config::default() }
}

fn open(dir: &Path) -> Arc<Store> {
    let _ = env_logger::builder().is_test(true).try_init();
    Store::open(dir, &config()).unwrap()
}

fn flush(store: &Store) {
    assert!(store.flush(Duration::from_secs(20)));
}

fn all(model: &Model) -> Vec<u32> {
    (0..model.chunks()).collect()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn cache_verb(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(BSFS).arg("cache").args(arguments).arg("--cache-dir").arg(dir).output().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// Something mounted for a test.
struct Mounted(PathBuf);

impl Mounted {
    fn new(arguments: &[&str], at: &Path) -> Self {
        assert!(Command::new("mount").args(arguments).arg(at).status().unwrap().success());
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn what_was_filled_is_read_back_in_part_and_after_opening_again() {
    let bench = Bench::new();
    let dir = bench.dir.join("made/cache");
    let model = Model::new(1, 100_000);
    {
        let store = open(&dir);
        let entry = model.entry(&store).unwrap();
        assert_eq!((entry.key(), entry.chunks(), entry.complete()), (model.key, model.chunks(), false));
        assert_eq!(model.right(&entry), [0_u32; 0]);
        for chunk in [5, 0, 33] {
            model.offer(&entry, chunk);
        }
        entry.offer(7, vec![0; CHUNK - 1]);
        entry.offer(model.chunks(), vec![0; HEADER]);
        flush(&store);
        assert!(entry.has(5) && !entry.has(6) && !entry.has(model.chunks()));
        assert_eq!(model.right(&entry), [0, 5, 33]);
        assert!(!entry.read(5, &mut [0; 10]), "a buffer of another length");
        let counters = store.counters();
        assert_eq!((counters.hits, counters.written_chunks, counters.queued_bytes), (3, 3, 0));
        assert_eq!(counters.written_bytes, HEADER as u64 + 2 * CHUNK as u64 + model.range(33).1);
        assert!(Arc::ptr_eq(&entry, &model.entry(&store).unwrap()));
    }
    let store = open(&dir);
    let entry = model.entry(&store).unwrap();
    assert!(entry.has(0) && !entry.has(1));
    assert_eq!(model.right(&entry), [0, 5, 33]);
    drop(entry);
    let entry = model.fill(&store);
    assert!(entry.complete());
    assert_eq!(model.right(&entry), all(&model));
    assert_eq!(fs::read(model.data(&dir)).unwrap(), model.bytes, "a plain file");
    let listed = store.list().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].raw_len, listed[0].present_bytes), (100_000, 100_000));
    assert!(listed[0].complete && !listed[0].sealed && listed[0].in_use && listed[0].readable);
}

#[test]
fn a_file_that_is_read_in_part_takes_the_space_of_that_part() {
    let bench = Bench::new();
    let store = open(&bench.dir.join("cache"));
    let len = 1 << 30;
    let chunk = |at: u32| (u64::from(at) << 20, 1 << 20);
    let what = Description { label: "large", len, chunks: 1024, chunk: &chunk, literals: Vec::new() };
    let entry = store.entry(Key([1; 32]), &what).unwrap();
    entry.offer(1000, vec![7; 1 << 20]);
    flush(&store);
    let listed = store.list().unwrap().remove(0);
    assert_eq!((listed.raw_len, listed.present_bytes), (len, 1 << 20));
    assert!((1 << 20..2 << 20).contains(&listed.disk_bytes), "{}", listed.disk_bytes);
}

#[test]
fn a_file_without_chunks_and_one_without_bytes_are_complete_at_once() {
    let bench = Bench::new();
    let store = open(&bench.dir.join("cache"));
    let chunk = |_: u32| (0, 0);
    let literals = vec![(0, Arc::from(b"header".as_slice()))];
    let what = Description { label: "", len: 6, chunks: 0, chunk: &chunk, literals };
    let entry = store.entry(Key([1; 32]), &what).unwrap();
    flush(&store);
    assert!(entry.complete());
    let what = Description { label: "", len: 0, chunks: 0, chunk: &chunk, literals: Vec::new() };
    assert!(store.entry(Key([2; 32]), &what).unwrap().complete());
    let what = Description { label: "", len: 1, chunks: 0, chunk: &chunk, literals: Vec::new() };
    assert!(store.entry(Key([3; 32]), &what).is_none(), "a file with a hole");
}

#[test]
fn directories_and_files_are_private() {
    let bench = Bench::new();
    let dir = bench.dir.join("a/b/cache");
    let model = Model::new(1, 10_000);
    let store = open(&dir);
    let entry = model.fill(&store);
    for made in [&bench.dir.join("a"), &bench.dir.join("a/b"), &dir, &dir.join("v1")] {
        assert_eq!(mode(made), 0o700, "{}", made.display());
    }
    for name in fs::read_dir(dir.join("v1")).unwrap() {
        assert_eq!(mode(&name.unwrap().path()), 0o600);
    }
    assert_eq!(entry.seal(&mut model.proof()), Sealing::Proven);
    assert_eq!(mode(&model.data(&dir)), 0o400);
    drop((entry, store));
    fs::set_permissions(dir.join("v1"), Permissions::from_mode(0o755)).unwrap();
    open(&dir);
    assert_eq!(mode(&dir.join("v1")), 0o700);
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let bench = Bench::new();
    let dir = bench.dir.join("cache");
    let refused = |dir: &Path, expected: &str| {
        let error = Store::open(dir, &config()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(Store::open_existing(dir, &config()).is_err());
    };
    fs::create_dir(&dir).unwrap();
    for bits in [0o770, 0o707, 0o777] {
        fs::set_permissions(&dir, Permissions::from_mode(bits)).unwrap();
        refused(&dir, "others can write");
    }
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
    open(&dir);
    fs::set_permissions(dir.join("v1"), Permissions::from_mode(0o722)).unwrap();
    refused(&dir, "others can write");
    fs::set_permissions(dir.join("v1"), Permissions::from_mode(0o700)).unwrap();

    let link = bench.dir.join("link");
    symlink(&dir, &link).unwrap();
    refused(&link, "a symbolic link");
    refused(&link.join(""), "a symbolic link");
    fs::rename(dir.join("v1"), bench.dir.join("v1")).unwrap();
    symlink(bench.dir.join("v1"), dir.join("v1")).unwrap();
    assert!(Store::open(&dir, &config()).is_err());
    fs::remove_file(dir.join("v1")).unwrap();
    fs::write(bench.dir.join("file"), b"").unwrap();
    assert!(Store::open(&bench.dir.join("file"), &config()).is_err());
    if root_for("a directory of another user") {
        std::os::unix::fs::chown(&dir, Some(12345), None).unwrap();
        refused(&dir, "another user");
    }
    assert!(Store::open_existing(&bench.dir.join("none"), &config()).unwrap().is_none());
    assert!(!bench.dir.join("none").exists());
}

/// Whatever is put in place of a file of ours, the model is cached anew, and what it led to is not touched.
#[test]
fn what_is_not_ours_under_our_names_is_not_used() {
    let bench = Bench::new();
    let dir = bench.dir.join("cache");
    let model = Model::new(1, 10_000);
    let elsewhere = bench.dir.join("elsewhere");
    let kinds = ["symlink", "dangling", "hard link", "fifo", "other owner", "readable", "empty", "directory"];
    for kind in kinds {
        for path in [model.map(&dir), model.data(&dir)] {
            let _ = fs::remove_dir_all(&dir);
            drop(model.fill(&open(&dir)));
            let _ = fs::remove_file(&elsewhere);
            fs::copy(&path, &elsewhere).unwrap();
            let before = fs::read(&elsewhere).unwrap();
            match kind {
                "other owner" if !root_for(kind) => continue,
                "other owner" => std::os::unix::fs::chown(&path, Some(12345), None).unwrap(),
                "readable" => fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap(),
                _ => fs::remove_file(&path).unwrap(),
            }
            match kind {
                "symlink" => symlink(&elsewhere, &path).unwrap(),
                "dangling" => symlink(bench.dir.join("nowhere"), &path).unwrap(),
                "hard link" => fs::hard_link(&elsewhere, &path).unwrap(),
                "fifo" => assert!(Command::new("mkfifo").arg(&path).status().unwrap().success()),
                "empty" => drop(File::create(&path).unwrap()),
                "directory" => fs::create_dir(&path).unwrap(),
                _ => {}
            }
            let store = open(&dir);
            let entry = model.entry(&store);
            if kind == "directory" {
                assert!(entry.is_none() && model.entry(&store).is_none(), "{}", path.display());
                assert_eq!(store.counters().errors, 2);
                continue;
            }
            let entry = entry.unwrap_or_else(|| panic!("{kind}, {}", path.display()));
            assert_eq!(model.right(&entry), [0_u32; 0], "{kind}, {}", path.display());
            drop(entry);
            assert_eq!(model.right(&model.fill(&store)), all(&model));
            assert_eq!(fs::read(&elsewhere).unwrap(), before, "{kind}");
            assert!(!bench.dir.join("nowhere").exists());
        }
    }
}

#[test]
fn every_flipped_byte_and_every_truncation_is_a_miss_or_right() {
    let bench = Bench::new();
    let dir = bench.dir.join("cache");
    let model = Model::new(1, 10_000);
    drop(model.fill(&open(&dir)));
    let whole = [model.map(&dir), model.data(&dir)].map(|path| (fs::read(&path).unwrap(), path));
    let restore = || {
        for (bytes, path) in &whole {
            let _ = fs::remove_file(path);
            fs::write(path, bytes).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        }
    };
    let (map_len, data_len) = (whole[0].0.len(), whole[1].0.len());
    // Each byte of the header that means something, and of the table and the records.
    let map_bytes = (0..128).chain(1016..1110).chain(4096..map_len).map(|at| (0, at));
    let data_bytes = (0..data_len).step_by(97).map(|at| (1, at));
    let store = open(&dir);
    for (file, at) in map_bytes.chain(data_bytes) {
        restore();
        let (bytes, path) = &whole[file];
        File::options().write(true).open(path).unwrap().write_all_at(&[bytes[at] ^ 0x40], at as u64).unwrap();
        let entry = model.entry(&store).unwrap();
        // A header that was lost is written again by itself.
        flush(&store);
        let right = model.right(&entry);
        assert!(entry.sealed().is_none());
        if file == 1 && at >= HEADER {
            let lost = ((at - HEADER) / CHUNK) as u32;
            assert_eq!(right, all(&model).into_iter().filter(|&c| c != lost).collect::<Vec<_>>());
        }
        drop(entry);
        if at % 5 == 0 {
            let again = model.right(&model.fill(&store));
            assert_eq!(again, all(&model), "file {file}, byte {at}, {:?}", store.counters());
        }
    }
    for (file, len) in [(0, map_len), (1, data_len)] {
        let lens = (0..len).step_by(if file == 0 { 61 } else { 331 }).chain([len - 1, len + 1]);
        for cut in lens {
            restore();
            File::options().write(true).open(&whole[file].1).unwrap().set_len(cut as u64).unwrap();
            assert_eq!(model.right(&model.entry(&store).unwrap()), [0_u32; 0], "{file} cut to {cut}");
        }
    }
    // While it is open.
    restore();
    let entry = model.entry(&store).unwrap();
    for (_, path) in &whole {
        let file = File::options().write(true).open(path).unwrap();
        for len in (0..file.metadata().unwrap().len()).rev().step_by(509) {
            file.set_len(len).unwrap();
            model.right(&entry);
        }
        assert_eq!(model.right(&entry), [0_u32; 0]);
    }
}

#[test]
fn a_wrong_chunk_is_forgotten_counted_and_written_anew() {
    let bench = Bench::new();
    let dir = bench.dir.join("cache");
    let model = Model::new(1, 20_000);
    let store = open(&dir);
    let entry = model.fill(&store);
    let data = File::options().write(true).open(model.data(&dir)).unwrap();
    data.write_all_at(b"wrong", model.range(2).0 + 10).unwrap();
    assert!(entry.has(2));
    assert_eq!(model.right(&entry), [0, 1, 3, 4, 5, 6]);
    assert!(!entry.has(2) && !entry.complete());
    assert_eq!(store.counters().damaged_chunks, 1);
    model.offer(&entry, 2);
    flush(&store);
    assert_eq!(model.right(&entry), all(&model));
    // Another file of the same name: its bytes are not ours.
    let other = Model { bytes: noise(99, 20_000), key: model.key };
    fs::write(model.data(&dir), &other.bytes).unwrap();
    assert_eq!(model.right(&entry), [0_u32; 0]);
    assert_eq!(store.counters().damaged_chunks, 1 + 7);
}

#[test]
fn an_entry_of_another_cut_is_made_anew_unless_it_is_in_use() {
    let bench = Bench::new();
    let dir = bench.dir.join("cache");
    let model = Model::new(1, 20_000);
    let other = Model { bytes: noise(5, 19_000), key: model.key };
    let (store, second) = (open(&dir), open(&dir));
    let entry = model.fill(&store);
    assert!(other.entry(&store).is_none() && other.entry(&second).is_none());
    assert_eq!(model.right(&entry), all(&model));
    drop(entry);
    assert_eq!(other.right(&other.fill(&second)), all(&other));
    assert_eq!(model.right(&model.entry(&store).unwrap()), [0_u32; 0]);
}

#[test]
fn a_full_queue_drops() {
    let bench = Bench::new();
    let store = Store::open(&bench.dir.join("cache"), &Config { queue: 10_000, ..config() }).unwrap();
    let model = Model::new(1, 300_000);
    let entry = model.entry(&store).unwrap();
    (0..model.chunks()).for_each(|at| model.offer(&entry, at));
    flush(&store);
    let counters = store.counters();
    assert!(counters.dropped_chunks > 0, "{counters:?}");
    assert_eq!(counters.dropped_chunks + counters.written_chunks, u64::from(model.chunks()));
    assert_eq!(model.right(&entry).len() as u64, counters.written_chunks);
    // What was dropped can come again.
    for at in 0..model.chunks() {
        model.offer(&entry, at);
        flush(&store);
    }
    assert!(entry.complete());
    // A store that ends does not wait for what waits.
    model.offer(&entry, 0);
    drop(store);
    model.offer(&entry, 1);
    assert_eq!(model.right(&entry), all(&model), "an entry outlives its store");
}

#[test]
fn least_recently_used_entries_leave_first_and_those_in_use_stay() {
    let bench = Bench::new();
    let dir = bench.dir.join("cache");
    let models: Vec<Model> = (1..=5).map(|seed| Model::new(seed, 200_000)).collect();
    let store = open(&dir);
    for (age, model) in models.iter().enumerate() {
        drop(model.fill(&store));
        let last = SystemTime::now() - Duration::from_secs(1000 * (10 - age as u64));
        File::open(model.map(&dir)).unwrap().set_modified(last).unwrap();
    }
    let exists = || models.iter().map(|model| model.map(&dir).exists()).collect::<Vec<_>>();
    // The oldest is opened and so becomes the most recently used; the second oldest is held.
    drop(models[0].entry(&store));
    let held = File::open(models[1].map(&dir)).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockShared).unwrap();
    let one = store.list().unwrap()[0].disk_bytes;
    let removed = store.prune(store.stats().unwrap().disk_bytes - 1).unwrap();
    assert_eq!((removed.entries, removed.kept_in_use), (1, 1));
    assert_eq!(exists(), [true, true, false, true, true]);

    // A store that has no room for one more takes it from the oldest that is not in use.
    let size = store.stats().unwrap().disk_bytes + 100_000;
    let small = Store::open(&dir, &Config { size: Some(size), ..config() }).unwrap();
    let new = Model::new(9, 250_000);
    assert_eq!(new.right(&new.fill(&small)), all(&new));
    assert_eq!(exists(), [true, true, false, false, true]);
    assert_eq!(small.counters().evicted_entries, 1);
    let used = small.stats().unwrap().disk_bytes;
    assert!(used <= size, "{used} of {size}");

    // No room at all: nothing is written, nothing breaks.
    let none = Store::open(&dir, &Config { size: Some(one), ..config() }).unwrap();
    let last = Model::new(10, 1_000_000);
    let entry = last.fill(&none);
    assert!(!entry.complete() && none.counters().dropped_chunks > 0);
    drop(held);
    let floor = Store::open(&dir, &Config { floor: Some(1 << 62), ..config() }).unwrap();
    assert_eq!(last.right(&last.fill(&floor)).len(), last.right(&entry).len());
    drop(entry);
    assert_eq!(store.clear().unwrap().kept_in_use, 0);
    assert!(store.list().unwrap().is_empty());
    assert_eq!(last.right(&last.fill(&store)), all(&last));
}

#[test]
fn a_proven_file_is_given_out_and_a_touched_one_is_not() {
    let bench = Bench::new();
    let dir = bench.dir.join("cache");
    let model = Model::new(1, 50_000);
    let store = open(&dir);
    let entry = model.entry(&store).unwrap();
    assert_eq!(entry.seal(&mut model.proof()), Sealing::Incomplete);
    drop(entry);
    let entry = model.fill(&store);
    assert!(entry.complete() && entry.sealed().is_none());
    assert_eq!(entry.seal(&mut Whole { most: 4000, ..model.proof() }), Sealing::Stopped);
    assert_eq!(mode(&model.data(&dir)), 0o600);
    assert_eq!(entry.seal(&mut model.proof()), Sealing::Proven);
    let given = |entry: &Entry| {
        let mut file = entry.sealed()?;
        assert!(file.write(b"x").is_err(), "for reading only");
        let mut bytes = vec![0; 50_000];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, model.bytes);
        Some(file)
    };
    assert!(given(&entry).is_some());
    let again = entry.seal(&mut Whole { most: 0, ..model.proof() });
    assert_eq!(again, Sealing::Proven, "nothing is read again");
    // Nothing is written to it any more, by nobody.
    let second = open(&dir);
    let theirs = model.entry(&second).unwrap();
    assert!(given(&theirs).is_some());
    model.offer(&theirs, 3);
    model.offer(&entry, 3);
    flush(&store);
    flush(&second);
    assert!(given(&entry).is_some() && store.list().unwrap()[0].sealed);
    drop((entry, theirs, second));

    // Time passes, stores come and go.
    let entry = model.entry(&open(&dir)).unwrap();
    assert!(given(&entry).is_some());
    let seal = |entry: &Entry| entry.seal(&mut model.proof());
    // One byte, and the times put back.
    let meta = fs::metadata(model.data(&dir)).unwrap();
    let tamper = |bytes: &[u8], at: u64| {
        fs::set_permissions(model.data(&dir), Permissions::from_mode(0o600)).unwrap();
        let data = File::options().write(true).open(model.data(&dir)).unwrap();
        data.write_all_at(bytes, at).unwrap();
        data.set_times(
            fs::FileTimes::new().set_modified(meta.modified().unwrap()).set_accessed(meta.accessed().unwrap()),
        )
        .unwrap();
        fs::set_permissions(model.data(&dir), Permissions::from_mode(0o400)).unwrap();
    };
    tamper(&[model.bytes[20_000] ^ 1], 20_000);
    assert!(entry.sealed().is_none() && !store.list().unwrap()[0].sealed);
    assert_eq!(seal(&entry), Sealing::Damaged);
    drop(entry);
    assert_eq!(seal(&model.fill(&store)), Sealing::Proven);
    // The same byte in the header, which no chunk covers.
    tamper(&[model.bytes[20] ^ 1], 20);
    let entry = model.entry(&store).unwrap();
    assert!(entry.sealed().is_none());
    assert_eq!(seal(&entry), Sealing::Damaged);
    drop(entry);
    let entry = model.entry(&store).unwrap();
    eventually("the header is written again", || entry.complete());
    assert_eq!(seal(&entry), Sealing::Proven);
    // A link, another length, another file.
    fs::hard_link(model.data(&dir), bench.dir.join("link")).unwrap();
    assert!(entry.sealed().is_none());
    fs::remove_file(bench.dir.join("link")).unwrap();
    assert!(entry.sealed().is_none(), "the change time has moved");
    assert_eq!(seal(&entry), Sealing::Proven);
    fs::copy(model.data(&dir), bench.dir.join("copy")).unwrap();
    fs::rename(bench.dir.join("copy"), model.data(&dir)).unwrap();
    drop(entry);
    let entry = model.entry(&store).unwrap();
    assert!(entry.sealed().is_none());
    fs::set_permissions(model.data(&dir), Permissions::from_mode(0o600)).unwrap();
    let opened_before = File::options().write(true).open(model.data(&dir)).unwrap();
    assert_eq!(seal(&entry), Sealing::Proven);
    // A read finds wrong bytes: they are forgotten, and so is the seal, until the file is proven again.
    opened_before.write_all_at(b"rot", 20_000).unwrap();
    assert!(!entry.read(6, &mut [0; CHUNK]));
    assert!(entry.sealed().is_none());
    model.offer(&entry, 6);
    flush(&store);
    assert_eq!(model.right(&entry), all(&model));
    assert!(entry.sealed().is_none());
    assert_eq!(seal(&entry), Sealing::Proven);
    assert!(given(&entry).is_some());
}

#[test]
fn a_file_whose_digest_differs_is_emptied() {
    let bench = Bench::new();
    let store = open(&bench.dir.join("cache"));
    let model = Model::new(1, 50_000);
    let other = Model { bytes: [&model.bytes[..30_000], &noise(3, 20_000)].concat(), key: model.key };
    let entry = other.fill(&store);
    assert_eq!(entry.seal(&mut model.proof()), Sealing::Differs);
    assert!(entry.sealed().is_none());
    assert_eq!(model.right(&entry), [0_u32; 0]);
}

#[test]
fn after_an_unclean_end_files_are_proven_again() {
    let bench = Bench::new();
    let dir = bench.dir.join("cache");
    let model = Model::new(1, 50_000);
    let sealed = || model.entry(&open(&dir)).unwrap().sealed().is_some();
    let marker = |boot: &str, pid: u32| {
        let path = dir.join(format!("v1/running-{boot}-{pid}-5"));
        fs::write(&path, b"").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    };
    let markers = || {
        let names = fs::read_dir(dir.join("v1")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("running-")).count()
    };
    let prove = || {
        let store = open(&dir);
        assert_eq!(markers(), 1);
        assert_eq!(model.fill(&store).seal(&mut model.proof()), Sealing::Proven);
    };
    prove();
    assert_eq!(markers(), 0, "a clean end");
    assert!(sealed());
    // A process that was killed, in this boot: the kernel has all it wrote.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    marker(boot.trim(), 999_999);
    assert!(sealed());
    assert_eq!(markers(), 0);
    // The machine went down with a store open.
    let other = "01234567-89ab-cdef-0123-456789abcdef";
    marker(other, 1);
    let store = open(&dir);
    let entry = model.entry(&store).unwrap();
    assert!(entry.sealed().is_none() && entry.complete());
    assert_eq!(model.right(&entry), all(&model), "chunks are as good as their checksums");
    assert_eq!(entry.seal(&mut model.proof()), Sealing::Proven);
    drop((entry, store));
    assert!(sealed() && markers() == 0);
    // A machine that shares the directory and lives.
    let alive = File::open(marker(other, 1)).unwrap();
    rustix::fs::flock(&alive, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(sealed());
    drop(alive);
    assert!(!sealed());
    prove();
    // Without the number that seals quote, or with a damaged one, nothing is proven.
    for damage in [&b""[..], b"0123456789abcdef"] {
        fs::write(dir.join("v1/epoch"), damage).unwrap();
        assert!(!sealed());
        prove();
        assert!(sealed());
    }
    fs::remove_file(dir.join("v1/epoch")).unwrap();
    assert!(!sealed());
}

#[test]
fn a_directory_that_vanishes_is_a_miss() {
    let bench = Bench::new();
    let dir = bench.dir.join("cache");
    let (model, other) = (Model::new(1, 50_000), Model::new(2, 50_000));
    let store = open(&dir);
    let entry = model.entry(&store).unwrap();
    model.offer(&entry, 0);
    flush(&store);
    fs::remove_dir_all(&dir).unwrap();
    model.offer(&entry, 1);
    flush(&store);
    assert!(!entry.has(1), "nothing is written to files without names");
    assert_eq!(model.right(&entry), [0]);
    assert!(other.entry(&store).is_none());
    assert!(store.list().unwrap().is_empty());
    assert_eq!(entry.seal(&mut model.proof()), Sealing::Incomplete);
    drop((entry, store));
    assert!(!dir.exists());
    assert_eq!(model.right(&model.fill(&open(&dir))), all(&model));
}

#[test]
fn a_read_only_directory_is_read() {
    let bench = Bench::new();
    let dir = bench.dir.join("cache");
    let (model, other) = (Model::new(1, 50_000), Model::new(2, 50_000));
    let entry = model.fill(&open(&dir));
    assert_eq!(entry.seal(&mut model.proof()), Sealing::Proven);
    drop(entry);
    if !root_for("a directory that is mounted read-only") {
        return;
    }
    let point = bench.mount_point();
    let mounted = Mounted::new(&["--bind", dir.to_str().unwrap()], &point);
    let remount = Command::new("mount").args(["-o", "remount,ro,bind"]).arg(&point).status().unwrap();
    assert!(remount.success());
    let store = open(&point);
    assert!(store.read_only());
    let entry = model.entry(&store).unwrap();
    assert_eq!(model.right(&entry), all(&model));
    assert!(entry.sealed().is_some());
    assert!(other.entry(&store).is_none());
    // Damage cannot be noted on the disk, and is remembered all the same.
    let data = File::options().write(true).open(model.data(&dir)).unwrap();
    data.write_all_at(b"wrong", model.range(2).0).unwrap();
    assert!(entry.sealed().is_none());
    assert!(!model.right(&entry).contains(&2) && !entry.has(2));
    model.offer(&entry, 2);
    flush(&store);
    assert!(!model.right(&entry).contains(&2));
    assert_eq!(entry.seal(&mut model.proof()), Sealing::Unable);
    assert!(entry.sealed().is_none());
    let verdict = store.verify(&mut |_| true).unwrap();
    assert_eq!(verdict.damaged.len(), 1);
    assert!(store.clear().is_ok() && model.map(&dir).exists());
    drop((entry, store));
    drop(mounted);
    // And one that is not there cannot be made.
    fs::remove_dir_all(dir.join("v1")).unwrap();
    let _mounted = Mounted::new(&["--bind", dir.to_str().unwrap()], &point);
    assert!(Command::new("mount").args(["-o", "remount,ro,bind"]).arg(&point).status().unwrap().success());
    assert!(Store::open(&point, &config()).is_err());
}

#[test]
fn a_full_disk_is_a_miss_and_fills_again_later() {
    if !root_for("a small tmpfs") {
        return;
    }
    let bench = Bench::new();
    let point = bench.mount_point();
    let _mounted = Mounted::new(&["-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs"], &point);
    let model = Model::new(1, 3_000_000);
    let store = open(&point);
    let entry = model.fill(&store);
    let right = model.right(&entry);
    assert!(!right.is_empty() && right.len() < model.chunks() as usize);
    let counters = store.counters();
    assert!(counters.dropped_chunks > 0 && counters.errors > 0, "{counters:?}");
    // Full to the last page: no entry can be made, reading goes on, and nothing panics.
    let mut rest = File::create(point.join("rest")).unwrap();
    while rest.write(&[1; 4096]).is_ok() {}
    let late = Model::new(2, 50_000);
    assert!(late.entry(&store).is_none());
    assert_eq!(model.right(&entry), right);
    assert_eq!(entry.seal(&mut model.proof()), Sealing::Incomplete);
    drop((entry, store));
    let store = open(&point);
    assert_eq!(model.right(&model.entry(&store).unwrap()), right, "opened on a full disk");
    drop(store);
    fs::remove_file(point.join("rest")).unwrap();
    // What is not in use leaves for what is wanted: the writer makes room, and the next one finds it.
    let store = Store::open(&point, &Config { floor: Some(64 << 10), ..config() }).unwrap();
    let big = Model::new(3, 600_000);
    assert!(big.entry(&store).is_none());
    flush(&store);
    assert_eq!(big.right(&big.fill(&store)), all(&big));
    assert!(store.counters().evicted_entries == 1 && !model.map(&point).exists());
}

#[test]
fn two_stores_fill_one_key_while_a_third_prunes() {
    let bench = Bench::new();
    let dir = bench.dir.join("cache");
    let models: Vec<Model> = (1..=3).map(|seed| Model::new(seed, 60_000)).collect();
    let until = std::time::Instant::now() + Duration::from_secs(2);
    let hits: usize = std::thread::scope(|scope| {
        let fillers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let store = open(&dir);
                    let mut hits = 0;
                    while std::time::Instant::now() < until {
                        for model in &models {
                            let Some(entry) = model.entry(&store) else { continue };
                            hits += model.right(&entry).len();
                            (0..model.chunks()).for_each(|at| model.offer(&entry, at));
                            flush(&store);
                            if entry.complete() && entry.seal(&mut model.proof()) == Sealing::Proven {
                                let mut bytes = vec![0; model.bytes.len()];
                                entry.sealed().unwrap().read_exact_at(&mut bytes, 0).unwrap();
                                assert_eq!(bytes, model.bytes);
                            }
                        }
                    }
                    assert_eq!(store.counters().damaged_chunks, 0);
                    hits
                })
            })
            .collect();
        scope.spawn(|| {
            let store = open(&dir);
            let mut removed = 0;
            while std::time::Instant::now() < until {
                removed += store.clear().map_or(0, |removed| removed.entries);
                let _ = store.list().unwrap();
                std::thread::sleep(Duration::from_millis(3));
            }
            assert!(removed > 0);
        });
        fillers.into_iter().map(|filler| filler.join().unwrap()).sum()
    });
    assert!(hits > 0);
    let verdict = open(&dir).verify(&mut |_| true).unwrap();
    assert_eq!((verdict.damaged, verdict.leftovers, verdict.foreign), (vec![], vec![], vec![]));
}

/// Not a test by itself: the process that the others start.
#[test]
#[ignore = "started by other tests"]
fn child_fills() {
    let Some(dir) = std::env::var_os("BSFS_TEST_CACHE") else { return };
    let rounds: u32 = std::env::var("BSFS_TEST_ROUNDS").unwrap().parse().unwrap();
    let model = Model::new(1, 1_000_000);
    let store = open(Path::new(&dir));
    for _ in 0..rounds {
        let Some(entry) = model.entry(&store) else { continue };
        let order = noise(std::process::id().into(), model.chunks() as usize);
        let mut chunks = all(&model);
        chunks.sort_by_key(|&at| order[at as usize]);
        for at in chunks {
            model.offer(&entry, at);
            if at % 16 == 0 {
                model.right(&entry);
            }
        }
        flush(&store);
        entry.seal(&mut model.proof());
    }
}

fn child(dir: &Path, rounds: u32) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cache::child_fills", "--ignored", "--nocapture"])
        .env("BSFS_TEST_CACHE", dir)
        .env("BSFS_TEST_ROUNDS", rounds.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn two_processes_fill_one_key_while_a_third_prunes() {
    let bench = Bench::new();
    let dir = bench.dir.join("cache");
    let model = Model::new(1, 1_000_000);
    let mut children = [child(&dir, 20), child(&dir, 20)];
    let store = open(&dir);
    while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        assert_eq!(cache_verb(&dir, &["prune", "--size", "0"]).status.code(), Some(0));
        if let Some(entry) = model.entry(&store) {
            model.right(&entry);
        }
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(store.counters().damaged_chunks, 0);
    assert_eq!(cache_verb(&dir, &["verify"]).status.code(), Some(0));
}

#[test]
fn a_process_that_is_killed_leaves_right_bytes_or_none() {
    let bench = Bench::new();
    let dir = bench.dir.join("cache");
    let model = Model::new(1, 1_000_000);
    let mut seen = 0;
    for round in 0..20 {
        let mut child = child(&dir, 1000);
        if round % 4 == 0 {
            // Some are killed at any moment, also before they have begun; these ones once they write.
            eventually("the child has written", || fs::metadata(model.data(&dir)).is_ok_and(|data| data.blocks() > 0));
        }
        let delay = u64::from(noise(round + 1, 1)[0]);
        std::thread::sleep(Duration::from_millis(5 + delay / 4));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(&dir);
        let entry = model.entry(&store).unwrap();
        seen += model.right(&entry).len();
        if let Some(file) = entry.sealed() {
            let mut bytes = vec![0; model.bytes.len()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, model.bytes);
        }
        assert_eq!(store.counters().damaged_chunks, 0, "no process of this machine sees a half-written chunk");
        drop(entry);
        if round % 4 == 3 {
            store.clear().unwrap();
        }
    }
    assert!(seen > 0);
    let store = open(&dir);
    assert_eq!(model.right(&model.fill(&store)), all(&model));
    let names = fs::read_dir(dir.join("v1")).unwrap().count();
    assert_eq!(names, 4, "two files, the epoch, and the sign of this store");
}

#[test]
fn verbs_show_verify_and_remove() {
    let bench = Bench::new();
    let dir = bench.dir.join("cache");
    let none = cache_verb(&dir, &["list", "--json"]);
    assert_eq!((none.status.code(), json(&none)), (Some(0), serde_json::json!([])));
    assert!(!dir.exists(), "to look does not make it");
    let (model, other) = (Model::new(1, 50_000), Model::new(2, 80_000));
    let store = open(&dir);
    let held = model.fill(&store);
    assert_eq!(held.seal(&mut model.proof()), Sealing::Proven);
    drop(other.fill(&store));
    fs::write(dir.join("v1/stranger"), b"x").unwrap();

    let stats = cache_verb(&dir, &["stats", "--json"]);
    let stats = json(&stats);
    assert_eq!((&stats["entries"], &stats["complete"], &stats["sealed"]), (&2.into(), &2.into(), &1.into()));
    assert_eq!((&stats["in_use"], &stats["foreign"]), (&1.into(), &1.into()));
    assert_eq!(stats["present_bytes"], 130_000);
    let text = String::from_utf8(cache_verb(&dir, &["stats"]).stdout).unwrap();
    assert!(text.contains("2, 2 of them complete, 1 proven whole, 1 in use"), "{text}");

    let list = json(&cache_verb(&dir, &["list", "--json"]));
    let ours = list.as_array().unwrap().iter().find(|entry| entry["key"] == model.key.to_string()).unwrap();
    assert_eq!((&ours["label"], &ours["sealed"]), (&"a model".into(), &true.into()));
    let text = String::from_utf8(cache_verb(&dir, &["list"]).stdout).unwrap();
    assert!(text.contains("a model") && text.contains("proven") && text.contains("complete"), "{text}");

    assert_eq!(cache_verb(&dir, &["verify"]).status.code(), Some(0));
    File::options().write(true).open(other.data(&dir)).unwrap().write_all_at(b"wrong", 30_000).unwrap();
    let verify = cache_verb(&dir, &["verify", "--json"]);
    assert_eq!(verify.status.code(), Some(1));
    let found = json(&verify);
    assert_eq!(found["damaged"][0]["offset"], other.range(9).0);
    assert_eq!(found["foreign"][0], "stranger");
    assert_eq!(cache_verb(&dir, &["verify"]).status.code(), Some(0), "it is forgotten");
    fs::write(other.map(&dir), b"nonsense").unwrap();
    let verify = cache_verb(&dir, &["verify"]);
    assert_eq!(verify.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&verify.stdout).contains("damaged: "), "{verify:?}");

    let pruned = json(&cache_verb(&dir, &["prune", "--size", "1G", "--json"]));
    assert_eq!(pruned["entries"], 0);
    let cleared = json(&cache_verb(&dir, &["clear", "--json"]));
    assert_eq!((&cleared["entries"], &cleared["kept_in_use"]), (&1.into(), &1.into()));
    assert!(held.sealed().is_some() && dir.join("v1/stranger").exists());
    drop((held, store));
    let cleared = cache_verb(&dir, &["clear"]);
    assert!(String::from_utf8_lossy(&cleared.stdout).starts_with("removed 1 files"));
    fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
    assert_eq!(cache_verb(&dir, &["stats"]).status.code(), Some(2));
}
