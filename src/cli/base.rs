//! What a delta refers to: named by the user, or a file beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bsfs::engine::{Base, Engine, FileBase, Finder, Places};
use bsfs::foreign::bigsmall::format::shown_name;
use bsfs::format::{Sniff, sniff};
use bsfs::longpath;
use bsfs::source::{FileSource, LocalTree, Tree};
use bsfs::{Error, Result};
use clap::Args;

use super::opened::{self, BigSmall, Opened};
use super::out::say;
use super::shards::directory;

/// The caches of the Hub in which bases are looked for.
fn hub_caches() -> Vec<PathBuf> {
    #[cfg(feature = "hub")]
    return bsfs::hub::cache_dir().into_iter().collect();
    #[cfg(not(feature = "hub"))]
    Vec::new()
}

#[derive(Debug, Args)]
pub struct BaseArg {
    /// Where what deltas refer to is looked for: a safetensors file, a container of either format, or a directory of such files.
    /// May be repeated. Beside the delta and in the cache of the Hugging Face Hub is looked in any case
    #[arg(long, value_name = "PATH")]
    pub base: Vec<PathBuf>,
}

impl BaseArg {
    /// What finds the files that our containers refer to. `input` is what the verb works on: a directory is searched as well.
    pub fn finder(&self, input: &Path) -> Result<Arc<Finder>> {
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(Error::io("resolve", path));
        if let Some(missing) = self.base.iter().find(|path| longpath::metadata(path).is_err()) {
            return Err(Error::invalid(format!("{}: no such file or directory, named with --base", missing.display())));
        }
        let named = self.base.iter().map(absolute).collect::<Result<_>>()?;
        let mut trees: Vec<(Arc<dyn Tree>, PathBuf)> = Vec::new();
        if longpath::is_dir(input) {
            trees.push((Arc::new(LocalTree::default()), absolute(&input.to_path_buf())?));
        }
        Ok(Arc::new(Finder::new(Places { named, trees, hubs: hub_caches(), exclude: None, confined: None })))
    }

    /// The base of `file`; `None` when it needs none, or none is found: reading its deltas then says so.
    pub fn find(&self, engine: &Arc<Engine>, file: &BigSmall) -> Result<Option<Arc<dyn Base>>> {
        let container = file.presented.container();
        if !container.is_delta() {
            return Ok(None);
        }
        let hint = container.base_model();
        for path in &self.base {
            if !longpath::is_dir(path) {
                return open(engine, path).map(Some);
            }
            if let Some(found) = hint.and_then(|hint| beside(&path.join(container.path().file_name()?), hint)) {
                return open(engine, &found).map(Some);
            }
        }
        let Some(path) = hint.and_then(|hint| beside(container.path(), hint)) else {
            return Ok(None);
        };
        say(&format!("{}: its base is {}", container.path().display(), path.display()));
        open(engine, &path).map(Some)
    }
}

fn open(engine: &Arc<Engine>, path: &Path) -> Result<Arc<dyn Base>> {
    let source = FileSource::open(path)?;
    let mut first = [0; 8];
    let got = source.read_at(0, &mut first)?;
    if sniff(first.get(..got).unwrap_or_default()) == Sniff::Other {
        return Ok(Arc::new(FileBase::plain(Arc::new(source))?));
    }
    let opened = opened::open(path)?;
    if let Opened::BigSmall(file) = &opened
        && file.presented.container().is_delta()
    {
        let text = "is a delta itself; the base is what both were made from, or the delta decompressed";
        return Err(Error::invalid(format!("{}: {text}", path.display())));
    }
    Ok(Arc::new(FileBase::image(opened.image(engine, &Arc::new(Finder::new(Places::default())), None), path)?))
}

/// A file in the delta's directory with the last name of `hint`. That is a stranger's text: no way that it tells is gone, no
/// link is followed.
fn beside(delta: &Path, hint: &str) -> Option<PathBuf> {
    let name =
        hint.rsplit(['/', '\\']).next().filter(|name| !["", ".", ".."].contains(name) && !name.contains('\0'))?;
    let mut names = vec![name.to_owned()];
    names.extend(["safetensors", "bs", "safetensors.bs"].map(|end| format!("{name}.{end}")));
    // Migrated meanwhile.
    names.extend(shown_name(name).into_iter().flat_map(|shown| [shown.clone(), format!("{shown}.bs")]));
    let is_file = |path: &PathBuf| longpath::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    let itself = |path: &PathBuf| path.file_name() == delta.file_name();
    names.into_iter().map(|name| directory(delta).join(name)).find(|path| is_file(path) && !itself(path))
}
