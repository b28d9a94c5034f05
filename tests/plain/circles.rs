//! Layers below the modules: the files of one module form no circle by what they import.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::layers::{code, is_name, source_files};

/// Circles that stay, each with the reason. The files are named as modules, sorted.
const EXPLAINED: &[(&[&str], &str)] = &[(
    &["source/remote", "source/remote/fetch", "source/remote/file", "source/remote/listing"],
    "a file and what all files share of memory and pace",
)];

/// A module's path below the crate, one name an element.
type Module = Vec<String>;

/// The files of the crate, what each imports, and what each gives out again under a name of its own.
#[derive(Default)]
struct Graph {
    code: BTreeMap<Module, String>,
    exports: BTreeMap<(Module, String), Module>,
}

impl Graph {
    /// Test files (`tests.rs`, `*_tests.rs`) are no part of it.
    fn new(files: &[(String, String)]) -> Self {
        let mut graph = Self::default();
        for (path, text) in files {
            let stem = path.trim_end_matches(".rs");
            if stem.ends_with("tests") || matches!(stem, "main") {
                continue;
            }
            let stem = stem.trim_end_matches("/mod");
            let module = if stem == "lib" { vec![] } else { stem.split('/').map(str::to_owned).collect() };
            graph.code.insert(module, code(text));
        }
        // A name may be given out several times on its way up.
        for _ in 0..4 {
            let found: Vec<_> = graph.code.keys().flat_map(|module| graph.exports_of(module)).collect();
            graph.exports.extend(found);
        }
        graph
    }

    fn exports_of(&self, module: &Module) -> Vec<((Module, String), Module)> {
        let mut exports = Vec::new();
        for path in uses(&self.code[module]).into_iter().filter(|(public, _)| *public).map(|(_, path)| path) {
            let (path, name) = path.split_once(" as ").map_or_else(
                || (path.as_str(), path.rsplit("::").next().unwrap_or_default()),
                |(path, name)| (path, name),
            );
            if let Some(target) = self.resolve(module, path)
                && target != *module
            {
                exports.push(((module.clone(), name.trim().to_owned()), target));
            }
        }
        exports
    }

    /// The file in which what `path` names from inside of `module` is defined, as far as it is one of the crate.
    fn resolve(&self, module: &Module, path: &str) -> Option<Module> {
        let path = path.split(" as ").next().unwrap_or_default();
        let mut names = path.split("::").map(str::trim).peekable();
        let mut at = match *names.peek()? {
            "crate" => {
                names.next();
                vec![]
            }
            "self" => {
                names.next();
                module.clone()
            }
            "super" => {
                let mut at = module.clone();
                while names.next_if_eq(&"super").is_some() {
                    at.pop()?;
                }
                at
            }
            first => {
                let below = [module.as_slice(), &[first.to_owned()]].concat();
                self.code.contains_key(&below).then(|| module.clone())?
            }
        };
        while let Some(name) = names.peek() {
            let below = [at.as_slice(), &[(*name).to_owned()]].concat();
            if self.code.contains_key(&below) {
                at = below;
                names.next();
            } else if let Some(target) = self.exports.get(&(at.clone(), (*name).to_owned())) {
                at = target.clone();
                names.next();
            } else {
                break;
            }
        }
        self.code.contains_key(&at).then_some(at)
    }

    /// The files that the file of `module` imports from or names; what it only gives out again does not count.
    fn imports(&self, module: &Module) -> BTreeSet<Module> {
        let code = &self.code[module];
        let imported = uses(code).into_iter().filter(|(public, _)| !public).map(|(_, path)| path);
        imported
            .chain(paths(code))
            .filter_map(|path| self.resolve(module, &path))
            .filter(|target| target != module)
            .collect()
    }

    /// Groups of files of one module, each of which leads to each other one.
    fn circles(&self) -> Vec<Vec<String>> {
        let imports: BTreeMap<&Module, BTreeSet<Module>> =
            self.code.keys().map(|module| (module, self.imports(module))).collect();
        let reached: BTreeMap<&Module, BTreeSet<Module>> =
            self.code.keys().map(|module| (module, reached(module, &imports))).collect();
        let mut circles = BTreeSet::new();
        for module in self.code.keys().filter(|module| reached[module].contains(*module)) {
            let circle = reached[module].iter().filter(|other| reached[other].contains(module));
            circles.insert(circle.map(|module| module.join("/")).collect::<Vec<_>>());
        }
        circles.into_iter().collect()
    }
}

