//! Recording and handing over must not allocate: both happen on a shard. A test program of its own, because it
//! replaces the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use corebid::telemetry::{
    self, BidResult, ConnectionState, DspOutcome, LateFound, LongerBy, Recorder, Roster, ShedReason, Stage,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the same promises to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the same promises to us.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn recording_and_handing_over_do_not_allocate() {
    let (recorders, mut merged) = telemetry::channel(1);
    let roster = Arc::new(Roster::new((1..=23).map(|n| format!("dsp{n}")).collect(), "USD"));
    let recorder = recorders.recorder(0, &roster);
    for interval in 0..20 {
        let before = ALLOCATIONS.get();
        (0..1_000).for_each(|n| record_all(&recorder, interval * 1_000 + n));
        assert!(recorder.publish());
        assert!(!recorder.publish(), "until the other end has collected");
        let allocated = ALLOCATIONS.get() - before;
        assert_eq!(allocated, 0, "in interval {interval}");
        merged.collect();
    }
}

fn record_all(recorder: &Recorder, code: u16) {
    let n = u64::from(code);
    Stage::ALL
        .into_iter()
        .for_each(|stage| recorder.stage(stage, n * 7_919));
    for dsp in 0..23 {
        recorder.dsp_call(dsp, DspOutcome::Bid, n * 104_729);
        recorder.dsp_late(dsp, n);
        recorder.dsp_late_answer(dsp, LateFound::Won, LongerBy::Ms5);
        recorder.dsp_late_revenue(dsp, LongerBy::Ms5, "USD", n);
        recorder.bid(dsp, BidResult::Won);
        recorder.non_bid(dsp, code);
        recorder.dsp_connections(dsp, ConnectionState::Idle, n);
    }
    recorder.request(code);
    recorder.loss(code);
    recorder.clearing_price("USD", n);
    recorder.shed(ShedReason::Memory);
    recorder.request_panicked();
    recorder.deadline_missed();
    recorder.events_dropped(n);
    recorder.loop_stall(n * 7_919, || n);
    recorder.queue_delay(n);
    recorder.timer_late(n);
    recorder.cpu(n, n);
    recorder.in_flight(n);
    recorder.ssp_connections(ConnectionState::Active, n);
}
