//! Times a call, for all benches: the best of many short rounds, in nanoseconds per call. That is the code's own cost,
//! without what else the machine did. `cargo bench` measures; `cargo test` runs every call once, so that no bench rots.

#![allow(dead_code, reason = "not every bench uses all of it")]
#![allow(clippy::print_stdout, reason = "a benchmark reports to a terminal")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use std::time::Instant;

/// Many short rounds: one of 200 calls fits between two interruptions even on a busy machine.
const ROUNDS: u32 = 200;
const CALLS_PER_ROUND: u32 = 200;

/// cargo passes this to benches run by `cargo bench` and not by `cargo test`.
pub(crate) fn is_bench() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Prints and returns what a call costs in nanoseconds; `what` says what it is given.
pub(crate) fn bench(name: &str, what: &str, call: &mut dyn FnMut()) -> u128 {
    let (rounds, calls) = if is_bench() {
        (ROUNDS, CALLS_PER_ROUND)
    } else {
        (1, 1)
    };
    let ns = (0..rounds).map(|_| time(calls, call)).min().unwrap_or_default();
    println!("{name:28} {what:>20} {ns:8} ns");
    ns
}

fn time(calls: u32, call: &mut dyn FnMut()) -> u128 {
    let start = Instant::now();
    for _ in 0..calls {
        call();
    }
    start.elapsed().as_nanos() / u128::from(calls)
}
