//! What a shard's word comes to: whether another is started in its place, or all of it is given up. Decides only.
//!
//! A shard starts, is ready, which must not take long, and one day breaks or ends. One that breaks (a panic outside any
//! request that was caught) goes on for a while beside the one in its place, to finish what it has in flight; one that ends
//! without having said that it is broken is gone with it. Each start of a shard is replaced at most once, and as often as the intensity allows.

use std::time::Duration;

use super::intensity::Intensity;
use crate::clock::Instant;
use crate::shard::{Event, Seat};

/// Which start of each shard is the one that serves, and how they are.
#[derive(Debug)]
pub(super) struct Fleet {
    shards: Vec<Current>,
    intensity: Intensity,
    is_ending: bool,
}

#[derive(Debug)]
struct Current {
    start: u32,
    /// When that was.
    since: Instant,
    is_ready: bool,
    has_ended: bool,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// Start another in its place.
    Replace,
    /// Stop trying: say why, end, and let whoever watches the process decide.
    GiveUp(&'static str),
}

impl Fleet {
    /// So many shards, all being started `now`.
    pub(super) fn new(shards: usize, intensity: Intensity, now: Instant) -> Self {
        let starting = || Current {
            start: 0,
            since: now,
            is_ready: false,
            has_ended: false,
        };
        Self {
            shards: std::iter::repeat_with(starting).take(shards).collect(),
            intensity,
            is_ending: false,
        }
    }

    /// The seat of shard `index` as it is now.
    pub(super) fn seat(&self, index: usize) -> Seat {
        Seat {
            index,
            start: self.shards[index].start,
        }
    }

    /// Whether all shards are ready: at first, or again.
    pub(super) fn is_ready(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_ready)
    }

    /// A shard that was started `limit` ago and has neither become ready nor ended: who connects to it waits for nobody.
    pub(super) fn overdue(&self, now: Instant, limit: Duration) -> Option<usize> {
        let is_overdue =
            |shard: &Current| !shard.is_ready && !shard.has_ended && now.since(shard.since) >= limit;
        self.shards.iter().position(is_overdue)
    }

    /// After a reload: how often shards may be restarted from now on.
    pub(super) fn limit_restarts(&mut self, restarts_max: usize, period: Duration) {
        self.intensity.change(restarts_max, period);
    }

    /// From now on who ends is not replaced.
    pub(super) fn end(&mut self) {
        self.is_ending = true;
    }

    /// Takes in what a shard says.
    pub(super) fn hear(&mut self, event: Event, now: Instant) -> Verdict {
        let seat = event.seat();
        let shard = &mut self.shards[seat.index];
        if seat.start != shard.start || shard.has_ended {
            // Another is in its place already.
            return Verdict::Fine;
        }
        match event {
            Event::Ready(_) => {
                shard.is_ready = true;
                return Verdict::Fine;
            }
            Event::Open(_) | Event::Serves { .. } => return Verdict::Fine,
            Event::Broken(_) | Event::Ended(_) => {}
        }
        let was_ready = std::mem::take(&mut shard.is_ready);
        if self.is_ending {
            shard.has_ended = true;
            return Verdict::Fine;
        }
        if seat.start == 0 && !was_ready {
            shard.has_ended = true;
            return Verdict::GiveUp("a shard cannot even start");
        }
        if !self.intensity.allows(now) {
            shard.has_ended = true;
            return Verdict::GiveUp("shards die too often");
        }
        shard.start += 1;
        shard.since = now;
        Verdict::Replace
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Fine, Replace};
    use super::*;

    fn second(second: u64) -> Instant {
        Instant::from_nanos(second * 1_000_000_000)
    }

