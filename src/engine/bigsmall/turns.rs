//! Things that threads may use one window after the other, in order of windows.

use crate::engine::sync::{Condvar, Mutex, lock};

/// A thing, and whose turn it is.
#[derive(Debug)]
pub struct Turns<T> {
    slot: Mutex<Slot<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Slot<T> {
    next: u32,
    /// `None` while somebody uses it, and for ever when one who did has failed.
    thing: Option<T>,
    broken: bool,
}

/// The thing, in the hands of the window whose turn it is. Dropped before [`Turn::done`], it breaks the row: no window behind
/// this one gets it.
#[derive(Debug)]
pub struct Turn<'a, T> {
    turns: &'a Turns<T>,
    thing: Option<T>,
}

impl<T> Turns<T> {
    /// A thing that window `first` uses first.
    pub fn new(first: u32, thing: T) -> Self {
        Self { slot: Mutex::new(Slot { next: first, thing: Some(thing), broken: false }), changed: Condvar::new() }
    }

    /// Waits until the windows before `window` are done with it. `None` when one of them failed.
    pub fn wait(&self, window: u32) -> Option<Turn<'_, T>> {
        let mut slot = lock(&self.slot);
        loop {
            if slot.broken {
                return None;
            }
            if slot.next == window
                && let Some(thing) = slot.thing.take()
            {
                return Some(Turn { turns: self, thing: Some(thing) });
            }
            slot = self.changed.wait(slot).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

impl<T> Turn<'_, T> {
    /// The thing. `None` never, before it is done.
    pub fn thing(&mut self) -> Option<&mut T> {
        self.thing.as_mut()
    }

    /// Gives it to the next window.
    pub fn done(mut self) {
        let mut slot = lock(&self.turns.slot);
        slot.thing = self.thing.take();
        slot.next += 1;
    }
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        if self.thing.is_some() {
            lock(&self.turns.slot).broken = true;
        }
        self.turns.changed.notify_all();
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn windows_take_turns_whatever_the_order_they_come_in() {
        let turns = Turns::new(3, Vec::new());
        let order = Mutex::new(vec![3, 4, 5, 6, 7, 8]);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let window = order.lock().unwrap().pop().unwrap();
                    let mut turn = turns.wait(window).unwrap();
                    turn.thing().unwrap().push(window);
                    turn.done();
                });
            }
        });
        assert_eq!(turns.wait(9).unwrap().thing(), Some(&mut vec![3, 4, 5, 6, 7, 8]));
    }

    #[test]
    fn one_that_fails_ends_the_row() {
        let turns = Turns::new(0, ());
        drop(turns.wait(0));
        assert!(turns.wait(1).is_none() && turns.wait(0).is_none());
    }
}
