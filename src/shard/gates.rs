//! Looks after the gates to DSPs, off every request's path: settles with the other shards who may use how much of a DSP's
//! cap, and tells what breakers do.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::quota::Quotas;
use crate::clock::Instant;
use crate::fanout::{self, BreakerChanges, DspId, DspSet, Gates, MilliQps};
use crate::telemetry::{BreakerState, Recorder};

/// One shard's.
pub struct GateKeeper {
    shard: usize,
    gates: Rc<Gates>,
    recorder: Rc<Recorder>,
    /// Whom new bid requests are sent to.
    dsps: RefCell<DspSet>,
    /// By their position among these.
    quotas: RefCell<Arc<Quotas>>,
    /// By DSP: what is wanted of its cap, smoothed, in thousandths of a call per second.
    wanted: RefCell<Vec<u64>>,
    settled_at: Cell<Instant>,
}

impl GateKeeper {
    /// For the gates to these DSPs, of whose caps `quotas` are the shares.
    #[must_use]
    pub fn new(
        shard: usize,
        dsps: &DspSet,
        quotas: &Arc<Quotas>,
        recorder: &Rc<Recorder>,
        now: Instant,
    ) -> Self {
        let keeper = Self {
            shard,
            // Breakers of different shards are not to try again at the same moment.
            gates: Rc::new(Gates::new(dsps, shard as u64)),
            recorder: Rc::clone(recorder),
            dsps: RefCell::new(dsps.clone()),
            quotas: RefCell::new(Arc::clone(quotas)),
            wanted: RefCell::default(),
            settled_at: Cell::new(now),
        };
        keeper.meet(dsps, quotas, now);
        keeper
    }

    /// What it looks after.
    #[must_use]
    pub fn gates(&self) -> &Rc<Gates> {
        &self.gates
    }

    /// New bid requests go to these DSPs from now on.
    pub fn meet(&self, dsps: &DspSet, quotas: &Arc<Quotas>, now: Instant) {
        self.gates.meet(dsps);
        let mut wanted = self.wanted.borrow_mut();
        for (position, (id, _)) in dsps.iter().enumerate() {
            let places = wanted.len().max(id.index() + 1);
            wanted.resize(places, 0);
            if let Some(held) = quotas.held(position, self.shard) {
                self.gates.set_rate(id, held, now);
            }
        }
        self.dsps.replace(dsps.clone());
        self.quotas.replace(Arc::clone(quotas));
    }

    /// Settles shares of caps anew. For each round of care.
    pub fn settle(&self, now: Instant) {
        let passed = now.since(self.settled_at.replace(now));
        let mut wanted = self.wanted.borrow_mut();
        let quotas = self.quotas.borrow();
        for (position, (id, _)) in self.dsps.borrow().iter().enumerate() {
            let Some(calls) = self.gates.take_wanted(id) else {
                continue;
            };
            let smoothed = &mut wanted[id.index()];
            *smoothed = towards(*smoothed, per_second(calls, passed));
            if let Some(held) = quotas.settle(position, self.shard, MilliQps(*smoothed)) {
                self.gates.set_rate(id, held, now);
            }
        }
    }

    /// Brings the recorder up to date, and the log when a breaker has opened or closed.
    pub(super) fn tell(&self) {
        for (position, (id, dsp)) in self.dsps.borrow().iter().enumerate() {
            let held = self.quotas.borrow().held(position, self.shard);
            let (state, changes) = self.gates.breaker(id).unzip();
            let state = state.map(|state| match state {
                fanout::BreakerState::Closed => BreakerState::Closed,
                fanout::BreakerState::Open => BreakerState::Open,
                fanout::BreakerState::HalfOpen => BreakerState::HalfOpen,
            });
            self.recorder
                .gate(id.index(), state, held.map(|MilliQps(held)| held));
            if let Some(changes) = changes {
                self.tell_changes(id, &dsp.name, changes);
            }
        }
    }

