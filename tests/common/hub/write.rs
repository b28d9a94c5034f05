//! Right answers to what writes: new repositories, uploads, commits.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::Digest;

use super::answer::{is_signed, may_write, signed};
use super::content::{self, Content, git_oid, hex, is_lfs, pointer};
use super::wire::{Reply, Request};
use super::{File, Shared, Side, State};

pub fn answer(shared: &Shared, side: Side, request: &Request, segments: &[&str]) -> Reply {
    let refused = || Reply::error(401, "", "Invalid credentials in Authorization header");
    match (side, request.method.as_str(), segments) {
        (Side::Cdn, "PUT", ["upload", sha256]) => put(shared, request, sha256, None),
        (Side::Cdn, "PUT", ["part", sha256, number]) => put(shared, request, sha256, number.parse().ok()),
        (Side::Hub, "POST", _) if !may_write(shared, request) => refused(),
        (Side::Hub, "POST", ["api", "repos", "create"]) => create(shared, request),
        (Side::Hub, "POST", ["api", "complete", sha256]) => complete(shared, request, sha256),
        (Side::Hub, "POST", ["api", "models", org, name, "preupload", revision]) => {
            preupload(shared, request, &format!("{org}/{name}"), revision)
        }
        (Side::Hub, "POST", ["api", "models", org, name, "commit", revision]) => {
            commit(shared, request, &format!("{org}/{name}"), revision)
        }
        (Side::Hub, "POST", [_, name, "info", "lfs", "objects", "batch"]) if name.ends_with(".git") => {
            batch(shared, request, segments)
        }
        (Side::Hub, "POST", [_, name, "info", "lfs", "objects", "verify"]) if name.ends_with(".git") => {
            verify(shared, request)
        }
        _ => Reply::error(404, "", "no such address"),
    }
}

fn create(shared: &Shared, request: &Request) -> Reply {
    let body = request.json();
    let organisation = body["organization"].as_str().unwrap_or("tester");
    let id = format!("{organisation}/{}", body["name"].as_str().unwrap_or_default());
    let url = format!("{}/{id}", shared.endpoint());
    let mut state = shared.state();
    if state.repos.contains_key(&id) {
        return Reply::json(409, &json!({ "error": "You already created this model repo", "url": url }))
            .with("X-Error-Message", "You already created this model repo");
    }
    state.commit(
        &id,
        "main",
        vec![(".gitattributes".into(), Content::from("*.bs filter=lfs\n"))],
        &[],
        "initial commit",
    );
    let private = body["visibility"] == "private" || body["private"] == true;
    if let Some(repo) = state.repos.get_mut(&id) {
        repo.private = private;
    }
    Reply::json(200, &json!({ "url": url, "name": id, "id": "0" }))
}

fn preupload(shared: &Shared, request: &Request, id: &str, revision: &str) -> Reply {
    let state = shared.state();
    let Some(repo) = state.repos.get(id) else { return Reply::error(404, "RepoNotFound", "Repository not found") };
    let Some(commit) = repo.refs.get(revision) else { return Reply::error(404, "RevisionNotFound", "Invalid rev id") };
    let there = &repo.commits[commit];
    let mut files = Vec::new();
    for file in request.json()["files"].as_array().into_iter().flatten() {
        let path = file["path"].as_str().unwrap_or_default();
        let mode = if is_lfs(path, file["size"].as_u64().unwrap_or(0)) { "lfs" } else { "regular" };
        let ignore = path.ends_with(".ignored");
        files.push(json!({ "path": path, "uploadMode": mode, "shouldIgnore": ignore, "oid": there.get(path).map(|file| file.sha256.as_ref().unwrap_or(&file.oid)) }));
    }
    Reply::json(200, &json!({ "files": files }))
}

fn batch(shared: &Shared, request: &Request, segments: &[&str]) -> Reply {
    let body = request.json();
    let known = shared.state().lfs.clone();
    let mut objects = Vec::new();
    for object in body["objects"].as_array().into_iter().flatten() {
        let (oid, size) = (object["oid"].as_str().unwrap_or_default(), object["size"].as_u64().unwrap_or(0));
        let mut answer = json!({ "oid": oid, "size": size });
        if !known.contains_key(oid) {
            let verify = json!({ "href": format!("{}/{}/{}/info/lfs/objects/verify", shared.endpoint(), segments[0], segments[1]) });
            let multipart = size > shared.config.multipart && body["transfers"].to_string().contains("multipart");
            let upload = if multipart {
                let mut header = json!({ "chunk_size": shared.config.multipart.to_string() });
                for part in 1..=size.div_ceil(shared.config.multipart) {
                    header[format!("{part:05}")] = json!(signed(shared, &format!("/part/{oid}/{part}")));
                }
                json!({ "href": format!("{}/api/complete/{oid}", shared.endpoint()), "header": header })
            } else {
                json!({ "href": signed(shared, &format!("/upload/{oid}")) })
            };
            answer["actions"] = json!({ "upload": upload, "verify": verify });
        }
        objects.push(answer);
    }
    Reply::json(200, &json!({ "transfer": "multipart", "objects": objects }))
}

