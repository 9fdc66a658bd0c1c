//! One world: its clock, its exchange, its SSPs, and what is checked of every request.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use corebid::auction::{FloorRule, Rules};
use corebid::clock::{Instant, TICK, Timers};
use corebid::fanout::{
    BreakerOptions, Conduct, DspId, DspOptions, DspSet, Fanout, GateOptions, Gatherings, MilliQps,
    PatienceOptions, Protocol, Target,
};
use corebid::money::{Cpm, Currency, RateTable};
use corebid::openrtb::{Invalid, Validation};
use corebid::orchestration::{Options, Orchestrator, Outcome, Panicked, isolate};
use corebid::shard::{GateKeeper, Quotas};
use corebid::telemetry::{self, Merged, Recorder, Roster, prometheus};

use crate::bidding::Asked;
use crate::chance::Chance;
use crate::network::{Arrived, End, Network, Seen};
use crate::sentry::{Era, Sentry};
use crate::trace::Trace;
use crate::twin;

/// A clock that begins at zero would hide a subtraction too many.
pub(crate) fn beginning() -> Instant {
    Instant::from_nanos(0).after(Duration::from_secs(1000))
}

const MARGIN: Duration = Duration::from_millis(3);

/// How often shards settle their shares of caps.
const CARE_INTERVAL: Duration = Duration::from_millis(50);

/// What happened in all, so that a test which tests nothing is noticed.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    sold: u64,
    nothing_sold: u64,
    panicked: u64,
    hung_up: u64,
    late: u64,
    retried: u64,
    distrusted: u64,
    ended_by_deadline: u64,
    reloaded: u64,
    refused: u64,
    counted: u64,
    tripped: u64,
    opened_again: u64,
    closed: u64,
    probed: u64,
    blocked: u64,
    throttled: u64,
    cut: u64,
    /// Of all worlds together.
    trace: u64,
}

