//! The text that users write for a place, taken apart.

use std::path::PathBuf;

use reqwest::Url;

use super::resolve::Secret;

/// A place as the user named it.
#[derive(Debug, Clone)]
pub(super) enum Address {
    /// A bucket, and the prefix of keys in it, without slashes at its ends.
    Bucket {
        /// `s3`, `gs` or `az`.
        scheme: &'static str,
        url: String,
        prefix: String,
    },
    /// A URL of a web server, with what may be secret in it.
    Web(Secret),
}

/// Whether `text` names a remote place rather than a path of this machine.
#[must_use]
pub fn is_remote(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    !scheme.is_empty() && !rest.is_empty() && scheme.chars().all(is_scheme)
}

impl Address {
    /// The place, and how messages call it.
    ///
    /// # Errors
    /// What is wrong with the text, in a sentence that holds no secrets.
    pub(super) fn parse(text: &str) -> Result<(Self, PathBuf), String> {
        let (scheme, _) = text.split_once("://").ok_or("not the address of a remote place")?;
        let scheme = scheme.to_ascii_lowercase();
        let bucket = match scheme.as_str() {
            "s3" | "s3a" => Some("s3"),
            "gs" => Some("gs"),
            "az" | "azure" | "abfs" | "abfss" => Some("az"),
            "http" | "https" => None,
            _ => {
                return Err(format!("{scheme}:// is not known; known are s3, gs, az, https, http and (of the Hub) hf"));
            }
        };
        let url = Url::parse(text).map_err(|e| format!("{scheme}://…: {e}"))?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("there is no host or bucket in the address")?;
        let Some(known) = bucket else {
            let mut shown = url.clone();
            shown.set_query(None);
            shown.set_fragment(None);
            // Refused only for URLs that have no host.
            let _ = shown.set_username("");
            let _ = shown.set_password(None);
            let shown = shown.as_str().trim_end_matches('/').to_owned();
            return Ok((Self::Web(Secret::new(url.as_str())), shown.into()));
        };
        // Keys are bytes that URLs would write in another way.
        let after = text.split_once("://").map_or("", |(_, rest)| rest);
        let prefix = after.split_once('/').map_or("", |(_, prefix)| prefix).trim_matches('/').to_owned();
        // Of Azure a container before its account: abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX.
        let user = Some(url.username()).filter(|user| known == "az" && !user.is_empty());
        let host = user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}"));
        let shown = if prefix.is_empty() { format!("{known}://{host}") } else { format!("{known}://{host}/{prefix}") };
        Ok((Self::Bucket { scheme: known, url: format!("{scheme}://{host}"), prefix }, shown.into()))
    }
}

/// Parameters of a query that say who may read and until when, but not what: in lower case, and what they begin with.
const SIGNATURE: [&str; 24] = [
    "signature",
    "sig",
    "expires",
    "key-pair-id",
    "policy",
    "token",
    "access_token",
    "awsaccesskeyid",
    "googleaccessid",
    "se",
    "st",
    "sp",
    "sv",
    "sr",
    "ss",
    "srt",
    "spr",
    "sip",
    "skoid",
    "sktid",
    "skt",
    "ske",
    "sks",
    "skv",
];
const SIGNATURES: [&str; 3] = ["x-amz-", "x-goog-", "x-ms-"];

/// What tells the file that the query of a URL chooses from others; `None` when it chooses none. Says nothing of the query itself.
pub(super) fn choice(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let mut hasher = blake3::Hasher::new_keyed(blake3::hash(b"bsfs remote query 1").as_bytes());
    let mut chooses = false;
    for (name, value) in url.query_pairs() {
        let lower = name.to_ascii_lowercase();
        if SIGNATURE.contains(&lower.as_str()) || SIGNATURES.iter().any(|begin| lower.starts_with(begin)) {
            continue;
        }
        chooses = true;
        for part in [&name, &value] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
    }
    chooses.then(|| hasher.finalize().to_hex().chars().take(16).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Address::parse(text).unwrap().1.display().to_string()
    }

    #[test]
    fn what_is_shown_of_an_address_holds_no_secrets() {
        assert_eq!(shown("https://me:pw@host:81/a/b/?sig=x#y"), "https://host:81/a/b");
        assert_eq!(shown("s3://bucket/a b/c/"), "s3://bucket/a b/c");
        assert_eq!(shown("gs://bucket"), "gs://bucket");
        assert_eq!(shown("abfss://box@acc.dfs.core.windows.net/a"), "az://box@acc.dfs.core.windows.net/a");
        assert_eq!(shown("s3://key:secret@bucket/a"), "s3://bucket/a");
        let (address, _) = Address::parse("https://me:pw@host/a?sig=x").unwrap();
        assert!(!format!("{address:?}").contains("pw"));
    }

    #[test]
    fn a_signature_chooses_no_file_and_anything_else_does() {
        let signed = "https://h/f?X-Amz-Signature=a&Expires=1&sig=b";
        assert_eq!((choice(signed), choice("https://h/f")), (None, None));
        let one = choice("https://h/f?file=1").unwrap();
        assert_eq!(choice("https://h/f?file=1&Signature=a").unwrap(), one);
        assert!(one.len() == 16 && choice("https://h/f?file=2").unwrap() != one);
    }

    #[test]
    fn paths_are_no_addresses_and_unknown_schemes_are_said() {
        assert!(!is_remote("a/b") && !is_remote("/a://") && !is_remote("C:/x") && is_remote("ftp://x"));
        assert!(Address::parse("ftp://x/y").unwrap_err().contains("known are s3"));
        assert!(Address::parse("https://").is_err() && Address::parse("s3:///x").is_err());
    }
}
