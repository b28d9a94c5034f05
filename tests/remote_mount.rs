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
use mounted::{Mount, bsfs, command, is_mounted, status_of, stderr};
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

/// A Hub whose files are at another host, to which it redirects with signed URLs.
#[cfg(feature = "hub")]
fn hub(hub: &Server, storage: &Server) {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let files = ["model.safetensors.bs", "plain.bin", "config.json", "sub/x.txt"];
    let entries: Vec<String> = files
        .iter()
        .map(|file| {
            let size = storage.bytes(&format!("/m/{file}")).unwrap().len();
            format!(
                r#"{{"type":"file","path":"{file}","size":9,"oid":"o","lfs":{{"oid":"sha-{size}","size":{size}}}}}"#
            )
        })
        .collect();
    hub.put("/api/models/org/name/revision/main", format!(r#"{{"sha":"{COMMIT}"}}"#).as_bytes());
    hub.put(&format!("/api/models/org/name/tree/{COMMIT}"), format!("[{}]", entries.join(",")).as_bytes());
    let sizes: Vec<_> = files.iter().map(|f| storage.bytes(&format!("/m/{f}")).unwrap().len()).collect();
    let to = storage.url("/m/").replace("127.0.0.1", "localhost");
    hub.plan(move |seen, number| {
        if seen.headers.get("authorization").is_none_or(|token| token != "Bearer verysecret") {
            return Some(Fault::Status(401, None));
        }
        let file = seen.path.strip_prefix(&format!("/org/name/resolve/{COMMIT}/"))?;
        let size = sizes[files.iter().position(|f| *f == file)?];
        let headers = [
            ("X-Repo-Commit", COMMIT.to_owned()),
            ("X-Linked-Etag", format!("\"sha-{size}\"")),
            ("X-Linked-Size", size.to_string()),
            ("Location", format!("{to}{file}?Signature=s{number}")),
        ];
        Some(Fault::Answer(302, headers.map(|(name, value)| (name.to_owned(), value)).to_vec()))
    });
}

#[cfg(feature = "hub")]
#[test]
fn a_repository_of_the_hub_is_read_as_it_is_needed_and_its_token_stays_with_the_hub() {
    let (bench, endpoint, storage) = (Bench::new(), Server::new(), Server::new());
    let (model, plain) = serve(&bench, &storage);
    storage.put("/m/sub/x.txt", b"x");
    hub(&endpoint, &storage);
    // The first signed URL expires after some requests.
    storage.plan(|seen, number| (number > 2 && seen.path.ends_with("=s0")).then_some(Fault::Status(403, None)));
    let mount = |token: &str| {
        let mut command = command(&bench);
        command.env("HF_ENDPOINT", endpoint.url("")).env("HF_TOKEN", token).env("HF_HOME", bench.dir.join("none"));
        command.args(["mount", "hf://org/name", "--patience", "3"]).arg(bench.mount_point()).output().unwrap()
    };
    let refused = stderr(&mount("wrong"));
    assert!(refused.contains("credentials") && !refused.contains("wrong;"), "{refused}");
    for online in [true, false] {
        let output = mount("verysecret");
        assert!(output.status.success(), "{}", stderr(&output));
        let status = status_of(&bench.mount_point()).unwrap();
        let mount = Mount { point: bench.mount_point(), pid: status.pid };
        assert_eq!(status.source, "hf://org/name@main");
        assert!(fs::read(mount.path("model.safetensors")).unwrap() == model);
        assert!(fs::read(mount.path("plain.bin")).unwrap() == plain);
        assert_eq!(fs::read(mount.path("sub/x.txt")).unwrap(), b"x");
        assert!(bsfs(&bench, ["unmount".as_ref(), bench.mount_point().as_os_str()]).status.success());
        if online {
            let resolved =
                endpoint.take_seen().iter().filter(|seen| seen.path.ends_with("/model.safetensors.bs")).count();
            assert!((1..=3).contains(&resolved), "resolved {resolved} times");
            let seen = storage.take_seen();
            assert!(!seen.is_empty() && seen.iter().all(|seen| !seen.headers.contains_key("authorization")));
            endpoint.go();
            storage.go();
        }
    }
}
