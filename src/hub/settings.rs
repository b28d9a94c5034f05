//! What the environment says of the Hub, with the meaning that it has for `huggingface_hub`.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::retry::Retry;
use crate::error::{Error, Result};

/// A token of the Hub. It is not shown by `Debug`, and has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token from text; white space around it does not belong to it. `None` when nothing is left.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The secret itself, for the one header it is for.
    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// How the Hub is reached, and where its files are kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of the Hub without a slash at its end: `HF_ENDPOINT`, or `https://huggingface.co`.
    pub endpoint: String,
    /// `HF_TOKEN`, or what is in the token file. `None` with `HF_HUB_DISABLE_IMPLICIT_TOKEN`.
    pub token: Option<Token>,
    /// Directory of the cache: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `$HF_HOME/hub`, `$XDG_CACHE_HOME/huggingface/hub` or
    /// `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// No request is made: `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`.
    pub offline: bool,
    /// How long a connection, an answer or the next bytes of a body may take: `HF_HUB_DOWNLOAD_TIMEOUT`, or 10 s.
    pub timeout: Duration,
    /// When a request is made again.
    pub retry: Retry,
}

impl Settings {
    /// What the environment says.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no home directory or a number is none, [`Error::Io`] when the token file cannot be read.
    pub fn from_env() -> Result<Self> {
        Self::from(&|name| std::env::var(name).ok())
    }

    /// The same from any environment. An empty variable counts as one that is not set.
    fn from(var: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| filled(var, name);
        let no_home = || Error::invalid("there is no home directory; set HF_HOME or HF_HUB_CACHE");
        let expand = |path: String| expand(&path, var);
        let home = home(var);
        let cache = cache(var).ok_or_else(no_home)?;
        let is_true =
            |name: &str| get(name).is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_uppercase().as_str()));
        let token = match get("HF_TOKEN").or_else(|| get("HUGGING_FACE_HUB_TOKEN")).as_deref().and_then(Token::new) {
            Some(token) => Some(token),
            None => match get("HF_TOKEN_PATH").map(expand).or_else(|| home.map(|home| home.join("token"))) {
                Some(path) => from_file(&path)?,
                None => None,
            },
        };
        let timeout = match get("HF_HUB_DOWNLOAD_TIMEOUT") {
            None => 10,
            Some(text) => match text.trim().parse::<u64>() {
                Ok(seconds @ 1..=86_400) => seconds,
                _ => {
                    return Err(Error::invalid(format!(
                        "HF_HUB_DOWNLOAD_TIMEOUT is '{text}', not a number of seconds"
                    )));
                }
            },
        };
        Ok(Self {
            endpoint: get("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".to_owned())
                .trim()
                .trim_end_matches('/')
                .to_owned(),
            token: token.filter(|_| !is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN")),
            cache,
            offline: match get("HF_HUB_OFFLINE") {
                Some(_) => is_true("HF_HUB_OFFLINE"),
                None => is_true("TRANSFORMERS_OFFLINE"),
            },
            timeout: Duration::from_secs(timeout),
            retry: Retry::default(),
        })
    }
}

/// The directory of the shared cache that the environment names, if it names one.
#[must_use]
pub fn cache_dir() -> Option<PathBuf> {
    cache(&|name| std::env::var(name).ok())
}

/// A variable that is not empty.
fn filled(var: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    var(name).filter(|value| !value.trim().is_empty())
}

/// Where the programs of the Hub keep what is theirs.
fn home(var: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    match (filled(var, "HF_HOME"), filled(var, "XDG_CACHE_HOME"), filled(var, "HOME")) {
        (Some(home), _, _) => Some(expand(&home, var)),
        (None, Some(cache), _) => Some(expand(&cache, var).join("huggingface")),
        (None, None, Some(home)) => Some(PathBuf::from(home).join(".cache/huggingface")),
        (None, None, None) => None,
    }
}

fn cache(var: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    match filled(var, "HF_HUB_CACHE").or_else(|| filled(var, "HUGGINGFACE_HUB_CACHE")) {
        Some(cache) => Some(expand(&cache, var)),
        None => Some(home(var)?.join("hub")),
    }
}

fn from_file(path: &PathBuf) -> Result<Option<Token>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Token::new(&text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read the token in", path)(e)),
    }
}

/// `~` at the front and `$NAME`, `${NAME}` anywhere, as Python's `expanduser` and `expandvars` do it: what is not set stays.
fn expand(path: &str, var: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let mut text = path.to_owned();
    if let (Some(rest), Some(home)) = (path.strip_prefix('~'), var("HOME"))
        && (rest.is_empty() || rest.starts_with('/'))
    {
        text = home + rest;
    }
    let mut expanded = String::new();
    let mut rest = text.as_str();
    while let Some((before, behind)) = rest.split_once('$') {
        expanded += before;
        let braced = behind.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let end = behind.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(behind.len());
        let (name, after) = braced.unwrap_or_else(|| behind.split_at(end));
        match var(name) {
            Some(value) if !name.is_empty() => {
                expanded += &value;
                rest = after;
            }
            _ => {
                expanded.push('$');
                rest = behind;
            }
        }
    }
    PathBuf::from(expanded + rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn from(pairs: &[(&str, &str)]) -> Settings {
        let map: HashMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::from(&|name| map.get(name).cloned()).unwrap()
    }

    #[test]
    fn the_cache_is_where_the_python_package_has_it() {
        let cache = |pairs: &[(&str, &str)]| from(pairs).cache.display().to_string();
        assert_eq!(cache(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")]), "/h/hf/hub");
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")]), "/old");
        assert_eq!(
            cache(&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "$D/${E}x$F"), ("D", "/d"), ("E", "e")]),
            "/d/ex$F"
        );
        assert!(Settings::from(&|_| None).is_err());
    }

    #[test]
    fn the_token_is_the_variable_then_the_file_and_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "hf_file\n").unwrap();
        let home = dir.path().to_str().unwrap();
        let token = |pairs: &[(&str, &str)]| from(pairs).token.map(|t| t.secret().to_owned());
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", " hf_env\n")]).unwrap(), "hf_env");
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", " ")]).unwrap(), "hf_file");
        assert_eq!(token(&[("HF_HOME", "/nowhere"), ("HF_TOKEN_PATH", path.to_str().unwrap())]).unwrap(), "hf_file");
        assert_eq!(token(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert!(!format!("{:?}", from(&[("HF_HOME", home)])).contains("hf_file"));
    }

    #[test]
    fn endpoint_and_offline() {
        let settings = from(&[("HOME", "/h"), ("HF_ENDPOINT", "http://hub:80/"), ("HF_HUB_OFFLINE", "yes")]);
        assert_eq!((settings.endpoint.as_str(), settings.offline), ("http://hub:80", true));
        assert!(!from(&[("HOME", "/h"), ("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]).offline);
        assert!(from(&[("HOME", "/h"), ("TRANSFORMERS_OFFLINE", "1")]).offline);
    }
}
