//! So many calls a second and no more: a token bucket, and beside it a count of the last second, in integers. Takes `now`;
//! knows no DSP, and nothing of other shards.
//!
//! A bucket alone has to choose. A deep one makes up for calls that come irregularly and, full, lets as many more through
//! in a second as it holds; a shallow one wastes what it cannot hold. So the bucket is deep, and the count keeps
//! any second to the rate.

use crate::clock::Instant;

/// A rate in calls per thousand seconds: small caps are split over many shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct MilliQps(pub u64);

impl MilliQps {
    /// So many calls per second.
    #[must_use]
    pub fn of(qps: u32) -> Self {
        Self(u64::from(qps) * 1000)
    }
}

/// One call, in the unit in which credit is kept: a nanosecond at one call per thousand seconds.
const CALL: u64 = 1_000_000_000_000;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Pace {
    rate: MilliQps,
    credit: u64,
    credit_max: u64,
    /// Up to when credit was given, once there was a call or a rate.
    at: Option<Instant>,
    last_second: LastSecond,
    /// In any second.
    calls_max: u64,
    /// Calls that were to be made since this was asked last, whether they could be or not.
    wanted: u64,
}

impl Pace {
    /// Nothing is saved up yet but one call.
    pub(super) fn new(rate: MilliQps) -> Self {
        Self {
            rate,
            credit: CALL,
            credit_max: credit_max(rate),
            at: None,
            last_second: LastSecond::default(),
            calls_max: calls_max(rate),
            wanted: 0,
        }
    }

    /// Whether one more call may be made now. If so it counts as made.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        self.wanted += 1;
        self.save(now);
        let may = self.credit >= CALL && self.last_second.count(now) < self.calls_max;
        if may {
            self.credit -= CALL;
            self.last_second.add();
        }
        may
    }

    /// From now on at another rate.
    pub(super) fn set_rate(&mut self, rate: MilliQps, now: Instant) {
        self.save(now);
        self.rate = rate;
        // Without a rate there are no calls: what was saved up goes with the share of the rate to whoever has it now.
        self.credit_max = if rate.0 == 0 { 0 } else { credit_max(rate) };
        self.credit = self.credit.min(self.credit_max);
        self.calls_max = calls_max(rate);
    }

    /// How many calls were to be made since this was asked last.
    pub(super) fn take_wanted(&mut self) -> u64 {
        std::mem::take(&mut self.wanted)
    }

    fn save(&mut self, now: Instant) {
        let passed = now.since(self.at.unwrap_or(now)).as_nanos();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let earned = passed.saturating_mul(self.rate.0);
        self.credit = self.credit.saturating_add(earned).min(self.credit_max);
        self.at = self.at.max(Some(now));
    }
}

/// What may be saved up: a twentieth of a second's calls, at least 5. Of 1000 calls a second Poisson arrivals at 1.2 times the
/// rate lose 2 in a thousand with it, with a hundredth of a second's 5; of 300, 8 instead of 100.
fn credit_max(rate: MilliQps) -> u64 {
    rate.0.saturating_mul(CALL / 1000 / 20).max(5 * CALL)
}

/// In any second: a hundredth more than the rate, which is what the oldest part of the count is as long as, and one call, as
/// the first and the last of a thousand evenly spaced ones are less than their second apart.
fn calls_max(rate: MilliQps) -> u64 {
    (rate.0 / 1000).saturating_add(rate.0 / 100_000).saturating_add(1)
}

const PART_NANOS: u64 = 10_000_000;

/// A second, and the part that is not over.
const PARTS: usize = 101;

/// The calls of the last second, and of up to a hundredth of one before it.
#[derive(Debug)]
struct LastSecond {
    /// By the number of the part of time, in turns.
    parts: [u32; PARTS],
    newest: u64,
    sum: u64,
}

impl Default for LastSecond {
    fn default() -> Self {
        Self {
            parts: [0; PARTS],
            newest: 0,
            sum: 0,
        }
    }
}

impl LastSecond {
    fn count(&mut self, now: Instant) -> u64 {
        let part = now.as_nanos() / PART_NANOS;
        let passed = part.saturating_sub(self.newest);
        for gone in 1..=passed.min(PARTS as u64) {
            let calls = std::mem::take(&mut self.parts[Self::place(self.newest + gone)]);
            self.sum -= u64::from(calls);
        }
        self.newest += passed;
        self.sum
    }

    fn add(&mut self) {
        self.parts[Self::place(self.newest)] += 1;
        self.sum += 1;
    }

    fn place(part: u64) -> usize {
        // Fits: it is below 101.
        usize::try_from(part % PARTS as u64).unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::cast_precision_loss, reason = "chance and shares, to a thousandth")]
mod tests {
    use proptest::prelude::*;
    use std::time::Duration;

    use super::*;

    const START: Instant = Instant::from_nanos(1_000_000_000_000);

    /// Arrivals of a Poisson process in nanoseconds, by SplitMix64 from a fixed seed.
    fn poisson(per_second: f64, seconds: u64) -> Vec<Instant> {
        let mut seed = 7_u64;
        let mut at = 0.0_f64;
        let mut arrivals = Vec::new();
        loop {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let uniform = ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
            at += -(1.0 - uniform).ln() / per_second;
            if at >= seconds as f64 {
                return arrivals;
            }
            arrivals.push(START.after(Duration::from_secs_f64(at)));
        }
    }

