//! Buckets of S3, Google Cloud Storage and Azure, by the crate `object_store`: credentials, signatures and listing are its own.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, RetryConfig};
use parking_lot::Mutex;
use reqwest::header::RANGE;

use super::fetch::{Answer, Answering, Fetch, Version, again};
use super::http::{certificate, retry_after};
use super::listing::{Facts, Found, Item};
use super::resolve::Failure;

/// The longest page of a listing, and what is looked at of a refusal, bytes.
const MAX_PAGE: usize = 32 << 20;
const MAX_REFUSAL: usize = 64 << 10;
/// Longest text of a refusal that is told, characters.
const MAX_SAID: usize = 300;

/// Statuses that are worth another try, seen before `object_store` makes words of them.
#[derive(Debug)]
struct Later {
    status: u16,
    after: Option<u64>,
}

impl fmt::Display for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP status {}", self.status)
    }
}

impl std::error::Error for Later {}

/// The client for the crate's requests, which tells us of `Retry-After`, and leaves out of listings what the crate cannot take.
#[derive(Debug, Clone)]
struct Client {
    client: reqwest::Client,
    /// Keys that were left out.
    odd: Arc<Mutex<Vec<String>>>,
}

impl HttpConnector for Client {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Client {
    fn call<'life0, 'async_trait>(
        &'life0 self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let of_a_file = request.headers().contains_key(RANGE);
            let response = self.client.call(request).await?;
            let status = response.status().as_u16();
            // The crate takes all other bodies whole.
            let most = if status >= 400 { MAX_REFUSAL } else { MAX_PAGE };
            let response =
                if status < 400 && of_a_file { response } else { bounded(response, most, &self.odd).await? };
            match Failure::of_status(status, retry_after(response.headers())) {
                Failure::Again { after, .. } if status >= 400 => {
                    Err(HttpError::new(HttpErrorKind::Request, Later { status, after }))
                }
                _ => Ok(response),
            }
        })
    }
}

/// An answer with its body, if that is no longer than `most` bytes; a refusal is cut to so many.
async fn bounded(response: HttpResponse, most: usize, odd: &Mutex<Vec<String>>) -> Result<HttpResponse, HttpError> {
    let refusal = response.status().as_u16() >= 400;
    let (parts, body) = response.into_parts();
    let (mut whole, mut body) = (Vec::new(), body.bytes_stream());
    while let Some(piece) = body.next().await {
        let piece = piece?;
        let left = most - whole.len();
        whole.extend_from_slice(piece.get(..piece.len().min(left)).unwrap_or_default());
        if piece.len() > left {
            if refusal {
                break;
            }
            let text = format!("the answer is longer than {most} bytes");
            return Err(HttpError::new(HttpErrorKind::Decode, std::io::Error::other(text)));
        }
    }
    let whole = match std::str::from_utf8(&whole) {
        Ok(page) if !refusal => listable(page, &mut odd.lock()).into_bytes(),
        _ => whole,
    };
    Ok(HttpResponse::from_parts(parts, bytes::Bytes::from(whole).into()))
}

/// Entries of listings of all three kinds of buckets, and what holds their keys.
const ENTRIES: [(&str, &str); 4] =
    [("Contents", "Key"), ("CommonPrefixes", "Prefix"), ("Blob", "Name"), ("BlobPrefix", "Name")];

/// A page of a listing without the entries whose keys are no paths, for one of which the crate refuses the whole page.
fn listable(page: &str, odd: &mut Vec<String>) -> String {
    let (mut kept, mut rest) = (String::with_capacity(page.len()), page);
    // Of entries of these kinds no end follows: looked for at each beginning, it would take the square of the page's length.
    let mut endless = [false; ENTRIES.len()];
    while let Some((before, from)) = rest.find('<').and_then(|at| rest.split_at_checked(at)) {
        kept.push_str(before);
        let entry =
            ENTRIES.iter().zip(&mut endless).filter(|(_, endless)| !**endless).find_map(|((entry, key), endless)| {
                let inside = from.strip_prefix('<')?.strip_prefix(entry)?.strip_prefix('>')?;
                let found = inside.split_once(&format!("</{entry}>"));
                *endless = found.is_none();
                found.map(|(inside, after)| (inside, after, key))
            });
        let Some((inside, after, key)) = entry else {
            kept.push('<');
            rest = from.get(1..).unwrap_or_default();
            continue;
        };
        let text = inside.split_once(&format!("<{key}>")).and_then(|(_, text)| text.split_once(&format!("</{key}>")));
        match text.map(|(text, _)| (text, unescape(text))) {
            Some((text, key))
                if !key.as_deref().is_some_and(|key| !key.starts_with('/') && Key::parse(key).is_ok()) =>
            {
                odd.push(key.unwrap_or_else(|| text.to_owned()));
            }
            // What is no entry as we know them is the crate's to judge.
            _ => kept.push_str(from.get(..from.len() - after.len()).unwrap_or_default()),
        }
        rest = after;
    }
    kept.push_str(rest);
    kept
}

