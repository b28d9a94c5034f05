//! A directory that was compressed comes back whole: `compress DIR -o OUT`, then `decompress OUT -o BACK`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use crate::common::{Bench, noise, safetensors, skip};
use bsfs::longpath;

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bsfs"));
    command.args(arguments).current_dir(dir).stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs bsfs, which must end with `code`; gives what it printed.
fn ends(dir: &Path, code: i32, arguments: &[&str]) -> String {
    let output = command(dir, arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{}", said(&output));
    said(&output)
}

/// What a directory holds: of each name below it the kind, the permissions, the time, and the bytes or the text.
type Held = BTreeMap<PathBuf, (char, u32, (i64, i64), Vec<u8>)>;

fn held(root: &Path) -> Held {
    let mut held = Held::new();
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        let path = root.join(&below);
        let meta = longpath::symlink_metadata(&path).unwrap();
        let time = (meta.mtime(), meta.mtime_nsec());
        let about = if meta.is_symlink() {
            ('l', 0, time, longpath::read_link(&path).unwrap().as_os_str().as_bytes().to_vec())
        } else if meta.is_dir() {
            left.extend(longpath::names(&path).unwrap().into_iter().map(|name| below.join(name)));
            ('d', meta.mode() & 0o7777, time, Vec::new())
        } else {
            let mut bytes = Vec::new();
            let flags = rustix::fs::OFlags::RDONLY;
            let mut file = longpath::open(&path, flags, rustix::fs::Mode::empty()).unwrap();
            std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
            ('f', meta.mode() & 0o7777, time, bytes)
        };
        held.insert(below, about);
    }
    held
}

fn assert_same(a: &Held, b: &Held, what: &str) {
    let keys: Vec<_> = a.keys().collect();
    assert_eq!(keys, b.keys().collect::<Vec<_>>(), "{what}");
    for (path, about) in a {
        let other = &b[path];
        assert!(about == other, "{what}: {}: {:?} {:?}", path.display(), short(about), short(other));
    }
}

fn short((kind, mode, time, bytes): &(char, u32, (i64, i64), Vec<u8>)) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
    format!("{kind} {mode:o} {time:?} {} bytes {text:?}", bytes.len())
}

/// Whatever is in a tree, by chance.
struct Tree {
    random: std::vec::IntoIter<u8>,
    root: PathBuf,
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
    links: Vec<PathBuf>,
}

impl Tree {
    fn pick(&mut self, below: usize) -> usize {
        usize::from(self.random.next().unwrap()) * 256 % below.max(1)
            + usize::from(self.random.next().unwrap()) % below.max(1) % below.max(1)
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = self.pick(of.len()) % of.len();
        &of[at]
    }

    fn name(&mut self, ending: &str) -> PathBuf {
        let directories = self.directories.clone();
        let directory = self.one(&directories).clone();
        let stems: [&[u8]; 7] =
            [b"model", b".hidden", b"with space", b"a\nb", b"\xff\xfe", "größe".as_bytes(), b"x.safetensors"];
        let stem = self.one(&stems).to_vec();
        let number = self.directories.len() + self.files.len() + self.links.len();
        let name = [&stem[..], format!("-{number}{ending}").as_bytes()].concat();
        directory.join(OsStr::from_bytes(&name))
    }

