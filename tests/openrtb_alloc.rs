//! Once warm, reading, splicing and writing take no memory from the global allocator.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop where it is"
)]

use bumpalo::Bump;
use corebid::openrtb::{Limits, Parser, Seat, Splice, Validation, Win, write_response};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::Path;

#[test]
fn a_warm_parser_allocates_in_the_arena_only() {
    let requests = corpus("requests/valid");
    let responses = corpus("responses/valid");
    let (mut parser, mut arena, mut out) = (Parser::new(Limits::default()), Bump::new(), Vec::new());
    let mut all = || {
        for body in &requests {
            arena.reset();
            let request = parser
                .parse_request(body, &arena, &Validation::default())
                .unwrap();
            let _ = Splice::new(&request).encode(87, &arena);
        }
        for body in &responses {
            arena.reset();
            let response = parser.parse_response(body, &arena).unwrap();
            for (_, bid) in response.bids() {
                out.clear();
                write_response(
                    &mut out,
                    b"1",
                    "USD",
                    &[Win {
                        dsp: 0,
                        seat: Seat::Name("dsp"),
                        bid: bid.text(),
                        price: "1",
                    }],
                );
            }
        }
    };
    all();
    let before = ALLOCATIONS.get();
    all();
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

fn corpus(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(folder);
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| fs::read(path).unwrap()).collect()
}

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

// SAFETY: passes everything on to the system's allocator and only counts. The counter is constant-initialised and has
// no destructor, so that reaching it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}
