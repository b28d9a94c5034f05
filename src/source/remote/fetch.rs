//! Bytes of one file, as a stream, in the version that was seen first: what every kind of place has to give.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use super::pace::{Ask, SLOWEST};
use super::resolve::Failure;
use super::{BLOCK, Shared};

/// What tells one version of a file from others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    /// `ETag`, as the server writes it.
    pub(super) etag: Option<String>,
    /// `Last-Modified`, as the server writes it, when there is no ETag.
    pub(super) modified: Option<String>,
}

impl Version {
    /// Whether anything is known that would tell another version.
    pub(super) fn is_known(&self) -> bool {
        self.etag.is_some() || self.modified.is_some()
    }

    /// Whether an answer that says this is of another version.
    pub(super) fn differs(&self, answer: &Self) -> bool {
        let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
        differ(&self.etag, &answer.etag)
            || (self.etag.is_none() || answer.etag.is_none()) && differ(&self.modified, &answer.modified)
    }

    /// The ETag for `If-Match`, which a weak one is not good for.
    pub(super) fn pin(&self) -> Option<&str> {
        self.etag.as_deref().filter(|etag| !etag.starts_with("W/"))
    }
}

/// Of the time that a request may be silent, the part that a body may take on top of what its length says.
const GRACE: u32 = 3;

/// A piece of a body.
pub(super) type Piece = Result<bytes::Bytes, String>;

/// The beginning of an answer.
pub(super) struct Answer {
    pub(super) version: Version,
    /// Length of the whole file, if the server says.
    pub(super) total: Option<u64>,
    /// The bytes that come: they start where was asked, and end there or before.
    pub(super) range: Range<u64>,
    /// More than that may come, since the server sends the whole file.
    pub(super) whole: bool,
    pub(super) body: BoxStream<'static, Piece>,
}

/// An answer on its way.
pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>>;

/// One version of a file that can be asked for.
pub(super) trait Fetch: Send + Sync {
    /// Asks for bytes, once.
    fn ask(&self, range: Range<u64>) -> Answering;
}

/// What is wrong with an answer to a request for `asked` of a file of `len` bytes.
fn wrong(answer: &Answer, asked: &Range<u64>, len: u64) -> Option<Failure> {
    if answer.total.is_some_and(|total| total != len) {
        return Some(Failure::Changed);
    }
    let got = &answer.range;
    let fits = got.start == asked.start && got.end <= asked.end && got.end > got.start;
    (!fits).then(|| {
        Failure::Refused(format!(
            "asked for bytes {}-{} and got {}-{}",
            asked.start,
            asked.end.saturating_sub(1),
            got.start,
            got.end.saturating_sub(1)
        ))
    })
}

/// Asks once; when somebody waits for it and nothing comes for long, a second time, and takes the first good answer.
async fn ask(shared: &Shared, fetch: &dyn Fetch, range: Range<u64>, urgent: bool) -> Result<Answer, Failure> {
    let pace = &shared.pace;
    let begun = Instant::now();
    let asked = |range: Range<u64>| {
        let asking = pace.asking(Ask::Read);
        let answering = fetch.ask(range);
        Box::pin(async move {
            let answer = answering.await;
            asking.done(&answer);
            answer
        })
    };
    let first = asked(range.clone());
    let both = async {
        if !urgent {
            return first.await;
        }
        let late = Box::pin(tokio::time::sleep(pace.hedge_after()));
        let first = match select(first, late).await {
            Either::Left((answer, _)) => return answer,
            Either::Right(((), first)) => first,
        };
        pace.hedged();
        match select(first, asked(range)).await {
            Either::Left((Err(_), other)) | Either::Right((Err(_), other)) => other.await,
            Either::Left((answer, _)) | Either::Right((answer, _)) => answer,
        }
    };
    let answer = tokio::time::timeout(shared.config.silence, both).await;
    let answer = answer.unwrap_or_else(|_| Err(again("no answer in time")))?;
    pace.answered(begun.elapsed());
    Ok(answer)
}

pub(super) fn again(why: impl Into<String>) -> Failure {
    Failure::Again { why: why.into(), after: None }
}

/// How long the next try of something waits. `attempt` counts from 0.
pub(super) struct Backoff {
    patience: Duration,
    last_progress: Instant,
    attempt: u32,
}