/// Text of XML as what it stands for.
fn unescape(text: &str) -> Option<String> {
    let (mut plain, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, from)) = rest.split_once('&') {
        plain.push_str(before);
        let (name, after) = from.split_once(';')?;
        plain.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let number = name.strip_prefix('#')?;
                let code = match number.strip_prefix(['x', 'X']) {
                    Some(digits) => u32::from_str_radix(digits, 16),
                    None => number.parse(),
                };
                char::from_u32(code.ok()?)?
            }
        });
        rest = after;
    }
    plain.push_str(rest);
    Some(plain)
}

/// A bucket, opened as the environment says.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// What to say of the environment when the bucket refuses.
    advice: Option<&'static str>,
    /// Keys that were left out of listings and not yet told.
    odd: Arc<Mutex<Vec<String>>>,
}

/// Where credentials may be told in the environment, and what to do where none are. The crate then asks the machine for a role of its own, and
/// of a machine without one the error is that of this question.
const CREDENTIALS: [(&str, &[&str], &str); 2] = [
    (
        "s3",
        &[
            "AWS_ACCESS_KEY_ID",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_SKIP_SIGNATURE",
        ],
        "no credentials are in the environment, so this machine was asked for a role of its own: set AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket",
    ),
    (
        "gs",
        &[
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GOOGLE_SERVICE_ACCOUNT",
            "GOOGLE_SERVICE_ACCOUNT_PATH",
            "GOOGLE_SERVICE_ACCOUNT_KEY",
            "GOOGLE_SKIP_SIGNATURE",
        ],
        "no credentials are in the environment: set GOOGLE_APPLICATION_CREDENTIALS to a file of them, or GOOGLE_SKIP_SIGNATURE=true \
         for a public bucket",
    ),
];

/// What to make of an error of the crate. Its text may hold URLs and is not shown.
fn failure(error: &object_store::Error) -> Failure {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => return Failure::Missing,
        E::Precondition { .. } | E::NotModified { .. } => return Failure::Changed,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => return Failure::Denied,
        _ => {}
    }
    let mut cause = std::error::Error::source(error);
    let mut last = None;
    while let Some(next) = cause {
        if let Some(Later { status, after }) = next.downcast_ref::<Later>() {
            return Failure::Again { why: format!("HTTP status {status}"), after: *after };
        }
        if let Some(error) = next.downcast_ref::<HttpError>() {
            if let Some(why) = certificate(error) {
                return Failure::Refused(why);
            }
            if error.kind() == HttpErrorKind::Decode {
                return Failure::Refused(scrub(
                    &std::error::Error::source(error).map_or_else(String::new, |e| e.to_string()),
                ));
            }
            let why = match error.kind() {
                HttpErrorKind::Connect => "no connection",
                HttpErrorKind::Timeout => "no answer in time",
                _ => "the connection was lost",
            };
            return again(why);
        }
        last = Some(next.to_string());
        cause = next.source();
    }
    let text = scrub(&last.unwrap_or_else(|| error.to_string()));
    // Of a bucket, whose absence is no error of its own in the crate.
    if text.contains("status code: 404") {
        return Failure::Missing;
    }
    Failure::Refused(text.chars().take(MAX_SAID).collect())
}

/// Text without what may be secret in URLs: queries, and names before an `@`.
fn scrub(text: &str) -> String {
    let word = |word: &str| {
        let end = word.find('?').filter(|_| word.contains("://")).unwrap_or(word.len());
        let word = word.get(..end).unwrap_or_default();
        match word.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?.1))) {
            Some((scheme, rest)) => format!("{scheme}://{rest}"),
            None => word.to_owned(),
        }
    };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

