//! Opening a place: what an address names, and whether it is a directory or one file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use reqwest::Url;

use super::super::address::{self, Address};
use super::super::listing::{Item, Kept, Listing};
use super::super::objects::Bucket;
use super::super::pace::Pace;
use super::super::resolve::{Failure, Secret};
use super::super::runtime::Runtime;
use super::super::{RemoteConfig, Shared, error, http, web};
use super::list::{self, LIST, persist};
use super::{Directory, Origin, RemoteTree, Site};
use crate::error::{Error, Result};

impl RemoteTree {
    /// Opens the place that `text` names, and lists it. Gives the tree, and the path in it of what was named: its root, or its only
    /// file.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an address that makes no sense, [`Error::Remote`] when there is no such place, it may not be read,
    /// or its server does not answer and it was never listed before.
    pub fn open(text: &str, config: RemoteConfig) -> Result<(Arc<Self>, PathBuf)> {
        let (address, label) = Address::parse(text).map_err(Error::invalid)?;
        let shared = Self::shared(&label, config)?;
        match address {
            Address::Bucket { scheme, url, prefix } => {
                let wrong = |why| error(&label, Failure::Refused(why));
                let bucket = http::client(false).and_then(|client| Bucket::open(scheme, &url, client));
                let bucket = bucket.map_err(wrong)?;
                let tree = Self::new(shared, Origin::Bucket(bucket), label);
                tree.enter(&prefix)
            }
            Address::Web(url) => {
                let parsed = Url::parse(url.reveal()).map_err(|e| Error::invalid(e.to_string()))?;
                let mut directory = parsed.clone();
                directory.set_query(None);
                directory.set_fragment(None);
                if !parsed.path().ends_with('/') {
                    return Self::web_file_or_directory(shared, url, directory, label);
                }
                Self::new(shared, Origin::Web(directory, None), label).enter("")
            }
        }
    }

    /// A place of another kind, called `label` in messages, which no other place may be called.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn over(site: Arc<dyn Site>, label: &Path, config: RemoteConfig) -> Result<(Arc<Self>, PathBuf)> {
        let shared = Self::shared(label, config)?;
        Self::new(shared, Origin::Site(site), label.to_path_buf()).enter("")
    }

    fn shared(label: &Path, config: RemoteConfig) -> Result<Arc<Shared>> {
        let client = http::client(true).map_err(|why| error(label, Failure::Refused(why)))?;
        let (runtime, pace) = (Runtime::new(label)?, Pace::new());
        let (held, files, label) = (AtomicU64::new(0), Mutex::default(), label.to_path_buf());
        let notes = Mutex::default();
        Ok(Arc::new(Shared { label, config, runtime, client, pace, began: Instant::now(), held, files, notes }))
    }

    fn new(shared: Arc<Shared>, origin: Origin, root: PathBuf) -> Self {
        // Beside the directory of this version of the cache.
        let cache = shared.config.store.as_ref().and_then(|store| store.path().parent().map(Path::to_path_buf));
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
        Self {
            id: root.to_string_lossy().into_owned(),
            kept: cache.as_deref().map(Kept::beside),
            shared,
            origin,
            root,
            directories: Mutex::default(),
            turns: Mutex::default(),
            resolved: Mutex::default(),
            files: Mutex::default(),
            heads: Mutex::default(),
            waiting: Mutex::default(),
            since,
        }
    }

    /// A URL that does not end in a slash is a file, unless the server redirects it to one that does.
    fn web_file_or_directory(
        shared: Arc<Shared>,
        url: Secret,
        mut directory: Url,
        label: PathBuf,
    ) -> Result<(Arc<Self>, PathBuf)> {
        // What the query chooses is another place; how it is signed is not.
        let id = match address::choice(url.reveal()) {
            Some(choice) => format!("{}?{choice}", label.display()),
            None => label.to_string_lossy().into_owned(),
        };
        let kept = Self::new(Arc::clone(&shared), Origin::Web(directory.clone(), None), label.clone());
        let known = kept.kept.as_ref().and_then(|kept| kept.read(&id));
        let patience = if known.is_some() { LIST.0 } else { LIST.1 };
        let probed = {
            let (worker, url) = (Arc::clone(&shared), url.clone());
            let work = async move { persist(&worker, patience, || web::probe(&worker.client, &url)).await };
            shared.runtime.wait(work).unwrap_or_else(|| Err(Failure::Refused("the network has ended".into())))
        };
        let single = match (&probed, &known) {
            (Ok(probed), _) => !probed.directory,
            (Err(Failure::Again { .. }), Some(known)) => known.single,
            (Err(failure), _) => return Err(error(&label, failure.clone())),
        };
        if !single {
            let path = format!("{}/", directory.path());
            directory.set_path(&path);
            return Self::new(shared, Origin::Web(directory, None), label).enter("");
        }
        let segment = directory.path_segments().and_then(|mut all| all.next_back()).unwrap_or_default().to_owned();
        let name = web::decode(&segment).ok_or_else(|| Error::invalid("the address ends in no name of a file"))?;
        let above = directory.path().strip_suffix(&segment).unwrap_or("/").to_owned();
        directory.set_path(&above);
        let root = label.parent().unwrap_or(&label).to_path_buf();
        let mut tree = Self::new(Arc::clone(&shared), Origin::Web(directory, Some(url)), root);
        tree.id = id;
        let listing = match (probed, known) {
            (Ok(probed), _) => {
                if probed.whole {
                    shared.note(list::without_ranges(&shared.label, &[&name]));
                }
                let item = Item::file(&name, &segment, probed.facts)
                    .ok_or_else(|| Error::invalid("the address ends in no name of a file"))?;
                tree.heads.lock().insert(name.clone(), probed.head);
                let listing = Listing::new(tree.id.clone(), true, vec![item]);
                tree.kept.iter().for_each(|kept| kept.write(&listing));
                listing
            }
            (Err(failure), Some(known)) => {
                tree.say_old(&failure.to_string());
                known
            }
            (Err(failure), None) => return Err(error(&label, failure)),
        };
        let path = tree.root.join(&name);
        tree.directories.lock().insert(String::new(), Arc::new(Directory { listing, address: String::new() }));
        Ok((Arc::new(tree), path))
    }

    /// Lists the root, which the server calls `address`; it may turn out to be one file.
    fn enter(mut self, address: &str) -> Result<(Arc<Self>, PathBuf)> {
        let directory = self.load("", address).map_err(|failure| error(&self.shared.label, failure))?;
        let path = if directory.listing.single {
            let name = directory.listing.items.first().map(|item| item.name.clone()).unwrap_or_default();
            self.root = self.root.parent().unwrap_or(&self.root).to_path_buf();
            self.root.join(name)
        } else {
            self.root.clone()
        };
        self.directories.lock().insert(String::new(), Arc::new(directory));
        let tree = Arc::new(self);
        tree.keep_small("");
        Ok((tree, path))
    }
}
