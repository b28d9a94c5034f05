//! What is probably not the file that the user means: packed all the same, and said.

use std::path::Path;

use crate::error::Result;
use crate::source::ReadAt;
use crate::tensor::Header;

/// How a Git LFS pointer begins, and the longest that there is, bytes.
const POINTER: (&[u8], u64) = (b"version https://git-lfs.github.com/spec/", 1024);
/// First bytes that are looked at.
const LOOK: usize = 64;
/// Endings that programs give to downloads that have not ended.
const UNFINISHED: [&str; 5] = ["incomplete", "part", "partial", "crdownload", "aria2"];

/// Why a file that is copied is probably not what the user means.
///
/// # Errors
/// Those of the source.
pub fn doubt_copy(source: &dyn ReadAt) -> Result<Option<String>> {
    if source.path().extension().is_some_and(|ending| UNFINISHED.iter().any(|unfinished| ending == *unfinished)) {
        return Ok(Some("is a download that did not end, by its name".to_owned()));
    }
    if source.len() > POINTER.1 {
        return Ok(None);
    }
    let mut first = [0; POINTER.0.len()];
    let got = source.read_at(0, &mut first)?;
    let is_pointer = first.get(..got) == Some(POINTER.0);
    Ok(is_pointer.then(|| "is a Git LFS pointer and not the file, which \"git lfs pull\" fetches".to_owned()))
}

/// Why a file that is packed is probably not what the user means. Of `weights` a safetensors file is expected.
///
/// # Errors
/// Those of the source.
pub fn doubt(source: &dyn ReadAt, weights: bool) -> Result<Option<String>> {
    if source.is_empty() {
        return Ok(Some("is empty".to_owned()));
    }
    let about = doubt_copy(source)?;
    if about.is_some() || !weights {
        return Ok(about);
    }
    let len = source.len();
    let mut first = [0; LOOK];
    let got = source.read_at(0, &mut first)?;
    let first = first.get(..got).unwrap_or_default();
    let Some(announced) = first.first_chunk::<8>() else { return Ok(Some(no_header(first))) };
    let begins = first.get(8) == Some(&b'{');
    let Some(json_len) = Header::json_len(*announced, len) else {
        let whole = Header::json_len(*announced, u64::MAX).filter(|_| begins);
        return Ok(Some(whole.map_or_else(|| no_header(first), |json| cut(json.saturating_add(8), len))));
    };
    let mut json = vec![0; usize::try_from(json_len).unwrap_or_default()];
    source.read_exact_at(8, &mut json)?;
    // Also tensors beyond the end of the file.
    let Some(header) = Header::parse(&json, u64::MAX) else { return Ok(Some(no_header(first))) };
    let expected = header.tensors.iter().map(|tensor| tensor.offset.saturating_add(tensor.len)).max().unwrap_or(0);
    Ok((expected > len).then(|| cut(expected, len)))
}

fn cut(expected: u64, len: u64) -> String {
    format!("is cut short: {expected} bytes expected by its header, {len} found; its download did not end")
}

fn no_header(first: &[u8]) -> String {
    let text = first.trim_ascii_start().to_ascii_lowercase();
    let what = if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") {
        "an HTML page"
    } else if text.starts_with(b"<") {
        "an XML or HTML text"
    } else if text.starts_with(b"{") || text.starts_with(b"[") {
        "a JSON text"
    } else {
        return "is called .safetensors and has no header of one".to_owned();
    };
    format!("is {what} and no safetensors file: perhaps what a server answered in place of it")
}

/// Whether a name is that of a safetensors file.
#[must_use]
pub fn is_weights(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "safetensors")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemorySource;

    #[test]
    fn what_is_no_whole_model_is_told_and_a_model_is_not() {
        let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{:064}\nsize 4000000000\n", 0);
        let header = br#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}}"#;
        let model = [&(header.len() as u64).to_le_bytes()[..], header, b"123456"].concat();
        let of = |name: &str, bytes: &[u8]| {
            let source = MemorySource::new(name, bytes.to_vec());
            doubt(&source, is_weights(Path::new(name))).unwrap().unwrap_or_default()
        };
        let name = "m.safetensors";
        assert_eq!(of(name, &model), "");
        assert_eq!(of(name, &[&model[..], b"more"].concat()), "");
        for (len, word) in [
            (0, "empty"),
            (1, "no header"),
            (8, "no header"),
            (9, "cut short"),
            (60, "cut short"),
            (model.len() - 1, "cut short"),
        ] {
            assert!(of(name, &model[..len]).contains(word), "{len}: {}", of(name, &model[..len]));
        }
        let told = of(name, &model[..model.len() - 1]);
        assert!(
            told.contains(&format!("{} bytes expected by its header, {} found", model.len(), model.len() - 1)),
            "{told}"
        );
        for (bytes, word) in [
            (pointer.as_bytes(), "Git LFS pointer"),
            (b"<!DOCTYPE html><html>not found</html>", "an HTML page"),
            (b"\n <HTML>", "an HTML page"),
            (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML"),
            (b"{\"error\":\"Repository not found\"}", "a JSON text"),
            (b"Entry not found", "no header"),
        ] {
            assert!(of(name, bytes).contains(word), "{word}: {}", of(name, bytes));
        }
        assert!(
            of("m.gguf", pointer.as_bytes()).contains("LFS")
                && of("m.safetensors.incomplete", &model).contains("did not end")
        );
        assert_eq!(of("m.gguf", b"GGUF"), "");
    }
}
