//! `compress --replace` and `decompress --replace`: files change in their place, and nothing is ever lost.

use crate::common;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::common::{Bench, noise, root_for, safetensors, skip};
use bsfs::codec::Mode;
use bsfs::compress::{self, Options, Original};
use bsfs::source::{FileSource, MemorySource, ReadAt};

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bsfs"));
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn bsfs(dir: &Path, arguments: &[&str]) -> Output {
    command(dir, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs bsfs, which must end with `code`; gives what it printed.
fn ends(dir: &Path, code: i32, arguments: &[&str]) -> String {
    let output = bsfs(dir, arguments);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{said}");
    said
}

/// Every file and link below `dir`.
fn below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                left.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// What a container holds, all of it proven.
fn held(path: &Path) -> Result<Vec<u8>, bsfs::Error> {
    common::held(&FileSource::open(path)?)
}

#[test]
fn files_become_containers_in_their_place_and_come_back() {
    let bench = Bench::new();
    let (dir, model) = (&bench.dir, bench.dir.join("model"));
    fs::create_dir_all(model.join("sub")).unwrap();
    let (a, b) = (safetensors(1, 300_000), safetensors(2, 100_000));
    fs::write(model.join("a.safetensors"), &a).unwrap();
    fs::write(model.join("sub/b.safetensors"), &b).unwrap();
    fs::write(model.join("config.json"), b"{}").unwrap();
    let time = UNIX_EPOCH + Duration::new(1_600_000_000, 5);
    let private = File::options().write(true).open(model.join("a.safetensors")).unwrap();
    private.set_modified(time).unwrap();
    private.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    drop(private);

    let said = ends(dir, 0, &["compress", "model", "--replace", "--dry-run"]);
    assert!(said.contains("2 files, 781.6 KiB") && said.contains("nothing was changed"), "{said}");
    assert_eq!(below(&model), ["a.safetensors", "config.json", "sub/b.safetensors"]);
    let said = ends(dir, 2, &["compress", "model", "--replace"]);
    assert!(said.contains("--yes"), "{said}");
    assert_eq!(below(&model), ["a.safetensors", "config.json", "sub/b.safetensors"]);

    let said = ends(dir, 0, &["compress", "model", "--replace", "--yes"]);
    assert!(said.contains("2 replaced") && said.contains("bsfs mount model model"), "{said}");
    assert_eq!(below(&model), ["a.safetensors.bs", "config.json", "sub/b.safetensors.bs"]);
    assert_eq!(held(&model.join("a.safetensors.bs")).unwrap(), a);
    assert_eq!(held(&model.join("sub/b.safetensors.bs")).unwrap(), b);
    let mode = |name: &str| fs::metadata(model.join(name)).unwrap().mode() & 0o777;
    assert_eq!(mode("a.safetensors.bs"), 0o600, "as private as the original");
    // What was announced is what came of it.
    let number = |text: &str, from: &str| -> f64 {
        let rest = &text[text.find(from).unwrap() + from.len()..];
        rest.trim_start().split(|c: char| !(c.is_ascii_digit() || c == '.')).next().unwrap().parse().unwrap()
    };
    let (expected, got) = (number(&said, "(ratio"), number(&said, ", ratio"));
    assert!((expected - got).abs() < 0.003, "{said}");
    assert!(ends(dir, 0, &["compress", "model", "--replace", "--yes"]).contains("no .safetensors file"));

    let said = ends(dir, 0, &["decompress", "model", "--replace", "--yes"]);
    assert!(said.contains("2 replaced"), "{said}");
    assert_eq!(below(&model), ["a.safetensors", "config.json", "sub/b.safetensors"]);
    assert_eq!(fs::read(model.join("a.safetensors")).unwrap(), a);
    assert_eq!(fs::read(model.join("sub/b.safetensors")).unwrap(), b);
    assert_eq!(fs::metadata(model.join("a.safetensors")).unwrap().modified().unwrap(), time);
    assert_eq!(mode("a.safetensors"), 0o600);
}

#[test]
fn what_an_interrupted_run_left_is_proven_and_used_and_what_is_something_else_is_not() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let raw = safetensors(1, 200_000);
    let (plain, packed) = (dir.join("m.safetensors"), dir.join("m.safetensors.bs"));
    fs::write(&plain, &raw).unwrap();
    ends(dir, 0, &["compress", "m.safetensors"]);
    let inode = fs::metadata(&packed).unwrap().ino();
    let said = ends(dir, 0, &["compress", "m.safetensors", "--replace", "--yes"]);
    assert!(said.contains("was there and was proven"), "{said}");
    assert!(!plain.exists() && fs::metadata(&packed).unwrap().ino() == inode, "not made again");

    // The other way.
    fs::write(&plain, &raw).unwrap();
    let inode = fs::metadata(&plain).unwrap().ino();
    let said = ends(dir, 0, &["decompress", "m.safetensors.bs", "--replace", "--yes"]);
    assert!(said.contains("was there and was proven"), "{said}");
    assert!(!packed.exists() && fs::metadata(&plain).unwrap().ino() == inode, "not made again");

    // One byte of the original is another than in the container: both stay, either way.
    ends(dir, 0, &["compress", "m.safetensors"]);
    let sound = fs::read(&packed).unwrap();
    let mut file = File::options().write(true).open(&plain).unwrap();
    file.seek(SeekFrom::End(-1)).unwrap();
    file.write_all(&[!raw[raw.len() - 1]]).unwrap();
    drop(file);
    let said = ends(dir, 2, &["compress", "m.safetensors", "--replace", "--yes"]);
    assert!(said.contains("does not hold this file") && said.contains("both are left"), "{said}");
    ends(dir, 2, &["decompress", "m.safetensors.bs", "--replace", "--yes"]);
    assert_eq!((fs::read(&packed).unwrap() == sound, fs::read(&plain).unwrap().len()), (true, raw.len()));

    // The container is damaged on the disk.
    fs::write(&plain, &raw).unwrap();
    let mut damaged = sound.clone();
    damaged[5000] ^= 1;
    fs::write(&packed, &damaged).unwrap();
    let said = ends(dir, 2, &["compress", "m.safetensors", "--replace", "--yes"]);
    assert!(said.contains("both are left"), "{said}");
    assert_eq!(fs::read(&plain).unwrap(), raw);
    let said = ends(dir, 0, &["compress", "m.safetensors", "--replace", "--yes", "--force"]);
    assert!(said.contains("1 replaced") && !plain.exists(), "{said}");
    assert_eq!(held(&packed).unwrap(), raw);
    // Damaged and alone: nothing is removed, and no file appears.
    fs::write(&packed, &damaged).unwrap();
    ends(dir, 65, &["decompress", "m.safetensors.bs", "--replace", "--yes"]);
    assert!(packed.exists() && !plain.exists());
}

#[test]
fn what_is_not_on_this_machine_is_not_replaced_and_a_name_too_long_is_told_at_once() {
    let bench = Bench::new();
    for address in ["hf://org/name", "s3://bucket/model"] {
        let said = ends(&bench.dir, 2, &["compress", address, "--replace", "--yes"]);
        assert!(said.starts_with(&format!("bsfs: {address}: --replace changes files of this machine")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let name = "n".repeat(241) + ".safetensors";
    fs::write(bench.source().join(&name), safetensors(1, 1000)).unwrap();
    let said = ends(&bench.dir, 2, &["compress", "source", "--replace", "--yes"]);
    assert!(said.contains("cannot create: File name too long"), "{said}");
    assert_eq!(below(&bench.source()), [name]);
}

#[test]
fn what_is_named_is_replaced_once_whatever_its_paths_or_refused() {
    let bench = Bench::new();
    let dir = &bench.dir;
    fs::create_dir(dir.join("t")).unwrap();
    fs::write(dir.join("t/m"), safetensors(1, 50_000)).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("fifo"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    for (verb, named, word) in [
        ("compress", "fifo", "not a regular file"),
        ("decompress", "fifo", "not a regular file"),
        ("decompress", "t/m", "does not end in .bs"),
    ] {
        assert!(ends(dir, 2, &[verb, named, "--replace", "--yes"]).contains(word), "{verb} {named}");
    }
    let said = ends(dir, 0, &["compress", "t", "./t/m", "t/../t", "--replace", "--yes"]);
    assert!(said.contains("1 replaced") && !said.contains("hard links"), "{said}");
    assert_eq!(below(&dir.join("t")), ["m.bs"]);
}

#[test]
fn a_file_that_would_become_longer_stays() {
    let bench = Bench::new();
    let raw = noise(5, 200_000);
    fs::write(bench.dir.join("noise"), &raw).unwrap();
    let said = ends(&bench.dir, 0, &["compress", "noise", "--replace", "--yes"]);
    assert!(said.contains("bytes longer; left as it is") && said.contains("1 kept"), "{said}");
    assert!(!bench.dir.join("noise.bs").exists());
    assert_eq!(fs::read(bench.dir.join("noise")).unwrap(), raw);
}

#[test]
fn a_file_that_somebody_writes_to_is_left_alone() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let (a, b) = (safetensors(1, 100_000), safetensors(2, 120_000));
    fs::write(dir.join("a.safetensors"), &a).unwrap();
    fs::write(dir.join("b.safetensors"), &b).unwrap();
    let writer = File::options().append(true).open(dir.join("a.safetensors")).unwrap();
    let said = ends(dir, 2, &["compress", "a.safetensors", "b.safetensors", "--replace", "--yes"]);
    let me = format!("open for writing by process {}", std::process::id());
    assert!(said.contains(&me) && said.contains("1 replaced") && said.contains("1 failed"), "{said}");
    assert_eq!(fs::read(dir.join("a.safetensors")).unwrap(), a);
    assert!(!dir.join("a.safetensors.bs").exists() && !dir.join("b.safetensors").exists());
    drop(writer);
    // A reader keeps what it has.
    let mut reader = File::open(dir.join("a.safetensors")).unwrap();
    let said = ends(dir, 0, &["compress", "a.safetensors", "--replace", "--yes"]);
    assert!(said.contains("nothing is freed before process"), "{said}");
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert_eq!(read, a);
}

#[test]
fn who_comes_to_write_while_a_file_is_packed_gets_it_and_loses_nothing() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let raw = safetensors(1, 30_000_000);
    let path = dir.join("m.safetensors");
    fs::write(&path, &raw).unwrap();
    let run =
        command(dir, &["compress", "m.safetensors", "--replace", "--yes", "--storage", "-j", "1"]).spawn().unwrap();
    let leased = || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("LEASE") && line.contains(&format!(" {} ", run.id())))
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !leased() {
        assert!(Instant::now() < deadline, "no lease was taken");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut writer = File::options().append(true).open(&path).unwrap();
    writer.write_all(b"more").unwrap();
    drop(writer);
    let output = run.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("opened it for writing meanwhile"), "{said}");
    assert_eq!(below(dir), ["m.safetensors"]);
    assert_eq!(fs::read(&path).unwrap(), [&raw[..], b"more"].concat());
}

#[test]
fn asked_to_stop_it_stops_between_two_chunks_and_goes_on_later() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let (small, large) = (safetensors(1, 50_000), safetensors(2, 20_000_000));
    fs::create_dir(dir.join("model")).unwrap();
    fs::write(dir.join("model/a.safetensors"), &small).unwrap();
    fs::write(dir.join("model/b.safetensors"), &large).unwrap();
    let arguments = ["compress", "model", "--replace", "--yes", "--storage", "-j", "1"];
    let run = command(dir, &arguments).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while dir.join("model/a.safetensors").exists() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::kill(run.id() as i32, libc::SIGTERM) }, 0);
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("running the same again goes on"));
    assert_eq!(below(&dir.join("model")), ["a.safetensors.bs", "b.safetensors"]);
    assert!(fs::read(dir.join("model/b.safetensors")).unwrap() == large);
    ends(dir, 0, &["compress", "model", "--replace", "--yes"]);
    assert!(held(&dir.join("model/b.safetensors.bs")).unwrap() == large);
}