impl Tally {
    pub(crate) fn each(self) -> [(&'static str, u64); 18] {
        [
            ("sold", self.sold),
            ("nothing sold", self.nothing_sold),
            ("a panic", self.panicked),
            ("hung up", self.hung_up),
            ("a late answer", self.late),
            ("a retry", self.retried),
            ("a wrong id", self.distrusted),
            ("a deadline", self.ended_by_deadline),
            ("a reload", self.reloaded),
            ("a refusal", self.refused),
            ("calls counted", self.counted),
            ("a breaker open", self.tripped),
            ("a breaker open again", self.opened_again),
            ("a breaker closed", self.closed),
            ("a probe", self.probed),
            ("an open breaker in the way", self.blocked),
            ("a cap in the way", self.throttled),
            ("a call cut short", self.cut),
        ]
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.sold += other.sold;
        self.nothing_sold += other.nothing_sold;
        self.panicked += other.panicked;
        self.hung_up += other.hung_up;
        self.late += other.late;
        self.retried += other.retried;
        self.distrusted += other.distrusted;
        self.ended_by_deadline += other.ended_by_deadline;
        self.reloaded += other.reloaded;
        self.refused += other.refused;
        self.counted += other.counted;
        self.tripped += other.tripped;
        self.opened_again += other.opened_again;
        self.closed += other.closed;
        self.probed += other.probed;
        self.blocked += other.blocked;
        self.throttled += other.throttled;
        self.cut += other.cut;
        self.trace = self.trace.wrapping_add(other.trace);
    }

    pub(crate) fn trace(self) -> u64 {
        self.trace
    }
}

type Exchange = Orchestrator<Rc<Network>>;
type Answer = Result<Result<Outcome, Invalid>, Panicked>;

/// A request from its arrival to its answer.
struct Request {
    asked: Asked,
    arrival: Instant,
    deadline: Instant,
    rules: Rules,
    hangs_up_at: Option<Instant>,
    /// Whom the configuration that it met asks, with how long each may take.
    dsps: Rc<[(usize, Duration)]>,
    /// By DSP: calls that its gate has not heard of. None before it is known whom it asks.
    calls: Option<Vec<(usize, Watched)>>,
    woken: Arc<Flag>,
    task: Pin<Box<dyn Future<Output = Answer>>>,
}

/// A call, as far as it concerns the DSP's gate.
#[derive(Debug, Clone, Copy)]
struct Watched {
    era: Era,
    started: Instant,
    due_at: Instant,
    /// It may be given up on before the DSP's time is over, or has too little of it: then that says nothing.
    is_fair: bool,
}

impl Watched {
    /// What it says of the DSP that it did not answer until `at`.
    fn timeout(self, at: Instant) -> Conduct {
        let had = self.due_at.since(self.started);
        // Looked at so late it is our own fault.
        if self.is_fair && at.since(self.due_at) <= had / 4 {
            Conduct::Bad
        } else {
            Conduct::Unknown
        }
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) struct World {
    seed: u64,
    trace: Rc<Trace>,
    chance: Chance,
    clock: Rc<Cell<Instant>>,
    alarm: Rc<Cell<Instant>>,
    timers: Rc<Timers>,
    gatherings: Rc<Gatherings>,
    network: Rc<Network>,
    recorder: Rc<Recorder>,
    merged: Merged,
    /// The one that new requests meet.
    exchange: Option<(Rc<Exchange>, Rules, Duration)>,
    /// Whom it asks.
    asks: Rc<[(usize, Duration)]>,
    /// By DSP, as they are as long as nobody changes them.
    options: Vec<DspOptions>,
    /// Looks after the gates of this shard, and of others that have nothing but a part in the caps.
    keeper: Option<GateKeeper>,
    neighbours: Vec<GateKeeper>,
    /// By the position of a DSP among those that are asked.
    quotas: Arc<Quotas>,
    sentries: Vec<Sentry>,
    /// Whether DSPs have anything at their gates, and whether any has a cap.
    is_gated: bool,
    is_capped: bool,
    settles_at: Instant,
    reloaded_at: Instant,
    arrived: usize,
    /// Those that have been reloaded away finish what they have.
    former: Vec<Weak<Exchange>>,
    dsps: usize,
    requests: Vec<Request>,
    /// Turns of this world may take so long.
    stall_max: Duration,
    tally: Tally,
}

impl World {
    pub(crate) fn new(seed: u64, tells: bool) -> Self {
        let mut chance = Chance::new(seed);
        let clock = Rc::new(Cell::new(beginning()));
        let trace = Rc::new(Trace::new(tells));
        let alarm = Rc::new(Cell::new(Instant::FAR_FUTURE));
        let (reads, rings) = (Rc::clone(&clock), Rc::clone(&alarm));
        let timers = Timers::new(move || reads.get(), move |at| rings.set(at));
        let gatherings = Rc::new(Gatherings::default());
        let dsps = chance.index(8) + 1;
        let network = Network::new(
            Chance::new(seed ^ 0x5eed),
            dsps,
            Rc::clone(&clock),
            Rc::clone(&gatherings),
            Rc::clone(&trace),
        );
        let roster = Roster::new((0..dsps).map(|dsp| format!("dsp{dsp}")).collect(), "USD");
        let (recorders, merged) = telemetry::channel(1);
        let is_gated = chance.permille(400);
        let is_capped = is_gated && chance.permille(400);
        let mut world = Self {
            seed,
            trace,
            asks: Rc::new([]),
            options: Vec::new(),
            keeper: None,
            neighbours: Vec::new(),
            quotas: Arc::new(Quotas::new(&[], 1)),
            sentries: Vec::new(),
            is_gated,
            is_capped,
            settles_at: clock.get(),
            reloaded_at: clock.get(),
            arrived: 0,
            stall_max: match chance.below(4) {
                0 => Duration::from_millis(20),
                1 => Duration::from_millis(1),
                _ => Duration::ZERO,
            },
            chance,
            clock,
            alarm,
            timers,
            gatherings,
            network: Rc::new(network),
            recorder: Rc::new(recorders.recorder(0, &Arc::new(roster))),
            merged,
            exchange: None,
            former: Vec::new(),
            dsps,
            requests: Vec::new(),
            tally: Tally::default(),
        };
        if is_capped {
            // Nobody can see whether a call was made that would have come after one that made us panic.
            world.network.without_panics();
        }
        world.options = (0..dsps).map(|dsp| world.dsp_options(dsp)).collect();
        world.reload();
        world
    }

