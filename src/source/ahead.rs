//! Which bytes of a file are worth decoding before they are asked for.
//!
//! One descriptor carries several streams: threads over tensors, blocks handed out in turn, a mapping touched tensor by
//! tensor. A read that goes on where another ended proves a stream; a read at the start of a tensor begins one at once. What
//! is decoded ahead of a stream doubles while it goes on, and is halved when chunks had to go unread. Reads that jump begin
//! nothing.

use std::ops::Range;

/// Streams of a file that are followed, at most: sixteen readers and what kernels split off.
const STREAMS: usize = 32;
/// What is decoded ahead of a stream that was just found, bytes.
const FIRST: u64 = 2 << 20;
/// Reads of one stream arrive out of order by as much as the kernel reads ahead, bytes.
const SLACK: u64 = 2 << 20;
/// A stream that went on within so many reads of the file is active.
const LATELY: u64 = 64;
/// Jumps in a row after which the start of a tensor is no longer taken for the start of a stream.
const JUMPS: u32 = 8;

/// A run of reads.
#[derive(Debug, Clone, Copy)]
struct Stream {
    /// Where the furthest read ended.
    next: u64,
    /// Where the bytes end that were to be decoded ahead; at least `next`.
    planned: u64,
    /// How far ahead, bytes; 0 until it is proven.
    window: u64,
    /// When it last went on.
    used: u64,
}

/// The streams of one open file.
#[derive(Debug)]
pub struct Streams {
    streams: Vec<Stream>,
    clock: u64,
    jumps: u32,
    wasted: u64,
    /// More is planned when this part of a window was used up: one in so many.
    part: u64,
    /// Reads of one stream arrive out of order by so many bytes.
    slack: u64,
}

impl Default for Streams {
    fn default() -> Self {
        // Many small plans would cost more than they bring.
        Self::in_parts(2, SLACK)
    }
}

impl Streams {
    /// Streams of which more is planned each time a `part`th of the window was used up, and whose reads arrive out of order by
    /// `slack` bytes.
    #[must_use]
    pub fn in_parts(part: u64, slack: u64) -> Self {
        Self { streams: Vec::new(), clock: 0, jumps: 0, wasted: 0, part: part.max(1), slack }
    }

    /// How many streams went on lately.
    #[must_use]
    pub fn active(&self) -> u64 {
        let lately = |s: &&Stream| s.window > 0 && self.clock - s.used < LATELY;
        self.streams.iter().filter(lately).count() as u64
    }

    /// Whether reads have jumped about for a while.
    pub fn jump(&self) -> bool {
        self.jumps > JUMPS
    }

    /// Takes note of a read, and gives the bytes that should be decoded next, if any. `tensor` is the tensor that begins in
    /// the read, `most` bounds what is decoded ahead of a stream (bytes), `wasted` counts the chunks decoded for nothing.
    pub fn note(&mut self, read: Range<u64>, tensor: Option<Range<u64>>, most: u64, wasted: u64) -> Option<Range<u64>> {
        self.clock += 1;
        if wasted > self.wasted {
            self.wasted = wasted;
            self.streams.iter_mut().for_each(|s| s.window = (s.window / 2).max(FIRST.min(s.window)));
        }
        let near = |s: &Stream| {
            // Unproven, only a neighbour: requests of the kernel's readahead may have changed places.
            let len = read.end - read.start;
            let (forward, slack) = if s.window == 0 { (len, 2 * len) } else { (self.slack.max(s.window), self.slack) };
            (read.start <= s.next + forward && read.start + slack >= s.next).then(|| read.start.abs_diff(s.next))
        };
        let found = self.streams.iter_mut().filter_map(|s| near(s).map(|d| (d, s))).min_by_key(|(d, _)| *d);
        if let Some((_, s)) = found {
            s.used = self.clock;
            self.jumps /= 2;
            if read.end <= s.next {
                return None;
            }
            s.next = read.end;
            s.planned = s.planned.max(s.next);
            if s.planned - s.next > s.window - s.window / self.part {
                return None;
            }
            s.window = (s.window * 2).max(FIRST).min(most);
            let plan = s.planned..s.next + s.window;
            s.planned = s.planned.max(plan.end);
            return (!plan.is_empty()).then_some(plan);
        }
        self.jumps = self.jumps.saturating_add(1);
        let begins = tensor.filter(|t| self.jumps <= JUMPS && t.end > read.end);
        let plan = begins.map(|t| read.end..t.end.min(read.end + FIRST.min(most)));
        let planned = plan.as_ref().map_or(read.end, |p| p.end);
        let window = plan.as_ref().map_or(0, |p| p.end - p.start);
        let stream = Stream { next: read.end, planned, window, used: self.clock };
        if self.streams.len() < STREAMS {
            self.streams.push(stream);
        } else if let Some(oldest) = self.streams.iter_mut().min_by_key(|s| s.used) {
            *oldest = stream;
        }
        plan.filter(|p| !p.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_stream_is_found_by_its_second_read_and_its_window_doubles_up_to_the_bound() {
        let mut streams = Streams::default();
        assert_eq!(streams.note(MIB..2 * MIB, None, 16 * MIB, 0), None);
        assert_eq!(streams.note(2 * MIB..3 * MIB, None, 16 * MIB, 0), Some(3 * MIB..5 * MIB));
        let mut planned = 5 * MIB;
        let mut longest = 0;
        for at in 3..60 {
            if let Some(plan) = streams.note(at * MIB..(at + 1) * MIB, None, 16 * MIB, 0) {
                assert_eq!(plan.start, planned, "no byte twice, none left out");
                planned = plan.end;
            }
            assert!(planned > (at + 1) * MIB, "never caught up with");
            longest = longest.max(planned - (at + 1) * MIB);
        }
        assert_eq!(longest, 16 * MIB);
        let mut halved = Streams { wasted: 5, ..streams };
        halved.note(0..1, None, 16 * MIB, 6);
        assert!(halved.streams.iter().all(|s| s.window <= 8 * MIB));
    }

    #[test]
    fn requests_of_one_stream_may_change_places_and_streams_may_be_many() {
        let mut streams = Streams::default();
        let mut planned = [0_u64; 16];
        for turn in 0..8 {
            for reader in 0..16_u64 {
                let base = reader * 1000 * MIB;
                // Pairs of requests, the second first.
                for half in [1, 0] {
                    let at = base + (2 * turn + half) * MIB;
                    if let Some(plan) = streams.note(at..at + MIB, None, 4 * MIB, 0) {
                        planned[reader as usize] += plan.end - plan.start;
                    }
                }
            }
        }
        assert!(planned.iter().all(|p| (10 * MIB..=24 * MIB).contains(p)), "{planned:?}");
    }

    #[test]
    fn the_start_of_a_tensor_begins_a_stream_until_reads_turn_out_to_jump() {
        let mut streams = Streams::default();
        let tensor = |at: u64| Some(at..at + 3 * MIB);
        assert_eq!(streams.note(0..4096, tensor(0), 16 * MIB, 0), Some(4096..4096 + FIRST));
        let short = streams.note(100 * MIB..101 * MIB, tensor(99 * MIB), 16 * MIB, 0);
        assert_eq!(short, Some(101 * MIB..102 * MIB), "no further than the tensor");
        let planned = (0..1000_u64)
            .map(|i| (i * 7919 % 5000 + 200) * MIB)
            .filter_map(|at| streams.note(at..at + 4096, tensor(at), 16 * MIB, 0))
            .count();
        assert!(planned < 20, "{planned} plans for reads at random");
    }
}
