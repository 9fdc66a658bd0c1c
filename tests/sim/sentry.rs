//! Stands beside the gates to the DSPs and judges them from the outside: by whom each bid request asked, how each call went
//! and what the options promise. It keeps lists where a gate keeps sums, and knows of a gate's state what metrics show.

use std::time::Duration;

use corebid::clock::Instant;
use corebid::fanout::{BreakerChanges, BreakerOptions, BreakerState, Conduct, GateOptions};

/// What happens to a probe's bid request may be that nobody hears of it again: so long after the DSP's time it is forgotten.
const PROBE_GRACE: Duration = Duration::from_secs(1);

const SECOND: Duration = Duration::from_secs(1);

/// One DSP's gate.
#[derive(Debug)]
pub(crate) struct Sentry {
    options: GateOptions,
    timeout: Duration,
    phase: Phase,
    /// Which phase a call was made in: it says nothing about another.
    era: u32,
    doublings: u32,
    closed_at: Option<Instant>,
    changes: BreakerChanges,
    /// Of all shards, in the order in which they were made.
    calls: Vec<Instant>,
    /// When another gate took the place of the one before.
    met_at: Instant,
    /// Calls that were not made, for the breaker's sake and for the cap's.
    pub(crate) blocked: u64,
    pub(crate) throttled: u64,
}

#[derive(Debug)]
enum Phase {
    /// When each call ended, and whether it had failed.
    Closed(Vec<(Instant, bool)>),
    Open {
        since: Instant,
        back_off: Duration,
    },
    HalfOpen {
        good: u32,
        bad: u32,
        /// Probes of which nobody knows yet.
        out: u32,
        last_at: Instant,
        /// Calls that were to be made since, while there was room for a probe.
        since: u32,
    },
}

/// What a call was made under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Era(u32);

impl Sentry {
    pub(crate) fn new(options: GateOptions, timeout: Duration, now: Instant) -> Self {
        Self {
            options,
            timeout,
            phase: Phase::Closed(Vec::new()),
            era: 0,
            doublings: 0,
            closed_at: None,
            changes: BreakerChanges::default(),
            calls: Vec::new(),
            met_at: now,
            blocked: 0,
            throttled: 0,
        }
    }

    /// A reload: a gate for which something has changed begins anew.
    pub(crate) fn meet(&mut self, options: &GateOptions, timeout: Duration, now: Instant) {
        if self.options != *options || self.timeout != timeout {
            let anew = Self::new(options.clone(), timeout, now);
            *self = Self {
                era: self.era + 1,
                calls: std::mem::take(&mut self.calls),
                blocked: self.blocked,
                throttled: self.throttled,
                ..anew
            };
        }
    }

    pub(crate) fn has_breaker(&self) -> bool {
        self.options.breaker.is_some()
    }

    /// From when on a timeout is a DSP's own fault.
    pub(crate) fn fair_time(&self) -> Duration {
        self.timeout / 2
    }

    /// How early a call may be given up on although its DSP has longer.
    pub(crate) fn check_cut(&self, waits: Duration, era: Era) {
        assert!(
            self.options.patience.is_some(),
            "who is not patient is waited for"
        );
        assert!(waits >= self.timeout / 8 * 2, "{waits:?} of {:?}", self.timeout);
        let is_probe = era.0 == self.era && matches!(self.phase, Phase::HalfOpen { .. });
        assert!(!is_probe, "a probe has all its time");
    }

    /// A bid request was planned: whether it asked this DSP, where that can be seen. `state` is what the breaker says now.
    pub(crate) fn planned(&mut self, asked: Option<bool>, state: BreakerState, now: Instant) -> Era {
        let may = self.may_ask(state, now);
        let is_capped = self.options.qps.is_some();
        match asked {
            Some(true) => assert!(may, "asked although {:?}", self.phase),
            Some(false) if may => {
                assert!(is_capped, "not asked although {:?}", self.phase);
                self.throttled += 1;
                // Had its calls per second: another probe may go in the place of this one.
                if let Phase::HalfOpen { out, .. } = &mut self.phase {
                    *out -= 1;
                }
            }
            Some(false) => self.blocked += 1,
            None => {
                assert!(!is_capped, "unknown who was asked");
                self.blocked += u64::from(!may);
            }
        }
        Era(self.era)
    }

