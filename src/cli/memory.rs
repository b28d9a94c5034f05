//! What happens when the system has no memory, or no address space: one line and an exit status, and no abort.
//!
//! Nothing is lost by it: an output has no name before it is whole, as when the process is killed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::exit::Exit;

/// The system's allocator, which ends the program when it is refused memory.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

impl Allocator {
    /// Gives `memory` back, unless it is none and was needed.
    fn checked(memory: *mut u8, size: usize) -> *mut u8 {
        if memory.is_null() && !bsfs::memory::may_be_refused() { Self::refused(size) } else { memory }
    }

    /// Says so and ends the program. Allocates nothing.
    fn refused(size: usize) -> ! {
        first();
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
        end([b"bsfs: the system gives no more memory, asked for ", number, ADVICE])
    }
}

const ADVICE: &[u8] = b" bytes; allow it more (ulimit -v), or use fewer threads with -j\n";

/// Returns to the first thread that has no memory; others wait for the end of the process.
fn first() {
    static SAID: AtomicBool = AtomicBool::new(false);
    while SAID.swap(true, Ordering::Relaxed) {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Says why and ends the process. Allocates nothing.
fn end(why: [&[u8]; 3]) -> ! {
    // A standard error that is closed is no reason to stop here.
    let _ = rustix::io::writev(rustix::stdio::stderr(), &why.map(IoSlice::new));
    // SAFETY: nothing more is to be said: other threads that begin without memory would say it in many lines.
    unsafe { libc::close(libc::STDERR_FILENO) };
    close_connections();
    // SAFETY: it ends the process at once, and runs no handlers, which may want memory.
    unsafe { libc::_exit(i32::from(Exit::Again.code())) }
}

/// Without memory for a new thread's own data the C library aborts the process, and has said so: this ends it as other refused
/// memory does. Another abort stays one.
pub fn end_without_memory() {
    /// More than the C library asks for at once.
    const PROBE: usize = 1 << 20;
    let aborted = || {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        // SAFETY: a new map of no name touches nothing that is there.
        let probe = unsafe {
            mmap_anonymous(std::ptr::null_mut(), PROBE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        };
        if probe.is_err() {
            first();
            end([b"bsfs: the system gives no more memory, asked for ", b"a few", ADVICE]);
        }
        // The process aborts when this has returned.
    };
    // SAFETY: what runs in the handler are system calls alone.
    let _ = unsafe { signal_hook::low_level::register(signal_hook::consts::SIGABRT, aborted) };
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

#[cfg(test)]
mod tests {
    #[test]
    fn what_may_be_refused_does_not_end_the_program() {
        assert!(bsfs::memory::room::<u8>(1 << 62).is_none());
        assert_eq!(bsfs::memory::room::<u64>(5).unwrap().capacity(), 5);
        assert!(!bsfs::memory::may_be_refused());
    }
}
