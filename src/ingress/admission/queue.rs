//! Whether bid requests queue up before the shard, which they do in its sockets; and which of them to refuse then.
//!
//! As in CoDel (RFC 8289) what counts is how long the best of times was bad, not how long the queue is: a burst makes
//! everybody wait, too, but is worked off. A queue stands once somebody has waited longer than the target at all times
//! for an interval. Then, and until it is gone, whoever has waited longer than the target is refused; that costs a
//! twentieth of an orchestration and less, so the queue is as short as the target at once, and stays so whatever comes.
//! CoDel itself drops one, then another a little sooner, and waits for senders to slow down: those of bid requests do
//! not.
//!
//! Only time in which bid requests are looked at can show that a queue stands. A shard that stood still, because another
//! process had its core, finds a burst before it, whether for 40 ms or for 400.

use std::time::Duration;

use crate::clock::Instant;

/// How long bid requests may wait before somebody looks at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// So long, for ever.
    pub target: Duration,
    /// Longer than that, for so long.
    pub interval: Duration,
}

/// An interval is judged in so many parts. In each of them somebody waited too long, or the queue does not stand. The
/// parts of the default interval are 20 ms: a few turns of a shard that has more to do than it can, and in each of its
/// turns it looks at some bid requests of each busy connection.
const PARTS: u32 = 5;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Queue {
    /// When the part under way began, and the longest wait in it.
    part_began: Instant,
    worst: Duration,
    looked_at: Instant,
    /// Until when, at least, nobody waited too long.
    good_until: Instant,
}

