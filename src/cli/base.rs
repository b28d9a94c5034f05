//! What a delta refers to: named by the user, or a file beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bsfs::engine::{BaseFile, Engine, Finder, Places};
use bsfs::longpath;
use bsfs::source::{LocalTree, Tree};
use bsfs::{Error, Result};
use clap::Args;

use super::opened::BigSmall;
use super::out::say;

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
    ///
    /// # Errors
    /// Why a file that may be its base could not be used.
    pub fn find(&self, engine: &Arc<Engine>, finder: &Arc<Finder>, file: &BigSmall) -> Result<Option<Arc<BaseFile>>> {
        let local: Arc<dyn Tree> = Arc::new(LocalTree::default());
        let found = finder.foreign_base(engine, &*file.presented, (&local, file.source.identity()))?;
        let Some((base, _)) = found else { return Ok(None) };
        if self.base.is_empty() {
            let path = file.presented.container().path();
            say(&format!("{}: its base is {}", path.display(), base.path().display()));
        }
        Ok(Some(base))
    }
}
