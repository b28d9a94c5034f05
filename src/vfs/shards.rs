//! A model in several foreign containers: which tensors a shard shows besides its own, and the shard index that
//! readers of plain files expect.
//!
//! What is shown for a shard depends on the index beside it, so a [`Packed`](super::packed::Packed) goes
//! by one version of that file, and so does what is made here.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use log::warn;

use super::class::{Class, Found, Notes, Place};
use super::packed::{Opened, Packed};
use super::shard_index::{Generated, Index, SHOWN_INDEX};
use crate::engine::ForeignFile;
use crate::source::{Stat, way};

/// The shard index of a directory, if it has containers that may need it. `exclude` is the mount point, and the directory's
/// path without links.
pub(super) fn index_of(
    place: &Place,
    classes: &[(OsString, Class)],
    last: Option<&Notes>,
    exclude: Option<(&Path, &Path)>,
) -> Option<Arc<Index>> {
    let format = classes.iter().find_map(|(_, class)| match class {
        Class::Container(opened) => opened.packed.foreign(),
        _ => None,
    })?;
    let identity = if place.only.is_some() {
        // It is no less a shard when it is the only one that is shown.
        let path = place.path.join(format.index_name());
        if exclude.is_some_and(|(exclude, real)| way::leads_to(&path, &real.join(format.index_name()), exclude)) {
            return None;
        }
        match place.tree.stat(&path) {
            Ok(Stat::File(identity, _)) => identity,
            _ => return None,
        }
    } else {
        classes.iter().find_map(|(name, class)| match class {
            Class::Plain(identity) if name == format.index_name() => Some(*identity),
            _ => None,
        })?
    };
    let same = last.and_then(|last| last.index.as_ref()).filter(|index| index.identity == identity);
    Some(same.map_or_else(|| Arc::new(Index::read(&*place.tree, &place.path, identity, format)), Arc::clone))
}

/// Has a container show what `index`, that of its directory, adds to it.
pub(super) fn apply(dir: &Path, name: &OsStr, opened: &mut Opened, index: Option<&Index>) {
    let Packed::Foreign { alone, .. } = &opened.packed else { return };
    let version = index.map(|index| index.identity);
    if opened.index == version {
        return;
    }
    let alone = Arc::clone(alone);
    opened.index = version;
    opened.whole = true;
    let added = name.to_str().zip(index.and_then(|index| index.parsed.as_ref()));
    let added = added.map_or(Ok(None), |(name, index)| index.apply(name, &alone)).unwrap_or_else(|error| {
        let path = dir.join(alone.format().index_name());
        warn!("{error}; {} cannot be so, and is not followed for this file", path.display());
        opened.whole = false;
        None
    });
    opened.packed = Packed::Foreign { shown: added.unwrap_or_else(|| Arc::clone(&alone)), alone };
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
    let path = dir.join(index.format.index_name());
    let mut rests_on = vec![(index.format.index_name().into(), index.identity)];
    let mut shards = Vec::new();
    for name in parsed.shards() {
        let Some((found, opened, file)) = by_name.get(OsStr::new(name)).and_then(|found| shard(found)) else {
            remarks.insert(format!(
                "{}: its shard {name} is not shown as it says, so there is no {SHOWN_INDEX}",
                path.display()
            ));
            return None;
        };
        rests_on.push((name.into(), opened.identity));
        shards.push((name.as_str(), found.shown.to_string_lossy().into_owned(), file));
    }
    if let Some(last) = last.filter(|last| last.rests_on == rests_on) {
        return Some(Arc::clone(last));
    }
    let text = match parsed.weight_index(&shards) {
        Ok(text) => Some(text.into_boxed_slice()),
        Err(what) => {
            warn!("{}: {what}, so there is no {SHOWN_INDEX}", path.display());
            None
        }
    };
    Some(Arc::new(Generated { rests_on, text }))
}

/// A shard that is shown whole, under the name that it wants.
fn shard(found: &Found) -> Option<(&Found, &Opened, &Arc<dyn ForeignFile>)> {
    match &found.class {
        Class::Container(opened) if found.decoded && opened.whole => match &opened.packed {
            Packed::Foreign { shown, .. } => Some((found, opened, shown)),
            Packed::Native(_) => None,
        },
        _ => None,
    }
}
