//! Which name a source file is shown under.
//!
//! The rule, in order:
//! 1. What is not an openable container (files, directories, `.bs` files that cannot be opened) keeps its name.
//! 2. A container of ours `X.bs` wants `X`; one of another packer wants the name that its
//!    [format](ForeignFormat::shown_name) says. A container of any other name keeps it.
//! 3. A container whose wanted name is taken is shown under its own name, as plain bytes. Ours choose before
//!    others, and within a format the smaller name (byte order) chooses first.
//!
//! Falling back may take a name that another container wanted, so rule 3 is applied until nothing changes. Each
//! round turns at least one container into a plain file, so it ends; at the end all names differ, because source
//! names differ among themselves and wanted names are only kept when nothing else has them.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::engine::ForeignFormat;

/// The suffix of a container's name. Compared byte for byte.
const SUFFIX: &[u8] = b".bs";
/// Which packer wrote a container; decides the name it wants.
#[derive(Debug, Clone, Copy)]
pub(super) enum Maker {
    /// This crate.
    Native,
    /// Another.
    Foreign(&'static dyn ForeignFormat),
}

impl Maker {
    /// Its place in the order in which names are chosen.
    fn rank(self) -> &'static str {
        match self {
            Self::Native => "",
            Self::Foreign(format) => format.name(),
        }
    }
}

/// Whether a file of this name is tried as a container of ours or of one of `formats`.
pub(super) fn may_be_container(name: &OsStr, formats: &[&'static dyn ForeignFormat]) -> bool {
    let suffixes = formats.iter().flat_map(|format| format.suffixes()).map(|suffix| suffix.as_bytes());
    std::iter::once(SUFFIX).chain(suffixes).any(|suffix| name.as_bytes().ends_with(suffix))
}

/// The name that a container wants, or `None` when it has no suffix of its maker, or cutting that off leaves no usable name.
pub(super) fn wanted(name: &OsStr, maker: Maker) -> Option<OsString> {
    match maker {
        Maker::Native => {
            let stem = name.as_bytes().strip_suffix(SUFFIX)?;
            (!matches!(stem, b"" | b"." | b"..")).then(|| OsStr::from_bytes(stem).to_owned())
        }
        Maker::Foreign(format) => format.shown_name(name),
    }
}

/// A name of the source directory, and for an openable container who made it.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub(super) name: &'a OsStr,
    pub(super) maker: Option<Maker>,
}

/// How a candidate is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shown {
    /// Under its own name, as it is.
    AsItIs,
    /// Under this name, as the original.
    Original(OsString),
    /// A container under its own name, as plain bytes, since this name is taken.
    Taken(OsString),
}