    /// Two shards and two restarts in 30 s. Steps are `SECOND WORD SHARD.START`, in order; `expected` what each comes to.
    #[track_caller]
    fn check(steps: &str, expected: &[Verdict]) -> Fleet {
        let mut fleet = Fleet::new(2, Intensity::new(2, Duration::from_secs(30)), second(0));
        let verdicts = steps.split(", ").filter_map(|step| {
            let mut words = step.split(' ');
            let at = second(words.next().unwrap().parse().unwrap());
            let event = match words.next().unwrap() {
                "ready" => Event::Ready,
                "breaks" => Event::Broken,
                "ends" => Event::Ended,
                "end" => {
                    fleet.end();
                    return None;
                }
                other => unreachable!("{other}"),
            };
            let (index, start) = words.next().unwrap().split_once('.').unwrap();
            let seat = Seat {
                index: index.parse().unwrap(),
                start: start.parse().unwrap(),
            };
            Some(fleet.hear(event(seat), at))
        });
        assert_eq!(verdicts.collect::<Vec<_>>(), expected, "{steps}");
        fleet
    }

    const AT_START: Verdict = Verdict::GiveUp("a shard cannot even start");
    const TOO_OFTEN: Verdict = Verdict::GiveUp("shards die too often");

    #[test]
    fn who_is_replaced_and_when_all_is_given_up() {
        // Ready when both are.
        assert!(!check("0 ready 0.0", &[Fine]).is_ready());
        assert!(check("0 ready 0.0, 0 ready 1.0", &[Fine, Fine]).is_ready());
        // One that cannot start will not the next time either.
        check("0 ready 0.0, 0 ends 1.0", &[Fine, AT_START]);
        check("0 ready 0.0, 0 breaks 1.0, 1 ends 1.0", &[Fine, AT_START, Fine]);
        // One that breaks is replaced once, by its first word.
        let fleet = check(
            "0 ready 0.0, 0 ready 1.0, 9 breaks 0.0, 10 ends 0.0",
            &[Fine, Fine, Replace, Fine],
        );
        assert!(!fleet.is_ready());
        assert_eq!(fleet.seat(0), Seat { index: 0, start: 1 });
        // ... also when the next is ready before it has ended, or has broken as well.
        check(
            "0 ready 0.0, 9 breaks 0.0, 9 ready 0.1, 9 breaks 0.1, 10 ends 0.0, 11 ends 0.1",
            &[Fine, Replace, Fine, Replace, Fine, Fine],
        );
        // One that dies without a word before is replaced by its last.
        check("0 ready 0.0, 9 ends 0.0, 9 ends 0.0", &[Fine, Replace, Fine]);
        // One that was started again and is not ready yet counts as any: what it needs may come back.
        check("0 ready 0.0, 9 ends 0.0, 9 ends 0.1", &[Fine, Replace, Replace]);
        // Too often, whichever shards; and in time again.
        check(
            "0 ready 0.0, 0 ready 1.0, 9 ends 0.0, 9 ends 1.0, 9 ready 0.1, 20 breaks 0.1, 21 ends 0.1",
            &[Fine, Fine, Replace, Replace, Fine, TOO_OFTEN, Fine],
        );
        check(
            "0 ready 0.0, 0 ready 1.0, 9 ends 0.0, 9 ends 1.0, 39 ends 0.1",
            &[Fine, Fine, Replace, Replace, Replace],
        );
        // When it is to end anyway, nobody is.
        check(
            "0 ready 0.0, 1 end, 1 breaks 0.0, 1 ends 0.0",
            &[Fine, Fine, Fine],
        );
    }

    #[test]
    fn a_start_may_not_take_for_ever() {
        let overdue = |steps, expected: &[Verdict], at| {
            let fleet = check(steps, expected);
            fleet.overdue(second(at), Duration::from_secs(20))
        };
        assert_eq!(overdue("0 ready 0.0", &[Fine], 19), None);
        assert_eq!(overdue("0 ready 0.0", &[Fine], 20), Some(1));
        assert_eq!(overdue("0 ready 0.0, 9 ready 1.0", &[Fine, Fine], 99), None);
        // One that is started again has as long as at first, from then on.
        let again = "0 ready 0.0, 0 ready 1.0, 9 ends 1.0";
        assert_eq!(overdue(again, &[Fine, Fine, Replace], 28), None);
        assert_eq!(overdue(again, &[Fine, Fine, Replace], 29), Some(1));
        // One that is gone is not waited for.
        assert_eq!(overdue("0 ready 0.0, 0 ends 1.0", &[Fine, AT_START], 99), None);
    }
}
