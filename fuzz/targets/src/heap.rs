//! How much memory something takes: an allocator that counts by thread, for every program this crate is linked to.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static BYTES: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The most bytes that were allocated at once by this thread while it ran `what`, beyond those before.
pub(crate) fn peak_of(what: impl FnOnce()) -> usize {
    let before = BYTES.get();
    PEAK.set(before);
    what();
    usize::try_from(PEAK.get() - before).unwrap()
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

impl Counting {
    fn count(bytes: isize) {
        let now = BYTES.get() + bytes;
        BYTES.set(now);
        PEAK.set(PEAK.get().max(now));
    }
}

// SAFETY: passes everything on to the system's allocator and only counts. The counters are constant-initialised and have
// no destructors, so that reaching them allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size().cast_signed());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        Self::count(-layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are there while it is being moved.
        Self::count(size.cast_signed());
        Self::count(-layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}
