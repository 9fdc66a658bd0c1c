//! Whether a DSP is worth asking: one that fails again and again is left alone for a while, then asked with a few calls
//! until it is known whether it does again. Takes `now` and how calls went; knows no clock, no connection and no answer.
//!
//! Closed, every call is made. It opens when calls fail one after another, or too many of those of the last while.
//! Open, none is made, for a back-off that doubles from one opening to the next up to a bound. Half open, a round of a
//! few calls is made as probes; what becomes of them closes it, or opens it again.

use std::time::Duration;

use crate::clock::Instant;

/// When to open, for how long, and how to close again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerOptions {
    /// It opens when so many calls in a row have failed.
    pub consecutive_failures: u32,
    /// It opens when of the calls in `window` so many of a hundred have failed.
    pub failure_percent: u32,
    /// How far back the failure rate looks.
    pub window: Duration,
    /// Fewer calls in the window than this say nothing about a rate.
    pub calls_min: u32,
    /// The first back-off.
    pub open_min: Duration,
    /// The longest one.
    pub open_max: Duration,
    /// Half open, so many of a hundred calls are probes.
    pub probe_percent: u32,
    /// Probes in a round.
    pub probes: u32,
}

/// What a breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// All calls.
    Closed,
    /// None.
    Open,
    /// A few, to see.
    HalfOpen,
}

/// How a DSP has conducted itself in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conduct {
    /// It answered; that it does not bid is an answer.
    Good,
    /// It failed.
    Bad,
    /// The call says nothing about it: it was not made, or did not have the time that the DSP may count on.
    Unknown,
}

/// Leave to make a call, to be handed back with how it went. One that is never handed back costs nothing but itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pass {
    /// Counts the breaker's changes of state: what was let through before one says nothing after it.
    era: u16,
    pub(super) is_probe: bool,
}

/// How often a breaker came to each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BreakerChanges {
    /// To [`BreakerState::Closed`].
    pub closed: u64,
    /// To [`BreakerState::Open`].
    pub opened: u64,
    /// Of those, how often from [`BreakerState::Closed`].
    pub tripped: u64,
    /// To [`BreakerState::HalfOpen`].
    pub half_opened: u64,
}

/// A probe that has not been heard of for this much longer than its DSP may take is not coming back: its bid request
/// has been given up.
const PROBE_GRACE: Duration = Duration::from_secs(1);

/// One DSP's, on one shard.
#[derive(Debug)]
pub(super) struct Breaker {
    options: BreakerOptions,
    /// How long a probe may take.
    answer_max: Duration,
    state: State,
    era: u16,
    /// Failures since the last success, while closed.
    consecutive: u32,
    recent: Recent,
    /// Openings that came so soon after one another that each doubles the back-off.
    doublings: u32,
    closed_at: Option<Instant>,
    /// For the jitter: differs from breaker to breaker, and changes with each opening.
    seed: u64,
    changes: BreakerChanges,
}

#[derive(Debug)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen(Round),
}

/// Probes of which it is not known yet what they say together.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// Under way, or over.
    started: u32,
    good: u32,
    bad: u32,
    /// Grows by the probes' share with each call; at a hundred a probe is due.
    credit: u32,
    last_at: Instant,
}

impl Breaker {
    /// A closed breaker for a DSP that may take `timeout` to answer, in the place of one that had come to `era_before`, whose
    /// calls may still be under way; of 0 where there was none, which is what calls without a breaker have.
    pub(super) fn new(options: BreakerOptions, timeout: Duration, seed: u64, era_before: u16) -> Self {
        Self {
            answer_max: timeout.saturating_add(PROBE_GRACE),
            state: State::Closed,
            era: era_before.wrapping_add(1),
            consecutive: 0,
            recent: Recent::new(options.window),
            doublings: 0,
            closed_at: None,
            seed,
            changes: BreakerChanges::default(),
            options,
        }
    }

