//! Contents into LFS: the batch interface of git-lfs, whole or in parts as the server wants it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::blocking::{Body, Response};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::json;

use super::Progress;
use super::client::Client;
use super::http::{self, Tries};
use super::item::{Item, Sent, json_body};
use super::repo::Repo;
use crate::error::{Error, Result};
use crate::parallel::on_threads;

/// Objects in one question to the server.
const BATCH: usize = 256;
/// Contents that are sent at once unless the user says otherwise.
const THREADS: usize = 4;
/// Most contents that are sent at once.
const MAX_THREADS: usize = 32;
/// Most parts of one content that are believed.
const MAX_PARTS: u64 = 10_000;
/// A transfer that is slower than this is given up, bytes per second.
const SLOWEST: u64 = 50_000;
const LFS_JSON: &str = "application/vnd.git-lfs+json";

#[derive(Deserialize)]
struct Batch {
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    actions: Option<Actions>,
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct ObjectError {
    code: u16,
    message: String,
}

#[derive(Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    #[serde(default)]
    header: BTreeMap<String, serde_json::Value>,
}

/// What an upload needs beside the file.
struct Job<'a> {
    client: &'a Client,
    repo: &'a Repo,
    stop: &'a Arc<AtomicBool>,
    progress: &'a Arc<dyn Progress + Send + Sync>,
    /// Bytes sent.
    sent: AtomicU64,
}

/// Sends what the server does not have, and notes in each item whether that was needed; gives the bytes sent.
pub fn all(
    client: &Client,
    repo: &Repo,
    revision: &str,
    mut items: Vec<&mut Item>,
    threads: usize,
    stop: &Arc<AtomicBool>,
    progress: &Arc<dyn Progress + Send + Sync>,
) -> Result<u64> {
    let job = Job { client, repo, stop, progress, sent: AtomicU64::new(0) };
    for batch in items.chunks_mut(BATCH) {
        let wanted = job.ask(revision, batch)?;
        let mut todo = Vec::new();
        // Files of equal content are one object.
        let mut taken = std::collections::HashSet::new();
        for item in batch.iter_mut() {
            match wanted.get(&item.hash) {
                Some(actions) if taken.insert(item.hash.clone()) => todo.push((&**item, actions)),
                _ => {
                    item.state = Sent::Known;
                    progress.advance(item.size);
                }
            }
        }
        todo.sort_by_key(|(item, _)| std::cmp::Reverse(item.size));
        job.send_all(&todo, threads)?;
    }
    Ok(job.sent.into_inner())
}

