//! What one orchestration costs in user space, sockets and HTTP left out: `cargo bench --bench orchestration`.
//!
//! 23 DSPs, a request of 1.3 kB, 23 answers of 600 B. First the whole in nanoseconds, then the stages as the exchange's
//! own histograms have them: the median, in steps of 16 ns. `--orchestrations N` runs N of them and times nothing:
//! that is for `benches/callgrind.sh`.

#![allow(clippy::print_stdout, reason = "a benchmark reports to a terminal")]
#![allow(clippy::expect_used, reason = "a benchmark may stop")]

mod exchange;
mod measure;

use std::hint::black_box;

use corebid::clock;
use corebid::orchestration::Outcome;
use exchange::{DSPS, Exchange, REQUEST};

/// Long enough for buffers and arenas to have their final size.
const WARM_UP: usize = 100;

fn main() {
    let (exchange, mut published) = Exchange::new(clock::now);
    for _ in 0..WARM_UP {
        assert!(matches!(exchange.orchestrate(), Outcome::Response(_)), "sold");
    }
    if let Some(orchestrations) = measure::argument("--orchestrations") {
        return counted(&exchange, orchestrations.parse().expect("a number"));
    }
    published.collect();
    let what = format!("{} B, {DSPS} DSPs", REQUEST.len());
    measure::bench("orchestration", &what, &mut || {
        black_box(exchange.orchestrate());
    });
    for (stage, summary) in published.collect().stages() {
        if summary.count > 0 {
            println!("  {:26} {:>20} {:8} ns", stage.label(), "median", summary.p50_ns);
        }
    }
}

/// Never inlined: by its name `benches/callgrind.sh` knows what to count.
#[inline(never)]
fn counted(exchange: &Exchange, orchestrations: usize) {
    for _ in 0..orchestrations {
        black_box(exchange.orchestrate());
    }
}
