//! What a delta refers to: named by the user, or a file beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bsfs::engine::{Base, Engine, FileBase};
use bsfs::format::bigsmall::shown_name;
use bsfs::format::{Sniff, sniff};
use bsfs::source::FileSource;
use bsfs::{Error, Result};
use clap::Args;

use super::opened::{self, BigSmall, Opened};
use super::out::say;
use super::shards::directory;

#[derive(Debug, Args)]
pub struct BaseArg {
    /// What deltas of bigsmall refer to: a safetensors file, or a container of either format [default: a file beside the
    /// delta that has the name the delta tells]
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,
}

impl BaseArg {
    /// The base of `file`; `None` when it needs none, or none is found: reading its deltas then says so.
    pub fn find(&self, engine: &Arc<Engine>, file: &BigSmall) -> Result<Option<Arc<dyn Base>>> {
        let container = file.presented.container();
        if !container.is_delta() {
            return Ok(None);
        }
        if let Some(path) = &self.base {
            return open(engine, path).map(Some);
        }
        let Some(path) = container.base_model().and_then(|hint| beside(container.path(), hint)) else {
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
        return Ok(Arc::new(FileBase::plain(source)?));
    }
    let opened = opened::open(path)?;
    if let Opened::BigSmall(file) = &opened
        && file.presented.container().is_delta()
    {
        let text = "is a delta itself; the base is what both were made from, or the delta decompressed";
        return Err(Error::invalid(format!("{}: {text}", path.display())));
    }
    Ok(Arc::new(FileBase::image(opened.image(engine, None), path)?))
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
    let is_file = |path: &PathBuf| path.symlink_metadata().is_ok_and(|meta| meta.is_file());
    let itself = |path: &PathBuf| path.file_name() == delta.file_name();
    names.into_iter().map(|name| directory(delta).join(name)).find(|path| is_file(path) && !itself(path))
}
