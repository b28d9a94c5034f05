//! Names of repositories and what may become a path.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// Longest repository id that the Hub has, characters.
const MAX_ID: usize = 96 * 2 + 1;

/// A model repository: `org/name`, or `name` alone for the oldest ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo(String);

/// `hf://org/name[@revision]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubUri {
    /// The repository.
    pub repo: Repo,
    /// Branch, tag or commit; `None` when there was no `@`.
    pub revision: Option<String>,
}

impl Repo {
    /// Checks a repository id.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is none, or names a data set or a space.
    pub fn new(id: &str) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(format!("{}: {why}; write org/name", id.escape_debug()));
        if let Some((kind @ ("datasets" | "spaces" | "kernels" | "buckets"), _)) = id.split_once('/') {
            return Err(Error::invalid(format!(
                "{}: bsfs reads and writes models only, not {kind}",
                id.escape_debug()
            )));
        }
        let id = id.strip_prefix("models/").unwrap_or(id);
        let parts: Vec<&str> = id.split('/').collect();
        if parts.len() > 2 || id.len() > MAX_ID {
            return Err(wrong("not a repository of the Hub"));
        }
        for part in parts {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let edge = |c: char| matches!(c, '-' | '.');
            // "--" separates the parts in names of directories.
            if part.is_empty()
                || !part.chars().all(plain)
                || part.starts_with(edge)
                || part.ends_with(edge)
                || part.contains("..")
                || part.contains("--")
            {
                return Err(wrong("not a repository of the Hub"));
            }
        }
        Ok(Self(id.to_owned()))
    }

    /// The id, `org/name`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0
    }

    /// Name of the repository's directory in a hub cache: `models--org--name`.
    #[must_use]
    pub fn directory(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf://{}", self.0)
    }
}

impl HubUri {
    /// Whether this argument is an address of the Hub and not a path.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        text.starts_with("hf://")
    }

    /// Takes `hf://org/name[@revision]`; a revision may be percent-encoded.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is no such address.
    pub fn parse(text: &str) -> Result<Self> {
        let Some(rest) = text.strip_prefix("hf://") else {
            return Err(Error::invalid(format!(
                "{}: not an address of the Hub; write hf://org/name",
                text.escape_debug()
            )));
        };
        let (id, revision) = match rest.split_once('@') {
            Some((id, revision)) => (id, Some(unquote(revision))),
            None => (rest.trim_end_matches('/'), None),
        };
        let repo = Repo::new(id)?;
        if let Some(revision) = &revision {
            check_revision(revision)?;
        }
        Ok(Self { repo, revision })
    }

    /// The revision, `main` when none was named.
    #[must_use]
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl fmt::Display for HubUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repo.fmt(f)?;
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

/// Refuses what is no revision, or no name of a file below `refs`.
pub fn check_revision(revision: &str) -> Result<()> {
    match relative(revision) {
        Some(_) if revision.len() <= 255 && !revision.chars().any(char::is_control) => Ok(()),
        _ => Err(Error::invalid(format!("'{}': not a branch, tag or commit", revision.escape_debug()))),
    }
}

/// Whether this is a whole commit id: 40 small hexadecimal digits.
pub fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

/// Whether this is `len` small hexadecimal digits.
pub fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A name that a server gave, as a path that cannot lead out of the directory it is joined to; `None` when it might.
pub fn relative(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    // `components` overlooks "a//b" and "a/./b", which would be a second name of one file.
    let plain = name.split('/').all(|part| !part.is_empty() && part != "." && part.len() <= 255);
    (inside && plain && !name.contains(|c: char| c.is_control() || c == '\\') && name.len() <= 4096)
        .then(|| path.to_path_buf())
}

/// Percent-encodes all but letters, digits and `-_.~`, and `/` if it is kept.
pub fn quote(text: &str, keep_slash: bool) -> String {
    let mut quoted = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => quoted.push(char::from(byte)),
            b'/' if keep_slash => quoted.push('/'),
            _ => quoted += &format!("%{byte:02X}"),
        }
    }
    quoted
}

/// Undoes [`quote`]; leaves what is no encoding as it is.
fn unquote(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match digits.filter(|_| *first == b'%').and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let uri = HubUri::parse("hf://org/name@refs%2Fpr%2F1").unwrap();
        assert_eq!(
            (uri.repo.id(), uri.revision(), uri.repo.directory().as_str()),
            ("org/name", "refs/pr/1", "models--org--name")
        );
        assert_eq!(HubUri::parse("hf://gpt2").unwrap().revision(), "main");
        assert_eq!(HubUri::parse("hf://models/o/n").unwrap().repo.id(), "o/n");
        for wrong in [
            "hf://",
            "hf://a/b/c",
            "hf://a/..",
            "hf://a//b",
            "hf://a/b@",
            "hf://a/b@../x",
            "hf://a--b/c",
            "a/b",
            "hf://a/b@x/./y",
        ] {
            assert!(matches!(HubUri::parse(wrong), Err(Error::Invalid { .. })), "{wrong}");
        }
        let text = HubUri::parse("hf://datasets/o/n").unwrap_err().to_string();
        assert!(text.contains("models only, not datasets"), "{text}");
    }

    #[test]
    fn no_name_of_a_server_leads_out_of_a_directory() {
        for wrong in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/./b", "./a", "a/", "a\\b", "a\0b", "a\u{1b}[2Jb"]
        {
            assert_eq!(relative(wrong), None, "{wrong}");
        }
        assert_eq!(relative("a/b c.json"), Some(PathBuf::from("a/b c.json")));
        assert_eq!(quote("a/b c%.json", true), "a/b%20c%25.json");
        assert_eq!(quote("refs/pr/1", false), "refs%2Fpr%2F1");
    }
}