    /// What a breaker has to say of a call that is to be made.
    fn may_ask(&mut self, state: BreakerState, now: Instant) -> bool {
        let Some(options) = self.options.breaker.clone() else {
            return true;
        };
        match &mut self.phase {
            Phase::Closed(_) => true,
            Phase::Open { since, back_off } => {
                let passed = now.since(*since);
                let tries = state == BreakerState::HalfOpen;
                assert!(
                    !tries || passed >= *back_off - *back_off / 4,
                    "tried after {passed:?} of {back_off:?}"
                );
                assert!(tries || passed < *back_off, "left alone for {passed:?}");
                if tries {
                    self.changes.half_opened += 1;
                    self.begin_round(now);
                }
                tries
            }
            Phase::HalfOpen {
                good,
                bad,
                out,
                last_at,
                since,
            } => {
                let quiet = now.since(*last_at);
                if *good + *bad + *out >= options.probes {
                    let is_lost = quiet >= self.timeout + PROBE_GRACE;
                    if is_lost {
                        self.begin_round(now);
                    }
                    return is_lost;
                }
                *since += 1;
                let is_due = *since * options.probe_percent >= 100 || quiet >= options.open_min;
                if is_due {
                    (*since, *last_at) = (0, now);
                    *out += 1;
                }
                is_due
            }
        }
    }

    /// With its first probe.
    fn begin_round(&mut self, now: Instant) {
        self.enter(Phase::HalfOpen {
            good: 0,
            bad: 0,
            out: 1,
            last_at: now,
            since: 0,
        });
    }

    fn enter(&mut self, phase: Phase) {
        self.era += 1;
        self.phase = phase;
    }

    /// A call that was made has ended at `at`. `state` is what the breaker says now.
    pub(crate) fn heard(&mut self, era: Era, conduct: Conduct, at: Instant, state: BreakerState) {
        let Some(options) = self.options.breaker.clone() else {
            return;
        };
        if era.0 != self.era {
            return;
        }
        match (&mut self.phase, conduct) {
            (Phase::Closed(_), Conduct::Unknown) | (Phase::Open { .. }, _) => {}
            (Phase::Closed(ended), conduct) => {
                ended.push((at, conduct == Conduct::Bad));
                let (may, must) = trips(ended, &options);
                let trips = state == BreakerState::Open;
                assert!(may || !trips, "open without a reason: {ended:?}");
                assert!(!must || trips, "closed in spite of {ended:?}");
                if trips {
                    let soon = self
                        .closed_at
                        .is_some_and(|closed| at.since(closed) < options.open_max);
                    self.doublings = if soon { self.doublings + 1 } else { 0 };
                    self.changes.tripped += 1;
                    self.open(&options, at);
                }
            }
            (Phase::HalfOpen { good, bad, out, .. }, conduct) => {
                *out -= 1;
                match conduct {
                    Conduct::Good => *good += 1,
                    Conduct::Bad => *bad += 1,
                    Conduct::Unknown => {}
                }
                // Of all probes so many would be enough to open it; it closes when they cannot come together any more.
                let enough = (1..=options.probes)
                    .find(|bad| bad * 100 >= options.probes * options.failure_percent)
                    .unwrap();
                if *bad >= enough {
                    self.doublings += 1;
                    self.open(&options, at);
                } else if options.probes - *good < enough {
                    self.enter(Phase::Closed(Vec::new()));
                    self.closed_at = Some(at);
                    self.changes.closed += 1;
                }
            }
        }
    }