    pub(super) fn era(&self) -> u16 {
        self.era
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen(_) => BreakerState::HalfOpen,
        }
    }

    /// How often it has changed since this was asked last.
    pub(super) fn take_changes(&mut self) -> BreakerChanges {
        std::mem::take(&mut self.changes)
    }

    /// Whether a call may be made now.
    pub(super) fn admit(&mut self, now: Instant) -> Option<Pass> {
        match &mut self.state {
            State::Closed => Some(Pass {
                era: self.era,
                is_probe: false,
            }),
            State::Open { until } if now < *until => None,
            State::Open { .. } => {
                self.begin_round(now);
                self.changes.half_opened += 1;
                self.probe(now)
            }
            State::HalfOpen(_) => self.probe(now),
        }
    }

    /// What became of a call that was let through.
    pub(super) fn heard(&mut self, pass: Pass, conduct: Conduct, now: Instant) {
        if pass.era != self.era {
            return;
        }
        match (&mut self.state, conduct) {
            (State::Closed, Conduct::Good) => {
                self.consecutive = 0;
                self.recent.add(false, now);
            }
            (State::Closed, Conduct::Bad) => {
                self.consecutive += 1;
                self.recent.add(true, now);
                if self.consecutive >= self.options.consecutive_failures
                    || self
                        .recent
                        .fail(self.options.calls_min, self.options.failure_percent)
                {
                    self.trip(now);
                }
            }
            (State::HalfOpen(round), Conduct::Good) => round.good += 1,
            (State::HalfOpen(round), Conduct::Bad) => round.bad += 1,
            // Another one may go in its place.
            (State::HalfOpen(round), Conduct::Unknown) => round.started -= 1,
            (State::Closed, Conduct::Unknown) | (State::Open { .. }, _) => {}
        }
        self.end_round(now);
    }

    /// Half open: the first call is a probe, then one in so many, and one after each while in which there were not that
    /// many calls; but no more than make a round.
    fn probe(&mut self, now: Instant) -> Option<Pass> {
        let State::HalfOpen(round) = &mut self.state else {
            return None;
        };
        let quiet = now.since(round.last_at);
        if round.started >= self.options.probes {
            if quiet < self.answer_max {
                return None;
            }
            // Some are not coming back, and what the others say is old.
            self.begin_round(now);
            return self.probe(now);
        }
        round.credit += self.options.probe_percent;
        if round.credit < 100 && quiet < self.options.open_min {
            return None;
        }
        round.credit = 0;
        round.started += 1;
        round.last_at = now;
        Some(Pass {
            era: self.era,
            is_probe: true,
        })
    }

    fn begin_round(&mut self, now: Instant) {
        self.enter(State::HalfOpen(Round {
            started: 0,
            good: 0,
            bad: 0,
            credit: 100,
            last_at: now,
        }));
    }

    /// Ends a round as soon as the probes that are still out cannot change what it says.
    fn end_round(&mut self, now: Instant) {
        let State::HalfOpen(round) = self.state else {
            return;
        };
        let bad_enough = (self.options.probes * self.options.failure_percent)
            .div_ceil(100)
            .max(1);
        if round.bad >= bad_enough {
            self.doublings += 1;
            self.open(now);
        } else if round.good > self.options.probes - bad_enough {
            self.close(now);
        }
    }

    /// Opens a closed one. If it was closed only just before, as with a DSP that comes and goes, the back-off goes on
    /// where it was.
    fn trip(&mut self, now: Instant) {
        let soon = self
            .closed_at
            .is_some_and(|at| now.since(at) < self.options.open_max);
        self.doublings = if soon { self.doublings + 1 } else { 0 };
        self.changes.tripped += 1;
        self.open(now);
    }

    fn open(&mut self, now: Instant) {
        let wait = self.back_off();
        self.enter(State::Open {
            until: now.after(wait),
        });
        self.changes.opened += 1;
    }

    fn close(&mut self, now: Instant) {
        self.enter(State::Closed);
        self.closed_at = Some(now);
        self.consecutive = 0;
        self.recent = Recent::new(self.options.window);
        self.changes.closed += 1;
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.era = self.era.wrapping_add(1);
    }

    /// Between three quarters and the whole of what the doublings come to, so that shards, and DSPs behind the same
    /// failure, do not try again at the same moment.
    fn back_off(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.doublings).unwrap_or(u32::MAX);
        let whole = self
            .options
            .open_min
            .saturating_mul(factor)
            .min(self.options.open_max);
        self.seed = mixed(self.seed);
        whole - whole / 4 * u32::from(self.seed.to_le_bytes()[0]) / 256
    }
}

/// One step of SplitMix64.
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A window is counted in so many parts, of which the oldest is forgotten at once: a tenth is as exact as it need be.
const PARTS: usize = 10;

/// Calls in a window, and how many of them failed.
#[derive(Debug)]
struct Recent {
    parts: [Part; PARTS],
    current: usize,
    /// When the current part is over. Compared on the path instead of a division.
    ends_at: Instant,
    part: Duration,
    sum: Part,
}

#[derive(Debug, Clone, Copy, Default)]
struct Part {
    calls: u32,
    bad: u32,
}

impl Recent {
    fn new(window: Duration) -> Self {
        Self {
            parts: [Part::default(); PARTS],
            current: 0,
            ends_at: Instant::from_nanos(0),
            part: window / 10,
            sum: Part::default(),
        }
    }

