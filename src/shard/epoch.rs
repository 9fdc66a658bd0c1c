//! How long to let answers gather before taking them: nothing while the shard has time, longer the more there are.
//!
//! A network card is driven the same way (NAPI, adaptive interrupt moderation): by an interrupt each when packets are few, by
//! polling when they are many. Calls that share a write, and answers that share a read, cost a fraction of what each alone
//! does, at the price of up to one epoch of delay for each.

use std::time::Duration;

use crate::clock::Instant;

/// A shard's load over the last measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Load {
    /// Of its core's time, in percent.
    busy: u64,
    /// DSP calls started per second.
    calls_per_s: u64,
}

/// Below the first there is time to take every answer at once, whatever their number; from the second on the load is
/// taken for what it is. In percent of the core's time.
const HAS_TIME: (u64, u64) = (30, 50);

/// Calls per second from which on they are worth gathering, and from which on for a whole epoch: 3,000 and 5,000 fan-outs
/// to 23 DSPs, of which five calls in a whole epoch share a write. Before the first, few calls of one epoch go to the same
/// DSP.
const MANY_CALLS: (u64, u64) = (69_000, 115_000);

/// Busy enough for an epoch however few calls there are, and for a whole one: what else is left to save. In percent of the
/// core's time.
const NO_TIME_LEFT: (u64, u64) = (70, 90);

/// How often the load is measured: often enough to follow a burst, seldom enough that the system call for the thread's CPU
/// time is not felt, and long enough to count some calls in.
const MEASURE_INTERVAL: Duration = Duration::from_millis(10);

/// Decides the epoch from how busy the shard's thread has been and with how many calls.
#[derive(Debug)]
pub(super) struct Epoch {
    longest: Duration,
    current: Duration,
    measured_at: Instant,
    cpu_at: Duration,
    calls_at: u64,
}

impl Epoch {
    pub(super) fn new(longest: Duration, now: Instant, cpu: Duration) -> Self {
        Self {
            longest,
            current: Duration::ZERO,
            measured_at: now,
            cpu_at: cpu,
            calls_at: 0,
        }
    }

    /// How long it may be at most from now on.
    pub(super) fn limit(&mut self, longest: Duration) {
        self.longest = longest;
    }

    /// How much CPU time the thread has used since the last measurement, at most [`MEASURE_INTERVAL`] before the last
    /// call of [`Self::length`], when it has used `cpu` so far.
    pub(super) fn used_since_measured(&self, cpu: Duration) -> Duration {
        cpu.saturating_sub(self.cpu_at)
    }

    /// How long it is to be now. `calls` counts the DSP calls so far, `cpu` tells the CPU time that the thread has used so
    /// far.
    pub(super) fn length(&mut self, now: Instant, calls: u64, cpu: impl FnOnce() -> Duration) -> Duration {
        let passed = now.since(self.measured_at);
        if passed >= MEASURE_INTERVAL {
            let cpu = cpu();
            let per_passed = |amount: u128| u64::try_from(amount / passed.as_nanos()).unwrap_or(u64::MAX);
            let load = Load {
                busy: per_passed(cpu.saturating_sub(self.cpu_at).as_nanos() * 100),
                calls_per_s: per_passed(u128::from(calls.wrapping_sub(self.calls_at)) * 1_000_000_000),
            };
            let wanted = self.longest * share(load) / 100;
            // Half of the way each time: one measurement is noisy.
            self.current = (self.current + wanted) / 2;
            (self.measured_at, self.cpu_at, self.calls_at) = (now, cpu, calls);
        }
        self.current
    }
}

/// The epoch in percent of the longest.
fn share(load: Load) -> u32 {
    let worth_it = ramp(load.calls_per_s, MANY_CALLS).max(ramp(load.busy, NO_TIME_LEFT));
    worth_it.min(ramp(load.busy, HAS_TIME))
}

/// From 0 at the first to 100 at the second.
fn ramp(value: u64, (from, to): (u64, u64)) -> u32 {
    let part = value.clamp(from, to) - from;
    u32::try_from(part * 100 / (to - from)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The epoch's length in us after the shard was this busy (in percent), with so many calls per second, for so many
    /// measurements.
    fn settles(busy: u64, calls_per_s: u64, measurements: u64) -> u128 {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let mut epoch = Epoch::new(Duration::from_micros(1000), at(0), Duration::ZERO);
        let mut length = Duration::ZERO;
        for step in 1..=measurements {
            let cpu = Duration::from_micros(step * 10_000 * busy / 100);
            length = epoch.length(at(step * 10), step * calls_per_s / 100, || cpu);
        }
        length.as_micros()
    }

    #[test]
    fn grows_with_the_calls_and_is_bounded() {
        assert_eq!(
            settles(60, 50_000, 20),
            0,
            "few calls go to the same DSP in a millisecond"
        );
        assert_eq!(settles(60, 69_000, 20), 0);
        assert!((480..=500).contains(&settles(60, 92_000, 20)));
        assert!((990..=1000).contains(&settles(60, 115_000, 20)));
        assert!((990..=1000).contains(&settles(60, 1_000_000, 20)));
        assert_eq!(settles(60, 115_000, 1), 500, "half of the way at a time");
    }

    #[test]
    fn a_core_with_time_to_spare_takes_every_answer_at_once() {
        assert_eq!(settles(30, 1_000_000, 20), 0);
        assert!((490..=500).contains(&settles(40, 1_000_000, 20)));
    }

    #[test]
    fn a_core_without_time_left_saves_what_it_can() {
        assert_eq!(settles(70, 1_000, 20), 0);
        assert!((490..=500).contains(&settles(80, 1_000, 20)));
        assert!((990..=1000).contains(&settles(100, 1_000, 20)));
    }

    #[test]
    fn between_two_measurements_nothing_is_asked() {
        let mut epoch = Epoch::new(Duration::from_micros(500), Instant::from_nanos(0), Duration::ZERO);
        let length = epoch.length(Instant::from_nanos(9_999_999), 1_000_000, || {
            unreachable!("not yet")
        });
        assert_eq!(length, Duration::ZERO);
    }
}