#[test]
fn a_hub_cache_keeps_its_links_and_hard_links_stay_one_file() {
    let bench = Bench::new();
    let model = bench.dir.join("models--o--n");
    for sub in ["blobs", "snapshots/aa", "refs"] {
        fs::create_dir_all(model.join(sub)).unwrap();
    }
    let (raw, other) = (safetensors(1, 100_000), safetensors(2, 50_000));
    fs::write(model.join("blobs/1111"), &raw).unwrap();
    fs::write(model.join("blobs/2222"), b"{}").unwrap();
    fs::write(model.join("refs/main"), b"aa").unwrap();
    symlink("../../blobs/1111", model.join("snapshots/aa/model.safetensors")).unwrap();
    symlink("../../blobs/2222", model.join("snapshots/aa/config.json")).unwrap();
    fs::write(model.join("x.safetensors"), &other).unwrap();
    fs::hard_link(model.join("x.safetensors"), model.join("y.safetensors")).unwrap();
    let before = below(&model);

    let said = ends(&bench.dir, 0, &["compress", "models--o--n", "--replace", "--yes"]);
    assert!(said.contains("2 replaced") && said.contains("what links lead to (1)"), "{said}");
    let packed = [
        "blobs/1111.bs",
        "blobs/2222",
        "refs/main",
        "snapshots/aa/config.json",
        "snapshots/aa/model.safetensors",
        "x.safetensors.bs",
        "y.safetensors.bs",
    ];
    assert_eq!(below(&model), packed);
    let link = fs::read_link(model.join("snapshots/aa/model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs/1111"), "links are not touched");
    let inode = |name: &str| fs::metadata(model.join(name)).unwrap().ino();
    assert_eq!(inode("x.safetensors.bs"), inode("y.safetensors.bs"));
    assert_eq!(held(&model.join("blobs/1111.bs")).unwrap(), raw);

    ends(&bench.dir, 0, &["decompress", "models--o--n", "--replace", "--yes"]);
    assert_eq!(below(&model), before);
    assert_eq!(inode("x.safetensors"), inode("y.safetensors"));
    assert_eq!(fs::read(model.join("snapshots/aa/model.safetensors")).unwrap(), raw);
    assert_eq!(fs::read(model.join("y.safetensors")).unwrap(), other);

    // Containers of another version lie at both names: they are replaced if that is asked for.
    for name in ["x", "y"] {
        fs::write(bench.dir.join("other.safetensors"), safetensors(3, 1000)).unwrap();
        ends(&bench.dir, 0, &["compress", "other.safetensors", "-o", &format!("models--o--n/{name}.safetensors.bs")]);
    }
    ends(
        &bench.dir,
        2,
        &["compress", "models--o--n/x.safetensors", "models--o--n/y.safetensors", "--replace", "--yes"],
    );
    let both = ["models--o--n/x.safetensors", "models--o--n/y.safetensors"];
    ends(&bench.dir, 0, &[&["compress", "--replace", "--yes", "--force"][..], &both].concat());
    assert_eq!(inode("x.safetensors.bs"), inode("y.safetensors.bs"));
    assert_eq!(held(&model.join("y.safetensors.bs")).unwrap(), other);
    ends(&bench.dir, 0, &["decompress", "models--o--n", "--replace", "--yes"]);
    assert_eq!(below(&model), before);

    // Half of a hard link is elsewhere.
    fs::hard_link(model.join("x.safetensors"), bench.dir.join("elsewhere")).unwrap();
    let said = ends(&bench.dir, 0, &["compress", "models--o--n", "--replace", "--yes"]);
    assert!(said.contains("3 names (hard links), 2 of them here"), "{said}");
    assert!(model.join("x.safetensors").exists() && !model.join("blobs/1111").exists());
}

