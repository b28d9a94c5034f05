//! Numbers on the command line: one parser for each kind, with its range. What is out of range is a wrong argument.

use std::ops::RangeInclusive;

use bsfs::compress::{MAX_CHUNK_LEN, MIN_CHUNK_LEN};
use clap::builder::RangedU64ValueParser;

use super::size::{parse_size, show_size};

/// A year: no wait is longer, and no date overflows by it.
#[cfg(feature = "mount")]
const MOST_SECONDS: u64 = 365 * 86_400;
/// Threads that any option may ask for.
const MOST_THREADS: u64 = 1024;

/// Memory of a mount, bytes.
#[cfg(feature = "mount")]
pub const MEMORY: RangeInclusive<u64> = 64 << 10..=64 << 40;
/// Disk space, bytes.
pub const DISK: RangeInclusive<u64> = 0..=1 << 50;
/// The kernel's readahead, bytes.
#[cfg(feature = "mount")]
pub const READAHEAD: RangeInclusive<u64> = 0..=1 << 30;
/// Raw length of a chunk, bytes.
pub const CHUNK: RangeInclusive<u64> = MIN_CHUNK_LEN as u64..=MAX_CHUNK_LEN as u64;

/// Threads; 0 stands for the default.
pub fn threads() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(0..=MOST_THREADS)
}

/// Seconds from `least` to a year.
#[cfg(feature = "mount")]
pub fn seconds(least: u64) -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(least..=MOST_SECONDS)
}

/// A size within `range`.
pub fn size(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let size = parse_size(text)?;
        if range.contains(&size) {
            return Ok(size);
        }
        Err(format!("expected {} to {}", show_size(*range.start()), show_size(*range.end())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_range_that_the_error_tells() {
        let memory = size(MEMORY);
        assert_eq!((memory("64K"), memory("1G")), (Ok(64 << 10), Ok(1 << 30)));
        for wrong in ["1", "0", "65535", "65T"] {
            assert_eq!(memory(wrong).unwrap_err(), "expected 64.0 KiB to 64.0 TiB", "{wrong}");
        }
    }
}
