//! Every message of docs/troubleshooting.md is one that this release says: each is provoked and compared with the page.
//! Takes root and `/dev/fuse`.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::hub::{Config, Hub};
use crate::common::mounted::{BSFS, command, unmount};
use crate::common::server::{Fault, Server};
use crate::common::{Bench, noise, pack, root_for, safetensors};

const PAGE: &str = include_str!("../../docs/troubleshooting.md");

/// Words that stand for something else on the page.
const PLACEHOLDERS: [&str; 12] =
    ["FILE", "DIR", "N", "SOURCE", "REASON", "PROCESSES", "PROCESS", "NAME", "LIST", "BYTES", "WANT", "PLACE"];

/// How each message comes about: how its heading begins, and a script. `$SELF` is this program, `$HUB` and `$WEB` are servers
/// (`go` a file that makes `$WEB` serve other versions), `$GONE` a port where nobody listens.
const SCENES: &[(&str, &str)] = &[
    ("Input/output error", "bsfs mount packed mnt; cat mnt/flipped.safetensors >/dev/null"),
    (
        "Bus error",
        "bsfs mount packed mnt; MAPPED=mnt/flipped.safetensors $SELF --ignored --exact troubleshooting::maps_a_file >/dev/null",
    ),
    ("Read-only file system", "bsfs mount packed mnt; touch mnt/new"),
    ("Permission denied", "chmod 755 . mnt; bsfs mount packed mnt; setpriv --reuid 65534 --clear-groups ls mnt"),
    (
        "Transport endpoint is not connected",
        "bsfs mount packed mnt; kill -9 $(bsfs status mnt | awk '$1 == \"process\" { print $2 + 0 }'); sleep 0.5; ls mnt",
    ),
    ("DIR: no such directory", "bsfs mount packed nowhere"),
    ("DIR: the mount point is in a", "bsfs mount packed /proc/sys"),
    ("DIR: already mounted", "bsfs mount packed mnt; bsfs mount packed mnt"),
    ("DIR: not empty", "touch mnt/x; bsfs mount packed mnt"),
    ("DIR: the mount point is inside", "mkdir packed/in; bsfs mount packed packed/in"),
    (
        "DIR: cannot open /dev/fuse",
        "unshare -m sh -c 'mount -t tmpfs t /dev && mknod -m 666 /dev/null c 1 3 && bsfs mount packed mnt'",
    ),
    ("DIR: in use", "bsfs mount packed mnt; exec 3<mnt/config.json; bsfs unmount mnt"),
    ("DIR: not a bsfs mount", "bsfs unmount mnt"),
    ("--fuse-fd N", "bsfs mount --fuse-fd 0 packed name"),
    (
        "FILE: leads out of the source",
        "ln -s /etc packed/out; bsfs mount packed mnt --allow-other --log-file log; ls mnt >/dev/null; cat log >&2; rm packed/out",
    ),
    ("unknown mount option", "ln -s $(command -v bsfs) mount.bsfs; ./mount.bsfs packed mnt -o foo"),
    ("DIR: others can write", "mkdir -m 777 open; bsfs mount packed mnt --cache all --cache-dir open"),
    ("DIR: the disk cache lies", "bsfs mount packed mnt --cache all --cache-dir mnt/cache"),
    ("FILE: the file is cut short", "head -c 100000 packed/model.safetensors.bs >cut.bs; bsfs info cut.bs"),
    ("FILE: damaged chunk", "bsfs verify packed/flipped.safetensors.bs"),
    ("FILE: damaged index", "bsfs info packed/index.safetensors.bs"),
    ("FILE: not a bsfs container", "echo 'nothing that is known' >x.bs; bsfs info x.bs"),
    ("FILE: exists already", "bsfs compress model.safetensors -o packed/model.safetensors.bs"),
    ("FILE: is a bsfs container already", "bsfs compress packed/model.safetensors.bs"),
    (
        "FILE: cannot write",
        "mkdir full; mount -t tmpfs -o size=256k t full; bsfs compress model.safetensors -o full/x.bs; umount full",
    ),
    ("FILE: the name does not end", "cp packed/model.safetensors.bs odd; bsfs decompress odd"),
    ("DIR: is a directory", "bsfs compress models"),
    ("FILE: cannot be read without", "bsfs verify alone/fine.safetensors.bs"),
    ("DIR: no such file or directory", "bsfs compress model.safetensors --base nothing"),
    ("--replace removes files", "bsfs compress model.safetensors --replace"),
    ("FILE: open for writing", "exec 3>>model.safetensors; bsfs compress model.safetensors --replace --yes"),
    ("FILE: has N names", "mkdir d; ln model.safetensors d/m.safetensors; bsfs compress d --replace --yes"),
    ("FILE: would be N bytes", "bsfs compress random.safetensors --replace --yes >&2"),
    ("PLACE: the server does not answer", "bsfs mount http://127.0.0.1:$GONE/m mnt --patience 1"),
    ("PLACE: HTTP status N", "bsfs pull hf://org/private"),
    ("PLACE: pushing needs a token", "bsfs push packed org/name"),
    ("NAME: not an address", "bsfs pull org/name"),
    ("PLACE: not in the cache", "HF_HUB_OFFLINE=1 bsfs pull hf://org/name"),
    (
        "PLACE: the file changed",
        "bsfs mount $WEB/plain.safetensors mnt --cache off --log-file log; >go; cat mnt/* >/dev/null; cat log >&2",
    ),
];

/// The messages of the page, in its order.
fn headings() -> Vec<&'static str> {
    PAGE.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect()
}

