//! Right answers to what reads: repositories, listings, files.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use sha2::Digest;

use super::content::{Content, hex};
use super::fault::{self, Fault};
use super::wire::{Reply, Request};
use super::{File, Repo, Shared, Side, write};

pub fn answer(shared: &Shared, side: Side, request: &Request, fault: Option<&Fault>) -> Reply {
    let segments: Vec<&str> = request.segments.iter().map(String::as_str).collect();
    let get = matches!(request.method.as_str(), "GET" | "HEAD");
    match (side, segments.as_slice()) {
        (Side::Hub, ["_requests"]) => requests(shared),
        (Side::Hub, ["_faults"]) => Reply::new(200, format!("{} added\n", fault::add(shared, &request.body)).as_str()),
        (Side::Hub, ["api", "whoami-v2"]) => match may_write(shared, request) {
            true => Reply::json(200, &json!({ "type": "user", "name": "tester", "orgs": [], "auth": {} })),
            false => Reply::error(401, "", "Invalid credentials in Authorization header"),
        },
        (Side::Hub, ["api", "models", org, name]) if get => info(shared, request, org, name, "main"),
        (Side::Hub, ["api", "models", org, name, "revision", revision]) if get => {
            info(shared, request, org, name, revision)
        }
        (Side::Hub, ["api", "models", org, name, "tree", revision]) if get => {
            tree(shared, request, org, name, revision)
        }
        (Side::Hub, ["api", "resolve-cache", "models", org, name, commit, path @ ..]) if get => {
            resolve(shared, request, org, name, commit, &path.join("/"), fault, false)
        }
        (Side::Hub, [org, name, "resolve", revision, path @ ..]) if get => {
            resolve(shared, request, org, name, revision, &path.join("/"), fault, true)
        }
        (Side::Cdn, ["lfs", sha256]) if get => from_cdn(shared, request, sha256, fault),
        _ => write::answer(shared, side, request, &segments),
    }
}

/// Whether the request has the token, or none is needed.
pub fn may_write(shared: &Shared, request: &Request) -> bool {
    let token = shared.config.token.as_ref();
    token.is_none_or(|token| request.header("authorization") == Some(&format!("Bearer {token}")))
}

/// The repository for the request, or a refusal.
fn repo(shared: &Shared, request: &Request, org: &str, name: &str) -> Result<Repo, Reply> {
    if request.header("authorization").is_some() && !may_write(shared, request) {
        return Err(Reply::error(401, "", "Invalid credentials in Authorization header"));
    }
    let known = may_write(shared, request);
    match shared.state().repos.get(&format!("{org}/{name}")) {
        Some(repo) if repo.gated && !known => Err(Reply::error(403, "GatedRepo", "Access to model is restricted")),
        Some(repo) if known || !repo.private => Ok(repo.clone()),
        _ if known && shared.config.token.is_some() => Err(Reply::error(404, "RepoNotFound", "Repository not found")),
        _ => Err(Reply::error(401, "RepoNotFound", "Repository not found")),
    }
}

/// The commit of a revision, or a refusal.
fn commit(repo: &Repo, revision: &str) -> Result<String, Reply> {
    let commit = repo.refs.get(revision).cloned().unwrap_or_else(|| revision.to_owned());
    match repo.commits.contains_key(&commit) {
        true => Ok(commit),
        false => Err(Reply::error(404, "RevisionNotFound", "Invalid rev id")),
    }
}

fn info(shared: &Shared, request: &Request, org: &str, name: &str, revision: &str) -> Reply {
    let (repo, commit) =
        match repo(shared, request, org, name).and_then(|repo| commit(&repo, revision).map(|commit| (repo, commit))) {
            Ok(found) => found,
            Err(refusal) => return refusal,
        };
    let siblings: Vec<_> = repo.commits[&commit].keys().map(|path| json!({ "rfilename": path })).collect();
    let id = format!("{org}/{name}");
    Reply::json(
        200,
        &json!({ "_id": "0", "id": id, "modelId": id, "author": org, "sha": commit, "private": repo.private, "gated": repo.gated,
            "disabled": false, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings }),
    )
}

fn tree(shared: &Shared, request: &Request, org: &str, name: &str, revision: &str) -> Reply {
    let files =
        match repo(shared, request, org, name).and_then(|repo| Ok(repo.commits[&commit(&repo, revision)?].clone())) {
            Ok(files) => files,
            Err(refusal) => return refusal,
        };
    let mut directories = std::collections::BTreeSet::new();
    for path in files.keys() {
        let mut at = path.as_str();
        while let Some((parent, _)) = at.rsplit_once('/') {
            directories.insert(parent.to_owned());
            at = parent;
        }
    }
    let mut entries: Vec<_> = directories
        .iter()
        .map(|path| json!({ "type": "directory", "oid": "0".repeat(40), "size": 0, "path": path }))
        .collect();
    for (path, file) in &files {
        let size = file.content.len();
        let mut entry = json!({ "type": "file", "oid": file.oid, "size": size, "path": path });
        if let Some(sha256) = &file.sha256 {
            entry["lfs"] = json!({ "oid": sha256, "size": size, "pointerSize": 134 });
        }
        entries.push(entry);
    }
    let start: usize = request.query("cursor").and_then(|at| at.parse().ok()).unwrap_or(0);
    let end = entries.len().min(start + shared.config.page);
    let reply = Reply::json(200, &json!(entries[start.min(end)..end]));
    if end == entries.len() {
        return reply;
    }
    let next = format!("{}/api/models/{org}/{name}/tree/{revision}?recursive=true&cursor={end}", shared.endpoint());
    reply.with("Link", &format!("<{next}>; rel=\"next\""))
}

