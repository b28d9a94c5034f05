//! Files whose bytes lie behind an address that has to be asked for, and that expires: the seam for the Hub and its like.

use std::fmt;
use std::time::Instant;

/// Text that no message, log or cache may show: a signed URL, a token. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for a request and nothing else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Where the bytes of a file can be had now.
#[derive(Debug, Clone)]
pub struct Location {
    /// An `http` or `https` URL, which takes range requests. Requests for bytes follow its redirects; `headers` do not go to
    /// another host.
    pub url: Secret,
    /// Headers for the host of `url`: names, and values that are kept secret.
    pub headers: Vec<(String, Secret)>,
    /// What tells this version of the file from others: an ETag, a digest, a commit with a path. The same after each resolving, or
    /// the file counts as changed. What the host of `url` gives as an ETag may be another text; it is pinned apart.
    pub version: String,
    /// Length in bytes, if it is said; the same after each resolving.
    pub len: Option<u64>,
    /// When `url` stops to work; `None` when that is not known. It is resolved again before that, and when the host says 401 or 403.
    pub expires: Option<Instant>,
}

/// Finds out where a file is. Called once for an open file, and again when the location has expired.
pub trait Resolve: Send + Sync {
    /// The location now. Blocking, on a thread that may wait; requests should have time limits. Called again after
    /// [`Failure::Again`] until the patience for a read has ended.
    ///
    /// # Errors
    /// What went wrong, in words without secrets.
    fn resolve(&self) -> Result<Location, Failure>;
}

/// Why bytes did not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Another try may work: no connection, a time-out, 429, 5xx. `after` is what the server asks to wait, seconds.
    Again {
        /// What happened, without secrets.
        why: String,
        /// `Retry-After`; 0 when it asks to slow down (429, 503) and does not say for how long.
        after: Option<u64>,
    },
    /// The file is another one by now: 412, or another ETag or length.
    Changed,
    /// There is no such file: 404, 410.
    Missing,
    /// The credentials are missing, wrong or expired: 401, 403.
    Denied,
    /// Anything else, in words without secrets: another try will not help.
    Refused(String),
}

impl Failure {
    /// What to make of the status of an answer that is none of 200 and 206.
    #[must_use]
    pub fn of_status(status: u16, after: Option<u64>) -> Self {
        let after = after.or(matches!(status, 429 | 503).then_some(0));
        match status {
            401 | 403 => Self::Denied,
            404 | 410 => Self::Missing,
            412 => Self::Changed,
            408 | 425 | 429 | 500 | 502..=504 => Self::Again { why: format!("HTTP status {status}"), after },
            _ => Self::Refused(format!("HTTP status {status}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Again { why, .. } | Self::Refused(why) => f.write_str(why),
            Self::Changed => f.write_str("the file changed on the server"),
            Self::Missing => f.write_str("no such file on the server"),
            Self::Denied => f.write_str("the server does not allow it with these credentials"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let location = Location {
            url: Secret::new("https://h/x?sig=abc"),
            headers: vec![("authorization".into(), Secret::new("Bearer abc"))],
            version: "v".into(),
            len: Some(1),
            expires: None,
        };
        assert!(!format!("{location:?}").contains("abc"));
    }

    #[test]
    fn a_status_says_whether_to_try_again() {
        assert_eq!(Failure::of_status(412, None), Failure::Changed);
        assert!(matches!(Failure::of_status(503, Some(7)), Failure::Again { after: Some(7), .. }));
        assert!(matches!(Failure::of_status(429, None), Failure::Again { after: Some(0), .. }));
        assert!(matches!(Failure::of_status(500, None), Failure::Again { after: None, .. }));
        assert!(matches!(Failure::of_status(416, None), Failure::Refused(_)));
    }
}
