//! Time as an argument: instants, the deadline wheel and the timers a shard sleeps on.
//!
//! Decisions take an [`Instant`]; only edges call [`now`]. Nothing here does I/O: what has to ring when the
//! next timer is due is handed in as an alarm (`net::Readiness` sleeps no longer, a simulation moves its clock).

mod timers;
mod wheel;

use std::time::Duration;

pub use timers::{Sleep, Timers};
pub use wheel::{Key, TICK, Wheel};

/// A point of monotonic time, in nanoseconds of `CLOCK_MONOTONIC`.
///
/// Not `std::time::Instant`: a simulation has to be able to make one, and the system calls want the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// Later than anything that will ever be waited for.
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// The instant `nanos` after the clock's zero.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's zero.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The instant `wait` later; [`Self::FAR_FUTURE`] where that does not fit.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// How long ago `earlier` was; zero when it is still to come.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Reads the monotonic clock. For edges (an arriving request, a turn of the shard), not for decisions.
#[must_use]
pub fn now() -> Instant {
    Instant(read(libc::CLOCK_MONOTONIC))
}

/// Reads the wall clock: the time since the Unix epoch, to tell people and files when something was. It may jump, so
/// nothing is measured by it.
#[must_use]
pub fn since_unix_epoch() -> Duration {
    Duration::from_nanos(read(libc::CLOCK_REALTIME))
}

/// How much CPU time the calling thread has used so far. A system call, unlike [`now`].
#[must_use]
pub fn thread_cpu() -> Duration {
    Duration::from_nanos(read(libc::CLOCK_THREAD_CPUTIME_ID))
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut spec = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `spec` is valid for writes, and every Linux has the clocks asked for here.
    unsafe { libc::clock_gettime(clock, &raw mut spec) };
    let seconds = u64::try_from(spec.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(spec.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_moves_forward() {
        let first = now();
        let second = now();
        assert!(second >= first);
        assert!(first.as_nanos() > 0);
        // 2026-01-01, when this was written: a host whose clock is behind that has nothing to tell people.
        assert!(since_unix_epoch().as_secs() > 1_767_225_600);
    }

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        let t = Instant::from_nanos(5);
        assert_eq!(t.after(Duration::from_nanos(7)).as_nanos(), 12);
        assert_eq!(
            Instant::FAR_FUTURE.after(Duration::from_secs(1)),
            Instant::FAR_FUTURE
        );
        assert_eq!(t.since(Instant::from_nanos(9)), Duration::ZERO);
    }
}
