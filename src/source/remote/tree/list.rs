//! Listing directories: from the server, or as they were kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::Url;

use super::super::fetch::{Backoff, Version, again};
use super::super::listing::{Facts, Item, Listing};
use super::super::pace::Ask;
use super::super::resolve::{Failure, Secret};
use super::super::{Shared, web};
use super::{Directory, Origin, RemoteTree, join, lock};

/// How long a listing is waited for: when an older one is at hand, and otherwise.
pub(super) const LIST: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(20));
/// Directories in each other that are shown: what leads in a circle on the server has no end here.
const DEEPEST: usize = 64;
/// Files of a web directory that are looked at at once.
const PROBES: usize = 16;
/// First bytes of files that are held until the file is opened, in all.
const HEADS: usize = 8 << 20;

impl RemoteTree {
    pub(super) fn say_old(&self, why: &str) {
        log::warn!("{}: the server does not answer ({why}); showing what it had when it last did", self.root.display());
    }

    /// Lists a directory: from the server, or if that does not answer as it was kept.
    pub(super) fn load(&self, rel: &str, address: &str) -> Result<Directory, Failure> {
        let of = join(&self.id, rel);
        let known = self.kept.as_ref().and_then(|kept| kept.read(&of));
        let patience = if known.is_some() { LIST.0 } else { LIST.1 };
        let (single, items) = match (self.ask(rel, address, patience), known) {
            (Ok(found), _) => found,
            (Err(Failure::Again { why, .. }), Some(listing)) => {
                self.say_old(&why);
                return Ok(Directory { listing, address: address.to_owned() });
            }
            (Err(failure), _) => return Err(failure),
        };
        let mut items = items;
        if rel.split('/').count() >= DEEPEST && items.iter().any(|item| item.facts.is_none()) {
            log::warn!("{of}: too deep below the root; directories in it are not shown. Is it a circle?");
            items.retain(|item| item.facts.is_some());
        }
        let listing = Listing::new(of, single, items);
        if let Some(kept) = &self.kept {
            kept.write(&listing);
        }
        Ok(Directory { listing, address: address.to_owned() })
    }

    /// Asks the server for a directory; `true` when it is one file.
    fn ask(&self, rel: &str, address: &str, patience: Duration) -> Result<(bool, Vec<Item>), Failure> {
        let shared = Arc::clone(&self.shared);
        let broken = || Failure::Refused("the network has ended".into());
        match &self.origin {
            Origin::Bucket(bucket) => {
                let (bucket, prefix, root) = (bucket.clone(), address.to_owned(), rel.is_empty());
                let work = async move {
                    let items = persist(&shared, patience, || bucket.list(&prefix)).await?;
                    if !items.is_empty() || !root {
                        return Ok((false, items));
                    }
                    if prefix.is_empty() {
                        return Ok((false, items));
                    }
                    let item = persist(&shared, patience, || bucket.find(&prefix)).await?;
                    Ok((true, vec![item]))
                };
                self.shared.runtime.wait(work).ok_or_else(broken)?
            }
            Origin::Web(base, _) => {
                let base = web::below(base, address);
                let found = self.shared.runtime.wait(list_web(shared, base, patience)).ok_or_else(broken)??;
                let mut heads = lock(&self.heads);
                let mut held: usize = heads.values().map(Bytes::len).sum();
                let mut items = Vec::new();
                for (item, head) in found {
                    if held + head.len() <= HEADS && !head.is_empty() {
                        held += head.len();
                        heads.insert(join(rel, &item.name), head);
                    }
                    items.push(item);
                }
                Ok((false, items))
            }
            Origin::Site(site) => {
                let mut backoff = Backoff::new(patience);
                loop {
                    match site.list(rel) {
                        Ok(entries) => {
                            let items = entries.into_iter().filter_map(|entry| {
                                let address = join(rel, &entry.name);
                                let Some((len, version)) = entry.file else {
                                    return Item::directory(&entry.name, &address);
                                };
                                let version = Version { etag: Some(version), modified: None };
                                Item::file(&entry.name, &address, Facts { len, version, modified: entry.modified })
                            });
                            return Ok((false, items.collect()));
                        }
                        Err(failure) => std::thread::sleep(backoff.next(&self.shared, failure)?),
                    }
                }
            }
        }
    }
}

/// Tries until it works, or patience has ended.
pub(super) async fn persist<T, F: Future<Output = Result<T, Failure>>>(
    shared: &Shared,
    patience: Duration,
    mut work: impl FnMut() -> F,
) -> Result<T, Failure> {
    let mut backoff = Backoff::new(patience);
    loop {
        let asking = shared.pace.asking(Ask::List);
        let limited = tokio::time::timeout(shared.config.silence.min(patience), work()).await;
        let answer = limited.unwrap_or_else(|_| Err(again("no answer in time")));
        asking.done(&answer);
        match answer {
            Ok(done) => {
                shared.pace.works(&shared.label);
                return Ok(done);
            }
            Err(failure) => tokio::time::sleep(backoff.next(shared, failure)?).await,
        }
    }
}

/// The files of a web directory with their first bytes.
async fn list_web(shared: Arc<Shared>, base: Url, patience: Duration) -> Result<Vec<(Item, Bytes)>, Failure> {
    let secret = Secret::new(base.as_str());
    let names = persist(&shared, patience, || web::index(&shared.client, &secret)).await?;
    let (shared, base) = (&shared, &base);
    let looking = futures_util::stream::iter(names).map(|(name, (segment, directory))| async move {
        if directory {
            return Ok(Item::directory(&name, &segment).map(|item| (item, Bytes::new())));
        }
        let url = Secret::new(web::below(base, &segment).as_str());
        match persist(shared, patience, || web::probe(&shared.client, &url)).await {
            Ok(probed) if probed.directory => Ok(Item::directory(&name, &segment).map(|item| (item, Bytes::new()))),
            Ok(probed) => {
                shared.pace.came(probed.head.len() as u64);
                Ok(Item::file(&name, &segment, probed.facts).map(|item| (item, probed.head)))
            }
            Err(failure @ Failure::Again { .. }) => Err(failure),
            // A link that leads nowhere says nothing about the others.
            Err(failure) => {
                log::warn!("{}/{name}: {failure}; not listed", shared.label.display());
                Ok(None)
            }
        }
    });
    let mut found = Vec::new();
    let mut looking = looking.buffer_unordered(PROBES);
    while let Some(item) = looking.next().await {
        found.extend(item?);
    }
    Ok(found)
}
