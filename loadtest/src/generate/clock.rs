//! The run's clock: nanoseconds since its start. The only place in the generator that reads a clock.

use std::time::{Duration, Instant};

/// Started once per run; copies tell the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock {
            start: Instant::now(),
        }
    }

    pub(crate) fn now_ns(self) -> u64 {
        nanos(self.start.elapsed())
    }
}

/// A duration as nanoseconds; 584 years at most.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