/// A file system of the test's own.
struct Off(PathBuf);

impl Off {
    fn mount(arguments: &[&str], at: &Path) -> Option<Self> {
        if !root_for("a small file system") {
            return None;
        }
        let output = Command::new("mount").args(arguments).arg(at).output().unwrap();
        if output.status.success() {
            return Some(Self(at.to_path_buf()));
        }
        skip(&format!("mount {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)));
        None
    }
}

impl Drop for Off {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_somebody_else_fills_up_meanwhile_keeps_what_it_has() {
    let bench = Bench::new();
    let image = bench.dir.join("image");
    File::create(&image).unwrap().set_len(96 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status().is_ok_and(|status| status.success());
    for kind in ["tmpfs", "ext4"] {
        let at = bench.dir.join(kind);
        fs::create_dir(&at).unwrap();
        let arguments = match kind {
            "tmpfs" => ["-t", "tmpfs", "-o", "size=96m", "tmpfs"],
            _ if made => ["-t", "ext4", "-o", "loop", image.to_str().unwrap()],
            _ => {
                skip("no mkfs.ext4");
                continue;
            }
        };
        let Some(_off) = Off::mount(&arguments, &at) else { continue };
        let (small, raw) = (safetensors(2, 100_000), safetensors(1, 15_000_000));
        fs::write(at.join("a.safetensors"), &small).unwrap();
        fs::write(at.join("m.safetensors"), &raw).unwrap();
        let arguments = ["compress", kind, "--replace", "--yes", "--storage", "-j", "1"];
        let run = command(&bench.dir, &arguments).spawn().unwrap();
        // The first file frees some; by now the second is packed.
        let deadline = Instant::now() + Duration::from_secs(60);
        while at.join("a.safetensors").exists() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut filler = File::create(at.join("filler")).unwrap();
        while filler.write_all(&vec![1; 1 << 16]).is_ok() {}
        let output = run.wait_with_output().unwrap();
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.lines().count() == 1, "{kind}: {error}");
        assert!(error.contains("No space left on device") || error.contains("are free"), "{kind}: {error}");
        let found: Vec<_> = below(&at).into_iter().filter(|name| !name.starts_with("lost+found")).collect();
        assert_eq!(found, ["a.safetensors.bs", "filler", "m.safetensors"], "{kind}");
        assert!(fs::read(at.join("m.safetensors")).unwrap() == raw, "{kind}");
        drop(filler);
        fs::remove_file(at.join("filler")).unwrap();
        ends(&bench.dir, 0, &["compress", kind, "--replace", "--yes"]);
        assert!(held(&at.join("m.safetensors.bs")).unwrap() == raw, "{kind}");
        assert!(held(&at.join("a.safetensors.bs")).unwrap() == small, "{kind}");
    }
}

#[test]
fn a_disk_without_room_for_one_more_file_keeps_what_it_has() {
    let bench = Bench::new();
    let at = bench.dir.join("small");
    fs::create_dir(&at).unwrap();
    let Some(_off) = Off::mount(&["-t", "tmpfs", "-o", "size=16m", "tmpfs"], &at) else { return };
    let raw = safetensors(1, 5 << 20);
    fs::write(at.join("m.safetensors"), &raw).unwrap();
    let said = ends(&bench.dir, 2, &["compress", "small", "--replace", "--yes"]);
    assert!(said.contains("of free space beside it"), "{said}");
    assert_eq!(below(&at), ["m.safetensors"]);
    // Room is made by what comes before it.
    fs::write(at.join("m.safetensors"), &raw[..6 << 20]).unwrap();
    fs::write(at.join("a.safetensors"), safetensors(2, 2 << 20)).unwrap();
    let said = ends(&bench.dir, 0, &["compress", "small", "--replace", "--yes"]);
    assert!(said.contains("2 replaced"), "{said}");
    assert_eq!(below(&at), ["a.safetensors.bs", "m.safetensors.bs"]);
    assert!(held(&at.join("m.safetensors.bs")).unwrap() == raw[..6 << 20]);
}

/// A safetensors file of tensors that are unlike each other, some much easier to pack.
fn varied(tensors: u64, elements: usize) -> Vec<u8> {
    let (mut header, mut data) = (String::from("{"), Vec::new());
    for n in 0..tensors {
        let from = data.len();
        let keep = [0x83_u8, 0x81, 0x87, 0x80][(n % 4) as usize];
        for (i, byte) in noise(n + 1, elements * 2).into_iter().enumerate() {
            data.push(if i % 2 == 1 { 0x3c | (byte & keep) } else { byte });
        }
        let comma = if n == 0 { "" } else { "," };
        let to = data.len();
        header += &format!(
            r#"{comma}"layer.{n}.weight":{{"dtype":"BF16","shape":[{elements}],"data_offsets":[{from},{to}]}}"#
        );
    }
    header += "}";
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// A safetensors file with one tensor of each of these types, of numbers as training leaves them: exponents that cluster, differently in
/// each tensor, and no order in the rest.
fn typed(seed: u64, tensors: &[(&str, usize)]) -> Vec<u8> {
    let (mut header, mut data) = (String::from("{"), Vec::new());
    for (n, (dtype, elements)) in tensors.iter().enumerate() {
        let from = data.len();
        let width = match *dtype {
            "I64" => 8,
            "F32" => 4,
            "BF16" | "F16" => 2,
            _ => 1,
        };
        let random = noise(seed * 1000 + n as u64, elements * 8);
        for (at, eight) in random.chunks_exact(8).enumerate() {
            // A sum is about as likely as a weight is; parts of a tensor differ.
            let scale = 0.01 * (1 + n % 5) as f32 * if at / 150_000 % 3 == 2 { 2e-4 } else { 1.0 };
            let value = eight.iter().map(|&byte| f32::from(byte) - 127.5).sum::<f32>() / 300.0 * scale;
            match *dtype {
                "F32" => data.extend(value.to_le_bytes()),
                "BF16" => data.extend(&value.to_le_bytes()[2..]),
                "F16" => {
                    let bits = value.to_bits();
                    let exponent = (bits >> 23 & 0xff).saturating_sub(112).min(30) << 10;
                    data.extend(((bits >> 16 & 0x8000 | exponent | bits >> 13 & 0x3ff) as u16).to_le_bytes());
                }
                "I64" => data.extend((at as u64).to_le_bytes()),
                _ => data.push(eight[0] & 0x83 | 0x38),
            }
        }
        let (comma, to) = (if n == 0 { "" } else { "," }, data.len());
        assert_eq!(to - from, elements * width);
        header += &format!(
            r#"{comma}"model.layers.{n}.weight":{{"dtype":"{dtype}","shape":[{elements}],"data_offsets":[{from},{to}]}}"#
        );
    }
    header += "}";
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// Estimates with this margin and really compresses; points off, and the part that was looked at.
fn points_off(source: &dyn ReadAt, mode: Mode, margin: f64) -> (f64, f64) {
    let (pool, stop) = (bsfs::parallel::pool(2).unwrap(), AtomicBool::new(false));
    let options = Options { mode, chunk_len: None, force: false, against: None, stop: &stop };
    let estimate = compress::estimate(&pool, source, &options, margin).unwrap();
    let original = Original { source, name: source.path(), mtime: (1_700_000_000, 0) };
    let real = compress::measure(&pool, &original, Path::new("m.bs"), &options, &()).unwrap();
    (100.0 * (estimate.ratio - real.ratio), estimate.sampled_bytes as f64 / estimate.raw_bytes.max(1) as f64)
}

/// The program promises 0.3 points, and asks for 0.25.
const SLACK: f64 = 0.05;

#[test]
fn an_estimate_from_a_sample_is_within_a_third_of_a_point() {
    let layers = |dtype: &'static str, elements| vec![(dtype, elements); 24];
    let files = [
        ("layers", varied(24, 1 << 20)),
        ("BF16", typed(1, &layers("BF16", 1_000_000))),
        ("F32", typed(2, &layers("F32", 500_000))),
        ("F16", typed(3, &layers("F16", 1_000_000))),
        ("F8", typed(4, &layers("F8_E4M3", 2_000_000))),
        ("mixed", typed(5, &[layers("BF16", 900_000), layers("F32", 50_000), vec![("I64", 1_000_000)]].concat())),
    ];
    let mut part = 0.0;
    for (name, raw) in files {
        let source = MemorySource::new(name, raw);
        for mode in [Mode::Balanced, Mode::Inference] {
            for margin in [0.0025, 0.01] {
                let (points, looked) = points_off(&source, mode, margin);
                let what = format!("{name} {mode:?} for {margin}: {points:+.3} points, {:.0} % seen", 100.0 * looked);
                println!("{what}");
                assert!(points.abs() < 100.0 * margin + SLACK, "{what}");
                part += looked / 24.0;
            }
        }
    }
    assert!(part < 0.9, "all was looked at: {part}");
}

#[test]
fn an_estimate_of_what_is_looked_at_whole_is_exact_but_for_digests() {
    let mut files: Vec<(String, Vec<u8>)> = vec![
        ("empty".into(), Vec::new()),
        ("text".into(), b"not a model".repeat(50)),
        ("many".into(), typed(9, &[("BF16", 400); 3000])),
    ];
    for (seed, dtype) in ["BF16", "F16", "F32", "F8_E5M2", "I64"].into_iter().enumerate() {
        for elements in [500_000, 1_200_000] {
            files.push((format!("{dtype} {elements}"), typed(seed as u64, &[(dtype, elements), (dtype, 1000)])));
        }
    }
    for golden in ["empty", "mixed", "noise", "text"] {
        let path = format!("{}/tests/golden/0.1.0-{golden}.bs", env!("CARGO_MANIFEST_DIR"));
        files.push((golden.into(), held(Path::new(&path)).unwrap()));
    }
    for (name, raw) in files {
        let source = MemorySource::new(name.clone(), raw);
        let (points, looked) = points_off(&source, Mode::Balanced, 0.0);
        let off = points / 100.0 * source.len() as f64;
        assert!(off.abs() < 40.0, "{name}: {off} bytes of {}", source.len());
        assert!(looked > 0.0 || source.len() < 1000, "{name}");
    }
}

/// For real files: BSFS_FILES=a:b prints what samples for BSFS_MARGIN say of each, and what is so.
#[test]
#[ignore = "needs files"]
fn estimates_of_files() {
    let margin = std::env::var("BSFS_MARGIN").map_or(0.0025, |margin| margin.parse().unwrap());
    for path in std::env::var("BSFS_FILES").unwrap().split(':') {
        let source = FileSource::open(path).unwrap();
        for mode in [Mode::Balanced, Mode::Inference, Mode::Storage] {
            let (points, looked) = points_off(&source, mode, margin);
            println!("{path} {mode:?}: {points:+.3} points, {:.0} % looked at", 100.0 * looked);
        }
    }
}

#[test]
fn estimate_prints_what_compress_would_take() {
    let bench = Bench::new();
    fs::write(bench.source().join("a.safetensors"), safetensors(1, 100_000)).unwrap();
    fs::write(bench.source().join("config.json"), b"{}").unwrap();
    let said = ends(&bench.dir, 0, &["estimate", "source"]);
    assert!(said.contains("source/a.safetensors") && !said.contains("config.json"), "{said}");
    let json: serde_json::Value =
        serde_json::from_str(&ends(&bench.dir, 0, &["estimate", "source", "--json"])).unwrap();
    assert_eq!(json["files"].as_array().unwrap().len(), 1);
    assert!(json["ratio"].as_f64().unwrap() < 0.8 && json["files"][0]["packed_bytes"].as_u64().unwrap() > 0);
    ends(&bench.dir, 2, &["estimate", "mount"]);
}

#[test]
fn the_estimate_of_a_mixed_directory_is_what_compress_reaches() {
    let bench = Bench::new();
    let source = bench.source();
    fs::create_dir(source.join("sub")).unwrap();
    let files = [
        ("a.safetensors", typed(1, &[("BF16", 2_500_000), ("BF16", 2000)])),
        ("b.safetensors", typed(2, &[("F32", 400_000)])),
        ("sub/c.safetensors", typed(3, &[("F16", 700_000), ("I64", 70_000)])),
        ("sub/d.safetensors", typed(4, &[("F8_E4M3", 9_000_000)])),
        ("e.safetensors", noise(3, 1_000_000)),
    ];
    for (name, raw) in &files {
        fs::write(source.join(name), raw).unwrap();
    }
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&text(&bsfs(&bench.dir, arguments).stdout)).unwrap()
    };
    let estimate = json(&["estimate", "source", "--json"]);
    let real = json(&["compress", "source", "--replace", "--yes", "--json"]);
    for file in estimate["files"].as_array().unwrap() {
        let of = |row: &&serde_json::Value| row["input"] == file["path"];
        let Some(row) = real["files"].as_array().unwrap().iter().find(of) else { panic!("{file} {real}") };
        let after = row["after_bytes"].as_u64().unwrap() as f64;
        let points =
            100.0 * (file["packed_bytes"].as_u64().unwrap() as f64 - after) / file["raw_bytes"].as_f64().unwrap();
        assert!(points.abs() < 0.05, "{file} {row}: {points}");
    }
}

/// `kill -9` at random moments, back and forth. BSFS_KILL_ROUNDS=200 for many.
#[test]
fn killed_at_any_moment_nothing_is_lost() {
    let rounds: u64 = std::env::var("BSFS_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let seed: u64 = std::env::var("BSFS_SEED")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
    println!("BSFS_SEED={seed}");
    let mut random = noise(seed, 8 * (2 * rounds as usize + 64)).into_iter();
    let mut random = || u64::from_le_bytes(std::array::from_fn(|_| random.next().unwrap()));
    let bench = Bench::new();
    let model = bench.source();
    let mut originals: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    fs::create_dir_all(model.join("blobs")).unwrap();
    for n in 0..5 {
        originals.insert(format!("m{n}.safetensors"), safetensors(n, 40_000 + 150_000 * n as usize));
    }
    originals.insert("blobs/abc".into(), safetensors(9, 250_000));
    for (name, raw) in &originals {
        fs::write(model.join(name), raw).unwrap();
    }
    symlink("blobs/abc", model.join("linked.safetensors")).unwrap();
    fs::hard_link(model.join("m2.safetensors"), model.join("twin.safetensors")).unwrap();
    originals.insert("twin.safetensors".into(), originals["m2.safetensors"].clone());
    fs::write(model.join("config.json"), b"{}").unwrap();

    let arguments = |packing: bool| [if packing { "compress" } else { "decompress" }, "source", "--replace", "--yes"];
    let started = Instant::now();
    ends(&bench.dir, 0, &arguments(true));
    let whole = started.elapsed();
    let (mut packing, mut both, mut finished) = (false, 0, 0);
    for round in 0..rounds {
        let mut run =
            command(&bench.dir, &arguments(packing)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_nanos(random() % (whole.as_nanos() as u64 * 6 / 5).max(1)));
        // It may have ended.
        let _ = run.kill();
        let done = run.wait().unwrap().success();
        let found = below(&model);
        let mut expected = vec!["config.json".to_owned(), "linked.safetensors".to_owned()];
        let mut there = 0;
        for (name, raw) in &originals {
            // Killed between moving a file aside and removing it.
            let lies = |name: &str| {
                let path = model.join(name);
                let aside = bsfs::sink::aside::aside_path(&path);
                if aside.exists() { aside } else { path }
            };
            let (plain, packed) = (lies(name), lies(&format!("{name}.bs")));
            let named = |path: &Path| path.strip_prefix(&model).unwrap().to_str().unwrap().to_owned();
            let what = format!("round {round}, packing {packing}, {name}");
            assert!(plain.exists() || packed.exists(), "lost: {what}");
            if plain.exists() {
                assert!(fs::read(&plain).unwrap() == *raw, "{what}");
                expected.push(named(&plain));
            }
            if packed.exists() {
                assert!(held(&packed).unwrap() == *raw, "{what}");
                expected.push(named(&packed));
            }
            both += u32::from(plain.exists() && packed.exists());
            there += u32::from(packed.exists());
        }
        expected.sort();
        assert_eq!(found, expected, "round {round}: something was left behind");
        if done {
            assert_eq!(there, if packing { originals.len() as u32 } else { 0 });
            packing = !packing;
            finished += 1;
        } else if random() % 4 == 0 {
            packing = !packing;
        }
    }
    println!("{rounds} rounds, {finished} to their end, {both} times both were there");
    ends(&bench.dir, 0, &arguments(false));
    for (name, raw) in &originals {
        assert!(fs::read(model.join(name)).unwrap() == *raw, "{name}");
    }
    assert_eq!(below(&model).len(), originals.len() + 2);
}
