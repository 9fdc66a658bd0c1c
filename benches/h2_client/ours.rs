//! The client of the exchange.

use std::rc::Rc;

use corebid::clock::{self, Instant};
use corebid::fanout::{Late, Observer, Pool, PoolLimits};

use crate::Parts;
use crate::shard::Turns;

pub(crate) fn pool((dsps, readiness, gatherings): Parts<'_>) -> Pool {
    struct Unheard;
    impl Observer for Unheard {
        fn late(&self, _late: Late<'_>) {}
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
