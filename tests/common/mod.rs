//! What the tests of several modules share.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub mod bindfs;
pub mod exposition;
pub mod faulty;
pub mod fixtures;
pub mod hub;
pub mod mounted;
pub mod pairs;
pub mod server;
pub mod tuned;

/// Modification time of every original that [`Bench::original`] writes, seconds since 1970.
pub const ORIGINAL_MTIME: i64 = 1_700_000_000;

/// Makes a container of the file `input` at `output`.
pub fn pack(input: &Path, output: &Path) {
    pack_as(bsfs::codec::Mode::Balanced, input, output);
}

/// The same in another mode.
pub fn pack_as(mode: bsfs::codec::Mode, input: &Path, output: &Path) {
    let stop = std::sync::atomic::AtomicBool::new(false);
    let options = bsfs::compress::Options { mode, chunk_len: None, force: true, against: None, stop: &stop };
    let pool = bsfs::parallel::pool(1).unwrap();
    bsfs::compress::compress(&pool, input, output, &options, &()).unwrap();
}

/// A name that a terminal would obey, and that makes two lines of one.
pub const HOSTILE: &str = "x\u{1b}[31mred\nFORGED\r\u{9b}2J\u{7f}\u{202e}\u{200b}é";

/// Whether a text for people shows [`HOSTILE`] as nothing but text.
pub fn assert_harmless(what: &str, text: &[u8]) {
    let text = std::str::from_utf8(text).unwrap_or_else(|e| panic!("{what}: {e}"));
    if let Some(c) = text.chars().find(|c| bsfs::escape::is_hidden(*c) && *c != '\n') {
        panic!("{what}: {c:?} in {text:?}");
    }
    assert!(!text.lines().any(|line| line.starts_with("FORGED")), "{what}: {text:?}");
}

/// The same bytes for the same seed, everywhere.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A valid safetensors file: two BF16 tensors of noise whose exponents are of few values, `elements` in all.
pub fn safetensors(seed: u64, elements: usize) -> Vec<u8> {
    let first = elements / 3;
    let header = format!(
        r#"{{"__metadata__":{{"format":"pt"}},"a.weight":{{"dtype":"BF16","shape":[{first}],"data_offsets":[0,{}]}},"b.weight":{{"dtype":"BF16","shape":[{}],"data_offsets":[{},{}]}}}}"#,
        first * 2,
        elements - first,
        first * 2,
        elements * 2
    );
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    for (i, byte) in noise(seed, elements * 2).into_iter().enumerate() {
        bytes.push(if i % 2 == 1 { 0x3c | (byte & 0x83) } else { byte });
    }
    bytes
}

/// What a container holds, all of it proven.
pub fn held(source: &dyn bsfs::source::ReadAt) -> Result<Vec<u8>, bsfs::Error> {
    let container = bsfs::format::Container::open(source)?;
    let (mut raw, stop) = (Vec::new(), std::sync::atomic::AtomicBool::new(false));
    let whole = bsfs::engine::Whole::new(&container, source);
    bsfs::engine::verify(&bsfs::parallel::pool(1)?, whole, None, &stop, &mut |_, bytes: &[u8]| {
        raw.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(raw)
}

/// A directory of its own, removed at the end.
pub struct Bench {
    pub dir: PathBuf,
}

impl Bench {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bsfs-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = fs::canonicalize(std::env::temp_dir()).unwrap().join(name);
        fs::create_dir_all(dir.join("source")).unwrap();
        fs::create_dir(dir.join("mount")).unwrap();
        Self { dir }
    }

    pub fn source(&self) -> PathBuf {
        self.dir.join("source")
    }

    pub fn mount_point(&self) -> PathBuf {
        self.dir.join("mount")
    }

    /// Writes an original outside of the source.
    pub fn original(&self, bytes: &[u8]) -> PathBuf {
        let path = self.dir.join("original");
        fs::write(&path, bytes).unwrap();
        let time = UNIX_EPOCH + Duration::from_secs(ORIGINAL_MTIME as u64);
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        path
    }

    /// Packs `bytes` as `name` below the source, and moves the time of its directory into the past, so that what is
    /// listed there does not depend on how fast the test is.
    pub fn packed(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.source().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        pack(&self.original(bytes), &path);
        age(path.parent().unwrap());
        path
    }

    /// Writes a file below the source as it is.
    pub fn plain(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.source().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        age(path.parent().unwrap());
        path
    }
}

/// Sets the modification time of a directory to an hour ago, give or take: a different one each time.
pub fn age(dir: &Path) {
    static STEP: AtomicU32 = AtomicU32::new(0);
    let back = Duration::from_millis(3_600_000 - u64::from(STEP.fetch_add(1, Ordering::Relaxed)));
    fs::File::open(dir).unwrap().set_modified(SystemTime::now() - back).unwrap();
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Says that a promise is not tested here, and why. A line of the file that `BSFS_SKIPPED` names counts it; with
/// `BSFS_SKIP_FAILS` it is a failure (`scripts/test.sh` sets both).
pub fn skip(why: &str) {
    tell_skip(why);
    assert!(std::env::var_os("BSFS_SKIP_FAILS").is_none(), "skipped where nothing may be: {why}");
}

/// The same where the kernel was built without something that the test needs: it is told and counted, and no failure for root either.
pub fn skip_on_this_kernel(why: &str) {
    tell_skip(why);
}

fn tell_skip(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("SKIP: {name}: {why}");
    if let Some(path) = std::env::var_os("BSFS_SKIPPED") {
        let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{name}: {why}\n").as_bytes()).unwrap();
    }
}

/// Whether the test runs as root; skips what needs that if not.
pub fn root_for(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(&format!("{what} takes root"));
    }
    root
}

/// Waits until `happened`, for a minute at most: machines that build beside the tests are slow.
pub fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !happened() {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