fn put(shared: &Shared, request: &Request, sha256: &str, part: Option<u64>) -> Reply {
    let mut state = shared.state();
    if !is_signed(state.generation, request) || request.header("authorization").is_some() {
        return Reply::new(403, "<Error><Code>AccessDenied</Code></Error>");
    }
    if request.header("content-length").is_none() {
        return Reply::new(411, "<Error><Code>MissingContentLength</Code></Error>");
    }
    match part {
        Some(number) => {
            state.parts.insert((sha256.to_owned(), number), request.body.clone());
            Reply::new(200, "").with("ETag", &format!("\"part-{number}-{}\"", request.body.len()))
        }
        None => keep(&mut state, sha256, request.body.clone()),
    }
}

fn keep(state: &mut State, sha256: &str, bytes: Vec<u8>) -> Reply {
    let content = Content::from(bytes);
    if content.sha256() != sha256 {
        return Reply::new(400, "<Error><Code>BadDigest</Code></Error>");
    }
    state.lfs.insert(sha256.to_owned(), content);
    Reply::new(200, "").with("ETag", "\"whole\"")
}

fn complete(shared: &Shared, request: &Request, sha256: &str) -> Reply {
    let mut state = shared.state();
    let mut bytes = Vec::new();
    for part in request.json()["parts"].as_array().into_iter().flatten() {
        let number = part["partNumber"].as_u64().unwrap_or(0);
        let Some(body) = state.parts.remove(&(sha256.to_owned(), number)) else {
            return Reply::error(400, "", "a part is missing");
        };
        if part["etag"] != format!("\"part-{number}-{}\"", body.len()) {
            return Reply::error(400, "", "another ETag");
        }
        bytes.extend(body);
    }
    keep(&mut state, sha256, bytes)
}

fn verify(shared: &Shared, request: &Request) -> Reply {
    let body = request.json();
    match shared.state().lfs.get(body["oid"].as_str().unwrap_or_default()) {
        Some(content) if Some(content.len()) == body["size"].as_u64() => Reply::json(200, &json!({})),
        _ => Reply::error(404, "", "Object does not exist"),
    }
}

fn commit(shared: &Shared, request: &Request, id: &str, revision: &str) -> Reply {
    let text = String::from_utf8_lossy(&request.body);
    let (mut files, mut deleted, mut message) = (Vec::new(), Vec::new(), String::new());
    let mut state = shared.state();
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { return Reply::error(400, "", "not NDJSON") };
        let value = &line["value"];
        let path = value["path"].as_str().unwrap_or_default().to_owned();
        match line["key"].as_str() {
            Some("header") => message = value["summary"].as_str().unwrap_or_default().to_owned(),
            Some("file") => match STANDARD.decode(value["content"].as_str().unwrap_or_default()) {
                Ok(bytes) => files.push((path, Content::from(bytes))),
                Err(_) => return Reply::error(400, "", "not base64"),
            },
            Some("lfsFile") => match state.lfs.get(value["oid"].as_str().unwrap_or_default()) {
                Some(content) => files.push((path, content.clone())),
                None => return Reply::error(400, "", "an LFS object is not there"),
            },
            Some("deletedFile" | "deletedFolder") => deleted.push(path),
            _ => return Reply::error(400, "", "unknown operation"),
        }
    }
    match state.repos.get(id) {
        None => return Reply::error(404, "RepoNotFound", "Repository not found"),
        Some(repo) if !repo.refs.contains_key(revision) => {
            return Reply::error(404, "RevisionNotFound", "Invalid rev id");
        }
        Some(_) if message.is_empty() => return Reply::error(400, "", "no summary"),
        Some(_) => {}
    }
    let oid = state.commit(id, revision, files, &deleted, &message);
    let url = format!("{}/{id}/commit/{oid}", shared.endpoint());
    Reply::json(200, &json!({ "success": true, "commitOid": oid, "commitUrl": url, "hookOutput": "" }))
}

impl State {
    /// A commit on top of a branch; makes what is not there yet.
    pub fn commit(
        &mut self,
        id: &str,
        branch: &str,
        files: Vec<(String, Content)>,
        deleted: &[String],
        message: &str,
    ) -> String {
        let repo = self.repos.entry(id.to_owned()).or_default();
        let head = repo.refs.get(branch).and_then(|head| repo.commits.get(head));
        let mut tree: BTreeMap<String, File> = head.cloned().unwrap_or_default();
        tree.retain(|path, _| !deleted.iter().any(|gone| path == gone || path.starts_with(&format!("{gone}/"))));
        for (path, content) in files {
            let lfs = is_lfs(&path, content.len());
            let sha256 = lfs.then(|| content.sha256());
            let oid = match &sha256 {
                Some(sha256) => git_oid(pointer(sha256, content.len()).as_bytes()),
                None => git_oid(&content.bytes()),
            };
            if let Some(sha256) = &sha256 {
                self.lfs.insert(sha256.clone(), content.clone());
            }
            tree.insert(path, File { content, sha256, oid });
        }
        let mut hash = sha1::Sha1::new();
        hash.update(format!("{id} {message} {}", repo.commits.len()));
        for (path, file) in &tree {
            hash.update(format!("{path} {}\n", file.oid));
        }
        let commit = content::hex(&hash.finalize());
        repo.commits.insert(commit.clone(), tree);
        repo.refs.insert(branch.to_owned(), commit.clone());
        repo.messages.push(message.to_owned());
        commit
    }
}

/// SHA-256 of bytes, as text.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&sha2::Sha256::digest(bytes))
}
