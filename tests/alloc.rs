//! What an orchestration takes from the global allocator: how often once warm, and how much while it waits for its
//! DSPs. The set-up has no sockets (`benches/exchange`). What allocates on the real path beside this is hyper's and the
//! body's on the SSP side: the request's body (one buffer, two if it grows), its headers, and the response's head and
//! box; and a connection's buffers towards a DSP, which it keeps.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop where it is"
)]

#[path = "../benches/exchange/mod.rs"]
mod exchange;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::mem::size_of_val;
use std::pin::Pin;

use corebid::clock::Instant;
use corebid::orchestration::Outcome;
use corebid::telemetry::EventSource;
use exchange::Exchange;

/// The response's body, which hyper takes over: 600 B, of the winner's size. Nothing else.
const ALLOCATIONS_PER_ORCHESTRATION: u64 = 1;

/// Bytes of an orchestration that waits for 23 DSPs, which is where 140,000 in flight are at their start:
///
/// | bytes | owner |
/// |---|---|
/// | 8,176 | arena, its first chunk: 3.9 kB used, room for the offers of 23 DSPs and the best of their bids |
/// | 1,024 | the future: parsed request, plan, fan-out under way (960 measured) |
/// | 256 | its place in `Gatherings`, with 23 flags; its timer in the wheel; both in vectors that grow by doubling |
const BYTES_WAITING_MAX: usize = 8_176 + 1_024 + 256;

/// The same when 22 of 23 have answered with 600 B each, one after another, and one has not: the most it ever holds. Each
/// answer is better than the one before, and takes its memory. In `Gatherings` there is room for the 4 completions of 56 B
/// that a vector begins with, and each of these 500 has a share of the buffers kept.
///
/// Not in either: the SSP's stream and the request's body (hyper's and `ingress`'s, 1.4 kB and more), and a transport's
/// slots for calls. Of 22 kB for each of 140,000 they may have 11.
const BYTES_ANSWERED_MAX: usize = BYTES_WAITING_MAX + 1_536;

#[test]
fn a_warm_orchestration_allocates_its_response_only() {
    let (exchange, _published) = Exchange::new(|| Instant::from_nanos(1_000_000_000));
    for _ in 0..100 {
        assert!(matches!(exchange.orchestrate(), Outcome::Response(_)));
    }
    let before = ALLOCATIONS.get();
    for _ in 0..100 {
        assert!(matches!(exchange.orchestrate(), Outcome::Response(_)));
    }
    assert_eq!(
        (ALLOCATIONS.get() - before).div_ceil(100),
        ALLOCATIONS_PER_ORCHESTRATION
    );
}

/// An event's line goes into a buffer that has been there and back.
#[test]
fn one_that_is_logged_allocates_no_more() {
    let (exchange, _published) = Exchange::new(|| Instant::from_nanos(1_000_000_000));
    let (source, chunks) = EventSource::new(1, 1);
    let exchange = exchange.logging(source.event_log(0));
    let hold = |times| {
        let mut lines = 0;
        for _ in 0..times {
            assert!(matches!(exchange.orchestrate(), Outcome::Response(_)));
            for chunk in chunks.try_iter() {
                lines += chunk.lines;
                chunk.recycle();
            }
        }
        lines
    };
    hold(1_000);
    let before = ALLOCATIONS.get();
    assert!(hold(1_000) > 900, "lines were handed over");
    assert_eq!(
        (ALLOCATIONS.get() - before).div_ceil(1_000),
        ALLOCATIONS_PER_ORCHESTRATION
    );
}

#[test]
fn memory_of_an_orchestration_in_flight_has_a_budget() {
    const IN_FLIGHT: usize = 500;
    let (exchange, _published) = Exchange::new(|| Instant::from_nanos(1_000_000_000));
    exchange.expect_calls(IN_FLIGHT * exchange::DSPS);
    let before = BYTES.get();
    let mut waiting: Vec<_> = (0..IN_FLIGHT).map(|_| Box::pin(exchange.start())).collect();
    let future = size_of_val::<Pin<Box<_>>>(&waiting[0]) + size_of_val(&*waiting[0]);
    for request in &mut waiting {
        exchange.wait(request.as_mut());
    }
    let each = |bytes: isize| usize::try_from(bytes).unwrap() / IN_FLIGHT;
    let bytes = each(BYTES.get() - before);
    println!("waiting: {bytes} bytes, of which the future {future}");
    assert!(bytes <= BYTES_WAITING_MAX, "{bytes} bytes");

    for _ in 1..exchange::DSPS {
        exchange.answer(IN_FLIGHT);
        waiting
            .iter_mut()
            .for_each(|request| exchange.wait(request.as_mut()));
    }
    let bytes = each(BYTES.get() - before);
    println!("all but one answered: {bytes} bytes");
    assert!(bytes <= BYTES_ANSWERED_MAX, "{bytes} bytes");
}

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

impl Counting {
    fn count(times: u64, bytes: isize) {
        ALLOCATIONS.set(ALLOCATIONS.get() + times);
        BYTES.set(BYTES.get() + bytes);
    }
}

// SAFETY: passes everything on to the system's allocator and only counts. The counters are constant-initialised and have
// no destructors, so that reaching them allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(1, layout.size().cast_signed());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        Self::count(0, -layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count(1, size.cast_signed() - layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}
