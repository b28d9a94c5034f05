//! What is said of inputs that are probably not what the user means, and of runs that had nothing to do.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Bench, safetensors};

/// Runs bsfs, which must end with `code`; gives what it printed.
fn ends(dir: &Path, code: i32, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bsfs"));
    let output = command.args(arguments).current_dir(dir).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{said}");
    said
}

fn pointer() -> String {
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{:064}\nsize 4000000000\n", 0)
}

#[test]
fn what_is_probably_no_model_is_packed_and_said() {
    let bench = Bench::new();
    let (dir, model) = (&bench.dir, bench.dir.join("model"));
    let raw = safetensors(1, 20_000);
    let cut = &raw[..raw.len() / 2];
    let (pointed, told) = (pointer(), format!("{} bytes expected by its header, {} found", raw.len(), cut.len()));
    let html = "<!DOCTYPE html><html><body>404</body></html>";
    let files: [(&str, &[u8], &str); 6] = [
        ("pointer.safetensors", pointed.as_bytes(), "Git LFS pointer"),
        ("cut.safetensors", cut, &told),
        ("page.safetensors", html.as_bytes(), "an HTML page"),
        ("error.safetensors", b"{\"error\":\"Access denied\"}", "a JSON text"),
        ("none.safetensors", b"", "is empty"),
        ("whole.safetensors.incomplete", &raw, "a download that did not end"),
    ];
    fs::create_dir(&model).unwrap();
    for (name, bytes, word) in files {
        fs::write(model.join(name), bytes).unwrap();
        let path = format!("model/{name}");
        for arguments in [
            &["compress", &path, "-o", "out.bs", "--force"][..],
            &["estimate", &path],
            &["compress", &path, "-n", "-o", "x"],
        ] {
            let said = ends(dir, 0, arguments);
            assert!(said.contains(&path) && said.contains(word), "{arguments:?}: {said}");
        }
        ends(dir, 0, &["verify", "out.bs", "--source", &path]);
        let said = ends(dir, 0, &["compress", &path, "--replace", "--dry-run"]);
        assert!(said.contains(word), "{said}");
    }
    // In a directory, and what is copied there.
    fs::write(model.join("tokenizer.model"), pointer()).unwrap();
    fs::write(model.join("whole.safetensors"), &raw).unwrap();
    fs::write(model.join("empty.txt"), b"").unwrap();
    let said = ends(dir, 0, &["compress", "model", "-o", "packed"]);
    for (name, _, word) in files {
        assert!(said.lines().any(|line| line.contains(name) && line.contains(word)), "{name}: {said}");
    }
    assert!(said.contains("model/tokenizer.model: is a Git LFS pointer") && said.contains("copied as it is"), "{said}");
    assert!(!said.contains("whole.safetensors:") && !said.contains("empty.txt"), "{said}");
    ends(dir, 0, &["decompress", "packed", "-o", "back"]);
    for (name, bytes, _) in files {
        assert!(fs::read(dir.join("back").join(name)).unwrap() == bytes, "{name}");
    }
    // A sound file is not doubted.
    let said = ends(dir, 0, &["compress", "model/whole.safetensors"]);
    assert!(!said.contains("bsfs:"), "{said}");
}

#[test]
fn a_run_that_compresses_nothing_says_what_it_left_and_how_to_take_it_in() {
    let bench = Bench::new();
    let dir = &bench.dir;
    for sub in ["other", "packed", "empty"] {
        fs::create_dir(dir.join(sub)).unwrap();
    }
    for (name, len) in [("a.gguf", 2000), ("b.bin", 10), ("c.bin", 20), ("README", 3)] {
        fs::write(dir.join("other").join(name), vec![7; len]).unwrap();
    }
    fs::write(dir.join("m.safetensors"), safetensors(1, 1000)).unwrap();
    ends(dir, 0, &["compress", "m.safetensors", "-o", "packed/m.safetensors.bs"]);
    let said = ends(dir, 0, &["compress", "other", "-o", "o1"]);
    assert!(said.contains("no .safetensors file, only 2 × .bin") && said.contains("1 × .gguf"), "{said}");
    assert!(said.contains("bsfs compress other/a.gguf") && !said.contains("0 compressed"), "{said}");
    let said = ends(dir, 0, &["compress", "packed", "-o", "o2"]);
    assert!(said.contains("all is packed already (1 × .bs)"), "{said}");
    let said = ends(dir, 0, &["compress", "empty", "-o", "o3", "--json"]);
    assert!(said.contains("there is no file in what you named"), "{said}");
    let said = ends(dir, 0, &["compress", "other", "--replace", "--yes"]);
    assert!(said.contains("a file that you name is taken whatever it is called"), "{said}");
    let said = ends(dir, 2, &["estimate", "other"]);
    assert!(said.contains("a file that you name is taken whatever it is called"), "{said}");
}

#[test]
fn after_replacing_the_way_to_the_files_is_told_with_both_commands() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let blobs = dir.join("hub/models--o--n/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(dir.join("hub/models--o--n/snapshots/a")).unwrap();
    fs::create_dir(dir.join("plain")).unwrap();
    fs::write(blobs.join("1111"), safetensors(1, 20_000)).unwrap();
    let link = dir.join("hub/models--o--n/snapshots/a/m.safetensors");
    std::os::unix::fs::symlink("../../blobs/1111", link).unwrap();
    for name in ["a.safetensors", "b.safetensors"] {
        fs::write(dir.join("plain").join(name), safetensors(2, 20_000)).unwrap();
    }
    for (input, named, cache) in
        [("hub", "hub", true), ("plain/a.safetensors", "plain", false), ("plain", "plain", false)]
    {
        let said = ends(dir, 0, &["compress", input, "--replace", "--yes"]);
        for word in [
            "cannot be read",
            "after each reboot",
            &format!("bsfs mount {named} {named}"),
            &format!("bsfs service install {named} {named}"),
        ] {
            assert!(said.contains(word), "{input}: {said}");
        }
        assert_eq!(said.contains("may download it again"), cache, "{said}");
    }
}
