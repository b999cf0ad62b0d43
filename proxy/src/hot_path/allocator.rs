//! Counts the allocations of each thread, in tests alone.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    static MADE: Cell<u64> = const { Cell::new(0) };
}

/// How many allocations this thread has made. To grow one counts as another.
pub fn made() -> u64 {
    MADE.get()
}

/// The system's allocator, counted.
struct Counted;

#[global_allocator]
static COUNTED: Counted = Counted;

// SAFETY: each call is passed on to the system's allocator with the caller's own arguments, so what its caller promises
// and is promised holds as it does there. Counting neither allocates nor panics: the cell has its value from the
// beginning, and no destructor.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

fn count() {
    MADE.set(MADE.get().wrapping_add(1));
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[track_caller]
    fn check<T>(make: impl FnOnce() -> T, expected: u64) {
        let before = made();
        black_box(make());
        assert_eq!(made() - before, expected);
    }

    #[test]
    fn every_allocation_of_the_thread_is_counted() {
        check(|| 1, 0);
        check(|| Box::new(1), 1);
        check(|| vec![0_u8; 100], 1);
        check(|| String::with_capacity(3) + "four", 2);
    }

    #[test]
    fn another_threads_are_its_own() {
        let there = std::thread::spawn(|| {
            check(|| Box::new(1), 1);
            made()
        });
        let before = made();
        assert!(there.join().expect("it ends") > 0);
        check(|| before, 0);
    }
}
