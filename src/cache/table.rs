//! Which bytes of a file are which chunk.

use std::sync::Arc;

/// The most chunks and literals of one entry. At 512 KiB for each that is a file of 2 TiB; a map takes 32 bytes for each.
pub const MAX_PARTS: u32 = 1 << 22;

/// Bytes with their offset in the file.
pub type Literal = (u64, Arc<[u8]>);

/// What the caller says of a file when it asks for its entry. Chunks and literals together make up the file, without holes and
/// overlaps, in any order.
pub struct Description<'a> {
    /// How people call the file; shown by `list`, not part of its identity. Cut after 255 bytes.
    pub label: &'a str,
    /// Length of the file, bytes.
    pub len: u64,
    /// Number of chunks.
    pub chunks: u32,
    /// Offset and length of a chunk, bytes; asked for 0 to `chunks - 1`. A chunk has at most 4 GiB.
    pub chunk: &'a dyn Fn(u32) -> (u64, u64),
    /// Bytes that the caller has at hand already: a header. Written with the first chunk.
    pub literals: Vec<Literal>,
}

/// A chunk or a literal: literals are numbered behind the chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub offset: u64,
    pub len: u32,
}

impl Description<'_> {
    /// The table of parts; what is wrong with it otherwise.
    pub fn parts(&self) -> Result<Vec<Part>, &'static str> {
        let literals = u32::try_from(self.literals.len()).unwrap_or(u32::MAX);
        if self.chunks.saturating_add(literals) > MAX_PARTS {
            return Err("too many chunks");
        }
        let chunks = (0..self.chunks).map(self.chunk);
        let literals = self.literals.iter().map(|(offset, bytes)| (*offset, bytes.len() as u64));
        let parts: Option<Vec<Part>> =
            chunks.chain(literals).map(|(offset, len)| Some(Part { offset, len: u32::try_from(len).ok()? })).collect();
        let parts = parts.ok_or("a chunk is too long")?;
        if tiles(&parts, self.len) { Ok(parts) } else { Err("its chunks do not make up the file") }
    }
}

/// Whether the parts lie end to end from 0 to `len`, in some order.
pub fn tiles(parts: &[Part], len: u64) -> bool {
    let mut end = 0_u64;
    for part in in_order(parts).into_iter().filter_map(|at| parts.get(at as usize)) {
        match part.offset.checked_add(part.len.into()) {
            Some(next) if part.offset == end => end = next,
            _ => return false,
        }
    }
    end == len
}

/// The numbers of the parts, by offset; empty ones before the part that starts where they do.
pub fn in_order(parts: &[Part]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..).take(parts.len()).collect();
    order.sort_by_key(|&at| parts.get(at as usize).map(|part| (part.offset, part.len)));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_makes_up_the_file_or_is_refused() {
        let table = |len: u64, chunks: &[(u64, u64)]| {
            let chunk = |at: u32| chunks[at as usize];
            let literals = vec![(0, Arc::from([1_u8, 2].as_slice()))];
            Description { label: "", len, chunks: chunks.len() as u32, chunk: &chunk, literals }.parts().is_ok()
        };
        assert!(table(2, &[]));
        assert!(table(9, &[(4, 5), (2, 2)]));
        assert!(table(9, &[(2, 7), (2, 0), (9, 0)]), "empty ones are no harm");
        for bad in [&[(2, 6)][..], &[(2, 8)], &[(3, 6)], &[(1, 8)], &[(2, 4), (5, 4)], &[(2, 7), (9, 1 << 40)], &[]] {
            assert!(!table(9, bad), "{bad:?}");
        }
        assert!(!table(u64::MAX, &[(u64::MAX, 5)]));
    }
}
