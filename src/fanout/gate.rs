//! Which calls are made at all, and how long each is waited for: one gate per DSP, with its breaker, its cap of calls per
//! second and what was learnt of its answers. Asked when a bid request is planned, told when each call ends.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use super::breaker::{Breaker, BreakerChanges, BreakerOptions, BreakerState, Conduct, Pass};
use super::pace::{MilliQps, Pace};
use super::patience::{Patience, PatienceOptions};
use super::{DspId, DspOptions, DspSet};
use crate::clock::Instant;

/// What stands at one DSP's gate. By default nothing does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GateOptions {
    /// Does not ask it while it fails.
    pub breaker: Option<BreakerOptions>,
    /// Calls per second over all shards.
    pub qps: Option<u32>,
    /// Does not wait for it longer than is worth it.
    pub patience: Option<PatienceOptions>,
}

/// Why a DSP is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAsked {
    /// Its breaker is open.
    OpenBreaker,
    /// It has had its calls per second.
    Throttled,
}

/// Leave to call a DSP. The default is that of a DSP with nothing at its gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leave {
    pass: Pass,
    /// It has at least half of the DSP's time: not to answer in it says something about the DSP, unless it is cut.
    is_fair: bool,
    time: Time,
}

/// How much of its time a DSP has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Time {
    /// Less, because the bid request's deadline comes first.
    #[default]
    Short,
    /// Less, because later answers hardly ever matter.
    Cut,
    /// All of it, but for what planning took.
    All,
}

impl Leave {
    /// Whether the call is given up on although the DSP may take longer.
    pub(super) fn is_cut(self) -> bool {
        self.time == Time::Cut
    }

    pub(super) fn is_fair(self) -> bool {
        self.is_fair
    }
}

/// The gates of one shard, by DSP. They go on from one configuration to the next.
#[derive(Debug)]
pub struct Gates {
    gates: RefCell<Vec<Gate>>,
    seed: u64,
    /// Of a hundred bid requests so many wait for all DSPs in full; none where nobody learns from them.
    explore_percent: Cell<u32>,
    explored: Cell<u32>,
}

#[derive(Debug, Default)]
struct Gate {
    name: String,
    options: GateOptions,
    timeout: Duration,
    breaker: Option<Breaker>,
    /// Of the breakers before, the era that the last had come to: one may be between whose DSP has none.
    era_before: u16,
    pace: Option<Pace>,
    patience: Option<Patience>,
}

impl Gates {
    /// Gates for these DSPs. Breakers with different seeds do not try again at the same moment.
    #[must_use]
    pub fn new(dsps: &DspSet, seed: u64) -> Self {
        let gates = Self {
            gates: RefCell::default(),
            seed,
            explore_percent: Cell::new(0),
            explored: Cell::new(0),
        };
        gates.meet(dsps);
        gates
    }

    /// From now on these DSPs are asked. One for which nothing has changed keeps its gate, and what that knows; one that is
    /// not among them keeps it for as long as its place is its own, for bid requests that began before.
    pub fn meet(&self, dsps: &DspSet) {
        let mut gates = self.gates.borrow_mut();
        for (id, dsp) in dsps.iter() {
            if gates.len() <= id.index() {
                gates.resize_with(id.index() + 1, Gate::default);
            }
            let gate = &mut gates[id.index()];
            if !gate.is_of(dsp) {
                *gate = Gate::new(dsp, self.seed << 16 | u64::from(id.0), gate);
            }
        }
        let explores = dsps.iter().filter_map(|(_, dsp)| dsp.gate.patience);
        let percent = explores.map(|patience| patience.explore_percent).max();
        self.explore_percent.set(percent.unwrap_or(0));
    }

    /// Whether the next bid request is to wait for all its DSPs in full. It must be all or none: a twentieth of each
    /// DSP's calls, drawn one by one, would make two of three bid requests with 23 DSPs wait for one of them.
    pub fn explores(&self) -> bool {
        if self.explore_percent.get() == 0 {
            return false;
        }
        let credit = self.explored.get() + self.explore_percent.get();
        self.explored.set(credit % 100);
        credit >= 100
    }

    /// Whether this DSP may be called now, and until when to wait for it: `due_at`, or earlier unless the bid
    /// request `explores`.
    ///
    /// # Errors
    /// Why it is not to be called.
    pub fn admit(
        &self,
        dsp: DspId,
        now: Instant,
        due_at: Instant,
        explores: bool,
    ) -> Result<(Leave, Instant), NotAsked> {
        let gate = &mut self.gates.borrow_mut()[dsp.index()];
        let pass = match &mut gate.breaker {
            Some(breaker) => breaker.admit(now).ok_or(NotAsked::OpenBreaker)?,
            None => Pass::default(),
        };
        if let Some(pace) = &mut gate.pace
            && !pace.admit(now)
        {
            if let Some(breaker) = &mut gate.breaker {
                breaker.heard(pass, Conduct::Unknown, now);
            }
            return Err(NotAsked::Throttled);
        }
        let left = due_at.since(now);
        let mut leave = Leave {
            pass,
            is_fair: left >= gate.timeout / 2,
            time: Time::Short,
        };
        if let Some(patience) = &gate.patience {
            let waits = patience.waits().filter(|_| !explores && !pass.is_probe);
            if let Some(waits) = waits.filter(|waits| *waits < left) {
                leave.time = Time::Cut;
                return Ok((leave, now.after(waits)));
            }
            if left >= gate.timeout - gate.timeout / 8 {
                leave.time = Time::All;
            }
        }
        Ok((leave, due_at))
    }

