//! Checksums find damage, digests prove identity.

use twox_hash::XxHash3_64;

use crate::error::Result;

/// The checksum of header, index and chunks: XXH3 with 64 bits and seed 0. Finds damage; does not resist forgery.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// BLAKE3 of `len` bytes from `offset`, which `read` gives in pieces of at most 1 MiB.
///
/// # Errors
/// Those of `read`.
pub fn blake3_of(offset: u64, len: u64, mut read: impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<[u8; 32]> {
    const PIECE: u64 = 1 << 20;
    let mut hasher = blake3::Hasher::new();
    let mut piece = Vec::new();
    let mut done = 0;
    while done < len {
        piece.resize((len - done).min(PIECE) as usize, 0);
        read(offset + done, &mut piece)?;
        hasher.update(&piece);
        done += piece.len() as u64;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// A digest in lower-case hexadecimal.
#[must_use]
pub fn hex(digest: &[u8]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::with_capacity(2 * digest.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