    fn grow(seed: u64, root: &Path) {
        let mut tree = Self {
            random: noise(seed, 4096).into_iter(),
            root: root.to_path_buf(),
            directories: vec![PathBuf::new()],
            files: Vec::new(),
            links: Vec::new(),
        };
        fs::create_dir(root).unwrap();
        for _ in 0..8 {
            let path = tree.name("");
            fs::create_dir(root.join(&path)).unwrap();
            tree.directories.push(path);
        }
        for n in 0..24 {
            let ending = *tree.one(&[".safetensors", ".safetensors", ".json", ".bin", "", ".sh"]);
            let path = tree.name(ending);
            let bytes = match tree.pick(5) {
                0 => Vec::new(),
                1 => noise(seed + n, 5000),
                _ if ending == ".safetensors" => safetensors(seed * 100 + n, 20_000),
                _ => format!("{{\"n\": {n}}}").into_bytes(),
            };
            let at = root.join(&path);
            fs::write(&at, bytes).unwrap();
            let file = File::options().write(true).open(&at).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::new(1_500_000_000 + n * 1001, n as u32 * 7919)).unwrap();
            let mode = *tree.one(&[0o644, 0o600, 0o755, 0o664, 0o440, 0o777]);
            fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
            tree.files.push(path);
        }
        for _ in 0..16 {
            tree.link();
        }
        for (n, path) in tree.directories.clone().into_iter().enumerate().rev() {
            let directory = File::open(root.join(path)).unwrap();
            let mode = *tree.one(&[0o755, 0o700, 0o775, 0o555, 0o1777, 0o2775]);
            directory.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
            directory.set_modified(UNIX_EPOCH + Duration::new(1_400_000_000 + n as u64, 123)).unwrap();
        }
    }

    /// A link in the tree to something in it, or to nothing.
    fn link(&mut self) {
        let targets: Vec<PathBuf> = match self.pick(4) {
            0 => self.directories.clone(),
            1 if !self.links.is_empty() => self.links.clone(),
            _ => self.files.clone(),
        };
        let target = self.one(&targets).clone();
        let ending = *self.one(&["", ".safetensors", ".json"]);
        let path = self.name(ending);
        let up = path.parent().unwrap().components().map(|_| Path::new(".."));
        let way: PathBuf = up.chain([target.as_path()]).collect();
        let way = if self.pick(8) == 0 { PathBuf::from("../nowhere/at all") } else { way };
        let way = if way.as_os_str().is_empty() { PathBuf::from(".") } else { way };
        let at = self.root.join(&path);
        symlink(way, &at).unwrap();
        date(&at, 1_300_000_000 + self.links.len() as i64);
        self.links.push(path);
    }
}

/// Sets the modification time of a name, if it is a link of the link itself.
fn date(path: &Path, seconds: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: 456 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let rounds: u64 = std::env::var("BSFS_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    for seed in 1..=rounds {
        let bench = Bench::new();
        let dir = &bench.dir;
        let tree = dir.join("tree");
        Tree::grow(seed, &tree);
        let before = held(&tree);
        ends(dir, 0, &["compress", "tree", "-o", "packed", "-j", "2"]);
        assert_same(&before, &held(&tree), "the input");
        let what = ends(dir, 0, &["decompress", "packed", "-o", "back", "-j", "2"]);
        let count = |kind| before.iter().filter(|(_, about)| about.0 == kind).count();
        let packed = held(&dir.join("packed"));
        let restored =
            packed.iter().filter(|(path, about)| about.0 == 'f' && path.extension() == Some("bs".as_ref())).count();
        let copied = count('f') + count('l') - restored;
        assert!(what.contains(&format!("{restored} restored, {copied} copied")), "{what}");
        assert_same(&before, &held(&dir.join("back")), &format!("seed {seed}"));
        ends(dir, 0, &["verify", "packed", "--source", "tree"]);
        // Nothing of a link's is there twice.
        let bytes = |held: &Held| held.values().map(|about| about.3.len()).sum::<usize>();
        assert!(bytes(&packed) < bytes(&before) + 3000 * restored, "seed {seed}");
    }
}

#[test]
fn a_hub_cache_comes_back_with_its_blobs_and_links_and_one_of_an_earlier_release_too() {
    let bench = Bench::new();
    let (dir, hub) = (&bench.dir, bench.dir.join("hub"));
    for sub in ["blobs", "snapshots/aa", "snapshots/bb", "refs"] {
        fs::create_dir_all(hub.join(sub)).unwrap();
    }
    let raw = safetensors(1, 50_000);
    fs::write(hub.join("blobs/1111"), &raw).unwrap();
    fs::write(hub.join("blobs/2222"), b"{}").unwrap();
    fs::write(hub.join("refs/main"), b"aa").unwrap();
    for snapshot in ["aa", "bb"] {
        symlink("../../blobs/1111", hub.join("snapshots").join(snapshot).join("model.safetensors")).unwrap();
        symlink("../../blobs/2222", hub.join("snapshots").join(snapshot).join("config.json")).unwrap();
    }
    ends(dir, 0, &["compress", "hub", "-o", "packed"]);
    assert_eq!(longpath::names(&dir.join("packed/blobs")).unwrap(), ["1111.bs", "2222"]);
    let link = fs::read_link(dir.join("packed/snapshots/bb/model.safetensors.bs")).unwrap();
    assert_eq!(link, Path::new("../../blobs/1111.bs"));
    ends(dir, 0, &["decompress", "packed", "-o", "back"]);
    assert_same(&held(&hub), &held(&dir.join("back")), "hub cache");

    // As 0.1.0 wrote it: the first link a file, the second a link to that.
    fs::create_dir_all(dir.join("old/aa")).unwrap();
    fs::create_dir_all(dir.join("old/bb")).unwrap();
    fs::rename(dir.join("packed/blobs/1111.bs"), dir.join("old/aa/model.safetensors.bs")).unwrap();
    symlink("../aa/model.safetensors.bs", dir.join("old/bb/model.safetensors.bs")).unwrap();
    ends(dir, 0, &["decompress", "old", "-o", "old-back"]);
    assert_eq!(fs::read_link(dir.join("old-back/bb/model.safetensors")).unwrap(), Path::new("../aa/model.safetensors"));
    assert!(fs::read(dir.join("old-back/bb/model.safetensors")).unwrap() == raw);
}

