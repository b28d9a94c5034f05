//! Remote places through the kernel and the program: what users type, see and get.

use crate::common::mounted;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::mounted::{Mount, bsfs, command, is_mounted, stderr};
use crate::common::server::{Fault, Server};
use crate::common::tuned::{file, model, moved, pack_against, put};
use crate::common::{Bench, eventually, noise, pack, safetensors};

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
    // Each request has its answer, and each that brought bytes the time until it began.
    assert!(remote.answers["read ok"] > 0 && remote.answers["list ok"] > 0, "{remote:?}");
    assert_eq!(remote.answers.values().sum::<u64>(), remote.requests, "{remote:?}");
    assert!((1..=remote.answers["read ok"]).contains(&remote.first_byte.count()), "{remote:?}");
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

#[test]
fn who_does_not_want_to_wait_for_a_download_ends_it() {
    let (bench, server) = (Bench::new(), Server::new());
    serve(&bench, &server);
    let begun = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&begun);
    server.plan(move |seen, _| {
        // Behind the first bytes, which tell what the file is.
        let stalls = seen.path.ends_with("bin") && seen.range().is_some_and(|(first, _)| first > 0);
        noted.fetch_or(stalls, Ordering::SeqCst);
        stalls.then_some(Fault::Stall(100_000))
    });
    let (url, point) = (server.url("/m/"), bench.mount_point());
    let daemons = || {
        let all = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
        all.filter(|line| String::from_utf8_lossy(line).contains(point.to_str().unwrap())).count()
    };
    let mut child = command(&bench).args(["mount", "--download", &url]).arg(&point).spawn().unwrap();
    eventually("the download has begun", || begun.load(Ordering::SeqCst));
    assert_eq!(daemons(), 2);
    mounted::signal(child.id(), libc::SIGINT);
    let code = child.wait().unwrap().code();
    if is_mounted(&point) {
        let _ = mounted::unmount(&point, libc::MNT_DETACH);
    }
    assert_eq!(code, Some(130));
    assert_eq!(daemons(), 0);
}

#[test]
fn a_delta_finds_its_base_on_the_server_that_it_is_on() {
    let base = model(7, "BF16");
    let (original, tuned) = (file(&base), file(&moved(&base, 1)));
    // Beside it packed, plain, and elsewhere below what is mounted.
    for place in ["/m/base.safetensors.bs", "/m/base.safetensors", "/m/deep/er/base.safetensors.bs"] {
        let (bench, server) = (Bench::new(), Server::new());
        let plain = put(&bench.dir.join("x/base.safetensors"), &original);
        let input = put(&bench.dir.join("x/ft.safetensors"), &tuned);
        let delta = pack_against(&bench, &input, &bench.dir.join("x/ft.safetensors.bs"), Some(&plain));
        let packed = pack_against(&bench, &plain, &bench.dir.join("x/base.safetensors.bs"), None);
        assert!(fs::metadata(&delta).unwrap().len() < fs::metadata(&packed).unwrap().len() * 3 / 4);
        server.put("/m/ft.safetensors.bs", &fs::read(&delta).unwrap());
        server.put("/m/other.txt", b"other");
        server.put(place, &fs::read(if place.ends_with(".bs") { &packed } else { &plain }).unwrap());
        // Nothing of this machine is to be found.
        fs::remove_dir_all(bench.dir.join("x")).unwrap();
        let first = mount(&bench, &server.url("/m/"), &[]);
        assert!(fs::read(first.path("ft.safetensors")).unwrap() == tuned, "{place}");
        assert!(bsfs(&bench, ["unmount".as_ref(), bench.mount_point().as_os_str()]).status.success());
        drop(first);
        server.go();
        let again = mount(&bench, &server.url("/m/"), &[]);
        assert!(fs::read(again.path("ft.safetensors")).unwrap() == tuned, "{place}, server gone");
    }
}

