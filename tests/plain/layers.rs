//! The direction of imports between modules: which may name which. An import that points up fails here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module and the modules it may name.
const ALLOWED: &[(&str, &[&str])] = &[
    ("access", &[]),
    ("error", &["escape"]),
    ("escape", &[]),
    ("parallel", &["error"]),
    ("longpath", &[]),
    ("memory", &[]),
    ("sink", &["access", "error", "longpath"]),
    ("source", &["access", "error", "longpath", "cache"]),
    ("cache", &["error"]),
    ("tensor", &["error"]),
    ("codec", &["error", "memory"]),
    ("format", &["error", "memory", "codec", "tensor", "source"]),
    ("compress", &["access", "error", "longpath", "parallel", "sink", "source", "tensor", "codec", "format"]),
    ("engine", &["access", "error", "parallel", "source", "cache", "tensor", "codec", "format"]),
    (
        "foreign",
        &["error", "memory", "parallel", "sink", "source", "cache", "tensor", "codec", "format", "compress", "engine"],
    ),
    ("vfs", &["access", "error", "source", "format", "engine"]),
    ("mount", &["error", "escape", "sink", "source", "cache", "engine", "vfs", "foreign", "hub"]),
    ("hub", &["error", "longpath", "parallel", "source", "sink"]),
];

/// Packages that only one module may name.
const ONLY_IN: &[(&str, &str)] = &[
    ("fuser", "mount"),
    ("object_store", "source"),
    ("tokio", "source"),
    ("constriction", "foreign"),
    ("clap", "cli"),
    ("indicatif", "cli"),
    ("globset", "hub"),
];