/// Runs bsfs as a user who may not read everything.
fn as_nobody(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = command(dir, arguments);
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    command.output().unwrap()
}

/// The same, with a terminal at which this is answered.
fn answered(dir: &Path, answer: &str, arguments: &[&str]) -> Output {
    let (mut ours, mut theirs) = (0, 0);
    // SAFETY: two numbers to write, and nothing else to read; what is made is held by nothing else.
    let (mut ours, theirs) = unsafe {
        let null = std::ptr::null_mut();
        assert_eq!(libc::openpty(&mut ours, &mut theirs, null, null.cast(), null.cast()), 0);
        (File::from_raw_fd(ours), File::from_raw_fd(theirs))
    };
    std::io::Write::write_all(&mut ours, answer.as_bytes()).unwrap();
    let mut command = command(dir, arguments);
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    command.stdin(theirs).output().unwrap()
}

#[test]
fn what_may_not_be_read_is_left_out_and_the_rest_is_done() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let probe = dir.join("probe");
    fs::write(&probe, b"x").unwrap();
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(dir, 0o777);
    for sub in ["plain", "packed", "replaced"] {
        fs::create_dir_all(dir.join(sub).join("lost+found")).unwrap();
        fs::create_dir_all(dir.join(sub).join("m")).unwrap();
        open(&dir.join(sub), 0o777);
        open(&dir.join(sub).join("m"), 0o777);
    }
    for sub in ["plain", "replaced"] {
        fs::write(dir.join(sub).join("m/a.safetensors"), safetensors(1, 20_000)).unwrap();
        fs::write(dir.join(sub).join("m/secret.safetensors"), safetensors(2, 20_000)).unwrap();
        open(&dir.join(sub).join("m/secret.safetensors"), 0);
    }
    ends(dir, 0, &["compress", "plain/m/a.safetensors", "-o", "packed/m/a.safetensors.bs"]);
    open(&dir.join("packed/m/a.safetensors.bs"), 0o666);
    let aside = dir.join("replaced/m/.gone.safetensors.bsfs-aside");
    fs::write(&aside, b"x").unwrap();
    open(&aside, 0);
    ["plain", "packed", "replaced"].iter().for_each(|sub| open(&dir.join(sub).join("lost+found"), 0));

    // Who answers no changes nothing, and is told all the same.
    let output = answered(dir, "no\n", &["compress", "replaced", "--replace"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("nothing was changed"), "{}", said(&output));
    let based = ["compress", "plain/m/a.safetensors", "-o", "based.bs", "--base", "packed"];
    let verbs: [(&[&str], &str); 7] = [
        (&based, "based.bs"),
        (&["compress", "plain", "-o", "out"], "a.safetensors.bs"),
        (&["estimate", "plain"], "plain/m/a.safetensors"),
        (&["compress", "replaced", "--replace", "--yes"], "1 replaced"),
        (&["info", "packed"], "a.safetensors.bs"),
        (&["verify", "packed"], "sound"),
        (&["decompress", "packed", "-o", "back"], "1 restored"),
    ];
    for (arguments, done) in verbs {
        let output = as_nobody(dir, arguments);
        let what = format!("{arguments:?}: {}", said(&output));
        assert_eq!(output.status.code(), Some(2), "{what}");
        assert!(what.contains(done) && what.contains("lost+found: cannot list: Permission denied"), "{what}");
        assert!(what.contains("; left out"), "{what}");
        assert_eq!(what.contains("cannot put back: permission denied"), arguments.contains(&"--replace"), "{what}");
    }
    assert!(aside.exists());
    assert!(dir.join("out/m/a.safetensors.bs").is_file() && dir.join("back/m/a.safetensors").is_file());
    assert!(dir.join("replaced/m/secret.safetensors").is_file() && !dir.join("replaced/m/a.safetensors").exists());
    let migrated = as_nobody(dir, &["migrate", "packed", "-o", "migrated"]);
    assert!(said(&migrated).contains("left out"), "{}", said(&migrated));
}

