//! The hub of the tests: that it is fit to test with, and as a process of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::common::hub::{Config, Fault, Hub, Side};

/// Serves a directory until it is killed; see `tests/common/hub/mod.rs` for how to start it.
#[test]
#[ignore = "serves until it is killed"]
fn serve() {
    let var = |name: &str| std::env::var(name).ok();
    let number = |name: &str, default: u64| var(name).map_or(default, |text| text.parse().unwrap());
    let default = Config::default();
    let config = Config {
        token: var("BSFS_HUB_TOKEN"),
        delay: Duration::from_millis(number("BSFS_HUB_DELAY", 0)),
        expiry: number("BSFS_HUB_EXPIRY", default.expiry),
        multipart: number("BSFS_HUB_MULTIPART", default.multipart),
        ..default
    };
    let hub = Hub::on(config, number("BSFS_HUB_PORT", 0) as u16);
    if let Some(dir) = var("BSFS_HUB_DIR") {
        hub.serve_directory(dir.as_ref());
    }
    // The one line that scripts wait for.
    println!("hub ready at {}", hub.endpoint());
    std::io::stdout().flush().unwrap();
    loop {
        std::thread::park();
    }
}

/// Sends a request as text; gives head and body of the answer.
fn ask(address: &str, request: &str) -> (String, Vec<u8>) {
    let (_, host) = address.split_once("//").unwrap();
    let host = host.split('/').next().unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nConnection: close\r\n").as_bytes()).unwrap();
    stream.write_all(b"\r\n").unwrap();
    let mut bytes = Vec::new();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    // The server keeps connections, so the end is a time-out; a reset is one of the things looked for.
    let mut buffer = [0; 4096];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 {
            break;
        }
        bytes.extend(&buffer[..n]);
    }
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0);
    (String::from_utf8_lossy(&bytes[..at]).into_owned(), bytes[at + 4..].to_vec())
}

fn location(head: &str) -> &str {
    head.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap()
}

#[test]
fn files_are_found_by_redirects_and_read_by_ranges() {
    let hub = Hub::new();
    let commit = hub.commit("o/n", &[("a/config.json", b"{}"), ("m.bin", b"0123456789")]);
    let (head, _) = ask(&hub.endpoint(), "HEAD /o/n/resolve/main/m.bin");
    assert!(head.starts_with("HTTP/1.1 302") && head.contains(&format!("X-Repo-Commit: {commit}")), "{head}");
    let url = location(&head);
    assert!(url.starts_with(&hub.shared.cdn()), "{url}");
    let path = url.strip_prefix(&hub.shared.cdn()).unwrap();
    let (head, body) = ask(url, &format!("GET {path} HTTP/1.1\r\nRange: bytes=2-4\r\nX:"));
    assert!(head.contains("206") && head.contains("Content-Range: bytes 2-4/10"), "{head}");
    assert_eq!(body, b"234");
    hub.expire();
    assert!(ask(url, &format!("GET {path}")).0.contains("403"));

    let (head, _) = ask(&hub.endpoint(), "GET /o/n/resolve/main/a/config.json");
    assert!(head.starts_with("HTTP/1.1 307"), "{head}");
    let (head, body) = ask(&hub.endpoint(), &format!("GET {}", location(&head)));
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("ETag: \"9e26dfeeb6e641a33dae4961196235bdb965b21b\""),
        "{head}"
    );
    assert_eq!(body, b"{}");
}

#[test]
fn it_fails_as_often_as_it_was_asked_to() {
    let hub = Hub::new();
    hub.commit("o/n", &[("a.txt", b"0123456789")]);
    hub.fail(Side::Hub, "GET", "/tree/", 1, Fault::Status(429, Some(7)));
    let (head, _) = ask(&hub.endpoint(), "GET /api/models/o/n/tree/main");
    assert!(head.contains("429") && head.contains("Retry-After: 7"), "{head}");
    assert!(ask(&hub.endpoint(), "GET /api/models/o/n/tree/main").0.contains("200"));
    hub.fail(Side::Hub, "", "resolve-cache", 1, Fault::parse("cut 4").unwrap());
    let commit = hub.state().repos["o/n"].refs["main"].clone();
    let (_, body) = ask(&hub.endpoint(), &format!("GET /api/resolve-cache/models/o/n/{commit}/a.txt"));
    assert_eq!(body, b"0123");
    assert_eq!(hub.seen().len(), 3);
}
