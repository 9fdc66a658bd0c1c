//! When a connection is old enough to end, so that its client makes another, which is placed on the shard that has the
//! least to do by then.
//!
//! It ends with a request and not by a timer: a connection that nobody uses weighs on no shard, and closing it could
//! cross with the request that its client is just sending.

use std::cell::Cell;
use std::time::Duration;

use crate::clock::Instant;

/// The age of one connection.
#[derive(Debug)]
pub(super) struct Age {
    retires_at: Instant,
    has_retired: Cell<bool>,
}

impl Age {
    /// Of a connection that is made now. How old it may get is between three quarters of `max` and all of it, so that
    /// connections that were made together do not all end together. None is as old as it likes.
    pub(super) fn new(made_at: Instant, max: Option<Duration>) -> Self {
        Self {
            retires_at: max.map_or(Instant::FAR_FUTURE, |max| made_at.after(spread(made_at, max))),
            has_retired: Cell::new(false),
        }
    }

    /// A request has come. True once: with the first one past the age.
    pub(super) fn ends_with_request(&self, arrival: Instant) -> bool {
        arrival >= self.retires_at && !self.has_retired.replace(true)
    }

    /// Whether a request has come past the age.
    pub(super) fn has_retired(&self) -> bool {
        self.has_retired.get()
    }
}

/// Fibonacci hashing: instants however close to each other are spread over the whole range.
fn spread(made_at: Instant, max: Duration) -> Duration {
    let hash = made_at.as_nanos().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54;
    let range = max / 4;
    // Ten bits: a step is a thousandth of the range.
    max - range + range * u32::try_from(hash).unwrap_or(0) / 1023
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(300);

    #[test]
    fn ends_once_with_the_first_request_past_its_age() {
        let made_at = Instant::from_nanos(1_000_000_000);
        let age = Age::new(made_at, Some(MAX));
        let lives = spread(made_at, MAX);
        let just_before = Instant::from_nanos(made_at.after(lives).as_nanos() - 1);
        assert!(!age.ends_with_request(made_at));
        assert!(!age.ends_with_request(just_before));
        assert!(!age.has_retired());
        assert!(age.ends_with_request(made_at.after(lives)));
        assert!(age.has_retired());
        assert!(!age.ends_with_request(made_at.after(MAX)), "once");
    }

    #[test]
    fn without_a_limit_it_never_ends() {
        let age = Age::new(Instant::from_nanos(1), None);
        assert!(!age.ends_with_request(Instant::from_nanos(u64::MAX - 1)));
    }

    #[test]
    fn connections_made_together_end_apart() {
        // Six within a millisecond, as an SSP that starts makes them; and a thousand.
        for count in [6, 1_000_u64] {
            let mut lives: Vec<_> = (0..count)
                .map(|n| spread(Instant::from_nanos(7_000_000_000 + n * 1_000_000 / count), MAX))
                .collect();
            lives.sort_unstable();
            assert!(
                lives[0] >= MAX * 3 / 4 && lives[lives.len() - 1] <= MAX,
                "{lives:?}"
            );
            // In each fifth of the range, no more than twice its share.
            for fifth in 0..5_u32 {
                let from = MAX * 3 / 4 + MAX / 20 * fifth;
                let within = lives
                    .iter()
                    .filter(|&&life| life >= from && life < from + MAX / 20);
                assert!(
                    within.count() as u64 <= 2 * count.div_ceil(5),
                    "{fifth}: {lives:?}"
                );
            }
        }
    }
}
