//! What a disk may hold after the power was lost: all that lasts, and of the rest whatever is worst.
//!
//! Between two syncs of a directory any of the changes of its names may be on the disk and any may be lost. A file that was
//! written and not synced since may be what it was before, what it is, of its length and empty, or half of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::disk::{Disk, Place, ROOT, Step};

/// More changes of names than these at once, and not every subset of them is looked at: all but one, and none but one, are.
const SUBSETS: usize = 10;

#[derive(Clone, Default)]
struct File {
    lasting: Arc<Vec<u8>>,
    now: Arc<Vec<u8>>,
}

impl File {
    /// All that it may be.
    fn states(&self) -> Vec<Arc<Vec<u8>>> {
        if Arc::ptr_eq(&self.lasting, &self.now) {
            return vec![Arc::clone(&self.now)];
        }
        let mut half = self.now[..self.now.len() / 2].to_vec();
        half.resize(self.now.len(), 0);
        vec![Arc::clone(&self.lasting), Arc::clone(&self.now), Arc::new(vec![0; self.now.len()]), Arc::new(half)]
    }
}

/// A disk as it was when a run began, and the steps that follow.
pub struct Crash {
    files: BTreeMap<u64, File>,
    names: BTreeMap<Place, u64>,
    directories: BTreeMap<u64, String>,
    pending: Vec<Step>,
    start: usize,
}

impl Crash {
    /// All that is on `disk` now lasts.
    pub fn begin(disk: &Disk) -> Self {
        let state = disk.lock();
        let mut crash = Self {
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            directories: BTreeMap::from([(ROOT, String::new())]),
            pending: Vec::new(),
            start: state.log.len(),
        };
        let mut left = vec![ROOT];
        while let Some(dir) = left.pop() {
            for (name, &ino) in &state.nodes[&dir].names {
                match &state.nodes[&ino].data {
                    Some(data) => {
                        crash.names.insert((dir, name.clone()), ino);
                        crash.files.insert(ino, File { lasting: Arc::clone(data), now: Arc::clone(data) });
                    }
                    None => {
                        let path = format!("{}{}/", crash.directories[&dir], name.to_str().unwrap());
                        crash.directories.insert(ino, path);
                        left.push(ino);
                    }
                }
            }
        }
        crash
    }

    /// Goes through all steps since, and gives every state that the loss of power may leave after each of them to `check`: for
    /// each path all that its file may hold. Gives how many states there were.
    pub fn every(mut self, disk: &Disk, mut check: impl FnMut(&str, &BTreeMap<String, Vec<Arc<Vec<u8>>>>)) -> usize {
        let steps = disk.lock().log[self.start..].to_vec();
        let mut states = 0;
        for number in 0..=steps.len() {
            if let Some(step) = number.checked_sub(1).and_then(|n| steps.get(n)) {
                self.take(step);
            }
            for chosen in self.choices() {
                let mut names = self.names.clone();
                chosen.iter().for_each(|&n| apply(&mut names, &self.pending[n]));
                let held = names.iter().map(|((dir, name), ino)| {
                    let path = format!("{}{}", self.directories[dir], name.to_str().unwrap());
                    (path, self.files[ino].states())
                });
                let last = number.checked_sub(1).map_or("nothing".to_owned(), |n| format!("{:?}", shown(&steps[n])));
                let lasting: Vec<String> = chosen.iter().map(|&n| shown(&self.pending[n])).collect();
                let what = format!("power lost after step {number} ({last}); of what was not synced {lasting:?} last");
                check(&what, &held.collect());
                states += 1;
            }
        }
        states
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Write(ino, data) => self.files.entry(*ino).or_default().now = Arc::clone(data),
            Step::Sync(ino) => {
                if let Some(file) = self.files.get_mut(ino) {
                    file.lasting = Arc::clone(&file.now);
                }
            }
            Step::SyncNames(dir) => {
                let of = |place: &Place| place.0 == *dir;
                let (last, stay) = std::mem::take(&mut self.pending).into_iter().partition(|step| match step {
                    Step::Link(at, _) | Step::Unlink(at) => of(at),
                    Step::Rename(from, to, _) => of(from) || of(to),
                    _ => false,
                });
                self.pending = stay;
                let last: Vec<Step> = last;
                last.iter().for_each(|step| apply(&mut self.names, step));
            }
            step => {
                if let Step::Link(_, ino) = step {
                    self.files.entry(*ino).or_default();
                }
                self.pending.push(step.clone());
            }
        }
    }

    /// Which of the pending changes may last.
    fn choices(&self) -> BTreeSet<Vec<usize>> {
        let all = 0..self.pending.len();
        if all.len() <= SUBSETS {
            return (0..1_usize << all.len())
                .map(|bits| all.clone().filter(|n| bits >> n & 1 == 1).collect())
                .collect();
        }
        let mut chosen: BTreeSet<Vec<usize>> = all.clone().map(|up_to| (0..up_to).collect()).collect();
        for one in all.clone() {
            chosen.insert(vec![one]);
            chosen.insert(all.clone().filter(|n| *n != one).collect());
        }
        chosen.insert(all.collect());
        chosen
    }
}

fn apply(names: &mut BTreeMap<Place, u64>, step: &Step) {
    match step {
        Step::Link(at, ino) => {
            names.insert(at.clone(), *ino);
        }
        Step::Unlink(at) => {
            names.remove(at);
        }
        Step::Rename(from, to, ino) => {
            names.remove(from);
            names.insert(to.clone(), *ino);
        }
        Step::Write(..) | Step::Sync(_) | Step::SyncNames(_) => {}
    }
}

fn shown(step: &Step) -> String {
    match step {
        Step::Write(ino, data) => format!("write {ino}, {} bytes", data.len()),
        step => format!("{step:?}"),
    }
}
