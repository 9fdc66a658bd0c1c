//! The real `orchestrate` under a clock and a network of our own: thousands of small worlds, each drawn from a seed, in which
//! DSPs are slow, broken or late, SSPs hang up, a call makes us panic and the exchange is reloaded, while tasks run in any
//! order.
//!
//! In every world each request gets exactly one answer, not after its deadline plus a tick of the wheel and the stalls that
//! the world itself makes; it sells what the slow twin of the auction sells on what had arrived; and at the end no fan-out,
//! timer or arena is left behind.
//!
//! In two worlds of five DSPs have the real breakers, caps and patience at their gates, and break for a while. A sentry beside
//! each says whom every request may ask and must: an open breaker lets nothing through but its probes, opens and closes for a
//! reason alone, and when its DSP works again is closed within its own times; no second has more calls than a cap says,
//! by whichever shards.
//!
//! A world that fails names its seed: `COREBID_SIM_SEED=4711 cargo test --test sim -- --nocapture` plays it again, telling
//! what happens. `COREBID_SIM_SEEDS=1000000 cargo test --release --test sim` plays so many.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a world that is not as expected has failed"
)]

#[path = "sim/bidding.rs"]
mod bidding;
#[path = "sim/chance.rs"]
mod chance;
#[path = "sim/network.rs"]
mod network;
#[path = "sim/sentry.rs"]
mod sentry;
#[path = "sim/trace.rs"]
mod trace;
#[path = "sim/twin.rs"]
mod twin;
#[path = "sim/world.rs"]
mod world;

use std::env;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use world::{Tally, World};

const SEEDS: u64 = 10_000;

#[test]
fn every_world_keeps_the_promises() {
    quieten_expected_panics();
    if let Some(seed) = number("COREBID_SIM_SEED") {
        let tally = World::new(seed, true).play();
        println!("seed {seed}: {tally:?}");
        return;
    }
    let seeds = number("COREBID_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let work = || {
        let mut tally = Tally::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return tally;
            }
            tally.add(play(seed));
        }
    };
    let mut total = Tally::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..thread::available_parallelism().map_or(1, usize::from))
            .map(|_| scope.spawn(work))
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(tally) => total.add(tally),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    println!("{seeds} worlds: {total:?}");
    // Worlds in which nothing happens prove nothing.
    for (what, count) in total.each() {
        assert!(
            count * 20 > seeds,
            "{what} happened only {count} times in {seeds} worlds"
        );
    }
}

/// A world is its seed and nothing else: else a failure could not be played again.
#[test]
fn the_same_seed_plays_the_same_world() {
    quieten_expected_panics();
    for seed in 0..100 {
        let trace = || play(seed).trace();
        assert_eq!(trace(), trace(), "seed {seed}");
    }
}

/// Plays one world and names it if it fails.
fn play(seed: u64) -> Tally {
    std::panic::catch_unwind(|| World::new(seed, false).play()).unwrap_or_else(|panic| {
        eprintln!("world {seed} fails: COREBID_SIM_SEED={seed} cargo test --test sim -- --nocapture");
        std::panic::resume_unwind(panic)
    })
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|value| value.parse().unwrap())
}

/// The panics that a world makes on purpose are not to fill the output.
fn quieten_expected_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref::<&str>() != Some(&network::PANIC) {
            report(panic);
        }
    }));
}