    /// Plays until the last request is answered and the last call has ended.
    pub(crate) fn play(mut self) -> Tally {
        let (most, lasts_us) = match (self.is_gated, self.chance.below(4)) {
            (false, _) => (12, 100_000),
            (true, 0) => (60, 4_000_000),
            (true, _) => (60, 400_000),
        };
        if self.is_gated {
            self.draw_outages(lasts_us);
        }
        let mut arrivals: Vec<Instant> = (0..self.chance.between(1, most))
            .map(|_| self.now().after(self.chance.micros(0, lasts_us)))
            .collect();
        loop {
            let now = self.now();
            while let Some(due) = arrivals.iter().position(|at| *at <= now) {
                arrivals.swap_remove(due);
                if self.chance.permille(if self.is_gated { 30 } else { 100 }) {
                    self.reload();
                }
                let asked = Asked::draw(&mut self.chance, self.arrived);
                self.arrive(asked);
            }
            if !self.go_on(arrivals.iter().min().copied()) {
                break;
            }
        }
        if self.is_gated {
            self.check_that_all_are_asked_again();
        }
        self.check_that_nothing_is_left()
    }

    /// Until the next thing happens. False when nothing does any more.
    fn go_on(&mut self, arrival: Option<Instant>) -> bool {
        if self.run_whoever_can() {
            return true;
        }
        let hang_up = self.requests.iter().filter_map(|r| r.hangs_up_at).min();
        let alarm = Some(self.alarm.get()).filter(|at| *at != Instant::FAR_FUTURE);
        let next = [arrival, self.network.next_at(), alarm, hang_up];
        let Some(mut next) = next.into_iter().flatten().min() else {
            return false;
        };
        if self.is_capped {
            next = next.min(self.settles_at);
        }
        self.turn(next.max(self.now()));
        true
    }

    fn draw_outages(&mut self, lasts_us: u64) {
        for dsp in 0..self.dsps {
            if self.chance.permille(500) {
                let from = self.now().after(self.chance.micros(0, lasts_us));
                let until = from.after(self.chance.micros(0, lasts_us));
                self.network.breaks(dsp, from, until);
            }
        }
    }

    /// All DSPs work from now on: within the time that their options come to each is asked by every request again.
    fn check_that_all_are_asked_again(&mut self) {
        assert!(!self.network.is_busy() && self.requests.is_empty());
        self.network.mend();
        self.stall_max = Duration::ZERO;
        let (mut pause, mut gap, mut calls) = (Duration::ZERO, Duration::ZERO, 0);
        for &(dsp, _) in &*self.asks {
            let (its_pause, its_gap, its_calls) = self.sentries[dsp].recovers();
            (pause, gap, calls) = (pause.max(its_pause), gap.max(its_gap), calls.max(its_calls));
        }
        if self.is_capped {
            // Probes that a cap does not hold up.
            gap = gap.max(Duration::from_secs(1));
        }
        // What is left of a round in which some were given up, and one of its own.
        for _ in 0..2 {
            self.idle(pause);
            for _ in 0..calls {
                self.idle(gap);
                self.ask();
            }
        }
        for &(dsp, _) in &*Rc::clone(&self.asks) {
            let sentry = &self.sentries[dsp];
            assert!(sentry.is_closed(), "dsp{dsp} works: {sentry:?}");
        }
        // Its gate asserts that with nothing in its way every one is asked; a cap that has rested is not. Half a second until
        // neighbours that wanted all of it hold no more than their parts (decision 0020), and a call of 2 a second of which a third
        // is ours comes to 1.5.
        self.idle(Duration::from_millis(2_500));
        let before = self.network.calls.borrow().clone();
        self.ask();
        let after = self.network.calls.borrow();
        for &(dsp, _) in &*self.asks {
            assert_eq!(after[dsp], before[dsp] + 1, "dsp{dsp} is asked again");
        }
    }

    /// Nobody asks for some time.
    fn idle(&mut self, lasts: Duration) {
        let until = self.now().after(lasts);
        while self.is_capped && self.settles_at < until {
            self.clock.set(self.settles_at.max(self.now()));
            self.settle(false);
        }
        self.clock.set(until.max(self.now()));
    }

    /// One bid request from its arrival to its answer.
    fn ask(&mut self) {
        let asked = Asked::plain(self.arrived);
        self.arrive(asked);
        self.requests[0].hangs_up_at = None;
        while self.go_on(None) {}
    }

    fn now(&self) -> Instant {
        self.clock.get()
    }

