//! Range requests over HTTP, and files behind a [`Resolve`].

use std::ops::Range;
use std::sync::Arc;
use std::time::UNIX_EPOCH;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use parking_lot::Mutex;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE, RETRY_AFTER,
};
use reqwest::redirect::{Action, Attempt, Policy};
use reqwest::{Client, Response, Url};

use super::fetch::{Answer, Answering, Fetch, Version, again};
use super::resolve::{Failure, Location, Resolve, Secret};

/// A location is resolved anew so long before it expires.
const EARLY: Duration = Duration::from_secs(30);
/// Redirects that are followed.
const REDIRECTS: usize = 10;
const CONNECT: Duration = Duration::from_secs(10);

/// The client for requests that follow redirects, or for those that may not, since their secrets lie in headers that only we know.
/// Where redirects lead, nothing is told of where they came from: neither Authorization nor an address with its query.
pub(super) fn client(redirects: bool) -> Result<Client, String> {
    let policy = if redirects { Policy::custom(follow) } else { Policy::none() };
    Client::builder()
        .user_agent(concat!("bsfs/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .redirect(policy)
        .referer(false)
        // One of many streams on a connection waits for the others where bytes are lost.
        .http1_only()
        .build()
        .map_err(|e| describe(&e))
}

fn follow(attempt: Attempt<'_>) -> Action {
    let from = attempt.previous().last();
    if from.is_some_and(|from| from.scheme() == "https") && attempt.url().scheme() != "https" {
        attempt.error("it leads from https to http")
    } else if attempt.previous().len() > REDIRECTS {
        attempt.error("there are too many of them")
    } else {
        attempt.follow()
    }
}

/// What is wrong with the certificate of a server, if that is what an error is about: another try will not help.
pub(crate) fn certificate(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        // The type is that of a crate behind the crates that we name.
        if let Some((_, why)) = error.to_string().split_once("invalid peer certificate: ") {
            let text = "SSL_CERT_FILE names a file of certificates that are trusted in place of the system's";
            return Some(format!("the server's certificate is not accepted: {why}; {text}"));
        }
        next = error.source();
    }
    None
}

/// An error without the URL, which may hold secrets, with its causes, which say most.
pub(super) fn describe(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        causes.push(next.to_string());
        cause = next.source();
    }
    let kind = if error.is_connect() {
        "no connection"
    } else if error.is_timeout() {
        "no answer in time"
    } else if error.is_redirect() {
        "a redirect that is not followed"
    } else if error.is_body() || error.is_decode() {
        "the connection was lost"
    } else {
        "the request failed"
    };
    match causes.last() {
        Some(last) if !last.contains("://") => format!("{kind}: {last}"),
        _ => kind.to_owned(),
    }
}

pub(super) fn failure(error: &reqwest::Error) -> Failure {
    if let Some(why) = certificate(error) {
        return Failure::Refused(why);
    }
    if error.is_builder() || error.is_redirect() { Failure::Refused(describe(error)) } else { again(describe(error)) }
}

/// An HTTP-date (RFC 9110, section 5.6.7) in seconds since 1970.
pub(super) fn http_date(text: &str) -> Option<i64> {
    let since = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

/// `Retry-After` in seconds. A date is one of the server's clock, which `Date` tells; what makes no sense is the shortest wait.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let after = text(headers, RETRY_AFTER)?;
    let wait = || u64::try_from(http_date(after.trim())? - http_date(&text(headers, DATE)?)?).ok();
    Some(after.trim().parse().ok().or_else(wait).unwrap_or(1))
}

/// What is wrong with a body that is not the file's own bytes.
pub(super) fn packed(headers: &HeaderMap) -> Option<Failure> {
    let coding = text(headers, CONTENT_ENCODING).filter(|coding| !coding.trim().eq_ignore_ascii_case("identity"))?;
    Some(Failure::Refused(format!("the server packs what it sends ({}), unasked", coding.escape_debug())))
}

pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

pub(super) fn version(headers: &HeaderMap) -> Version {
    Version { etag: text(headers, ETAG), modified: text(headers, LAST_MODIFIED) }
}

/// `bytes 0-9/100` as a range and the whole length, if that is said.
fn content_range(headers: &HeaderMap) -> Option<(Range<u64>, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = if total.trim() == "*" { None } else { Some(total.trim().parse().ok()?) };
    Some((first..last.checked_add(1)?, total))
}

/// An answer, and the URL that redirects led to.
pub(super) struct Got {
    pub(super) answer: Answer,
    pub(super) url: Url,
    pub(super) html: bool,
}

