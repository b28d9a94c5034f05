//! Requests: what is sent, when it is sent again, and how a refusal is told.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, Url, redirect};
use serde::de::DeserializeOwned;

use super::retry::Retry;
use super::settings::{Settings, Token};
use crate::error::{Error, Result};
use crate::source::remote::{self, certificate};

/// Longest answer that is read as JSON, bytes. A page of a listing has a thousand entries of some hundred bytes.
const MAX_JSON: u64 = 64 << 20;
/// Longest body of a refusal that is looked at, bytes.
const MAX_REFUSAL: u64 = 64 << 10;
/// An answer as JSON that comes more slowly is given up, bytes per second; a little longer than one time-out it may take anyway.
const SLOWEST: u64 = 16 << 10;
const GRACE: u32 = 4;
/// How long a refusal may take to say why.
const SAYING: Duration = Duration::from_secs(10);
/// The Hub's own name.
const HUB: &str = "https://huggingface.co/";
/// Redirects that stay on the endpoint and are followed: a repository that was renamed, the Hub's own cache.
const MAX_HOPS: usize = 5;

/// The HTTP client with the rules of this room.
pub struct Http {
    client: Client,
    endpoint: Url,
    token: Option<Token>,
    retry: Retry,
    timeout: Duration,
    requests: AtomicU64,
}

impl Http {
    /// # Errors
    /// [`Error::Invalid`] when the endpoint is no address or the system's certificates cannot be read.
    pub fn new(settings: &Settings) -> Result<Self> {
        let endpoint = Url::parse(&settings.endpoint)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(endpoint) = endpoint else {
            let text = "is no address of a server; HF_ENDPOINT is like https://huggingface.co";
            return Err(Error::invalid(format!("'{}' {text}", settings.endpoint.escape_debug())));
        };
        let mut headers = HeaderMap::new();
        // A body that was packed on its way has another length, and ranges of it mean something else.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let client = Client::builder()
            .user_agent(concat!("bsfs/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            // Where a redirect leads, and what goes there, is decided below.
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(settings.timeout)
            .timeout(settings.timeout)
            .build()
            .map_err(|e| {
                let text = "are the system's certificates there? Install ca-certificates, or set SSL_CERT_FILE";
                Error::invalid(format!("no HTTPS client could be made: {}; {text}", describe(e)))
            })?;
        Ok(Self {
            client,
            endpoint,
            token: settings.token.clone(),
            retry: settings.retry,
            timeout: settings.timeout,
            requests: AtomicU64::new(0),
        })
    }

    /// Requests made so far, those made again included.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn retry(&self) -> Retry {
        self.retry
    }

    /// An address below the endpoint; `path` begins with a slash and is encoded already.
    pub fn at(&self, path: &str) -> Result<Url> {
        let whole = format!("{}{path}", self.endpoint.as_str().trim_end_matches('/'));
        Url::parse(&whole).map_err(|_| Error::invalid(format!("'{}' is no address", whole.escape_debug())))
    }

    /// Whether an address is the endpoint's: same scheme, host and port.
    pub fn is_ours(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// A request; with the token if, and only if, the address is the endpoint's.
    pub fn request(&self, method: Method, url: &Url) -> RequestBuilder {
        let request = self.client.request(method, url.clone());
        match self.token.as_ref().filter(|_| self.is_ours(url)) {
            Some(token) => match HeaderValue::from_str(&format!("Bearer {}", token.secret())) {
                Ok(mut value) => {
                    value.set_sensitive(true);
                    request.header(AUTHORIZATION, value)
                }
                // A token with a line break in it is none.
                Err(_) => request,
            },
            None => request,
        }
    }

    /// Makes a request until it is answered by something else than "later", following redirects that stay on the endpoint. The answer
    /// may still be a refusal, or a redirect that leads elsewhere. `what` names the undertaking in messages.
    ///
    /// # Errors
    /// [`Error::Server`] when all attempts failed, [`Error::Interrupted`].
    pub fn send(
        &self,
        what: &str,
        url: &Url,
        stop: &AtomicBool,
        make: impl Fn(&Url) -> Result<RequestBuilder>,
    ) -> Result<(Url, Response)> {
        let mut url = url.clone();
        let mut tries = Tries::new(self.retry);
        let mut hops = 0;
        loop {
            check(stop)?;
            self.requests.fetch_add(1, Ordering::Relaxed);
            let response = match make(&url)?.send() {
                Ok(response) => response,
                Err(error) if certificate(&error).is_some() => {
                    return Err(server(what, None, certificate(&error).unwrap_or_default()));
                }
                Err(error) if error.is_builder() => return Err(Error::invalid(format!("{what}: {}", describe(error)))),
                Err(error) => {
                    tries.again(what, None, &describe(error), None, stop)?;
                    continue;
                }
            };
            let status = response.status();
            if matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502..=504) {
                let after = retry_after(&response);
                tries.again(what, Some(status.as_u16()), &told(response), after, stop)?;
                continue;
            }
            match redirect_target(&url, &response) {
                Some(target) if self.is_ours(&url) && self.is_ours(&target) && hops < MAX_HOPS => {
                    hops += 1;
                    url = target;
                }
                _ => return Ok((url, response)),
            }
        }
    }

    /// Makes a request once; what goes wrong on the way is told without the address.
    pub fn once(&self, request: RequestBuilder) -> std::result::Result<Response, String> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        request.send().map_err(describe)
    }

