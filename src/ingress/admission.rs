//! How much a shard takes on: past its limit it answers at once instead of queueing.

use std::cell::Cell;

/// Counts what is under way on a shard.
#[derive(Debug)]
pub(super) struct Admission {
    in_flight: Cell<usize>,
    in_flight_max: Cell<usize>,
}

impl Admission {
    pub(super) fn new(in_flight_max: usize) -> Self {
        Self {
            in_flight: Cell::new(0),
            in_flight_max: Cell::new(in_flight_max),
        }
    }

    /// Another limit from now on. Who is above a lower one stays.
    pub(super) fn limit(&self, in_flight_max: usize) {
        self.in_flight_max.set(in_flight_max);
    }

    /// A place for one orchestration, given back when dropped; `None` when all are taken.
    pub(super) fn enter(&self) -> Option<Place<'_>> {
        (self.in_flight.get() < self.in_flight_max.get()).then(|| Place::take(&self.in_flight))
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }
}

/// One place taken.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Cell<usize>);

impl<'a> Place<'a> {
    fn take(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_up_to_the_limit_and_again_when_a_place_is_free() {
        let admission = Admission::new(2);
        let first = admission.enter();
        let second = admission.enter();
        assert!(first.is_some() && second.is_some());
        assert!(admission.enter().is_none(), "one past the limit");
        drop(first);
        assert_eq!(admission.in_flight(), 1);
        assert!(admission.enter().is_some());
        admission.limit(1);
        assert_eq!(admission.in_flight(), 1);
        let second = admission.enter();
        assert!(second.is_none(), "the limit is another");
        admission.limit(3);
        assert!(admission.enter().is_some());
    }
}
