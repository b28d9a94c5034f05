//! A directory becomes one commit of a repository.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Progress;
use super::client::Client;
use super::hash::Sum;
use super::http::{self, Tries, check};
use super::item::{Item, Sent, identity, json_body};
use super::repo::{Repo, check_revision, quote, relative};
use super::upload;
use crate::error::{Error, Result};
use crate::longpath;

/// Files in one question to the server.
const BATCH: usize = 256;
/// First bytes of a file, by which the server tells text from weights.
const SAMPLE: u64 = 512;
/// Most bytes of all files that a commit carries itself, beside those in LFS.
const MAX_INLINE: u64 = 128 << 20;
/// Shortest time that a commit may take.
const COMMIT_TIME: Duration = Duration::from_secs(120);
/// Directories that are left out.
const LEFT_OUT: [&str; 2] = [".git", ".cache/huggingface"];

/// What to push, and where.
#[derive(Debug, Clone, Default)]
pub struct Push {
    /// Branch; `main` when empty.
    pub revision: String,
    /// First line of the commit.
    pub message: String,
    /// Makes the repository if it is not there.
    pub create: bool,
    /// A repository that is made is private.
    pub private: bool,
    /// Files that are sent at once; 0 for 4.
    pub threads: usize,
}

/// One file of a push.
#[derive(Debug, Clone, Serialize)]
pub struct PushedFile {
    /// Path in the repository.
    pub path: String,
    /// Length, bytes.
    pub size: u64,
    /// SHA-256 if it is in LFS, else git's id.
    pub hash: String,
    /// How it got there.
    pub state: Sent,
}

/// What became of a push.
#[derive(Debug, Clone, Serialize)]
pub struct Pushed {
    /// The repository's id.
    pub repository: String,
    /// The branch.
    pub revision: String,
    /// The commit that shows the files; the branch's present one when nothing had changed.
    pub commit: String,
    /// Its page.
    pub url: String,
    /// Whether the repository was made.
    pub created: bool,
    /// The files, in order of path.
    pub files: Vec<PushedFile>,
    /// What could not be read, or cannot be in a repository, and why.
    pub left_out: Vec<String>,
    /// Bytes that were sent.
    pub uploaded_bytes: u64,
    /// Wall-clock time.
    pub seconds: f64,
}