    /// What a shard's driver does when it wakes at `at`, or some time after.
    fn turn(&mut self, at: Instant) {
        self.clock.set(at);
        self.stall();
        self.note(format_args!(
            "a turn, of which {:?} are late",
            self.now().since(at)
        ));
        self.hang_up();
        if self.is_capped && self.now() >= self.settles_at {
            self.settle(true);
        }
        // The shard takes its sockets first. What counts must not depend on it.
        if self.chance.permille(500) {
            self.network.deliver();
            self.timers.advance(self.now());
        } else {
            self.timers.advance(self.now());
            self.network.deliver();
        }
    }

    /// Shards settle who may use how much of a cap, in any order, and the others use theirs.
    fn settle(&mut self, neighbours_call: bool) {
        let now = self.now();
        self.settles_at = now.after(CARE_INTERVAL);
        let first = self.chance.index(self.neighbours.len() + 1);
        for place in 0..=self.neighbours.len() {
            let place = (first + place) % (self.neighbours.len() + 1);
            let Some(neighbour) = self.neighbours.get(place) else {
                self.keeper.as_ref().unwrap().settle(now);
                continue;
            };
            neighbour.settle(now);
            let calls = if neighbours_call { self.chance.below(4) } else { 0 };
            for &(dsp, timeout) in &*self.asks {
                if self.options[dsp].gate.qps.is_none() {
                    continue;
                }
                for _ in 0..calls {
                    let id = DspId(u16::try_from(dsp).unwrap());
                    if neighbour
                        .gates()
                        .admit(id, now, now.after(timeout), false)
                        .is_ok()
                    {
                        let shards = self.neighbours.len() as u64 + 1;
                        self.sentries[dsp].called(now, shards, self.reloaded_at);
                    }
                }
            }
        }
        self.check_shares();
    }

    /// Calls alone would not show it: where few are made and some are saved up, a share too many is used later or never.
    fn check_shares(&self) {
        for (position, &(dsp, _)) in self.asks.iter().enumerate() {
            let Some(cap) = self.options[dsp].gate.qps else {
                continue;
            };
            let shares = (0..=self.neighbours.len()).filter_map(|shard| self.quotas.held(position, shard));
            let held: u64 = shares.map(|MilliQps(share)| share).sum();
            assert!(
                held <= MilliQps::of(cap).0,
                "shares of {held} calls in a thousand seconds, of {cap} a second"
            );
        }
    }

    fn stall(&mut self) {
        let most = u64::try_from(self.stall_max.as_micros()).unwrap();
        if self.chance.permille(200) {
            let stall = self.chance.micros(0, most);
            self.clock.set(self.now().after(stall));
        }
    }

    /// A new configuration: other rules, other times, other DSPs. What is in flight finishes by the old one.
    fn reload(&mut self) {
        let rules = Rules {
            floor_rule: if self.chance.permille(500) {
                FloorRule::Above
            } else {
                FloorRule::AtOrAbove
            },
            increment: Cpm::from_micros(i64::try_from(self.chance.below(3)).unwrap()).unwrap(),
            prefer_deals: false,
        };
        let deadline = Duration::from_millis(self.chance.between(20, 120));
        let mut asked = Vec::new();
        for dsp in 0..self.dsps {
            // Whoever was taken out comes back in another reload, or never; one is always there.
            if self.chance.permille(800) || (dsp + 1 == self.dsps && asked.is_empty()) {
                let id = DspId(u16::try_from(dsp).unwrap());
                if !self.is_gated || self.chance.permille(200) {
                    self.options[dsp] = self.dsp_options(dsp);
                }
                asked.insert(
                    self.chance.index(asked.len() + 1),
                    (id, self.options[dsp].clone()),
                );
            }
        }
        let dsps_count = asked.len();
        self.asks = asked.iter().map(|(id, dsp)| (id.index(), dsp.timeout)).collect();
        let dsps = DspSet::new(asked);
        self.meet(&dsps);
        let fanout = Fanout::new(
            dsps,
            Rc::clone(&self.network),
            Rc::clone(&self.gatherings),
            Rc::clone(&self.timers),
        )
        .behind(Rc::clone(self.keeper.as_ref().unwrap().gates()));
        let options = Options {
            deadline,
            tmax_margin: MARGIN,
            fan_out_min: Duration::from_millis(1),
            currency: Currency::USD,
            rates: Arc::new(RateTable::default()),
            rules,
            validation: Validation::default(),
            writes_no_bid: false,
            rehearsal: None,
        };
        self.note(format_args!("{rules:?}, {deadline:?}, {dsps_count} DSPs"));
        let exchange = match &self.exchange {
            None => Orchestrator::new(
                options,
                fanout,
                Rc::clone(&self.timers),
                Rc::clone(&self.recorder),
            ),
            Some((before, ..)) => before.successor(options, fanout),
        };
        if let Some((former, ..)) = self.exchange.replace((Rc::new(exchange), rules, deadline)) {
            self.former.push(Rc::downgrade(&former));
            self.tally.reloaded += 1;
        }
    }

