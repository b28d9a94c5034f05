//! Directories of a web server: the links of their index page, and what a first request says of each file.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::header::ACCEPT_ENCODING;
use reqwest::{Client, Url};

use super::fetch::{Version, again};
use super::file::blocks;
use super::http::{failure, get, http_date, packed, retry_after, version};
use super::listing::Facts;
use super::resolve::{Failure, Secret};

/// Bytes that are asked for at the start of a file to learn its length and version.
pub(super) const PROBE: u64 = super::BLOCK;
/// The longest index page, bytes.
const MAX_PAGE: usize = 16 << 20;
/// Most names of a page, each of which is a request.
const MAX_NAMES: usize = 100_000;
/// The longest name that a file can be shown under, bytes.
const NAME_MAX: usize = 255;
/// The longest link that is looked at, bytes: that of a name of 255 bytes, all of them encoded, and of the path before it.
const MAX_LINK: usize = 8 << 10;

/// What the first request for a file found.
pub(super) struct Probed {
    pub(super) facts: Facts,
    /// The first bytes; all of them for a short file.
    pub(super) head: Bytes,
    /// It is a directory: redirects led to a URL that ends in a slash.
    pub(super) directory: bool,
    /// The server sends all of a longer file in place of its first bytes.
    pub(super) whole: bool,
}

/// Asks for the first bytes of a file.
pub(super) async fn probe(client: &Client, url: &Secret) -> Result<Probed, Failure> {
    let nothing = Version::default();
    let got = match get(client, url, &[], 0..PROBE, &nothing).await {
        // An empty file has no first byte.
        Err(Failure::Refused(why)) if why.ends_with("416") => return empty(client, url).await,
        got => got?,
    };
    let directory = got.url.path().ends_with('/') && got.html;
    let mut answer = got.answer;
    if answer.range.start != 0 || answer.range.end > PROBE {
        return Err(Failure::Refused("the server answers with other bytes than it was asked for".into()));
    }
    // Less than was asked for may have come of a longer file.
    let Some(len) = answer.total.or(directory.then_some(answer.range.end)) else {
        return Err(Failure::Refused("the server does not say how long the file is".into()));
    };
    if blocks(len).is_none() {
        return Err(Failure::Refused(format!("the server says that the file has {len} bytes, which none has")));
    }
    let most = answer.range.end as usize;
    let mut head = Vec::with_capacity(most);
    while head.len() < most && !directory {
        match answer.body.next().await {
            Some(Ok(piece)) => {
                head.extend_from_slice(piece.get(..piece.len().min(most - head.len())).unwrap_or_default())
            }
            Some(Err(why)) => return Err(again(why)),
            None => return Err(again("the answer ended early")),
        }
    }
    let modified = answer.version.modified.as_deref().and_then(http_date).unwrap_or(0);
    let whole = answer.whole && len > PROBE && !directory;
    let facts = Facts { len, version: answer.version, modified };
    Ok(Probed { facts, head: head.into(), directory, whole })
}

/// A file without a first byte: asked for whole, since not all servers know HEAD.
async fn empty(client: &Client, url: &Secret) -> Result<Probed, Failure> {
    let response =
        client.get(url.reveal()).header(ACCEPT_ENCODING, "identity").send().await.map_err(|e| failure(&e))?;
    let (status, version) = (response.status().as_u16(), version(response.headers()));
    if status != 200 {
        return Err(Failure::of_status(status, retry_after(response.headers())));
    }
    let mut body = response.bytes_stream();
    while let Some(piece) = body.next().await {
        if !piece.map_err(|e| failure(&e))?.is_empty() {
            return Err(Failure::Refused("the server refuses the first bytes of the file".into()));
        }
    }
    let modified = version.modified.as_deref().and_then(http_date).unwrap_or(0);
    Ok(Probed { facts: Facts { len: 0, version, modified }, head: Bytes::new(), directory: false, whole: false })
}

/// The links of an index page.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Names, how they are written in URLs, and whether they are directories.
    pub(super) names: BTreeMap<String, (String, bool)>,
    /// What stands in the page in place of a name and is none.
    pub(super) odd: Vec<String>,
}

/// The names below `url`, which ends in a slash.
pub(super) async fn index(client: &Client, url: &Secret) -> Result<Links, Failure> {
    let response =
        client.get(url.reveal()).header(ACCEPT_ENCODING, "identity").send().await.map_err(|e| failure(&e))?;
    let status = response.status().as_u16();
    if status != 200 {
        return Err(Failure::of_status(status, retry_after(response.headers())));
    }
    if let Some(failure) = packed(response.headers()) {
        return Err(failure);
    }
    let base = response.url().clone();
    let mut page = Vec::new();
    let mut body = response.bytes_stream();
    while let Some(piece) = body.next().await {
        page.extend_from_slice(&piece.map_err(|e| failure(&e))?);
        if page.len() > MAX_PAGE {
            return Err(Failure::Refused(format!("the index page is longer than {MAX_PAGE} bytes")));
        }
    }
    let found = links(&String::from_utf8_lossy(&page), &base);
    if found.names.len() + found.odd.len() > MAX_NAMES {
        return Err(Failure::Refused(format!("the index page has more than {MAX_NAMES} names")));
    }
    Ok(found)
}