    fn tell_changes(&self, dsp: DspId, name: &str, changes: BreakerChanges) {
        for (to, times) in [
            (BreakerState::Closed, changes.closed),
            (BreakerState::Open, changes.opened),
            (BreakerState::HalfOpen, changes.half_opened),
        ] {
            self.recorder.breaker_changed(dsp.index(), to, times);
        }
        // A line for each would be one for each back-off for as long as the DSP is gone: the counter has them.
        if changes.tripped > 0 {
            tracing::warn!(
                dsp = name,
                shard = self.shard,
                "breaker open: too many of its calls fail"
            );
        }
        if changes.closed > 0 {
            tracing::info!(dsp = name, shard = self.shard, "breaker closed: it answers again");
        }
    }
}

/// Calls in a while as thousandths of a call per second.
fn per_second(calls: u64, passed: Duration) -> u64 {
    let rate = u128::from(calls) * 1_000_000_000_000 / passed.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// A quarter of the way in each round of care, over some 200 ms. Of 50 calls in a round a seventh is chance.
fn towards(smoothed: u64, now: u64) -> u64 {
    let less = smoothed - smoothed / 4;
    less.saturating_add(now / 4)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::fanout::any_dsp;
    use crate::telemetry::{self, Roster};

    /// Calls to one DSP with a cap, on several shards that settle every 50 ms, each at a time of its own.
    pub(in crate::shard) struct Traffic {
        keepers: Vec<GateKeeper>,
        now: Instant,
        seed: u64,
    }

    impl Traffic {
        pub(in crate::shard) fn new(qps: u32, shards: usize) -> Self {
            let mut dsp = any_dsp(0, false);
            dsp.gate.qps = Some(qps);
            let dsps = [dsp];
            let quotas = Arc::new(Quotas::new(&dsps, shards));
            let now = Instant::from_nanos(1_000_000_000);
            let roster = Arc::new(Roster::new(vec!["d".to_owned()], "USD"));
            let keeper = |shard| {
                let (recorders, _merged) = telemetry::channel(1);
                let recorder = Rc::new(recorders.recorder(shard, &roster));
                GateKeeper::new(shard, &DspSet::from(&dsps[..]), &quotas, &recorder, now)
            };
            Self {
                keepers: (0..shards).map(keeper).collect(),
                now,
                seed: 7,
            }
        }

        /// So many bid requests a second come to each shard, by chance. When calls were made.
        pub(in crate::shard) fn run<const N: usize>(
            &mut self,
            seconds: u64,
            rates: [u64; N],
        ) -> Vec<Instant> {
            const STEP_US: u64 = 50;
            let mut made = Vec::new();
            for step in 0..seconds * 1_000_000 / STEP_US {
                self.now = self.now.after(Duration::from_micros(STEP_US));
                for (shard, rate) in rates.into_iter().enumerate() {
                    let comes = self.chance() % 1_000_000 < rate * STEP_US;
                    let keeper = &self.keepers[shard];
                    let due_at = self.now.after(Duration::from_millis(60));
                    if comes && keeper.gates().admit(DspId(0), self.now, due_at, false).is_ok() {
                        made.push(self.now);
                    }
                    if (step + shard as u64 * 300).is_multiple_of(1_000) {
                        keeper.settle(self.now);
                    }
                }
            }
            made
        }

        fn chance(&mut self) -> u64 {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            self.seed >> 33
        }
    }

    #[test]
    fn a_rate_is_measured_over_what_has_passed() {
        assert_eq!(per_second(50, Duration::from_millis(50)), 1_000_000);
        assert_eq!(per_second(1, Duration::from_secs(2)), 500);
        assert_eq!(per_second(0, Duration::ZERO), 0);
        assert_eq!(per_second(u64::MAX, Duration::from_nanos(1)), u64::MAX);
        let after = |rounds, from, to| (0..rounds).fold(from, |smoothed, _| towards(smoothed, to));
        assert!((980_000..=1_000_000).contains(&after(20, 0, 1_000_000)));
        assert!(after(30, 1_000_000, 0) < 1_000);
        assert!(after(60, u64::MAX, u64::MAX) > u64::MAX - 4);
    }
}