    /// All shards and sentries hear of the DSPs that there are now.
    fn meet(&mut self, dsps: &DspSet) {
        let now = self.now();
        self.reloaded_at = now;
        let shards = match &self.keeper {
            Some(_) => self.neighbours.len() + 1,
            None if self.is_capped => self.chance.index(3) + 1,
            None => 1,
        };
        let options: Vec<DspOptions> = dsps.iter().map(|(_, dsp)| dsp.clone()).collect();
        let quotas = Arc::new(Quotas::new(&options, shards));
        let keeper =
            |shard, dsps: &DspSet| GateKeeper::new(shard, dsps, &quotas, &Rc::clone(&self.recorder), now);
        match &self.keeper {
            Some(keeper) => keeper.meet(dsps, &quotas, now),
            None => self.keeper = Some(keeper(0, dsps)),
        }
        // They have nothing at their gates but caps.
        let caps = dsps.iter().map(|(id, dsp)| {
            let gate = GateOptions {
                qps: dsp.gate.qps,
                ..GateOptions::default()
            };
            (id, DspOptions { gate, ..dsp.clone() })
        });
        let caps = DspSet::new(caps.collect());
        if self.neighbours.is_empty() {
            self.neighbours = (1..shards).map(|shard| keeper(shard, &caps)).collect();
        } else {
            self.neighbours
                .iter()
                .for_each(|neighbour| neighbour.meet(&caps, &quotas, now));
        }
        self.quotas = quotas;
        self.check_shares();
        for (dsp, options) in self.options.iter().enumerate() {
            if self.sentries.len() <= dsp {
                self.sentries
                    .push(Sentry::new(options.gate.clone(), options.timeout, now));
            }
        }
        for (id, dsp) in dsps.iter() {
            self.sentries[id.index()].meet(&dsp.gate, dsp.timeout, now);
        }
    }

    /// Small numbers and short times: a world is small and short.
    fn gate_options(&mut self, dsp: usize) -> GateOptions {
        if !self.is_gated {
            return GateOptions::default();
        }
        let chance = &mut self.chance;
        let ms = |chance: &mut Chance, from, to| Duration::from_millis(chance.between(from, to));
        let open_min = ms(chance, 5, 60);
        let breaker = BreakerOptions {
            consecutive_failures: u32::try_from(chance.between(2, 8)).unwrap(),
            failure_percent: u32::try_from(chance.between(10, 100)).unwrap(),
            window: ms(chance, 20, 500),
            calls_min: u32::try_from(chance.between(2, 10)).unwrap(),
            open_min,
            open_max: open_min * u32::try_from(chance.between(1, 8)).unwrap(),
            probe_percent: u32::try_from(chance.between(5, 100)).unwrap(),
            probes: u32::try_from(chance.between(1, 5)).unwrap(),
        };
        let patience = PatienceOptions {
            lost_percent: 1,
            explore_percent: u32::try_from(chance.between(1, 30)).unwrap(),
            calls_enough: u32::try_from(chance.between(3, 20)).unwrap(),
        };
        let (has_breaker, has_patience) = (chance.permille(800), chance.permille(300));
        // One DSP has one agreement on calls, in this world.
        let qps = match self.options.get(dsp) {
            Some(before) => before.gate.qps.map(u64::from),
            None => (self.is_capped && chance.permille(600)).then(|| chance.between(2, 60)),
        };
        GateOptions {
            breaker: has_breaker.then_some(breaker),
            qps: qps.map(|qps| u32::try_from(qps).unwrap()),
            patience: has_patience.then_some(patience),
        }
    }

