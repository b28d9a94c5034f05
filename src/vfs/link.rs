//! Links that are shown as links.
//!
//! Where a tree is shown over itself all are: every path means there what it means without the mount, and following one from here
//! could lead into the mount. Elsewhere a link is shown as one when it dangles in the source because what it leads to was packed,
//! and is shown in this tree: the snapshots of a hub cache whose blobs are containers.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::bounds::Bounds;
use super::name::{self, Maker};
use super::packed::Packed;
use crate::source::{Identity, Stat, Tree};

/// One version of a link of the source.
#[derive(Debug, Clone)]
pub(super) struct Link {
    identity: Identity,
    text: PathBuf,
    /// Who made the container that it leads to, if its own name is that of one as well.
    maker: Option<Maker>,
}

/// A link as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    identity: Identity,
    text: PathBuf,
}

impl Shown {
    /// What the link says.
    pub(super) fn shown(&self) -> &Path {
        &self.text
    }

    /// The version of the link in the source.
    pub(super) fn version(&self) -> Identity {
        self.identity
    }
}

impl Link {
    /// Reads this version of the link `path`, in a tree within `bounds` that is shown over itself.
    pub(super) fn read(tree: &dyn Tree, path: &Path, identity: Identity, bounds: Bounds<'_>) -> std::io::Result<Self> {
        let text = tree.read_link(path)?;
        let maker = path
            .file_name()
            .filter(|name| name::may_be_container(name, bounds.formats))
            .and_then(|_| target(path, &text, bounds.root))
            // It must be one by its own name, too, or it is not shown under another.
            .and_then(|target| maker(tree, &target, bounds).filter(|&maker| wants(&target, maker)));
        Ok(Self { identity, text, maker })
    }

    /// A link that leads nowhere in the source, if what it leads to is shown in the same tree.
    pub(super) fn to_packed(tree: &dyn Tree, path: &Path, bounds: Bounds<'_>) -> Option<Self> {
        let Ok(Stat::Link(identity)) = tree.stat_link(path) else { return None };
        let text = tree.read_link(path).ok()?;
        let target = target(path, &text, bounds.root)?;
        let mut packed = target.clone().into_os_string();
        packed.push(".bs");
        let packed = PathBuf::from(packed);
        let Ok(Stat::File(..)) = tree.stat_link(&packed) else { return None };
        let shown = name::wanted(packed.file_name()?, maker(tree, &packed, bounds)?)?;
        (Some(shown.as_os_str()) == target.file_name()).then_some(Self { identity, text, maker: None })
    }

    /// Who made the container that it leads to, if it takes part in names as one.
    pub(super) fn maker(&self) -> Option<Maker> {
        self.maker
    }

    /// The link as it is shown; `decoded`: under the name that the container wants, leading to the name that its target has then.
    pub(super) fn shown(&self, decoded: bool) -> Shown {
        let wanted = || name::wanted(self.text.file_name()?, self.maker?);
        let text = decoded.then(wanted).flatten().map(|name| self.text.with_file_name(name));
        Shown { identity: self.identity, text: text.unwrap_or_else(|| self.text.clone()) }
    }

    /// Whether the link still is what it was.
    pub(super) fn unchanged(&self, tree: &dyn Tree, path: &Path) -> bool {
        tree.stat_link(path).is_ok_and(|stat| stat == Stat::Link(self.identity))
    }
}

/// Where a relative link leads by its text, if that is below `root`.
fn target(path: &Path, text: &Path, root: &Path) -> Option<PathBuf> {
    let mut at = path.parent()?.to_path_buf();
    for part in text.components() {
        match part {
            Component::ParentDir => {
                if at == root || !at.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::Normal(name) => at.push(name),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (at.starts_with(root) && at != root && at.file_name().is_some_and(|name| !name.as_bytes().is_empty())).then_some(at)
}

fn wants(path: &Path, maker: Maker) -> bool {
    path.file_name().is_some_and(|name| name::wanted(name, maker).is_some())
}

/// Who made a file, if it is a container.
fn maker(tree: &dyn Tree, path: &Path, bounds: Bounds<'_>) -> Option<Maker> {
    let source = tree.open(path).ok()?;
    Packed::read(&*source, bounds.formats).ok().map(|packed| packed.maker())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_below_the_root_or_nowhere() {
        let root = Path::new("/r/x");
        let of = |path: &str, text: &str| target(&root.join(path), Path::new(text), root);
        assert_eq!(of("s/a/m", "../../b/1"), Some("/r/x/b/1".into()));
        assert_eq!(of("m", "./n"), Some("/r/x/n".into()));
        for (path, text) in [("s/m", "../../x/b"), ("m", "../x/b"), ("m", "/r/x/b"), ("s/m", ".."), ("m", ".")] {
            assert_eq!(of(path, text), None, "{path} {text}");
        }
    }
}
