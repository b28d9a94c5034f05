//! What happens when the system has no memory, or no address space: one line and an exit status, and no abort.
//!
//! Nothing is lost by it: an output has no name before it is whole, as when the process is killed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::exit::Exit;

/// The system's allocator, which ends the program when it is refused memory.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

impl Allocator {
    /// Gives `memory` back, unless it is none.
    fn checked(memory: *mut u8, size: usize) -> *mut u8 {
        if memory.is_null() { Self::refused(size) } else { memory }
    }

    /// Says so and ends the program. Allocates nothing.
    fn refused(size: usize) -> ! {
        static SAID: AtomicBool = AtomicBool::new(false);
        while SAID.swap(true, Ordering::Relaxed) {
            // Another thread says it, and ends the process.
            std::thread::sleep(Duration::from_secs(1));
        }
        let mut digits = [b'0'; 20];
        let (mut left, mut at) = (size, digits.len());
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            (left, at) = (left / 10, at - 1);
            if left == 0 {
                break;
            }
        }
        let number = digits.get(at..).unwrap_or_default();
        let advice: &[u8] = b" bytes; allow it more (ulimit -v), or use fewer threads with -j\n";
        for part in [b"bsfs: the system gives no more memory, asked for ", number, advice] {
            // A standard error that is closed is no reason to stop here.
            let _ = rustix::io::write(rustix::stdio::stderr(), part);
        }
        close_connections();
        // SAFETY: it ends the process at once, and runs no handlers, which may want memory.
        unsafe { libc::_exit(i32::from(Exit::Again.code())) }
    }
}

/// Closes the connections to the kernel of mounts. A thread of this process that waits for an answer of its own mount cannot be
/// ended, and would keep the process: it wakes up when the connection is closed.
fn close_connections() {
    /// Device number of `/dev/fuse`, and descriptors that are looked at.
    const FUSE: u64 = libc::makedev(10, 229);
    const DESCRIPTORS: i32 = 4096;
    for descriptor in 3..DESCRIPTORS {
        let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
        // SAFETY: `stat` has room for what is written, and is read only where it was. Nothing uses the connection any more: the
        // process ends.
        unsafe {
            if libc::fstat(descriptor, stat.as_mut_ptr()) == 0 && stat.assume_init_ref().st_rdev == FUSE {
                libc::close(descriptor);
            }
        }
    }
}

// SAFETY: each method is the system allocator's own with the same arguments, and what it gives is given back.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps to what `alloc` asks of it.
        Self::checked(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps to what `alloc_zeroed` asks of it.
        Self::checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps to what `realloc` asks of it.
        Self::checked(unsafe { System.realloc(memory, layout, size) }, size)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to what `dealloc` asks of it.
        unsafe { System.dealloc(memory, layout) };
    }
}
