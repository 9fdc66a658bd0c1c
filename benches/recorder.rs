//! What recording an orchestration's counts and times costs, with a late answer's too, and what a scrape of 16 shards x 23
//! DSPs costs the housekeeping thread, which shards do not wait for: `cargo bench --bench recorder`. Recording fails above
//! a microsecond.

#![allow(
    clippy::panic,
    reason = "a benchmark that shows a broken promise should say so"
)]

mod measure;

use std::sync::Arc;

use corebid::telemetry::prometheus::{self, Format};
use corebid::telemetry::{self, BidResult, DspOutcome, LateFound, LongerBy, Merged, Recorder, Roster, Stage};

const DSPS: usize = 23;
const NS_MAX: u128 = 1_000;
const SHARDS: usize = 16;

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
    scrape(&roster);
}

/// What the housekeeping thread does for 16 shards: takes in what each counted in a quarter of a second, and is scraped.
fn scrape(roster: &Arc<Roster>) {
    let (recorders, mut merged) = telemetry::channel(SHARDS);
    let recorders: Vec<_> = (0..SHARDS)
        .map(|shard| recorders.recorder(shard, roster))
        .collect();
    let fill = |merged: &mut Merged| {
        for recorder in &recorders {
            (0..64).for_each(|n| record(recorder, n));
            assert!(recorder.publish(), "the last interval is home");
        }
        merged.collect();
    };
    fill(&mut merged);
    let bytes = prometheus::render(&merged, Format::Text).len();
    let what = format!("{SHARDS} shards, {} kB", bytes / 1_000);
    measure::bench_few("a scrape", &what, &mut || {
        std::hint::black_box(prometheus::render(&merged, Format::Text));
    });
    measure::bench_few("record 64 each and take in", "16 shards", &mut || {
        fill(&mut merged);
    });
}

/// All that one orchestration records, all DSPs bidding, one of them late: latencies differ, as they would.
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
    recorder.dsp_late(22, n % 64 * 500_000);
    recorder.dsp_late_answer(22, LateFound::Lost, LongerBy::Ms10);
    recorder.dsp_late_revenue(22, LongerBy::Ms10, "USD", n % 64);
    recorder.clearing_price("USD", 1_000_000 + n % 64 * 10_000);
    recorder.request(200);
    recorder.in_flight(n % 64);
}
