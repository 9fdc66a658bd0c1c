//! The client of the exchange.

use std::rc::Rc;
use std::time::Duration;

use corebid::clock::Instant;
use corebid::fanout::{DspId, Observer, Pool, PoolLimits};
use corebid::net::Bell;

use crate::Parts;
use crate::shard::Turns;

pub(crate) fn pool((dsps, readiness, gatherings): Parts<'_>) -> Pool {
    struct Unheard;
    impl Observer for Unheard {
        fn late(&self, _dsp: DspId, _late: Duration) {}
    }
    Pool::new(
        dsps,
        PoolLimits::default(),
        Rc::clone(readiness),
        Rc::clone(gatherings),
        Rc::new(Unheard),
    )
}

impl Turns for Pool {
    fn turn(&self, now: Instant) -> std::io::Result<usize> {
        self.turn(now)
    }

    fn flush(&self, now: Instant) {
        self.flush(now);
    }

    fn has_unflushed(&self) -> &Bell {
        self.has_unflushed()
    }
}
