//! A global allocator that counts, for tests that say how much memory a piece of code asks for.
// UNSAFETY: `GlobalAlloc` is an unsafe trait. Invariant: every call goes to the system's allocator with the arguments that
// came in and its answer goes back as it is, so that whatever holds for `System` holds here. Counting neither allocates
// nor unwinds: the thread's counter is a constant without a destructor, and it is passed by when the thread is ending.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    static HERE: Cell<u64> = const { Cell::new(0) };
}
static EVERYWHERE: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, with a count for each thread and one for all. Memory that grows or moves counts as allocated.
pub struct Counting;

fn count() {
    EVERYWHERE.fetch_add(1, Ordering::Relaxed);
    let _ = HERE.try_with(|here| here.set(here.get() + 1));
}

// SAFETY: see the invariant above; `System` is a correct allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about `layout` is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: `block` came from `System` with `layout`, because nothing else allocates here; the rest is the
        // caller's promise.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

/// How often `work` made the calling thread allocate; other threads do not matter. Always 0 in a program whose
/// `#[global_allocator]` is not [`Counting`].
pub fn during<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = HERE.get();
    let result = work();
    (result, HERE.get() - before)
}

/// How often all threads but the calling one have allocated so far.
pub fn elsewhere() -> u64 {
    EVERYWHERE.load(Ordering::Relaxed) - HERE.get()
}
