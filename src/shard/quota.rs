//! How a DSP's cap of calls per second is split over shards: by what each wants, settled between them off the path. What
//! one shard may use it has taken from what another has given back, so that together they never have more than the
//! cap. Knows no call and no clock.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use crate::fanout::{DspOptions, MilliQps};

/// The caps of all DSPs. One for the process: a shard that is started again goes on with what the one before it held.
#[derive(Debug)]
pub struct Quotas {
    /// By DSP.
    caps: Box<[Option<Cap>]>,
}

/// One DSP's, in thousandths of a call per second. What is free and what the shards hold is always the cap together.
#[derive(Debug)]
struct Cap {
    cap: u64,
    free: AtomicU64,
    /// By shard.
    rows: Box<[CachePadded<Row>]>,
}

/// Written by its shard alone.
#[derive(Debug)]
struct Row {
    held: AtomicU64,
    wanted: AtomicU64,
}

impl Quotas {
    /// Equal shares of each DSP's cap for so many shards.
    #[must_use]
    pub fn new(dsps: &[DspOptions], shards: usize) -> Self {
        let caps = dsps
            .iter()
            .map(|dsp| Some(Cap::new(MilliQps::of(dsp.gate.qps?), shards)));
        Self { caps: caps.collect() }
    }

    /// What this shard may use of the DSP's cap; `None` of a DSP without.
    #[must_use]
    pub fn held(&self, dsp: usize, shard: usize) -> Option<MilliQps> {
        let cap = self.caps[dsp].as_ref()?;
        // A shard that was not counted on has nothing.
        let held = cap.rows.get(shard).map(|row| row.held.load(Ordering::Relaxed));
        Some(MilliQps(held.unwrap_or_default()))
    }

    /// This shard would make so many calls to the DSP: gives back what others want more, or takes what is free.
    /// Returns what it may use from now on. Called by the shard itself, now and then.
    pub(super) fn settle(&self, dsp: usize, shard: usize, wanted: MilliQps) -> Option<MilliQps> {
        Some(self.caps[dsp].as_ref()?.settle(shard, wanted))
    }
}

impl Cap {
    fn new(MilliQps(cap): MilliQps, shards: usize) -> Self {
        let shards = shards.max(1) as u64;
        let row = |_| {
            CachePadded::new(Row {
                held: AtomicU64::new(cap / shards),
                wanted: AtomicU64::new(0),
            })
        };
        Self {
            cap,
            free: AtomicU64::new(cap % shards),
            rows: (0..shards).map(row).collect(),
        }
    }

    fn settle(&self, shard: usize, MilliQps(wanted): MilliQps) -> MilliQps {
        let Some(row) = self.rows.get(shard) else {
            return MilliQps(0);
        };
        row.wanted.store(wanted, Ordering::Relaxed);
        let others = self.rows.iter().map(|row| row.wanted.load(Ordering::Relaxed));
        let total = others.fold(0, u64::saturating_add);
        let held = row.held.load(Ordering::Relaxed);
        let now_held = match to_hold(self.cap, self.rows.len() as u64, held, wanted, total) {
            Hold::Down(target) => {
                self.free.fetch_add(held - target, Ordering::Relaxed);
                target
            }
            Hold::Up(target) => {
                let most = target - held;
                let take = |free: u64| Some(free - free.min(most));
                let free = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
                held + free.unwrap_or_default().min(most)
            }
        };
        row.held.store(now_held, Ordering::Relaxed);
        MilliQps(now_held)
    }
}

/// What a shard should hold.
#[derive(Debug, PartialEq, Eq)]
enum Hold {
    /// So much, at once.
    Down(u64),
    /// Up to so much, as far as it is free.
    Up(u64),
}