#[test]
fn paths_longer_than_the_system_takes_are_no_matter() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let mut deep = dir.join("tree");
    while deep.as_os_str().len() < 9000 {
        deep.push("deep".repeat(50));
    }
    longpath::create_dir_all(&deep).unwrap();
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let raw = safetensors(1, 20_000);
    for (name, bytes) in [("m.safetensors", &raw[..]), ("config.json", b"{}")] {
        let mut file = longpath::open(&deep.join(name), flags, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
    }
    longpath::symlink(Path::new("m.safetensors"), &deep.join("link.safetensors")).unwrap();
    let before = held(&dir.join("tree"));
    let estimated = ends(dir, 0, &["estimate", "tree", "--json"]);
    assert!(estimated.contains(&format!("\"raw_bytes\": {}", raw.len())), "{estimated}");
    ends(dir, 0, &["compress", "tree", "-o", "packed"]);
    assert!(ends(dir, 0, &["verify", "packed", "--source", "tree"]).contains("sound"));
    ends(dir, 0, &["info", "packed"]);
    ends(dir, 0, &["decompress", "packed", "-o", "back"]);
    assert_same(&before, &held(&dir.join("back")), "deep");
    assert!(ends(dir, 0, &["compress", "tree", "--replace", "--yes"]).contains("1 replaced"));
    assert!(ends(dir, 0, &["decompress", "tree", "--replace", "--yes"]).contains("1 replaced"));
    let mut after = held(&dir.join("tree"));
    // The directory's time is the one of the last replacement.
    for (path, about) in &mut after {
        about.2 = before[path].2;
    }
    assert_same(&before, &after, "deep, in place");

    // Named themselves.
    let deep = deep.strip_prefix(dir).unwrap();
    let path = |name: &str| deep.join(name).into_os_string().into_string().unwrap();
    let (plain, packed) = (path("m.safetensors"), path("m.safetensors.bs"));
    let again = ["compress", &plain, "-o", &plain, "--force"];
    assert!(ends(dir, 2, &again).contains("input and output are the same file"));
    for arguments in [
        &["estimate", &plain][..],
        &["compress", &plain],
        &["flatten", "--in-place", &packed],
        &["verify", &packed, "--source", &plain],
        &["verify", &path("")],
        &["decompress", &packed, "--force"],
        &["decompress", &packed, "--replace", "--yes"],
        &["compress", &plain, "--replace", "--yes", "--force"],
        &["decompress", &path(""), "-o", "deepest"],
        &["compress", &plain, &packed, "-o", &path("")],
    ] {
        let code = if arguments.last() == Some(&&*path("")) && arguments[0] == "compress" { 2 } else { 0 };
        let said = ends(dir, code, arguments);
        assert!(!said.contains("File name too long"), "{arguments:?}: {said}");
    }
    assert!(fs::read(dir.join("deepest/m.safetensors")).unwrap() == raw);
}

