//! What the Hub says of a repository: the commit behind a revision, its files, and where the bytes of one can be had.
//!
//! A resolved file is good for any number of range requests until it expires: no request for metadata goes before each of them.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use reqwest::Method;
use reqwest::Url;
use reqwest::blocking::Response;
use reqwest::header::{HeaderMap, HeaderValue, IF_RANGE, LINK, RANGE};
use serde::Deserialize;

use super::http::{self, Http};
use super::repo::{Repo, is_commit, is_hex, quote, relative};
use super::settings::Settings;
use crate::error::{Error, Result};

/// Most files that a repository may list.
const MAX_FILES: usize = 1_000_000;
/// Most pages that a listing may have.
const MAX_PAGES: usize = 10_000;

/// A connection to a Hub. Cheap to share between threads; blocking, and not for use inside an asynchronous runtime.
pub struct Client {
    settings: Settings,
    pub(super) http: Http,
}

/// One file of a repository at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoFile {
    /// Path in the repository: relative, parts separated by `/`, never leading out of it.
    pub path: String,
    /// Length of the file itself (not of a pointer to it), bytes.
    pub size: u64,
    /// Git's id of the blob: 40 hexadecimal digits. For a file in LFS that of the pointer.
    pub oid: String,
    /// SHA-256 of the content, 64 hexadecimal digits, if the file is in LFS.
    pub sha256: Option<String>,
    /// Hash in the Hub's chunked storage, if it is there.
    pub xet: Option<String>,
}

impl RepoFile {
    /// The entity tag that the Hub gives for the content, and the name of its blob in a cache.
    #[must_use]
    pub fn etag(&self) -> &str {
        self.sha256.as_ref().unwrap_or(&self.oid)
    }
}

/// Where the bytes of a file can be had now.
#[derive(Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The address; may carry a signature in its query, so it is not to be shown or kept.
    pub url: Url,
    /// Whether requests to it carry the token: it is the endpoint's own address.
    pub with_token: bool,
    /// Entity tag of the content: SHA-256 of a file in LFS, git's id of others. A mirror may have tags of its own, and so may
    /// the host of `url`.
    pub etag: String,
    /// Length of the content, bytes; `None` when the server did not say.
    pub size: Option<u64>,
    /// When the address ceases to work, if it says so.
    pub expires: Option<SystemTime>,
}

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = http::shown(&self.url);
        f.debug_struct("Resolved")
            .field("url", &url)
            .field("etag", &self.etag)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Resolved {
    /// Whether its tag says that it is another content than `listed`, the SHA-256 or git's id of a listing. A tag of a mirror's
    /// own says nothing of that: what the content is was said by the commit.
    #[must_use]
    pub fn contradicts(&self, listed: &str) -> bool {
        is_hex(&self.etag, 64) && is_hex(listed, 64) && !self.etag.eq_ignore_ascii_case(listed)
    }

    /// Whether the address has expired, or will within `margin`.
    #[must_use]
    pub fn is_expired(&self, margin: Duration) -> bool {
        self.expires.is_some_and(|at| SystemTime::now() + margin >= at)
    }
}

#[derive(Deserialize)]
struct Info {
    sha: Option<String>,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
    #[serde(rename = "xetHash")]
    xet: Option<String>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Client {
    /// # Errors
    /// [`Error::Invalid`] when the endpoint is no address.
    pub fn new(settings: Settings) -> Result<Self> {
        let http = Http::new(&settings)?;
        Ok(Self { settings, http })
    }

    /// What it was made with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Requests made so far, those made again included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.http.requests()
    }

