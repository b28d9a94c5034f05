//! `--replace` on a disk that fails, fills up, and loses what was not synced. Needs `/dev/fuse`, and root to mount.

use crate::common;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use crate::common::faulty::Faulty;
use crate::common::faulty::crash::Crash;
use crate::common::faulty::disk::{Call, Disk, Op, Verdict};
use crate::common::{Bench, safetensors};

/// A directory on a faulty disk, and what its files must hold whatever happens.
struct World {
    originals: BTreeMap<String, Vec<u8>>,
    disk: Arc<Disk>,
    _mount: Faulty,
    // After the mount: removed last.
    bench: Bench,
}

impl World {
    fn new(nameless: bool, originals: &[(&str, usize)]) -> Option<Self> {
        let (bench, disk) = (Bench::new(), Disk::new());
        let mut held = BTreeMap::new();
        for (seed, (name, elements)) in originals.iter().enumerate() {
            let raw = safetensors(seed as u64, *elements);
            disk.put(name, &raw);
            held.insert((*name).to_owned(), raw);
        }
        let mount = Faulty::mount(&bench.mount_point(), Arc::clone(&disk), nameless)?;
        Some(Self { originals: held, disk, _mount: mount, bench })
    }

    fn run(&self, verb: &str, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bsfs"));
        command.args([verb, "mount", "--replace", "--yes", "-j", "2"]).args(more).current_dir(&self.bench.dir);
        if verb == "compress" {
            command.args(["--chunk-size", "64K"]);
        }
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Runs to a good end.
    fn well(&self, verb: &str) {
        let output = self.run(verb, &[]);
        assert!(output.status.success(), "{verb}: {}", said(&output));
        assert_eq!(self.disk.files(), self.names(verb == "compress"));
        self.sound(verb);
    }

    fn names(&self, packed: bool) -> Vec<String> {
        let mut names: Vec<_> =
            self.originals.keys().map(|name| if packed { format!("{name}.bs") } else { name.clone() }).collect();
        names.sort();
        names
    }

    /// Each file is what it was, or a container that holds it, or both, and nothing else is there.
    fn sound(&self, what: &str) {
        let found: BTreeMap<String, Vec<Arc<Vec<u8>>>> = self
            .disk
            .files()
            .into_iter()
            .map(|path| {
                let data = self.disk.get(&path).unwrap();
                (path, vec![data])
            })
            .collect();
        assert_sound(what, &self.originals, &found, &mut Memo::default());
        for path in found.keys() {
            let name = path.strip_suffix(".bs").unwrap_or(path);
            assert!(self.originals.contains_key(name), "{what}: {path} was left behind");
        }
    }
}

/// What a container of these contents holds, by their hash.
type Memo = HashMap<u64, Option<Vec<u8>>>;

fn held(bytes: &Arc<Vec<u8>>, memo: &mut Memo) -> Option<Vec<u8>> {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let open = || common::held(&bsfs::source::MemorySource::new("m.bs", bytes.to_vec())).ok();
    memo.entry(hasher.finish()).or_insert_with(open).clone()
}

/// Whatever each file that is there may hold, it is right, and of each original something is there. Hidden files may be anything.
fn assert_sound(
    what: &str,
    originals: &BTreeMap<String, Vec<u8>>,
    found: &BTreeMap<String, Vec<Arc<Vec<u8>>>>,
    memo: &mut Memo,
) {
    for (name, raw) in originals {
        let (plain, packed) = (found.get(name), found.get(&format!("{name}.bs")));
        assert!(plain.is_some() || packed.is_some(), "{what}: {name} is lost");
        for data in plain.into_iter().flatten() {
            assert!(**data == *raw, "{what}: {name} is not what it was");
        }
        for data in packed.into_iter().flatten() {
            let held = held(data, memo);
            assert!(held.is_some_and(|held| held == *raw), "{what}: {name}.bs does not hold the file");
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What went wrong is told in one line each, and nothing panics.
fn assert_told(output: &Output, what: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = error.lines().collect();
    assert!(!lines.is_empty() && lines.len() <= 3, "{what}: {error}");
    assert!(lines.iter().all(|line| line.starts_with("bsfs: ")) && !error.contains("panicked"), "{what}: {error}");
}

const ONE: &[(&str, usize)] = &[("m.safetensors", 100_000)];

#[test]
fn what_reads_back_otherwise_than_it_was_written_gets_no_name_and_costs_no_original() {
    for nameless in [true, false] {
        for verb in ["compress", "decompress"] {
            let Some(world) = World::new(nameless, ONE) else { return };
            world.well("compress");
            let packed = world.disk.get("m.safetensors.bs").unwrap();
            world.well("decompress");
            if verb == "decompress" {
                world.well("compress");
            }
            let len = if verb == "compress" { packed.len() } else { world.originals["m.safetensors"].len() } as u64;
            for at in [0, 9, 63, len / 5, len / 2, len - 300, len - 1] {
                world.disk.judge(move |call: &Call<'_>| {
                    if call.written
                        && call.covers(at)
                        && call.name != "m.safetensors"
                        && call.name != "m.safetensors.bs"
                    {
                        return Verdict::Flip(at);
                    }
                    Verdict::Go
                });
                let before = world.disk.files();
                let output = world.run(verb, &[]);
                let what = format!("{verb}, byte {at} of {len}, nameless {nameless}: {}", said(&output));
                assert_eq!(output.status.code(), Some(2), "{what}");
                assert_told(&output, &what);
                assert_eq!(world.disk.files(), before, "{what}");
                world.disk.calm();
                world.sound(&what);
            }
            world.well(verb);
        }
    }
}

#[test]
fn a_file_that_was_misread_while_it_was_packed_is_not_removed() {
    for nameless in [true, false] {
        let Some(world) = World::new(nameless, ONE) else { return };
        let len = world.originals["m.safetensors"].len() as u64;
        for at in [500, len / 2, len - 1] {
            // Until its successor was written and synced; so the container agrees with itself.
            let mut synced = false;
            world.disk.judge(move |call: &Call<'_>| {
                synced |= call.op == Op::Sync;
                if call.name == "m.safetensors" && call.covers(at) && !synced { Verdict::Flip(at) } else { Verdict::Go }
            });
            let output = world.run("compress", &[]);
            let what = format!("byte {at} of {len}, nameless {nameless}: {}", said(&output));
            assert_eq!(output.status.code(), Some(2), "{what}");
            assert_told(&output, &what);
            assert!(what.contains(&format!("byte at offset {at} ")), "{what}");
            assert_eq!(world.disk.files(), ["m.safetensors"], "{what}");
            world.disk.calm();
        }
        world.well("compress");
    }
}

#[test]
fn one_file_that_cannot_be_read_stops_no_other() {
    // Where the header is, where two tensors are compared at first, and where they are compared as a whole.
    for at in [4, 70_000, 150_000] {
        for dedup in [&[][..], &["--dedup"]] {
            let Some(world) = World::new(true, &[]) else { return };
            let raw = safetensors(1, 200_000);
            for name in ["in/a.safetensors", "in/b.safetensors", "in/c.safetensors"] {
                world.disk.put(name, &raw);
            }
            world.disk.judge(move |call: &Call<'_>| {
                if call.name == "a.safetensors" && call.covers(at) { Verdict::Fail(libc::EIO) } else { Verdict::Go }
            });
            let mut command = Command::new(env!("CARGO_BIN_EXE_bsfs"));
            command.args(["compress", "mount/in", "-o", "out"]).args(dedup).current_dir(&world.bench.dir);
            let output = command.stdin(Stdio::null()).output().unwrap();
            let what = format!("byte {at}, {dedup:?}: {}", said(&output));
            assert_eq!(output.status.code(), Some(75), "{what}");
            assert_eq!(what.matches("Input/output error").count(), 1, "{what}");
            let out = world.bench.dir.join("out");
            assert_eq!(bsfs::longpath::names(&out).unwrap(), ["b.safetensors.bs", "c.safetensors.bs"], "{what}");
            let verify = Command::new(env!("CARGO_BIN_EXE_bsfs")).args(["verify", "-j", "2"]).arg(&out).output();
            assert!(verify.unwrap().status.success(), "{what}");
        }
    }
}

#[test]
fn a_run_looks_once_for_what_its_files_need() {
    let opens = |count: u64, verb: &[&str]| {
        let world = World::new(true, &[])?;
        let dir = &world.bench.dir;
        let run = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_bsfs"));
            let output = command.args(arguments).args(["-j", "2"]).current_dir(dir).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        };
        std::fs::create_dir(dir.join("in")).unwrap();
        let raw = safetensors(1, 200_000);
        (0..count).for_each(|n| std::fs::write(dir.join(format!("in/m{n:02}.safetensors")), &raw).unwrap());
        run(&["compress", "in", "-o", "out", "--dedup"]);
        for name in bsfs::longpath::names(&dir.join("out")).unwrap() {
            let bytes = std::fs::read(dir.join("out").join(&name)).unwrap();
            // The first keeps the tensors, and got another name.
            world.disk.put(&name.to_str().unwrap().replace("m00", "renamed"), &bytes);
        }
        let opened = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counted = Arc::clone(&opened);
        world.disk.judge(move |call: &Call<'_>| {
            counted.fetch_add(u64::from(call.op == Op::Open), std::sync::atomic::Ordering::Relaxed);
            Verdict::Go
        });
        run(verb);
        Some(opened.load(std::sync::atomic::Ordering::Relaxed))
    };
    for verb in [&["verify", "mount"][..], &["decompress", "mount", "-o", "back"]] {
        let (Some(few), Some(many)) = (opens(8, verb), opens(16, verb)) else { return };
        assert!(many * 2 < few * 5, "{verb:?}: {few} for 8 files, {many} for 16");
    }
}

