//! Remote places through the kernel and the program: what users type, see and get.

#![cfg(all(feature = "mount", feature = "remote"))]

mod common;
#[path = "common/mounted.rs"]
mod mounted;
#[path = "common/server.rs"]
mod server;

use std::fs;
use std::path::Path;

use common::{Bench, noise, pack, safetensors};
use mounted::{Mount, bsfs, is_mounted, stderr};
use server::{Fault, Server};

fn serve(bench: &Bench, server: &Server) -> (Vec<u8>, Vec<u8>) {
    let (model, plain) = (safetensors(31, 6_000_000), noise(32, 3_000_000));
    let path = bench.dir.join("packed.bs");
    pack(&bench.original(&model), &path);
    server.put("/m/model.safetensors.bs", &fs::read(path).unwrap());
    server.put("/m/plain.bin", &plain);
    server.put("/m/config.json", b"{}");
    (model, plain)
}

fn mount(bench: &Bench, url: &str, options: &[&str]) -> Mount {
    Mount::of(bench, Path::new(url), &bench.mount_point(), options)
}

#[test]
fn a_remote_directory_is_mounted_read_and_mounted_again_when_the_server_is_gone() {
    let (bench, server) = (Bench::new(), Server::new());
    let (model, plain) = serve(&bench, &server);
    let url = server.url("/m/");
    let first = mount(&bench, &url, &[]);
    assert!(fs::read(first.path("model.safetensors")).unwrap() == model);
    assert!(fs::read(first.path("plain.bin")).unwrap() == plain);
    let status = first.status();
    assert_eq!(status.source, url.trim_end_matches('/'));
    let remote = status.remote.unwrap();
    assert!(remote.requests > 3 && remote.bytes > 3_000_000 && !remote.down, "{remote:?}");
    assert!(bsfs(&bench, ["unmount".as_ref(), bench.mount_point().as_os_str()]).status.success());
    drop(first);
    server.go();
    let again = mount(&bench, &url, &[]);
    assert!(fs::read(again.path("model.safetensors")).unwrap() == model);
    assert!(fs::read(again.path("plain.bin")).unwrap() == plain);
    assert_eq!(fs::read(again.path("config.json")).unwrap(), b"{}", "never read before");
}

#[test]
fn a_read_that_fails_is_an_io_error_said_once_and_the_mount_goes_on() {
    let (bench, server) = (Bench::new(), Server::new());
    let (_, plain) = serve(&bench, &server);
    let log = bench.dir.join("log");
    let options = ["--cache", "off", "--patience", "1", "--log-file", log.to_str().unwrap()];
    let mount = mount(&bench, &server.url("/m/"), &options);
    server.go();
    for _ in 0..3 {
        let error = fs::read(mount.path("plain.bin")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    }
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(text.matches("does not answer").count(), 1, "{text}");
    assert!(mount.status().errors > 0);
    server.come_back();
    assert!(fs::read(mount.path("plain.bin")).unwrap() == plain);
    assert!(fs::read_to_string(&log).unwrap().contains("answers again"));
}

#[test]
fn nothing_secret_of_an_address_is_seen_from_outside() {
    let (bench, server) = (Bench::new(), Server::new());
    let (model, _) = serve(&bench, &server);
    let address = server.url("/m/model.safetensors.bs?X-Signature=verysecret").replace("http://", "http://me:hidden@");
    let log = bench.dir.join("log");
    let mount = mount(&bench, &address, &["--patience", "1", "--log-file", log.to_str().unwrap()]);
    assert!(fs::read(mount.path("model.safetensors")).unwrap() == model);
    assert!(server.take_seen().iter().all(|seen| seen.headers["authorization"].starts_with("Basic ")));
    server.plan(|_, _| Some(Fault::Status(403, None)));
    let arguments = fs::read(format!("/proc/{}/cmdline", mount.pid)).unwrap();
    let status = bsfs(&bench, ["status", "--json"]);
    let list = bsfs(&bench, ["cache", "list", "--json"]);
    let mut seen = vec![arguments, status.stdout, list.stdout, fs::read(&log).unwrap()];
    seen.push(fs::read("/proc/self/mounts").unwrap());
    let mut directories = vec![bench.dir.join("cache")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() { directories.push(entry) } else { seen.push(fs::read(entry).unwrap()) }
        }
    }
    for bytes in seen {
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("verysecret") && !text.contains("hidden"), "{text}");
    }
}

#[test]
fn what_cannot_be_mounted_is_said_in_one_line() {
    let (bench, server) = (Bench::new(), Server::new());
    serve(&bench, &server);
    let point = bench.mount_point();
    let fail = |source: &str, options: &[&str]| {
        let mut arguments = vec!["mount", source, point.to_str().unwrap()];
        arguments.extend(options);
        let output = bsfs(&bench, arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(!is_mounted(&point));
        let text = stderr(&output);
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        text
    };
    assert!(fail(&server.url("/nothing/"), &[]).contains("no such file or directory"));
    assert!(fail("ftp://host/x", &[]).contains("known are s3"));
    assert!(fail(&server.url("/m/"), &["--download", "--cache", "off"]).contains("disk cache"));
    server.plan(|_, _| Some(Fault::Status(403, None)));
    assert!(fail(&server.url("/m/"), &[]).contains("credentials"));
}

#[test]
fn download_fetches_all_before_the_mount_is_there() {
    let (bench, server) = (Bench::new(), Server::new());
    let (model, plain) = serve(&bench, &server);
    let mount = mount(&bench, &server.url("/m/"), &["--download"]);
    server.go();
    assert!(fs::read(mount.path("model.safetensors")).unwrap() == model);
    assert!(fs::read(mount.path("plain.bin")).unwrap() == plain);
}
