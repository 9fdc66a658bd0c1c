//! How often shards may be restarted: OTP's rule. A burst is survived, a loop is not: it would serve nobody and hide
//! the fault from whoever could mend it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;

/// Restarts allowed within [`PERIOD`]. Over all shards: a fault that kills them in turn is one fault.
const RESTARTS_MAX: usize = 5;

/// As long as a burst of bad luck may reasonably last.
const PERIOD: Duration = Duration::from_secs(30);

/// Remembers recent restarts.
#[derive(Debug, Default)]
pub(super) struct Intensity {
    recent: VecDeque<Instant>,
}

impl Intensity {
    /// Whether one more restart is within the limit; if so, it counts.
    pub(super) fn allows(&mut self, now: Instant) -> bool {
        self.recent.retain(|restart| now.since(*restart) < PERIOD);
        let allowed = self.recent.len() < RESTARTS_MAX;
        if allowed {
            self.recent.push_back(now);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of the restarts wanted at these seconds are allowed.
    fn allowed(seconds: &[u64]) -> Vec<u64> {
        let mut intensity = Intensity::default();
        let at = |second: u64| Instant::from_nanos(second * 1_000_000_000);
        seconds
            .iter()
            .copied()
            .filter(|&second| intensity.allows(at(second)))
            .collect()
    }

    #[test]
    fn a_burst_is_survived_a_loop_is_not() {
        assert_eq!(allowed(&[0, 0, 0, 0, 0]), [0, 0, 0, 0, 0]);
        assert_eq!(allowed(&[0, 1, 2, 3, 4, 5, 29]), [0, 1, 2, 3, 4]);
        assert_eq!(allowed(&[0, 1, 2, 3, 4, 30, 30, 31]), [0, 1, 2, 3, 4, 30, 31]);
        let slow: Vec<u64> = (0..100).map(|n| n * 8).collect();
        assert_eq!(allowed(&slow), slow);
    }
}
