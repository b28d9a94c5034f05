//! A ticket lock: windows use a value one after the other, in ascending order of their numbers.

use crate::engine::sync::{Condvar, Mutex, lock, wait};

/// A value that each window uses once, after the windows before it.
#[derive(Debug)]
pub struct TicketLock<T> {
    slot: Mutex<Slot<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Slot<T> {
    next: u32,
    /// `None` while a window holds it, and after a window dropped its guard without [`Guard::done`].
    value: Option<T>,
    /// This window and those behind it do not get the value; `u32::MAX`, which no window has, while the lock is sound.
    poisoned: u32,
}

/// The value, held by the window whose turn it is. Dropped without [`Guard::done`] it poisons the lock.
#[derive(Debug)]
pub struct Guard<'a, T> {
    lock: &'a TicketLock<T>,
    window: u32,
    value: Option<T>,
}

impl<T> TicketLock<T> {
    /// A value that window `first` uses first.
    pub fn new(first: u32, value: T) -> Self {
        let slot = Slot { next: first, value: Some(value), poisoned: u32::MAX };
        Self { slot: Mutex::new(slot), changed: Condvar::new() }
    }

    /// Waits until the windows before `window` are done with the value. `None` when this window or an earlier one has poisoned
    /// the lock.
    pub fn wait(&self, window: u32) -> Option<Guard<'_, T>> {
        let mut slot = lock(&self.slot);
        loop {
            if window >= slot.poisoned {
                return None;
            }
            if slot.next == window
                && let Some(value) = slot.value.take()
            {
                return Some(Guard { lock: self, window, value: Some(value) });
            }
            slot = wait(&self.changed, slot);
        }
    }

    /// Says that `window` will not use the value: the windows behind it get `None`. Those before it go on.
    pub fn poison(&self, window: u32) {
        let mut slot = lock(&self.slot);
        slot.poisoned = slot.poisoned.min(window);
        drop(slot);
        self.changed.notify_all();
    }
}

impl<T> Guard<'_, T> {
    /// The value; `None` never, since [`Guard::done`] takes the guard.
    pub fn value(&mut self) -> Option<&mut T> {
        self.value.as_mut()
    }

    /// Hands the value on to the next window.
    pub fn done(mut self) {
        let mut slot = lock(&self.lock.slot);
        slot.value = self.value.take();
        slot.next += 1;
        drop(slot);
        self.lock.changed.notify_all();
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        if self.value.is_some() {
            self.lock.poison(self.window);
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn windows_use_the_value_in_order_whatever_the_order_they_come_in() {
        let tickets = TicketLock::new(3, Vec::new());
        let order = Mutex::new(vec![3, 4, 5, 6, 7, 8]);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let window = order.lock().unwrap().pop().unwrap();
                    let mut guard = tickets.wait(window).unwrap();
                    guard.value().unwrap().push(window);
                    guard.done();
                });
            }
        });
        assert_eq!(tickets.wait(9).unwrap().value(), Some(&mut vec![3, 4, 5, 6, 7, 8]));
    }

    #[test]
    fn a_window_that_fails_ends_those_behind_it_and_none_before_it() {
        let tickets = TicketLock::new(0, ());
        tickets.poison(2);
        assert!(tickets.wait(3).is_none() && tickets.wait(2).is_none());
        tickets.wait(0).unwrap().done();
        drop(tickets.wait(1).unwrap());
        assert!(tickets.wait(1).is_none());
    }
}
