//! The direction of imports between rooms: who may name whom. An import points down or it does not compile here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms it may name. `error` and `longpath` name none.
const ALLOWED: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("parallel", &["error"]),
    ("longpath", &[]),
    ("sink", &["error", "longpath"]),
    ("source", &["error", "longpath", "cache"]),
    ("cache", &["error"]),
    ("tensor", &["error"]),
    ("codec", &["error"]),
    ("format", &["error", "codec", "tensor", "source"]),
    ("compress", &["error", "longpath", "parallel", "sink", "source", "tensor", "codec", "format"]),
    ("engine", &["error", "parallel", "source", "cache", "tensor", "codec", "format"]),
    ("vfs", &["error", "source", "format", "engine"]),
    ("mount", &["error", "source", "cache", "engine", "vfs", "hub"]),
    ("hub", &["error", "longpath", "source", "sink"]),
];

/// Packages that only one room may name.
const ONLY_IN: &[(&str, &str)] = &[
    ("fuser", "mount"),
    ("lru", "engine"),
    ("object_store", "source"),
    ("tokio", "source"),
    ("constriction", "codec"),
    ("clap", "cli"),
    ("indicatif", "cli"),
    ("globset", "hub"),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Lines of code: no comments, and nothing behind `#[cfg(test)]`, where a room may use what it likes.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(i, line)| (i + 1, line.split(" // ").next().unwrap_or(line)))
}

/// The first names of all paths that start with `root::`, braces included: `crate::{a::B, c}` names a and c.
fn named<'a>(line: &'a str, root: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (at, _) in line.match_indices(root) {
        let rest = &line[at + root.len()..];
        let list = rest
            .strip_prefix('{')
            .map_or(rest.split_inclusive(&[' ', ';', ',', ')', '>', '('][..]).next().unwrap_or(""), |r| r);
        for part in list.split(',') {
            let name: &str = part.trim().split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or("");
            if !name.is_empty() {
                names.push(name);
            }
            if !rest.starts_with('{') {
                break;
            }
        }
    }
    names
}

fn broken(files: &[(String, String)]) -> Vec<String> {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let mut broken = Vec::new();
    for (path, text) in files {
        let room = path.split(['/', '.']).next().unwrap();
        if matches!(room, "lib" | "main") {
            continue;
        }
        for (number, line) in code(text) {
            if room == "cli" {
                continue;
            }
            for name in named(line, "crate::") {
                let is_room = allowed.contains_key(name);
                // `crate::Error` and `crate::Result` are `error`'s.
                if is_room && name != room && !allowed.get(room).is_some_and(|list| list.contains(&name)) {
                    broken.push(format!("src/{path}:{number}: room {room} names {name}"));
                }
            }
        }
        for (package, home) in ONLY_IN.iter().filter(|(_, home)| *home != room) {
            for (number, line) in code(text) {
                if line.contains(&format!("use {package}::")) || line.contains(&format!(" {package}::")) {
                    broken.push(format!("src/{path}:{number}: only {home} may name the package {package}"));
                }
            }
        }
    }
    broken
}

#[test]
fn imports_point_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&src, &mut paths);
    let files: Vec<(String, String)> = paths
        .iter()
        .map(|p| (p.strip_prefix(&src).unwrap().display().to_string(), fs::read_to_string(p).unwrap()))
        .collect();
    assert!(files.len() > 30);
    for (room, _) in ALLOWED {
        assert!(files.iter().any(|(path, _)| path.split(['/', '.']).next() == Some(room)), "no room {room}");
    }
    let broken = broken(&files);
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn an_import_that_points_up_is_found() {
    let file = |path: &str, text: &str| broken(&[(path.to_owned(), text.to_owned())]);
    assert_eq!(file("codec/plane.rs", "use crate::error::Damage;\n"), Vec::<String>::new());
    assert_eq!(file("codec/plane.rs", "use crate::format::Chunk;\n").len(), 1);
    assert_eq!(file("source/mod.rs", "use crate::{error::Result, engine::Engine};\n").len(), 1);
    assert_eq!(file("engine/mod.rs", "    let x = crate::compress::walk(a, b);\n").len(), 1);
    assert_eq!(file("vfs/tree.rs", "use fuser::FileType;\n").len(), 1);
    assert_eq!(file("engine/mod.rs", "// crate::compress::walk\n#[cfg(test)]\nuse crate::compress::walk;\n").len(), 0);
}
