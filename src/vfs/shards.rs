//! A model in several containers of `bigsmall`: which tensors a shard shows besides its own, and the shard index that
//! readers of plain files expect.
//!
//! What is shown for a shard depends on the `bigsmall.index.json` beside it, so a [`Packed`](super::packed::Packed) goes
//! by one version of that file, and so does what is made here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use log::warn;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::class::{Class, Found, Notes, Place};
use super::packed::{Opened, Packed};
use super::shard_index::{Generated, Index, SHOWN_INDEX};
use crate::engine::Presented;
use crate::error::Result;
use crate::format::bigsmall::{SHARD_INDEX, ShardIndex};
use crate::source::{Stat, way};

/// The shard index of a directory, if it has containers that may need it. `exclude` is the mount point, and the directory's
/// path without links.
pub(super) fn index_of(
    place: &Place,
    classes: &[(OsString, Class)],
    last: Option<&Notes>,
    exclude: Option<(&Path, &Path)>,
) -> Option<Arc<Index>> {
    let needed = |(_, class): &(_, Class)| matches!(class, Class::Container(opened) if opened.packed.is_bigsmall());
    if !classes.iter().any(needed) {
        return None;
    }
    let identity = if place.only.is_some() {
        // It is no less a shard when it is the only one that is shown.
        let path = place.path.join(SHARD_INDEX);
        if exclude.is_some_and(|(exclude, real)| way::leads_to(&path, &real.join(SHARD_INDEX), exclude)) {
            return None;
        }
        match place.tree.stat(&path) {
            Ok(Stat::File(identity, _)) => identity,
            _ => return None,
        }
    } else {
        classes.iter().find_map(|(name, class)| match class {
            Class::Plain(identity) if name == SHARD_INDEX => Some(*identity),
            _ => None,
        })?
    };
    let same = last.and_then(|last| last.index.as_ref()).filter(|index| index.identity == identity);
    Some(same.map_or_else(|| Arc::new(Index::read(&*place.tree, &place.path, identity)), Arc::clone))
}

/// Has a container show what `index`, that of its directory, adds to it.
pub(super) fn apply(dir: &Path, name: &OsStr, opened: &mut Opened, index: Option<&Index>) {
    let Packed::BigSmall(presented) = &opened.packed else { return };
    let version = index.map(|index| index.identity);
    if opened.index == version {
        return;
    }
    let bare = opened.index.is_none();
    let container = presented.container();
    let duplicates = index.map(|index| index.duplicates(name)).unwrap_or_default();
    opened.index = version;
    opened.whole = true;
    if bare && duplicates.is_empty() {
        return;
    }
    let pairs = duplicates.iter().map(|duplicate| (duplicate.name.as_str(), duplicate.master.as_str()));
    let made = Presented::new(container, pairs).or_else(|error| {
        warn!("{error}; {} cannot be so, and is not followed for this file", dir.join(SHARD_INDEX).display());
        opened.whole = false;
        Presented::new(container, [])
    });
    // Without duplicates it was made before, when the container was opened.
    if let Ok(presented) = made {
        opened.packed = Packed::BigSmall(Arc::new(presented));
    }
}

/// Makes the shard index for what was `found` in `dir`, or takes `last` if it was made from the same. `None` for a model in
/// one file, or one whose shards are not all there, which is remarked.
pub(super) fn generate(
    dir: &Path,
    index: &Index,
    found: &[Found],
    last: Option<&Arc<Generated>>,
    remarks: &mut BTreeSet<String>,
) -> Option<Arc<Generated>> {
    let parsed = index.parsed.as_ref().filter(|parsed| parsed.shards().len() > 1)?;
    let by_name: HashMap<&OsStr, &Found> = found.iter().map(|found| (found.source.as_os_str(), found)).collect();
    let mut rests_on = vec![(SHARD_INDEX.into(), index.identity)];
    let mut shards = BTreeMap::new();
    for name in parsed.shards() {
        let Some((found, opened, presented)) = by_name.get(OsStr::new(name)).and_then(|found| shard(found)) else {
            let path = dir.join(SHARD_INDEX);
            remarks.insert(format!(
                "{}: its shard {} is not shown as it says, so there is no {SHOWN_INDEX}",
                path.display(),
                name
            ));
            return None;
        };
        rests_on.push((name.into(), opened.identity));
        shards.insert(name.as_str(), (found.shown.to_string_lossy(), presented));
    }
    if let Some(last) = last.filter(|last| last.rests_on == rests_on) {
        return Some(Arc::clone(last));
    }
    let total = shards.values().map(|(_, presented)| presented.tensor_bytes()).fold(0, u64::saturating_add);
    let shown = |name: &str| shards.get(name).map(|(shown, _)| shown.to_string()).unwrap_or_default();
    let text = parsed.weight_index(total, shown);
    let text = match check(parsed, &shards.iter().map(|(name, (_, presented))| (*name, *presented)).collect(), &text) {
        Ok(()) => Some(text.into_boxed_slice()),
        Err(what) => {
            warn!("{}: {what}, so there is no {SHOWN_INDEX}", dir.join(SHARD_INDEX).display());
            None
        }
    };
    Some(Arc::new(Generated { rests_on, text }))
}

/// A shard that is shown whole, under the name that it wants.
fn shard(found: &Found) -> Option<(&Found, &Opened, &Presented)> {
    match &found.class {
        Class::Container(opened) if found.decoded && opened.whole => match &opened.packed {
            Packed::BigSmall(presented) => Some((found, opened, presented)),
            Packed::Native(_) => None,
        },
        _ => None,
    }
}

/// Looks up every tensor as a reader of the text would: in the shard that is named for it.
fn check(index: &ShardIndex, shards: &HashMap<&str, &Presented>, text: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Made {
        weight_map: HashMap<String, IgnoredAny>,
    }
    let made: Made = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let mut there = HashSet::new();
    let mut stored = HashSet::new();
    for (shard, presented) in shards {
        let entries = presented.container().entries();
        there.extend(entries.iter().map(|entry| (*shard, entry.name.as_str())));
        stored.extend(entries.iter().map(|entry| entry.name.as_str()));
    }
    for shard in shards.keys() {
        let duplicates = index.duplicates(shard);
        // It may hold other bytes there, and then nobody knows which are meant.
        if let Some(both) = duplicates.iter().find(|duplicate| stored.contains(duplicate.name.as_str())) {
            return Err(format!("tensor '{}' is said to be stored in none, and is stored", both.name));
        }
        there.extend(duplicates.iter().map(|duplicate| (*shard, duplicate.name.as_str())));
    }
    for tensor in made.weight_map.keys() {
        let shard = index.shard_of(tensor).unwrap_or_default();
        if !there.contains(&(shard, tensor.as_str())) {
            return Err(format!("tensor '{}' is not in {}", tensor, shard));
        }
    }
    Ok(())
}
