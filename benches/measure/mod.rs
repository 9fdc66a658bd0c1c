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

/// What stands behind `option` on the command line.
pub(crate) fn argument(option: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != option).nth(1)
}

/// Prints and returns what a call costs in nanoseconds; `what` says what it is given.
pub(crate) fn bench(name: &str, what: &str, call: &mut dyn FnMut()) -> u128 {
    let (rounds, calls) = length();
    let ns = (0..rounds).map(|_| time(calls, call)).min().unwrap_or_default();
    report(name, what, ns);
    ns
}

/// The same for calls of a millisecond and more, of which there need not be many.
pub(crate) fn bench_few(name: &str, what: &str, call: &mut dyn FnMut()) -> u128 {
    let (rounds, _) = length();
    let ns = (0..rounds.min(30))
        .map(|_| time(1, call))
        .min()
        .unwrap_or_default();
    report(name, what, ns);
    ns
}

/// A call's name, what it is given, and the call.
type Bench<'a> = (&'a str, &'a str, &'a mut dyn FnMut());

/// As [`bench`], for two that only work in turn, one undoing what the other does. Each is timed by itself, so their
/// costs include a reading of the clock, about 25 ns.
pub(crate) fn bench_in_turn([first, second]: [Bench<'_>; 2]) {
    let (rounds, calls) = length();
    let (mut best_first, mut best_second) = (u128::MAX, u128::MAX);
    for _ in 0..rounds {
        let (mut first_ns, mut second_ns) = (0, 0);
        for _ in 0..calls {
            first_ns += time(1, first.2);
            second_ns += time(1, second.2);
        }
        best_first = best_first.min(first_ns / u128::from(calls));
        best_second = best_second.min(second_ns / u128::from(calls));
    }
    report(first.0, first.1, best_first);
    report(second.0, second.1, best_second);
}

fn length() -> (u32, u32) {
    if is_bench() {
        (ROUNDS, CALLS_PER_ROUND)
    } else {
        (1, 1)
    }
}

fn report(name: &str, what: &str, ns: u128) {
    println!("{name:28} {what:>20} {ns:8} ns");
}

fn time(calls: u32, call: &mut dyn FnMut()) -> u128 {
    let start = Instant::now();
    for _ in 0..calls {
        call();
    }
    start.elapsed().as_nanos() / u128::from(calls)
}
