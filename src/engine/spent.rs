//! Packed bytes that were read through: the system may drop them from its page cache, so that a model is in memory once, decoded.
//!
//! Only what this mount read in is dropped: before a part of the file is read for the first time the system is asked whether it has
//! some of it in memory. If it has, or does not tell, another process may keep it there, and it stays.

use std::ops::Range;

use super::sync::{Mutex, lock};
use crate::source::ReadAt;

/// The system is asked about so many bytes at once, and drops so many: pages come in groups (of 2 MiB at most, each at a multiple
/// of its length), which are only dropped whole.
const REGION: u64 = 4 << 20;
/// So many regions more are asked about: further than the system reads ahead, which is not another's doing.
const AHEAD: u64 = 3;

/// What was in memory of a region before it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Unknown,
    Absent,
    /// Some of it, or the system does not tell.
    Present,
}

/// What is known of the packed bytes of one file.
#[derive(Debug)]
pub struct Spent(Mutex<State>);

#[derive(Debug)]
struct State {
    regions: Box<[Before]>,
    len: u64,
    /// Bytes that were read through and not yet dropped.
    through: Range<u64>,
}

impl Spent {
    /// Of a file of `len` bytes, of which nothing was read yet.
    pub fn new(len: u64) -> Self {
        let regions = vec![Before::Unknown; usize::try_from(len.div_ceil(REGION)).unwrap_or(0)].into();
        Self(Mutex::new(State { regions, len, through: 0..0 }))
    }

    /// Bytes of `source` are about to be read.
    pub fn reads(&self, source: &dyn ReadAt, bytes: Range<u64>) {
        let mut state = lock(&self.0);
        let len = state.len;
        for region in bytes.start / REGION..=bytes.end / REGION + AHEAD {
            if let Some(before) = state.regions.get_mut(region as usize).filter(|before| **before == Before::Unknown) {
                let start = region * REGION;
                let absent = source.in_memory(start, REGION.min(len - start)) == Some(false);
                *before = if absent { Before::Absent } else { Before::Present };
            }
        }
    }

    /// Every byte of a chunk that was made of these was read.
    pub fn read_through(&self, source: &dyn ReadAt, bytes: Range<u64>) {
        let mut state = lock(&self.0);
        if state.through.end == bytes.start {
            // Whole regions leave; what was read of the next one waits for the rest of it.
            let next = bytes.end / REGION * REGION;
            state.through.end = bytes.end;
            if state.through.start < next {
                let through = std::mem::replace(&mut state.through, next..bytes.end);
                state.drop_pages(source, through.start..next);
            }
        } else {
            let through = std::mem::replace(&mut state.through, bytes);
            state.drop_pages(source, through);
        }
    }

    /// Nothing of it is read any more.
    pub fn end(&self, source: &dyn ReadAt) {
        let mut state = lock(&self.0);
        let through = std::mem::replace(&mut state.through, 0..0);
        state.drop_pages(source, through);
    }
}

impl State {
    fn drop_pages(&mut self, source: &dyn ReadAt, bytes: Range<u64>) {
        let mut at = bytes.start;
        while at < bytes.end {
            let region = at / REGION;
            let region_end = (region + 1) * REGION;
            let end = region_end.min(bytes.end);
            let Some(before) = self.regions.get_mut(region as usize) else { return };
            if *before == Before::Absent {
                source.wont_need(at, end - at);
            }
            // When it is read again, another process may have it in memory.
            if end == region_end.min(self.len) {
                *before = Before::Unknown;
            }
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Which bytes of a file the system has, and what it was told to drop.
    struct Pages {
        in_memory: Mutex<Option<Vec<Range<u64>>>>,
        dropped: Mutex<Vec<Range<u64>>>,
    }

    impl ReadAt for Pages {
        fn path(&self) -> &Path {
            Path::new("m.bs")
        }

        fn len(&self) -> u64 {
            10 * REGION + 5
        }

        fn read_exact_at(&self, _: u64, _: &mut [u8]) -> crate::Result<()> {
            unreachable!()
        }

        fn in_memory(&self, offset: u64, len: u64) -> Option<bool> {
            let known = self.in_memory.lock().unwrap();
            Some(known.as_ref()?.iter().any(|range| range.start < offset + len && range.end > offset))
        }

        fn wont_need(&self, offset: u64, len: u64) {
            self.dropped.lock().unwrap().push(offset..offset + len);
        }
    }

    #[test]
    fn only_what_was_not_in_memory_is_dropped() {
        let pages = Pages { in_memory: Mutex::new(Some(vec![])), dropped: Mutex::default() };
        let spent = Spent::new(pages.len());
        let pass = |chunk: u64| {
            let mut at = 0;
            while at < pages.len() {
                let end = (at + chunk).min(pages.len());
                spent.reads(&pages, at..end);
                // The system reads ahead, which is this mount's doing.
                pages.in_memory.lock().unwrap().iter_mut().for_each(|known| known.push(at..end + 2 * REGION));
                spent.read_through(&pages, at..end);
                at = end;
            }
            spent.end(&pages);
            let dropped: u64 = pages.dropped.lock().unwrap().drain(..).map(|range| range.end - range.start).sum();
            dropped
        };
        assert_eq!(pass(300_000), pages.len(), "all of it was read in by this mount");
        // Another process has the middle by now.
        *pages.in_memory.lock().unwrap() = Some(std::iter::once(5 * REGION + 7..5 * REGION + 8).collect());
        assert_eq!(pass(REGION / 3), pages.len() - REGION);
        *pages.in_memory.lock().unwrap() = None;
        assert_eq!(pass(REGION), 0, "the system does not tell");
    }
}