    /// A call that had leave has ended.
    pub fn heard(&self, dsp: DspId, leave: Leave, conduct: Conduct, now: Instant) {
        let gate = &mut self.gates.borrow_mut()[dsp.index()];
        if let Some(breaker) = &mut gate.breaker {
            breaker.heard(leave.pass, conduct, now);
        }
        if let Some(patience) = &mut gate.patience
            && leave.time == Time::All
        {
            patience.called();
        }
    }

    /// Whether anything is to be learnt from when answers came.
    pub fn learn(&self) -> bool {
        self.explore_percent.get() > 0
    }

    /// The answer to a call, which came after `elapsed`, won or set the price.
    pub fn mattered(&self, dsp: DspId, leave: Leave, elapsed: Duration) {
        if leave.time != Time::All {
            return;
        }
        if let Some(patience) = &mut self.gates.borrow_mut()[dsp.index()].patience {
            patience.mattered(elapsed);
        }
    }

    /// The state of a DSP's breaker, if it has one.
    #[must_use]
    pub fn breaker_state(&self, dsp: DspId) -> Option<BreakerState> {
        let gate = &self.gates.borrow()[dsp.index()];
        gate.breaker.as_ref().map(Breaker::state)
    }

    /// The state of a DSP's breaker, if it has one, and how it has changed since this was asked last.
    pub fn breaker(&self, dsp: DspId) -> Option<(BreakerState, BreakerChanges)> {
        let breaker = &mut self.gates.borrow_mut()[dsp.index()].breaker;
        breaker
            .as_mut()
            .map(|breaker| (breaker.state(), breaker.take_changes()))
    }

    /// How many calls to a DSP with a cap were to be made since this was asked last.
    pub fn take_wanted(&self, dsp: DspId) -> Option<u64> {
        let pace = &mut self.gates.borrow_mut()[dsp.index()].pace;
        pace.as_mut().map(Pace::take_wanted)
    }

    /// This shard's share of a DSP's cap from now on.
    pub fn set_rate(&self, dsp: DspId, rate: MilliQps, now: Instant) {
        if let Some(pace) = &mut self.gates.borrow_mut()[dsp.index()].pace {
            pace.set_rate(rate, now);
        }
    }
}

impl Gate {
    /// In the place of another one.
    fn new(dsp: &DspOptions, seed: u64, before: &Self) -> Self {
        let options = dsp.gate.clone();
        let breaker = options.breaker.clone();
        let era_before = before.breaker.as_ref().map_or(before.era_before, Breaker::era);
        Self {
            era_before,
            name: dsp.name.clone(),
            timeout: dsp.timeout,
            breaker: breaker.map(|breaker| Breaker::new(breaker, dsp.timeout, seed, era_before)),
            pace: options.qps.map(|qps| Pace::new(MilliQps::of(qps))),
            patience: options
                .patience
                .map(|patience| Patience::new(patience, dsp.timeout)),
            options,
        }
    }

