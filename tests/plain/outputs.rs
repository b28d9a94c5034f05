//! Outputs that are no regular files are never replaced; a stream is written where that is possible.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::{Bench, eventually, safetensors};

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bsfs"));
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn bsfs(dir: &Path, arguments: &[&str]) -> Output {
    command(dir, arguments).output().unwrap()
}

fn fails(dir: &Path, arguments: &[&str], word: &str) {
    let output = bsfs(dir, arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    assert!(error.contains(word) && error.lines().count() == 1, "{arguments:?}: {error}");
}

fn well(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A directory with a model, its container, one of bigsmall, and names that lead to what no file may replace.
fn bench() -> (Bench, Vec<u8>) {
    let bench = Bench::new();
    let (dir, raw) = (&bench.dir, safetensors(1, 100_000));
    fs::write(dir.join("m.safetensors"), &raw).unwrap();
    well(&bsfs(dir, &["compress", "m.safetensors"]));
    well(&bsfs(dir, &["export", "m.safetensors", "--format", "bigsmall", "-o", "theirs.bs"]));
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("fifo"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    symlink("/dev/null", dir.join("null")).unwrap();
    symlink("/proc/self/fd/1", dir.join("out")).unwrap();
    symlink("fifo", dir.join("to-fifo")).unwrap();
    (bench, raw)
}

fn assert_untouched(dir: &Path) {
    assert!(fs::symlink_metadata(dir.join("fifo")).unwrap().file_type().is_fifo());
    for link in ["null", "out", "to-fifo"] {
        assert!(fs::symlink_metadata(dir.join(link)).unwrap().is_symlink(), "{link}");
    }
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

#[test]
fn devices_pipes_and_links_to_them_are_not_replaced() {
    let (bench, _) = bench();
    let dir = &bench.dir;
    for output in ["null", "/dev/null", "out", "/dev/stdout", "fifo", "to-fifo", "-"] {
        for force in [&[][..], &["--force"]] {
            // Not what the machine needs, if it were replaced after all.
            if output.starts_with("/dev") && !force.is_empty() {
                continue;
            }
            let all = |verb: &[&'static str]| [verb, &["-o", output], force].concat();
            fails(dir, &all(&["compress", "m.safetensors"]), "cannot be written to a stream");
            fails(dir, &all(&["flatten", "m.safetensors.bs"]), "cannot be written to a stream");
            fails(dir, &all(&["migrate", "theirs.bs"]), "cannot be written to a stream");
        }
    }
    // As one of the files of a mirror.
    fs::create_dir_all(dir.join("model")).unwrap();
    fs::create_dir_all(dir.join("mirror")).unwrap();
    fs::write(dir.join("model/m.safetensors"), b"x").unwrap();
    fs::write(dir.join("model/a"), b"x").unwrap();
    for taken in ["mirror/m.safetensors.bs", "mirror/a"] {
        symlink("/dev/null", dir.join(taken)).unwrap();
        fails(dir, &["compress", "model", "-o", "mirror", "--force"], "never replaced");
        fs::remove_file(dir.join(taken)).unwrap();
    }
    well(&bsfs(dir, &["compress", "model", "-o", "mirror"]));
    fs::create_dir_all(dir.join("back")).unwrap();
    for taken in ["back/m.safetensors", "back/a"] {
        symlink("../fifo", dir.join(taken)).unwrap();
        fails(dir, &["decompress", "mirror", "-o", "back", "--force"], "never replaced");
        fs::remove_file(dir.join(taken)).unwrap();
    }
    // A directory is no file either.
    fs::create_dir_all(dir.join("d/m.safetensors.bs")).unwrap();
    fails(dir, &["compress", "m.safetensors", "-o", "d", "--force"], "a directory");
    assert_untouched(dir);
}

#[test]
fn decompress_and_export_write_to_streams() {
    let (bench, raw) = bench();
    let dir = &bench.dir;
    let theirs = fs::read(dir.join("theirs.bs")).unwrap();
    let export = ["export", "m.safetensors", "--format", "bigsmall"];
    let verbs: [(&[&str], &[u8]); 4] = [
        (&["decompress", "m.safetensors.bs"], &raw),
        (&["export", "m.safetensors.bs", "--format", "bigsmall"], &theirs),
        (&export, &theirs),
        (&["decompress", "theirs.bs"], &[]),
    ];
    for (verb, expected) in verbs {
        let expected = if expected.is_empty() { fs::read(shown(dir)).unwrap() } else { expected.to_vec() };
        for output in ["-", "/dev/stdout", "out", "/proc/self/fd/1"] {
            let done = bsfs(dir, &[verb, &["-o", output]].concat());
            well(&done);
            assert!(done.stdout == expected, "{verb:?} {output}: {} bytes", done.stdout.len());
        }
        // To a file that has a beginning.
        let log = dir.join("log");
        fs::write(&log, b"before").unwrap();
        let to = fs::File::options().append(true).open(&log).unwrap();
        assert!(command(dir, &[verb, &["-o", "/dev/stdout"]].concat()).stdout(to).status().unwrap().success());
        assert!(fs::read(&log).unwrap() == [b"before", &expected[..]].concat(), "{verb:?}");
        for output in ["fifo", "to-fifo"] {
            let running = command(dir, &[verb, &["-o", output]].concat()).spawn().unwrap();
            let mut read = Vec::new();
            fs::File::open(dir.join("fifo")).unwrap().read_to_end(&mut read).unwrap();
            well(&running.wait_with_output().unwrap());
            assert!(read == expected, "{verb:?} {output}: {} bytes", read.len());
        }
        well(&bsfs(dir, &[verb, &["-o", "null", "--force"]].concat()));
    }
    // A container that is damaged ends with an error, whatever was written before.
    let mut damaged = fs::read(dir.join("m.safetensors.bs")).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(dir.join("damaged.bs"), damaged).unwrap();
    let done = bsfs(dir, &["decompress", "damaged.bs", "-o", "-"]);
    assert!(done.status.code() == Some(65) && raw.starts_with(&done.stdout));
    fails(dir, &["decompress", "source", "-o", "-"], "no stream can take");
    assert_untouched(dir);
}

#[test]
fn a_descriptor_is_written_from_where_it_is() {
    let (bench, raw) = bench();
    let (dir, log) = (&bench.dir, bench.dir.join("log"));
    fs::write(dir.join("m"), b"").unwrap();
    let shell = |script: &str| {
        fs::write(&log, b"before").unwrap();
        let mut shell = Command::new("sh");
        let output = shell.args(["-c", script, env!("CARGO_BIN_EXE_bsfs")]).current_dir(dir).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let after = [b"before", &raw[..]].concat();
    std::os::unix::fs::symlink("/proc/thread-self/fd/3", dir.join("third")).unwrap();
    for to in ["/dev/fd/3 3>>log", "third 3>>log", "/dev/stderr 2>>log", "/proc/self/fd/1 >>log"] {
        let done = shell(&format!("exec \"$0\" decompress m.safetensors.bs -o {to}"));
        assert!(done.0 == Some(0) && fs::read(&log).unwrap() == after, "{to}: {done:?}");
    }
    // One that is open for reading, and one of another process.
    let verb = "\"$0\" decompress m.safetensors.bs -o";
    for (script, word) in [
        (format!("{verb} /dev/fd/3 3<log"), "not open for writing"),
        (format!("exec 3>>log; {verb} /proc/$$/fd/3; exit $?"), "would be overwritten"),
    ] {
        let (code, error) = shell(&script);
        assert!(code == Some(2) && error.contains(word), "{script}: {code:?} {error}");
        assert_eq!(fs::read(&log).unwrap(), b"before", "{script}");
    }
}

#[test]
fn asked_to_stop_while_a_fifo_has_no_reader_it_is_interrupted() {
    let (bench, _) = bench();
    for to in ["fifo", "to-fifo"] {
        let running = command(&bench.dir, &["decompress", "m.safetensors.bs", "-o", to]).spawn().unwrap();
        let status = format!("/proc/{}/status", running.id());
        let caught = |line: &str| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok();
        eventually("it listens to signals", || {
            let caught = fs::read_to_string(&status).unwrap().lines().find_map(caught);
            caught.is_some_and(|caught| caught & 1 << (libc::SIGHUP - 1) != 0)
        });
        // SAFETY: no memory is involved.
        assert_eq!(unsafe { libc::kill(running.id() as i32, libc::SIGINT) }, 0);
        let output = running.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn what_has_a_name_in_the_directory_for_temporary_files_is_not_in_the_way_of_an_export() {
    let (bench, _) = bench();
    let dir = &bench.dir;
    fs::create_dir_all(dir.join("tmp/bsfs-export")).unwrap();
    let mut export = command(dir, &["export", "m.safetensors", "--format", "bigsmall", "-o", "-"]);
    let output = export.env("TMPDIR", dir.join("tmp")).output().unwrap();
    well(&output);
    assert!(output.stdout == fs::read(dir.join("theirs.bs")).unwrap());
    assert_eq!(fs::read_dir(dir.join("tmp")).unwrap().count(), 1);
}

/// The file that the container of bigsmall is shown as.
fn shown(dir: &Path) -> std::path::PathBuf {
    let shown = dir.join("shown.safetensors");
    if !shown.exists() {
        well(&bsfs(dir, &["decompress", "theirs.bs", "-o", "shown.safetensors"]));
    }
    shown
}

#[test]
fn a_link_is_replaced_itself_and_what_it_leads_to_stays() {
    let (bench, raw) = bench();
    let dir = &bench.dir;
    fs::write(dir.join("kept"), b"kept").unwrap();
    for (link, text) in [("a", "kept"), ("b", "nothing"), ("c", "m.safetensors.bs")] {
        symlink(text, dir.join(link)).unwrap();
        fails(dir, &["decompress", "theirs.bs", "-o", link], "exists already");
        well(&bsfs(dir, &["decompress", "theirs.bs", "-o", link, "--force"]));
        assert!(fs::symlink_metadata(dir.join(link)).unwrap().is_file());
    }
    assert_eq!(fs::read(dir.join("kept")).unwrap(), b"kept");
    assert!(!dir.join("nothing").exists());
    well(&bsfs(dir, &["verify", "m.safetensors.bs", "--source", "m.safetensors"]));
    // A link to the input is refused.
    symlink("m.safetensors", dir.join("self")).unwrap();
    fails(dir, &["compress", "m.safetensors", "-o", "self", "--force"], "same file");
    assert!(fs::read(dir.join("m.safetensors")).unwrap() == raw);
}
