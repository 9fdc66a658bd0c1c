//! How long to let answers gather before taking them: nothing while the shard has time, longer the busier it is.
//!
//! A network card is driven the same way (NAPI): by an interrupt each when packets are few, by polling when they are
//! many. Waking up for one answer costs more than reading it, so a busy shard that wakes up less often has more time
//! for work, at the price of up to one epoch of delay for an answer.

use std::time::Duration;

use crate::clock::Instant;

/// Up to this share of its core's time in use, every answer is taken at once.
const BUSY_LOW: u64 = 30;

/// From this share on, the epoch has its full length. In percent, as the one above.
const BUSY_HIGH: u64 = 70;

/// How often the share is measured: often enough to follow a burst, seldom enough that the system call for the
/// thread's CPU time is not felt.
const MEASURE_INTERVAL: Duration = Duration::from_millis(5);

/// Decides the epoch from how busy the shard's thread has been.
#[derive(Debug)]
pub(super) struct Epoch {
    longest: Duration,
    current: Duration,
    measured_at: Instant,
    cpu_at: Duration,
}

impl Epoch {
    pub(super) fn new(longest: Duration, now: Instant, cpu: Duration) -> Self {
        Self {
            longest,
            current: Duration::ZERO,
            measured_at: now,
            cpu_at: cpu,
        }
    }

    /// How much CPU time the thread has used since the last measurement, at most [`MEASURE_INTERVAL`] before the last
    /// call of [`Self::length`], when it has used `cpu` so far.
    pub(super) fn used_since_measured(&self, cpu: Duration) -> Duration {
        cpu.saturating_sub(self.cpu_at)
    }

    /// How long to wait now. `cpu` tells the CPU time that the thread has used so far.
    pub(super) fn length(&mut self, now: Instant, cpu: impl FnOnce() -> Duration) -> Duration {
        let passed = now.since(self.measured_at);
        if passed >= MEASURE_INTERVAL {
            let cpu = cpu();
            let used = cpu.saturating_sub(self.cpu_at);
            let busy = u64::try_from(used.as_nanos() * 100 / passed.as_nanos()).unwrap_or(100);
            let wanted = self.longest * of_busy(busy) / 100;
            // Half of the way each time: one measurement of 5 ms is noisy.
            self.current = (self.current + wanted) / 2;
            (self.measured_at, self.cpu_at) = (now, cpu);
        }
        self.current
    }
}

/// The epoch in percent of the longest.
fn of_busy(busy: u64) -> u32 {
    let share = busy.clamp(BUSY_LOW, BUSY_HIGH) - BUSY_LOW;
    u32::try_from(share * 100 / (BUSY_HIGH - BUSY_LOW)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The epoch's length in us after the shard was this busy (in percent) for so many measurements.
    fn settles(busy: u64, measurements: u64) -> u128 {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let mut epoch = Epoch::new(Duration::from_micros(500), at(0), Duration::ZERO);
        let mut length = Duration::ZERO;
        for step in 1..=measurements {
            let cpu = Duration::from_micros(step * 5_000 * busy / 100);
            length = epoch.length(at(step * 5), || cpu);
        }
        length.as_micros()
    }

    #[test]
    fn grows_with_the_load_and_is_bounded() {
        assert_eq!(settles(0, 20), 0);
        assert_eq!(settles(30, 20), 0);
        assert!((240..=250).contains(&settles(50, 20)));
        assert!((490..=500).contains(&settles(70, 20)));
        assert!((490..=500).contains(&settles(100, 20)));
        assert_eq!(settles(100, 1), 250, "half of the way at a time");
    }

    #[test]
    fn between_two_measurements_nothing_is_asked() {
        let mut epoch = Epoch::new(Duration::from_micros(500), Instant::from_nanos(0), Duration::ZERO);
        let length = epoch.length(Instant::from_nanos(4_999_999), || unreachable!("not yet"));
        assert_eq!(length, Duration::ZERO);
    }
}