    /// Makes a request as [`Http::send`] does, and again when its answer breaks off; gives where it came from, its headers and its JSON.
    ///
    /// # Errors
    /// As [`Http::send`]; [`Error::Server`] also for a refusal, and for what is not the JSON expected.
    pub fn fetch<T: DeserializeOwned>(
        &self,
        what: &str,
        url: &Url,
        stop: &AtomicBool,
        make: impl Fn(&Url) -> Result<RequestBuilder>,
    ) -> Result<(Url, HeaderMap, T)> {
        let mut tries = Tries::new(self.retry);
        loop {
            let (at, response) = self.send(what, url, stop, &make)?;
            let response = accept(what, response)?;
            let headers = response.headers().clone();
            match self.body(response) {
                Ok(bytes) => return Ok((at, headers, parse(what, &bytes)?)),
                Err(why) => tries.again(what, None, &why, None, stop)?,
            }
        }
    }

    /// The body of an answer, or why it did not come whole.
    pub fn body(&self, response: Response) -> std::result::Result<Vec<u8>, String> {
        let bytes = limited(response, MAX_JSON + 1, self.timeout * GRACE)?;
        if bytes.len() as u64 > MAX_JSON {
            Err(format!("the answer is longer than {MAX_JSON} bytes"))
        } else {
            Ok(bytes)
        }
    }

    /// An address that an answer names. A Hub behind another name gives its own name in answers: that one is put right. From
    /// https nothing leads to http.
    pub fn named(&self, href: &str) -> Option<Url> {
        let url = match href.strip_prefix(HUB) {
            Some(path) => self.at(&format!("/{path}")).ok(),
            None => Url::parse(href).ok(),
        };
        url.filter(|url| url.scheme() == "https" || url.scheme() == "http" && self.endpoint.scheme() == "http")
    }
}

/// The first bytes of a body, at most `most`, or why they did not come: each may come within the time-out of a connection, and
/// all of them still never.
fn limited(response: Response, most: u64, grace: Duration) -> std::result::Result<Vec<u8>, String> {
    let (begun, mut bytes, mut body) = (Instant::now(), Vec::new(), response.take(most));
    let mut buffer = vec![0; 64 << 10];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(format!("the answer broke off ({})", broken(e))),
        }
        if begun.elapsed() > grace + Duration::from_secs(bytes.len() as u64 / SLOWEST) {
            return Err("the answer comes too slowly".to_owned());
        }
    }
}

/// JSON as a value.
pub fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| server(what, None, format!("the answer is not the JSON expected ({e}); is HF_ENDPOINT a Hub?")))
}

/// Counts failures, pauses between them, and gives up.
pub struct Tries {
    retry: Retry,
    failed: u32,
}

impl Tries {
    pub fn new(retry: Retry) -> Self {
        Self { retry, failed: 0 }
    }

    /// There was progress: what failed before does not count any more.
    pub fn progress(&mut self) {
        self.failed = 0;
    }

    /// Waits before another attempt, or gives the error when there is none left.
    pub fn again(
        &mut self,
        what: &str,
        status: Option<u16>,
        why: &str,
        after: Option<Duration>,
        stop: &AtomicBool,
    ) -> Result<()> {
        self.failed += 1;
        if self.failed >= self.retry.attempts {
            // Who allows one attempt tries again on his own.
            let tried =
                if self.failed == 1 { String::new() } else { format!(" ({} attempts); try again later", self.failed) };
            return Err(later(what, status, after, format!("{why}{tried}")));
        }
        let pause = match after {
            Some(after) if after > self.retry.longest_pause => {
                let seconds = after.as_secs();
                let text = format!("{why}; the server asks to wait {seconds} s, try again then");
                return Err(later(what, status, Some(after), text));
            }
            // Everybody was told the same time: a little later each.
            Some(after) => after + self.retry.pause(1) / 4,
            None => self.retry.pause(self.failed),
        };
        log::warn!("{what}: {why}; trying again in {:.1} s", pause.as_secs_f64());
        wait(pause, stop)
    }
}

