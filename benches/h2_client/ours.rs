//! The client of the exchange.

use std::rc::Rc;
use std::time::Duration;

use corebid::clock::{self, Instant};
use corebid::fanout::{DspId, Observer, Pool, PoolLimits};

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
    fn turn(&self, now: Instant) {
        self.turn(now).unwrap();
    }

    fn flush(&self) -> bool {
        self.flush(clock::now()) && !self.has_unread()
    }
}
