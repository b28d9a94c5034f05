//! The three requests that a mount makes of the Hub: the commit of a revision, its files, where one is.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use reqwest::blocking::{Client, Response};
use reqwest::header::{AUTHORIZATION, HeaderMap, LINK, LOCATION};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::lazy::{Listed, Named, Repository};
use crate::source::remote::{Failure, Location, Secret};

const LIMIT: Duration = Duration::from_secs(15);
/// Pages of a listing, at most; each has up to a thousand files.
const PAGES: usize = 1000;
const REDIRECTS: usize = 5;

/// A repository of the Hub that the environment names.
pub struct Hub {
    client: Client,
    endpoint: Url,
    token: Option<Secret>,
    offline: bool,
    named: Named,
    commit: Mutex<Option<String>>,
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

fn refused(why: impl Into<String>) -> Failure {
    Failure::Refused(why.into())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `HF_TOKEN`, or the file that the Hub's own tools write.
fn token() -> Option<Secret> {
    let home = || variable("HF_HOME").map(PathBuf::from);
    let default = || {
        let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
        Some(cache.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))?.join("huggingface"))
    };
    let file = || {
        let path = variable("HF_TOKEN_PATH").map(PathBuf::from);
        let path = path.or_else(|| Some(home().or_else(default)?.join("token")))?;
        std::fs::read_to_string(path).ok()
    };
    let token = variable("HF_TOKEN").or_else(file)?;
    let token = token.trim();
    (!token.is_empty()).then(|| Secret::new(format!("Bearer {token}")))
}