#[test]
fn a_disk_that_fills_up_anywhere_keeps_what_it_has_and_with_room_it_goes_on() {
    for nameless in [true, false] {
        for verb in ["compress", "decompress"] {
            let files = &[("a.safetensors", 40_000), ("sub/b.safetensors", 70_000)];
            let Some(world) = World::new(nameless, files) else { return };
            if verb == "decompress" {
                world.well("compress");
            }
            let image = world.disk.image();
            let (mut room, mut full) = (0, 0);
            loop {
                world.disk.room(room);
                let output = world.run(verb, &[]);
                let what = format!("{verb}, room for {room} bytes, nameless {nameless}: {}", said(&output));
                world.disk.calm();
                world.sound(&what);
                if output.status.success() {
                    break;
                }
                assert_eq!(output.status.code(), Some(75), "{what}");
                assert_told(&output, &what);
                assert!(what.contains("No space left on device"), "{what}");
                full += 1;
                world.well(verb);
                world.disk.restore(&image);
                // Not in step with pages and pieces.
                room += 1 + room.min(9_973);
            }
            assert!(full > 15, "{full}");
            assert_eq!(world.disk.files(), world.names(verb == "compress"));
        }
    }
}

/// Files in two directories, one of them with a second name in the other.
const SEVERAL: &[(&str, usize)] =
    &[("a.safetensors", 40_000), ("sub/b.safetensors", 70_000), ("twin.safetensors", 60_000)];