/// What of a heading is said literally: the parts between placeholders.
fn literal(heading: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (mut parts, mut begin, mut at) = (vec![], 0, 0);
    while at < heading.len() {
        let word = heading[at..].split(|c| !is_word(c)).next().unwrap();
        if PLACEHOLDERS.contains(&word) {
            parts.push(&heading[begin..at]);
            begin = at + word.len();
        }
        at += word.len();
        at += heading[at..].chars().next().map_or(0, char::len_utf8);
    }
    parts.push(&heading[begin..]);
    parts
}

/// Whether a line says what a heading says, with something in the place of each placeholder.
fn says(line: &str, heading: &str) -> bool {
    let parts = literal(heading);
    let mut rest = line;
    for (i, part) in parts.iter().enumerate() {
        // something stands in the place of a placeholder
        let from = usize::from(i > 0);
        let Some(found) = rest.get(from..).and_then(|rest| rest.find(part)) else { return false };
        rest = &rest[from + found + part.len()..];
    }
    !parts.last().unwrap().contains(';') || rest.trim().is_empty()
}

struct Stage {
    bench: Bench,
    hub: Hub,
    web: Server,
}

impl Stage {
    fn new() -> Self {
        let stage = Self { bench: Bench::new(), hub: Hub::with(Config::default()), web: Server::new() };
        let dir = &stage.bench.dir;
        for name in ["packed", "alone", "mnt", "models"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        let model = safetensors(1, 500_000);
        fs::write(dir.join("model.safetensors"), &model).unwrap();
        fs::write(dir.join("random.safetensors"), noise(2, 100_000)).unwrap();
        fs::write(dir.join("packed/config.json"), "{}").unwrap();
        let packed = dir.join("packed/model.safetensors.bs");
        pack(&dir.join("model.safetensors"), &packed);
        let bytes = fs::read(&packed).unwrap();
        for (name, at) in [("flipped", bytes.len() / 2), ("index", bytes.len() - 100)] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            fs::write(dir.join(format!("packed/{name}.safetensors.bs")), bytes).unwrap();
        }
        // A fine-tune whose base is not where anybody looks.
        let mut fine = model.clone();
        *fine.last_mut().unwrap() ^= 1;
        fs::create_dir(dir.join("base")).unwrap();
        fs::write(dir.join("base/base.safetensors"), &model).unwrap();
        fs::write(dir.join("base/fine.safetensors"), &fine).unwrap();
        let arguments = ["compress", "base/fine.safetensors", "--base", "base/base.safetensors", "-o"];
        let output = command(&stage.bench).args(arguments).arg("alone/fine.safetensors.bs").current_dir(dir).output();
        assert!(output.unwrap().status.success());
        fs::remove_dir_all(dir.join("base")).unwrap();
        stage.web.put("/plain.safetensors", &model);
        let go = dir.join("go");
        stage.web.plan(move |_, _| go.exists().then(|| Fault::Etag("\"other\"".into())));
        stage
    }

    /// What a script says on standard error.
    fn play(&self, script: &str) -> String {
        let dir = &self.bench.dir;
        let programs = Path::new(BSFS).parent().unwrap().display();
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let errors = dir.join("errors");
        // A file, not a pipe: a daemon that outlives the script would keep a pipe open.
        let mut sh = Command::new("sh");
        sh.args(["-c", script]).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null());
        sh.stderr(File::create(&errors).unwrap());
        sh.env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap()));
        sh.env("SELF", std::env::current_exe().unwrap()).env("LC_ALL", "C");
        sh.env("XDG_STATE_HOME", dir.join("state")).env("XDG_CACHE_HOME", dir.join("cache"));
        sh.env("HF_HUB_CACHE", dir.join("hub")).env("HF_HOME", dir.join("hf")).env_remove("HF_TOKEN");
        sh.env("HF_ENDPOINT", self.hub.endpoint()).env("WEB", self.web.url("")).env("GONE", gone.to_string());
        sh.status().unwrap();
        String::from_utf8_lossy(&fs::read(errors).unwrap()).into_owned()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The daemons end with their mounts.
        let _ = unmount(&self.bench.dir.join("mnt"), libc::MNT_DETACH);
        let _ = unmount(&self.bench.dir.join("full"), libc::MNT_DETACH);
    }
}

#[test]
fn every_message_on_the_page_is_provoked() {
    if !root_for("the scenes of the page") {
        return;
    }
    let headings = headings();
    for (begin, _) in SCENES {
        assert!(headings.iter().any(|h| h.starts_with(begin)), "'{begin}' is not on the page");
    }
    let mut wrong = vec![];
    for heading in &headings {
        let scene = SCENES.iter().find(|(begin, _)| heading.starts_with(begin));
        let (_, script) = scene.unwrap_or_else(|| panic!("nothing provokes '{heading}'"));
        let said = Stage::new().play(script);
        if !said.lines().any(|line| says(line, heading)) {
            wrong.push(format!("expected: {heading}\n  script: {script}\n     got: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_line_that_says_less_or_more_is_not_the_message() {
    let heading = "FILE: has N names (hard links), N of them here; left as it is";
    assert!(says("bsfs: a/b: has 3 names (hard links), 1 of them here; left as it is", heading));
    for line in [
        "bsfs: a/b: has 3 names (hard links), 1 of them here; left as it is, perhaps",
        "bsfs: a/b: has 3 names (hard links)",
        "bsfs: a/b: has names (hard links), 1 of them here; left as it is",
        "",
    ] {
        assert!(!says(line, heading), "{line}");
    }
}

/// A part of the scene with the mapping: run by it, and ended by the kernel.
#[test]
#[ignore = "run by another test"]
fn maps_a_file() {
    let Ok(path) = std::env::var("MAPPED") else { return };
    let file = File::open(path).unwrap();
    // SAFETY: nobody changes the file.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    let sum: u64 = map.iter().map(|&b| u64::from(b)).sum();
    println!("{sum}");
}