/// Each source file below `src`, with its path there.
pub fn source_files() -> Vec<(String, String)> {
    fn below(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    below(&src, &mut paths);
    let name = |path: &PathBuf| path.strip_prefix(&src).unwrap().display().to_string();
    paths.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// The text with comments and the contents of literals blanked, lines kept.
fn without_comments(text: &str) -> Vec<char> {
    let from: Vec<char> = text.chars().collect();
    let mut to = from.clone();
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| from.get(at + i) == Some(&c));
    let mut at = 0;
    while at < from.len() {
        let hashes = from[at + 1..].iter().take_while(|&&c| c == '#').count();
        let raw = from[at] == 'r' && from.get(at + 1 + hashes) == Some(&'"');
        let end = if starts(at, "//") {
            at + from[at..].iter().take_while(|&&c| c != '\n').count()
        } else if starts(at, "/*") {
            (at + 2..from.len()).find(|&end| starts(end, "*/")).map_or(from.len(), |end| end + 2)
        } else if raw && (at == 0 || !from[at - 1].is_alphanumeric()) {
            let close = format!("\"{}", "#".repeat(hashes));
            let begin = at + hashes + 2;
            (begin..from.len()).find(|&end| starts(end, &close)).map_or(from.len(), |end| end + close.len())
        } else if from[at] == '"' {
            let mut end = at + 1;
            while end < from.len() && from[end] != '"' {
                end += 1 + usize::from(from[end] == '\\');
            }
            end + 1
        } else if starts(at, "'\\") || from[at] == '\'' && from.get(at + 2) == Some(&'\'') {
            // A character, not a lifetime.
            (at + 3..from.len()).find(|&end| from[end - 1] == '\'').unwrap_or(from.len())
        } else {
            at += 1;
            continue;
        };
        let end = end.min(from.len());
        to[at..end].iter_mut().filter(|c| **c != '\n').for_each(|c| *c = ' ');
        at = end;
    }
    to
}

/// What is compiled outside of tests: items behind `#[cfg(test)]` or `#[cfg(all(test, …))]` blanked as well.
pub fn code(text: &str) -> String {
    let mut code = without_comments(text);
    let mut at = 0;
    while at < code.len() {
        let attribute: String = code[at..].iter().take(14).collect();
        if !(attribute.starts_with("#[cfg(test)]") || attribute.starts_with("#[cfg(all(test")) {
            at += 1;
            continue;
        }
        // The item ends with its first semicolon outside of braces, or with the brace that closes its first one.
        let (mut end, mut depth) = (at, 0);
        while end < code.len() {
            match code[end] {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            end += 1;
            if depth == 0 && matches!(code[end - 1], ';' | '}') {
                break;
            }
        }
        code[at..end].iter_mut().filter(|c| **c != '\n').for_each(|c| *c = ' ');
        at = end;
    }
    code.into_iter().collect()
}

pub fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The names behind `::` at the start of `rest`, which may be a group: `{a::B, c}` names a and c.
fn heads(rest: &str) -> Vec<&str> {
    let rest = rest.trim_start();
    let Some(group) = rest.strip_prefix('{') else {
        return vec![rest.split(|c| !is_name(c)).next().unwrap_or("")];
    };
    let (mut names, mut depth, mut begin) = (vec![], 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(group[begin..at].trim_start().split(|c| !is_name(c)).next().unwrap_or(""));
                begin = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

/// Line and name of every module of the crate's root that the file at `path` names: by `crate::`, or by as many `super::` as lead
/// there.
fn named<'a>(path: &str, code: &'a str) -> Vec<(usize, &'a str)> {
    let depth = path.trim_end_matches(".rs").trim_end_matches("/mod").split('/').count();
    let climb = "super::".repeat(depth);
    let mut names = Vec::new();
    for root in ["crate::", &climb] {
        for (at, _) in code.match_indices(root) {
            if code[..at].ends_with(|c: char| is_name(c) || c == ':' || c == '$') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            names.extend(heads(&code[at + root.len()..]).into_iter().filter(|n| !n.is_empty()).map(|n| (line, n)));
        }
    }
    names
}

fn broken(files: &[(String, String)]) -> Vec<String> {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let mut broken = Vec::new();
    for (path, text) in files {
        let module = path.split(['/', '.']).next().unwrap();
        if matches!(module, "lib" | "main") {
            continue;
        }
        let code = code(text);
        for (number, name) in named(path, &code).into_iter().filter(|_| module != "cli") {
            let is_module = allowed.contains_key(name);
            // `crate::Error` and `crate::Result` are `error`'s.
            if is_module && name != module && !allowed.get(module).is_some_and(|list| list.contains(&name)) {
                broken.push(format!("src/{path}:{number}: module {module} names {name}"));
            }
        }
        for (package, home) in ONLY_IN.iter().filter(|(_, home)| *home != module) {
            for (at, _) in code.match_indices(&format!("{package}::")) {
                if !code[..at].ends_with(|c: char| is_name(c) || c == ':') {
                    let number = code[..at].matches('\n').count() + 1;
                    broken.push(format!("src/{path}:{number}: only {home} may name the package {package}"));
                }
            }
        }
    }
    broken
}

#[test]
fn imports_point_down() {
    let files = source_files();
    assert!(files.len() > 30);
    for (module, _) in ALLOWED {
        assert!(files.iter().any(|(path, _)| path.split(['/', '.']).next() == Some(module)), "no module {module}");
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
    assert_eq!(file("engine/mod.rs", "use crate::{\n    error::{Error, Result},\n    compress::walk,\n};\n").len(), 1);
    let behind = "#[cfg(test)]\nmod tests {\n    use crate::compress::walk;\n}\nuse crate::{\n    vfs::Vfs};\n";
    assert_eq!(file("engine/mod.rs", behind), ["src/engine/mod.rs:5: module engine names vfs"]);
    assert_eq!(file("engine/disk.rs", "use super::super::vfs::Vfs;\nuse super::vfs;\n").len(), 1);
    assert_eq!(
        file("vfs/mod.rs", "let a = '\"'; let b = r#\"crate::mount::\"#; fuser::mount(\"crate::mount\");").len(),
        1
    );
}
