//! A file on its way to the Hub.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use reqwest::header::CONTENT_TYPE;
use serde::Serialize;

use crate::error::{Error, Result};

/// How a file got into the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sent {
    /// The branch has it, with the same content.
    Unchanged,
    /// The server had the content already.
    Known,
    /// It was sent.
    Uploaded,
    /// The repository's rules (`.gitignore`) leave it out.
    Ignored,
}

/// A file to push.
pub(super) struct Item {
    pub path: String,
    pub full: PathBuf,
    pub size: u64,
    /// Device, inode and time of modification when it was first looked at.
    pub(super) identity: (u64, u64, i64, i64),
    pub(super) sample: Vec<u8>,
    pub(super) lfs: bool,
    pub(super) remote: Option<String>,
    pub hash: String,
    pub state: Sent,
}

pub(super) fn identity(meta: &fs::Metadata) -> (u64, u64, i64, i64) {
    (meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec())
}

impl Item {
    /// Refuses a file that is not the one that was looked at first.
    pub(super) fn check_same(&self) -> Result<()> {
        let meta = fs::metadata(&self.full).map_err(Error::io("stat", &self.full))?;
        if (identity(&meta), meta.len()) == (self.identity, self.size) {
            return Ok(());
        }
        Err(Error::Changed { path: self.full.clone() })
    }
}

/// A request with a body of JSON.
pub(super) fn json_body(
    request: reqwest::blocking::RequestBuilder,
    body: &serde_json::Value,
) -> reqwest::blocking::RequestBuilder {
    request.header(CONTENT_TYPE, "application/json").body(body.to_string())
}