fn several(nameless: bool, verb: &str) -> Option<World> {
    let mut world = World::new(nameless, SEVERAL)?;
    let twin = world.disk.lock().find("twin.safetensors").unwrap();
    world.disk.put_link(twin, "sub/twin.safetensors");
    world.originals.insert("sub/twin.safetensors".into(), world.originals["twin.safetensors"].clone());
    if verb == "decompress" {
        world.well("compress");
    }
    Some(world)
}

/// Several tests for each, since each takes long and waits more than it computes.
macro_rules! errors_at_any_request {
    ($($name:ident: $nameless:expr, $verb:expr;)*) => {
        $(mod $name {
            #[test]
            fn loses_nothing_in_even_requests() {
                super::an_error_at_any_request_loses_nothing_and_leaves_nothing_behind($nameless, $verb, 0);
            }

            #[test]
            fn loses_nothing_in_odd_requests() {
                super::an_error_at_any_request_loses_nothing_and_leaves_nothing_behind($nameless, $verb, 1);
            }
        })*
    };
}

errors_at_any_request! {
    an_error_of_the_disk_in_compress: true, "compress";
    an_error_of_a_disk_without_nameless_files_in_compress: false, "compress";
    an_error_of_the_disk_in_decompress: true, "decompress";
    an_error_of_a_disk_without_nameless_files_in_decompress: false, "decompress";
}

/// Each second request to the disk fails in turn, from request `first` on.
fn an_error_at_any_request_loses_nothing_and_leaves_nothing_behind(nameless: bool, verb: &str, first: u64) {
    let Some(world) = several(nameless, verb) else { return };
    let image = world.disk.image();
    let mut number = first;
    loop {
        let failed = Arc::new(std::sync::Mutex::new(None));
        let noted = Arc::clone(&failed);
        world.disk.judge(move |call: &Call<'_>| {
            if call.number != number {
                return Verdict::Go;
            }
            *noted.lock().unwrap() = Some((call.op, call.name.to_owned()));
            Verdict::Fail(libc::EIO)
        });
        let output = world.run(verb, &[]);
        world.disk.calm();
        let Some((op, name)) = failed.lock().unwrap().take() else { break };
        let what = format!("{verb}, nameless {nameless}, request {number} ({op:?} {name:?}): {}", said(&output));
        if op == Op::Unlink && name.starts_with('.') {
            // That it was left behind is no fault of the program.
            world.disk.restore(&image);
        }
        world.sound(&what);
        if output.status.success() {
            assert_eq!(world.disk.files(), world.names(verb == "compress"), "{what}");
        } else {
            assert_eq!(output.status.code(), Some(75), "{what}");
            assert_told(&output, &what);
        }
        let again = world.run(verb, &[]);
        assert!(again.status.success(), "{what}, and again: {}", said(&again));
        assert_eq!(world.disk.files(), world.names(verb == "compress"), "{what}, and again");
        world.sound(&what);
        world.disk.restore(&image);
        number += 2;
    }
    println!("{verb}, nameless {nameless}: {number} requests");
    assert!(number > 80, "{number}");
}