    /// The most calls in any second that begins with one.
    fn most_in_a_second(made: &[Instant]) -> usize {
        let in_second_of =
            |first: usize| made[first..].partition_point(|at| at.since(made[first]) < Duration::from_secs(1));
        (0..made.len()).map(in_second_of).max().unwrap_or(0)
    }

    /// `demand` in hundredths of the cap, as a Poisson process for 60 s: what share of the cap is used in all, in
    /// thousandths, and by how much any second was above it.
    #[track_caller]
    fn check(qps: u32, demand: u32, share_min: u32, above_max: usize) {
        let mut pace = Pace::new(MilliQps::of(qps));
        let made: Vec<_> = poisson(f64::from(qps) * f64::from(demand) / 100.0, 60)
            .into_iter()
            .filter(|&at| pace.admit(at))
            .collect();
        let share = made.len() as u64 * 1000 / (u64::from(qps) * 60);
        let above = most_in_a_second(&made).saturating_sub(qps as usize);
        println!("{qps}/s at {demand} %: {share}/1000, any second at most {above} more");
        assert!(share >= u64::from(share_min) && share <= 1002, "{share}/1000");
        assert!(above <= above_max, "{above}");
    }

    #[test]
    fn any_second_is_within_a_hundredth_of_the_cap() {
        for qps in [300, 1_000, 10_000] {
            let above = qps as usize / 100 + 1;
            check(qps, 105, 970, above);
            check(qps, 120, 990, above);
            check(qps, 200, 998, above);
            check(qps, 1_000, 999, above);
        }
        // Of small rates more is lost where little more is wanted.
        check(60, 120, 940, 1);
        check(60, 200, 990, 1);
        check(20, 1_000, 990, 1);
        check(1, 10_000, 970, 1);
    }

    /// After a lull as well: what was saved up is no more than any second may have.
    #[test]
    fn a_lull_is_not_made_up_for() {
        let mut pace = Pace::new(MilliQps::of(1_000));
        let on_and_off = |at: &Instant| at.since(START).as_millis() % 4000 < 3000;
        let arrivals = poisson(3_000.0, 60).into_iter().filter(on_and_off);
        let made: Vec<_> = arrivals.filter(|&at| pace.admit(at)).collect();
        let most = most_in_a_second(&made);
        println!("{} in 60 s, at most {most} in any second", made.len());
        assert!((1_000..=1_011).contains(&most));
    }

    #[test]
    fn what_is_below_the_cap_passes() {
        let mut pace = Pace::new(MilliQps::of(1_000));
        let arrivals = poisson(800.0, 60);
        let refused = arrivals.iter().filter(|&&at| !pace.admit(at)).count();
        assert!(refused * 100 < arrivals.len(), "{refused} of {}", arrivals.len());
    }

    #[test]
    fn without_a_rate_there_is_nothing() {
        let mut pace = Pace::new(MilliQps::of(1_000));
        assert!(pace.admit(START));
        pace.set_rate(MilliQps(0), START);
        assert!(!pace.admit(START.after(Duration::from_secs(1000))));
        pace.set_rate(MilliQps::of(10), START.after(Duration::from_secs(1000)));
        assert!(!pace.admit(START.after(Duration::from_secs(1000))));
        assert!(pace.admit(START.after(Duration::from_millis(1_000_100))));
        assert_eq!(pace.take_wanted(), 4);
        assert_eq!(pace.take_wanted(), 0);
    }

    proptest! {
        /// Whatever comes, and however the rate changes meanwhile: no more than was given out and could be saved.
        #[test]
        fn never_more_than_the_rate(
            steps in prop::collection::vec((0..50_000_u64, 0..3_u64, prop::option::of(0..5_000_000_u64)), 1..400),
        ) {
            let mut now = START;
            let mut rate = 1_000_000;
            let mut pace = Pace::new(MilliQps(rate));
            let (mut earned, mut made, mut saved_max) = (u128::from(CALL), 0_u128, 5_u128);
            for (wait_us, calls, new_rate) in steps {
                let wait = Duration::from_micros(wait_us);
                now = now.after(wait);
                earned += wait.as_nanos() * u128::from(rate);
                made += (0..calls).filter(|_| pace.admit(now)).count() as u128;
                if let Some(new_rate) = new_rate {
                    pace.set_rate(MilliQps(new_rate), now);
                    rate = new_rate;
                    saved_max = saved_max.max(u128::from(new_rate) / 20_000 + 1);
                }
                prop_assert!(made * u128::from(CALL) <= earned + saved_max * u128::from(CALL));
            }
        }

        #[test]
        fn nothing_overflows(rate in any::<u32>(), waits in prop::collection::vec(any::<u64>(), 1..20)) {
            let mut pace = Pace::new(MilliQps::of(rate));
            let mut now = START;
            for wait in waits {
                now = now.after(Duration::from_nanos(wait));
                pace.admit(now);
                pace.set_rate(MilliQps::of(rate), now);
            }
        }
    }
}