    fn dsp_options(&mut self, dsp: usize) -> DspOptions {
        let gate = self.gate_options(dsp);
        DspOptions {
            name: format!("dsp{dsp}"),
            target: Target {
                address: ([127, 0, 0, 1], 1).into(),
                authority: "x".to_owned(),
                path: "/".to_owned(),
            },
            timeout: Duration::from_millis(self.chance.between(5, 130)),
            protocol: Protocol::Http1,
            tls: None,
            connections_max: 1,
            connections_warm: 0,
            response_bytes_max: 256 << 10,
            gzip: self.chance.permille(200),
            gate,
        }
    }

    fn arrive(&mut self, asked: Asked) {
        self.arrived += 1;
        let (exchange, rules, cap) = self.exchange.as_ref().unwrap();
        let (exchange, rules) = (Rc::clone(exchange), *rules);
        let allowed = asked
            .tmax
            .map_or(*cap, |tmax| tmax.saturating_sub(MARGIN).min(*cap));
        let arrival = self.now();
        self.note(format_args!("{asked:?} arrives, has {allowed:?}"));
        self.network.announce(asked.clone());
        let body = asked.body();
        let task = async move { isolate(exchange.orchestrate(arrival, &body)).await };
        let patience = self.chance.micros(0, 80_000);
        self.requests.push(Request {
            asked,
            arrival,
            deadline: arrival.after(allowed),
            rules,
            hangs_up_at: self.chance.permille(60).then(|| arrival.after(patience)),
            dsps: Rc::clone(&self.asks),
            calls: None,
            woken: Arc::new(Flag(AtomicBool::new(true))),
            task: Box::pin(task),
        });
    }

    /// Has one of the tasks that were woken run; false if there is none.
    fn run_whoever_can(&mut self) -> bool {
        let woken: Vec<usize> = (0..self.requests.len())
            .filter(|&index| self.requests[index].woken.0.load(Ordering::Relaxed))
            .collect();
        if woken.is_empty() {
            return false;
        }
        let picked = woken[self.chance.index(woken.len())];
        let request = &mut self.requests[picked];
        request.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&request.woken));
        let answer = request.task.as_mut().poll(&mut Context::from_waker(&waker));
        self.watch(picked);
        if let Poll::Ready(answer) = answer {
            let request = self.requests.swap_remove(picked);
            self.check(request, answer);
            self.check_that_nothing_is_held_for_nobody();
        }
        true
    }

    /// What the gates made of a request that has just been let run, and what they heard of its calls.
    fn watch(&mut self, picked: usize) {
        let now = self.now();
        let seen = self.network.take_seen(&self.requests[picked].asked.id);
        let panicked = seen.iter().any(|seen| seen.panicked().is_some());
        let is_first = self.requests[picked].calls.is_none();
        if is_first {
            self.watch_plan(picked, &seen, panicked);
        }
        // What has ended is taken from the last on, before what that leads to; after a panic nothing more is.
        let ended = seen.iter().filter(|seen| matches!(seen, Seen::Ended { .. }));
        let ended: Vec<Seen> = ended.rev().copied().collect();
        let until = match seen.iter().rev().find_map(Seen::panicked) {
            Some(dsp) if !is_first => ended
                .iter()
                .position(|seen| matches!(seen, Seen::Ended { dsp: stale, .. } if *stale == dsp))
                .unwrap(),
            _ => ended.len(),
        };
        let others = seen.iter().filter(|seen| !matches!(seen, Seen::Ended { .. }));
        for seen in ended[..until].iter().chain(others).copied() {
            match seen {
                Seen::Asked { .. } => {}
                Seen::Panicked { .. } => break,
                Seen::Refused { dsp } => self.hear(picked, dsp, now, |_| Conduct::Unknown),
                Seen::Ended { dsp, at, how } => match how {
                    End::Good => self.hear(picked, dsp, at, |_| Conduct::Good),
                    End::Bad => self.hear(picked, dsp, at, |_| Conduct::Bad),
                    End::Late => self.hear(picked, dsp, at, |call| call.timeout(at)),
                    // If it has time it is under way again, or has been refused.
                    End::Stale => {}
                },
            }
        }
        if !panicked {
            let calls = self.requests[picked].calls.iter().flatten();
            let overdue: Vec<usize> = calls
                .filter(|(_, call)| call.due_at <= now)
                .map(|(dsp, _)| *dsp)
                .collect();
            for dsp in overdue {
                self.hear(picked, dsp, now, |call| call.timeout(now));
            }
        }
        for &(dsp, _) in &*Rc::clone(&self.requests[picked].dsps) {
            let said = self.gates().breaker(DspId(u16::try_from(dsp).unwrap()));
            let changes = self.sentries[dsp].check(said);
            self.tally.tripped += changes.tripped;
            self.tally.opened_again += changes.opened - changes.tripped;
            self.tally.closed += changes.closed;
        }
    }