impl Job<'_> {
    /// Where each content goes that the server does not have, by hash.
    fn ask(&self, revision: &str, items: &[&mut Item]) -> Result<BTreeMap<String, Actions>> {
        let what = format!("{}@{revision}: upload", self.repo);
        let url = self.client.http.at(&format!("/{}.git/info/lfs/objects/batch", self.repo.id()))?;
        let objects: Vec<_> = items.iter().map(|item| json!({ "oid": item.hash, "size": item.size })).collect();
        let body = json!({
            "operation": "upload", "transfers": ["basic", "multipart"], "hash_algo": "sha256", "objects": objects,
            "ref": { "name": revision },
        });
        let (_, _, batch): (_, _, Batch) = self.client.http.fetch(&what, &url, self.stop, |url| {
            let request =
                self.client.http.request(Method::POST, url).header(ACCEPT, LFS_JSON).header(CONTENT_TYPE, LFS_JSON);
            Ok(request.body(body.to_string()))
        })?;
        let mut wanted = BTreeMap::new();
        for item in items {
            let Some(object) = batch.objects.iter().find(|object| object.oid == item.hash) else {
                return Err(http::server(
                    &what,
                    None,
                    format!("the server does not say what to do with {}", item.path),
                ));
            };
            if let Some(error) = &object.error {
                return Err(http::server(
                    &what,
                    Some(error.code),
                    format!("{}: {}", item.path, error.message.escape_debug()),
                ));
            }
        }
        for object in batch.objects {
            if let Some(actions) = object.actions.filter(|actions| actions.upload.is_some()) {
                wanted.insert(object.oid, actions);
            }
        }
        Ok(wanted)
    }

    /// Sends contents on several threads; after a failure none is begun.
    fn send_all(&self, todo: &[(&Item, &Actions)], threads: usize) -> Result<()> {
        let threads = if threads == 0 { THREADS } else { threads.min(MAX_THREADS) }.min(todo.len());
        let (next, first) = (AtomicUsize::new(0), Mutex::new(None));
        let failure = || first.lock();
        on_threads(threads, || {
            while failure().is_none()
                && let Some((item, actions)) = todo.get(next.fetch_add(1, Ordering::Relaxed))
            {
                if let Err(error) = self.send_one(item, actions) {
                    failure().get_or_insert(error);
                }
            }
        });
        failure().take().map_or(Ok(()), Err)
    }

    fn send_one(&self, item: &Item, actions: &Actions) -> Result<()> {
        let what = format!("{}: upload of {}", self.repo, item.path);
        let Some(upload) = &actions.upload else { return Ok(()) };
        self.progress.name(&item.path);
        let address = |href: &str| {
            let url = self.client.http.named(href);
            url.ok_or_else(|| http::server(&what, None, "the server gives no address to send it to"))
        };
        let url = address(&upload.href)?;
        match upload.header.get("chunk_size") {
            None => drop(self.put(&what, item, &url, 0, item.size)?),
            Some(size) => {
                let size = size.as_u64().or_else(|| size.as_str()?.parse().ok()).filter(|size| *size > 0);
                let mut parts: Vec<(u64, &str)> = upload
                    .header
                    .iter()
                    .filter_map(|(number, url)| Some((number.parse::<u64>().ok()?, url.as_str()?)))
                    .collect();
                parts.sort_unstable();
                let Some(size) = size
                    .filter(|size| parts.len() as u64 == item.size.div_ceil(*size) && parts.len() as u64 <= MAX_PARTS)
                else {
                    return Err(http::server(&what, None, "the server wants it in parts that do not make the file"));
                };
                let mut done = Vec::new();
                for ((_, href), number) in parts.iter().zip(1_u64..) {
                    let start = (number - 1) * size;
                    let response = self.put(&what, item, &address(href)?, start, size.min(item.size - start))?;
                    let Some(etag) = http::text(&response, "etag") else {
                        return Err(http::server(&what, None, format!("the store gives no ETag for part {number}")));
                    };
                    done.push(json!({ "partNumber": number, "etag": etag }));
                }
                let body = json!({ "oid": item.hash, "parts": done });
                let (_, response) = self.client.http.send(&what, &url, self.stop, |url| {
                    let request = self
                        .client
                        .http
                        .request(Method::POST, url)
                        .header(ACCEPT, LFS_JSON)
                        .header(CONTENT_TYPE, LFS_JSON);
                    Ok(request.body(body.to_string()))
                })?;
                http::accept(&what, response)?;
            }
        }
        item.check_same()?;
        if let Some(verify) = &actions.verify {
            let body = json!({ "oid": item.hash, "size": item.size });
            let (_, response) = self.client.http.send(&what, &address(&verify.href)?, self.stop, |url| {
                Ok(json_body(self.client.http.request(Method::POST, url), &body))
            })?;
            http::accept(&what, response)?;
        }
        Ok(())
    }

    /// Sends `len` bytes from `start` on; again from `start` when the connection is lost.
    fn put(&self, what: &str, item: &Item, url: &Url, start: u64, len: u64) -> Result<Response> {
        let mut tries = Tries::new(self.client.http.retry());
        loop {
            http::check(self.stop)?;
            let mut file = File::open(&item.full).map_err(Error::io("open", &item.full))?;
            file.seek(SeekFrom::Start(start)).map_err(Error::io("read", &item.full))?;
            let counted = Arc::new(AtomicU64::new(0));
            let reader = Counted {
                inner: file.take(len),
                counted: Arc::clone(&counted),
                stop: Arc::clone(self.stop),
                progress: Arc::clone(self.progress),
            };
            let time = self.client.settings().timeout.max(Duration::from_secs(60)) + Duration::from_secs(len / SLOWEST);
            let request = self.client.http.request(Method::PUT, url).timeout(time).body(Body::sized(reader, len));
            let sent = self.client.http.once(request);
            http::check(self.stop)?;
            let (status, why, after) = match sent {
                Ok(response) if response.status().is_success() => {
                    self.sent.fetch_add(len, Ordering::Relaxed);
                    return Ok(response);
                }
                Ok(response) => match response.status().as_u16() {
                    status @ (408 | 425 | 429 | 500 | 502..=504) => {
                        (Some(status), format!("HTTP status {status}"), http::retry_after(&response))
                    }
                    _ => return http::accept(what, response),
                },
                Err(why) => (None, why, None),
            };
            self.progress.retreat(counted.load(Ordering::Relaxed));
            tries.again(what, status, &why, after, self.stop)?;
        }
    }
}

/// A body that tells how far it is, and ends when the user wants to stop.
struct Counted {
    inner: io::Take<File>,
    counted: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    progress: Arc<dyn Progress + Send + Sync>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        let n = self.inner.read(buffer)?;
        self.counted.fetch_add(n as u64, Ordering::Relaxed);
        self.progress.advance(n as u64);
        Ok(n)
    }
}
