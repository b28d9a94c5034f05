//! The two hashes by which the Hub names contents, made as the bytes come.

use sha2::Digest;

use super::client::RepoFile;

/// A hash under way.
pub enum Sum {
    /// SHA-256 of the content: files in LFS.
    Sha256(sha2::Sha256),
    /// Git's id of a blob: SHA-1 over "blob LENGTH" and the content.
    Git(sha1::Sha1),
}

impl Sum {
    /// The hash that this file's entity tag is.
    pub fn of(file: &RepoFile) -> Self {
        if file.sha256.is_some() { Self::Sha256(sha2::Sha256::new()) } else { Self::git(file.size) }
    }

    /// Git's id of a blob of this length.
    pub fn git(len: u64) -> Self {
        let mut hash = sha1::Sha1::new();
        hash.update(format!("blob {len}\0"));
        Self::Git(hash)
    }

    /// A SHA-256.
    pub fn sha256() -> Self {
        Self::Sha256(sha2::Sha256::new())
    }

    /// What it is called in messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::Git(_) => "git's SHA-1",
        }
    }

    /// More bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    /// The hash, in small hexadecimal digits.
    pub fn finish(self) -> String {
        let bytes = match self {
            Self::Sha256(hash) => hash.finalize().to_vec(),
            Self::Git(hash) => hash.finalize().to_vec(),
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_sha256sum() {
        // printf '{}' | git hash-object --stdin; printf '{}' | sha256sum
        let mut git = Sum::git(2);
        git.update(b"{");
        git.update(b"}");
        assert_eq!(git.finish(), "9e26dfeeb6e641a33dae4961196235bdb965b21b");
        let mut sha = Sum::sha256();
        sha.update(b"{}");
        assert_eq!(sha.finish(), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    }
}
