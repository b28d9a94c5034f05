//! Memory that the system may refuse.
//!
//! A program may end when it is refused memory, as `bsfs` does (its allocator is in `src/cli/memory.rs`). What is asked for here
//! may be refused all the same: its length is a file's own, and a mount must not end because of one file.

use std::cell::Cell;

thread_local! {
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Room for `len` values, all of it at once; `None` where the system has no memory for it.
#[must_use]
pub fn room<T>(len: usize) -> Option<Vec<T>> {
    let mut values = Vec::new();
    ASKING.set(true);
    let got = values.try_reserve_exact(len);
    ASKING.set(false);
    got.is_ok().then_some(values)
}

/// Whether this thread asks for memory that may be refused: an allocator gives none then, where it would end the process otherwise.
#[must_use]
pub fn may_be_refused() -> bool {
    ASKING.get()
}