/// While all want less than the cap together, each holds what it wants and an equal part of the rest. When they want more,
/// each holds a part of the cap as large as of what is wanted, or up to an eighth more: whatever is held is used then, and
/// what is under way from one to another is not.
fn to_hold(cap: u64, shards: u64, held: u64, wanted: u64, total: u64) -> Hold {
    if total <= cap {
        let target = wanted + (cap - total) / shards;
        return if target < held {
            Hold::Down(target)
        } else {
            Hold::Up(target)
        };
    }
    let target = u128::from(cap) * u128::from(wanted) / u128::from(total);
    let target = u64::try_from(target).unwrap_or(cap);
    let most = target + target / 8 + 1;
    if held > most {
        Hold::Down(target)
    } else {
        Hold::Up(most)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const CAP: u64 = 1_000_000;

    fn sum(cap: &Cap) -> u64 {
        let held = cap.rows.iter().map(|row| row.held.load(Ordering::Relaxed));
        held.sum::<u64>() + cap.free.load(Ordering::Relaxed)
    }

    #[test]
    fn shares() {
        /// What shards want of 1000 a second, and what they hold after some rounds, starting with equal parts.
        #[track_caller]
        fn check(wanted: &[u64], expected: &[u64]) {
            let cap = Cap::new(MilliQps(CAP), wanted.len());
            for _ in 0..4 {
                for (shard, wanted) in wanted.iter().enumerate() {
                    cap.settle(shard, MilliQps(wanted * 1000));
                }
            }
            let held = cap.rows.iter().map(|row| row.held.load(Ordering::Relaxed) / 1000);
            assert_eq!(held.collect::<Vec<_>>(), expected, "{wanted:?}");
            assert_eq!(sum(&cap), CAP);
        }
        check(&[5], &[1000]);
        check(&[0, 0], &[500, 500]);
        check(&[2000, 2000], &[500, 500]);
        // One shard has all the traffic: it has all the cap.
        check(&[2000, 0], &[1000, 0]);
        check(&[800, 0], &[900, 100]);
        check(&[300, 690], &[305, 695]);
        // By what they want; small differences are left alone.
        check(&[3000, 1000], &[750, 250]);
        check(&[2100, 1900], &[500, 500]);
        check(&[0, 4000, 0, 4000], &[0, 500, 0, 500]);
    }

    proptest! {
        /// Whoever wants what, in whatever order: together never more than the cap, and when all is wanted all is held.
        #[test]
        fn together_it_is_the_cap(
            cap in 1..10_000_000_u64, shards in 1..9_usize,
            wants in prop::collection::vec((0..9_usize, 0..20_000_000_u64), 1..100),
        ) {
            let table = Cap::new(MilliQps(cap), shards);
            for (shard, wanted) in wants {
                let held = table.settle(shard % shards, MilliQps(wanted));
                prop_assert!(held.0 <= cap);
                prop_assert_eq!(sum(&table), cap);
            }
            for _ in 0..3 {
                (0..shards).for_each(|shard| { table.settle(shard, MilliQps(cap)); });
            }
            prop_assert_eq!(table.free.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn together_it_is_the_cap_whatever_happens_at_once() {
        let table = Cap::new(MilliQps(CAP), 4);
        std::thread::scope(|scope| {
            for shard in 0..4_u64 {
                let table = &table;
                scope.spawn(move || {
                    for n in 0..50_000_u64 {
                        let wanted = (n * (shard + 3) * 7_919) % (2 * CAP);
                        table.settle(usize::try_from(shard).unwrap(), MilliQps(wanted));
                    }
                });
            }
        });
        assert_eq!(sum(&table), CAP);
    }

    #[test]
    fn a_shard_that_is_started_again_goes_on_with_what_was_held() {
        let dsp = |qps| {
            let mut dsp = crate::fanout::any_dsp(0, false);
            dsp.gate.qps = qps;
            dsp
        };
        let quotas = Quotas::new(&[dsp(Some(10)), dsp(None)], 2);
        assert_eq!(quotas.held(0, 1), Some(MilliQps(5_000)));
        assert_eq!(quotas.settle(0, 1, MilliQps(0)), Some(MilliQps(5_000)));
        quotas.settle(0, 0, MilliQps(40_000));
        assert_eq!(quotas.settle(0, 1, MilliQps(0)), Some(MilliQps(0)));
        assert_eq!(quotas.held(0, 1), Some(MilliQps(0)));
        assert_eq!(
            (quotas.held(1, 0), quotas.settle(1, 0, MilliQps(1))),
            (None, None)
        );
    }

    /// Two shards, a cap of 1000, traffic that comes to one, then to the other, then to both.
    #[test]
    fn traffic_that_moves_takes_its_share_along() {
        const QPS: u32 = 1_000;
        let mut traffic = crate::shard::gates::tests::Traffic::new(QPS, 2);
        let second = Duration::from_secs(1);
        for (seconds, rates) in [
            (10, [2_500, 0]),
            (10, [0, 2_500]),
            (10, [1_500, 1_500]),
            (10, [2_000, 20]),
        ] {
            let made = traffic.run(seconds, rates);
            let calls = made.len() as u64;
            let expected = u64::from(QPS) * seconds;
            let most = (0..made.len())
                .map(|first| made[first..].partition_point(|at| at.since(made[first]) < second))
                .max()
                .unwrap();
            println!("{rates:?}: {calls} calls in {seconds} s, any second at most {most}");
            // Half a second to notice, out of ten.
            assert!(calls >= expected * 95 / 100, "{calls} of {expected}");
            assert!(most <= 1_050, "{most}");
        }
    }
}
