//! Deltas of the Python package `bigsmall` whose base cannot be read, through the kernel: no read waits for ever. Needs
//! `/dev/fuse`; failing reads take root.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use bsfs::format::{Container, Piece};
use bsfs::source::FileSource;

use crate::common::faulty::Faulty;
use crate::common::faulty::disk::{Call, Disk, Op, Verdict};
use crate::common::fixtures::{delta, spans};
use crate::common::mounted::Mount;
use crate::common::{Bench, eventually, noise, pack, safetensors};

const WINDOW: u64 = 512 << 10;
/// Longer than any read of these tests takes, on a machine that does much else.
const BOUND: Duration = Duration::from_secs(60);
/// With the first the tensors are decoded whole before a byte of them is given out, with the second they are not.
const MEMORY: [&str; 2] = ["256M", "8M"];

/// A base, and a fine-tune of it: BF16 tensors of 4 and 8 windows.
fn base_and_tuned() -> (Vec<u8>, Vec<u8>) {
    let base = safetensors(21, 3_000_000);
    let mut tuned = base.clone();
    let data = spans(&base).values().map(|(.., range)| range.start).min().unwrap();
    for (byte, noise) in tuned[data..].iter_mut().zip(noise(22, base.len())).step_by(16) {
        *byte ^= noise & 3;
    }
    (base, tuned)
}

/// What a delta is shown as: a header of its own, and the tensors of `tuned`.
fn shown(path: &Path, tuned: &[u8]) -> Vec<u8> {
    let file = File::open(path).unwrap();
    let mut len = [0; 8];
    file.read_exact_at(&mut len, 0).unwrap();
    let mut bytes = vec![0; 8 + u64::from_le_bytes(len) as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let data = spans(tuned).values().map(|(.., range)| range.start).min().unwrap();
    bytes.extend(&tuned[data..]);
    assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
    bytes
}

/// Where the middle of the larger tensor lies in the file.
fn middle(base: &[u8]) -> u64 {
    let range = &spans(base)["b.weight"].2;
    (range.start + range.len() / 2) as u64
}

/// Reads all windows of a file from as many threads, each through a descriptor of its own, all at once. The offset of each, and
/// its bytes or the number of its error.
fn read_windows(path: &Path, len: u64) -> Vec<(u64, Result<Vec<u8>, i32>)> {
    let (send, receive) = mpsc::channel();
    let offsets: Vec<u64> = (0..len).step_by(WINDOW as usize).collect();
    for &offset in &offsets {
        let (send, path) = (send.clone(), path.to_path_buf());
        std::thread::spawn(move || {
            let mut bytes = vec![0; 1000.min(len - offset) as usize];
            let read = File::open(path).and_then(|file| file.read_exact_at(&mut bytes, offset));
            let _ = send.send((offset, read.map(|()| bytes).map_err(|e| e.raw_os_error().unwrap())));
        });
    }
    offsets.iter().map(|_| receive.recv_timeout(BOUND).expect("a read waits for ever")).collect()
}

/// Every read ends with the right bytes or EIO, and some fail.
fn assert_fails(path: &Path, tuned: &[u8]) {
    let shown = shown(path, tuned);
    let mut failed = 0;
    // Each time the readers meet other threads of the mount in other stages.
    for _ in 0..3 {
        for (offset, read) in read_windows(path, shown.len() as u64) {
            match read {
                Ok(bytes) => assert!(bytes == shown[offset as usize..][..bytes.len()], "wrong bytes at {offset}"),
                Err(errno) => {
                    assert_eq!(errno, libc::EIO, "at {offset}");
                    failed += 1;
                }
            }
        }
    }
    assert!(failed > 0);
}

/// Another file of the mount is read, and decoded ahead of its reader.
fn assert_others_are_served(mount: &Mount, name: &'static str, original: &[u8]) {
    let before = mount.status().engine.ahead_chunks;
    let (send, receive) = mpsc::channel();
    let path = mount.path(name);
    std::thread::spawn(move || send.send(fs::read(path)));
    assert!(receive.recv_timeout(BOUND).expect("reading another file hangs").unwrap() == original);
    eventually("something was decoded ahead", || mount.status().engine.ahead_chunks > before);
    assert_eq!(mount.status().panics, 0);
}

#[test]
fn a_damaged_chunk_of_the_base_of_a_delta_fails_reads_and_holds_none_up() {
    let (base, tuned) = base_and_tuned();
    for memory in MEMORY {
        let bench = Bench::new();
        bench.plain("tuned.bs", &delta(&tuned, &base));
        let other = safetensors(23, 6_000_000);
        bench.packed("other.safetensors.bs", &other);
        let packed = bench.dir.join("base.safetensors.bs");
        pack(&bench.original(&base), &packed);
        let container = Container::open(&FileSource::open(&packed).unwrap()).unwrap();
        let Some(Piece::Chunk(chunk)) = container.locate(middle(&base)) else { panic!("no chunk") };
        let mut bytes = fs::read(&packed).unwrap();
        bytes[chunk.packed_offset as usize + chunk.packed_len as usize / 2] ^= 0x20;
        fs::write(&packed, bytes).unwrap();

        let options = ["--cache", "off", "--memory", memory, "--base", packed.to_str().unwrap()];
        let mount = Mount::new(&bench, &options);
        assert_fails(&mount.path("tuned.safetensors"), &tuned);
        assert_others_are_served(&mount, "other.safetensors", &other);
    }
}

#[test]
fn a_base_of_a_delta_that_gives_errors_holds_no_read_up_and_is_read_once_it_is_well() {
    let (base, tuned) = base_and_tuned();
    for memory in MEMORY {
        let (bench, disk) = (Bench::new(), Disk::new());
        bench.plain("tuned.bs", &delta(&tuned, &base));
        let other = safetensors(23, 6_000_000);
        bench.packed("other.safetensors.bs", &other);
        disk.put("base.safetensors", &base);
        let below = bench.dir.join("below");
        fs::create_dir(&below).unwrap();
        let Some(_below) = Faulty::mount(&below, disk.clone(), false) else { return };
        let at = middle(&base);
        let fails = move |call: &Call<'_>| call.op == Op::Read && call.offset + call.len as u64 > at;
        disk.judge(move |call| if fails(call) { Verdict::Fail(libc::EIO) } else { Verdict::Go });

        let path = below.join("base.safetensors");
        let mount = Mount::new(&bench, &["--cache", "off", "--memory", memory, "--base", path.to_str().unwrap()]);
        assert_fails(&mount.path("tuned.safetensors"), &tuned);
        assert_others_are_served(&mount, "other.safetensors", &other);
        disk.calm();
        let path = mount.path("tuned.safetensors");
        eventually("it is read", || fs::read(&path).is_ok_and(|bytes| bytes == shown(&path, &tuned)));
    }
}
