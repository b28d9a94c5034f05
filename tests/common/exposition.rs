//! A strict reader of the text format of Prometheus: what it takes, every other reader takes.

use std::collections::{BTreeMap, BTreeSet};

/// A sample: its name, its labels, its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// Reads a page. Panics where it breaks a rule.
pub fn parse(text: &str) -> Vec<Sample> {
    assert!(text.ends_with('\n'), "the last line has no end");
    let mut samples: Vec<Sample> = Vec::new();
    let (mut seen, mut unique) = (BTreeSet::new(), BTreeSet::new());
    let mut family = (String::new(), String::new());
    let mut announced = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.trim().is_empty() && seen.insert(name.to_owned()), "{line}");
            announced = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(announced.take().as_deref(), Some(name), "help comes before the type: {line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "counters, and only they, end in _total: {line}");
            family = (name.to_owned(), kind.to_owned());
        } else {
            let sample = sample(line);
            let end = sample.name.strip_prefix(family.0.as_str()).unwrap_or_else(|| panic!("{line} in {family:?}"));
            let ends: &[&str] = if family.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(ends.contains(&end), "{line}");
            assert!(unique.insert((sample.name.clone(), sample.labels.clone())), "twice: {line}");
            assert!(family.1 == "gauge" || sample.value >= 0.0, "{line}");
            samples.push(sample);
        }
    }
    histograms(&samples);
    samples
}

fn is_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

fn sample(line: &str) -> Sample {
    let (name, mut rest) = line.split_once('{').unwrap_or_else(|| panic!("no labels: {line}"));
    assert!(is_name(name) && name.starts_with("bsfs_"), "{line}");
    let mut labels = BTreeMap::new();
    loop {
        let (label, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
        assert!(is_name(label), "{line}");
        let (mut text, mut chars) = (String::new(), value.char_indices());
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("{line}")) {
                (at, '"') => break at,
                (_, '\\') => text.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    c => panic!("\\{c}: {line}"),
                }),
                (_, c) => text.push(c),
            }
        };
        assert!(labels.insert(label.to_owned(), text).is_none(), "{line}");
        rest = &value[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
    }
    let value = rest.strip_prefix("} ").unwrap_or_else(|| panic!("{line}"));
    let digits = |c: char| c.is_ascii_digit() || "+-.e".contains(c);
    assert!(value.chars().all(digits), "{line}");
    Sample { name: name.to_owned(), labels, value: value.parse().unwrap() }
}

/// A name with its labels.
type Series = (String, BTreeMap<String, String>);

/// Classes of a histogram grow, the last has no bound, and holds all.
fn histograms(samples: &[Sample]) {
    let mut classes: BTreeMap<Series, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.name.ends_with("_bucket")) {
        let mut labels = sample.labels.clone();
        let bound = match labels.remove("le").unwrap().as_str() {
            "+Inf" => f64::INFINITY,
            bound => bound.parse().unwrap(),
        };
        let name = sample.name.trim_end_matches("_bucket").to_owned();
        classes.entry((name, labels)).or_default().push((bound, sample.value));
    }
    for ((name, labels), classes) in classes {
        assert!(classes.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{name} {labels:?}");
        let of = |end: &str| samples.iter().find(|s| s.name == format!("{name}{end}") && s.labels == labels).unwrap();
        let last = classes.last().unwrap();
        assert_eq!((last.0, last.1), (f64::INFINITY, of("_count").value), "{name} {labels:?}");
        assert!((of("_sum").value > 0.0) == (last.1 > 0.0), "{name} {labels:?}");
    }
}

/// The sum of all samples of a name that have these labels.
pub fn sum(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let fits = |s: &&Sample| s.name == name && labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|l| l == v));
    let found: Vec<_> = samples.iter().filter(fits).collect();
    assert!(!found.is_empty(), "no {name} {labels:?}");
    found.iter().map(|sample| sample.value).sum()
}
