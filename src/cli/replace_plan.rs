//! What `--replace` works on: the files themselves, not what links lead to.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bsfs::longpath;
use bsfs::source::{self, Bounds};
use bsfs::{Error, Result};

use super::lease;

/// Device and inode number.
type Id = (u64, u64);

/// A name in a directory; the whole path where that cannot be told.
type Name = (Option<Id>, PathBuf);

/// A file, and all its names if it has several.
pub struct Group {
    /// In order.
    pub names: Vec<PathBuf>,
    /// Bytes.
    pub len: u64,
}

/// What is done and what is not.
#[derive(Default)]
pub struct Plan {
    /// The shortest first: what they free makes room for the longer ones.
    pub groups: Vec<Group>,
    /// What is left as it is and why, for the user.
    pub skipped: Vec<String>,
    /// Links of the tree that lead to files of the plan.
    pub links: usize,
    /// What could not be read, and so is left as it is.
    pub errors: Vec<Error>,
}

/// All regular files and links of the inputs.
#[derive(Default)]
struct Found {
    files: Vec<(PathBuf, Id, Metadata)>,
    /// Links that lead to a file, and which.
    links: Vec<(PathBuf, PathBuf, Id)>,
    /// The names that were taken in: each once, whatever the paths that lead to it.
    seen: HashSet<Name>,
    skipped: Vec<String>,
    errors: Vec<Error>,
}

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Files of weights become containers: those called `.safetensors`, and those that a link of that name leads to, as the blobs
    /// of a hub cache are. A file that is named itself is taken whatever it is called.
    Pack,
    /// Containers become files.
    Unpack,
}

/// As `--replace` takes in directories: what other file systems hold stays as it is.
const BOUNDS: Bounds<'_> = Bounds { leave_out: None, leave_out_names: &[], one_file_system: true };

/// Looks at `inputs`, files and directories with all below them, and puts back what a killed run left aside; not in a `dry_run`.
pub fn plan(inputs: &[PathBuf], way: Way, dry_run: bool) -> Result<Plan> {
    let mut found = Found::default();
    let mut named = HashSet::new();
    for input in inputs {
        if input.to_str().is_some_and(|text| text.contains("://")) && longpath::symlink_metadata(input).is_err() {
            let text = "--replace changes files of this machine where they are; name a directory, or leave --replace out and add -o DIR";
            return Err(Error::invalid(format!("{}: {text}", input.display())));
        }
        let left = lease::heal(input, &BOUNDS, dry_run);
        found.skipped.extend(left.said);
        found.errors.extend(left.errors);
        let is_link = longpath::symlink_metadata(input).map_err(Error::io("open", input))?.is_symlink();
        let meta = longpath::metadata(input).map_err(Error::io("open", input))?;
        if meta.is_dir() {
            enter(input, &mut found)?;
            continue;
        }
        let refuse = |text: &str| Err(Error::invalid(format!("{}: {text}", input.display())));
        if is_link {
            let target = fs::canonicalize(input).unwrap_or_else(|_| input.clone());
            let text =
                "is a link, and what it leads to would be replaced; name that file, or a directory that holds both";
            return refuse(&format!("{text} ({})", target.display()));
        }
        if !meta.is_file() {
            return refuse("not a regular file, expected a file or a directory");
        }
        if way == Way::Unpack && !has(input, "bs") {
            return refuse("the name does not end in .bs, so it tells no name of the original; use -o");
        }
        named.insert((meta.dev(), meta.ino()));
        found.add(input.clone(), meta);
    }
    let wanted: HashSet<Id> = match way {
        Way::Pack => found.links.iter().filter(|link| has(&link.0, "safetensors")).map(|link| link.2).collect(),
        Way::Unpack => HashSet::new(),
    };
    let mut groups: BTreeMap<Id, (Group, u64)> = BTreeMap::new();
    for (path, id, meta) in &found.files {
        let taken = match way {
            Way::Pack => named.contains(id) || has(path, "safetensors") || (wanted.contains(id) && !has(path, "bs")),
            Way::Unpack => has(path, "bs"),
        };
        if taken {
            let group = groups.entry(*id);
            let (group, _) = group.or_insert_with(|| (Group { names: Vec::new(), len: meta.len() }, meta.nlink()));
            group.names.push(path.clone());
        }
    }
    let here: HashSet<Id> = found.files.iter().map(|(_, id, _)| *id).collect();
    let mut plan = Plan { skipped: found.skipped, errors: found.errors, ..Plan::default() };
    for (link, target, id) in &found.links {
        if groups.contains_key(id) {
            plan.links += 1;
        } else if !here.contains(id) && has(link, "safetensors") {
            plan.skipped.push(format!("{}: leads to {}, out of what you named", link.display(), target.display()));
        }
    }
    for (mut group, names) in groups.into_values() {
        group.names.sort();
        let here = group.names.len() as u64;
        if here == names {
            plan.groups.push(group);
        } else if let Some(name) = group.names.first() {
            let text = format!("has {names} names (hard links), {here} of them here: nothing would be freed");
            plan.skipped.push(format!("{}: {text}", name.display()));
        }
    }
    plan.groups.sort_by(|a, b| a.len.cmp(&b.len).then_with(|| a.names.cmp(&b.names)));
    plan.skipped.sort();
    Ok(plan)
}