impl Backoff {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, last_progress: Instant::now(), attempt: 0 }
    }

    pub(super) fn progress(&mut self) {
        self.last_progress = Instant::now();
        self.attempt = 0;
    }

    /// After a failure: how long to wait; the failure itself when it is final, or patience is at its end.
    pub(super) fn next(&mut self, shared: &Shared, failure: Failure) -> Result<Duration, Failure> {
        let Failure::Again { after, .. } = &failure else { return Err(failure) };
        let asked = after.map(Duration::from_secs);
        if asked.is_some() {
            // Nobody waits longer than patience lasts, and others may be luckier by then.
            shared.pace.throttle(asked.filter(|asked| *asked < self.patience));
        }
        let step = Duration::from_millis(100u64.saturating_mul(1 << self.attempt.min(6))).min(Duration::from_secs(5));
        self.attempt = self.attempt.saturating_add(1);
        let wait = step.mul_f64(jitter()).max(asked.unwrap_or_default()).max(shared.pace.wait());
        if self.last_progress.elapsed().saturating_add(wait) >= self.patience {
            return Err(failure);
        }
        shared.pace.retried();
        Ok(wait)
    }
}

/// From a half to one and a half.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    // A fresh state each time; its keys are random.
    let random = RandomState::new().hash_one(0_u8);
    0.5 + (random >> 11) as f64 / (1_u64 << 53) as f64
}

/// Gets `range` of a file of `len` bytes, whatever it takes within the patience: `take` is given the bytes in order, each once.
pub(super) async fn fetch(
    shared: &Shared,
    fetch: &dyn Fetch,
    len: u64,
    range: Range<u64>,
    urgent: bool,
    mut take: impl FnMut(&[u8]),
) -> Result<(), Failure> {
    let mut at = range.start;
    let mut counted = at;
    let mut backoff = Backoff::new(shared.config.patience);
    while at < range.end {
        let wait = shared.pace.wait();
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let failure = match ask(shared, fetch, at..range.end, urgent).await {
            Ok(answer) => match wrong(&answer, &(at..range.end), len) {
                Some(failure) => failure,
                None => {
                    shared.pace.works(&shared.label);
                    match receive(shared, answer, urgent, &mut at, &mut take).await {
                        Ok(()) => continue,
                        Err(failure) => failure,
                    }
                }
            },
            Err(failure) => failure,
        };
        // A byte with each request is no progress: nobody would live to see the end.
        if at - counted >= BLOCK {
            counted = at;
            backoff.progress();
        }
        tokio::time::sleep(backoff.next(shared, failure)?).await;
    }
    Ok(())
}

/// Takes a body as it comes. `at` is behind the last byte that was taken, also after an error.
async fn receive(
    shared: &Shared,
    mut answer: Answer,
    urgent: bool,
    at: &mut u64,
    take: &mut impl FnMut(&[u8]),
) -> Result<(), Failure> {
    let silence = shared.config.silence;
    let limit = shared.pace.body_limit(answer.range.end - *at, silence / GRACE);
    // Only waiting counts: the disk may take its time.
    let (mut waited, mut lately, mut came) = (Duration::ZERO, Duration::ZERO, 0);
    while *at < answer.range.end {
        let begun = Instant::now();
        let piece = tokio::time::timeout(silence, answer.body.next()).await;
        let took = begun.elapsed();
        (waited, lately) = (waited + took, lately + took);
        let bytes = match piece {
            Ok(Some(Ok(bytes))) => bytes,
            Ok(Some(Err(why))) => return Err(again(why)),
            Ok(None) => return Err(again("the answer ended early")),
            Err(_) => return Err(again("nothing came for a while")),
        };
        let left = usize::try_from(answer.range.end - *at).unwrap_or(usize::MAX);
        if bytes.len() > left && !answer.whole {
            return Err(Failure::Refused("more bytes came than the answer promised".into()));
        }
        let part = bytes.get(..bytes.len().min(left)).unwrap_or_default();
        shared.pace.came(part.len() as u64);
        take(part);
        *at += part.len() as u64;
        came += part.len() as u64;
        let trickles = lately >= silence && (came as f64) < SLOWEST * lately.as_secs_f64();
        if *at < answer.range.end && (trickles || waited > limit) {
            return Err(again("the answer comes too slowly"));
        }
        if lately >= silence {
            (lately, came) = (Duration::ZERO, 0);
        }
        if !urgent {
            shared.let_cache_follow().await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_differ_by_etag_and_by_time_only_without_one() {
        let version = |etag: Option<&str>, modified: Option<&str>| Version {
            etag: etag.map(str::to_owned),
            modified: modified.map(str::to_owned),
        };
        let seen = version(Some("\"a\""), Some("yesterday"));
        assert!(seen.differs(&version(Some("\"b\""), Some("yesterday"))));
        assert!(!seen.differs(&version(Some("\"a\""), Some("today"))), "another mirror");
        assert!(seen.differs(&version(None, Some("today"))));
        assert!(!seen.differs(&version(None, None)));
        assert_eq!(version(Some("W/\"a\""), None).pin(), None);
    }
}
