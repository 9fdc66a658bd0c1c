//! What became of the requests of each second, kept while any of them is undecided. A request belongs to the second
//! in which it was meant to be sent, however late it is answered, so a server that stops shows when it stopped.
//! Adds up; takes no percentile, because that would cost the sender time: a finished second goes to the
//! [recorder](super::recorder).

use super::clock::nanos;
use crate::report::Latencies;
use crate::simulated::Phases;
use std::collections::VecDeque;
use std::time::Duration;

/// How a run is divided: in seconds from its first on, and anew from the end of its warm-up, so that no second is
/// partly measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    warmup_ns: u64,
    step_ns: u64,
}

/// A run longer than 6 hours has longer "seconds": a row of the report has some 700 bytes, and 15 MB is what a browser
/// still opens with ease.
const INTERVALS_MAX: u64 = 21_600;

const SECOND_NS: u64 = 1_000_000_000;

impl Grid {
    pub(crate) fn of(phases: &Phases) -> Grid {
        Grid {
            warmup_ns: nanos(phases.warmup()),
            step_ns: nanos(phases.end()).div_ceil(INTERVALS_MAX * SECOND_NS).max(1) * SECOND_NS,
        }
    }

    /// The second of this moment, counted from 0.
    pub(crate) fn index(self, at_ns: u64) -> u64 {
        match at_ns.checked_sub(self.warmup_ns) {
            Some(measured_ns) => self.of_warmup() + measured_ns / self.step_ns,
            None => at_ns / self.step_ns,
        }
    }

    pub(crate) fn start_ns(self, index: u64) -> u64 {
        match index.checked_sub(self.of_warmup()) {
            Some(measured) => self.warmup_ns + measured * self.step_ns,
            None => index * self.step_ns,
        }
    }

    pub(crate) fn end_ns(self, index: u64) -> u64 {
        self.start_ns(index + 1)
    }

    pub(crate) fn is_measured(self, index: u64) -> bool {
        index >= self.of_warmup()
    }

    fn of_warmup(self) -> u64 {
        self.warmup_ns.div_ceil(self.step_ns)
    }
}

/// The requests of one second.
#[derive(Debug, Default)]
pub(crate) struct Interval {
    pub(crate) index: u64,
    /// Meant to be sent in it.
    pub(crate) requests: u64,
    undecided: u64,
    /// Without an answer, or refused.
    pub(crate) errors: u64,
    /// Answered wrongly.
    pub(crate) wrong: u64,
    pub(crate) latency: Latencies,
    pub(crate) excess: Latencies,
    pub(crate) send_lateness_max_ns: u64,
}

/// What has become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Right,
    Wrong,
    Error,
}

/// The seconds that are not decided.
#[derive(Debug)]
pub(crate) struct Seconds {
    grid: Grid,
    /// Index of the first of them.
    first: u64,
    open: VecDeque<Interval>,
    spare: Vec<Interval>,
}

/// Ten minutes: the ramp of a hold that has a million in flight takes four, and with the usual timeout of 2 s it is
/// three or four seconds. Each has 0.4 MB, so 250 MB at most. What is decided after that counts in a later second.
const OPEN_MAX: usize = 600;
/// As many as are under way between the sender and the recorder, which takes a millisecond for each.
const SPARE_MAX: usize = 8;

impl Seconds {
    pub(crate) fn new(grid: Grid) -> Seconds {
        Seconds {
            grid,
            first: 0,
            open: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// A request is about to be sent.
    pub(crate) fn take_up(&mut self, intended_ns: u64) {
        let interval = self.at(intended_ns);
        interval.requests += 1;
        interval.undecided += 1;
    }

    pub(crate) fn sent(&mut self, intended_ns: u64, lateness_ns: u64) {
        let interval = self.at(intended_ns);
        interval.send_lateness_max_ns = interval.send_lateness_max_ns.max(lateness_ns);
    }

    pub(crate) fn measured(&mut self, intended_ns: u64, latency_ns: u64, excess_ns: u64) {
        let interval = self.at(intended_ns);
        interval.latency.record_ns(latency_ns);
        interval.excess.record_ns(excess_ns);
    }

    /// Nothing more will be heard of one of its requests.
    pub(crate) fn decided(&mut self, intended_ns: u64, fate: Fate) {
        let interval = self.at(intended_ns);
        interval.undecided = interval.undecided.saturating_sub(1);
        interval.wrong += u64::from(fate == Fate::Wrong);
        interval.errors += u64::from(fate == Fate::Error);
    }

    /// The oldest second, if all is known of it: it is over, no request of it is still to be sent (the next is meant for
    /// `next_ns`), and all that were are decided.
    pub(crate) fn take_finished(&mut self, now_ns: u64, next_ns: Option<u64>) -> Option<Interval> {
        let front = self.open.front()?;
        let end_ns = self.grid.end_ns(front.index);
        let is_over = end_ns <= now_ns && next_ns.is_none_or(|next_ns| end_ns <= next_ns);
        if (is_over && front.undecided == 0) || self.open.len() > OPEN_MAX {
            self.take_oldest()
        } else {
            None
        }
    }

    /// The oldest second, whatever is missing: the run is over.
    pub(crate) fn take_oldest(&mut self) -> Option<Interval> {
        let oldest = self.open.pop_front();
        self.first += u64::from(oldest.is_some());
        oldest
    }

    /// Takes back one that has been recorded and cleared.
    pub(crate) fn give_back(&mut self, interval: Interval) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(interval);
        }
    }

