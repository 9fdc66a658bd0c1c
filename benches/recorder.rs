//! What recording an orchestration's counts and times costs: `cargo bench --bench recorder`. Fails above a microsecond.

#![allow(
    clippy::panic,
    reason = "a benchmark that shows a broken promise should say so"
)]

mod measure;

use std::sync::Arc;

use corebid::telemetry::{self, BidResult, DspOutcome, Recorder, Roster, Stage};

const DSPS: usize = 23;
const NS_MAX: u128 = 1_000;

fn main() {
    let (recorders, _merged) = telemetry::channel(1);
    let roster = Arc::new(Roster::new(
        (1..=DSPS).map(|n| format!("dsp{n}")).collect(),
        "USD",
    ));
    let recorder = recorders.recorder(0, &roster);
    let mut n = 0;
    let ns = measure::bench("record an orchestration", "23 DSPs", &mut || {
        n += 1;
        record(&recorder, n);
    });
    assert!(
        !measure::is_bench() || ns < NS_MAX,
        "{ns} ns: recording must cost less than {NS_MAX} ns"
    );
}

/// All that one orchestration records, all DSPs bidding: latencies differ, as they would.
fn record(recorder: &Recorder, n: u64) {
    for stage in Stage::ALL {
        recorder.stage(stage, 1_000 + n % 64 * 500);
    }
    for (dsp, place) in (0..DSPS).zip(0_u64..) {
        recorder.dsp_call(dsp, DspOutcome::Bid, 5_000_000 + (n * 31 + place) % 64 * 500_000);
        let result = if dsp == 0 { BidResult::Won } else { BidResult::Lost };
        recorder.bid(dsp, result);
        if dsp != 0 {
            recorder.loss(102);
        }
    }
    recorder.clearing_price("USD", 1_000_000 + n % 64 * 10_000);
    recorder.request(200);
    recorder.in_flight(n % 64);
}
