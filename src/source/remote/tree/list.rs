//! Listing directories: from the server, or as they were kept.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::Url;

use super::super::fetch::{Backoff, Version, again};
use super::super::listing::{Facts, Found, Item, Listing};
use super::super::pace::Ask;
use super::super::resolve::{Failure, Secret};
use super::super::{Shared, web};
use super::{Directory, Origin, RemoteTree, SiteEntry, join};

/// How long a listing is waited for: when an older one is at hand, and otherwise.
pub(super) const LIST: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(20));
/// Directories in each other that are shown: what leads in a circle on the server has no end here.
const DEEPEST: usize = 64;
/// Names that cannot be shown and are told, of each directory.
const ODD: usize = 3;
/// Files of a web directory that are looked at at once.
const PROBES: usize = 16;
/// First bytes of files that are held until the file is opened, in all.
const HEADS: usize = 8 << 20;

impl RemoteTree {
    pub(super) fn say_old(&self, why: &str) {
        let what = "the server does not answer";
        self.shared.note(format!("{}: {what} ({why}); showing what it had when it last did", self.root.display()));
    }

    /// Lists a directory: from the server, or if that does not answer as it was kept.
    pub(super) fn load(&self, rel: &str, address: &str) -> Result<Directory, Failure> {
        let of = join(&self.id, rel);
        let known = self.kept.as_ref().and_then(|kept| kept.read(&of));
        let patience = if known.is_some() { LIST.0 } else { LIST.1 };
        let (single, found) = match (self.ask(rel, address, patience), known) {
            (Ok(found), _) => found,
            (Err(Failure::Again { why, .. }), Some(listing)) => {
                self.say_old(&why);
                return Ok(Directory { listing, address: address.to_owned() });
            }
            (Err(failure), _) => return Err(failure),
        };
        let Found { mut items, odd } = found;
        if !odd.is_empty() {
            let names: Vec<String> = odd.iter().take(ODD).map(|name| format!("'{}'", name.escape_debug())).collect();
            let more = if odd.len() > names.len() { " …" } else { "" };
            let what = "names that no file here can have are left out";
            self.shared.note(format!("{of}: {} {what}: {}{more}", odd.len(), names.join(", ")));
        }
        if rel.split('/').count() >= DEEPEST && items.iter().any(|item| item.facts.is_none()) {
            self.shared
                .note(format!("{of}: too deep below the root; directories in it are not shown. Is it a circle?"));
            items.retain(|item| item.facts.is_some());
        }
        let listing = Listing::new(of, single, items);
        if let Some(kept) = &self.kept {
            kept.write(&listing);
        }
        Ok(Directory { listing, address: address.to_owned() })
    }

    /// Asks the server for a directory; `true` when it is one file.
    fn ask(&self, rel: &str, address: &str, patience: Duration) -> Result<(bool, Found), Failure> {
        let shared = Arc::clone(&self.shared);
        let broken = || Failure::Refused("the network has ended".into());
        match &self.origin {
            Origin::Bucket(bucket) => {
                let (bucket, prefix, root) = (bucket.clone(), address.to_owned(), rel.is_empty());
                let work = async move {
                    let found = persist(&shared, patience, || bucket.list(&prefix)).await?;
                    if !found.items.is_empty() || !found.odd.is_empty() || !root || prefix.is_empty() {
                        return Ok((false, found));
                    }
                    let item = persist(&shared, patience, || bucket.find(&prefix)).await?;
                    Ok((true, Found { items: vec![item], ..found }))
                };
                self.shared.runtime.wait(work).ok_or_else(broken)?
            }
            Origin::Web(base, _) => {
                let base = web::below(base, address);
                let listed = self.shared.runtime.wait(list_web(shared, base, patience)).ok_or_else(broken)??;
                let mut heads = self.heads.lock();
                let mut held: usize = heads.values().map(Bytes::len).sum();
                let mut found = Found { odd: listed.odd, ..Found::default() };
                for (name, item, head) in listed.files {
                    if item.is_some() && held + head.len() <= HEADS && !head.is_empty() {
                        held += head.len();
                        heads.insert(join(rel, &name), head);
                    }
                    found.add(&name, item);
                }
                Ok((false, found))
            }
            Origin::Site(site) => {
                let mut backoff = Backoff::new(patience);
                loop {
                    match site.list(rel) {
                        Ok(entries) => {
                            let mut found = Found::default();
                            for SiteEntry { name, file, modified } in entries {
                                let address = join(rel, &name);
                                let item = match file {
                                    None => Item::directory(&name, &address),
                                    Some((len, version)) => {
                                        let version = Version { etag: Some(version), modified: None };
                                        Item::file(&name, &address, Facts { len, version, modified })
                                    }
                                };
                                found.add(&name, item);
                            }
                            return Ok((false, found));
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

/// What the index page of a web directory leads to.
struct Web {
    /// Names, what they are if they can be shown, and the first bytes of files.
    files: Vec<(String, Option<Item>, Bytes)>,
    odd: Vec<String>,
}

/// The files of a web directory with their first bytes.
async fn list_web(shared: Arc<Shared>, base: Url, patience: Duration) -> Result<Web, Failure> {
    let secret = Secret::new(base.as_str());
    let web::Links { names, odd } = persist(&shared, patience, || web::index(&shared.client, &secret)).await?;
    let (shared, base) = (&shared, &base);
    let looking = futures_util::stream::iter(names).map(|(name, (segment, directory))| async move {
        let as_directory = Item::directory(&name, &segment);
        // A name that no file can have is not asked for.
        if directory || as_directory.is_none() {
            return Ok(Some((name, as_directory, Bytes::new(), false)));
        }
        let url = Secret::new(web::below(base, &segment).as_str());
        match persist(shared, patience, || web::probe(&shared.client, &url)).await {
            Ok(probed) if probed.directory => Ok(Some((name, as_directory, Bytes::new(), false))),
            Ok(probed) => {
                shared.pace.came(probed.head.len() as u64);
                let item = Item::file(&name, &segment, probed.facts);
                Ok(Some((name, item, probed.head, probed.whole)))
            }
            Err(failure @ Failure::Again { .. }) => Err(failure),
            // A link that leads nowhere says nothing about the others.
            Err(failure) => {
                log::warn!("{}/{name}: {failure}; not listed", shared.label.display());
                Ok(None)
            }
        }
    });
    let (mut files, mut whole) = (Vec::new(), Vec::new());
    let mut looking = looking.buffer_unordered(PROBES);
    while let Some(found) = looking.next().await {
        let Some((name, item, head, is_whole)) = found? else { continue };
        if is_whole {
            whole.push(name.clone());
        }
        files.push((name, item, head));
    }
    drop(looking);
    if !whole.is_empty() {
        whole.sort_unstable();
        shared.note(without_ranges(&shared.label, &whole.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    Ok(Web { files, odd })
}

/// What to say of a server that does not serve ranges of these files.
pub(super) fn without_ranges(label: &Path, names: &[&str]) -> String {
    let first = names.first().copied().unwrap_or_default();
    let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
    let text = "the server does not serve ranges, without which files of more than 64 KiB cannot be read from it";
    format!("{}: {text} ('{}'{more})", label.display(), first.escape_debug())
}