    /// The value of the header `Authorization`, for whoever makes requests of his own to a [`Resolved`] address `with_token`.
    #[must_use]
    pub fn authorization(&self) -> Option<HeaderValue> {
        let token = self.settings.token.as_ref()?;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.secret())).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Refuses when no request may be made.
    pub(super) fn online(&self, what: &str) -> Result<()> {
        if self.settings.offline { Err(self.offline(what)) } else { Ok(()) }
    }

    /// The error for what needs a request when none may be made.
    pub(super) fn offline(&self, what: &str) -> Error {
        let text =
            "no request is made, as HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set; unset it, or pull while it is not";
        Error::invalid(format!("{what}: {text}"))
    }

    /// The commit, 40 hexadecimal digits, that a branch, tag or commit is now. One request; none for a whole commit id.
    ///
    /// # Errors
    /// [`Error::Server`] with the status (404: no such repository or revision, or not for this token), [`Error::Invalid`] when
    /// offline, [`Error::Interrupted`].
    pub fn commit(&self, repo: &Repo, revision: &str, stop: &AtomicBool) -> Result<String> {
        if is_commit(revision) {
            return Ok(revision.to_owned());
        }
        let what = format!("{repo}@{revision}");
        self.online(&what)?;
        let url = self.http.at(&format!("/api/models/{}/revision/{}", repo.id(), quote(revision, false)))?;
        let (_, _, info): (_, _, Info) =
            self.http.fetch(&what, &url, stop, |url| Ok(self.http.request(Method::GET, url)))?;
        match info.sha {
            Some(sha) if is_commit(&sha) => Ok(sha),
            _ => Err(http::server(&what, None, "the server tells no commit; is HF_ENDPOINT a Hub?")),
        }
    }

    /// All files at a commit, in order of path, to be written below a directory.
    ///
    /// # Errors
    /// Those of [`Client::listing`]; [`Error::Server`] also when the listing has names that lead out of a directory.
    pub fn files(&self, repo: &Repo, commit: &str, stop: &AtomicBool) -> Result<Vec<RepoFile>> {
        let files = self.listing(repo, commit, stop)?;
        match files.iter().find(|file| relative(&file.path).is_none()) {
            None => Ok(files),
            Some(odd) => {
                let text =
                    format!("the listing has '{}', which is no path inside a directory", odd.path.escape_debug());
                Err(http::server(&format!("{repo}@{commit}"), None, text))
            }
        }
    }

    /// All files at a commit, in order of path, whatever the paths are. One request for each thousand files.
    ///
    /// # Errors
    /// As [`Client::commit`]; [`Error::Server`] also when the listing has no hashes.
    pub fn listing(&self, repo: &Repo, commit: &str, stop: &AtomicBool) -> Result<Vec<RepoFile>> {
        let what = format!("{repo}@{commit}");
        self.online(&what)?;
        let mut next = Some(self.http.at(&format!(
            "/api/models/{}/tree/{}?recursive=true&expand=false",
            repo.id(),
            quote(commit, false)
        ))?);
        let (mut files, mut pages) = (Vec::new(), 0);
        while let Some(url) = next {
            let (at, headers, page): (_, _, Vec<TreeEntry>) =
                self.http.fetch(&what, &url, stop, |url| Ok(self.http.request(Method::GET, url)))?;
            for entry in page.into_iter().filter(|entry| entry.kind == "file") {
                files.push(file(&what, entry)?);
            }
            pages += 1;
            if files.len() > MAX_FILES || pages > MAX_PAGES {
                return Err(http::server(
                    &what,
                    None,
                    format!("the listing has more than {MAX_FILES} files or {MAX_PAGES} pages"),
                ));
            }
            next = match next_page(&headers) {
                None => None,
                // A listing that ends too early would be a snapshot that is not whole.
                Some(link) => {
                    match self.http.named(&link).or_else(|| at.join(&link).ok()).filter(|link| self.http.is_ours(link))
                    {
                        Some(link) => Some(link),
                        None => {
                            return Err(http::server(
                                &what,
                                None,
                                "the listing goes on at another server, which is not asked",
                            ));
                        }
                    }
                }
            };
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// Where the bytes of a file at a commit can be had: one HEAD request, whose redirects are followed as long as they stay on
    /// the endpoint. A redirect elsewhere is the answer, and is for requests without the token.
    ///
    /// # Errors
    /// As [`Client::commit`]; [`Error::Server`] also when the answer has no entity tag or is of another commit.
    pub fn resolve(&self, repo: &Repo, commit: &str, path: &str, stop: &AtomicBool) -> Result<Resolved> {
        let what = format!("{repo}@{commit}/{path}");
        self.online(&what)?;
        let url = self.http.at(&format!("/{}/resolve/{}/{}", repo.id(), quote(commit, false), quote(path, true)))?;
        // The commit is told by the first answer, which may be a redirect to the Hub's own cache.
        let (url, response) = self.http.send(&what, &url, stop, |url| Ok(self.http.request(Method::HEAD, url)))?;
        let elsewhere = http::redirect_target(&url, &response);
        if elsewhere.as_ref().is_some_and(|to| url.scheme() == "https" && to.scheme() != "https") {
            return Err(http::server(&what, None, "the server leads from https to http, which is not followed"));
        }
        let response = if elsewhere.is_some() { response } else { http::accept(&what, response)? };
        if let Some(other) = http::text(&response, "x-repo-commit").filter(|other| is_commit(commit) && other != commit)
        {
            return Err(http::server(
                &what,
                None,
                format!("the server answers for another commit, {}", other.escape_debug()),
            ));
        }
        let Some(etag) = http::etag(&response, "x-linked-etag").or_else(|| http::etag(&response, "etag")) else {
            return Err(http::server(
                &what,
                None,
                "the server gives no ETag; is HF_ENDPOINT a Hub, or is a proxy in between?",
            ));
        };
        let length = if elsewhere.is_some() { None } else { http::text(&response, "content-length") };
        let size = http::text(&response, "x-linked-size").or(length).and_then(|text| text.trim().parse().ok());
        let url = elsewhere.unwrap_or(url);
        Ok(Resolved { with_token: self.http.is_ours(&url), expires: expiry(&url), url, etag, size })
    }

    /// Bytes of a resolved file from `from` to `end`, or to its own, as the body of the answer. `pinned` is the entity tag that the same host gave
    /// before: if it has another one now, it sends the whole file (200) instead of the rest (206). One attempt; what goes wrong
    /// on the way is an `Err` in words without the address.
    pub(super) fn get(
        &self,
        resolved: &Resolved,
        from: u64,
        end: Option<u64>,
        pinned: Option<&str>,
    ) -> std::result::Result<Response, String> {
        let mut request = self.http.request(Method::GET, &resolved.url);
        if from > 0 || end.is_some() {
            let last = end.map_or_else(String::new, |end| end.saturating_sub(1).to_string());
            request = request.header(RANGE, format!("bytes={from}-{last}"));
            if let Some(pinned) = pinned {
                request = request.header(IF_RANGE, pinned);
            }
        }
        self.http.once(request)
    }
}

/// Checks an entry of a listing.
fn file(what: &str, entry: TreeEntry) -> Result<RepoFile> {
    let wrong = |why: &str| http::server(what, None, format!("the listing has '{}', {why}", entry.path.escape_debug()));
    let sha256 = entry.lfs.as_ref().map(|lfs| lfs.oid.trim_start_matches("sha256:").to_owned());
    if !is_hex(&entry.oid, 40) || sha256.as_ref().is_some_and(|sha| !is_hex(sha, 64)) {
        return Err(wrong("without a hash of its content"));
    }
    let size = entry.lfs.map_or(entry.size, |lfs| lfs.size);
    Ok(RepoFile { size, oid: entry.oid, sha256, xet: entry.xet.filter(|xet| is_hex(xet, 64)), path: entry.path })
}

/// The address of the next page in a header `Link: <address>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get(LINK)?.to_str().ok()?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let (_, behind) = next.split_once('<')?;
    Some(behind.split_once('>')?.0.to_owned())
}

