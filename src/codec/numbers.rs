//! The type of the numbers in a chunk.

/// The type of the numbers in a chunk, as far as a codec depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Numbers {
    /// Bytes of unknown meaning.
    Unknown,
    /// Unsigned or signed integers, or codes, of 1, 2, 4 or 8 bytes (log2: 0 to 3).
    Integers {
        /// log2 of the bytes of a number.
        log2_width: u8,
    },
    /// Floats of one byte with a sign: E4M3, E5M2.
    F8,
    /// F16 floats.
    F16 {
        /// Numbers in a row, if the chunk begins with one; else 0.
        row: u32,
    },
    /// BF16 floats.
    Bf16 {
        /// Numbers in a row, if the chunk begins with one; else 0.
        row: u32,
    },
    /// F32 floats.
    F32,
    /// F64 floats.
    F64,
}
