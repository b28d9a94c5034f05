//! Points that outlive the mount, in the disk cache beside the decoded bytes: a later mount enters a tensor where this one could,
//! also when the decoded bytes had to go.
//!
//! Only points of tensors that were decoded whole and proven are saved, and they are found again only for the very file they
//! were made from: its header, and its device, inode, length and times. So what is read from there on is what was proven.

use std::sync::Arc;

use super::points::Point;
use super::presented::Presented;
use crate::cache::{Description, Entry, Key, Store};
use crate::foreign::bigsmall::codec::State;
use crate::foreign::bigsmall::format::Content;
use crate::source::ReadAt;

/// Tensors up to this many bytes have no points to save.
const SHORT: u64 = 2 << 20;
/// What a tensor's points may take, bytes: so much, and so much for each MiB. Half of it is enough for BF16.
const SLOT: u64 = 4096;
const SLOT_PER_MIB: u64 = 2048;
/// First bytes of a slot that is in use.
const MARK: &[u8; 8] = b"bsfspts1";

/// The saved points of one file.
#[derive(Debug)]
pub struct Saved {
    entry: Arc<Entry>,
    /// By tensor: its slot's number and length, bytes; none for short ones.
    slots: Vec<Option<(u32, u64)>>,
}

/// Bytes that wait to be written.
struct Slot(Vec<u8>);

impl std::ops::Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Saved {
    /// Those of what `source` holds, if it can be told from its other versions.
    pub fn open(store: &Store, presented: &Presented, source: &dyn ReadAt) -> Option<Self> {
        let version = source.identity()?;
        let container = presented.container();
        let (mut slots, mut table, mut end) = (Vec::new(), Vec::new(), 0);
        for entry in container.entries() {
            let has = entry.raw_len > SHORT && !matches!(entry.content, Content::Same(_));
            slots.push(has.then(|| {
                let len = (SLOT + entry.raw_len.div_ceil(1 << 20) * SLOT_PER_MIB).next_multiple_of(SLOT);
                table.push((end, len));
                end += len;
                (table.len() as u32 - 1, len)
            }));
        }
        if table.is_empty() {
            return None;
        }
        let kind = blake3::hash(b"bsfs disk cache 1: points of bigsmall");
        let mut key = blake3::Hasher::new_keyed(kind.as_bytes());
        key.update(&presented.digest());
        let times = [version.mtime.0, version.mtime.1, version.ctime.0, version.ctime.1].map(i64::cast_unsigned);
        for number in [version.dev, version.ino, version.len].into_iter().chain(times) {
            key.update(&number.to_le_bytes());
        }
        let name = container.path().file_name().unwrap_or_default().to_string_lossy();
        let what = Description {
            label: &format!("{name} (points)"),
            len: end,
            chunks: table.len() as u32,
            chunk: &|at| table.get(at as usize).copied().unwrap_or_default(),
            literals: Vec::new(),
        };
        let entry = store.entry(Key(*key.finalize().as_bytes()), &what)?;
        Some(Self { entry, slots })
    }

    /// The points of a proven tensor, by position; `None` when there are none.
    pub fn load(&self, tensor: usize) -> Option<Vec<(u64, Point)>> {
        let &(slot, len) = self.slots.get(tensor)?.as_ref()?;
        if !self.entry.has(slot) {
            return None;
        }
        let mut bytes = vec![0; len as usize];
        if self.entry.read(slot, &mut bytes) { read(&bytes) } else { None }
    }

    /// Saves the points of a proven tensor; every second, or fewer, when there is no room for all.
    pub fn save(&self, tensor: usize, points: &[(u64, Arc<Point>)]) {
        let Some(&(slot, len)) = self.slots.get(tensor).and_then(Option::as_ref) else { return };
        if self.entry.has(slot) {
            return;
        }
        let mut step = 1;
        let mut bytes = write(points.iter());
        while bytes.len() as u64 > len {
            step *= 2;
            bytes = write(points.iter().skip(step - 1).step_by(step));
        }
        bytes.resize(len as usize, 0);
        self.entry.offer(slot, Slot(bytes));
    }
}

fn write<'a>(points: impl Iterator<Item = &'a (u64, Arc<Point>)>) -> Vec<u8> {
    let (mut body, mut count) = (Vec::new(), 0_u64);
    for (position, point) in points {
        count += 1;
        body.extend_from_slice(&position.to_le_bytes());
        for state in [&point.front, &point.back] {
            let state = state.to_bytes();
            body.extend_from_slice(&(state.len() as u64).to_le_bytes());
            body.extend_from_slice(&state);
        }
    }
    [MARK.as_slice(), &count.to_le_bytes(), &body].concat()
}

fn read(bytes: &[u8]) -> Option<Vec<(u64, Point)>> {
    let mut rest = bytes.strip_prefix(MARK.as_slice())?;
    let count = number(&mut rest)?;
    let mut points = Vec::new();
    for _ in 0..count {
        let position = number(&mut rest)?;
        let (front, back) = (state(&mut rest)?, state(&mut rest)?);
        points.push((position, Point { front, back, check: None }));
    }
    Some(points)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (head, tail) = rest.split_first_chunk::<8>()?;
    *rest = tail;
    Some(u64::from_le_bytes(*head))
}

fn state(rest: &mut &[u8]) -> Option<State> {
    let len = usize::try_from(number(rest)?).ok()?;
    let (head, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    State::from_bytes(head)
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn points_come_back_and_no_cut_or_flip_panics() {
        let state = |n: u8| State::from_bytes(&[n; 24]).unwrap();
        let points: Vec<(u64, Arc<Point>)> = (1..5_u8)
            .map(|n| (u64::from(n) << 20, Arc::new(Point { front: state(n), back: state(n + 9), check: None })))
            .collect();
        let bytes = write(points.iter());
        let same = |found: &[(u64, Point)]| {
            found.len() == points.len()
                && found
                    .iter()
                    .zip(&points)
                    .all(|((at, a), (to, b))| at == to && a.front == b.front && a.back == b.back)
        };
        assert!(same(&read(&bytes).unwrap()));
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len]).is_none());
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x81;
            let _ = read(&damaged);
        }
    }
}