/// Applies the rules to one directory. The result is in the order of `candidates`, whose order does
/// not matter.
pub(super) fn settle(candidates: &[Candidate<'_>]) -> Vec<Shown> {
    let mut shown: Vec<Shown> = candidates
        .iter()
        .map(|c| c.maker.and_then(|m| wanted(c.name, m)).map_or(Shown::AsItIs, Shown::Original))
        .collect();
    let mut order: Vec<(usize, &Candidate<'_>)> = candidates.iter().enumerate().collect();
    order.sort_by_key(|(_, c)| (c.maker.map(Maker::rank), c.name));
    loop {
        let own: HashSet<&OsStr> = candidates
            .iter()
            .zip(&shown)
            .filter(|(_, s)| !matches!(s, Shown::Original(_)))
            .map(|(c, _)| c.name)
            .collect();
        let mut chosen: HashSet<OsString> = HashSet::new();
        let mut settled = true;
        for (position, _) in &order {
            if let Some(slot) = shown.get_mut(*position)
                && let Shown::Original(name) = slot
                && (own.contains(name.as_os_str()) || !chosen.insert(name.clone()))
            {
                *slot = Shown::Taken(std::mem::take(name));
                settled = false;
            }
        }
        if settled {
            return shown;
        }
    }
}

#[cfg(all(test, feature = "bigsmall"))]
mod tests {
    use super::*;
    use crate::foreign::FORMATS;

    fn names(list: &[(&str, Option<Maker>)]) -> Vec<String> {
        let candidates: Vec<_> = list.iter().map(|(n, m)| Candidate { name: OsStr::new(*n), maker: *m }).collect();
        let shown = settle(&candidates);
        candidates
            .iter()
            .zip(shown)
            .map(|(c, s)| match s {
                Shown::Original(name) => name.to_string_lossy().into_owned(),
                Shown::AsItIs | Shown::Taken(_) => c.name.to_string_lossy().into_owned(),
            })
            .collect()
    }

    const N: Option<Maker> = Some(Maker::Native);
    const BIGSMALL: Maker = Maker::Foreign(&crate::foreign::bigsmall::BigSmall);
    const B: Option<Maker> = Some(BIGSMALL);

    #[test]
    fn containers_lose_the_suffix_and_bigsmall_gains_one() {
        assert_eq!(
            names(&[("a.safetensors.bs", N), ("m.bs", B), ("n.safetensors.bs", B), ("x.bs", None), ("c.json", None)]),
            ["a.safetensors", "m.safetensors", "n.safetensors", "x.bs", "c.json"]
        );
    }

    #[test]
    fn a_plain_file_or_directory_wins() {
        assert_eq!(names(&[("a.bs", N), ("a", None)]), ["a.bs", "a"]);
    }

    #[test]
    fn ours_win_over_bigsmall_whatever_the_order() {
        assert_eq!(names(&[("m.bs", B), ("m.safetensors.bs", N)]), ["m.bs", "m.safetensors"]);
        assert_eq!(names(&[("m.safetensors.bs", N), ("m.bs", B)]), ["m.safetensors", "m.bs"]);
    }

    #[test]
    fn falling_back_can_push_another_container_back() {
        // a.bs cannot be a; so a.bs.bs cannot be a.bs; so a.bs.bs.bs cannot be a.bs.bs.
        assert_eq!(
            names(&[("a", None), ("a.bs", N), ("a.bs.bs", N), ("a.bs.bs.bs", N)]),
            ["a", "a.bs", "a.bs.bs", "a.bs.bs.bs"]
        );
        assert_eq!(names(&[("a.bs", N), ("a.bs.bs", N)]), ["a", "a.bs"]);
    }

    #[test]
    fn a_runtime_file_is_shown_like_any_other_of_bigsmalls() {
        assert_eq!(names(&[("m.bsr", B), ("n.safetensors.bsr", B)]), ["m.safetensors", "n.safetensors"]);
        assert_eq!(names(&[("m.bsr", B), ("m.bs", B)]), ["m.bsr", "m.safetensors"]);
        assert_eq!(names(&[("m.bsr", N), ("m.bsd", B), ("n.bsr", None)]), ["m.bsr", "m.bsd", "n.bsr"]);
        assert_eq!(wanted(OsStr::new(".bsr"), BIGSMALL), None);
    }

    #[test]
    fn no_empty_or_dot_names() {
        assert_eq!(names(&[(".bs", N), ("..bs", N), ("...bs", N)]), [".bs", "..bs", "...bs"]);
        assert_eq!(wanted(OsStr::new(&format!("{}.bs", "n".repeat(250))), BIGSMALL), None);
    }

    #[test]
    fn names_never_collide() {
        // Every directory over a small alphabet of awkward names: 3 states for each of 9 names.
        let pool = [
            "a",
            "a.bs",
            "a.bs.bs",
            "a.safetensors",
            "a.safetensors.bs",
            "a.safetensors.bs.bs",
            "a.safetensors.safetensors.bs",
            "a.bsr",
            "a.safetensors.bsr",
        ];
        let states = |name: &str| if may_be_container(OsStr::new(name), FORMATS) { 4 } else { 2 };
        let all: usize = pool.iter().map(|name| states(name)).product();
        for code in 0..all {
            let mut rest = code;
            let mut list = Vec::new();
            for name in pool {
                let state = rest % states(name);
                rest /= states(name);
                if state > 0 {
                    list.push((name, [None, N, B][state - 1]));
                }
            }
            let shown = names(&list);
            let distinct: HashSet<&String> = shown.iter().collect();
            assert_eq!(distinct.len(), shown.len(), "{list:?} -> {shown:?}");
            let mut reversed = list.clone();
            reversed.reverse();
            let mut again = names(&reversed);
            again.reverse();
            assert_eq!(shown, again, "order matters for {list:?}");
        }
    }
}
