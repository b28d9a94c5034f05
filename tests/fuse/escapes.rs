//! Names in a mount's log and status are text, whatever a terminal would make of them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use crate::common::mounted::{BSFS, Mount, bsfs};
use crate::common::{Bench, HOSTILE, age, assert_harmless, noise, safetensors};

#[test]
fn logs_and_status_say_names_as_text() {
    let bench = Bench::new();
    let source = bench.dir.join(format!("source {HOSTILE}"));
    fs::create_dir(&source).unwrap();
    let packed = bench.packed("x", &safetensors(1, 300_000));
    let mut bytes = fs::read(&packed).unwrap();
    let at = bytes.len() / 2;
    bytes[at..at + 64].iter_mut().for_each(|byte| *byte ^= 0x55);
    fs::write(source.join(format!("damaged {HOSTILE}.safetensors.bs")), bytes).unwrap();
    fs::write(source.join(format!("{HOSTILE}.bs")), b"no container").unwrap();
    fs::write(source.join(HOSTILE), noise(1, 100_000)).unwrap();
    symlink(HOSTILE.repeat(2), source.join(format!("link {HOSTILE}"))).unwrap();
    symlink("/etc", source.join(format!("out {HOSTILE}"))).unwrap();
    age(&source);
    let point = bench.mount_point();
    for format in ["text", "json"] {
        let log = bench.dir.join(format!("log.{format}"));
        let options = ["--log-file", log.to_str().unwrap(), "--log-format", format, "--allow-other", "--cache", "off"];
        let mut all = vec![std::ffi::OsStr::new("mount")];
        all.extend(options.iter().map(std::ffi::OsStr::new));
        all.extend([source.as_os_str(), point.as_os_str()]);
        let output = bsfs(&bench, &all);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_harmless("mount", &[output.stdout, output.stderr].concat());
        let pid = bsfs::mount::mounts(Some(&point)).unwrap().pop().unwrap().status.unwrap().pid;
        let mount = Mount { point: point.clone(), pid };
        assert_eq!(fs::read_dir(&mount.point).unwrap().count(), 4);
        assert_eq!(fs::read(mount.path(HOSTILE)).unwrap().len(), 100_000);
        assert!(fs::read(mount.path(&format!("damaged {HOSTILE}.safetensors"))).is_err());
        for arguments in [&["status"][..], &["status", "--json"]] {
            let output = bsfs(&bench, arguments);
            assert_harmless(&format!("{arguments:?}"), &[output.stdout, output.stderr].concat());
        }
        let told = fs::read(mount.path(".bsfs/stats.json")).unwrap();
        assert_harmless("stats.json", &told);
        let status: serde_json::Value = serde_json::from_slice(&told).unwrap();
        assert!(status["busy_files"].as_array().unwrap().iter().any(|file| file["file"] == HOSTILE), "{status}");
        let output = bsfs(&bench, ["unmount".as_ref(), mount.point.as_os_str()]);
        assert_harmless("unmount", &[output.stdout, output.stderr].concat());
        drop(mount);
        let text = fs::read(&log).unwrap();
        assert_harmless("log", &text);
        let text = String::from_utf8(text).unwrap();
        for part in ["no conta", "damaged", "out x", "link x"] {
            assert!(text.contains(part), "{format}, {part}: {text}");
        }
        assert!(text.lines().all(|line| line.starts_with(if format == "json" { '{' } else { '[' })), "{text}");
    }
    let output = bsfs(&bench, ["unmount".as_ref(), bench.dir.join(HOSTILE).as_os_str()]);
    assert!(!output.status.success());
    assert_harmless("unmount", &output.stderr);
    // The view needs a terminal, which script(1) is.
    let there = Command::new("script").args(["-qec", "true", "/dev/null"]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        return crate::common::skip("no script(1)");
    }
    let mount = Mount::of(&bench, &source, &point, &["--cache", "off"]);
    fs::read(mount.path(HOSTILE)).unwrap();
    let watch = format!("stty cols 200 rows 40; exec timeout -s INT 60 {BSFS} status --watch {}", point.display());
    let mut view = Command::new("script");
    view.args(["-qefc", &watch, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut view = view.spawn().unwrap();
    let (mut screen, mut shown) = (view.stdout.take().unwrap(), Vec::new());
    let shows = |shown: &[u8]| String::from_utf8_lossy(shown).contains(r"x\u{1b}[31mred\nFORGED");
    let mut part = [0; 4096];
    while !shows(&shown) {
        match screen.read(&mut part).unwrap() {
            0 => break,
            read => shown.extend_from_slice(&part[..read]),
        }
    }
    view.stdin.take().unwrap().write_all(b"q").unwrap();
    screen.read_to_end(&mut shown).unwrap();
    view.wait().unwrap();
    assert!(shows(&shown), "{}", String::from_utf8_lossy(&shown));
    let text = String::from_utf8_lossy(&shown);
    assert!(!text.contains("[31mred\n") && !text.contains(['\u{9b}', '\u{202e}', '\u{200b}']), "{text}");
}
