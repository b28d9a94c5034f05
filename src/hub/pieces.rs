//! A long file over several connections: pieces of it are asked for at once, and put behind each other as they come whole. Only a
//! beginning of the file is ever on disk, so what an interrupted download leaves is what any other leaves.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::client::{RepoFile, Resolved};
use super::http::{self, check};
use super::part::{Job, Part, Speed, parse_range};
use crate::error::Result;

/// Length of a piece, bytes. Each connection holds one in memory.
pub const PIECE: u64 = 8 << 20;
/// Read from a body at once, bytes.
const BLOCK: usize = 256 << 10;

/// A piece that came whole, and the entity tag that its answer had.
type Come = std::result::Result<(Vec<u8>, Option<String>), String>;

/// What the connections of one file share.
struct Spread<'a, 'b> {
    job: &'a Job<'b>,
    file: &'a RepoFile,
    resolved: &'a Resolved,
    pinned: Option<String>,
    /// Where the first piece begins.
    from: u64,
    /// Nobody takes more.
    over: AtomicBool,
    /// Bytes that came, told as progress.
    came: AtomicU64,
}

impl Job<'_> {
    /// Fetches the rest of a file in pieces, `connections` at once, and appends them to `part`; the words are why it ended before the
    /// file did. A piece that is not what was asked for ends it as well: what to make of that is for who asks next.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::Interrupted`](crate::Error::Interrupted).
    pub(super) fn pieces(
        &self,
        file: &RepoFile,
        part: &mut Part,
        resolved: &Resolved,
        pinned: &mut Option<String>,
        connections: u64,
    ) -> Result<Option<String>> {
        let (from, mut appended) = (part.at, 0);
        let (over, came) = (AtomicBool::new(false), AtomicU64::new(0));
        let spread = Spread { job: self, file, resolved, pinned: pinned.clone(), from, over, came };
        let ended = thread::scope(|scope| {
            let spread = &spread;
            let workers = (0..connections).map(|first| {
                let (give, take) = sync_channel(0);
                // One that cannot be made drops `give`, and is found to have ended.
                let _ = thread::Builder::new().spawn_scoped(scope, move || spread.work(first, connections, &give));
                take
            });
            let workers: Vec<Receiver<Come>> = workers.collect();
            let ended = workers.iter().cycle().find_map(|worker| {
                if part.at == file.size {
                    return Some(Ok(None));
                }
                match worker.recv() {
                    Ok(Ok((_, tag))) if pinned.is_some() && tag.is_some() && *pinned != tag => {
                        Some(Ok(Some("the file changed on the server while it was read".to_owned())))
                    }
                    Ok(Ok((bytes, tag))) => {
                        *pinned = pinned.take().or(tag);
                        appended += bytes.len() as u64;
                        part.append(&bytes).err().map(Err)
                    }
                    Ok(Err(why)) => Some(Ok(Some(why))),
                    Err(_) => Some(Ok(Some("a connection ended".to_owned()))),
                }
            });
            spread.over.store(true, Ordering::Relaxed);
            // Those that wait to hand over a piece go on to see that.
            drop(workers);
            ended
        });
        self.progress.retreat(spread.came.into_inner().saturating_sub(appended));
        check(self.stop)?;
        ended.unwrap_or(Ok(None))
    }
}

impl Spread<'_, '_> {
    /// Fetches each `connections`th piece.
    fn work(&self, first: u64, connections: u64, give: &SyncSender<Come>) {
        let mut next = first;
        loop {
            let start = self.from.saturating_add(next.saturating_mul(PIECE));
            if start >= self.file.size || self.over.load(Ordering::Relaxed) {
                return;
            }
            let come = self.piece(start, PIECE.min(self.file.size - start));
            let failed = come.is_err();
            if give.send(come).is_err() || failed {
                return;
            }
            next += connections;
        }
    }

    fn piece(&self, start: u64, len: u64) -> Come {
        let client = self.job.client;
        let mut response = client.get(self.resolved, start, Some(start + len), self.pinned.as_deref())?;
        let status = response.status().as_u16();
        if status != 206 {
            return Err(format!("HTTP status {status} for a part of the file"));
        }
        let range = http::text(&response, "content-range").unwrap_or_default();
        let packed = http::text(&response, "content-encoding").is_some_and(|coding| coding != "identity");
        if packed || parse_range(&range) != Some((start, self.file.size)) {
            return Err(format!("the server sends '{}' and not what was asked for", range.escape_debug()));
        }
        let tag = http::text(&response, "etag").filter(|tag| !tag.starts_with("W/"));
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
        let (mut buffer, mut speed) = (vec![0; BLOCK], Speed::new(client.settings().timeout));
        while (bytes.len() as u64) < len {
            if self.over.load(Ordering::Relaxed) || check(self.job.stop).is_err() {
                return Err("it is over".to_owned());
            }
            let n = match response.read(&mut buffer) {
                Ok(0) => return Err("the connection ended in the middle".to_owned()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(format!("the connection ended in the middle ({})", http::broken(e))),
            };
            let left = usize::try_from(len - bytes.len() as u64).unwrap_or(n);
            bytes.extend_from_slice(buffer.get(..n.min(left)).unwrap_or_default());
            self.came.fetch_add(n.min(left) as u64, Ordering::Relaxed);
            self.job.progress.advance(n.min(left) as u64);
            if speed.is_low(n as u64) {
                return Err("the answer comes too slowly".to_owned());
            }
        }
        Ok((bytes, tag))
    }
}