impl Bucket {
    /// Opens the bucket of a URL `s3://`, `gs://` or `az://`; settings and credentials are those of the environment.
    ///
    /// # Errors
    /// What is missing or wrong in them, in words.
    pub(super) fn open(scheme: &str, url: &str, client: reqwest::Client) -> Result<Self, String> {
        let odd = Arc::<Mutex<_>>::default();
        let client = Client { client, odd: Arc::clone(&odd) };
        // Trying again is our own business: it knows of ranges, patience and Retry-After.
        let retry = RetryConfig { max_retries: 0, retry_timeout: Duration::from_secs(60), ..RetryConfig::default() };
        let plain = |name: &str| std::env::var(name).is_ok_and(|endpoint| endpoint.starts_with("http://"));
        let words = |e: object_store::Error| scrub(&e.to_string());
        let lacking = CREDENTIALS
            .iter()
            .find(|(of, names, _)| *of == scheme && !names.iter().any(|name| std::env::var_os(name).is_some()));
        let store: Arc<dyn ObjectStore> = match scheme {
            "s3" => {
                let mut builder = object_store::aws::AmazonS3Builder::from_env().with_url(url);
                if plain("AWS_ENDPOINT_URL") || plain("AWS_ENDPOINT_URL_S3") || plain("AWS_ENDPOINT") {
                    builder = builder.with_allow_http(true);
                }
                Arc::new(builder.with_http_connector(client).with_retry(retry).build().map_err(words)?)
            }
            "gs" => {
                let builder = object_store::gcp::GoogleCloudStorageBuilder::from_env().with_url(url);
                Arc::new(builder.with_http_connector(client).with_retry(retry).build().map_err(words)?)
            }
            _ => {
                let builder = object_store::azure::MicrosoftAzureBuilder::from_env().with_url(url);
                Arc::new(builder.with_http_connector(client).with_retry(retry).build().map_err(words)?)
            }
        };
        Ok(Self { store, advice: lacking.map(|(.., advice)| *advice), odd })
    }

    /// What to make of an error of the bucket itself.
    fn failure(&self, error: &object_store::Error) -> Failure {
        let failure = failure(error);
        let Some(advice) = self.advice else { return failure };
        match failure {
            Failure::Refused(why) => Failure::Refused(format!("{why}; {advice}")),
            Failure::Denied => Failure::Refused(format!("it may not be read; {advice}")),
            Failure::Again { why, after } => Failure::Again { why: format!("{why}; {advice}"), after },
            other => other,
        }
    }

    /// What is in a directory, which is a prefix of keys.
    pub(super) async fn list(&self, prefix: &str) -> Result<Found, Failure> {
        let name = prefix;
        let prefix = Key::parse(prefix).map_err(|e| Failure::Refused(e.to_string()))?;
        // What a try that failed has left.
        self.take_odd(name);
        let found = self.store.list_with_delimiter(Some(&prefix)).await;
        let found = found.map_err(|e| match (self.failure(&e), self.advice) {
            // Perhaps the role is what is not there.
            (Failure::Missing, Some(advice)) => Failure::Refused(format!("nothing is there; {advice}")),
            (other, _) => other,
        })?;
        // A directory may be marked by an empty object of its own name and a slash, which the crate takes away.
        let below = |key: &Key| key.prefix_match(&prefix).is_some_and(|mut parts| parts.next().is_some());
        let mut listed = Found::default();
        for key in found.common_prefixes.iter().filter(|key| below(key)) {
            listed.add(key.as_ref(), key.filename().and_then(|name| Item::directory(name, key.as_ref())));
        }
        for meta in found.objects.iter().filter(|meta| below(&meta.location)) {
            listed.add(meta.location.as_ref(), item(meta));
        }
        listed.odd.extend(self.take_odd(name));
        Ok(listed)
    }

    /// The keys below `prefix` that were left out. Several directories may be listed at once.
    fn take_odd(&self, prefix: &str) -> Vec<String> {
        let mut odd = self.odd.lock();
        let (taken, left) = std::mem::take(&mut *odd).into_iter().partition(|key| key.starts_with(prefix));
        *odd = left;
        taken
    }

