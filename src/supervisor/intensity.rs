//! How often shards may be restarted: OTP's rule. A burst is survived, a loop is not: it would serve nobody and hide
//! the fault from whoever could mend it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;

/// Remembers recent restarts, over all shards: a fault that kills them in turn is one fault.
#[derive(Debug)]
pub(super) struct Intensity {
    restarts_max: usize,
    period: Duration,
    recent: VecDeque<Instant>,
}

impl Intensity {
    /// Allows so many restarts within any `period`.
    pub(super) fn new(restarts_max: usize, period: Duration) -> Self {
        Self {
            restarts_max,
            period,
            recent: VecDeque::new(),
        }
    }

    /// From now on so many; those of before count.
    pub(super) fn change(&mut self, restarts_max: usize, period: Duration) {
        (self.restarts_max, self.period) = (restarts_max, period);
    }

    /// Whether one more restart is within the limit; if so, it counts.
    pub(super) fn allows(&mut self, now: Instant) -> bool {
        self.recent.retain(|restart| now.since(*restart) < self.period);
        let allowed = self.recent.len() < self.restarts_max;
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
        let mut intensity = Intensity::new(5, Duration::from_secs(30));
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

    #[test]
    fn none_is_allowed_where_none_may_be() {
        let mut never = Intensity::new(0, Duration::from_secs(30));
        assert!(!never.allows(Instant::from_nanos(1)));
        never.change(1, Duration::from_secs(30));
        assert!(never.allows(Instant::from_nanos(1)) && !never.allows(Instant::from_nanos(2)));
    }
}
