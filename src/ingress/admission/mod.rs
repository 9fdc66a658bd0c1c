//! How much a shard takes on: past its limits it answers at once instead of queueing.
//!
//! Decides from instants and counts alone. Of the four reasons to refuse, three are bounds that nothing may pass; the
//! fourth is that a queue stands ([`Queue`]). What is refused is what has waited longest: it has the least time left
//! for its DSPs, and whoever sent it is the nearest to giving up (docs/decisions/0022).

mod queue;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use crate::clock::Instant;
use crate::telemetry::ShedReason;
use queue::Queue;
pub use queue::QueueLimits;

/// What a shard takes on at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Orchestrations at once.
    pub in_flight_max: usize,
    /// Bytes held by orchestrations in flight; see `Admission::enter`.
    pub memory_bytes_max: usize,
    /// A bid request that has waited so long before anybody looked at it cannot be of use any more, whatever its tmax.
    pub late_after: Duration,
    /// How long bid requests may wait; `None`: until they are late.
    pub queue: Option<QueueLimits>,
}

/// What an orchestration holds beside its body and its arena: its task, hyper's stream and the connection's part of it,
/// and 23 calls with their answers. Of the 20.7 KiB that each of 140,000 was measured to take (loadtest/runs,
/// 2026-11-28, hold) its arena was 8 and its body 1.3; this is the rest.
const ORCHESTRATION_BYTES: usize = 11 << 10;

/// Counts what is under way on a shard, and decides what is added.
#[derive(Debug)]
pub(super) struct Admission {
    limits: Cell<Limits>,
    in_flight: Cell<usize>,
    /// Of the bodies of what is in flight.
    body_bytes: Cell<usize>,
    queue: RefCell<Queue>,
}

impl Admission {
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            in_flight: Cell::new(0),
            body_bytes: Cell::new(0),
            queue: RefCell::new(Queue::new(now)),
            limits: Cell::new(limits),
        }
    }

    /// Other limits from now on. Who is above a lower one stays.
    pub(super) fn limit(&self, limits: Limits) {
        self.limits.set(limits);
    }

    /// A place for one orchestration whose request was received at `arrival`, given back when dropped. `held_bytes` is
    /// what those in flight hold beside their bodies.
    ///
    /// # Errors
    /// Why there is none. The first reason that applies, worst first: what is late is of no use even to an idle shard.
    pub(super) fn enter(
        &self,
        now: Instant,
        arrival: Instant,
        held_bytes: usize,
    ) -> Result<Place<'_>, ShedReason> {
        let limits = self.limits.get();
        let queue_is_too_long = limits
            .queue
            .is_some_and(|limits| self.queue.borrow_mut().is_too_long_for(limits, now, arrival));
        if now.since(arrival) > limits.late_after {
            return Err(ShedReason::Late);
        }
        if self.in_flight.get() >= limits.in_flight_max {
            return Err(ShedReason::InFlight);
        }
        if self.memory_bytes(held_bytes) >= limits.memory_bytes_max {
            return Err(ShedReason::Memory);
        }
        if queue_is_too_long {
            return Err(ShedReason::QueueDelay);
        }
        Ok(Place {
            _in_flight: Counted::one(&self.in_flight),
            body: Cell::new(0),
            body_bytes: &self.body_bytes,
        })
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// What is in flight holds, with the `held_bytes` of [`Self::enter`].
    pub(super) fn memory_bytes(&self, held_bytes: usize) -> usize {
        self.in_flight.get() * ORCHESTRATION_BYTES + self.body_bytes.get() + held_bytes
    }
}

/// A place for an orchestration.
#[derive(Debug)]
pub(super) struct Place<'a> {
    _in_flight: Counted<'a>,
    body: Cell<usize>,
    body_bytes: &'a Cell<usize>,
}

impl Place<'_> {
    /// Its body has this many bytes so far.
    pub(super) fn holds(&self, bytes: usize) {
        let before = self.body.replace(bytes);
        self.body_bytes.set(self.body_bytes.get() - before + bytes);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.holds(0);
    }
}

/// One more, until dropped.
#[derive(Debug)]
pub(super) struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    fn one(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        in_flight_max: 2,
        memory_bytes_max: 1 << 20,
        late_after: Duration::from_millis(85),
        queue: None,
    };

    fn ms(millis: u64) -> Instant {
        Instant::from_nanos(1_000_000_000).after(Duration::from_millis(millis))
    }

    fn admission(limits: Limits) -> Admission {
        Admission::new(limits, ms(0))
    }

    #[test]
    fn admits_up_to_the_limit_and_again_when_a_place_is_free() {
        let admission = admission(LIMITS);
        let enter = || admission.enter(ms(0), ms(0), 0);
        let first = enter();
        let second = enter();
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(enter().err(), Some(ShedReason::InFlight), "one past the limit");
        drop(first);
        assert_eq!(admission.in_flight(), 1);
        assert!(enter().is_ok());
        let limit = |in_flight_max| {
            admission.limit(Limits {
                in_flight_max,
                ..LIMITS
            });
        };
        limit(1);
        assert_eq!(admission.in_flight(), 1, "who is in stays");
        assert_eq!(enter().err(), Some(ShedReason::InFlight), "the limit is another");
        limit(3);
        assert!(enter().is_ok());
    }

    #[test]
    fn memory_counts_bodies_arenas_and_what_each_takes_besides() {
        let admission = admission(LIMITS);
        let left = LIMITS.memory_bytes_max - ORCHESTRATION_BYTES;
        let first = admission.enter(ms(0), ms(0), 0).unwrap();
        let enters = |held| admission.enter(ms(0), ms(0), held).err();
        assert_eq!(enters(left - 1), None);
        assert_eq!(enters(left), Some(ShedReason::Memory));
        first.holds(1_000);
        assert_eq!(enters(left - 1_001), None);
        assert_eq!(enters(left - 1_000), Some(ShedReason::Memory));
        // It has grown, or was unpacked.
        first.holds(5_000);
        assert_eq!(enters(left - 5_000), Some(ShedReason::Memory));
        assert_eq!(admission.memory_bytes(7), ORCHESTRATION_BYTES + 5_007);
        drop(first);
        assert_eq!(admission.memory_bytes(0), 0);
    }

    #[test]
    fn what_has_waited_too_long_is_late_even_where_there_is_room() {
        let admission = admission(LIMITS);
        assert!(admission.enter(ms(85), ms(0), 0).is_ok());
        let _place = admission.enter(ms(0), ms(0), 0);
        let _place = admission.enter(ms(0), ms(0), 0);
        let late = admission.enter(ms(86), ms(0), 0);
        assert_eq!(late.err(), Some(ShedReason::Late), "and not in_flight");
    }
}