    /// The second of this moment; the oldest there is, if that one is gone.
    fn at(&mut self, intended_ns: u64) -> &mut Interval {
        let index = self.grid.index(intended_ns).max(self.first);
        while self.first + self.open.len() as u64 <= index {
            let mut interval = self.spare.pop().unwrap_or_default();
            interval.index = self.first + self.open.len() as u64;
            self.open.push_back(interval);
        }
        let place = usize::try_from(index - self.first).unwrap_or(usize::MAX);
        // The loop above has made it.
        &mut self.open[place]
    }
}

impl Interval {
    /// Forgets everything and keeps the memory: 0.4 MB to write, which the sender leaves to others.
    pub(crate) fn clear(&mut self) {
        self.latency.clear();
        self.excess.clear();
        (self.requests, self.undecided) = (0, 0);
        (self.errors, self.wrong, self.send_lateness_max_ns) = (0, 0, 0);
    }
}

/// A duration as seconds.
pub(crate) fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(warmup_ms: u64, duration_s: u64) -> Grid {
        Grid::of(&Phases::single(
            Duration::from_millis(warmup_ms),
            Duration::from_secs(duration_s),
        ))
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn no_second_is_partly_measured() {
        let grid = grid(2_500, 10);
        let check = |at_ms: u64, index: u64, from_ms: u64, to_ms: u64, is_measured: bool| {
            assert_eq!(grid.index(at_ms * MS), index, "{at_ms} ms");
            assert_eq!(
                (grid.start_ns(index), grid.end_ns(index)),
                (from_ms * MS, to_ms * MS),
                "{at_ms} ms"
            );
            assert_eq!(grid.is_measured(index), is_measured, "{at_ms} ms");
        };
        check(0, 0, 0, 1_000, false);
        check(1_999, 1, 1_000, 2_000, false);
        check(2_499, 2, 2_000, 2_500, false);
        check(2_500, 3, 2_500, 3_500, true);
        check(12_499, 12, 11_500, 12_500, true);
        check(99_000, 99, 98_500, 99_500, true);
    }

    #[test]
    fn six_hours_have_seconds_and_more_has_longer_ones() {
        let second = |duration_s| grid(0, duration_s).end_ns(0) / SECOND_NS;
        assert_eq!((second(21_600), second(21_601), second(1_000_000)), (1, 2, 47));
    }

    #[test]
    fn a_second_is_finished_when_nothing_of_it_is_open() {
        let mut seconds = Seconds::new(grid(0, 10));
        let at = |ms: u64| ms * MS;
        seconds.take_up(at(100));
        seconds.take_up(at(900));
        seconds.take_up(at(1_100));
        seconds.sent(at(900), 7);
        seconds.sent(at(100), 3);
        let finished = |seconds: &mut Seconds, now_ms, next_ms| {
            let taken = seconds.take_finished(at(now_ms), Some(at(next_ms)));
            taken.map(|interval| (interval.index, interval.requests, interval.send_lateness_max_ns))
        };
        seconds.measured(at(900), at(40), at(1));
        seconds.decided(at(900), Fate::Right);
        assert_eq!(finished(&mut seconds, 1_500, 1_500), None, "one is undecided");
        seconds.decided(at(100), Fate::Error);
        assert_eq!(finished(&mut seconds, 999, 1_500), None, "it is not over");
        assert_eq!(
            finished(&mut seconds, 1_500, 950),
            None,
            "one is still to be sent"
        );
        assert_eq!(finished(&mut seconds, 1_500, 1_500), Some((0, 2, 7)));
        assert_eq!(finished(&mut seconds, 1_500, 1_500), None);
        // Something that comes after its second is gone is not lost.
        seconds.measured(at(100), at(2_000), at(1));
        let second = seconds.take_oldest().unwrap();
        assert_eq!((second.index, second.latency.percentiles().count), (1, 1));
    }

    #[test]
    fn what_was_given_back_is_empty_when_it_is_used_again() {
        let mut seconds = Seconds::new(grid(0, 10));
        seconds.take_up(0);
        seconds.measured(0, 5 * MS, MS);
        seconds.decided(0, Fate::Wrong);
        let mut used = seconds.take_oldest().unwrap();
        assert_eq!((used.wrong, used.latency.percentiles().count), (1, 1));
        used.clear();
        seconds.give_back(used);
        seconds.take_up(SECOND_NS);
        let again = seconds.take_oldest().unwrap();
        assert_eq!(
            (again.index, again.wrong, again.latency.percentiles().count),
            (1, 0, 0)
        );
    }

    #[test]
    fn there_is_a_limit_to_what_is_open() {
        let mut seconds = Seconds::new(grid(0, 1_000));
        (0..OPEN_MAX as u64).for_each(|second| seconds.take_up(second * SECOND_NS));
        assert!(seconds.take_finished(u64::MAX, None).is_none(), "none is decided");
        seconds.take_up(OPEN_MAX as u64 * SECOND_NS);
        assert_eq!(
            seconds.take_finished(u64::MAX, None).map(|oldest| oldest.index),
            Some(0)
        );
        assert!(seconds.take_finished(u64::MAX, None).is_none());
    }
}
