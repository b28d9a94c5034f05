//! One content into the cache: by ranges, long ones over several connections (`pieces`), from where
//! an earlier attempt ended, proven by its hash before it gets its name.

use std::fs::{self, File};
use std::io::{self, Read};
use std::time::Duration;

use reqwest::blocking::Response;

use super::client::{RepoFile, Resolved};
use super::hash::Sum;
use super::http::{self, Tries, check};
use super::part::{Job, Part, Speed, parse_range};
use super::pieces::PIECE;
use crate::error::{Error, Result};

/// Read from a body and written at once, bytes.
const BLOCK: usize = 256 << 10;
/// An attempt that brought so many bytes begins to count attempts anew.
const PROGRESS: u64 = 64 << 10;
/// How long before its time an address is asked for again.
const MARGIN: Duration = Duration::from_secs(10);

/// Why a body is no use from here on.
enum Ended {
    /// The file is whole.
    Whole,
    /// Go on from where it is, after a pause.
    Later(String),
    /// What is there is of another version.
    Other(String),
}

impl Job<'_> {
    /// Fetches the content of `file` unless it is there; gives the bytes that came from the server, `None` if it was there.
    ///
    /// # Errors
    /// [`Error::Server`], [`Error::Differs`] when the bytes are not those of the listing, [`Error::Io`], [`Error::Interrupted`]. What
    /// has come stays as `ETAG.incomplete` and is the beginning of the next attempt, unless it is known to be wrong.
    pub fn fetch(&self, file: &RepoFile) -> Result<Option<u64>> {
        let etag = file.etag();
        let _lock = self.layout.lock(etag, self.stop)?;
        if self.layout.has_blob(file) {
            self.progress.advance(file.size);
            return Ok(None);
        }
        self.progress.name(&file.path);
        let what = format!("{}@{}/{}", self.repo, self.commit, file.path);
        let mut part = self.open(file)?;
        let mut came = 0;
        let mut begun_anew = 0;
        loop {
            let other = match self.fill(&what, file, &mut part, &mut came)? {
                None => {
                    let (name, found) = (part.sum.name(), std::mem::replace(&mut part.sum, Sum::of(file)).finish());
                    if found == etag {
                        break;
                    }
                    Error::Differs {
                        path: what.clone().into(),
                        what: format!("{name} of what the server sent"),
                        expected: etag.to_owned(),
                        got: found,
                    }
                }
                Some(why) => http::server(&what, None, format!("{why}; try again later")),
            };
            // Perhaps only the beginning, from an earlier attempt, was wrong. Once is enough to know.
            self.progress.retreat(part.at);
            part.restart(file)?;
            begun_anew += 1;
            if begun_anew > 1 {
                drop(fs::remove_file(&part.path));
                return Err(other);
            }
            log::warn!("{other}; beginning anew");
        }
        self.layout.publish(etag, &part.file)?;
        Ok(Some(came))
    }

    /// Opens the incomplete file, and hashes what an earlier attempt left.
    fn open(&self, file: &RepoFile) -> Result<Part> {
        let path = self.layout.incomplete(file.etag());
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut part = Part { file: open.map_err(Error::io("open", &path))?, sum: Sum::of(file), at: 0, path };
        let len = part.file.metadata().map_err(Error::io("stat", &part.path))?.len();
        if len > file.size {
            part.restart(file)?;
            return Ok(part);
        }
        let mut buffer = vec![0; BLOCK];
        while part.at < len {
            check(self.stop)?;
            let n = part.file.read(&mut buffer).map_err(Error::io("read", &part.path))?;
            if n == 0 {
                break;
            }
            part.took(buffer.get(..n).unwrap_or_default());
            self.progress.advance(n as u64);
        }
        Ok(part)
    }

    /// Requests ranges until the part is as long as the file; `Some` when it turned out to be of another version.
    fn fill(&self, what: &str, file: &RepoFile, part: &mut Part, came: &mut u64) -> Result<Option<String>> {
        let mut tries = Tries::new(self.client.http.retry());
        let mut place: Option<Resolved> = None;
        let mut pinned: Option<String> = None;
        let mut spread = self.connections > 1;
        while part.at < file.size {
            check(self.stop)?;
            let resolved = match place.take().filter(|place| !place.is_expired(MARGIN)) {
                Some(place) => place,
                None => self.resolve(what, file)?,
            };
            if spread && file.size - part.at >= 2 * PIECE {
                let before = part.at;
                let why = self.pieces(file, part, &resolved, &mut pinned, self.connections)?;
                *came += part.at - before;
                if part.at > before {
                    tries.progress();
                    if let Some(why) = why {
                        tries.again(what, None, &why, None, self.stop)?;
                    }
                    continue;
                }
                // Not one came: over a single connection it turns out what to make of that.
                spread = false;
            }
            let response = match self.client.get(&resolved, part.at, None, pinned.as_deref()) {
                Ok(response) => response,
                Err(why) => {
                    tries.again(what, None, &why, None, self.stop)?;
                    continue;
                }
            };
            let status = response.status().as_u16();
            match status {
                200 | 206 => {}
                // A signature that is not valid any more, whatever its date said: ask for another one.
                400..=403 | 410 if !resolved.with_token => {
                    tries.again(
                        what,
                        Some(status),
                        &format!("the signed address is not accepted (HTTP status {status})"),
                        None,
                        self.stop,
                    )?;
                    continue;
                }
                408 | 425 | 429 | 500 | 502..=504 => {
                    let after = http::retry_after(&response);
                    tries.again(what, Some(status), &format!("HTTP status {status}"), after, self.stop)?;
                    place = Some(resolved);
                    continue;
                }
                416 => return Ok(Some("the server's file is shorter than the listing says".to_owned())),
                _ => {
                    let none = |_| http::server(what, Some(status), format!("HTTP status {status} brings no file"));
                    return Err(http::accept(what, response).map_or_else(|error| error, none));
                }
            }
            let before = part.at;
            let ended = self.take(file, part, response, &mut pinned)?;
            *came += part.at.saturating_sub(before);
            // A byte with each attempt is no progress.
            if part.at.saturating_sub(before) >= PROGRESS {
                tries.progress();
            }
            match ended {
                Ended::Whole => {}
                Ended::Other(why) => return Ok(Some(why)),
                Ended::Later(why) => {
                    tries.again(what, None, &why, None, self.stop)?;
                    place = Some(resolved);
                }
            }
        }
        Ok(None)
    }

    fn resolve(&self, what: &str, file: &RepoFile) -> Result<Resolved> {
        let resolved = self.client.resolve(self.repo, self.commit, &file.path, self.stop)?;
        // Both belong to the commit, and cannot change. What the bytes are is proven when they have come.
        if resolved.contradicts(file.etag()) {
            let text = format!("the ETag is '{}', the listing says '{}'", resolved.etag.escape_debug(), file.etag());
            return Err(http::server(what, None, format!("{text}; is a proxy in between?")));
        }
        if let Some(size) = resolved.size.filter(|size| *size != file.size) {
            return Err(http::server(what, None, format!("the file has {size} bytes, the listing says {}", file.size)));
        }
        Ok(resolved)
    }

    /// Appends the body of an answer to the part.
    fn take(
        &self,
        file: &RepoFile,
        part: &mut Part,
        mut response: Response,
        pinned: &mut Option<String>,
    ) -> Result<Ended> {
        if http::text(&response, "content-encoding").is_some_and(|coding| coding != "identity") {
            return Ok(Ended::Later("the server packs the body, which was not asked for".to_owned()));
        }
        // A weak tag may stand for other bytes, so it pins nothing.
        let tag = http::text(&response, "etag").filter(|tag| !tag.starts_with("W/"));
        if response.status().as_u16() == 206 {
            if pinned.is_some() && tag.is_some() && *pinned != tag {
                return Ok(Ended::Other("the file changed on the server while it was read".to_owned()));
            }
            let range = http::text(&response, "content-range").unwrap_or_default();
            match parse_range(&range) {
                Some((start, total)) if start == part.at && total == file.size => {}
                _ => {
                    return Ok(Ended::Later(format!(
                        "the server sends '{}' and not what was asked for",
                        range.escape_debug()
                    )));
                }
            }
        } else if part.at > 0 {
            if pinned.is_some() && *pinned != tag {
                return Ok(Ended::Other("the file changed on the server while it was read".to_owned()));
            }
            // A server without ranges: what is there comes again.
            self.progress.retreat(part.at);
            part.restart(file)?;
        }
        *pinned = tag;
        let mut buffer = vec![0; BLOCK];
        let mut speed = Speed::new(self.client.settings().timeout);
        loop {
            check(self.stop)?;
            let n = match response.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Ok(Ended::Later(format!("the connection ended in the middle ({})", http::broken(e)))),
            };
            if n == 0 {
                return Ok(match part.at == file.size {
                    true => Ended::Whole,
                    false => Ended::Later(format!("the body ended after {} of {} bytes", part.at, file.size)),
                });
            }
            if part.at + n as u64 > file.size {
                return Ok(Ended::Other(format!(
                    "the server's file is longer than the {} bytes of the listing",
                    file.size
                )));
            }
            part.append(buffer.get(..n).unwrap_or_default())?;
            self.progress.advance(n as u64);
            if speed.is_low(n as u64) {
                return Ok(Ended::Later("the answer comes too slowly".to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, 10)));
        for wrong in ["", "bytes 5-9/*", "bytes */10", "items 5-9/10", "bytes -9/10"] {
            assert_eq!(parse_range(wrong), None, "{wrong}");
        }
    }
}
