//! What the deadline wheel costs: `cargo bench --bench wheel`.
//!
//! Every orchestration inserts one entry, and removes it when its DSPs have answered, among thousands of others.

mod measure;

use std::hint::black_box;
use std::time::Duration;

use corebid::clock::{Instant, TICK, Wheel};

/// Orchestrations in flight: a shard at 6,000/s and 36 ms has 216, at its most 140,000.
const IN_FLIGHT: [usize; 2] = [216, 140_000];

fn main() {
    for in_flight in IN_FLIGHT {
        let start = Instant::from_nanos(0);
        let mut wheel = Wheel::new(start);
        // As if all had come within the last 90 ms.
        for n in 0..in_flight {
            let spread = Duration::from_micros(n as u64 % 90_000);
            wheel.insert(start.after(spread), n);
        }
        let what = format!("{in_flight} in flight");
        measure::bench("insert and remove", &what, &mut || {
            let key = wheel.insert(start.after(Duration::from_millis(90)), 0);
            black_box(wheel.remove(key));
        });
        measure::bench("next_deadline", &what, &mut || {
            black_box(wheel.next_deadline());
        });
    }
    let mut now = Instant::from_nanos(0);
    let mut wheel = Wheel::new(now);
    measure::bench("insert, advance, fire", "alone", &mut || {
        now = now.after(TICK);
        wheel.insert(now, 0);
        wheel.advance(now, |entry| {
            black_box(entry);
        });
    });
}