/// When a signed address expires, by the names that CloudFront (`Expires`) and S3 (`X-Amz-Date`, `X-Amz-Expires`) use.
fn expiry(url: &Url) -> Option<SystemTime> {
    let get = |name: &str| {
        url.query_pairs().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.into_owned())
    };
    let seconds = match get("Expires") {
        Some(at) => at.parse().ok()?,
        None => amz_date(&get("X-Amz-Date")?)?.checked_add(get("X-Amz-Expires")?.parse().ok()?)?,
    };
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// `20261126T214742Z` in seconds since 1970.
fn amz_date(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    if !(1970..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || text.get(8..9) != Some("T")
    {
        return None;
    }
    // Days of a year that begins in March, so that the leap day is its last.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1;
    let since = days.checked_sub(719_468)?;
    Some(since * 86_400 + number(9..11)? * 3600 + number(11..13)? * 60 + number(13..15)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_addresses_say_when_they_expire() {
        let at = |text: &str| {
            expiry(&Url::parse(text).unwrap()).map(|at| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
        };
        assert_eq!(at("https://c/x?Expires=1700000000&Signature=a"), Some(1_700_000_000));
        assert_eq!(at("https://c/x?X-Amz-Date=20231114T221320Z&X-Amz-Expires=60"), Some(1_700_000_060));
        assert_eq!(at("https://c/x?X-Amz-Date=20240229T000000Z&X-Amz-Expires=0"), Some(1_709_164_800));
        assert_eq!(at("https://c/x?X-Amz-Date=hello&X-Amz-Expires=0"), None);
        assert_eq!(at("https://c/x"), None);
    }

    #[test]
    fn only_digests_of_the_same_kind_contradict_each_other() {
        let (digest, other, id) = ("ab".repeat(32), "cd".repeat(32), "ab".repeat(20));
        let resolved = |etag: &str| Resolved {
            url: Url::parse("https://c/x").unwrap(),
            with_token: false,
            etag: etag.into(),
            size: None,
            expires: None,
        };
        assert!(resolved(&other).contradicts(&digest));
        for (etag, listed) in [(&digest, &digest), (&digest.to_uppercase(), &digest), (&other, &id), (&id, &digest)] {
            assert!(!resolved(etag).contradicts(listed), "{etag} {listed}");
        }
        assert!(!resolved("mirror-1").contradicts(&digest));
    }

    #[test]
    fn a_resolved_file_does_not_show_its_signature() {
        let url = Url::parse("https://c/x?Signature=geheim").unwrap();
        let resolved = Resolved { url, with_token: false, etag: "e".into(), size: Some(1), expires: None };
        assert!(!format!("{resolved:?}").contains("geheim"));
    }
}
