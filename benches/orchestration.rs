//! What one orchestration costs in user space, sockets and HTTP left out: `cargo bench --bench orchestration`.
//!
//! 23 DSPs, a request of 1.3 kB, 23 answers of 600 B. First the whole in nanoseconds, then the stages as the exchange's
//! own histograms have them: the median, in steps of 16 ns; and what it costs to log it. `--orchestrations N` runs N of them
//! and times nothing, with `--events 1` every one of them logged: that is for `benches/callgrind.sh`.

#![allow(clippy::print_stdout, reason = "a benchmark reports to a terminal")]
#![allow(clippy::expect_used, reason = "a benchmark may stop")]

mod exchange;
mod measure;

use std::hint::black_box;

use corebid::clock;
use corebid::orchestration::Outcome;
use corebid::telemetry::{Chunk, EventSource};
use exchange::{DSPS, Exchange, REQUEST};

/// Long enough for buffers and arenas to have their final size.
const WARM_UP: usize = 100;

fn main() {
    let (exchange, mut published) = Exchange::new(clock::now);
    for _ in 0..WARM_UP {
        assert!(matches!(exchange.orchestrate(), Outcome::Response(_)), "sold");
    }
    if let Some(orchestrations) = measure::argument("--orchestrations") {
        let orchestrations = orchestrations.parse().expect("a number");
        if measure::argument("--events").is_none() {
            return counted(&exchange, orchestrations);
        }
        let (source, chunks) = EventSource::new(1, 1);
        let exchange = exchange.logging(source.event_log(0));
        for _ in 0..WARM_UP {
            exchange.orchestrate();
        }
        counted(&exchange, orchestrations);
        // It had buffers for so many; nobody writes them.
        return drop(chunks);
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
    let (source, chunks) = EventSource::new(1, 1);
    let exchange = exchange.logging(source.event_log(0));
    measure::bench("orchestration, logged", &what, &mut || {
        black_box(exchange.orchestrate());
        chunks.try_iter().for_each(Chunk::recycle);
    });
}

/// Never inlined: by its name `benches/callgrind.sh` knows what to count.
#[inline(never)]
fn counted(exchange: &Exchange, orchestrations: usize) {
    for _ in 0..orchestrations {
        black_box(exchange.orchestrate());
    }
}
