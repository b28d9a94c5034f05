//! File names from hints in containers.

/// Longest file name of Linux file systems, bytes.
const MAX_NAME: usize = 255;

/// Whether a component of a hint can be a file name.
pub(super) fn is_file_name(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && part.len() <= MAX_NAME && !part.contains(['\0', '\\'])
}

/// Names that the file `name` may have after it was packed or unpacked: with one of the endings
/// `strip` removed, and one of `append` added. `name` itself comes first.
pub(super) fn file_names(name: &str, strip: &[&str], append: &[&str]) -> Vec<String> {
    let stems = strip.iter().filter_map(|ending| name.strip_suffix(ending));
    let mut names = vec![name.to_owned()];
    for stem in std::iter::once(name).chain(stems).filter(|stem| is_file_name(stem)) {
        for ending in append {
            let other = format!("{stem}{ending}");
            if is_file_name(&other) && !names.contains(&other) {
                names.push(other);
            }
        }
    }
    names
}