#[derive(Deserialize)]
struct Preupload {
    files: Vec<Mode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mode {
    path: String,
    upload_mode: String,
    #[serde(default)]
    should_ignore: bool,
    oid: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Committed {
    commit_oid: String,
    commit_url: String,
}

/// Sends the files below `dir` (links followed; `.git` and `.cache/huggingface` left out) as one commit. Files of the branch that are
/// not in `dir` stay. Contents that the server has are not sent; nobody sees anything before the commit, which is the last step.
///
/// # Errors
/// [`Error::Server`]; [`Error::Invalid`] without a token, offline, or for a directory without files; [`Error::Changed`] when a file
/// changed meanwhile; [`Error::Io`]; [`Error::Interrupted`]. Contents that were sent by then are not sent again by the next push.
pub fn push(
    client: &Client,
    dir: &Path,
    repo: &Repo,
    options: &Push,
    stop: &Arc<AtomicBool>,
    progress: &Arc<dyn Progress + Send + Sync>,
) -> Result<Pushed> {
    let started = Instant::now();
    let revision = if options.revision.is_empty() { "main" } else { &options.revision };
    check_revision(revision)?;
    let what = format!("{repo}@{revision}");
    client.online(&what)?;
    if client.settings().token.is_none() {
        let text = "pushing needs a token that may write: set HF_TOKEN, or HF_TOKEN_PATH to a file with one (HF_HUB_DISABLE_IMPLICIT_TOKEN hides it)";
        return Err(Error::invalid(format!("{what}: {text}")));
    }
    let (mut items, errors) = walk(dir)?;
    let created = options.create && create(client, repo, options.private, stop)?;
    for batch in items.chunks_mut(BATCH) {
        ask_modes(client, repo, revision, batch, stop)?;
    }
    progress.expect(items.iter().filter(|item| item.state != Sent::Ignored).map(|item| item.size).sum());
    for item in items.iter_mut().filter(|item| item.state != Sent::Ignored) {
        progress.name(&item.path);
        item.hash = hash(item, stop)?;
        if item.remote.as_ref() == Some(&item.hash) {
            item.state = Sent::Unchanged;
            progress.advance(item.size);
        }
    }
    let inline: u64 = items.iter().filter(|item| !item.lfs && item.state == Sent::Uploaded).map(|item| item.size).sum();
    if inline > MAX_INLINE {
        let text = "of files that the server does not take into LFS are too much for one commit; push them in parts";
        return Err(Error::invalid(format!("{}: {inline} bytes {text}", dir.display())));
    }
    let mut uploaded = 0;
    let large: Vec<&mut Item> = items.iter_mut().filter(|item| item.lfs && item.state == Sent::Uploaded).collect();
    if !large.is_empty() {
        uploaded = upload::all(client, repo, revision, large, options.threads, stop, progress)?;
    }
    let (commit, url) = if items.iter().any(|item| matches!(item.state, Sent::Uploaded | Sent::Known)) {
        let message = if options.message.is_empty() { "Upload with bsfs" } else { &options.message };
        let body = payload(&items, message, &**progress, stop)?;
        uploaded += inline;
        send_commit(client, repo, revision, body, stop)?
    } else {
        let commit = client.commit(repo, revision, stop)?;
        let url = http::shown(&client.http.at(&format!("/{}/commit/{commit}", repo.id()))?);
        (commit, url)
    };
    let row = |item: Item| PushedFile { path: item.path, size: item.size, hash: item.hash, state: item.state };
    Ok(Pushed {
        repository: repo.id().to_owned(),
        revision: revision.to_owned(),
        commit,
        url,
        created,
        files: items.into_iter().map(row).collect(),
        left_out: errors.iter().map(ToString::to_string).collect(),
        uploaded_bytes: uploaded,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The files below a directory, in order of path, and what cannot be pushed.
fn walk(root: &Path) -> Result<(Vec<Item>, Vec<Error>)> {
    let (mut items, mut errors) = (Vec::new(), Vec::new());
    let meta = fs::metadata(root).map_err(Error::io("open", root))?;
    if !meta.is_dir() {
        return Err(Error::invalid(format!(
            "{}: not a directory; a push takes the directory that becomes the repository",
            root.display()
        )));
    }
    longpath::names(root).map_err(Error::io("list", root))?;
    let mut directories = vec![(PathBuf::new(), vec![(meta.dev(), meta.ino())])];
    while let Some((below, above)) = directories.pop() {
        let dir = root.join(&below);
        let names = match longpath::names(&dir).map_err(Error::io("list", &dir)) {
            Ok(names) => names,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        for name in names {
            let path = below.join(name);
            if LEFT_OUT.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            match look(root, path, &above) {
                Ok(Looked::File(item)) => items.push(item),
                Ok(Looked::Directory(path, above)) => directories.push((path, above)),
                Err(error) => errors.push(error),
            }
        }
    }
    if items.is_empty() && !errors.is_empty() {
        return Err(errors.swap_remove(0));
    }
    if items.is_empty() {
        return Err(Error::invalid(format!("{}: no files to push", root.display())));
    }
    items.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((items, errors))
}

/// What a name below the directory is.
enum Looked {
    File(Item),
    /// Its path, and the numbers of it and of those above it.
    Directory(PathBuf, Vec<(u64, u64)>),
}

fn look(root: &Path, path: PathBuf, above: &[(u64, u64)]) -> Result<Looked> {
    let full = root.join(&path);
    let meta = longpath::metadata(&full).map_err(Error::io("stat", &full))?;
    if meta.is_dir() {
        let id = (meta.dev(), meta.ino());
        if above.contains(&id) {
            let text = "a link that leads back to a directory above it";
            return Err(Error::invalid(format!("{}: {text}", full.display())));
        }
        return Ok(Looked::Directory(path, above.iter().copied().chain([id]).collect()));
    }
    let Some(name) = path.to_str().filter(|name| meta.is_file() && relative(name).is_some()) else {
        let text = "neither a file nor a name that a repository can have";
        return Err(Error::invalid(format!("{}: {text}", full.display())));
    };
    let mut sample = Vec::new();
    let open = File::open(&full).and_then(|file| file.take(SAMPLE).read_to_end(&mut sample));
    open.map_err(Error::io("read", &full))?;
    Ok(Looked::File(Item {
        path: name.to_owned(),
        size: meta.len(),
        identity: identity(&meta),
        sample,
        lfs: false,
        remote: None,
        hash: String::new(),
        state: Sent::Uploaded,
        full,
    }))
}

/// Makes the repository; `false` when it is there.
fn create(client: &Client, repo: &Repo, private: bool, stop: &AtomicBool) -> Result<bool> {
    let what = format!("{repo}: create the repository");
    let url = client.http.at("/api/repos/create")?;
    let (organization, name) = repo.id().split_once('/').map_or((None, repo.id()), |(org, name)| (Some(org), name));
    let mut body = json!({ "name": name, "organization": organization, "type": "model" });
    if let Some(map) = body.as_object_mut().filter(|_| private) {
        map.insert("visibility".to_owned(), "private".into());
    }
    let (_, response) =
        client.http.send(&what, &url, stop, |url| Ok(json_body(client.http.request(Method::POST, url), &body)))?;
    if response.status().as_u16() == 409 {
        return Ok(false);
    }
    http::accept(&what, response).map(|_| true)
}

/// Asks which files belong into LFS, and what the branch has under their names.
fn ask_modes(client: &Client, repo: &Repo, revision: &str, items: &mut [Item], stop: &AtomicBool) -> Result<()> {
    let what = format!("{repo}@{revision}");
    let url = client.http.at(&format!("/api/models/{}/preupload/{}", repo.id(), quote(revision, false)))?;
    let file = |item: &Item| json!({ "path": item.path, "sample": STANDARD.encode(&item.sample), "size": item.size });
    let body = json!({ "files": items.iter().map(file).collect::<Vec<_>>() });
    let asked =
        client.http.fetch(&what, &url, stop, |url| Ok(json_body(client.http.request(Method::POST, url), &body)));
    let (_, _, answer): (_, _, Preupload) = asked.map_err(|error| match error {
        Error::Server { what, status: Some(404), message, .. } => {
            let message = message + "; if the repository is not there yet, --create makes it";
            Error::Server { what, status: Some(404), again: false, after: None, message }
        }
        other => other,
    })?;
    for item in items {
        let Some(mode) = answer.files.iter().find(|mode| mode.path == item.path) else {
            return Err(http::server(&what, None, format!("the server does not say what to do with {}", item.path)));
        };
        // Stores refuse empty objects.
        item.lfs = mode.upload_mode == "lfs" && item.size > 0;
        item.remote.clone_from(&mode.oid);
        if mode.should_ignore {
            item.state = Sent::Ignored;
        }
    }
    Ok(())
}

/// The hash by which the server knows the content, read once.
fn hash(item: &Item, stop: &AtomicBool) -> Result<String> {
    let mut sum = if item.lfs { Sum::sha256() } else { Sum::git(item.size) };
    let mut file = File::open(&item.full).map_err(Error::io("open", &item.full))?;
    let mut buffer = vec![0; 1 << 20];
    let mut len = 0;
    loop {
        check(stop)?;
        let n = file.read(&mut buffer).map_err(Error::io("read", &item.full))?;
        if n == 0 {
            break;
        }
        len += n as u64;
        sum.update(buffer.get(..n).unwrap_or_default());
    }
    if len != item.size {
        return Err(Error::Changed { path: item.full.clone() });
    }
    Ok(sum.finish())
}

/// The lines of a commit.
fn payload(items: &[Item], message: &str, progress: &dyn Progress, stop: &AtomicBool) -> Result<Vec<u8>> {
    let header = json!({ "key": "header", "value": { "summary": message, "description": "" } });
    let mut lines = header.to_string() + "\n";
    for item in items.iter().filter(|item| matches!(item.state, Sent::Uploaded | Sent::Known)) {
        check(stop)?;
        item.check_same()?;
        let line = if item.lfs {
            json!({ "key": "lfsFile", "value": { "path": item.path, "algo": "sha256", "oid": item.hash, "size": item.size } })
        } else {
            let bytes = fs::read(&item.full).map_err(Error::io("read", &item.full))?;
            let mut sum = Sum::git(bytes.len() as u64);
            sum.update(&bytes);
            if sum.finish() != item.hash {
                return Err(Error::Changed { path: item.full.clone() });
            }
            progress.advance(item.size);
            json!({ "key": "file", "value": { "content": STANDARD.encode(bytes), "path": item.path, "encoding": "base64" } })
        };
        lines += &(line.to_string() + "\n");
    }
    Ok(lines.into_bytes())
}

/// Makes the commit. A connection that is lost meanwhile leaves open whether it was made, so that is not tried again.
fn send_commit(
    client: &Client,
    repo: &Repo,
    revision: &str,
    body: Vec<u8>,
    stop: &AtomicBool,
) -> Result<(String, String)> {
    let what = format!("{repo}@{revision}: commit");
    let url = client.http.at(&format!("/api/models/{}/commit/{}", repo.id(), quote(revision, false)))?;
    let time = COMMIT_TIME.max(client.settings().timeout);
    let mut tries = Tries::new(client.http.retry());
    let lost = |why: String| {
        let text = "whether the commit was made is not known; push again, what is there is not sent twice";
        http::server(&what, None, format!("{why}; {text}"))
    };
    loop {
        check(stop)?;
        let request = client.http.request(Method::POST, &url).header(CONTENT_TYPE, "application/x-ndjson");
        let response = client.http.once(request.timeout(time).body(body.clone())).map_err(lost)?;
        let status = response.status().as_u16();
        if matches!(status, 429 | 503) {
            tries.again(&what, Some(status), &format!("HTTP status {status}"), http::retry_after(&response), stop)?;
            continue;
        }
        // Of a server in between, which does not know what became of it.
        if status >= 500 {
            return Err(lost(format!("HTTP status {status}")));
        }
        let done: Committed = http::parse(&what, &client.http.body(http::accept(&what, response)?).map_err(lost)?)?;
        return Ok((done.commit_oid, done.commit_url));
    }
}