/// All modules of the same top module that imports lead to from `start`, which is one of them only if it is in a circle.
fn reached(start: &Module, imports: &BTreeMap<&Module, BTreeSet<Module>>) -> BTreeSet<Module> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![start]);
    while let Some(module) = next.pop() {
        for other in imports[module].iter().filter(|other| other.first() == start.first()) {
            if reached.insert(other.clone()) {
                next.push(other);
            }
        }
    }
    reached
}

/// Where each `use` begins and ends, and whether it is a public one.
fn statements(code: &str) -> Vec<(Range<usize>, bool)> {
    let mut statements = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let line = code[..at].rsplit(['\n', ';', '}', '{']).next().unwrap_or_default().trim();
        let public = line.starts_with("pub");
        if line.is_empty() || public {
            let end = code[at..].find(';').map_or(code.len(), |len| at + len);
            statements.push((at + "use ".len()..end, public));
        }
    }
    statements
}

/// Every path that a `use` names, groups written out, and whether the `use` is a public one.
fn uses(code: &str) -> Vec<(bool, String)> {
    let mut uses = Vec::new();
    for (tree, public) in statements(code) {
        let tree = code[tree].split_whitespace().collect::<Vec<_>>().join(" ");
        uses.extend(written_out(&tree).into_iter().map(|path| (public, path)));
    }
    uses
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d` and `a::c::e`.
fn written_out(tree: &str) -> Vec<String> {
    let Some((before, group)) = tree.split_once('{') else {
        return vec![tree.trim().to_owned()];
    };
    let (mut paths, mut depth, mut begin) = (vec![], 0, 0);
    for (at, c) in group.char_indices() {
        let ends = depth == 0 && matches!(c, ',' | '}');
        depth += i32::from(c == '{') - i32::from(c == '}');
        if ends {
            let part = group[begin..at].trim();
            if !part.is_empty() {
                paths.extend(written_out(part).into_iter().map(|path| format!("{}{path}", before.trim())));
            }
            begin = at + 1;
        }
    }
    paths
}

/// Every path of two names or more outside of `use`.
fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let end = code.len()..code.len();
    let ends = statements(code).into_iter().map(|(tree, _)| tree).chain(std::iter::once(end));
    let mut begin = 0;
    for tree in ends {
        let mut rest = code.get(begin..tree.start).unwrap_or_default();
        begin = tree.end;
        while let Some(at) = rest.find("::") {
            let begin = rest[..at].rfind(|c| !is_name(c)).map_or(0, |at| at + 1);
            let end = rest[begin..].find(|c| !is_name(c) && c != ':').map_or(rest.len(), |len| begin + len);
            if begin < at && !rest[..begin].ends_with(':') {
                paths.push(rest[begin..end].trim_end_matches(':').to_owned());
            }
            rest = &rest[end.max(at + 2)..];
        }
    }
    paths
}

#[test]
fn files_of_a_module_form_no_circle() {
    let circles = Graph::new(&source_files()).circles();
    let explained: Vec<Vec<String>> =
        EXPLAINED.iter().map(|(files, _)| files.iter().map(ToString::to_string).collect()).collect();
    let new: Vec<String> = circles.iter().filter(|c| !explained.contains(c)).map(|c| c.join(" ")).collect();
    assert!(new.is_empty(), "circles of imports:\n{}", new.join("\n"));
    let gone: Vec<String> = explained.iter().filter(|c| !circles.contains(c)).map(|c| c.join(" ")).collect();
    assert!(gone.is_empty(), "explained, and no circles any more:\n{}", gone.join("\n"));
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    let circles = |files: &[(&str, &str)]| {
        let files: Vec<_> = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Graph::new(&files).circles()
    };
    let (front, b) = (("a/mod.rs", "mod b;\nmod c;\npub use c::{self, Thing as Other};\n"), ["a/b", "a/c"]);
    let c = ("a/c.rs", "use super::b;\nfn f() { b::g() }\n");
    for text in [
        "use super::c::Thing;\n",
        "use crate::a::{\n    c::{Thing, Else},\n};\n",
        "fn g() { super::c::f() }\n",
        "use super::Other;\n",
        "use crate::a::Other;\n",
        "fn g() -> crate::a::Other { todo!() }\n",
    ] {
        assert_eq!(circles(&[front, ("a/b.rs", text), c]), [b], "{text}");
    }
    for text in
        ["#[cfg(test)]\nmod tests { use super::super::c::Thing; }\n", "// super::c::f()\n", "use crate::d::Thing;\n"]
    {
        assert_eq!(circles(&[front, ("a/b.rs", text), c, ("d.rs", "use crate::a::c::f;")]), [[""; 0]; 0], "{text}");
    }
}
