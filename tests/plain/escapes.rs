//! Nothing that a file or a server names is obeyed by a terminal, or makes two lines of one.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::mounted::BSFS;
use crate::common::{Bench, HOSTILE, assert_harmless, safetensors};

/// Runs the program; what it says is harmless. `ok`: it says the name, and ends with 0.
fn run(dir: &Path, ok: bool, arguments: &[&str]) -> Output {
    let mut command = Command::new(BSFS);
    command.current_dir(dir).env("XDG_CACHE_HOME", dir.join("cache")).env("HF_HUB_CACHE", dir.join("hub"));
    let output = command.args(arguments).output().unwrap();
    let what = format!("{arguments:?}");
    for said in [&output.stdout, &output.stderr] {
        assert_harmless(&what, said);
    }
    assert_eq!(output.status.success(), ok, "{what}: {}", String::from_utf8_lossy(&output.stderr));
    let all = String::from_utf8([output.stdout.clone(), output.stderr.clone()].concat()).unwrap();
    // A table may show the end of it only.
    assert!(all.contains('é'), "{what} names it: {all}");
    output
}

/// A safetensors file whose tensors, dtype and metadata have such names, of which `seed` makes different ones.
fn file(seed: u64) -> Vec<u8> {
    let plain = safetensors(seed, 100_000);
    let len = u64::from_le_bytes(plain[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&plain[8..8 + len]).unwrap();
    let fields = header.as_object_mut().unwrap();
    for (name, mut tensor) in
        [("a.weight", None), ("b.weight", Some(HOSTILE))].map(|(n, d)| (n, (fields.remove(n).unwrap(), d)))
    {
        if let Some(dtype) = tensor.1 {
            tensor.0["dtype"] = dtype.into();
        }
        fields.insert(format!("{name}{HOSTILE}"), tensor.0);
    }
    fields.insert("__metadata__".into(), serde_json::json!({ HOSTILE: HOSTILE }));
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &plain[8 + len..]].concat()
}

#[test]
fn every_verb_says_names_as_text() {
    let bench = Bench::new();
    let dir = &bench.dir;
    let model = format!("model-{HOSTILE}");
    let (name, sound) = (format!("{model}/{HOSTILE}.safetensors"), format!("{model}/sound {HOSTILE}.safetensors"));
    fs::create_dir(dir.join(&model)).unwrap();
    fs::write(dir.join(&name), file(1)).unwrap();
    fs::write(dir.join(&sound), safetensors(2, 100_000)).unwrap();
    fs::write(dir.join(&model).join(HOSTILE), b"{}").unwrap();
    run(dir, true, &["estimate", &model]);
    run(dir, true, &["compress", &model, "-o", "packed", "--dry-run"]);
    run(dir, true, &["compress", &model, "-o", "packed"]);
    run(dir, false, &["compress", &model, "-o", "packed"]);
    let (packed, odd) = (format!("packed/sound {HOSTILE}.safetensors.bs"), format!("packed/{HOSTILE}.safetensors.bs"));
    for options in [&[][..], &["--tensors"], &["--json"], &["--tensors", "--json"]] {
        run(dir, true, &[&["info", &odd], options].concat());
        run(dir, true, &[&["info", "packed"], options].concat());
    }
    run(dir, true, &["verify", "packed"]);
    run(dir, true, &["verify", &odd, "--source", &name]);
    run(dir, true, &["verify", "packed", "--json"]);
    run(dir, true, &["decompress", &odd, "-o", &format!("back {HOSTILE}")]);
    run(dir, true, &["flatten", &odd, "-o", &format!("flat {HOSTILE}.bs")]);
    let theirs = format!("theirs {HOSTILE}.bs");
    run(dir, true, &["export", "--format", "bigsmall", &packed, "-o", &theirs]);
    run(dir, true, &["info", &theirs, "--tensors"]);
    run(dir, true, &["migrate", &theirs, "-o", &format!("migrated {HOSTILE}.bs")]);
    run(dir, true, &["decompress", &theirs, "-o", &format!("from theirs {HOSTILE}")]);
    // A fine-tune quotes its base's path.
    fs::write(dir.join("tuned.safetensors"), {
        let mut bytes = safetensors(2, 100_000);
        let len = bytes.len();
        bytes[len - 1] ^= 1;
        bytes
    })
    .unwrap();
    run(dir, true, &["compress", "tuned.safetensors", "--base", &sound, "-o", &format!("tuned {HOSTILE}.bs")]);
    run(dir, true, &["info", &format!("tuned {HOSTILE}.bs")]);
    fs::create_dir(dir.join("alone")).unwrap();
    fs::rename(dir.join(format!("tuned {HOSTILE}.bs")), dir.join("alone/tuned.bs")).unwrap();
    run(dir, false, &["decompress", "alone/tuned.bs", "-o", "out"]);
    // Damage, and what is no container.
    let mut bytes = fs::read(dir.join(&odd)).unwrap();
    let at = bytes.len() / 3;
    bytes[at..at + 64].iter_mut().for_each(|byte| *byte ^= 0x55);
    let damaged = format!("damaged {HOSTILE}.bs");
    fs::write(dir.join(&damaged), bytes).unwrap();
    run(dir, false, &["verify", &damaged]);
    run(dir, false, &["decompress", &damaged, "-o", "out"]);
    run(dir, false, &["info", &name]);
    run(dir, false, &["info", &format!("none {HOSTILE}")]);
    run(dir, false, &["info", &format!("--{HOSTILE}")]);
    run(dir, false, &["cache", "stats", &format!("--cache-dir={name}")]);
    run(dir, true, &["compress", &model, "--replace", "--yes"]);
    run(dir, true, &["decompress", &model, "--replace", "--yes"]);
    assert!(fs::read(dir.join(&name)).unwrap() == file(1));
}

#[test]
fn what_a_server_says_is_text() {
    let bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut request = [0; 4096];
            let _ = client.read(&mut request);
            let body = serde_json::json!({ "error": HOSTILE }).to_string();
            let head = "HTTP/1.1 403 Forbidden\r\nX-Error-Message: x\u{1b}[31mred\r\nContent-Type: application/json";
            let _ = write!(client, "{head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    let mut command = Command::new(BSFS);
    command.env("HF_ENDPOINT", &address).env("HF_HUB_CACHE", bench.dir.join("hub"));
    for uri in ["hf://org/name", &format!("hf://{HOSTILE}"), &format!("hf://org/name@{HOSTILE}")] {
        let output = command.args(["pull", uri]).output().unwrap();
        assert!(!output.status.success());
        assert_harmless("pull", &output.stderr);
        command = Command::new(BSFS);
        command.env("HF_ENDPOINT", &address).env("HF_HUB_CACHE", bench.dir.join("hub"));
    }
}