#[test]
fn an_input_that_reads_longer_or_shorter_than_stat_says_is_refused_with_both_lengths() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let version = fs::read("/proc/version").unwrap();
    let told = format!("0 bytes by stat, {} by reading", version.len());
    for arguments in [
        &["compress", "/proc/version", "-o", "v.bs"][..],
        &["estimate", "/proc/version"],
        &["compress", "/proc/version", "-o", "v.bs", "-n"],
    ] {
        let text = ends(dir, 2, arguments);
        assert!(text.contains(&told), "{text}");
    }
    assert!(!dir.join("v.bs").exists());
    fs::write(dir.join("empty"), b"").unwrap();
    ends(dir, 0, &["compress", "empty"]);
    let text = ends(dir, 2, &["verify", "empty.bs", "--source", "/proc/version"]);
    assert!(text.contains(&told), "{text}");
    // Where the kernel shows such a file: stat says a page, and there is a line.
    let short = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
    if let Ok(line) = fs::read(short) {
        let told = format!("{} bytes expected, {} found", fs::metadata(short).unwrap().len(), line.len());
        for verb in [&["compress", "-o", "v.bs"][..], &["estimate"]] {
            let text = ends(dir, 65, &[verb, &[short.to_str().unwrap()]].concat());
            assert!(text.contains(&told), "{text}");
        }
        assert!(!dir.join("v.bs").exists());
    }
    // A copy of what is no model takes what is there.
    fs::create_dir(dir.join("m")).unwrap();
    symlink("/proc/version", dir.join("m/version")).unwrap();
    fs::write(dir.join("m/a.safetensors"), safetensors(1, 1000)).unwrap();
    ends(dir, 0, &["compress", "m", "-o", "packed"]);
    assert_eq!(fs::read(dir.join("packed/version")).unwrap(), version);
}

#[test]
fn a_link_to_one_of_several_names_of_a_file_leads_to_that_name() {
    let bench = Bench::new();
    let (dir, tree) = (&bench.dir, bench.dir.join("tree"));
    fs::create_dir_all(tree.join("d")).unwrap();
    fs::create_dir(dir.join("outside")).unwrap();
    let raw = safetensors(1, 20_000);
    fs::write(tree.join("a.safetensors"), &raw).unwrap();
    // The names are in the order in which they are found: what is packed comes first, and what is copied does.
    for name in ["tree/b.bin", "tree/A.bin", "tree/d/c.bin", "tree/d/c.safetensors", "outside/o.bin"] {
        fs::hard_link(tree.join("a.safetensors"), dir.join(name)).unwrap();
    }
    for (name, text) in [
        ("to-packed", "a.safetensors"),
        ("to-copied", "b.bin"),
        ("to-first", "A.bin"),
        ("to-link", "to-copied"),
        ("by-link", "e/c.bin"),
        ("by-link-packed", "e/c.safetensors"),
        ("d/up", "../b.bin"),
        ("e", "d"),
        // To be found only once the directory was taken in.
        ("f", "x/o.bin"),
        ("x", "../outside"),
    ] {
        symlink(text, tree.join(name)).unwrap();
    }
    ends(dir, 0, &["compress", "tree", "-o", "packed"]);
    for (name, text) in [
        ("to-packed.bs", "a.safetensors.bs"),
        ("to-copied", "b.bin"),
        ("to-link", "to-copied"),
        ("by-link", "e/c.bin"),
        ("by-link-packed.bs", "e/c.safetensors.bs"),
        ("f", "x/o.bin"),
    ] {
        let link = dir.join("packed").join(name);
        assert_eq!(fs::read_link(&link).unwrap(), Path::new(text), "{name}");
        assert!(link.is_file(), "{name} leads nowhere");
    }
    ends(dir, 0, &["decompress", "packed", "-o", "back"]);
    // The directory that the link leads to, out of the tree, was taken in.
    fs::remove_file(tree.join("x")).unwrap();
    fs::rename(dir.join("outside"), tree.join("x")).unwrap();
    let (mut before, mut back) = (held(&tree), held(&dir.join("back")));
    [&mut before, &mut back].iter_mut().for_each(|held| held.get_mut(Path::new("")).unwrap().2 = (0, 0));
    assert_same(&before, &back, "hard links");
}