    fn open(&mut self, options: &BreakerOptions, since: Instant) {
        let back_off = (0..self.doublings).fold(options.open_min, |back_off, _| back_off.saturating_mul(2));
        self.changes.opened += 1;
        self.enter(Phase::Open {
            since,
            back_off: back_off.min(options.open_max),
        });
    }

    /// The breaker says what is to be expected of all that is known.
    pub(crate) fn check(&mut self, said: Option<(BreakerState, BreakerChanges)>) -> BreakerChanges {
        let expected = match self.phase {
            Phase::Closed(_) => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        };
        let changes = std::mem::take(&mut self.changes);
        let expected = self.has_breaker().then_some((expected, changes));
        assert_eq!(said, expected, "{:?}", self.phase);
        changes
    }

    /// A call is made, by any of so many shards: within what the documentation says of any second.
    pub(crate) fn called(&mut self, now: Instant, shards: u64, reloaded_at: Instant) {
        let Some(cap) = self.options.qps.map(u64::from) else {
            return;
        };
        self.calls.push(now);
        let in_second = self.calls.iter().filter(|at| now.since(**at) < SECOND);
        let calls = in_second.count() as u64;
        let alone = cap + cap / 100 + 1;
        // What several have saved up comes to it, and where they begin anew a call each; a share that has been given away by
        // a reload is used on both sides for as long as it takes all shards to see it, which is no time here.
        let saved = cap / 20 + 5 * shards;
        let fresh = now.since(self.met_at.min(reloaded_at)) < SECOND;
        let most = if shards == 1 && !fresh {
            alone
        } else {
            alone + saved + shards
        };
        assert!(calls <= most, "{calls} calls in a second, of {cap}, by {shards}");
    }

    /// The longest that it may take until it is closed, once its DSP works, nothing is under way, and calls come after
    /// pauses as long as the first: that, and then so many calls with the second before each.
    pub(crate) fn recovers(&self) -> (Duration, Duration, u32) {
        let Some(options) = &self.options.breaker else {
            return (Duration::ZERO, Duration::ZERO, 0);
        };
        let pause = options.open_max.max(self.timeout + PROBE_GRACE);
        (pause, options.open_min, options.probes)
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed(_))
    }
}

/// Whether calls that ended so may open a breaker, and whether they must: how far back it looks is exact to a tenth. It is
/// a failure that opens it, and no success after which there are fewer calls than before.
fn trips(ended: &[(Instant, bool)], options: &BreakerOptions) -> (bool, bool) {
    if ended.last().is_none_or(|(_, bad)| !bad) {
        return (false, false);
    }
    let in_a_row = ended.iter().rev().take_while(|(_, bad)| *bad).count() as u64;
    if in_a_row >= u64::from(options.consecutive_failures) {
        return (true, true);
    }
    // A call that ended before another that was heard of earlier counts as if it had ended with that one.
    let mut latest = ended[0].0;
    let counted: Vec<(Instant, bool)> = ended
        .iter()
        .map(|&(at, bad)| {
            latest = latest.max(at);
            (latest, bad)
        })
        .collect();
    let surely = counted
        .iter()
        .filter(|(at, _)| latest.since(*at) < options.window / 10 * 9);
    let perhaps = counted
        .iter()
        .filter(|(at, _)| latest.since(*at) <= options.window);
    let (surely, perhaps) = (surely.count(), perhaps.count());
    let (mut may, mut must) = (false, true);
    for looks_at in surely..=perhaps {
        let recent = &counted[counted.len() - looks_at..];
        let bad = recent.iter().filter(|(_, bad)| *bad).count() as u64;
        let trips = recent.len() as u64 >= u64::from(options.calls_min)
            && bad * 100 >= recent.len() as u64 * u64::from(options.failure_percent);
        may |= trips;
        must &= trips;
    }
    (may, must)
}