    fn add(&mut self, is_bad: bool, now: Instant) {
        if now >= self.ends_at {
            self.move_on(now);
        }
        for part in [&mut self.parts[self.current], &mut self.sum] {
            part.calls += 1;
            part.bad += u32::from(is_bad);
        }
    }

    fn fail(&self, calls_min: u32, percent: u32) -> bool {
        let Part { calls, bad } = self.sum;
        calls >= calls_min && u64::from(bad) * 100 >= u64::from(calls) * u64::from(percent)
    }

    fn move_on(&mut self, now: Instant) {
        for _ in 0..PARTS {
            self.current = (self.current + 1) % PARTS;
            let gone = std::mem::take(&mut self.parts[self.current]);
            self.sum.calls -= gone.calls;
            self.sum.bad -= gone.bad;
            self.ends_at = self.ends_at.after(self.part);
            if now < self.ends_at {
                return;
            }
        }
        // Nothing for a whole window.
        self.ends_at = now.after(self.part);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Instant = Instant::from_nanos(1_000_000_000_000);
    const TIMEOUT: Duration = Duration::from_millis(60);

    /// The defaults of the configuration.
    fn options() -> BreakerOptions {
        BreakerOptions {
            consecutive_failures: 20,
            failure_percent: 50,
            window: ms(10_000),
            calls_min: 20,
            open_min: ms(250),
            open_max: ms(10_000),
            probe_percent: 5,
            probes: 5,
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Calls that end before the next one is made, `b`ad, `g`ood or `u`nknown, each as often as the number before it
    /// says and `gap` after the last; `~` waits for a second.
    fn play(breaker: &mut Breaker, now: &mut Instant, gap: Duration, script: &str) {
        for word in script.split_whitespace() {
            let (times, what) = word.split_at(word.len() - 1);
            for _ in 0..times.parse().unwrap_or(1) {
                let conduct = match what {
                    "g" => Conduct::Good,
                    "b" => Conduct::Bad,
                    "u" => Conduct::Unknown,
                    _ => {
                        *now = now.after(ms(1_000));
                        continue;
                    }
                };
                *now = now.after(gap);
                if let Some(pass) = breaker.admit(*now) {
                    breaker.heard(pass, conduct, *now);
                }
            }
        }
    }

    #[track_caller]
    fn check(script: &str, expected: BreakerState) {
        let mut breaker = Breaker::new(options(), TIMEOUT, 7, 0);
        play(&mut breaker, &mut START.after(ms(0)), ms(1), script);
        assert_eq!(breaker.state(), expected, "{script}: {breaker:?}");
    }

    #[test]
    fn opens_and_closes() {
        use BreakerState::{Closed, HalfOpen, Open};
        // In a row: the twentieth, however good it was before.
        check("1000g 19b", Closed);
        check("1000g 20b", Open);
        check("1000g 19b g 19b", Closed);
        check("1000g 19b 9u b", Open);
        // One of two is half of them, and says nothing.
        check("g b", Closed);
        check("9g 9b", Closed);
        // Half of enough are; fewer are not.
        check("10g 10b", Open);
        check("11g 10b", Closed);
        check("510g 8~ 19b g 19b g 19b g 19b g", Closed);
        // What is older than the window counts no more.
        check("510g 11~ 10g 10b", Open);
        check("9b g 11~ 10b", Closed);
        check("9b g 5~ 4b 5~ 6b", Closed);
        check("9b g 5~ 4b 4~ 6b", Open);
        // What says nothing is nothing.
        check("1000u", Closed);
        // It is left alone, then tried. Three of five say how it is.
        check("20b 100g", Open);
        check("20b ~ g", HalfOpen);
        check("20b ~ 60g", Closed);
        check("20b ~ b 19g b 19g g 19g g 19g", HalfOpen);
        check("20b ~ b 19g b 19g g 19g g 19g g", Closed);
        check("20b ~ 60b", Open);
        check("20b ~ 100u", HalfOpen);
        // Its failures before that are forgotten.
        check("20b ~ 60g 10b", Closed);
        check("20b ~ 60g 20b", Open);
    }

    #[test]
    fn one_in_twenty_is_a_probe_and_a_round_has_five() {
        let mut breaker = Breaker::new(options(), TIMEOUT, 7, 0);
        let mut now = START;
        play(&mut breaker, &mut now, ms(1), "20b ~");
        let probes: Vec<_> = (0..2_000)
            .filter(|n| {
                now = now.after(Duration::from_micros(100));
                let pass = breaker.admit(now);
                assert!(pass.is_none_or(|pass| pass.is_probe), "{n}");
                pass.is_some()
            })
            .collect();
        assert_eq!(probes, [0, 20, 40, 60, 80]);
        // Nobody hears of them. They have not the whole life of the breaker for that.
        let lost = now.after(TIMEOUT + PROBE_GRACE);
        assert!(breaker.admit(lost).is_some_and(|pass| pass.is_probe));
        // Where there are few calls, one in a back-off.
        let quiet: Vec<_> = (1..=8)
            .map(|n| breaker.admit(lost.after(ms(n * 100))).is_some())
            .collect();
        assert_eq!(quiet, [false, false, true, false, false, true, false, false]);
    }

    #[test]
    fn what_was_let_through_before_says_nothing_after() {
        let mut breaker = Breaker::new(options(), TIMEOUT, 7, 0);
        let mut now = START;
        let early: Vec<_> = (0..50).filter_map(|_| breaker.admit(now)).collect();
        play(&mut breaker, &mut now, ms(1), "20b");
        for pass in &early[..40] {
            breaker.heard(*pass, Conduct::Good, now);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        play(&mut breaker, &mut now, ms(1), "~ 60g");
        for pass in &early[40..] {
            breaker.heard(*pass, Conduct::Bad, now);
        }
        assert_eq!((breaker.state(), breaker.consecutive), (BreakerState::Closed, 0));
    }

    /// For how long each opening lets no call through, of a DSP that is gone, or that works after each for a moment.
    fn back_offs(seed: u64, comes_back: bool) -> Vec<u64> {
        let mut breaker = Breaker::new(options(), TIMEOUT, seed, 0);
        let mut now = START;
        let mut waits = Vec::new();
        for _ in 0..9 {
            while breaker.state() != BreakerState::Open {
                play(&mut breaker, &mut now, ms(1), "b");
            }
            let opened = now;
            while breaker.admit(now).is_none() {
                now = now.after(ms(1));
            }
            waits.push(u64::try_from(now.since(opened).as_millis()).unwrap());
            while comes_back && breaker.state() != BreakerState::Closed {
                play(&mut breaker, &mut now, ms(1), "g");
            }
        }
        waits
    }

    #[test]
    fn the_back_off_doubles_up_to_its_bound_and_is_jittered_by_the_seed() {
        let wholes = [250, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000, 10_000];
        for seed in 0..50 {
            // One that comes and goes is left alone for as long as one that is gone.
            for comes_back in [false, true] {
                let waits = back_offs(seed, comes_back);
                for (wait, whole) in waits.iter().zip(wholes) {
                    assert!((whole * 3 / 4..=whole + 1).contains(wait), "{waits:?}");
                }
            }
        }
        assert_eq!(back_offs(3, false), back_offs(3, false));
        assert_ne!(back_offs(3, false), back_offs(4, false));
    }

    #[test]
    fn after_a_good_while_the_back_off_begins_anew() {
        let mut breaker = Breaker::new(options(), TIMEOUT, 7, 0);
        let mut now = START;
        play(&mut breaker, &mut now, ms(1), "20b ~ 60g 20b ~ 60g 10~");
        play(&mut breaker, &mut now, ms(1), "20b");
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(breaker.admit(now.after(ms(251))).is_some());
        assert_eq!(
            breaker.take_changes(),
            BreakerChanges {
                closed: 2,
                opened: 3,
                tripped: 3,
                half_opened: 3,
            }
        );
        assert_eq!(breaker.take_changes(), BreakerChanges::default());
    }

    /// A DSP in virtual time: calls come at a steady rate, their ends some time later.
    struct World {
        breaker: Breaker,
        now: Instant,
        gap: Duration,
        takes: Duration,
        /// Of a hundred bid requests so many are given up before their calls end.
        given_up: u64,
        calls: u64,
        ends: Vec<(Instant, Pass, Conduct)>,
        /// Bad ends in a row, as an outsider counts them while it is closed.
        in_a_row: u32,
        opened: Vec<(Instant, u32)>,
        probes: Vec<Instant>,
    }

    impl World {
        /// Lets calls be made and end for some time, during which the DSP works or does not.
        fn run(&mut self, lasts: Duration, works: bool) {
            let until = self.now.after(lasts);
            while self.now < until {
                self.now = self.now.after(self.gap);
                self.end_calls();
                let before = self.breaker.state();
                let pass = self.breaker.admit(self.now);
                match (before, pass) {
                    (BreakerState::Closed, pass) => assert!(pass.is_some_and(|pass| !pass.is_probe)),
                    (_, Some(pass)) => {
                        assert!(pass.is_probe && self.breaker.state() == BreakerState::HalfOpen);
                        self.probes.push(self.now);
                    }
                    (_, None) => {}
                }
                self.calls += 1;
                if let Some(pass) = pass.filter(|_| self.calls * 37 % 100 >= self.given_up) {
                    let conduct = if works { Conduct::Good } else { Conduct::Bad };
                    self.ends.push((self.now.after(self.takes), pass, conduct));
                }
            }
        }

        fn end_calls(&mut self) {
            let now = self.now;
            for (_, pass, conduct) in self.ends.extract_if(.., |(at, ..)| *at <= now) {
                let before = self.breaker.state();
                let counts = before == BreakerState::Closed && pass.era == self.breaker.era;
                self.breaker.heard(pass, conduct, now);
                if counts {
                    self.in_a_row = if conduct == Conduct::Bad {
                        self.in_a_row + 1
                    } else {
                        0
                    };
                    assert!(
                        self.in_a_row <= self.breaker.options.consecutive_failures,
                        "trips within them"
                    );
                }
                if self.breaker.state() == BreakerState::Open && before != BreakerState::Open {
                    self.opened.push((now, self.breaker.doublings));
                    self.in_a_row = 0;
                }
            }
        }
    }

    fn any_options() -> impl Strategy<Value = BreakerOptions> {
        let counts = (1..30_u32, 1..=100_u32, 1..50_u32, 1..=100_u32, 1..12_u32);
        (counts, 100..10_000_u64, 1..500_u64, 1..20_u64).prop_map(|(counts, window, open, times)| {
            let (consecutive_failures, failure_percent, calls_min, probe_percent, probes) = counts;
            BreakerOptions {
                consecutive_failures,
                failure_percent,
                window: ms(window),
                calls_min,
                open_min: ms(open),
                open_max: ms(open * times),
                probe_percent,
                probes,
            }
        })
    }

    proptest! {
        /// Whatever the options, however the DSP comes and goes.
        #[test]
        fn keeps_its_promises(
            options in any_options(),
            (gap_us, takes_ms, given_up, seed) in (100..5_000_u64, 0..60_u64, 0..60_u64, any::<u64>()),
            phases in prop::collection::vec((any::<bool>(), 1..2_000_u64), 1..12),
        ) {
            let mut world = World {
                breaker: Breaker::new(options.clone(), TIMEOUT, seed, 0),
                now: START,
                gap: Duration::from_micros(gap_us),
                takes: ms(takes_ms),
                given_up,
                calls: 0,
                ends: Vec::new(),
                in_a_row: 0,
                opened: Vec::new(),
                probes: Vec::new(),
            };
            for (works, lasts) in phases {
                world.run(ms(lasts), works);
            }
            // It does not open more often than its back-off allows.
            for pair in world.opened.windows(2) {
                let ((first, doublings), (second, _)) = (pair[0], pair[1]);
                let whole = options.open_min.saturating_mul(1 << doublings.min(20)).min(options.open_max);
                prop_assert!(second.since(first) >= whole / 4 * 3, "{:?} {:?}", world.opened, options);
            }
            // Probes: between two openings no more than rounds make, and no more than their share or the quiet allow.
            let rounds = |from: Instant, to: Instant| 1 + to.since(from).as_millis() / (TIMEOUT + PROBE_GRACE).as_millis();
            let ends = world.opened.iter().skip(1).map(|(at, _)| *at).chain([world.now]);
            for ((from, _), to) in world.opened.iter().zip(ends) {
                let probes: Vec<_> = world.probes.iter().filter(|at| *from < **at && **at <= to).collect();
                let most = u128::from(options.probes) * rounds(*from, to);
                prop_assert!(probes.len() as u128 <= most, "{} > {most}", probes.len());
                let calls = to.since(*from).as_nanos() / world.gap.as_nanos() + 1;
                let by_share = rounds(*from, to) + calls * u128::from(options.probe_percent) / 100
                    + to.since(*from).as_nanos() / options.open_min.as_nanos();
                prop_assert!(probes.len() as u128 <= by_share, "{} > {by_share}", probes.len());
            }
            // Once the DSP works for good it is asked again: after the longest back-off, and a round or, where some of
            // it was given up, a few.
            world.given_up = 0;
            let round = ms(takes_ms) + world.gap
                + options.open_min.min(world.gap * 100 / options.probe_percent + world.gap) * options.probes;
            world.run(ms(takes_ms) + options.open_max + (round + TIMEOUT + PROBE_GRACE) * 2, true);
            prop_assert_eq!(world.breaker.state(), BreakerState::Closed, "{:?}", world.breaker);
        }
    }
}
