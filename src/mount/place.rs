//! What is mounted: a directory or file of this machine, or a remote place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::MountOptions;
use super::check::Checked;
use crate::cache::Store;
use crate::engine::EngineConfig;
use crate::error::{Error, Result};
use crate::source::{LocalTree, Traffic, Tree, way};

/// Of the memory that was asked for, what is for packed bytes on their way from a server.
const REMOTE_SHARE: u64 = 4;
/// What that is at least, bytes: less is a request at a time.
#[cfg(feature = "remote")]
const REMOTE_LEAST: u64 = 4 << 20;

/// The tree that is shown.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) tree: Arc<dyn Tree>,
    /// What is shown of it: its root, or one file.
    pub(super) source: PathBuf,
    /// How messages call it.
    pub(super) label: PathBuf,
    /// How the mount table calls it. mount(8) compares that with /etc/fstab to see what is mounted already.
    pub(super) name: PathBuf,
    #[cfg(feature = "remote")]
    remote: Option<Arc<crate::source::remote::RemoteTree>>,
}

/// Whether the source is not of this machine.
pub(super) fn is_remote(options: &MountOptions) -> bool {
    options.source.to_str().is_some_and(|text| text.contains("://")) && !options.source.exists()
}

/// The caches of the Hub in which bases of deltas are looked for.
pub(super) fn hub_caches() -> Vec<PathBuf> {
    #[cfg(feature = "hub")]
    return crate::hub::cache_dir().into_iter().collect();
    #[cfg(not(feature = "hub"))]
    Vec::new()
}

/// Takes from the engine's memory what a remote source needs.
pub(super) fn share(options: &MountOptions, config: EngineConfig) -> EngineConfig {
    let memory = if is_remote(options) { config.memory - config.memory / REMOTE_SHARE } else { config.memory };
    EngineConfig { memory, ..config }
}

impl Place {
    /// A path that was checked; `over`, the directory itself, when it is to be mounted over. `follow` is where links may lead besides, if not
    /// anywhere.
    pub(super) fn local(checked: Checked, follow: Option<&[PathBuf]>) -> Self {
        let label = checked.source;
        let (tree, source) = match (checked.over, follow) {
            (Some(directory), follow) => LocalTree::holding(directory, follow.is_some()),
            (None, None) => (LocalTree::default(), label.clone()),
            (None, Some(follow)) => {
                // Of a file the directory is the source: what it is shown by may lie beside it.
                let root = if label.is_dir() { Some(&*label) } else { label.parent() };
                let places = root.into_iter().map(Path::to_path_buf).chain(follow.iter().cloned()).collect();
                (LocalTree::confined(places, Some(checked.mount_point)), label.clone())
            }
        };
        Self {
            tree: Arc::new(tree),
            name: label.clone(),
            label,
            source,
            #[cfg(feature = "remote")]
            remote: None,
        }
    }

    /// A remote place, listed.
    #[cfg(feature = "remote")]
    pub(super) fn remote(options: &MountOptions, store: Option<&Arc<Store>>) -> Result<Self> {
        use crate::source::remote::{RemoteConfig, RemoteTree};
        let text = options.source.to_str().unwrap_or_default();
        let config = RemoteConfig {
            memory: (options.memory / REMOTE_SHARE).max(REMOTE_LEAST),
            store: store.cloned(),
            patience: options.patience.unwrap_or(RemoteConfig::default().patience),
            ..RemoteConfig::default()
        };
        #[cfg(feature = "hub")]
        if text.starts_with("hf://") {
            return Self::hub(text, config);
        }
        let (tree, source) = RemoteTree::open(text, config)?;
        Ok(Self::of(tree, source))
    }

    /// A repository of the Hub, at one commit.
    #[cfg(feature = "hub")]
    fn hub(text: &str, config: crate::source::remote::RemoteConfig) -> Result<Self> {
        use crate::hub::{self, HubUri, Pinned, Settings};
        let uri = HubUri::parse(text)?;
        let repository = Arc::new(Pinned::new(uri.clone(), Settings::from_env()?)?);
        let (tree, source) = hub::tree(&uri, repository, config)?;
        Ok(Self { name: text.into(), ..Self::of(tree, source) })
    }

    #[cfg(feature = "remote")]
    fn of(tree: Arc<crate::source::remote::RemoteTree>, source: PathBuf) -> Self {
        let label = tree.label().to_path_buf();
        let name = label.clone();
        Self { tree: Arc::clone(&tree) as Arc<dyn Tree>, source, label, name, remote: Some(tree) }
    }

    /// What there is without the feature.
    #[cfg(not(feature = "remote"))]
    pub(super) fn remote(options: &MountOptions, _store: Option<&Arc<Store>>) -> Result<Self> {
        let text = options.source.to_string_lossy();
        let scheme = text.split(':').next().unwrap_or_default();
        Err(Error::invalid(format!("{scheme}://: this bsfs was built without the feature remote")))
    }

    /// The way round the mount, when it is over the source itself.
    pub(super) fn way(&self) -> Option<&Path> {
        way::is_way(&self.source).then_some(&self.source)
    }

    /// What is wrong with a remote place as a whole, in words.
    pub(super) fn notes(&self) -> Vec<String> {
        #[cfg(feature = "remote")]
        return self.remote.as_ref().map(|remote| remote.notes()).unwrap_or_default();
        #[cfg(not(feature = "remote"))]
        Vec::new()
    }

    /// What was asked of a server.
    pub(super) fn traffic(&self) -> Option<Traffic> {
        self.tree.traffic()
    }

    /// Fetches all of a remote place into the disk cache.
    ///
    /// # Errors
    /// [`Error::Invalid`] without a cache, or for a place of this machine; the first file that cannot be fetched or kept; that of `tell`, which is
    /// given the bytes that are done and those of all.
    pub(super) fn download(&self, tell: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<()> {
        #[cfg(feature = "remote")]
        if let Some(remote) = &self.remote {
            return remote.download(tell);
        }
        let _ = tell;
        Err(Error::invalid("--download is for remote sources; this one is here already"))
    }
}