#[test]
fn what_only_ends_like_a_container_comes_back_and_containers_are_told() {
    let bench = Bench::new();
    let (dir, tree) = (&bench.dir, bench.dir.join("tree"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("m.safetensors"), safetensors(1, 20_000)).unwrap();
    let note = "Größen dieser Dateien\n".as_bytes();
    for (name, bytes) in
        [("note.bs", note), ("short.bs", b"x"), ("empty.bsr", b""), ("zip.bs", b"PK\x03\x04\0\0\0\0\0")]
    {
        fs::write(tree.join(name), bytes).unwrap();
    }
    symlink("note.bs", tree.join("link.bs")).unwrap();
    let what = ends(dir, 0, &["compress", "tree", "-o", "packed"]);
    assert!(!what.contains("container"), "{what}");
    let what = ends(dir, 0, &["decompress", "packed", "-o", "back"]);
    assert!(what.contains("note.bs: not a bsfs container") && what.contains("copied as it is"), "{what}");
    assert_same(&held(&tree), &held(&dir.join("back")), "companions");

    // What may be left of a container is given back too, and is an error.
    fs::write(tree.join("zeros.bs"), [0; 4096]).unwrap();
    ends(dir, 0, &["compress", "tree", "-o", "packed-2"]);
    ends(dir, 65, &["decompress", "packed-2", "-o", "back-2"]);
    assert_same(&held(&tree), &held(&dir.join("back-2")), "zeros");

    fs::write(tree.join("already"), b"packed before").unwrap();
    ends(dir, 0, &["compress", "tree/already"]);
    fs::remove_file(tree.join("already")).unwrap();
    let what = ends(dir, 0, &["compress", "tree", "-o", "packed-3"]);
    let told: Vec<&str> = what.lines().filter(|line| line.contains("unpacked when")).collect();
    assert!(told.len() == 1 && told[0].contains("tree/already.bs is a container already"), "{what}");
    fs::copy(tree.join("already.bs"), tree.join("more.bs")).unwrap();
    let what = ends(dir, 0, &["compress", "tree", "-o", "packed-4"]);
    assert!(what.contains("and another file are containers already"), "{what}");
}

/// An access list as its extended attribute has it, with what user 7 may do.
fn list(owner: u16, user: u16, group: u16) -> Vec<u8> {
    let entries =
        [(1, owner, u32::MAX), (2, user, 7), (4, group, u32::MAX), (16, user | group, u32::MAX), (32, 0, u32::MAX)];
    let entry =
        |(tag, may, id): (u16, u16, u32)| [&tag.to_le_bytes()[..], &may.to_le_bytes(), &id.to_le_bytes()].concat();
    [&2_u32.to_le_bytes()[..], &entries.map(entry).concat()].concat()
}

#[test]
fn directories_keep_their_special_bits_and_lists_and_are_never_wider() {
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    const ACCESS: &str = "system.posix_acl_access";
    const DEFAULT: &str = "system.posix_acl_default";
    let bench = Bench::new();
    let (dir, tree) = (&bench.dir, bench.dir.join("tree"));
    for (name, bits) in [("sticky", 0o1777), ("group", 0o2775), ("list", 0o700), ("default", 0o750), ("private", 0o750)]
    {
        fs::create_dir_all(tree.join(name)).unwrap();
        fs::write(tree.join(name).join("m.safetensors"), safetensors(1, 1000)).unwrap();
        mode(&tree.join(name), bits);
    }
    mode(&tree, 0o750);
    let open = dir.join("open");
    fs::create_dir(&open).unwrap();
    for (path, name, list) in [
        (tree.join("list"), ACCESS, list(7, 5, 0)),
        (tree.join("default"), DEFAULT, list(7, 5, 5)),
        (open.clone(), DEFAULT, list(7, 7, 7)),
    ] {
        if let Err(error) = setxattr(&path, name, &list, XattrFlags::empty()) {
            return crate::common::skip(&format!("no access lists in {}: {error}", path.display()));
        }
    }
    let lists = |root: &str| {
        let of = |below: &str, name: &str| {
            let mut value = vec![0; 1000];
            let len = getxattr(dir.join(root).join(below), name, &mut value[..]).unwrap_or(0);
            value.truncate(len);
            value
        };
        ["", "sticky", "group", "list", "default", "private"].map(|below| (of(below, ACCESS), of(below, DEFAULT)))
    };
    // Into a directory whose default list lets user 7 do everything.
    ends(dir, 0, &["compress", "tree", "-o", "open/packed"]);
    ends(dir, 0, &["decompress", "open/packed", "-o", "open/back"]);
    assert_same(&held(&tree), &held(&open.join("back")), "special bits");
    assert_eq!(lists("tree"), lists("open/packed"));
    assert_eq!(lists("tree"), lists("open/back"));
    // While they are filled, which for shares has no end, they allow what the input allows.
    ends(dir, 0, &["compress", "tree", "-o", "open/shared", "--shard", "0/1"]);
    assert_eq!(lists("tree"), lists("open/shared"));
    for below in ["", "sticky", "group", "list", "default", "private"] {
        let bits = |root: &Path| fs::metadata(root.join(below)).unwrap().mode() & 0o7777;
        assert_eq!(bits(&open.join("shared")), bits(&tree), "{below}");
    }
}

#[test]
fn no_link_below_the_output_is_followed() {
    let bench = Bench::new();
    let dir = &bench.dir;
    for sub in ["tree/sub", "theirs/sub", "else"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
    }
    fs::write(dir.join("tree/sub/m.safetensors"), safetensors(1, 20_000)).unwrap();
    ends(dir, 0, &["compress", "tree", "-o", "packed"]);
    ends(dir, 0, &["export", "tree/sub/m.safetensors", "--format", "bigsmall", "-o", "theirs/sub/m.bs"]);
    for (verb, input) in [("compress", "tree"), ("decompress", "packed"), ("migrate", "theirs")] {
        let out = dir.join(verb);
        fs::create_dir(&out).unwrap();
        symlink("../else", out.join("sub")).unwrap();
        let what = ends(dir, 2, &[verb, input, "-o", verb]);
        assert!(what.contains("sub: a link where a directory is to be written"), "{what}");
        assert!(longpath::names(&dir.join("else")).unwrap().is_empty());
        // What the user names may be a link, and what is there stays.
        fs::remove_file(out.join("sub")).unwrap();
        fs::create_dir(out.join("sub")).unwrap();
        mode(&out.join("sub"), 0o711);
        symlink(verb, dir.join("named")).unwrap();
        ends(dir, 0, &[verb, input, "-o", "named"]);
        assert_eq!(longpath::names(&out.join("sub")).unwrap().len(), 1, "{verb}");
        assert_eq!(fs::metadata(out.join("sub")).unwrap().mode() & 0o777, 0o711);
        fs::remove_file(dir.join("named")).unwrap();
    }
}

#[test]
fn one_file_that_fails_leaves_a_mirror_with_its_links_and_directories() {
    let bench = Bench::new();
    let (dir, tree) = (&bench.dir, bench.dir.join("tree"));
    mode(dir, 0o777);
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/m.safetensors"), safetensors(1, 100_000)).unwrap();
    symlink("sub/m.safetensors", tree.join("link")).unwrap();
    symlink("nowhere", tree.join("dangling")).unwrap();
    let close = |root: &Path, bits| {
        for (n, path) in ["", "sub"].iter().enumerate() {
            mode(&root.join(path), bits);
            date(&root.join(path), 1_400_000_000 + n as i64);
        }
    };
    close(&tree, 0o555);
    ends(dir, 0, &["compress", "tree", "-o", "packed"]);
    let container = dir.join("packed/sub/m.safetensors.bs");
    let mut bytes = fs::read(&container).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&container, bytes).unwrap();
    close(&dir.join("packed"), 0o555);
    let is_whole = |root: &str, without: &str, what: &str| {
        let (mut expected, got) = (held(&tree), held(&dir.join(root)));
        expected.remove(Path::new(without)).unwrap();
        assert_same(&expected, &got, what);
    };
    ends(dir, 65, &["decompress", "packed", "-o", "back"]);
    is_whole("back", "sub/m.safetensors", "decompress");

    // The only thing to do.
    ["link", "dangling"].iter().for_each(|link| fs::remove_file(tree.join(link)).unwrap());
    mode(&tree.join("sub/m.safetensors"), 0);
    if rustix::process::geteuid().is_root() {
        ["", "sub"].iter().for_each(|sub| std::os::unix::fs::chown(tree.join(sub), None, Some(65534)).unwrap());
    }
    close(&tree, 0o555);
    let output = as_nobody(dir, &["compress", "tree", "-o", "none"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    is_whole("none", "sub/m.safetensors", "compress");
}

#[test]
fn who_cannot_keep_the_group_gives_its_members_no_more_than_they_had() {
    if !rustix::process::geteuid().is_root() {
        return skip("files of another group need root");
    }
    let bench = Bench::new();
    let (dir, tree) = (&bench.dir, bench.dir.join("tree"));
    mode(dir, 0o777);
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("m.safetensors"), safetensors(1, 20_000)).unwrap();
    fs::write(tree.join("config.json"), b"{}").unwrap();
    mode(&tree, 0o705);
    ["m.safetensors", "config.json"].iter().for_each(|name| mode(&tree.join(name), 0o604));
    let output = as_nobody(dir, &["compress", "tree", "-o", "out"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    for (name, is) in [("", 0o700), ("m.safetensors.bs", 0o600), ("config.json", 0o600)] {
        assert_eq!(fs::metadata(dir.join("out").join(name)).unwrap().mode() & 0o777, is, "{name}");
    }
}

#[test]
fn a_directory_that_cannot_be_listed_or_made_is_left_out_with_all_below_it() {
    let bench = Bench::new();
    let (dir, tree) = (&bench.dir, bench.dir.join("tree"));
    mode(dir, 0o777);
    for sub in ["tree/open", "tree/taken", "secret"] {
        fs::create_dir_all(dir.join(sub)).unwrap();
        fs::write(dir.join(sub).join("m.safetensors"), safetensors(1, 20_000)).unwrap();
    }
    symlink("../secret", tree.join("link")).unwrap();
    mode(&dir.join("secret"), 0);
    let output = as_nobody(dir, &["compress", "tree", "-o", "out"]);
    let root = rustix::process::geteuid().is_root();
    assert!(said(&output).contains("link: cannot list: Permission denied") || !root, "{}", said(&output));
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(dir.join("out/open/m.safetensors.bs").exists() && !dir.join("out/link").exists());

    fs::create_dir(dir.join("else")).unwrap();
    fs::remove_file(tree.join("link")).unwrap();
    for (verb, input, name) in [("compress", "tree", "m.safetensors.bs"), ("decompress", "out", "m.safetensors")] {
        let made = dir.join("made").join(verb);
        fs::create_dir_all(&made).unwrap();
        symlink(dir.join("else"), made.join("taken")).unwrap();
        let what = ends(dir, 2, &[verb, input, "-o", made.to_str().unwrap()]);
        assert!(
            what.contains("taken: a link where a directory is to be written") && what.contains("left out"),
            "{what}"
        );
        assert!(made.join("open").join(name).exists() && fs::read_dir(dir.join("else")).unwrap().next().is_none());
    }
}

#[test]
fn parts_of_a_mirror_made_by_several_machines_have_the_bits_of_its_directories() {
    let bench = Bench::new();
    let (dir, tree) = (&bench.dir, bench.dir.join("tree"));
    fs::create_dir_all(tree.join("sub")).unwrap();
    ["a", "b"].iter().for_each(|name| {
        fs::write(tree.join("sub").join(name).with_extension("safetensors"), safetensors(1, 20_000)).unwrap();
    });
    mode(&tree.join("sub"), 0o2570);
    for shard in ["0/2", "1/2"] {
        ends(dir, 0, &["compress", "tree", "-o", "out", "--shard", shard]);
        assert_eq!(fs::metadata(dir.join("out/sub")).unwrap().mode() & 0o7777, 0o2770, "{shard}");
    }
    assert_eq!(fs::read_dir(dir.join("out/sub")).unwrap().count(), 2);
}

#[test]
fn a_mirror_with_a_link_to_a_directory_can_be_made_again() {
    let bench = Bench::new();
    let (dir, tree) = (&bench.dir, bench.dir.join("tree"));
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/m.safetensors"), safetensors(1, 20_000)).unwrap();
    symlink("sub", tree.join("link")).unwrap();
    for (verb, input) in [("compress", "tree"), ("decompress", "compress")] {
        ends(dir, 0, &[verb, input, "-o", verb]);
        ends(dir, 2, &[verb, input, "-o", verb]);
        ends(dir, 0, &[verb, input, "-o", verb, "--force"]);
        assert_eq!(fs::read_link(dir.join(verb).join("link")).unwrap(), Path::new("sub"));
        // A directory is not replaced by a link.
        fs::remove_file(dir.join(verb).join("link")).unwrap();
        fs::create_dir(dir.join(verb).join("link")).unwrap();
        ends(dir, 2, &[verb, input, "-o", verb, "--force"]);
        fs::remove_dir(dir.join(verb).join("link")).unwrap();
        symlink("sub", dir.join(verb).join("link")).unwrap();
    }
}