/// Asks for bytes of `url` in the version `pinned`.
pub(super) async fn get(
    client: &Client,
    url: &Secret,
    headers: &[(String, Secret)],
    range: Range<u64>,
    pinned: &Version,
) -> Result<Got, Failure> {
    let mut request = client
        .get(url.reveal())
        .header(ACCEPT_ENCODING, "identity")
        .header(RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
    for (name, value) in headers {
        let value = HeaderValue::from_str(value.reveal()).map(|mut value| {
            value.set_sensitive(true);
            value
        });
        let value = value.map_err(|_| Failure::Refused(format!("the header {name} holds what no header can")))?;
        request = request.header(name.as_str(), value);
    }
    if let Some(etag) = pinned.pin() {
        request = request.header(IF_MATCH, etag);
    } else if let (None, Some(modified)) = (&pinned.etag, &pinned.modified) {
        request = request.header(IF_UNMODIFIED_SINCE, modified.as_str());
    }
    let response = request.send().await.map_err(|e| failure(&e))?;
    read(response, range, pinned)
}

fn read(response: Response, asked: Range<u64>, pinned: &Version) -> Result<Got, Failure> {
    let status = response.status().as_u16();
    let headers = response.headers();
    let said = version(headers);
    let url = response.url().clone();
    if let Some(failure) = packed(headers).filter(|_| matches!(status, 200 | 206)) {
        return Err(failure);
    }
    let html = text(headers, reqwest::header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html"));
    let (range, total, whole) = match status {
        206 => {
            let Some((range, total)) = content_range(headers) else {
                return Err(Failure::Refused("a part without a Content-Range that makes sense".into()));
            };
            (range, total, false)
        }
        200 => {
            // A server without ranges, or one that takes a short file for too little to cut.
            let total = response.content_length();
            if asked.start != 0 {
                return Err(Failure::Refused("the server does not serve ranges".into()));
            }
            (0..total.map_or(asked.end, |total| total.min(asked.end)), total, true)
        }
        // The file ends before what is asked for.
        416 if pinned.is_known() => return Err(Failure::Changed),
        status => return Err(Failure::of_status(status, retry_after(headers))),
    };
    if pinned.differs(&said) {
        return Err(Failure::Changed);
    }
    let body = response.bytes_stream().map(|piece| piece.map_err(|e| describe(&e))).boxed();
    Ok(Got { answer: Answer { version: said, total, range, whole, body }, url, html })
}

/// A file at a URL that stays.
pub(super) struct WebFile {
    pub(super) client: Client,
    pub(super) url: Secret,
    pub(super) version: Version,
}

impl Fetch for WebFile {
    fn ask(&self, range: Range<u64>) -> Answering {
        let (client, url, version) = (self.client.clone(), self.url.clone(), self.version.clone());
        Box::pin(async move { Ok(get(&client, &url, &[], range, &version).await?.answer) })
    }
}

/// Where a resolved file is now, and what its host says of its version.
struct Located {
    location: Location,
    pinned: Mutex<Version>,
}

/// A file whose URL has to be asked for.
#[derive(Clone)]
pub(super) struct ResolvedFile(Arc<Resolved>);

struct Resolved {
    client: Client,
    resolve: Arc<dyn Resolve>,
    version: String,
    len: u64,
    /// Held while somebody resolves, so that it is done once.
    now: tokio::sync::Mutex<Option<Arc<Located>>>,
}

impl ResolvedFile {
    pub(super) fn new(client: Client, resolve: Arc<dyn Resolve>, version: String, len: u64) -> Self {
        Self(Arc::new(Resolved { client, resolve, version, len, now: tokio::sync::Mutex::default() }))
    }

    async fn locate(&self) -> Result<Arc<Located>, Failure> {
        let mut now = self.0.now.lock().await;
        let fresh = |located: &&Arc<Located>| {
            located.location.expires.is_none_or(|expires| expires.saturating_duration_since(Instant::now()) > EARLY)
        };
        if let Some(located) = now.as_ref().filter(fresh) {
            return Ok(Arc::clone(located));
        }
        let resolve = Arc::clone(&self.0.resolve);
        let resolved = tokio::task::spawn_blocking(move || resolve.resolve()).await;
        let location = resolved.map_err(|_| Failure::Refused("finding out where the file is panicked".into()))??;
        if location.version != self.0.version || location.len.is_some_and(|len| len != self.0.len) {
            return Err(Failure::Changed);
        }
        let located = Arc::new(Located { location, pinned: Mutex::default() });
        *now = Some(Arc::clone(&located));
        Ok(located)
    }

    async fn get(&self, range: Range<u64>) -> Result<Answer, Failure> {
        let mut again = false;
        loop {
            let located = self.locate().await?;
            let pinned = located.pinned.lock().clone();
            let Location { url, headers, .. } = &located.location;
            match get(&self.0.client, url, headers, range.clone(), &pinned).await {
                Ok(got) => {
                    let mut pinned = located.pinned.lock();
                    // Somebody else may have been the first meanwhile.
                    if pinned.differs(&got.answer.version) {
                        return Err(Failure::Changed);
                    }
                    if !pinned.is_known() {
                        pinned.clone_from(&got.answer.version);
                    }
                    drop(pinned);
                    return Ok(got.answer);
                }
                Err(Failure::Denied) if !again => {
                    again = true;
                    let mut now = self.0.now.lock().await;
                    // Somebody else may have resolved it meanwhile.
                    if now.as_ref().is_some_and(|now| Arc::ptr_eq(now, &located)) {
                        *now = None;
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
    }
}

impl Fetch for ResolvedFile {
    fn ask(&self, range: Range<u64>) -> Answering {
        let file = self.clone();
        Box::pin(async move { file.get(range).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_content_range_that_makes_sense_is_taken() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, HeaderValue::from_static(text));
            content_range(&headers)
        };
        assert_eq!(of("bytes 5-9/100"), Some((5..10, Some(100))));
        assert_eq!(of("bytes 5-9/*"), Some((5..10, None)));
        for bad in ["bytes */100", "5-9/100", "bytes 5-9", "bytes 5-18446744073709551615/1", "bytes -5/9"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