/// Looks at every state that the loss of power may leave of what was done since `crash`.
fn assert_survives(world: &World, crash: Crash, what: &str) -> usize {
    let mut memo = Memo::default();
    let states = crash.every(&world.disk, |when, found| {
        assert_sound(&format!("{what}: {when}"), &world.originals, found, &mut memo);
    });
    println!("{what}: {states} states");
    states
}

#[test]
fn power_lost_at_any_moment_leaves_each_file_or_its_container() {
    for nameless in [true, false] {
        for verb in ["compress", "decompress"] {
            let Some(world) = several(nameless, verb) else { return };
            let crash = Crash::begin(&world.disk);
            world.well(verb);
            let states = assert_survives(&world, crash, &format!("{verb}, nameless {nameless}"));
            assert!(states > 50, "{states}");
        }
    }
}

#[test]
fn power_lost_after_an_earlier_run_was_cut_off_before_it_synced_loses_nothing() {
    for (nameless, verb) in [(true, "compress"), (false, "compress"), (true, "decompress"), (false, "decompress")] {
        // The first error is that of the directory: the successor has its name, which may not last.
        let Some(world) = several(nameless, verb) else { return };
        let crash = Crash::begin(&world.disk);
        world
            .disk
            .judge(|call: &Call<'_>| if call.op == Op::SyncNames { Verdict::Fail(libc::EIO) } else { Verdict::Go });
        let output = world.run(verb, &[]);
        assert!(!output.status.success(), "{}", said(&output));
        world.disk.calm();
        assert!(world.disk.files().len() > SEVERAL.len() + 1, "both are there");
        world.well(verb);
        assert_survives(&world, crash, &format!("{verb}, nameless {nameless}"));
    }
}

#[test]
fn power_lost_while_something_else_is_replaced_loses_nothing() {
    for nameless in [true, false] {
        for verb in ["compress", "decompress"] {
            let Some(world) = several(nameless, verb) else { return };
            let other = if verb == "compress" { "a.safetensors.bs" } else { "a.safetensors" };
            world.disk.put(other, b"something else");
            let crash = Crash::begin(&world.disk);
            let output = world.run(verb, &["--force"]);
            assert!(output.status.success(), "{}", said(&output));
            let mut memo = Memo::default();
            crash.every(&world.disk, |when, found| {
                // What was to be replaced may be there yet, beside the file.
                let mut found = found.clone();
                if found[other].iter().any(|data| **data == b"something else") {
                    assert_eq!(found.remove(other).unwrap().len(), 1, "{when}");
                }
                assert_sound(&format!("{verb}, nameless {nameless}: {when}"), &world.originals, &found, &mut memo);
            });
        }
    }
}

#[test]
fn a_successor_that_somebody_copied_there_is_synced_before_it_is_relied_on() {
    for verb in ["compress", "decompress"] {
        let Some(world) = several(true, verb) else { return };
        let image = world.disk.image();
        world.well(verb);
        let successor = world.names(verb == "compress").remove(0);
        let bytes = world.disk.get(&successor).unwrap();
        world.disk.restore(&image);
        let crash = Crash::begin(&world.disk);
        world.disk.copy_in(&successor, &bytes);
        // What is half written there proves nothing; the original is relied on until then.
        let mut memo = Memo::default();
        let output = world.run(verb, &[]);
        assert!(said(&output).contains("was there and was proven"), "{}", said(&output));
        crash.every(&world.disk, |when, found| {
            let mut found = found.clone();
            let (name, kept) = (successor.trim_end_matches(".bs"), found.get(&successor).map_or(0, Vec::len));
            let other = if verb == "compress" { name.to_owned() } else { format!("{name}.bs") };
            if kept > 1 && found.contains_key(&other) {
                found.remove(&successor);
            }
            assert_sound(&format!("{verb}: {when}"), &world.originals, &found, &mut memo);
        });
    }
}
