//! The primitives that readers share, so that a scheduler which explores interleavings can take their place
//! (`--cfg shuttle`, see `engine/flight.rs`).

#[cfg(not(shuttle))]
pub use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

#[cfg(shuttle)]
pub use shuttle::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

/// Takes a lock. A panic elsewhere does not make what it guards wrong: every change is made whole under the lock.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