impl Queue {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            part_began: now,
            worst: Duration::ZERO,
            looked_at: now,
            good_until: now,
        }
    }

    /// Somebody looks now at a bid request that was received at `arrival`: whether it is to be refused.
    pub(super) fn is_too_long_for(&mut self, limits: QueueLimits, now: Instant, arrival: Instant) -> bool {
        self.note(limits, now, arrival);
        now.since(self.good_until) >= limits.interval && now.since(arrival) > limits.target
    }

    fn note(&mut self, limits: QueueLimits, now: Instant, arrival: Instant) {
        let part = limits.interval / PARTS;
        let before = self.looked_at;
        if arrival > self.looked_at.after(part) {
            // For as long as a part there was nobody to wait.
            self.good_until = arrival;
            (self.part_began, self.worst) = (now, Duration::ZERO);
        } else if now >= self.part_began.after(part) {
            if self.worst <= limits.target {
                self.good_until = self.looked_at;
            }
            (self.part_began, self.worst) = (now, Duration::ZERO);
        }
        // However long nobody looked, that counts as a part and no more: else the first of a burst would be refused for
        // what came before it.
        let since = before.max(self.good_until);
        self.good_until = self.good_until.after(now.since(since).saturating_sub(part));
        self.worst = self.worst.max(now.since(arrival));
        self.looked_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET_MS: u64 = 5;
    const INTERVAL_MS: u64 = 100;
    const LIMITS: QueueLimits = QueueLimits {
        target: Duration::from_millis(TARGET_MS),
        interval: Duration::from_millis(INTERVAL_MS),
    };

    /// An admitted bid request takes the shard this long, so that it can do 10,000/s; one that is shed a thirtieth.
    const WORK_NS: u64 = 100_000;
    const SHED_NS: u64 = WORK_NS / 30;

    /// A shard that looks at one bid request after another, in the order in which they came.
    struct Shard {
        queue: Queue,
        now_ns: u64,
    }

    /// What became of those that came within some time.
    #[derive(Debug, Default)]
    struct Seen {
        admitted: u64,
        shed: u64,
        longest_wait_ns: u64,
    }

    impl Shard {
        fn new() -> Self {
            Self {
                queue: Queue::new(Instant::from_nanos(0)),
                now_ns: 0,
            }
        }

        /// One came at `arrival_ns`.
        fn looks(&mut self, arrival_ns: u64, seen: &mut Seen) {
            self.now_ns = self.now_ns.max(arrival_ns);
            let (now, arrival) = (Instant::from_nanos(self.now_ns), Instant::from_nanos(arrival_ns));
            if self.queue.is_too_long_for(LIMITS, now, arrival) {
                seen.shed += 1;
                self.now_ns += SHED_NS;
            } else {
                seen.admitted += 1;
                seen.longest_wait_ns = seen.longest_wait_ns.max(self.now_ns - arrival_ns);
                self.now_ns += WORK_NS;
            }
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few thousand arrivals within seconds"
    )]
    /// Bid requests come at these multiples of what the shard can do, each for so many milliseconds, evenly.
    fn run(phases: &[(f64, u64)]) -> Vec<Seen> {
        let mut shard = Shard::new();
        let mut began_ns = 0;
        let mut all = Vec::new();
        for &(load, ms) in phases {
            let mut seen = Seen::default();
            let gap_ns = WORK_NS as f64 / load;
            let count = (ms * 1_000_000) as f64 / gap_ns;
            for number in 0..count as u64 {
                shard.looks(began_ns + (number as f64 * gap_ns) as u64, &mut seen);
            }
            began_ns += ms * 1_000_000;
            all.push(seen);
        }
        all
    }

    #[test]
    fn what_a_shard_can_do_is_never_shed() {
        for load in [0.01, 0.5, 0.9, 1.0] {
            let seen = &run(&[(load, 2_000)])[0];
            assert_eq!(seen.shed, 0, "{load}: {seen:?}");
        }
    }

    /// What makes bid requests wait for less than an interval is a burst. Five times what the shard can do, for 10 ms, is
    /// 50 ms of work, and takes the longer the more comes meanwhile.
    #[test]
    fn a_burst_that_is_over_within_an_interval_passes() {
        let check = |load: f64, ms: u64, before: f64, sheds: bool| {
            let seen = run(&[(before, 500), (load, ms), (before, 500)]);
            let shed: u64 = seen.iter().map(|phase| phase.shed).sum();
            assert_eq!(shed > 0, sheds, "{load} x for {ms} ms after {before} x: {seen:?}");
        };
        check(5.0, 10, 0.5, false);
        check(5.0, 15, 0.1, false);
        check(2.0, 40, 0.1, false);
        // Over only later: 5 x for 20 ms leaves 80 ms of work, with half of the time for it.
        check(5.0, 20, 0.5, true);
        check(5.0, 50, 0.1, true);
    }

    #[test]
    fn a_standing_queue_is_cut_to_the_target_and_the_shard_kept_busy() {
        for load in [1.2, 2.0, 3.0, 5.0, 10.0] {
            let seen = run(&[(load, 2 * INTERVAL_MS), (load, 2_000)]).pop().unwrap();
            assert!(seen.longest_wait_ns <= TARGET_MS * 1_000_000, "{load}: {seen:?}");
            // In all of the time that was not needed to shed.
            let shedding_ns = seen.shed * SHED_NS;
            let possible = (2_000_000_000 - shedding_ns) / WORK_NS;
            assert!(
                seen.admitted.abs_diff(possible) <= possible / 100,
                "{load}: {seen:?}, {possible} possible"
            );
        }
    }

    #[test]
    fn whoever_has_waited_longest_is_refused_and_nobody_below_the_target() {
        let mut shard = Shard::new();
        let mut seen = Seen::default();
        for number in 0..6_000 {
            shard.looks(number * WORK_NS / 3, &mut seen);
        }
        assert!(seen.shed > 0);
        let at = Instant::from_nanos(shard.now_ns);
        let before = |ms: u64| Instant::from_nanos(shard.now_ns - ms * 1_000_000);
        let queue = &mut shard.queue;
        assert!(queue.is_too_long_for(LIMITS, at, before(TARGET_MS + 1)));
        assert!(!queue.is_too_long_for(LIMITS, at, before(TARGET_MS)));
        assert!(!queue.is_too_long_for(LIMITS, at, at));
    }

    #[test]
    fn once_it_is_gone_bursts_pass_again() {
        let seen = run(&[(3.0, 1_000), (0.5, INTERVAL_MS), (5.0, 10), (0.5, 200)]);
        assert!(seen[0].shed > 0);
        // The first millisecond works off the target's worth.
        assert!(seen[1].shed <= 5, "{seen:?}");
        assert_eq!(seen[2].shed + seen[3].shed, 0, "{seen:?}");
    }

    /// A shard that stood still, because something else had its core, has a burst before it and no queue, as long as it is
    /// worked off within an interval: a handover, in which two processes share the cores, makes such stalls.
    #[test]
    fn a_stall_is_a_burst() {
        /// So many ms each half second, with so many bid requests as a hundredth of what the shard can do.
        fn check(stall_ms: u64, load_percent: u64, sheds: bool) {
            let mut shard = Shard::new();
            let mut seen = Seen::default();
            let gap_ns = WORK_NS * 100 / load_percent;
            let mut stalls_at_ns = 500_000_000;
            for arrival_ns in (0..4_000_000_000_u64 / gap_ns).map(|number| number * gap_ns) {
                if arrival_ns >= stalls_at_ns {
                    shard.now_ns = shard.now_ns.max(arrival_ns) + stall_ms * 1_000_000;
                    stalls_at_ns += 500_000_000;
                }
                shard.looks(arrival_ns, &mut seen);
            }
            assert_eq!(
                seen.shed > 0,
                sheds,
                "{stall_ms} ms at {load_percent} %: {seen:?}"
            );
            let almost_all_ns = (stall_ms - 1) * 1_000_000;
            assert!(seen.longest_wait_ns >= almost_all_ns, "{seen:?}");
        }
        check(40, 50, false);
        check(90, 30, false);
        // Longer than an interval, and worked off in less.
        check(120, 20, false);
        check(300, 10, false);
        // What it leaves takes longer than an interval.
        check(300, 50, true);
    }

    /// The first bid requests that a process gets may have waited for the one before it.
    #[test]
    fn who_waited_before_anybody_looked_is_a_burst() {
        let mut queue = Queue::new(Instant::from_nanos(0));
        let looks_ms = 2_000;
        for number in 0..200_u64 {
            // One each ms, in the socket before 150 ms; looked at ten times as fast.
            let at = |us: u64| Instant::from_nanos(us * 1_000);
            let (arrival, now) = (
                at(looks_ms * 1_000 - 150_000 + number * 1_000),
                at(looks_ms * 1_000 + number * 100),
            );
            let now = now.max(arrival);
            assert!(!queue.is_too_long_for(LIMITS, now, arrival), "{number}");
        }
    }

    /// Turns that are longer than a part do not hide that there is more than can be done.
    #[test]
    fn stalls_do_not_hide_a_queue() {
        let mut shard = Shard::new();
        let (mut seen, mut next_ns) = (Seen::default(), 0);
        for number in 0..20_000 {
            let arrival_ns = number * WORK_NS / 2;
            if shard.now_ns >= next_ns {
                shard.now_ns += 25_000_000;
                next_ns = shard.now_ns + 25_000_000;
            }
            shard.looks(arrival_ns, &mut seen);
        }
        assert!(seen.shed > 5_000, "{seen:?}");
    }

    /// Bid requests that come one by one do not queue up, however long each of them waited.
    #[test]
    fn few_and_slow_is_no_queue() {
        let mut shard = Shard::new();
        for number in 0..100 {
            let arrival_ns = number * 50_000_000;
            shard.now_ns = arrival_ns + 20_000_000;
            let mut seen = Seen::default();
            shard.looks(arrival_ns, &mut seen);
            assert_eq!(seen.shed, 0, "{number}");
        }
    }
}
