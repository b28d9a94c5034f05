//! What containers refer to, and who depends on whom.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bsfs::compress::ratio;
use bsfs::escape::Escaped;
use bsfs::format::{BaseId, Container};
use serde::Serialize;

use super::out::shown;
use super::size::show_size;

/// What a container refers to.
#[derive(Debug, Clone, Serialize)]
pub struct BasesInfo {
    /// Bytes of the original that are stored as what differs from a base, or as the same.
    referring_bytes: u64,
    /// Bytes of them that are found earlier in the file itself.
    itself_bytes: u64,
    /// What the container would take without bases, about, bytes.
    standalone_bytes: u64,
    /// The files that are needed.
    files: Vec<FileRow>,
}

/// A file that is needed.
#[derive(Debug, Clone, Serialize)]
struct FileRow {
    /// Where it was when the container was written.
    hint: String,
    /// Tensors of it that are referred to.
    tensors: usize,
    /// Bytes of the original that refer to it.
    bytes: u64,
    /// The containers among those that are listed that have the tensors.
    found: Vec<PathBuf>,
    /// Tensors that none of them has.
    elsewhere: usize,
}

/// Which listed container has which tensor: the numbers of those that have it themselves come before those that refer to another
/// one for it.
pub type Holders = HashMap<Key, Vec<Holder>>;

/// Digest and length of a tensor.
type Key = ([u8; 32], u64);

/// Whether a container refers to another one for a tensor, and its number.
type Holder = (bool, usize);

/// Which of `containers` has which tensor, by number.
pub fn holders(containers: &[&Container]) -> Holders {
    let mut holders = Holders::new();
    for (at, container) in containers.iter().enumerate() {
        let refers = container.bases().refs.iter().filter_map(|of| match of.id {
            BaseId::Tensor(digest) => Some((digest, of.raw_len)),
            BaseId::Itself | BaseId::Unknown(_) => None,
        });
        let refers: HashSet<Key> = refers.collect();
        for tensor in container.tensors() {
            let key = (tensor.digest, tensor.raw_len);
            let of = holders.entry(key).or_default();
            if of.last().is_none_or(|(_, last)| *last != at) {
                of.push((refers.contains(&key), at));
            }
        }
    }
    holders.values_mut().for_each(|of| of.sort_unstable());
    holders
}

/// What `container`, which is number `own`, refers to; `None` when it stands alone. `path` tells the path of each by number.
pub fn bases<'a>(
    container: &Container,
    own: usize,
    holders: &Holders,
    path: impl Fn(usize) -> Option<&'a Path>,
) -> Option<BasesInfo> {
    let bases = container.bases();
    if bases.is_empty() {
        return None;
    }
    let (mut itself_bytes, mut bytes) = (0, vec![0_u64; bases.refs.len()]);
    for range in &bases.ranges {
        if let Some(bytes) = bytes.get_mut(range.base as usize) {
            *bytes += range.len;
        }
    }
    let mut files: BTreeMap<&str, FileRow> = BTreeMap::new();
    for (of, bytes) in bases.refs.iter().zip(bytes) {
        let BaseId::Tensor(digest) = of.id else {
            itself_bytes += bytes;
            continue;
        };
        let row = files.entry(&of.hint).or_insert_with(|| FileRow {
            hint: of.hint.to_string(),
            tensors: 0,
            bytes: 0,
            found: Vec::new(),
            elsewhere: 0,
        });
        row.tensors += 1;
        row.bytes += bytes;
        let holders = holders.get(&(digest, of.raw_len)).into_iter().flatten();
        let mut paths = holders.filter(|(_, at)| *at != own).filter_map(|(_, at)| path(*at)).peekable();
        let first = paths.peek().copied();
        // The one that was meant, if it is there: where readers look first.
        match paths.find(|path| is_meant(path, &of.hint)).or(first) {
            Some(path) if row.found.last().is_some_and(|last| last == path) => {}
            Some(path) if row.found.iter().any(|found| found == path) => {}
            Some(path) => row.found.push(path.to_path_buf()),
            None => row.elsewhere += 1,
        }
    }
    let files: Vec<FileRow> = files.into_values().collect();
    let referring_bytes = itself_bytes + files.iter().map(|file| file.bytes).sum::<u64>();
    let packed: u64 = container.header().container_len;
    let chunks: u64 =
        container.spans().iter().flat_map(|s| container.span_chunks(s)).map(|c| u64::from(c.packed_len)).sum();
    let standalone_bytes = (packed - chunks).saturating_add(bases.standalone_bytes);
    Some(BasesInfo { referring_bytes, itself_bytes, standalone_bytes, files })
}

/// Whether a container has the name that a hint ends in, packed meanwhile or not.
fn is_meant(path: &Path, hint: &str) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let meant = hint.rsplit('/').next().unwrap_or(hint);
    name == meant || name.strip_suffix(".bs").is_some_and(|stem| stem == meant)
}

/// Lines for a person. `listed` says that a whole directory is shown, in which bases may be.
pub fn describe(text: &mut String, info: &BasesInfo, raw_bytes: u64, listed: bool) {
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<9} {}", Escaped(value));
    };
    for file in &info.files {
        let name = if file.hint.is_empty() { "a file without a name" } else { &file.hint };
        line(
            "needs",
            format!("{name} (that or its container) for {} tensors, {}", file.tensors, show_size(file.bytes)),
        );
        for found in &file.found {
            line("", format!("→ {}", found.display()));
        }
        if listed && file.elsewhere > 0 {
            line("", format!("→ {} tensors that no container listed here has", file.elsewhere));
        }
    }
    if info.itself_bytes > 0 {
        line("repeats", format!("{} of this file itself", show_size(info.itself_bytes)));
    }
    let share = 100.0 * ratio(raw_bytes, info.referring_bytes);
    line(
        "refers",
        format!("{} ({share:.1} %) are differences from these, or the same", show_size(info.referring_bytes)),
    );
    let alone = ratio(raw_bytes, info.standalone_bytes);
    line("alone", format!("about {}, ratio {alone:.4}", show_size(info.standalone_bytes)));
}

/// Who depends on whom among what is listed.
pub fn dependencies(text: &mut String, of: &[(PathBuf, Option<BasesInfo>)]) {
    let mut needed: BTreeMap<&PathBuf, Vec<&PathBuf>> = BTreeMap::new();
    for (path, info) in of {
        for found in info.iter().flat_map(|info| &info.files).flat_map(|file| &file.found) {
            needed.entry(found).or_default().push(path);
        }
    }
    if needed.is_empty() {
        return;
    }
    text.push_str("needed by others:\n");
    for (path, by) in needed {
        let by: Vec<String> = by.iter().map(|path| shown(path).to_string()).collect();
        let _ = writeln!(text, "  {} by {}", shown(path), by.join(", "));
    }
}
