//! Names for people in the log of a mount over its own source.

use std::borrow::Cow;
use std::path::Path;
use std::sync::OnceLock;

/// The way to the source, and the path that the user gave.
static NAMES: OnceLock<(String, String)> = OnceLock::new();

/// Notes that the source at `path` is reached by `way`. A process serves one mount; another would keep the first one's name.
pub(super) fn over(way: &Path, path: &Path) {
    let _ = NAMES.set((way.display().to_string(), path.display().to_string()));
}

/// A message of this process with paths as the user knows them.
#[must_use]
pub fn readable(text: &str) -> Cow<'_, str> {
    match NAMES.get() {
        Some((way, path)) => replaced(text, way, path),
        None => Cow::Borrowed(text),
    }
}

fn replaced<'a>(text: &'a str, way: &str, path: &str) -> Cow<'a, str> {
    if !text.contains(way) {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(way) {
        // Descriptor 7 is not descriptor 70.
        let name = if after.starts_with(|c: char| c.is_ascii_digit()) { way } else { path };
        out.extend([before, name]);
        rest = after;
    }
    Cow::Owned(out + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_way_itself_is_replaced() {
        let of = |text| replaced(text, "/proc/self/fd/7", "/m").into_owned();
        assert_eq!(of("read: /proc/self/fd/7/a: x, /proc/self/fd/7: y"), "read: /m/a: x, /m: y");
        assert_eq!(of("/proc/self/fd/70/a and none"), "/proc/self/fd/70/a and none");
    }
}