/// Takes in the directory `root` and all below it, but for other file systems.
fn enter(root: &Path, found: &mut Found) -> Result<()> {
    let walk = source::walk(root, &BOUNDS)?;
    for file in walk.files {
        found.add(root.join(&file.path), file.meta);
    }
    for link in walk.links {
        let path = root.join(link.path);
        // One that leads nowhere is none of ours; one that leads to a directory is not entered.
        if let Ok(to) = longpath::metadata(&path)
            && to.is_file()
            && found.seen.insert(name_of(&path))
        {
            let target = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
            found.links.push((path, target, (to.dev(), to.ino())));
        }
    }
    for mount in walk.mounts {
        found.skipped.push(format!("{}: another file system is mounted there", root.join(mount.path).display()));
    }
    found.errors.extend(walk.errors);
    Ok(())
}

fn name_of(path: &Path) -> Name {
    match (longpath::metadata(longpath::directory(path)), path.file_name()) {
        (Ok(directory), Some(name)) => (Some((directory.dev(), directory.ino())), name.into()),
        _ => (None, path.into()),
    }
}

fn has(path: &Path, ending: &str) -> bool {
    path.extension() == Some(OsStr::new(ending))
}

impl Found {
    fn add(&mut self, path: PathBuf, meta: Metadata) {
        if self.seen.insert(name_of(&path)) {
            self.files.push((path, (meta.dev(), meta.ino()), meta));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn files_are_taken_and_links_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("models--o--n");
        for sub in ["blobs", "snapshots/a", "snapshots/b"] {
            fs::create_dir_all(root.join(sub)).unwrap();
        }
        fs::write(root.join("blobs/11"), b"weights of the model").unwrap();
        fs::write(root.join("blobs/22"), b"{}").unwrap();
        fs::write(dir.path().join("outside"), b"weights").unwrap();
        for snapshot in ["a", "b"] {
            let at = root.join("snapshots").join(snapshot);
            symlink("../../blobs/11", at.join("model.safetensors")).unwrap();
            symlink("../../blobs/22", at.join("config.json")).unwrap();
        }
        symlink(dir.path().join("outside"), root.join("snapshots/a/far.safetensors")).unwrap();
        symlink("nowhere", root.join("snapshots/a/gone.safetensors")).unwrap();
        fs::write(root.join("x.safetensors"), b"weights").unwrap();
        fs::hard_link(root.join("x.safetensors"), root.join("y.safetensors")).unwrap();
        fs::write(root.join("z.safetensors"), b"w").unwrap();
        fs::hard_link(root.join("z.safetensors"), dir.path().join("elsewhere")).unwrap();

        let plan = plan(std::slice::from_ref(&root), Way::Pack, false).unwrap();
        let names: Vec<Vec<PathBuf>> = plan.groups.iter().map(|group| group.names.clone()).collect();
        let at = |name: &str| root.join(name);
        assert_eq!(names, [vec![at("x.safetensors"), at("y.safetensors")], vec![at("blobs/11")]]);
        assert_eq!(plan.links, 2);
        assert_eq!(plan.skipped.len(), 2, "{:?}", plan.skipped);
        assert!(plan.skipped[0].contains("far.safetensors") && plan.skipped[0].contains("out of what you named"));
        assert!(plan.skipped[1].contains("z.safetensors") && plan.skipped[1].contains("2 names"));

        let link = root.join("snapshots/a/model.safetensors");
        let refused = super::plan(&[link], Way::Pack, false).err().unwrap().to_string();
        assert!(refused.contains("is a link") && refused.contains("blobs/11"), "{refused}");
        let named = super::plan(&[at("blobs/22")], Way::Pack, false).unwrap();
        assert_eq!(named.groups.len(), 1);
    }
}
