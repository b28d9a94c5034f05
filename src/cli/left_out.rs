//! What a run had nothing to do with, and how to take it in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How many files there are of each ending, the most first: "3 × .bin, 1 × .json".
pub fn endings<'a>(files: impl Iterator<Item = &'a Path>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for file in files {
        let ending = file.extension().map_or("without an ending".to_owned(), |e| format!(".{}", e.display()));
        *counts.entry(ending).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rest = counts.iter().skip(MOST).map(|(_, count)| count).sum::<usize>();
    let mut shown: Vec<String> =
        counts.iter().take(MOST).map(|(ending, count)| format!("{count} × {ending}")).collect();
    if rest > 0 {
        shown.push(format!("{rest} others"));
    }
    shown.join(", ")
}

/// More endings than these are counted together.
const MOST: usize = 6;

/// Says that of these files, and their lengths, none was compressed, why, and how to have it done.
pub fn nothing(copied: &[(PathBuf, u64)]) -> Vec<String> {
    let (packed, others): (Vec<_>, Vec<_>) =
        copied.iter().partition(|(path, _)| path.extension().is_some_and(|e| e == "bs" || e == "bsr"));
    let paths = |files: &[&(PathBuf, u64)]| endings(files.iter().map(|(path, _)| path.as_path()));
    let mut said = vec![match (packed.is_empty(), others.is_empty()) {
        (true, true) => "nothing was compressed: there is no file in what you named".to_owned(),
        (true, false) => format!("nothing was compressed: there is no .safetensors file, only {}", paths(&others)),
        (false, true) => format!("nothing was compressed: all is packed already ({})", paths(&packed)),
        (false, false) => format!(
            "nothing was compressed: packed already are {}; no .safetensors file is among the others, {}",
            paths(&packed),
            paths(&others)
        ),
    }];
    if let Some((longest, _)) = others.iter().max_by_key(|(_, len)| *len) {
        let path = longest.display();
        said.push(format!(
            "a file that you name is compressed whatever it is called: bsfs compress {path} -o {path}.bs"
        ));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_is_counted_and_the_longest_is_the_example() {
        let files = |names: &[(&str, u64)]| -> Vec<(PathBuf, u64)> {
            names.iter().map(|(name, len)| (PathBuf::from(name), *len)).collect()
        };
        let said = nothing(&files(&[("a.bin", 9), ("b.bin", 10), ("c.json", 1), ("LICENSE", 2)]));
        assert!(said[0].contains("2 × .bin") && said[0].contains("1 × without an ending"), "{said:?}");
        assert!(said[1].contains("bsfs compress b.bin -o b.bin.bs"), "{said:?}");
        let said = nothing(&files(&[("a.bs", 9)]));
        assert!(said[0].contains("all is packed already (1 × .bs)") && said.len() == 1, "{said:?}");
        assert!(nothing(&[])[0].contains("no file"));
        let many: Vec<_> = (0..9).map(|n| (PathBuf::from(format!("x.{n}")), n)).collect();
        assert!(nothing(&many)[0].contains("3 others"));
    }
}