    /// Whom a request asked, which its gates had to allow.
    fn watch_plan(&mut self, picked: usize, seen: &[Seen], panicked: bool) {
        let now = self.now();
        let request = &self.requests[picked];
        let (dsps, deadline) = (Rc::clone(&request.dsps), request.deadline);
        let mut calls = Vec::new();
        let has_time = deadline.since(now) >= Duration::from_millis(1);
        for &(dsp, timeout) in dsps.iter().filter(|_| !request.asked.is_invalid && has_time) {
            let due_at = seen.iter().find_map(|seen| match seen {
                Seen::Asked { dsp: asked, due_at } if *asked == dsp => Some(*due_at),
                _ => None,
            });
            let asked = (due_at.is_some() || !panicked).then_some(due_at.is_some());
            let sentry = &mut self.sentries[dsp];
            let id = DspId(u16::try_from(dsp).unwrap());
            let gates = self.keeper.as_ref().unwrap().gates();
            // Asked for its state alone: what has changed is for whoever asks for that.
            let state = gates
                .breaker_state(id)
                .unwrap_or(corebid::fanout::BreakerState::Closed);
            let era = sentry.planned(asked, state, now);
            self.tally.probed += u64::from(asked == Some(true) && !sentry.is_closed());
            let Some(due_at) = due_at else { continue };
            let in_full = now.after(timeout).min(deadline);
            assert!(
                due_at <= in_full,
                "no call has longer than its DSP or its request"
            );
            if due_at < in_full {
                sentry.check_cut(due_at.since(now), era);
                self.tally.cut += 1;
            }
            sentry.called(now, self.neighbours.len() as u64 + 1, self.reloaded_at);
            let call = Watched {
                era,
                started: now,
                due_at,
                is_fair: due_at == in_full && in_full.since(now) >= sentry.fair_time(),
            };
            calls.push((dsp, call));
        }
        self.requests[picked].calls = Some(calls);
    }

    fn hear(&mut self, picked: usize, dsp: usize, at: Instant, conduct: impl Fn(Watched) -> Conduct) {
        let calls = self.requests[picked].calls.as_mut().unwrap();
        let place = calls.iter().position(|(asked, _)| *asked == dsp).unwrap();
        let (_, call) = calls.swap_remove(place);
        let gates = self.keeper.as_ref().unwrap().gates();
        if let Some(state) = gates.breaker_state(DspId(u16::try_from(dsp).unwrap())) {
            self.sentries[dsp].heard(call.era, conduct(call), at, state);
        }
    }

    fn gates(&self) -> &corebid::fanout::Gates {
        self.keeper.as_ref().unwrap().gates()
    }

    fn hang_up(&mut self) {
        let now = self.now();
        let before = self.requests.len();
        self.requests
            .retain(|request| request.hangs_up_at.is_none_or(|at| at > now));
        self.tally.hung_up += (before - self.requests.len()) as u64;
        self.check_that_nothing_is_held_for_nobody();
    }

