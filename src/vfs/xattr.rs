//! Extended attributes of shown files: what a container says of the file, without reading it.

use std::collections::BTreeMap;

use super::packed::Packed;
use super::tree::{Body, Contents, Node};
use crate::format::Container;
use crate::format::checksum::hex;

/// The value of an attribute of a shown file.
pub(super) fn value(node: &Node, name: &str) -> Option<String> {
    let Body::File(file) = &node.body else { return None };
    let Contents::Original(opened) = &file.contents else { return None };
    let raw = opened.packed.raw_len();
    match (name, &opened.packed) {
        ("ratio", _) if raw == 0 => Some("1.0000".into()),
        ("ratio", _) => Some(format!("{:.4}", opened.identity.len as f64 / raw as f64)),
        ("source", _) => Some(file.path.file_name()?.to_string_lossy().into_owned()),
        ("sha256", Packed::Native(container)) => Some(hex(&container.file().sha256)),
        ("codec", Packed::Native(container)) => Some(codecs(container)),
        ("codec", Packed::Foreign { shown, .. }) => Some(shown.format().name().into()),
        _ => None,
    }
}

/// The codecs of a container, that of most bytes first.
fn codecs(container: &Container) -> String {
    let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
    for chunk in container.spans().iter().flat_map(|span| container.span_chunks(span)) {
        let name = chunk.codec().map_or("unknown", |codec| codec.name());
        *bytes.entry(name).or_default() += u64::from(chunk.raw_len);
    }
    let mut names: Vec<(&str, u64)> = bytes.into_iter().collect();
    names.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    names.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(",")
}