impl Hub {
    /// The Hub at `HF_ENDPOINT`, with the token of the environment.
    ///
    /// # Errors
    /// What is wrong with the environment.
    pub fn new(named: Named) -> Result<Self, Failure> {
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let endpoint = Url::parse(&format!("{}/", endpoint.trim_end_matches('/')));
        let endpoint = endpoint.map_err(|e| refused(format!("HF_ENDPOINT is no address: {e}")))?;
        let client = Client::builder()
            .user_agent(concat!("bsfs/", env!("CARGO_PKG_VERSION")))
            .timeout(LIMIT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|_| refused("the HTTP client cannot be set up"))?;
        let on = |name| {
            variable(name).is_some_and(|v| matches!(v.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
        };
        let offline = on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE");
        Ok(Self { client, endpoint, token: token(), offline, named, commit: Mutex::default() })
    }

    fn at(&self, path: &str) -> Result<Url, Failure> {
        self.endpoint.join(path).map_err(|e| refused(format!("no address: {e}")))
    }

    fn is_ours(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// One request, with the token if it goes to the endpoint.
    fn ask(&self, method: Method, url: Url) -> Result<Response, Failure> {
        if self.offline {
            // Not now, and not after any wait.
            return Err(Failure::Again { why: "HF_HUB_OFFLINE is set".into(), after: Some(u64::MAX) });
        }
        let mut request = self.client.request(method, url.clone());
        if let Some(token) = self.token.as_ref().filter(|_| self.is_ours(&url)) {
            request = request.header(AUTHORIZATION, token.reveal());
        }
        let response = request.send().map_err(|e| Failure::Again {
            why: if e.is_timeout() { "no answer in time" } else { "no connection" }.into(),
            after: None,
        })?;
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(response);
        }
        let after = text(response.headers(), "retry-after").map(|after| after.trim().parse().unwrap_or(1));
        Err(Failure::of_status(status.as_u16(), after))
    }

    fn json<T: DeserializeOwned>(&self, url: Url) -> Result<(HeaderMap, T), Failure> {
        let response = self.ask(Method::GET, url)?;
        let headers = response.headers().clone();
        let body =
            response.bytes().map_err(|_| Failure::Again { why: "the connection was lost".into(), after: None })?;
        serde_json::from_slice(&body)
            .map(|value| (headers, value))
            .map_err(|e| refused(format!("no answer of a Hub: {e}")))
    }

    fn commit(&self) -> Result<String, Failure> {
        let mut commit = self.commit.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(commit) = &*commit {
            return Ok(commit.clone());
        }
        let revision = self.named.revision.replace('/', "%2F");
        let (_, Revision { sha }) =
            self.json(self.at(&format!("api/models/{}/revision/{revision}", self.named.id))?)?;
        if sha.is_empty() || !sha.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(refused("the Hub tells no commit"));
        }
        Ok(commit.insert(sha).clone())
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn bare(etag: &str) -> String {
    etag.trim_start_matches("W/").trim_matches('"').to_owned()
}

/// When a signed URL expires, as far as its query says.
fn expires(url: &Url) -> Option<Instant> {
    let at: u64 = url.query_pairs().find(|(key, _)| key == "Expires")?.1.parse().ok()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Instant::now().checked_add(Duration::from_secs(at.saturating_sub(now)))
}

impl Repository for Hub {
    fn files(&self) -> Result<Vec<Listed>, Failure> {
        let commit = self.commit()?;
        let mut next =
            Some(self.at(&format!("api/models/{}/tree/{commit}?recursive=true&expand=false", self.named.id))?);
        let mut files = Vec::new();
        for _ in 0..PAGES {
            let Some(url) = next else { return Ok(files) };
            let (headers, entries): (_, Vec<Entry>) = self.json(url.clone())?;
            files.extend(entries.into_iter().filter(|entry| entry.kind == "file").map(|entry| {
                let (version, len) = entry.lfs.map_or((entry.oid, entry.size), |lfs| (lfs.oid, lfs.size));
                Listed { path: entry.path, len, version: version.trim_start_matches("sha256:").to_owned() }
            }));
            let link = text(&headers, LINK.as_str());
            let link = link.as_deref().and_then(|link| link.split(',').find(|link| link.contains("rel=\"next\"")));
            let target =
                link.and_then(|link| link.split_once('<')?.1.split_once('>')).map(|(target, _)| target.to_owned());
            next =
                target.map(|target| url.join(&target)).transpose().map_err(|_| refused("a link that is no address"))?;
        }
        Err(refused(format!("the listing has more than {PAGES} pages")))
    }

    fn locate(&self, path: &str) -> Result<Location, Failure> {
        let commit = self.commit()?;
        let mut url = self.endpoint.clone();
        url.path_segments_mut()
            .map_err(|()| refused("HF_ENDPOINT is no address"))?
            .pop_if_empty()
            .extend(self.named.id.split('/'))
            .extend(["resolve", &commit])
            .extend(path.split('/'));
        let (mut version, mut len) = (None, None);
        for _ in 0..REDIRECTS {
            let response = self.ask(Method::HEAD, url.clone())?;
            let headers = response.headers();
            if text(headers, "x-repo-commit").is_some_and(|other| other != commit) {
                return Err(Failure::Changed);
            }
            let number = |name: &str| text(headers, name)?.parse::<u64>().ok();
            version = version.or_else(|| text(headers, "x-linked-etag").map(|etag| bare(&etag)));
            len = len.or_else(|| number("x-linked-size"));
            let target = text(headers, LOCATION.as_str()).filter(|_| response.status().is_redirection());
            match target {
                Some(target) => {
                    url = url.join(&target).map_err(|_| refused("a redirect to no address"))?;
                    if self.is_ours(&url) {
                        continue;
                    }
                }
                None => {
                    version = version.or_else(|| text(headers, "etag").map(|etag| bare(&etag)));
                    len = len.or_else(|| number("content-length"));
                }
            }
            let (Some(version), Some(len)) = (version, len) else {
                return Err(refused("the Hub tells no ETag or length of the file"));
            };
            let token = self.token.clone().filter(|_| self.is_ours(&url));
            let headers = token.map(|token| ("authorization".to_owned(), token)).into_iter().collect();
            return Ok(Location { expires: expires(&url), url: Secret::new(url.as_str()), headers, version, len });
        }
        Err(refused("too many redirects"))
    }
}