#[expect(clippy::too_many_arguments, reason = "all of them parts of one address")]
fn resolve(
    shared: &Shared,
    request: &Request,
    org: &str,
    name: &str,
    revision: &str,
    path: &str,
    fault: Option<&Fault>,
    first: bool,
) -> Reply {
    let found = repo(shared, request, org, name).and_then(|repo| {
        let commit = commit(&repo, revision)?;
        match repo.commits[&commit].get(path) {
            Some(file) => Ok((commit, file.clone())),
            None => Err(Reply::error(404, "EntryNotFound", "Entry not found").with("X-Repo-Commit", &commit)),
        }
    });
    let (commit, File { content, sha256, oid }) = match found {
        Ok(found) => found,
        Err(refusal) => return refusal,
    };
    if let Some(mirror) = &shared.config.mirror {
        let etag = format!("\"{mirror}{}\"", &oid[..8]);
        return ranged(request, content, &etag, fault).with("X-Repo-Commit", &commit);
    }
    let size = content.len().to_string();
    let linked = |status: u16, to: &str, etag: &str| {
        let reply = Reply::new(status, "moved")
            .with("Location", to)
            .with("X-Repo-Commit", &commit)
            .with("Accept-Ranges", "bytes");
        reply.with("X-Linked-Etag", &format!("\"{etag}\"")).with("X-Linked-Size", &size)
    };
    match sha256 {
        Some(sha256) => linked(302, &signed(shared, &format!("/lfs/{sha256}")), &sha256),
        // As the Hub does it: small files come from a cache of its own, by a relative redirect.
        None if first => {
            let encoded = |byte: u8| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            };
            let quoted: String = path.bytes().map(encoded).collect();
            linked(307, &format!("/api/resolve-cache/models/{org}/{name}/{commit}/{}", quoted), &oid)
        }
        None => ranged(request, content, &format!("\"{oid}\""), fault).with("X-Repo-Commit", &commit),
    }
}

fn from_cdn(shared: &Shared, request: &Request, sha256: &str, fault: Option<&Fault>) -> Reply {
    let (content, valid) = {
        let state = shared.state();
        (state.lfs.get(sha256).cloned(), is_signed(state.generation, request))
    };
    match content {
        _ if !valid => {
            Reply::new(403, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
        }
        // S3 refuses requests with two kinds of credentials.
        _ if request.header("authorization").is_some() => {
            Reply::new(400, "<Error><Code>InvalidArgument</Code></Error>")
        }
        None => Reply::new(404, "<Error><Code>NoSuchKey</Code></Error>"),
        // A store's own tag, not the Hub's.
        Some(content) => ranged(request, content, &format!("\"cdn-{}\"", &sha256[..16]), fault),
    }
}

/// Whole, or the range asked for, if the file is still the same.
fn ranged(request: &Request, content: Content, etag: &str, fault: Option<&Fault>) -> Reply {
    let len = content.len();
    let etag = match fault {
        Some(Fault::WrongEtag) => "\"other\"",
        _ => etag,
    };
    let mut reply = Reply::new(200, content).with("ETag", etag).with("Accept-Ranges", "bytes");
    let same = request.header("if-range").is_none_or(|tag| tag == etag);
    let Some(range) = request.header("range").and_then(|range| range.strip_prefix("bytes=")).filter(|_| same) else {
        return reply;
    };
    if fault == Some(&Fault::NoRange) {
        return reply;
    }
    let (from, to) = range.split_once('-').unwrap_or((range, ""));
    let (start, end) = match (from.parse::<u64>(), to.parse::<u64>()) {
        (Ok(from), Ok(to)) => (from, len.min(to + 1)),
        (Ok(from), Err(_)) => (from, len),
        (Err(_), Ok(last)) => (len.saturating_sub(last), len),
        (Err(_), Err(_)) => return reply,
    };
    if start >= end {
        return Reply::new(416, "").with("Content-Range", &format!("bytes */{len}"));
    }
    reply.status = 206;
    (reply.start, reply.len) = (start, end - start);
    reply.with("Content-Range", &format!("bytes {start}-{}/{len}", end - 1))
}

/// An address on the CDN that works for a while.
pub fn signed(shared: &Shared, path: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let expires = now + shared.config.expiry;
    let signature = signature(shared.state().generation, path, &expires.to_string());
    format!("{}{path}?Expires={expires}&Signature={signature}", shared.cdn())
}

fn signature(generation: u64, path: &str, expires: &str) -> String {
    hex(&sha2::Sha256::digest(format!("{generation}:{path}:{expires}:key")))
}

pub fn is_signed(generation: u64, request: &Request) -> bool {
    let expires = request.query("Expires").unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let right = signature(generation, &request.path, &expires);
    expires.parse::<u64>().is_ok_and(|at| now < at) && request.query("Signature") == Some(right)
}

fn requests(shared: &Shared) -> Reply {
    let seen = std::mem::take(&mut shared.state().seen);
    let mut text = String::new();
    for s in seen {
        let side = if s.side == Side::Hub { "hub" } else { "cdn" };
        let (token, range) = (if s.authorization.is_some() { "token" } else { "-" }, s.range.as_deref().unwrap_or("-"));
        text += &format!("{side} {} {} {} {range} {token} {}\n", s.method, s.path, s.status, s.sent);
    }
    Reply::new(200, text.as_str())
}
