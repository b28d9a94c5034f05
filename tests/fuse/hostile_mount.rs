//! Damaged containers through the kernel: each flipped byte and each cut is EIO, the right bytes, or a file that is
//! shown under its own name since it cannot be opened.

use std::fs;

use crate::common::mounted::Mount;
use crate::common::{Bench, pack, safetensors};

#[test]
fn every_flipped_byte_and_cut_is_an_error_or_the_right_bytes() {
    let bench = Bench::new();
    let original = safetensors(3, 1000);
    let packed = bench.dir.join("sample.bs");
    pack(&bench.original(&original), &packed);
    let sound = fs::read(packed).unwrap();
    let source = bench.source();
    fs::write(source.join("sound.bs"), &sound).unwrap();
    for at in 0..sound.len() {
        let mut flipped = sound.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(source.join(format!("flip{at}.bs")), flipped).unwrap();
        fs::write(source.join(format!("cut{at}.bs")), &sound[..at]).unwrap();
    }
    let mount = Mount::new(&bench, &["--memory", "1M"]);
    let (mut failed, mut unopened) = (0, 0);
    for entry in fs::read_dir(&mount.point).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if let Some(stem) = name.strip_suffix(".bs") {
            assert!(fs::read(entry.path()).unwrap() == fs::read(source.join(&name)).unwrap(), "{stem} as it is");
            unopened += 1;
            continue;
        }
        assert!(!name.starts_with("cut"), "{name}");
        match fs::read(entry.path()) {
            Ok(bytes) => assert!(bytes == original, "{name} gave wrong bytes"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}");
                failed += 1;
            }
        }
    }
    assert!(fs::read(mount.path("sound")).unwrap() == original);
    assert!(failed > 1000 && unopened > sound.len() + 300, "{failed} {unopened} of {}", sound.len());
    let status = mount.status();
    assert!(status.errors > 0 && status.panics == 0, "{status:?}");
}