    fn check(&mut self, request: Request, answer: Answer) {
        let Request {
            asked,
            arrival,
            deadline,
            rules,
            ..
        } = request;
        let arrived = self.network.arrived(&asked.id);
        let took = self.now().since(arrival);
        let said = match &answer {
            Ok(Ok(Outcome::Response(response))) => std::str::from_utf8(response).unwrap(),
            Ok(Ok(Outcome::NoBid)) => "no bid",
            Ok(Err(_)) => "refused",
            Err(_) => "panicked",
        };
        self.note(format_args!("{} answered after {took:?}: {said}", asked.id));
        // One stall before the wheel is looked at.
        let latest = deadline.after(TICK + self.stall_max);
        assert!(
            self.now() <= latest,
            "{} is answered {:?} after its deadline",
            asked.id,
            self.now().since(deadline)
        );
        if self.now() >= deadline {
            self.tally.ended_by_deadline += 1;
        }
        assert_eq!(
            answer.is_err(),
            arrived.panicked,
            "a panic costs its request and no other"
        );
        let Ok(answer) = answer else {
            self.tally.panicked += 1;
            return;
        };
        assert_eq!(
            answer.is_err(),
            asked.is_invalid,
            "what breaks a rule is refused, and nothing else"
        );
        let Ok(outcome) = answer else {
            assert!(took.is_zero() && arrived.asked_at.is_none(), "nobody is asked");
            self.tally.refused += 1;
            return;
        };
        self.check_that_it_did_not_dawdle(&arrived, arrival);
        let expected = twin::sell(&asked, &arrived, &rules);
        match outcome {
            Outcome::NoBid => {
                assert!(
                    expected.is_empty(),
                    "{} sells nothing instead of {expected:?}",
                    asked.id
                );
                self.tally.nothing_sold += 1;
            }
            Outcome::Response(response) => {
                assert_eq!(twin::read(&response, &asked), expected, "{asked:?} {arrived:?}");
                self.tally.sold += 1;
            }
        }
    }

    /// Who has heard of every call it made waits for nothing more.
    fn check_that_it_did_not_dawdle(&self, arrived: &Arrived, arrival: Instant) {
        if arrived.under_way == 0 {
            let last = arrived.last_end_at.unwrap_or(arrival);
            assert_eq!(self.now(), last, "all had answered at {last:?}");
        }
    }

    fn check_that_nothing_is_held_for_nobody(&self) {
        let requests = self.requests.len();
        // Each waits on one timer, and each fan-out has one.
        assert!(self.timers.waiting() <= requests, "a timer is left behind");
        assert!(
            self.gatherings.open_count() <= requests,
            "a fan-out is left behind"
        );
        // All configurations lend from one pool.
        let lent = self
            .exchange
            .as_ref()
            .map_or(0, |(exchange, ..)| exchange.arenas_lent());
        assert!(lent <= requests, "an arena is left behind");
    }

    fn check_that_nothing_is_left(mut self) -> Tally {
        let seed = self.seed;
        assert!(
            self.requests.is_empty(),
            "seed {seed}: requests without an answer"
        );
        self.check_that_nothing_is_held_for_nobody();
        let former = self.former.iter().filter(|former| former.strong_count() > 0);
        assert_eq!(former.count(), 0, "configurations that nobody uses");
        for sentry in &self.sentries {
            self.tally.blocked += sentry.blocked;
            self.tally.throttled += sentry.throttled;
        }
        self.tally.late = self.network.late.get();
        self.tally.retried = self.network.retried.get();
        self.tally.distrusted = self.network.distrusted.get();
        self.tally.trace = self.trace.hash();
        // Writing them all takes longer than most worlds.
        if seed.is_multiple_of(64) {
            self.check_counts();
        }
        self.tally
    }

    /// Each call has one outcome, and so has each that was due and not made; those of a request that panicked or whose SSP
    /// hung up may have had none yet.
    fn check_counts(&mut self) {
        assert!(self.recorder.publish());
        self.merged.collect();
        let metrics = prometheus::render(&self.merged, prometheus::Format::Text);
        let sum = |prefix: &str| -> u64 {
            let counts = metrics.lines().filter(|line| line.starts_with(prefix));
            counts
                .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
                .sum()
        };
        let exactly = self.tally.panicked + self.tally.hung_up == 0;
        for (dsp, calls) in self.network.calls.borrow().iter().enumerate() {
            let Sentry {
                blocked, throttled, ..
            } = self.sentries[dsp];
            let of_dsp = format!("corebid_dsp_calls_total{{dsp=\"dsp{dsp}\"");
            let outcomes = sum(&of_dsp);
            let due = calls + blocked + throttled;
            assert!(
                outcomes <= due && (outcomes == due || !exactly),
                "dsp{dsp}: {outcomes} outcomes of {due} calls"
            );
            assert_eq!(sum(&format!("{of_dsp},outcome=\"open_breaker\"")), blocked);
            self.tally.counted += calls;
        }
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.now(), what);
    }
}