/// Sleeps, but not past an interruption.
fn wait(pause: Duration, stop: &AtomicBool) -> Result<()> {
    let until = Instant::now() + pause;
    loop {
        check(stop)?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// [`Error::Interrupted`] once `stop` is set.
pub fn check(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}

/// An [`Error::Server`].
pub fn server(what: &str, status: Option<u16>, message: impl Into<String>) -> Error {
    Error::Server { what: what.to_owned(), status, again: false, after: None, message: message.into() }
}

/// An [`Error::Server`] that may be none another time.
fn later(what: &str, status: Option<u16>, after: Option<Duration>, message: String) -> Error {
    Error::Server { what: what.to_owned(), status, again: true, after: after.map(|after| after.as_secs()), message }
}

/// The answer, if it is a success; else what the server says, and what to do.
pub fn accept(what: &str, response: Response) -> Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    if status.is_redirection() {
        return Err(server(
            what,
            Some(status.as_u16()),
            "the server leads to another server, where nothing is sent; is HF_ENDPOINT right?",
        ));
    }
    let code = text(&response, "x-error-code").unwrap_or_default();
    let said = told(response);
    let advice = match (status.as_u16(), code.as_str()) {
        (_, "RevisionNotFound") => "there is no such branch, tag or commit",
        (_, "EntryNotFound") => "there is no such file at this revision",
        (_, "GatedRepo") => {
            "accept the conditions on the repository's page, then use the token of that account (HF_TOKEN)"
        }
        (401, _) if said.contains("Invalid credentials") => "the token is not valid; see HF_TOKEN and the token file",
        (_, "RepoNotFound") | (401 | 404, _) => {
            "is the name right? If it is private, set HF_TOKEN to a token that may see it"
        }
        (403, _) => "the token may not do this; see its permissions",
        _ => "nothing was done",
    };
    Err(server(what, Some(status.as_u16()), format!("{said}; {advice}")))
}

/// Status and message of a refusal, in one line.
fn told(response: Response) -> String {
    let status = response.status();
    let mut message = text(&response, "x-error-message").unwrap_or_default();
    if message.is_empty() {
        // What cannot be read is not told.
        let body = limited(response, MAX_REFUSAL, SAYING).unwrap_or_default();
        let json: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
        let error = json.as_ref().and_then(|json| json.get("error").or_else(|| json.get("message")));
        message = error.and_then(|error| error.as_str()).unwrap_or_default().to_owned();
    }
    let clean: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    match clean.trim().trim_end_matches('.') {
        "" => format!("HTTP status {status}"),
        message => format!("HTTP status {status}: {message}"),
    }
}

/// Where an answer leads, if it is a redirect. Names that are not encoded, as some servers have them, are taken as UTF-8.
pub fn redirect_target(url: &Url, response: &Response) -> Option<Url> {
    let to = response.headers().get(LOCATION).filter(|_| response.status().is_redirection())?;
    url.join(std::str::from_utf8(to.as_bytes()).ok()?).ok()
}

/// A header as text.
pub fn text(response: &Response, name: &str) -> Option<String> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// An entity tag without its quotes and its mark of weakness.
pub fn etag(response: &Response, name: &str) -> Option<String> {
    let tag = text(response, name)?;
    let bare = tag.trim().trim_start_matches("W/").trim_matches('"');
    (!bare.is_empty()).then(|| bare.to_owned())
}

/// `Retry-After`, in seconds or as a date.
pub fn retry_after(response: &Response) -> Option<Duration> {
    remote::retry_after(response.headers()).map(Duration::from_secs)
}

/// An address for messages: without what may be a signature.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// What went wrong on the way, without the address.
fn describe(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let connect = error.is_connect();
    let text = chain(&error.without_url());
    if connect { format!("no connection: {text}") } else { text }
}

/// What broke off a body, without the address.
pub fn broken(error: std::io::Error) -> String {
    match error.downcast::<reqwest::Error>() {
        Ok(error) => describe(error),
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => "no more bytes in time".to_owned(),
        Err(error) => chain(&error),
    }
}

/// An error and what is behind it, in one line, each once.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        let retry =
            Retry { attempts: 9, first_pause: Duration::from_millis(100), longest_pause: Duration::from_millis(350) };
        for (failed, longest) in [(1, 100), (2, 200), (3, 350), (99, 350)] {
            for _ in 0..50 {
                let pause = retry.pause(failed).as_millis();
                assert!((longest / 2..=longest).contains(&pause), "{failed}: {pause}");
            }
        }
    }

    #[test]
    fn a_shown_address_has_no_secrets() {
        let url = Url::parse("https://me:pass@cdn.example/a/b?Signature=abc&Expires=1#x").unwrap();
        assert_eq!(shown(&url), "https://cdn.example/a/b");
    }
}