#[test]
fn a_delta_without_its_base_says_so_and_another_tensor_is_not_taken_for_it() {
    let base = model(7, "BF16");
    let (bench, server) = (Bench::new(), Server::new());
    let plain = put(&bench.dir.join("x/base.safetensors"), &file(&base));
    let input = put(&bench.dir.join("x/ft.safetensors"), &file(&moved(&base, 1)));
    let delta = pack_against(&bench, &input, &bench.dir.join("x/ft.safetensors.bs"), Some(&plain));
    server.put("/m/ft.safetensors.bs", &fs::read(&delta).unwrap());
    server.put("/m/base.safetensors", &file(&moved(&base, 2)));
    fs::remove_dir_all(bench.dir.join("x")).unwrap();
    let log = bench.dir.join("log");
    let mount = mount(&bench, &server.url("/m/"), &["--log-file", log.to_str().unwrap()]);
    assert_eq!(fs::read(mount.path("ft.safetensors")).unwrap_err().raw_os_error(), Some(libc::EIO));
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("base.safetensors has another tensor"), "{text}");
}

/// Mounts a bucket that a server of the tests plays.
fn mount_bucket(bench: &Bench, address: &str, environment: &[(&str, &str)]) -> Mount {
    let mut command = command(bench);
    command.envs(environment.iter().copied()).args(["mount", "--cache", "off", "--patience", "2", address]);
    let output = command.arg(bench.mount_point()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    Mount { point: bench.mount_point(), pid: mounted::status_of(&bench.mount_point()).unwrap().pid }
}

fn names(mount: &Mount, below: &str) -> Vec<String> {
    let all = fs::read_dir(mount.path(below)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut all: Vec<_> = all.collect();
    all.sort();
    all
}

#[test]
fn keys_of_a_bucket_are_names_whatever_signs_are_in_them_and_marks_of_directories_are_none() {
    let (bench, server) = (Bench::new(), Server::new());
    let key = |name: &str, len: usize| {
        format!(
            "<Contents><Key>m/{name}</Key><Size>{len}</Size><LastModified>1994-11-06T08:49:37.000Z</LastModified></Contents>"
        )
    };
    let odd = ["a#b", "c%20d", "e?f", "g~[h]{i}", "j k+é", "l|*"];
    let all: String = odd.iter().map(|name| key(name, name.len())).collect();
    let list = format!(
        "<ListBucketResult>{}{all}<CommonPrefixes><Prefix>m/sub/</Prefix></CommonPrefixes></ListBucketResult>",
        key("", 0)
    );
    server.put("/bucket", list.as_bytes());
    odd.iter().for_each(|name| server.put(&format!("/bucket/m/{name}"), name.as_bytes()));
    let url = server.url("");
    let environment = [
        ("AWS_ENDPOINT_URL", url.as_str()),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
        ("AWS_REGION", "us-east-1"),
    ];
    let mount = mount_bucket(&bench, "s3://bucket/m", &environment);
    let mut expected: Vec<_> = odd.into_iter().chain(["sub"]).collect();
    expected.sort_unstable();
    assert_eq!(names(&mount, ""), expected);
    for name in odd {
        assert_eq!(fs::read(mount.path(name)).unwrap(), name.as_bytes(), "{name}");
    }
}

/// A prefix is not given up for what is odd in it.
#[test]
fn keys_that_no_file_can_have_are_left_out_and_told() {
    let (bench, server) = (Bench::new(), Server::new());
    let entry = |key: &str| {
        format!(
            "<Contents><Key>{key}</Key><Size>4</Size><LastModified>1994-11-06T08:49:37.000Z</LastModified></Contents>"
        )
    };
    let long = format!("m/{}", "n".repeat(300));
    let odd = ["m/../up", "m/.", "m/a&#10;b", long.as_str()];
    let all: String = odd.iter().copied().chain(["m/good", "m/also&amp;good"]).map(entry).collect();
    let prefixes = ["m//", "m/sub/"].map(|key| format!("<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>"));
    let list = format!("<ListBucketResult>{all}{}</ListBucketResult>", prefixes.concat());
    server.put("/bucket", list.as_bytes());
    server.put("/bucket/m/good", b"good");
    let url = server.url("");
    let mut command = command(&bench);
    command.env("AWS_ENDPOINT_URL", url).env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
    command.env("AWS_REGION", "us-east-1").args(["mount", "--cache", "off", "s3://bucket/m"]);
    let output = command.arg(bench.mount_point()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let mount = Mount { point: bench.mount_point(), pid: mounted::status_of(&bench.mount_point()).unwrap().pid };
    assert_eq!(names(&mount, ""), ["also&good", "good", "sub"]);
    assert_eq!(fs::read(mount.path("good")).unwrap(), b"good");
    let said = stderr(&output);
    assert!(said.contains("5 names that no file here can have are left out") && said.lines().count() == 1, "{said}");
    assert_eq!(mount.status().problems.len(), 1);
}

#[test]
fn a_server_without_ranges_is_told_at_the_mount() {
    let (bench, server) = (Bench::new(), Server::new());
    let long = noise(5, 300_000);
    server.put("/m/long.bin", &long);
    server.put("/m/short.bin", b"short");
    server.put("/m/", b"<a href='long.bin'>a</a> <a href='short.bin'>b</a>");
    server.plan(|seen, _| (seen.path == "/m/long.bin").then_some(Fault::NoRanges));
    for address in ["/m/", "/m/long.bin"] {
        let mut command = command(&bench);
        command.args(["mount", "--cache", "off", &server.url(address)]).arg(bench.mount_point());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let mount = Mount { point: bench.mount_point(), pid: mounted::status_of(&bench.mount_point()).unwrap().pid };
        assert!(stderr(&output).contains("does not serve ranges"), "{address}: {}", stderr(&output));
        let status = mount.status();
        assert!(status.problems.iter().any(|text| text.contains("does not serve ranges")), "{:?}", status.problems);
    }
}

#[test]
fn etags_of_azure_are_the_same_with_quotes_and_without() {
    let (bench, server) = (Bench::new(), Server::new());
    let bytes = noise(41, 200_000);
    server.put("/devstoreaccount1/box/m/f", &bytes);
    // Listings have them without, answers with.
    let etag = &blake3::hash(&bytes).to_hex().to_string()[..16];
    let list = format!(
        "<EnumerationResults><Prefix>m/</Prefix><Blobs><Blob><Name>m/f</Name><Properties>\
         <Last-Modified>Sun, 06 Nov 1994 08:49:37 GMT</Last-Modified><Etag>{etag}</Etag>\
         <Content-Length>200000</Content-Length><Content-Type>a/b</Content-Type></Properties></Blob></Blobs>\
         <NextMarker /></EnumerationResults>"
    );
    server.put("/devstoreaccount1/box", list.as_bytes());
    let url = server.url("");
    let environment = [("AZURE_STORAGE_USE_EMULATOR", "true"), ("AZURITE_BLOB_STORAGE_URL", url.as_str())];
    let mount = mount_bucket(&bench, "az://box/m", &environment);
    assert!(fs::read(mount.path("f")).unwrap() == bytes);
    assert!(server.take_seen().iter().any(|seen| seen.headers.contains_key("if-match")));
}

#[test]
fn no_header_of_a_signed_request_follows_a_redirect() {
    let (bench, server, other) = (Bench::new(), Server::new(), Server::new());
    let (url, to) = (server.url(""), other.url("/bucket"));
    server.plan(move |_, _| Some(Fault::Redirect(to.clone())));
    let mut command = command(&bench);
    command.env("AWS_ENDPOINT_URL", url).env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
    command.env("AWS_REGION", "us-east-1").env("AWS_SESSION_TOKEN", "verysecret");
    let output = command.args(["mount", "--cache", "off", "s3://bucket/m"]).arg(bench.mount_point()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("302") && !stderr(&output).contains("verysecret"), "{}", stderr(&output));
    assert!(!server.take_seen().is_empty());
    assert!(other.take_seen().is_empty());
}

#[test]
fn a_bucket_without_credentials_says_which_are_missing() {
    let (bench, server) = (Bench::new(), Server::new());
    let mut mount = command(&bench);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"AWS_")) {
        mount.env_remove(name);
    }
    // A machine that has no role: what would answer, knows nothing.
    mount.env("AWS_METADATA_ENDPOINT", server.url("")).args(["mount", "s3://bucket/models", "--patience", "1"]);
    let output = mount.arg(bench.mount_point()).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("no credentials are in the environment") && said.contains("AWS_ACCESS_KEY_ID"), "{said}");
    assert!(!server.take_seen().is_empty(), "the machine was not asked");
}