/// The URL of what lies below a directory, by the rest of its path, as it is written in URLs. A name such as `a:b` alone would be a
/// URL of its own.
pub(super) fn below(directory: &Url, rest: &str) -> Url {
    let mut url = directory.clone();
    url.set_path(&format!("{}{rest}", directory.path()));
    url
}

/// The links of a page that lead to its own directory's files and directories.
fn links(page: &str, base: &Url) -> Links {
    let mut found = Links::default();
    let lower = page.to_ascii_lowercase();
    // What is in a link is no other: a page is gone through once.
    let mut next = 0;
    for (at, word) in lower.match_indices("href") {
        if at < next {
            continue;
        }
        // Lower case changes no length in ASCII.
        let Some(rest) = page.get(at + word.len()..).map(str::trim_start).and_then(|rest| rest.strip_prefix('='))
        else {
            continue;
        };
        let rest = rest.trim_start();
        let begin = page.len() - rest.len();
        let end = (MAX_LINK - 3..=MAX_LINK).rev().find(|&at| rest.is_char_boundary(at));
        let rest = end.and_then(|end| rest.get(..end)).unwrap_or(rest);
        let quoted = |quote: char| rest.strip_prefix(quote)?.split(quote).next();
        let bare = || rest.split(|c: char| c.is_whitespace() || c == '>').next();
        let Some(target) = quoted('"').or_else(|| quoted('\'')).or_else(bare) else { continue };
        next = begin + target.len();
        let target = target.replace("&amp;", "&").replace("&#39;", "'").replace("&quot;", "\"");
        let Ok(url) = base.join(&target) else { continue };
        if url.origin() != base.origin() || url.query().is_some() {
            continue;
        }
        let Some(rest) = url.path().strip_prefix(base.path()) else { continue };
        let (segment, directory) = match rest.strip_suffix('/') {
            Some(segment) => (segment, true),
            None => (rest, false),
        };
        if segment.contains('/') {
            continue;
        }
        match decode(segment) {
            Some(name) if name.len() <= NAME_MAX => {
                found.names.insert(name, (segment.to_owned(), directory));
            }
            // A link to the directory itself.
            None if segment.is_empty() => {}
            _ => found.odd.push(segment.to_owned()),
        }
    }
    found
}

/// A segment of a URL as the name that it stands for.
pub(super) fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let value = digit(rest.next())? * 16 + digit(rest.next())?;
        bytes.push(u8::try_from(value).ok()?);
    }
    let name = String::from_utf8(bytes).ok()?;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_to_what_lies_in_the_directory_itself_are_names() {
        let base = Url::parse("https://host/models/x/").unwrap();
        let page = r#"<a href="../">up</a> <A HREF = 'a%20b.bs'>a b</A> <a href=c.json>c</a> <a href="sub/">d</a>
            <a href="?C=N;O=D">sort</a> <a href="/models/x/abs.bin">e</a> <a href="https://other/models/x/no">f</a>
            <a href="sub/deep">g</a> <a href="/else">h</a> <a href="%2e%2e/up">i</a> <a href="x&amp;y">j</a> <a href="k#l">k</a>"#;
        let found = links(page, &base);
        let names: Vec<_> = found.names.iter().map(|(name, (_, directory))| (name.as_str(), *directory)).collect();
        let expected =
            [("a b.bs", false), ("abs.bin", false), ("c.json", false), ("k", false), ("sub", true), ("x&y", false)];
        assert_eq!(names, expected);
        assert_eq!(found.names["a b.bs"].0, "a%20b.bs");
        assert_eq!(links("<a href='%ff'>x</a> <a href='./'>y</a>", &base).odd, ["%ff"]);
    }

    #[test]
    fn a_page_of_links_that_do_not_end_is_gone_through_in_no_time() {
        // Twenty million million steps, if each were followed to the end of the page.
        let base = Url::parse("https://host/").unwrap();
        assert!(links(&"href=".repeat(2 << 20), &base).names.len() <= 1, "what is left at the end may be a name");
        assert!(links(&format!("{}é", "href='".repeat(1000)), &base).names.len() <= 1);
    }

    #[test]
    fn dates_of_http_are_seconds() {}
}