    /// One object; [`Failure::Missing`] when there is none.
    pub(super) async fn find(&self, key: &str) -> Result<Item, Failure> {
        let key = Key::parse(key).map_err(|e| Failure::Refused(e.to_string()))?;
        let meta = self.store.head(&key).await.map_err(|e| self.failure(&e))?;
        item(&meta).ok_or(Failure::Missing)
    }

    /// The object of a key that [`list`](Self::list) gave. (`Key::from` would encode signs that are part of it.)
    pub(super) fn file(&self, key: &str, version: Version) -> Result<Object, Failure> {
        let key = Key::parse(key).map_err(|e| Failure::Refused(e.to_string()))?;
        Ok(Object { bucket: self.clone(), key, version })
    }
}

fn version(meta: &object_store::ObjectMeta) -> Version {
    // Azure's listings leave out the quotes that its answers have, and that `If-Match` takes.
    let quoted = |etag: &String| match etag.ends_with('"') {
        true => etag.clone(),
        false => format!("\"{etag}\""),
    };
    Version { etag: meta.e_tag.as_ref().map(quoted), modified: Some(meta.last_modified.to_rfc2822()) }
}

fn item(meta: &object_store::ObjectMeta) -> Option<Item> {
    let facts = Facts { len: meta.size, version: version(meta), modified: meta.last_modified.timestamp() };
    Item::file(meta.location.filename()?, meta.location.as_ref(), facts)
}

/// An object in one version.
pub(super) struct Object {
    bucket: Bucket,
    key: Key,
    version: Version,
}

impl Fetch for Object {
    fn ask(&self, range: Range<u64>) -> Answering {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: self.version.pin().map(str::to_owned),
            ..GetOptions::default()
        };
        let (store, key, seen) = (Arc::clone(&self.bucket.store), self.key.clone(), self.version.clone());
        Box::pin(async move {
            let result = store.get_opts(&key, options).await.map_err(|e| failure(&e))?;
            let meta = &result.meta;
            let version = version(meta);
            if seen.differs(&version) {
                return Err(Failure::Changed);
            }
            let (total, range) = (Some(meta.size), result.range.clone());
            let body = result.into_stream();
            let body = body.map(|piece| piece.map_err(|_| "the connection was lost".to_owned())).boxed();
            Ok(Answer { version, total, range, whole: false, body })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_no_paths_are_left_out_of_a_page_and_no_others() {
        let contents = |key: &str| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>");
        let prefix = |key: &str| format!("<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>");
        let blob = |key: &str| {
            format!("<Blobs><Blob><Name>{key}</Name></Blob><BlobPrefix><Name>{key}</Name></BlobPrefix></Blobs>")
        };
        let long = "n".repeat(900);
        for key in ["m/a", "m/a&amp;b", "m/&#x66;", "m/..a", "m/a/", &long] {
            for page in [contents(key), prefix(key), blob(key)] {
                let (page, mut odd) = (format!("<List><Prefix>m//</Prefix>{page}<IsTruncated/></List>"), Vec::new());
                assert_eq!((listable(&page, &mut odd), odd), (page.clone(), Vec::new()));
            }
        }
        for (key, told) in
            [("m//", "m//"), ("m/../b", "m/../b"), ("m/./b", "m/./b"), ("m/&#1;", "m/\u{1}"), ("/m", "/m")]
        {
            for page in [contents(key), prefix(key)] {
                let mut odd = Vec::new();
                assert_eq!(
                    listable(&format!("<L>{page}{}</L>", contents("m/a")), &mut odd),
                    format!("<L>{}</L>", contents("m/a"))
                );
                assert_eq!(odd, [told]);
            }
            assert_eq!(listable(&blob(key), &mut Vec::new()), "<Blobs></Blobs>");
        }
        for cut in ["<Contents><Key>m//</Key>", "<Contents>", "<", "a<b", ""] {
            assert_eq!(listable(cut, &mut Vec::new()), cut);
        }
        // A page as long as may be takes a moment, and not the square of it.
        let long = "<Contents>".repeat(MAX_PAGE / 10);
        assert_eq!(listable(&long, &mut Vec::new()).len(), long.len());
    }

    #[test]
    fn words_of_errors_lose_what_may_be_secret() {
        assert_eq!(
            scrub("error at https://me:pw@host/a?sig=abc now http://h/b?x"),
            "error at https://host/a now http://h/b"
        );
    }
}