    fn is_of(&self, dsp: &DspOptions) -> bool {
        self.name == dsp.name && self.timeout == dsp.timeout && self.options == dsp.gate
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::fanout::tests::dsp;

    const NOW: Instant = Instant::from_nanos(1_000_000_000);

    pub(in crate::fanout) fn breaker() -> BreakerOptions {
        BreakerOptions {
            consecutive_failures: 2,
            failure_percent: 50,
            window: Duration::from_secs(1),
            calls_min: 100,
            open_min: Duration::from_millis(100),
            open_max: Duration::from_millis(100),
            probe_percent: 100,
            probes: 2,
        }
    }

    fn set(gates: &[GateOptions]) -> DspSet {
        let with = |(index, gate): (usize, &GateOptions)| DspOptions {
            gate: gate.clone(),
            ..dsp(index, false)
        };
        DspSet::from(&*gates.iter().enumerate().map(with).collect::<Vec<_>>())
    }

    fn admit(gates: &Gates, dsp: u16, left_ms: u64) -> Result<(Leave, Instant), NotAsked> {
        gates.admit(DspId(dsp), NOW, NOW.after(Duration::from_millis(left_ms)), false)
    }

    #[test]
    fn a_cap_does_not_cost_a_probe() {
        let gates = Gates::new(
            &set(&[GateOptions {
                breaker: Some(breaker()),
                qps: Some(1),
                ..GateOptions::default()
            }]),
            0,
        );
        let (leave, _) = admit(&gates, 0, 60).unwrap();
        assert_eq!(admit(&gates, 0, 60), Err(NotAsked::Throttled));
        gates.heard(DspId(0), leave, Conduct::Bad, NOW);
        gates.heard(DspId(0), leave, Conduct::Bad, NOW);
        assert_eq!(admit(&gates, 0, 60), Err(NotAsked::OpenBreaker));
        let later = NOW.after(Duration::from_millis(500));
        let probe = |at: Instant| gates.admit(DspId(0), at, at.after(Duration::from_millis(60)), false);
        for _ in 0..10 {
            assert_eq!(probe(later), Err(NotAsked::Throttled), "half a call is saved up");
        }
        assert!(probe(NOW.after(Duration::from_secs(2))).is_ok());
        assert_eq!(
            gates.take_wanted(DspId(0)),
            Some(13),
            "an open breaker wants nothing"
        );
    }

    /// To a DSP with 60 ms, of which the bid request leaves it so much: whether it is to blame if it does not answer.
    #[test]
    fn who_had_too_little_time_is_not_to_blame() {
        let gates = Gates::new(&set(&[GateOptions::default()]), 0);
        for (left_ms, is_fair) in [(60, true), (30, true), (29, false), (1, false)] {
            let (leave, due_at) = admit(&gates, 0, left_ms).unwrap();
            assert_eq!(leave.is_fair(), is_fair, "{left_ms}");
            assert_eq!(due_at.since(NOW), Duration::from_millis(left_ms));
        }
    }

    #[test]
    fn one_in_twenty_bid_requests_waits_in_full_for_all() {
        let patience = PatienceOptions {
            lost_percent: 1,
            explore_percent: 5,
            calls_enough: 10,
        };
        let gates = Gates::new(
            &set(&[
                GateOptions {
                    patience: Some(patience),
                    ..GateOptions::default()
                },
                GateOptions::default(),
            ]),
            0,
        );
        for _ in 0..10 {
            let (leave, due_at) = admit(&gates, 0, 60).unwrap();
            assert_eq!(due_at.since(NOW), Duration::from_millis(60), "nothing is known");
            gates.heard(DspId(0), leave, Conduct::Good, NOW);
        }
        let wait = |dsp, left_ms, explores| {
            let due_at = NOW.after(Duration::from_millis(left_ms));
            let (leave, due_at) = gates.admit(DspId(dsp), NOW, due_at, explores).unwrap();
            (due_at.since(NOW).as_millis(), leave.is_cut())
        };
        // It has never won.
        assert_eq!(wait(0, 60, false), (15, true));
        assert_eq!(wait(0, 60, true), (60, false));
        // The deadline comes first; there is nothing to cut.
        assert_eq!(wait(0, 10, false), (10, false));
        assert_eq!(wait(1, 60, false), (60, false));
        let explore = (0..100).filter(|_| gates.explores()).count();
        assert_eq!(explore, 5);
        gates.meet(&set(&[GateOptions::default()]));
        assert_eq!((0..100).filter(|_| gates.explores()).count(), 0);
    }

    /// A reload: the gate of a DSP that is as it was goes on, any other begins anew.
    #[test]
    fn gates_go_on_over_a_reload() {
        let with = |open_ms| GateOptions {
            breaker: Some(BreakerOptions {
                open_min: Duration::from_millis(open_ms),
                ..breaker()
            }),
            ..GateOptions::default()
        };
        let gates = Gates::new(&set(&[with(100), with(100)]), 0);
        let (early, _) = admit(&gates, 1, 60).unwrap();
        for dsp in [0, 1] {
            for _ in 0..2 {
                let (leave, _) = admit(&gates, dsp, 60).unwrap();
                gates.heard(DspId(dsp), leave, Conduct::Bad, NOW);
            }
            assert_eq!(admit(&gates, dsp, 60), Err(NotAsked::OpenBreaker));
        }
        gates.meet(&set(&[with(100), with(50), with(100)]));
        let states = [0, 1, 2].map(|dsp| gates.breaker(DspId(dsp)).map(|(state, _)| state));
        let expected = [BreakerState::Open, BreakerState::Closed, BreakerState::Closed];
        assert_eq!(states, expected.map(Some));
        // A call from before says nothing.
        gates.heard(DspId(1), early, Conduct::Bad, NOW);
        gates.heard(DspId(1), early, Conduct::Bad, NOW);
        assert_eq!(gates.breaker(DspId(1)).unwrap().0, BreakerState::Closed);
        // Nor does one from before a configuration in which it had none.
        let (early, _) = admit(&gates, 1, 60).unwrap();
        gates.meet(&set(&[with(100), GateOptions::default()]));
        gates.meet(&set(&[with(100), with(50), with(100)]));
        gates.heard(DspId(1), early, Conduct::Bad, NOW);
        gates.heard(DspId(1), early, Conduct::Bad, NOW);
        assert_eq!(gates.breaker(DspId(1)).unwrap().0, BreakerState::Closed);
        // One that has left still has bid requests from before.
        gates.meet(&set(&[with(100)]));
        assert!(admit(&gates, 2, 60).is_ok());
    }
}
