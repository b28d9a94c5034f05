//! Where a later pass may enter a stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use md5::Md5;

use crate::engine::sync::{AtomicU64, Mutex, Ordering, lock};
use crate::foreign::bigsmall::codec::State;

/// Bytes of bookkeeping for a point, beside its states.
const OVERHEAD: usize = 96 + size_of::<Point>();

/// The bytes that all points of an engine take, and may take.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    most: u64,
}

impl Budget {
    /// Room for points of `most` bytes in all.
    pub fn new(most: u64) -> Self {
        Self { used: AtomicU64::new(0), most }
    }

    /// Bytes of all points now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// The states of the two sides between two windows.
#[derive(Debug)]
pub struct Point {
    pub front: State,
    pub back: State,
    /// The digest of the tensor so far, if its beginning was seen.
    pub check: Option<Md5>,
}

impl Point {
    fn size(&self) -> u64 {
        (self.front.memory() + self.back.memory() + OVERHEAD) as u64
    }
}

/// The points of one stream, by position in what it unpacks to (bytes).
#[derive(Debug)]
pub struct Points {
    inner: Mutex<Inner>,
    budget: Arc<Budget>,
}

#[derive(Debug)]
struct Inner {
    at: BTreeMap<u64, Arc<Point>>,
    /// Points are no closer than this, bytes; it grows when the budget is short.
    apart: u64,
}

impl Points {
    /// No points yet; they will be at least `apart` bytes from each other.
    pub fn new(budget: Arc<Budget>, apart: u64) -> Self {
        Self { inner: Mutex::new(Inner { at: BTreeMap::new(), apart }), budget }
    }

    /// The last point at or before `position`.
    pub fn before(&self, position: u64) -> Option<(u64, Arc<Point>)> {
        lock(&self.inner).at.range(..=position).next_back().map(|(&at, point)| (at, Arc::clone(point)))
    }

    /// All of them, in order.
    pub fn all(&self) -> Vec<(u64, Arc<Point>)> {
        lock(&self.inner).at.iter().map(|(&at, point)| (at, Arc::clone(point))).collect()
    }

    /// Whether a point at `position` would be kept.
    pub fn wanted(&self, position: u64) -> bool {
        let inner = lock(&self.inner);
        let before = inner.at.range(..=position).next_back().map_or(0, |(&at, _)| at);
        let behind = inner.at.range(position..).next().is_none_or(|(&at, _)| at - position >= inner.apart);
        position - before >= inner.apart && behind
    }

    /// Keeps a point. When the budget is short, every second point of this stream goes.
    pub fn note(&self, position: u64, point: Point) {
        if !self.wanted(position) {
            return;
        }
        let mut inner = lock(&self.inner);
        while self.budget.used() + point.size() > self.budget.most {
            if inner.at.is_empty() {
                return;
            }
            inner.apart *= 2;
            let (apart, mut last) = (inner.apart, 0);
            inner.at.retain(|&at, point| {
                let keep = at - last >= apart;
                if keep {
                    last = at;
                } else {
                    self.budget.used.fetch_sub(point.size(), Ordering::Relaxed);
                }
                keep
            });
            if position - last < apart {
                return;
            }
        }
        self.budget.used.fetch_add(point.size(), Ordering::Relaxed);
        if let Some(old) = inner.at.insert(position, Arc::new(point)) {
            self.budget.used.fetch_sub(old.size(), Ordering::Relaxed);
        }
    }
}

impl Drop for Points {
    fn drop(&mut self) {
        let bytes = lock(&self.inner).at.values().map(|point| point.size()).sum();
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    fn point(words: usize) -> Point {
        let state = State::from_bytes(&vec![1; 8 * words]).unwrap();
        Point { front: state.clone(), back: state, check: None }
    }

    #[test]
    fn points_are_found_kept_apart_and_bounded() {
        let budget = Arc::new(Budget::new(20_000));
        let points = Points::new(Arc::clone(&budget), 10);
        assert!(points.before(1 << 40).is_none());
        for position in [10, 15, 20, 40] {
            points.note(position, point(4));
        }
        assert_eq!(points.before(39).map(|(at, _)| at), Some(20));
        assert_eq!(points.before(19).map(|(at, _)| at), Some(10), "15 is too close to 10");
        assert!(points.before(9).is_none());
        for position in (0..100_000).step_by(10) {
            points.note(position, point(4));
            assert!(budget.used() <= 20_000);
        }
        let (at, _) = points.before(100_000).unwrap();
        assert!(at > 80_000, "{at}: the end is covered as well");
        drop(points);
        assert_eq!(budget.used(), 0);
    }
}
